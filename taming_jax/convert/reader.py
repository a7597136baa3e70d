"""Reads the files that torch.save writes, without PyTorch and without running anything that they name.

Such a file is a pickle and the raw memory of its arrays: since PyTorch 1.6 a zip archive with `data.pkl` and
`data/KEY`, before that the same one after the other.
"""

import mmap
import zipfile
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from taming_jax.convert.array_names import one_of
from taming_jax.convert.opcodes import Bounded, pickle_length
from taming_jax.convert.tensors import Refused, Storage, Tensor, brief
from taming_jax.convert.unpickler import Inert, NumpyArray, Settings, Unpickler
from taming_jax.file_kinds import kind_of
from taming_jax.files import LONGEST, entries_of, first_line, safetensors_arrays

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
SHARED, MARGIN = 4, 1 << 20  # arrays may share storages: bytes of all of them for each of the file, and besides
ENTRIES = ("state_dict", "model", "module", "ema")  # where programs keep a state dict; the first that is there counts


def _read_zip(file: BinaryIO, size: int) -> Any:
    archive = zipfile.ZipFile(file)
    sizes = entries_of(archive)
    found = [name for name in sizes if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(found) != 1:
        raise Refused(f"it is a zip archive that holds data.pkl {len(found)} times, and PyTorch writes it once")
    root = found[0].removesuffix("data.pkl")
    left = size

    @cache  # one object for all arrays of a storage
    def read(name: str) -> bytes:
        nonlocal left
        if name not in sizes:
            raise Refused(f"the entry {name} is missing")
        if sizes[name].compress_type != zipfile.ZIP_STORED:
            raise Refused(f"the entry {name} is compressed, which PyTorch never does; refused")
        left -= sizes[name].file_size
        if left < 0:
            raise Refused(f"its entries have more bytes than the file ({size}), so they overlap; refused")
        return archive.read(name)  # checks the CRC

    order = read(root + "byteorder").strip() if root + "byteorder" in sizes else b"little"
    storages: dict[tuple[str, np.dtype], Storage] = {}

    def storage(dtype: np.dtype, key: str, numel: int) -> Storage:
        name, dtype = f"{root}data/{key}", dtype if order == b"little" else dtype.newbyteorder(">")
        if name not in sizes:
            raise Refused(f"the entry {name} is missing")
        if sizes[name].file_size < numel * dtype.itemsize:
            raise Refused(
                f"the entry {name} holds {sizes[name].file_size} bytes, and its array needs {numel * dtype.itemsize}"
            )
        # One object a storage, so that arrays that share one are still recognised; the bytes are not read yet.
        return storages.setdefault((key, dtype), Storage(dtype, numel, lambda: read(name)))

    return _unpickled(read(found[0]), 0, storage)[0]


def _unpickled(data: Any, start: int, storage: Callable[..., Storage] | None) -> tuple[Any, int]:
    """(what is pickled in some bytes from `start` on, where it ends). Raises Refused where that is one object of
    somebody's class."""
    end = start + pickle_length(Bounded(data, start))
    unpickler = Unpickler(BytesIO(data[start:end]), storage)
    tree = unpickler.load()
    if isinstance(tree, Inert) and not isinstance(tree, NumpyArray):
        raise Refused(
            f"it holds a whole object ({unpickler.first or 'of a class'}), which only its own program can load: save "
            "its arrays there, torch.save(model.state_dict(), NEW)"
        )
    return tree, end


def _read_legacy(file: BinaryIO, data: mmap.mmap) -> Any:
    """PyTorch before 1.6: four pickles, the list of storages, and their contents, each behind its length."""
    first, place = _unpickled(data, 0, None)
    if first != LEGACY_MAGIC:
        held = f" of {', '.join(map(brief, list(first)[:4]))}" if isinstance(first, dict) and first else ""
        raise Refused(
            f"it is a pickle of Python, but no PyTorch checkpoint: it holds {brief(first)}{held}; save "
            "its arrays in its own program as a state dict (torch.save) or as safetensors"
        )
    version, place = _unpickled(data, place, None)
    system, place = _unpickled(data, place, None)
    if version != 1001 or not isinstance(system, dict) or not system.get("little_endian"):
        raise Refused(f"it is of version {brief(version)} of the older form, or big-endian; refused")
    wanted: dict[str, Storage] = {}
    places: dict[str, tuple[int, int]] = {}

    @cache  # one object for all arrays of a storage
    def read(key: str) -> bytes:
        start, end = places[key]
        file.seek(start)  # what is copied from the map would count twice
        return file.read(max(0, min(end, len(data)) - start))

    def storage(dtype: np.dtype, key: str, numel: int) -> Storage:
        return wanted.setdefault(key, Storage(dtype, numel, lambda: read(key)))

    tree, place = _unpickled(data, place, storage)
    keys, place = _unpickled(data, place, None)
    for key in keys:
        if type(key) is not str or key not in wanted:
            raise Refused(f"it holds a storage {brief(key)} that nothing refers to; refused")
        if key in places:
            raise Refused(f"it holds the storage {brief(key)} twice; refused")
        start = place + 8
        place = start + int.from_bytes(data[place:start], "little") * wanted[key].dtype.itemsize
        places[key] = (start, place)
    return tree


def _has_arrays(state: Any) -> bool:
    return isinstance(state, dict) and any(isinstance(value, Tensor) for value in state.values())


# What people save in place of tensors, and what they should; the last that is there is told.
OBJECTS: dict[type, str] = {
    Inert: "are whole objects: save their state_dict() instead",
    NumpyArray: "are arrays of numpy: save them as safetensors (safetensors.numpy.save_file)",
}


def _entry_of(tree: dict, ema: bool) -> tuple[str, list[str]]:
    """(the entry of a file that is its state dict, all that could be one); "" for the whole file."""
    there = [name for name, value in tree.items() if isinstance(name, str) and _has_arrays(value)]
    there.sort(key=lambda name: ENTRIES.index(name) if name in ENTRIES else len(ENTRIES))
    wanted = [name for name in (("ema", *ENTRIES) if ema else ENTRIES) if name in there]
    if wanted or not there or _has_arrays(tree):
        return next(iter(wanted), ""), there
    if (entry := one_of(there, ema)) is None:
        names = ", ".join(map(brief, there[:8]))
        raise Refused(f"it holds several state dicts, {names}: save the one to convert in a file of its own")
    return entry, there


def _state_of(tree: Any, ema: bool, size: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    if not isinstance(tree, dict):
        raise Refused(f"it holds no state dict, but {type(tree).__name__}")
    entry, there = _entry_of(tree, ema)
    state = tree.get(entry or "state_dict", tree)
    if not _has_arrays(state):
        hint = ""
        for kind, words in OBJECTS.items():
            if found := [brief(name) for name, value in state.items() if isinstance(value, kind)]:
                hint = f"; {', '.join(found[:4])} {words}"
        raise Refused(f"it holds no arrays by name, neither as `state_dict` nor as the whole file{hint}")
    foreign = [brief(k) for k, v in state.items() if not isinstance(k, str) or not isinstance(v, Tensor)]
    if foreign:
        raise Refused(f"its state dict holds entries that are no arrays: {', '.join(foreign[:5])}")
    _check_sizes(state, size)
    extras: dict[str, Any] = {}
    if state is not tree:
        extras |= {k: v for k, v in tree.items() if isinstance(k, str) and isinstance(v, (int, float, str))}
        extras |= {"entry": entry, "entries": there}
        extras |= {"args": tree["args"].values} if isinstance(tree.get("args"), Settings) else {}
    return {name: tensor.array() for name, tensor in state.items()}, extras


def _check_sizes(state: dict[str, Tensor], size: int) -> None:
    """Raise Refused where arrays that share storages would be many times as large as their file of `size` bytes."""
    if long := [name for name in state if len(name) > LONGEST]:
        raise Refused(f"an array is called {brief(long[0])}, by {len(long[0])} letters; refused")
    total = sum(tensor.nbytes for tensor in state.values())
    if total > SHARED * size + MARGIN:
        raise Refused(
            f"its {len(state)} arrays have {total} bytes, and the file {size}: they are copies of one another; refused"
        )


def read_state(path: str | Path, ema: bool = False) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The state dict of a checkpoint as read-only arrays by name, and its other plain entries (epoch, global_step).

    The state dict is the first of ENTRIES that is there, with `ema` the averages before all; or else the one entry that
    has arrays; or the whole file, or a safetensors file. Among the plain entries are `entry`, the one that was taken,
    `entries`, all that hold arrays, and `args`, the plain values of an argparse.Namespace. Other arrays, such as an
    optimizer's, are not read. Raises ValueError where the file is missing, truncated, foreign, or names something that
    a checkpoint has no need of.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name the checkpoint's file in it")
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        kind = kind_of(path)
        if kind.name == "safetensors":
            return safetensors_arrays(path.read_bytes()), {}
        if kind.name not in ("torch", "pickle"):
            raise Refused(str(kind))
        size = path.stat().st_size
        with open(path, "rb") as file:
            if kind.name == "torch":
                return _state_of(_read_zip(file, size), ema, size)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _state_of(_read_legacy(file, data), ema, size)
    except MemoryError as error:
        raise MemoryError(f"reading {path}: {error}") from error
    except Exception as error:  # a damaged pickle can fail in any way
        if isinstance(error, Refused) or kind.name == "safetensors":
            raise ValueError(f"{path}: {error}") from error
        raise ValueError(f"{path} is truncated, or not a PyTorch checkpoint: {first_line(error)}") from error
