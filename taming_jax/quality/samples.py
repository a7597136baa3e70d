"""`evaluate samples`: images drawn from a two-stage model, and how far they are from a reference."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from tqdm import tqdm

from taming_jax import stopping
from taming_jax.checkpoint import Saved
from taming_jax.data.config import DataConfig
from taming_jax.data.demo.known import known_data
from taming_jax.drawing.requests import Wanted, open_model, requests
from taming_jax.experiment import SampleConfig
from taming_jax.files import write_npz
from taming_jax.lease import held
from taming_jax.metrics.resizing import DRAWN, resize_drawn
from taming_jax.outputs import check_outputs, is_npz
from taming_jax.pictures import colours, to_pixels
from taming_jax.priors.filters import FILTER_NAMES
from taming_jax.quality.distance import Measuring, Opened, open_set
from taming_jax.quality.images import AS_THEY_ARE, Cut, ImageSet, of_data
from taming_jax.quality.measures import Compared, compare, compare_by_class
from taming_jax.quality.result import Clock, check_out, checkpoint_of, described, environment, sheet, write_result
from taming_jax.quality.statistics import Statistics, check_enough
from taming_jax.quality.store import Store
from taming_jax.settings import check, from_dict, to_dict
from taming_jax.trained.generator import Generator
from taming_jax.trained.sampler import Request
from taming_jax.trained.stages import pictured

EXPORTED = "drawn_by_taming_jax"  # an array beside the exported ones, which says whose they are
ROUNDING = "to the nearest of 256, x -> round((x + 1) * 127.5)"  # ADM's sampler rounds down
KEPT_SETTINGS = ("seed", *FILTER_NAMES, "batch_size", "step")
USED_SETTINGS = ("n", *KEPT_SETTINGS, "mesh")  # all others ask for something else than an evaluation draws


@dataclasses.dataclass(frozen=True)
class Model:
    """A generator with what its directory says, and how it draws; `settings.n` images, the classes in turn. cut: what
    they are measured with; drawn images are resized to its size."""

    generator: Generator
    saved: Saved
    settings: SampleConfig
    cut: Cut = AS_THEY_ARE

    @classmethod
    def open(cls, workdir: str, settings: SampleConfig, cut: Cut = AS_THEY_ARE) -> "Model":
        """Raises ValueError for what is no generator and for settings that it cannot draw with; draws nothing."""
        check_used(settings)
        generator, saved, settings = open_model(settings, workdir)
        model = cls(generator, saved, settings, cut.like(generator.training_pixels))
        generator.sampler.check(next(model.wanted()).request)
        return model

    def checkpoint(self) -> dict[str, Any]:
        """For the protocol: which one, and a sum of the bits of all its parameters."""
        return checkpoint_of(self.saved.path, self.saved.step, self.generator.params, self.generator.stages)

    def wanted(self) -> Iterator[Wanted]:
        """The requests, each for a part. Classes take turns, so that any part of the images has all of them."""
        condition, settings = self.generator.model.condition, self.settings
        if condition.suffixes:  # maps and objects: those of held-out images
            yield from requests(settings, self.generator, self.saved)
            return
        pixels = self.generator.training_pixels
        for first in range(0, settings.n, settings.batch_size):
            here = min(settings.batch_size, settings.n - first)
            given = {"class_label": self.labels[first : first + here]} if condition.by_class else {}
            batch = condition.parse(given, here, pixels)
            request = Request(batch, here, pixels, settings.filters(), seed=settings.seed)
            yield Wanted(request, condition.describe(batch, here))

    @property
    def labels(self) -> np.ndarray:
        """int (n,): the class of each, 0 for a model without."""
        condition = self.generator.model.condition
        return np.arange(self.settings.n) % (condition.vocabulary if condition.by_class else 1)

    @property
    def resized(self) -> dict[str, Any]:
        """For the protocol, and for what is kept of the images."""
        return {"resized": {"size": list(self.cut.sides), "by": DRAWN}} if self.cut.size else {}

    def store(self, folder: Path) -> Store:
        """A folder for the images. Raises ValueError where it has something else."""
        here = {
            "checkpoint": self.checkpoint()["sum"],
            **{k: to_dict(self.settings)[k] for k in KEPT_SETTINGS},
            **self.resized,
        }
        return Store.open(folder, here, jax.process_index() == 0)

    def draw(self, store: Store) -> ImageSet:
        """The images, drawn where `store` does not have them yet."""
        with held(store.folder, "drawing"):
            counts = self._draw_all(store)
        by_class = self.generator.model.condition.by_class
        return store.images(counts, f"samples of {self.saved.path}", self.labels if by_class else None)

    def _draw_all(self, store: Store) -> dict[int, int]:
        """How many images each part of the store has, by the number of its first."""
        is_main = jax.process_index() == 0
        counts: dict[int, int] = {}
        first, n = 0, self.settings.n
        said = lambda: f"{first} of {n} images are in {store.folder}, and the same command goes on from there"
        with stopping.telling(said), tqdm(total=n, unit="image", desc="drawing") as progress:
            for wanted in self.wanted():
                here = len(wanted.labels)
                if not store.has(first, here):
                    pixels = self._draw(wanted, first)
                    if is_main:
                        store.write(first, pixels[:here])
                counts[first] = here
                first += here
                progress.update(here)
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices("all images are drawn")
        return counts

    def _draw(self, wanted: Wanted, first: int) -> np.ndarray:
        ids = self.generator.draw(wanted.filled(self.settings.batch_size, first))
        images = colours(np.asarray(self.generator.decode(ids)))
        return to_pixels(resize_drawn(images, self.cut.sides) if self.cut.size else images)


def check_used(settings: SampleConfig) -> None:
    """Raise ValueError for settings that an evaluation does not follow, which its protocol could not tell either."""
    for field in dataclasses.fields(settings):
        usual = field.name in USED_SETTINGS or getattr(settings, field.name) == field.default
        evaluates = "an evaluation draws at the training's size, classes in turn or under held-out conditions; leave it"
        check(settings, field.name, usual, f"{evaluates} at {field.default!r}")


def open_reference(path: str, saved: Saved, measuring: Measuring) -> Opened:
    """A folder, statistics, a result, or "train" or "val": the data of the training, at its size or that of `cut`."""
    if path not in ("train", "val"):
        return open_set(path, measuring)
    if not saved.trained_here:
        raise ValueError(f"{saved.path!r} was not trained here, so its data is unknown: name a folder as --reference.")
    data = {**saved.config["data"], "batch_size": 64}
    images = of_data(measuring.cut.data(pictured(from_dict(DataConfig, data, "config.data"))), path)
    check_enough(images)
    return Opened(images)


def export_npz(images: ImageSet, path: str) -> None:
    """Images of one size as ADM's evaluator takes them: arr_0 uint8 (n, H, W, 3), and arr_1 their classes where they
    have any."""
    pixels = np.stack([x for x in images.read(0, images.n) if not isinstance(x, str)])
    arrays = {"arr_0": pixels} if images.labels is None else {"arr_0": pixels, "arr_1": images.labels}
    write_npz(path, {**arrays, EXPORTED: np.array(True)})


def _is_exported(path: epath.Path) -> bool:
    return is_npz(path, "arr_0", EXPORTED)


def measured_samples(
    model: Model, images: ImageSet, reference: Statistics, measuring: Measuring
) -> tuple[Compared, Statistics]:
    """(the figures of drawn images, their statistics)."""
    statistics = Opened(images).measure(measuring)
    compared = compare(reference, statistics, model.settings.seed)
    figures = dict(compared.figures)
    known = known_data(model.saved.config)
    if known and images.labels is not None:
        read = np.concatenate([known.read_class(x[None]) for x in images.read(0, images.n) if not isinstance(x, str)])
        figures["class_read_right"] = float(np.mean(read == images.labels))
    return dataclasses.replace(compared, figures=figures), statistics


def protocol_of(model: Model, measuring: Measuring, details: Mapping[str, Any]) -> dict[str, Any]:
    """What results of drawn images say, without the reference."""
    drawn = {k: to_dict(model.settings)[k] for k in ("n", *KEPT_SETTINGS)}
    return {
        "checkpoint": model.checkpoint(),
        "drawn": {**drawn, "rounding": ROUNDING, "size": list(model.generator.training_pixels), **model.resized},
        "features": measuring.protocol(),
        **details,
    }


def samples(
    workdir: str,
    settings: SampleConfig,
    reference: str,
    out: str,
    measuring: Measuring,
    export: str = "",
    by_class: bool = False,
) -> Compared:
    """Draw `settings.n` images, compare them with the reference, and write the result with its statistics; the images
    stay in OUT_images. export: an npz for them, "" for none. by_class: also the figures of each class. Raises
    ValueError before anything is drawn."""
    clock = Clock()
    check_out(out, [reference], [".npz"])
    if export:
        check_outputs(f"--export-npz={export}", {export: _is_exported}, [reference])
    if settings.n < 2:
        raise ValueError(f"--n={settings.n}: a distance needs at least 2 images.")
    model = Model.open(workdir, settings, measuring.cut)
    measuring = dataclasses.replace(measuring, cut=model.cut)
    opened = open_reference(reference, model.saved, measuring)
    if by_class and not (
        model.generator.model.condition.by_class and opened.images and opened.images.labels is not None
    ):
        raise ValueError(
            "--by_class needs a model of classes, and a reference with them: train, val, or npz with arr_1."
        )
    store = model.store(images_folder(out))
    real = opened.measure(measuring)
    images = model.draw(store)
    compared, statistics = measured_samples(model, images, real, measuring)
    protocol = {"measured": "samples", "reference": described(real), "images": described(statistics)}
    protocol |= protocol_of(model, measuring, compared.details)
    if export:
        protocol["exported"] = export
    figures: dict[str, Any] = dict(compared.figures)
    if by_class:
        figures["by_class"] = compare_by_class(real, statistics)
    picture = sheet({"reference": real.shown, "samples": statistics.shown})
    write_result(out, figures, compared.warnings, {**protocol, **environment(clock)}, picture, statistics)
    if export and jax.process_index() == 0:
        export_npz(images, export)
    return compared


def images_folder(out: str) -> Path:
    """Where drawn images stay beside a result."""
    path = Path(out)
    return path.with_name(f"{path.stem}_images")
