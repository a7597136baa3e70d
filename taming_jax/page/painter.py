"""What the page draws with: a generator, what it can be asked for, and the drawing of what was asked."""

import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from taming_jax import pictures
from taming_jax.checkpoint import Saved
from taming_jax.conditioning import StageCondition
from taming_jax.data import pipeline
from taming_jax.data.demo.known import known_data
from taming_jax.drawing.requests import Wanted, requests
from taming_jax.experiment import SampleConfig, saved_filters
from taming_jax.page import folders, recipe
from taming_jax.page.preview import Preview, png
from taming_jax.priors.filters import SCHEDULES, Filters
from taming_jax.priors.window import check_window
from taming_jax.settings import to_dict
from taming_jax.trained.generator import Generator

MOST_PIXELS = 1 << 21  # of all pictures that are drawn together
MOST_SIDE = 1 << 13
FIRST_MAP = 91  # the seed of the map to begin with, of which the package's model draws a good picture


@dataclasses.dataclass(frozen=True)
class Asked:
    """settings: of `sample.py`, whose files are names in `files`. keywords: of `Generator.sample` beside them. stem:
    with which the names of files begin. ids: int (h, w) that stay as settings.keep says, None: those of the picture."""

    painter: "Painter"
    settings: SampleConfig
    files: Mapping[str, bytes]
    keywords: Mapping[str, Any]
    stem: str
    ids: np.ndarray | None = None

    @property
    def bytes(self) -> int:
        return sum(map(len, self.files.values())) + (0 if self.ids is None else self.ids.nbytes)

    def without_files(self) -> "Asked":
        return dataclasses.replace(self, files={}, ids=None)

    @property
    def steps(self) -> int:
        settings = self.settings
        return self.painter.generator.steps((settings.size[0], settings.size[1]), settings.filters())

    def told(self) -> dict[str, Any]:
        """What the page shows beside the pictures."""
        settings, painter, label = self.settings, self.painter, self.keywords.get("class_label")
        return {
            "model": painter.name,
            "size": settings.size,
            "class": None if label is None or isinstance(label, list) else str(label),  # else all, or as the map says
            "n": settings.n,
            "seed": settings.seed,
            "filters": painter.followed(settings.filters()),
            "stem": self.stem,
            "files": sorted(self.files),
            "command": recipe.command(settings, painter.workdir, painter.saved.config, painter.follows),
            "python": recipe.python(settings, painter.workdir, painter.factor, self.keywords),
            "exact": self.ids is None,
        }


@dataclasses.dataclass(frozen=True)
class Drawn:
    """What is kept of a drawing beside its pictures: ids int32 (n, h, w), a label for each, and the condition seen."""

    ids: np.ndarray
    labels: Sequence[str]
    condition: bytes = b""

    @property
    def bytes(self) -> int:
        return self.ids.nbytes + len(self.condition)


class Painter:
    """generator: what draws; saved: the checkpoint that it is from; workdir: by what name, default its path. Raises
    ValueError for what is no generator."""

    most_pixels = MOST_PIXELS

    def __init__(self, generator: Any, saved: Saved, workdir: str = "") -> None:
        if not isinstance(generator, Generator):
            raise ValueError(f"{saved.path!r} holds no second stage, and only that can draw; name the directory of one")
        self.generator, self.saved, self.workdir = generator, saved, workdir or saved.path
        self.name = Path(self.workdir).name or self.workdir
        self.condition = generator.model.condition
        self.guided = bool(generator.model.condition_dropout)
        self.filters = saved_filters(saved.config)  # to begin with
        stage, config = generator.condition_stage, generator.first_stage.config
        self.code = config.factor
        others = (stage.config.factor if stage else 1, getattr(self.condition, "scale", 1))
        others += (getattr(self.condition, "factor", 1),)
        self.factor = int(np.lcm.reduce([self.code, *others]))
        self.n_labels = stage.config.in_channels if stage and self.condition.label_maps else 0
        self.beside = self.condition.classes if isinstance(self.condition, StageCondition) else None
        objects = self.condition.keys[:1] in (("boxes",), ("points",))
        self.by_file = bool(self.condition.suffixes) and not (self.condition.label_maps or objects)
        self.class_from_map = bool(getattr(self.condition, "class_from", ()))
        self.classes: tuple[str, ...] = getattr(self.beside or self.condition, "names", ())
        self.names, self.colours, self._examples = self._labels()

    def _labels(self) -> tuple[tuple[str, ...], np.ndarray, Any]:
        """Their names and colours, (labels, 3), and what draws maps to begin with."""
        known = known_data(self.saved.config)
        if known and len(known.labels) == self.n_labels:
            return known.labels, known.palette, known.pictures
        labels = np.arange(self.n_labels or 1)
        colours = pictures.to_pixels(pictures.label_colours(labels[None, None]))[0, 0]
        return tuple(f"label {label}" for label in range(self.n_labels)), colours, None

    @property
    def unlabelled(self) -> int:
        """The value in files of label maps that means that there is no label, -1 for none."""
        return pipeline.unlabelled(self.saved.config["data"]) if self.saved.trained_here else -1

    @property
    def follows(self) -> tuple[str, ...]:
        """The filters that the model's drawing follows."""
        return self.generator.model.prior.follows

    def followed(self, filters: Filters) -> dict[str, Any]:
        """These of some filters."""
        return {name: value for name, value in to_dict(filters).items() if name in self.follows}

    def about(self) -> dict[str, Any]:
        """What the page has to know."""
        condition, prior = self.condition, self.generator.model.prior
        kind = condition.keys[0] if condition.keys else "none"
        n_objects = getattr(condition, "n_classes", 0)
        categories = self.classes or [str(number) for number in range(n_objects)]
        of_class = self.beside or (condition if condition.by_class else None)
        return {
            "name": self.name,
            "kind": kind,
            "labels": [{"name": n, "colour": c} for n, c in zip(self.names, self.colours.tolist())],
            "examples": self._examples is not None,
            "first_map": FIRST_MAP,
            "classes": (self.classes or [str(i) for i in range(of_class.vocabulary)]) if of_class else [],
            "class_from_map": self.class_from_map,
            "categories": categories if n_objects else [],
            "most_objects": getattr(condition, "max_objects", 0),
            "scale": getattr(condition, "scale", 1),
            "files": condition.suffixes,
            "photographs": isinstance(condition, StageCondition) and condition.photographs,
            "code": self.code,
            "factor": self.factor,
            "sides": self.generator.training_pixels,
            "any_size": prior.any_size and self.generator.model.order == "row_major",
            "guided": self.guided,
            "schedules": list(SCHEDULES),
            "sample": self.followed(self.filters),
        }

    def check_size(self, height: int, width: int) -> None:
        """Raises ValueError for what cannot be drawn."""
        least = self.generator.training_pixels
        if height % self.factor or width % self.factor or height < least[0] or width < least[1]:
            raise ValueError(
                f"height {height} and width {width} must be multiples of {self.factor}, and at least {least[0]} and "
                f"{least[1]}"
            )
        if height * width > MOST_PIXELS or max(height, width) > MOST_SIDE:
            raise ValueError(f"{height} x {width} pixels are more than the {MOST_PIXELS} that are drawn at once")

    def check(self, settings: SampleConfig) -> None:
        """Raises ValueError for settings that cannot be drawn, as far as that is known at no cost."""
        height, width = settings.size
        if settings.n * height * width > MOST_PIXELS:
            raise ValueError(
                f"{settings.n} pictures of {height} x {width} are more than the {MOST_PIXELS} pixels that are drawn "
                "together; ask for fewer, or smaller ones"
            )
        grid = height // self.code, width // self.code
        if grid != self.generator.model.grid:
            check_window(self.generator.model.prior, grid, settings.stride)

    def example(self, height: int, width: int, seed: int) -> np.ndarray:
        """A label map uint8 (height, width) to begin with; of one label where none can be made up."""
        self.check_size(height, width)
        if self._examples is None:
            return np.zeros((height, width), np.uint8)
        return self._examples((height, width), 1 << 20, 1)[seed % (1 << 20)]["segmentation"].astype(np.uint8)

    def draw(
        self, asked: Asked, progress: Callable[[int], None], show: Callable[[list[bytes]], None]
    ) -> tuple[list[bytes], Drawn]:
        """The pictures, as PNGs that know how they were made. show: gets what is there of them again and again."""
        with folders.folder() as folder:
            for file, content in asked.files.items():
                (folder / file).write_bytes(content)
            try:
                return self._draw(asked, folder, progress, show)
            except ValueError as error:
                raise ValueError(str(error).replace(f"{folder}/", "")) from error

    def _draw(self, asked: Asked, folder: Path, progress: Callable[[int], None], show: Callable) -> Any:
        generator, settings = self.generator, asked.settings
        (wanted,) = requests(_placed(settings, folder, asked.ids is None), generator, self.saved)
        request = wanted.request
        if asked.ids is not None:
            with Image.open(io.BytesIO(asked.files[settings.keep])) as mask:
                keep = np.asarray(mask) > 0
            keep = keep.reshape(len(keep) // self.code, self.code, -1, self.code).all((1, 3))
            request = dataclasses.replace(request, given=asked.ids, keep=keep)
        preview, done = self._preview(asked, wanted, request.keep), 0

        def step(n: int) -> None:
            nonlocal done
            done += n
            progress(n)

        def watch(ids: np.ndarray) -> None:
            if files := preview.update(ids, done):
                show(files)

        ids = np.asarray(generator.sampler.draw(generator.params, request, step, watch))
        made = {"workdir": self.workdir, "of": settings.n, "largest": settings.n, "sample": to_dict(settings)}
        files, path = [], folder / "drawn.png"
        for number, image in enumerate(np.asarray(generator.decode(ids))):
            pictures.save(image, epath.Path(path), {**made, "number": number})
            files.append(path.read_bytes())
        seen = self.condition.picture(request.batch, settings.n, request.pixels) if asked.files else None
        condition = b"" if seen is None or self.n_labels else png(pictures.to_pixels(np.asarray(seen[:1]))[0])
        return files, Drawn(ids, wanted.labels if self.condition.by_class else [""] * settings.n, condition)

    def _preview(self, asked: Asked, wanted: Wanted, keep: np.ndarray | None) -> Preview:
        """On the colours of the label map where there is one."""
        (height, width), n = asked.settings.size, asked.settings.n
        background = np.full((n, height, width, 3), 128, np.uint8)
        if self.n_labels:
            background[:] = self.colours[wanted.request.batch["segmentation"]]
        when = self.generator.drawing_steps((height, width))
        decode = lambda ids: pictures.to_pixels(pictures.colours(np.asarray(self.generator.decode(ids))))
        there = np.zeros(when.shape, bool) if keep is None else keep
        rows, columns = self.generator.model.grid
        tile = max(1, rows // 2), 4 * columns  # wide, as a row follows the one above it by the window's width
        return Preview(decode, self.generator.model.n_codes, when, there, background, tile)


def _placed(settings: SampleConfig, folder: Path, completed: bool) -> SampleConfig:
    """The settings with their files in a folder; without the picture to complete unless `completed`."""
    place = lambda name: str(folder / name) if name else ""
    complete, keep = (place(settings.complete), place(settings.keep)) if completed else ("", "")
    return dataclasses.replace(settings, condition=place(settings.condition), complete=complete, keep=keep)
