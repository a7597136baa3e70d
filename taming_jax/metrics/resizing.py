"""How pictures reach the 299 pixels of Inception: the three ways that published FIDs use, which do not agree.

Parmar et al. 2022 (arXiv 2104.11222) show that this choice alone moves an FID by more than papers differ.
"""

from functools import lru_cache

import numpy as np
from PIL import Image

DRAWN = "bicubic of a = -0.75 without smoothing, before values are rounded, as LlamaGen's sampler resizes"
RESIZES = ("pytorch-fid", "clean-fid", "tensorflow")


def resize_for_features(pixels: np.ndarray, side: int, how: str) -> np.ndarray:
    """uint8 (H, W, 3) -> float32 (side, side, 3), in 0 .. 255.

    how: "pytorch-fid", bilinear between pixel centres, without smoothing where it shrinks; "clean-fid", Pillow's
    bicubic on float channels, smoothed, clipped; "tensorflow", bilinear between pixel corners, as the first FID had it.
    Raises ValueError for another name or shape.
    """
    if how not in RESIZES:
        raise ValueError(f"resize={how!r} is unknown; known: {', '.join(RESIZES)}")
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"a picture is {pixels.dtype} {pixels.shape}; expected uint8 (H, W, 3)")
    if how == "clean-fid":
        size, bicubic = (side, side), Image.Resampling.BICUBIC
        parts = [Image.fromarray(pixels[..., c].astype(np.float32)).resize(size, bicubic) for c in range(3)]
        return np.stack([np.asarray(part) for part in parts], axis=-1).clip(0, 255)
    rows, columns = (_bilinear(length, side, how == "pytorch-fid") for length in pixels.shape[:2])
    return np.stack([rows @ pixels[..., c].astype(np.float32) @ columns.T for c in range(3)], axis=-1)


@lru_cache(maxsize=256)
def _bilinear(length: int, side: int, centres: bool) -> np.ndarray:
    """(side, length): each row holds the weights of the two pixels between which a new one lies."""
    place = np.arange(side) * (length / side)
    if centres:
        place = np.maximum((np.arange(side) + 0.5) * (length / side) - 0.5, 0)
    low = np.minimum(place.astype(int), length - 1)
    high, share = np.minimum(low + 1, length - 1), place - low
    weights = np.zeros((side, length), np.float32)
    np.add.at(weights, (np.arange(side), low), 1 - share)
    np.add.at(weights, (np.arange(side), high), share)
    return weights


def resize_drawn(images: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
    """Floats (b, H, W, c) -> float32 (b, *sides, c), as PyTorch's `interpolate(mode="bicubic")`."""
    rows, columns = (_bicubic(length, side) for length, side in zip(images.shape[1:3], sides))
    return np.einsum("ih,bhwc,jw->bijc", rows, images.astype(np.float32), columns, optimize=True)


@lru_cache(maxsize=256)
def _bicubic(length: int, side: int) -> np.ndarray:
    """(side, length): each row holds the weights of the four pixels around a new one; beyond the edge is the edge."""
    place = (np.arange(side) + 0.5) * (length / side) - 0.5
    weights, first = np.zeros((side, length), np.float32), np.floor(place).astype(int)
    for pixel in (first - 1, first, first + 1, first + 2):
        x = np.abs(place - pixel)
        near, far = (1.25 * x - 2.25) * x * x + 1, -0.75 * (((x - 5) * x + 8) * x - 4)
        np.add.at(weights, (np.arange(side), pixel.clip(0, length - 1)), np.where(x <= 1, near, far))
    return weights
