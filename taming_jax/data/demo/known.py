"""What is known of the data that the package draws itself, by the source of a training's data."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from taming_jax.data.demo import landscape_kinds, landscape_reader, scene_kinds, scene_readers
from taming_jax.data.demo.landscapes import DemoLandscapes
from taming_jax.data.demo.scenes import DemoScenes


class Known(NamedTuple):
    """pictures: (size, n) -> as many of them, with their conditions. labels: names of what maps hold, and palette,
    uint8 (labels, 3), the colours in which people look at them. read_class: images (n, H, W, 3), uint8 or float in
    [-1, 1] -> int32 (n,), which of `n_classes` each shows."""

    pictures: Any
    labels: tuple[str, ...]
    palette: np.ndarray
    n_classes: int
    read_class: Callable[[np.ndarray], np.ndarray]


KNOWN = {
    "demo": Known(DemoScenes, scene_kinds.LABELS, scene_kinds.PALETTE, scene_kinds.N_CLASSES, scene_readers.read_class),
    "landscapes": Known(
        DemoLandscapes,
        landscape_kinds.LABELS,
        landscape_kinds.PALETTE,
        landscape_kinds.N_CLASSES,
        landscape_reader.read_class,
    ),
}


def known_data(config: Mapping[str, Any]) -> Known | None:
    """Of the data that a model was trained on, by its settings; None where it is no data of the package."""
    return KNOWN.get(config.get("data", {}).get("source", ""))
