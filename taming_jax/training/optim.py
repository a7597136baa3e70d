"""Optimizers from settings: Adam for the first stage, AdamW for the second, their schedules, averages of weights."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from taming_jax.settings import check, check_known


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """learning_rate: for the whole batch, or with `per_sample` multiplied by the global batch size, as the reference
    does.

    schedule: constant or cosine (to zero at the last step); either begins with `warmup` steps from zero.
    weight_decay: on the weights of linear layers only, and with decay_embeddings on tables of tokens too. clip_norm:
    largest global gradient norm, None for no limit.
    accumulate: parts in which a batch goes through the networks one after the other before an update, for less memory.
    ema_decay: of the average of the weights that evaluation and sampling then use, such as 0.9999; 0 for none.
    """

    learning_rate: float = 4.5e-6
    per_sample: bool = True
    schedule: str = "constant"
    warmup: int = 0
    b1: float = 0.9
    b2: float = 0.95
    weight_decay: float = 0.0
    clip_norm: float | None = None
    accumulate: int = 1
    ema_decay: float = 0.0
    decay_embeddings: bool = False

    def __post_init__(self) -> None:
        check_known(self, "schedule", ("constant", "cosine"))
        check(self, "learning_rate", self.learning_rate > 0, "it must be above 0")
        check(self, "warmup", self.warmup >= 0, "it must be 0 or more steps")
        check(self, "clip_norm", self.clip_norm is None or self.clip_norm > 0, "it must be above 0, or None")
        check(self, "accumulate", self.accumulate >= 1, "it must be 1 or more parts")
        for name in ("b1", "b2"):
            check(self, name, 0 <= getattr(self, name) < 1, "it must be in [0, 1)")
        check(self, "weight_decay", self.weight_decay >= 0, "it must not be negative")
        decays = bool(self.weight_decay) or not self.decay_embeddings
        check(self, "decay_embeddings", decays, "without weight_decay it has no effect")
        check(self, "ema_decay", 0 <= self.ema_decay < 1, "it must be in [0, 1)")


def learning_rate(config: OptimizerConfig, *, batch_size: int, steps: int) -> optax.Schedule:
    """The learning rate as a function of the step."""
    peak = config.learning_rate * (batch_size if config.per_sample else 1)
    rest = max(1, steps - config.warmup)
    after = optax.cosine_decay_schedule(peak, rest) if config.schedule == "cosine" else optax.constant_schedule(peak)
    if not config.warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, config.warmup), after], [config.warmup])


def make_optimizer(config: OptimizerConfig, *, batch_size: int, steps: int) -> optax.GradientTransformation:
    """Adam, or AdamW where there is weight decay. The arrays of its state have the same names whatever the settings, so
    that a training can go on with others."""
    clip, decay = optax.identity(), optax.identity()
    if config.clip_norm is not None:
        clip = optax.clip_by_global_norm(config.clip_norm)
    if config.weight_decay:
        decay = optax.add_decayed_weights(config.weight_decay, matrices if config.decay_embeddings else linear_weights)
    adam = optax.scale_by_adam(config.b1, config.b2)
    rate = optax.scale_by_learning_rate(learning_rate(config, batch_size=batch_size, steps=steps))
    return optax.chain(clip, adam, decay, rate)


def linear_weights(params: optax.Params) -> optax.Params:
    """True for the kernels of layers, False for embeddings, norms and biases."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def matrices(params: optax.Params) -> optax.Params:
    """True for the kernels of layers and for embeddings, False for norms and biases."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in ("kernel", "embedding"), params)


def start_averages(decay: float, params: optax.Params) -> optax.Params:
    """What `move_averages` starts from; empty without a decay."""
    return params if decay else {}


def move_averages(decay: float, averages: optax.Params, params: optax.Params, step: jax.Array) -> optax.Params:
    """The running average of the weights after the update `step` (from 0); young ones forget faster."""
    if not decay:
        return averages
    keep = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return optax.incremental_update(params, averages, 1.0 - keep)


def best_params(state: Any) -> optax.Params:
    """The weights of a training state that evaluation and sampling use: the averages where there are any."""
    return state.averages or state.params
