"""The place of the least and the largest number of a row, compared in the numbers' own type on every device.

Where nothing but the place is used, TPUs' compilers compare in bfloat16, whatever the precision of what came before:
with thousands of near values that is another place. Used numbers are kept whole, so here they are used.

CPUs look for a place one number at a time, but for an extreme at many: of long rows they find the part first.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from taming_jax.nn.devices import on_cpu, on_tpu

LONG, PART = 512, 128  # rows of 512 to 16384 take less than half of the time


def argmin(x: Float[Array, "*b n"]) -> Int[Array, "*b"]:
    """int32, the first of equals."""
    place = _place(x, jnp.min, jnp.argmin)
    return jnp.where(jnp.min(x, axis=-1) > -jnp.inf, place, 0) if on_tpu() else place


def argmax(x: Float[Array, "*b n"]) -> Int[Array, "*b"]:
    """int32, the first of equals."""
    place = _place(x, jnp.max, jnp.argmax)
    return jnp.where(jnp.max(x, axis=-1) < jnp.inf, place, 0) if on_tpu() else place


def _place(x: Float[Array, "*b n"], extreme: Callable[..., Array], place: Callable[..., Array]) -> Int[Array, "*b"]:
    """On CPUs of long rows the first part with the extreme, and its first place there."""
    if not on_cpu() or x.shape[-1] < LONG or x.shape[-1] % PART:
        return place(x, axis=-1).astype(jnp.int32)
    parts = x.reshape(*x.shape[:-1], -1, PART)
    part = place(extreme(parts, axis=-1), axis=-1).astype(jnp.int32)
    row = jnp.take_along_axis(parts, part[..., None, None], axis=-2)[..., 0, :]
    return part * PART + place(row, axis=-1).astype(jnp.int32)
