"""The directories of diffusers' VQModel: config.json beside safetensors or .bin. Its network is the original's first
stage, without a loss."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from taming_jax.convert.engine import Table
from taming_jax.convert.formats.names import SAME, levels, stage_table
from taming_jax.differences import few
from taming_jax.limits import read_json, told
from taming_jax.models.vqgan import VQGANConfig
from taming_jax.settings import from_dict, to_dict

CONFIG, STEM = "config.json", "diffusion_pytorch_model"
SIGN = "decoder.up_blocks.0.resnets.0.conv1.weight"  # an array that only it has
DEFAULTS: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D"],
    "block_out_channels": [64],
    "layers_per_block": 1,
    "act_fn": "silu",
    "latent_channels": 3,
    "sample_size": 32,
    "num_vq_embeddings": 256,
    "norm_num_groups": 32,
    "vq_embed_dim": None,
    "norm_type": "group",
    "mid_block_add_attention": True,
}
WITHOUT_EFFECT = ("scaling_factor", "lookup_from_codebook", "force_upcast")  # on codes and pictures
DOWN = {"DownEncoderBlock2D": False, "AttnDownEncoderBlock2D": True}  # whether a level attends
UP = {"UpDecoderBlock2D": False, "AttnUpDecoderBlock2D": True}
NEW = {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
OLD = {"q": "query", "k": "key", "v": "value", "proj_out": "proj_attn"}  # before diffusers 0.15


def read_settings(path: Path) -> dict[str, Any]:
    """config.json. Raises ValueError where it is missing or none."""
    if not path.is_file():
        raise ValueError(f"a model of diffusers needs its {CONFIG}; there is none at {path}: name it with --config")
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise ValueError(f"{path} is no mapping of settings")
    return settings


def config_of(settings: Mapping[str, Any], where: str) -> VQGANConfig:
    """The network of these settings. Raises ValueError for what is unknown or cannot be."""
    if settings.get("_class_name") not in ("VQModel", None):
        raise ValueError(f"{where}: _class_name={told(settings['_class_name'])} is not supported, only VQModel")
    own = {name: value for name, value in settings.items() if not name.startswith("_")}
    unknown = sorted(own.keys() - DEFAULTS.keys() - set(WITHOUT_EFFECT))
    if unknown:
        raise ValueError(f"{where}: the settings {few([told(name)[1:-1] for name in unknown], most=8)} are unknown")
    found = DEFAULTS | {name: value for name, value in own.items() if name in DEFAULTS}
    for name, only in (("act_fn", "silu"), ("norm_type", "group")):
        if found[name] != only:
            raise ValueError(f"{where}: {name}={told(found[name])} is not supported, only {only!r}")
    for name in ("block_out_channels", "down_block_types", "up_block_types"):
        kind = int if name == "block_out_channels" else str
        if not isinstance(found[name], list) or not found[name] or not all(type(x) is kind for x in found[name]):
            raise ValueError(f"{where}: {name}={told(found[name])} must be a list of {kind.__name__}")
    widths = found["block_out_channels"]
    depth = len(widths)
    down, up = found["down_block_types"], found["up_block_types"]
    known = all(kind in DOWN for kind in down) and all(kind in UP for kind in up)
    if not known or not len(down) == len(up) == depth:
        raise ValueError(
            f"{where}: down_block_types={told(down)}, up_block_types={told(up)} are not supported for {depth} levels"
        )
    attended = [level for level, kind in enumerate(down) if DOWN[kind]]
    if attended != sorted(depth - 1 - place for place, kind in enumerate(up) if UP[kind]):
        raise ValueError(f"{where}: levels that attend in the encoder alone, or in the decoder, are not supported")
    middle = found["mid_block_add_attention"]
    if attended and not middle:
        raise ValueError(f"{where}: levels that attend without mid_block_add_attention are not supported")
    if min(widths) < 1 or any(width % widths[0] for width in widths):
        raise ValueError(f"{where}: block_out_channels={told(widths)} must be multiples of the first")
    factor = 2 ** (min(depth, 64) - 1)  # more levels are refused below
    size = found["sample_size"]
    resolution = size if isinstance(size, int) and size >= factor and size % factor == 0 else max(256, factor)
    values = {
        "resolution": resolution,
        "in_channels": found["in_channels"],
        "out_channels": found["out_channels"],
        "ch": widths[0],
        "ch_mult": [width // widths[0] for width in widths],
        "num_res_blocks": found["layers_per_block"],
        "attn_resolutions": [resolution // 2**level for level in attended],
        "z_channels": found["latent_channels"],
        "embed_dim": found["vq_embed_dim"] or found["latent_channels"],
        "n_embed": found["num_vq_embeddings"],
        "norm_groups": found["norm_num_groups"],
        "attention": "vanilla" if middle else "none",
        "legacy_beta": False,
    }
    return from_dict(VQGANConfig, values, where)


def table_of(config: VQGANConfig, old: bool = False) -> Table:
    """Every array of a first stage of this configuration; old: with the names of attention before diffusers 0.15."""
    kinds = {"block": "resnets.{i}", "attn": "attentions.{i}"}
    kinds |= {"downsample": "downsamplers.0.conv", "upsample": "upsamplers.0.conv"}
    numbered = lambda side, level, part, i: f"{side}_blocks.{level}.{kinds[part].format(i=i)}"
    parts = {**SAME, **levels(config, numbered), **(OLD if old else NEW)}
    parts |= {"mid_block_0": "mid_block.resnets.0", "mid_attn": "mid_block.attentions.0"}
    parts |= {"mid_block_1": "mid_block.resnets.1", "shortcut": "conv_shortcut"}
    parts |= {"norm_out": "conv_norm_out", "norm": "group_norm"}
    return stage_table(config, parts, linear_attention=True)


def has_old_names(state: Mapping[str, np.ndarray]) -> bool:
    return any(".attentions." in name and name.endswith(".proj_attn.weight") for name in state)


def saved_config(config: VQGANConfig) -> dict[str, Any]:
    """The configuration of the directory to write."""
    return {"kind": "vqgan", "model": to_dict(config), "data": {"size": config.resolution}}


def settings_of(config: VQGANConfig) -> dict[str, Any]:
    """The way back: config.json. Raises ValueError for what diffusers cannot load."""
    if config.quantizer not in ("vq", "ema") or config.content != "image" or config.remap:
        raise ValueError(
            f"diffusers' VQModel cannot be this: quantizer={config.quantizer!r}, content={config.content!r}, "
            f"remap of {len(config.remap)} codes (it has 'vq', 'image' and none)"
        )
    depth = len(config.ch_mult)
    attended = [config.level_has_attention(level) for level in range(depth)]
    return {
        "_class_name": "VQModel",
        "act_fn": "silu",
        "block_out_channels": [config.ch * multiple for multiple in config.ch_mult],
        "down_block_types": ["AttnDownEncoderBlock2D" if yes else "DownEncoderBlock2D" for yes in attended],
        "in_channels": config.in_channels,
        "latent_channels": config.z_channels,
        "layers_per_block": config.num_res_blocks,
        "mid_block_add_attention": config.attention != "none",
        "norm_num_groups": config.norm_groups,
        "norm_type": "group",
        "num_vq_embeddings": config.n_embed,
        "out_channels": config.out_channels,
        "sample_size": config.resolution,
        "up_block_types": ["AttnUpDecoderBlock2D" if yes else "UpDecoderBlock2D" for yes in reversed(attended)],
        "vq_embed_dim": config.embed_dim,
    }
