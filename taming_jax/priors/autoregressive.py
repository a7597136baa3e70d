"""Tokens one after the other, each predicted from the condition and those before it (paper, section 3.2)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from taming_jax.models.gpt import GPT, GPTConfig, head_of, predicted_parts, prediction_nll
from taming_jax.priors.base import ONE_BY_ONE, Job, Metrics, Sequences, TokenLossConfig, seen_conditions
from taming_jax.priors.decode import draw_sequence, token_chooser
from taming_jax.priors.filters import Filters, TracedFilters
from taming_jax.priors.losses import even_cross_entropy, squared_log_partition


@dataclasses.dataclass(frozen=True)
class Autoregressive:
    """The paper's transformer.

    Attributes:
      gpt: the network. sequences: what it learns.
      pkeep: share of input image ids kept in training; the others are replaced by random ids, the targets stay.

    Raises ValueError where these do not fit.
    """

    gpt: GPT
    sequences: Sequences
    pkeep: float = 1.0

    measures: ClassVar[tuple[str, ...]] = ("nll", "bits_per_token")
    completes: ClassVar[Literal["before", "anywhere"]] = "before"
    follows: ClassVar[tuple[str, ...]] = ONE_BY_ONE
    any_size: ClassVar[bool] = True
    likelihood: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.pkeep <= 1:
            raise ValueError(f"config.pkeep={self.pkeep}, but it is a share in (0, 1].")
        settings = self.gpt.config
        if settings.n_unmasked > self.sequences.conditions:
            raise ValueError(
                f"config.transformer.n_unmasked={settings.n_unmasked}, but the condition has "
                f"{self.sequences.conditions} token(s): image tokens would see what they are to predict; set it to at "
                "most that."
            )

    @staticmethod
    def sizes(config: GPTConfig, sequences: Sequences) -> Mapping[str, int]:
        own, codes, ids = config.condition_table, sequences.n_codes, sequences.condition_ids
        return {
            "vocab_size": codes if own else max(codes, ids + bool(sequences.condition_dropout)),
            "block_size": sequences.conditions + sequences.tokens.length - 1,  # nothing follows the last token
            "condition_size": (ids + 1) * own,
        }

    def steps(self, filters: Filters) -> int:
        return self.sequences.tokens.length

    def init(self, key: Key[Array, ""]) -> Any:
        return self.gpt.init(key, jnp.zeros((1, self.sequences.conditions), jnp.int32))["params"]

    def logits(
        self, params: Any, condition: Int[Array, "b ..."], sequence: Int[Array, "b l"], **options: Any
    ) -> Float[Array, "b l n"]:
        """Condition (b, k), or (b, h, w) with places, and image tokens -> float32: the prediction of
        each image token; of a transformer with `factors`, what its head reads."""
        condition = condition.reshape(condition.shape[0], -1)
        inputs = jnp.concatenate([condition, sequence[:, :-1]], axis=1)  # (b, k + l - 1)
        skip = condition.shape[1] - 1  # nothing is asked of the condition's own places
        return self.gpt.apply({"params": params}, inputs, layout=self.sequences.layout, skip=skip, **options)

    def corrupt(self, key: Key[Array, ""], sequence: Int[Array, "b l"]) -> Int[Array, "b l"]:
        """Replace a share of 1 - pkeep of the tokens by random ids."""
        if self.pkeep == 1:
            return sequence
        key_mask, key_ids = jax.random.split(key)
        keep = jax.random.bernoulli(key_mask, self.pkeep, sequence.shape)
        return jnp.where(keep, sequence, jax.random.randint(key_ids, sequence.shape, 0, self.sequences.n_codes))

    def parts(
        self,
        params: Any,
        condition: Int[Array, "b ..."],
        ids: Int[Array, " b *shape"],
        key: Key[Array, ""] | None = None,
    ) -> list[tuple[Float[Array, "b l _"], Int[Array, "b l"]]]:
        """The prediction of each image token in the order of drawing, see `models.gpt.predicted_parts`. With a key
        dropout is on, and inputs are corrupted and conditions hidden, as in training."""
        sequence = self.sequences.tokens.to_sequence(ids)
        inputs, options = sequence, {}
        if key is not None:
            key_corrupt, key_dropout, key_hide = jax.random.split(key, 3)
            inputs, condition = self.corrupt(key_corrupt, sequence), self.sequences.hide(key_hide, condition)
            options = {"train": True, "rngs": {"dropout": key_dropout}}
        prediction = self.logits(params, condition, inputs, **options)
        return predicted_parts(head_of(self.gpt, params), prediction, sequence)

    def token_nll(
        self,
        params: Any,
        condition: Int[Array, "b ..."],
        ids: Int[Array, " b *shape"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b l"]:
        """The negative log-likelihood of each image token in nats, float32 in the order of drawing (paper, equation 6);
        key: see `parts`."""
        return prediction_nll(self.parts(params, condition, ids, key))

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
        """The mean cross-entropy of the image tokens, and what `settings` add to it. Metrics where something was added:
        nll, the cross-entropy alone, and log_partition, what z_loss weights."""
        parts, smoothing = self.parts(params, condition, ids, key), settings.label_smoothing
        loss = nll = prediction_nll(parts).mean()
        metrics = {"nll": nll} if smoothing or settings.z_loss else {}
        total = lambda of, *options: sum((of(logits, *options) for logits, _ in parts), start=jnp.zeros(()))
        if smoothing:
            n = None if self.gpt.config.factors else self.sequences.n_codes  # ids beyond them are the condition's
            loss = (1 - smoothing) * nll + smoothing * total(even_cross_entropy, n)
        if settings.z_loss:
            metrics["log_partition"] = total(squared_log_partition)
            loss = loss + settings.z_loss * metrics["log_partition"]
        return loss, metrics

    def evaluate(
        self, params: Any, condition: Int[Array, "b ..."], ids: Int[Array, " b *shape"]
    ) -> dict[str, Float[Array, " b"]]:
        return {"nll": self.token_nll(params, condition, ids).mean(axis=1)}

    def traced(self, filters: Filters) -> TracedFilters:
        return filters.traced(self.sequences.tokens.walk)

    def sample(self, params: Any, job: Job) -> Int[Array, " b *shape"]:
        """Draw ids with a static key/value cache."""
        tokens = self.sequences.tokens
        condition = seen_conditions(job, self.sequences.hidden_token)
        prefix = condition.reshape(condition.shape[0], -1)
        given, keep = tokens.to_sequence(job.given), tokens.to_sequence(job.keep)  # (b, l)
        choose = token_chooser(job, self.sequences.n_codes, head_of(self.gpt, params))
        places = jnp.asarray(tokens.walk)  # (l,)
        layout = self.sequences.layout
        return tokens.to_ids(draw_sequence(self.gpt, params, prefix, places, given, keep, choose, layout))

    def log_likelihood(
        self, params: Any, condition: Int[Array, "b ..."], ids: Int[Array, " b *shape"]
    ) -> Float[Array, " b"]:
        return -self.token_nll(params, condition, ids).sum(axis=1)
