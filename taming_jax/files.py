"""Files that are whole or not there, and npz files."""

import contextlib
import math
import os
import secrets
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np
from etils import epath

from taming_jax.file_kinds import kind_of
from taming_jax.limits import ANY, check_regular, check_unpacked, told
from taming_jax.names import fitting, written

PathLike = str | os.PathLike[str]


def unfinished(path: PathLike, mark: str = "tmp") -> epath.Path:
    """Where a file or folder stands while it is made: beside its place, hidden, with the same ending."""
    path = epath.Path(path)
    return path.with_name(fitting(f".{path.stem}", f".{mark}{path.suffix}"))


@contextlib.contextmanager
def whole(path: PathLike, mark: str = "tmp") -> Iterator[epath.Path]:
    """The place to write a file or a folder to, on disk or in a bucket; it gets its name at the end of the block.

    So what `path` held stays until there is something better, and a block that fails leaves nothing. What a killed
    process has left is written over by the next. mark: of this process, where several may write the same file.
    Raises OSError that names `path`, as a full disk alone does not.
    """
    attempt = unfinished(path, mark)
    try:
        _remove(attempt)
        yield attempt
        attempt.replace(path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(attempt)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        _remove(attempt)


def write_whole(path: PathLike, content: bytes | str) -> None:
    """Write a file as `whole` does, a text as UTF-8 whatever names are in it."""
    with whole(path) as attempt:
        attempt.write_bytes(written(content).encode() if isinstance(content, str) else content)


def check_writable(folder: PathLike) -> None:
    """Raise OSError where no file can be written below a folder, which need not be there. Nothing is left there."""
    place = epath.Path(folder)
    while "://" not in str(place) and not place.exists() and place != place.parent:  # in a bucket no folder need exist
        place = place.parent
    try:
        if not place.exists() or place.is_dir():
            attempt = place / f".writable.{secrets.token_hex(4)}.tmp"
            attempt.write_bytes(b"?")  # a full disk takes an empty file
            attempt.unlink()
            return
        reason = f"{str(place)!r} is a file"
    except Exception as error:  # each kind of bucket has its own
        reason = " ".join(str(error).split())
    raise OSError(f"{str(folder)!r} cannot be written ({reason}); name another folder, or make it writable.")


def write_npz(path: PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name, in a folder that is made where it is not there."""
    epath.Path(path).parent.mkdir(parents=True, exist_ok=True)
    by_name: dict[str, Any] = dict(arrays)
    with whole(path) as attempt, attempt.open("wb") as file:
        np.savez(file, **by_name)


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file by name, running no code from it. Raises ValueError where it is something else."""
    words = ""
    if Path(path).is_file() and (kind := kind_of(path)).name not in ("npz", "truncated"):
        words = str(kind)
        if not kind.advice:  # it is a checkpoint of something
            words += ", of which python -m taming_jax.convert makes one"
    try:
        if words:
            raise ValueError(words)
        check_regular(path, ANY)
        with zipfile.ZipFile(path) as archive:
            entries = entries_of(archive)
            check_unpacked(os.path.getsize(path), sum(entry.file_size for entry in entries.values()), "it")
            return {name.removesuffix(".npy"): read_npy(archive, entry) for name, entry in entries.items()}
    except MemoryError as error:
        raise MemoryError(f"reading {path}: {error}") from error
    except Exception as error:  # zipfile, zlib, pickle and numpy each have their own for a truncated or foreign file
        raise ValueError(f"{path} is truncated, or not a file of arrays alone: {first_line(error)}") from error


def npy_header(file: IO[bytes], size: int, whole: bool = True) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, whether it is in Fortran's order, type) of numpy's array that begins here and has `size` bytes with its
    header; whole: no others behind it. Raises ValueError where it says of itself that it has more, or holds objects."""
    start = file.tell()
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    if any(n < 0 for n in shape) or not dtype.itemsize or len(shape) > 32:
        raise ValueError(f"it has the shape {told(shape)}, which cannot be")
    expected, found = math.prod(shape) * dtype.itemsize, size - (file.tell() - start)
    if expected != found if whole else expected > found:
        raise ValueError(f"{dtype} {told(shape)} needs {told(expected)} bytes, and there are {found}")
    return shape, fortran, dtype


def read_npy(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    """An array of an npz file. Raises ValueError where its entry has not the bytes that it says it has."""
    check_unpacked(entry.compress_size, entry.file_size, f"its entry {told(entry.filename)}")
    with archive.open(entry) as file:
        return read_array(file, entry.file_size, whole=True)


def read_array(file: IO[bytes], size: int, whole: bool = False) -> np.ndarray:
    """An array as `npy_header` has it, which begins here."""
    shape, fortran, dtype = npy_header(file, size, whole)
    n = math.prod(shape)
    data = bytearray(n * dtype.itemsize)  # which can be written to
    for place in range(0, len(data), PIECE):
        wanted = min(PIECE, len(data) - place)
        part = file.read(wanted)
        if len(part) < wanted:
            raise ValueError("it ends too early")
        data[place : place + len(part)] = part
    flat = np.frombuffer(data, dtype, n) if data else np.zeros(n, dtype)
    return flat.reshape(shape, order="F" if fortran else "C")


def entries_of(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The entries of a zip archive by their names. Raises ValueError where two have one name: programs differ in which
    of them they take."""
    entries = {entry.filename: entry for entry in archive.infolist()}
    if len(entries) != len(archive.infolist()):
        twice, _ = Counter(entry.filename for entry in archive.infolist()).most_common(1)[0]
        raise ValueError(f"it is a zip archive with two entries called {twice[:100]!r}; refused")
    return entries


PIECE = 1 << 20  # bytes that are read at once
LONGEST = 1000  # letters of the name of an array
# What safetensors calls the types of arrays.
SAFETENSORS: dict[str, np.dtype] = {
    **{f"F{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
    **{f"{kind[0].upper()}{bits}": np.dtype(f"{kind}{bits}") for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
    **{"BOOL": np.dtype(bool), "C64": np.dtype("complex64"), "BF16": np.dtype(ml_dtypes.bfloat16)},
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
}


def safetensors_arrays(content: bytes) -> dict[str, np.ndarray]:
    """The arrays of a file of safetensors by name, of the stored types. Raises ValueError, which does not name the
    file, where it is damaged or holds types that numpy cannot have."""
    from safetensors import SafetensorError, deserialize

    try:
        found = deserialize(content)
    except SafetensorError as error:
        raise ValueError(f"it is truncated, or not a safetensors file: {first_line(error)}") from error
    arrays = {}
    for name, described in found:
        if len(name) > LONGEST:
            raise ValueError(f"an array is called {told(name, 40)}; names have at most {LONGEST} letters")
        if described["dtype"] not in SAFETENSORS:
            raise ValueError(
                f"its array {name[:60]!r} is of type {described['dtype']}, which is not read: save it as F16"
            )
        arrays[name] = np.frombuffer(described["data"], SAFETENSORS[described["dtype"]]).reshape(described["shape"])
    return arrays


def printable(text: str) -> str:
    """A text, such as a path, with what would break or color a line, or cannot be written, as Python escapes it."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def first_line(error: Exception) -> str:
    """What an error says, cut to be part of another one's message."""
    return str(error).split("\n")[0][:200] or type(error).__name__


def _remove(path: epath.Path) -> None:
    if path.is_dir():
        path.rmtree()
    elif path.exists():
        path.unlink()
