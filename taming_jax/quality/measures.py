"""The figures of a set of images against a reference, from the statistics of both."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from taming_jax.metrics.distances import Moments, fid_at_infinity, frechet_distance, kernel_distance, manifold_measures
from taming_jax.quality.statistics import SPATIAL, Statistics

NEIGHBOURS = 3  # of precision and recall, as ADM's evaluator has it
OF_PAIRS = ("precision", "recall", "density", "coverage", "kernel_distance")  # of features of both sets
EXTRAPOLATED = 1000  # images, below which a line through parts of them says nothing
ENOUGH = 10_000  # images, below which the bias of a distance is larger than what methods differ by


@dataclasses.dataclass(frozen=True)
class Compared:
    """figures: by name. warnings: what a reader of them must know. details: of how they were computed."""

    figures: Mapping[str, float]
    warnings: tuple[str, ...]
    details: Mapping[str, Any]


def compare(
    reference: Statistics, measured: Statistics, seed: int = 0, only: Collection[str] | None = None
) -> Compared:
    """What the two statistics allow, of the `measured` set; only: no others than these, None for all.

    fid, the Frechet distance on the main feature, and sfid on the spatial one; fid_infinity, extrapolated to infinitely
    many images; precision, recall, density, coverage and kernel_distance, of features of both sets;
    inception_score and its deviation over parts.
    """
    main = measured.protocol.feature
    real, fake = reference.gaussians[main], measured.gaussians[main]
    wanted = lambda *names: only is None or not set(names).isdisjoint(only)
    figures = {}
    if wanted("fid"):
        figures["fid"] = frechet_distance(real.mean, real.covariance, fake.mean, fake.covariance)
    if wanted("sfid") and SPATIAL in reference.gaussians and SPATIAL in measured.gaussians:
        a, b = reference.gaussians[SPATIAL], measured.gaussians[SPATIAL]
        figures["sfid"] = frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
    if wanted("fid_infinity") and measured.features is not None and len(measured.features) >= EXTRAPOLATED:
        figures["fid_infinity"] = fid_at_infinity(measured.features, real.mean, real.covariance, seed)
    pairs = [s.features for s in (reference, measured) if s.features is not None]
    if len(pairs) == 2 and min(map(len, pairs)) > NEIGHBOURS:
        if wanted("precision", "recall", "density", "coverage"):
            figures |= manifold_measures(pairs[0], pairs[1], NEIGHBOURS)
        if wanted("kernel_distance"):
            figures["kernel_distance"] = kernel_distance(pairs[0], pairs[1])
    if wanted("inception_score") and measured.predictions and measured.predictions.n:
        figures["inception_score"], figures["inception_score_deviation"] = measured.predictions.score()
    details = {
        "images_in_pairs": [len(x) for x in pairs] if len(pairs) == 2 else None,
        "neighbours": NEIGHBOURS,
        "inception_score_part": measured.predictions.part if measured.predictions else None,
        "extrapolated_from": EXTRAPOLATED if "fid_infinity" in figures else None,
        "seed_of_the_extrapolation": seed,
    }
    return Compared(figures, _warnings(reference, measured), details)


def compare_by_class(reference: Statistics, measured: Statistics) -> dict[str, dict[str, float]]:
    """Of each class that has enough images in both sets, by its number: how many there are of it, fid, precision,
    recall, on the features that are in memory. Raises ValueError where the classes of a set are not known."""
    for one in (reference, measured):
        if one.features is None or one.labels is None:
            raise ValueError(f"{one.source}: the classes of its images are not known, so nothing is measured by class.")
    assert reference.features is not None and measured.features is not None
    assert reference.labels is not None and measured.labels is not None
    found: dict[str, dict[str, float]] = {}
    for label in np.intersect1d(reference.labels, measured.labels):
        real, fake = reference.features[reference.labels == label], measured.features[measured.labels == label]
        if min(len(real), len(fake)) > NEIGHBOURS:
            a, b = Moments.of(real, real[0]), Moments.of(fake, fake[0])
            fid = frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
            shares = manifold_measures(real, fake, NEIGHBOURS)
            about = {"images": len(fake), "of_reference": len(real), "fid": fid}
            found[str(label)] = {**about, "precision": shares["precision"], "recall": shares["recall"]}
    return found


def _warnings(reference: Statistics, measured: Statistics) -> tuple[str, ...]:
    found = []
    for statistics in (reference, measured):
        name, n = statistics.source, statistics.n
        if n is not None and n < ENOUGH:
            found.append(f"{name} has {n} images; below {ENOUGH} a distance is too large by more than methods differ.")
        if n is not None and n <= int(statistics.protocol.feature):
            found.append(f"{name} has no more images than features, so that its covariance is singular.")
        if not statistics.protocol.network:
            found.append(f"{name} does not say with which network and resize it was made.")
        if statistics.earlier:
            found.append(
                f"{name} was measured by an earlier version, which turned no picture by its EXIF, showed what lies "
                "under transparency, cut 16 bits and passed over color profiles; where its pictures have any of these, "
                "measure them anew."
            )
        if statistics.unreadable:
            found.append(f"{name}: {len(statistics.unreadable)} image(s) cannot be read and were left out.")
    return tuple(dict.fromkeys(found))
