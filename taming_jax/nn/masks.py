"""Which positions of a sequence see which others in attention: small static values that layers take."""

import dataclasses
from typing import Protocol

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

Position = Int[Array, ""] | int


class Mask(Protocol):
    """What an attention layer asks of a mask.

    Attributes:
      causal: True where each position sees exactly itself and all before it, which fused kernels know by themselves.
    """

    @property
    def causal(self) -> bool: ...

    def visible(self, start: Position, queries: int, keys: int) -> Bool[Array, "1 1 {queries} {keys}"]:
        """Which keys each query sees.

        Args:
          start: the position of the first query. The queries are the positions from there on.
          queries: how many.
          keys: how many keys there are, of the positions from 0 on. Those from `start + queries` on are room that
            nothing has been written to yet, and no query sees them.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Causal:
    """Each position sees itself and those before it; the first `free` positions also see one another."""

    free: int = 0

    @property
    def causal(self) -> bool:
        return self.free == 0

    def visible(self, start: Position, queries: int, keys: int) -> Bool[Array, "1 1 {queries} {keys}"]:
        query, key = _positions(start, queries, keys)
        mask = key <= query
        if self.free:
            mask |= (query < self.free) & (key < self.free)
        return mask[None, None]


@dataclasses.dataclass(frozen=True)
class Full:
    """Each position sees all, as in MaskGIT (arXiv 2202.04200)."""

    causal = False

    def visible(self, start: Position, queries: int, keys: int) -> Bool[Array, "1 1 {queries} {keys}"]:
        _, key = _positions(start, queries, keys)
        return jnp.broadcast_to(key < start + queries, (1, 1, queries, keys))


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Positions come in blocks of these sizes, and each sees its own block and all before it, as the scales of VAR do
    (arXiv 2404.02905, section 3.2). A cache is given whole blocks.

    Raises ValueError for a block of no positions.
    """

    sizes: tuple[int, ...]

    causal = False

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"blocks of sizes {self.sizes}; expected one or more, of at least one position each.")

    def visible(self, start: Position, queries: int, keys: int) -> Bool[Array, "1 1 {queries} {keys}"]:
        query, key = _positions(start, queries, keys)
        ends = jnp.asarray(np.cumsum(self.sizes))
        # Positions behind the last block are room: as queries they see everything, as keys they are seen by no block.
        end = jnp.take(jnp.append(ends, keys), jnp.searchsorted(ends, query, side="right"))
        return ((key < end) & (key < start + queries))[None, None]


def _positions(start: Position, queries: int, keys: int) -> tuple[Int[Array, "q 1"], Int[Array, "1 k"]]:
    return start + jnp.arange(queries)[:, None], jnp.arange(keys)[None, :]
