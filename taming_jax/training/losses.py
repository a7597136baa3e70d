"""The adversarial losses and their weight: arrays in, scalars out, all float32."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

Scalar = Float[Array, ""]


def hinge_d_loss(real: Float[Array, "*b"], fake: Float[Array, "*b"]) -> Scalar:
    """Discriminator's hinge loss on its logits (Lim & Ye 2017), halved: 1 for an undecided one, 0 at best."""
    return 0.5 * (jnp.mean(jax.nn.relu(1.0 - real)) + jnp.mean(jax.nn.relu(1.0 + fake)))


def vanilla_d_loss(real: Float[Array, "*b"], fake: Float[Array, "*b"]) -> Scalar:
    """Discriminator's cross-entropy on its logits (Goodfellow et al. 2014), halved: ln 2 for an undecided one."""
    return 0.5 * (jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(fake)))


D_LOSSES = {"hinge": hinge_d_loss, "vanilla": vanilla_d_loss, "non_saturating": vanilla_d_loss}


def g_loss(fake: Float[Array, "*b"]) -> Scalar:
    """Generator's loss on the discriminator's logits: the lower, the more real its images look."""
    return -jnp.mean(fake)


def non_saturating_g_loss(fake: Float[Array, "*b"]) -> Scalar:
    """Generator's -log D (Goodfellow et al. 2014, section 3): no gradient where an image is taken for real already."""
    return jnp.mean(jax.nn.softplus(-fake))


G_LOSSES = {"hinge": g_loss, "vanilla": g_loss, "non_saturating": non_saturating_g_loss}


def lecam_penalty(
    real: Float[Array, "*b"], fake: Float[Array, "*b"], real_average: Scalar, fake_average: Scalar
) -> Scalar:
    """How far logits are beyond the running averages of the other kind (LeCAM: Tseng et al. 2021, arXiv 2104.03310,
    equation 3; as the authors' program, one-sided): reals above the fakes' average, fakes below the reals'."""
    beyond = jnp.mean(jax.nn.relu(real - fake_average) ** 2)
    return beyond + jnp.mean(jax.nn.relu(real_average - fake) ** 2)


def adaptive_weight(nll_grad: Float[Array, "*k"], g_grad: Float[Array, "*k"], cap: float = 1e4) -> Scalar:
    """|nll_grad| / |g_grad| in [0, cap] (Esser et al. 2021, equation 7): brings the two gradients to equal length.

    The gradients are those at the decoder's last convolution. Computed in float32: squares of small gradients vanish in
    lower precision, and with them the denominator.
    """
    norm = lambda g: jnp.sqrt(jnp.sum(g.astype(jnp.float32) ** 2))
    return jax.lax.stop_gradient(jnp.clip(norm(nll_grad) / (norm(g_grad) + 1e-4), 0.0, cap))
