"""The paper's transformer against one of LlamaGen's kind, at equal parameters and steps on the demo's scenes by class:
held-out nats a token, for several seeds.

    python benchmarks/modern.py --first_stage runs/demo_vqgan [--steps 1600] [--seeds 3] [--picture modern.png]

Codes are made once. Both have the same layers, width and recipe; the matrices of both hold 12 width^2 numbers a layer.
The picture holds scenes of 2 x 3 windows, drawn by the modern one of the first seed through the sliding window.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))  # this project, installed or not

import taming_jax
from taming_jax import pictures
from taming_jax.conditioning import ClassLabel
from taming_jax.data.demo import DemoScenes
from taming_jax.data.demo.scene_kinds import N_CLASSES
from taming_jax.models.gpt import GPT, GPTConfig
from taming_jax.trained.generator import Generator
from taming_jax.training.optim import OptimizerConfig, make_optimizer
from taming_jax.training.transformer import TransformerTraining
from taming_jax.two_stage import TwoStage

SIZES = {"n_layer": 3, "n_head": 4, "n_embd": 192}
KINDS = {
    "paper": {},
    "modern": {"norm": "rms", "mlp": "swiglu", "mlp_multiple": 16, "bias": False, "positions": "rotary"}
    | {"condition_table": True, "zero_head": True},
}
BATCH = 16


def main() -> None:
    given = _options()
    first = taming_jax.load(given.first_stage)
    data = {name: codes_of(first, n, seed) for name, n, seed in (("train", given.scenes, 0), ("val", 512, 1))}
    rows = []
    for seed in range(given.seeds):
        for kind in KINDS:
            row, model, params = trained(first, data, kind, seed, given.steps)
            rows.append(row)
            print(json.dumps(row), flush=True)
            if given.picture and kind == "modern" and seed == 0:
                draw(Generator(model, params, first), given.picture)
    for kind in KINDS:
        nats = [row["nats"] for row in rows if row["kind"] == kind]
        print(f"{kind}: {np.mean(nats):.4f} nats a token, {min(nats):.4f} to {max(nats):.4f}")
    print(json.dumps({"steps": given.steps, "rows": rows}))


def codes_of(first: taming_jax.FirstStage, n: int, seed: int) -> dict[str, np.ndarray]:
    """Codes and classes of n scenes."""
    scenes = DemoScenes(size=32, n=n, seed=seed)
    found = [scenes[i] for i in range(n)]
    images = np.stack([scene["image"] for scene in found]) / np.float32(127.5) - 1
    codes = np.concatenate([np.asarray(first.encode(images[i : i + 128])) for i in range(0, n, 128)])
    return {"codes": codes, "class_label": np.array([scene["class_label"] for scene in found], np.int32)}


def trained(first, data, kind: str, seed: int, steps: int) -> tuple[dict, TwoStage, dict]:
    """(what was found, the model, its parameters)."""
    grid = data["train"]["codes"].shape[1:]
    model = TwoStage(first.model, GPT(GPTConfig(**SIZES, **KINDS[kind])), ClassLabel(N_CLASSES), grid)
    recipe = {"learning_rate": 2e-3, "per_sample": False, "schedule": "cosine", "warmup": 50, "weight_decay": 0.01}
    training = TransformerTraining(model, make_optimizer(OptimizerConfig(**recipe), batch_size=BATCH, steps=steps))
    state = jax.jit(training.init)(jax.random.key(seed))
    step = jax.jit(training.step, donate_argnums=0)
    order = np.random.RandomState(seed)
    started = time.perf_counter()
    for _ in range(steps):
        rows = order.randint(0, len(data["train"]["codes"]), BATCH)
        state, _ = step(state, {}, {name: array[rows] for name, array in data["train"].items()})
    nll = jax.jit(lambda params, batch: model.evaluate(params, {}, batch)["nll"].mean())
    parts = range(0, len(data["val"]["codes"]), 64)
    held = [nll(state.params, {name: array[i : i + 64] for name, array in data["val"].items()}) for i in parts]
    size = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    row = {"kind": kind, "seed": seed, "parameters": size, "s": time.perf_counter() - started}
    return row | {"nats": float(jnp.mean(jnp.stack(held)))}, model, state.params


def draw(generator: Generator, path: str) -> None:
    images = generator.sample(6, class_label=list(range(6)), size=(64, 96), top_p=0.9, seed=1)
    pictures.grid(np.asarray(images), columns=3).save(path)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first_stage", required=True)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--scenes", type=int, default=8192)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--picture", default="")
    return parser.parse_args()


if __name__ == "__main__":
    main()
