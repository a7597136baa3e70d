"""From an image to an RGB rectangle, and its label map, depth map, boxes and key points by the same geometry.

A `Window` says which part of the upright image is cut out and whether it is mirrored; everything that belongs to an
image goes through the same one.
"""

from fractions import Fraction
from typing import NamedTuple

import numpy as np
from PIL import Image

from taming_jax.data.channels import joined
from taming_jax.data.orientation import upright
from taming_jax.data.pixels import Photo, decode

# by the EXIF orientation: whether x and y change places, and which of them is then counted from the other end
_UPRIGHT_POINTS = {2: (0, "x"), 3: (0, "xy"), 4: (0, "y"), 5: (1, ""), 6: (1, "x"), 7: (1, "xy"), 8: (1, "y")}


class Window(NamedTuple):
    """A rectangle in an upright image (width, height), in pixels of the file, and whether it is mirrored."""

    width: int
    height: int
    left: float
    top: float
    across: float
    down: float
    flip: bool

    def crop(self, sides: tuple[int, int]) -> np.ndarray:
        """int32 (4,): top, left, full_height, full_width in pixels of what is cut out as `sides`, unmirrored."""
        scales = sides[0] / self.down, sides[1] / self.across
        whole = [max(side, round(full * scale)) for side, full, scale in zip(sides, (self.height, self.width), scales)]
        starts = (round(start * scale) for start, scale in zip((self.top, self.left), scales))
        starts = (min(start, full - side) for start, full, side in zip(starts, whole, sides))
        return np.array([*starts, *whole], np.int32)


def choose_window(
    photo: Photo,
    sides: tuple[int, int],
    rng: np.random.Generator | None,
    *,
    resize: int = 0,
    random_crop: bool = True,
    random_scale: bool = False,
    flip: bool = True,
) -> Window:
    """Where an image of `sides`, (height, width) in pixels, is cut out.

    It is the largest window of that shape that fits into the photo, or with `resize` a smaller one, so that the photo's
    smaller side counts as that many pixels. rng draws the place, the flip and, with random_scale, the window between
    `sides` in pixels of the file and that one, each where asked for. Without rng it is in the middle, unflipped.
    """
    height, width = sides
    pixel = min(Fraction(photo.width, width), Fraction(photo.height, height))  # exact: sides that fit do not round
    if resize:
        pixel = min(pixel, Fraction(min(photo.width, photo.height), resize))
    across, down = float(width * pixel), float(height * pixel)
    x, y = rng.random(2) if rng is not None and random_crop else (0.5, 0.5)
    flipped = bool(rng is not None and flip and rng.random() < 0.5)
    if rng is not None and random_scale:
        share = rng.random()
        across, down = (
            min(least, most) + share * (most - min(least, most)) for least, most in ((width, across), (height, down))
        )
    left, top = x * (photo.width - across), y * (photo.height - down)
    return Window(photo.width, photo.height, left, top, across, down, flipped)


def cut(image: Image.Image, window: Window, sides: tuple[int, int], resample: Image.Resampling) -> np.ndarray:
    """The window of an upright image or map, (*sides, ...). The image may be a whole fraction of the file's."""
    scale = max(1, round(window.width / image.width))
    left, top, across, down = (value / scale for value in window[2:6])
    box = (left, top, min(left + across, image.width), min(top + down, image.height))
    part = image.resize(sides[::-1], resample, box=box)
    if window.flip:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(part)


def cut_photo(photo: Photo, window: Window, sides: tuple[int, int]) -> np.ndarray:
    """The window of a photo: uint8 (*sides, 3), or float32 (*sides, c) in [-1, 1] of other channels."""
    return joined([cut(part, window, sides, Image.Resampling.BICUBIC) for part in photo.parts])


def cut_map(values: np.ndarray, photo: Photo, window: Window, sides: tuple[int, int]) -> np.ndarray:
    """The window of a map (H, W) that lies on the pixels of the photo's file; as `sides`, of the same type.

    Label maps (uint8) are resized by nearest neighbour: a mean of two labels is a third label. Depth (float32) is
    resized bilinearly, smoothed where it shrinks: a mean of two depths is a depth, and every pixel of the map counts.
    """
    image = upright(Image.fromarray(values), photo.orientation)
    return cut(
        image, window, sides, Image.Resampling.NEAREST if values.dtype == np.uint8 else Image.Resampling.BILINEAR
    )


def upright_points(points: np.ndarray, photo: Photo) -> np.ndarray:
    """Points (..., 2), x and y as shares of the photo as its file has it, to shares of the upright photo."""
    swap, reverse = _UPRIGHT_POINTS.get(photo.orientation, (0, ""))
    x, y = (points[..., i] for i in ((1, 0) if swap else (0, 1)))
    x, y = 1 - x if "x" in reverse else x, 1 - y if "y" in reverse else y
    return np.stack([x, y], axis=-1).astype(np.float32)


def cut_points(points: np.ndarray, window: Window) -> np.ndarray:
    """Points (..., 2) as shares of the upright photo to shares of the window, mirrored with it; none is dropped."""
    x = (points[..., 0] * window.width - window.left) / window.across
    y = (points[..., 1] * window.height - window.top) / window.down
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
    window = choose_window(photo, (size, size), rng, random_crop=random_crop, flip=flip)
    return cut_photo(photo, window, (size, size))
