"""Reads the files that torch.save writes, without PyTorch and without running anything that they name.

Such a file is a pickle and the raw memory of its arrays: since PyTorch 1.6 a zip archive with `data.pkl` and
`data/KEY`, before that the same one after the other. The pickle may name any function of any package. Here it reaches a
short list only; classes that Lightning's checkpoints mention become inert objects; every other name is refused.
"""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
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
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def read_state(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The state dict of a checkpoint as read-only arrays by name, and its other plain entries (epoch, global_step).

    The state dict is the entry `state_dict`, or the whole file where there is none. Other arrays, such as an
    optimizer's, are not read. Raises ValueError where the file is missing, truncated, foreign, or names something that
    a checkpoint has no need of.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        with open(path, "rb") as file:
            start = file.read(4)
            file.seek(0)
            tree = _read_zip(file) if start == b"PK\x03\x04" else _read_legacy(file)
            return _state_of(tree)
    except _Refused as error:
        raise ValueError(f"{path}: {error}") from error
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        reason = str(error).split("\n")[0][:200] or type(error).__name__
        raise ValueError(f"{path} is truncated, or not a PyTorch checkpoint: {reason}") from error


class _Refused(ValueError):
    """Something that a checkpoint may not contain, in words for the user."""


@dataclass(frozen=True)
class Storage:
    """A piece of raw memory: `load()` gives its bytes."""

    dtype: np.dtype
    numel: int
    load: Callable[[], bytes]


@dataclass(frozen=True)
class Tensor:
    """A view of a storage that is not read yet."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements

    def array(self) -> np.ndarray:
        """The values, read-only, of the stored type. Raises _Refused where the storage is shorter than claimed."""
        storage, size = self.storage, self.storage.dtype.itemsize
        data = storage.load()
        if len(data) < storage.numel * size:
            raise _Refused(f"a storage holds {len(data)} bytes, and its array needs {storage.numel * size}")
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


class _Dtype(Inert):
    """A numpy type inside a pickle, for `_scalar`."""

    def __init__(self, code: str = "", *_: Any) -> None:
        self.code = code


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    plain = np.dtype(dtype.code)
    if plain.kind not in "biuf" or len(data) != plain.itemsize:
        raise _Refused(f"a numpy scalar of type {dtype.code!r} is refused")
    return np.frombuffer(data, plain)[0].item()


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, Storage) or not all(type(n) is int and n >= 0 for n in numbers):
        raise _Refused("an array is described wrongly: negative or no numbers")
    if len(shape) != len(strides) or len(shape) > 32:
        raise _Refused(f"an array is described wrongly: shape {tuple(shape)} with strides {tuple(strides)}")
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides))
    if 0 not in shape and last >= storage.numel:
        raise _Refused(f"an array reaches to element {last} of a storage of {storage.numel}")
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
    ("_codecs", "encode"): _encode,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    **{(module, c.__name__): c for module in ("builtins", "__builtin__") for c in (set, frozenset, list, dict, tuple)},
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, storage: Callable[..., Storage] | None):
        super().__init__(file)
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in KNOWN:
            return KNOWN[module, name]
        if module in ("torch", "torch.cuda") and name in STORAGES:
            return STORAGES[name]
        if module == "torch" and name in TORCH_CONSTANTS:
            return name
        if module.split(".")[0] in INERT:
            return type(name, (Inert,), {"__module__": module})
        raise _Refused(f"it names {module}.{name}, which no checkpoint needs; refused, and nothing of it was run")

    def persistent_load(self, pid: Any) -> Storage:
        if self._storage is None or not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise _Refused(f"it refers to {str(pid)[:100]!r} outside of itself; refused")
        _, dtype, key, _, numel = pid[:5]
        if not isinstance(dtype, np.dtype) or not isinstance(key, str) or type(numel) is not int or numel < 0:
            raise _Refused(f"a storage is described wrongly: {str(pid)[:100]}; refused")
        if len(pid) == 6 and pid[5] is not None:
            raise _Refused("it holds a view of a storage, which only PyTorch before 0.4 wrote; refused")
        return self._storage(dtype, key, numel)


def _read_zip(file: BinaryIO) -> Any:
    if not zipfile.is_zipfile(file):
        raise _Refused("it is truncated: it begins as a zip archive and has no end")
    archive = zipfile.ZipFile(file)
    sizes = {entry.filename: entry for entry in archive.infolist()}
    found = [name for name in sizes if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(found) != 1:
        raise _Refused("it is a zip archive, but no PyTorch checkpoint: it must hold data.pkl once")
    root = found[0].removesuffix("data.pkl")

    @lru_cache(maxsize=1)  # for files whose arrays all share one storage
    def read(name: str) -> bytes:
        if name not in sizes:
            raise _Refused(f"the entry {name} is missing")
        if sizes[name].compress_type != zipfile.ZIP_STORED:
            raise _Refused(f"the entry {name} is compressed, which PyTorch never does; refused")
        return archive.read(name)  # checks the CRC

    order = read(root + "byteorder").strip() if root + "byteorder" in sizes else b"little"
    storages: dict[tuple[str, np.dtype], Storage] = {}

    def storage(dtype: np.dtype, key: str, numel: int) -> Storage:
        name, dtype = f"{root}data/{key}", dtype if order == b"little" else dtype.newbyteorder(">")
        if name not in sizes:
            raise _Refused(f"the entry {name} is missing")
        if sizes[name].file_size < numel * dtype.itemsize:
            raise _Refused(
                f"the entry {name} holds {sizes[name].file_size} bytes, and its array needs {numel * dtype.itemsize}"
            )
        # One object a storage, so that arrays that share one are still recognised; the bytes are not kept.
        return storages.setdefault((key, dtype), Storage(dtype, numel, lambda: read(name)))

    return _Unpickler(BytesIO(read(found[0])), storage).load()


def _read_legacy(file: BinaryIO) -> Any:
    """PyTorch before 1.6: four pickles, the list of storages, and their contents, each behind its length."""
    if _Unpickler(file, None).load() != LEGACY_MAGIC:
        raise _Refused("it is no PyTorch checkpoint: neither a zip archive nor of the older form")
    version, system = _Unpickler(file, None).load(), _Unpickler(file, None).load()
    if version != 1001 or not isinstance(system, dict) or not system.get("little_endian"):
        raise _Refused(f"it is of version {version!r} of the older form, or big-endian; refused")
    wanted: dict[str, Storage] = {}
    places: dict[str, tuple[int, int]] = {}

    def storage(dtype: np.dtype, key: str, numel: int) -> Storage:
        def load() -> bytes:
            start, length = places[key]
            file.seek(start)
            return file.read(length)

        return wanted.setdefault(key, Storage(dtype, numel, load))

    tree = _Unpickler(file, storage).load()
    for key in _Unpickler(file, None).load():
        count = int.from_bytes(file.read(8), "little")
        if key not in wanted:
            raise _Refused(f"it holds a storage {str(key)[:40]!r} that nothing refers to; refused")
        length = count * wanted[key].dtype.itemsize
        places[key] = (file.tell(), length)
        file.seek(length, 1)
    return tree


def _state_of(tree: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    if not isinstance(tree, dict):
        raise _Refused(f"it holds no state dict, but {type(tree).__name__}")
    state = tree.get("state_dict", tree)
    if not isinstance(state, dict) or not any(isinstance(value, Tensor) for value in state.values()):
        raise _Refused("it holds no arrays by name, neither as `state_dict` nor as the whole file")
    foreign = [str(k)[:60] for k, v in state.items() if not isinstance(k, str) or not isinstance(v, Tensor)]
    if foreign:
        raise _Refused(f"its state dict holds entries that are no arrays: {', '.join(foreign[:5])}")
    extras = {}
    if state is not tree:
        extras = {k: v for k, v in tree.items() if isinstance(k, str) and isinstance(v, (int, float, str))}
    return {name: tensor.array() for name, tensor in state.items()}, extras
