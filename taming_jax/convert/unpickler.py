"""Unpickles what torch.save has pickled, without running anything that a pickle names.

A pickle may name any function of any package. Here it reaches a short list only; classes that Lightning's checkpoints
mention become inert objects; every other name is refused.
"""

import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

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
# What else Lightning saves: callbacks, hyper-parameters, loops. Nothing in them is needed.
INERT = ("pytorch_lightning", "lightning", "lightning_fabric", "omegaconf", "argparse", "pathlib", "typing", "numpy")
INERT += ("main", "taming")  # the original's own classes, such as its callbacks
TORCH_CONSTANTS = {"float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"}


class Refused(ValueError):
    """Something that a checkpoint may not contain, in words for the user."""


class _Final:
    """What a pickle may make, but not change: its opcode BUILD would write past any check of the constructor."""

    def __setstate__(self, _: Any) -> None:
        raise Refused("it changes an array after it was described; refused")


@dataclass(frozen=True)
class Storage(_Final):
    """A piece of raw memory: `load()` gives its bytes."""

    dtype: np.dtype
    numel: int
    load: Callable[[], bytes]


@dataclass(frozen=True)
class Tensor(_Final):
    """A view of a storage that is not read yet."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements

    def array(self) -> np.ndarray:
        """The values, read-only, of the stored type. Raises Refused where the storage is shorter than claimed."""
        storage, size = self.storage, self.storage.dtype.itemsize
        data = storage.load()
        if len(data) < storage.numel * size:
            raise Refused(f"a storage holds {len(data)} bytes, and its array needs {storage.numel * size}")
        flat = np.frombuffer(data, storage.dtype, count=storage.numel)
        strides = [step * size for step in self.strides]
        return np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides, writeable=False)


class Inert:
    """Stands for an object of a class that is not wanted: takes whatever a pickle does to it, and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...

    def __setitem__(self, *_: Any) -> None: ...

    def append(self, _: Any) -> None: ...

    def extend(self, _: Any) -> None: ...

    def add(self, _: Any) -> None: ...


class Settings(Inert):
    """An argparse.Namespace, with its plain values."""

    def __setstate__(self, state: Any) -> None:
        plain = state.items() if isinstance(state, dict) else ()
        self.values = {k: v for k, v in plain if isinstance(k, str) and isinstance(v, (int, float, str, type(None)))}


class _Dtype(Inert):
    """A numpy type inside a pickle, for `_scalar`."""

    def __init__(self, code: str = "", *_: Any) -> None:
        self.code = code


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    plain = np.dtype(dtype.code)
    if plain.kind not in "biuf" or len(data) != plain.itemsize:
        raise Refused(f"a numpy scalar of type {dtype.code!r} is refused")
    return np.frombuffer(data, plain)[0].item()


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, Storage) or not all(type(n) is int and n >= 0 for n in numbers):
        raise Refused("an array is described wrongly: negative or no numbers")
    if len(shape) != len(strides) or len(shape) > 32:
        raise Refused(f"an array is described wrongly: shape {tuple(shape)} with strides {tuple(strides)}")
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides))
    if 0 not in shape and last >= storage.numel:
        raise Refused(f"an array reaches to element {last} of a storage of {storage.numel}")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _encode(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1")  # how pickles of protocol 2 spell bytes


def _plain_dict(*_: Any) -> dict:
    return {}


def _tuple(items: Any = ()) -> tuple:
    return tuple(items)


KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): _plain_dict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch", "Size"): _tuple,
    ("torch", "device"): Inert,
    ("argparse", "Namespace"): Settings,
    ("_codecs", "encode"): _encode,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    **{(module, c.__name__): c for module in ("builtins", "__builtin__") for c in (set, frozenset, list, dict, tuple)},
}


class Unpickler(pickle.Unpickler):
    """Reads one pickle; storage: makes what its arrays are views of, or None where there may be none."""

    def __init__(self, file: BinaryIO, storage: Callable[..., Storage] | None):
        super().__init__(file)
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in KNOWN:
            return KNOWN[module, name]
        if module in ("torch", "torch.cuda") and name in STORAGES:
            return name  # not the type itself, of which there is one in the process, and which a pickle could change
        if module == "torch" and name in TORCH_CONSTANTS:
            return name
        if module.split(".")[0] in INERT:
            return type(name, (Inert,), {"__module__": module})
        raise Refused(f"it names {module}.{name}, which no checkpoint needs; refused, and nothing of it was run")

    def persistent_load(self, pid: Any) -> Storage:
        if self._storage is None or not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise Refused(f"it refers to {str(pid)[:100]!r} outside of itself; refused")
        _, kind, key, _, numel = pid[:5]
        if type(kind) is not str or kind not in STORAGES or type(key) is not str or type(numel) is not int or numel < 0:
            raise Refused(f"a storage is described wrongly: {str(pid)[:100]}; refused")
        if len(pid) == 6 and pid[5] is not None:
            raise Refused("it holds a view of a storage, which only PyTorch before 0.4 wrote; refused")
        return self._storage(STORAGES[kind], key, numel)
