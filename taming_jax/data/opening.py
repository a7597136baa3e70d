"""Opening the files of others: pictures by Pillow and arrays by numpy, with limits of our own, and what is wrong said.

Pillow decodes, because it reads what TensorFlow's decoders do not.
"""

import io
import struct
import zlib
from collections.abc import Callable
from typing import BinaryIO, TypeVar

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    PsdImagePlugin,
    QoiImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from taming_jax.data import kinds
from taming_jax.data.profiles import TOO_LARGE
from taming_jax.limits import ANY, check_regular

MAX_PIXELS = 100_000_000  # an image that decodes to more is taken for a decompression bomb
MAX_TEXT = 1 << 20  # bytes of the text or colour profile of a PNG that Pillow reads
XMP = ("xmp", "XML:com.adobe.xmp")  # by Pillow's names
READERS: dict[str, Callable[[BinaryIO], Image.Image]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "JPEG 2000": Jpeg2KImagePlugin.Jpeg2KImageFile,
    "PNM": PpmImagePlugin.PpmImageFile,
    "QOI": QoiImagePlugin.QoiImageFile,
    "PSD": PsdImagePlugin.PsdImageFile,
}
RARE = ("TGA", "PCX", "ICO", "SGI", "SUN", "DDS", "ICNS")  # which no first bytes tell for sure

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
        if isinstance(source, str):
            check_regular(source, ANY)
        with open(source, "rb") if isinstance(source, str) else io.BytesIO(source) as file:
            try:
                return read(*_begin(file, enough, most))
            except BrokenImage:
                raise
            except ValueError:
                smaller, whole_profile = _without_texts(file)
                if not smaller:
                    raise
            image, size = _begin(io.BytesIO(smaller), enough, most)
            if not whole_profile:
                image.info["icc_profile"] = TOO_LARGE
            return read(image, size)
    except BrokenImage:
        raise
    except UnidentifiedImageError as error:
        raise BrokenImage("it begins like no picture that is known") from error
    except Exception as error:  # damaged files make Pillow's decoders raise nearly anything
        text = str(error).split(" <_io.")[0]  # the name of the file is told by who asks for it
        raise BrokenImage(f"{type(error).__name__}: {text}") from error


def read_array(path: str, expected: str) -> np.ndarray:
    """The numbers of a .npy file. expected: what they should be, for the error. Raises BrokenImage."""
    try:
        check_regular(path, ANY)
        array = np.load(path, mmap_mode="r", allow_pickle=False)  # so that a false size in the header takes no memory
    except Exception as error:
        raise BrokenImage(f"{type(error).__name__}: {error}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf" or not array.size:
        what = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "several arrays"
        raise BrokenImage(f"it holds {what}; expected {expected}")
    return np.array(array, array.dtype.newbyteorder("="))  # whatever the machine that wrote it


def _begin(file: BinaryIO, enough: int, most: int) -> tuple[Image.Image, tuple[int, int]]:
    image = _open(file)
    for name in XMP:  # which turns nothing in browsers, but what Pillow decodes
        image.info.pop(name, None)
    size = image.size
    if enough:
        image.draft(None, (enough, enough))  # type: ignore[arg-type]
    check_pixels(*image.size, most)
    return image, size


def _open(file: BinaryIO) -> Image.Image:
    """As `Image.open`, which however refuses a large picture before it can be decoded at a reduced scale, and asks the
    reader of every format, of which some start programs. Raises BrokenImage for what is no picture, saying what it is.
    """
    start = file.read(kinds.START)
    file.seek(0)
    kind = kinds.kind_of(start)
    if kind in READERS:
        image = READERS[kind](file)
        if isinstance(image, TiffImagePlugin.TiffImageFile) and _is_raw(image):
            raise BrokenImage(kinds.in_words("camera RAW", start))
        return image
    if kind in kinds.EXTRA:
        if missing := kinds.prepare(kind):
            raise BrokenImage(missing)
        reader, _ = Image.OPEN["HEIF" if kind == "HEIC" else "JXL"]
        return reader(file, "")
    if kind:
        raise BrokenImage(kinds.in_words(kind, start))
    return Image.open(file, formats=RARE)


def _is_raw(image: TiffImagePlugin.TiffImageFile) -> bool:
    """Whether a TIFF is a camera's, which begins with a preview: by the version of DNG, or the mark of a preview with
    pictures below it."""
    return 50706 in image.tag_v2 or (image.tag_v2.get(254) == 1 and 330 in image.tag_v2)


def _without_texts(file: BinaryIO) -> tuple[bytes, bool]:
    """A PNG without its large texts and colour profile, of which Pillow refuses all of the picture, and whether it has
    still the profile that it had; empty for other files. What may say how it is turned stays where it is small."""
    file.seek(0)
    data = file.read()
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return b"", True
    kept, place, whole = [data[:8]], 8, True
    while place + 12 <= len(data):
        length, kind = struct.unpack(">I4s", data[place : place + 8])
        chunk = data[place : place + 12 + length]
        needed = kind == b"iCCP" or chunk[8:].startswith(b"Raw profile type exif\0")
        if kind not in (b"iCCP", b"tEXt", b"zTXt", b"iTXt") or (needed and _small(kind, chunk[8:-4])):
            kept.append(chunk)
        elif kind == b"iCCP":
            whole = False
        place += 12 + length
    return b"".join(kept), whole


def _small(kind: bytes, body: bytes) -> bool:
    """Whether a text takes at most MAX_TEXT, unpacked."""
    _, _, rest = body.partition(b"\0")
    packed = kind in (b"zTXt", b"iCCP") or (kind == b"iTXt" and rest[:1] == b"\1")
    if not packed:
        return len(body) <= MAX_TEXT
    start = 1 if kind != b"iTXt" else 2 + len(b"\0".join(rest[2:].split(b"\0", 2)[:2])) + 1
    try:
        return len(zlib.decompressobj().decompress(rest[start:], MAX_TEXT + 1)) <= MAX_TEXT
    except zlib.error:
        return False
