"""Pickles that would like to fill the memory, to take for ever, or to crash, and what reads them."""

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pickles import array, items, name, number, state, storage, text, twice

from taming_jax.convert.reader import read_state

MIB = 1 << 20
FAR = 1 << 62


def in_zip(path: Path, pickled: bytes, *storages: tuple[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for key, data in storages:
            archive.writestr(f"archive/data/{key}", data)
    return path


def pickled(*parts: bytes) -> Callable[[Path], Any]:
    return lambda folder: read_state(in_zip(folder / "a.ckpt", b"\x80\x02" + b"".join(parts) + b".", ("0", bytes(64))))


def plain(data: bytes) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        (folder / "a.ckpt").write_bytes(data)
        return read_state(folder / "a.ckpt")

    return read


def many_arrays(folder: Path) -> int:
    """Of one number each, of two storages in turn: read anew for each they would take 16 GiB."""
    data = bytes(8 * MIB)
    arrays = {f"w{i}": array(storage(str(i % 2), 2 * MIB), 0, (1,), (1,)) for i in range(2000)}
    return len(read_state(in_zip(folder / "a.ckpt", state(arrays), ("0", data), ("1", data)))[0])


def many_copies(folder: Path) -> Any:
    arrays = {f"w{i}": array(storage("0", MIB), 0, (MIB,), (1,)) for i in range(2000)}
    return read_state(in_zip(folder / "a.ckpt", state(arrays), ("0", bytes(4 * MIB))))


def repeated(folder: Path) -> Any:
    found = {"w": array(storage(), 0, (1 << 33, 8), (0, 0))}
    return read_state(in_zip(folder / "a.ckpt", state(found), ("0", bytes(64))))


def two_entries(folder: Path) -> Any:
    return read_state(in_zip(folder / "a.ckpt", state({"w": array(storage())}), ("0", bytes(64)), ("0", b"\1" * 64)))


FUNCTION = name("_codecs", "encode")
ENCODE = FUNCTION + b"h\x01\x85R0"
PICKLED: dict[str, Callable[[Path], Any]] = {
    "key of tuples": pickled(twice(60), b"}h\x3cNs"),
    "key of tuples made by calls": pickled(twice(9), b"}", name("builtins", "tuple"), b"h\x09\x85RNs"),
    "set of tuples": pickled(twice(60), name("builtins", "set"), b"]h\x3ca\x85R"),
    "pairs of tuples": pickled(twice(60), name("collections", "OrderedDict"), b"]](h\x3cNea\x85R"),
    "deep key": pickled(b"})" + b"\x85" * 200_000 + b"Ns"),
    "persistent id": pickled(twice(60), b"Q"),
    "kind of a storage": pickled(twice(60, b"l"), storage(kind=b"h\x3c")),
    "place to remember": pickled(b"Nr\xff\xff\xff\xff"),
    "long frame": plain(b"\x80\x04\x95" + struct.pack("<Q", FAR) + b"N."),
    "long bytes": plain(b"\x80\x04\x8e" + struct.pack("<Q", FAR) + b"x."),
    "work again and again": pickled(text("x" * 100_000), b"q\x01", ENCODE * 20_000),
    "many opcodes": pickled(b"]" * 4_000_000),
    "enormous numbers": pickled(state({"w": array(storage(), 0, (1 << 9000,) * 30, (1 << 9000,) * 30)})[2:-1]),
    "defaults of a function": pickled(FUNCTION, b"N}", text("__defaults__"), items(number(9)), b"s\x86b"),
    "many arrays of a storage": many_arrays,
    "copies of a storage": many_copies,
    "stride 0": repeated,
    "two entries of one name": two_entries,
}
