"""Drawing what the settings ask for: pictures that know how they were made, a grid of them, and the rate."""

import collections
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from etils import epath
from tqdm import tqdm

from taming_jax import checkpoint, outputs, pictures, stopping
from taming_jax.data.demo.known import known_data
from taming_jax.drawing.requests import Wanted, files_read, open_model, requests
from taming_jax.experiment import SampleConfig
from taming_jax.names import fitting, on_disk, written
from taming_jax.priors.rejection import Scorer, draw_best, load_scorer, rounds_for
from taming_jax.settings import to_dict
from taming_jax.trained.generator import Generator
from taming_jax.trained.sampler import Request

GRID_MOST = 100  # images in the overview
LONGEST = 200  # bytes of a picture's name, so that there is room for what is added
GRID = "grid.png"


@dataclasses.dataclass(frozen=True)
class Drawn:
    """The images of a request, float32 (n, H, W, c), and the number of each in the seed's series, int (n,)."""

    images: np.ndarray
    numbers: np.ndarray


def draw(
    settings: SampleConfig, workdir: str, data: Mapping[str, Any] = MappingProxyType({}), fresh: bool = False
) -> epath.Path:
    """Write single PNGs and a grid, print the rate, and return the folder.

    data: the settings of the data for a model that does not have its own, such as a converted one. fresh: the folder is
    a new one, numbered behind those that are there, as where `settings.out` does not name one; otherwise pictures of
    earlier calls are overwritten where they have the same names.
    Raises ValueError for what cannot be drawn or written, before anything is drawn.
    """
    generator, saved, settings = open_model(settings, workdir, data)
    scorer, rounds = load_scorer(settings.scorer) if settings.scorer else None, rounds_for(settings.accept)
    # They are gone through twice, and not kept: with their conditions they may be larger than memory.
    asked, counts, largest = list[tuple[int, int]](), collections.Counter[tuple[int, int]](), dict[Any, Wanted]()
    names = list[str]()
    for wanted in requests(settings, generator, saved):  # each size is compiled by itself, for its largest request
        pixels = wanted.request.pixels
        counts[pixels] += len(wanted.labels)
        asked.append(pixels)
        names += [_name(len(names) + i, label) for i, label in enumerate(wanted.labels)]
        largest[pixels] = max(largest.get(pixels, wanted), wanted, key=lambda each: len(each.labels))
    for wanted in largest.values():
        generator.sampler.check(wanted.request)
    n, (commonest, _) = counts.total(), counts.most_common(1)[0]  # a grid has cells of one size
    out, cells = _folder(settings, workdir, fresh, names), list[tuple[np.ndarray, str]]()
    compiling, started, first = _CompileTime(), time.perf_counter(), 0
    steps = rounds * sum(generator.steps(pixels, settings.filters()) for pixels in asked)
    said = lambda: f"{first} of {n} pictures written to {out}"
    with stopping.telling(said), tqdm(total=steps, unit="step") as progress:
        for wanted in requests(settings, generator, saved):
            size = len(largest[wanted.request.pixels].labels)
            drawn = draw_numbered(generator, wanted, size, first, n, progress.update, scorer, rounds)
            made = {"workdir": str(workdir), "number": 0, "of": n, "largest": size, "sample": to_dict(settings)}
            here = [out / name for name in names[first : first + len(wanted.labels)]]
            rows = _write(generator, wanted, drawn, here, made, settings.animate)
            if wanted.request.pixels == commonest:
                cells += list(zip(rows, wanted.labels))[: GRID_MOST - len(cells)]
            first += len(wanted.labels)
    seconds = time.perf_counter() - started - compiling.seconds
    _write_grid(cells, out / GRID)
    print(f"{n} images in {seconds:.1f} s: {n / seconds:.2f} images/s (compiling took {compiling.seconds:.1f} s more)")
    together = "all" if len(cells) == n else f"the first {len(cells)} of {commonest[0]} x {commonest[1]} pixels"
    print(f"Written to {out}, {together} together in {out / GRID}")
    return out


def draw_numbered(
    generator: Generator,
    wanted: Wanted,
    size: int,
    first: int,
    total: int,
    progress: Callable[[int], Any],
    scorer: Scorer | None = None,
    rounds: int = 1,
) -> Drawn:
    """The images of a request, drawn as one of `size`, from number `first` of the series on.

    With a scorer the best of `rounds` candidates each; those of a further round have numbers that are `total` higher.
    """
    n = len(wanted.labels)

    def candidates(round: int) -> tuple[np.ndarray, np.ndarray]:
        ids = generator.draw(wanted.filled(size, first + round * total), progress)[:n]
        return np.asarray(ids), np.asarray(generator.decode(ids))

    if scorer is None:
        return Drawn(candidates(0)[1], first + np.arange(n))
    best = draw_best(n, wanted.request.batch, rounds, candidates, scorer)
    return Drawn(best.images, first + best.places + best.rounds * total)


def _folder(settings: SampleConfig, workdir: str, fresh: bool, names: Sequence[str]) -> epath.Path:
    """Where to write pictures of these names: a folder of this call alone, or the one that the user has named."""
    option = f"config.sample.out={settings.out!r}"
    if fresh or not settings.out:
        out = outputs.new_folder(settings.out or checkpoint.beside(workdir, "samples"))
        names = ()
    else:
        out = epath.Path(settings.out)
    files = [f"{name}{ending}" for name in names for ending in (".png", ".npy", ".gif", "_beside.png")]
    every = {out / name: pictures.is_ours for name in (GRID, *files)}
    outputs.check_outputs(option, every, files_read(settings))
    return out


def _write(
    generator: Generator,
    wanted: Wanted,
    drawn: Drawn,
    paths: Sequence[epath.Path],
    made: Mapping[str, Any],
    animated: bool,
) -> list[np.ndarray]:
    """The files of a request's images, of these paths without an ending -> what is shown of each in the grid,
    (H, W, 3).

    made: how they were drawn, but for the number of each.
    """
    beside, rows = _beside(generator, wanted, drawn.images), []
    for i, image in enumerate(drawn.images):
        folder, name = paths[i].parent, paths[i].name
        pictures.save(image, folder / f"{name}.png", {**made, "number": int(drawn.numbers[i])})
        if animated:
            pictures.animate(image, generator.drawing_steps(wanted.request.pixels), folder / f"{name}.gif")
        rows.append(np.concatenate([images[i] for images in beside], axis=1))
        if len(beside) > 1:
            pictures.save(rows[-1], folder / f"{name}_beside.png")
    return rows


def _beside(generator: Generator, wanted: Wanted, images: np.ndarray) -> list[np.ndarray]:
    """What is shown next to one another, each (n, H, W, 3): condition, what was kept, image, truth; what there is."""
    images = pictures.colours(images)
    request, kept = wanted.request, None
    truth = None if wanted.truth is None else pictures.colours(wanted.truth)
    drawn = _condition(generator, request, len(images))
    if request.keep is not None:
        keep = request.keep.repeat(images.shape[1] // request.keep.shape[0], axis=0)
        keep = keep.repeat(images.shape[2] // request.keep.shape[1], axis=1)
        kept = np.where(keep[None, ..., None], images, np.float32(0))
    return [rows for rows in (drawn, kept, images, truth) if rows is not None]


def _condition(generator: Generator, request: Request, n: int) -> np.ndarray | None:
    """What is seen of the condition, (n, H, W, 3); label maps of known data in the data's own colours."""
    condition, saved, stage = generator.model.condition, generator.saved, generator.condition_stage
    known = known_data(saved.config) if saved and condition.label_maps else None
    if known and stage and stage.config.in_channels == len(known.labels):
        labels = np.asarray(request.batch[condition.keys[0]])[:n]
        return known.palette[labels] / np.float32(127.5) - 1
    return condition.picture(request.batch, n, request.pixels)


def _write_grid(cells: list[tuple[np.ndarray, str]], path: epath.Path) -> None:
    labels = [label for _, label in cells]
    picture = pictures.grid(np.stack([image for image, _ in cells]), None, labels if any(labels) else None)
    pictures.save_grid(picture, path)


class _CompileTime:
    """Seconds that JAX has spent on tracing and compiling since this was made."""

    def __init__(self) -> None:
        self.seconds = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._add)

    def _add(self, event: str, duration_secs: float, **_: Any) -> None:
        if event.startswith("/jax/core/compile/"):
            self.seconds += duration_secs


def _name(number: int, label: str) -> str:
    """Of the picture of a number, without an ending: the letters, digits and signs of the label that any file system
    takes."""
    name = "_".join([f"{number:05d}", *written(label).split()])
    return on_disk(fitting("".join(letter for letter in name if letter.isalnum() or letter in "_-"), most=LONGEST))
