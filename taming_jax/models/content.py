"""What a first stage reads and writes: images, or maps of labels, depth, edges, pose.

All that depends on the kind is a member of `Content`. To add a kind: an entry of `CONTENTS`, and a subclass where its
arrays are no maps of numbers that lie in the batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from taming_jax.nn import maps
from taming_jax.pictures import colours, dot_colours, label_colours


def l1(x: Float[Array, "*b"], y: Float[Array, "*b"]) -> Float[Array, ""]:
    """Mean absolute difference over everything. Where both are equal the gradient by x is -1, not 1: trainings that go
    on depend on it."""
    return jnp.mean(jnp.abs(y.astype(jnp.float32) - x.astype(jnp.float32)))


def l2(x: Float[Array, "*b"], y: Float[Array, "*b"]) -> Float[Array, ""]:
    """Mean squared difference over everything."""
    return jnp.mean(jnp.square(x.astype(jnp.float32) - y.astype(jnp.float32)))


def binary_cross_entropy(logits: Float[Array, "*b"], targets: Float[Array, "*b"]) -> Float[Array, ""]:
    """Mean over everything of the cross-entropy in nats of independent yes-or-no predictions; targets in [0, 1]."""
    logits, targets = logits.astype(jnp.float32), targets.astype(jnp.float32)
    return jnp.mean(jax.nn.softplus(logits) - targets * logits)


LOSSES = {"l1": l1, "l2": l2, "bce": binary_cross_entropy}  # (output, target) -> ()


@dataclass(frozen=True)
class Content:
    """Numbers about [-1, 1], (b, H, W, c); with one channel also (b, H, W).

    name: of the setting `VQGANConfig.content`, and of the entry of a batch.
    channels: how many it has; None: not always the same.
    annotations: what the data must give beside the image (`DataConfig.annotations`).
    loss: a name in `LOSSES`.
    measures: names in `metrics.image.MEASURES`, of held-out reconstructions. best: which of them chooses the best
        checkpoint, and whether "min" or "max" of it is better.
    image_losses: whether LPIPS and a discriminator, which judge pictures, can judge it.
    """

    name: str
    channels: int | None = None
    annotations: tuple[str, ...] = ()
    loss: str = "l1"
    measures: tuple[str, ...] = ("psnr", "ssim", "l1")
    best: tuple[str, str] = ("l1", "min")
    image_losses: bool = True

    @property
    def axes(self) -> int:
        """Of the array that a user gives for one: 2 for (H, W), 3 for (H, W, c)."""
        return 2 if self.channels == 1 else 3

    def data_channels(self, n_labels: int, image_channels: int = 3) -> int | None:
        """How many the maps of data with `n_labels` labels have; None where the data does not say."""
        return self.channels

    def input(self, batch: Mapping[str, Any], channels: int, edge_sigma: float) -> Float[Array, "b H W c"]:
        """What a network reads of a batch, float32 (b, H, W, channels). edge_sigma: of edges that
        are looked for in the image. Raises ValueError for what is missing."""
        if self.name not in batch:
            return self._derived(batch, edge_sigma)
        x = jnp.asarray(batch[self.name])
        return x[..., None] if x.ndim == 3 else x

    def check(self, value: Any, channels: int, name: str) -> np.ndarray:
        """The entry of a batch for the array that a user calls `name`, for a network of `channels` channels. Raises
        ValueError for another shape than (b, H, W, channels) and for other values."""
        value = self._check_shape(value, channels, name)
        if not (jnp.issubdtype(value.dtype, jnp.number) or value.dtype == bool) or not _in_range(value):
            raise ValueError(f"{name} has values that are not numbers in [-1, 1]; scale the map to that range.")
        return value.astype(np.float32)

    def picture(self, x: Float[np.ndarray, "b H W c"]) -> Float[np.ndarray, "b H W 3"]:
        """What a network reads or writes as pictures in [-1, 1]."""
        return colours(x)

    def reconstruction_loss(
        self, x: Float[Array, "b H W c"], reconstruction: Float[Array, "b H W c"], loss: str = ""
    ) -> dict[str, Float[Array, ""]]:
        """{name of the metric: mean over everything}, of what went in and what came out. loss: another than its own."""
        name = loss or self.loss
        return {f"{name}_loss": LOSSES[name](reconstruction, x)}

    def _derived(self, batch: Mapping[str, Any], edge_sigma: float) -> Float[Array, "b H W c"]:
        raise ValueError(f"the first stage reads {self.name}, but the batch holds only {', '.join(sorted(batch))}")

    def _check_shape(self, value: Any, channels: int, name: str) -> np.ndarray:
        value = np.asarray(value)
        shape = (*value.shape, 1) if value.ndim == 3 and channels == 1 else value.shape
        if len(shape) != 4 or shape[-1] != channels:
            raise ValueError(f"{name} has shape {value.shape}; expected (b, H, W, {channels}).")
        return value


def _in_range(value: np.ndarray) -> bool:
    """Whether numbers are about in [-1, 1]: resizing and decoders exceed it a little. NaN is not."""
    return bool(np.abs(value).max(initial=0) <= 1.5)


class Images(Content):
    """Photographs, float32 (b, H, W, c) in [-1, 1], of three channels or of as many as the data is set to have."""

    def data_channels(self, n_labels: int, image_channels: int = 3) -> int:
        return image_channels

    def check(self, value: Any, channels: int, name: str) -> np.ndarray:
        value = self._check_shape(value, channels, name)
        if not jnp.issubdtype(value.dtype, jnp.floating) or not _in_range(value):
            raise ValueError(
                f"{name} is {value.dtype} of shape {value.shape} with values up to {value.max(initial=0):g}; "
                f"expected floats (b, H, W, {channels}) in [-1, 1]: use images / 127.5 - 1 for 8-bit pictures."
            )
        return value.astype(np.float32)


class Labels(Content):
    """Label maps, int (b, H, W): one-hot channels go in, a logit for each label comes out."""

    @property
    def axes(self) -> int:
        return 2

    def data_channels(self, n_labels: int, image_channels: int = 3) -> int:
        return n_labels

    def input(self, batch: Mapping[str, Any], channels: int, edge_sigma: float) -> Float[Array, "b H W c"]:
        if self.name not in batch:
            return self._derived(batch, edge_sigma)
        return jax.nn.one_hot(batch[self.name], channels)

    def check(self, value: Any, channels: int, name: str) -> np.ndarray:
        value = np.asarray(value)
        if value.ndim != 3 or not np.issubdtype(value.dtype, np.integer):
            raise ValueError(
                f"{name} is {value.dtype} of shape {value.shape}; expected integers (b, H, W), a label for each pixel."
            )
        if value.size and (value.min() < 0 or value.max() >= channels):
            raise ValueError(f"{name} has labels {value.min()}..{value.max()}; this model knows 0..{channels - 1}.")
        return value.astype(np.int32)

    def picture(self, x: Float[np.ndarray, "b H W c"]) -> Float[np.ndarray, "b H W 3"]:
        """Of the best label of each pixel."""
        return label_colours(np.argmax(x, axis=-1))


class Edges(Content):
    """1 on an edge and -1 elsewhere; those of the image where there are none in the batch."""

    def _derived(self, batch: Mapping[str, Any], edge_sigma: float) -> Float[Array, "b H W c"]:
        return maps.edges(batch["image"], edge_sigma) if "image" in batch else super()._derived(batch, edge_sigma)


class Pose(Content):
    """A channel of dots for each kind of key point; drawn from the key points where there are none in the batch."""

    def _derived(self, batch: Mapping[str, Any], edge_sigma: float) -> Float[Array, "b H W c"]:
        if "keypoints" not in batch:
            return super()._derived(batch, edge_sigma)
        return maps.pose(batch["keypoints"], *batch["image"].shape[1:3])

    def picture(self, x: Float[np.ndarray, "b H W c"]) -> Float[np.ndarray, "b H W 3"]:
        return dot_colours(np.clip(x, -1, 1))


# Edges and pose are -1 nearly everywhere: the median of a pixel, which l1 aims at, is blank.
CONTENTS: dict[str, Content] = {
    content.name: content
    for content in (
        Images("image", best=("psnr", "max")),
        Labels(
            "segmentation",
            annotations=("segmentation",),
            loss="bce",
            measures=("accuracy",),
            best=("accuracy", "max"),
            image_losses=False,
        ),
        Content("depth", 1, ("depth",)),
        Edges("edges", 1, loss="l2"),
        Pose("pose", annotations=("keypoints",), loss="l2"),
    )
}
