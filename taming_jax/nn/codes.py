"""What all quantizers share: their result, the search for the nearest code, counts, gradients past the rounding, and
the entropy of choices."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int, Shaped

from taming_jax.nn.extremes import argmin

Latents = Float[Array, "*grid d"]
Temperature = Float[Array, ""] | float


class Quantized(NamedTuple):
    """What a quantizer makes of latents (b, h, w, d), or on any other grid."""

    z: Latents  # float32 codebook entries; their gradient goes straight to the latents
    ids: Int[Array, "*grid"]
    loss: Float[Array, ""]
    metrics: dict[str, Float[Array, ""]]  # further scalars to log, where the quantizer has any


def nearest(z: Float[Array, "*b c"], codebook: Float[Array, "n c"]) -> Int[Array, "*b"]:
    """The entry at the least squared distance (the first of equals)."""
    # |z|^2 is the same for every entry and is left out. Full precision: accelerators otherwise round the factors, and
    # with thousands of near entries that changes ids.
    dots = jnp.einsum("...c,nc->...n", z, codebook, precision=lax.Precision.HIGHEST)
    lengths = jnp.sum(codebook**2, axis=-1).reshape((1,) * (z.ndim - 1) + (-1,))
    return argmin(lengths - 2 * dots)


def count_codes(
    ids: Int[Array, "*b"], n_embed: int, weights: Shaped[Array, "*b"] | None = None
) -> Float[Array, " {n_embed}"]:
    """How often each code occurs in ids; `weights` counts some less."""
    weights = jnp.ones(ids.shape, jnp.float32) if weights is None else weights.astype(jnp.float32)
    return jnp.zeros((n_embed,), jnp.float32).at[ids.reshape(-1)].add(weights.reshape(-1))


def unit_length(x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    """Vectors divided by their length; one of length zero stays, with a gradient of zero."""
    squares = jnp.sum(x**2, axis=-1, keepdims=True)
    safe = jnp.where(squares > 0, squares, 1.0)
    return x / jnp.maximum(jnp.sqrt(safe), 1e-12)


def straight(z: Float[Array, "*b c"], codes: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    """`codes`, whose gradient goes to z as it is (van den Oord et al. 2017, section 3.2)."""
    return z + lax.stop_gradient(codes - z)


def rotated(z: Float[Array, "*b c"], codes: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    """`codes`, whose gradient goes to z turned and stretched as z would have to be to become its code (the rotation
    trick: Fifty et al. 2024, arXiv 2410.06424, equation 4).

    Where either has no length, or they point in opposite directions, there is no such turn, and it goes as it is.
    """
    fixed, codes = lax.stop_gradient(z), lax.stop_gradient(codes)
    length, wanted = (jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True)) for x in (fixed, codes))
    source, target = unit_length(fixed), unit_length(codes)
    between = source + target
    turns = (jnp.minimum(length, wanted) > 1e-6) & (jnp.sum(between**2, axis=-1, keepdims=True) > 1e-6)
    middle = unit_length(between)
    along = lambda x: jnp.sum(z * x, axis=-1, keepdims=True)
    turned = z - 2 * along(middle) * middle + 2 * along(source) * target
    found = jnp.where(turns, turned * (wanted / jnp.maximum(length, 1e-6)), z)
    return found + lax.stop_gradient(codes - found)


ESTIMATORS = {"straight": straight, "rotation": rotated}


def entropy_of_choices(logits: Float[Array, "m n"], sample: float = 1.0, batch: float = 1.0) -> Float[Array, ""]:
    """`sample` times the mean entropy of each row's softmax less `batch` times the entropy of the mean softmax, in
    nats."""
    choice = jax.nn.softmax(logits)
    average = jnp.mean(choice, axis=0)
    each = -jnp.mean(jnp.sum(choice * jax.nn.log_softmax(logits), axis=1))
    return sample * each + batch * jnp.sum(average * jnp.log(average + 1e-5))


def choice_entropy(
    z: Float[Array, "*b c"],
    codes: Float[Array, "n c"],
    temperature: float = 0.01,
    sample: float = 1.0,
    batch: float = 1.0,
) -> Float[Array, ""]:
    """`entropy_of_choices` of each latent's choice among the codes by their squared distances."""
    z = z.reshape(-1, z.shape[-1])
    dots = jnp.einsum("mc,nc->mn", z, codes, precision=lax.Precision.HIGHEST)
    distances = jnp.sum(z**2, axis=1, keepdims=True) + jnp.sum(codes**2, axis=1)[None] - 2 * dots
    return entropy_of_choices(-distances / temperature, sample, batch)
