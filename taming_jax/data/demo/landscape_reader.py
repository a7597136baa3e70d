"""What a picture of a landscape shows, read back from its colours.

The rule is learned from pictures that the generator draws, once, in about a second: how often each label and mood has
which colour. A pixel gets the label whose colours those around it are most likely to be.
"""

from collections.abc import Mapping
from functools import cache

import numpy as np

from taming_jax.data.demo.landscape_kinds import LABELS, MOODS, RECIPES, SNOW
from taming_jax.data.demo.landscapes import DemoLandscapes

BINS = 32  # of each colour
_SEED = 1 << 31  # of the pictures that it learns from, which are no others


@cache
def _likelihoods() -> np.ndarray:
    """log p(colour, label | mood), float32 (moods, BINS ** 3, labels)."""
    counts = np.zeros((len(MOODS), BINS**3, len(LABELS)), np.float32)
    for whole in (64, 128, 256):
        pictures = DemoLandscapes(64, 72, _SEED, start=72 * whole)
        rng = np.random.default_rng(whole)
        for i in range(len(pictures)):
            top, left = rng.integers(0, whole - 63, 2).tolist()
            item = pictures.part(i, (whole, whole), top, left)
            for image in (item["image"], _worn(item["image"], rng)):
                np.add.at(counts[item["mood"]], (_bins(image), item["segmentation"]), 1)
    counts = counts.reshape(len(MOODS), BINS, BINS, BINS, len(LABELS))
    for axis in (1, 2, 3):  # colours nearby are as likely; twice, which makes a soft slope
        counts = _spread(_spread(counts, axis), axis)
    counts = counts.reshape(len(MOODS), -1, len(LABELS))
    counts /= np.sqrt(counts.sum(1, keepdims=True) + 1)  # rare labels count for more than they are
    counts /= counts.sum((1, 2), keepdims=True)
    return np.log(counts + 1e-7)


def _worn(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As a network may draw it: a little blurred, with a little noise."""
    blurred = _spread(_spread(image.astype(np.float32), 0), 1)
    return np.clip(blurred + rng.normal(0, 6, image.shape) + 0.5, 0, 255).astype(np.uint8)


def _bins(pixels: np.ndarray) -> np.ndarray:
    """uint8 (..., 3) -> the number of the colour's cell, int (...)."""
    r, g, b = np.moveaxis(pixels // (256 // BINS), -1, 0).astype(np.int32)
    return (r * BINS + g) * BINS + b


def _spread(values: np.ndarray, axis: int) -> np.ndarray:
    """The mean over three neighbours along an axis; at the ends, those that there are count twice."""
    n = values.shape[axis]
    before, after = (np.clip(np.arange(n) + step, 0, n - 1) for step in (-1, 1))
    return (values.take(before, axis) + values + values.take(after, axis)) / 3


def _pixels(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images)
    if images.ndim < 3 or images.shape[-1] != 3:
        raise ValueError(f"images must be (..., H, W, 3); given shape {images.shape}")
    if images.dtype == np.uint8:
        return images
    return np.clip((images.astype(np.float32) + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8)


def read_mood(images: np.ndarray) -> np.ndarray:
    """images: (..., H, W, 3), uint8 or float in [-1, 1]. Returns int32 (...), index into MOODS."""
    bins = _bins(_pixels(images))
    by_mood = np.logaddexp.reduce(_likelihoods(), axis=-1)  # (moods, colours)
    return by_mood[:, bins].mean((-2, -1)).argmax(0).astype(np.int32)


def read_labels(images: np.ndarray) -> np.ndarray:
    """images: as in `read_mood`. Returns int32 (..., H, W), index into LABELS."""
    pixels = _pixels(images)
    flat = pixels.reshape(-1, *pixels.shape[-3:])
    likelihoods = _likelihoods()
    read = [_around(likelihoods[mood, _bins(image)]).argmax(-1) for image, mood in zip(flat, read_mood(flat))]
    return np.array(read, np.int32).reshape(pixels.shape[:-1])


def _around(values: np.ndarray) -> np.ndarray:
    """Each pixel's values, (h, w, k), and those of 5 x 5 around it, the nearer the more."""
    around = values
    for _ in range(2):
        around = _spread(_spread(around, 0), 1)
    return around + 0.4 * values


def read_class(images: np.ndarray) -> np.ndarray:
    """The country, by what covers it, and the mood, of whole pictures.

    images: as in `read_mood`. Returns int32 (...), index into CLASS_NAMES.
    """
    labels = read_labels(images)
    snow, rock, forest, meadow, sand, water = ((labels == label).mean((-2, -1)) for label in range(SNOW, len(LABELS)))
    mountains = snow + rock
    on_land = np.where((forest > 0.11) & (mountains < 0.14), "forest", np.where(meadow > 0.37, "meadow", "peaks"))
    on_land = np.where(sand > 0.3, "desert", on_land)
    country = np.where(water > 0.11, np.where(sand > 0.04, "coast", "lake"), on_land)
    number = np.searchsorted(sorted(RECIPES), country)
    number = np.array([list(RECIPES).index(name) for name in sorted(RECIPES)], np.int32)[number]
    return (number * len(MOODS) + read_mood(images)).astype(np.int32)


def score_class(images: np.ndarray, conditions: Mapping[str, np.ndarray]) -> np.ndarray:
    """A scorer for rejection sampling: 1 for pictures read as the class asked for, else 0, (n,)."""
    return (read_class(images) == np.asarray(conditions["class_label"])).astype(np.float32)
