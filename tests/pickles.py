"""Pickles that no program writes, put together from opcodes: each describes an array, between things that cost much."""

import pickle
import random
import struct
from collections.abc import Callable

NUMBERS = (0, 1, 2, 4, 16, 17, 255, 1 << 16, 1 << 28, (1 << 31) - 1, 1 << 40, (1 << 63) - 1, 1 << 64, 1 << 5000, -1)
NAMES = (
    ("collections", "OrderedDict"), ("builtins", "set"), ("builtins", "frozenset"), ("builtins", "tuple"),
    ("builtins", "list"), ("builtins", "dict"), ("_codecs", "encode"), ("torch", "Size"), ("numpy", "dtype"),
    ("numpy.core.multiarray", "scalar"), ("torch._utils", "_rebuild_parameter"), ("argparse", "Namespace"),
    ("pathlib", "PosixPath"), ("os", "system"), ("builtins", "eval"), ("builtins", "getattr"),
    ("some.package", "Thing"),
)  # fmt: skip


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    if 0 <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data if len(data) < 256 else b"\x8b" + struct.pack("<i", len(data)) + data


def name(module: str, word: str) -> bytes:
    return f"c{module}\n{word}\n".encode()


def items(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def storage(key: str = "0", numel: int = 16, kind: bytes = name("torch", "FloatStorage")) -> bytes:
    return items(text("storage"), kind, text(key), text("cpu"), number(numel)) + b"Q"


def array(of: bytes, offset: int = 0, shape: tuple = (4,), strides: tuple = (1,)) -> bytes:
    sizes = [items(*map(number, numbers)) for numbers in (shape, strides)]
    more = b"\x89" + name("collections", "OrderedDict") + b")R"
    return name("torch._utils", "_rebuild_tensor_v2") + items(of, number(offset), *sizes, more) + b"R"


def twice(depth: int, kind: bytes = b"t", first: int = 0) -> bytes:
    """Something that holds twice something that holds twice something, and so on."""
    found = text("lol") + b"q" + bytes([first])
    for k in range(first, first + depth):
        found += b"(h" + bytes([k, ord("h"), k]) + kind + b"q" + bytes([k + 1])
    return found


def state(arrays: dict[str, bytes], before: bytes = b"") -> bytes:
    return b"\x80\x02" + before + b"}(" + b"".join(text(key) + value for key, value in arrays.items()) + b"u."


def costly(rng: random.Random) -> bytes:
    """Opcodes that leave one value on the stack."""
    kind, depth = rng.randrange(12), rng.choice((3, 30, 60))
    if kind == 0:
        return b"N" + b"r" + struct.pack("<I", rng.choice((5, 1000, 1 << 28, (1 << 32) - 1)))
    if kind == 1:
        return twice(depth, rng.choice((b"t", b"l", b"t")))
    if kind == 2:
        return twice(depth) + b"}h" + bytes([depth]) + b"Ns"
    if kind == 3:
        return twice(depth) + b"Q"
    if kind == 4:
        return b"}" + b")" + b"\x85" * rng.choice((3, 70, 100_000)) + b"Ns"
    if kind == 5:
        return rng.choice((b"\x8e", b"\x8d", b"\x95")) + struct.pack("<Q", rng.choice((3, 1 << 33, 1 << 62))) + b"abc"
    if kind == 6:
        return name(*rng.choice(NAMES)) + items(costly(rng) if rng.random() < 0.5 else text("x")) + b"R"
    if kind == 7:
        return name(*rng.choice(NAMES)) + b"N}" + text("__defaults__") + items(number(9)) + b"s\x86b"
    if kind == 8:
        return text("x" * 2000) + b"q\xf0" + (name("_codecs", "encode") + b"h\xf0\x85R0") * rng.choice((1, 5000)) + b"N"
    if kind == 9:
        return b"(" + costly(rng) + costly(rng) + rng.choice((b"t", b"l", b"d"))
    if kind == 10:
        return name("numpy.core.multiarray", "scalar") + items(
            name("numpy", "dtype") + items(text("x" * rng.choice((2, 9999)))) + b"R", text("abc")
        ) + b"R"  # fmt: skip
    return number(rng.choice(NUMBERS))


def shapes(rng: random.Random, odd: Callable[[int], int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    axes = rng.choice((1, 1, 2))
    return (odd(4),) * axes, (odd(1),) * axes


def program(rng: random.Random) -> bytes:
    """A pickle of arrays by name, before and between which something else may stand."""
    found = {}
    n = rng.choice((1, 2, 50))
    for i in range(n):
        odd = lambda usual: usual if rng.random() > 0.1 / n else rng.choice(NUMBERS)
        kind = name("torch", "FloatStorage") if rng.random() > 0.1 / n else costly(rng)
        of = storage(rng.choice("01") if rng.random() > 0.1 / n else "x" * 600, odd(16), kind)
        found[f"w{i}"] = array(of, odd(0), *shapes(rng, odd))
    if rng.random() < 0.2:
        found["odd"] = costly(rng)
    before = costly(rng) + b"0" if rng.random() < 0.6 else b""
    return state(found, before)
