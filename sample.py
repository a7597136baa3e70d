"""Draw images.

python sample.py --config=configs/imagenet_cond.py [--workdir=DIR] [--config.sample.n=64 ...]
"""

import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict
from PIL import Image
from tqdm import tqdm

from configs.command import run
from taming_jax import checkpoint, condition_files, generate
from taming_jax.conditioning import Condition
from taming_jax.data import pipeline
from taming_jax.experiment import SampleConfig
from taming_jax.settings import from_dict
from taming_jax.training.report import grid, to_pixels

GRID_MOST = 100  # images in the overview


@dataclasses.dataclass(frozen=True)
class Request:
    """Images to draw together: their conditions as entries of a batch, their labels, and where they are known the
    pictures that have these conditions."""

    batch: dict[str, np.ndarray]
    pixels: tuple[int, int]
    labels: list[str]
    truth: np.ndarray | None = None


def draw(settings: SampleConfig, workdir: str) -> epath.Path:
    """Write single PNGs and a grid, print the rate, and return the folder."""
    step = settings.step or None
    config = checkpoint.load_config(workdir, step)
    if config["kind"] != "two_stage":
        raise ValueError(f"{workdir!r} holds no second stage, and only that can draw; name the directory of one.")
    generator = generate.load(workdir, step=step)
    assert isinstance(generator, generate.Generator)
    wanted = list(requests(settings, generator, config))
    n, largest = sum(len(request.labels) for request in wanted), max(len(request.labels) for request in wanted)
    out = epath.Path(settings.out or epath.Path(workdir) / "samples")
    out.mkdir(parents=True, exist_ok=True)
    if not settings.out:  # our own folder holds the images of one call; in the user's nothing is removed
        for old in out.glob("[0-9][0-9][0-9][0-9][0-9]*.png"):
            old.unlink()

    shown: list[tuple[np.ndarray, str]] = []
    compiling, started, first = _CompileTime(), time.perf_counter(), 0
    with tqdm(total=n, unit="image") as progress:
        for request in wanted:
            images = _draw(generator, request, settings, first, largest)
            drawn = generator.model.condition.picture(request.batch, len(images), request.pixels)
            for i, image in enumerate(images):
                name = _safe("_".join([f"{first + i:05d}", *request.labels[i].split()]))
                _save(image, out / f"{name}.png")
                beside = [rows[i] for rows in (drawn, images, request.truth) if rows is not None]
                if len(beside) > 1:
                    _save(np.concatenate(beside, axis=1), out / f"{name}_beside.png")
                if len(shown) < GRID_MOST:
                    shown.append((np.concatenate(beside, axis=1), request.labels[i]))
            first += len(images)
            progress.update(len(images))
    seconds = time.perf_counter() - started - compiling.seconds
    same = [entry for entry in shown if entry[0].shape == shown[0][0].shape]  # a grid has cells of one size
    labels = [label for _, label in same]
    picture = grid(np.stack([image for image, _ in same]), None, labels if any(labels) else None)
    with (out / "grid.png").open("wb") as file:
        picture.save(file, format="PNG")
    print(f"{n} images in {seconds:.1f} s: {n / seconds:.2f} images/s (compiling took {compiling.seconds:.1f} s more)")
    print(f"Written to {out}, all together in {out / 'grid.png'}")
    return out


def _draw(generator: generate.Generator, request: Request, settings: SampleConfig, first: int, size: int) -> np.ndarray:
    """The images of a request, float32 (n, H, W, 3); every batch is filled up to one size, so that it compiles once."""
    n = len(request.labels)
    numbers = np.arange(size) % n
    batch = {name: value[numbers] for name, value in request.batch.items()}
    ids = generator.sample_ids_like(
        batch, n=size, pixels=request.pixels, seed=settings.seed, first=first, **settings.filters()
    )
    return np.asarray(generator.decode(ids[:n]))


def requests(settings: SampleConfig, generator: generate.Generator, config: Mapping[str, Any]) -> Iterator[Request]:
    """What the settings ask for, in batches. Raises ValueError for what the model does not know."""
    condition = generator.model.condition
    by_class = condition.keys == ("class_label",)
    if not by_class and (settings.classes or settings.per_class):
        raise ValueError("config.sample.classes and per_class need a class-conditional model, and this one is not.")
    if by_class or condition.keys in ((), ("coordinate",)):
        if settings.condition:
            condition_files.find_files(settings.condition, condition)  # says why not
        yield from _counted(settings, generator, _classes(settings, condition) if by_class else {})
    elif settings.condition:
        yield from _joined(_from_files(settings, generator), settings.batch_size)
    else:
        yield from _from_data(settings, generator, config)


def _counted(settings: SampleConfig, generator: generate.Generator, wanted: dict[str, np.ndarray]) -> Iterator[Request]:
    """Images of classes, or of no condition."""
    condition, pixels = generator.model.condition, _size(settings) or generator.training_pixels
    n = len(wanted["class_label"]) if wanted else settings.n
    for first in range(0, n, settings.batch_size):
        here = min(settings.batch_size, n - first)
        batch = condition.parse({name: value[first : first + here] for name, value in wanted.items()}, here, pixels)
        yield Request(batch, pixels, condition.describe(batch, here))


def _from_files(settings: SampleConfig, generator: generate.Generator) -> Iterator[Request]:
    """`n` images in all, spread over the files."""
    condition, factor = generator.model.condition, generator.first_stage.config.factor
    files = condition_files.find_files(settings.condition, condition)
    shares = np.bincount(np.arange(settings.n) % len(files), minlength=len(files))
    for file, share in zip(files, shares):
        if not share:
            continue
        given = condition_files.read_condition(file, condition, factor, _size(settings), settings.unlabelled)
        pixels = condition.pixels(given) or _size(settings) or generator.training_pixels
        for first in range(0, share, settings.batch_size):
            here = min(settings.batch_size, int(share) - first)
            truth = np.broadcast_to(given["image"], (here, *pixels, 3)) if "image" in given else None
            try:
                batch = condition.parse(given, here, pixels)
            except ValueError as error:
                raise ValueError(f"{file}: {error}") from error
            yield Request(batch, pixels, [file.stem] * here, truth)


def _joined(found: Iterable[Request], most: int) -> Iterator[Request]:
    """Requests for images of one size that follow one another as one, of at most so many images."""
    waiting: Request | None = None
    for here in found:
        if waiting and waiting.pixels == here.pixels and len(waiting.labels) + len(here.labels) <= most:
            batch = {name: np.concatenate([value, here.batch[name]]) for name, value in waiting.batch.items()}
            truth = None if waiting.truth is None else np.concatenate([waiting.truth, here.truth])
            waiting = Request(batch, waiting.pixels, waiting.labels + here.labels, truth)
            continue
        if waiting:
            yield waiting
        waiting = here
    if waiting:
        yield waiting


def _from_data(settings: SampleConfig, generator: generate.Generator, config: Mapping[str, Any]) -> Iterator[Request]:
    """One image for each of the first `n` held-out ones, under its condition."""
    if settings.size:
        raise ValueError("config.sample.size needs config.sample.condition: held-out images have the training size.")
    if "source" not in config["data"]:
        raise ValueError("this model was not trained here, so there is no held-out data: give config.sample.condition.")
    data = from_dict(pipeline.DataConfig, {**config["data"], "batch_size": settings.batch_size}, "config.data")
    left = min(settings.n, pipeline.num_examples(data, "val"))
    if left < settings.n:
        print(f"only {left} held-out images: as many are drawn instead of {settings.n}")
    for batch in pipeline.make_batches(data, "val"):
        here = min(left, settings.batch_size)
        batch = {name: value[:here] for name, value in batch.items()}
        yield Request(batch, batch["image"].shape[1:3], [""] * here, batch["image"])
        left -= here
        if not left:
            return


def _classes(settings: SampleConfig, condition: Condition) -> dict[str, np.ndarray]:
    """One class an image, as the settings ask. Raises ValueError for a class that the model does not know."""
    names = [name for name in settings.classes.split(",") if name.strip()]
    wanted: list[Any] = names or list(range(condition.vocabulary))
    classes = condition.parse({"class_label": wanted}, len(wanted), (0, 0))["class_label"]
    if settings.per_class:
        return {"class_label": np.repeat(classes, settings.per_class)}
    return {"class_label": classes[np.sort(np.arange(settings.n) % len(classes))]}


def _size(settings: SampleConfig) -> tuple[int, int] | None:
    return (settings.size[0], settings.size[1]) if settings.size else None


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
