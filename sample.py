"""Draw images.

python sample.py --config=configs/imagenet_cond.py [--workdir=DIR] [--config.sample.n=64 ...]
"""

import time
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict
from PIL import Image
from tqdm import tqdm

from configs.command import run
from taming_jax import checkpoint, generate
from taming_jax.conditioning import Condition, ConditionConfig, make_condition
from taming_jax.experiment import SampleConfig
from taming_jax.settings import from_dict
from taming_jax.training.report import grid, to_pixels

GRID_MOST = 100  # images in the overview


def draw(settings: SampleConfig, workdir: str) -> epath.Path:
    """Write single PNGs and a labelled grid, print the rate, and return the folder."""
    step = settings.step or None
    config = checkpoint.load_config(workdir, step)
    if config["kind"] != "two_stage":
        raise ValueError(f"{workdir!r} holds a first stage, which cannot draw; name the directory of a second stage.")
    condition = make_condition(from_dict(ConditionConfig, config["condition"], "config.condition"))
    wanted = conditions(settings, condition)
    generator = generate.load(workdir, step=step)
    assert isinstance(generator, generate.Generator)
    n = len(next(iter(wanted.values()))) if wanted else settings.n
    labels = condition.describe(wanted.get(condition.key), n)
    out = epath.Path(settings.out or epath.Path(workdir) / "samples")
    out.mkdir(parents=True, exist_ok=True)
    if not settings.out:  # our own folder holds the images of one call; in the user's nothing is removed
        for old in out.glob("[0-9][0-9][0-9][0-9][0-9]*.png"):
            old.unlink()

    kept, compiling, started = [], _CompileTime(), time.perf_counter()
    with tqdm(total=n, unit="image") as progress:
        for first in range(0, n, settings.batch_size):
            numbers = np.arange(first, first + settings.batch_size) % n  # every batch of one size: one program for all
            images = generator.sample(
                settings.batch_size,
                seed=settings.seed,
                first=first,
                **settings.filters(),
                **{name: value[numbers] for name, value in wanted.items()},
            )
            pixels = np.asarray(images)[: n - first]
            for number, image in enumerate(pixels, start=first):
                name = "_".join([f"{number:05d}", *labels[number].split()])
                _save(image, out / f"{_safe(name)}.png")
            kept += list(pixels[: max(0, GRID_MOST - first)])
            progress.update(len(pixels))
    seconds = time.perf_counter() - started - compiling.seconds
    picture = grid(np.stack(kept), None, labels[: len(kept)] if any(labels) else None)
    with (out / "grid.png").open("wb") as file:
        picture.save(file, format="PNG")
    print(f"{n} images in {seconds:.1f} s: {n / seconds:.2f} images/s (compiling took {compiling.seconds:.1f} s more)")
    print(f"Written to {out}, all together in {out / 'grid.png'}")
    return out


def conditions(settings: SampleConfig, condition: Condition) -> dict[str, np.ndarray]:
    """One condition an image, as the settings ask. Raises ValueError for a class that the model does not know."""
    if condition.key != "class_label":
        if settings.classes or settings.per_class:
            raise ValueError("config.sample.classes and per_class need a class-conditional model, and this one is not.")
        return {}
    names = [name for name in settings.classes.split(",") if name.strip()]
    wanted: list[Any] = names or list(range(condition.vocabulary))
    classes = np.asarray(condition.parse(wanted, len(wanted)))
    if settings.per_class:
        return {"class_label": np.repeat(classes, settings.per_class)}
    return {"class_label": classes[np.sort(np.arange(settings.n) % len(classes))]}


class _CompileTime:
    """Seconds that JAX has spent on tracing and compiling since this was made."""

    def __init__(self):
        self.seconds = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._add)

    def _add(self, event: str, seconds: float, **_):
        if event.startswith("/jax/core/compile/"):
            self.seconds += seconds


def _save(image: np.ndarray, path: epath.Path) -> None:
    with path.open("wb") as file:
        Image.fromarray(to_pixels(image)).save(file, format="PNG")


def _safe(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "_-" else "" for letter in name)


def main(config: ConfigDict, workdir: str) -> bool:
    draw(from_dict(SampleConfig, config.sample.to_dict(), "config.sample"), workdir)
    return True


if __name__ == "__main__":
    run(main, example="configs/demo_class.py")
