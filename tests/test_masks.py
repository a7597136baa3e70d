"""Masks of attention: what is seen, by a change of each position, and that a cache sees the same."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taming_jax.nn.attention import SelfAttention
from taming_jax.nn.cache import Cache
from taming_jax.nn.masks import Blocks, Causal, Full, Mask

LENGTH, HEADS, WIDTH = 6, 2, 8
STEPS = {Causal(): [1] * 6, Causal(3): [3, 1, 1, 1], Full(): [6], Blocks((1, 2, 3)): [1, 2, 3]}
SEEN = {
    Causal(): ["100000", "110000", "111000", "111100", "111110", "111111"],
    Causal(3): ["111000", "111000", "111000", "111100", "111110", "111111"],
    Full(): ["111111"] * 6,
    Blocks((1, 2, 3)): ["100000", "111000", "111000", "111111", "111111", "111111"],
}
masks = pytest.mark.parametrize("mask", STEPS, ids=str)


@functools.cache
def layer(mask: Mask) -> tuple[SelfAttention, dict, jax.Array]:
    attention = SelfAttention(HEADS, mask)
    x = jax.random.normal(jax.random.key(1), (2, LENGTH, HEADS * WIDTH))
    variables = attention.init(jax.random.key(0), x)
    return attention, jax.tree.map(lambda leaf: leaf * 20, variables), x  # attention that looks at few


@masks
def test_each_position_heeds_what_the_mask_shows(mask):
    attention, variables, x = layer(mask)
    read = lambda x: attention.apply(variables, x[None])[0][0]
    jacobian = jax.jacobian(read)(x[0])  # (l, d, l, d)
    heeded = np.asarray(jnp.abs(jacobian).sum((1, 3)) > 0)
    np.testing.assert_array_equal(heeded, [[c == "1" for c in row] for row in SEEN[mask]])


@masks
def test_a_cache_shows_the_same(mask):
    attention, variables, x = layer(mask)
    expected, _ = attention.apply(variables, x)
    room = jnp.zeros((2, HEADS, LENGTH + 3, WIDTH))  # longer than what is written
    cache, start = Cache(room, room), 0
    for n in STEPS[mask]:
        y, cache = attention.apply(variables, x[:, start : start + n], cache=cache, start=start)
        np.testing.assert_allclose(y, expected[:, start : start + n], atol=1e-5)
        start += n


@masks
def test_dropout_leaves_the_mask(mask):
    attention = SelfAttention(HEADS, mask, attention_dropout=0.5)
    _, variables, x = layer(mask)
    read = lambda x: attention.apply(variables, x[None], train=True, rngs={"dropout": jax.random.key(2)})[0][0]
    heeded = np.asarray(jnp.abs(jax.jacobian(read)(x[0])).sum((1, 3)) > 0)
    hidden = np.array([[c == "0" for c in row] for row in SEEN[mask]])
    assert not heeded[hidden].any() and heeded.any()


def test_a_causal_mask_is_left_to_the_kernel():
    assert Causal().causal and not any(mask.causal for mask in (Causal(1), Full(), Blocks((2,))))


@pytest.mark.parametrize("sizes", [(), (0,), (2, -1)])
def test_blocks_without_positions_are_refused(sizes):
    with pytest.raises(ValueError, match="at least one position"):
        Blocks(sizes)


@masks
def test_what_a_kernel_of_even_lengths_adds_is_not_seen(mask, monkeypatch):
    attention, variables, x = layer(mask)
    expected = attention.apply(variables, x[:, :5])[0]
    attend, asked = jax.nn.dot_product_attention, []

    def kernel(query: jax.Array, *arrays: jax.Array, implementation: str, **options: object) -> jax.Array:
        asked.append((query.shape[1], implementation))
        return attend(query, *arrays, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    fused = SelfAttention(HEADS, mask, attention="cudnn")
    np.testing.assert_allclose(fused.apply(variables, x[:, :5])[0], expected, atol=1e-5)
    assert asked == [(6, "cudnn")]
