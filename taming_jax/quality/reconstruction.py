"""`evaluate reconstruction`: what a first stage keeps of held-out images, in all measures of the field."""

from collections.abc import Iterator
from typing import Any

import jax
from tqdm import tqdm

from taming_jax import sharding
from taming_jax.checkpoint import open_saved
from taming_jax.data import pipeline
from taming_jax.data.config import DataConfig
from taming_jax.metrics.states import FirstStageMetrics
from taming_jax.models.lpips import load_lpips
from taming_jax.pictures import colours, to_pixels
from taming_jax.quality.distance import Measuring
from taming_jax.quality.measures import Compared, compare
from taming_jax.quality.result import Clock, check_out, checkpoint_of, described, environment, sheet, write_result
from taming_jax.quality.statistics import Gathering, Statistics
from taming_jax.settings import from_dict
from taming_jax.trained.evaluation import FirstStageEvaluation, whole
from taming_jax.trained.first_stage import FirstStage
from taming_jax.trained.generator import Generator
from taming_jax.trained.loading import load_saved
from taming_jax.trained.stages import pictured


def data_of(
    config: dict[str, Any], path: str, images: str, size: int, batch_size: int, resampling: str = ""
) -> DataConfig:
    """The validation split of the training, or the images of a folder in its place, cut from the middle to `size`
    pixels by `resampling` (0, "": as in training). Raises ValueError where neither is known."""
    if not images:
        if "source" not in config:
            raise ValueError(f"{path!r} was not trained here, so its data is unknown: give --images and --size.")
        if size or resampling:
            given = f"--size={size}" if size else f"--resampling={resampling}"
            raise ValueError(f"{given} is for --images; without them the images are those of the training.")
        return pictured(from_dict(DataConfig, {**config, "batch_size": batch_size}, "config.data"))
    side = size or config.get("size", 0)
    if not side:
        raise ValueError(f"--images={images} needs --size, since {path!r} does not say how large its images are.")
    kept = ("channels", "color_profiles", "resampling")
    like: dict[str, Any] = {name: config[name] for name in kept if name in config}
    like |= {"resampling": resampling} if resampling else {}
    values = {"source": "folder", "path": images, "val_path": images, "size": side, "batch_size": batch_size}
    return from_dict(DataConfig, {**values, **like}, "--images")


class ReconstructionMeasure:
    """Both sides of a first stage over the validation split, in one pass: its own measures, and sets of features."""

    def __init__(self, measure: FirstStageEvaluation, measuring: Measuring) -> None:
        if measure.model.config.content != "image":
            raise ValueError(f"this first stage reads {measure.model.config.content}; features are of images only.")
        self.measure, self.measuring = measure, measuring
        self.n = pipeline.num_examples(measure.data, "val", measure.needs)

    def __call__(self, params: Any) -> tuple[dict[str, float], Statistics, Statistics]:
        """(means as of FirstStageEvaluation, statistics of the originals, of the reconstructions)."""
        features, size = self.measuring.features, self.measure.data.batch_size
        real, fake = (Gathering(features, size, self.measuring.keep) for _ in range(2))
        total: FirstStageMetrics | None = None
        for batch, metrics, reconstruction in self._batches(params):
            total = total.merge(metrics) if total else metrics
            valid = whole(batch["valid"])
            real.add_pixels(to_pixels(colours(whole(batch["image"]))), valid)
            fake.add_pixels(to_pixels(colours(whole(reconstruction))), valid)
        figures = total.compute() if total else {}
        left_out = [f"{self.n - real.n} of the validation split"] * (self.n > real.n)
        return figures, real.result("originals", left_out), fake.result("reconstructions", left_out)

    def _batches(self, params: Any) -> Iterator[tuple[dict[str, jax.Array], FirstStageMetrics, jax.Array]]:
        with tqdm(total=self.n, unit="image", desc="reconstructing") as progress:
            for batch in self.measure.batches():
                metrics, reconstruction = self.measure.evaluate(params, batch)
                yield batch, metrics, reconstruction
                progress.update(min(self.measure.data.batch_size, self.n - progress.n))


def reconstruction(
    workdir: str,
    out: str,
    measuring: Measuring,
    images: str = "",
    size: int = 0,
    lpips: str = "",
    step: str = "",
    resampling: str = "",
) -> Compared:
    """Measure the first stage in `workdir`, or that of a second stage, and write the result.

    images, size, resampling: see `data_of`. lpips: weights for LPIPS, "" for none. The FID of the reconstructions is
    rfid.
    """
    clock = Clock()
    check_out(out, [images, lpips], [".npz"])
    saved = open_saved(workdir, step or None)
    loaded = load_saved(saved, mesh=measuring.features.mesh)
    first_stage = loaded.first_stage if isinstance(loaded, Generator) else loaded
    if not isinstance(first_stage, FirstStage):
        raise ValueError(f"{workdir!r} holds a transformer alone; name the directory of a first stage.")
    data = data_of(dict(saved.config.get("data", {})), workdir, images, size, measuring.batch_size, resampling)
    weights = jax.device_put(load_lpips(lpips), sharding.replicated(first_stage.mesh)) if lpips else None
    measure = FirstStageEvaluation(first_stage.model, data, first_stage.mesh, weights)
    figures, real, fake = ReconstructionMeasure(measure, measuring)(first_stage.params)
    compared = compare(real, fake)
    renamed = {"rfid" if name == "fid" else name: value for name, value in compared.figures.items()}
    figures = {**figures, **renamed}
    protocol = {
        "measured": "reconstruction",
        "checkpoint": checkpoint_of(workdir, saved.step, first_stage.params),
        "reference": {**described(real), "source": f"{data.source} {data.val_path or data.path} (val)"},
        "size": list(data.sides),
        **({"resampling": data.resampling} if data.resampling != "bicubic" else {}),
        "features": measuring.protocol(),
        "lpips": lpips or None,
        **compared.details,
    }
    picture = sheet({"original": real.shown[:8], "reconstruction": fake.shown[:8]})
    write_result(out, figures, compared.warnings, {**protocol, **environment(clock)}, picture, fake)
    return Compared(figures, compared.warnings, compared.details)
