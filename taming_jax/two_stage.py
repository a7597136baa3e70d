"""VQGAN, condition, token order and GPT as one model: batch to sequence, logits to loss positions, ids to pixels.

`stages` in the functions below are the parameters of the networks that make tokens: {"first_stage": ...} and, for a
condition that is read by a network of its own, "condition_stage".
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, Key

from taming_jax.conditioning import Condition
from taming_jax.models.gpt import GPT, head_of, predicted_parts, prediction_nll
from taming_jax.models.vqgan import VQGAN, network_input
from taming_jax.nn.layout import SequenceLayout, TokenLayout
from taming_jax.nn.lookup_free import splits


@dataclasses.dataclass(frozen=True)
class TwoStage:
    """The static parts; parameters are passed to each function, so it can be closed over by compiled ones.

    grid: (h, w) of the training images' codes. order: a name of `orders.ORDERS`.
    pkeep: share of input image ids kept in training; the others are replaced by random ids, the targets stay.
    condition_dropout: share of training images whose condition is hidden, for classifier-free guidance (arXiv
    2207.12598).
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

    def __post_init__(self) -> None:
        if not 0 <= self.condition_dropout < 1:
            raise ValueError(f"config.condition_dropout={self.condition_dropout}, but it is a share in [0, 1).")
        if self.condition_dropout and not self.condition.keys:
            raise ValueError(
                f"config.condition_dropout={self.condition_dropout}, but there is no condition to hide; set it to 0."
            )
        self._fit_transformer()
        if not 0 < self.pkeep <= 1:
            raise ValueError(f"config.pkeep={self.pkeep}, but it is a share in (0, 1].")
        self.tokens  # noqa: B018  # refuses an unknown order or a grid that it cannot walk

    def _fit_transformer(self) -> None:
        """Fill in the sizes of its tables where they are open, and refuse those that are too small."""
        settings, codes, ids = self.gpt.config, self.n_codes, self.condition.vocabulary
        own, hidden = settings.condition_table, bool(self.condition_dropout)
        if settings.factors:
            self._check_factors()
        if settings.n_unmasked > self.condition.length:
            raise ValueError(
                f"config.transformer.n_unmasked={settings.n_unmasked}, but the condition has {self.condition.length} "
                "token(s): image tokens would see what they are to predict; set it to at most that."
            )
        listed = " in its list of used ones, remap," if self.first_stage.config.remap else ""
        needed = {
            "vocab_size": codes if own else max(codes, ids + hidden),
            "block_size": self.condition.length + self.tokens.length - 1,
            "condition_size": (ids + 1) * own,
        }
        if not all(getattr(settings, name) or not size for name, size in needed.items()):
            sizes = {name: getattr(settings, name) or size for name, size in needed.items()}
            settings = dataclasses.replace(settings, **sizes)  # type: ignore[arg-type]  # all are int
            object.__setattr__(self, "gpt", GPT(settings))  # frozen for everybody else
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
                f"config.transformer.block_size={settings.block_size}, but {self.condition.length} condition and "
                f"{self.tokens.length} image tokens ({self.grid[0]} x {self.grid[1]}) need {needed['block_size']}; set "
                "it to that, or to 0, or use smaller images."
            )

    def _check_factors(self) -> None:
        """Refuse to split ids whose parts would not be groups of channels."""
        first, factors = self.first_stage.config, self.gpt.config.factors
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

    @property
    def n_codes(self) -> int:
        """Ids an image token can take."""
        return self.first_stage.config.n_codes

    @property
    def hidden_token(self) -> int:
        """The id that stands at every place of a hidden condition: the first that the condition itself never uses."""
        return self.condition.vocabulary

    @functools.cached_property
    def tokens(self) -> TokenLayout:
        """The tokens of the training's images."""
        return TokenLayout(self.grid, self.order)

    @property
    def layout(self) -> SequenceLayout:
        """What stands where in a sequence of the training's grid."""
        return self.tokens.after(self.condition.length, self.condition.grid)

    def window_layout(self, conditions: int, spatial: bool, window: tuple[int, int]) -> SequenceLayout:
        """What stands where in a window (h, w) of a larger grid, counted from its own corner: after `conditions` tokens
        of a map of the window's size, or of the same condition for all windows."""
        return TokenLayout(window, self.order).after(conditions, window if spatial else None)

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

    def logits(
        self, params: Any, condition: Int[Array, "b ..."], sequence: Int[Array, "b l"], **options: Any
    ) -> Float[Array, "b l n"]:
        """Condition (b, k), or (b, h, w) with places, and image tokens -> float32: the prediction of
        each image token; of a transformer with `factors`, what its head reads."""
        condition = condition.reshape(condition.shape[0], -1)
        inputs = jnp.concatenate([condition, sequence[:, :-1]], axis=1)  # (b, k + l - 1)
        skip = condition.shape[1] - 1  # nothing is asked of the condition's own places
        return self.gpt.apply({"params": params}, inputs, layout=self.layout, skip=skip, **options)

    def nll(
        self,
        params: Any,
        condition: Int[Array, "b ..."],
        inputs: Int[Array, "b l"],
        targets: Int[Array, "b l"],
        **options: Any,
    ) -> Float[Array, "b l"]:
        """Negative log-likelihood of each target in nats, float32, after the condition and the inputs before it."""
        prediction = self.logits(params, condition, inputs, **options)
        return prediction_nll(predicted_parts(head_of(self.gpt, params), prediction, targets))

    def corrupt(self, key: Key[Array, ""], sequence: Int[Array, "b l"]) -> Int[Array, "b l"]:
        """Replace a share of 1 - pkeep of the tokens by random ids."""
        if self.pkeep == 1:
            return sequence
        key_mask, key_ids = jax.random.split(key)
        keep = jax.random.bernoulli(key_mask, self.pkeep, sequence.shape)
        return jnp.where(keep, sequence, jax.random.randint(key_ids, sequence.shape, 0, self.n_codes))

    def hide(self, key: Key[Array, ""], condition: Int[Array, "b ..."]) -> Int[Array, "b ..."]:
        """Hide the condition of a share of `condition_dropout` of the images."""
        if not self.condition_dropout:
            return condition
        images = (len(condition), *[1] * (condition.ndim - 1))
        hidden = jax.random.bernoulli(key, self.condition_dropout, images)
        return jnp.where(hidden, self.hidden_token, condition)

    def token_nll(
        self,
        params: Any,
        stages: Mapping[str, Any],
        batch: Mapping[str, Array],
        *,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b l"]:
        """Negative log-likelihood of each image token in nats, float32 in sequence order (paper, equation 6); key: see
        `token_parts`."""
        return prediction_nll(self.token_parts(params, stages, batch, key=key))

    def token_parts(
        self,
        params: Any,
        stages: Mapping[str, Any],
        batch: Mapping[str, Array],
        *,
        key: Key[Array, ""] | None = None,
    ) -> list[tuple[Float[Array, "b l _"], Int[Array, "b l"]]]:
        """The prediction of each image token in sequence order, see `models.gpt.predicted_parts`.

        With a key it is training: dropout, `corrupt` and `hide` are on.
        """
        sequence = self.tokens.to_sequence(self.encode(stages, batch))
        condition = self.condition_tokens(stages, batch, sequence.shape[0])
        inputs, options = sequence, {}
        if key is not None:
            key_corrupt, key_dropout, key_hide = jax.random.split(key, 3)
            inputs, condition = self.corrupt(key_corrupt, sequence), self.hide(key_hide, condition)
            options = {"train": True, "rngs": {"dropout": key_dropout}}
        prediction = self.logits(params, condition, inputs, **options)
        return predicted_parts(head_of(self.gpt, params), prediction, sequence)
