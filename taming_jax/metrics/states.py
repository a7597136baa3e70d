"""What is measured batch by batch: states that merge, and compute their figures at the end."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array
from jaxtyping import Float, Shaped

from taming_jax.metrics.codebook import perplexity, usage


@struct.dataclass
class FirstStageMetrics:
    """Of images that a first stage has read."""

    n: Float[Array, ""]  # images
    sums: dict[str, Float[Array, ""]]  # of a measure over the images
    code_counts: Shaped[Array, " codes"]  # how often each code was chosen

    @classmethod
    def of(
        cls, measured: Mapping[str, Array], valid: Float[Array, " b"], code_counts: Shaped[Array, " codes"]
    ) -> "FirstStageMetrics":
        """Measures of each image, (b,), of which those count where `valid` is above 0."""
        sums = {name: jnp.sum(jnp.where(valid > 0, values, 0.0)) for name, values in measured.items()}
        return cls(valid.sum(), sums, code_counts)

    def merge(self, other: "FirstStageMetrics") -> "FirstStageMetrics":
        return jax.tree.map(jnp.add, self, other)

    def compute(self) -> dict[str, float]:
        """Means over the images; of the codes usage (share of the codebook that occurs) and perplexity. Empty without
        images."""
        n = float(self.n)
        if n == 0:
            return {}
        means = {name: float(value) / n for name, value in self.sums.items()}
        return {**means, "usage": float(usage(self.code_counts)), "perplexity": float(perplexity(self.code_counts))}


@struct.dataclass
class TokenMetrics:
    """Of images that a second stage has predicted."""

    n: Float[Array, ""] | float = 0.0  # images
    sums: Mapping[str, Float[Array, ""] | float] = struct.field(default_factory=dict)  # of a measure over the images

    @classmethod
    def of(cls, measured: Mapping[str, Array], valid: Float[Array, " b"]) -> "TokenMetrics":
        """Measures of each image, (b,), of which those count where `valid` is 1."""
        return cls(valid.sum(), {name: jnp.sum(values * valid) for name, values in measured.items()})

    def merge(self, other: "TokenMetrics") -> "TokenMetrics":
        """The two together, added up in float64 on the host."""
        names = {**self.sums, **other.sums}
        sums = {name: float(self.sums.get(name, 0)) + float(other.sums.get(name, 0)) for name in names}
        return TokenMetrics(float(self.n) + float(other.n), sums)

    def compute(self) -> dict[str, float]:
        """Means over the images; with nll, nats per token, also bits_per_token. Empty without images."""
        n = float(self.n)
        if n == 0:
            return {}
        means = {name: float(value) / n for name, value in self.sums.items()}
        return {**means, **({"bits_per_token": means["nll"] / math.log(2)} if "nll" in means else {})}
