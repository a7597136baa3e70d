"""Unpickles what torch.save has pickled, without running anything that a pickle names.

A pickle may name any function of any package. Here it reaches a short list only. Every other name is one inert class,
whose objects do nothing: callbacks, hyper-parameters and whatever else lies beside the arrays. Names of Python's own
library, where what does harm begins, are refused, except those that settings are made of.
"""

import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
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
UNTYPED = "UntypedStorage"  # of arrays that name their type themselves
# Of Python's library, what may lie in callbacks and hyper-parameters, and is inert here.
HARMLESS = {"abc", "argparse", "collections", "copyreg", "dataclasses", "datetime", "decimal", "enum", "fractions"}
HARMLESS |= {"functools", "logging", "numbers", "pathlib", "re", "string", "types", "typing", "uuid", "weakref"}
PLAIN = {"object", "int", "float", "complex", "bool", "str", "bytes", "bytearray", "range", "slice", "type"}
FLOAT8 = {
    name: np.dtype(getattr(ml_dtypes, name))
    for name in ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu")
}
TORCH_CONSTANTS = {
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "bool",
} | FLOAT8.keys()


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
        plain = np.dtype(np.uint8) if size == 1 else storage.dtype  # numpy has no strides for float8_e5m2
        flat = np.frombuffer(data, plain, count=storage.numel)
        strides = [step * size for step in self.strides]
        view = np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides, writeable=False)
        return view.view(storage.dtype)


class Inert:
    """Stands for an object of a class that is not wanted: takes whatever a pickle does to it, and does nothing.

    It is one class for all names, and keeps nothing that it is given: so a pickle cannot fill memory with classes, and
    text, comparison and hash of an object are those of `object`.
    """

    def __new__(cls, *_: Any, **__: Any) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __call__(self, *_: Any, **__: Any) -> "Inert":
        return Inert()

    def __iter__(self) -> Iterator[Any]:
        return iter(())  # a set or a tuple may be made of one

    def __setstate__(self, _: Any) -> None: ...

    def __setitem__(self, *_: Any) -> None: ...

    def append(self, _: Any) -> None: ...

    def extend(self, _: Any) -> None: ...

    def add(self, _: Any) -> None: ...


class NumpyArray(Inert):
    """An array of numpy, as pickles without PyTorch have them."""


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
    if not isinstance(storage, Storage) or not all(type(numbers) in (tuple, list) for numbers in (shape, strides)):
        raise Refused(f"an array is described wrongly: {brief(storage)}, {brief(shape)}, {brief(strides)}")
    if not all(type(n) is int and n >= 0 for n in (offset, *shape, *strides)):
        raise Refused("an array is described wrongly: negative or no numbers")
    if len(shape) != len(strides) or len(shape) > 32:
        raise Refused(f"an array is described wrongly: {len(shape)} axes with {len(strides)} strides")
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides))
    if 0 not in shape and last >= storage.numel:
        raise Refused(f"an array reaches to element {last} of a storage of {storage.numel}")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _tensor_of_type(
    storage: Any, offset: Any, shape: Any, strides: Any, _: Any, __: Any, dtype: Any, *___: Any
) -> Tensor:
    """Of a type for which PyTorch has no storage of its own; of these only such of one byte are wanted."""
    if type(dtype) is not str or dtype not in FLOAT8 or not isinstance(storage, Storage) or storage.dtype.itemsize != 1:
        raise Refused("it holds an array of a type that is not read: save it as float16 or float32")
    return _tensor(Storage(FLOAT8[dtype], storage.numel, storage.load), offset, shape, strides)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _subclass(build: Any, _: Any, arguments: Any, *__: Any) -> Any:
    """A tensor of a class of its own, or with attributes: the plain one that it is made of."""
    return build(*arguments) if build in (_tensor, _tensor_of_type, _parameter) else Inert()


def brief(value: Any) -> str:
    """What a pickle holds somewhere, in a few letters, without going into it: its own text may have no end."""
    if isinstance(value, tuple) and value and isinstance(value[0], str):
        return f"({value[0][:40]!r}, ...)"
    if isinstance(value, str):
        return repr(value[:40])
    return str(value) if type(value) is int and abs(value) < 1 << 63 else f"a {type(value).__name__}"


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
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_of_type,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _subclass,
    ("torch", "Size"): _tuple,
    ("torch", "device"): Inert,
    ("argparse", "Namespace"): Settings,
    ("_codecs", "encode"): _encode,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): NumpyArray,
    ("numpy._core.multiarray", "_reconstruct"): NumpyArray,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    **{(module, c.__name__): c for module in ("builtins", "__builtin__") for c in (set, frozenset, list, dict, tuple)},
}


class Unpickler(pickle.Unpickler):
    """Reads one pickle; storage: makes what its arrays are views of, or None where there may be none.

    first: the first name that is none of those which checkpoints need, as the class of a whole object; "" for none.
    """

    def __init__(self, file: BinaryIO, storage: Callable[..., Storage] | None):
        super().__init__(file)
        self._storage = storage
        self.first = self._last = ""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in KNOWN:
            return KNOWN[module, name]
        if module in ("torch", "torch.cuda") and name in STORAGES:
            return name  # not the type itself, of which there is one in the process, and which a pickle could change
        if (module == "torch" and name in TORCH_CONSTANTS) or (module, name) == ("torch.storage", UNTYPED):
            return name
        self._refuse(module, name)
        self._last = " ".join(f"{module}.{name}"[:100].split())
        self.first = self.first or self._last
        return Inert

    @staticmethod
    def _refuse(module: str, name: str) -> None:
        top = module.split(".")[0]
        plain = top in ("builtins", "__builtin__") and name in PLAIN
        library = top in sys.stdlib_module_names or top == "__builtin__"
        if library and top not in HARMLESS and not plain:
            named = f"{module[:60]}.{name[:60]}"
            raise Refused(f"it names {named}, which no checkpoint needs; refused, and nothing of it was run")

    def persistent_load(self, pid: Any) -> Storage:
        if self._storage is None or not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise Refused(f"it refers to {brief(pid)} outside of itself; refused")
        _, kind, key, _, numel = pid[:5]
        if kind is Inert:
            raise Refused(f"it holds an array of a type that is not read: {self._last}")
        types = {**STORAGES, UNTYPED: np.dtype("uint8")}
        if type(kind) is not str or kind not in types or type(key) is not str or type(numel) is not int or numel < 0:
            raise Refused(f"a storage is described wrongly: {', '.join(map(brief, pid[1:]))}; refused")
        if len(pid) == 6 and pid[5] is not None:
            raise Refused("it holds a view of a storage, which only PyTorch before 0.4 wrote; refused")
        return self._storage(types[kind], key, numel)
