"""Losses against numpy and against their definitions' special cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taming_jax.models.content import l1
from taming_jax.training import losses

RS = np.random.RandomState(0)


def test_l1_is_the_mean_absolute_difference():
    x, y = RS.randn(2, 3, 3, 1).astype(np.float32), RS.randn(2, 3, 3, 1).astype(np.float32)
    np.testing.assert_allclose(l1(x, y), np.abs(x - y).mean(), rtol=1e-6)


def test_hinge_loss():
    real, fake = jnp.array([2.0, 0.0, -1.0]), jnp.array([-3.0, 0.5, 0.0])
    np.testing.assert_allclose(losses.hinge_d_loss(real, fake), 0.5 * ((0 + 1 + 2) / 3 + (0 + 1.5 + 1) / 3), rtol=1e-6)


def test_vanilla_loss_is_half_the_cross_entropies():
    real, fake = RS.randn(10).astype(np.float32), RS.randn(10).astype(np.float32)
    probability = lambda logit: 1 / (1 + np.exp(-logit))
    expected = -0.5 * (np.log(probability(real)).mean() + np.log(1 - probability(fake)).mean())
    np.testing.assert_allclose(losses.vanilla_d_loss(real, fake), expected, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(losses.D_LOSSES))
def test_a_discriminator_learns_to_tell_reals_from_fakes(name):
    by_real, by_fake = jax.grad(losses.D_LOSSES[name], argnums=(0, 1))(jnp.zeros(4), jnp.zeros(4))
    assert (by_real < 0).all()
    assert (by_fake > 0).all()


def test_the_generator_wants_high_logits():
    assert losses.g_loss(jnp.array([1.0, 3.0])) == -2


def test_adaptive_weight_is_the_ratio_of_norms_up_to_the_cap():
    a, b = RS.randn(3, 3, 4, 2).astype(np.float32), RS.randn(3, 3, 4, 2).astype(np.float32)
    ratio = np.linalg.norm(a) / (np.linalg.norm(b) + 1e-4)
    np.testing.assert_allclose(losses.adaptive_weight(a, b), ratio, rtol=1e-5)
    assert losses.adaptive_weight(a, 0 * b) == 1e4
    assert losses.adaptive_weight(a, 0 * b, cap=7.0) == 7
    assert losses.adaptive_weight(0 * a, 0 * b) == 0


def test_adaptive_weight_of_low_precision_gradients_is_computed_in_float32():
    small = jnp.full((10, 10), 1e-3, jnp.float16)  # its square is below half precision's smallest step
    np.testing.assert_allclose(losses.adaptive_weight(small, small), 1e-2 / (1e-2 + 1e-4), rtol=1e-3)
