"""`evaluate distance A B`: how far the images B are from the reference A."""

import dataclasses
from pathlib import Path
from typing import Any

from taming_jax import sharding
from taming_jax.limits import read_json
from taming_jax.quality.features import Features
from taming_jax.quality.images import AS_THEY_ARE, Cut, ImageSet, array_names, of_npz, open_images
from taming_jax.quality.measures import NEIGHBOURS, OF_PAIRS, Compared, compare
from taming_jax.quality.result import Clock, check_out, described, environment, sheet, write_result
from taming_jax.quality.statistics import (
    SPATIAL,
    Statistics,
    check_enough,
    gather,
    is_statistics,
    read_statistics,
)

KEEP = 10_000  # images whose features stay in memory, for what needs pairs; as many as ADM's reference batches have
PER_DEVICE = 32


@dataclasses.dataclass(frozen=True)
class Measuring:
    """How sets are measured: the network of features, images at once (0: as suits the devices), features to keep, and
    to which size images are brought before."""

    features: Features
    batch_size: int = 0
    keep: int = KEEP
    cut: Cut = AS_THEY_ARE

    def __post_init__(self) -> None:
        mesh = self.features.mesh
        object.__setattr__(self, "batch_size", self.batch_size or PER_DEVICE * sharding.batch_shares(mesh))
        sharding.check_batch(self.batch_size, mesh, name="--batch_size")

    def protocol(self) -> dict[str, Any]:
        """For the result."""
        cut = {"cut": dataclasses.asdict(self.cut)} if self.cut.size else {}
        return {**dataclasses.asdict(self.features.protocol), "batch_size": self.batch_size, **cut}


@dataclasses.dataclass(frozen=True)
class Opened:
    """A set that was found and fits, and of which nothing is measured yet: images, statistics, or both."""

    images: ImageSet | None = None
    statistics: Statistics | None = None

    def allows(self, measure: str) -> bool:
        """Whether this reference has what a measure of `measures.compare` needs of it."""
        if measure == "sfid" and self.statistics is not None:
            return SPATIAL in self.statistics.gaussians
        return measure not in OF_PAIRS or (self.images is not None and self.images.n > NEIGHBOURS)

    def measure(self, measuring: Measuring) -> Statistics:
        """Statistics of a file count more than what images beside them would give: ADM's files hold the means of a
        whole data set and a part of its images, of which features are taken."""
        if self.images is None:
            assert self.statistics is not None
            return self.statistics
        found = gather(self.images, measuring.features, measuring.batch_size, measuring.keep)
        if self.statistics is None:
            return found
        return dataclasses.replace(found, gaussians=self.statistics.gaussians, n=self.statistics.n)


def open_set(path: str, measuring: Measuring) -> Opened:
    """What a user names: statistics (.npz), another result (.json) with its statistics, or images. Raises ValueError
    for anything else, for statistics that do not fit, and for too few images; measures nothing."""
    if path.endswith(".json"):
        path = _statistics_of(path)
    if not Path(path).exists():
        raise ValueError(
            f"there is no {path!r}; expected a folder, a list (.txt), statistics (.npz) or a result (.json)"
        )
    if is_statistics(path):
        statistics = read_statistics(path, measuring.features.protocol)
        return Opened(of_npz(path, measuring.cut) if "arr_0" in array_names(path) else None, statistics)
    images = open_images(path, measuring.cut)
    check_enough(images)
    return Opened(images)


def _statistics_of(path: str) -> str:
    try:
        return str(Path(path).parent / read_json(path)["protocol"]["statistics"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no result that has its statistics beside it ({type(error).__name__})") from error


def distance(a: str, b: str, out: str, measuring: Measuring, save: bool = False, seed: int = 0) -> Compared:
    """Compare B with the reference A and write the result; save: also the statistics of B, beside it.

    Raises ValueError for what does not fit together, before anything is measured.
    """
    clock = Clock()
    check_out(out, [a, b], [".npz"] * save)
    opened = [open_set(path, measuring) for path in (a, b)]
    reference, measured = (found.measure(measuring) for found in opened)
    compared = compare(reference, measured, seed)
    protocol = {
        "measured": "distance",
        "reference": described(reference),
        "images": described(measured),
        "features": measuring.protocol(),
        **compared.details,
    }
    picture = sheet({"reference": reference.shown, "measured": measured.shown})
    protocol |= environment(clock)
    write_result(out, compared.figures, compared.warnings, protocol, picture, measured if save else None)
    return compared
