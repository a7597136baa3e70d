"""Layouts of tokens, and sequences whose order is data: each image of a batch walks its grid in its own way."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taming_jax.models.gpt import GPT, GPTConfig
from taming_jax.nn import orders
from taming_jax.nn.layout import TokenLayout

CODES, GRID = 12, TokenLayout((2, 3))
SIZES = {"vocab_size": CODES, "block_size": GRID.length, "n_layer": 2, "n_head": 2, "n_embd": 16}
KINDS = {"learned": {}, "rotary": {"positions": "rotary"}, "told": {"target_positions": True, "positions": "rotary"}}
kinds = pytest.mark.parametrize("kind", KINDS)


@functools.cache
def network(kind: str) -> tuple[GPT, dict, jax.Array]:
    """One of the networks, parameters that are not those of a start, and sequences of a class and six tokens."""
    model = GPT(GPTConfig(**SIZES, **KINDS[kind]))
    ids = jax.random.randint(jax.random.key(1), (3, GRID.length + 1), 0, CODES)
    params = model.init(jax.random.key(0), ids[:, :-1], layout=GRID.after(1))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    moved = [leaf + 0.3 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys)]
    return model, jax.tree.unflatten(tree, moved), ids


def walks(n: int) -> jax.Array:
    """Of each image: the class, then the places of its tokens in an order of its own."""
    places = [1 + np.random.default_rng(i).permutation(GRID.length) for i in range(n)]
    return jnp.asarray(np.concatenate([np.zeros((n, 1), int), places], axis=1))


@kinds
def test_a_walk_one_after_the_other_is_what_none_is(kind):
    model, params, ids = network(kind)
    straight = jnp.broadcast_to(jnp.arange(GRID.length + 1), ids.shape)
    expected = model.apply(params, ids[:, :-1], layout=GRID.after(1))
    found = model.apply(params, ids[:, :-1], layout=GRID.after(1), walk=straight)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@kinds
def test_each_image_walks_in_its_own_way(kind):
    model, params, ids = network(kind)
    own = walks(len(ids))
    together = model.apply(params, ids[:, :-1], layout=GRID.after(1), walk=own)
    for i in range(len(ids)):
        alone = model.apply(params, ids[i : i + 1, :-1], layout=GRID.after(1), walk=own[i : i + 1])
        np.testing.assert_allclose(together[i], alone[0], atol=1e-5)
    straight = model.apply(params, ids[:, :-1], layout=GRID.after(1))
    assert jnp.abs(together - straight).max() > 0.1


def test_a_walk_of_an_order_is_the_layout_of_that_order():
    """With rotary positions: tables count the places of the sequence, not of the grid."""
    model, params, ids = network("rotary")
    spiral = TokenLayout(GRID.shape, "spiral_in")
    walk = jnp.broadcast_to(np.append(0, 1 + spiral.walk), ids.shape)
    expected = model.apply(params, ids[:, :-1], layout=spiral.after(1))
    np.testing.assert_allclose(model.apply(params, ids[:, :-1], layout=GRID.after(1), walk=walk), expected, atol=1e-5)


@kinds
def test_a_walk_with_a_cache_is_the_same(kind):
    model, params, ids = network(kind)
    own = walks(len(ids))
    expected = model.apply(params, ids[:, :-1], layout=GRID.after(1), walk=own)
    cache, found = model.init_cache(len(ids), GRID.length), []
    for i in range(GRID.length):
        step = {"cache": cache, "start": i, "layout": GRID.after(1), "walk": own[:, i : i + 2]}
        logits, cache = model.apply(params, ids[:, i : i + 1], **step)
        found.append(logits)
    np.testing.assert_allclose(jnp.concatenate(found, axis=1), expected, atol=1e-5)


def test_the_next_place_is_heeded_where_it_is_told():
    """The last position predicts for the place that its walk names, and nothing else differs."""
    walk = walks(3)
    elsewhere = walk.at[:, -1].set((walk[:, -1] % GRID.length) + 1)
    for kind, heeds in (("told", True), ("rotary", False), ("learned", False)):
        model, params, ids = network(kind)
        a, b = (model.apply(params, ids[:, :-1], layout=GRID.after(1), walk=w) for w in (walk, elsewhere))
        assert bool(jnp.abs(a - b)[:, -1].max() > 1e-3) is heeds
        np.testing.assert_array_equal(a[:, :-1], b[:, :-1])


@pytest.mark.parametrize("order", orders.ORDERS)
@pytest.mark.parametrize("shape", [(4, 4), (4,), (1,), (2, 4)])
def test_ids_come_back_from_their_sequence(shape, order):
    try:
        layout = TokenLayout(shape, order)
    except ValueError:
        assert order in ("z_curve", "subsample")
        return
    ids = jax.random.randint(jax.random.key(0), (2, *shape), 0, 9)
    sequence = layout.to_sequence(ids)
    assert sequence.shape == (2, layout.length) and layout.spatial is (len(shape) == 2)
    np.testing.assert_array_equal(layout.to_ids(sequence), ids)
    np.testing.assert_array_equal(layout.to_sequence(jnp.asarray(layout.steps)[None])[0], np.arange(layout.length))
    assert layout.after(2).places.shape == (2 + layout.length, 2)


def test_a_line_is_a_row():
    np.testing.assert_array_equal(TokenLayout((3,)).after(1).places[1:], [[0, 0], [0, 1], [0, 2]])


@pytest.mark.parametrize(("shape", "order"), [((), "row_major"), ((0, 2), "row_major"), ((1, 2, 3), "row_major")])
def test_shapes_that_are_none_are_refused(shape, order):
    with pytest.raises(ValueError, match=r"rows, columns"):
        TokenLayout(shape, order)
