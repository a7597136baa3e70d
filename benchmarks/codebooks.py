"""Quantizers side by side at equal time, on landscapes: how many of their codes live, and what they are worth.

    python benchmarks/codebooks.py [--seconds 200] [--codes 1024,16384] [--seeds 3] [--size 64] [--out runs/codebooks]
    python benchmarks/codebooks.py --steps 80 --second_steps 40 --size 32 --codes 1024 --seeds 1 --pictures 256  # quick

Every kind trains the same networks from the same start, of whose time (on CPUs the processor's) compiling is no part;
without a discriminator, so that they differ in their codes alone. Then a transformer learns the codes of the training
pictures. Measured on held-out pictures: the share of codes in use over them and over the last 65,536 ids of the
training, PSNR, the Frechet distance of the reconstructions on the package's own features of landscapes, and bits per
pixel of the second stage's likelihood. Those bits alone are no merit, for fewer codes in use cost less: hence also the
bits of the whole picture, those of its codes and of what the decoder leaves, a bound on -log2 p(x) in 8-bit levels with
a Laplace distribution around the reconstruction, its scale the mean error of a color channel.

Prints a row a run, and leaves OUT/codebooks.json, OUT/codebooks.md, the table of means over the seeds, and
OUT/codebooks.png. Runs that are in the JSON already, with the same options and settings, are not done again.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

sys.path.insert(0, str(Path(__file__).parent.parent))  # this project, installed or not

from taming_jax import sharding
from taming_jax.conditioning import NoCondition
from taming_jax.data.demo import DemoLandscapes
from taming_jax.metrics.states import FirstStageMetrics
from taming_jax.models.gpt import GPT, GPTConfig
from taming_jax.models.vqgan import VQGAN, VQGANConfig
from taming_jax.pictures import to_pixels
from taming_jax.quality.features import open_features
from taming_jax.quality.measures import compare
from taming_jax.quality.statistics import Gathering, Statistics
from taming_jax.trained.evaluation import make_image_eval
from taming_jax.training.optim import OptimizerConfig, make_optimizer
from taming_jax.training.transformer import TransformerTraining
from taming_jax.training.vqgan import VQGANTraining
from taming_jax.training.vqgan_loss import VQGANLossConfig
from taming_jax.two_stage import TwoStage

BATCH, WINDOW = 8, 65536
SECOND_BATCH = 2  # each of 256 codes: with 16384 of them the output layer is most of the work
NETWORK = {"ch": 8, "ch_mult": (1, 2, 4), "num_res_blocks": 1, "attn_resolutions": (), "z_channels": 32}
LEVELS = {1024: (8, 5, 5, 5), 16384: (8, 8, 8, 6, 5)}  # the nearest of FSQ's table: 1000 and 15360 codes
# In hundreds of steps, not hundreds of thousands, idle codes have to be known early.
RESTARTS = {"restart_below": 0.5, "ema_decay": 0.98}
# The paper's has as many channels as latents and nothing else. The others have what their papers or programs have, in
# 8 channels; simvq and ibq, which have 128 and 256 there, in as many as latents.
KINDS: dict[str, dict[str, Any]] = {
    "paper": {"quantizer": "vq", "embed_dim": 32},
    "vq": {"quantizer": "vq", "embed_dim": 8, "kmeans": 5, **RESTARTS},
    "ema": {"quantizer": "ema", "embed_dim": 8, "ema_restart_below": 0.5, "ema_decay": 0.98},
    "l2": {"quantizer": "normalized", "embed_dim": 8, **RESTARTS},
    "simvq": {"quantizer": "simvq", "embed_dim": 32},
    "ibq": {"quantizer": "ibq", "embed_dim": 32, "entropy_weight": 0.05},
    "fsq": {"quantizer": "fsq"},
    "lfq": {"quantizer": "lfq", "entropy_weight": 0.1},
    "bsq": {"quantizer": "bsq", "entropy_weight": 0.1},
}
ROTATED = ("paper", "vq", "ema", "l2", "simvq")
MEASURES = {  # what the table says of each, and how
    "usage": ("codes in use, held out", "{:.1%}"),
    "usage_recent": ("codes in use, recent", "{:.1%}"),
    "psnr": ("PSNR, dB", "{:.2f}"),
    "distance": ("distance", "{:.2f}"),
    "bits": ("bits per pixel, codes", "{:.3f}"),
    "total_bits": ("bits per pixel, picture", "{:.2f}"),
    "steps": ("steps", "{:.0f}"),
}
DRAWN = {"usage": "linear", "psnr": "linear", "distance": "log", "total_bits": "linear"}  # by the plot, on this scale


def settings_of(kind: str) -> dict[str, Any]:
    """Of a kind, with the rotation trick or without."""
    return KINDS[kind.removesuffix("+rotation")]


def network(kind: str, codes: int, size: int) -> VQGANConfig:
    """The first stage of a kind, `fsq` or `fsq+rotation`."""
    name, *rotation = kind.split("+")
    settings = {**NETWORK, "resolution": size, "norm_groups": 8, "n_embed": codes, **settings_of(kind)}
    if name == "fsq":
        levels = LEVELS[codes]
        settings |= {"levels": levels, "embed_dim": len(levels), "n_embed": math.prod(levels)}
    if name in ("lfq", "bsq"):
        settings["embed_dim"] = codes.bit_length() - 1
    return VQGANConfig(**settings, **({"estimator": "rotation"} if rotation else {}))


def first_stage(config: VQGANConfig, data: np.ndarray, seed: int, given: argparse.Namespace) -> tuple[Any, dict]:
    """(parameters, what was found on the way), after `given.steps` or `given.seconds`."""
    optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=0.0, b1=0.9, b2=0.99)
    heavier = {"entropy_start": 3.0, "entropy_steps": 200} if config.entropy_weight else {}
    loss = VQGANLossConfig(perceptual_weight=0.0, disc_weight=0.0, **heavier)
    model, shape = VQGAN(config), (BATCH, given.size, given.size, 3)
    training = VQGANTraining(model, None, loss, optimizer, None, shape, seed=seed, usage_window=WINDOW)
    state, order = jax.jit(training.init)(jax.random.key(seed)), np.random.RandomState(seed)
    step = jax.jit(training.step).lower(state, None, {"image": data[:BATCH]}).compile()
    # What else a machine is doing takes no training from a kind, where the time of its own processor can be had.
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    started, n, over = clock(), 0, 0.0
    while over < 1:
        # How many steps there will be is not known, so it is the share of the time by which the rate falls.
        rate = 3e-3 * min(1.0, n / 100) * math.cos(math.pi / 2 * over) ** 2
        state.opt_state.hyperparams["learning_rate"] = jnp.asarray(rate, jnp.float32)
        state, metrics = step(state, None, {"image": data[order.randint(0, len(data), BATCH)]})
        jax.block_until_ready(metrics)
        n += 1
        over = n / given.steps if given.steps else (clock() - started) / given.seconds
    found = {name: float(metrics[name]) for name in ("usage_recent", "perplexity_recent")}
    return state.params, {**found, "steps": n, "s": clock() - started}


def second_stage(model: VQGAN, params: Any, data: dict[str, np.ndarray], seed: int, steps: int) -> float:
    """Bits per pixel of (up to 512) held-out pictures by a small transformer on the codes."""
    encode = jax.jit(lambda images: model.apply({"params": params}, images, method="encode_ids"))
    # Only the pictures that are drawn, in their order.
    order = np.random.RandomState(seed).randint(0, len(data["train"]), steps * SECOND_BATCH)
    codes = {"train": _in_parts(encode, data["train"][order]), "val": _in_parts(encode, data["val"][:512])}
    gpt = GPT(GPTConfig(n_layer=3, n_head=4, n_embd=192))
    stages = TwoStage(model, gpt, NoCondition(), codes["train"].shape[1:])
    recipe = OptimizerConfig(learning_rate=1e-3, per_sample=False, schedule="cosine", warmup=min(50, steps // 2))
    training = TransformerTraining(stages, make_optimizer(recipe, batch_size=SECOND_BATCH, steps=steps), seed=seed)
    state, step = jax.jit(training.init)(jax.random.key(seed)), jax.jit(training.step, donate_argnums=0)
    for batch in codes["train"].reshape(steps, SECOND_BATCH, *codes["train"].shape[1:]):
        state, _ = step(state, {}, {"codes": batch})
    nll = jax.jit(lambda ids: -stages.prior.log_likelihood(state.params, *stages.read({}, {"codes": ids})))
    pixels = math.prod(data["val"].shape[1:3])
    return float(_in_parts(nll, codes["val"]).mean()) / math.log(2) / pixels


def measured(model: VQGAN, params: Any, images: np.ndarray, real: Statistics, features: Any) -> dict[str, float]:
    """Of held-out pictures: psnr, usage, distance, and residual_bits per pixel, what the reconstructions leave."""
    evaluate, gathering = jax.jit(make_image_eval(model)), Gathering(features, BATCH, 0)
    total: FirstStageMetrics | None = None
    errors = []
    for first in range(0, len(images), BATCH):
        batch = images[first : first + BATCH]
        metrics, fake = jax.device_get(evaluate(params, {"image": batch}))
        total = total.merge(metrics) if total else metrics
        gathering.add_pixels(to_pixels(fake), np.ones(BATCH, bool))
        errors.append(127.5 * np.abs(fake - batch))  # in 8-bit levels
    assert total is not None
    figures = total.compute()
    distance = compare(real, gathering.result("reconstructions"), only=("fid",)).figures["fid"]
    scale = np.concatenate(errors).mean(axis=(0, 1, 2))  # of a color channel
    residual = np.log2(2 * math.e * scale).sum()  # a Laplace's entropy
    found = {"psnr": figures["psnr"], "usage": figures["usage"], "distance": distance, "residual_bits": residual}
    return {name: float(value) for name, value in found.items()}


def _in_parts(function: Any, array: np.ndarray) -> np.ndarray:
    return np.concatenate([np.asarray(function(array[i : i + BATCH])) for i in range(0, len(array), BATCH)])


def pictures_of(size: int, n: int, seed: int) -> np.ndarray:
    """float32 (n, size, size, 3) in [-1, 1]."""
    drawn = DemoLandscapes((size, size), n, seed)
    parts = [drawn.part(i, (size, size), 0, 0)["image"] for i in range(n)]
    return np.stack(parts).astype(np.float32) / 127.5 - 1


def means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Over the seeds, with the number of seeds."""
    found = []
    for case in dict.fromkeys((row["kind"], row["codes"]) for row in rows):
        own = [row for row in rows if (row["kind"], row["codes"]) == case]
        figures = {name: float(np.mean([row[name] for row in own])) for name in MEASURES}
        found.append({"kind": case[0], "codes": case[1], "seeds": len(own), **figures})
    return found


def table(rows: list[dict[str, Any]]) -> str:
    titles = " | ".join(title for title, _ in MEASURES.values())
    lines = [f"| quantizer | codes | seeds | {titles} |", "|---" * (len(MEASURES) + 3) + "|"]
    for row in means(rows):
        cells = [how.format(row[name]) for name, (_, how) in MEASURES.items()]
        lines.append(f"| {row['kind']} | {row['codes']} | {row['seeds']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """A line for each kind, and a point on it for each seed."""
    from matplotlib.figure import Figure  # an extra; this way it needs no display

    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    figure = Figure(figsize=(13, 1.5 + 0.3 * len(kinds)), layout="constrained")
    panels = figure.subplots(1, len(DRAWN), sharey=True)
    for panel, (name, scale) in zip(panels, DRAWN.items(), strict=True):
        for i, codes in enumerate(LEVELS):
            own = [row for row in rows if row["codes"] == codes]
            lines = [kinds.index(row["kind"]) + 0.15 - 0.3 * i for row in own]
            panel.plot([row[name] for row in own], lines, "os"[i], color=f"C{i}", alpha=0.7, label=f"{codes} codes")
        panel.set(xlabel=MEASURES[name][0], xscale=scale, yticks=range(len(kinds)), yticklabels=kinds)
        panel.grid(alpha=0.3)
    panels[0].invert_yaxis()
    panels[0].legend()
    figure.savefig(path, dpi=110)


def main(arguments: list[str] | None = None) -> None:
    given = parse(arguments)
    out = Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    options = {name: getattr(given, name) for name in ("seconds", "steps", "second_steps", "size", "pictures", "held")}
    file = out / "codebooks.json"
    before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    rows = before["rows"] if before.get("options") == options else []
    rows = [row for row in rows if row["settings"] == settings_of(row["kind"])]  # others are of before a change
    data = {"train": pictures_of(given.size, given.pictures, 0), "val": pictures_of(given.size, given.held, 1)}
    features = open_features("landscapes", sharding.make_mesh(sharding.MeshConfig(1)))
    gathering = Gathering(features, len(data["val"]), 0)
    gathering.add_pixels(to_pixels(data["val"]), np.ones(len(data["val"]), bool))
    real = gathering.result("held out")
    for seed in range(given.seeds):
        for codes in given.codes:
            for kind in given.kinds:
                run = {"kind": kind, "codes": codes, "seed": seed}
                if any(run.items() <= row.items() for row in rows):
                    continue
                model = VQGAN(network(kind, codes, given.size))
                params, found = first_stage(model.config, data["train"], seed, given)
                row = {**run, "settings": settings_of(kind), **found}
                row |= measured(model, params, data["val"], real, features)
                row["bits"] = second_stage(model, params, data, seed, given.second_steps)
                row["total_bits"] = row["bits"] + row["residual_bits"]
                rows.append(row)
                print(json.dumps(row), flush=True)
                machine = {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
                file.write_text(json.dumps({"options": options, **machine, "rows": rows}, indent=1), encoding="utf-8")
                jax.clear_caches()
    (out / "codebooks.md").write_text(table(rows), encoding="utf-8")
    print(table(rows))
    plot(rows, out / "codebooks.png")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=200.0, help="of training each first stage, without compiling")
    parser.add_argument("--steps", type=int, default=0, help="so many steps instead, for a quick look")
    parser.add_argument("--second_steps", type=int, default=160, help="of each transformer")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--codes", default="1024,16384", help="1024, 16384 or both")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=4096, help="to train on")
    parser.add_argument("--held", type=int, default=1024, help="held out, a multiple of 8")
    known = [*KINDS, *(f"{name}+rotation" for name in ROTATED)]
    parser.add_argument("--kinds", default=",".join(known), help=f"of {', '.join(known)}")
    parser.add_argument("--out", default="runs/codebooks")
    given = parser.parse_args(arguments)
    given.codes, given.kinds = [int(word) for word in given.codes.split(",")], given.kinds.split(",")
    if not set(given.codes) <= set(LEVELS) or not set(given.kinds) <= set(known):
        parser.error(f"--codes are of {list(LEVELS)}, --kinds of {known}")
    if given.held % BATCH or given.held < BATCH:
        parser.error(f"--held must be a multiple of {BATCH}")
    return given


if __name__ == "__main__":
    main()
