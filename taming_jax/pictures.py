"""Pictures for people: grids, PNGs that know how they were made, animations of the order in which they were drawn."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image, ImageDraw, PngImagePlugin

from taming_jax.files import PathLike, first_line, whole
from taming_jax.lettering import lettering
from taming_jax.limits import check_regular, json_of

PAD = 4  # pixels around each cell of a grid
VISIBLE = 96  # smaller pictures are enlarged to at least this many pixels on their longer side
FONT_SIZE = 12
LINE = 16  # height of a label
KEY = "taming_jax"  # of the text in a PNG, and what the others name as their software
SOFTWARE = {"Software": KEY}
LARGEST = 1 << 20  # characters of it that are read
FRAMES = 40
LAST_MS, FRAME_MS = 2000, 80


def grid(images: Any, columns: int | None = None, labels: Sequence[str] | None = None) -> Image.Image:
    """Pictures side by side on white, row by row.

    images: floats (n, H, W, 3) or (n, H, W, 1) in [-1, 1]; what is outside is clipped, NaN becomes black. columns: by
    default about a square. labels: n short texts, drawn under the pictures. Tiny pictures are enlarged, not smoothed.
    Raises ValueError for another shape, a number of labels other than n, or fewer than one column.
    """
    images = np.asarray(images, np.float32)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise ValueError(f"a grid needs at least one image, (n, H, W, 3) or (n, H, W, 1), but this is {images.shape}")
    n, h, w, _ = images.shape
    columns = min(n, math.ceil(math.sqrt(n)) if columns is None else columns)
    if columns < 1:
        raise ValueError(f"a grid needs at least one column, but columns is {columns}")
    if labels is not None and len(labels) != n:
        raise ValueError(f"a grid of {n} images needs {n} labels, but {len(labels)} were given")

    scale = max(1, math.ceil(VISIBLE / max(h, w)))
    pixels = np.broadcast_to(to_pixels(images), (n, h, w, 3)).repeat(scale, axis=1).repeat(scale, axis=2)
    h, w = h * scale, w * scale
    cell_h, cell_w = h + PAD + (LINE if labels is not None else 0), w + PAD

    picture = Image.new("RGB", (columns * cell_w + PAD, math.ceil(n / columns) * cell_h + PAD), "white")
    pen = ImageDraw.Draw(picture)
    for i in range(n):
        row, column = divmod(i, columns)
        top, left = PAD + row * cell_h, PAD + column * cell_w
        picture.paste(Image.fromarray(pixels[i]), (left, top))
        if labels is not None:
            text, font = lettering(labels[i], FONT_SIZE)
            pen.text((left, top + h), _fit(text, w, font), fill="black", font=font)
    return picture


def to_pixels(images: np.ndarray) -> np.ndarray:
    """Floats in [-1, 1] -> uint8 of the same shape; what is outside is clipped, NaN becomes black."""
    return np.round((np.nan_to_num(images, nan=-1.0).clip(-1, 1) + 1) * 127.5).astype(np.uint8)


def label_colours(labels: np.ndarray) -> np.ndarray:
    """Label maps int (b, H, W) -> a colour for each label, float32 (b, H, W, 3) in [-1, 1]; label 0 is dark."""
    numbers = np.arange(max(256, int(labels.max(initial=0)) + 1))
    hue = numbers[:, None] * 0.618034 + np.asarray([[0.0, 1 / 3, 2 / 3]])  # golden section: neighbours differ
    light = 0.55 + 0.25 * (numbers % 3)[:, None] / 2
    palette = np.clip(light + 0.45 * np.cos(2 * np.pi * hue), 0, 1)
    palette[0] = 0.1
    return (2 * palette - 1).astype(np.float32)[labels]


def dot_colours(dots: np.ndarray) -> np.ndarray:
    """Maps of dots (b, H, W, k) in [-1, 1] -> (b, H, W, 3) in [-1, 1]: each map in a colour of its own, on black."""
    colours = (label_colours(np.arange(1, dots.shape[-1] + 1)[None, None])[0, 0] + 1) / 2  # (k, 3)
    return 2 * np.max((dots[..., None] + 1) / 2 * colours, axis=-2) - 1


def colours(x: np.ndarray) -> np.ndarray:
    """(..., c) -> (..., 3), to be seen: the first three channels, or where there are fewer the first as grey."""
    return x[..., :3] if x.shape[-1] >= 3 else np.repeat(x[..., :1], 3, axis=-1)


def grey(x: np.ndarray) -> np.ndarray:
    """(b, H, W) -> float32 (b, H, W, 3)."""
    return np.repeat(np.asarray(x, np.float32)[..., None], 3, axis=-1)


def save(image: np.ndarray, path: epath.Path, made: Mapping[str, Any] | None = None) -> None:
    """float (H, W, c) in [-1, 1] as a PNG: 1 is grey, 2 grey and alpha, 3 RGB, 4 RGBA, and of more the first three.

    `made`, what it takes to make it again, goes in as JSON. With 2, or more than 4, channels the values are written as
    a .npy file, too: a PNG does not show them whole, or as what they are.
    """
    text = PngImagePlugin.PngInfo()
    if made is not None:
        text.add_text(KEY, json.dumps(made), zip=True)
    else:
        text.add_text("Software", KEY)
    pixels = Image.fromarray(stored(image).squeeze(-1) if image.shape[-1] == 1 else stored(image))
    with whole(path) as attempt, attempt.open("wb") as file:
        pixels.save(file, format="PNG", pnginfo=text)
    if image.shape[-1] not in (1, 3, 4):
        with whole(path.with_suffix(".npy")) as attempt, attempt.open("wb") as file:
            np.save(file, image)


def save_grid(picture: Image.Image, path: PathLike) -> None:
    """A picture of several as a PNG that says whose it is."""
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", KEY)
    with whole(path) as attempt, attempt.open("wb") as file:
        picture.save(file, format="PNG", pnginfo=text)


def is_ours(path: epath.Path) -> bool:
    """Whether a PNG or GIF says that it was written here, or an array lies beside such a PNG."""
    path = path.with_suffix(".png") if path.suffix == ".npy" else path
    try:
        with path.open("rb") as file, Image.open(file) as picture:
            made = picture.info
    except Exception:  # of Pillow, for files of any kind
        return False
    return KEY in made or made.get("Software") == KEY or made.get("comment") == KEY.encode()


def stored(image: np.ndarray) -> np.ndarray:
    """uint8 (H, W, c), the pixels of the PNG of a float (H, W, c): all channels up to four, else the first three."""
    return to_pixels(image if image.shape[-1] <= 4 else image[..., :3])


def load(path: epath.Path) -> tuple[np.ndarray, dict[str, Any]]:
    """A PNG written by `save` -> (uint8 (H, W, c), how it was made). Raises ValueError for another file."""
    try:
        check_regular(path)
        with path.open("rb") as file, Image.open(file, formats=("PNG",)) as picture:
            picture.load()
            text = getattr(picture, "text", {}).get(KEY, "")
            made = json_of(text) if 0 < len(text) < LARGEST else None
            pixels = np.asarray(picture)
    except FileNotFoundError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    except Exception as error:  # damaged files make Pillow raise nearly anything
        raise ValueError(f"{path} cannot be read: {first_line(error).split(' <_io.')[0]}") from error
    if not isinstance(made, dict):
        raise ValueError(f"{path} does not say how it was made; only the single pictures of sample.py do.")
    return pixels if pixels.ndim == 3 else pixels[..., None], made


def animate(image: np.ndarray, steps: np.ndarray, path: epath.Path) -> None:
    """A GIF in which the codes of an image, float (H, W, c), appear as they were drawn; steps: int (h, w), when."""
    factor = image.shape[0] // steps.shape[0]
    when = steps.repeat(factor, axis=0).repeat(factor, axis=1)[..., None]  # (H, W, 1)
    pixels, frames = to_pixels(colours(image)), []
    for last in np.unique(np.linspace(-1, steps.max(), FRAMES).astype(int)):
        frames.append(Image.fromarray(np.where(when <= last, pixels, np.uint8(128))))
    times = [FRAME_MS] * (len(frames) - 1) + [LAST_MS]
    options = {"duration": times, "loop": 0, "comment": KEY.encode()}
    with whole(path) as attempt, attempt.open("wb") as file:
        frames[0].save(file, format="GIF", save_all=True, append_images=frames[1:], **options)


def _fit(text: str, width: int, font: Any) -> str:
    """The text, cut so that it is at most `width` pixels wide."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
