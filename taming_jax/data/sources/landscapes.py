"""The demo's landscapes as a source of training data: parts of large pictures, or whole small ones."""

import numpy as np

from taming_jax.data.config import DataConfig
from taming_jax.data.demo.landscape_kinds import CLASS_NAMES, LABELS, MOODS
from taming_jax.data.demo.landscapes import DemoLandscapes
from taming_jax.data.listing import Listing
from taming_jax.data.records import Record, augmentation_rng
from taming_jax.data.sources.demo import Drawn

_VAL = 1 << 32  # in the place of an epoch


class Landscapes(Drawn):
    """One split of the demo's landscapes.

    With `resize` above the smaller side of `size`, each is a part of a picture of that smaller side and the shape of
    `size`, or, with `random_scale`, of one between `size` and that; more often of small ones. Its place is drawn anew
    in each epoch, unless `random_crop` is off; in validation it is drawn, too, but once and for all: in the middle
    there is nothing but horizon. With `classes="moods"` only the light is a class.

    Raises ValueError for other classes, and for ways to cut that it does not have.
    """

    gives = ("class_label", "segmentation", "depth", "crop")

    def __init__(self, config: DataConfig, split: str) -> None:
        self.most = max(1.0, config.resize / min(config.sides))  # how many times larger than `size` pictures are
        if config.classes not in ("", "moods"):
            raise ValueError(f"config.data.classes={config.classes!r}; landscapes have '', all of them, or 'moods'.")
        if config.zoom or config.crop_from != "image":
            raise ValueError(
                f"config.data.zoom={config.zoom}, crop_from={config.crop_from!r}; landscapes have () and 'image': "
                "`resize` and `random_scale` say how large pictures are of which a part is drawn."
            )
        self.moods = config.classes == "moods"
        names = MOODS if self.moods else CLASS_NAMES
        self.listing = Listing([], class_names=names, n_labels=len(LABELS), label_names=LABELS)
        super().__init__(config, split, alike=self.most == 1 or not (config.random_crop or config.random_scale))
        self.pictures = DemoLandscapes(config.sides, self.n, config.seed, self.start)

    def _draw(self, index: int, epoch: int | None) -> Record:
        height, width = self.config.sides
        rng = augmentation_rng(self.config.seed, _VAL if epoch is None else epoch, index)
        times, x, y = self.most, 0.5, 0.5
        if self.config.random_scale:
            times = 1 / (1 - rng.random() * (1 - 1 / self.most))
        if self.config.random_crop:
            x, y = rng.random(2).tolist()
        whole = round(height * times), round(width * times)
        item = self.pictures.part(index, whole, int(y * (whole[0] - height + 1)), int(x * (whole[1] - width + 1)))
        drawn = {name: item[name] for name in ("image", "depth", "crop")}
        drawn["class_label"] = np.int32(item["mood" if self.moods else "class_label"])
        return drawn | {"segmentation": item["segmentation"].astype(np.uint8)}
