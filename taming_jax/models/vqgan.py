"""The first stage: an autoencoder whose bottleneck is a grid of codes (Esser, Rombach & Ommer 2021, 3.1, table 7)."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from taming_jax.models.content import CONTENTS, Content
from taming_jax.nn.codes import ESTIMATORS
from taming_jax.nn.conv import Conv, ResBlock, SpatialAttention, conv1x1, double, downsample, group_norm
from taming_jax.nn.extremes import argmax
from taming_jax.nn.quantizers import QUANTIZERS, NormalizedQuantizer, Quantized, Remap, Temperature
from taming_jax.settings import check, check_known
from taming_jax.sharding import split_by_image

# The quantizers that a setting is for; with others it must be left as it is.
TABLES = ("vq", "ema", "normalized")  # whose codes are rows that move each by itself
OPTIONS: dict[str, tuple[str, ...]] = {
    "levels": ("fsq",),
    "estimator": (*TABLES, "simvq"),
    "kmeans": TABLES,
    "restart_below": ("vq", "normalized"),
    "entropy_weight": ("normalized", "lfq", "bsq", "ibq"),
    "entropy_temperature": ("normalized", "lfq", "bsq", "ibq"),
    "entropy_sample": ("normalized", "lfq", "bsq", "ibq"),
    "entropy_batch": ("normalized", "lfq", "bsq", "ibq"),
    "legacy_beta": ("vq", "simvq", "ibq"),
    "ema_restart_below": ("ema",),
    "kl_weight": ("gumbel",),
}
MOST_LEVELS, MOST_BLOCKS, MOST_WIDE = 16, 256, 1 << 31  # of a network: a mistyped number would compile without end
# The settings for which each quantizer has a default of its own, by its name for them.
OWN = {"beta": "beta", "legacy_beta": "legacy", "entropy_temperature": "entropy_temperature"}


@dataclass(frozen=True)
class VQGANConfig:
    """Settings of a first stage. The defaults are the published f16 network with 1024 codes.

    resolution: side in pixels from which `attn_resolutions` count; images of other sizes go in all the same.
    content: what goes in and comes out, a name in `content.CONTENTS`.
    in_channels, out_channels: of the images, or of label maps, depth, edges and so on.
    ch, ch_mult: width, and its multiple at each level; the factor is 2 to the number of levels less one.
    num_res_blocks: residual blocks a level (the decoder has one more).
    decoder_ch, decoder_blocks: the same of the decoder alone; 0: as the encoder's.
    attn_resolutions: sides of the feature maps that get self-attention after each block.
    attention: "vanilla", there and between the two middle blocks, or "none" anywhere. decoder_attention: the same of
    the decoder alone; "": as the encoder's.
    z_channels: width of the encoder's output; embed_dim: of the codes; n_embed: how many codes.
    edge_sigma: smoothing in pixels before edges are looked for, see `maps.edges`.
    dropout: share dropped in each residual block in training, in [0, 1).
    norm_groups: groups of every GroupNorm; must divide all widths.
    quantizer: a name in QUANTIZERS. beta, legacy_beta: weight of the quantizer's loss and on which term it lies. None,
    here and for entropy_temperature: the quantizer's own, which is its authors'.
    levels: of the quantizer "fsq", of each channel: n_embed is their product, embed_dim their number.
    estimator: how the gradient gets past the rounding where there is a table of codes, a name in ESTIMATORS.
    kmeans: above 0, the table starts as the means of the first batch's latents, after so many iterations.
    restart_below: above 0, codes of "vq" and "normalized" that are used less than this share of the average get a new
    place, see VectorQuantizer.
    entropy_weight, entropy_temperature: of "normalized", "lfq", "bsq" and "ibq": of the loss by which codes are used
    alike, and latents near one. entropy_sample, entropy_batch: its two terms by themselves, the entropy of each
    latent's choice, which is to be low, and that of the average choice, which is to be high.
    ema_decay, ema_restart_below: of the quantizer "ema", see EMAVectorQuantizer; ema_decay of `restart_below` too.
    kl_weight: of "gumbel".
    remap: the codes that are in use; ids are then places in this list. unknown: where other codes go, see Remap.
    dtype: "float32" or "bfloat16", of the convolutions; parameters, statistics, codes and output stay float32.
    remat: training keeps only what lies between residual blocks and computes the rest again, for less memory.
    """

    content: str = "image"
    resolution: int = 256
    in_channels: int = 3
    out_channels: int = 3
    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    attn_resolutions: tuple[int, ...] = (16,)
    z_channels: int = 256
    embed_dim: int = 256
    n_embed: int = 1024
    dropout: float = 0.0
    norm_groups: int = 32
    quantizer: str = "vq"
    beta: float | None = None
    legacy_beta: bool | None = None
    ema_decay: float = 0.99
    ema_restart_below: float = 0.05
    kl_weight: float = 5e-4
    edge_sigma: float = 2.0
    remap: tuple[int, ...] = ()
    unknown: str = "random"
    dtype: str = "float32"
    remat: bool = False
    attention: str = "vanilla"
    entropy_weight: float = 0.0
    entropy_temperature: float | None = None
    entropy_sample: float = 1.0
    entropy_batch: float = 1.0
    levels: tuple[int, ...] = ()
    estimator: str = "straight"
    kmeans: int = 0
    restart_below: float = 0.0
    decoder_ch: int = 0
    decoder_blocks: int = 0
    decoder_attention: str = ""

    def __post_init__(self) -> None:
        sizes = ("in_channels", "out_channels", "ch", "z_channels", "embed_dim")
        for name in ("resolution", "num_res_blocks", "n_embed", "norm_groups", *sizes):
            check(self, name, getattr(self, name) >= 1, "it must be at least 1")
        check(self, "ch_mult", min(self.ch_mult, default=0) >= 1, "it must hold at least one level, each at least 1")
        for name in (*sizes, "resolution", "n_embed"):
            check(self, name, getattr(self, name) < MOST_WIDE, f"it must be below {MOST_WIDE}")
        check(self, "ch_mult", max(self.ch_mult) < MOST_WIDE, f"each must be below {MOST_WIDE}")
        check(self, "ch_mult", len(self.ch_mult) <= MOST_LEVELS, f"it must hold at most {MOST_LEVELS} levels")
        for name in ("num_res_blocks", "decoder_blocks"):
            few = getattr(self, name) * len(self.ch_mult) <= MOST_BLOCKS
            check(self, name, few, f"with {len(self.ch_mult)} levels that is more than {MOST_BLOCKS} blocks")
        for name in ("decoder_ch", "decoder_blocks"):
            check(self, name, getattr(self, name) >= 0, "it must not be negative")
        widths = {ch * m for ch in (self.ch, self.decoder_ch or self.ch) for m in (1, *self.ch_mult)}
        divides = all(width % self.norm_groups == 0 for width in widths)
        check(self, "norm_groups", divides, f"it must divide the widths {sorted(widths)} that ch and ch_mult make")
        levels = f"the factor {self.factor} that the {len(self.ch_mult)} levels of ch_mult make"
        check(self, "resolution", self.resolution % self.factor == 0, f"it must be divisible by {levels}")
        for name in ("ema_decay", "ema_restart_below"):
            check(self, name, 0 < getattr(self, name) < 1, "it must be in (0, 1)")
        check(self, "dropout", 0 <= self.dropout < 1, "it must be in [0, 1)")
        check_known(self, "quantizer", QUANTIZERS)
        check_known(self, "dtype", ("float32", "bfloat16"))
        check_known(self, "content", CONTENTS)
        check_known(self, "attention", ("vanilla", "none"))
        check_known(self, "decoder_attention", ("", "vanilla", "none"))
        self._check_quantizer()
        known = self.reads.channels or self.in_channels
        check(self, "in_channels", self.in_channels == known, f"content {self.content!r} has {known} channel(s)")
        check(self, "out_channels", self.out_channels == known, f"it must be in_channels={known}")
        if self.remap:
            Remap(self.remap, self.unknown)  # refuses what is no list of codes
            largest = max(self.remap)
            check(self, "n_embed", largest < self.n_embed, f"remap names code {largest}; it must be of these codes")

    def _check_quantizer(self) -> None:
        check_known(self, "estimator", ESTIMATORS)
        warm = self.entropy_temperature is None or self.entropy_temperature > 0
        check(self, "entropy_temperature", warm, "it must be above 0")
        for name in ("entropy_weight", "entropy_sample", "entropy_batch"):
            check(self, name, getattr(self, name) >= 0, "it must not be negative")
        for name in ("entropy_sample", "entropy_batch"):
            weighs = bool(self.entropy_weight) or getattr(self, name) == 1
            check(self, name, weighs, "without entropy_weight it has no effect")
        check(self, "kmeans", self.kmeans >= 0, "it must be 0 or more iterations")
        check(self, "restart_below", 0 <= self.restart_below < 1, "it must be in [0, 1)")
        check(self, "beta", self.beta is None or self.beta >= 0, "it must not be negative")
        for name in OPTIONS:
            left = (getattr(VQGANConfig, name), self.own_default(name) if name in OWN else None)
            fits = getattr(self, name) in left or self.quantizer in OPTIONS[name]
            check(self, name, fits, f"with quantizer={self.quantizer!r} it has no effect; known are {OPTIONS[name]}")
        if self.quantizer == "fsq":
            check(self, "levels", min(self.levels, default=0) >= 3, "each channel needs at least 3; 2 are signs: 'lfq'")
            channels, codes = len(self.levels), math.prod(self.levels)
            check(self, "embed_dim", self.embed_dim == channels, f"levels={self.levels} are {channels} channels")
            check(self, "n_embed", self.n_embed == codes, f"levels={self.levels} make {codes} codes")
        if self.quantizer in ("lfq", "bsq"):
            fits = self.embed_dim < 31 and self.n_embed == 2**self.embed_dim
            check(self, "n_embed", fits, f"it must be 2^embed_dim, of embed_dim={self.embed_dim} below 31")

    def own_default(self, name: str) -> Any:
        """What the quantizer has for a setting of OWN; of one that it does not know, what most others have."""
        return getattr(QUANTIZERS[self.quantizer], OWN[name], getattr(NormalizedQuantizer, OWN[name]))

    @property
    def settled(self) -> "VQGANConfig":
        """The settings with the quantizer's own in place of None, as checkpoints keep them."""
        return replace(self, **{name: self.own_default(name) for name in OWN if getattr(self, name) is None})

    @property
    def reads(self) -> Content:
        """What goes in and comes out, with all that depends on it."""
        return CONTENTS[self.content]

    @property
    def own_decoder(self) -> dict[str, Any]:
        """The settings by which the decoder is not the encoder's mirror, empty where it is."""
        own = {"ch": self.decoder_ch, "num_res_blocks": self.decoder_blocks, "attention": self.decoder_attention}
        return {name: value for name, value in own.items() if value}

    @property
    def decoder(self) -> "VQGANConfig":
        """The settings as the decoder reads them."""
        return replace(self, **self.own_decoder, decoder_ch=0, decoder_blocks=0, decoder_attention="")

    @property
    def n_codes(self) -> int:
        """Ids that the network speaks: the codes, or those in use where there is a remap."""
        return Remap(self.remap, self.unknown).size if self.remap else self.n_embed

    @property
    def channel_levels(self) -> tuple[int, ...]:
        """How many values each channel of a code has, where the codes are all combinations of them; else ()."""
        return self.levels if self.quantizer == "fsq" else (2,) * self.embed_dim * (self.quantizer in ("lfq", "bsq"))

    @property
    def factor(self) -> int:
        """Pixels a side that share one code."""
        return 2 ** (len(self.ch_mult) - 1)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of codes of an image. Raises ValueError where the factor does not divide its sides."""
        if height < 1 or width < 1 or height % self.factor or width % self.factor:
            raise ValueError(
                f"an image of {height} x {width} pixels is not divisible by the factor {self.factor}; "
                f"crop or resize it to multiples of {self.factor}"
            )
        return height // self.factor, width // self.factor

    def level_has_attention(self, level: int) -> bool:
        return self.attention != "none" and self.resolution // 2**level in self.attn_resolutions


def network_input(config: VQGANConfig, batch: Mapping[str, Any]) -> Float[Array, "b H W c"]:
    """What the network reads of a batch: float32 (b, H, W, in_channels). Raises ValueError for what is missing."""
    return config.reads.input(batch, config.in_channels, config.edge_sigma)


def _layers(config: VQGANConfig, train: bool) -> tuple[np.dtype, Callable[..., Any], Callable[..., Any], Any]:
    """The constructors of one network's parts, with its settings filled in: (dtype, block, attention, norm); block
    (width, name, input) runs as well."""
    dtype = jnp.dtype(config.dtype)

    def run(block: ResBlock, h: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        return split_by_image(block(h, train=train))

    run = nn.remat(run) if config.remat else run

    def block(width: int, name: str, h: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        settings = {"groups": config.norm_groups, "dropout": config.dropout, "dtype": dtype}
        return run(ResBlock(width, name=name, **settings), h)

    attention = partial(SpatialAttention, groups=config.norm_groups, dtype=dtype)
    return dtype, block, attention, partial(group_norm, config.norm_groups, dtype)


class Encoder(nn.Module):
    """Images (b, H, W, in_channels) -> (b, H/f, W/f, z_channels)."""

    config: VQGANConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b H W c"], *, train: bool = False) -> Float[Array, "b h w d"]:
        cfg = self.config
        dtype, block, attention, norm = _layers(cfg, train)
        h = split_by_image(Conv(cfg.ch, dtype=dtype, name="conv_in")(x))
        for level, multiple in enumerate(cfg.ch_mult):
            for i in range(cfg.num_res_blocks):
                h = block(cfg.ch * multiple, f"down_{level}_block_{i}", h)
                if cfg.level_has_attention(level):
                    h = attention(name=f"down_{level}_attn_{i}")(h)
            if level < len(cfg.ch_mult) - 1:
                h = split_by_image(downsample(cfg.ch * multiple, dtype, name=f"down_{level}_downsample")(h))
        h = block(h.shape[-1], "mid_block_0", h)
        if cfg.attention != "none":
            h = attention(name="mid_attn")(h)
        h = block(h.shape[-1], "mid_block_1", h)
        h = nn.swish(norm(name="norm_out")(h))
        return Conv(cfg.z_channels, dtype=dtype, name="conv_out")(h)


class Decoder(nn.Module):
    """Latents (b, h, w, z_channels) -> images (b, H, W, out_channels), and the features (b, H, W, ch) they come from.

    The features are what the last convolution sees: the adaptive weight of the loss is a gradient at its kernel.
    """

    config: VQGANConfig

    @nn.compact
    def __call__(
        self, z: Float[Array, "b h w d"], *, train: bool = False
    ) -> tuple[Float[Array, "b H W c"], Float[Array, "b H W f"]]:
        cfg = self.config.decoder
        dtype, block, attention, norm = _layers(cfg, train)
        h = split_by_image(Conv(cfg.ch * cfg.ch_mult[-1], dtype=dtype, name="conv_in")(z))
        h = block(h.shape[-1], "mid_block_0", h)
        if cfg.attention != "none":
            h = attention(name="mid_attn")(h)
        h = block(h.shape[-1], "mid_block_1", h)
        for level in reversed(range(len(cfg.ch_mult))):  # levels are numbered as in the encoder: 0 is full size
            width = cfg.ch * cfg.ch_mult[level]
            for i in range(cfg.num_res_blocks + 1):
                h = block(width, f"up_{level}_block_{i}", h)
                if cfg.level_has_attention(level):
                    h = attention(name=f"up_{level}_attn_{i}")(h)
            if level > 0:
                h = split_by_image(Conv(width, dtype=dtype, name=f"up_{level}_upsample")(double(h)))
        h = nn.swish(norm(name="norm_out")(h))
        # float32 from here: eight bits of mantissa are visible as banding, and this layer is cheap.
        return Conv(cfg.out_channels, name="conv_out")(h), h


class VQGAN(nn.Module):
    """Encoder, quantizer, decoder. The methods are for `model.apply({"params": params}, ..., method=...)`."""

    config: VQGANConfig

    def setup(self) -> None:
        cfg = self.config.settled
        self.encoder = Encoder(cfg)
        self.decoder = Decoder(cfg)
        self.quant_conv = conv1x1(cfg.embed_dim)
        self.post_quant_conv = conv1x1(cfg.z_channels)
        gradient = {"beta": cfg.beta, "legacy": cfg.legacy_beta, "estimator": cfg.estimator}
        restart = {"restart_below": cfg.restart_below, "decay": cfg.ema_decay}
        entropy = {
            "beta": cfg.beta,
            "entropy_weight": cfg.entropy_weight,
            "entropy_temperature": cfg.entropy_temperature,
            "entropy_sample": cfg.entropy_sample,
            "entropy_batch": cfg.entropy_batch,
        }
        averages = {"decay": cfg.ema_decay, "restart_below": cfg.ema_restart_below}
        options: dict[str, dict[str, Any]] = {
            "vq": gradient | restart,
            "ema": {"beta": cfg.beta, "estimator": cfg.estimator, **averages},
            "gumbel": {"kl_weight": cfg.kl_weight},
            "normalized": entropy | restart | {"estimator": cfg.estimator},
            "fsq": {"levels": cfg.levels},
            "lfq": entropy,
            "bsq": entropy,
            "simvq": gradient,
            "ibq": entropy | {"legacy": cfg.legacy_beta},
        }
        self.quantizer = QUANTIZERS[cfg.quantizer](cfg.n_embed, cfg.embed_dim, **options[cfg.quantizer])

    def pre_quant(self, x: Float[Array, "b H W c"], train: bool = False) -> Float[Array, "b h w d"]:
        """Images -> latents (b, h, w, embed_dim) before quantization."""
        if x.ndim != 4 or x.shape[-1] != self.config.in_channels:
            raise ValueError(f"expected images (b, H, W, {self.config.in_channels}), got an array of shape {x.shape}")
        self.config.grid(*x.shape[1:3])
        return self.quant_conv(self.encoder(x, train=train))

    def latents(self, x: Float[Array, "b H W c"]) -> Float[Array, "b h w d"]:
        """Images -> latents (b, h, w, embed_dim) as they are compared with a table of codes."""
        return self.quantizer.measured(self.pre_quant(x).astype(jnp.float32))

    def encode(self, x: Float[Array, "b H W c"], train: bool = False, temperature: Temperature = 1.0) -> Quantized:
        """Images (b, H, W, in_channels) in [-1, 1] -> Quantized on a grid (b, H/f, W/f), its ids without the remap.

        Raises ValueError where the channels are others or the factor does not divide the sides.
        """
        return self.quantizer(self.pre_quant(x, train), train=train, temperature=temperature)

    def encode_ids(self, x: Float[Array, "b H W c"]) -> Int[Array, "b h w"]:
        """Images (b, H, W, in_channels) in [-1, 1] -> ids (b, H/f, W/f) in [0, n_codes), after the remap."""
        used = np.asarray(self.config.remap, np.int32)
        if len(used) and self.config.quantizer == "gumbel":  # the others are out of the draw from the start
            return argmax(self.quantizer.logits(self.pre_quant(x))[..., used])
        ids = self.encode(x).ids
        if not len(used):
            return ids
        # Without an rng stream an unknown code at one place goes to the same used one each time.
        key = self.make_rng("remap") if self.has_rng("remap") else jax.random.key(0)
        return Remap(self.config.remap, self.config.unknown).forward(ids, self.config.n_embed, key)

    def decode(self, z: Float[Array, "b h w d"], train: bool = False) -> Float[Array, "b H W c"]:
        """Codebook entries (b, h, w, embed_dim) -> images (b, H, W, out_channels) float32, about [-1, 1]."""
        return self.decoder(self.post_quant_conv(z), train=train)[0]

    def decode_ids(self, ids: Int[Array, "b h w"]) -> Float[Array, "b H W c"]:
        """ids (b, h, w) in [0, n_codes) -> images (b, H, W, out_channels) float32, about [-1, 1]."""
        if self.config.remap:
            ids = Remap(self.config.remap, self.config.unknown).backward(ids)
        return self.decode(self.quantizer.lookup(ids))

    def features(self, z: Float[Array, "b h w d"], train: bool = False) -> Float[Array, "b H W f"]:
        """Codebook entries (b, h, w, embed_dim) -> what the decoder's last convolution sees, (b, H, W, ch)."""
        return self.decoder(self.post_quant_conv(z), train=train)[1]

    def reconstruct(
        self,
        x: Float[Array, "b H W c"],
        train: bool = False,
        temperature: Temperature = 1.0,
        train_encoder: bool = True,
    ) -> tuple[Float[Array, "b H W c"], Float[Array, "b H W f"], Quantized]:
        """As `__call__`, with the decoder's features (b, H, W, ch) between the two. train_encoder: False for the
        decoder alone."""
        quantized = self.encode(x, train and train_encoder, temperature)
        reconstruction, features = self.decoder(self.post_quant_conv(quantized.z), train=train)
        return reconstruction, features, quantized

    def __call__(self, x: Float[Array, "b H W c"], train: bool = False) -> tuple[Float[Array, "b H W c"], Quantized]:
        """Images (b, H, W, in_channels) -> (reconstruction (b, H, W, out_channels) float32, Quantized)."""
        reconstruction, _, quantized = self.reconstruct(x, train)
        return reconstruction, quantized
