"""Pictures as files: PNGs that know how they were made, and animations of the order in which they were drawn."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from PIL import Image, PngImagePlugin

from taming_jax.training.report import to_pixels

KEY = "taming_jax"  # of the text in a PNG
LARGEST = 1 << 20  # characters of it that are read
FRAMES = 40
LAST_MS, FRAME_MS = 2000, 80


def save(image: np.ndarray, path: epath.Path, made: Mapping[str, Any] | None = None) -> None:
    """float (H, W, 3) in [-1, 1] as a PNG; `made`, what it takes to make it again, goes in as JSON."""
    text = PngImagePlugin.PngInfo()
    if made is not None:
        text.add_text(KEY, json.dumps(made), zip=True)
    with path.open("wb") as file:
        Image.fromarray(to_pixels(image)).save(file, format="PNG", pnginfo=text)


def load(path: epath.Path) -> tuple[np.ndarray, dict[str, Any]]:
    """A PNG written by `save` -> (uint8 (H, W, 3), how it was made). Raises ValueError for another file."""
    try:
        with path.open("rb") as file, Image.open(file) as picture:
            picture.load()
            text = getattr(picture, "text", {}).get(KEY, "")
            made = json.loads(text) if 0 < len(text) < LARGEST else None
            pixels = np.asarray(picture.convert("RGB"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(made, dict):
        raise ValueError(f"{path} does not say how it was made; only the single pictures of sample.py do.")
    return pixels, made


def animate(image: np.ndarray, steps: np.ndarray, path: epath.Path) -> None:
    """A GIF in which the codes of an image, float (H, W, 3), appear as they were drawn; steps: int (h, w), when."""
    factor = image.shape[0] // steps.shape[0]
    when = steps.repeat(factor, axis=0).repeat(factor, axis=1)[..., None]  # (H, W, 1)
    pixels, frames = to_pixels(image), []
    for last in np.unique(np.linspace(-1, steps.max(), FRAMES).astype(int)):
        frames.append(Image.fromarray(np.where(when <= last, pixels, np.uint8(128))))
    times = [FRAME_MS] * (len(frames) - 1) + [LAST_MS]
    with path.open("wb") as file:
        frames[0].save(file, format="GIF", save_all=True, append_images=frames[1:], duration=times, loop=0)
