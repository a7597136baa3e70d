"""What the settings of `sample.py` ask for: the model, and its requests with what is shown beside their images."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from taming_jax.checkpoint import Saved, open_saved
from taming_jax.conditioning import Condition, StageCondition
from taming_jax.conditioning.labels import class_number
from taming_jax.data import pipeline
from taming_jax.data.config import DataConfig, missing_values
from taming_jax.data.names import split_names
from taming_jax.drawing import condition_files
from taming_jax.drawing.completion import complete, read_mask, read_picture
from taming_jax.experiment import SampleConfig
from taming_jax.settings import from_dict
from taming_jax.sharding import make_mesh
from taming_jax.trained.generator import Generator
from taming_jax.trained.loading import color_profiles, load_saved, with_missing
from taming_jax.trained.sampler import Request
from taming_jax.trained.stages import pictured


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A request with the label of each image, and where they are known the pictures, float32 (n, H, W, c), that have
    its conditions."""

    request: Request
    labels: list[str]
    truth: np.ndarray | None = None

    def filled(self, size: int, first: int = 0) -> Request:
        """The request filled up to `size` images, so that all of one size of picture are compiled once; the number of
        the first is `first`."""
        batch = {name: value[np.arange(size) % len(self.labels)] for name, value in self.request.batch.items()}
        return dataclasses.replace(self.request, batch=batch, n=size, first=first)


def open_model(
    settings: SampleConfig, workdir: str, data: Mapping[str, Any] = MappingProxyType({})
) -> tuple[Generator, Saved, SampleConfig]:
    """(the model, what its directory says, the settings with the number of the checkpoint and what label maps need).

    data: the settings of the data for a model that does not have its own, such as a converted one.
    """
    saved = open_saved(workdir, settings.step or None)
    saved.require("two_stage", "to draw:")
    generator = load_saved(saved, mesh=make_mesh(settings.mesh), to_draw=True)
    assert isinstance(generator, Generator)
    if settings.condition and generator.model.condition.label_maps and settings.unlabelled is None:
        try:
            unlabelled = pipeline.unlabelled(saved.config["data"] if saved.trained_here else data)
        except ValueError as error:
            raise ValueError(
                f"how label maps were read in training is unknown: {error}; or give "
                "config.sample.unlabelled, the value for no label or -1"
            ) from error
        settings = dataclasses.replace(settings, unlabelled=unlabelled)
    return generator, saved, dataclasses.replace(settings, step=str(saved.step or ""))  # what hubs keep has no steps


def requests(settings: SampleConfig, generator: Generator, saved: Saved) -> Iterator[Wanted]:
    """What the settings ask for, in batches. Raises ValueError for what the model does not know."""
    condition = generator.model.condition
    if (settings.classes and "class_label" not in condition.keys) or (settings.per_class and not condition.by_class):
        raise ValueError("config.sample.classes and per_class need a class-conditional model, and this one is not.")
    completion, asks = _completion(settings, generator, saved), f"config.sample.size={settings.size}"
    if completion and not settings.size:
        size = tuple(side * generator.first_stage.config.factor for side in completion["keep"].shape)
        settings = dataclasses.replace(settings, size=size)
        asks = f"config.sample.complete={settings.complete!r}, a picture of {size[0]} x {size[1]} pixels,"
    if not condition.suffixes:
        if settings.condition:
            condition_files.find_files(settings.condition, condition)  # says why not
        found = _counted(settings, generator, _classes(settings, condition) if condition.by_class else {})
    elif settings.condition:
        found = _joined(_from_files(settings, generator), settings.batch_size)
    else:
        height, width = generator.training_pixels
        if _size(settings) not in (None, (height, width)):
            raise ValueError(
                f"{asks} needs config.sample.condition: held-out conditions have the training size, {height} x {width}."
            )
        found = _held_out(settings, saved, _class_beside(settings, condition))
    given, keep = completion.get("given"), completion.get("keep")
    for wanted in found:
        yield dataclasses.replace(wanted, request=dataclasses.replace(wanted.request, given=given, keep=keep))


def files_read(settings: SampleConfig) -> list[str]:
    """The user's files that drawing reads: the picture to complete, its mask, and conditions."""
    return [path for path in (settings.complete, settings.keep, settings.condition) if path]


def _wanted(
    settings: SampleConfig,
    batch: dict[str, np.ndarray],
    pixels: tuple[int, int],
    labels: list[str],
    truth: np.ndarray | None = None,
) -> Wanted:
    request = Request(batch, len(labels), pixels, settings.filters(), seed=settings.seed, stride=settings.stride)
    return Wanted(request, labels, truth)


def _completion(settings: SampleConfig, generator: Generator, saved: Saved) -> dict[str, np.ndarray]:
    """What is there already of each image: of the picture that the settings name, the part that they say."""
    if not settings.complete:
        return {}
    factor = generator.first_stage.config.factor
    channels = generator.first_stage.config.in_channels
    image = read_picture(settings.complete, factor, channels, color_profiles(saved.config))
    keep = read_mask(settings.keep, image, factor) if settings.keep else None
    return complete(generator.first_stage, image, keep, _size(settings))


def _counted(settings: SampleConfig, generator: Generator, given: dict[str, np.ndarray]) -> Iterator[Wanted]:
    """Images of classes, or of no condition."""
    condition, pixels = generator.model.condition, _size(settings) or generator.training_pixels
    n = len(given["class_label"]) if given else settings.n
    for first in range(0, n, settings.batch_size):
        here = min(settings.batch_size, n - first)
        batch = condition.parse({name: value[first : first + here] for name, value in given.items()}, here, pixels)
        yield _wanted(settings, batch, pixels, condition.describe(batch, here))


def _from_files(settings: SampleConfig, generator: Generator) -> Iterator[Wanted]:
    """`n` images in all, spread over the files."""
    condition, factor = generator.model.condition, generator.first_stage.config.factor
    if settings.missing is not None:
        condition = with_missing(condition, missing_values(settings.missing))
    files = condition_files.find_files(settings.condition, condition)
    shares = np.bincount(np.arange(settings.n) % len(files), minlength=len(files))
    if settings.n < len(files):
        print(f"only {settings.n} images are asked for (config.sample.n): the first as many of {len(files)} conditions")
    unlabelled = -1 if settings.unlabelled is None else settings.unlabelled
    beside = _class_beside(settings, condition)
    for file, share in zip(files, shares):
        if not share:
            continue
        given = condition_files.read_condition(file, condition, factor, _size(settings), unlabelled) | beside
        pixels = condition.pixels(given) or _size(settings) or generator.training_pixels
        for first in range(0, share, settings.batch_size):
            here = min(settings.batch_size, int(share) - first)
            truth = np.broadcast_to(given["image"], (here, *given["image"].shape)) if "image" in given else None
            try:
                batch = condition.parse(given, here, pixels)
            except ValueError as error:
                raise ValueError(f"{file}: {error}") from error
            yield _wanted(settings, batch, pixels, [file.stem] * here, truth)


def _joined(found: Iterable[Wanted], most: int) -> Iterator[Wanted]:
    """Images of one size that follow one another in one request, of at most `most` images."""
    waiting: Wanted | None = None
    for here in found:
        same_size = waiting is not None and waiting.request.pixels == here.request.pixels
        if waiting and same_size and len(waiting.labels) + len(here.labels) <= most:
            waiting = _together(waiting, here)
            continue
        if waiting:
            yield waiting
        waiting = here
    if waiting:
        yield waiting


def _together(a: Wanted, b: Wanted) -> Wanted:
    batch = {name: np.concatenate([value, b.request.batch[name]]) for name, value in a.request.batch.items()}
    request = dataclasses.replace(a.request, batch=batch, n=a.request.n + b.request.n)
    truth = None if a.truth is None or b.truth is None else np.concatenate([a.truth, b.truth])
    return Wanted(request, a.labels + b.labels, truth)


def _held_out(settings: SampleConfig, saved: Saved, beside: Mapping[str, int]) -> Iterator[Wanted]:
    """One image for each of the first `n` held-out ones that can be read, under its condition, but with the class that
    stands `beside` its map, if any does."""
    if not saved.trained_here:
        raise ValueError("this model was not trained here, so there is no held-out data: give config.sample.condition.")
    data = from_dict(DataConfig, {**saved.config["data"], "batch_size": settings.batch_size}, "config.data")
    data = pictured(data)
    there = pipeline.num_examples(data, "val")
    left = most = min(settings.n, there)
    if most < settings.n:
        print(f"only {most} held-out images: as many are drawn instead of {settings.n}")
    for batch in pipeline.make_batches(data, "val"):
        rows = np.flatnonzero(batch.pop("valid"))[:left]  # of what cannot be read there is no condition
        if len(rows):
            batch = {name: value[rows] for name, value in batch.items()}
            batch |= {name: np.full(len(rows), value, np.int32) for name, value in beside.items()}
            yield _wanted(settings, batch, batch["image"].shape[1:3], [""] * len(rows), batch["image"])
            left -= len(rows)
        if not left:
            return
    if left == most:
        raise ValueError(f"none of the {there} held-out images can be read; see the warnings above.")
    print(f"only {most - left} held-out images can be read: as many are drawn instead of {settings.n}")


def _classes(settings: SampleConfig, condition: Condition) -> dict[str, np.ndarray]:
    """One class an image, as the settings ask. Raises ValueError for a class that the model does not know."""
    names = split_names(settings.classes, getattr(condition, "names", ()))
    wanted: list[Any] = names or list(range(condition.vocabulary))
    classes = condition.parse({"class_label": wanted}, len(wanted), (0, 0))["class_label"]
    if settings.per_class:
        return {"class_label": np.repeat(classes, settings.per_class)}
    return {"class_label": classes[np.sort(np.arange(settings.n) % len(classes))]}


def _class_beside(settings: SampleConfig, condition: Condition) -> dict[str, int]:
    """The class for all images that the settings name beside a map, if any. Raises ValueError for several or unknown
    ones."""
    classes = condition.classes if isinstance(condition, StageCondition) else None
    if not (settings.classes and classes):
        return {}
    names = split_names(settings.classes, classes.names)
    if len(names) != 1:
        raise ValueError(
            f"config.sample.classes={settings.classes!r}; with a map as condition it names one class for all images."
        )
    return {"class_label": class_number(names[0], classes.names, classes.vocabulary)}


def _size(settings: SampleConfig) -> tuple[int, int] | None:
    return (settings.size[0], settings.size[1]) if settings.size else None
