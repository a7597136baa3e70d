"""PatchGAN: goldens, published size, batch statistics as PyTorch keeps them, data-dependent start of ActNorm."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import GOLDENS
from golden import close, discriminator_variables, weights

from taming_jax.models.discriminator import Discriminator, DiscriminatorConfig
from taming_jax.nn.conv import ActNorm, BatchNorm

X = np.random.RandomState(0).randn(4, 3, 5, 6).astype(np.float32) * 3 + 1
TRAIN = {"train": True, "mutable": ["batch_stats"]}


def test_logits_equal_the_goldens(golden):
    expected = golden("vqgan_f4")
    variables = discriminator_variables(weights(expected))
    disc = Discriminator(DiscriminatorConfig(ndf=16, n_layers=2))
    run = jax.jit(partial(disc.apply, train=False))
    close(run(variables, expected["image"]), expected["disc_logits_real_eval"], 1e-4)
    close(run(variables, expected["reconstruction"]), expected["disc_logits_fake_eval"], 1e-4)


def test_parameter_count_of_the_published_one_and_its_logits():
    disc = Discriminator(DiscriminatorConfig())
    image = jax.ShapeDtypeStruct((2, 256, 256, 3), jnp.float32)
    variables = jax.eval_shape(disc.init, jax.random.key(0), image)
    published = json.loads((GOLDENS / "parameter_counts.json").read_text(encoding="utf-8"))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == published["patchgan_3_layers_64"]
    assert jax.eval_shape(disc.apply, variables, image).shape == (2, 30, 30, 1)


def test_weights_start_near_zero_and_norm_scales_near_one():
    variables = jax.jit(Discriminator(DiscriminatorConfig()).init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    params = variables["params"]
    np.testing.assert_allclose(params["conv_2"]["kernel"].std(), 0.02, rtol=0.02)
    np.testing.assert_allclose(params["norm_3"]["scale"].mean(), 1, atol=0.01)
    np.testing.assert_allclose(params["norm_3"]["scale"].std(), 0.02, rtol=0.1)
    assert "bias" not in params["conv_2"]
    np.testing.assert_array_equal(variables["batch_stats"]["norm_3"]["var"], np.ones(512))


def test_batch_norm_normalises_by_the_batch_and_moves_the_running_values():
    norm = BatchNorm()
    variables = {
        "params": {"scale": np.full(6, 2.0, np.float32), "bias": np.full(6, 0.5, np.float32)},
        "batch_stats": {"mean": np.full(6, 0.3, np.float32), "var": np.full(6, 1.5, np.float32)},
    }
    y, moved = norm.apply(variables, X, **TRAIN)
    mean, var = X.mean((0, 1, 2)), X.var((0, 1, 2))
    np.testing.assert_allclose(y, (X - mean) / np.sqrt(var + 1e-5) * 2 + 0.5, rtol=1e-4, atol=1e-5)
    unbiased = X.reshape(-1, 6).var(0, ddof=1)
    np.testing.assert_allclose(moved["batch_stats"]["mean"], 0.9 * 0.3 + 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(moved["batch_stats"]["var"], 0.9 * 1.5 + 0.1 * unbiased, rtol=1e-5)
    evaluation = norm.apply(variables, X, train=False)
    np.testing.assert_allclose(evaluation, (X - 0.3) / np.sqrt(1.5 + 1e-5) * 2 + 0.5, rtol=1e-5, atol=1e-6)


def test_actnorm_starts_from_the_first_training_batch_and_keeps_that_start():
    norm = ActNorm()
    variables = norm.init(jax.random.key(0), X, train=True)
    np.testing.assert_array_equal(norm.apply(variables, X, train=False), X)  # not started: the identity
    y, moved = norm.apply(variables, X, **TRAIN)
    np.testing.assert_allclose(y.mean((0, 1, 2)), np.zeros(6), atol=1e-5)
    np.testing.assert_allclose(y.std((0, 1, 2), ddof=1), np.ones(6), rtol=1e-4)
    other, kept = norm.apply({**variables, **moved}, 2 * X + 5, **TRAIN)
    jax.tree.map(np.testing.assert_array_equal, kept, moved)
    np.testing.assert_allclose(other.mean((0, 1, 2)), X.mean((0, 1, 2)) * y.std() / X.std((0, 1, 2)) + 5 / X.std((0, 1,
    2)),
                               rtol=0.05)  # fmt: skip
    np.testing.assert_allclose(norm.apply({**variables, **moved}, X, train=False), y, rtol=1e-5, atol=1e-5)


def test_actnorm_trains_its_offsets():
    norm = ActNorm()
    variables = norm.init(jax.random.key(0), X, train=True)
    _, moved = norm.apply(variables, X, **TRAIN)

    def loss(params):
        return jnp.sum(norm.apply({"params": params, **moved}, X, train=False) * X)

    grads = jax.grad(loss)(variables["params"])
    stats = moved["batch_stats"]
    np.testing.assert_allclose(grads["scale"], ((X + np.asarray(stats["loc"])) * X).sum((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(grads["loc"], np.asarray(stats["scale"]) * X.sum((0, 1, 2)), rtol=1e-4)


def test_a_discriminator_with_actnorm_has_biases_and_runs():
    disc = Discriminator(DiscriminatorConfig(in_channels=1, ndf=4, n_layers=1, norm="actnorm", dtype="bfloat16"))
    x = jnp.asarray(np.random.RandomState(1).randn(2, 16, 16, 1), jnp.float32)
    variables = jax.jit(disc.init)(jax.random.key(0), x)
    assert "bias" in variables["params"]["conv_1"]
    logits, moved = jax.jit(partial(disc.apply, **TRAIN))(variables, x)
    assert logits.dtype == jnp.float32
    assert np.isfinite(logits).all()
    assert moved["batch_stats"]["norm_1"]["started"]


def test_bad_settings_and_images_are_refused():
    with pytest.raises(ValueError, match="norm='layer' is unknown; known: batch, actnorm"):
        DiscriminatorConfig(norm="layer")
    with pytest.raises(ValueError, match=r"n_layers=0"):
        DiscriminatorConfig(n_layers=0)
    disc = Discriminator(DiscriminatorConfig())
    with pytest.raises(ValueError, match=r"\(b, H, W, 3\).*\(1, 64, 64, 1\)"):
        disc.init(jax.random.key(0), jnp.zeros((1, 64, 64, 1)))
    with pytest.raises(ValueError, match=r"16 x 64 .* at least 24"):
        disc.init(jax.random.key(0), jnp.zeros((1, 16, 64, 3)))
