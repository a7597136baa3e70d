"""Conditions as files: photographs, and maps, each brought to sides that codes divide."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from taming_jax.data.channels import PICTURES, joined, to_float
from taming_jax.data.map_files import DEPTH_SUFFIXES, LABEL_SUFFIXES, read_depth, read_label_map
from taming_jax.data.opening import read_array
from taming_jax.data.pixels import decode

PHOTOGRAPHS = PICTURES


@dataclasses.dataclass(frozen=True)
class MapFile:
    """A kind of file that holds a map.

    suffixes: of the files. load: (path, channels of the network that reads it, value for "no label", values of depth
    for "nothing measured") -> (H, W) or (H, W, c). Raises ValueError for what is no such map. resample: how the map is
    resized.
    """

    suffixes: tuple[str, ...]
    load: Callable[[Path, int, int, tuple[float, ...]], np.ndarray]
    resample: Image.Resampling = Image.Resampling.BILINEAR

    def read(
        self,
        file: Path,
        factor: int,
        size: tuple[int, int] | None,
        channels: int,
        unlabelled: int,
        missing: tuple[float, ...] = (),
    ) -> np.ndarray:
        """The map resized to `size`, or else cut in the middle to multiples of `factor`."""
        values = self.load(file, channels, unlabelled, missing)
        return cut(values, factor) if size is None else resize(values, size, self.resample)


def photograph(
    file: Path, factor: int, size: tuple[int, int] | None, channels: int = 3, color_profiles: bool = True
) -> np.ndarray:
    """float32 (H, W, channels) in [-1, 1], resized to `size`, or else cut in the middle to multiples of `factor`.

    color_profiles: as in `pixels.decode`, as the training of what reads it had it."""
    parts = decode(str(file), channels=channels, color_profiles=color_profiles).parts
    if size is not None:  # one that the factor does not divide is refused later
        parts = tuple(part.resize(size[::-1], Image.Resampling.BICUBIC) for part in parts)
    whole = to_float(joined([np.asarray(part) for part in parts]))
    return whole if size is not None else cut(whole, factor)


def resize(values: np.ndarray, size: tuple[int, int], resample: Image.Resampling) -> np.ndarray:
    """(H, W), or (H, W, c) with any number of channels, brought to `size`."""
    if values.ndim == 3:
        return np.stack([resize(channel, size, resample) for channel in np.moveaxis(values, -1, 0)], axis=-1)
    return np.asarray(Image.fromarray(values).resize(size[::-1], resample))


def cut(values: np.ndarray, factor: int) -> np.ndarray:
    """(H, W) or (H, W, c) cut in the middle to multiples of `factor`. Raises ValueError for what is smaller."""
    (h, w), (height, width) = values.shape[:2], (side // factor * factor for side in values.shape[:2])
    if height < 1 or width < 1:
        raise ValueError(f"a map of {h} x {w} pixels is smaller than one code, {factor} x {factor} pixels.")
    top, left = (h - height) // 2, (w - width) // 2
    return values[top : top + height, left : left + width]


def _labels(file: Path, channels: int, unlabelled: int, missing: tuple[float, ...]) -> np.ndarray:
    return read_label_map(str(file), channels, unlabelled).astype(np.int32)


def _depth(file: Path, channels: int, unlabelled: int, missing: tuple[float, ...]) -> np.ndarray:
    return read_depth(str(file), missing=missing)


def _array(file: Path, channels: int, unlabelled: int, missing: tuple[float, ...]) -> np.ndarray:
    values = read_array(str(file), f"numbers (H, W, {channels})")
    if values.ndim != 3 or values.dtype.kind not in "fiu":
        raise ValueError(f"a map is numbers (H, W, {channels}), but this is {values.dtype} {values.shape}.")
    return values.astype(np.float32)


LABEL_MAP = MapFile(LABEL_SUFFIXES, _labels, Image.Resampling.NEAREST)
DEPTH = MapFile(DEPTH_SUFFIXES, _depth)
ARRAY = MapFile((".npy",), _array)  # of any number of channels
