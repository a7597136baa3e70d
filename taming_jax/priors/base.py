"""What a prior is: the half of a model that learns and draws an image's tokens under a condition."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from taming_jax.models.gpt import GPT, GPTConfig
from taming_jax.nn.layout import SequenceLayout, TokenLayout
from taming_jax.priors.filters import FILTER_NAMES, Filters, TracedFilters
from taming_jax.settings import check

Metrics = dict[str, Float[Array, ""]]


@dataclasses.dataclass(frozen=True)
class TokenLossConfig:
    """What is added to the mean cross-entropy of the image tokens.

    label_smoothing: share of each target that is spread evenly over all codes (Szegedy et al. 2015, arXiv 1512.00567,
    section 7). z_loss: weight of the squared logarithm of the sum that the softmax divides by, such as 1e-4, which
    keeps logits from drifting (Chowdhery et al. 2022, arXiv 2204.02311, section 5).
    """

    label_smoothing: float = 0.0
    z_loss: float = 0.0

    def __post_init__(self) -> None:
        check(self, "label_smoothing", 0 <= self.label_smoothing < 1, "it is a share in [0, 1)")
        check(self, "z_loss", self.z_loss >= 0, "it must not be negative")


@dataclasses.dataclass(frozen=True)
class Sequences:
    """What a prior learns: the tokens of an image, after those of its condition.

    Attributes:
      tokens: the image's.
      n_codes: ids that an image token can take.
      conditions: tokens of a condition.
      condition_ids: ids that these can take.
      condition_grid: rows and columns of these, where they have places.
      condition_dropout: share of training images whose condition is hidden, for classifier-free guidance (arXiv
        2207.12598).
    """

    tokens: TokenLayout
    n_codes: int
    conditions: int
    condition_ids: int
    condition_grid: tuple[int, int] | None = None
    condition_dropout: float = 0.0

    @property
    def hidden_token(self) -> int:
        """The id that stands at every place of a hidden condition: the first that the condition itself never uses."""
        return self.condition_ids

    @property
    def layout(self) -> SequenceLayout:
        """What stands where in a whole sequence."""
        return self.tokens.after(self.conditions, self.condition_grid)

    def window_layout(self, conditions: int, spatial: bool, window: tuple[int, int]) -> SequenceLayout:
        """What stands where in a window (h, w) of a larger grid, counted from its own corner: after `conditions` tokens
        of a map of the window's size, or of the same condition for all windows."""
        return TokenLayout(window, self.tokens.order).after(conditions, window if spatial else None)

    @property
    def words(self) -> str:
        """How many tokens of which kind, for errors."""
        shape = " x ".join(map(str, self.tokens.shape))
        return f"{self.conditions} condition and {self.tokens.length} image tokens ({shape})"

    def hide(self, key: Key[Array, ""], condition: Int[Array, "b ..."]) -> Int[Array, "b ..."]:
        """Hide the condition of a share of `condition_dropout` of the images."""
        if not self.condition_dropout:
            return condition
        images = (len(condition), *[1] * (condition.ndim - 1))
        hidden = jax.random.bernoulli(key, self.condition_dropout, images)
        return jnp.where(hidden, self.hidden_token, condition)


@struct.dataclass
class Job:
    """What to draw, as one argument of a compiled program.

    condition: (b, h, w) where its tokens have places.
    given: ids that stand where keep is True, (b, h, w), or (b, l) where there is no grid; the rest is drawn.
    key, and numbers: the seed, and which image of its series each one is. A token's key is its image's
    folded with its place on the grid, so neither the batch nor the order of drawing matters.
    """

    condition: Int[Array, "b k"] | Int[Array, "b h w"]
    given: Int[Array, " b *places"]
    keep: Bool[Array, " b *places"]
    key: Key[Array, ""]
    numbers: Int[Array, " b"]
    filters: TracedFilters


class Prior(Protocol):
    """A way to learn and draw the tokens of images. Static, so that compiled functions can close over it: parameters
    are arguments. A new one is a class with these members, and an entry of `PRIORS`.

    It raises ValueError where its parts do not fit.

    Attributes:
      measures: the names of what `evaluate` tells, lower being better.
      follows: the filters that drawing follows; others are refused.
      completes: which tokens may be given: "before", those that come first in the order of drawing are heeded by all
        that are drawn, others only by what comes later; "anywhere", all are heeded by all.
      any_size: whether a sliding window can draw grids of another size than that of training.
      likelihood: whether `log_likelihood` can be asked for.
    """

    measures: ClassVar[tuple[str, ...]]
    follows: ClassVar[tuple[str, ...]]
    completes: ClassVar[Literal["before", "anywhere"]]
    any_size: ClassVar[bool]
    likelihood: ClassVar[bool]

    def __init__(self, gpt: GPT, sequences: Sequences, pkeep: float) -> None: ...

    @property
    def gpt(self) -> GPT: ...

    @property
    def sequences(self) -> Sequences: ...

    @staticmethod
    def sizes(config: GPTConfig, sequences: Sequences) -> Mapping[str, int]:
        """The least vocab_size, block_size and condition_size of a transformer for these sequences; 0 where it has no
        such table."""
        ...

    def steps(self, filters: Filters) -> int:
        """Steps in which images are drawn, however many."""
        ...

    def init(self, key: Key[Array, ""]) -> Any:
        """Fresh parameters."""
        ...

    def loss(
        self,
        params: Any,
        condition: Int[Array, "b ..."],
        ids: Int[Array, " b *shape"],
        settings: TokenLossConfig,
        *,
        key: Key[Array, ""],
        step: Int[Array, ""],
    ) -> tuple[Float[Array, ""], Metrics]:
        """(what is trained on, metrics beside it), of image tokens that all come with a condition.

        Args:
          key: of all that is random: dropout, what is hidden, masks.
          step: of the training, for what changes with it.
        """
        ...

    def evaluate(
        self, params: Any, condition: Int[Array, "b ..."], ids: Int[Array, " b *shape"]
    ) -> dict[str, Float[Array, " b"]]:
        """What `measures` names, of each image."""
        ...

    def traced(self, filters: Filters) -> TracedFilters:
        """Filters as `sample` takes them."""
        ...

    def sample(self, params: Any, job: Job) -> Int[Array, " b *shape"]:
        """Draw ids of the training's size; to be compiled."""
        ...

    def log_likelihood(
        self, params: Any, condition: Int[Array, "b ..."], ids: Int[Array, " b *shape"]
    ) -> Float[Array, " b"]:
        """The natural logarithm of the probability of ids under their condition, where there is `likelihood`."""
        ...


AS_IT_IS = Filters()  # of which each field is off
ONE_BY_ONE = tuple(name for name in FILTER_NAMES if name not in ("steps", "choice_temperature"))


def check_filters(prior: Prior, kind: str, filters: Filters) -> None:
    """Raises ValueError for a filter that drawing does not follow. kind: the prior's name."""
    for name in FILTER_NAMES:
        given = getattr(filters, name)
        if name not in prior.follows and given != getattr(AS_IT_IS, name):
            raise ValueError(f"{name}={given} says nothing to config.prior={kind!r}; leave it out.")


def traced_for(prior: Prior, filters: Filters, grid: tuple[int, ...]) -> TracedFilters:
    """Filters for images of a grid: as the prior draws those of its training's, elsewhere as a window slides, row by
    row."""
    if grid == prior.sequences.tokens.grid:
        return prior.traced(filters)
    return filters.traced(np.arange(math.prod(grid)))


def seen_conditions(job: Job, hidden_token: int) -> Int[Array, "b ..."]:
    """The conditions of the sequences to read: those of the job (b, ...); with guidance each followed by the same one
    hidden (2 b, ...), so that both stay on one device."""
    if job.filters.guidance is None:
        return job.condition
    both = jnp.stack([job.condition, jnp.full_like(job.condition, hidden_token)], axis=1)
    return both.reshape(-1, *job.condition.shape[1:])
