"""The size of the images that a model was trained on: what the data section tells, and what the networks allow."""

import math
from collections.abc import Mapping
from typing import Any

from taming_jax.conditioning import Condition, ConditionConfig, make_condition
from taming_jax.convert.original.first_stage import ConvertedStage
from taming_jax.models.gpt import GPTConfig
from taming_jax.models.vqgan import VQGAN


def data_params(data: Any) -> Mapping[str, Any]:
    """Settings of the training data set, where the configuration has them."""
    for key in ("params", "train", "params"):
        data = data.get(key) if isinstance(data, Mapping) else None
    return data if isinstance(data, Mapping) else {}


def data_size(data: Any) -> int:
    """Side of the training images as the data section has it, or 0."""
    values = data_params(data)
    inner = values.get("config")
    for settings in (values, inner if isinstance(inner, Mapping) else {}):
        for key in ("crop_size", "target_image_size", "size"):
            value = settings.get(key)
            if isinstance(value, int) and value > 0:
                return value
    return 0


def training_side(
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
