"""Half precision where it would show: logits and scores leave as the float32 in which they are summed up, and the
transformer's stream can be float32; in float32 everything is as it was, to the bit."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taming_jax.models.factors import FactoredHead
from taming_jax.models.gpt import GPT, GPTConfig
from taming_jax.nn.attention import output_layer
from taming_jax.nn.conv import SpatialAttention, conv1x1, group_norm
from taming_jax.nn.products import product_in_float32
from taming_jax.priors.filters import filter_logits

CODES = 16384
X = np.random.RandomState(0).randn(4, 6, 64).astype(np.float32)


def half(x):
    return jnp.asarray(x).astype(jnp.bfloat16)


def grid(x):
    """How many of the numbers bfloat16 has, too."""
    return np.mean(np.asarray(half(x).astype(jnp.float32)) == np.asarray(x))


@pytest.fixture(scope="module")
def many_logits():
    layer = output_layer(CODES, jnp.bfloat16)
    params = {"kernel": 0.3 * np.random.RandomState(1).randn(64, CODES).astype(np.float32)}
    return params, layer.apply({"params": params}, X)  # not compiled: a compiler may leave rounding out


@pytest.mark.parametrize("k", [1, 250, 600])
def test_top_k_of_a_half_precision_network_keeps_k(many_logits, k):
    _, logits = many_logits
    kept = np.isfinite(filter_logits(logits[:, 0], top_k=k)).sum(axis=-1)
    np.testing.assert_array_equal(kept, k)
    rounded = half(logits).astype(jnp.float32)  # as they were: equal ones are kept together
    assert np.isfinite(filter_logits(rounded[:, 0], top_k=600)).sum() > 4 * 600


def test_logits_are_the_products_of_what_goes_in(many_logits):
    params, logits = many_logits
    exact = np.asarray(half(X), np.float64) @ np.asarray(half(params["kernel"]), np.float64)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, exact, atol=1e-4)


def test_no_logits_of_a_network_are_rounded():
    settings = {"block_size": 8, "n_layer": 1, "n_head": 2, "n_embd": 32, "dtype": "bfloat16"}
    model, ids = GPT(GPTConfig(vocab_size=200, **settings)), jnp.arange(8)[None]
    # Not compiled: a compiler may leave the rounding out.
    logits = model.apply(jax.jit(model.init)(jax.random.key(0), ids), ids)
    assert logits.dtype == jnp.float32 and grid(logits) < 0.1
    head, x = FactoredHead((30, 40), 32, jnp.bfloat16), half(X[:1, :, :32])
    variables = jax.jit(head.init)(jax.random.key(0), x, ids[:, :6])
    for logits in head.apply(variables, x, ids[:, :6]):
        assert logits.dtype == jnp.float32 and grid(logits) < 0.1


def test_the_gradient_of_logits_is_that_of_the_layers_own_type():
    old, new = nn.Dense(50, use_bias=False, dtype=jnp.bfloat16), output_layer(50, jnp.bfloat16)
    kernel, cotangent = np.random.RandomState(2).randn(64, 50).astype(np.float32), np.float32(half(X[..., :50]))
    gradient = lambda layer: jax.grad(
        lambda kernel, x: jnp.sum(cotangent * layer.apply({"params": {"kernel": kernel}}, x).astype(jnp.float32)),
        (0, 1),
    )
    jax.tree.map(np.testing.assert_array_equal, gradient(new)(kernel, X), gradient(old)(kernel, X))


def test_in_float32_logits_and_gradients_are_as_before():
    old, new = nn.Dense(50, use_bias=False, dtype=jnp.float32), output_layer(50, jnp.float32)
    variables = {"params": {"kernel": np.random.RandomState(2).randn(64, 50).astype(np.float32)}}
    value = lambda layer: jax.jit(jax.value_and_grad(lambda v: jnp.sum(layer.apply(v, X) ** 3)))(variables)
    jax.tree.map(np.testing.assert_array_equal, value(new), value(old))
    assert new.init(jax.random.key(0), X)["params"].keys() == {"kernel"}


class Before(nn.Module):
    """Spatial attention as it was, with scores of the type of the arithmetic."""

    dtype: str = "float32"

    @nn.compact
    def __call__(self, x):
        b, h, w, c = x.shape
        normed = group_norm(4, self.dtype, "norm")(x)
        q, k, v = (conv1x1(c, dtype=self.dtype, name=n)(normed).reshape(b, h * w, c) for n in "qkv")
        scores = jnp.einsum("bqc,bkc->bqk", q, k).astype(jnp.float32) * c**-0.5
        out = jnp.einsum("bqk,bkc->bqc", jax.nn.softmax(scores, axis=-1).astype(self.dtype), v)
        return x + conv1x1(c, dtype=self.dtype, name="proj_out")(out.reshape(b, h, w, c))


@pytest.fixture(scope="module")
def attention():
    x = np.random.RandomState(3).randn(2, 6, 4, 16).astype(np.float32)
    variables = SpatialAttention(4).init(jax.random.key(0), x)
    steep = lambda path, leaf: leaf * 6 if path[-2].key in "qk" and path[-1].key == "kernel" else leaf
    return x, jax.tree_util.tree_map_with_path(steep, variables)


def test_in_float32_attention_is_as_before(attention):
    x, variables = attention
    value = lambda network: jax.jit(jax.value_and_grad(lambda v: jnp.sum(network.apply(v, x) ** 3)))(variables)
    jax.tree.map(np.testing.assert_array_equal, value(SpatialAttention(4)), value(Before()))


def test_attention_scores_are_not_rounded(attention):
    x, variables = attention

    def scores(network):
        lines = str(jax.make_jaxpr(network.apply)(variables, half(x))).splitlines()
        return [line.split("=")[0] for line in lines if "[2,24,24] = dot_general" in line]

    assert len(scores(SpatialAttention(4, jnp.bfloat16))) == len(scores(Before("bfloat16"))) == 1
    assert "f32[2,24,24]" in scores(SpatialAttention(4, jnp.bfloat16))[0]
    assert "bf16[2,24,24]" in scores(Before("bfloat16"))[0]
    q, k = half(x.reshape(2, 24, 16)), half(x[::-1].reshape(2, 24, 16))
    exact = np.einsum("bqc,bkc->bqk", np.asarray(q, np.float64), np.asarray(k, np.float64))
    np.testing.assert_allclose(product_in_float32(q, k, (((2,), (2,)), ((0,), (0,)))), exact, atol=1e-5)


def test_a_deep_network_loses_less_with_a_stream_in_float32():
    settings = {"vocab_size": 64, "block_size": 16, "n_layer": 48, "n_head": 2, "n_embd": 32, "scan_layers": True}
    ids = np.random.RandomState(4).randint(0, 64, (4, 16))
    exact = GPT(GPTConfig(**settings))
    variables = jax.jit(exact.init)(jax.random.key(0), ids)
    variables = jax.tree.map(lambda leaf: leaf * 3 if leaf.ndim > 2 else leaf, variables)
    expected = jax.jit(exact.apply)(variables, ids)

    def error(**more):
        network = GPT(GPTConfig(**settings, dtype="bfloat16", **more))
        return float(jnp.std(jax.jit(network.apply)(variables, ids) - expected) / jnp.std(expected))

    stream, plain = error(residual_dtype="float32"), error()
    assert stream < 0.75 * plain, (stream, plain)
    assert GPTConfig().residual_dtype == ""  # what saved models mean


def test_a_stream_in_float32_keeps_names_caches_and_float32_networks():
    settings = {"vocab_size": 64, "block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 16}
    ids = jnp.arange(8)[None]
    plain, wide = (GPT(GPTConfig(**settings, residual_dtype=dtype)) for dtype in ("", "float32"))
    variables = jax.jit(plain.init)(jax.random.key(0), ids)
    np.testing.assert_array_equal(jax.jit(wide.apply)(variables, ids), jax.jit(plain.apply)(variables, ids))
    half_wide = GPT(GPTConfig(**settings, dtype="bfloat16", residual_dtype="float32"))
    names = jax.eval_shape(half_wide.init, jax.random.key(0), ids)
    assert jax.tree.structure(names) == jax.tree.structure(variables)
    cached, cache = jax.jit(half_wide.apply)(variables, ids, cache=half_wide.init_cache(1, 8))
    assert cache[0].key.dtype == jnp.bfloat16
    np.testing.assert_allclose(cached, jax.jit(half_wide.apply)(variables, ids), atol=0.02)
    with pytest.raises(ValueError, match="residual_dtype='bfloat16' is unknown; known: , float32"):
        GPTConfig(residual_dtype="bfloat16")
