"""Reads the files that Flax writes (`flax.serialization.to_bytes`), trusting nothing that they say of themselves."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from taming_jax.file_kinds import kind_of, shown
from taming_jax.files import LONGEST, SAFETENSORS, first_line

ARRAY, SCALAR = 1, 3  # Flax's kinds of extensions
TYPES = {dtype.name: dtype for dtype in SAFETENSORS.values()}
MOST, DEEPEST = 1_000_000, 100  # entries of all maps, and maps within maps
CHUNKS = "__msgpack_chunked_array__"


def _array(code: int, data: bytes) -> np.ndarray:
    """An array, whose content is msgpack of (shape, type, bytes)."""
    if code not in (ARRAY, SCALAR):
        raise ValueError(f"it holds a value of kind {code}, which no checkpoint of Flax needs")
    shape, name, content = msgpack.unpackb(data, raw=True, max_array_len=64)
    dtype = TYPES.get(name.decode()) if isinstance(name, bytes) else None
    if dtype is None:
        raise ValueError(f"it holds an array of type {shown(str(name)[:80])}, which is not read")
    if not isinstance(content, bytes) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("an array is described wrongly")
    if math.prod(shape) * dtype.itemsize != len(content):
        raise ValueError(f"an array of shape {tuple(shape)} and type {dtype} holds {len(content)} bytes")
    return np.frombuffer(content, dtype).reshape(shape)


def _flat(tree: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    if depth > DEEPEST:
        raise ValueError(f"its maps lie more than {DEEPEST} deep in one another")
    for name, value in tree.items():
        if isinstance(value, dict):
            if CHUNKS in value:
                raise ValueError(f"{shown(path + name)} is an array in pieces, larger than 1 GiB, which is not read")
            yield from _flat(value, f"{path}{name}.", depth + 1)
        else:
            yield f"{path}{name}", value


def read_flax(path: str | Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """(the arrays by the names of the maps that they lie in, with dots; notes). Of a whole state of a training, the
    parameters alone. Raises ValueError where the file is damaged or another."""
    entries = 0

    def counted(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal entries
        entries += len(pairs) + 1
        if entries > MOST:
            raise ValueError(f"it has more than {MOST} entries")
        if long := [name for name, _ in pairs if len(name) > LONGEST]:
            raise ValueError(f"an entry is called {shown(long[0])}; names have at most {LONGEST} letters")
        return dict(pairs)

    kind = kind_of(path)
    if kind.name != "flax":
        raise ValueError(f"{path} is no file of Flax: {kind}")
    try:
        tree = msgpack.unpackb(
            Path(path).read_bytes(),
            ext_hook=_array,
            object_pairs_hook=counted,
            strict_map_key=True,
            max_array_len=0,
            max_map_len=MOST,
        )
        notes = []
        if isinstance(tree.get("params"), dict):
            if others := ", ".join(shown(name) for name in sorted(tree)[:6] if name != "params"):
                notes.append(f"taken: the arrays of 'params'; left out: {others}")
            tree = tree["params"]
        state = dict(_flat(tree))
        if wrong := [name for name, value in state.items() if not isinstance(value, np.ndarray)]:
            raise ValueError(f"these entries are no arrays: {', '.join(map(shown, wrong[:5]))}")
        return state, notes
    except MemoryError as error:
        raise MemoryError(f"reading {path}: {error}") from error
    except Exception as error:  # msgpack has many for a damaged file
        raise ValueError(f"{path} is truncated, or not a file of Flax: {first_line(error)}") from error
