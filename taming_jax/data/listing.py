"""What a data set of files lists: its examples, with all that belongs to each."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from taming_jax.data.config import ANNOTATIONS, DataConfig

FLAGS = ("group", "occluded", "depiction", "inside", "truncated")  # bit i of object_flags


class ObjectTable(NamedTuple):
    """The objects of all images one after the other; those of image i are start[i] .. start[i + 1].

    boxes: float32 (n, 4), x0, y0, width, height as shares of the image as its file has it. category: int32 (n,).
    flags: int32 (n,), bits as in FLAGS. start: int64 (images + 1,).
    sizes: int32 (images, 2), the width and height that the annotations were made for, where they say it.
    """

    boxes: np.ndarray
    category: np.ndarray
    flags: np.ndarray
    start: np.ndarray
    sizes: np.ndarray | None = None


class Figures(NamedTuple):
    """Key points of all images one after the other, as in `ObjectTable`.

    points: float32 (n, k, 3), x and y as shares of the image, and 1 where the point is known, else 0.
    mirror: which point each becomes in a mirrored image (a left hand a right one).
    """

    points: np.ndarray
    start: np.ndarray
    mirror: tuple[int, ...]


@dataclasses.dataclass
class Listing:
    """The examples of one split. All but `images` may be left out; lists are as long as `images`.

    images: paths. labels: class numbers, and class_names in their order.
    maps: paths of label maps of n_labels labels. unlabelled: as in `read_label_map`. label_names: of the labels.
    depths: paths of depth maps. objects, and object_names, of their categories. figures: key points.
    skipped: how many of what was left out. passed_over: what else was in each folder or list, as `Found` has it.
    remarks: what was decided about the folders. lacks: why there is no annotation of a name, where it could be.
    """

    images: Sequence[str]
    labels: Sequence[int] | None = None
    class_names: tuple[str, ...] | None = None
    maps: Sequence[str] = ()
    n_labels: int = 0
    unlabelled: int = -1
    label_names: tuple[str, ...] | None = None
    depths: Sequence[str] = ()
    objects: ObjectTable | None = None
    object_names: tuple[str, ...] | None = None
    figures: Figures | None = None
    skipped: dict[str, int] = dataclasses.field(default_factory=dict)
    passed_over: dict[str, Counter[str]] = dataclasses.field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    lacks: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def gives(self) -> tuple[str, ...]:
        """The annotations that these examples have."""
        has = (self.class_names, self.maps, self.depths, True, self.objects, self.figures)
        return tuple(name for name, there in zip(ANNOTATIONS, has, strict=True) if there)

    def note(self, what: str, n: int) -> None:
        """Counts n things that were left out."""
        if n:
            self.skipped[what] = self.skipped.get(what, 0) + n

    def keep(self, places: Sequence[int]) -> "Listing":
        """Leaves only the images at these places, and what belongs to them. (Objects and figures come after it.)"""
        if len(places) < len(self.images):
            for field in ("images", "labels", "maps", "depths"):
                if values := getattr(self, field):
                    setattr(self, field, [values[i] for i in places])
        return self


ListOne = Callable[[DataConfig, str], Listing]  # a data set of files: its settings and a split -> what is there


@lru_cache(maxsize=4)  # large annotation files are read once, however many settings ask for them
def list_once(find: ListOne, config: DataConfig, split: str) -> Listing:
    """Raises ValueError for a split without examples, which is searched anew when it is asked for again."""
    listing = find(config, split)
    if not listing.images:
        raise ValueError(
            f"the data source {config.source!r} finds no example for {split!r} in {config.path!r}"
            + "".join(f"; {n} {what}" for what, n in listing.skipped.items())
        )
    return listing
