"""A first stage as LlamaGen and diffusers call its arrays: the same network, numbered in other ways."""

from collections.abc import Callable, Mapping

from taming_jax.convert.engine import Table, entries_of
from taming_jax.convert.original.names import vqgan_shapes
from taming_jax.models.vqgan import VQGANConfig

SAME = {
    "encoder|decoder|quant_conv|post_quant_conv|conv_in|conv_out|norm1|norm2|conv1|conv2|bias": r"\g<0>",
    "kernel|scale": "weight",
    "quantizer": "quantize",
    "codebook": "embedding.weight",
}


def levels(config: VQGANConfig, name: Callable[[str, int, str, int], str]) -> dict[str, str]:
    """The parts of a network that are numbered by level; name(side, level, part, i) with side "down" or "up" gives
    theirs, where the levels of the decoder count from the coarsest."""
    parts: dict[str, str] = {}
    top = len(config.ch_mult) - 1
    for side, blocks in (("down", config.num_res_blocks), ("up", config.num_res_blocks + 1)):
        for level in range(top + 1):
            theirs = level if side == "down" else top - level
            for part in ("block", "attn"):
                parts |= {f"{side}_{level}_{part}_{i}": name(side, theirs, part, i) for i in range(blocks)}
            sampling = "downsample" if side == "down" else "upsample"
            parts[f"{side}_{level}_{sampling}"] = name(side, theirs, sampling, 0)
    return parts


def stage_table(config: VQGANConfig, parts: Mapping[str, str], linear_attention: bool = False) -> Table:
    """Every array of a first stage. linear_attention: attention's 1 x 1 convolutions here are matrices there."""

    def layout(target: str, ndim: int) -> str:
        matrix = linear_attention and "attn" in target and ndim == 4
        return "pointwise" if matrix else "convolution" if ndim == 4 else "same"

    return Table(entries_of(vqgan_shapes(config), parts, layout, "", "params/"))
