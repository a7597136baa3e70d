"""What is known of a set of images on features: gathered from images in bounded memory, or read from a file."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from tqdm import tqdm

from taming_jax import cores, sharding
from taming_jax.data.prefetch import Prefetched
from taming_jax.files import write_npz
from taming_jax.metrics.distances import Moments
from taming_jax.metrics.predictions import PredictionSums
from taming_jax.quality.chosen import Chosen
from taming_jax.quality.features import Features, Protocol
from taming_jax.quality.images import ImageSet, array_names, stored_array

SHOWN = 16  # images of a set that are kept for the sheet
SPATIAL = "spatial"
READ = "pictures"  # of the array that says how pictures were read, which earlier versions did otherwise


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """mean (d,) and covariance (d, d) of a feature, float64."""

    mean: np.ndarray
    covariance: np.ndarray


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Of a set of images.

    n: images that were measured; None where a file does not say. gaussians: by feature. features: the main feature of
    the first of them, float32 (m, d), for what needs pairs; labels: their classes, int (m,). predictions: for the
    Inception score. unreadable: what was left out, and why. earlier: whether a version of this project measured it
    that read pictures otherwise. shown: a few of the images, uint8 (H, W, 3).
    """

    source: str
    protocol: Protocol
    gaussians: Mapping[str, Gaussian]
    n: int | None = None
    features: np.ndarray | None = None
    labels: np.ndarray | None = None
    predictions: PredictionSums | None = None
    unreadable: tuple[str, ...] = ()
    earlier: bool = False
    shown: tuple[np.ndarray, ...] = ()


class Gathering:
    """The statistics of a set while it is read: a batch at a time, in bounded memory.

    Every process hands over its share of each batch and knows the features of all, so that all come to the same
    figures. keep: of how many images the features stay in memory, chosen at random where there are more.
    """

    def __init__(self, features: Features, batch_size: int, keep: int) -> None:
        self.features, self.kept = features, Chosen(keep)
        self._size = batch_size // sharding.this_process(features.mesh)["process_count"]
        self._shown: list[np.ndarray] = []
        self._moments: dict[str, Moments] = {}
        self._scored = features.kind.predictions if features.kind.predictions in features.outputs else ""
        self._predictions = PredictionSums() if self._scored else None

    @property
    def n(self) -> int:
        """Images so far."""
        return self.kept.seen

    def add(self, prepared: Sequence[np.ndarray | None], shown: Sequence[np.ndarray] = ()) -> np.ndarray:
        """This process's share of a batch, see `Features.prepare`, None for what is no image; some to be shown. Returns
        which images of the whole batch there are, bool (b,)."""
        self._shown += shown[: SHOWN - len(self._shown)]
        outputs, valid = self.features(prepared, self._size)
        for name in outputs.keys() - {self._scored}:
            rows = outputs[name][valid]
            if len(rows):
                old = self._moments.get(name)
                new = Moments.of(rows, old.shift if old else rows[0])
                self._moments[name] = old.merge(new) if old else new
        if self._predictions:
            self._predictions.add(outputs[self._scored][valid])
        self.kept.add(outputs[self.features.protocol.feature][valid])
        return valid

    def add_pixels(self, pixels: np.ndarray, valid: np.ndarray) -> None:
        """A whole batch, the same in every process: uint8 (b, H, W, 3), of which those count that are valid."""
        first = self._size * sharding.this_process(self.features.mesh)["process_index"]
        here = slice(first, first + self._size)
        rows = [self.features.prepare(x) if good else None for x, good in zip(pixels[here], valid[here])]
        self.add(rows, list(pixels[valid][:SHOWN]))

    def result(self, source: str, unreadable: Sequence[str] = ()) -> Statistics:
        """Raises ValueError for fewer than two images."""
        if self.n < 2:
            named = f"; {len(unreadable)} cannot be read: {'; '.join(unreadable[:3])}" if unreadable else ""
            raise ValueError(f"{source}: only {self.n} image(s) could be measured{named}")
        return Statistics(
            source=source,
            protocol=self.features.protocol,
            gaussians={name: Gaussian(sums.mean, sums.covariance) for name, sums in self._moments.items()},
            n=self.n,
            features=self.kept.rows,
            predictions=self._predictions,
            unreadable=tuple(unreadable),
            shown=tuple(self._shown),
        )


def gather(images: ImageSet, features: Features, batch_size: int, keep: int, quiet: bool = False) -> Statistics:
    """The statistics of a set, read once in order. Raises ValueError for fewer than two images."""
    check_enough(images)
    gathering, unreadable, measured = Gathering(features, batch_size, keep), list[str](), list[int]()
    here = sharding.this_process(features.mesh)
    size = batch_size // here["process_count"]
    with tqdm(total=images.n, unit="image", desc=_short(images.source), disable=quiet) as progress:
        batches = _prepared(images, features, batch_size, size, here["process_index"])
        for number, (prepared, shown, problems) in enumerate(Prefetched(batches, depth=2)):
            unreadable += problems
            measured += [number * batch_size + int(i) for i in np.flatnonzero(gathering.add(prepared, shown))]
            progress.update(min(batch_size, images.n - number * batch_size))
    # Those that another process has met are known here by their number alone.
    unreadable += [f"{images.n - gathering.n - len(unreadable)} more"] * (images.n - gathering.n - len(unreadable))
    found = gathering.result(images.source, unreadable)
    if images.labels is None:
        return found
    labels = _of_all_processes(images.labels)[measured]
    return dataclasses.replace(found, labels=labels[gathering.kept.numbers])


def _of_all_processes(labels: np.ndarray) -> np.ndarray:
    """Labels of which each process may know those that it has read, and has -1 for the others."""
    if jax.process_count() == 1:
        return labels
    from jax.experimental import multihost_utils

    return np.max(multihost_utils.process_allgather(labels), axis=0)


def check_enough(images: ImageSet) -> None:
    """Raise ValueError where there are too few images for any distance."""
    if images.n < 2:
        raise ValueError(f"{images.source} has {images.n} image(s); a distance needs at least 2 in each set.")


def _short(source: str) -> str:
    return source if len(source) <= 24 else "..." + source[-21:]


def _prepared(
    images: ImageSet, features: Features, batch_size: int, size: int, process: int
) -> Iterator[tuple[list[np.ndarray | None], list[np.ndarray], list[str]]]:
    """Of each batch this process's share: pictures for the network, some as they are, and what cannot be read."""
    with ThreadPoolExecutor(cores.allowed()) as pool:
        for first in range(0, images.n, batch_size):
            start, stop = (min(images.n, first + size * (process + i)) for i in (0, 1))
            read = list(images.read(start, stop))
            good = [x for x in read if not isinstance(x, str)]
            pictures = iter(pool.map(features.prepare, good))
            rows = [None if isinstance(x, str) else next(pictures) for x in read]
            yield rows, good[:SHOWN], [x for x in read if isinstance(x, str)]


def is_statistics(path: str) -> bool:
    """Whether a file holds statistics, beside images or without."""
    return path.endswith(".npz") and {"mu", "sigma"} <= set(array_names(path))


def read_statistics(path: str, protocol: Protocol) -> Statistics:
    """From pytorch-fid's kind of file (`mu`, `sigma`), ADM's (also `mu_s`, `sigma_s`) or one of `write_statistics`.

    protocol: of the comparison that they are for. Raises ValueError where they are of something else, as far as the
    file says: all of it in ours, the resize in ADM's, the width in any.
    """
    names = set(array_names(path))
    kinds = [("mu", "sigma", protocol.feature)] + ([("mu_s", "sigma_s", SPATIAL)] if "mu_s" in names else [])
    arrays = {name: _numbers(path, name) for pair in kinds for name in pair[:2]}
    gaussians: dict[str, Gaussian] = {}
    for mu, sigma, feature in kinds:
        mean, covariance = arrays[mu], arrays[sigma]
        if mean.ndim != 1 or covariance.shape != mean.shape * 2:
            raise ValueError(f"{path}: {mu} {mean.shape} and {sigma} {covariance.shape}; expected (d,) and (d, d)")
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            raise ValueError(f"{path}: {mu} or {sigma} holds values that are not finite")
        gaussians[feature] = Gaussian(mean, covariance)
    width, expected = str(len(arrays["mu"])), protocol.feature
    if width != expected:
        raise ValueError(f"{path} has means of {width} features, and this comparison is of {expected}: set --dims")
    if "protocol" in names:
        said = _protocol(path)
    else:  # ADM's evaluator has one resize; pytorch-fid's file says nothing
        said = Protocol("", "", "tensorflow" if "mu_s" in names else "", "")
    protocol.check_same(said, path)
    said = dataclasses.replace(said, feature=protocol.feature)  # which their width has shown
    n = _number(path) if "n" in names else None
    return Statistics(path, said, gaussians, n, earlier="protocol" in names and READ not in names)


def _numbers(path: str, name: str) -> np.ndarray:
    found = stored_array(path, name)
    if found.dtype.kind not in "fiu":
        raise ValueError(f"{path}: {name} is {found.dtype} {found.shape}; expected numbers")
    return np.asarray(found, np.float64)


def _protocol(path: str) -> Protocol:
    """As `write_statistics` has written it. Raises ValueError for anything else."""
    found = stored_array(path, "protocol")
    expected = (len(dataclasses.fields(Protocol)),)
    if found.shape != expected or found.dtype.kind != "U":
        raise ValueError(f"{path}: protocol is {found.dtype} {found.shape}; expected texts {expected}")
    return Protocol(*map(str, found))


def _number(path: str) -> int:
    """Of images that were measured. Raises ValueError for anything else than a whole number, at least 1."""
    found = stored_array(path, "n")
    if found.shape not in ((), (1,)) or found.dtype.kind not in "iuf":
        raise ValueError(f"{path}: n is {found.dtype} {found.shape}; expected one number of images")
    n = float(found.reshape(()))
    if not (1 <= n < 1 << 53 and n == int(n)):
        raise ValueError(f"{path}: n={n}; expected a number of images, at least 1")
    return int(n)


def write_statistics(statistics: Statistics, path: str) -> None:
    """A file that pytorch-fid (`mu`, `sigma`) and ADM's evaluator (also `mu_s`, `sigma_s`) read, and that says how it
    was made."""
    main = statistics.gaussians[statistics.protocol.feature]
    arrays = {"mu": main.mean, "sigma": main.covariance}
    if SPATIAL in statistics.gaussians:
        spatial = statistics.gaussians[SPATIAL]
        arrays |= {"mu_s": spatial.mean, "sigma_s": spatial.covariance}
    arrays["protocol"] = np.array(dataclasses.astuple(statistics.protocol))
    if not statistics.earlier:
        arrays[READ] = np.array("as in training: upright, in sRGB, transparent on white, 16 bits scaled")
    if statistics.n is not None:
        arrays["n"] = np.array(statistics.n)
    write_npz(path, arrays)
