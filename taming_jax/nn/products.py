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
    (x, y), gradient = factors, gradient.astype(factors[0].dtype)
    # Not jax.vjp, which would write the product itself down once more.
    (of_x,) = jax.linear_transpose(lambda x: lax.dot_general(x, y, dims), x)(gradient)
    (of_y,) = jax.linear_transpose(lambda y: lax.dot_general(x, y, dims), y)(gradient)
    return of_x, of_y


product_in_float32.defvjp(_forward, _backward)
