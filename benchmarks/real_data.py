"""Small trainings of both stages on real data sets, to see that their files are read, learned from and drawn under.

    python benchmarks/real_data.py --ade20k DIR --coco DIR --coco_objects DIR --drin DIR [--out runs/real] [--steps N]

Any of the data sets may be left out; docs/data.md shows the layouts (--drin: a folder with images/ and depth/). At 64 x
64 pixels and 8 x 8 codes. Prints what the losses fall from and to, means of the first and the last tenth of the steps;
pictures, among them condition over sample over truth, are in each working directory's images/.
"""

import argparse
import dataclasses
import importlib
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import train_transformer
import train_vqgan
from taming_jax.data.config import Needs
from taming_jax.data.pipeline import num_labels
from taming_jax.experiment import TransformerExperiment, VQGANExperiment
from taming_jax.settings import from_dict

SETS = {  # configurations of the condition's stage, where there is one, and of the second stage
    "ade20k": (("ade20k_vqgan", "segmentation"), "ade20k"),
    "coco": (("coco_vqgan", "segmentation"), "coco"),
    "coco_objects": (None, "coco_scene"),
    "drin": (("drin_vqgan", ""), "drin"),
}
IMAGES = {"ade20k": "ade20k_vqgan", "coco": "coco_vqgan", "coco_objects": "coco_vqgan", "drin": "imagenet_vqgan"}
CODES = 256


def small(name: str, arg: str, data: dict, steps: int, **sections):
    """A configuration's experiment with a small network, on this data."""
    config = importlib.import_module(f"configs.{name}").get_config(arg).to_dict()
    config["data"] |= data | {"size": 64, "resize": 72, "batch_size": 8, "val_share": 0.25}
    config["train"] |= {"steps": steps, "log_every": 1, "eval_every": steps, "image_every": steps, "save_every": steps}
    config["train"] |= {"monitor": "", "show": ()}
    config["optimizer"] |= {"learning_rate": 2e-3, "per_sample": False, "warmup": 20, "b1": 0.9, "b2": 0.99}
    if "model" in config:
        config["model"] |= {"resolution": 64, "ch": 16, "ch_mult": (1, 2, 2, 4), "num_res_blocks": 1, "z_channels": 32}
        config["model"] |= {"attn_resolutions": (), "embed_dim": 16, "n_embed": CODES, "norm_groups": 8}
        config["model"] |= {"quantizer": "ema", "ema_decay": 0.98, "dtype": "float32"}
        config["loss"] |= {"perceptual_weight": 0.0, "disc_weight": 0.0}
    for section, values in sections.items():
        config[section] = config[section] | values if isinstance(values, dict) else values
    return from_dict(TransformerExperiment if "transformer" in config else VQGANExperiment, config)


def learned(workdir: str, loss: str) -> tuple[float, float]:
    """Means of a training loss over the first and the last tenth of the steps."""
    with open(f"{workdir}/metrics.jsonl", encoding="utf-8") as file:
        values = [line[loss] for line in map(json.loads, file) if loss in line]
    tenth = max(1, len(values) // 10)
    return sum(values[:tenth]) / tenth, sum(values[-tenth:]) / tenth


def train(name: str, path: str, out: str, steps: int) -> dict[str, tuple[float, float]]:
    """All stages on one data set -> what their losses fell from and to."""
    data = {"path": path}
    if name == "drin":
        data = {"path": f"{path}/images", "depths": f"{path}/depth", "classes": ""}
    condition_stage, second = SETS[name]
    found = {}
    source = from_dict(TransformerExperiment, importlib.import_module(f"configs.{second}").get_config().to_dict()).data
    data["source"] = source.source
    workdir = f"{out}/{name}_images"
    train_vqgan.train_and_evaluate(small(IMAGES[name], "", data, 2 * steps), workdir)
    found["images, l1"] = learned(workdir, "train/l1_loss")
    changes = {"first_stage": workdir}
    if condition_stage:
        changes["condition"] = {"stage": f"{out}/{name}_condition"}
        experiment = small(*condition_stage, data, 2 * steps)
        if experiment.model.content == "segmentation":
            labels = num_labels(experiment.data, Needs(experiment.model.reads.annotations))
            model = dataclasses.replace(experiment.model, in_channels=labels, out_channels=labels)
            # The mean over so many channels is small beside the quantizer's loss, which would silence the latents.
            loss = dataclasses.replace(experiment.loss, pixel_weight=float(labels))
            experiment = dataclasses.replace(experiment, model=model, loss=loss)
        train_vqgan.train_and_evaluate(experiment, changes["condition"]["stage"])
        found["condition, nll"] = learned(changes["condition"]["stage"], "train/nll_loss")
    else:
        changes["condition"] = {"n_codes": CODES, "n_classes": 0, "max_objects": 12}
    transformer = {"vocab_size": 512, "block_size": 127, "n_layer": 3, "n_head": 4, "n_embd": 192, "dtype": "float32"}
    transformer |= {"embedding_dropout": 0.0, "residual_dropout": 0.0}
    workdir = f"{out}/{name}"
    train_transformer.train_and_evaluate(small(second, "", data, steps, transformer=transformer, **changes), workdir)
    found["transformer, nats a token"] = learned(workdir, "train/loss")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in SETS:
        parser.add_argument(f"--{name}", help="folder of the data set")
    parser.add_argument("--out", default="runs/real")
    parser.add_argument("--steps", type=int, default=300)
    given = parser.parse_args()
    rows = {}
    for name in SETS:
        if getattr(given, name):
            rows[name] = train(name, getattr(given, name), given.out, given.steps)
    for name, row in rows.items():
        for stage, (first, last) in row.items():
            print(f"{name:14s} {stage:28s} {first:9.4f} -> {last:9.4f}")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
