"""Terms beside a cross-entropy of tokens: logits in, float32 scalars out."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Scalar = Float[Array, ""]


def even_cross_entropy(
    logits: Float[Array, "b l m"], n: int | None = None, weights: Float[Array, "b l"] | float = 1.0
) -> Scalar:
    """Mean cross-entropy in nats with targets that are spread evenly over the first n ids; None: over all. weights: of
    each token."""
    logits = logits.astype(jnp.float32)
    return jnp.mean((jax.nn.logsumexp(logits, axis=-1) - jnp.mean(logits[..., :n], axis=-1)) * weights)


def squared_log_partition(logits: Float[Array, "b l m"], weights: Float[Array, "b l"] | float = 1.0) -> Scalar:
    """Mean square of the logarithm of what a softmax divides by. weights: of each token."""
    return jnp.mean(jnp.square(jax.nn.logsumexp(logits.astype(jnp.float32), axis=-1)) * weights)
