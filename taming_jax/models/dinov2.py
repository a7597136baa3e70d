"""DINOv2's vision transformers, as features (Oquab et al. 2023, arXiv 2304.07193; Dosovitskiy et al. 2021, 2010.11929).

Distances on them follow what people see more closely than those on Inception do (Stein et al. 2023, arXiv 2306.04675).
The table of positions is the one for pictures of 224 pixels; conversion resamples it once.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

SIDE, PATCH = 224, 14  # pixels
EPSILON = 1e-6
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels in [0, 1]


@dataclasses.dataclass(frozen=True)
class ViTSize:
    """width of the tokens, layers, heads of attention."""

    width: int
    depth: int
    heads: int


SIZES = {
    "dinov2_vits14": ViTSize(384, 12, 6),
    "dinov2_vitb14": ViTSize(768, 12, 12),
    "dinov2_vitl14": ViTSize(1024, 24, 16),
}


def normalised(x: Array) -> Array:
    """Pictures (b, h, w, 3 or 1) in [0, 1] -> (b, h, w, 3) as the networks take them; of one channel as grey ones."""
    mean, std = (jnp.array(value, jnp.float32).reshape(1, 1, 1, 3) for value in (MEAN, STD))
    return (x - mean) / std


class Layer(nn.Module):
    """Tokens (b, l, d) -> (b, l, d): attention and an MLP, each scaled by a learned vector before it is added."""

    size: ViTSize

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, l, d = x.shape
        y = nn.LayerNorm(EPSILON, name="norm1")(x)
        qkv = nn.Dense(3 * d, name="qkv")(y).reshape(b, l, 3, self.size.heads, d // self.size.heads)
        y = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]).reshape(b, l, d)
        x = x + nn.Dense(d, name="out")(y) * self._scale("scale1", d)
        y = nn.LayerNorm(EPSILON, name="norm2")(x)
        y = nn.Dense(d, name="down")(nn.gelu(nn.Dense(4 * d, name="up")(y), approximate=False))
        return x + y * self._scale("scale2", d)

    def _scale(self, name: str, d: int) -> Array:
        return self.param(name, nn.initializers.ones, (d,))[None, None]


class DINOv2(nn.Module):
    """Normalised pictures (b, 224, 224, 3) -> {str(width): the class token after the last norm, float32 (b, width)}.

    layers: whose tokens are given too, as they leave them, without the class token: {"layer_2": (b, 256, width)}.
    """

    size: ViTSize
    layers: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x: Array) -> dict[str, Array]:
        d, init = self.size.width, nn.initializers.normal(0.02)
        x = nn.Conv(d, (PATCH, PATCH), (PATCH, PATCH), padding="VALID", name="patch")(x)
        x = x.reshape(len(x), -1, d)
        first = jnp.broadcast_to(self.param("class", init, (1, 1, d)), (len(x), 1, d))
        x = jnp.concatenate([first, x], axis=1)
        x = x + self.param("position", init, (1, x.shape[1], d))
        tokens = {}
        for i in range(self.size.depth):
            x = Layer(self.size, name=f"layer_{i}")(x)
            if i in self.layers:
                tokens[f"layer_{i}"] = x[:, 1:]
        return {str(d): nn.LayerNorm(EPSILON, name="norm")(x)[:, 0], **tokens}


def dinov2_shapes(size: ViTSize, side: int = SIDE) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every array in a weight file, such as `layer_0/qkv/kernel` (384, 1152)."""
    d, places = size.width, (side // PATCH) ** 2
    shapes: dict[str, tuple[int, ...]] = {"class": (1, 1, d), "position": (1, 1 + places, d)}
    shapes |= {"patch/kernel": (PATCH, PATCH, 3, d), "patch/bias": (d,), "norm/scale": (d,), "norm/bias": (d,)}
    for i in range(size.depth):
        here = f"layer_{i}"
        shapes |= {f"{here}/{norm}/{part}": (d,) for norm in ("norm1", "norm2") for part in ("scale", "bias")}
        shapes |= {f"{here}/scale1": (d,), f"{here}/scale2": (d,)}
        for name, (ins, outs) in {"qkv": (d, 3 * d), "out": (d, d), "up": (d, 4 * d), "down": (4 * d, d)}.items():
            shapes |= {f"{here}/{name}/kernel": (ins, outs), f"{here}/{name}/bias": (outs,)}
    return shapes
