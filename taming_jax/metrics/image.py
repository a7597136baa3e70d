"""How close reconstructions are: PSNR and SSIM, for images in [-1, 1], hence a data range of 2, l1, and accuracy."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from taming_jax.nn.extremes import argmax

DATA_RANGE = 2.0
WINDOW, SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03


def psnr(x: Float[Array, "b H W c"], y: Float[Array, "b H W c"]) -> Float[Array, " b"]:
    """Peak signal-to-noise ratio in dB, float32.

    Values are taken as they are: clip reconstructions to [-1, 1] first. Equal images give 106 dB, not infinity, so that
    means stay finite. Raises ValueError where the shapes differ.
    """
    _check(x, y)
    error = jnp.mean(jnp.square(x.astype(jnp.float32) - y.astype(jnp.float32)), axis=(1, 2, 3))
    return 10 * jnp.log10(DATA_RANGE**2 / jnp.maximum(error, 1e-10))


def ssim(x: Float[Array, "b H W c"], y: Float[Array, "b H W c"]) -> Float[Array, " b"]:
    """Structural similarity (Wang et al. 2004), float32, at most 1.

    Gaussian window of 11 x 11 pixels with sigma 1.5, whole windows only; the mean over positions and channels. Raises
    ValueError where the shapes differ or the image is smaller than the window.
    """
    _check(x, y)
    h, w = x.shape[1:3]
    if min(h, w) < WINDOW:
        raise ValueError(f"SSIM needs images of at least {WINDOW} x {WINDOW} pixels, and these are {h} x {w}")
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    mx, my = _blur(x), _blur(y)
    # Rounding can make a variance slightly negative where the image is flat.
    vx = jnp.maximum(_blur(x * x) - mx * mx, 0)
    vy = jnp.maximum(_blur(y * y) - my * my, 0)
    covariance = _blur(x * y) - mx * my
    c1, c2 = (K1 * DATA_RANGE) ** 2, (K2 * DATA_RANGE) ** 2
    similarity = (2 * mx * my + c1) * (2 * covariance + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return jnp.mean(similarity, axis=(1, 2, 3))


def l1(x: Float[Array, "b H W c"], y: Float[Array, "b H W c"]) -> Float[Array, " b"]:
    """Mean absolute difference."""
    return jnp.mean(jnp.abs(x - y), axis=(1, 2, 3))


def accuracy(labels: Float[Array, "b H W n"], logits: Float[Array, "b H W n"]) -> Float[Array, " b"]:
    """Share of pixels whose label, as one-hot channels, has the largest logit."""
    return jnp.mean(argmax(logits) == argmax(labels), axis=(1, 2))


# Of what went into a first stage and what came out, by the names that are logged.
MEASURES: dict[str, Callable[[Array, Array], Array]] = {
    "l1": l1,
    "psnr": lambda x, y: psnr(x, jnp.clip(y, -1, 1)),
    "ssim": lambda x, y: ssim(x, jnp.clip(y, -1, 1)),
    "accuracy": accuracy,
}


def _blur(x: Float[Array, "b H W c"]) -> Float[Array, "b H-10 W-10 c"]:
    """Gaussian mean over each whole window, one axis after the other."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * SIGMA**2))
    kernel = jnp.asarray(weights / weights.sum(), jnp.float32)
    c = x.shape[-1]
    for shape in ((WINDOW, 1, 1, 1), (1, WINDOW, 1, 1)):
        x = jax.lax.conv_general_dilated(
            x,
            jnp.tile(kernel.reshape(shape), (1, 1, 1, c)),
            window_strides=(1, 1),
            padding="VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=c,
            precision=jax.lax.Precision.HIGHEST,  # a TPU would otherwise multiply in bfloat16
        )
    return x


def _check(x: Array, y: Array) -> None:
    if x.shape != y.shape or x.ndim != 4:
        raise ValueError(f"expected two batches of the same shape (b, H, W, c), but these are {x.shape} and {y.shape}")
