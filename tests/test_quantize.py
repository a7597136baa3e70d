"""The vector quantizer: nearest codes, straight-through gradient, both placements of beta, usage."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taming_jax.nn.quantize import QUANTIZERS, VectorQuantizer, code_usage, count_codes, nearest

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


def test_usage_of_codes():
    counts = count_codes(jnp.array([[0, 2], [2, 2]]), 4)
    np.testing.assert_array_equal(counts, [1, 0, 3, 0])
    usage = code_usage(counts)
    np.testing.assert_allclose(usage["perplexity"], np.exp(-(0.25 * np.log(0.25) + 0.75 * np.log(0.75))), rtol=1e-6)
    assert usage["codes_used"] == 0.5
    np.testing.assert_allclose(code_usage(jnp.full((8,), 5.0))["perplexity"], 8, rtol=1e-6)
    weighted = count_codes(jnp.array([1, 1, 3]), 4, jnp.array([True, False, True]))
    np.testing.assert_array_equal(weighted, [0, 1, 0, 1])


def test_the_quantizers_are_named():
    assert QUANTIZERS["vq"] is VectorQuantizer
