"""The original's configuration of a condition as one of this project."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from taming_jax.conditioning import ConditionConfig
from taming_jax.convert.original.first_stage import CLASSES, CONDITION_KEYS, ConvertedStage, first_stage
from taming_jax.convert.original.images import data_params
from taming_jax.convert.original.names import CONDITION
from taming_jax.convert.yaml_node import Node, target

OBJECTS = {"objects_bbox": "boxes", "objects_center_points": "points"}


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
    values = data_params(data)
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
    node = Node(values, "data.params.train.params", [])
    return ConditionConfig(
        OBJECTS[key],
        n_classes=n_classes,
        n_codes=node.take("no_tokens", kind=int),
        max_objects=node.take("max_objects_per_image", kind=int),
        encode_crop=bool(values.get("encode_crop", False)),
        group_flag=bool(values.get("use_group_parameter", False)),
        more_flags=bool(values.get("use_additional_parameters", False)),
    )


def condition_of(
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
    if kind not in CLASSES and size > 0:
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
