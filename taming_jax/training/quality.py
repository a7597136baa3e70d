"""What a training measures of sets of images on its way, as settings."""

import dataclasses

from taming_jax.metrics.resizing import RESIZES
from taming_jax.settings import PathText, check, check_known

# What can be measured, see docs/quality.md; of a first stage fid is called rfid.
MEASURES = ("fid", "rfid", "sfid", "fid_infinity", "precision", "recall", "density", "coverage", "kernel_distance")
MEASURES += ("inception_score",)


@dataclasses.dataclass(frozen=True)
class QualityConfig:
    """measures: names of `MEASURES`, () for none. They are logged as `quality/NAME`, and `monitor` may be one of them.

    n: images that a second stage draws for it; a first stage takes the whole validation split. every: steps between;
    0: as eval_every. batch_size: images at once, 0: 32 a device.
    features: weights of the network, made by taming_jax.convert, or "demo" or "landscapes". resize: how images
    reach it, "" for its own way. reference: of a second stage: val, train, or a folder or statistics (.npz).
    """

    measures: tuple[str, ...] = ()
    n: int = 1000
    every: int = 0
    batch_size: int = 0
    features: PathText = "weights/inception_fid.npz"
    resize: str = ""
    reference: PathText = "val"

    def __post_init__(self) -> None:
        known = set(self.measures) <= set(MEASURES)
        check(self, "measures", known, f"known are {', '.join(MEASURES)}")
        check(self, "n", self.n >= 2, "it must be at least 2")
        for name in ("every", "batch_size"):
            check(self, name, getattr(self, name) >= 0, "it must be 0 or more")
        check_known(self, "resize", ("", *RESIZES))
