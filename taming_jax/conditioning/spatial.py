"""Conditions that are maps: where in the whole image, and what a first stage of their own turns into tokens."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from taming_jax.conditioning import files
from taming_jax.conditioning.base import NotFromFiles, per_image
from taming_jax.models.vqgan import VQGAN, network_input
from taming_jax.nn import maps


@dataclasses.dataclass(frozen=True)
class Coordinate(NotFromFiles):
    """Where in the whole image a crop lies: for each cell the mean place of its pixels in reading order, as one of
    `vocabulary` steps (paper, appendix on FacesHQ)."""

    vocabulary: int
    factor: int
    grid: tuple[int, int]
    keys: ClassVar[tuple[str, ...]] = ("coordinate",)
    annotations: ClassVar[tuple[str, ...]] = ("crop",)
    by_class: ClassVar[bool] = False

    @property
    def length(self) -> int:
        return self.grid[0] * self.grid[1]

    def tokens(self, batch: Mapping[str, Any], size: int, stages: Mapping[str, Any]) -> jax.Array:
        if "coordinate" in batch:
            return self.ids(batch["coordinate"])
        return self.ids(_places(batch, *batch["image"].shape[1:3]))

    def ids(self, coordinates: jax.Array) -> jax.Array:
        """float32 (b, H, W) in [0, 1] -> int32 (b, h, w)."""
        b, h, w = coordinates.shape
        cells = coordinates.reshape(b, h // self.factor, self.factor, w // self.factor, self.factor).mean(axis=(2, 4))
        return jnp.clip(jnp.round(cells * self.vocabulary), 0, self.vocabulary - 1).astype(jnp.int32)

    def pixels(self, given: Mapping[str, Any]) -> tuple[int, int] | None:
        return _height_and_width(given.get("coordinate"))

    def parse(self, given: Mapping[str, Any], n: int, pixels: tuple[int, int]) -> dict[str, np.ndarray]:
        """A map (H, W) of the image's size; nothing means that the image is a whole one."""
        h, w = pixels
        if given.get("coordinate") is None:
            coordinates = np.arange(h * w, dtype=np.float32).reshape(1, h, w) / (h * w)
        else:
            coordinates = per_image(given["coordinate"], n, (2,), "coordinate", "(H, W)")
            _check_size(coordinates, pixels, "coordinate")
            if not (np.isfinite(coordinates).all() and coordinates.min() >= 0 and coordinates.max() <= 1):
                raise ValueError("coordinate has values outside [0, 1]; give the places as shares of the whole image.")
        return {"coordinate": np.broadcast_to(coordinates, (n, h, w)).astype(np.float32)}

    def describe(self, batch: Mapping[str, Any], n: int) -> list[str]:
        return [""] * n

    def picture(self, batch: Mapping[str, Any], n: int, pixels: tuple[int, int]) -> np.ndarray:
        if "coordinate" in batch:
            places = np.asarray(batch["coordinate"])
        elif "condition_codes" in batch:  # the tokens, (b, h, w), in place of what they are made of
            steps = (np.asarray(batch["condition_codes"]) / self.vocabulary).astype(np.float32)
            places = np.kron(steps, np.ones((1, self.factor, self.factor)))
        else:
            places = np.asarray(_places(batch, *pixels))
        return _grey(2 * places - 1)


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of map. contents: what a first stage may read so that it can read this, first what it is itself.
    annotations: what it is made of. file: how its own is read; None: a photograph will do."""

    contents: tuple[str, ...]
    annotations: tuple[str, ...] = ()
    file: files.MapFile | None = None


KINDS = {
    "segmentation": Kind(("segmentation",), ("segmentation",), files.LABEL_MAP),
    "depth": Kind(("depth", "image"), ("depth",), files.DEPTH),
    "edges": Kind(("edges", "image")),
    "low_res": Kind(("image",)),
    "pose": Kind(("pose",), ("keypoints",), files.ARRAY),
    "image": Kind(("image",)),
}


@dataclasses.dataclass(frozen=True)
class StageCondition:
    """A map that a first stage encodes, row by row: label map, depth, edges, pose, a smaller image, the image itself.

    own_stage: whether the stage has parameters of its own, or is the image's.
    training_size: side of the training images in pixels; size, scale: as in ConditionConfig.
    """

    kind: str
    stage: VQGAN
    own_stage: bool
    training_size: int
    size: int = 0
    scale: int = 4
    by_class: ClassVar[bool] = False

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.kind, "image") if KINDS[self.kind].file is None and self.kind != "image" else (self.kind,)

    @property
    def annotations(self) -> tuple[str, ...]:
        return KINDS[self.kind].annotations

    @property
    def vocabulary(self) -> int:
        return self.stage.config.n_codes

    @property
    def grid(self) -> tuple[int, int]:
        side = self.size or self.training_size
        return self.stage.config.grid(side, side)

    @property
    def length(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def suffixes(self) -> tuple[str, ...]:
        file = KINDS[self.kind].file
        return file.suffixes if file else files.PHOTOGRAPHS

    @property
    def label_maps(self) -> bool:
        return KINDS[self.kind].file is files.LABEL_MAP

    def read(self, file: Path, factor: int, size: tuple[int, int] | None, unlabelled: int = -1) -> dict[str, Any]:
        map_file = KINDS[self.kind].file
        if map_file:
            return {self.kind: map_file.read(file, factor, size, self.stage.config.in_channels, unlabelled)}
        factor = math.lcm(factor, self.scale) if self.kind == "low_res" else factor
        return {"image": files.photograph(file, factor, size)}

    def tokens(self, batch: Mapping[str, Any], size: int, stages: Mapping[str, Any]) -> jax.Array:
        x = self._network_input(batch)
        if self.size:
            x = nearest(x, *(side * self.size // self.training_size for side in x.shape[1:3]))
        params = stages["condition_stage" if self.own_stage else "first_stage"]
        return jax.lax.stop_gradient(self.stage.apply({"params": params}, x, method="encode_ids"))

    def pixels(self, given: Mapping[str, Any]) -> tuple[int, int] | None:
        for key in self.keys:
            if found := _height_and_width(given.get(key), channels=key in ("image", "low_res", "pose")):
                times = self.scale if key == "low_res" else 1
                return found[0] * times, found[1] * times
        return None

    def parse(self, given: Mapping[str, Any], n: int, pixels: tuple[int, int]) -> dict[str, np.ndarray]:
        """The map, or, for kinds that follow from it, a photograph under `image`."""
        found = [key for key in self.keys if given.get(key) is not None]
        if len(found) != 1:
            raise ValueError(
                f"this model needs {' or '.join(self.keys)}, {'not both' if found else 'which is missing'}."
            )
        (key,) = found
        value = self._parse_image(given[key], n, key) if key in ("image", "low_res") else self._parse_map(given[key], n)
        times = self.scale if key == "low_res" else 1
        _check_size(value, (pixels[0] // times, pixels[1] // times), key)
        return {key: value}

    def describe(self, batch: Mapping[str, Any], n: int) -> list[str]:
        return [""] * n

    def picture(self, batch: Mapping[str, Any], n: int, pixels: tuple[int, int]) -> np.ndarray:
        return content_picture(self.kind, np.asarray(self._network_input(batch)))

    def _network_input(self, batch: Mapping[str, Any]) -> jax.Array:
        """(b, H, W, in_channels) float32: what the stage reads, before `size`."""
        if self.kind == "image":
            return batch["image"]
        if self.kind == "low_res":
            if "low_res" not in batch:
                return maps.low_resolution(batch["image"], self.scale)
            small = jnp.asarray(batch["low_res"])
            return maps.resize(small, small.shape[1] * self.scale, small.shape[2] * self.scale)
        if self.stage.config.content == self.kind:
            return network_input(self.stage.config, batch)
        # an image's first stage reads a map of one channel as a grey image
        x = maps.edges(batch["image"], self.stage.config.edge_sigma) if self.kind not in batch else batch[self.kind]
        x = x[..., None] if x.ndim == 3 else x
        return jnp.broadcast_to(x, (*x.shape[:3], self.stage.config.in_channels))

    def _parse_image(self, value: Any, n: int, name: str) -> np.ndarray:
        images = per_image(value, n, (3,), name, "(H, W, 3)")
        floats = np.issubdtype(images.dtype, np.floating)
        if images.shape[-1] != 3 or not floats or not np.abs(images).max(initial=0) <= 1.5:  # so that nan is refused
            raise ValueError(
                f"{name} is {images.dtype} of shape {images.shape} with values up to {images.max(initial=0):g}; "
                "expected floats (H, W, 3) in [-1, 1]: use image / 127.5 - 1 for 8-bit pictures."
            )
        return images.astype(np.float32)

    def _parse_map(self, value: Any, n: int) -> np.ndarray:
        channels = self.stage.config.in_channels
        if self.kind == "pose":
            value = per_image(value, n, (3,), "pose", f"(H, W, {channels})")
            if value.shape[-1] != channels:
                raise ValueError(f"pose has {value.shape[-1]} channels; this model was trained with {channels}.")
        else:
            value = per_image(value, n, (2,), self.kind, "(H, W)")
        if self.kind == "segmentation":
            if not np.issubdtype(value.dtype, np.integer):
                raise ValueError(f"segmentation is {value.dtype}; expected whole numbers, a label for each pixel.")
            if value.size and (value.min() < 0 or value.max() >= channels):
                raise ValueError(
                    f"segmentation has labels {value.min()}..{value.max()}; this model knows 0..{channels - 1}."
                )
            return value.astype(np.int32)
        if not np.isfinite(value).all() or np.abs(value).max(initial=0) > 1.001:
            raise ValueError(f"{self.kind} has values that are not numbers in [-1, 1]; scale the map to that range.")
        return value.astype(np.float32)


def content_picture(content: str, x: np.ndarray) -> np.ndarray:
    """What a first stage reads or writes, (b, H, W, c), as pictures (b, H, W, 3) in [-1, 1]; of labels the best."""
    if content == "segmentation":
        return label_colours(np.argmax(x, axis=-1))
    if content == "pose":
        return _pose_colours(np.clip(x, -1, 1))
    return x if x.shape[-1] == 3 else _grey(x[..., 0])


def label_colours(labels: np.ndarray) -> np.ndarray:
    """Label maps int (b, H, W) -> a colour for each label, float32 (b, H, W, 3) in [-1, 1]; label 0 is dark."""
    numbers = np.arange(max(256, int(labels.max(initial=0)) + 1))
    hue = numbers[:, None] * 0.618034 + np.asarray([[0.0, 1 / 3, 2 / 3]])  # golden section: neighbours differ
    light = 0.55 + 0.25 * (numbers % 3)[:, None] / 2
    palette = np.clip(light + 0.45 * np.cos(2 * np.pi * hue), 0, 1)
    palette[0] = 0.1
    return (2 * palette - 1).astype(np.float32)[labels]


def _places(batch: Mapping[str, Any], height: int, width: int) -> jax.Array:
    """Where the pixels of the batch's crops lie, (b, height, width); of a mirrored one, in the mirrored whole image."""
    crop = jnp.asarray(batch["crop"])
    if "flip" in batch:
        mirrored = crop.at[:, 1].set(crop[:, 3] - width - crop[:, 1])
        crop = jnp.where(jnp.asarray(batch["flip"])[:, None], mirrored, crop)
    return maps.coordinates(crop, height, width)


def _pose_colours(maps: np.ndarray) -> np.ndarray:
    """(b, H, W, k) in [-1, 1] -> the dots of the kinds in different colours on black, (b, H, W, 3)."""
    colours = (label_colours(np.arange(1, maps.shape[-1] + 1)[None, None])[0, 0] + 1) / 2  # (k, 3)
    return 2 * np.max((maps[..., None] + 1) / 2 * colours, axis=-2) - 1


def _grey(x: np.ndarray) -> np.ndarray:
    """(b, H, W) -> (b, H, W, 3)."""
    return np.repeat(np.asarray(x, np.float32)[..., None], 3, axis=-1)


def nearest(x: Any, height: int, width: int) -> Any:
    """An array (b, H, W, c) -> (b, height, width, c): each pixel takes the one at or before its place."""
    rows, columns = (np.arange(new) * old // new for new, old in ((height, x.shape[1]), (width, x.shape[2])))
    return x[:, rows][:, :, columns]


def _height_and_width(value: Any, channels: bool = False) -> tuple[int, int] | None:
    """Of an array (H, W) or (H, W, c), where `channels` or c is 1, with or without leading axis; None for others."""
    shape: tuple[int, ...] = np.shape(value) if value is not None else ()
    shape = shape[:-1] if channels or (len(shape) > 2 and shape[-1] == 1) else shape
    return (shape[-2], shape[-1]) if len(shape) >= 2 else None


def _check_size(value: np.ndarray, pixels: tuple[int, int], name: str) -> None:
    if value.shape[1:3] != pixels:
        raise ValueError(
            f"{name} is {value.shape[1]} x {value.shape[2]} pixels; expected {pixels[0]} x {pixels[1]}: ask for images "
            "of its size, or resize it."
        )
