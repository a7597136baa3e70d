"""The place of the least and the largest number of a row, compared in the numbers' own type on every device.

Where nothing but the place is used, TPUs' compilers compare in bfloat16, whatever the precision of what came before:
with thousands of near values that is another place. Used numbers are kept whole, so here they are used.
"""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from taming_jax.nn.devices import on_tpu


def argmin(x: Float[Array, "*b n"]) -> Int[Array, "*b"]:
    """int32, the first of equals."""
    place = jnp.argmin(x, axis=-1).astype(jnp.int32)
    return jnp.where(jnp.min(x, axis=-1) > -jnp.inf, place, 0) if on_tpu() else place


def argmax(x: Float[Array, "*b n"]) -> Int[Array, "*b"]:
    """int32, the first of equals."""
    place = jnp.argmax(x, axis=-1).astype(jnp.int32)
    return jnp.where(jnp.max(x, axis=-1) < jnp.inf, place, 0) if on_tpu() else place
