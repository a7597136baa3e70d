"""The same pictures without the page: the command, and the lines of Python."""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from taming_jax.experiment import SampleConfig
from taming_jax.priors.filters import FILTER_NAMES

# What a command says whatever was saved with the model, since the configuration may have other values, beside the
# filters that act.
ALWAYS = ("n", "seed", "size")
_DEMOS = {"none": "uncond", "class_label": "class"}  # of which the configuration is not named as the condition


def command(settings: SampleConfig, workdir: str, config: Mapping[str, Any], follows: Sequence[str]) -> str:
    """`python sample.py ...` for a model in `workdir` that was saved with `config` and follows some filters."""
    before = {**_plain(SampleConfig()), **config.get("sample", {})}
    always = {*ALWAYS, *follows} - set(settings.filters().idle)
    before = {name: tuple(value) if isinstance(value, list) else value for name, value in before.items()}
    said = lambda name, value: name in always or value != before.get(name)
    flags = [
        f"--config.sample.{name}={value if isinstance(value, str) else str(value).replace(' ', '')}"
        for name, value in _plain(settings).items()
        if name not in ("batch_size", "step", "mesh", "out") and said(name, value)
    ]
    words = [f"--config={_config_file(config)}", f"--workdir={workdir}", *flags]
    return " \\\n    ".join(["python sample.py", *map(shlex.quote, words)])


def python(settings: SampleConfig, workdir: str, factor: int, condition: Mapping[str, Any]) -> str:
    """Lines that draw the same. condition: keywords of `Generator.sample` that need no file."""
    lines, options = ["import taming_jax", ""], ""
    if settings.condition:
        lines.insert(0, "from pathlib import Path\n")
    if settings.complete:
        lines.insert(-1, "from taming_jax.drawing.completion import complete, read_mask, read_picture")
    lines.append(f"generator = taming_jax.load({workdir!r})")
    if settings.condition:
        read = f"Path({settings.condition!r}), {factor}, {tuple(settings.size)}"
        lines.append(f"condition = generator.model.condition.read({read})")
        options += ", **condition"
    if settings.complete:
        lines.append(f"picture = read_picture({settings.complete!r}, {factor})")
        lines.append(f"mask = read_mask({settings.keep!r}, picture, {factor})")
        lines.append(f"there = complete(generator.first_stage, picture, mask, {tuple(settings.size)})")
        options += ", **there"
    default = _plain(SampleConfig())
    names = (*FILTER_NAMES, "stride")
    given = {"size": tuple(settings.size), "seed": settings.seed, **condition}
    given |= {name: getattr(settings, name) for name in names if getattr(settings, name) != default[name]}
    options = ", ".join(f"{name}={value!r}" for name, value in given.items()) + options
    return "\n".join([*lines, f"images = generator.sample({settings.n}, {options})"])


def _plain(settings: SampleConfig) -> dict[str, Any]:
    return {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}


def _config_file(config: Mapping[str, Any]) -> str:
    """The configuration that a training is named after, or one of the demo's with such a condition: the command says
    all that matters, so that any with a second stage will do."""
    kind = config["condition"]["kind"]
    name = PurePath(config.get("workdir") or f"demo_{_DEMOS.get(kind, kind)}").name
    return f"configs/{name.removesuffix('_tiny')}.py{':tiny' if name.endswith('_tiny') else ''}"
