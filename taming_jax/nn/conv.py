"""Convolutional building blocks: convolution, normalisation, residual block, spatial attention, re-sampling.

Images and feature maps are (b, h, w, c). `dtype` is the type of the arithmetic; parameters and the statistics of the
normalisations are always float32.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike
from jaxtyping import Float, Key

from taming_jax.nn.devices import on_cpu
from taming_jax.nn.products import product_in_float32

Padding = tuple[tuple[int, int], tuple[int, int]]  # (top, bottom), (left, right)
NONE, SAME3 = ((0, 0), (0, 0)), ((1, 1), (1, 1))


def conv2d(
    x: Float[Array, "b H W c"], kernel: Float[Array, "k k c d"], stride: int = 1, padding: Padding = NONE
) -> Float[Array, "b h w d"]:
    """x (b, H, W, c) with kernel (k, k, c, d) -> (b, h, w, d), in the type of x. Linear in the kernel."""
    return lax.conv_general_dilated(
        x, kernel.astype(x.dtype), (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


PLACES = 16  # of a map that CPUs convolve faster as one product: a hundred times at 2 x 2, twice at 4 x 4, backwards


def conv3x3(x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]) -> Float[Array, "b h w d"]:
    """`conv2d` padded to the same sides; on a CPU as a matrix product where the map is small, up to rounding the
    same."""
    b, h, w, c = x.shape
    if h * w > PLACES or not on_cpu():
        return conv2d(x, kernel, padding=SAME3)
    around = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    near = jnp.concatenate([around[:, i : i + h, j : j + w] for i in range(3) for j in range(3)], axis=-1)
    return (near.reshape(-1, 9 * c) @ kernel.astype(x.dtype).reshape(9 * c, -1)).reshape(b, h, w, -1)


def uniform_fan_in(fan_in: int) -> nn.initializers.Initializer:
    """PyTorch's default start of a convolution, weight and bias alike: uniform in +-1/sqrt(fan_in)."""

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Float[Array, "..."]:
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Conv(nn.Module):
    """Convolution (b, H, W, c) -> (b, h, w, features) with explicit padding ((top, bottom), (left, right)).

    quick: by `conv3x3`, which may round otherwise on other sides.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    padding: Padding = SAME3
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer | None = None  # None: PyTorch's default
    dtype: DTypeLike = jnp.float32
    quick: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b H W c"]) -> Float[Array, "b h w d"]:
        k, c = self.kernel_size, x.shape[-1]
        default = uniform_fan_in(k * k * c)
        kernel = self.param("kernel", self.kernel_init or default, (k, k, c, self.features))
        x = x.astype(self.dtype)
        y = conv3x3(x, kernel) if self.quick else conv2d(x, kernel, self.stride, self.padding)
        if self.use_bias:
            y = y + channels(self.param("bias", default, (self.features,))).astype(self.dtype)
        return y


class SpectralConv(Conv):
    """Conv by a kernel whose largest singular value is one, as a matrix (k k c, d) (Miyato et al. 2018, arXiv
    1802.05957).

    The value is found by power iteration: each call goes one step on, and in training keeps where it is, `u` (d,) in
    collection `batch_stats`.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "b H W c"], *, train: bool = False) -> Float[Array, "b h w d"]:
        k, c = self.kernel_size, x.shape[-1]
        default = uniform_fan_in(k * k * c)
        kernel = self.param("kernel", self.kernel_init or default, (k, k, c, self.features))
        y = conv2d(x.astype(self.dtype), self._scaled(kernel, train), self.stride, self.padding)
        if self.use_bias:
            y = y + channels(self.param("bias", default, (self.features,))).astype(self.dtype)
        return y

    def _scaled(self, kernel: Float[Array, "k k c d"], train: bool) -> Float[Array, "k k c d"]:
        matrix = lax.stop_gradient(kernel).reshape(-1, self.features)
        start = lambda: jax.random.normal(self.make_rng("params"), (self.features,))
        kept = self.variable("batch_stats", "u", start)
        length_one = lambda x: x / jnp.maximum(jnp.linalg.norm(x), 1e-12)
        v = length_one(jnp.matmul(matrix, kept.value, precision=lax.Precision.HIGHEST))
        u = length_one(jnp.matmul(v, matrix, precision=lax.Precision.HIGHEST))
        if train and not self.is_initializing():
            kept.value = u
        largest = jnp.einsum("i,ij,j->", v, kernel.reshape(-1, self.features), u, precision=lax.Precision.HIGHEST)
        return kernel / largest


def conv1x1(features: int, **options: Any) -> Conv:
    return Conv(features, kernel_size=1, padding=NONE, **options)


def channels(v: Float[Array, " c"]) -> Float[Array, "1 1 1 c"]:
    """(c,) -> (1, 1, 1, c), to meet a feature map at equal rank."""
    return v.reshape(1, 1, 1, -1)


def group_norm(groups: int, dtype: DTypeLike, name: str | None = None) -> nn.GroupNorm:
    # The two-pass variance: E[x^2] - E[x]^2 loses digits where the mean is far from zero.
    return nn.GroupNorm(groups, epsilon=1e-6, dtype=dtype, use_fast_variance=False, name=name)


class BatchNorm(nn.Module):
    """Batch normalisation over (b, h, w), with the running values PyTorch keeps.

    Training uses the batch's own mean and biased variance - inside jit over a mesh that is the global batch - and moves
    the running values in collection `batch_stats` by `momentum`, the variance as its unbiased estimate.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w c"]:
        c = x.shape[-1]
        scale = self.param("scale", lambda key, shape: 1 + 0.02 * jax.random.normal(key, shape), (c,))
        bias = self.param("bias", nn.initializers.zeros, (c,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (c,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (c,))
        x = x.astype(jnp.float32)
        mean, var = running_mean.value, running_var.value
        if train:
            mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
            if not self.is_initializing():
                count = x.size // c
                move = lambda old, new: old + self.momentum * (lax.stop_gradient(new) - old)
                running_mean.value = move(running_mean.value, mean)
                running_var.value = move(running_var.value, var * (count / max(count - 1, 1)))
        y = (x - channels(mean)) * channels(scale * lax.rsqrt(var + self.epsilon)) + channels(bias)
        return y.astype(self.dtype)


class ActNorm(nn.Module):
    """Affine layer that starts by normalising the first training batch it sees (Glow, Kingma & Dhariwal 2018, 3.1).

    The start (`loc`, `scale` in collection `batch_stats`) is found inside the first training call, where parameters
    cannot be written; the parameters are therefore offsets from it. Sums train exactly as the values themselves would.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w c"]:
        c = x.shape[-1]
        loc_offset = self.param("loc", nn.initializers.zeros, (c,))
        scale_offset = self.param("scale", nn.initializers.zeros, (c,))
        loc = self.variable("batch_stats", "loc", jnp.zeros, (c,))
        scale = self.variable("batch_stats", "scale", jnp.ones, (c,))
        started = self.variable("batch_stats", "started", jnp.zeros, (), jnp.bool_)
        x = x.astype(jnp.float32)
        if train and not self.is_initializing():
            batch = lax.stop_gradient(x)
            loc.value = jnp.where(started.value, loc.value, -batch.mean((0, 1, 2)))
            std = batch.std((0, 1, 2), ddof=1)
            scale.value = jnp.where(started.value, scale.value, 1 / (std + 1e-6))
            started.value = jnp.ones((), jnp.bool_)
        y = channels(scale.value + scale_offset) * (x + channels(loc.value + loc_offset))
        return y.astype(self.dtype)


class ResBlock(nn.Module):
    """Twice (norm, swish, 3x3 convolution) beside a shortcut: (b, h, w, c) -> (b, h, w, features)."""

    features: int
    groups: int = 32
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w d"]:
        h = nn.swish(group_norm(self.groups, self.dtype, "norm1")(x))
        h = Conv(self.features, dtype=self.dtype, name="conv1")(h)
        h = nn.swish(group_norm(self.groups, self.dtype, "norm2")(h))
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        h = Conv(self.features, dtype=self.dtype, name="conv2")(h)
        if x.shape[-1] != self.features:
            x = conv1x1(self.features, dtype=self.dtype, name="shortcut")(x)  # of the block's input, not of h
        return x + h


ATTENDED = 1 << 26  # attention weights of an image at once; a feature map of 90 x 90 has as many


class SpatialAttention(nn.Module):
    """Single-head self-attention over all positions of a feature map, with a residual: shape kept.

    Where the table of weights would be larger than ATTENDED, some queries at a time, with the same result.
    """

    groups: int = 32
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        normed = group_norm(self.groups, self.dtype, "norm")(x)
        q, k, v = (conv1x1(c, dtype=self.dtype, name=n)(normed).reshape(b, h * w, c) for n in "qkv")

        def attend(q: Float[Array, "b q c"]) -> Float[Array, "b q c"]:
            scores = product_in_float32(q, k, (((2,), (2,)), ((0,), (0,)))) * c**-0.5  # (b, q, k)
            weights = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
            return jnp.einsum("bqk,bkc->bqc", weights, v)

        if (h * w) ** 2 <= ATTENDED:
            out = attend(q)
        else:
            at_once = max(1, ATTENDED // (h * w))
            parts = jnp.pad(q, ((0, 0), (0, -(h * w) % at_once), (0, 0))).reshape(b, -1, at_once, c)
            out = jax.lax.map(attend, parts.swapaxes(0, 1)).swapaxes(0, 1).reshape(b, -1, c)[:, : h * w]
        return x + conv1x1(c, dtype=self.dtype, name="proj_out")(out.reshape(b, h, w, c))


def downsample(features: int, dtype: DTypeLike, name: str) -> Conv:
    """Halve the sides: stride 2, padded at the bottom and the right only."""
    return Conv(features, stride=2, padding=((0, 1), (0, 1)), dtype=dtype, name=name)


def double(x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c"]:
    """Twice the sides: nearest neighbour."""
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c))
    return x.reshape(b, 2 * h, 2 * w, c)
