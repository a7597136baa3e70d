"""Keys and values that are kept while tokens are drawn, and how the heads lie in them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from taming_jax.nn.devices import on_tpu

LANES = 128  # of a TPU's registers and of its tiles in memory; shorter rows are filled up with nothing
FEW = 32  # so many queries read heads that share a row as they lie; for more, parting them costs less


class Cache(NamedTuple):
    """Keys and values of one layer for the positions seen so far; the rest is zero and masked.

    r is d / rows, L the longest sequence the cache can hold. A row holds one head, on a TPU as many as fill its lanes:
    else half of what is read for heads of 64 would be padding. Rows come first so that what one query reads of a head
    lies together: on a CPU five times as fast as positions first.
    """

    key: Float[Array, "b rows L r"]
    value: Float[Array, "b rows L r"]


def heads_in_row(heads: int, width: int) -> int:
    """How many heads of this width share a row of the cache on the devices that are computed for."""
    if not on_tpu():
        return 1
    return max(n for n in range(1, heads + 1) if heads % n == 0 and (n == 1 or n * width <= LANES))


def as_rows(x: Float[Array, "b l heads c"], rows: int) -> Float[Array, "b {rows} l _"]:
    """Keys or values of each head, as the cache keeps them."""
    return x.reshape(*x.shape[:2], rows, -1).swapaxes(1, 2)


def as_heads_apart(kept: Float[Array, "b rows l r"], heads: int) -> Float[Array, "b {heads} l c"]:
    """Keys or values as the cache keeps them -> one head a row."""
    b, rows, length, width = kept.shape
    parts = kept.reshape(b, rows, length, heads // rows, rows * width // heads)
    return parts.swapaxes(2, 3).reshape(b, heads, length, -1)


@jax.custom_batching.custom_vmap
def write(
    kept: Float[Array, "b rows L r"], new: Float[Array, "b rows l r"], start: Int[Array, ""]
) -> Float[Array, "b rows L r"]:
    """Keys or values with new ones from position `start` on."""
    return jax.lax.dynamic_update_slice_in_dim(kept, new.astype(kept.dtype), start, axis=2)


@write.def_vmap
def _write_each(size: int, batched: list[bool], kept: Array, new: Array, start: Array) -> tuple[Any, bool]:
    """Several caches, written one after the other: each in place, where a batch of writes would be a scatter, which on
    TPUs is a loop that brings all of them into another layout and back."""
    arguments = zip(batched, (kept, new, start))
    kept, new, start = (x if given else jnp.broadcast_to(x, (size, *jnp.shape(x))) for given, x in arguments)
    for i in range(size):
        kept = jax.lax.dynamic_update_slice(kept, new[i : i + 1].astype(kept.dtype), (i, 0, 0, start[i], 0))
    return kept, True


def as_queries_of_rows(
    query: Float[Array, "b l heads c"], mask: Bool[Array, "1 1 l k"], rows: int
) -> tuple[Float[Array, "b q {rows} _"], Bool[Array, "1 1 q k"]]:
    """The heads that share a row as further queries of it, each zero where the others lie; with their mask."""
    b, length, heads, c = query.shape
    n = heads // rows
    if n == 1:
        return query, mask
    own = jnp.eye(n, dtype=query.dtype).reshape(1, 1, n, 1, n, 1)
    spread = query.reshape(b, length, rows, n, c).swapaxes(2, 3)[:, :, :, :, None] * own  # (b, l, n, rows, n, c)
    return spread.reshape(b, length * n, rows, n * c), jnp.repeat(mask, n, axis=2)


def as_heads(y: Float[Array, "b q rows c"], heads: int) -> Float[Array, "b l {heads} _"]:
    """What was read by `as_queries_of_rows`, of each head its own part."""
    b, queries, rows, width = y.shape
    n = heads // rows
    if n == 1:
        return y
    parts = y.reshape(b, queries // n, n, rows, n, width // n)
    return jnp.stack([parts[:, :, i, :, i] for i in range(n)], axis=3).reshape(b, queries // n, heads, -1)
