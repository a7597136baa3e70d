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
    metrics: dict[str, Array]  # scalars to log


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


def code_usage(counts: Array) -> dict[str, Array]:
    """counts (n,) -> `perplexity` in [1, n] (exp of the entropy) and `codes_used`, the share of codes that occur."""
    p = counts / jnp.maximum(counts.sum(), 1)
    entropy = -jnp.sum(jax.scipy.special.xlogy(p, p))
    return {"perplexity": jnp.exp(entropy), "codes_used": jnp.mean((counts > 0).astype(jnp.float32))}


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
        return Quantized(straight_through, ids, loss, code_usage(count_codes(ids, self.n_embed)))

    def lookup(self, ids: Array) -> Array:
        """ids (...) in [0, n) -> entries (..., c)."""
        return jnp.take(self.codebook, ids, axis=0, mode="clip")


QUANTIZERS = {"vq": VectorQuantizer}
