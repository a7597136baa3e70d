"""The channels that a first stage reads: RGB of every picture, or the 1, 2, 4 or more of `config.data.channels`.

What has 16 bits or floats stays as exact as it is. The files of values (.npy, .tif) have as many channels as are asked
for; pictures, which have colours, are made to: 1 is grey, 2 grey and alpha, 4 colour and alpha.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from taming_jax.data.kinds import ENDINGS as PICTURES
from taming_jax.data.opening import BrokenImage, WrongChannels
from taming_jax.data.profiles import changes, grey_curve, to_srgb

VALUES = (".npy", ".tif", ".tiff")
SLACK = 1e-3  # beyond [-1, 1], by which rounding may take floats

ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R 601, as Pillow's


def suffixes(channels: int) -> tuple[str, ...]:
    """Of the files that images of so many channels are read from; three are read from pictures alone."""
    return PICTURES if channels == 3 else (*PICTURES, *VALUES) if channels in (1, 2, 4) else VALUES


def has_alpha(image: Image.Image) -> bool:
    return image.mode in ALPHA or "transparency" in image.info


def rgb(image: Image.Image, profile: bytes | None = None) -> tuple[Image.Image, str]:
    """Any picture in 8 bits a colour, transparent become white; and why its colour profile could not be used, or "".

    profile: in which its colours are meant, to be brought to sRGB. Raises BrokenImage for floats beyond [-1, 1].
    """
    image, problem = _in_srgb(_eight_bits(image), profile)
    if has_alpha(image):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB"), problem


def of_picture(image: Image.Image, profile: bytes | None = None) -> tuple[np.ndarray, str]:
    """Its own channels, uint8 or uint16 (H, W, n): grey, grey and alpha, colour, or colour and alpha; and as `rgb`."""
    if image.mode[0] in "IF":
        values = _deep(image)
        clear = _clear(image, values)
        problem = ""
        if profile and changes(profile):
            curve = grey_curve(profile)
            values = np.round(np.interp(values / 257, np.arange(256), curve) * 257).astype(np.uint16)
        parts = [values] if clear is None else [values, np.where(clear, 0, 65535).astype(np.uint16)]
        return np.stack(parts, axis=-1), problem
    image, problem = _in_srgb(image, profile)
    if has_alpha(image):
        return np.asarray(image.convert("RGBA")), problem
    plain = image.convert("L" if image.mode in ("1", "L") else "RGB")
    return np.atleast_3d(np.asarray(plain)), problem


def _in_srgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, str]:
    """A picture of 8 bits in sRGB, as it is where it is that already."""
    if not profile:
        return image, ""
    if not changes(profile):
        return image, to_srgb(image, profile)[1]
    alpha = None
    grey = image.mode in ("1", "L", "LA", "La")
    if has_alpha(image):
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.getchannel("R") if grey else image.convert("RGB")
    elif image.mode != "CMYK":
        image = image.convert("L" if grey else "RGB")
    image, problem = to_srgb(image, profile)
    if alpha is not None:
        image = image.convert("RGB")
        image.putalpha(alpha)
    return image, problem


def _deep(image: Image.Image) -> np.ndarray:
    """uint16 (H, W) of grey with more than 8 bits; floats are those in [-1, 1]. Raises BrokenImage for others."""
    values = np.asarray(image)
    if values.dtype.kind == "f":
        try:
            values = of_array(values, 1)[..., 0].astype(np.float64).clip(-1, 1)
        except ValueError as error:
            raise BrokenImage(str(error)) from error
        return np.round((values + 1) * 32767.5).astype(np.uint16)
    return np.clip(values, 0, 65535).astype(np.uint16)


def _clear(image: Image.Image, values: np.ndarray) -> np.ndarray | None:
    """bool (H, W), where deep grey has the one value that is transparent; None where there is no such value."""
    value = image.info.get("transparency")
    return values == value if isinstance(value, int) else None


def _eight_bits(image: Image.Image) -> Image.Image:
    """Deep grey in 8 bits, which Pillow's own conversion would clip instead of scale; others as they are."""
    if image.mode[0] not in "IF":
        return image
    values = _deep(image)
    clear = _clear(image, values)
    grey = Image.fromarray((values // 257).astype(np.uint8))
    if clear is not None:
        grey.putalpha(Image.fromarray(np.where(clear, 0, 255).astype(np.uint8)))
    return grey


# Of 16 bits Pillow keeps the higher byte; but it can be told to take the lower, or all bytes of a pixel as colours.
_HALVES = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L", "LA;16B": "RGBA"}


def sixteen_bits(image: Image.Image) -> np.ndarray | None:
    """The channels of a PNG with 16 bits in each and more than one, not yet decoded; None for others."""
    if not isinstance(image, PngImageFile) or not image.tile or "transparency" in image.info:
        return None
    kind, file = str(image.tile[0].args), image.fp
    if kind not in _HALVES or file is None:
        return None
    high = None if kind == "LA;16B" else np.asarray(image).astype(np.uint16)
    file.seek(0)
    again = PngImageFile(file)
    again.tile = [again.tile[0]._replace(args=_HALVES[kind])]
    low = np.asarray(again)
    return low.view(">u2").astype(np.uint16) if high is None else high * 256 + low


def fitted(values: np.ndarray, channels: int) -> np.ndarray:
    """A picture's own channels, uint8 or uint16 (H, W, n), as 1, 2 or 4. Raises ValueError for other numbers."""
    if channels not in (1, 2, 4):
        raise ValueError(
            f"it is a picture, which cannot have the {channels} channels of config.data.channels; expected a .npy or "
            ".tif file of as many"
        )
    top = np.iinfo(values.dtype).max
    n = values.shape[-1]
    colour, alpha = (values[..., :-1], values[..., -1:]) if n in (2, 4) else (values, None)
    if channels < 3 and colour.shape[-1] == 3:
        colour = np.round(colour @ LUMA)[..., None].astype(values.dtype)
    if channels == 1:
        if alpha is not None:  # on white
            share = alpha / top
            colour = np.round(colour * share + top * (1 - share)).astype(values.dtype)
        return colour
    colour = np.broadcast_to(colour, (*colour.shape[:2], channels - 1))
    return np.concatenate([colour, np.full_like(values[..., :1], top) if alpha is None else alpha], axis=-1)


def of_array(values: np.ndarray, channels: int) -> np.ndarray:
    """The array of a file, as (H, W, channels): uint8, uint16 or floats. Raises WrongChannels for another number of
    channels, BrokenImage for what is no picture, and ValueError for numbers of other kinds."""
    if values.ndim == 4 and len(values) == 1:
        values = values[0]
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3:
        raise BrokenImage(f"it holds {values.dtype} {values.shape}; expected (H, W, {channels})")
    if values.shape[-1] != channels and values.shape[0] == channels:
        values = values.transpose(1, 2, 0)
    if values.shape[-1] != channels:
        raise WrongChannels(values.shape[-1])
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise BrokenImage(f"it has {np.count_nonzero(~np.isfinite(values))} values that are not finite")
        low, high = values.min(), values.max()
        if low < -1 - SLACK or high > 1 + SLACK:
            raise ValueError(f"it holds floats from {low:g} to {high:g}; scale them to [-1, 1]")
    elif values.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"it holds {values.dtype}; expected uint8, uint16, or floats in [-1, 1]")
    return values


def to_images(values: np.ndarray) -> tuple[Image.Image, ...]:
    """uint8, uint16 or floats (H, W, c) as c images that can be resized: of 8 bits, else of floats in [-1, 1]."""
    if values.dtype == np.uint16:
        values = values / 32767.5 - 1
    if values.dtype != np.uint8:
        values = values.astype(np.float32)
    return tuple(Image.fromarray(np.ascontiguousarray(values[..., i])) for i in range(values.shape[-1]))


def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Parts of `to_images`, as arrays (H, W), together: float32 (H, W, c) in [-1, 1]. Of RGB, which is one part
    (H, W, 3), uint8."""
    if parts[0].ndim == 3:
        return parts[0]
    return np.stack([to_float(part) for part in parts], axis=-1)


def to_float(images: np.ndarray) -> np.ndarray:
    """uint8 to float32 in [-1, 1]; floats are in it already, up to what resizing adds, which is cut off."""
    return images.astype(np.float32) / 127.5 - 1 if images.dtype == np.uint8 else images.clip(-1, 1)
