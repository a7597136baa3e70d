"""The demo's scenes as a source of training data: a split, its records, and every kind of annotation."""

from collections.abc import Iterator

import numpy as np

from taming_jax.data import demo
from taming_jax.data.channels import fitted, joined, to_images
from taming_jax.data.config import ANNOTATIONS, DataConfig
from taming_jax.data.listing import Listing
from taming_jax.data.records import TOO_MANY, Problems, Record, Shard, blank_record, epoch_order

VAL_START = 1 << 40  # validation pictures have indices of their own, whatever n_train is
MEMORY = 512 << 20  # bytes of pictures that are kept instead of drawn again


class Drawn:
    """One split of pictures that are drawn when they are asked for, by `_draw`, and nothing mirrored.

    alike: whether they are in every epoch; then as many as there is room for are drawn once.
    """

    def __init__(self, config: DataConfig, split: str, alike: bool = True, n_keypoints: int = 0) -> None:
        self.config, self.train, self.problems = config, split == "train", Problems()
        self.n, self.start = (config.n_train, 0) if self.train else (config.n_val, VAL_START)
        self.blank = blank_record(config, n_keypoints)
        self._drawn: dict[int, Record] = {}
        room = MEMORY // sum(np.asarray(value).nbytes for value in self.blank.values())
        self._keep = room if alike or not self.train else 0

    def __len__(self) -> int:
        return self.n

    def _draw(self, index: int, epoch: int | None) -> Record:
        """What is not blank in the record of a picture, in an epoch of training; None: as in validation."""
        raise NotImplementedError

    def _record(self, index: int, epoch: int | None) -> Record:
        if index in self._drawn:
            return self._drawn[index]
        drawn = self._draw(index, epoch)
        record: Record = {key: drawn.get(key, value) for key, value in self.blank.items()} | {"valid": np.bool_(True)}
        if self.config.channels != 3:
            parts = to_images(fitted(record["image"], self.config.channels))
            record["image"] = joined([np.asarray(part) for part in parts])
        if len(self._drawn) < self._keep:
            self._drawn[index] = record
        return record

    def records(self, shard: Shard, first: int) -> Iterator[Record]:
        n, place = len(self), first
        while self.train or place < shard.padded_length(n):
            position = shard.position(place)
            epoch, index = divmod(position, n)
            if self.train:
                yield self._record(int(epoch_order(n, self.config.seed, epoch)[index]), epoch)
            else:
                yield {**self._record(index, None), "valid": np.bool_(position < n)}
            place += 1

    def crops(self, start: int, stop: int, epoch: int | None) -> Iterator[Record]:
        """Pictures start..stop, as they are in an epoch."""
        return (self._record(index, epoch) for index in range(start, stop))


class Demo(Drawn):
    """One split of the demo's scenes. Nothing is cropped."""

    gives = ANNOTATIONS
    listing = Listing(
        [],
        class_names=demo.CLASS_NAMES,
        n_labels=len(demo.LABELS),
        label_names=demo.LABELS,
        object_names=demo.CLASS_NAMES,
    )

    def __init__(self, config: DataConfig, split: str) -> None:
        super().__init__(config, split, n_keypoints=5)
        self.scenes = demo.DemoScenes(config.sides, self.n, config.seed, self.start)

    def _draw(self, index: int, epoch: int | None) -> Record:
        scene, blank = self.scenes[index], self.blank
        drawn = {"image": scene["image"], "class_label": np.int32(scene["class_label"]), "depth": scene["depth"]}
        drawn["segmentation"] = scene["segmentation"].astype(np.uint8)
        found = len(scene["boxes"])
        if found > self.config.max_objects and {"objects", "keypoints"} & set(self.config.annotations):
            self.problems.count(TOO_MANY, found - self.config.max_objects)
            found = self.config.max_objects  # the nearest, which are the largest
        drawn |= {key: blank[key].copy() for key in ("object_boxes", "object_category", "keypoints") if key in blank}
        if "object_boxes" in drawn:
            drawn["object_boxes"][:found] = scene["boxes"][:found]
            drawn["object_category"][:found] = scene["box_labels"][:found] - demo.FIRST_OBJECT
        if "keypoints" in drawn:
            drawn["keypoints"][:found, :, :2] = scene["keypoints"][:found]
            drawn["keypoints"][:found, :, 2] = 1
        return drawn
