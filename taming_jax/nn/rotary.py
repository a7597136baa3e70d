"""Positions in two dimensions as rotations of queries and keys (RoFormer, arXiv 2104.09864, along rows and columns)."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Turns = Float[Array, "2 l p"]  # cosine and sine of each pair of channels at each position


@dataclasses.dataclass(frozen=True)
class Layout:
    """What stands where in a sequence: the condition's tokens first, then the image's.

    conditions: how many of the first. places: float32 (l, 2), row and column of each position; NaN where it has none.
    """

    conditions: int
    places: Float[np.ndarray, "l 2"]


def sequence_layout(
    conditions: int, condition_grid: tuple[int, int] | None, grid: tuple[int, int], order: Int[np.ndarray, " l"]
) -> Layout:
    """For `conditions` tokens, on a grid of their own where they have places, and an image's grid walked in `order`.

    The image's tokens have their rows and columns. A condition's map lies above the image, its last row at -1. A single
    token, as a class is, has no place. Several without places lead up to the image on the diagonal: -3, -2, -1.
    """
    image = np.stack(np.divmod(np.asarray(order), grid[1]), axis=1)
    if condition_grid is not None:
        rows, columns = np.divmod(np.arange(conditions), condition_grid[1])
        before = np.stack([rows - condition_grid[0], columns], axis=1)
    elif conditions == 1:
        before = np.full((1, 2), np.nan)
    else:
        before = np.repeat(np.arange(-conditions, 0)[:, None], 2, axis=1)
    return Layout(conditions, np.concatenate([before, image]).astype(np.float32))


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
    cosine, sine = (turn[None, :, None] for turn in turns)  # (1, l, 1, p)
    a, b = pairs[..., 0], pairs[..., 1]
    turned = jnp.stack([a * cosine - b * sine, b * cosine + a * sine], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)
