"""The condition that says where in the whole image a crop lies."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from taming_jax.conditioning.base import NotFromFiles, Pictures, check_size, height_and_width, per_image
from taming_jax.nn import maps
from taming_jax.pictures import grey


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

    def tokens(self, batch: Mapping[str, Any], size: int, stages: Mapping[str, Any]) -> Int[Array, "{size} ..."]:
        if "coordinate" in batch:
            return self.ids(batch["coordinate"])
        return self.ids(_places(batch, *batch["image"].shape[1:3]))

    def ids(self, coordinates: Float[Array, "b H W"]) -> Int[Array, "b h w"]:
        """Coordinates in [0, 1] -> int32."""
        b, h, w = coordinates.shape
        cells = coordinates.reshape(b, h // self.factor, self.factor, w // self.factor, self.factor).mean(axis=(2, 4))
        return jnp.clip(jnp.round(cells * self.vocabulary), 0, self.vocabulary - 1).astype(jnp.int32)

    def pixels(self, given: Mapping[str, Any]) -> tuple[int, int] | None:
        return height_and_width(given.get("coordinate"))

    def parse(self, given: Mapping[str, Any], n: int, pixels: tuple[int, int]) -> dict[str, np.ndarray]:
        """A map (H, W) of the image's size; nothing means that the image is a whole one."""
        h, w = pixels
        if h % self.factor or w % self.factor:
            raise ValueError(
                f"images of {h} x {w} pixels have no whole cells of {self.factor}, by which this model knows where "
                f"they lie; choose multiples of {self.factor}."
            )
        if given.get("coordinate") is None:
            coordinates = np.arange(h * w, dtype=np.float32).reshape(1, h, w) / (h * w)
        else:
            coordinates = per_image(given["coordinate"], n, (2,), "coordinate", "(H, W)")
            check_size(coordinates, pixels, "coordinate")
            if not (np.isfinite(coordinates).all() and coordinates.min() >= 0 and coordinates.max() <= 1):
                raise ValueError("coordinate has values outside [0, 1]; give the places as shares of the whole image.")
        return {"coordinate": np.broadcast_to(coordinates, (n, h, w)).astype(np.float32)}

    def describe(self, batch: Mapping[str, Any], n: int) -> list[str]:
        return [""] * n

    def picture(self, batch: Mapping[str, Any], n: int, pixels: tuple[int, int]) -> Pictures:
        if "coordinate" in batch:
            places = np.asarray(batch["coordinate"])
        elif "condition_codes" in batch:  # the tokens, (b, h, w), in place of what they are made of
            steps = (np.asarray(batch["condition_codes"]) / self.vocabulary).astype(np.float32)
            places = np.kron(steps, np.ones((1, self.factor, self.factor)))
        else:
            places = np.asarray(_places(batch, *pixels))
        return grey(2 * places - 1)


def _places(batch: Mapping[str, Any], height: int, width: int) -> Float[Array, "b {height} {width}"]:
    """Where the pixels of the batch's crops lie; of a mirrored one, in the mirrored whole image."""
    crop = jnp.asarray(batch["crop"])
    if "flip" in batch:
        mirrored = crop.at[:, 1].set(crop[:, 3] - width - crop[:, 1])
        crop = jnp.where(jnp.asarray(batch["flip"])[:, None], mirrored, crop)
    return maps.coordinates(crop, height, width)
