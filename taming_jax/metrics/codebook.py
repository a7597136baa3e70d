"""How much of a codebook is in use, from how often each of its n codes was chosen."""

import jax.numpy as jnp
from jax import Array
from jax.scipy.special import entr
from jaxtyping import Float, Shaped


def usage(counts: Shaped[Array, " n"]) -> Float[Array, ""]:
    """Share of the codes that were chosen at all, float32 in [0, 1]."""
    return jnp.mean((counts > 0).astype(jnp.float32))


def perplexity(counts: Shaped[Array, " n"]) -> Float[Array, ""]:
    """exp(entropy) of the choice, the number of equally likely codes it amounts to, float32 in [1, n].

    Without any count it is 1.
    """
    counts = counts.astype(jnp.float32)  # before the sum: int32 overflows on a long epoch
    share = counts / jnp.maximum(jnp.sum(counts), 1)
    return jnp.exp(jnp.sum(entr(share)))
