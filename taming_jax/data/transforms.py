"""From an encoded image to an RGB square, and its label map, depth map, boxes and key points by the same geometry.

Pillow decodes, because it reads what TensorFlow's decoders do not. A `Window` says which square of the upright image is
cut out and whether it is mirrored; everything that belongs to an image goes through the same one.

What is annotated belongs to the pixels as they are stored in the image's file. So where a camera has stored an image
turned (EXIF), its maps and boxes are turned upright together with it.
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
# the same for points: whether x and y change places, and which of them is then counted from the other end
_UPRIGHT_POINTS = {2: (0, "x"), 3: (0, "xy"), 4: (0, "y"), 5: (1, ""), 6: (1, "x"), 7: (1, "xy"), 8: (1, "y")}


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


class Window(NamedTuple):
    """A square of an upright image, in pixels of the file, and whether it is mirrored."""

    width: int
    height: int
    left: float
    top: float
    side: float
    flip: bool

    def crop(self, size: int) -> np.ndarray:
        """int32 (4,): top, left, full_height, full_width in pixels of the cut-out square of side `size`, unmirrored."""
        scale = size / self.side
        height, width = (max(size, round(side * scale)) for side in (self.height, self.width))
        top, left = min(round(self.top * scale), height - size), min(round(self.left * scale), width - size)
        return np.array([top, left, height, width], np.int32)


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
    turned = rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb
    width, height = stored if orientation < 5 else stored[::-1]
    return Photo(turned, width, height, stored, orientation)


def stored_again(image: Image.Image, orientation: int) -> Image.Image:
    """The reverse of putting upright: an upright map turned to the pixels as the photo's file has them."""
    turns = {**_UPRIGHT, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}  # the others undo themselves
    return image.transpose(turns[orientation]) if orientation in turns else image


def choose_window(
    photo: Photo,
    size: int,
    rng: np.random.Generator | None,
    *,
    resize: int = 0,
    random_crop: bool = True,
    random_scale: bool = False,
    flip: bool = True,
) -> Window:
    """Where the square of `size` pixels is cut out.

    The image's smaller side counts as `resize` pixels (0: as `size`, so that the square is as large as the smaller
    side). rng draws the place, the flip and, with random_scale, the square's side between `size` pixels of the file and
    the smaller side, each where asked for. Without rng it is the central square, unflipped.
    """
    short = min(photo.width, photo.height)
    side = short * size / max(resize, size)
    x, y = rng.random(2) if rng is not None and random_crop else (0.5, 0.5)
    flipped = bool(rng is not None and flip and rng.random() < 0.5)
    if rng is not None and random_scale:
        side = min(size, side) + rng.random() * (side - min(size, side))
    return Window(photo.width, photo.height, x * (photo.width - side), y * (photo.height - side), side, flipped)


def cut(image: Image.Image, window: Window, size: int, resample: Image.Resampling) -> np.ndarray:
    """The window of an upright image or map, (size, size, ...). The image may be a whole fraction of the file's."""
    scale = max(1, round(window.width / image.width))
    left, top, side = window.left / scale, window.top / scale, window.side / scale
    box = (left, top, min(left + side, image.width), min(top + side, image.height))
    square = image.resize((size, size), resample, box=box)
    if window.flip:
        square = square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(square)


def cut_map(values: np.ndarray, photo: Photo, window: Window, size: int) -> np.ndarray:
    """The window of a map (H, W) that lies on the pixels of the photo's file; (size, size) of the same type.

    Label maps (uint8) are resized by nearest neighbour: a mean of two labels is a third label. Depth (float32) is
    resized bilinearly, smoothed where it shrinks: a mean of two depths is a depth, and every pixel of the map counts.
    """
    image = Image.fromarray(values)
    if photo.orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[photo.orientation])
    return cut(image, window, size, Image.Resampling.NEAREST if values.dtype == np.uint8 else Image.Resampling.BILINEAR)


def upright_points(points: np.ndarray, photo: Photo) -> np.ndarray:
    """Points (..., 2), x and y as shares of the photo as its file has it, to shares of the upright photo."""
    swap, reverse = _UPRIGHT_POINTS.get(photo.orientation, (0, ""))
    x, y = (points[..., i] for i in ((1, 0) if swap else (0, 1)))
    x, y = 1 - x if "x" in reverse else x, 1 - y if "y" in reverse else y
    return np.stack([x, y], axis=-1).astype(np.float32)


def cut_points(points: np.ndarray, window: Window) -> np.ndarray:
    """Points (..., 2) as shares of the upright photo to shares of the window, mirrored with it; none is dropped."""
    x = (points[..., 0] * window.width - window.left) / window.side
    y = (points[..., 1] * window.height - window.top) / window.side
    return np.stack([1 - x if window.flip else x, y], axis=-1).astype(np.float32)


def load_image(
    source: str | bytes,
    size: int,
    rng: np.random.Generator | None = None,
    *,
    random_crop: bool = True,
    flip: bool = True,
) -> np.ndarray:
    """Decodes an image, scales its smaller side to `size` (antialiased, bicubic) and cuts out a square.

    source: as in `decode`. rng: draws the place of the square and the horizontal flip, each where asked for. Without it
        the central square is cut out, unflipped.
    Returns uint8 (size, size, 3). Raises BrokenImage, saying why.
    """
    photo = decode(source, enough=2 * size)
    window = choose_window(photo, size, rng, random_crop=random_crop, flip=flip)
    return cut(photo.rgb, window, size, Image.Resampling.BICUBIC)


def to_float(images: np.ndarray) -> np.ndarray:
    """uint8 to float32 in [-1, 1]."""
    return images.astype(np.float32) / 127.5 - 1
