"""What a picture of a scene shows, read back by the rule on colours of `scene_kinds`."""

from collections.abc import Mapping

import numpy as np

from taming_jax.data.demo.scene_kinds import DARK, FIRST_OBJECT, LABELS, LIGHT


def _nearest_line(pixels: np.ndarray) -> np.ndarray:
    """Label of the nearest line for pixels (n, 3) in 0..255."""
    # squared distance to dark + t * line, t in [0, 1], without the term that all labels share; (labels, n)
    line = LIGHT - DARK
    length = np.square(line).sum(1, keepdims=True)
    towards = line @ pixels.T - (line * DARK).sum(1, keepdims=True)
    t = np.clip(towards / length, 0, 1)
    distance = np.square(DARK).sum(1, keepdims=True) - 2 * (DARK @ pixels.T) + t * (t * length - 2 * towards)
    return np.argmin(distance, axis=0).astype(np.int32)


def read_labels(images: np.ndarray) -> np.ndarray:
    """Reads the label map back: the label whose line in RGB is nearest to the pixel.

    images: (..., H, W, 3), uint8 or float in [-1, 1]. Returns int32 (..., H, W), index into LABELS.
    """
    images = np.asarray(images)
    if images.ndim < 3 or images.shape[-1] != 3:
        raise ValueError(f"images must be (..., H, W, 3); given shape {images.shape}")
    pixels = images.reshape(-1, 3).astype(np.float32)
    if images.dtype != np.uint8:
        pixels = (pixels + 1) * 127.5
    chunks = np.array_split(pixels, len(pixels) // 8192 + 1)  # small enough to stay in the processor's cache
    return np.concatenate([_nearest_line(chunk) for chunk in chunks]).reshape(images.shape[:-1])


def read_class(images: np.ndarray) -> np.ndarray:
    """The class of each image: the object label with the largest area.

    images: as in `read_labels`. Returns int32 (...), index into CLASS_NAMES.
    """
    labels = read_labels(images)
    areas = [(labels == label).sum((-2, -1)) for label in range(FIRST_OBJECT, len(LABELS))]
    return np.argmax(areas, axis=0).astype(np.int32)


def score_class(images: np.ndarray, conditions: Mapping[str, np.ndarray]) -> np.ndarray:
    """A scorer for rejection sampling: of the pixels read as objects the share that is of the class asked for, (n,)."""
    labels = read_labels(images)
    right = labels == np.asarray(conditions["class_label"])[:, None, None] + FIRST_OBJECT
    return right.sum(axis=(1, 2)) / np.maximum(1, (labels >= FIRST_OBJECT).sum(axis=(1, 2)))
