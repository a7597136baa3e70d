"""The image tokenizer of LlamaGen (FoundationVision/LlamaGen, arXiv 2406.06525): a VQGAN with codes of length 1."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from taming_jax.convert.engine import Passive, Table, check_layers
from taming_jax.convert.formats.names import SAME, levels, stage_table
from taming_jax.models.vqgan import VQGANConfig
from taming_jax.settings import from_dict, to_dict

SIGN = "encoder.conv_blocks.0.res.0.conv1.weight"  # an array that only it has
USED = 65536  # places of the buffer in which its training counts which codes are used
RESOLUTION = 256  # pixels a side in its training
BETA, ENTROPY = 0.25, 0.0  # as published; the entropy is off there


def config_of(state: Mapping[str, np.ndarray], told: Mapping[str, Any]) -> VQGANConfig:
    """The network, from the shapes of its arrays, and `told`, what is known of its training under LlamaGen's names.
    Raises ValueError where they make none."""
    try:
        first = state["encoder.conv_in.weight"].shape
        depth = 1 + max(_numbers(state, "encoder.conv_blocks.", 2))
        blocks = 1 + max(_numbers(state, "encoder.conv_blocks.0.res.", 4))
        check_layers(depth * blocks, state)
        widths = [state[f"encoder.conv_blocks.{i}.res.0.conv1.weight"].shape[0] for i in range(depth)]
        codes, z = state["quantize.embedding.weight"].shape, state["encoder.conv_out.weight"].shape[0]
        out = state["decoder.conv_out.weight"].shape[0]
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError(f"the arrays make no tokenizer of LlamaGen: {error} is missing or of another form") from error
    if len(first) != 4 or len(codes) != 2 or not first[0] or any(width % first[0] for width in widths):
        raise ValueError(f"the arrays make no tokenizer of LlamaGen: widths {widths} are no multiples of {first[:1]}")
    attended = [level for level in range(depth) if f"encoder.conv_blocks.{level}.attn.0.q.weight" in state]
    resolution = int(told.get("image_size", max(RESOLUTION, 2 ** (depth - 1))))
    values = {
        "resolution": resolution,
        "in_channels": first[1],
        "out_channels": out,
        "ch": first[0],
        "ch_mult": [width // first[0] for width in widths],
        "num_res_blocks": blocks,
        "attn_resolutions": [resolution // 2**level for level in attended],
        "z_channels": z,
        "embed_dim": codes[1],
        "n_embed": codes[0],
        "quantizer": "normalized",
        "beta": float(told.get("commit_loss_beta", BETA)),
        "entropy_weight": float(told.get("entropy_loss_ratio", ENTROPY)),
        "attention": "vanilla" if "encoder.mid.1.q.weight" in state else "none",
    }
    return from_dict(VQGANConfig, values, "the tokenizer")


def table_of(config: VQGANConfig) -> Table:
    """Every array of a tokenizer of this configuration."""
    kinds = {"block": "res.{i}", "attn": "attn.{i}", "downsample": "downsample.conv", "upsample": "upsample.conv"}
    numbered = lambda side, level, part, i: f"conv_blocks.{level}.{kinds[part].format(i=i)}"
    parts = {**SAME, **levels(config, numbered), "norm_out|norm|q|k|v|proj_out": r"\g<0>"}
    parts |= {"mid_block_0": "mid.0", "mid_attn": "mid.1", "mid_block_1": "mid.2", "shortcut": "nin_shortcut"}
    table = stage_table(config, parts)
    table.passive.append(Passive("quantize.codebook_used", np.zeros(USED, np.float32), "kept"))
    return table


def check(config: VQGANConfig) -> None:
    """Raise ValueError for what LlamaGen cannot load."""
    lowest = config.resolution // config.factor
    levels_with = [level for level in range(len(config.ch_mult)) if config.level_has_attention(level)]
    wanted = {
        "quantizer": ("normalized", config.quantizer),
        "content": ("image", config.content),
        "norm_groups": (32, config.norm_groups),
        "attention": ("vanilla", config.attention),
        "remap": ((), config.remap),
    }
    wrong = [f"{name}={found!r} (it has {there!r})" for name, (there, found) in wanted.items() if there != found]
    if levels_with != [len(config.ch_mult) - 1]:
        wrong.append(f"attn_resolutions={config.attn_resolutions} (it attends at the coarsest level, {lowest})")
    if wrong:
        raise ValueError(f"LlamaGen's tokenizer cannot be this: {', '.join(wrong)}")


def saved_config(config: VQGANConfig) -> dict[str, Any]:
    """The configuration of the directory to write, with LlamaGen's recipe for a fine-tuning."""
    return {
        "kind": "vqgan",
        "model": to_dict(config),
        "data": {"size": config.resolution, "zoom": (1.0, 1.25), "resampling": "adm"},
        "loss": {
            **{"pixel_loss": "l2", "perceptual_weight": 1.0},
            **{"disc_weight": 0.5, "fixed_weight": True, "disc_start": 20_000},
        },
        "optimizer": {"learning_rate": 1e-4, "per_sample": False, "b1": 0.9, "b2": 0.95, "clip_norm": 1.0},
    }


def _numbers(state: Mapping[str, np.ndarray], prefix: str, place: int) -> list[int]:
    """The numbers at a place of the dotted names that begin with `prefix`."""
    return [int(name.split(".")[place]) for name in state if name.startswith(prefix)]
