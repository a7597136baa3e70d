"""Which reader tells the class that a picture shows, by the source of the training's data."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from taming_jax.data.demo import landscape_kinds, landscape_reader, scene_kinds, scene_readers


class ClassReader(NamedTuple):
    """read: images (n, H, W, 3), uint8 or float in [-1, 1] -> int32 (n,), of `n_classes`."""

    read: Callable[[np.ndarray], np.ndarray]
    n_classes: int


CLASS_READERS = {
    "demo": ClassReader(scene_readers.read_class, scene_kinds.N_CLASSES),
    "landscapes": ClassReader(landscape_reader.read_class, landscape_kinds.N_CLASSES),
}
