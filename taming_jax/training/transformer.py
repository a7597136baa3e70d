"""Training of the second stage: the transformer's state, and the step that updates it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int, Key

from taming_jax import checkpoint
from taming_jax.models.gpt import GPTConfig, stack_layers, unstack_layers
from taming_jax.priors.base import Metrics, TokenLossConfig
from taming_jax.training.accumulate import mean_over_parts
from taming_jax.training.optim import AnyOptimizer, move_averages, start_averages, start_norms, updated
from taming_jax.two_stage import TwoStage

Batch = Mapping[str, Array]


@struct.dataclass
class TransformerState:
    """step: steps done. params: the transformer's. opt_state: the optimizer's. averages: of the parameters, where
    training keeps them. norms: of the gradients, where it skips updates."""

    step: Int[Array, ""]
    params: Any
    opt_state: Any
    averages: Any = struct.field(default_factory=dict)
    norms: Any = struct.field(default_factory=dict)


@dataclass(frozen=True)
class TransformerTraining:
    """The training of a second stage: its static parts, the start of its state, and the step.

    Nothing here needs data or weights, so that `init` and `step` can be compiled for their shapes alone.

    accumulate: parts of the batch that go through the networks one after the other.
    ema_decay: of the averages of the parameters; 0 for none.
    seed: of the randomness in steps: its key folded with the number of the step, so a resumed run needs no saved key.
    init_from: the directory of a second stage to start from; empty for a fresh one. loss: what it is trained on.
    """

    model: TwoStage
    optimizer: AnyOptimizer
    accumulate: int = 1
    ema_decay: float = 0.0
    seed: int = 0
    init_from: str = ""
    loss: TokenLossConfig = TokenLossConfig()

    def init(self, key: Key[Array, ""]) -> TransformerState:
        """A fresh state; pure, so that it can be compiled with shardings for its output."""
        params = self.model.prior.init(key)
        averages = start_averages(self.ema_decay, params)
        opt_state, norms = self.optimizer.init(params), start_norms(self.optimizer)
        return TransformerState(jnp.zeros((), jnp.int32), params, opt_state, averages, norms)

    def start(self) -> dict[str, Any]:
        """The fields of a fresh state that come from the model in `init_from`. Raises ValueError for another network
        where the shapes do not tell."""
        if not self.init_from:
            return {}
        saved, ours = checkpoint.open_saved(self.init_from), self.model.gpt.config
        theirs = saved.config.get("transformer")
        if theirs is None:
            raise ValueError(f"config.init_from={self.init_from!r} holds no second stage.")
        prior = saved.config.get("prior", "autoregressive")
        if prior != self.model.kind:
            raise ValueError(f"config.init_from holds another prior: {prior!r} there, {self.model.kind!r} here.")
        order = saved.config.get("order", self.model.order)
        if order != self.model.order:
            raise ValueError(f"config.init_from has other places: order is {order!r} there, {self.model.order!r} here.")
        for name in ("n_head", "norm", "rotary_base", "n_unmasked"):  # shapes do not tell
            there, here = theirs.get(name, getattr(GPTConfig, name)), getattr(ours, name)
            if there != here:
                raise ValueError(
                    f"config.init_from holds another network: transformer.{name} is {there} there, {here} here."
                )
        params = unstack_layers(saved.load_params())
        if ours.scan_layers and theirs["n_layer"] == ours.n_layer:
            params = stack_layers(params, theirs["n_layer"])
        return {"params": params, "averages": start_averages(self.ema_decay, params)}

    def step(
        self, state: TransformerState, stages: Mapping[str, Any], batch: Batch
    ) -> tuple[TransformerState, Metrics]:
        """One update on the mean cross-entropy of the image tokens and what `loss` adds to it, under the parameters of
        the networks that make these; to be jitted with the state donated.

        Metrics: loss, in nats, and those of the prior's loss; grad_norm, learning_rate and skipped_updates, see
        `optim.updated`.
        """

        def gradients_of(_: None, part: Batch, key: Key[Array, ""]) -> tuple[None, tuple[Any, Any]]:
            loss_of = lambda params: self.model.loss(params, stages, part, self.loss, key=key, step=state.step)
            return None, jax.value_and_grad(loss_of, has_aux=True)(state.params)

        key = jax.random.fold_in(jax.random.key(self.seed), state.step)
        _, ((loss, metrics), gradients) = mean_over_parts(gradients_of, None, batch, key, self.accumulate)
        update = updated(self.optimizer, gradients, state.opt_state, state.params, state.norms, state.step)
        averages = move_averages(self.ema_decay, state.averages, update.params, state.step)
        state = TransformerState(state.step + 1, update.params, update.opt_state, averages, update.norms)
        return state, {"loss": loss, **metrics, **update.metrics}
