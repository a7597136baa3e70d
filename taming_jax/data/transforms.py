"""From an image to an RGB square, and its label map, depth map, boxes and key points by the same geometry.

A `Window` says which square of the upright image is cut out and whether it is mirrored; everything that belongs to an
image goes through the same one.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

from taming_jax.data.channels import joined
from taming_jax.data.pixels import Photo, decode, upright

# by the EXIF orientation: whether x and y change places, and which of them is then counted from the other end
_UPRIGHT_POINTS = {2: (0, "x"), 3: (0, "xy"), 4: (0, "y"), 5: (1, ""), 6: (1, "x"), 7: (1, "xy"), 8: (1, "y")}


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


def cut_photo(photo: Photo, window: Window, size: int) -> np.ndarray:
    """The window of a photo: uint8 (size, size, 3), or float32 (size, size, c) in [-1, 1] of other channels."""
    return joined([cut(part, window, size, Image.Resampling.BICUBIC) for part in photo.parts])


def cut_map(values: np.ndarray, photo: Photo, window: Window, size: int) -> np.ndarray:
    """The window of a map (H, W) that lies on the pixels of the photo's file; (size, size) of the same type.

    Label maps (uint8) are resized by nearest neighbour: a mean of two labels is a third label. Depth (float32) is
    resized bilinearly, smoothed where it shrinks: a mean of two depths is a depth, and every pixel of the map counts.
    """
    image = upright(Image.fromarray(values), photo.orientation)
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
    return cut_photo(photo, window, size)
