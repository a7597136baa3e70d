"""The demo's scenes as a source of training data: a split, its records, and every kind of annotation."""

from collections.abc import Iterator

import numpy as np

from taming_jax.data import demo
from taming_jax.data.channels import fitted, joined, to_images
from taming_jax.data.config import ANNOTATIONS, DataConfig
from taming_jax.data.listing import Listing
from taming_jax.data.records import TOO_MANY, Problems, Record, Shard, blank_record, epoch_order

VAL_START = 1 << 40  # validation scenes have indices of their own, whatever n_train is
MEMORY = 512 << 20  # bytes of scenes that are kept instead of drawn again


class Demo:
    """One split of the demo scenes. Nothing is cropped or mirrored."""

    gives = ANNOTATIONS
    listing = Listing(
        [],
        class_names=demo.CLASS_NAMES,
        n_labels=len(demo.LABELS),
        label_names=demo.LABELS,
        object_names=demo.CLASS_NAMES,
    )

    def __init__(self, config: DataConfig, split: str) -> None:
        self.config, self.train, self.problems = config, split == "train", Problems()
        n, start = (config.n_train, 0) if self.train else (config.n_val, VAL_START)
        self.scenes = demo.DemoScenes(config.sides, n, config.seed, start)
        self.blank = blank_record(config, n_keypoints=5)
        self._drawn: dict[int, Record] = {}
        self._keep = MEMORY // sum(np.asarray(value).nbytes for value in self.blank.values())

    def __len__(self) -> int:
        return len(self.scenes)

    def _record(self, index: int) -> Record:
        if index in self._drawn:
            return self._drawn[index]
        scene = self.scenes[index]
        record = {key: value.copy() for key, value in self.blank.items()}
        image = scene["image"]
        if self.config.channels != 3:
            image = joined([np.asarray(part) for part in to_images(fitted(image, self.config.channels))])
        record |= {"image": image, "class_label": np.int32(scene["class_label"]), "valid": np.bool_(True)}
        if "segmentation" in record:
            record["segmentation"] = scene["segmentation"].astype(np.uint8)
        if "depth" in record:
            record["depth"] = scene["depth"]
        found = len(scene["boxes"])
        if found > self.config.max_objects and {"objects", "keypoints"} & set(self.config.annotations):
            self.problems.count(TOO_MANY, found - self.config.max_objects)
            found = self.config.max_objects  # the nearest, which are the largest
        if "object_boxes" in record:
            record["object_boxes"][:found] = scene["boxes"][:found]
            record["object_category"][:found] = scene["box_labels"][:found] - demo.FIRST_OBJECT
        if "keypoints" in record:
            record["keypoints"][:found, :, :2] = scene["keypoints"][:found]
            record["keypoints"][:found, :, 2] = 1
        if len(self._drawn) < self._keep:
            self._drawn[index] = record
        return record

    def records(self, shard: Shard, first: int) -> Iterator[Record]:
        n, place = len(self), first
        while self.train or place < shard.padded_length(n):
            position = shard.position(place)
            epoch, index = divmod(position, n)
            if self.train:
                yield self._record(int(epoch_order(n, self.config.seed, epoch)[index]))
            else:
                yield {**self._record(index), "valid": np.bool_(position < n)}
            place += 1

    def crops(self, start: int, stop: int, epoch: int | None) -> Iterator[Record]:
        """Scenes start..stop; nothing is augmented, so every epoch shows them alike."""
        return map(self._record, range(start, stop))
