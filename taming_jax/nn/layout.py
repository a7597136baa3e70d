"""What stands where in a sequence of tokens: the condition's first, then the image's in the order of drawing."""

import dataclasses
import functools
import math

import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from taming_jax.nn import orders


@dataclasses.dataclass(frozen=True)
class SequenceLayout:
    """The places of a whole sequence.

    Attributes:
      conditions: how many of the first tokens are the condition's.
      places: row and column of each token, float32; NaN where it has none.
    """

    conditions: int
    places: Float[np.ndarray, "l 2"]


@dataclasses.dataclass(frozen=True)
class TokenLayout:
    """The tokens of an image: how many there are, where each stands, and in which order they are drawn.

    Attributes:
      shape: of an image's ids, (rows, columns); or (tokens,) where a token has no place in the image, as those of TiTok
        (arXiv 2406.07550). Such a line counts as one row.
      order: a name of `orders.ORDERS`.

    Raises ValueError for an unknown order, or one that cannot walk this grid.
    """

    shape: tuple[int, ...]
    order: str = "row_major"

    def __post_init__(self) -> None:
        if len(self.shape) not in (1, 2) or min(self.shape) < 1:
            raise ValueError(f"tokens of shape {self.shape}; expected (rows, columns) or (tokens,), each at least 1.")
        _walk(self.order, *self.grid)  # refuses an unknown name or a grid that the order cannot walk

    @property
    def length(self) -> int:
        """How many tokens."""
        return math.prod(self.shape)

    @property
    def spatial(self) -> bool:
        """Whether a token stands for a part of the image, so that a mask of pixels is one of tokens."""
        return len(self.shape) == 2

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns."""
        return (self.shape[0], self.shape[1]) if self.spatial else (1, self.shape[0])

    @property
    def walk(self) -> Int[np.ndarray, " l"]:
        """Which token, counted in row-major order, is drawn at each step."""
        return _walk(self.order, *self.grid)

    @property
    def steps(self) -> Int[np.ndarray, " *shape"]:
        """The step in which each token is drawn, where one is drawn after the other."""
        return orders.inverse(self.walk).reshape(self.shape)

    def to_sequence(self, ids: Shaped[Array, " b *shape"]) -> Shaped[Array, "b l"]:
        """What belongs to each token, in the order of drawing."""
        return ids.reshape(ids.shape[0], -1)[:, self.walk]

    def to_ids(self, sequence: Shaped[Array, "b l"]) -> Shaped[Array, " b *shape"]:
        """The way back from `to_sequence`."""
        return sequence[:, orders.inverse(self.walk)].reshape(sequence.shape[0], *self.shape)

    def after(self, conditions: int, condition_grid: tuple[int, int] | None = None) -> SequenceLayout:
        """The sequence of `conditions` tokens, which stand on a grid of their own or have no places, and these.

        The image's tokens have their rows and columns. A condition's map lies above the image, its last row at -1. A
        single token, as a class is, has no place. Several without places lead up to the image on the diagonal: -3, -2,
        -1.
        """
        return _sequence(self, conditions, condition_grid)


@functools.lru_cache(maxsize=64)
def _walk(name: str, h: int, w: int) -> Int[np.ndarray, " l"]:
    return orders.order(name, h, w)


@functools.lru_cache(maxsize=64)
def _sequence(tokens: TokenLayout, conditions: int, condition_grid: tuple[int, int] | None) -> SequenceLayout:
    image = np.stack(np.divmod(tokens.walk, tokens.grid[1]), axis=1)
    if condition_grid is not None:
        rows, columns = np.divmod(np.arange(conditions), condition_grid[1])
        before = np.stack([rows - condition_grid[0], columns], axis=1)
    elif conditions == 1:
        before = np.full((1, 2), np.nan)
    else:
        before = np.repeat(np.arange(-conditions, 0)[:, None], 2, axis=1)
    return SequenceLayout(conditions, np.concatenate([before, image]).astype(np.float32))
