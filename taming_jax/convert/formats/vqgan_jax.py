"""The directories of vqgan-jax (patil-suraj/vqgan-jax, the VQGAN of DALL-E mini): flax_model.msgpack and config.json.
Its network is the original's first stage, without discriminator and losses."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from taming_jax.convert.engine import Table, entries_of
from taming_jax.convert.formats.names import levels
from taming_jax.convert.original.names import vqgan_shapes
from taming_jax.limits import told
from taming_jax.models.vqgan import VQGANConfig
from taming_jax.settings import from_dict, to_dict

FILE, CONFIG = "flax_model.msgpack", "config.json"
SIGN = "encoder.conv_in.kernel"
CODES = "quantize.embedding.embedding"
NEEDED = ("ch", "out_ch", "in_channels", "num_res_blocks", "resolution", "z_channels", "n_embed", "embed_dim")
LISTS = ("ch_mult", "attn_resolutions")
ONLY = {"double_z": False, "resamp_with_conv": True, "give_pre_end": False}
# What transformers writes into any config.json, and what means nothing without a training.
PASSED_OVER = ("architectures", "model_type", "transformers_version", "torch_dtype", "dtype", "num_resolutions")
# Networks of others in Flax's files, by the beginnings of their names.
OTHERS = {
    "encoder.Conv_0": "the tokenizer of MaskGIT",
    "TransformerLayer_0": "the transformer of MaskGIT",
    "encoder.down_blocks_0": "a first stage of diffusers in Flax; its PyTorch form is read",
    "down_blocks_0": "a denoising network of diffusers in Flax",
    "model.encoder": "an encoder and decoder for texts, as DALL-E mini's",
    "transformer.h": "a language model, as GPT-2",
    "text_model": "CLIP",
    "vision_model": "CLIP",
}


def check_is_vqgan(state: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError, with what it is where that is known, for a file of Flax that is of another network."""
    if SIGN in state and CODES in state:
        return
    known = next((what for begins, what in OTHERS.items() if any(name.startswith(begins) for name in state)), "")
    top = (
        ", ".join(" ".join(name[:60].split()) for name in list(dict.fromkeys(n.split(".")[0] for n in state))[:6])
        or "no arrays"
    )
    raise ValueError(
        f"it is a file of Flax, but of no VQGAN: {known or f'at its top are {top}'}; expected is vqgan-jax's, with "
        f"encoder, decoder, quantize, quant_conv, post_quant_conv"
    )


def config_of(settings: Mapping[str, Any], where: str) -> VQGANConfig:
    """The network of these settings. Raises ValueError for what is unknown or cannot be."""
    known = {*NEEDED, *LISTS, *ONLY, *PASSED_OVER, "dropout"}
    unknown = [name for name in settings if name not in known and not name.startswith("_")]
    if unknown:
        raise ValueError(
            f"{where}: the settings {', '.join(told(name)[1:-1] for name in sorted(unknown)[:8])} are unknown"
        )
    missing = [name for name in (*NEEDED, *LISTS) if name not in settings]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    for name, only in ONLY.items():
        if settings.get(name, only) is not only:
            raise ValueError(f"{where}: {name}={told(settings[name])} is not supported, only {only}")
    for name in LISTS:
        if not isinstance(settings[name], list) or not all(type(item) is int for item in settings[name]):
            raise ValueError(f"{where}: {name} must be a list of integers")
    values = {
        "resolution": settings["resolution"],
        "in_channels": settings["in_channels"],
        "out_channels": settings["out_ch"],
        "ch": settings["ch"],
        "ch_mult": settings["ch_mult"],
        "num_res_blocks": settings["num_res_blocks"],
        "attn_resolutions": settings["attn_resolutions"],
        "z_channels": settings["z_channels"],
        "embed_dim": settings["embed_dim"],
        "n_embed": settings["n_embed"],
        "dropout": settings.get("dropout", 0.0),
    }
    return from_dict(VQGANConfig, values, where)


def has_old_norms(state: Mapping[str, np.ndarray]) -> bool:
    """Whether the norms have the shape (1, 1, 1, c), as before Flax 0.3.6."""
    return any(re.search(r"\.norm\w*\.scale$", name) and array.ndim == 4 for name, array in state.items())


def table_of(config: VQGANConfig, old_norms: bool = False) -> Table:
    """Every array of a first stage of this configuration."""
    top = len(config.ch_mult) - 1
    kinds = {"block": "block_{i}", "attn": "attn_{i}", "downsample": "downsample.conv", "upsample": "upsample.conv"}

    def numbered(side: str, level: int, part: str, i: int) -> str:
        own = level if side == "down" else top - level  # the decoder counts as the encoder here
        return f"{side}_{own}.{kinds[part].format(i=i)}"

    parts = {
        "encoder|decoder|quant_conv|post_quant_conv|conv_in|conv_out|norm1|norm2|conv1|conv2|bias": r"\g<0>",
        "norm_out|norm|q|k|v|proj_out|kernel|scale": r"\g<0>",
        "mid_block_0": "mid.block_1",
        "mid_attn": "mid.attn_1",
        "mid_block_1": "mid.block_2",
        "shortcut": "nin_shortcut",
        "quantizer": "quantize",
        "codebook": "embedding.embedding",
        **levels(config, numbered),
    }
    norm = re.compile(r"/norm\w*/(scale|bias)$")
    layout = lambda target, ndim: "channels_last" if old_norms and norm.search(target) else "same"
    return Table(entries_of(vqgan_shapes(config), parts, layout, "", "params/"))


def saved_config(config: VQGANConfig) -> dict[str, Any]:
    """The configuration of the directory to write."""
    return {"kind": "vqgan", "model": to_dict(config), "data": {"size": config.resolution}}


def settings_of(config: VQGANConfig) -> dict[str, Any]:
    """The way back: config.json. Raises ValueError for what vqgan-jax cannot load."""
    wanted = {"quantizer": ("vq", "ema"), "content": ("image",), "norm_groups": (32,), "attention": ("vanilla",)}
    wrong = [
        f"{name}={getattr(config, name)!r}" for name, values in wanted.items() if getattr(config, name) not in values
    ]
    if wrong or config.remap:
        raise ValueError(f"vqgan-jax cannot be this: {', '.join(wrong) or f'remap of {len(config.remap)} codes'}")
    own = to_dict(config)
    settings = {name: own["out_channels" if name == "out_ch" else name] for name in (*NEEDED, *LISTS, "dropout")}
    return {"architectures": ["del"], "num_resolutions": len(config.ch_mult), **settings, **ONLY}
