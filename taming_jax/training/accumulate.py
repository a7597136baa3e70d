"""A batch in parts, one after the other, for networks or batches that do not fit the devices' memory at once."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp


def mean_over_parts(
    function: Callable[[Any, Mapping[str, jax.Array], jax.Array], tuple[Any, Any]],
    carry: Any,
    batch: Mapping[str, jax.Array],
    key: jax.Array,
    parts: int,
) -> tuple[Any, Any]:
    """function(carry, part, its key) -> (carry, values), over equal parts of a batch -> (carry, the values' means).

    In one part it is the function itself. Where a loss is a mean over images, the means of its parts and of their
    gradients are those of the batch.
    """
    if parts == 1:
        return function(carry, batch, key)
    split = jax.tree.map(lambda x: _split(x, parts), dict(batch))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(parts))
    part = jax.tree.map(lambda x: x[0], split)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, carry, part, key)[1])

    def add(state: tuple[Any, Any], xs: tuple[Any, jax.Array]) -> tuple[tuple[Any, Any], None]:
        carry, sums = state
        carry, values = function(carry, *xs)
        return (carry, jax.tree.map(jnp.add, sums, values)), None

    (carry, sums), _ = jax.lax.scan(add, (carry, zeros), (split, keys))
    return carry, jax.tree.map(lambda x: x / parts, sums)


def _split(x: jax.Array, parts: int) -> jax.Array:
    """(b, ...) -> (parts, b / parts, ...): every part takes images from all devices, so that none has to move."""
    return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)
