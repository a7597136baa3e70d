"""Train the classifiers of the demo's data that the package carries, and say how well they read held-out pictures.

python benchmarks/demo_features.py [--data demo] [--out taming_jax/quality/demo_features.npz] [--steps 900]
python benchmarks/demo_features.py --data landscapes [--out taming_jax/quality/landscapes_features.npz] [--steps 900]

They learn the class and which kinds of objects (labels of a landscape) occur, from pictures of 64 pixels that are
mirrored at random; from landscapes half of which are parts of larger ones, as the models draw them. The weights are
stored in half precision. About fifteen minutes on two cores.
"""

import argparse
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict

from taming_jax.data.demo import FIRST_OBJECT, DemoLandscapes, DemoScenes
from taming_jax.data.demo.known import KNOWN
from taming_jax.models.demo_classifier import N_KINDS, SIDE, DemoClassifier

SEED = 20_000  # of scenes that no configuration trains on
BATCH = 64


def read_scenes(n: int, seed: int) -> dict[str, np.ndarray]:
    """image uint8 (n, H, W, 3), class_label (n,), kinds bool (n, 10)."""
    scenes = DemoScenes(SIDE, n, seed)
    items = [scenes[i] for i in range(len(scenes))]
    kinds = np.zeros((len(items), N_KINDS), bool)
    for i, item in enumerate(items):
        kinds[i, np.asarray(item["box_labels"]) - FIRST_OBJECT] = True
    labels = np.array([item["class_label"] for item in items])
    return {"image": np.stack([item["image"] for item in items]), "class_label": labels, "kinds": kinds}


def read_landscapes(n: int, seed: int) -> dict[str, np.ndarray]:
    """As of scenes. Kinds are the labels that cover a hundredth."""
    pictures, rng = DemoLandscapes(SIDE, n, seed), np.random.default_rng(seed)
    items = []
    for i in range(n):
        whole = SIDE if i % 2 else int(rng.integers(SIDE, 4 * SIDE + 1))
        top, left = rng.integers(0, whole - SIDE + 1, 2).tolist()
        items.append(pictures.part(i, (whole, whole), top, left))
    covers = [np.bincount(item["segmentation"].ravel(), minlength=N_KINDS) > SIDE**2 / 100 for item in items]
    labels = np.array([item["class_label"] for item in items])
    return {"image": np.stack([item["image"] for item in items]), "class_label": labels, "kinds": np.array(covers)}


READ = {"demo": read_scenes, "landscapes": read_landscapes}


def to_input(images: np.ndarray) -> np.ndarray:
    return images.astype(np.float32) / 127.5 - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=list(READ), default="demo")
    parser.add_argument("--out", default="", help="default: the package's own")
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--pictures", type=int, default=10_000)
    given = parser.parse_args()
    started, model = time.perf_counter(), DemoClassifier(KNOWN[given.data].n_classes)
    data, held_out = READ[given.data](given.pictures, SEED), READ[given.data](1000, SEED + 1)
    out = given.out or f"taming_jax/quality/{given.data}_features.npz"
    params = model.init(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))["params"]
    schedule = optax.warmup_cosine_decay_schedule(0, 2e-3, 200, given.steps)
    optimizer = optax.adamw(schedule, weight_decay=1e-3)

    def loss(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
        found = model.apply({"params": params}, batch["image"])
        by_class = optax.softmax_cross_entropy_with_integer_labels(found["logits"], batch["class_label"]).mean()
        return by_class + optax.sigmoid_binary_cross_entropy(found["kinds"], batch["kinds"]).mean()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, batch: dict[str, jax.Array]) -> tuple[Any, Any, jax.Array]:
        value, gradient = jax.value_and_grad(loss)(params, batch)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    rng, state = np.random.default_rng(0), optimizer.init(params)
    print(f"{given.pictures} pictures drawn in {time.perf_counter() - started:.0f} s", flush=True)
    for number in range(1, given.steps + 1):
        chosen = rng.integers(len(data["image"]), size=BATCH)
        images = to_input(data["image"][chosen])
        images = np.where(rng.integers(2, size=(BATCH, 1, 1, 1)) == 1, images[:, :, ::-1], images)
        batch = {"image": images, "class_label": data["class_label"][chosen], "kinds": data["kinds"][chosen]}
        params, state, value = step(params, state, batch)
        if number % 200 == 0:
            print(f"step {number}: loss {float(value):.3f}, {time.perf_counter() - started:.0f} s", flush=True)
    stored = {name: np.asarray(x, np.float16) for name, x in flatten_dict(params, sep="/").items()}
    params = jax.tree.map(lambda x: x.astype(jnp.float16).astype(jnp.float32), params)
    found = jax.jit(model.apply)({"params": params}, to_input(held_out["image"]))
    right = (np.argmax(found["logits"], 1) == held_out["class_label"]).mean()
    kinds = ((np.asarray(found["kinds"]) > 0) == held_out["kinds"]).mean()
    np.savez(out, **stored)
    print(f"1000 held-out pictures: class {right:.1%}, kinds {kinds:.1%}; wrote {out}")


if __name__ == "__main__":
    main()
