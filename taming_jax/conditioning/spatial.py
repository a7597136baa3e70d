"""Conditions that are maps, which a first stage turns into tokens: its own, or the image's.

To add a kind of map: an entry of `KINDS` here, and one of `CONTENTS` in models/content.py.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from taming_jax.conditioning import files
from taming_jax.conditioning.base import Pictures, check_size, height_and_width, per_image
from taming_jax.conditioning.labels import ClassLabel
from taming_jax.data.channels import suffixes
from taming_jax.models.content import CONTENTS, Content
from taming_jax.models.vqgan import VQGAN
from taming_jax.nn import maps
from taming_jax.settings import Size, sides


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of map.

    contents: names in `models.content.CONTENTS`: what it is itself, and what else a first stage may read so that it can
    read this. file: what it is read from; None: from a photograph, which then will also do in its place.
    """

    contents: tuple[str, ...]
    file: files.MapFile | None = None


KINDS = {
    "segmentation": Kind(("segmentation",), files.LABEL_MAP),
    "depth": Kind(("depth", "image"), files.DEPTH),
    "edges": Kind(("edges", "image")),
    "low_res": Kind(("image",)),
    "pose": Kind(("pose",), files.ARRAY),
    "image": Kind(("image",)),
}


@dataclasses.dataclass(frozen=True)
class StageCondition:
    """A map that a first stage encodes, row by row, and beside it perhaps a class, of what a part of the map may not
    show: the light, the season. Then each token also says the class, its id being class * codes + code, so that a
    sliding window knows it wherever it is, and the sequence is no longer than without; the vocabulary is as many times
    larger as there are classes, which are best few.

    kind: a name in `KINDS`. own_stage: whether the stage has parameters of its own, or is the image's. training_size:
    of the training images in pixels, a side or (height, width); size: as in ConditionConfig. image_channels: of the
    images that are drawn. class_from: labels of the map, one for each class: where no class is given, it is the one
    whose label covers most. missing: values of depth maps for "nothing measured", as the training's data had them.
    color_profiles: whether photographs are read with theirs, as `DataConfig` has it.
    """

    kind: str
    stage: VQGAN
    own_stage: bool
    training_size: Size
    size: Size = 0
    image_channels: int = 3
    classes: ClassLabel | None = None
    class_from: tuple[int, ...] = ()
    missing: tuple[float, ...] = ()
    color_profiles: bool = True
    by_class: ClassVar[bool] = False

    @property
    def content(self) -> Content:
        """What the map is, whatever else the stage reads."""
        return CONTENTS[KINDS[self.kind].contents[0]]

    @property
    def map_keys(self) -> tuple[str, ...]:
        """The keywords, one of which gives the map."""
        return tuple(dict.fromkeys((self.kind, *(() if KINDS[self.kind].file else ("image",)))))

    @property
    def keys(self) -> tuple[str, ...]:
        return (*self.map_keys, *(self.classes.keys if self.classes else ()))

    @property
    def annotations(self) -> tuple[str, ...]:
        return (*self.content.annotations, *(self.classes.annotations if self.classes else ()))

    @property
    def vocabulary(self) -> int:
        return self.stage.config.n_codes * (self.classes.vocabulary if self.classes else 1)

    @property
    def grid(self) -> tuple[int, int]:
        return self.stage.config.grid(*sides(self.size or self.training_size))

    @property
    def length(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def suffixes(self) -> tuple[str, ...]:
        file = KINDS[self.kind].file
        return file.suffixes if file else suffixes(self.image_channels)

    @property
    def photographs(self) -> bool:
        """Whether the files are pictures in colours, which may be made smaller and still say the same."""
        return KINDS[self.kind].file is None and self.image_channels == 3

    @property
    def label_maps(self) -> bool:
        return KINDS[self.kind].file is files.LABEL_MAP

    def read(self, file: Path, factor: int, size: tuple[int, int] | None, unlabelled: int = -1) -> dict[str, Any]:
        map_file = KINDS[self.kind].file
        if map_file is None:
            return {"image": files.photograph(file, factor, size, self.image_channels, self.color_profiles)}
        channels = self.stage.config.in_channels
        return {self.kind: map_file.read(file, factor, size, channels, unlabelled, self.missing)}

    def tokens(self, batch: Mapping[str, Any], size: int, stages: Mapping[str, Any]) -> Int[Array, "{size} ..."]:
        x = self._network_input(batch)
        if self.size:
            parts = zip(x.shape[1:3], sides(self.size), sides(self.training_size))
            x = resize_nearest(x, *(side * new // old for side, new, old in parts))
        params = stages["condition_stage" if self.own_stage else "first_stage"]
        codes = jax.lax.stop_gradient(self.stage.apply({"params": params}, x, method="encode_ids"))
        if not self.classes:
            return codes
        return codes + self.stage.config.n_codes * self.classes.tokens(batch, size, stages)[..., None]

    def pixels(self, given: Mapping[str, Any]) -> tuple[int, int] | None:
        for key in self.map_keys:
            if found := height_and_width(given.get(key), channels=self._content_of(key).axes == 3):
                return found[0] * self._times(key), found[1] * self._times(key)
        return None

    def parse(self, given: Mapping[str, Any], n: int, pixels: tuple[int, int]) -> dict[str, np.ndarray]:
        """The map, or, for kinds that follow from it, a photograph under `image`; and the class beside it."""
        found = [key for key in self.map_keys if given.get(key) is not None]
        if len(found) != 1:
            raise ValueError(
                f"this model needs {' or '.join(self.map_keys)}, {'not both' if found else 'which is missing'}."
            )
        (key,) = found
        content = self._content_of(key)
        # An image's stage reads maps of one channel too; photographs are as those that are drawn, whatever it reads.
        in_channels = self.stage.config.in_channels
        channels = content.data_channels(in_channels, self.image_channels) or in_channels
        shape = "(H, W)" if content.axes == 2 else f"(H, W, {channels})"
        value = content.check(per_image(given[key], n, (content.axes,), key, shape), channels, key)
        check_size(value, (pixels[0] // self._times(key), pixels[1] // self._times(key)), key)
        return {key: value} | self._parse_class(given, n, value)

    def _parse_class(
        self, given: Mapping[str, Any], n: int, maps: Shaped[np.ndarray, "n H W *c"]
    ) -> dict[str, np.ndarray]:
        if not self.classes:
            return {}
        if given.get("class_label") is None and self.class_from:
            covered = np.stack([(maps == label).mean((1, 2)) for label in self.class_from], axis=1)
            return {"class_label": covered.argmax(1).astype(np.int32)}
        labels = self.classes.parse(given, n, maps.shape[1:3])
        if np.max(labels["class_label"]) == self.classes.vocabulary:
            raise ValueError("a map that has a class beside it cannot be drawn for any class; name one.")
        return labels

    def describe(self, batch: Mapping[str, Any], n: int) -> list[str]:
        return [""] * n

    def picture(self, batch: Mapping[str, Any], n: int, pixels: tuple[int, int]) -> Pictures:
        return self.content.picture(np.asarray(self._network_input(batch)))

    def _network_input(self, batch: Mapping[str, Any]) -> Float[Array, "b H W c"]:
        """(b, H, W, in_channels) float32: what the stage reads, before `size`; an image's reads a map of one channel as
        a grey image."""
        config = self.stage.config
        x = self.content.input(batch, config.in_channels, config.edge_sigma)
        return jnp.broadcast_to(x, (*x.shape[:3], config.in_channels))

    def _content_of(self, key: str) -> Content:
        """What a user gives by the keyword."""
        return self.content if key == self.kind else CONTENTS[key]

    def _times(self, key: str) -> int:
        """How many times larger than what is given by the keyword the image is."""
        return 1


@dataclasses.dataclass(frozen=True)
class LowResolution(StageCondition):
    """An image with the detail that is left at 1/scale of its size, enlarged again; given small or in full size."""

    scale: int = 4

    def read(self, file: Path, factor: int, size: tuple[int, int] | None, unlabelled: int = -1) -> dict[str, Any]:
        return super().read(file, math.lcm(factor, self.scale), size, unlabelled)

    def _network_input(self, batch: Mapping[str, Any]) -> Float[Array, "b H W c"]:
        if self.kind not in batch:
            return maps.low_resolution(batch["image"], self.scale)
        small = jnp.asarray(batch[self.kind])
        return maps.resize(small, small.shape[1] * self.scale, small.shape[2] * self.scale)

    def _times(self, key: str) -> int:
        return self.scale if key == self.kind else 1


def resize_nearest(x: Any, height: int, width: int) -> Any:
    """An array (b, H, W, c) -> (b, height, width, c): each pixel takes the one at or before its place."""
    rows, columns = (np.arange(new) * old // new for new, old in ((height, x.shape[1]), (width, x.shape[2])))
    return x[:, rows][:, :, columns]
