"""Untrained models for the tests of the page: they draw 16 pixels in grids of 8 x 8, under each kind of condition."""

import dataclasses
import functools
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tiny import TINY, untrained

from taming_jax.checkpoint import Saved
from taming_jax.conditioning import ConditionConfig, make_condition
from taming_jax.data.demo import landscape_kinds
from taming_jax.experiment import SampleConfig
from taming_jax.models.gpt import GPT, GPTConfig
from taming_jax.models.vqgan import VQGAN
from taming_jax.page.painter import Asked, Drawn, Painter
from taming_jax.page.preview import png
from taming_jax.settings import to_dict
from taming_jax.sharding import MeshConfig, make_mesh
from taming_jax.trained.first_stage import FirstStage
from taming_jax.trained.generator import Generator
from taming_jax.two_stage import TwoStage

STEPS = 4
CLASSES, MOODS = landscape_kinds.CLASS_NAMES, landscape_kinds.MOODS
SETTINGS: dict[str, dict[str, Any]] = {
    "segmentation": {"stage": "labels"},
    "light": {"kind": "segmentation", "stage": "labels", "n_classes": 3, "class_names": MOODS, "class_from": (0, 1, 2)},
    "edges": {"stage": "first_stage"},
    "depth": {"stage": "first_stage"},
    "low_res": {"stage": "first_stage", "scale": 2},
    "class_label": {"n_classes": len(CLASSES), "class_names": CLASSES},
    "boxes": {"n_classes": 2, "class_names": ("disk", "star"), "n_codes": 16, "max_objects": 3},
    "none": {},
}


@functools.cache
def stage(content: str = "image", channels: int = 3) -> tuple[VQGAN, Any]:
    network = VQGAN(dataclasses.replace(TINY, content=content, in_channels=channels, out_channels=channels))
    return network, untrained(network, jnp.zeros((1, 16, 16, channels)))


def painter(kind: str, workdir: str = "", source: str = "landscapes") -> Painter:
    """kind: one of SETTINGS. workdir: where it says that it is from."""
    mesh = make_mesh(MeshConfig(data=1), jax.devices()[:1])
    config = ConditionConfig(**{"kind": kind, **SETTINGS[kind]})
    first, params = stage()
    second = stage("segmentation", 10) if config.kind == "segmentation" else None
    condition = make_condition(config, first, 16, second[0] if second else None)
    gpt = GPT(GPTConfig(vocab_size=0, block_size=condition.length + 63, n_layer=1, n_head=2, n_embd=16))
    model = TwoStage(first, gpt, condition, (8, 8), condition_dropout=0.1 if kind != "none" else 0.0)
    stages = [FirstStage(first, params, mesh)]
    if second:
        stages.append(FirstStage(*second, mesh))
    elif config.stage:
        stages.append(stages[0])
    transformer = untrained(model.gpt, jnp.zeros((1, 2), jnp.int32))
    saved = {"kind": "two_stage", "data": {"source": source, "unlabelled": -1}, "condition": to_dict(config)}
    saved["sample"] = to_dict(SampleConfig(temperature=0.9, top_p=0.9))
    path = workdir or f"runs/tiny_{kind}"
    return Painter(Generator(model, transformer, *stages), Saved(path, 7, saved))


class Patient(Painter):
    """Draws nothing of its own: plain colours, in as many steps as are let pass by `go`."""

    def __init__(self, like: Painter) -> None:
        self.__dict__ |= vars(like)
        self.go, self.drawn = threading.Semaphore(0), list[int]()

    def draw(self, asked: Asked, progress: Any, show: Any) -> tuple[list[bytes], Drawn]:
        (height, width), n, seed = asked.settings.size, asked.settings.n, asked.settings.seed
        steps = asked.steps
        for i in range(STEPS):
            self.go.acquire()
            progress(steps * (i + 1) // STEPS - steps * i // STEPS)
            rows = height * (i + 1) // STEPS
            image = np.full((height, width, 3), 128, np.uint8)
            image[:rows] = (seed * 40 % 256, 90, 40 * i)
            show([png(image)] * n)
        if seed == 13:
            raise ValueError("13 is refused")
        if seed == 14:
            raise RuntimeError("a secret of the machine")
        self.drawn.append(seed)
        image[:] = (seed * 40 % 256, 200, 40)
        grid = height // self.code, width // self.code
        return [png(image)] * n, Drawn(np.zeros((n, *grid), np.int32), [""] * n)
