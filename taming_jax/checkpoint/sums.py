"""Whether what is read is what was saved: sums of the bits of arrays, computed where the arrays are."""

import json
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


class WrongSum(ValueError):
    """What was read is not what was saved."""


def by_name(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths, such as `layer/kernel`."""
    named = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in named}


def array_sums(tree: Any) -> dict[str, int]:
    """For each array, by its path, the sum of its elements' bits modulo 2^32, which any single wrong bit changes.

    Arrays of jax are summed on their devices, each part where it lies; the same arrays as numpy have the same sums.
    """
    named = by_name(tree)
    leaves = list(named.values())
    if any(isinstance(leaf, jax.Array) for leaf in leaves):
        values = jax.device_get(_sums_on_devices(leaves))
    else:
        values = [_sum(np.asarray(leaf)) for leaf in leaves]
    return {name: int(value) for name, value in zip(named, values, strict=True)}


def text_sum(config: Mapping[str, Any]) -> int:
    """The same for what JSON can say, whatever the order of its keys."""
    return zlib.crc32(json.dumps(config, sort_keys=True).encode())


def check(saved: Any, found: Any) -> None:
    """Raise WrongSum where a sum is another than that saved under the same name; None: nothing was saved."""
    if isinstance(saved, Mapping):
        for name, value in found.items():
            if saved.get(name, value) != value:
                raise WrongSum(f"{name} is not what was saved")
    elif saved is not None and saved != found:
        raise WrongSum("the configuration is not what was saved")


def _sum(array: np.ndarray) -> np.uint32:
    bits = array if array.dtype == bool else np.ascontiguousarray(array).view(UNSIGNED[array.dtype.itemsize])
    return bits.astype(np.uint32, copy=False).sum(dtype=np.uint32)


@jax.jit
def _sums_on_devices(leaves: list[jax.Array]) -> jax.Array:
    def one(array: jax.Array) -> jax.Array:
        bits = array if array.dtype == bool else lax.bitcast_convert_type(array, UNSIGNED[array.dtype.itemsize])
        return bits.astype(jnp.uint32).sum(dtype=jnp.uint32)

    return jnp.stack([one(jnp.asarray(leaf)) for leaf in leaves])
