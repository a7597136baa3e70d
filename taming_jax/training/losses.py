"""The adversarial losses and their weight: arrays in, scalars out, all in float32."""

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


D_LOSSES = {"hinge": hinge_d_loss, "vanilla": vanilla_d_loss}


def g_loss(fake: Float[Array, "*b"]) -> Scalar:
    """Generator's loss on the discriminator's logits: the lower, the more real its images look."""
    return -jnp.mean(fake)


def adaptive_weight(nll_grad: Float[Array, "*k"], g_grad: Float[Array, "*k"], cap: float = 1e4) -> Scalar:
    """|nll_grad| / |g_grad| in [0, cap] (Esser et al. 2021, equation 7): brings the two gradients to equal length.

    The gradients are those at the decoder's last convolution. Computed in float32: squares of small gradients vanish in
    lower precision, and with them the denominator.
    """
    norm = lambda g: jnp.sqrt(jnp.sum(g.astype(jnp.float32) ** 2))
    return jax.lax.stop_gradient(jnp.clip(norm(nll_grad) / (norm(g_grad) + 1e-4), 0.0, cap))
