"""Objects as tokens: bounding boxes or centre points (paper, section 4.2, "complex scenes")."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from PIL import Image, ImageDraw

from taming_jax.conditioning.base import Pictures
from taming_jax.conditioning.labels import class_number, few
from taming_jax.data import listing
from taming_jax.data.annotations import numbers, read_json, short, truth
from taming_jax.pictures import label_colours

FLAGS = listing.FLAGS[:4]  # the bits of `object_flags` that tokens tell, lowest first


@dataclasses.dataclass(frozen=True)
class ObjectsCondition:
    """For each object its class and its place: two corners, or with `centres` one centre; the last id in empty slots.

    places: ids for corners and centres: those of the largest square number below lie on a grid over the image (the
    published models have 8192, a grid of 90 x 90), and the last is for empty slots. Other settings as in
    ConditionConfig. A batch holds `object_boxes` float32 (b, m, 4), x, y, width and height as shares of the whole
    image, `object_category` int32 (b, m), -1 where there is none, and where they are used `object_flags` int32 (b, m),
    `crop` int32 (b, 4) and `flip` bool (b,).
    """

    centres: bool
    n_classes: int
    names: tuple[str, ...]
    places: int
    max_objects: int
    encode_crop: bool
    group_flag: bool
    more_flags: bool
    annotations: ClassVar[tuple[str, ...]] = ("objects", "crop")
    grid: ClassVar[None] = None
    by_class: ClassVar[bool] = False
    suffixes: ClassVar[tuple[str, ...]] = (".json",)
    label_maps: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("n_classes", "max_objects"):
            if getattr(self, name) < 1:
                raise ValueError(f"config.condition.{name}={getattr(self, name)}, but it must be at least 1.")
        if self.places < 4:
            raise ValueError(
                f"config.condition.n_codes={self.places}, but it must be at least 4: places lie on a grid of them."
            )

    @property
    def keys(self) -> tuple[str, ...]:
        return ("points" if self.centres else "boxes",)

    @property
    def vocabulary(self) -> int:
        kinds = self.n_classes * (16 if self.more_flags else 2 if self.group_flag else 1)
        return max(kinds, self.places)

    @property
    def length(self) -> int:
        return (2 if self.centres else 3) * self.max_objects + (2 if self.encode_crop else 0)

    def read(self, file: Path, factor: int, size: tuple[int, int] | None, unlabelled: int = -1) -> dict[str, Any]:
        """The list that `parse` takes, as JSON."""
        return {self.keys[0]: read_json(file)}

    def tokens(self, batch: Mapping[str, Any], size: int, stages: Mapping[str, Any]) -> Int[Array, "{size} ..."]:
        box, category = jnp.asarray(batch["object_boxes"]), jnp.asarray(batch["object_category"])  # (b, m, 4), (b, m)
        there, x, y, w, h = category >= 0, *(box[..., i] for i in range(4))
        cx, cy, cw, ch = (part[:, None] for part in self._crop(batch, size))
        if not self.encode_crop:
            # As in the original, the corner at the top left moves into the crop and the size stays as far as it fits.
            x, y = jnp.clip((x - cx) / cw, 0, 1), jnp.clip((y - cy) / ch, 0, 1)
            w, h = jnp.minimum(w / cw, 1 - x), jnp.minimum(h / ch, 1 - y)
        flip = jnp.asarray(batch.get("flip", np.zeros(size, bool)))[:, None]
        x, cx = jnp.where(flip, 1 - (x + w), x), jnp.where(flip, 1 - (cx + cw), cx)
        kind = category + self.n_classes * self._modifier(batch, category)
        if self.centres:
            parts = [kind, self._place(x + w / 2, y + h / 2)]
        else:
            parts = [kind, self._place(x, y), self._place(x + w, y + h)]
        tokens = jnp.where(there[..., None], jnp.stack(parts, axis=-1), self.places - 1)  # (b, m, 2 or 3)
        tokens = self._fill(tokens, there).reshape(size, -1)
        if self.encode_crop:
            tokens = jnp.concatenate([tokens, self._place(cx, cy), self._place(cx + cw, cy + ch)], axis=1)
        return tokens.astype(jnp.int32)

    def objects(self, tokens: np.ndarray) -> dict[str, np.ndarray]:
        """What int (b, length) tokens tell, as entries of a batch: boxes as shares of the crop, as it is shown; empty
        ones at centres."""
        parts, side = (2 if self.centres else 3), math.isqrt(self.places)
        point = lambda place: np.stack([place % side, place // side], axis=-1) / (side - 1)
        slots = tokens[:, : parts * self.max_objects].reshape(len(tokens), self.max_objects, parts)
        there = (slots != self.places - 1).any(axis=-1)
        low, high = point(slots[..., 1]), point(slots[..., -1])
        if self.encode_crop:
            corner = point(tokens[:, -2])[:, None]
            extent = np.maximum(point(tokens[:, -1])[:, None] - corner, 1 / side)
            low, high = (low - corner) / extent, (high - corner) / extent
        boxes = np.concatenate([low, high - low], axis=-1).astype(np.float32)
        return {"object_boxes": boxes, "object_category": np.where(there, slots[..., 0] % self.n_classes, -1)}

    def pixels(self, given: Mapping[str, Any]) -> None:
        return None

    def parse(self, given: Mapping[str, Any], n: int, pixels: tuple[int, int]) -> dict[str, np.ndarray]:
        """A list of objects for all images, or one such list an image; an object is {"category": name or number,
        "box": [x, y, width, height]} in shares of the image, with optional truth values under the names of FLAGS."""
        (key,) = self.keys
        value = given.get(key)
        if value is None:
            raise ValueError(f'this model needs {key}: a list of {{"category": ..., "box": [x, y, width, height]}}.')
        if not isinstance(value, Sequence) or not all(isinstance(part, Mapping | list | tuple) for part in value):
            raise ValueError(
                f'{key} is {short(value)}; expected a list of {{"category": ..., "box": [x, y, width, height]}}.'
            )
        lists = [value] * n if not value or isinstance(value[0], Mapping) else list(value)
        if len(lists) not in (1, n):
            raise ValueError(f"{key} has {len(lists)} lists for {n} images; give one for all or one each.")
        parsed = [self._parse_one(objects, key) for objects in (lists if len(lists) == n else lists * n)]
        names = ("object_boxes", "object_category", "object_flags")
        return dict(zip(names, (np.stack(part) for part in zip(*parsed))))

    def describe(self, batch: Mapping[str, Any], n: int) -> list[str]:
        return [""] * n

    def picture(self, batch: Mapping[str, Any], n: int, pixels: tuple[int, int]) -> Pictures:
        """Boxes, or dots at their centres, in the colours of their classes, within the crop."""
        if "condition_codes" in batch:  # the tokens, (b, length), in place of what they are made of
            batch = self.objects(np.asarray(batch["condition_codes"]))
        height, width = pixels
        pictures = []
        crops = np.stack([np.asarray(part) for part in self._crop(batch, n)], axis=1)
        flips = np.asarray(batch.get("flip", np.zeros(n, bool)))
        for boxes, categories, (cx, cy, cw, ch), flip in zip(
            np.asarray(batch["object_boxes"]), np.asarray(batch["object_category"]), crops, flips
        ):
            image = Image.new("RGB", (width, height))
            draw = ImageDraw.Draw(image)
            for (x, y, w, h), category in zip(boxes, categories):
                if category < 0:
                    continue
                left, right = (x - cx) / cw, (x + w - cx) / cw
                left, right = (1 - right, 1 - left) if flip else (left, right)
                left, right, top, bottom = (
                    left * width,
                    right * width,
                    (y - cy) / ch * height,
                    (y + h - cy) / ch * height,
                )
                colour = tuple(((label_colours(np.full((1, 1, 1), category + 1))[0, 0, 0] + 1) * 127.5).astype(int))
                if self.centres:
                    draw.circle(((left + right - 1) / 2, (top + bottom - 1) / 2), min(pixels) / 24, fill=colour)
                else:
                    draw.rectangle([left, top, max(left, right - 1), max(top, bottom - 1)], outline=colour)
            pictures.append(np.asarray(image, np.float32) / 127.5 - 1)
        return np.stack(pictures)

    def _crop(self, batch: Mapping[str, Any], size: int) -> tuple[Float[Array, " {size}"], ...]:
        """x, y, width and height of the crop as shares of the whole image."""
        if "crop" not in batch:
            return jnp.zeros(size), jnp.zeros(size), jnp.ones(size), jnp.ones(size)
        top, left, height, width = (jnp.asarray(batch["crop"])[:, i].astype(jnp.float32) for i in range(4))
        h, w = batch["image"].shape[1:3]
        return left / width, top / height, w / width, h / height

    def _modifier(self, batch: Mapping[str, Any], category: Int[Array, "b m"]) -> Int[Array, "b m"]:
        used = (1 if self.group_flag else 0) | (14 if self.more_flags else 0)
        flags = jnp.asarray(batch["object_flags"]) if used and "object_flags" in batch else jnp.zeros_like(category)
        return flags & used

    def _place(self, x: Float[Array, "*b"], y: Float[Array, "*b"]) -> Int[Array, "*b"]:
        side = math.isqrt(self.places)
        row, column = (jnp.round(jnp.clip(v, 0, 1) * (side - 1)).astype(jnp.int32) for v in (y, x))
        return row * side + column

    def _fill(self, tokens: Int[Array, "b m k"], there: Bool[Array, "b m"]) -> Int[Array, "b {self.max_objects} k"]:
        """Tokens of max_objects: the objects that are there first, in their order."""
        order = jnp.argsort(~there, axis=1, stable=True)
        tokens = jnp.take_along_axis(tokens, order[..., None], axis=1)[:, : self.max_objects]
        missing = self.max_objects - tokens.shape[1]
        return jnp.pad(tokens, ((0, 0), (0, missing), (0, 0)), constant_values=self.places - 1)

    def _parse_one(self, objects: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if len(objects) > self.max_objects:
            raise ValueError(f"{key} has {len(objects)} objects; this model has room for {self.max_objects}.")
        boxes = np.zeros((self.max_objects, 4), np.float32)
        category, flags = np.full(self.max_objects, -1, np.int32), np.zeros(self.max_objects, np.int32)
        for i, thing in enumerate(objects):
            known = {"category", "box", *FLAGS}
            if not isinstance(thing, Mapping) or not {"category", "box"} <= set(thing) <= known:
                raise ValueError(
                    f"object {i} of {key} is {short(thing)}; expected category and box, and of {few(FLAGS)} any."
                )
            given = thing["box"]
            with np.errstate(over="ignore"):
                box = np.asarray(numbers(given.tolist() if isinstance(given, np.ndarray) else given, 4), np.float32)
            if box.shape != (4,) or not np.isfinite(box).all() or box.min() < 0 or (box[:2] + box[2:]).max() > 1.0001:
                raise ValueError(
                    f"box {short(given)} of object {i} is not x, y, width, height within the image, in shares."
                )
            if box[2] <= 0 or box[3] <= 0:
                raise ValueError(f"box {short(given)} of object {i} has no area.")
            boxes[i], category[i] = box, self._category(i, thing["category"])
            for bit, name in enumerate(FLAGS):
                if (flag := truth(thing.get(name))) is None:
                    raise ValueError(f"{name} of object {i} is {short(thing[name])}; expected true or false.")
                flags[i] |= flag << bit
        return boxes, category, flags

    def _category(self, i: int, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, str | int | np.integer):
            raise ValueError(f"category {short(value)} of object {i} is neither a name nor a number.")
        try:
            return class_number(value if isinstance(value, str) else int(value), self.names, self.n_classes)
        except ValueError as error:
            raise ValueError(f"category of object {i}: {error}") from error
