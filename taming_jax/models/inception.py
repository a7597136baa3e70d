"""Inception-v3 as the field's FID runs it (Szegedy et al. 2015, arXiv 1512.00567; Heusel et al. 2017, 1706.08500).

It is the network of 2015's TensorFlow release, which differs from torchvision's: average pools leave the padding out of
the mean, the last block pools by the maximum, and the head has 1008 classes. The parameters are those of pytorch-fid's
file under its own names, so that conversion is a change of layout.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jax import Array, lax

SIDE = 299  # pixels: every image is resized to this before it is measured
CLASSES = 1008
WIDTHS = (64, 192, 768, 2048)  # of the pooled features, after the two max pools, Mixed_6e, and the last block
SPATIAL = 7  # channels of the spatial features of sFID (Nash et al. 2021, arXiv 2103.03841)

Size = int | tuple[int, int]


class ConvNormRelu(nn.Module):
    """Convolution without bias, batch normalisation by stored statistics, ReLU: (b, H, W, c) -> (b, h, w, features)."""

    features: int
    size: Size = 1
    stride: int = 1
    same: bool = False  # padded so that the size stays; else not at all

    @nn.compact
    def __call__(self, x: Array) -> Array:
        height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
        shape = (height, width, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        padding = [(height // 2, height // 2), (width // 2, width // 2)] if self.same else [(0, 0), (0, 0)]
        x = lax.conv_general_dilated(
            x, kernel, (self.stride, self.stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        named = {"scale": nn.initializers.ones, "bias": nn.initializers.zeros}
        scale, bias = (self.param(name, init, (self.features,)) for name, init in named.items())
        mean = self.param("mean", nn.initializers.zeros, (self.features,))
        variance = self.param("var", nn.initializers.ones, (self.features,))
        factor = scale * lax.rsqrt(variance + 1e-3)
        return nn.relu(x * factor[None, None, None] + (bias - mean * factor)[None, None, None])


def max_pool(x: Array, stride: int = 2) -> Array:
    """3 x 3, halving; with stride 1 padded, so that the size stays."""
    return nn.max_pool(x, (3, 3), (stride, stride), "SAME" if stride == 1 else "VALID")


def mean_pool(x: Array) -> Array:
    """Mean of 3 x 3 neighbours, of those that lie in the image."""
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


class MixedA(nn.Module):
    """Blocks at 35 x 35 (Szegedy et al., figure 5)."""

    pool_features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        a = ConvNormRelu(64, name="branch1x1")(x)
        b = ConvNormRelu(48, name="branch5x5_1")(x)
        b = ConvNormRelu(64, 5, same=True, name="branch5x5_2")(b)
        c = ConvNormRelu(64, name="branch3x3dbl_1")(x)
        c = ConvNormRelu(96, 3, same=True, name="branch3x3dbl_2")(c)
        c = ConvNormRelu(96, 3, same=True, name="branch3x3dbl_3")(c)
        d = ConvNormRelu(self.pool_features, name="branch_pool")(mean_pool(x))
        return jnp.concatenate([a, b, c, d], axis=-1)


class MixedB(nn.Module):
    """From 35 x 35 to 17 x 17 (figure 10)."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        a = ConvNormRelu(384, 3, 2, name="branch3x3")(x)
        b = ConvNormRelu(64, name="branch3x3dbl_1")(x)
        b = ConvNormRelu(96, 3, same=True, name="branch3x3dbl_2")(b)
        b = ConvNormRelu(96, 3, 2, name="branch3x3dbl_3")(b)
        return jnp.concatenate([a, b, max_pool(x)], axis=-1)


class MixedC(nn.Module):
    """Blocks at 17 x 17, with convolutions of 7 in one direction at a time (figure 6) -> (features, branch1x1)."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        row, column = (1, 7), (7, 1)
        a = ConvNormRelu(192, name="branch1x1")(x)
        b = ConvNormRelu(self.width, name="branch7x7_1")(x)
        b = ConvNormRelu(self.width, row, same=True, name="branch7x7_2")(b)
        b = ConvNormRelu(192, column, same=True, name="branch7x7_3")(b)
        c = ConvNormRelu(self.width, name="branch7x7dbl_1")(x)
        for i, size in enumerate((column, row, column)):
            c = ConvNormRelu(self.width, size, same=True, name=f"branch7x7dbl_{i + 2}")(c)
        c = ConvNormRelu(192, row, same=True, name="branch7x7dbl_5")(c)
        d = ConvNormRelu(192, name="branch_pool")(mean_pool(x))
        return jnp.concatenate([a, b, c, d], axis=-1), a


class MixedD(nn.Module):
    """From 17 x 17 to 8 x 8."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        a = ConvNormRelu(192, name="branch3x3_1")(x)
        a = ConvNormRelu(320, 3, 2, name="branch3x3_2")(a)
        b = ConvNormRelu(192, name="branch7x7x3_1")(x)
        b = ConvNormRelu(192, (1, 7), same=True, name="branch7x7x3_2")(b)
        b = ConvNormRelu(192, (7, 1), same=True, name="branch7x7x3_3")(b)
        b = ConvNormRelu(192, 3, 2, name="branch7x7x3_4")(b)
        return jnp.concatenate([a, b, max_pool(x)], axis=-1)


class MixedE(nn.Module):
    """Blocks at 8 x 8 (figure 7); the last of the network pools by the maximum."""

    pools_maximum: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        a = ConvNormRelu(320, name="branch1x1")(x)
        b = ConvNormRelu(384, name="branch3x3_1")(x)
        b = [ConvNormRelu(384, s, same=True, name=f"branch3x3_2{n}")(b) for n, s in (("a", (1, 3)), ("b", (3, 1)))]
        c = ConvNormRelu(448, name="branch3x3dbl_1")(x)
        c = ConvNormRelu(384, 3, same=True, name="branch3x3dbl_2")(c)
        c = [ConvNormRelu(384, s, same=True, name=f"branch3x3dbl_3{n}")(c) for n, s in (("a", (1, 3)), ("b", (3, 1)))]
        pooled = max_pool(x, 1) if self.pools_maximum else mean_pool(x)
        d = ConvNormRelu(192, name="branch_pool")(pooled)
        return jnp.concatenate([a, *b, *c, d], axis=-1)


class Inception(nn.Module):
    """Images (b, 299, 299, 3) in [-1, 1] -> features by name, all float32.

    "64", "192", "768", "2048": means over positions, (b, width). "spatial": (b, 2023), the first 7 channels of a branch
    at 17 x 17, of sFID. "logits": (b, 1008), and "logits_unbiased", without the head's bias, of the Inception score.
    """

    @nn.compact
    def __call__(self, x: Array) -> dict[str, Array]:
        mean = lambda x: x.mean(axis=(1, 2))
        found: dict[str, Array] = {}
        x = ConvNormRelu(32, 3, 2, name="Conv2d_1a_3x3")(x)
        x = ConvNormRelu(32, 3, name="Conv2d_2a_3x3")(x)
        x = max_pool(ConvNormRelu(64, 3, same=True, name="Conv2d_2b_3x3")(x))
        found["64"] = mean(x)
        x = ConvNormRelu(80, name="Conv2d_3b_1x1")(x)
        x = max_pool(ConvNormRelu(192, 3, name="Conv2d_4a_3x3")(x))
        found["192"] = mean(x)
        for letter, width in zip("bcd", (32, 64, 64)):
            x = MixedA(width, name=f"Mixed_5{letter}")(x)
        x = MixedB(name="Mixed_6a")(x)
        for letter, width in zip("bcde", (128, 160, 160, 192)):
            x, branch = MixedC(width, name=f"Mixed_6{letter}")(x)
            if letter == "d":  # "mixed_6/conv" of the TensorFlow graph
                found["spatial"] = branch[..., :SPATIAL].reshape(len(x), -1)
        found["768"] = mean(x)
        x = MixedD(name="Mixed_7a")(x)
        x = MixedE(False, name="Mixed_7b")(x)
        x = MixedE(True, name="Mixed_7c")(x)
        found["2048"] = mean(x)
        kernel = self.param("fc_kernel", nn.initializers.lecun_normal(), (WIDTHS[-1], CLASSES))
        bias = self.param("fc_bias", nn.initializers.zeros, (CLASSES,))
        found["logits_unbiased"] = found["2048"] @ kernel
        found["logits"] = found["logits_unbiased"] + bias[None]
        return found


def inception_shapes() -> dict[str, tuple[int, ...]]:
    """Name -> shape of every array in a weight file, such as `Mixed_5b/branch1x1/kernel` (1, 1, 192, 64)."""
    image = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32)
    variables = jax.eval_shape(Inception().init, jax.random.key(0), image)
    return {k: v.shape for k, v in flatten_dict(variables["params"], sep="/").items()}
