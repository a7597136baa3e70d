"""The quantizers: nearest codes, straight-through gradient, both placements of beta, averages that follow."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taming_jax.nn.conv import conv1x1
from taming_jax.nn.quantizers import (
    QUANTIZERS,
    EMAVectorQuantizer,
    GumbelQuantizer,
    Remap,
    VectorQuantizer,
    count_codes,
    ema_codebook,
    nearest,
)
from taming_jax.sharding import make_mesh, put_batch

Z = np.random.RandomState(0).randn(2, 3, 4, 5).astype(np.float32)
CODEBOOK = np.random.RandomState(1).randn(11, 5).astype(np.float32)
PARAMS = {"params": {"codebook": CODEBOOK}}


def numpy_ids(z, codebook):
    return ((z[..., None, :] - codebook) ** 2).sum(-1).argmin(-1)


def test_ids_are_the_nearest_codes():
    quantized = VectorQuantizer(11, 5).apply(PARAMS, Z)
    expected = numpy_ids(Z, CODEBOOK)
    assert quantized.ids.dtype == jnp.int32
    np.testing.assert_array_equal(quantized.ids, expected)
    np.testing.assert_allclose(quantized.z, CODEBOOK[expected], atol=1e-6)


def test_of_equal_codes_the_first_is_taken():
    assert nearest(jnp.ones((1, 2)), jnp.array([[3.0, 0], [1, 1], [1, 1]])) == 1


def test_lookup_gives_the_entries():
    ids = jnp.array([[3, 0], [10, 3]])
    found = VectorQuantizer(11, 5).apply(PARAMS, ids, method="lookup")
    np.testing.assert_array_equal(found, CODEBOOK[np.asarray(ids)])


def test_the_gradient_goes_straight_through_to_the_latents():
    weights = np.random.RandomState(2).randn(*Z.shape).astype(np.float32)

    def loss(z, params):
        return jnp.sum(weights * VectorQuantizer(11, 5).apply(params, z).z)

    to_latents, to_codebook = jax.grad(loss, argnums=(0, 1))(Z, PARAMS)
    np.testing.assert_array_equal(to_latents, weights)
    np.testing.assert_array_equal(to_codebook["params"]["codebook"], np.zeros_like(CODEBOOK))


@pytest.mark.parametrize(("legacy", "to_z", "to_code"), [(True, 1.0, 0.25), (False, 0.25, 1.0)])
def test_beta_weighs_the_commitment_or_in_legacy_mode_the_codebook(legacy, to_z, to_code):
    def loss(z, params):
        return VectorQuantizer(11, 5, beta=0.25, legacy=legacy).apply(params, z).loss

    ids = numpy_ids(Z, CODEBOOK)
    residual = Z - CODEBOOK[ids]
    value, (by_z, by_params) = jax.value_and_grad(loss, argnums=(0, 1))(Z, PARAMS)
    np.testing.assert_allclose(value, 1.25 * (residual**2).mean(), rtol=1e-5)
    np.testing.assert_allclose(by_z, to_z * 2 * residual / Z.size, rtol=1e-4, atol=1e-7)
    expected = np.zeros_like(CODEBOOK)
    np.add.at(expected, ids, -to_code * 2 * residual / Z.size)
    np.testing.assert_allclose(by_params["params"]["codebook"], expected, rtol=1e-4, atol=1e-7)


def test_the_codebook_starts_uniform_in_one_over_n():
    codebook = VectorQuantizer(50, 8).init(jax.random.key(0), jnp.zeros((1, 1, 1, 8)))["params"]["codebook"]
    assert codebook.shape == (50, 8)
    assert 0.9 / 50 < jnp.abs(codebook).max() <= 1 / 50
    assert abs(float(codebook.mean())) < 0.1 / 50


def test_latents_of_lower_precision_are_measured_in_float32():
    z = jnp.asarray(Z, jnp.bfloat16)
    quantized = VectorQuantizer(11, 5).apply(PARAMS, z)
    assert quantized.z.dtype == quantized.loss.dtype == jnp.float32
    np.testing.assert_array_equal(quantized.ids, numpy_ids(np.asarray(z, np.float32), CODEBOOK))


def test_codes_are_counted_with_weights():
    np.testing.assert_array_equal(count_codes(jnp.array([[0, 2], [2, 2]]), 4), [1, 0, 3, 0])
    weighted = count_codes(jnp.array([1, 1, 3]), 4, jnp.array([True, False, True]))
    np.testing.assert_array_equal(weighted, [0, 1, 0, 1])


DECAY = 0.9
AVERAGES = {"count": np.full(11, 2.0, np.float32), "total": 2.0 * CODEBOOK}
FOLLOWING = EMAVectorQuantizer(11, 5, decay=DECAY, restart_below=0.0)


def follow(z, quantizer=FOLLOWING, averages=AVERAGES, key=0):
    """One training call: (result, moved averages)."""
    variables = {**PARAMS, "ema": averages}
    quantized, moved = quantizer.apply(
        variables, z, train=True, mutable=["ema"], rngs={"quantize": jax.random.key(key)}
    )
    return quantized, moved["ema"]


def test_averages_follow_the_latents_of_each_code():
    quantized, moved = follow(Z)
    ids, flat = numpy_ids(Z, CODEBOOK).reshape(-1), Z.reshape(-1, 5)
    counts, sums = np.bincount(ids, minlength=11), np.zeros((11, 5))
    np.add.at(sums, ids, flat)
    np.testing.assert_allclose(moved["count"], DECAY * 2 + (1 - DECAY) * counts, rtol=1e-5)
    np.testing.assert_allclose(moved["total"], DECAY * 2 * CODEBOOK + (1 - DECAY) * sums, rtol=1e-4, atol=1e-6)
    expected = np.asarray(moved["total"]) / np.asarray(moved["count"])[:, None]
    np.testing.assert_allclose(ema_codebook(moved), expected, rtol=1e-3)
    np.testing.assert_allclose(quantized.loss, 0.25 * ((Z - CODEBOOK[numpy_ids(Z, CODEBOOK)]) ** 2).mean(), rtol=1e-5)


def test_idle_codes_take_the_place_of_latents():
    averages = {**AVERAGES, "count": np.where(np.arange(11) < 4, 0.0, 100.0).astype(np.float32)}
    far = {"params": {"codebook": np.where(np.arange(11)[:, None] < 4, 1e3, CODEBOOK).astype(np.float32)}}
    quantizer = EMAVectorQuantizer(11, 5, decay=DECAY, restart_below=0.5)
    _, moved = quantizer.apply(
        {**far, "ema": averages}, Z, train=True, mutable=["ema"], rngs={"quantize": jax.random.key(3)}
    )
    restarted = np.asarray(ema_codebook(moved["ema"]))[:4]
    distances = np.abs(restarted[:, None] - Z.reshape(1, -1, 5)).max(-1).min(-1)
    assert distances.max() < 1e-3
    assert len(np.unique(restarted.round(3), axis=0)) > 1


def test_evaluation_leaves_the_averages_alone_and_needs_none():
    still = FOLLOWING.apply(PARAMS, Z)
    _, moved = FOLLOWING.apply({**PARAMS, "ema": AVERAGES}, Z, train=False, mutable=["ema"])
    jax.tree.map(np.testing.assert_array_equal, moved["ema"], AVERAGES)
    np.testing.assert_array_equal(still.ids, follow(Z)[0].ids)


def test_averages_are_those_of_the_global_batch_and_restart_alike():
    z = np.random.RandomState(4).randn(8, 2, 2, 5).astype(np.float32)
    quantizer = EMAVectorQuantizer(11, 5, decay=DECAY, restart_below=0.9)  # restarts some
    one = jax.jit(lambda z: follow(z, quantizer)[1])(z)
    mesh = make_mesh()
    spread = jax.jit(lambda z: follow(z, quantizer)[1])(put_batch({"z": z}, mesh)["z"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, spread)
    assert spread["total"].sharding.is_fully_replicated


def test_the_quantizers_are_named():
    assert QUANTIZERS["vq"] is VectorQuantizer


GUMBEL = GumbelQuantizer(6, 4, kl_weight=0.1)


@pytest.fixture(scope="module")
def gumbel():
    return GUMBEL.init(jax.random.key(0), Z[..., :4])


def test_gumbels_logits_start_as_a_convolution_of_pytorch():
    params = GumbelQuantizer(2000, 64).init(jax.random.key(0), jnp.zeros((1, 1, 1, 64)))["params"]["proj"]
    assert jax.tree.map(jnp.shape, params) == {"kernel": (1, 1, 64, 2000), "bias": (2000,)}
    for name, values in params.items():  # uniform in +-1/8
        assert np.abs(values).max() <= 0.125 and np.std(values) == pytest.approx(0.0722, rel=0.05), name
    z, flax = np.random.RandomState(6).randn(2, 3, 3, 64).astype(np.float32), nn.Conv(2000, (1, 1))
    ours = jax.jit(conv1x1(2000).apply)({"params": params}, z)
    np.testing.assert_array_equal(ours, jax.jit(flax.apply)({"params": params}, z))  # as trained ones were computed


def test_gumbel_draws_in_training_and_takes_the_likeliest_otherwise(gumbel):
    z = Z[..., :4] * 3
    still = GUMBEL.apply(gumbel, z)
    kernel, bias = (np.asarray(gumbel["params"]["proj"][name]) for name in ("kernel", "bias"))
    logits = z @ kernel[0, 0] + bias
    np.testing.assert_array_equal(still.ids, np.argmax(logits, axis=-1))
    np.testing.assert_array_equal(still.z, gumbel["params"]["codebook"][still.ids])
    drawn = [
        GUMBEL.apply(gumbel, z, train=True, temperature=1.0, rngs={"quantize": jax.random.key(i)}) for i in range(2)
    ]
    assert (drawn[0].ids != drawn[1].ids).any()
    np.testing.assert_allclose(drawn[0].z, gumbel["params"]["codebook"][drawn[0].ids], atol=1e-5)
    assert float(drawn[0].loss) == pytest.approx(0.1 * float(drawn[0].metrics["kl"]))
    assert float(drawn[0].metrics["temperature"]) == 1.0


def test_gumbel_draws_each_code_as_often_as_its_softmax_says(gumbel):
    z = jnp.broadcast_to(Z[:1, :1, :1, :4] * 2, (1, 100, 100, 4))
    ids = GUMBEL.apply(gumbel, z, train=True, rngs={"quantize": jax.random.key(3)}).ids
    proj = gumbel["params"]["proj"]
    expected = jax.nn.softmax(z[0, 0, 0] @ proj["kernel"][0, 0] + proj["bias"])
    np.testing.assert_allclose(count_codes(ids, 6) / 10_000, expected, atol=0.02)


def test_gumbel_passes_a_gradient_to_the_latents_and_all_codes(gumbel):
    def loss(variables, z):
        quantized = GUMBEL.apply(variables, z, train=True, temperature=0.5, rngs={"quantize": jax.random.key(0)})
        return jnp.sum(quantized.z**2)

    of_params, of_z = jax.grad(loss, argnums=(0, 1))(gumbel, Z[..., :4])
    assert np.abs(of_z).max() > 0 and np.abs(of_params["params"]["proj"]["kernel"]).max() > 0


def test_remap_goes_to_the_places_of_used_codes_and_back():
    ids = jnp.asarray([[7, 2, 2, 5]])
    remap, key = Remap((2, 5, 7)), jax.random.key(0)
    np.testing.assert_array_equal(remap.forward(ids, 10, key), [[2, 0, 0, 1]])
    np.testing.assert_array_equal(remap.backward(remap.forward(ids, 10, key)), ids)
    strange = jnp.arange(10)
    for unknown, expected in (("extra", 3), ("1", 1)):
        there = Remap((2, 5, 7), unknown).forward(strange, 10, key)
        np.testing.assert_array_equal(np.delete(there, [2, 5, 7]), [expected] * 7)
    random = Remap((2, 5, 7)).forward(jnp.zeros(3000, jnp.int32), 10, key)
    assert np.bincount(random, minlength=3).min() > 800
    assert Remap((2, 5, 7), "extra").size == 4 and Remap((2, 5, 7)).size == 3
    assert int(Remap((2, 5, 7), "extra").backward(jnp.asarray(3))) == 2
    for used, unknown in (((1, 1), "random"), ((-1, 2), "random"), ((1, 2), "2"), ((1, 2), "near")):
        with pytest.raises(ValueError):
            Remap(used, unknown)
