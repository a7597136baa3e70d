"""The values of a TIFF with any number of channels, of 8 or 16 bits or float, as they are stored.

Pillow knows colours, not bands. But the bytes of an image of c bands side by side are those of a grey image c times as
wide; as such they are read, by directories that are put behind the file's own data.
"""

import io
import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from taming_jax.data.opening import BrokenImage, WrongChannels, check_pixels

WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, STRIPS, ORIENTATION, BANDS = 256, 257, 258, 259, 262, 273, 274, 277
STRIP_BYTES, PLANES, PREDICTOR, TILE_WIDTH, TILES, TILE_BYTES, KIND = 279, 284, 317, 322, 324, 325, 339
COPIED = (WIDTH, LENGTH, COMPRESSION, 266, 278, TILE_WIDTH, 323)  # 266, 278, 323: order of bits, rows a strip and tile
JPEG, PREDICTED = (6, 7), (5, 8, 32946)  # compressions


class Bands(NamedTuple):
    """uint8, uint16 or float32 (H, W, c) as stored, and the EXIF orientation that the file names."""

    values: np.ndarray
    orientation: int


def stored_bands(data: bytes, channels: int, max_pixels: int) -> Bands | None:
    """The first page of a TIFF; None for what is a picture: palette, JPEG's colours, black and white. Raises
    WrongChannels for another number of channels, BrokenImage for other kinds and for more than max_pixels, and nearly
    anything for damaged files."""
    tags = ImageFileDirectory_v2(data[: 16 if data[2] == 43 or data[3] == 43 else 8])
    file = io.BytesIO(data)
    file.seek(tags.next)
    tags.load(file)
    n, bits = int(tags.get(BANDS, 1)), set(tags.get(BITS, (1,)))
    if tags.get(PHOTOMETRIC) not in (0, 1, 2, 5) or tags.get(COMPRESSION) in JPEG or bits == {1}:
        return None
    if n != channels:
        raise WrongChannels(n)
    check_pixels(tags[WIDTH], tags[LENGTH], max_pixels)
    kinds = set(np.atleast_1d(tags.get(KIND, 1)).tolist())  # 1 whole numbers, 3 floats
    if len(bits) > 1 or len(kinds) > 1 or (kind := (*bits, *kinds)) not in ((8, 1), (16, 1), (32, 3)):
        raise BrokenImage(
            f"its channels have {sorted(bits)} bits of kind {sorted(kinds)}; expected 8, 16, or 32 (float)"
        )
    predictor = tags.get(PREDICTOR) if tags.get(COMPRESSION) in PREDICTED else None
    if n > 1 and predictor == 3:
        raise BrokenImage("its floats are stored with a predictor, which is not read; write it without, or as .npy")
    apart = n > 1 and tags.get(PLANES) == 2  # one band after the other
    names = (TILES, TILE_BYTES) if TILES in tags else (STRIPS, STRIP_BYTES)
    places = [list(tags[name]) for name in names]
    parts, wide = [], 1 if apart else n
    for band in range(n if apart else 1):
        each = len(places[0]) // n if apart else len(places[0])
        page = {name: [tags[name]] for name in COPIED if name in tags}
        page |= {WIDTH: [tags[WIDTH] * wide], BITS: [kind[0]], BANDS: [1], KIND: [kind[1]], PLANES: [1]}
        page[PHOTOMETRIC] = [tags[PHOTOMETRIC] if n == 1 else 1]
        if TILE_WIDTH in tags:
            page[TILE_WIDTH] = [tags[TILE_WIDTH] * wide]
        if wide == 1 and predictor:
            page[PREDICTOR] = [predictor]
        for name, values in zip(names, places, strict=True):
            page[name] = values[band * each : (band + 1) * each]
        found = _read(data, page, "<" if tags.prefix == b"II" else ">")
        if wide > 1 and predictor == 2:
            _add_up(found, wide, int(tags.get(TILE_WIDTH, tags[WIDTH])))
        parts.append(found.reshape(len(found), -1, wide))
    return Bands(np.concatenate(parts, axis=-1), tags.get(ORIENTATION, 1))


def _read(data: bytes, page: Mapping[int, Sequence[int]], order: str) -> np.ndarray:
    """(H, W) of a grey image whose directory is put behind the data, and its place into the head of the file."""
    data += b"\0" * (len(data) % 2)
    lists = len(data) + 2 + 12 * len(page) + 4  # where what is longer than one number lies
    entries, behind = [], b""
    for name, values in sorted(page.items()):
        packed = struct.pack(f"{order}{len(values)}I", *values)
        if len(values) > 1:
            packed, behind = struct.pack(f"{order}I", lists + len(behind)), behind + packed
        entries.append(struct.pack(f"{order}HHI", name, 4, len(values)) + packed)
    head = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, len(data))
    directory = struct.pack(f"{order}H", len(page)) + b"".join(entries) + b"\0" * 4 + behind
    with TiffImageFile(io.BytesIO(head + data[8:] + directory)) as image:
        values = np.asarray(image)
    return np.array(values, values.dtype.newbyteorder("="))


def _add_up(values: np.ndarray, n: int, tile: int) -> None:
    """Undoes the predictor in place: each pixel of a row of a tile is stored as the difference to the one before."""
    pixels = values.reshape(len(values), -1, n)
    for left in range(0, pixels.shape[1], tile):
        part = pixels[:, left : left + tile]
        part[...] = np.cumsum(part, axis=1, dtype=values.dtype)
