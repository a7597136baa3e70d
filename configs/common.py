"""What the configurations share: all settings with their defaults, so that a flag can change any, and the tiny ones."""

import dataclasses
import types
import typing
from typing import Any

from ml_collections import ConfigDict, config_dict

from taming_jax.cli import Numbers
from taming_jax.data.config import DataConfig
from taming_jax.experiment import TransformerExperiment, VQGANExperiment
from taming_jax.models.content import CONTENTS

DEMO_CHANNELS = {"segmentation": 12, "pose": 5}  # labels and key points of the demo's scenes


def vqgan(workdir: str) -> ConfigDict:
    """All settings of a first stage's training, at their defaults."""
    return _settings(VQGANExperiment(workdir=workdir, data=DataConfig()))


def transformer(workdir: str, first_stage: str) -> ConfigDict:
    """All settings of a second stage's training and sampling, at their defaults."""
    return _settings(TransformerExperiment(workdir=workdir, first_stage=first_stage, data=DataConfig()))


def reads(config: ConfigDict, content: str, channels: int) -> ConfigDict:
    """The first stage of `config` for what it reads, in `channels` channels; without LPIPS."""
    kind = CONTENTS[content]
    best, mode = kind.best
    config.model.update({"content": content, "in_channels": channels, "out_channels": channels})
    config.discriminator.in_channels = channels
    config.loss.perceptual_weight = 0.0
    config.train.update({"monitor": f"val/{best}", "monitor_mode": mode})
    config.train.show = (f"{kind.loss}_loss", "quant_loss", "usage")
    if not kind.image_losses:
        config.loss.disc_weight = 0.0
    return config


def arguments(arg: str, *known: str) -> set[str]:
    """The words behind the colon in `--config=configs/x.py:word,word`. Raises ValueError for an unknown one."""
    words = {word for word in arg.split(",") if word}
    if words - {*known, "tiny"}:
        raise ValueError(
            f"unknown configuration argument {', '.join(sorted(words - {*known, 'tiny'}))!r}; "
            f"known: {', '.join((*known, 'tiny'))}."
        )
    return words


def tiny_vqgan(config: ConfigDict, source: str = "demo") -> ConfigDict:
    """The same kind of network, shrunk until a laptop trains it in about a minute, on the demo's scenes unless told."""
    config.workdir += "_tiny"
    _tiny_data(config, source)
    config.model.update(
        {"resolution": 32, "ch": 16, "ch_mult": (1, 2, 2), "num_res_blocks": 1, "attn_resolutions": (8,)}
        | {"z_channels": 32, "embed_dim": 32, "n_embed": 64, "norm_groups": 8, "dtype": "float32"}
    )
    config.discriminator.update({"ndf": 8, "n_layers": 2, "dtype": "float32"})
    config.loss.update({"perceptual_weight": 0.0, "disc_learn_start": 50, "disc_start": 60, "disc_ramp": 20})
    config.optimizer.update({"learning_rate": 2e-3, "per_sample": False, "warmup": 0})
    content, channels = config.model.content, config.model.in_channels
    return reads(config, content, DEMO_CHANNELS.get(content, channels) if source == "demo" else channels)


def tiny_transformer(config: ConfigDict, source: str = "demo") -> ConfigDict:
    """As `tiny_vqgan`, on the tiny first stage."""
    config.workdir += "_tiny"
    config.first_stage += "_tiny"
    _tiny_data(config, source)
    condition = config.condition
    condition.update({"n_classes": 0, "n_codes": 64, "factor": 4, "size": 0, "max_objects": 4})  # classes: of the data
    if condition.stage not in ("", "first_stage"):
        condition.stage += "_tiny"
    config.transformer.update({"vocab_size": 0, "block_size": 0, "n_layer": 2, "n_head": 4, "n_embd": 64})
    config.transformer.dtype = "float32"
    config.optimizer.update({"learning_rate": 2e-3, "per_sample": False, "warmup": 0})
    config.sample.update({"n": 8, "batch_size": 8, "top_k": None})
    return config


def _tiny_data(config: ConfigDict, source: str) -> None:
    config.data.update({"source": source, "size": 32, "resize": 0, "batch_size": 8, "n_train": 256, "n_val": 32})
    config.train.update(
        {"steps": 100, "log_every": 10, "eval_every": 50, "image_every": 50, "save_every": 50, "keep_best": 1}
    )


def _settings(experiment: Any) -> ConfigDict:
    """A dataclass of settings as a ConfigDict, where an empty optional value can still be set by a flag."""
    config, hints = ConfigDict(), typing.get_type_hints(type(experiment))
    for field in dataclasses.fields(experiment):
        value, hint = getattr(experiment, field.name), hints[field.name]
        if dataclasses.is_dataclass(value):
            value = _settings(value)
        elif typing.get_origin(hint) in (typing.Union, types.UnionType):
            kind, *others = (kind for kind in typing.get_args(hint) if kind is not type(None))
            if others:  # one number or several, either of which a flag may give
                value = config_dict.FieldReference(value, field_type=Numbers)
            value = config_dict.placeholder(kind) if value is None else value
        elif field.name == "workers":
            value = field.default  # the number of cores is the other machine's matter
        config[field.name] = value
    return config
