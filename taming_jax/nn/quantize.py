"""Quantizers: continuous latents to the nearest entries of a learned codebook.

Every quantizer is called as `quantizer(z, train=...) -> Quantized` and decodes ids by `lookup`. One that draws noise
takes it from the rng stream `quantize`; one that keeps running statistics keeps them in the collection `ema`.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax


class Quantized(NamedTuple):
    """What a quantizer makes of latents (b, h, w, c)."""

    z: Array  # (b, h, w, c) float32 codebook entries; their gradient goes straight to the latents
    ids: Array  # (b, h, w) int32
    loss: Array  # () float32
    metrics: dict[str, Array]  # further scalars to log, where the quantizer has any


def nearest(z: Array, codebook: Array) -> Array:
    """z (..., c), codebook (n, c) -> (...) int32, the entry at the least squared distance (the first of equals)."""
    # |z|^2 is the same for every entry and is left out. Full precision: accelerators otherwise round the factors, and
    # with thousands of near entries that changes ids.
    dots = jnp.einsum("...c,nc->...n", z, codebook, precision=lax.Precision.HIGHEST)
    lengths = jnp.sum(codebook**2, axis=-1).reshape((1,) * (z.ndim - 1) + (-1,))
    return jnp.argmin(lengths - 2 * dots, axis=-1).astype(jnp.int32)


def count_codes(ids: Array, n_embed: int, weights: Array | None = None) -> Array:
    """How often each code occurs in ids, float32 (n,); `weights`, of the shape of ids, counts some less."""
    weights = jnp.ones(ids.shape, jnp.float32) if weights is None else weights.astype(jnp.float32)
    return jnp.zeros((n_embed,), jnp.float32).at[ids.reshape(-1)].add(weights.reshape(-1))


class VectorQuantizer(nn.Module):
    """Nearest code with a straight-through gradient (van den Oord et al. 2017; Esser et al. 2021, equations 2 and 4).

    The loss is commitment `|sg[z_q] - z|^2` and codebook `|z_q - sg[z]|^2`, averaged. The paper weights the commitment
    by `beta`; the authors' program by default (`legacy`) weights the other term. Arithmetic in float32.
    """

    n_embed: int
    embed_dim: int
    beta: float = 0.25
    legacy: bool = True

    def setup(self):
        def uniform(key, shape):
            return jax.random.uniform(key, shape, jnp.float32, -1 / self.n_embed, 1 / self.n_embed)

        self.codebook = self.param("codebook", uniform, (self.n_embed, self.embed_dim))

    def __call__(self, z: Array, *, train: bool = False) -> Quantized:
        z = z.astype(jnp.float32)
        ids = nearest(lax.stop_gradient(z), lax.stop_gradient(self.codebook))
        zq = self.lookup(ids)
        commitment = jnp.mean((lax.stop_gradient(zq) - z) ** 2)
        codebook = jnp.mean((zq - lax.stop_gradient(z)) ** 2)
        loss = commitment + self.beta * codebook if self.legacy else self.beta * commitment + codebook
        straight_through = z + lax.stop_gradient(zq - z)
        return Quantized(straight_through, ids, loss, {})

    def lookup(self, ids: Array) -> Array:
        """ids (...) in [0, n) -> entries (..., c)."""
        return jnp.take(self.codebook, ids, axis=0, mode="clip")


class EMAVectorQuantizer(VectorQuantizer):
    """A codebook that follows the latents by exponential moving averages (van den Oord et al. 2017, appendix A.1).

    Learns much faster than by gradient, and lets no code lie idle: one that is used less than `restart_below` times the
    average takes the place of a random latent of the batch. The averages, in collection `ema`, are those of the global
    batch; they move in training only, and `ema_codebook` makes the next codebook of them.
    """

    decay: float = 0.99
    restart_below: float = 0.05

    def setup(self):
        super().setup()
        if self.is_mutable_collection("ema"):  # training, else the codebook among the parameters is all
            self.count = self.variable("ema", "count", jnp.zeros, (self.n_embed,))
            self.total = self.variable("ema", "total", jnp.zeros, (self.n_embed, self.embed_dim))

    def __call__(self, z: Array, *, train: bool = False) -> Quantized:
        z = z.astype(jnp.float32)
        ids = nearest(lax.stop_gradient(z), self.codebook)
        zq = lax.stop_gradient(self.lookup(ids))
        if train and self.is_mutable_collection("ema") and not self.is_initializing():
            self._follow(lax.stop_gradient(z).reshape(-1, self.embed_dim), ids.reshape(-1))
        loss = self.beta * jnp.mean((zq - z) ** 2)
        straight_through = z + lax.stop_gradient(zq - z)
        return Quantized(straight_through, ids, loss, {})

    def _follow(self, latents: Array, ids: Array) -> None:
        """latents (m, c), ids (m,): move the averages, and give idle codes a new place."""
        average = latents.shape[0] / self.n_embed
        counts = count_codes(ids, self.n_embed)
        sums = jnp.zeros((self.n_embed, self.embed_dim)).at[ids].add(latents)
        count = self.count.value + (1 - self.decay) * (counts - self.count.value)
        total = self.total.value + (1 - self.decay) * (sums - self.total.value)
        idle = count < self.restart_below * average
        # The same key and the same global batch everywhere: all replicas restart alike.
        chosen = jax.random.randint(self.make_rng("quantize"), (self.n_embed,), 0, latents.shape[0])
        self.count.value = jnp.where(idle, average, count)
        self.total.value = jnp.where(idle[:, None], average * latents[chosen], total)


def ema_codebook(averages: dict[str, Array]) -> Array:
    """The codebook (n, c) of the collection `ema`, counts smoothed so that none is zero (Laplace)."""
    count, smoothing = averages["count"], 1e-5
    smoothed = (count + smoothing) / (1 + count.size * smoothing / jnp.sum(count))
    return averages["total"] / smoothed[:, None]


QUANTIZERS = {"vq": VectorQuantizer, "ema": EMAVectorQuantizer}
