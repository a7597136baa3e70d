"""Products that leave as the float32 in which they are summed up."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def product_in_float32(x: Float[Array, "..."], y: Float[Array, "..."], dims: Any) -> Float[Array, "..."]:
    """`lax.dot_general` of factors of one type, rounded to no lower one than float32.

    Rounded to bfloat16, logits of thousands of codes get equal to others, and scores are off by hundredths. The
    gradient is that of the product in the factors' own type, at its cost.
    """
    return lax.dot_general(x, y, dims, preferred_element_type=jnp.float32)


def _forward(x: Array, y: Array, dims: Any) -> tuple[Array, tuple[Array, Array]]:
    return product_in_float32(x, y, dims), (x, y)


def _backward(dims: Any, factors: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    _, pull_back = jax.vjp(lambda x, y: lax.dot_general(x, y, dims), *factors)
    return pull_back(gradient.astype(factors[0].dtype))


product_in_float32.defvjp(_forward, _backward)
