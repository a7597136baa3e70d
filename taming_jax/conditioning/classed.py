"""A map with a class beside it, of what a part of the map may not show: the light, the season, the place."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Array, Int

from taming_jax.conditioning.base import Pictures
from taming_jax.conditioning.labels import ClassLabel
from taming_jax.conditioning.spatial import StageCondition


@dataclasses.dataclass(frozen=True)
class ClassedMap:
    """Each token of the map also says the class: its id is class * codes + code. So a sliding window knows the class
    wherever it is, and the sequence is no longer than without; the vocabulary is as many times larger as there are
    classes, which are best few.

    class_from: labels of the map, one for each class: where no class is given, it is the one whose label covers most.
    """

    map: StageCondition
    classes: ClassLabel
    class_from: tuple[int, ...] = ()
    by_class: ClassVar[bool] = False

    @property
    def keys(self) -> tuple[str, ...]:
        return (*self.map.keys, *self.classes.keys)

    @property
    def annotations(self) -> tuple[str, ...]:
        return (*self.map.annotations, *self.classes.annotations)

    @property
    def vocabulary(self) -> int:
        return self.map.vocabulary * self.classes.vocabulary

    @property
    def grid(self) -> tuple[int, int]:
        return self.map.grid

    @property
    def length(self) -> int:
        return self.map.length

    @property
    def suffixes(self) -> tuple[str, ...]:
        return self.map.suffixes

    @property
    def label_maps(self) -> bool:
        return self.map.label_maps

    def read(self, file: Path, factor: int, size: tuple[int, int] | None, unlabelled: int = -1) -> dict[str, Any]:
        return self.map.read(file, factor, size, unlabelled)

    def tokens(self, batch: Mapping[str, Any], size: int, stages: Mapping[str, Any]) -> Int[Array, "{size} ..."]:
        codes = self.map.tokens(batch, size, stages)
        return codes + self.map.vocabulary * self.classes.tokens(batch, size, stages)[..., None]

    def pixels(self, given: Mapping[str, Any]) -> tuple[int, int] | None:
        return self.map.pixels(given)

    def parse(self, given: Mapping[str, Any], n: int, pixels: tuple[int, int]) -> dict[str, np.ndarray]:
        """The map as its own kind takes it, and one class for all or one an image."""
        parsed = self.map.parse({name: given.get(name) for name in self.map.keys}, n, pixels)
        if given.get("class_label") is None and self.class_from:
            return parsed | {"class_label": self._class_of(parsed[self.map.kind])}
        labels = self.classes.parse(given, n, pixels)
        if np.max(labels["class_label"]) == self.classes.vocabulary:
            raise ValueError("a map that has a class beside it cannot be drawn for any class; name one.")
        return parsed | labels

    def _class_of(self, maps: Int[np.ndarray, "n H W"]) -> Int[np.ndarray, " n"]:
        covered = np.stack([(maps == label).mean((1, 2)) for label in self.class_from], axis=1)
        return covered.argmax(1).astype(np.int32)

    def describe(self, batch: Mapping[str, Any], n: int) -> list[str]:
        return self.map.describe(batch, n)

    def picture(self, batch: Mapping[str, Any], n: int, pixels: tuple[int, int]) -> Pictures:
        return self.map.picture(batch, n, pixels)
