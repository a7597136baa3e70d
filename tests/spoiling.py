"""What becomes of bytes, trees, tables, pictures, arrays and names where they are spoiled at random."""

import copy
import os
import random
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ODD_NAMES = (
    "名前",
    "e\u0301\u0327",
    "a b  c",
    "new\nline",
    "x" * 240,
    "-rf",
    "a'\"b",
    "%s{0}",
    "\udcff\udc80",
    "con.",
    "👁️",
)
ODD_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        3,
        1 << 31,
        -(1 << 63),
        10**30,
        10**400,
        0.5,
        -0.0,
        1e308,
        float("nan"),
        float("inf"),
    ),
    *("", " ", "1", "nan", "x" * 5000, "ä\u0301", "a\nb", "\ud800", "../../etc", "__class__", "/dev/zero"),
    *([], {}, [[]], [None], {"": None}, [1, 2, 3, 4], {"id": 1}, [[0.1] * 3] * 3),
)
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1")


def spoil_bytes(rng: random.Random, data: bytes) -> bytes:
    n = len(data)
    kind = rng.randrange(8)
    if kind == 0:
        return data[: rng.randrange(n + 1)]
    if kind == 1:
        start = rng.randrange(n + 1)
        return data[:start] + data[start + rng.randrange(1, 64) :]
    if kind == 2:
        start = rng.randrange(n + 1)
        return data[:start] + rng.randbytes(rng.randrange(1, 64)) + data[start:]
    if kind == 3:
        return rng.choice([b"", b"\0" * 512, b"<!DOCTYPE html><html>", b"version https://git-lfs.github.com/spec/v1\n"])
    spoiled = bytearray(data)
    span = n if rng.random() < 0.5 else min(n, 256)  # the head says what the rest is
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        if n:
            spoiled[rng.randrange(span)] = rng.randrange(256)
    return bytes(spoiled)


def spoil_tree(rng: random.Random, tree: Any) -> Any:
    """A copy of nested lists and mappings with some of their entries removed, renamed, doubled or of another kind."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        here = tree
        while True:
            if not isinstance(here, dict | list) or not here:
                break
            place = rng.choice(list(here)) if isinstance(here, dict) else rng.randrange(len(here))
            if isinstance(here[place], dict | list) and here[place] and rng.random() < 0.85:
                here = here[place]
                continue
            kind = rng.randrange(6)
            if kind == 0:
                del here[place]
            elif kind == 1 and isinstance(here, list):
                here.append(copy.deepcopy(here[place]))
            elif kind == 1:
                here[rng.choice(ODD_NAMES)] = here.pop(place)
            elif kind == 2:
                here[place] = str(here[place])
            elif kind == 3:
                here[place] = [here[place]]
            else:
                here[place] = copy.deepcopy(rng.choice(ODD_VALUES))
            break
    return tree if rng.random() < 0.97 else rng.choice(ODD_VALUES)


def spoil_text(rng: random.Random, text: str) -> str:
    lines = text.split("\n")
    for _ in range(rng.choice((1, 1, 2, 4))):
        i = rng.randrange(len(lines))
        fields = lines[i].split(",")
        place, kind = rng.randrange(len(fields)), rng.randrange(9)
        if kind == 0:
            del fields[place]
        elif kind == 1:
            fields[place] = str(rng.choice(ODD_VALUES))
        elif kind == 2:
            fields[place] = '"' + fields[place]
        elif kind == 3:
            fields.insert(place, rng.choice(ODD_NAMES))
        elif kind == 4:
            fields[place] = rng.choice(("nan", "-inf", "1e999", "\0", "0x10", "1,5", "True", "١"))
        lines[i] = ",".join(fields)
        if kind == 5:
            del lines[i]
            lines = lines or [""]
        elif kind == 6:
            lines.insert(i, rng.choice(("", "   ", "\t", "#", ";;;;", "," * 50, "x" * 200_000)))
        elif kind == 7:
            lines = [line.replace(",", rng.choice(";\t| ")) for line in lines]
        elif kind == 8:
            lines.append(lines[i])
    return rng.choice(("\n", "\n", "\r\n", "\r")).join(lines)


def encoded(rng: random.Random, text: str) -> bytes:
    return text.encode(rng.choice(ENCODINGS) if rng.random() < 0.3 else "utf-8", "replace")


def spoil_picture(rng: random.Random, path: Path) -> None:
    """A picture of another kind, size, compression or orientation."""
    mode = rng.choice(("L", "LA", "P", "RGBA", "I;16", "1", "CMYK", "RGB", "I", "F", "PA"))
    side = rng.choice(((1, 1), (3, 500), (40, 30), (64, 64)))
    values = np.random.default_rng(rng.randrange(1 << 32)).integers(0, 255, (*side, 3), np.uint8)
    image = Image.fromarray(values)
    image = Image.fromarray(values[..., 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    kinds = {"RGBA": "PNG", "CMYK": "JPEG", "F": "TIFF", "PA": "TIFF"}
    kind = kinds.get(mode) or rng.choice(("PNG", "PNG", "GIF", "TIFF", "WEBP" if mode == "RGB" else "PNG"))
    options: dict[str, Any] = {}
    if rng.random() < 0.4 and kind in ("PNG", "JPEG", "WEBP"):
        exif = Image.Exif()
        exif[0x0112] = rng.choice((0, 1, 3, 6, 8, 9, 77))
        options["exif"] = exif
    try:
        image.save(path, kind, **options)
    except (OSError, ValueError, KeyError):
        image.convert("RGB").save(path, "PNG")
    if kind == "PNG" and rng.random() < 0.2:  # another size than its pixels have, and a checksum that fits
        data = bytearray(path.read_bytes())
        data[16:24] = rng.choice((0, 1, 1 << 16, (1 << 31) - 1)).to_bytes(4) + rng.choice((0, 7, 1 << 20)).to_bytes(4)
        data[29:33] = zlib.crc32(data[12:29]).to_bytes(4)
        path.write_bytes(data)


def spoil_array(rng: random.Random, path: Path) -> None:
    shape = rng.choice(
        ((), (0,), (5,), (0, 4), (32, 48), (1, 32, 48), (32, 48, 1), (32, 48, 3), (2, 2, 2, 2), (1, 3, 32, 48))
    )
    kind = rng.choice(("f4", "f8", "f2", "u1", "i8", "c8", "?", "U3", "S2", "M8[s]", ">f4", "V8", "O"))
    values = np.zeros(shape, kind)
    if values.dtype.kind == "f" and values.size:
        values = np.random.default_rng(0).normal(size=shape).astype(kind)
        values.flat[0] = rng.choice((np.nan, np.inf, 0, 1e300 if kind == "f8" else 6e4))
    np.save(path, values, allow_pickle=True)
    if rng.random() < 0.3:
        data = path.read_bytes()
        change = rng.choice(((b"'shape': (", b"'shape': (9999999999, "), (b"False", b"True "), (b"descr", b"desc_")))
        path.write_bytes(data.replace(*change, 1))


def spoil_archive(rng: random.Random, path: Path) -> None:
    """A zip archive one of whose entries is spoiled, with checksums that fit to it."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice([*[name for name in entries if name.endswith(".pkl")] * 9, *entries])
    entries[name] = spoil_bytes(rng, entries[name])
    if rng.random() < 0.1:
        entries[name + rng.choice(("", "x", "/"))] = entries.pop(name)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def spoil_state(rng: random.Random, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays by name of which some have other names, shapes or types, or are not there."""
    state = dict(state)
    for _ in range(rng.choice((0, 1, 1, 3))):
        name, kind = rng.choice(sorted(state)), rng.randrange(6)
        array = state.pop(name)
        if kind == 0:
            state[rng.choice((*ODD_NAMES[:5], f"module.{name}", name.upper(), ""))] = array
        elif kind == 1:
            state[name] = array[..., None] if rng.random() < 0.5 else array.reshape(-1)[: rng.randrange(4)]
        elif kind == 2:
            state[name] = array.astype(rng.choice(("f8", "f2", "i8", "u1", "?")))
        elif kind == 3 and array.size:
            array = array.copy()
            array.flat[0] = rng.choice((np.nan, np.inf, 1e38))
            state[name] = array
        elif kind == 4:
            return {rng.choice(("module.", "_orig_mod.", "ema.")) + name: array for name, array in state.items()}
    return state


def spoil_names(rng: random.Random, folder: Path) -> None:
    """Names and kinds of entries of folders that none would choose."""
    inside = sorted(path for path in folder.rglob("*") if path.is_file())
    file, kind = rng.choice(inside), rng.randrange(9)
    odd = file.with_name(rng.choice(ODD_NAMES)[: 255 - len(file.suffix)] + file.suffix)
    if kind <= 1:
        file.rename(odd)
    elif kind == 2:
        odd.symlink_to(rng.choice((folder, file.parent, Path("nowhere"), odd, file, Path("/dev/zero"))))
    elif kind == 3:
        (file.parent / "self").symlink_to(file.parent.resolve())
        (file.parent / "up").symlink_to("..")
    elif kind == 4:
        data = file.read_bytes()
        file.unlink()
        rng.choice((file.mkdir, lambda: os.mkfifo(file), lambda: file.symlink_to(file.name), lambda: None))()
        odd.write_bytes(data)
    elif kind == 5:
        os.link(file, odd)
    elif kind == 6:
        shutil.copytree(file.parent, file.parent / rng.choice(ODD_NAMES[:5]), symlinks=True)
    elif kind == 7:
        file.rename(file.with_suffix(rng.choice((".JPG", ".png", ".txt", "", ".npy", ".json"))))
    else:
        file.write_bytes(b"")
