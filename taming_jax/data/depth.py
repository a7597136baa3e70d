"""Depth maps as numbers: what was not measured in them, and their range."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

OFTEN = 1e-3  # of the pixels: extremes that are rarer are outliers
GAP = 0.25  # of the range of all others: as far from them an extreme that is frequent is no depth
DISTINCT = 16  # values of those others; fewer are steps
INNER = (1.0, 99.0)  # percentiles of the bulk
NARROW = 0.2  # of the range: where the bulk takes no more than this, outliers make it


def holes(depth: np.ndarray, missing: tuple[float, ...] = ()) -> np.ndarray:
    """bool (H, W): where nothing was measured: no finite number, or one of these values up to float32's rounding."""
    found = ~np.isfinite(depth)
    for value in missing:
        found |= np.abs(depth - value) <= 1e-6 * abs(value)
    return found


def filled(depth: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Depth (H, W) with something in its holes, bool (H, W), of which some pixel is none.

    What lies above all that was measured, such as infinity or 65535 for the sky, becomes the largest measured value;
    any other hole the value of the nearest pixel that was measured.
    """
    if not missing.any():
        return depth
    largest = depth[~missing].max()
    above = missing & (depth > largest)  # False for NaN
    nearest = ndimage.distance_transform_edt(missing, return_distances=False, return_indices=True)
    return np.where(above, largest, depth[tuple(nearest)])


class Range(NamedTuple):
    """What makes the range of a map's measured values.

    apart: extremes that are frequent and far from all others, with the share of the pixels that each is. rest: the part
    of the range that the others take. bulk: the part of theirs that the middle 98 % of them take.
    """

    apart: dict[float, float]
    rest: float
    bulk: float

    @property
    def flat(self) -> bool:
        return not self.rest

    @property
    def outliers(self) -> bool:
        return not self.flat and self.bulk <= NARROW


def range_of(depth: np.ndarray, missing: np.ndarray) -> Range:
    """depth (H, W), missing bool (H, W), not all of it."""
    values = depth[~missing]
    whole, apart = values.max() - values.min(), dict[float, float]()
    if not whole:
        return Range({}, 0.0, 1.0)
    while end := _standing_apart(values, OFTEN * depth.size):
        apart[end[0]] = end[1] / depth.size
        values = values[values != end[0]]
    low, high = np.percentile(values, INNER)
    span = values.max() - values.min()
    return Range(apart, float(span / whole), float((high - low) / span))


def _standing_apart(values: np.ndarray, often: float) -> tuple[float, int] | None:
    """The smallest or the largest value, and how often it is there, if that is often and far from all others."""
    for end, nearest in ((values.min(), np.min), (values.max(), np.max)):
        rest = values[values != end]
        n = len(values) - len(rest)
        if n < often or not len(rest):
            continue
        far = abs(nearest(rest) - end) >= GAP * (rest.max() - rest.min())
        if far and len(np.unique(rest)) >= DISTINCT:
            return float(end), n
    return None
