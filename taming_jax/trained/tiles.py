"""Decoding grids of codes that may be too large for one pass: an estimate of the memory, and overlapping tiles.

The decoder's normalisation and its attention see the whole image, so tiles differ where they meet; they overlap, are
blended there, and the difference is measured.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from taming_jax.models.vqgan import VQGANConfig
from taming_jax.nn.conv import ATTENDED

SHARE = 0.5  # of a device's memory may go into decoding; the rest is for parameters and what else is there


def decode_bytes(config: VQGANConfig, grid: tuple[int, int]) -> int:
    """Memory that decoding one image of (h, w) codes takes at most, parameters aside: about 3.5 feature maps of the
    widest level, or three tables of attention weights (found with XLA's own analysis, in float32 and bfloat16)."""
    config = config.decoder
    codes, top = grid[0] * grid[1], len(config.ch_mult) - 1
    widths = [config.ch * multiple for multiple in (*config.ch_mult, config.ch_mult[-1])]
    maps = [3.5 * codes * 4 ** (top - level) * max(widths[level : level + 2]) for level in range(top + 1)]
    attended = [top - level for level in range(top + 1) if config.level_has_attention(level)]
    attended += [0] * (config.attention != "none")
    return int(4 * max(*maps, *(3 * min((codes * 4**times) ** 2, ATTENDED) for times in attended), 0))


def free_bytes(device: jax.Device) -> int:
    """Memory of a device of this process (of the machine, on CPUs) that decoding may take; the same each time."""
    limit = (device.memory_stats() or {}).get("bytes_limit")
    return int(SHARE * (limit or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))


def fitting_tile(config: VQGANConfig, grid: tuple[int, int], free: int) -> tuple[int, int] | None:
    """The largest tile (h, w) of codes whose decoding takes at most `free` bytes: None for the whole grid.

    Raises ValueError where not even 4 x 4 codes fit.
    """
    if decode_bytes(config, grid) <= free:
        return None
    for side in range(max(grid), 3, -1):
        tile = min(side, grid[0]), min(side, grid[1])
        if decode_bytes(config, tile) <= free:
            return tile
    raise ValueError(
        f"decoding {grid[0]} x {grid[1]} codes takes about {decode_bytes(config, grid) >> 20} MiB, and even a tile of "
        f"4 x 4 more than the {free >> 20} MiB that are there; use a device with more memory."
    )


def check_reading(
    config: VQGANConfig, grid: tuple[int, int], images: int, free: int, what: str = "condition map(s)"
) -> None:
    """Raise ValueError where `images` pictures or maps of (h, w) codes, `what` they are, are too large to be encoded at
    once, which takes about as much as decoding."""
    needed = images * decode_bytes(config, grid)
    if needed > free:
        raise ValueError(
            f"reading {images} {what} of {grid[0]} x {grid[1]} codes at once takes about {needed >> 20} MiB, "
            f"and there are {free >> 20} MiB; draw fewer images at once, or smaller ones."
        )


def decode_tiles(
    decode: Callable[[np.ndarray], Any],
    ids: np.ndarray,
    factor: int,
    tile: tuple[int, int],
    overlap: int,
) -> tuple[np.ndarray, float]:
    """ids (b, H, W) -> (images float32 (b, H f, W f, c), seam): tiles of (h, w) codes, `overlap` of them shared.

    decode: ids (b, h, w) -> images (b, h f, w f, c); always called with one shape. seam: mean absolute difference
    between what tiles make of the pixels that they share, in a range of 2.
    Raises ValueError for an overlap that leaves nothing of a tile.
    """
    if not 0 <= overlap < min(tile):
        raise ValueError(f"overlap={overlap}, but tiles of {tile[0]} x {tile[1]} codes share 0 to {min(tile) - 1}.")
    rows, columns = ids.shape[1:]
    total, weights, differing, shared = None, np.zeros((1, rows * factor, columns * factor, 1), np.float32), 0.0, 0
    weight = _ramp(tile[0] * factor, overlap * factor)[:, None] * _ramp(tile[1] * factor, overlap * factor)[None]
    for top, left in tile_corners((rows, columns), tile, overlap):
        image = np.asarray(decode(ids[:, top : top + tile[0], left : left + tile[1]]))
        if total is None:
            total = np.zeros((len(ids), *weights.shape[1:3], image.shape[-1]), np.float32)
        place = np.s_[:, top * factor : (top + tile[0]) * factor, left * factor : (left + tile[1]) * factor]
        before = np.broadcast_to(weights[place] > 0, image.shape)
        differing += float(np.abs(image - total[place] / np.maximum(weights[place], 1e-9))[before].sum())
        shared += int(before.sum())
        total[place] += image * weight[None, ..., None]
        weights[place] += weight[None, ..., None]
    assert total is not None
    return total / weights, differing / max(1, shared)


def tile_corners(grid: tuple[int, int], tile: tuple[int, int], overlap: int) -> Iterator[tuple[int, int]]:
    """Row and column of each tile: a tile less its overlap apart, the last moved back onto the grid."""
    starts = [
        [*range(0, size - length, length - overlap), size - length] if size > length else [0]
        for size, length in zip(grid, tile)
    ]
    return itertools.product(*starts)


def _ramp(length: int, overlap: int) -> np.ndarray:
    """Weights (length,) that rise over the overlap at the start, and fall over that at the end; never 0."""
    near = np.minimum(np.arange(length), np.arange(length)[::-1]) + 1
    return np.minimum(1, near / (overlap + 1)).astype(np.float32)
