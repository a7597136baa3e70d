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
    """A rectangle in an upright image (width, height), in pixels of the file, and whether it is mirrored.

    It begins at a whole pixel of the image as that is resized: what is cut out is a slice of the resized image.
    """

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
        lengths = (self.top, self.left), (self.height, self.width)
        return np.array([round(length * scale) for pair in lengths for length, scale in zip(pair, scales)], np.int32)


def choose_window(
    photo: Photo,
    sides: tuple[int, int],
    rng: np.random.Generator | None,
    *,
    resize: int | tuple[int, int] = 0,
    random_crop: bool = True,
    random_scale: bool = False,
    flip: bool = True,
    crop_from: str = "image",
    resampling: str = "bicubic",
) -> Window:
    """Where an image of `sides`, (height, width) in pixels, is cut out.

    It is the largest window of that shape that fits into the photo, or with `resize` a smaller one, so that the photo's
    smaller side counts as that many pixels, or as many as rng draws from (least, most). rng draws the place, the flip
    and, with random_scale, the window between `sides` in pixels of the file and that one, each where asked for. Without
    rng it is in the middle, unflipped. It begins at a whole pixel of the photo as that is resized, so that a photo that
    keeps its size is sliced, and its pixels stay as they are. crop_from, resampling: as in `DataConfig`.
    """
    height, width = sides
    places = rng.random(2).tolist() if rng is not None and random_crop else None
    flipped = bool(rng is not None and flip and rng.random() < 0.5)
    if isinstance(resize, tuple):
        resize = int(rng.integers(resize[0], resize[1] + 1)) if rng is not None else 0
    pixel = min(Fraction(photo.width, width), Fraction(photo.height, height))  # exact: sides that fit do not round
    if resize:
        pixel = min(pixel, Fraction(min(photo.width, photo.height), resize))
    if rng is not None and random_scale:
        pixel = min(pixel, Fraction(1)) + Fraction(rng.random()) * (pixel - min(pixel, Fraction(1)))
    whole = _whole(photo, pixel, sides, resampling)
    part = whole
    if crop_from == "center":
        share = min(length / side for length, side in zip(whole, sides))
        part = [side * share for side in sides]
    if places:
        rooms = [int(length) - side for length, side in zip(part, sides)]
        margins = [int((full - length) / 2) for full, length in zip(whole, part)]
        starts = [
            margin + min(room, int(place * (room + 1))) for margin, room, place in zip(margins, rooms, places[::-1])
        ]
    else:
        starts = [(round(full) - side) // 2 for full, side in zip(whole, sides)]
    (top, down), (left, across) = (
        (float(start * length / full), float(side * length / full))
        for start, side, length, full in zip(starts, sides, (photo.height, photo.width), whole)
    )
    return Window(photo.width, photo.height, left, top, across, down, flipped)


def _whole(photo: Photo, pixel: Fraction, sides: tuple[int, int], resampling: str) -> list[Fraction]:
    """Height and width of the whole photo where each pixel stands for `pixel` of the file; "adm" rounds them."""
    if resampling == "adm":
        least = round(min(photo.width, photo.height) / pixel)
        width, height = halvings((photo.width, photo.height), least)[-1]
        scale = least / min(width, height)
        return [Fraction(max(side, round(length * scale))) for side, length in zip(sides, (height, width))]
    return [photo.height / pixel, photo.width / pixel]


def halvings(size: tuple[int, int], least: int) -> list[tuple[int, int]]:
    """A size and its halves, as long as the smaller side has twice `least` pixels."""
    sizes = [size]
    while min(sizes[-1]) >= 2 * least:
        sizes.append((sizes[-1][0] // 2, sizes[-1][1] // 2))
    return sizes


def cut(image: Image.Image, window: Window, sides: tuple[int, int], resample: Image.Resampling) -> np.ndarray:
    """The window of an upright image or map, (*sides, ...). The image may be a whole fraction of the file's."""
    scale = max(1, round(window.width / image.width))
    left, top, across, down = (value / scale for value in window[2:6])
    box = (left, top, min(left + across, image.width), min(top + down, image.height))
    return _turned(image.resize(sides[::-1], resample, box=box), window)


def _cut_from_halves(image: Image.Image, window: Window, sides: tuple[int, int]) -> np.ndarray:
    """The window of an upright image as guided-diffusion cuts it: halved by means of 2 x 2 pixels while that leaves
    enough, then resized as a whole by bicubic interpolation, and sliced."""
    top, left, height, width = window.crop(sides).tolist()
    for half in halvings(image.size, min(height, width))[1:]:
        image = image.resize(half, Image.Resampling.BOX)
    whole = image.resize((width, height), Image.Resampling.BICUBIC)
    return _turned(whole.crop((left, top, left + sides[1], top + sides[0])), window)


def _turned(part: Image.Image, window: Window) -> np.ndarray:
    return np.asarray(part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if window.flip else part)


def cut_photo(photo: Photo, window: Window, sides: tuple[int, int], resampling: str = "bicubic") -> np.ndarray:
    """The window of a photo: uint8 (*sides, 3), or float32 (*sides, c) in [-1, 1] of other channels.

    resampling: as in `DataConfig`, and as the window was chosen with.
    """
    if resampling == "adm":
        return joined([_cut_from_halves(part, window, sides) for part in photo.parts])
    return joined([cut(part, window, sides, Image.Resampling.BICUBIC) for part in photo.parts])


def middle(photo: Photo, sides: tuple[int, int], resampling: str = "bicubic") -> np.ndarray:
    """The largest window in the middle of a photo, as validation reads it; as `cut_photo`."""
    return cut_photo(photo, choose_window(photo, sides, None, resampling=resampling), sides, resampling)


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
