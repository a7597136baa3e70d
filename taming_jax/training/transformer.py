"""Training of the second stage: the transformer's state, and the step that updates it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Int, Key

from taming_jax import checkpoint
from taming_jax.models.gpt import GPTConfig, stack_layers, unstack_layers
from taming_jax.training.accumulate import mean_over_parts
from taming_jax.training.optim import move_averages, start_averages
from taming_jax.two_stage import TwoStage

Batch = Mapping[str, Array]


@struct.dataclass
class TransformerState:
    """step: updates done. params: the transformer's. opt_state: the optimizer's. averages: of the parameters,
    where training keeps them."""

    step: Int[Array, ""]
    params: Any
    opt_state: Any
    averages: Any = struct.field(default_factory=dict)


@dataclass(frozen=True)
class TransformerTraining:
    """The training of a second stage: its static parts, the start of its state, and the step.

    Nothing here needs data or weights, so that `init` and `step` can be compiled for their shapes alone.

    accumulate: parts of the batch that go through the networks one after the other.
    ema_decay: of the averages of the parameters; 0 for none.
    seed: of the randomness in steps: its key folded with the number of the step, so a resumed run needs no saved key.
    init_from: the directory of a second stage to start from; empty for a fresh one.
    """

    model: TwoStage
    optimizer: optax.GradientTransformation
    accumulate: int = 1
    ema_decay: float = 0.0
    seed: int = 0
    init_from: str = ""

    def init(self, key: Key[Array, ""]) -> TransformerState:
        """A fresh state; pure, so that it can be compiled with shardings for its output."""
        params = self.model.gpt.init(key, jnp.zeros((1, self.model.condition.length), jnp.int32))["params"]
        averages = start_averages(self.ema_decay, params)
        return TransformerState(jnp.zeros((), jnp.int32), params, self.optimizer.init(params), averages)

    def start(self) -> dict[str, Any]:
        """The fields of a fresh state that come from the model in `init_from`. Raises ValueError for another network
        where the shapes do not tell."""
        if not self.init_from:
            return {}
        saved, ours = checkpoint.open_saved(self.init_from), self.model.gpt.config
        theirs = saved.config.get("transformer")
        if theirs is None:
            raise ValueError(f"config.init_from={self.init_from!r} holds no second stage.")
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
    ) -> tuple[TransformerState, dict[str, Float[Array, ""]]]:
        """One update on the mean cross-entropy of the image tokens, under the parameters of the networks that make
        these; to be jitted with the state donated. Metrics: loss, in nats, and grad_norm."""

        def gradients_of(_: None, part: Batch, key: Key[Array, ""]) -> tuple[None, tuple[Float[Array, ""], Any]]:
            loss_of = lambda params: self.model.token_nll(params, stages, part, key=key).mean()
            return None, jax.value_and_grad(loss_of)(state.params)

        key = jax.random.fold_in(jax.random.key(self.seed), state.step)
        _, (loss, gradients) = mean_over_parts(gradients_of, None, batch, key, self.accumulate)
        updates, opt_state = self.optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        averages = move_averages(self.ema_decay, state.averages, params, state.step)
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(gradients)}
        return TransformerState(state.step + 1, params, opt_state, averages), metrics
