"""What settings come to, to be compared: the programs that are compiled, the batches, what is asked of a model, what a
training leaves behind.

Each probe takes settings by their paths, and gives one observation after the other, the cheap ones first, so that a
difference is seen early.
"""

import atexit
import contextlib
import functools
import hashlib
import inspect
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import jax
import numpy as np
import page_models
import pytest
import test_loop
from jaxtyping import config as jaxtyping_config
from ml_collections import ConfigDict
from PIL import Image
from tiny import TINY

import train_vqgan
from taming_jax import sharding
from taming_jax.compiling.programs import first_stage_program, second_stage_program
from taming_jax.data import pipeline
from taming_jax.data.config import DataConfig
from taming_jax.drawing import requests as asks
from taming_jax.experiment import SampleConfig, TransformerExperiment, VQGANExperiment
from taming_jax.models.vqgan import VQGAN, VQGANConfig
from taming_jax.quality import in_training
from taming_jax.quality.features import open_features
from taming_jax.settings import from_dict, to_dict
from taming_jax.trained.loading import two_stage
from taming_jax.training import loop

Changes = Mapping[str, Any]  # settings by their paths in an experiment, such as `model.beta`

NETWORK = {
    **to_dict(TINY),
    "ch": 4,
    "ch_mult": [1, 1],
    "z_channels": 4,
    "embed_dim": 4,
    "n_embed": 16,
    "norm_groups": 2,
}
FIRST: Changes = MappingProxyType(
    {
        "workdir": "there",
        "data": {"size": 16, "batch_size": 2},
        "model": {**NETWORK, "ch_mult": [1]},
        "discriminator": {"ndf": 4, "n_layers": 1},
        "loss": {"perceptual_weight": 0.0},
        "optimizer": {"b1": 0.5, "b2": 0.9},
    }
)
SECOND: Changes = MappingProxyType(
    {
        "workdir": "there",
        "first_stage": "here",
        "data": {"size": 16, "batch_size": 2},
        "transformer": {"n_layer": 1, "n_head": 2, "n_embd": 16},
        "condition": {"kind": "class_label", "n_classes": 3},
    }
)
ONE = sharding.make_mesh(sharding.MeshConfig(data=1), jax.devices()[:1])
LABELS = VQGAN(from_dict(VQGANConfig, {**NETWORK, "content": "segmentation", "in_channels": 5, "out_channels": 5}))


def changed(base: Changes, changes: Changes) -> dict[str, Any]:
    """Nested settings with those at some paths in place of their own."""
    found = json.loads(json.dumps(dict(base)))
    for path, value in changes.items():
        *sections, name = path.split(".")
        inner = functools.reduce(lambda tree, section: tree.setdefault(section, {}), sections, found)
        inner[name] = value
    return found


@contextlib.contextmanager
def jaxtyping_off() -> Iterator[None]:
    """Other tests see to the shapes, and here that would take half of the time."""
    jaxtyping_config.update("jaxtyping_disable", True)
    yield
    jaxtyping_config.update("jaxtyping_disable", False)


def traced(function: Any, *arguments: Any) -> Any:
    """A function as its program, with the numbers that this holds; the same where it computes the same."""
    with jaxtyping_off():
        program = jax.make_jaxpr(function)(*arguments)
    return told(program.jaxpr), [np.asarray(constant).tobytes() for constant in program.consts]


def told(jaxpr: Any) -> str:
    """A fingerprint of a program. Its text is no such thing, since it names what it calls by what was traced before."""
    names: dict[Any, int] = {}
    name = lambda one: repr(one.val) if hasattr(one, "val") else names.setdefault(one, len(names))
    lines: list[Any] = [[str(variable.aval) for variable in (*jaxpr.constvars, *jaxpr.invars)]]
    for variable in (*jaxpr.constvars, *jaxpr.invars):
        name(variable)
    for line in jaxpr.eqns:
        parameters = {key: _plain(value) for key, value in sorted(line.params.items())}
        given, found = map(name, line.invars), [(name(one), str(one.aval)) for one in line.outvars]
        lines.append((line.primitive.name, [*given], found, parameters))
    lines.append([name(variable) for variable in jaxpr.outvars])
    return hashlib.sha256(repr(lines).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """A parameter of an operation without addresses in memory."""
    if isinstance(value, (tuple, list)):
        return [_plain(one) for one in value]
    inner = getattr(value, "jaxpr", value)
    if hasattr(inner, "eqns"):
        return told(inner), [np.asarray(constant).tobytes() for constant in getattr(value, "consts", ())]
    return value.__name__ if inspect.isfunction(value) else re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def first_stage(changes: Changes) -> Iterator[Any]:
    """The start and a step of a first stage's training."""
    experiment = from_dict(VQGANExperiment, changed(FIRST, changes))
    experiment.check_channels()
    training = experiment.training()
    yield training.accumulate, training.init_from, training.usage_window
    yield traced(training.init, jax.random.key(0))
    yield _program(first_stage_program(experiment, ONE, "train"))


def step(changes: Changes) -> Iterator[Any]:
    """The updates of a first stage's training and a step of it, which alone know of its loss and optimizers."""
    experiment = from_dict(VQGANExperiment, changed(FIRST, changes))
    yield from updates(experiment.training())
    yield _program(first_stage_program(experiment, ONE, "train"))


def updates(training: Any) -> Iterator[Any]:
    """What its optimizers make of a layer and a table."""
    params = {"layer": {"kernel": np.ones((2, 2)), "bias": np.ones(2)}, "table": {"embedding": np.ones((2, 2))}}
    for name in ("optimizer", "disc_optimizer"):
        if optimizer := getattr(training, name, None):
            yield traced(optimizer.update, params, optimizer.init(params), params)


def second_stage(changes: Changes) -> Iterator[Any]:
    """The start, a step and the drawing of a second stage."""
    experiment = from_dict(TransformerExperiment, changed(SECOND, changes))
    first = VQGAN(from_dict(VQGANConfig, NETWORK))
    second = LABELS if experiment.condition.kind == "segmentation" else None
    model = two_stage(to_dict(experiment), first, second)
    training = experiment.training(model)
    yield model.condition, training.init_from
    yield from updates(training)
    yield traced(training.init, jax.random.key(0))
    yield _program(second_stage_program(experiment, first, second, ONE, "train"))
    yield _program(second_stage_program(experiment, first, second, ONE, "sample"))


def _program(program: Any) -> Any:
    with jax.set_mesh(program.mesh):
        return traced(program.function, *program.arguments)


def batches(changes: Changes) -> Iterator[Any]:
    """Two batches of training and one of validation, with the number of images."""
    data = {"size": 16, "batch_size": 2, "n_train": 6, "n_val": 4, "workers": 1}
    data |= {path.removeprefix("data."): value for path, value in changes.items()}
    config = from_dict(DataConfig, {"path": pictures(), **data} if data.get("source") == "folder" else data)
    yield pipeline.num_examples(config, "train"), pipeline.num_examples(config, "val")
    for split, n in (("train", 2), ("val", 1)):
        for batch, _ in zip(pipeline.make_batches(config, split), range(n)):
            yield {name: (value.shape, value.tobytes()) for name, value in batch.items()}


@functools.cache
def pictures() -> str:
    """A folder of pictures of noise, larger than what is trained on."""
    folder, rng = tempfile.mkdtemp(prefix="pictures_"), np.random.default_rng(0)
    atexit.register(shutil.rmtree, folder)
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (24, 40, 3), np.uint8)).save(Path(folder, f"{i:02}.png"))
    return folder


def asked(changes: Changes) -> Iterator[Any]:
    """What `sample.py` asks of a model of classes."""
    painter = _painter()
    values = {path.removeprefix("sample."): value for path, value in changes.items()}
    settings = from_dict(SampleConfig, {"n": 4, "batch_size": 2, **values})
    for wanted in asks.requests(settings, painter.generator, painter.saved):
        request = wanted.request
        painter.generator.sampler.check(request)
        yield {name: value.tolist() for name, value in request.batch.items()}, wanted.labels
        yield request.n, request.pixels, request.filters, request.seed, request.stride


def opened(changes: Changes) -> Iterator[Any]:
    """Which checkpoint `sample.py` opens, and on which devices."""
    given: dict[str, Any] = {}
    for path, value in changes.items():
        given = changed(given, {path.removeprefix("sample."): value})
    told = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asks, "open_saved", lambda _, step: told.append(step) or _painter().saved)
        patch.setattr(asks, "load_saved", lambda _, mesh, **__: told.append(mesh) or _painter().generator)
        asks.open_model(from_dict(SampleConfig, given), "there")
    yield told


@functools.cache
def _painter() -> Any:
    return page_models.painter("class_label")


def mesh(changes: Changes) -> Iterator[Any]:
    """The devices of a mesh by its axes."""
    values = {path.removeprefix("mesh."): value for path, value in changes.items()}
    made = sharding.make_mesh(from_dict(sharding.MeshConfig, values))
    yield dict(made.shape), [device.id for device in made.devices.flat]
    yield sharding.batch_shares(made)


def left(changes: Changes) -> Iterator[Any]:
    """What the training loop leaves behind: its log, its checkpoints, and what it has shown."""
    base = {"steps": 4, "log_every": 1, "save_every": 1, "keep": 1}
    given = {**base, **{path.removeprefix("train."): value for path, value in changes.items()}}
    config = from_dict(loop.TrainConfig, given)
    hook = loop.Hook("val", 1, lambda _, step: {"loss": step}, ("loss",))
    bar, ports, kept, keep = Bar(), list[int](), list[Any](), loop.keep_compiled

    def keep_compiled(*where: Any) -> None:
        nowhere_yet = SimpleNamespace(jax_compilation_cache_dir="", update=lambda *said: kept.append(said))
        with pytest.MonkeyPatch.context() as here:
            here.setattr(loop, "jax", SimpleNamespace(config=nowhere_yet))
            keep(*where)

    with tempfile.TemporaryDirectory() as workdir, pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "tqdm", bar)
        patch.setattr(loop, "keep_compiled", keep_compiled)
        patch.setattr(jax.profiler, "start_server", ports.append)
        test_loop.train(workdir, hooks=(hook,), **{f.name: getattr(config, f.name) for f in fields(config)})
        saved = sorted(int(path.name) for path in Path(workdir, "checkpoints").iterdir() if path.name.isdigit())
        logged = [(line["step"], line.get("train/loss")) for line in test_loop.history(workdir)]
    yield bar.shown, ports, kept, saved, logged


class Bar:
    """Stands for the progress bar."""

    def __init__(self) -> None:
        self.shown: list[Any] = []

    def __call__(self, **options: Any) -> "Bar":
        return self

    def set_postfix(self, shown: Any) -> None:
        self.shown.append(shown)

    def update(self) -> None: ...

    def close(self) -> None: ...


def begun(changes: Changes) -> Iterator[Any]:
    """What `train_vqgan.py` reads, and what it hands to the training loop."""
    told: list[Any] = []
    features = open_features("demo", sharding.make_mesh())
    note = lambda name, found: lambda *given, **_: told.append((name, *map(str, given))) or found
    with tempfile.TemporaryDirectory() as workdir, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "start_distributed", note("processes", None))
        patch.setattr(train_vqgan, "load_lpips", note("lpips", {}))
        patch.setattr(train_vqgan, "load_network", note("features", {}))
        patch.setattr(in_training, "open_features", lambda path, _, resize: told.append((path, resize)) or features)
        patch.setattr(loop, "train", lambda **given: told.append(given) or (None, True))
        train_vqgan.main(ConfigDict(changed(FIRST, {"data.batch_size": 8, "data.n_val": 8, **changes})), workdir)
    *told, given = told
    yield told
    yield [(hook.name, hook.every, hook.measures) for hook in given["hooks"]]
    yield dict(given["mesh"].shape)
