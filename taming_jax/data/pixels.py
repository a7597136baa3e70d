"""From a file to pixels: one way for photographs, maps and masks, with what differs by use in a function each.

A photograph (`decode`) is upright and in the channels that are asked for. Maps (`stored_values`) are as they are
stored: what is annotated belongs to the pixels as the image's file has them, and is turned upright together with it. A
mask (`read_mask`) is upright, and only what is bright in it or opaque counts.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from taming_jax.data import channels as channel
from taming_jax.data.kinds import PICTURES, START, first_bytes, kind_of
from taming_jax.data.opening import MAX_PIXELS, BrokenImage, WrongChannels, opened, read_array
from taming_jax.data.orientation import known, orientation_of, stored_again, upright
from taming_jax.data.profiles import changes
from taming_jax.data.tiff import stored_bands
from taming_jax.limits import check_regular

ANIMATED = "animations or files of several pages, of which the first is taken"
PROFILE = "pictures whose color profile cannot be used, so that their numbers count as sRGB"
_LOSSLESS = ("PNG", "TIFF", "BMP", "DIB", "GIF")
_LOSSY, _CONTRAST = ("JPEG", "MPO", "WEBP"), 64  # of 255, below which a mask's two values may be what is lost


class Photo(NamedTuple):
    """An upright image. It may have been decoded at a whole fraction of its size, which the other fields tell.

    parts: an RGB image where there are three channels, else one image for each, see `channels.to_images`.
    width, height: of the upright image in the file's pixels. stored: (width, height) as the file has them, before
    turning. orientation: the EXIF tag, 1 for none. remarks: what was done to it that people should know.
    """

    parts: tuple[Image.Image, ...]
    width: int
    height: int
    stored: tuple[int, int]
    orientation: int
    remarks: tuple[str, ...] = ()

    @property
    def rgb(self) -> Image.Image:
        return self.parts[0]


def decode(
    source: str | bytes, enough: int = 0, channels: int = 3, max_pixels: int = 0, color_profiles: bool = True
) -> Photo:
    """Decodes an image and puts it upright.

    source: a path (of any kind that `kinds` knows, whatever its name; or .npy with uint8 RGB), or the encoded bytes.
        Greyscale, palette, CMYK, 16 bit, transparency (put on white) and the EXIF orientation are handled; of an
        animation the first frame is taken.
    enough: a smaller side in pixels that suffices; a large JPEG is then decoded at 1/2, 1/4 or 1/8, which is faster.
        0: the full size.
    channels: other than three are those of `channels.fitted`; .npy (H, W, c) and .tif must have as many, and 16 bits
        and floats, which must lie in [-1, 1], are kept.
    max_pixels: of what is decoded; 0: MAX_PIXELS.
    color_profiles: whether what a profile in the file says of the colours is brought to sRGB. 16 bits of several
        channels become 8 by it.
    Raises BrokenImage, saying why, and ValueError for a file of other channels or numbers.
    """
    try:
        if isinstance(source, str) and is_array(source):
            return _photo(_of_array(source, channels), 1)
        if channels != 3 and (bands := _bands(source, channels, max_pixels or MAX_PIXELS)):
            return bands
        found = opened(
            source,
            lambda image, size: _read(image, size, channels, color_profiles),
            enough=enough,
            max_pixels=max_pixels,
        )
        pixels = found.pixels
        parts = channel.to_images(channel.fitted(pixels, channels)) if isinstance(pixels, np.ndarray) else (pixels,)
    except BrokenImage:
        raise
    except ValueError as error:
        what = f"the image {source!r}" if isinstance(source, str) else "an image"
        wanted = f"; expected the {channels} of config.data.channels" if isinstance(error, WrongChannels) else ""
        raise ValueError(f"{what}: {error}{wanted}") from error
    return _photo(parts, found.orientation, found.size, found.turned, found.remarks)


def is_array(path: str) -> bool:
    """Whether a file is read as .npy: it is called so, and is no picture."""
    return path.lower().endswith(".npy") and kind_of(first_bytes(path)) not in PICTURES


class _Read(NamedTuple):
    """What was decoded: pixels, the size in the file, the orientation, and whether Pillow has turned them already."""

    pixels: Image.Image | np.ndarray
    size: tuple[int, int]
    orientation: int
    turned: bool
    remarks: tuple[str, ...]


def _read(image: Image.Image, size: tuple[int, int], channels: int, color_profiles: bool) -> _Read:
    turned = image.format == "TIFF"  # Pillow turns it itself, and then its tag is gone
    profile = image.info.get("icc_profile") if color_profiles else None
    remarks = (ANIMATED,) if getattr(image, "is_animated", False) else ()
    deep = None
    if channels != 3 and not (profile and changes(profile)):
        deep = channel.sixteen_bits(image)  # to be read before Pillow decodes it for the tag
    if isinstance(image, PngImageFile):
        _scale_transparency(image)
    orientation = orientation_of(image)
    if turned and orientation >= 5:
        size = size[::-1]
    pixels: Image.Image | np.ndarray
    if channels == 3:
        pixels, problem = channel.rgb(image, profile)
    else:
        pixels, problem = (deep, "") if deep is not None else channel.of_picture(image, profile)
    return _Read(pixels, size, orientation, turned, remarks + ((PROFILE,) if problem else ()))


def _scale_transparency(image: PngImageFile) -> None:
    """The value that is transparent counts as the file has it; it is brought to how Pillow decodes the others."""
    value, kind = image.info.get("transparency"), str(image.tile[0].args) if image.tile else ""
    if isinstance(value, tuple) and kind == "RGB;16B":
        image.info["transparency"] = tuple(part >> 8 for part in value)
    elif isinstance(value, int) and kind in ("L;2", "L;4"):
        image.info["transparency"] = value * (85 if kind == "L;2" else 17)


def _photo(
    parts: Sequence[Image.Image],
    orientation: int,
    stored: tuple[int, int] | None = None,
    turned: bool = False,
    remarks: tuple[str, ...] = (),
) -> Photo:
    stored = stored or parts[0].size
    width, height = stored if orientation < 5 else stored[::-1]
    return Photo(
        tuple(part if turned else upright(part, orientation) for part in parts),
        width,
        height,
        stored,
        orientation,
        remarks,
    )


def _of_array(path: str, channels: int) -> tuple[Image.Image, ...]:
    if channels != 3:
        expected = f"uint8, uint16 or floats in [-1, 1], (H, W, {channels})"
        return channel.to_images(channel.of_array(read_array(path, expected), channels))
    expected = "uint8 (1, 3, H, W), (3, H, W) or (H, W, 3)"
    array = read_array(path, expected)
    if array.ndim == 4 and len(array) == 1:
        array = array[0]
    if array.ndim == 3 and array.shape[0] == 3 and array.shape[2] != 3:
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise BrokenImage(f"it holds {array.dtype} {array.shape}; expected {expected}")
    return (Image.fromarray(np.ascontiguousarray(array)),)


def _bands(source: str | bytes, channels: int, most: int) -> Photo | None:
    """A TIFF whose channels are stored as values; None for what is read as a picture."""
    try:
        if isinstance(source, str):
            check_regular(source)
            with open(source, "rb") as file:
                start = file.read(START)
                source = start + file.read() if kind_of(start) == "TIFF" else start
        found = stored_bands(source, channels, most) if kind_of(source[:START]) == "TIFF" else None
    except (BrokenImage, WrongChannels):
        raise
    except Exception as error:  # as Pillow's decoders
        raise BrokenImage(f"{type(error).__name__}: {error}") from error
    if not found:
        return None
    values = channel.of_array(found.values, channels)
    return _photo(channel.to_images(values), known(found.orientation))


def stored_values(path: str, max_pixels: int = 0) -> tuple[str, np.ndarray]:
    """(what kind of pixels a file has, array as they are stored); a palette's indices are not looked up, and grey of 1,
    2 or 4 bits is of the kind "L", with its values as they are stored. What loses some of them is of a kind that names
    its format. Raises BrokenImage."""

    def read(image: Image.Image, size: tuple[int, int]) -> tuple[str, np.ndarray]:
        if image.format not in _LOSSLESS:
            return f"{image.mode} ({image.format})", np.asarray(image)
        packing = str(image.tile[0].args) if image.tile and image.format == "PNG" else ""  # type: ignore
        turned = orientation_of(image) if image.format == "TIFF" else 1  # which Pillow undoes
        bits = {"1": 1, "L;2": 2, "L;4": 4}.get(packing) or (1 if image.mode == "1" else 0)
        if packing in ("RGB;16B", "RGBA;16B", "LA;16B"):
            return f"{image.mode};16", np.asarray(image)
        if bits:  # comes out scaled to 0..255, which would be other labels
            values = np.asarray(image.convert("L")) // np.uint8(255 // ((1 << bits) - 1))
            return "L", np.asarray(stored_again(Image.fromarray(values), turned))
        image.load()
        mode = "I;16" if image.mode.startswith("I;16") else image.mode
        values = np.asarray(stored_again(image, turned))
        return mode, values.astype(values.dtype.newbyteorder("="))

    try:
        return opened(path, read, max_pixels=max_pixels)
    except BrokenImage as error:
        raise BrokenImage(f"its map {path!r}: {error}") from error


def read_mask(path: str) -> np.ndarray:
    """bool (H, W), upright: what of a mask stays.

    Of a picture whose alpha varies what is more opaque than the middle between its least and most, of others what is
    brighter than the middle between the darkest and the brightest, whatever these are. Raises ValueError where they are
    alike.
    """

    def read(image: Image.Image, size: tuple[int, int]) -> tuple[np.ndarray, int, bool]:
        orientation = 1 if image.format == "TIFF" else orientation_of(image)  # Pillow turns it already
        return _brightness(image), orientation, image.format in _LOSSY

    values, orientation, lossy = opened(path, read)
    low, high = float(values.min()), float(values.max())
    if not high - low > (_CONTRAST if lossy else 0):
        raise ValueError(
            f"all of it is alike (from {low:g} to {high:g}), so everything stays or nothing; give one with two values"
        )
    stays = Image.fromarray((values > (low + high) / 2).astype(np.uint8))
    return np.asarray(upright(stays, orientation)).astype(bool)


def _brightness(image: Image.Image) -> np.ndarray:
    if channel.has_alpha(image):
        image = image.convert("RGBA")
        alpha = np.asarray(image)[..., 3]
        if alpha.min() < alpha.max():
            return alpha
        image = image.convert("RGB")
    return np.asarray(image if image.mode[0] in "IF" else image.convert("L")).astype(np.float64)
