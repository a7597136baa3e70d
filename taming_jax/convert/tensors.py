"""Arrays as PyTorch's files describe them: views of storages, which are read when all has been found to fit."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

STORAGES = {
    "FloatStorage": np.dtype("float32"),
    "HalfStorage": np.dtype("float16"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "DoubleStorage": np.dtype("float64"),
    "LongStorage": np.dtype("int64"),
    "IntStorage": np.dtype("int32"),
    "ShortStorage": np.dtype("int16"),
    "CharStorage": np.dtype("int8"),
    "ByteStorage": np.dtype("uint8"),
    "BoolStorage": np.dtype("bool"),
}
FLOAT8 = {
    name: np.dtype(getattr(ml_dtypes, name))
    for name in ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu")
}
REPEATED = 1000  # elements of an array that may have more than its storage, as `expand` makes them


class Refused(ValueError):
    """Something that a checkpoint may not contain, in words for the user."""


class Final:
    """What a pickle may make, but not change: its opcode BUILD would write past any check of the constructor."""

    def __setstate__(self, _: Any) -> None:
        raise Refused("it changes what it has described, or what it may only use; refused")


@dataclass(frozen=True)
class Storage(Final):
    """A piece of raw memory: `load()` gives its bytes, the same object each time."""

    dtype: np.dtype
    numel: int
    load: Callable[[], bytes]


@dataclass(frozen=True)
class Tensor(Final):
    """A view of a storage that is not read yet."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements

    @property
    def nbytes(self) -> int:
        """Of all elements, however many of them are the same in the storage."""
        size = self.storage.dtype.itemsize
        for n in self.shape:
            size *= n
        return size

    def array(self) -> np.ndarray:
        """The values, read-only, of the stored type. Raises Refused where the storage is shorter than claimed."""
        storage, size = self.storage, self.storage.dtype.itemsize
        data = storage.load()
        if len(data) < storage.numel * size:
            raise Refused(f"a storage holds {len(data)} bytes, and its array needs {storage.numel * size}")
        plain = np.dtype(np.uint8) if size == 1 else storage.dtype  # numpy has no strides for float8_e5m2
        flat = np.frombuffer(data, plain, count=storage.numel)
        strides = [step * size for step in self.strides]
        view = np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides, writeable=False)
        return view.view(storage.dtype)


def tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> Tensor:
    """A view of a storage, from what a pickle says of it. Raises Refused where that cannot be."""
    if not isinstance(storage, Storage) or not all(type(numbers) in (tuple, list) for numbers in (shape, strides)):
        raise Refused(f"an array is described wrongly: {brief(storage)}, {brief(shape)}, {brief(strides)}")
    if len(shape) != len(strides) or len(shape) > 32:
        raise Refused(f"an array is described wrongly: {len(shape)} axes with {len(strides)} strides")
    if not all(type(n) is int and 0 <= n < 1 << 63 for n in (offset, *shape, *strides)):
        raise Refused("an array is described wrongly: negative, enormous or no numbers")
    found = Tensor(storage, offset, tuple(shape), tuple(strides))
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides))
    if 0 not in shape and last >= storage.numel:
        raise Refused(f"an array reaches to element {last} of a storage of {storage.numel}")
    if found.nbytes > max(storage.numel, REPEATED) * storage.dtype.itemsize:
        raise Refused(
            f"an array of shape {found.shape} repeats the elements of a storage of {storage.numel}; save it after "
            ".contiguous()"
        )
    return found


def brief(value: Any) -> str:
    """What a pickle holds somewhere, in a few letters, without going into it: its own text may have no end."""
    if isinstance(value, tuple) and value and isinstance(value[0], str):
        return f"({value[0][:40]!r}, ...)"
    if isinstance(value, str):
        return repr(value[:40])
    return str(value) if type(value) is int and abs(value) < 1 << 63 else f"a {type(value).__name__}"
