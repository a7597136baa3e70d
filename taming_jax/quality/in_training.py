"""Hooks of both trainings that measure sets of images on schedule: `config.train.evaluate`."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from taming_jax.data import pipeline
from taming_jax.models.gpt import unstack_layers
from taming_jax.pictures import colours, to_pixels
from taming_jax.priors.filters import Filters
from taming_jax.quality.distance import Measuring, Opened, open_set
from taming_jax.quality.features import open_features
from taming_jax.quality.images import of_data
from taming_jax.quality.measures import EXTRAPOLATED, NEIGHBOURS, OF_PAIRS, compare
from taming_jax.quality.reconstruction import ReconstructionMeasure
from taming_jax.quality.statistics import Gathering, Statistics, check_enough
from taming_jax.trained.evaluation import FirstStageEvaluation, GeneratorEvaluation, whole
from taming_jax.trained.sampler import Request
from taming_jax.trained.stages import pictured
from taming_jax.training.loop import Hook, TrainConfig
from taming_jax.training.optim import best_params
from taming_jax.training.quality import QualityConfig


def first_stage_hooks(measure: FirstStageEvaluation, config: TrainConfig) -> tuple[Hook, ...]:
    """None where nothing is asked for. Raises ValueError for what cannot be measured, before training begins."""
    settings = config.evaluate
    if not settings.measures:
        return ()
    measuring = _measuring(settings, measure.mesh)
    _check(settings, measuring, not_of="fid", n=pipeline.num_examples(measure.data, "val", measure.needs))
    of = ReconstructionMeasure(measure, measuring)

    def run(params: Any) -> dict[str, float]:
        _, real, fake = of(params)
        figures = compare(real, fake, only={"fid" if name == "rfid" else name for name in settings.measures}).figures
        return {name: figures["fid" if name == "rfid" else name] for name in settings.measures}

    return (_hook(settings, config, run),)


def second_stage_hooks(measure: GeneratorEvaluation, filters: Filters, config: TrainConfig) -> tuple[Hook, ...]:
    """None where nothing is asked for. filters: to draw with. Raises ValueError as `first_stage_hooks`."""
    settings = config.evaluate
    if not settings.measures:
        return ()
    measuring = _measuring(settings, measure.mesh)
    _check(settings, measuring, not_of="rfid", n=settings.n)
    drawn = DrawnInTraining(measure, filters, measuring, settings)
    return (_hook(settings, config, drawn),)


class DrawnInTraining:
    """Images drawn with whatever parameters, against a reference that is measured once, when it is first needed."""

    def __init__(
        self, measure: GeneratorEvaluation, filters: Filters, measuring: Measuring, settings: QualityConfig
    ) -> None:
        self.measure, self.filters, self.measuring, self.settings = measure, filters, measuring, settings
        self._opened = self._open()

    def _open(self) -> Opened:
        """Raises ValueError where the reference is not there, or does not fit."""
        path = self.settings.reference
        if path in ("train", "val"):
            images = of_data(pictured(self.measure.data), path)
            check_enough(images)
            found = Opened(images)
        else:
            found = open_set(path, self.measuring)
        if lacking := [name for name in self.settings.measures if not found.allows(name)]:
            raise ValueError(
                f"config.train.evaluate.measures={self.settings.measures}, but the statistics or images of {path} do "
                f"not allow {', '.join(lacking)}; name a folder of images, of more than {NEIGHBOURS}."
            )
        return found

    @functools.cached_property
    def reference(self) -> Statistics:
        """Measured once."""
        return self._opened.measure(self.measuring)

    def __call__(self, params: Any) -> dict[str, float]:
        """The measures of the settings."""
        settings, size = self.settings, self.measuring.batch_size
        gathering = Gathering(self.measuring.features, size, self.measuring.keep)
        sampler, params = self.measure.sampler, unstack_layers(params)
        for first, batch in self._conditions(size):
            ids = sampler.draw(params, Request(batch, size, sampler.training_pixels, self.filters, first=first))
            images = sampler.stages.first_stage.decode(ids)
            valid = first + np.arange(size) < settings.n
            gathering.add_pixels(to_pixels(colours(np.asarray(images))), valid)
        figures = compare(self.reference, gathering.result("samples"), only=set(settings.measures)).figures
        return {name: figures[name] for name in settings.measures}

    def _conditions(self, size: int) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """(number of the first image, conditions of `size` images): classes in turn, others of held-out images."""
        model, starts = self.measure.sampler.model, range(0, self.settings.n, size)
        condition = model.condition
        if condition.suffixes:
            batches = self._held_out(size)
            yield from ((first, next(batches)) for first in starts)
            return
        for first in starts:
            labels = (first + np.arange(size)) % condition.vocabulary
            given = {"class_label": labels} if condition.by_class else {}
            yield first, condition.parse(given, size, self.measure.sampler.training_pixels)

    def _held_out(self, size: int) -> Iterator[dict[str, np.ndarray]]:
        """Batches of the validation split, again and again, of `size` images that can be read."""
        waiting: list[dict[str, np.ndarray]] = []
        while True:
            found = False
            for batch in self.measure.batches():
                rows = {name: whole(value) for name, value in batch.items()}
                valid = rows.pop("valid")
                found |= bool(valid.any())
                waiting += [{name: value[i] for name, value in rows.items()} for i in np.flatnonzero(valid)]
                while len(waiting) >= size:
                    here, waiting = waiting[:size], waiting[size:]
                    yield {name: np.stack([row[name] for row in here]) for name in here[0]}
            if not found:
                raise ValueError("none of the held-out images can be read, and the conditions are theirs.")


def _measuring(settings: QualityConfig, mesh: jax.sharding.Mesh) -> Measuring:
    return Measuring(open_features(settings.features, mesh, settings.resize), settings.batch_size)


def _check(settings: QualityConfig, measuring: Measuring, not_of: str, n: int) -> None:
    """Raise ValueError for measures that this training, these features or so few images do not have."""
    kind, lacking = measuring.features.kind, {not_of}
    lacking |= set() if kind.spatial else {"sfid"}
    lacking |= set() if kind.predictions else {"inception_score"}
    lacking |= set() if n >= EXTRAPOLATED else {"fid_infinity"}
    lacking |= set() if n > NEIGHBOURS else set(OF_PAIRS)
    if wrong := [name for name in settings.measures if name in lacking]:
        raise ValueError(
            f"config.train.evaluate.measures={settings.measures}, but {', '.join(wrong)} cannot be measured here, of "
            f"{n} images on features of {measuring.features.protocol.network} (a first stage has rfid, a second fid)."
        )


def _hook(settings: QualityConfig, config: TrainConfig, run: Callable[[Any], dict[str, float]]) -> Hook:
    every = settings.every or config.eval_every
    return Hook("quality", every, lambda state, _: run(best_params(state)), settings.measures)
