"""Measure trained models over held-out data: as hooks of the training programs, and as a command.

python -m taming_jax.evaluate --workdir=runs/demo_class [--out=DIR] [--samples=200]
"""

import argparse
import dataclasses
import json
import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from taming_jax import sharding
from taming_jax.checkpoint.saved import open_saved
from taming_jax.conditioning import resize_nearest
from taming_jax.data import demo, pipeline
from taming_jax.experiment import SampleConfig
from taming_jax.metrics.codebook import perplexity, usage
from taming_jax.models.gpt import unstack_layers
from taming_jax.models.vqgan import VQGAN, network_input
from taming_jax.pictures import grid
from taming_jax.sampling.filters import Filters
from taming_jax.settings import from_dict
from taming_jax.trained.generator import Generator
from taming_jax.trained.loading import load_saved
from taming_jax.trained.sampler import Request, Sampler
from taming_jax.trained.stages import pictured
from taming_jax.training.transformer import make_eval_step as make_token_eval
from taming_jax.training.vqgan import make_eval_step as make_image_eval
from taming_jax.two_stage import TwoStage

PICTURES = 8  # images in a grid's row, where a batch has as many


class FirstStageEvaluation:
    """Reconstruction quality and codebook use over the validation split; compiled once, called with parameters."""

    def __init__(self, model: VQGAN, data: pipeline.DataConfig, mesh: jax.sharding.Mesh, lpips_params: Any = None):
        if data.source == "codes":
            raise ValueError("config.data.source is 'codes', which say nothing to a first stage; name the images.")
        _require_images(data)
        self.model, self.data, self.mesh, self.lpips_params = model, data, mesh, lpips_params
        self._evaluate = jax.jit(make_image_eval(model))
        self._read = jax.jit(lambda batch: network_input(model.config, batch))

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of what it measures."""
        content = self.model.config.reads
        lpips = ("lpips",) if self.lpips_params is not None and content.image_losses else ()
        return (*content.measures, "usage", "perplexity", *lpips)

    def __call__(self, params: Any) -> dict[str, float]:
        """Means over the images: psnr (dB), ssim, l1, and lpips where its weights are there; for label maps accuracy,
        the share of pixels of the right label. Of the codes: usage (share of the codebook that occurs) and
        perplexity."""
        sums: dict[str, jax.Array] = {}
        for batch in _validation(self.data, self.mesh):
            for name, value in self._evaluate(params, batch, self.lpips_params).items():
                if name != "reconstruction":
                    sums[name] = sums[name] + value if name in sums else value
        n = float(sums.pop("n"))
        if n == 0:
            logging.warning("No image of the validation split could be read; nothing was measured.")
            return {}
        counts = sums.pop("code_counts")
        means = {name.removesuffix("_sum"): float(value) / n for name, value in sums.items()}
        return {**means, "usage": float(usage(counts)), "perplexity": float(perplexity(counts))}

    def pictures(self, params: Any) -> np.ndarray:
        """Held-out images and their reconstructions, alternating rows of `columns`: float32 (n, H, W, 3)."""
        batch = next(_validation(self.data, self.mesh))
        reconstruction = self._evaluate(params, batch, self.lpips_params)["reconstruction"]
        valid = _shown(batch)
        inputs = _whole(self._read(batch))
        return _rows(*(self.model.config.reads.picture(x[valid]) for x in (inputs, _whole(reconstruction))))


class GeneratorEvaluation:
    """Held-out likelihood, samples and completions of a transformer; compiled once, called with parameters."""

    def __init__(self, sampler: Sampler, data: pipeline.DataConfig, model: TwoStage | None = None):
        """model: the one that the parameters are for, where training keeps its layers in other arrays."""
        _require_images(data)
        self.sampler, self.data, self.mesh = sampler, data, sampler.mesh
        self._evaluate = jax.jit(make_token_eval(model or sampler.model))

    measures = ("nll", "bits_per_token")

    def __call__(self, params: Any) -> dict[str, float]:
        """nll: nats per token; bits_per_token."""
        nll, n = 0.0, 0.0
        for batch in _validation(self.data, self.mesh):
            sums = self._evaluate(params, self.sampler.stages.params, batch)
            nll, n = nll + float(sums["nll"]), n + float(sums["n"])
        if n == 0:
            logging.warning("No image of the validation split could be read; nothing was measured.")
            return {}
        return {"nll": nll / n, "bits_per_token": nll / n / math.log(2)}

    def pictures(self, params: Any, filters: Filters) -> dict[str, tuple[np.ndarray, list[str]]]:
        """Name -> (images, labels): samples, below their conditions where these can be drawn and above the images that
        have them, and completions of the upper half of held-out images below the originals' reconstructions."""
        params, sampler, condition = unstack_layers(params), self.sampler, self.sampler.model.condition
        first_stage = sampler.stages.first_stage
        batch = next(_validation(self.data, self.mesh))
        valid = _shown(batch)
        shown = {key: _whole(value)[valid][:PICTURES] for key, value in batch.items()}
        if "codes" in shown:  # in place of the images
            ids = shown["codes"]
            truth = np.asarray(first_stage.decode(ids))
        else:
            truth = shown["image"]
            ids = np.asarray(first_stage.encode(truth))
        n = len(ids)
        request = Request(shown, n, sampler.training_pixels, filters)
        keep = np.zeros(ids.shape, bool)
        keep[:, : ids.shape[1] // 2] = True
        samples = first_stage.decode(sampler.draw(params, request))
        completed = first_stage.decode(sampler.draw(params, dataclasses.replace(request, given=ids, keep=keep)))
        labels, drawn = condition.describe(shown, n), _drawn_condition(sampler, shown, n)
        rows = [samples] if drawn is None else [drawn, samples, truth]
        return {
            "samples": (_rows(*rows), labels * len(rows)),
            "completions": (_rows(first_stage.decode(ids), completed), labels * 2),
        }


def _drawn_condition(sampler: Sampler, batch: Mapping[str, np.ndarray], n: int) -> np.ndarray | None:
    """The conditions of a batch as pictures, also where it has only their tokens; None for those put in words."""
    stage, pixels = sampler.stages.condition_stage, sampler.training_pixels
    if stage is None or "condition_codes" not in batch:
        return sampler.model.condition.picture(batch, n, pixels)
    maps = np.asarray(stage.decode(batch["condition_codes"]))
    return resize_nearest(stage.config.reads.picture(maps), *pixels)


def columns(data: pipeline.DataConfig) -> int:
    """Images in a row of the grids that the evaluations make."""
    return min(PICTURES, data.batch_size, pipeline.num_examples(data, "val"))


def class_accuracy(generator: Generator, n: int, filters: Filters, batch_size: int) -> float:
    """Share of `n` class-conditional samples, `batch_size` drawn at once, that the demo's rule-based reader reads as
    the class asked for."""
    right, size = 0, min(n, batch_size)
    for first in range(0, n, size):
        labels = (first + np.arange(size)) % demo.N_CLASSES  # whole batches, so that it compiles once
        batch = generator.parse_condition(size, class_label=labels)
        images = generator.decode(generator.draw(Request(batch, size, generator.training_pixels, filters, first=first)))
        right += int(np.sum((demo.read_class(np.asarray(images)) == labels)[: n - first]))
    return right / n


def _validation(data: pipeline.DataConfig, mesh: jax.sharding.Mesh) -> Iterator[dict[str, jax.Array]]:
    """The validation split as global batches."""
    for batch in pipeline.make_batches(data, "val", **sharding.this_process(mesh)):
        yield sharding.put_batch(batch, mesh)


def _require_images(data: pipeline.DataConfig) -> None:
    if pipeline.num_examples(data, "val") == 0:
        raise ValueError("the validation split has no images; raise config.data.val_share or set config.data.val_path.")


def _whole(array: jax.Array) -> np.ndarray:
    """A global array as numpy on every process."""
    if array.is_fully_addressable:
        return np.asarray(array)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def _shown(batch: Mapping[str, jax.Array]) -> np.ndarray:
    """Which images of a batch to draw: those that are no padding; all where none is, so that there is a picture."""
    valid = _whole(batch["valid"])
    return valid if valid.any() else np.ones_like(valid)


def _rows(*batches: Any) -> np.ndarray:
    """Batches of the same length as alternating rows of `columns`, at most two of each."""
    arrays = [np.asarray(batch)[: 2 * PICTURES] for batch in batches]
    width = min(PICTURES, len(arrays[0]))
    rows = [array[i : i + width] for i in range(0, len(arrays[0]), width) for array in arrays]
    return np.concatenate(rows)


def evaluate(workdir: str, out: str, samples: int, batch_size: int) -> dict[str, float]:
    """Measure the model in `workdir`, write report.json, report.md and grids into `out`, and return the figures.

    samples: how many to read the class of, 0 for none. Raises ValueError for settings that do not fit, at once.
    """
    if samples < 0 or batch_size < 1:
        raise ValueError(f"--samples={samples}, --batch_size={batch_size}; expected at least 0 and at least 1.")
    saved = open_saved(workdir)
    if not saved.trained_here:
        raise ValueError(f"{workdir!r} was not trained here, so there is no held-out data to measure it on.")
    model, config = load_saved(saved), saved.config
    data = pictured(from_dict(pipeline.DataConfig, {**config["data"], "batch_size": batch_size}, "config.data"))
    first_stage = model.first_stage if isinstance(model, Generator) else model
    sharding.check_batch(batch_size, first_stage.mesh, name="--batch_size")
    folder = epath.Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"# Report on {workdir}", "", "| measure | value |", "|---|---|"]

    measure = FirstStageEvaluation(first_stage.model, data, first_stage.mesh)
    figures = {f"reconstruction/{name}": value for name, value in measure(first_stage.params).items()}
    pictures: dict[str, tuple[np.ndarray, list[str] | None]]
    pictures = {"reconstructions": (measure.pictures(first_stage.params), None)}
    if isinstance(model, Generator):
        filters = from_dict(SampleConfig, config["sample"], "config.sample").filters()
        held_out = GeneratorEvaluation(model.sampler, data)
        figures |= {f"transformer/{name}": value for name, value in held_out(model.params).items()}
        pictures |= held_out.pictures(model.params, filters)
        if samples and data.source == "demo" and model.model.condition.by_class:
            figures["samples/class_read_right"] = class_accuracy(model, samples, filters, batch_size)
    lines += [f"| {name} | {value:.4f} |" for name, value in figures.items()]
    for name, (images, labels) in pictures.items():
        with (folder / f"{name}.png").open("wb") as file:
            grid(images, columns(data), labels).save(file, format="PNG")
        lines += ["", f"## {name.capitalize()}", "", f"![{name}]({name}.png)"]
    (folder / "report.json").write_text(json.dumps(figures, indent=2))
    (folder / "report.md").write_text("\n".join(lines) + "\n")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m taming_jax.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, help="working directory of a training")
    parser.add_argument("--out", help="folder for the report; default: WORKDIR/report")
    parser.add_argument("--samples", type=int, default=200, help="samples to read the class of (demo data); 0: none")
    parser.add_argument("--batch_size", type=int, default=64, help="images at once")
    arguments = parser.parse_args()
    try:
        out = arguments.out or str(epath.Path(arguments.workdir) / "report")
        figures = evaluate(arguments.workdir, out, arguments.samples, arguments.batch_size)
    except (ValueError, OSError) as error:
        parser.exit(2, f"error: {error}\n")
    print("\n".join(f"{name:32s} {value:10.4f}" for name, value in figures.items()))
    print(f"The report is {out}/report.md.")


if __name__ == "__main__":
    main()
