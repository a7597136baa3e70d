"""Reads the files that torch.save writes, without PyTorch and without running anything that they name.

Such a file is a pickle and the raw memory of its arrays: since PyTorch 1.6 a zip archive with `data.pkl` and
`data/KEY`, before that the same one after the other.
"""

import zipfile
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from taming_jax.convert.array_names import one_of
from taming_jax.convert.unpickler import Inert, NumpyArray, Refused, Settings, Storage, Tensor, Unpickler, brief
from taming_jax.file_kinds import kind_of
from taming_jax.files import first_line, safetensors_arrays

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
ENTRIES = ("state_dict", "model", "module", "ema")  # where programs keep a state dict; the first that is there counts


def _read_zip(file: BinaryIO) -> Any:
    archive = zipfile.ZipFile(file)
    sizes = {entry.filename: entry for entry in archive.infolist()}
    found = [name for name in sizes if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(found) != 1:
        raise Refused(f"it is a zip archive that holds data.pkl {len(found)} times, and PyTorch writes it once")
    root = found[0].removesuffix("data.pkl")

    @lru_cache(maxsize=1)  # for files whose arrays all share one storage
    def read(name: str) -> bytes:
        if name not in sizes:
            raise Refused(f"the entry {name} is missing")
        if sizes[name].compress_type != zipfile.ZIP_STORED:
            raise Refused(f"the entry {name} is compressed, which PyTorch never does; refused")
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
        # One object a storage, so that arrays that share one are still recognised; the bytes are not kept.
        return storages.setdefault((key, dtype), Storage(dtype, numel, lambda: read(name)))

    return _loaded(Unpickler(BytesIO(read(found[0])), storage))


def _loaded(unpickler: Unpickler) -> Any:
    """What is pickled. Raises Refused where that is one object of somebody's class."""
    tree = unpickler.load()
    if isinstance(tree, Inert) and not isinstance(tree, NumpyArray):
        raise Refused(
            f"it holds a whole object ({unpickler.first or 'of a class'}), which only its own program can load: save "
            "its arrays there, torch.save(model.state_dict(), NEW)"
        )
    return tree


def _read_legacy(file: BinaryIO) -> Any:
    """PyTorch before 1.6: four pickles, the list of storages, and their contents, each behind its length."""
    first = _loaded(Unpickler(file, None))
    if first != LEGACY_MAGIC:
        held = f" of {', '.join(map(brief, list(first)[:4]))}" if isinstance(first, dict) and first else ""
        raise Refused(
            f"it is a pickle of Python, but no PyTorch checkpoint: it holds {brief(first)}{held}; save "
            "its arrays in its own program as a state dict (torch.save) or as safetensors"
        )
    version, system = Unpickler(file, None).load(), Unpickler(file, None).load()
    if version != 1001 or not isinstance(system, dict) or not system.get("little_endian"):
        raise Refused(f"it is of version {brief(version)} of the older form, or big-endian; refused")
    wanted: dict[str, Storage] = {}
    places: dict[str, tuple[int, int]] = {}

    def storage(dtype: np.dtype, key: str, numel: int) -> Storage:
        def load() -> bytes:
            start, length = places[key]
            file.seek(start)
            return file.read(length)

        return wanted.setdefault(key, Storage(dtype, numel, load))

    tree = _loaded(Unpickler(file, storage))
    for key in Unpickler(file, None).load():
        count = int.from_bytes(file.read(8), "little")
        if key not in wanted:
            raise Refused(f"it holds a storage {brief(key)} that nothing refers to; refused")
        length = count * wanted[key].dtype.itemsize
        places[key] = (file.tell(), length)
        file.seek(length, 1)
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


def _state_of(tree: Any, ema: bool) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
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
    extras: dict[str, Any] = {}
    if state is not tree:
        extras |= {k: v for k, v in tree.items() if isinstance(k, str) and isinstance(v, (int, float, str))}
        extras |= {"entry": entry, "entries": there}
        extras |= {"args": tree["args"].values} if isinstance(tree.get("args"), Settings) else {}
    return {name: tensor.array() for name, tensor in state.items()}, extras


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
        with open(path, "rb") as file:
            tree = _read_zip(file) if kind.name == "torch" else _read_legacy(file)
            return _state_of(tree, ema)
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        if isinstance(error, Refused) or kind.name == "safetensors":
            raise ValueError(f"{path}: {error}") from error
        raise ValueError(f"{path} is truncated, or not a PyTorch checkpoint: {first_line(error)}") from error
