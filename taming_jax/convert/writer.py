"""Writes a file that torch.load reads, without PyTorch: the reverse of reader.py."""

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from taming_jax.convert.unpickler import STORAGES, UNTYPED

_NAMES = {dtype: name for name, dtype in STORAGES.items()}


def write_checkpoint(path: str | Path, tree: Mapping[str, Any]) -> None:
    """`tree` may hold mappings, lists, text, numbers, None, and numpy arrays, which become contiguous tensors."""
    arrays: list[np.ndarray] = []
    pickled = b"\x80\x02" + _pickle(tree, arrays) + b"."  # protocol 2
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        entries = {"data.pkl": pickled, "byteorder": b"little"}
        for name, data in entries.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), data)
        for i, array in enumerate(arrays):
            data = array.astype(array.dtype.newbyteorder("<"), copy=False).reshape(-1).view(np.uint8)
            with archive.open(zipfile.ZipInfo(f"archive/data/{i}"), "w", force_zip64=data.nbytes > 1 << 31) as file:
                file.write(data.data)
        archive.writestr(zipfile.ZipInfo("archive/version"), b"3\n")


def _pickle(value: Any, arrays: list[np.ndarray]) -> bytes:
    """The opcodes that make `value`; arrays are added to the list, and named by their place in it."""
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(data)]) + data
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        data = value.encode()
        return b"X" + struct.pack("<I", len(data)) + data
    if isinstance(value, (tuple, list)):
        items = b"".join(_pickle(item, arrays) for item in value)
        return b"(" + items + b"t" if isinstance(value, tuple) else b"](" + items + b"e"
    if isinstance(value, Mapping):
        items = b"".join(_pickle(k, arrays) + _pickle(v, arrays) for k, v in value.items())
        return b"}(" + items + b"u"
    if isinstance(value, np.ndarray):
        return _pickle_array(value, arrays)
    raise TypeError(f"{type(value).__name__} has no place in a checkpoint")


def _pickle_array(array: np.ndarray, arrays: list[np.ndarray]) -> bytes:
    """torch._utils._rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict()); of float8, which has no
    storage of its own, _v3(..., type)."""
    storage = _NAMES.get(array.dtype)
    version, module, of_type = (
        ("v2", "torch", b"") if storage else ("v3", "torch.storage", f"ctorch\n{array.dtype}\n".encode())
    )
    strides = tuple(int(np.prod(array.shape[i + 1 :], dtype=np.int64)) for i in range(array.ndim))
    key = str(len(arrays))
    arrays.append(np.ascontiguousarray(array))
    identity = _pickle("storage", []) + f"c{module}\n{storage or UNTYPED}\n".encode()
    identity += b"".join(_pickle(part, []) for part in (key, "cpu", array.size))
    arguments = b"(" + identity + b"tQ" + b"".join(_pickle(part, []) for part in (0, array.shape, strides, False))
    build = f"ctorch._utils\n_rebuild_tensor_{version}\n(".encode()
    return build + arguments + b"ccollections\nOrderedDict\n)R" + of_type + b"tR"
