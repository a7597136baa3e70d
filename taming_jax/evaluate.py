"""Measure a trained model over held-out data.

python -m taming_jax.evaluate --workdir=runs/demo_class [--out=DIR] [--samples=200]
python -m taming_jax.evaluate distance A B --features weights/inception_fid.npz --out RESULT.json

The second form has further commands, see docs/quality.md.
"""

if __name__ == "__main__":  # before the imports, which take seconds
    from taming_jax.stopping import listen

    listen()

import argparse
import json
import os
import sys

import numpy as np
from etils import epath

from taming_jax import sharding, stopping
from taming_jax.checkpoint import beside, open_saved
from taming_jax.data.config import DataConfig
from taming_jax.data.demo.known import KNOWN
from taming_jax.experiment import saved_filters
from taming_jax.files import write_whole
from taming_jax.outputs import Ours, check_outputs, is_json, is_text
from taming_jax.pictures import grid, is_ours, save_grid
from taming_jax.priors.filters import Filters
from taming_jax.program import readable_errors, run_to_its_end
from taming_jax.quality import commands
from taming_jax.settings import from_dict
from taming_jax.trained.evaluation import FirstStageEvaluation, GeneratorEvaluation, columns
from taming_jax.trained.generator import Generator
from taming_jax.trained.loading import load_saved
from taming_jax.trained.sampler import Request
from taming_jax.trained.stages import pictured

PICTURES = ("reconstructions", "samples", "completions")  # that the report may have


def class_accuracy(generator: Generator, n: int, filters: Filters, batch_size: int, source: str) -> float:
    """Share of `n` class-conditional samples, `batch_size` drawn at once, that the reader of the demo's scenes or
    landscapes reads as the class asked for."""
    known, right, size = KNOWN[source], 0, min(n, batch_size)
    for first in range(0, n, size):
        labels = (first + np.arange(size)) % known.n_classes  # whole batches, so that it compiles once
        batch = generator.parse_condition(size, class_label=labels)
        images = generator.decode(generator.draw(Request(batch, size, generator.training_pixels, filters, first=first)))
        right += int(np.sum((known.read_class(np.asarray(images)) == labels)[: n - first]))
    return right / n


def evaluate(workdir: str, out: str, samples: int, batch_size: int) -> dict[str, float]:
    """Measure the model in `workdir`, print the figures, and write report.json, report.md and grids into `out`.

    samples: how many to read the class of, 0 for none. Raises ValueError for settings that do not fit, at once.
    """
    if samples < 0 or batch_size < 1:
        raise ValueError(f"--samples={samples}, --batch_size={batch_size}; expected at least 0 and at least 1.")
    saved = open_saved(workdir)
    if not saved.trained_here:
        raise ValueError(f"{workdir!r} was not trained here, so there is no held-out data to measure it on.")
    model, config = load_saved(saved), saved.config
    data = pictured(from_dict(DataConfig, {**config["data"], "batch_size": batch_size}, "config.data"))
    first_stage = model.first_stage if isinstance(model, Generator) else model
    sharding.check_batch(batch_size, first_stage.mesh, name="--batch_size")
    folder = epath.Path(out)
    files: dict[epath.Path, Ours] = {folder / f"{name}.png": is_ours for name in PICTURES}
    files[folder / "report.json"] = lambda path: is_json(path, "reconstruction/usage")
    files[folder / "report.md"] = lambda path: is_text(path, "# Report on ")
    check_outputs(f"--out={out}", files)
    lines = [f"# Report on {workdir}", "", "| measure | value |", "|---|---|"]

    measure = FirstStageEvaluation(first_stage.model, data, first_stage.mesh)
    figures = {f"reconstruction/{name}": value for name, value in measure(first_stage.params).items()}
    pictures = {**measure.pictures(first_stage.params)}
    if isinstance(model, Generator):
        filters = saved_filters(config)
        held_out = GeneratorEvaluation(model.sampler, data)
        figures |= {f"transformer/{name}": value for name, value in held_out(model.params).items()}
        pictures |= held_out.pictures(model.params, filters)
        if samples and data.source in KNOWN and model.model.condition.by_class:
            figures["samples/class_read_right"] = class_accuracy(model, samples, filters, batch_size, data.source)
    lines += [f"| {name} | {value:.4f} |" for name, value in figures.items()]
    print("\n".join(f"{name:32s} {value:10.4f}" for name, value in figures.items()), flush=True)
    for name, (images, labels) in pictures.items():
        save_grid(grid(images, columns(data), labels), folder / f"{name}.png")
        lines += ["", f"## {name.capitalize()}", "", f"![{name}]({name}.png)"]
    write_whole(folder / "report.json", json.dumps(figures, indent=2))
    write_whole(folder / "report.md", "\n".join(lines) + "\n")
    return figures


def main() -> None:
    if sys.argv[1:] and sys.argv[1] in commands.COMMANDS:
        commands.main(sys.argv[1:])
        return
    parser = argparse.ArgumentParser(prog="python -m taming_jax.evaluate", description=__doc__.splitlines()[0])
    parser.epilog = f"Further commands, each with --help: {', '.join(commands.COMMANDS)}."
    parser.add_argument("--workdir", type=os.path.expanduser, required=True, help="working directory of a training")
    parser.add_argument("--out", type=os.path.expanduser, help="folder for the report; default: WORKDIR/report")
    parser.add_argument(
        "--samples", type=int, default=200, help="samples to read the class of (demo, landscapes); 0: none"
    )
    parser.add_argument("--batch_size", type=int, default=64, help="images at once")
    arguments = parser.parse_args()
    with readable_errors(2), stopping.telling(lambda: "there is no report yet"):
        out = arguments.out or beside(arguments.workdir, "report")
        evaluate(arguments.workdir, out, arguments.samples, arguments.batch_size)
    print(f"The report is {out}/report.md.")


if __name__ == "__main__":
    run_to_its_end(main)
