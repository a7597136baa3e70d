"""From a file to pixels: images of every kind, upright and in RGB, and the plain values that maps are stored as.

Pillow decodes, because it reads what TensorFlow's decoders do not. What is annotated belongs to the pixels as they are
stored in the image's file. So where a camera has stored an image turned (EXIF), its maps and boxes are turned upright
together with it.
"""

import io
from typing import NamedTuple

import numpy as np
from PIL import Image

MAX_PIXELS = 100_000_000  # an image that decodes to more is taken for a decompression bomb

_UPRIGHT = {  # the EXIF orientation tag, and what puts such an image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BrokenImage(ValueError):
    """A file that cannot be used: corrupt, truncated, no image at all, or far too large."""


class Photo(NamedTuple):
    """An upright RGB image. It may have been decoded at a whole fraction of its size, which the other fields tell.

    width, height: of the upright image in the file's pixels. stored: (width, height) as the file has them, before
    turning. orientation: the EXIF tag, 1 for none.
    """

    rgb: Image.Image
    width: int
    height: int
    stored: tuple[int, int]
    orientation: int


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # damaged metadata is no reason to lose the picture
        return 1
    return orientation if orientation in _UPRIGHT else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bit greyscale, which Pillow's own conversion would clip instead of scale
        image = Image.fromarray((np.clip(np.asarray(image), 0, 65535) // 257).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:  # transparent becomes white
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _from_array(path: str) -> Image.Image:
    """The image of a .npy file: uint8 (1, 3, H, W), (3, H, W) or (H, W, 3)."""
    array = np.load(path, allow_pickle=False)
    if array.ndim == 4 and len(array) == 1:
        array = array[0]
    if array.ndim == 3 and array.shape[0] == 3 and array.shape[2] != 3:
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise BrokenImage(f"it holds {array.dtype} {array.shape}; expected uint8 (1, 3, H, W), (3, H, W) or (H, W, 3)")
    return Image.fromarray(np.ascontiguousarray(array))


def decode(source: str | bytes, enough: int = 0) -> Photo:
    """Decodes an image and puts it upright.

    source: a path (JPEG, PNG, WebP, or .npy with uint8 RGB), or the encoded bytes. Greyscale, palette, CMYK, 16 bit,
        transparency (put on white) and the EXIF orientation are handled; of an animation the first frame is taken.
    enough: a smaller side in pixels that suffices; a large JPEG is then decoded at 1/2, 1/4 or 1/8, which is faster.
        0: the full size.
    Raises BrokenImage, saying why.
    """
    try:
        if isinstance(source, str) and source.endswith(".npy"):
            rgb = _from_array(source)
            return Photo(rgb, *rgb.size, rgb.size, 1)
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            stored = image.size
            if enough:
                image.draft(None, (enough, enough))
            if image.size[0] * image.size[1] > MAX_PIXELS:
                width, height = image.size
                raise BrokenImage(f"{width} x {height} pixels, more than the {MAX_PIXELS} that are allowed")
            orientation = _orientation(image)
            rgb = _to_rgb(image)
    except BrokenImage:
        raise
    except Exception as error:  # damaged files make Pillow's decoders raise nearly anything
        raise BrokenImage(f"{type(error).__name__}: {error}") from error
    width, height = stored if orientation < 5 else stored[::-1]
    return Photo(upright(rgb, orientation), width, height, stored, orientation)


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """An image or a map as it is stored in a file, turned as the file's EXIF tag says."""
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def stored_again(image: Image.Image, orientation: int) -> Image.Image:
    """The reverse of `upright`: an upright map turned to the pixels as the photo's file has them."""
    turns = {**_UPRIGHT, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}  # the others undo themselves
    return image.transpose(turns[orientation]) if orientation in turns else image


def stored_values(path: str) -> tuple[str, np.ndarray]:
    """(what kind of pixels a PNG has, array); a palette's indices are not looked up. Raises BrokenImage."""
    try:
        with Image.open(path) as image:
            if image.size[0] * image.size[1] > MAX_PIXELS:
                raise BrokenImage(f"its map {path!r} has more than {MAX_PIXELS} pixels")
            kind = image.mode if image.format == "PNG" else f"{image.mode} ({image.format})"
            # grey values of less than 8 bits come out scaled to 0..255, which would be other labels
            if kind == "L" and image.tile and image.tile[0][3] != "L":
                kind = f"{image.tile[0][3]} bits"
            return kind, np.asarray(image)
    except BrokenImage:
        raise
    except Exception as error:  # as for images
        raise BrokenImage(f"its map {path!r}: {type(error).__name__}: {error}") from error
