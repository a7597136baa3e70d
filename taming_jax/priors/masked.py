"""Many tokens at once: hidden ones are predicted from all others, the surest stay (MaskGIT: Chang et al. 2022, arXiv
2202.04200)."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from taming_jax.models.gpt import GPT, GPTConfig, cast_layers, token_cross_entropy
from taming_jax.nn.masks import Full
from taming_jax.priors.base import Job, Metrics, Sequences, TokenLossConfig, seen_conditions
from taming_jax.priors.filters import FILTER_NAMES, Filters, TracedFilters, draw, guide
from taming_jax.priors.losses import even_cross_entropy, squared_log_partition

STEPS = 8  # in which an image is drawn, where nothing else is asked for (table 1 of the paper)
CHOICE_TEMPERATURE = 4.5  # as the authors' program has it
MEASURED = 4  # shares of hidden tokens by which a model is measured


@dataclasses.dataclass(frozen=True)
class Masked:
    """A transformer in which each position sees all others, trained to tell what hidden ones hold.

    Attributes:
      gpt: the network; its vocabulary has one id more than the codes and the condition need, which hides a token.
      sequences: what it learns.
      pkeep: must be 1.

    Raises ValueError where these do not fit.
    """

    gpt: GPT
    sequences: Sequences
    pkeep: float = 1.0

    measures: ClassVar[tuple[str, ...]] = ("masked_nll",)
    follows: ClassVar[tuple[str, ...]] = FILTER_NAMES
    completes: ClassVar[Literal["before", "anywhere"]] = "anywhere"
    any_size: ClassVar[bool] = False
    likelihood: ClassVar[bool] = False

    def __post_init__(self) -> None:
        config, order = self.gpt.config, self.sequences.tokens.order
        for name, value, right in (
            ("order", order, "row_major"),
            ("pkeep", self.pkeep, 1.0),
            ("transformer.n_unmasked", config.n_unmasked, 0),
            ("transformer.factors", config.factors, ()),
            ("transformer.target_positions", config.target_positions, False),
        ):
            if value != right:
                raise ValueError(
                    f"config.{name}={value!r} says nothing to config.prior='masked', in which each token sees all; set "
                    f"it to {right!r}."
                )

    @staticmethod
    def sizes(config: GPTConfig, sequences: Sequences) -> Mapping[str, int]:
        return {
            "vocab_size": _mask_token(config, sequences) + 1,
            "block_size": sequences.conditions + sequences.tokens.length,
            "condition_size": (sequences.condition_ids + 1) * config.condition_table,
        }

    @functools.cached_property
    def network(self) -> GPT:
        """The transformer, in which each position sees all."""
        return GPT(self.gpt.config, Full())

    @property
    def mask_token(self) -> int:
        """The id of a hidden token."""
        return _mask_token(self.gpt.config, self.sequences)

    def steps(self, filters: Filters) -> int:
        return filters.steps or STEPS

    def init(self, key: Key[Array, ""]) -> Any:
        length = self.sequences.conditions + self.sequences.tokens.length
        return self.network.init(key, jnp.zeros((1, length), jnp.int32), layout=self.sequences.layout)["params"]

    def logits(
        self, params: Any, condition: Int[Array, "b ..."], sequence: Int[Array, "b l"], **options: Any
    ) -> Float[Array, "b l n"]:
        """A condition and image tokens, of which some are `mask_token` -> what each token is, float32."""
        condition = condition.reshape(condition.shape[0], -1)
        inputs, skip = jnp.concatenate([condition, sequence], axis=1), condition.shape[1]
        logits = self.network.apply({"params": params}, inputs, layout=self.sequences.layout, skip=skip, **options)
        return logits[..., : self.sequences.n_codes]

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
        """The mean cross-entropy of the hidden tokens (equation 1), of which an image has a share of cos(r pi / 2), r
        uniform in [0, 1); and what `settings` add to it. Metrics where something was added: masked_nll, the
        cross-entropy alone, and log_partition."""
        key_share, key_hidden, key_dropout, key_condition = jax.random.split(key, 4)
        sequence = self.sequences.tokens.to_sequence(ids)
        b, length = sequence.shape
        share = jnp.cos(jax.random.uniform(key_share, (b, 1)) * (jnp.pi / 2))
        hidden = _lowest(jax.random.uniform(key_hidden, (b, length)), jnp.maximum(1, jnp.ceil(share * length)))
        condition = self.sequences.hide(key_condition, condition)
        inputs = jnp.where(hidden, self.mask_token, sequence)
        logits = self.logits(params, condition, inputs, train=True, rngs={"dropout": key_dropout})
        # Weights that make a mean over all tokens the mean over the hidden ones.
        weights = hidden / jnp.mean(hidden, dtype=jnp.float32)
        loss = nll = jnp.mean(token_cross_entropy(logits, sequence) * weights)
        smoothing, metrics = settings.label_smoothing, {}
        if smoothing or settings.z_loss:
            metrics["masked_nll"] = nll
        if smoothing:
            loss = (1 - smoothing) * nll + smoothing * even_cross_entropy(logits, weights=weights)
        if settings.z_loss:
            metrics["log_partition"] = squared_log_partition(logits, weights)
            loss = loss + settings.z_loss * metrics["log_partition"]
        return loss, metrics

    def evaluate(
        self, params: Any, condition: Int[Array, "b ..."], ids: Int[Array, " b *shape"]
    ) -> dict[str, Float[Array, " b"]]:
        """masked_nll: the mean cross-entropy in nats of hidden tokens, over shares as training draws them, evenly. The
        same tokens are hidden in all images."""
        sequence = self.sequences.tokens.to_sequence(ids)
        length, found = sequence.shape[1], []
        for i in range(MEASURED):
            n = max(1, round(np.cos(np.pi / 2 * (i + 0.5) / MEASURED) * length))
            hidden = np.random.default_rng(i).permutation(length)[None] < n
            logits = self.logits(params, condition, jnp.where(hidden, self.mask_token, sequence))
            found.append(jnp.sum(token_cross_entropy(logits, sequence) * hidden, axis=1) / n)
        return {"masked_nll": jnp.mean(jnp.stack(found), axis=0)}

    def traced(self, filters: Filters) -> TracedFilters:
        """guidance: the scale at each step."""
        steps = self.steps(filters)
        choice = CHOICE_TEMPERATURE if filters.choice_temperature is None else filters.choice_temperature
        traced = filters.traced(np.arange(steps))
        return dataclasses.replace(traced, steps=steps, choice_temperature=jnp.float32(choice))

    def sample(self, params: Any, job: Job) -> Int[Array, " b *shape"]:
        """Draw ids in `job.filters.steps` steps (section 3.2).

        In each step all hidden tokens are drawn. Those that the network was least sure of, with noise that fades, are
        hidden again: cos((t + 1) / T pi / 2) of those hidden at the start. The last step draws what is left.
        """
        tokens, filters = self.sequences.tokens, job.filters
        given, keep = tokens.to_sequence(job.given), tokens.to_sequence(job.keep)  # (b, l)
        condition = seen_conditions(job, self.sequences.hidden_token)
        params = cast_layers(params, self.gpt.config.dtype)
        steps, unknown = filters.steps or STEPS, jnp.sum(~keep, axis=1, keepdims=True)
        keys = _token_keys(job, given.shape[1])

        def step(ids: Int[Array, "b l"], t: Int[Array, ""]) -> tuple[Int[Array, "b l"], None]:
            known = ids != self.mask_token
            logits = self.logits(params, condition, jnp.repeat(ids, len(condition) // len(ids), axis=0))
            flat = logits.reshape(-1, logits.shape[-1])
            if filters.guidance is not None:
                both = logits.reshape(len(ids), 2, *logits.shape[1:]).swapaxes(1, 2)  # (b, l, 2, n)
                flat = guide(both.reshape(-1, logits.shape[-1]), jnp.asarray(filters.guidance)[t])
            here = jax.vmap(jax.random.fold_in, (0, None))(keys, t)
            drawn = draw(here, flat, filters.temperature, filters.top_k, filters.top_p, filters.greedy)
            sure = -token_cross_entropy(flat[None], drawn[None]).reshape(ids.shape)  # log-probability
            if not filters.greedy:
                noise = jax.vmap(lambda key: jax.random.gumbel(jax.random.fold_in(key, 1)))(here).reshape(ids.shape)
                assert filters.choice_temperature is not None, "`traced` sets it"
                sure += filters.choice_temperature * (1 - (t + 1) / steps) * noise
            # Rounding must not decide on half of an even number.
            left = jnp.floor(jnp.cos((t + 1) / steps * (jnp.pi / 2)) * unknown + 1e-3)
            left = jnp.minimum(left, jnp.sum(~known, axis=1, keepdims=True) - 1)
            left = jnp.where(t + 1 == steps, 0, left)
            again = _lowest(jnp.where(known, jnp.inf, sure), left)
            return jnp.where(known, ids, jnp.where(again, self.mask_token, drawn.reshape(ids.shape))), None

        ids, _ = jax.lax.scan(step, jnp.where(keep, given, self.mask_token), jnp.arange(steps))
        return tokens.to_ids(ids)

    def log_likelihood(
        self, params: Any, condition: Int[Array, "b ..."], ids: Int[Array, " b *shape"]
    ) -> Float[Array, " b"]:
        raise ValueError("config.prior='masked' has no likelihood: it predicts tokens from any others.")


def _mask_token(config: GPTConfig, sequences: Sequences) -> int:
    """Behind the codes, and behind the ids of a condition that shares their table."""
    codes, hidden = sequences.n_codes, bool(sequences.condition_dropout)
    return codes if config.condition_table else max(codes, sequences.condition_ids + hidden)


def _lowest(scores: Float[Array, "b l"], n: Float[Array, "b 1"] | Int[Array, "b 1"]) -> Bool[Array, "b l"]:
    """Which are the n lowest of each row; of equal ones the first."""
    ranks = jnp.argsort(jnp.argsort(scores, axis=1, stable=True), axis=1)
    return ranks < n


def _token_keys(job: Job, length: int) -> Key[Array, " bl"]:
    """A key for each token: that of its image folded with its place."""
    images = jax.vmap(jax.random.fold_in, (None, 0))(job.key, job.numbers)
    fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
    return fold(images, jnp.arange(length)).reshape(-1)
