"""Colour profiles (ICC): what a picture's numbers mean is brought to sRGB, in which everything here is meant.

LittleCMS, which Pillow carries, converts. A profile that changes no colour by more than rounding is sRGB under whatever
name, and leaves the pixels as they are, to the bit. One that cannot be used leaves them, too.
"""

import io
import math
import struct
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms

MOST_BYTES = 4 << 20  # of a profile; those of printers have up to 3 MB
TOO_LARGE = b"too large"  # stands for a profile that was not even read
ROUNDING = 2  # of 255: by as much may sRGB's own profiles differ
_CLASSES = (b"scnr", b"mntr", b"prtr", b"spac")
_MODES = {b"RGB ": "RGB", b"CMYK": "CMYK", b"GRAY": "L"}

Converted = tuple[Image.Image, str]


class Profile(NamedTuple):
    """A profile that was looked at. name: as it calls itself. mode: of the pictures that it is for.

    convert: to sRGB; None where nothing has to be done: it is sRGB, or why is said by `broken`.
    """

    name: str
    mode: str = ""
    convert: ImageCms.ImageCmsTransform | None = None
    broken: str = ""


@lru_cache(maxsize=16)  # most sets of pictures have a few profiles
def profile_of(data: bytes) -> Profile:
    """What the bytes of a profile are. Never raises."""
    if len(data) > MOST_BYTES or data == TOO_LARGE:
        return Profile("", broken="too large")
    mode = _MODES.get(data[16:20], "")
    if len(data) < 132 or data[36:40] != b"acsp" or data[12:16] not in _CLASSES or not mode:
        return Profile("", broken="no profile of a picture")
    tags = [struct.unpack(">4sI", data[i : i + 8]) for i in range(132, min(132 + 12 * 200, len(data) - 11), 12)]
    if any(name[:3] == b"D2B" for name, _ in tags):  # chains of any length, which could take any time
        return Profile("", broken="of a kind that is not read")
    if any(_entries(data[place:]) > len(data) for _, place in tags):
        return Profile("", broken="damaged (a table that it does not hold)")
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        name = ImageCms.getProfileDescription(profile).strip() or "without a name"
        convert = ImageCms.buildTransform(profile, _srgb(), mode, "RGB")
        colours = _colours(mode)
        found = _apply(convert, colours)
    except Exception as error:  # of damaged ones
        return Profile("", broken=f"damaged ({type(error).__name__})")
    name = "".join(letter for letter in name if letter.isprintable())[:60]
    same = mode != "CMYK" and np.abs(np.asarray(found, np.int16) - np.asarray(colours.convert("RGB"))).max() <= ROUNDING
    return Profile(name, mode, None if same else convert)


def _entries(tag: bytes) -> int:
    """How many numbers the table of colours of a tag claims to have, for which room would be made before it is read."""
    kind, start = tag[:4], tag[8:11]
    if kind in (b"mft1", b"mft2") and len(start) == 3:
        return start[2] ** start[0] * start[1]
    if kind in (b"mAB ", b"mBA ") and len(tag) >= 28 and (place := int.from_bytes(tag[24:28], "big")):
        return math.prod(tag[place : place + 16][: start[0]]) * start[1]
    return 0


def changes(data: bytes) -> bool:
    """Whether pixels with this profile become others."""
    return profile_of(data).convert is not None


def to_srgb(image: Image.Image, data: bytes | None) -> Converted:
    """The image, decoded and of the mode RGB, CMYK or L, in sRGB: of the mode RGB, or L as it was; and "", or why its
    profile cannot be used."""
    if not data:
        return image, ""
    profile = profile_of(data)
    if profile.broken:
        return image, profile.broken
    if profile.convert is None:
        return image, ""
    try:
        if image.mode == "L" and profile.mode != "CMYK":
            return image.point(grey_curve(data).round().astype(int).tolist()), ""
        if image.mode == profile.mode:
            return _apply(profile.convert, image), ""
    except Exception as error:
        return image, f"damaged ({type(error).__name__})"
    return image, f"for {profile.mode}, and the picture is {image.mode}"


def grey_curve(data: bytes) -> np.ndarray:
    """float (256,): what the profile makes of the grey values; themselves where it leaves them."""
    values = np.arange(256.0)
    profile = profile_of(data)
    if profile.convert is None or profile.mode == "CMYK":
        return values
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None]).convert(profile.mode)
    return np.asarray(_apply(profile.convert, ramp), np.float64)[0].mean(axis=-1)


def _apply(convert: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    found = convert.apply(image)
    found.info.pop("icc_profile", None)
    return found


@lru_cache(maxsize=1)
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _colours(mode: str) -> Image.Image:
    """Colours from all over what there is."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    steps = np.linspace(0, 255, 9 if mode == "RGB" else 3).astype(np.uint8)
    grid = np.stack(np.meshgrid(*[steps] * len(mode)), axis=-1).reshape(1, -1, len(mode))
    return Image.frombytes(mode, (grid.shape[1], 1), grid.tobytes())
