"""Whether each condition is obeyed, on the demo's scenes: a table of samples, reconstructions and wrong conditions.

    python benchmarks/conditions.py [--out runs/conditions] [--only segmentation,boxes] [--runs runs]

Trains what configs/demo_*.py name into RUNS/demo_* (about 80 minutes in all on 2 CPU cores; what is finished there is
used as it is, what was stopped goes on), draws an image for each of 64 held-out scenes under the scene's condition, and
reads from the images what was asked for (measures.py). `ceiling` is the same measure on the reconstructions of the real
scenes, which is the best that samples of this first stage can do; `wrong` measures samples against the condition of
another scene. Prints a table and leaves it in OUT/conditions.json, with pictures: OUT/CONDITION.png has condition,
sample and real scene below one another, OUT/overview.png the first two of all conditions. --quick: tiny models and few
steps, to see that it runs.
"""

import argparse
import dataclasses
import importlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))  # this project, installed or not

import measures

from taming_jax import checkpoint
from taming_jax.data import pipeline
from taming_jax.data.config import DataConfig
from taming_jax.experiment import TransformerExperiment, VQGANExperiment
from taming_jax.pictures import grid
from taming_jax.settings import from_dict
from taming_jax.trained.generator import Generator
from taming_jax.trained.loading import load
from taming_jax.trained.sampler import Request

SHOWN = 8  # scenes in a picture


@dataclasses.dataclass(frozen=True)
class Test:
    """What is measured of a condition's samples. bar: the figure that must be reached, from the ceiling's."""

    measure: str
    read: Callable[[np.ndarray, dict[str, np.ndarray]], float]
    higher: bool  # is better
    bar: Callable[[float], float]

    def met(self, ceiling: float, sample: float, wrong: float) -> bool:
        """The bar is reached, and samples under a wrong condition are clearly worse."""
        if self.higher:
            return sample >= self.bar(ceiling) and wrong < 0.75 * sample
        return sample <= self.bar(ceiling) and wrong > 1.5 * sample


TESTS = {
    "class_label": Test("share of images of the class", measures.right_class, True, lambda ceiling: 0.9),
    "segmentation": Test("mean IoU of the label map", measures.label_iou, True, lambda ceiling: 0.6 * ceiling),
    "depth": Test("mean error of the depth", measures.depth_error, False, lambda ceiling: 2 * ceiling),
    "edges": Test("distance of the edges, pixels", measures.edge_distance, False, lambda ceiling: 2 * ceiling),
    "low_res": Test("mean error of the small image", measures.low_res_error, False, lambda ceiling: 2 * ceiling),
    "pose": Test("share of figures found, IoU > 0.5", measures.figures_found, True, lambda ceiling: 0.6 * ceiling),
    "boxes": Test("share of boxes found, IoU > 0.5", measures.boxes_found, True, lambda ceiling: 0.7),
    "points": Test("share of centres within 3 pixels", measures.centres_found, True, lambda ceiling: 0.7),
}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parse(arguments)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    figures, overview = {}, {}
    for name in options.only.split(","):
        started = time.perf_counter()
        generator = trained(name, options)
        seconds = time.perf_counter() - started
        figures[name], overview[name] = measure(name, generator, options, out)
        print(json.dumps({name: figures[name], "seconds_to_train": round(seconds, 1)}), flush=True)
    result = {"device": jax.devices()[0].device_kind, "scenes": options.scenes, "conditions": figures}
    (out / "conditions.json").write_text(json.dumps(result, indent=2), encoding="utf-8")
    _draw(overview, out / "overview.png")
    print(table(figures))
    return result


def trained(name: str, options: argparse.Namespace) -> Generator:
    """The model of a condition, trained where it is not yet, as are the first stages that it needs."""
    second = experiment(name, options)
    for stage in ("vqgan", f"{name}_vqgan"):
        if f"demo_{stage}" in (Path(second.first_stage).name, Path(second.condition.stage).name):
            _train(experiment(stage, options), "train_vqgan")
    _train(second, "train_transformer")
    model = load(second.workdir)
    assert isinstance(model, Generator)
    return model


def experiment(name: str, options: argparse.Namespace) -> Any:
    """The settings of configs/demo_NAME.py, in the folder of `options.runs`."""
    name = "class" if name == "class_label" else name
    config = importlib.import_module(f"configs.demo_{name}").get_config("tiny" if options.quick else "").to_dict()
    config["workdir"] = f"{options.runs}/demo_{name}"
    if options.quick:
        few = {"steps": 4, "log_every": 2, "eval_every": 4, "image_every": 4, "save_every": 4, "monitor": ""}
        config["train"] |= few
        config["data"] |= {"n_train": 16, "n_val": 8}
        config.get("loss", {})["disc_weight"] = 0.0
        config.get("transformer", {})["n_layer"] = 1
        config.get("model", {}).update({"ch": 8, "ch_mult": (1, 1, 1), "attn_resolutions": ()})
    if "transformer" not in config:
        return from_dict(VQGANExperiment, config)
    config["first_stage"] = f"{options.runs}/demo_vqgan"
    if config["condition"]["stage"] not in ("", "first_stage"):
        config["condition"]["stage"] = f"{options.runs}/demo_{name}_vqgan"
    return from_dict(TransformerExperiment, config)


def _train(wanted: Any, program: str) -> None:
    """Train to the end, or go on. Raises ValueError for another model's directory, SystemExit where it was stopped."""
    if checkpoint.has_checkpoint(wanted.workdir):
        part = "transformer" if isinstance(wanted, TransformerExperiment) else "model"
        settings, saved = getattr(wanted, part), checkpoint.load_config(wanted.workdir)
        settings = getattr(settings, "settled", settings)
        left = ("vocab_size", "block_size")  # 0 where they are what the parts need, which the saved ones tell
        computed = {name: 0 for name in left if getattr(settings, name, None) == 0}
        same = part in saved and dataclasses.replace(from_dict(type(settings), saved[part]), **computed) == settings
        if not same:
            raise ValueError(f"{wanted.workdir!r} holds another model; give another folder with --runs.")
        if int(checkpoint.find_step(wanted.workdir).name) >= wanted.train.steps:
            return
    print(f"training {wanted.workdir}: {wanted.train.steps} steps", flush=True)
    if not importlib.import_module(program).train_and_evaluate(wanted, wanted.workdir):
        sys.exit(143)


def measure(name: str, generator: Generator, options: argparse.Namespace, out: Path):
    """(figures of a condition, its picture's rows: name -> images)."""
    test, scenes = TESTS[name], held_out(options.scenes)
    condition, filters = generator.model.condition, experiment(name, options).sample.filters()
    request = Request(scenes, options.scenes, scenes["image"].shape[1:3], filters)
    samples = np.asarray(generator.decode(generator.draw(request)))
    reconstructions = np.asarray(generator.first_stage.reconstruct(scenes["image"]))
    ceiling = test.read(reconstructions, scenes)
    sample = test.read(samples, scenes)
    wrong = test.read(np.roll(samples, 1, axis=0), scenes)  # each sample before the next scene's condition
    drawn = condition.picture(scenes, options.scenes, scenes["image"].shape[1:3])
    rows = {"samples": samples[:SHOWN]} if drawn is None else {name: drawn[:SHOWN], "samples": samples[:SHOWN]}
    labels = {"samples": condition.describe(scenes, options.scenes)[:SHOWN]} if drawn is None else {}
    _draw({name: {**rows, "real scenes": scenes["image"][:SHOWN]}}, out / f"{name}.png", labels)
    figures = {"measure": test.measure, "higher_is_better": test.higher, "ceiling": ceiling, "sample": sample}
    figures |= {"wrong": wrong, "bar": test.bar(ceiling), "met": test.met(ceiling, sample, wrong)}
    return figures, rows


def _draw(blocks: dict[str, dict[str, np.ndarray]], file: Path, labels: dict[str, list[str]] | None = None) -> None:
    """Rows of images below one another, named under their first image, unless there are `labels` for all of them."""
    rows = [(name, images) for block in blocks.values() for name, images in block.items()]
    texts = [text for name, images in rows for text in (labels or {}).get(name, [name] + [""] * (len(images) - 1))]
    grid(np.concatenate([images for _, images in rows]), len(rows[0][1]), texts).save(file)


def held_out(n: int) -> dict[str, np.ndarray]:
    """Validation scenes of 32 x 32 pixels with every annotation."""
    annotations = ("class_label", "segmentation", "depth", "crop", "objects", "keypoints")
    data = DataConfig("demo", size=32, batch_size=n, n_val=n, max_objects=4, annotations=annotations)
    return next(iter(pipeline.make_batches(data, "val")))


def table(figures: dict[str, Any]) -> str:
    lines = ["| condition | measure | ceiling | samples | wrong condition | bar | met |", "|" + "---|" * 7]
    for name, row in figures.items():
        sign = "≥" if row["higher_is_better"] else "≤"
        numbers = " | ".join(f"{row[key]:.3f}" for key in ("ceiling", "sample", "wrong"))
        met = "yes" if row["met"] else "no"
        lines.append(f"| {name} | {row['measure']} | {numbers} | {sign} {row['bar']:.3f} | {met} |")
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="runs/conditions", help="folder for the table and the pictures")
    parser.add_argument("--runs", default="runs", help="folder of the trainings")
    parser.add_argument("--only", default=",".join(TESTS), help="conditions, with commas between them")
    parser.add_argument("--scenes", type=int, default=64, help="held-out scenes to measure on")
    parser.add_argument("--quick", action="store_true", help="tiny models and few steps, to see that it runs")
    options = parser.parse_args(arguments)
    if unknown := set(options.only.split(",")) - set(TESTS):
        parser.error(f"unknown condition(s) {', '.join(sorted(unknown))}; known: {', '.join(TESTS)}")
    return options


if __name__ == "__main__":
    main()
