"""Opening the files of others: pictures by Pillow and arrays by numpy, with limits of our own, and what is wrong said.

Pillow decodes, because it reads what TensorFlow's decoders do not.
"""

import io
import struct
import zlib
from collections.abc import Callable
from typing import BinaryIO, TypeVar

import numpy as np
from PIL import Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

MAX_PIXELS = 100_000_000  # an image that decodes to more is taken for a decompression bomb
MAX_TEXT = 1 << 20  # bytes of the text or colour profile of a PNG that Pillow reads

T = TypeVar("T")


class BrokenImage(ValueError):
    """A file that cannot be used: corrupt, truncated, no image at all, or far too large."""


class WrongChannels(ValueError):
    """A file of values with another number of channels than the settings say: how many."""

    def __init__(self, found: int) -> None:
        super().__init__(f"it has {found} channel(s)")


def check_pixels(width: int, height: int, most: int) -> None:
    """Raises BrokenImage for more than may be decoded."""
    if width * height > most:
        raise BrokenImage(
            f"{width} x {height} pixels, more than the {most} that are allowed; where it is no decompression bomb, "
            "allow more by config.data.max_pixels"
        )


def opened(
    source: str | bytes,
    read: Callable[[Image.Image, tuple[int, int]], T],
    *,
    enough: int = 0,
    max_pixels: int = 0,
) -> T:
    """What `read` makes of a picture that has been opened, but not decoded, and of its (width, height) in the file.

    source: a path, or the encoded bytes. enough: a smaller side in pixels that suffices; a large JPEG is then decoded
    at 1/2, 1/4 or 1/8. max_pixels: of what is decoded; 0: MAX_PIXELS. Raises BrokenImage, saying why; so does
    every error of `read`.
    """
    most = max_pixels or MAX_PIXELS
    try:
        with open(source, "rb") if isinstance(source, str) else io.BytesIO(source) as file:
            try:
                return read(*_begin(file, enough, most))
            except BrokenImage:
                raise
            except ValueError:
                smaller = _without_texts(file)
                if not smaller:
                    raise
            return read(*_begin(io.BytesIO(smaller), enough, most))
    except BrokenImage:
        raise
    except Exception as error:  # damaged files make Pillow's decoders raise nearly anything
        text = str(error).split(" <_io.")[0]  # the name of the file is told by who asks for it
        raise BrokenImage(f"{type(error).__name__}: {text}") from error


def read_array(path: str, expected: str) -> np.ndarray:
    """The numbers of a .npy file. expected: what they should be, for the error. Raises BrokenImage."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)  # so that a false size in the header takes no memory
    except Exception as error:
        raise BrokenImage(f"{type(error).__name__}: {error}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf" or not array.size:
        what = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "several arrays"
        raise BrokenImage(f"it holds {what}; expected {expected}")
    return np.array(array)


def _begin(file: BinaryIO, enough: int, most: int) -> tuple[Image.Image, tuple[int, int]]:
    image = _open(file)
    size = image.size
    if enough:
        image.draft(None, (enough, enough))  # type: ignore[arg-type]
    check_pixels(*image.size, most)
    return image, size


def _open(file: BinaryIO) -> Image.Image:
    """As `Image.open`, which however refuses a large picture before it can be decoded at a reduced scale."""
    start = file.read(16)
    file.seek(0)
    if start.startswith(b"\xff\xd8\xff"):
        return JpegImagePlugin.JpegImageFile(file)
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImagePlugin.PngImageFile(file)
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return WebPImagePlugin.WebPImageFile(file)
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return TiffImagePlugin.TiffImageFile(file)
    return Image.open(file)


def _without_texts(file: BinaryIO) -> bytes:
    """A PNG without its texts and colour profile, of which Pillow refuses large ones with all of the picture; empty for
    other files. Those that may say how it is turned stay where they are small."""
    file.seek(0)
    data = file.read()
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return b""
    kept, place = [data[:8]], 8
    while place + 12 <= len(data):
        length, kind = struct.unpack(">I4s", data[place : place + 8])
        chunk = data[place : place + 12 + length]
        turned = chunk[8:].startswith((b"XML:com.adobe.xmp\0", b"Raw profile type exif\0"))
        if kind not in (b"iCCP", b"tEXt", b"zTXt", b"iTXt") or (turned and _small(kind, chunk[8:-4])):
            kept.append(chunk)
        place += 12 + length
    return b"".join(kept)


def _small(kind: bytes, body: bytes) -> bool:
    """Whether a text takes at most MAX_TEXT, unpacked."""
    _, _, rest = body.partition(b"\0")
    packed = kind == b"zTXt" or (kind == b"iTXt" and rest[:1] == b"\1")
    if not packed:
        return len(body) <= MAX_TEXT
    start = 1 if kind == b"zTXt" else 2 + len(b"\0".join(rest[2:].split(b"\0", 2)[:2])) + 1
    try:
        return len(zlib.decompressobj().decompress(rest[start:], MAX_TEXT + 1)) <= MAX_TEXT
    except zlib.error:
        return False
