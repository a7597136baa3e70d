"""A checkpoint directory as an object: what is in it decides which."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from taming_jax.checkpoint import CONDITION_STAGE, FIRST_STAGE, Saved, open_saved, quiet_orbax, with_newest
from taming_jax.checkpoint.saved import Portable
from taming_jax.conditioning import Condition, ConditionConfig, StageCondition, has_stage, make_condition
from taming_jax.data import pipeline
from taming_jax.limits import told
from taming_jax.models.gpt import GPT, GPTConfig, cast_layers, unstack_layers, with_layers_apart
from taming_jax.models.vqgan import VQGAN, VQGANConfig
from taming_jax.settings import from_dict, plain_size, sides
from taming_jax.trained.first_stage import FirstStage
from taming_jax.trained.generator import Generator
from taming_jax.trained.token_model import TokenModel
from taming_jax.two_stage import TwoStage


def load(
    path: str, *, step: int | str | None = None, dtype: Any = None, mesh: jax.sharding.Mesh | None = None
) -> FirstStage | Generator | TokenModel:
    """Open a checkpoint directory; what is in it decides: a first stage, a two-stage generator, a transformer alone.

    path: what a training or a conversion has written, or a model as hubs keep it (config.json, model.safetensors), in a
    directory or as hf://OWNER/NAME[@REVISION], which huggingface_hub fetches; "landscapes" and "landscapes_class" are
    models that the package carries.
    step: which checkpoint, default the newest; "best" for the best by its monitored metric.
    dtype: keep the parameters in this type, such as jnp.bfloat16, in half the memory.
    mesh: where to work, default all devices.
    Raises ValueError for a missing or foreign directory.
    """
    quiet_orbax()
    return with_newest(step, lambda: load_saved(open_saved(path, step), dtype=dtype, mesh=mesh))


def load_saved(
    saved: Saved, *, dtype: Any = None, mesh: jax.sharding.Mesh | None = None, to_draw: bool = False
) -> FirstStage | Generator | TokenModel:
    """`load` of a checkpoint whose configuration has been read already.

    to_draw: keep the layers of a two-stage model's transformer in the type that they are computed in, which drawing
    would otherwise cast them to at each call; what is drawn is the same.
    """
    loaded = _loaded(saved, dtype, mesh, to_draw)
    loaded.saved = saved
    return loaded


def _loaded(
    saved: Saved, dtype: Any, mesh: jax.sharding.Mesh | None, to_draw: bool
) -> FirstStage | Generator | TokenModel:
    path, config = saved.path, saved.config
    if saved.kind == "vqgan":
        return FirstStage(vqgan_of(saved), saved.load_params(dtype), mesh)
    if saved.kind == "transformer":
        gpt = with_layers_apart(GPT(from_dict(GPTConfig, saved_part(config, "transformer"), "config.transformer")))
        return TokenModel(gpt, unstack_layers(saved.load_params(dtype)), mesh)
    if saved.kind != "two_stage":
        raise ValueError(f"{path!r} holds a checkpoint of kind {saved.kind!r}; known: vqgan, two_stage, transformer.")
    settings = from_dict(ConditionConfig, saved_part(config, "condition"), "config.condition")
    first = load_first_stage(_first_stage_of(saved), dtype=dtype, mesh=mesh)
    second = None
    if has_stage(settings):
        second = load_first_stage(os.path.join(path, CONDITION_STAGE), dtype=dtype, mesh=mesh)
    model = two_stage(config, first.model, second.model if second else None)
    params = unstack_layers(saved.load_params(dtype))
    params = cast_layers(params, model.gpt.config.dtype) if to_draw and dtype is None else params
    return Generator(model, params, first, condition_stage(model, first, second))


def _first_stage_of(saved: Saved) -> str:
    """Where the first stage of a two-stage model lies: in its directory; of one as hubs keep it that has none there,
    where its configuration says, so that models may share one."""
    own = os.path.join(saved.path, FIRST_STAGE)
    shared = isinstance(saved, Portable) and not epath.Path(own).exists()
    named = saved.config.get("first_stage") or own if shared else own
    if not isinstance(named, str):
        raise ValueError(f"config.first_stage is {told(named)}, but it must be the directory of a first stage.")
    return named


@dataclasses.dataclass(frozen=True)
class _Training:
    """What of a second stage's training its network has to know."""

    order: str
    pkeep: float
    condition_dropout: float = 0.0
    prior: str = "autoregressive"  # older checkpoints name none


def saved_part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The settings below a name of a saved configuration. Raises ValueError where there are none."""
    found = config.get(name)
    if not isinstance(found, Mapping):
        raise ValueError(f"config.{name} is {told(found)}, but it must be a mapping of settings.")
    return found


def vqgan_of(saved: Saved) -> VQGAN:
    """The network of a saved first stage."""
    return VQGAN(from_dict(VQGANConfig, saved_part(saved.config, "model"), "config.model"))


def load_first_stage(path: str, **options: Any) -> FirstStage:
    """`load` where only a first stage will do. Raises ValueError for anything else."""
    loaded = load(path, **options)
    if not isinstance(loaded, FirstStage):
        raise ValueError(f"{path!r} holds no first stage; name the working directory of one.")
    return loaded


def condition_stage(model: TwoStage, first: FirstStage, second: FirstStage | None) -> FirstStage | None:
    """Which of the two networks reads the condition, if any does."""
    return second or (first if isinstance(model.condition, StageCondition) else None)


def with_missing(condition: Condition, missing: tuple[float, ...]) -> Condition:
    """A condition that reads depth maps with these values for "nothing measured"; any other as it is."""
    return dataclasses.replace(condition, missing=missing) if isinstance(condition, StageCondition) else condition


def color_profiles(config: Mapping[str, Any]) -> bool:
    """Whether the training of a saved configuration read color profiles; a converted model does not say."""
    return config.get("data", {}).get("color_profiles", True)


def two_stage(config: Mapping[str, Any], first_stage: VQGAN, condition_stage: VQGAN | None = None) -> TwoStage:
    """The two-stage model that a saved or composed configuration names, around its networks. Raises ValueError where
    they do not fit."""
    data = saved_part(config, "data")
    if "size" not in data:
        raise ValueError("config.data lacks size, the side of the images in training.")
    size, content = plain_size(data["size"], "config.data.size"), first_stage.config.content
    if content != "image":
        raise ValueError(
            f"config.first_stage={config.get('first_stage', '')!r} reads {content}, but images are drawn: name the "
            "first stage of the images; that of a map goes into config.condition.stage."
        )
    own = {name: config[name] for name in _Training.__dataclass_fields__ if name in config}
    training = from_dict(_Training, own, "config")
    condition = from_dict(ConditionConfig, saved_part(config, "condition"), "config.condition")
    return TwoStage(
        first_stage=first_stage,
        gpt=GPT(from_dict(GPTConfig, saved_part(config, "transformer"), "config.transformer")),
        condition=with_missing(
            make_condition(condition, first_stage, size, condition_stage, color_profiles(config)),
            pipeline.missing_depths(data),
        ),
        grid=first_stage.config.grid(*sides(size)),
        order=training.order,
        pkeep=training.pkeep,
        condition_dropout=training.condition_dropout,
        kind=training.prior,
    )
