"""The original's project.yaml as configurations of this project."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from taming_jax.convert.original.condition import condition_of
from taming_jax.convert.original.first_stage import CONTENT_KEYS, first_stage
from taming_jax.convert.original.images import data_size, training_side
from taming_jax.convert.original.names import FIRST, TRANSFORMER, Networks
from taming_jax.convert.yaml_file import read_yaml
from taming_jax.convert.yaml_node import Node, target
from taming_jax.differences import short
from taming_jax.models.gpt import GPTConfig
from taming_jax.nn import orders
from taming_jax.settings import from_dict, to_dict

LONGEST = 1 << 14  # positions of a transformer
PERMUTERS = {
    "Identity": "row_major",
    "Subsample": "subsample",
    "ZCurve": "z_curve",
    "SpiralIn": "spiral_in",
    "SpiralOut": "spiral_out",
    "Random": "random",
    "AlternateParsing": "alternate_parsing",
}


@dataclass
class Plan:
    """What a checkpoint is: its networks, a configuration for each folder to write ("" is OUT_DIR itself), and notes
    for the user about settings that have no meaning here. program, kind: whose class of model it is ("taming" or
    "ldm"), and which."""

    networks: Networks
    configs: dict[str, dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    program: str = "taming"
    kind: str = ""


def load_project(path: str | Path) -> dict[str, Any]:
    """A project.yaml. Raises ValueError where there is none or it is no YAML."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    project = read_yaml(path)
    if not isinstance(project, dict):
        raise ValueError(f"{path} is no project.yaml: it must be a mapping with `model` in it")
    return project


def _gpt(kind: str, params: Node) -> GPTConfig:
    if kind != "GPT":
        raise ValueError(f"{params.where}: the transformer {kind} is not supported, only GPT")
    values = {name: params.take(name, kind=int) for name in ("vocab_size", "block_size")}
    for name, default in (("n_layer", 12), ("n_head", 8), ("n_embd", 256), ("n_unmasked", 0)):
        values[name] = params.take(name, default, int)
    if values["block_size"] > LONGEST:  # its masks have as many rows and columns
        raise ValueError(f"{params.where}.block_size={short(values['block_size'])} is more than {LONGEST}")
    for name, ours in (("embd_pdrop", "embedding"), ("resid_pdrop", "residual"), ("attn_pdrop", "attention")):
        values[f"{ours}_dropout"] = params.take(name, 0.0, float)
    params.close()
    return from_dict(GPTConfig, values, params.where)


def _order(params: Node) -> tuple[str, int, int]:
    """(name, rows, columns) of the token order; zeros where the configuration leaves the grid open."""
    if params.values.get("permuter_config") is None:
        params.values.pop("permuter_config", None)
        return "row_major", 0, 0
    kind, node = params.part("permuter_config")
    if kind not in PERMUTERS:
        raise ValueError(f"{node.where}: the token order {kind} is unknown; known: {', '.join(PERMUTERS)}")
    height, width = (node.take(key, 0, int) if kind == "Identity" else node.take(key, kind=int) for key in ("H", "W"))
    if kind == "Random":
        node.must("seed", 1, 1, "the original has no other")
    node.close()
    return PERMUTERS[kind], height, width


def _two_stage(
    params: Node, state: Mapping[str, np.ndarray], rate: float, hint: int, data: Any, n_classes: int, notes: list[str]
) -> Plan:
    kind, node = params.part("first_stage_config")
    first = first_stage(kind, node, state, FIRST, rate, hint)
    gpt = _gpt(*params.part("transformer_config"))
    condition, stage, shared = condition_of(params, state, rate, hint, data, n_classes)
    order, height, width = _order(params)
    if height != width:
        raise ValueError(
            f"the token order is for a grid of {height} x {width}; only square training grids are supported"
        )
    pkeep = params.take("pkeep", 1.0, float)
    if not 0 < pkeep <= 1:
        raise ValueError(f"model.params.pkeep={pkeep} is not supported: it must be in (0, 1]")
    params.leave("ckpt_path", "the weights are in the checkpoint")
    params.leave("ignore_keys", "the weights are in the checkpoint")
    key = params.take("first_stage_key", "image", str)
    if CONTENT_KEYS.get(key) != first.config.content:
        content = first.config.content
        raise ValueError(f"first_stage_key={key!r} is not supported for a first stage that reads {content}")
    params.close()

    side, made = training_side(first, stage, condition, gpt, height * first.config.factor, hint, notes)
    vocabulary = max(first.config.n_codes, made.vocabulary)
    if gpt.vocab_size < vocabulary:
        raise ValueError(
            f"transformer_config.vocab_size={gpt.vocab_size}, but codes and condition need {vocabulary} ids"
        )
    config = {
        "kind": "two_stage",
        "transformer": to_dict(gpt),
        "condition": to_dict(condition),
        "order": order,
        "pkeep": pkeep,
        "data": {"size": side},
        "optimizer": {"learning_rate": rate, "per_sample": True, "b1": 0.9, "b2": 0.95, "weight_decay": 0.01},
    }
    configs = {"": config, "first_stage": first.saved}
    if stage is not None:
        configs["condition_stage"] = stage.saved
    grid = first.config.grid(side, side)
    orders.order(order, *grid)  # refuses a grid that it cannot walk
    networks = Networks(first.networks, stage.networks if stage else None, gpt, order, grid, shared)
    return Plan(networks, configs, notes)


def _transformer_alone(kind: str, params: Node, state: Mapping[str, np.ndarray]) -> Plan:
    gpt = _gpt(kind, params)
    bare = not any(name.startswith(TRANSFORMER) for name in state)
    config = {"kind": "transformer", "transformer": to_dict(gpt)}
    return Plan(Networks(transformer=gpt, bare=bare), {"": config}, params.notes)


def translate(project: Mapping[str, Any], state: Mapping[str, np.ndarray], n_classes: int = 0) -> Plan:
    """The plan for a checkpoint with this configuration and these arrays.

    n_classes: classes of the objects of a scene model, which its configuration does not tell.
    Raises ValueError for settings that are unknown, or change the result and are not supported.
    """
    notes: list[str] = []
    top = Node(project, "", notes)
    top.where = "project"
    data = top.values.pop("data", None)
    top.leave("lightning", "settings of PyTorch Lightning")
    if "transformer_config" in top.values and "model" not in top.values:
        plan = _transformer_alone(*top.part("transformer_config"), state)
        top.close()
        return plan
    model = top.take("model")
    for key in list(top.values):
        top.leave(key, "the original does not read it either")
    kind, params = target(model, "model", notes)
    rate = Node(model, "model", []).take("base_learning_rate", 4.5e-6, float)
    if kind == "GPT":
        return _transformer_alone(kind, params, state)
    size = data_size(data)
    if kind == "Net2NetTransformer":
        return _two_stage(params, state, rate, size, data, n_classes, notes)
    prefix = ""
    if params.program == "ldm" and "first_stage_config" in params.values:
        kind, params = params.part("first_stage_config")
        prefix = FIRST
    elif not any(name.startswith("encoder.") for name in state) and any(name.startswith(FIRST) for name in state):
        prefix = FIRST
    stage = first_stage(kind, params, state, prefix, rate, size)
    return Plan(Networks(stage.networks, prefix=prefix), {"": stage.saved}, notes, params.program, kind)
