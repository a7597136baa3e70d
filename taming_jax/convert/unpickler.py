"""Unpickles what torch.save has pickled, without running anything that a pickle names.

A pickle may name any function of any package. Here it reaches a short list only. Every other name is one inert class,
whose objects do nothing: callbacks, hyper-parameters and whatever else lies beside the arrays. Names of Python's own
library, where what does harm begins, are refused, except those that settings are made of.
"""

import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np

from taming_jax.convert.tensors import FLOAT8, STORAGES, Final, Refused, Storage, Tensor, brief, tensor

LONGEST = 500  # letters of a name of a class, or of a storage
UNTYPED = "UntypedStorage"  # of arrays that name their type themselves
# Of Python's library, what may lie in callbacks and hyper-parameters, and is inert here.
HARMLESS = {"abc", "argparse", "collections", "copyreg", "dataclasses", "datetime", "decimal", "enum", "fractions"}
HARMLESS |= {"functools", "logging", "numbers", "pathlib", "re", "string", "types", "typing", "uuid", "weakref"}
PLAIN = {"object", "int", "float", "complex", "bool", "str", "bytes", "bytearray", "range", "slice", "type"}
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
    code = dtype.code if isinstance(dtype, _Dtype) else None
    plain = np.dtype(code if type(code) is str and len(code) <= 4 else "V")
    if plain.kind not in "biuf" or len(data) != plain.itemsize:
        raise Refused(f"a numpy scalar of type {brief(code)} is refused")
    return np.frombuffer(data, plain)[0].item()


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    return tensor(storage, offset, shape, strides)


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
    return build(*arguments) if any(build is known for known in BUILDERS) else Inert()


def _encode(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1")  # how pickles of protocol 2 spell bytes


def _tuple(items: Any = ()) -> tuple:
    return tuple(items)


def _list(items: Any = ()) -> list:
    return list(items)


def _plain_dict(*_: Any) -> dict:
    return {}


def _check_keys(keys: Iterable[Any]) -> None:
    """Raise Refused where it may take for ever to compare and to hash them."""
    for key in keys:
        inside = key if isinstance(key, (tuple, frozenset)) else ()
        if len(inside) > 8 or any(isinstance(part, (tuple, frozenset)) for part in inside):
            raise Refused("it has a key that consists of many values, which no checkpoint needs; refused")


def _dict(items: Any = (), **more: Any) -> OrderedDict:
    """Of pairs, as Python 2 wrote it, or of another one."""
    pairs = list(items.items()) if isinstance(items, dict) else [tuple(pair) for pair in items]
    _check_keys(pair[0] for pair in pairs)
    return OrderedDict(pairs, **more)


def _set(items: Any = ()) -> frozenset | set:
    items = list(items)
    _check_keys(items)
    return set(items)


def _frozenset(items: Any = ()) -> frozenset:
    return frozenset(_set(items))


class Function(Final):
    """A function that a pickle may call, but not change: BUILD would set its defaults, for the whole process."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._call(*arguments, **named)


KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): Function(_dict),
    ("collections", "defaultdict"): Function(_plain_dict),
    ("torch._utils", "_rebuild_tensor_v2"): Function(_tensor),
    ("torch._utils", "_rebuild_tensor_v3"): Function(_tensor_of_type),
    ("torch._utils", "_rebuild_parameter"): Function(_parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): Function(_parameter),
    ("torch._tensor", "_rebuild_from_type_v2"): Function(_subclass),
    ("torch", "Size"): Function(_tuple),
    ("torch", "device"): Inert,
    ("argparse", "Namespace"): Settings,
    ("_codecs", "encode"): Function(_encode),
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): NumpyArray,
    ("numpy._core.multiarray", "_reconstruct"): NumpyArray,
    ("numpy.core.multiarray", "scalar"): Function(_scalar),
    ("numpy._core.multiarray", "scalar"): Function(_scalar),
}
BUILDERS = [KNOWN["torch._utils", name] for name in ("_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter")]
PLAIN_TYPES: dict[str, Callable[..., Any]] = {
    "set": _set, "frozenset": _frozenset, "list": _list, "dict": _dict, "tuple": _tuple
}  # fmt: skip
KNOWN |= {(module, name): Function(PLAIN_TYPES[name]) for module in ("builtins", "__builtin__") for name in PLAIN_TYPES}


class Unpickler(pickle.Unpickler):
    """Reads one pickle; storage: makes what its arrays are views of, or None where there may be none.

    first: the first name that is none of those which checkpoints need, as the class of a whole object; "" for none.
    """

    def __init__(self, file: BinaryIO, storage: Callable[..., Storage] | None):
        super().__init__(file)
        self._storage = storage
        self.first = self._last = ""

    def find_class(self, module: str, name: str) -> Any:
        if len(module) + len(name) > LONGEST:
            raise Refused(f"it names something by {len(module) + len(name)} letters; refused")
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
        if type(kind) is not str or kind not in types or type(key) is not str or type(numel) is not int:
            raise Refused(f"a storage is described wrongly: {', '.join(map(brief, pid[1:]))}; refused")
        if len(key) > LONGEST or not 0 <= numel < 1 << 60:
            raise Refused(f"a storage is described wrongly: {brief(key)} of {brief(numel)} elements; refused")
        if len(pid) == 6 and pid[5] is not None:
            raise Refused("it holds a view of a storage, which only PyTorch before 0.4 wrote; refused")
        return self._storage(types[kind], key, numel)
