"""Completing pictures: which ids of a grid are there already, from a picture and from what of it is to stay."""

from pathlib import Path
from typing import Any

import numpy as np

from taming_jax.conditioning.files import cut, photograph
from taming_jax.data import pixels
from taming_jax.trained import tiles
from taming_jax.trained.first_stage import FirstStage

HALVES = {
    "top": np.s_[: 1 / 2, :],
    "bottom": np.s_[1 / 2 :, :],
    "left": np.s_[:, : 1 / 2],
    "right": np.s_[:, 1 / 2 :],
}


def complete(
    first_stage: FirstStage, image: Any, keep: Any = None, size: tuple[int, int] | None = None
) -> dict[str, np.ndarray]:
    """The keywords `given` and `keep` of `Generator.sample` that complete an image.

    image: float32 (H, W, c) in [-1, 1]. keep: bool (H, W), True where it stays, None for everywhere; a code stays where
    all of its pixels do. size: height and width in pixels of the picture to draw, default the image's; the image lies
    at its top left, so that it is extended to the right and downwards.
    Raises ValueError for a mask of another size, a picture larger than `size` or than what memory can encode at once,
    or where nothing stays or nothing is left to draw.
    """
    image = np.asarray(image, np.float32)
    height, width = image.shape[:2]
    factor = first_stage.config.factor
    h, w = first_stage.config.grid(height, width)
    rows, columns = first_stage.config.grid(*(size or (height, width)))
    if h > rows or w > columns:
        raise ValueError(
            f"the picture has {height} x {width} pixels and does not fit into {rows * factor} x {columns * factor}; "
            "ask for a larger size, or give a smaller picture."
        )
    stays = np.ones((height, width), bool) if keep is None else np.asarray(keep)
    if stays.shape != (height, width) or stays.dtype != bool:
        raise ValueError(f"the mask is {stays.dtype} {stays.shape}; expected bool {(height, width)}, as the picture.")
    cells = stays.reshape(h, factor, w, factor).all(axis=(1, 3))
    if cells.all() and (h, w) == (rows, columns):
        raise ValueError("all of the picture stays, so there is nothing to draw: give a mask, or a larger size.")
    if not cells.any():
        raise ValueError(
            f"none of the picture stays: the mask keeps no {factor} x {factor} pixels of one code; give one that keeps "
            "more, or draw without a picture."
        )
    free = tiles.free_bytes(first_stage.mesh.local_devices[0])
    tiles.check_reading(first_stage.config, (h, w), 1, free, "picture")
    given, kept = np.zeros((rows, columns), np.int32), np.zeros((rows, columns), bool)
    given[:h, :w], kept[:h, :w] = np.asarray(first_stage.encode(image[None])[0]), cells
    return {"given": given, "keep": kept}


def read_picture(path: str, factor: int, channels: int = 3, color_profiles: bool = True) -> np.ndarray:
    """A picture file as float32 (H, W, channels), cut in the middle to sides that `factor` divides; color_profiles: as
    in `pixels.decode`. Raises ValueError."""
    try:
        return photograph(Path(path), factor, None, channels, color_profiles)
    except (OSError, ValueError) as error:
        raise ValueError(f"the picture {path!r} cannot be read: {error}") from error


def read_mask(name: str, image: np.ndarray, factor: int) -> np.ndarray:
    """bool (H, W), what of an image stays: a name of HALVES, or a picture as large as the file of the image, each as
    its own file says that it is turned; see `pixels.read_mask`. Raises ValueError."""
    height, width = image.shape[:2]
    if name in HALVES:
        rows, columns = HALVES[name]
        mask = np.zeros((height, width), bool)
        mask[_share(rows, height), _share(columns, width)] = True
        return mask
    if not Path(name).is_file():
        raise ValueError(f"the mask is {name!r}; expected {', '.join(HALVES)}, or a picture with white where it stays.")
    try:
        mask = cut(pixels.read_mask(name), factor)
    except (OSError, ValueError) as error:
        raise ValueError(f"the mask {name!r} cannot be used: {error}") from error
    if mask.shape != (height, width):
        raise ValueError(
            f"the mask {name!r} has {mask.shape[0]} x {mask.shape[1]} pixels, the picture {height} x {width}; give one "
            "of the size that the picture is seen in (a camera may have stored it turned)."
        )
    return mask


def _share(part: slice, length: int) -> slice:
    return slice(*(None if edge is None else round(edge * length) for edge in (part.start, part.stop)))
