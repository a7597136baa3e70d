"""Quantizers without a table of codes: each channel is rounded by itself, and an id counts the combinations.

They have no parameters. All arithmetic is float32, whatever comes in: lower precision merges levels, and so codes.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Int

from taming_jax.nn.codes import Latents, Quantized, Temperature, straight, unit_length

GROUP = 10  # bits whose combinations are counted together: 2^10 probabilities a latent


class FiniteScalarQuantizer(nn.Module):
    """Each channel bounded and rounded to one of its levels (FSQ: Mentzer et al. 2023, arXiv 2309.15505, section 3.1).

    Codes lie in [-1, 1]. The id is the number whose digits, the first channel's the least, are the levels. There is no
    loss, and no code that could lie idle but by the encoder's choice. n_embed must be the product of `levels`,
    embed_dim their number.
    """

    n_embed: int
    embed_dim: int
    levels: tuple[int, ...]

    def __call__(self, z: Latents, *, train: bool = False, temperature: Temperature = 1.0) -> Quantized:
        levels = _row(self.levels, z.ndim).astype(jnp.float32)
        # A little wider than the levels, so that tanh need not be one for the outer ones.
        half, offset = (levels - 1) * (1 + 1e-3) / 2, jnp.where(levels % 2 == 0, 0.5, 0.0)
        bounded = jnp.tanh(z.astype(jnp.float32) + jnp.arctanh(offset / half)) * half - offset
        digits = jnp.round(lax.stop_gradient(bounded))
        middle = levels // 2
        ids = jnp.sum((digits + middle).astype(jnp.int32) * _row(_places(self.levels), z.ndim), axis=-1)
        return Quantized(straight(bounded, digits) / middle, ids, jnp.zeros((), jnp.float32), {})

    def lookup(self, ids: Int[Array, "*b"]) -> Float[Array, "*b c"]:
        """The codes of ids in [0, n)."""
        levels, places = (_row(values, ids.ndim + 1) for values in (self.levels, _places(self.levels)))
        middle = levels // 2
        return (ids[..., None] // places % levels - middle).astype(jnp.float32) / middle


def _row(values: tuple[int, ...], rank: int) -> Int[Array, "... c"]:
    """Numbers of the channels, to meet an array of this rank."""
    return jnp.asarray(values, jnp.int32).reshape((1,) * (rank - 1) + (-1,))


def _places(levels: tuple[int, ...]) -> tuple[int, ...]:
    """What a digit of each channel is worth."""
    return tuple(int(place) for place in np.cumprod((1, *levels[:-1])))


def splits(levels: tuple[int, ...]) -> list[tuple[int, int]]:
    """All (first, second) such that id // second and id % second, of which there are so many, count the combinations of
    some channels each: the second those of the first channels, whose digits are the least, the first the others'."""
    return [(math.prod(levels) // below, below) for below in _places(levels)[1:]]


class LookupFreeQuantizer(nn.Module):
    """The sign of each channel: codes in {-1, 1}^d, of which there are 2^d (LFQ: Yu et al. 2023, arXiv 2310.05737,
    section 3.1). The id has a bit for each channel, the first one's the least.

    The loss is `beta` times the commitment and `entropy_weight` times the entropy of each latent's choice, times
    `entropy_sample`, less that of the average choice, times `entropy_batch`; see `bit_entropy`. n_embed must be
    2^embed_dim.
    """

    n_embed: int
    embed_dim: int
    beta: float = 0.25
    entropy_weight: float = 0.0
    entropy_temperature: float = 0.01
    entropy_sample: float = 1.0
    entropy_batch: float = 1.0

    @property
    def scale(self) -> float:
        """The size of a code in each channel."""
        return 1.0

    def latents(self, z: Latents) -> Latents:
        """What is rounded, float32."""
        return z.astype(jnp.float32)

    def __call__(self, z: Latents, *, train: bool = False, temperature: Temperature = 1.0) -> Quantized:
        z = self.latents(z)
        bits = z > 0
        codes = jnp.where(bits, self.scale, -self.scale)
        ids = jnp.sum(bits.astype(jnp.int32) << _row(tuple(range(self.embed_dim)), z.ndim), axis=-1)
        metrics = {"commit_loss": self.beta * jnp.mean((z - codes) ** 2)}
        loss = metrics["commit_loss"]
        if self.entropy_weight:
            terms = (self.entropy_temperature, self.entropy_sample, self.entropy_batch)
            metrics["entropy_loss"] = self.entropy_weight * bit_entropy(z, self.scale, *terms)
            loss = loss + metrics["entropy_loss"]
        return Quantized(straight(z, codes), ids, loss, metrics)

    def lookup(self, ids: Int[Array, "*b"]) -> Float[Array, "*b c"]:
        """The codes of ids in [0, n)."""
        bits = ids[..., None] >> _row(tuple(range(self.embed_dim)), ids.ndim + 1) & 1
        return jnp.where(bits == 1, self.scale, -self.scale)


class BinarySphericalQuantizer(LookupFreeQuantizer):
    """LookupFreeQuantizer on the sphere: latents of length 1, codes in {-1, 1}^d / sqrt(d) (BSQ: Zhao et al. 2024,
    arXiv 2406.07548, section 4.1). No latent is further than sqrt(2 - 2 / sqrt(d)) from its code, so that the authors
    have no commitment, and a temperature of 1."""

    beta: float = 0.0
    entropy_temperature: float = 1.0

    @property
    def scale(self) -> float:
        return 1 / math.sqrt(self.embed_dim)

    def latents(self, z: Latents) -> Latents:
        return unit_length(z.astype(jnp.float32))


def bit_entropy(
    z: Float[Array, "*b c"], scale: float, temperature: float, sample: float = 1.0, batch: float = 1.0
) -> Float[Array, ""]:
    """`sample` times the mean entropy of each latent's choice among the codes {-scale, scale}^d less `batch` times that
    of the mean choice, in nats, where choices are a softmax of negative squared distances over the temperature.

    The first is exact, since the channels of one latent choose apart. The second is so for up to `GROUP` channels; more
    are taken in groups of equal size, as nearly as it goes, whose sum is an upper bound (Zhao et al. 2024, section
    4.2).
    """
    logits = 4 * scale * z.reshape(-1, z.shape[-1]) / temperature  # |z + s|^2 - |z - s|^2
    up, log_up, log_down = jax.nn.sigmoid(logits), jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    each = -jnp.mean(jnp.sum(up * log_up + (1 - up) * log_down, axis=1))
    together = jnp.zeros((), jnp.float32)
    for group in np.array_split(np.arange(z.shape[-1]), -(-z.shape[-1] // GROUP)):
        joint = jnp.ones((logits.shape[0], 1), jnp.float32)
        for channel in group:
            share = up[:, channel : channel + 1]
            joint = jnp.concatenate([joint * (1 - share), joint * share], axis=1)
        average = jnp.mean(joint, axis=0)
        together = together + jnp.sum(average * jnp.log(average + 1e-5))
    return sample * each + batch * together
