"""Stage two: the transformer's training state, its step and its evaluation, with stage one frozen."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from taming_jax.training.accumulate import mean_over_parts
from taming_jax.training.optim import move_averages, start_averages
from taming_jax.two_stage import TwoStage


@struct.dataclass
class TransformerState:
    """step: int32, updates done. params: the transformer's. opt_state: the optimizer's. averages: of the parameters,
    where training keeps them."""

    step: jax.Array
    params: Any
    opt_state: Any
    averages: Any = struct.field(default_factory=dict)


def make_state(
    key: jax.Array, model: TwoStage, optimizer: optax.GradientTransformation, ema_decay: float = 0.0
) -> TransformerState:
    """A fresh state; pure, so that it can be compiled with shardings for its output."""
    params = model.gpt.init(key, jnp.zeros((1, model.condition.length), jnp.int32))["params"]
    averages = start_averages(ema_decay, params)
    return TransformerState(jnp.zeros((), jnp.int32), params, optimizer.init(params), averages)


def make_train_step(
    model: TwoStage,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    accumulate: int = 1,
    ema_decay: float = 0.0,
) -> Callable:
    """step(state, stages, batch) -> (state, metrics): one update on the mean cross-entropy of the image tokens.

    The randomness of a step is `key` folded with its number, so a resumed run needs no saved key. accumulate: parts of
    the batch; ema_decay: of the averages of the parameters.
    """

    def step(state: TransformerState, stages: Any, batch: Mapping[str, jax.Array]):
        def gradients_of(_, part, key):
            loss_of = lambda params: model.token_nll(params, stages, part, key=key).mean()
            return None, jax.value_and_grad(loss_of)(state.params)

        key_step = jax.random.fold_in(key, state.step)
        _, (loss, gradients) = mean_over_parts(gradients_of, None, batch, key_step, accumulate)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        averages = move_averages(ema_decay, state.averages, params, state.step)
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(gradients)}
        return TransformerState(state.step + 1, params, opt_state, averages), metrics

    return step


def make_eval_step(model: TwoStage) -> Callable:
    """evaluate(params, stages, batch) -> {"nll": summed nats per token, "n": images}, over the valid images."""

    def evaluate(params: Any, stages: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        nll = model.token_nll(params, stages, batch).mean(axis=1)  # (b,)
        valid = batch["valid"].astype(jnp.float32)
        return {"nll": jnp.sum(nll * valid), "n": jnp.sum(valid)}

    return evaluate
