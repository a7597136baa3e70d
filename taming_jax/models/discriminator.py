"""PatchGAN discriminator: a logit for every overlapping patch (Isola et al. 2017, section 3.2.2)."""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from taming_jax.nn.conv import SAME3, ActNorm, BatchNorm, Conv, SpectralConv
from taming_jax.settings import check, check_known

NORMS: dict[str, type[nn.Module] | None] = {"batch": BatchNorm, "actnorm": ActNorm, "none": None}


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Settings of a discriminator. The defaults are the published ones.

    in_channels: of the images; ndf: width of the first layer, doubled by each further one up to eightfold.
    n_layers: layers of stride 2; norm: "batch", "actnorm" or "none".
    spectral: kernels divided by their largest singular value (Miyato et al. 2018, arXiv 1802.05957), found by one power
    iteration a call in training; goes well with norm "none".
    dtype: "float32" or "bfloat16", of the convolutions; parameters, statistics and logits stay float32.
    """

    in_channels: int = 3
    ndf: int = 64
    n_layers: int = 3
    norm: str = "batch"
    dtype: str = "float32"
    spectral: bool = False

    def __post_init__(self) -> None:
        for name in ("in_channels", "ndf", "n_layers"):
            check(self, name, getattr(self, name) >= 1, "it must be at least 1")
        check_known(self, "norm", NORMS)
        check_known(self, "dtype", ("float32", "bfloat16"))

    def check_sides(self, h: int, w: int) -> None:
        """Raises ValueError for images too small."""
        smallest = 3 * 2**self.n_layers  # leaves 3 x 3, and each of the two last layers takes one away
        if min(h, w) < smallest:
            raise ValueError(
                f"images of {h} x {w} pixels are too small for {self.n_layers} layers: at least {smallest} a side; "
                "set n_layers lower"
            )


class Discriminator(nn.Module):
    """Images (b, H, W, c) -> logits (b, h, w, 1) float32, high where a patch looks real.

    Collection `batch_stats` holds the running statistics; training calls move it (`mutable=["batch_stats"]`).
    """

    config: DiscriminatorConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b H W c"], train: bool = False) -> Float[Array, "b h w 1"]:
        cfg = self.config
        if x.ndim != 4 or x.shape[-1] != cfg.in_channels:
            raise ValueError(f"the discriminator expects images (b, H, W, {cfg.in_channels}), got shape {x.shape}")
        cfg.check_sides(*x.shape[1:3])
        dtype = jnp.dtype(cfg.dtype)

        def conv(
            i: int, h: Float[Array, "b H W c"], features: int, stride: int, **options: Any
        ) -> Float[Array, "b h w d"]:
            init = nn.initializers.normal(0.02)
            settings = {"kernel_init": init, "name": f"conv_{i}", **options}
            if cfg.spectral:
                return SpectralConv(features, 4, stride, SAME3, **settings)(h, train=train)
            return Conv(features, 4, stride, SAME3, **settings)(h)

        h = nn.leaky_relu(conv(0, x, cfg.ndf, 2, dtype=dtype), 0.2)
        for i in range(1, cfg.n_layers + 1):
            stride = 2 if i < cfg.n_layers else 1
            # A bias before batch normalisation would be subtracted again.
            h = conv(i, h, cfg.ndf * min(2**i, 8), stride, use_bias=cfg.norm != "batch", dtype=dtype)
            norm = NORMS[cfg.norm]
            h = nn.leaky_relu(norm(dtype=dtype, name=f"norm_{i}")(h, train=train) if norm else h, 0.2)
        return conv(cfg.n_layers + 1, h, 1, 1)
