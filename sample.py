"""Draw images.

python sample.py --config=configs/imagenet_cond.py [--workdir=DIR] [--config.sample.n=64 ...]
python sample.py --reproduce=PICTURE.png [--workdir=DIR] [--out=FILE]

Every single picture holds the settings, checkpoint and number by which the second command draws it again.
"""

import argparse
import collections
import dataclasses
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict
from tqdm import tqdm

from taming_jax import checkpoint, pictures
from taming_jax.cli import run
from taming_jax.conditioning import Condition
from taming_jax.data import pipeline
from taming_jax.data.config import DataConfig
from taming_jax.drawing import condition_files
from taming_jax.drawing.completion import complete, read_mask, read_picture
from taming_jax.experiment import SampleConfig
from taming_jax.pictures import grid, to_pixels
from taming_jax.sampling.rejection import Scorer, draw_best, load_scorer, rounds_for
from taming_jax.settings import from_dict, to_dict
from taming_jax.trained.generator import Generator
from taming_jax.trained.loading import load
from taming_jax.trained.stages import pictured

GRID_MOST = 100  # images in the overview


@dataclasses.dataclass(frozen=True)
class Request:
    """Images to draw together: their conditions as entries of a batch, their labels, and where they are known the
    pictures that have these conditions. completion: keywords `given` and `keep`."""

    batch: dict[str, np.ndarray]
    pixels: tuple[int, int]
    labels: list[str]
    truth: np.ndarray | None = None
    completion: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Drawn:
    """The images of a request, float32 (n, H, W, 3), and the number of each in the seed's series."""

    images: np.ndarray
    numbers: np.ndarray


def draw(settings: SampleConfig, workdir: str, data: Mapping[str, Any] = MappingProxyType({})) -> epath.Path:
    """Write single PNGs and a grid, print the rate, and return the folder.

    data: the settings of the data for a model that does not have its own, such as a converted one.
    """
    generator, config, settings = _open(settings, workdir, data)
    scorer = load_scorer(settings.scorer) if settings.scorer else None
    rounds, wanted = rounds_for(settings.accept), list(requests(settings, generator, config))
    counts, largest = collections.Counter[tuple[int, int]](), collections.Counter[tuple[int, int]]()
    for request in wanted:  # each size is compiled by itself, for the largest request of that size
        counts[request.pixels] += len(request.labels)
        largest[request.pixels] = max(largest[request.pixels], len(request.labels))
    for request in wanted:  # all of them before anything is removed or drawn
        generator.check(**_drawing(request, settings, largest[request.pixels]))
    n = counts.total()
    out = epath.Path(settings.out or epath.Path(workdir) / "samples")
    out.mkdir(parents=True, exist_ok=True)
    if not settings.out:  # our own folder holds the images of one call; in the user's nothing is removed
        for old in (*out.glob("[0-9][0-9][0-9][0-9][0-9]*.png"), *out.glob("[0-9][0-9][0-9][0-9][0-9]*.gif")):
            old.unlink()

    shown: list[tuple[np.ndarray, str]] = []
    commonest = counts.most_common(1)[0][0]  # a grid has cells of one size
    compiling, started, first = _CompileTime(), time.perf_counter(), 0
    with tqdm(total=rounds * sum(generator.steps(request.pixels) for request in wanted), unit="step") as progress:
        for request in wanted:
            size = largest[request.pixels]
            found = _draw(generator, request, settings, first, n, size, progress.update, scorer)
            beside = _beside(generator, request, found.images)
            for i, image in enumerate(found.images):
                name = _safe("_".join([f"{first + i:05d}", *request.labels[i].split()]))
                made = {"workdir": str(workdir), "number": int(found.numbers[i]), "of": n, "largest": size}
                pictures.save(image, out / f"{name}.png", {**made, "sample": to_dict(settings)})
                if settings.animate:
                    pictures.animate(image, generator.drawing_steps(request.pixels), out / f"{name}.gif")
                if len(beside) > 1:
                    pictures.save(np.concatenate([row[i] for row in beside], axis=1), out / f"{name}_beside.png")
                if request.pixels == commonest and len(shown) < GRID_MOST:
                    shown.append((np.concatenate([row[i] for row in beside], axis=1), request.labels[i]))
            first += len(found.images)
    seconds = time.perf_counter() - started - compiling.seconds
    labels = [label for _, label in shown]
    picture = grid(np.stack([image for image, _ in shown]), None, labels if any(labels) else None)
    with (out / "grid.png").open("wb") as file:
        picture.save(file, format="PNG")
    print(f"{n} images in {seconds:.1f} s: {n / seconds:.2f} images/s (compiling took {compiling.seconds:.1f} s more)")
    together = "all" if len(shown) == n else f"the first {len(shown)} of {commonest[0]} x {commonest[1]} pixels"
    print(f"Written to {out}, {together} together in {out / 'grid.png'}")
    return out


def reproduce(picture: str, workdir: str = "", out: str = "") -> bool:
    """Draw the image of a PNG that `draw` wrote once more, into the file or folder `out`, and tell whether it is the
    same. workdir: where the model is now, default where it was. The default of `out` is PICTURE_again.png, which also
    takes the place of the picture itself.

    What is needed besides - the checkpoint, files of conditions, the data - must still be there. No code that the
    picture names is run: an image that a scorer chose is drawn by its number.
    """
    path = epath.Path(picture)
    pixels, made = pictures.load(path)
    try:
        settings = from_dict(SampleConfig, made["sample"], "sample")
        number, n, largest = int(made["number"]), int(made["of"]), int(made["largest"])
        workdir = workdir or str(made["workdir"])
        if min(number, n - 1, largest - 1) < 0:
            raise ValueError(f"{path} says that it is image {number} of {n}, which cannot be.")
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} does not say all of how it was made: {error} is missing.") from error
    target = epath.Path(out or path.parent)
    target = target / path.name if target.is_dir() else target
    if target.resolve() == path.resolve():
        target = path.with_name(f"{path.stem}_again.png")
    target.parent.mkdir(parents=True, exist_ok=True)
    generator, config, settings = _open(settings, workdir)
    first = 0
    for request in requests(settings, generator, config):
        if first <= number % n < first + len(request.labels):
            break
        first += len(request.labels)
    else:
        raise ValueError(f"{path} is image {number % n} of {n}, but its settings now ask for {first}.")
    with tqdm(total=generator.steps(request.pixels), unit="step") as progress:
        series = first + number // n * n
        found = _draw(generator, request, settings, series, n, largest, progress.update, None)
    image = found.images[number % n - first]
    pictures.save(image, target, made)
    differing = np.abs(to_pixels(image).astype(int) - pixels) if pixels.shape == image.shape else np.array([255])
    same = not differing.any()
    print(f"Written to {target}: " + ("the same picture" if same else f"differs by up to {differing.max()} of 255"))
    return same


def _open(
    settings: SampleConfig, workdir: str, data: Mapping[str, Any] = MappingProxyType({})
) -> tuple[Generator, dict[str, Any], SampleConfig]:
    """(the model, its configuration, the settings with the number of the checkpoint and what label maps need)."""
    step = checkpoint.find_step(workdir, settings.step or None).name
    config = checkpoint.load_config(workdir, step)
    if config["kind"] != "two_stage":
        raise ValueError(f"{workdir!r} holds no second stage, and only that can draw; name the directory of one.")
    generator = load(workdir, step=step)
    assert isinstance(generator, Generator)
    reads_labels = settings.condition and generator.model.condition.keys == ("segmentation",)
    if reads_labels and settings.unlabelled is None:
        try:
            unlabelled = pipeline.unlabelled(config["data"] if "source" in config["data"] else data)
        except ValueError as error:
            raise ValueError(
                f"how label maps were read in training is unknown: {error}; or give "
                "config.sample.unlabelled, the value for no label or -1"
            ) from error
        settings = dataclasses.replace(settings, unlabelled=unlabelled)
    return generator, config, dataclasses.replace(settings, step=step)


def _drawing(request: Request, settings: SampleConfig, size: int) -> dict[str, Any]:
    """The arguments of `Generator.check`, also for drawing; the batch is filled up to `size`, so that it compiles
    once."""
    return {
        "batch": {name: value[np.arange(size) % len(request.labels)] for name, value in request.batch.items()},
        "n": size,
        "pixels": request.pixels,
        "stride": settings.stride,
        **request.completion,
        **settings.filters(),
    }


def _draw(
    generator: Generator,
    request: Request,
    settings: SampleConfig,
    first: int,
    total: int,
    size: int,
    progress: Callable[[int], Any],
    scorer: Scorer | None,
) -> Drawn:
    """The images of a request, drawn as one of `size`. Candidates of a further round have numbers that are `total`
    higher."""
    n, drawing = len(request.labels), _drawing(request, settings, size)

    def candidates(round: int) -> tuple[np.ndarray, np.ndarray]:
        ids = generator.sample_ids_like(**drawing, seed=settings.seed, first=first + round * total, progress=progress)
        return np.asarray(ids[:n]), np.asarray(generator.decode(ids[:n]))

    if scorer is None:
        return Drawn(candidates(0)[1], first + np.arange(n))
    best = draw_best(n, request.batch, rounds_for(settings.accept), candidates, scorer)
    return Drawn(best.images, first + best.places + best.rounds * total)


def _beside(generator: Generator, request: Request, images: np.ndarray) -> list[np.ndarray]:
    """What is shown next to one another, each (n, H, W, 3): condition, what was kept, image, truth; what there is."""
    drawn = generator.model.condition.picture(request.batch, len(images), request.pixels)
    kept = None
    if request.completion:
        keep = request.completion["keep"].repeat(images.shape[1] // request.completion["keep"].shape[0], axis=0)
        keep = keep.repeat(images.shape[2] // request.completion["keep"].shape[1], axis=1)
        kept = np.where(keep[None, ..., None], images, np.float32(0))
    return [rows for rows in (drawn, kept, images, request.truth) if rows is not None]


def requests(settings: SampleConfig, generator: Generator, config: Mapping[str, Any]) -> Iterator[Request]:
    """What the settings ask for, in batches. Raises ValueError for what the model does not know."""
    condition = generator.model.condition
    by_class = condition.keys == ("class_label",)
    if not by_class and (settings.classes or settings.per_class):
        raise ValueError("config.sample.classes and per_class need a class-conditional model, and this one is not.")
    completion, asks = _completion(settings, generator), f"config.sample.size={settings.size}"
    if completion and not settings.size:
        size = tuple(side * generator.first_stage.config.factor for side in completion["keep"].shape)
        settings = dataclasses.replace(settings, size=size)
        asks = f"config.sample.complete={settings.complete!r}, a picture of {size[0]} x {size[1]} pixels,"
    if by_class or condition.keys in ((), ("coordinate",)):
        if settings.condition:
            condition_files.find_files(settings.condition, condition)  # says why not
        found = _counted(settings, generator, _classes(settings, condition) if by_class else {})
    elif settings.condition:
        found = _joined(_from_files(settings, generator), settings.batch_size)
    else:
        height, width = generator.training_pixels
        if _size(settings) not in (None, (height, width)):
            raise ValueError(
                f"{asks} needs config.sample.condition: held-out conditions have the training size, {height} x {width}."
            )
        found = _from_data(settings, config)
    for request in found:
        yield dataclasses.replace(request, completion=completion)


def _completion(settings: SampleConfig, generator: Generator) -> dict[str, np.ndarray]:
    """What is there already of each image: of the picture that the settings name, the part that they say."""
    if not settings.complete:
        return {}
    factor = generator.first_stage.config.factor
    image = read_picture(settings.complete, factor)
    keep = read_mask(settings.keep, image, factor) if settings.keep else None
    return complete(generator.first_stage, image, keep, _size(settings))


def _counted(settings: SampleConfig, generator: Generator, wanted: dict[str, np.ndarray]) -> Iterator[Request]:
    """Images of classes, or of no condition."""
    condition, pixels = generator.model.condition, _size(settings) or generator.training_pixels
    n = len(wanted["class_label"]) if wanted else settings.n
    for first in range(0, n, settings.batch_size):
        here = min(settings.batch_size, n - first)
        batch = condition.parse({name: value[first : first + here] for name, value in wanted.items()}, here, pixels)
        yield Request(batch, pixels, condition.describe(batch, here))


def _from_files(settings: SampleConfig, generator: Generator) -> Iterator[Request]:
    """`n` images in all, spread over the files."""
    condition, factor = generator.model.condition, generator.first_stage.config.factor
    files = condition_files.find_files(settings.condition, condition)
    shares = np.bincount(np.arange(settings.n) % len(files), minlength=len(files))
    if settings.n < len(files):
        print(f"only {settings.n} images are asked for (config.sample.n): the first as many of {len(files)} conditions")
    unlabelled = -1 if settings.unlabelled is None else settings.unlabelled
    for file, share in zip(files, shares):
        if not share:
            continue
        given = condition_files.read_condition(file, condition, factor, _size(settings), unlabelled)
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


def _from_data(settings: SampleConfig, config: Mapping[str, Any]) -> Iterator[Request]:
    """One image for each of the first `n` held-out ones that can be read, under its condition."""
    if "source" not in config["data"]:
        raise ValueError("this model was not trained here, so there is no held-out data: give config.sample.condition.")
    data = from_dict(DataConfig, {**config["data"], "batch_size": settings.batch_size}, "config.data")
    data = pictured(data)
    there = pipeline.num_examples(data, "val")
    left = most = min(settings.n, there)
    if most < settings.n:
        print(f"only {most} held-out images: as many are drawn instead of {settings.n}")
    for batch in pipeline.make_batches(data, "val"):
        rows = np.flatnonzero(batch.pop("valid"))[:left]  # of what cannot be read there is no condition
        if len(rows):
            batch = {name: value[rows] for name, value in batch.items()}
            yield Request(batch, batch["image"].shape[1:3], [""] * len(rows), batch["image"])
            left -= len(rows)
        if not left:
            return
    if left == most:
        raise ValueError(f"none of the {there} held-out images can be read; see the warnings above.")
    print(f"only {most - left} held-out images can be read: as many are drawn instead of {settings.n}")


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


def _safe(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "_-" else "" for letter in name)


def main(config: ConfigDict, workdir: str) -> bool:
    if "sample" not in config:
        raise ValueError(
            "--config is the configuration of a first stage; name the second's, such as configs/demo_class.py."
        )
    draw(from_dict(SampleConfig, config.sample.to_dict(), "config.sample"), workdir, config.data.to_dict())
    return True


def reproduce_main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="Draw the image of a PNG once more.")
    parser.add_argument("--reproduce", required=True, metavar="PICTURE", help="a single picture that sample.py wrote")
    parser.add_argument("--workdir", default="", help="where the model is now; default: where it was")
    parser.add_argument("--out", default="", help="the file or folder to write; default: PICTURE_again.png")
    options = parser.parse_args(arguments)
    try:
        same = reproduce(options.reproduce, options.workdir, options.out)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    if any(argument.startswith("--reproduce") for argument in sys.argv[1:]):
        reproduce_main(sys.argv[1:])
    run(main, example="configs/demo_class.py")
