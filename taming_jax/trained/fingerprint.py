"""What a second stage learns from: its networks, and whether codes and lists of codes belong to them."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from taming_jax import checkpoint
from taming_jax.checkpoint import CONDITION_STAGE, FIRST_STAGE
from taming_jax.conditioning import has_stage
from taming_jax.data.sources import codes
from taming_jax.differences import differences
from taming_jax.experiment import TransformerExperiment
from taming_jax.models.vqgan import VQGAN, VQGANConfig
from taming_jax.settings import to_dict
from taming_jax.two_stage import TwoStage


def describe(experiment: TransformerExperiment, model: TwoStage, workdir: str = "") -> dict[str, Any]:
    """All that the tokens of an image depend on, as JSON: the networks with a digest of their parameters, the size, the
    condition's settings. workdir: where training keeps copies of the networks, if it has begun."""
    copies = bool(workdir) and checkpoint.has_checkpoint(workdir)
    first = os.path.join(workdir, FIRST_STAGE) if copies else experiment.first_stage
    found = {"size": experiment.data.size, "first_stage": _network(model.first_stage, first)}
    condition: Any = model.condition
    settings = {field.name: getattr(condition, field.name) for field in dataclasses.fields(condition)}
    settings.pop("names", None)  # what the classes are called may change
    settings.pop("image_channels", None)  # the first stage's
    settings.pop("missing", None)  # the data's, which info.json has
    if has_stage(experiment.condition):
        second = os.path.join(workdir, CONDITION_STAGE) if copies else experiment.condition.stage
        settings["stage"] = _network(condition.stage, second)
    elif "stage" in settings:
        settings["stage"] = FIRST_STAGE
    found["condition"] = {"kind": experiment.condition.kind, **settings}
    return json.loads(json.dumps(found))


def check_codes(experiment: TransformerExperiment, model: TwoStage, workdir: str) -> None:
    """Raise ValueError, naming the difference, where the codes were made by other networks or settings than these."""
    path = experiment.data.path
    notes = differences(_with_later(codes.read_info(path)["tokens_of"]), describe(experiment, model, workdir), "config")
    if notes:
        raise ValueError(
            f"the codes in {path!r} do not fit this configuration ({notes}); take the first stages and the condition "
            "that they were made with, or encode the data anew into another folder."
        )


def codes_digest(params: Any) -> str:
    """A digest of what in a first stage's parameters decides which code an image gets; of its decoder nothing."""
    return _digest({name: params[name] for name in ("encoder", "quant_conv", "quantizer") if name in params})


def _with_later(found: Mapping[str, Any]) -> dict[str, Any]:
    """A description as `describe` gives it, where the settings of networks that came after it was written are at what
    they were then, their defaults."""
    defaults = to_dict(VQGANConfig().settled)
    fill = lambda network: {**defaults, **network} if isinstance(network, Mapping) else network
    condition = {name: fill(value) if name == "stage" else value for name, value in found["condition"].items()}
    return {**found, "first_stage": fill(found["first_stage"]), "condition": condition}


def _network(stage: VQGAN, path: str) -> dict[str, Any]:
    return {**to_dict(stage.config.settled), "parameters": _digest(checkpoint.open_saved(path).load_params())}


def _digest(params: Any) -> str:
    """The beginning of a SHA-256 of all arrays with their names."""
    digest = hashlib.sha256()
    for name, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        leaf = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(name)} {leaf.dtype} {leaf.shape}".encode())
        digest.update(leaf.data)
    return digest.hexdigest()[:16]
