"""Quantizers: continuous latents to the nearest entries of a learned codebook.

Every quantizer is called as `quantizer(z, train=..., temperature=...) -> Quantized` and decodes ids by `lookup`. One
that draws noise takes it from the rng stream `quantize`; one that keeps running statistics keeps them in the collection
`ema`. Only the Gumbel quantizer uses the temperature.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Int, Key, Shaped

from taming_jax.nn.extremes import argmax, argmin

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


class VectorQuantizer(nn.Module):
    """Nearest code with a straight-through gradient (van den Oord et al. 2017; Esser et al. 2021, equations 2 and 4).

    The loss is commitment `|sg[z_q] - z|^2` and codebook `|z_q - sg[z]|^2`, averaged. The paper weights the commitment
    by `beta`; the authors' program by default (`legacy`) weights the other term. Arithmetic in float32.
    """

    n_embed: int
    embed_dim: int
    beta: float = 0.25
    legacy: bool = True

    def setup(self) -> None:
        def uniform(key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "n c"]:
            return jax.random.uniform(key, shape, jnp.float32, -1 / self.n_embed, 1 / self.n_embed)

        self.codebook = self.param("codebook", uniform, (self.n_embed, self.embed_dim))

    def __call__(self, z: Latents, *, train: bool = False, temperature: Temperature = 1.0) -> Quantized:
        z = z.astype(jnp.float32)
        ids = nearest(lax.stop_gradient(z), lax.stop_gradient(self.codebook))
        zq = self.lookup(ids)
        commitment = jnp.mean((lax.stop_gradient(zq) - z) ** 2)
        codebook = jnp.mean((zq - lax.stop_gradient(z)) ** 2)
        loss = commitment + self.beta * codebook if self.legacy else self.beta * commitment + codebook
        straight_through = z + lax.stop_gradient(zq - z)
        return Quantized(straight_through, ids, loss, {})

    def lookup(self, ids: Int[Array, "*b"]) -> Float[Array, "*b c"]:
        """The entries of ids in [0, n)."""
        return jnp.take(self.codebook, ids, axis=0, mode="clip")


class EMAVectorQuantizer(VectorQuantizer):
    """A codebook that follows the latents by exponential moving averages (van den Oord et al. 2017, appendix A.1).

    Learns much faster than by gradient, and lets no code lie idle: one that is used less than `restart_below` times the
    average takes the place of a random latent of the batch. The averages, in collection `ema`, are those of the global
    batch; they move in training only, and `ema_codebook` makes the next codebook of them.
    """

    decay: float = 0.99
    restart_below: float = 0.05

    def setup(self) -> None:
        super().setup()
        if self.is_mutable_collection("ema"):  # training, else the codebook among the parameters is all
            self.count = self.variable("ema", "count", jnp.zeros, (self.n_embed,))
            self.total = self.variable("ema", "total", jnp.zeros, (self.n_embed, self.embed_dim))

    def __call__(self, z: Latents, *, train: bool = False, temperature: Temperature = 1.0) -> Quantized:
        z = z.astype(jnp.float32)
        ids = nearest(lax.stop_gradient(z), self.codebook)
        zq = lax.stop_gradient(self.lookup(ids))
        if train and self.is_mutable_collection("ema") and not self.is_initializing():
            self._follow(lax.stop_gradient(z).reshape(-1, self.embed_dim), ids.reshape(-1))
        loss = self.beta * jnp.mean((zq - z) ** 2)
        straight_through = z + lax.stop_gradient(zq - z)
        return Quantized(straight_through, ids, loss, {})

    def _follow(self, latents: Float[Array, "m c"], ids: Int[Array, " m"]) -> None:
        """Move the averages, and give idle codes a new place."""
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


def ema_codebook(averages: dict[str, Array]) -> Float[Array, "n c"]:
    """The codebook of the collection `ema`, counts smoothed so that none is zero (Laplace)."""
    count, smoothing = averages["count"], 1e-5
    smoothed = (count + smoothing) / (1 + count.size * smoothing / jnp.sum(count))
    return averages["total"] / smoothed[:, None]


class NormalizedQuantizer(VectorQuantizer):
    """Codes and latents of length 1, so that the nearest code is that of the smallest angle (Yu et al. 2022, arXiv
    2110.04627, section 3.2); made for few channels.

    The loss is that of codes and commitment, the latter times `beta`, and `entropy_weight` times the entropy of each
    latent's choice less that of the average choice (Yu et al. 2024, arXiv 2310.05737, section 3.1), where choices are a
    softmax over codes at the temperature of 0.01. Arithmetic in float32.
    """

    entropy_weight: float = 0.0

    def setup(self) -> None:
        def uniform(key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "n c"]:
            return unit_length(jax.random.uniform(key, shape, jnp.float32, -1.0, 1.0))

        self.codebook = self.param("codebook", uniform, (self.n_embed, self.embed_dim))

    def __call__(self, z: Latents, *, train: bool = False, temperature: Temperature = 1.0) -> Quantized:
        z, codes = unit_length(z.astype(jnp.float32)), unit_length(self.codebook)
        ids = nearest(lax.stop_gradient(z), lax.stop_gradient(codes))
        zq = jnp.take(codes, ids, axis=0, mode="clip")
        metrics = {"codebook_loss": jnp.mean((zq - lax.stop_gradient(z)) ** 2)}
        metrics["commit_loss"] = self.beta * jnp.mean((lax.stop_gradient(zq) - z) ** 2)
        loss = metrics["codebook_loss"] + metrics["commit_loss"]
        if self.entropy_weight:
            metrics["entropy_loss"] = self.entropy_weight * choice_entropy(z, codes)
            loss = loss + metrics["entropy_loss"]
        return Quantized(z + lax.stop_gradient(zq - z), ids, loss, metrics)

    def lookup(self, ids: Int[Array, "*b"]) -> Float[Array, "*b c"]:
        """The entries of ids in [0, n)."""
        return jnp.take(unit_length(self.codebook), ids, axis=0, mode="clip")


def unit_length(x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    """Vectors divided by their length; one of length zero stays, with a gradient of zero."""
    squares = jnp.sum(x**2, axis=-1, keepdims=True)
    safe = jnp.where(squares > 0, squares, 1.0)
    return x / jnp.maximum(jnp.sqrt(safe), 1e-12)


def choice_entropy(z: Float[Array, "*b c"], codes: Float[Array, "n c"], temperature: float = 0.01) -> Float[Array, ""]:
    """Mean entropy of each latent's choice among the codes less the entropy of the mean choice, in nats."""
    z = z.reshape(-1, z.shape[-1])
    dots = jnp.einsum("mc,nc->mn", z, codes, precision=lax.Precision.HIGHEST)
    distances = jnp.sum(z**2, axis=1, keepdims=True) + jnp.sum(codes**2, axis=1)[None] - 2 * dots
    logits = -distances / temperature
    choice = jax.nn.softmax(logits)
    average = jnp.mean(choice, axis=0)
    each = -jnp.mean(jnp.sum(choice * jax.nn.log_softmax(logits), axis=1))
    return each + jnp.sum(average * jnp.log(average + 1e-5))


class GumbelQuantizer(nn.Module):
    """Codes as the classes of a categorical latent (Gumbel-softmax: Jang et al. 2017, Maddison et al. 2017).

    A 1x1 convolution gives a logit for each code. In training a code is drawn by adding Gumbel noise, and the gradient
    is that of the softmax at `temperature`; otherwise it is the code of the largest logit, without noise. The loss is
    `kl_weight` times the divergence of the code's distribution from the uniform one. Arithmetic in float32.
    """

    n_embed: int
    embed_dim: int
    kl_weight: float = 5e-4

    def setup(self) -> None:
        self.proj = nn.Conv(self.n_embed, (1, 1))
        self.codebook = self.param("codebook", nn.initializers.normal(1.0), (self.n_embed, self.embed_dim))

    def __call__(self, z: Latents, *, train: bool = False, temperature: Temperature = 1.0) -> Quantized:
        logits = self.logits(z)
        probabilities = jax.nn.softmax(logits)
        divergence = jnp.mean(jnp.sum(probabilities * jnp.log(probabilities * self.n_embed + 1e-10), axis=-1))
        metrics = {"kl": divergence}
        loss = self.kl_weight * divergence
        if not train:
            ids = argmax(logits)
            return Quantized(self.lookup(ids), ids, loss, metrics)
        noise = jax.random.gumbel(self.make_rng("quantize"), logits.shape)
        soft = jax.nn.softmax((logits + noise) / temperature)
        ids = argmax(soft)
        hard = soft + lax.stop_gradient(jax.nn.one_hot(ids, self.n_embed) - soft)
        metrics["temperature"] = jnp.asarray(temperature, jnp.float32)
        return Quantized(jnp.einsum("bhwn,nc->bhwc", hard, self.codebook), ids, loss, metrics)

    def logits(self, z: Latents) -> Float[Array, "*grid n"]:
        """Of each code, float32."""
        return self.proj(z.astype(jnp.float32))

    def lookup(self, ids: Int[Array, "*b"]) -> Float[Array, "*b c"]:
        """The entries of ids in [0, n)."""
        return jnp.take(self.codebook, ids, axis=0, mode="clip")


UNKNOWN = ("random", "extra")


@dataclass(frozen=True)
class Remap:
    """Ids of a large codebook to the places of those in use, and back.

    used: the codes in use, without repetition. unknown: where another code goes: "random" to a used one at random,
    "extra" to an id of its own after the others, or the number of a place.
    """

    used: tuple[int, ...]
    unknown: str = "random"

    def __post_init__(self) -> None:
        if len(set(self.used)) != len(self.used) or min(self.used, default=0) < 0:
            raise ValueError("remap must hold codes, each once and none negative.")
        if self.unknown not in UNKNOWN and not (self.unknown.isdigit() and int(self.unknown) < len(self.used)):
            raise ValueError(
                f"unknown={self.unknown!r}, but it must be 'random', 'extra' or the number of a place below "
                f"{len(self.used)}."
            )

    @property
    def size(self) -> int:
        """Ids after the map."""
        return len(self.used) + (self.unknown == "extra")

    def forward(self, ids: Int[Array, "*b"], n_embed: int, key: Key[Array, ""]) -> Int[Array, "*b"]:
        """ids in [0, n_embed) -> in [0, size). The key is for unknown codes that go to random places."""
        used = np.asarray(self.used, np.int32)
        table = np.full(n_embed, -1, np.int32)
        table[used] = np.arange(len(used))
        places = jnp.asarray(table)[ids]
        if self.unknown == "random":
            other = jax.random.randint(key, ids.shape, 0, len(used))
        else:
            other = jnp.full(ids.shape, len(used) if self.unknown == "extra" else int(self.unknown))
        return jnp.where(places < 0, other, places).astype(jnp.int32)

    def backward(self, ids: Int[Array, "*b"]) -> Int[Array, "*b"]:
        """ids in [0, size) -> codes; the extra id, which stands for no code, becomes the first used one."""
        used = jnp.asarray(self.used, jnp.int32)
        return used[jnp.where(ids < len(self.used), ids, 0)]


QUANTIZERS: dict[str, Any] = {
    "vq": VectorQuantizer,
    "ema": EMAVectorQuantizer,
    "gumbel": GumbelQuantizer,
    "normalized": NormalizedQuantizer,
}
