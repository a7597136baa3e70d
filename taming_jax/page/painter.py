"""What the page paints with: a generator that draws pictures on label maps, its labels, and maps to begin with."""

import dataclasses
import io
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image

from taming_jax.data import demo
from taming_jax.data.demo import landscape_kinds
from taming_jax.pictures import label_colours, to_pixels
from taming_jax.sampling.filters import Filters
from taming_jax.trained.generator import Generator
from taming_jax.trained.sampler import Request

MOST_PIXELS = 1 << 21
PAUSE = 1.0  # seconds between pictures that are not finished, at least
REST = 3.0  # and times as long as the last one took to be made, so that most of the time is for drawing
# by the data of the training: names, colours (labels, 3), and what draws maps to begin with
_KNOWN: dict[str, tuple[tuple[str, ...], np.ndarray, Any]] = {
    "demo": (demo.LABELS, demo.PALETTE, demo.DemoScenes),
    "landscapes": (landscape_kinds.LABELS, landscape_kinds.PALETTE, demo.DemoLandscapes),
}


@dataclasses.dataclass(frozen=True)
class Asked:
    """labels: uint8 (H, W). The others are as in `Generator.sample_ids`."""

    labels: np.ndarray
    seed: int = 0
    temperature: float = 1.0
    top_p: float = 1.0


class Painter:
    """generator: conditioned on label maps; config: of its training. Raises ValueError for other generators."""

    def __init__(self, generator: Any, config: Mapping[str, Any]) -> None:
        if not isinstance(generator, Generator) or generator.model.condition.keys != ("segmentation",):
            raise ValueError("this model does not draw on label maps; name the working directory of one that does.")
        stage = generator.condition_stage
        assert stage is not None  # label maps have one
        self.generator, self.n_labels = generator, stage.config.in_channels
        self.factor = int(np.lcm(generator.first_stage.config.factor, stage.config.factor))
        names, colours, self._examples = _KNOWN.get(config["data"]["source"], ((), np.zeros((0, 3)), None))
        if len(names) != self.n_labels:
            names = tuple(f"label {label}" for label in range(self.n_labels))
            colours = to_pixels(label_colours(np.arange(self.n_labels)[None, None]))[0, 0]
            self._examples = None
        self.names, self.colours = names, colours

    def about(self) -> dict[str, Any]:
        """What the page has to know."""
        labels = [{"name": name, "colour": colour} for name, colour in zip(self.names, self.colours.tolist())]
        sides = self.generator.training_pixels
        return {"labels": labels, "factor": self.factor, "sides": sides, "most": MOST_PIXELS, "least": min(sides)}

    def check_size(self, height: int, width: int) -> None:
        """Raises ValueError for what cannot be drawn."""
        least = self.generator.training_pixels
        if height % self.factor or width % self.factor or height < least[0] or width < least[1]:
            raise ValueError(
                f"height {height} and width {width} must be multiples of {self.factor}, and at least {least[0]} and "
                f"{least[1]}"
            )
        if height * width > MOST_PIXELS:
            raise ValueError(f"{height} x {width} pixels are more than the {MOST_PIXELS} that are drawn at once")

    def example(self, height: int, width: int, seed: int) -> np.ndarray:
        """A label map uint8 (height, width) to begin with; of one label where none can be made up."""
        self.check_size(height, width)
        if self._examples is None:
            return np.zeros((height, width), np.uint8)
        return self._examples((height, width), 1 << 20, 1)[seed % (1 << 20)]["segmentation"].astype(np.uint8)

    def ask(self, body: bytes, height: int, width: int, seed: int, temperature: float, top_p: float) -> Asked:
        """What a request says, checked: body has a byte for each pixel. Raises ValueError."""
        self.check_size(height, width)
        if len(body) != height * width:
            raise ValueError(f"{len(body)} bytes are no map of {height} x {width} pixels")
        labels = np.frombuffer(body, np.uint8).reshape(height, width)
        if labels.max() >= self.n_labels:
            raise ValueError(f"label {labels.max()} is not one of the {self.n_labels}")
        if not (0 <= seed < 1 << 31 and 0 <= temperature <= 2 and 0 < top_p <= 1):
            raise ValueError("seed must be from 0 to 2147483647, temperature from 0 to 2, top_p above 0 and at most 1")
        return Asked(labels, seed, temperature, top_p)

    def steps(self, asked: Asked) -> int:
        height, width = asked.labels.shape
        return self.generator.steps((height, width))

    def draw(self, asked: Asked, progress: Callable[[int], None], show: Callable[[bytes], None]) -> bytes:
        """The picture, as a PNG. show: gets what is there of it, on the map, again and again while it is drawn."""
        generator, pixels = self.generator, asked.labels.shape
        batch = generator.parse_condition(1, pixels, segmentation=asked.labels.astype(np.int32))
        request = Request(batch, 1, pixels, Filters(asked.temperature, None, asked.top_p), seed=asked.seed)
        steps, factor = generator.drawing_steps(pixels), generator.first_stage.config.factor
        done, after = 0, time.monotonic() + PAUSE

        def step(n: int) -> None:
            nonlocal done
            done += n
            progress(n)

        def watch(ids: np.ndarray) -> None:
            nonlocal after
            begun = time.monotonic()
            if begun < after:
                return
            drawn = np.kron(steps < done, np.ones((factor, factor), bool))[..., None]
            show(_png(np.where(drawn, self._decode(ids), self.colours[asked.labels])))
            end = time.monotonic()
            after = end + max(PAUSE, REST * (end - begun))

        return _png(self._decode(generator.sampler.draw(generator.params, request, step, watch)))

    def _decode(self, ids: Any) -> np.ndarray:
        return to_pixels(np.asarray(self.generator.decode(ids))[0])


def _png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image.astype(np.uint8)).save(file, format="PNG")
    return file.getvalue()
