"""Quantizers: continuous latents to the nearest entries of a learned codebook.

Every quantizer is called as `quantizer(z, train=..., temperature=...) -> Quantized` and decodes ids by `lookup`. One
that draws noise takes it from the rng stream `quantize`; one that keeps running statistics keeps them in the collection
`ema`. Only the Gumbel quantizer uses the temperature.
"""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Int, Key

from taming_jax.nn.codes import (
    ESTIMATORS,
    Latents,
    Quantized,
    Temperature,
    choice_entropy,
    count_codes,
    entropy_of_choices,
    nearest,
    unit_length,
)
from taming_jax.nn.conv import conv1x1
from taming_jax.nn.extremes import argmax
from taming_jax.nn.lookup_free import BinarySphericalQuantizer, FiniteScalarQuantizer, LookupFreeQuantizer


class VectorQuantizer(nn.Module):
    """Nearest code with a straight-through gradient (van den Oord et al. 2017; Esser et al. 2021, equations 2 and 4).

    The loss is commitment `|sg[z_q] - z|^2` and codebook `|z_q - sg[z]|^2`, averaged. The paper weights the commitment
    by `beta`; the authors' program by default (`legacy`) weights the other term. Arithmetic in float32.

    estimator: how the gradient gets past the rounding, a name in ESTIMATORS. restart_below: above 0, a code that is
    used less than this share of the average, over steps as `decay` forgets them, is to take the place of a latent.
    Before the first step none counts as used, so that a new table begins on latents of the first batch. The uses and
    the candidates are in collection `ema`; `training.codebook` moves the codes, with what the optimizer knows of them.
    """

    n_embed: int
    embed_dim: int
    beta: float = 0.25
    legacy: bool = True
    estimator: str = "straight"
    restart_below: float = 0.0
    decay: float = 0.99

    def setup(self) -> None:
        def uniform(key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "n c"]:
            return jax.random.uniform(key, shape, jnp.float32, -1 / self.n_embed, 1 / self.n_embed)

        self.codebook = self.param("codebook", uniform, (self.n_embed, self.embed_dim))
        self._setup_watch()

    def __call__(self, z: Latents, *, train: bool = False, temperature: Temperature = 1.0) -> Quantized:
        z, codes = self.measured(z.astype(jnp.float32)), self.codes()
        ids = nearest(lax.stop_gradient(z), lax.stop_gradient(codes))
        if train:
            self._watch(z, ids)
        zq = self.lookup(ids)
        commitment = jnp.mean((lax.stop_gradient(zq) - z) ** 2)
        codebook = jnp.mean((zq - lax.stop_gradient(z)) ** 2)
        loss = commitment + self.beta * codebook if self.legacy else self.beta * commitment + codebook
        return Quantized(ESTIMATORS[self.estimator](z, zq), ids, loss, {})

    def measured(self, z: Latents) -> Latents:
        """Latents as they are compared with the codes."""
        return z

    def codes(self) -> Float[Array, "n c"]:
        """All codes."""
        return self.codebook

    def lookup(self, ids: Int[Array, "*b"]) -> Float[Array, "*b c"]:
        """The entries of ids in [0, n)."""
        return jnp.take(self.codes(), ids, axis=0, mode="clip")

    def _setup_watch(self) -> None:
        if self.restart_below and self.is_mutable_collection("ema"):
            self.count = self.variable("ema", "count", jnp.zeros, (self.n_embed,))
            self.candidates = self.variable("ema", "candidates", jnp.zeros, (self.n_embed, self.embed_dim))

    def _watch(self, z: Latents, ids: Int[Array, "*grid"]) -> None:
        """Move the count of uses, and note latents of this very batch that idle codes could become."""
        if not self.restart_below or not self.is_mutable_collection("ema") or self.is_initializing():
            return
        latents = lax.stop_gradient(z).reshape(-1, self.embed_dim)
        self.count.value = self.count.value + (1 - self.decay) * (count_codes(ids, self.n_embed) - self.count.value)
        # Each latent once before any is taken twice. The same key and the same global batch on all replicas.
        order = jax.random.permutation(self.make_rng("quantize"), latents.shape[0])
        self.candidates.value = latents[jnp.resize(order, (self.n_embed,))]


class EMAVectorQuantizer(VectorQuantizer):
    """A codebook that follows the latents by exponential moving averages (van den Oord et al. 2017, appendix A.1).

    Learns much faster than by gradient, and lets no code lie idle: one that is used less than `restart_below` times the
    average takes the place of a random latent of the batch. The averages, in collection `ema`, are those of the global
    batch; they move in training only, and `ema_codebook` makes the next codebook of them.
    """

    restart_below: float = 0.05

    def _setup_watch(self) -> None:
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
        return Quantized(ESTIMATORS[self.estimator](z, zq), ids, loss, {})

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
    latent's choice, times `entropy_sample`, less that of the average choice, times `entropy_batch` (Yu et al. 2024,
    arXiv 2310.05737, section 3.1), where choices are a softmax over codes at `entropy_temperature`. Arithmetic in
    float32.
    """

    entropy_weight: float = 0.0
    entropy_temperature: float = 0.01
    entropy_sample: float = 1.0
    entropy_batch: float = 1.0

    def setup(self) -> None:
        def uniform(key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "n c"]:
            return unit_length(jax.random.uniform(key, shape, jnp.float32, -1.0, 1.0))

        self.codebook = self.param("codebook", uniform, (self.n_embed, self.embed_dim))
        self._setup_watch()

    def measured(self, z: Latents) -> Latents:
        return unit_length(z)

    def codes(self) -> Float[Array, "n c"]:
        return unit_length(self.codebook)

    def __call__(self, z: Latents, *, train: bool = False, temperature: Temperature = 1.0) -> Quantized:
        z, codes = self.measured(z.astype(jnp.float32)), self.codes()
        ids = nearest(lax.stop_gradient(z), lax.stop_gradient(codes))
        if train:
            self._watch(z, ids)
        zq = jnp.take(codes, ids, axis=0, mode="clip")
        metrics = {"codebook_loss": jnp.mean((zq - lax.stop_gradient(z)) ** 2)}
        metrics["commit_loss"] = self.beta * jnp.mean((lax.stop_gradient(zq) - z) ** 2)
        loss = metrics["codebook_loss"] + metrics["commit_loss"]
        if self.entropy_weight:
            terms = (self.entropy_temperature, self.entropy_sample, self.entropy_batch)
            metrics["entropy_loss"] = self.entropy_weight * choice_entropy(z, codes, *terms)
            loss = loss + metrics["entropy_loss"]
        return Quantized(ESTIMATORS[self.estimator](z, zq), ids, loss, metrics)


class LinearQuantizer(VectorQuantizer):
    """A codebook that is drawn once from a normal distribution and never moves, seen through a linear map that is
    learned (SimVQ: Zhu et al. 2024, arXiv 2411.02038, section 3.3).

    Every step moves all codes together, the idle ones too. The loss is VectorQuantizer's, but that `beta` weights the
    commitment, as in the authors' configurations. As in their program the map has a bias, so that the codes need not
    lie around zero where the latents do not.
    """

    legacy: bool = False

    def setup(self) -> None:
        normal = nn.initializers.normal(self.embed_dim**-0.5)
        self.codebook = self.param("codebook", normal, (self.n_embed, self.embed_dim))

        def uniform(key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
            bound = self.embed_dim**-0.5  # as PyTorch starts a linear map
            return jax.random.uniform(key, shape, jnp.float32, -bound, bound)

        self.proj = self.param("proj", uniform, (self.embed_dim, self.embed_dim))
        self.bias = self.param("bias", uniform, (self.embed_dim,))

    def codes(self) -> Float[Array, "n c"]:
        fixed = lax.stop_gradient(self.codebook)
        return jnp.matmul(fixed, self.proj, precision=lax.Precision.HIGHEST) + self.bias[None]


class IndexQuantizer(VectorQuantizer):
    """The code of the largest scalar product with the latent, with a gradient to all codes by the softmax of these
    products (IBQ, index back-propagation: Shi et al. 2024, arXiv 2412.02692, section 3.2).

    The loss is VectorQuantizer's, beside the squared difference of latents and what is decoded, which moves all codes
    too, and `entropy_weight` times the entropy of each latent's choice, times `entropy_sample`, less that of the
    average choice, times `entropy_batch`; a choice is a softmax of the products over `entropy_temperature`.
    """

    entropy_weight: float = 0.0
    entropy_temperature: float = 0.01
    entropy_sample: float = 1.0
    entropy_batch: float = 1.0

    def setup(self) -> None:
        # Codes near each other would pass no gradient on: that of the soft choice is their covariance under it.
        self.codebook = self.param("codebook", nn.initializers.normal(1.0), (self.n_embed, self.embed_dim))

    def __call__(self, z: Latents, *, train: bool = False, temperature: Temperature = 1.0) -> Quantized:
        grid, codes, high = z.shape[:-1], self.codes(), lax.Precision.HIGHEST
        z = z.astype(jnp.float32).reshape(-1, self.embed_dim)  # as one matrix a step takes CPUs half of the time
        logits = jnp.matmul(z, codes.T, precision=high)
        ids = argmax(lax.stop_gradient(logits))
        entries = self.lookup(ids)
        # The soft choice adds nothing but its gradient, to the products alone; the entry's is that of a hard choice.
        soft = jnp.matmul(jax.nn.softmax(logits), lax.stop_gradient(codes), precision=high)
        zq = entries + (soft - lax.stop_gradient(soft))
        commitment = jnp.mean((lax.stop_gradient(entries) - z) ** 2)
        codebook = jnp.mean((entries - lax.stop_gradient(z)) ** 2)
        terms = commitment + self.beta * codebook if self.legacy else self.beta * commitment + codebook
        metrics: dict[str, Float[Array, ""]] = {}
        loss = jnp.mean((zq - z) ** 2) + terms
        if self.entropy_weight:
            choices = (logits / self.entropy_temperature, self.entropy_sample, self.entropy_batch)
            metrics["entropy_loss"] = self.entropy_weight * entropy_of_choices(*choices)
            loss = loss + metrics["entropy_loss"]
        return Quantized(zq.reshape(*grid, self.embed_dim), ids.reshape(grid), loss, metrics)


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
        self.proj = conv1x1(self.n_embed)
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
    "fsq": FiniteScalarQuantizer,
    "lfq": LookupFreeQuantizer,
    "bsq": BinarySphericalQuantizer,
    "simvq": LinearQuantizer,
    "ibq": IndexQuantizer,
}
