"""The original's project.yaml as configurations of this project."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from taming_jax.conditioning import Condition, ConditionConfig, make_condition
from taming_jax.convert.stage_settings import CONDITION_KEYS, CONTENTS, ConvertedStage, first_stage
from taming_jax.convert.tables import CONDITION, FIRST, TRANSFORMER, FirstStage, Model
from taming_jax.convert.yaml_node import Node, target
from taming_jax.models.gpt import GPTConfig
from taming_jax.models.vqgan import VQGAN
from taming_jax.nn import orders
from taming_jax.settings import from_dict, to_dict

PERMUTERS = {
    "Identity": "row_major",
    "Subsample": "subsample",
    "ZCurve": "z_curve",
    "SpiralIn": "spiral_in",
    "SpiralOut": "spiral_out",
    "Random": "random",
    "AlternateParsing": "alternate_parsing",
}
OBJECTS = {"objects_bbox": "boxes", "objects_center_points": "points"}


@dataclass
class Plan:
    """What a checkpoint is: its networks, a configuration for each folder to write ("" is OUT_DIR itself), and notes
    for the user about settings that have no meaning here."""

    model: Model
    configs: dict[str, dict[str, Any]]
    notes: list[str] = field(default_factory=list)


def load_project(path: str | Path) -> dict[str, Any]:
    """A project.yaml. Raises ValueError where there is none or it is no YAML."""
    import yaml

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        project = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(project, dict):
        raise ValueError(f"{path} is no project.yaml: it must be a mapping with `model` in it")
    return project


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
    size = _data_size(data)
    if kind == "Net2NetTransformer":
        return _two_stage(params, state, rate, size, data, n_classes, notes)
    stage = first_stage(kind, params, state, "", rate, size)
    return Plan(Model(FirstStage(stage.config, stage.discriminator)), {"": stage.saved}, notes)


def _two_stage(
    params: Node, state: Mapping[str, np.ndarray], rate: float, hint: int, data: Any, n_classes: int, notes: list[str]
) -> Plan:
    kind, node = params.part("first_stage_config")
    first = first_stage(kind, node, state, FIRST, rate, hint)
    gpt = _gpt(*params.part("transformer_config"))
    condition, stage, shared = _condition(params, state, rate, hint, data, n_classes)
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
    if CONTENTS.get(key) != first.config.content:
        content = first.config.content
        raise ValueError(f"first_stage_key={key!r} is not supported for a first stage that reads {content}")
    params.close()

    side, made = _training_side(first, stage, condition, gpt, height * first.config.factor, hint, notes)
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
    parts = [FirstStage(s.config, s.discriminator) if s else None for s in (first, stage)]
    return Plan(Model(parts[0], parts[1], gpt, order, grid, shared), configs, notes)


def _gpt(kind: str, params: Node) -> GPTConfig:
    if kind != "GPT":
        raise ValueError(f"{params.where}: the transformer {kind} is not supported, only GPT")
    values = {name: params.take(name, kind=int) for name in ("vocab_size", "block_size")}
    for name, default in (("n_layer", 12), ("n_head", 8), ("n_embd", 256), ("n_unmasked", 0)):
        values[name] = params.take(name, default, int)
    for name, ours in (("embd_pdrop", "embedding"), ("resid_pdrop", "residual"), ("attn_pdrop", "attention")):
        values[f"{ours}_dropout"] = params.take(name, 0.0, float)
    params.close()
    return from_dict(GPTConfig, values, params.where)


def _transformer_alone(kind: str, params: Node, state: Mapping[str, np.ndarray]) -> Plan:
    gpt = _gpt(kind, params)
    bare = not any(name.startswith(TRANSFORMER) for name in state)
    config = {"kind": "transformer", "transformer": to_dict(gpt)}
    return Plan(Model(transformer=gpt, bare=bare), {"": config}, params.notes)


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


def _condition(
    params: Node, state: Mapping[str, np.ndarray], rate: float, hint: int, data: Any, n_classes: int
) -> tuple[ConditionConfig, ConvertedStage | None, bool]:
    """(configuration, its own first stage, whether the image's first stage reads it)."""
    key = params.take("cond_stage_key", "depth", str)
    config = params.take("cond_stage_config")
    size = params.take("downsample_cond_size", -1, int)
    start = params.take("sos_token", 0, int)
    unconditional = params.take("unconditional", False, bool)
    if config == "__is_first_stage__":
        return ConditionConfig(_spatial_kind(key), stage="first_stage", size=max(0, size)), None, True
    if config == "__is_unconditional__" or unconditional:
        _check_start(start)
        return ConditionConfig("none"), None, False
    kind, node = target(config, "model.params.cond_stage_config", params.notes)
    if kind not in ("VQModel", "VQNoDiscModel", "VQSegmentationModel", "GumbelVQ") and size > 0:
        raise ValueError(
            f"downsample_cond_size={size} is not supported for a condition that is no first stage ({kind})"
        )
    if kind == "SOSProvider":
        _check_start(node.take("sos_token", kind=int))
        found = ConditionConfig("none")
    elif kind == "Labelator":
        found = ConditionConfig("class_label", n_classes=node.take("n_classes", kind=int))
    elif kind == "CoordStage":
        codes, factor = node.take("n_embed", kind=int), node.take("down_factor", kind=int)
        found = ConditionConfig("coordinate", n_codes=codes, factor=factor)
    elif kind == "DummyCondStage":
        found = _objects(node.take("conditional_key", key, str), data, n_classes)
    else:
        stage = first_stage(kind, node, state, CONDITION, rate, hint, _spatial_kind(key))
        if _spatial_kind(key) == "low_res":
            params.notes.append(f"cond_stage_key={key!r}: condition.scale is taken to be 4; the data set decided it")
        return ConditionConfig(_spatial_kind(key), stage="condition_stage", size=max(0, size)), stage, False
    if found.kind in ("none", "class_label"):
        node.leave("quantize_interface", "part of the original's plumbing")
    node.close()
    return found, None, False


def _check_start(token: int) -> None:
    if token != 0:
        raise ValueError(f"sos_token={token} is not supported: the start token is id 0 here")


def _spatial_kind(key: str) -> str:
    if key not in CONDITION_KEYS:
        raise ValueError(f"cond_stage_key={key!r} is unknown; known: {', '.join(CONDITION_KEYS)}")
    return CONDITION_KEYS[key]


def _objects(key: str, data: Any, n_classes: int) -> ConditionConfig:
    """Boxes or centre points: what they are made of stands with the data set."""
    if key not in OBJECTS:
        raise ValueError(f"conditional_key={key!r} is unknown; known: {', '.join(OBJECTS)}")
    values = _data_params(data)
    if "no_tokens" not in values or "max_objects_per_image" not in values:
        raise ValueError(
            f"a model conditioned on {key} needs data.params.train.params of its configuration, with no_tokens and "
            "max_objects_per_image"
        )
    if n_classes < 1:
        raise ValueError(
            f"a model conditioned on {key} needs the number of object classes, which its configuration does not tell: "
            "give --classes N, as many as the data set had categories in training"
        )
    return ConditionConfig(
        OBJECTS[key],
        n_classes=n_classes,
        n_codes=int(values["no_tokens"]),
        max_objects=int(values["max_objects_per_image"]),
        encode_crop=bool(values.get("encode_crop", False)),
        group_flag=bool(values.get("use_group_parameter", False)),
        more_flags=bool(values.get("use_additional_parameters", False)),
    )


def _training_side(
    first: ConvertedStage,
    stage: ConvertedStage | None,
    condition: ConditionConfig,
    gpt: GPTConfig,
    fixed: int,
    hint: int,
    notes: list[str],
) -> tuple[int, Condition]:
    """Side in pixels of the training images, and the condition for it.

    It is that of the token order's grid (`fixed`); else that of the data (`hint`), else the first stage's resolution,
    where their tokens fit the transformer; else the largest that fits.
    """
    network, reader = VQGAN(first.config), VQGAN(stage.config) if stage else None
    factor, reason = first.config.factor, ""

    def made_for(side: int) -> Condition | None:
        nonlocal reason
        try:
            h, w = first.config.grid(side, side)
            made = make_condition(condition, network, side, reader)
            needed = made.length + h * w - 1
        except ValueError as error:
            reason = str(error)
            return None
        if needed > gpt.block_size:
            reason = f"{made.length} tokens of the condition and {h * w} of the image need {needed} positions"
            return None
        return made

    sides = {hint: "the size of the data", first.config.resolution: "the first stage's resolution"}
    if fixed:
        sides = {fixed: "that of the token order"}
    for side, why in sides.items():
        if made := made_for(side):
            if not fixed and side != first.config.resolution:
                notes.append(f"data.size={side}: side of the training images, {why}")
            return side, made
    if not fixed:
        for side in range(factor * math.isqrt(gpt.block_size), 0, -factor):
            if made := made_for(side):
                notes.append(f"data.size={side}: side of the training images, the largest whose tokens fit")
                return side, made
    raise ValueError(f"no training images fit transformer_config.block_size={gpt.block_size}: {reason}")


def _data_params(data: Any) -> Mapping[str, Any]:
    """Settings of the training data set, where the configuration has them."""
    for key in ("params", "train", "params"):
        data = data.get(key) if isinstance(data, Mapping) else None
    return data if isinstance(data, Mapping) else {}


def _data_size(data: Any) -> int:
    """Side of the training images as the data section has it, or 0."""
    values = _data_params(data)
    inner = values.get("config")
    for settings in (values, inner if isinstance(inner, Mapping) else {}):
        for key in ("crop_size", "target_image_size", "size"):
            value = settings.get(key)
            if isinstance(value, int) and value > 0:
                return value
    return 0
