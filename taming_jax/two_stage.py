"""VQGAN, condition and prior as one model: batch to tokens, tokens to what is trained on, ids to pixels.

`stages` in the functions below are the parameters of the networks that make tokens: {"first_stage": ...} and, for a
condition that is read by a network of its own, "condition_stage".
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
from jax import Array
from jaxtyping import Float, Int, Key

from taming_jax.conditioning import Condition
from taming_jax.models.gpt import GPT, GPTConfig
from taming_jax.models.vqgan import VQGAN, network_input
from taming_jax.nn.layout import TokenLayout
from taming_jax.nn.lookup_free import splits
from taming_jax.priors import PRIORS
from taming_jax.priors.base import Metrics, Prior, Sequences, TokenLossConfig


@dataclasses.dataclass(frozen=True)
class TwoStage:
    """The static parts; parameters are passed to each function, so it can be closed over by compiled ones.

    grid: (h, w) of the training images' codes. order: a name of `orders.ORDERS`.
    pkeep, condition_dropout: see `priors.autoregressive.Autoregressive` and `priors.base.Sequences`.
    kind: a name of `priors.PRIORS`.
    Where the transformer's vocab_size, block_size or condition_size is 0 it becomes what the other parts need.
    Raises ValueError where the parts do not fit.
    """

    first_stage: VQGAN
    gpt: GPT
    condition: Condition
    grid: tuple[int, int]
    order: str = "row_major"
    pkeep: float = 1.0
    condition_dropout: float = 0.0
    kind: str = "autoregressive"

    def __post_init__(self) -> None:
        if self.kind not in PRIORS:
            raise ValueError(f"config.prior={self.kind!r} is unknown; known: {', '.join(PRIORS)}.")
        if not 0 <= self.condition_dropout < 1:
            raise ValueError(f"config.condition_dropout={self.condition_dropout}, but it is a share in [0, 1).")
        if self.condition_dropout and not self.condition.keys:
            raise ValueError(
                f"config.condition_dropout={self.condition_dropout}, but there is no condition to hide; set it to 0."
            )
        self._check_factors()
        object.__setattr__(self, "gpt", GPT(self._fitted()))  # frozen for everybody else
        _ = self.prior  # which refuses what does not fit

    def _check_factors(self) -> None:
        """Refuse to split ids whose parts would not be groups of channels."""
        factors, first = self.gpt.config.factors, self.first_stage.config
        if not factors:
            return
        given = f"config.transformer.factors={factors}, but"
        if first.remap or not first.channel_levels:
            which = "in its list of used ones, remap," if first.remap else f"of quantizer={first.quantizer!r}"
            raise ValueError(
                f"{given} the first stage's codes {which} are not all combinations of their channels' values, as those "
                "of fsq, lfq and bsq are; set it to ()."
            )
        possible = splits(first.channel_levels)
        if factors not in possible:
            raise ValueError(
                f"{given} the first stage's {first.n_codes} codes, whose channels have {first.channel_levels} values, "
                f"can only be split between two channels: {', '.join(map(str, possible))}, or () for not at all."
            )

    def _fitted(self) -> GPTConfig:
        """The transformer's settings, with the sizes of its tables where they are open; refuses those too small."""
        settings, sequences = self.gpt.config, self.sequences
        codes, ids, hidden = sequences.n_codes, sequences.condition_ids, bool(self.condition_dropout)
        own, needed = settings.condition_table, PRIORS[self.kind].sizes(settings, sequences)
        listed = " in its list of used ones, remap," if self.first_stage.config.remap else ""
        sizes = {name: getattr(settings, name) or size for name, size in needed.items()}
        settings = dataclasses.replace(settings, **sizes)  # type: ignore[arg-type]  # all are int
        one_more = ", one more for a hidden condition" if hidden else ""
        if own and settings.condition_size < ids + hidden:
            raise ValueError(
                f"config.transformer.condition_size={settings.condition_size}, but the condition has {ids} "
                f"ids{one_more}; set it to at least {ids + hidden}, or to 0."
            )
        if settings.vocab_size < needed["vocab_size"]:
            raise ValueError(
                f"config.transformer.vocab_size={settings.vocab_size}, but the first stage has {codes} codes{listed}"
                + ("" if own else f" and the condition {ids} ids{one_more}")
                + f"; set it to at least {needed['vocab_size']}, or to 0."
            )
        if settings.block_size < needed["block_size"]:
            raise ValueError(
                f"config.transformer.block_size={settings.block_size}, but {sequences.words} need "
                f"{needed['block_size']}; set it to that, or to 0, or use smaller images."
            )
        return settings

    @property
    def n_codes(self) -> int:
        """Ids an image token can take."""
        return self.first_stage.config.n_codes

    @property
    def hidden_token(self) -> int:
        """The id that stands at every place of a hidden condition."""
        return self.sequences.hidden_token

    @functools.cached_property
    def tokens(self) -> TokenLayout:
        """The tokens of the training's images."""
        return TokenLayout(self.grid, self.order)

    @functools.cached_property
    def sequences(self) -> Sequences:
        """What the prior learns."""
        return Sequences(
            tokens=self.tokens,
            n_codes=self.n_codes,
            conditions=self.condition.length,
            condition_ids=self.condition.vocabulary,
            condition_grid=self.condition.grid,
            condition_dropout=self.condition_dropout,
        )

    @functools.cached_property
    def prior(self) -> Prior:
        """What learns and draws the tokens."""
        return PRIORS[self.kind](self.gpt, self.sequences, self.pkeep)

    def encode(self, stages: Mapping[str, Any], batch: Mapping[str, Array]) -> Int[Array, "b h w"]:
        """The batch's images, float32 (b, H, W, c) in [-1, 1] -> int32 (b, h, w), nothing flowing back; or the codes
        that it has in their place."""
        if "codes" in batch:
            return batch["codes"]
        images = network_input(self.first_stage.config, batch)
        ids = self.first_stage.apply({"params": stages["first_stage"]}, images, method="encode_ids")
        return jax.lax.stop_gradient(ids)

    def condition_tokens(
        self, stages: Mapping[str, Any], batch: Mapping[str, Array], size: int
    ) -> Int[Array, "{size} ..."]:
        """The condition's tokens of the batch's `size` images, as `Condition.tokens`; or those that it has already."""
        if "condition_codes" in batch:
            return batch["condition_codes"]
        return self.condition.tokens(batch, size, stages)

    def decode(self, stages: Mapping[str, Any], ids: Int[Array, "b h w"]) -> Float[Array, "b H W c"]:
        """Images, float32 in about [-1, 1]."""
        return self.first_stage.apply({"params": stages["first_stage"]}, ids, method="decode_ids")

    def loss(
        self,
        params: Any,
        stages: Mapping[str, Any],
        batch: Mapping[str, Array],
        settings: TokenLossConfig,
        *,
        key: Key[Array, ""],
        step: Int[Array, ""],
    ) -> tuple[Float[Array, ""], Metrics]:
        """(what is trained on, metrics beside it), of a batch; see `Prior.loss`."""
        return self.prior.loss(params, *self.read(stages, batch), settings, key=key, step=step)

    def evaluate(self, params: Any, stages: Mapping[str, Any], batch: Mapping[str, Array]) -> dict[str, Array]:
        """What `prior.measures` names of each image of a batch, float32 (b,)."""
        return self.prior.evaluate(params, *self.read(stages, batch))

    def read(
        self, stages: Mapping[str, Any], batch: Mapping[str, Array]
    ) -> tuple[Int[Array, "b ..."], Int[Array, "b h w"]]:
        """(the condition's tokens, the image's) of a batch."""
        ids = self.encode(stages, batch)
        return self.condition_tokens(stages, batch, len(ids)), ids
