"""The networks on whose features sets of images are compared, and how pictures reach them."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax import Array

from taming_jax import sharding
from taming_jax.data.demo.known import KNOWN
from taming_jax.metrics.resizing import RESIZES, resize_for_features
from taming_jax.models import demo_classifier, dinov2, inception
from taming_jax.models.weights import Shapes, load_weights

# The weights that the package carries, by the data of the training that they are for.
OWN = {name: Path(__file__).with_name(f"{name}_features.npz") for name in ("demo", "landscapes")}
INCEPTION_URL = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
)


def signed(pixels: Array, resize: str) -> Array:
    """0 .. 255 -> [-1, 1]: pytorch-fid divides by 127.5, the first FID and clean-fid by 128 about 128."""
    return pixels / 127.5 - 1 if resize == "pytorch-fid" else (pixels - 128) / 128


def of_imagenet(pixels: Array, resize: str) -> Array:
    """0 .. 255 -> by the mean and deviation of ImageNet."""
    return dinov2.normalised(pixels / 255)


@dataclasses.dataclass(frozen=True)
class Kind:
    """A network of features.

    names: of its features for distances, (b, width) each; main: the usual one. side: of the pictures in pixels.
    spatial, predictions: further outputs, beside the main feature: of sFID, and the logits of the Inception score.
    scale: pixels in 0 .. 255, and how they were resized, to what the network takes.
    """

    network: nn.Module
    shapes: Callable[[], Shapes]
    side: int
    names: tuple[str, ...]
    main: str
    resize: str = "pytorch-fid"
    scale: Callable[[Array, str], Array] = signed
    spatial: str = ""
    predictions: str = ""

    def outputs(self, name: str) -> tuple[str, ...]:
        """What is computed for distances on the feature `name`."""
        if name != self.main:
            return (name,)
        return tuple(filter(None, (name, self.spatial, self.predictions)))


def dino(size: dinov2.ViTSize, side: int = dinov2.SIDE) -> Kind:
    """A DINOv2 of this size."""
    name = str(size.width)
    shapes = lambda: dinov2.dinov2_shapes(size, side)
    return Kind(dinov2.DINOv2(size), shapes, side, (name,), name, resize="clean-fid", scale=of_imagenet)


def own(n_classes: int) -> Kind:
    """A classifier of the demo's scenes or landscapes."""
    network = demo_classifier.DemoClassifier(n_classes)
    shapes = functools.partial(demo_classifier.demo_classifier_shapes, n_classes)
    name = demo_classifier.FEATURES
    return Kind(network, shapes, demo_classifier.SIDE, (name,), name, predictions="logits_unbiased")


# By the names that results give them.
KINDS: dict[str, Kind] = {
    "inception": Kind(
        network=inception.Inception(),
        shapes=inception.inception_shapes,
        side=inception.SIDE,
        names=tuple(map(str, inception.WIDTHS)),
        main=str(inception.WIDTHS[-1]),
        spatial="spatial",
        predictions="logits_unbiased",
    ),
    **{name: own(KNOWN[name].n_classes) for name in OWN},
    **{name: dino(size) for name, size in dinov2.SIZES.items()},
}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What two sets must share to be compared: the network, the SHA-256 of its weights, the resize, the feature."""

    network: str
    weights: str
    resize: str
    feature: str

    def check_same(self, other: "Protocol", whose: str) -> None:
        """Raise ValueError where another set was measured otherwise. Fields that it does not know are empty."""
        for field in dataclasses.fields(self):
            ours, theirs = getattr(self, field.name), getattr(other, field.name)
            if theirs and ours != theirs:
                raise ValueError(
                    f"{whose} was made with {field.name}={theirs!r}, and this comparison has {ours!r}: only what "
                    "was made alike can be compared; give the same --features, --dims and --resize, or its images."
                )


class Features:
    """A network of features with its weights, split over the devices of a mesh by image."""

    def __init__(self, kind: str, params: Any, digest: str, mesh: jax.sharding.Mesh, resize: str = "", name: str = ""):
        """resize, name: of the feature; "" for the network's own. Raises ValueError for unknown ones."""
        self.kind, self.mesh = KINDS[kind], mesh
        self.protocol = Protocol(kind, digest, resize or self.kind.resize, name or self.kind.main)
        if self.protocol.resize not in RESIZES:
            raise ValueError(f"--resize={resize}: unknown; known: {', '.join(RESIZES)}.")
        if self.protocol.feature not in self.kind.names:
            raise ValueError(f"--dims={name}: the features of {kind} have {', '.join(self.kind.names)}.")
        self.outputs = self.kind.outputs(self.protocol.feature)
        self._params = jax.device_put(params, sharding.replicated(mesh))
        network, scale, how, outputs = self.kind.network, self.kind.scale, self.protocol.resize, self.outputs

        def compute(params: Any, batch: Mapping[str, Array]) -> dict[str, Array]:
            # Statistics are compared with those of other devices and programs: nothing is rounded to bfloat16.
            with jax.default_matmul_precision("highest"):
                found = network.apply({"params": params}, sharding.split_by_image(scale(batch["pixels"], how)))
            return {**{name: found[name] for name in outputs}, "valid": batch["valid"]}

        self._compute = jax.jit(compute, out_shardings=sharding.replicated(mesh))

    def prepare(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3) -> float32 (side, side, 3), in 0 .. 255."""
        return resize_for_features(pixels, self.kind.side, self.protocol.resize)

    def __call__(self, pictures: Sequence[np.ndarray | None], size: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """This process's `size` or fewer of the prepared pictures of a batch -> (the outputs of the whole batch,
        float32 (b, width) each; bool (b,), which are of a picture and not of one that is None or missing)."""
        rows = [*pictures, *[None] * (size - len(pictures))]
        blank = np.zeros((self.kind.side, self.kind.side, 3), np.float32)
        pixels = np.stack([blank if row is None else row for row in rows])
        batch = {"pixels": pixels, "valid": np.array([row is not None for row in rows])}
        with jax.set_mesh(self.mesh):
            found = self._compute(self._params, sharding.put_batch(batch, self.mesh))
        arrays = {name: np.asarray(array) for name, array in found.items()}
        return arrays, arrays.pop("valid")


def open_features(path: str, mesh: jax.sharding.Mesh, resize: str = "", name: str = "") -> Features:
    """The network of a weight file, or one that the package carries (`OWN`). Raises ValueError for another file."""
    file = OWN.get(path, Path(path))
    if not file.is_file():
        raise ValueError(
            f"there are no weights at {str(file)!r}. For the FID download {INCEPTION_URL} and run\n"
            f"  python -m taming_jax.convert --inception pt_inception-2015-12-05-6726825d.pth --out {file}\n"
            "or compare pictures of the demo with --features demo or landscapes, which the package carries"
        )
    kind, params = load_weights(file, {name: kind.shapes() for name, kind in KINDS.items()})
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return Features(kind, params, digest, mesh, resize, name)
