"""What the original calls each array, for every network that is converted."""

from dataclasses import dataclass
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from taming_jax.convert.engine import Passive, Table, entries_of
from taming_jax.convert.lpips import vgg16_layers
from taming_jax.models.discriminator import Discriminator, DiscriminatorConfig
from taming_jax.models.gpt import GPT, GPTConfig
from taming_jax.models.lpips import SCALE, SHIFT, VGG16_WIDTHS
from taming_jax.models.vqgan import VQGAN, VQGANConfig
from taming_jax.nn import orders


@dataclass(frozen=True)
class StageNetworks:
    """The networks of a first stage to convert; discriminator: its settings, where the checkpoint holds one.

    colours: labels for which the original keeps random colours, for its pictures of label maps; 0 for none.
    """

    config: VQGANConfig
    discriminator: DiscriminatorConfig | None = None
    colours: int = 0


@dataclass(frozen=True)
class Networks:
    """Those of a checkpoint: a first stage, a transformer, or both.

    condition_stage: of a condition that has a network of its own.
    order, grid: the token order and the training grid. shared: the condition is read by the first stage itself, whose
    arrays the original saves twice. bare: the transformer's arrays have no prefix. prefix: of the arrays of a first
    stage that is taken out of a latent diffusion model.
    """

    first_stage: StageNetworks | None = None
    condition_stage: StageNetworks | None = None
    transformer: GPTConfig | None = None
    order: str = "row_major"
    grid: tuple[int, int] = (0, 0)
    shared: bool = False
    bare: bool = False
    prefix: str = ""


# Folders of a converted checkpoint, and the prefixes of the original's names.
FIRST, CONDITION, TRANSFORMER = "first_stage_model.", "cond_stage_model.", "transformer."

# A pattern of arrays that every file of it has, of one network or another.
SIGN = r"(?:(?:first|cond)_stage_model\.)?encoder\.conv_in\.weight|(?:transformer\.)?tok_emb\.weight"

VQGAN_PARTS = {
    "encoder|decoder|quant_conv|post_quant_conv": r"\g<0>",
    "conv_in|conv_out|norm_out": r"\g<0>",
    "norm|norm1|norm2|conv1|conv2|q|k|v|proj_out|proj|bias": r"\g<0>",
    r"(down|up)_(\d+)_(block|attn)_(\d+)": r"\1.\2.\3.\4",
    r"(down|up)_(\d+)_(downsample|upsample)": r"\1.\2.\3.conv",
    "mid_block_0": "mid.block_1",
    "mid_attn": "mid.attn_1",
    "mid_block_1": "mid.block_2",
    "shortcut": "nin_shortcut",
    "kernel|scale": "weight",
    "quantizer": "quantize",
}
GPT_PARTS = {
    "position": "pos_emb",
    "token": "tok_emb",
    r"block_(\d+)": r"blocks.\1",
    "norm_attention": "ln1",
    "norm_mlp": "ln2",
    "norm_out": "ln_f",
    "attention": "attn",
    "out": "proj",
    "up": "0",
    "down": "2",
    "key|query|value|mlp|head|bias": r"\g<0>",
    "kernel|scale|embedding": "weight",
}


def table_of(networks: Networks) -> Table:
    """Everything that a checkpoint of these networks may hold."""
    if networks.transformer is None:
        assert networks.first_stage is not None
        return first_stage_table(networks.first_stage, networks.prefix, "first_stage/")
    table = transformer_table(networks.transformer, "" if networks.bare else TRANSFORMER)
    if networks.first_stage is None:
        return table
    table += first_stage_table(networks.first_stage, FIRST, "first_stage/")
    if networks.condition_stage is not None:
        table += first_stage_table(networks.condition_stage, CONDITION, "condition_stage/")
    if networks.order != "row_major":
        order = orders.order(networks.order, *networks.grid).astype(np.int64)
        table.passive.append(Passive("permuter.forward_shuffle_idx", order))
        table.passive.append(Passive("permuter.backward_shuffle_idx", orders.inverse(order)))
    return table


def first_stage_table(stage: StageNetworks, prefix: str, folder: str) -> Table:
    config = stage.config
    codebook = {"gumbel": "embed.weight"}.get(config.quantizer, "embedding.weight")
    parts = {**VQGAN_PARTS, "codebook": codebook}
    layout = lambda target, ndim: "convolution" if ndim == 4 else "same"
    table = Table(entries_of(vqgan_shapes(config), parts, layout, prefix, f"{folder}params/"))
    if config.remap:
        table.passive.append(Passive(f"{prefix}quantize.used", np.asarray(config.remap, np.int64)))
    if stage.colours:
        colours = np.random.RandomState(0).randn(3, stage.colours, 1, 1).astype(np.float32)
        table.passive.append(Passive(f"{prefix}colorize", colours, "kept"))
    nothing = np.zeros((), np.float32)
    table.passive += [
        Passive(prefix + name, np.broadcast_to(nothing, shape), "dropped") for name, shape in lpips_sources().items()
    ]
    if stage.discriminator is not None:
        table += discriminator_table(
            stage.discriminator, f"{prefix}loss.discriminator.main.", f"{folder}discriminator/"
        )
    return table


def discriminator_table(config: DiscriminatorConfig, prefix: str, folder: str) -> Table:
    """Its layers stand in one list there: a convolution, then thrice convolution, norm, leaky ReLU, and so on."""
    parts = {f"conv_{i}": str(max(0, 3 * i - 1)) for i in range(config.n_layers + 2)}
    parts |= {f"norm_{i}": str(3 * i) for i in range(1, config.n_layers + 1)}
    image = jax.ShapeDtypeStruct((1, 512, 512, config.in_channels), jnp.float32)
    shapes = jax.eval_shape(Discriminator(config).init, jax.random.key(0), image)
    flat = flatten_dict(shapes, sep="/")
    layout = lambda target, ndim: "convolution" if ndim == 4 else "same"
    table = Table()
    if config.norm == "batch":
        parts |= {"params|batch_stats": "", "kernel|scale": "weight", "bias": "bias", "mean": "running_mean"}
        parts |= {"var": "running_var"}
        counters = [f"{prefix}{3 * i}.num_batches_tracked" for i in range(1, config.n_layers + 1)]
        table.passive = [Passive(name, np.zeros((), np.int64), "kept") for name in counters]
    else:
        # Parameters are offsets from a start kept in `batch_stats`: the start takes the values, the offsets are zero.
        own = [t for t in flat if t.startswith("params/") and t.endswith(("/loc", "/scale"))]
        table.constants = {folder + t: np.zeros(flat[t].shape, np.float32) for t in own}
        flat = {target: leaf for target, leaf in flat.items() if target not in own}
        parts |= {"params|batch_stats": "", "kernel": "weight", "bias|loc|scale": r"\g<0>", "started": "initialized"}
        layout = lambda target, ndim: (
            "convolution" if ndim == 4 else "channels" if target.endswith(("/loc", "/scale")) else "same"
        )
    table.entries = entries_of(flat, parts, layout, prefix, folder)
    return table


def transformer_table(config: GPTConfig, prefix: str) -> Table:
    ids = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    shapes = jax.eval_shape(GPT(config).init, jax.random.key(0), ids)["params"]

    def layout(target: str, ndim: int) -> str:
        return "batch" if target == "position" else "linear" if target.endswith("/kernel") else "same"

    table = Table(entries_of(flatten_dict(shapes, sep="/"), GPT_PARTS, layout, prefix, "transformer/params/"))
    mask = np.tril(np.ones((config.block_size, config.block_size), np.float32))
    mask[: config.n_unmasked, : config.n_unmasked] = 1
    mask = mask[None, None]
    table.passive = [Passive(f"{prefix}blocks.{i}.attn.mask", mask) for i in range(config.n_layer)]
    return table


def lpips_sources() -> dict[str, tuple[int, ...]]:
    """The names and shapes of LPIPS inside the original's loss: fixed published weights, which we keep in one file."""
    prefix = "loss.perceptual_loss."
    names: dict[str, tuple[int, ...]] = {f"{prefix}scaling_layer.{n}": (1, 3, 1, 1) for n in ("shift", "scale")}
    channels = 3
    for source, width, _ in vgg16_layers():
        names[f"{prefix}{source}.weight"], names[f"{prefix}{source}.bias"] = (width, channels, 3, 3), (width,)
        channels = width
    names |= {f"{prefix}lin{i}.model.1.weight": (1, widths[-1], 1, 1) for i, widths in enumerate(VGG16_WIDTHS)}
    return names


def lpips_arrays(params: dict) -> dict[str, np.ndarray]:
    """Parameters of our LPIPS under the names of `lpips_sources`."""
    prefix = "loss.perceptual_loss."
    numbers = range(len(VGG16_WIDTHS))
    arrays = {f"{prefix}lin{i}.model.1.weight": params[f"lin_{i}"].reshape(1, -1, 1, 1) for i in numbers}
    for name, value in (("shift", SHIFT), ("scale", SCALE)):
        arrays[f"{prefix}scaling_layer.{name}"] = np.asarray(value, np.float32).reshape(1, 3, 1, 1)
    for i, (source, _, _) in enumerate(vgg16_layers()):
        layer = params["vgg"][f"conv_{i}"]
        arrays[f"{prefix}{source}.weight"] = np.ascontiguousarray(layer["kernel"].transpose(3, 2, 0, 1))
        arrays[f"{prefix}{source}.bias"] = layer["bias"]
    return arrays


@lru_cache(maxsize=8)
def vqgan_shapes(config: VQGANConfig) -> dict:
    """Every parameter of a first stage by its path, as a shape."""
    if own := config.own_decoder:
        raise ValueError(
            f"the decoder has settings of its own, {own}; elsewhere it mirrors the encoder, and nobody can load this"
        )
    side = config.factor
    image = jax.ShapeDtypeStruct((1, side, side, config.in_channels), jnp.float32)
    return flatten_dict(jax.eval_shape(VQGAN(config).init, jax.random.key(0), image)["params"], sep="/")
