"""How a picture is turned: what its file says of it, and turning it upright and back."""

from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

_UPRIGHT = {  # the EXIF orientation tag, and what puts such an image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def orientation_of(image: Image.Image) -> int:
    """The EXIF tag that says how a camera has stored it turned, 1 for not. XMP is not asked: browsers do not turn what
    it alone says to be turned."""
    try:
        if isinstance(image, TiffImageFile):
            orientation = image.tag_v2.get(0x0112, 1)
        elif image.format == "JXL":  # which turns itself, whatever its EXIF says
            orientation = 1
        else:
            if isinstance(image, PngImageFile):
                image.load()  # it may stand behind the picture, or in a text
            data = image.info.get("exif")
            if data is None and (text := image.info.get("Raw profile type exif")):
                data = bytes.fromhex("".join(text.split("\n")[3:]))
            if not data:
                return 1
            exif = Image.Exif()
            exif.load(data)
            orientation = exif.get(0x0112, 1)
    except Exception:  # damaged metadata is no reason to lose the picture
        return 1
    return known(orientation)


def known(orientation: Any) -> int:
    """The tag where it is one that turns, 1 for all others."""
    return orientation if orientation in _UPRIGHT else 1


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """An image or a map as it is stored in a file, turned as the file's EXIF tag says."""
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def stored_again(image: Image.Image, orientation: int) -> Image.Image:
    """The reverse of `upright`: an upright map turned to the pixels as the photo's file has them."""
    turns = {**_UPRIGHT, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}  # the others undo themselves
    return image.transpose(turns[orientation]) if orientation in turns else image
