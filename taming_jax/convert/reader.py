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

from taming_jax.convert.unpickler import Refused, Settings, Storage, Tensor, Unpickler
from taming_jax.files import first_line

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
ENTRIES = ("state_dict", "model", "module", "ema")  # where programs keep a state dict; the first that is there counts


def _read_zip(file: BinaryIO) -> Any:
    if not zipfile.is_zipfile(file):
        raise Refused("it is truncated: it begins as a zip archive and has no end")
    archive = zipfile.ZipFile(file)
    sizes = {entry.filename: entry for entry in archive.infolist()}
    found = [name for name in sizes if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(found) != 1:
        raise Refused("it is a zip archive, but no PyTorch checkpoint: it must hold data.pkl once")
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

    return Unpickler(BytesIO(read(found[0])), storage).load()


def _read_legacy(file: BinaryIO) -> Any:
    """PyTorch before 1.6: four pickles, the list of storages, and their contents, each behind its length."""
    if Unpickler(file, None).load() != LEGACY_MAGIC:
        raise Refused("it is no PyTorch checkpoint: neither a zip archive nor of the older form")
    version, system = Unpickler(file, None).load(), Unpickler(file, None).load()
    if version != 1001 or not isinstance(system, dict) or not system.get("little_endian"):
        raise Refused(f"it is of version {version!r} of the older form, or big-endian; refused")
    wanted: dict[str, Storage] = {}
    places: dict[str, tuple[int, int]] = {}

    def storage(dtype: np.dtype, key: str, numel: int) -> Storage:
        def load() -> bytes:
            start, length = places[key]
            file.seek(start)
            return file.read(length)

        return wanted.setdefault(key, Storage(dtype, numel, load))

    tree = Unpickler(file, storage).load()
    for key in Unpickler(file, None).load():
        count = int.from_bytes(file.read(8), "little")
        if key not in wanted:
            raise Refused(f"it holds a storage {str(key)[:40]!r} that nothing refers to; refused")
        length = count * wanted[key].dtype.itemsize
        places[key] = (file.tell(), length)
        file.seek(length, 1)
    return tree


# How files begin that people take for checkpoints, and what they are.
FOREIGN: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "it is a pointer of git LFS, not the file itself: fetch it with `git lfs pull`"),
    (b"<", "it is a page of HTML or XML, such as a site shows in place of a download: get the file itself"),
    (b"{", "it is a text of JSON, and no checkpoint"),
    (b"\x1f\x8b", "it is compressed with gzip: unpack it first"),
    (b"7z\xbc\xaf", "it is an archive of 7-Zip: unpack it first"),
    (b"Rar!", "it is a RAR archive: unpack it first"),
    (b"\x89HDF", "it is an HDF5 file, as Keras writes it, and no checkpoint of PyTorch"),
)


def _refuse_foreign(start: bytes) -> None:
    """Say what a file is that is none of PyTorch's, by how it begins."""
    if not start:
        raise Refused("it is empty: its download has not begun, or was broken off")
    for begins, what in FOREIGN:
        if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(begins):
            raise Refused(what)


def _is_safetensors(start: bytes) -> bool:
    """Eight bytes of the header's length, and the header, which is JSON."""
    return len(start) > 8 and start[8:9] == b"{" and 2 <= int.from_bytes(start[:8], "little") < 100 << 20


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise Refused(f"it is truncated, or not a safetensors file: {first_line(error)}") from error


def _has_arrays(state: Any) -> bool:
    return isinstance(state, dict) and any(isinstance(value, Tensor) for value in state.values())


def _state_of(tree: Any, entries: tuple[str, ...]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    if not isinstance(tree, dict):
        raise Refused(f"it holds no state dict, but {type(tree).__name__}")
    there = [name for name in ENTRIES if _has_arrays(tree.get(name))]
    entry = next((name for name in entries if name in there), "")
    state = tree.get(entry or "state_dict", tree)
    if not _has_arrays(state):
        raise Refused("it holds no arrays by name, neither as `state_dict` nor as the whole file")
    foreign = [str(k)[:60] for k, v in state.items() if not isinstance(k, str) or not isinstance(v, Tensor)]
    if foreign:
        raise Refused(f"its state dict holds entries that are no arrays: {', '.join(foreign[:5])}")
    extras: dict[str, Any] = {}
    if state is not tree:
        extras |= {k: v for k, v in tree.items() if isinstance(k, str) and isinstance(v, (int, float, str))}
        extras |= {"entry": entry, "entries": there}
        extras |= {"args": tree["args"].values} if isinstance(tree.get("args"), Settings) else {}
    return {name: tensor.array() for name, tensor in state.items()}, extras


def read_state(path: str | Path, entries: tuple[str, ...] = ENTRIES) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The state dict of a checkpoint as read-only arrays by name, and its other plain entries (epoch, global_step).

    The state dict is the first of `entries` that is there, or the whole file where there is none, or a safetensors
    file. Among the plain entries are `entry`, the one that was taken, `entries`, all that hold arrays, and `args`, the
    plain values of an argparse.Namespace. Other arrays, such as an optimizer's, are not read. Raises ValueError where
    the file is missing, truncated, foreign, or names something that a checkpoint has no need of.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name the checkpoint's file in it")
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        with open(path, "rb") as file:
            start = file.read(64)
            file.seek(0)
            if _is_safetensors(start):
                return _read_safetensors(path), {}
            _refuse_foreign(start)
            tree = _read_zip(file) if start.startswith(b"PK\x03\x04") else _read_legacy(file)
            return _state_of(tree, entries)
    except Refused as error:
        raise ValueError(f"{path}: {error}") from error
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise ValueError(f"{path} is truncated, or not a PyTorch checkpoint: {first_line(error)}") from error
