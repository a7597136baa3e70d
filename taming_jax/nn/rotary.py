"""Positions in two dimensions as rotations of queries and keys (RoFormer, arXiv 2104.09864, along rows and columns)."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Turns = Float[Array, "2 *b l p"]  # cosine and sine of each pair of channels at each position, of each image or all


def rotary_turns(places: Float[np.ndarray, "l 2"], width: int, base: float) -> Float[np.ndarray, "2 l p"]:
    """Cosine and sine for heads of `width` channels, a multiple of 4: the first half of a head's pairs turns with the
    row, the second with the column, ever more slowly. Both are zero where a position has no place: what stands there
    is seen by all alike."""
    half = width // 2
    rates = base ** -(np.arange(0, half, 2) / half)
    angles = (places[:, :, None] * rates).reshape(len(places), half)
    turns = np.stack([np.cos(angles), np.sin(angles)])
    return np.nan_to_num(turns, nan=0.0).astype(np.float32)


def rotate(x: Float[Array, "b l heads c"], turns: Turns) -> Float[Array, "b l heads c"]:
    """Turn each pair of neighbouring channels; computed in float32, in the type of x."""
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    turns = turns if turns.ndim == 4 else turns[:, None]
    cosine, sine = turns[..., None, :]  # (b or 1, l, 1, p)
    a, b = pairs[..., 0], pairs[..., 1]
    turned = jnp.stack([a * cosine - b * sine, b * cosine + a * sine], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)
