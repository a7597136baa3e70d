"""Optimizers from settings: Adam for the first stage, AdamW for the second, with their learning-rate schedules."""

import dataclasses

import jax
import optax


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """learning_rate: for the whole batch, or with `per_sample` multiplied by the global batch size, as the reference
    does.

    schedule: constant or cosine (to zero at the last step); either begins with `warmup` steps from zero.
    weight_decay: on the weights of linear layers only. clip_norm: largest global gradient norm, None for no limit.
    """

    learning_rate: float = 4.5e-6
    per_sample: bool = True
    schedule: str = "constant"
    warmup: int = 0
    b1: float = 0.9
    b2: float = 0.95
    weight_decay: float = 0.0
    clip_norm: float | None = None

    def __post_init__(self):
        if self.schedule not in ("constant", "cosine"):
            raise ValueError(f"config.optimizer.schedule={self.schedule!r} is unknown; known: constant, cosine.")
        if self.learning_rate <= 0:
            raise ValueError(f"config.optimizer.learning_rate={self.learning_rate}, but it must be above 0.")
        if self.warmup < 0:
            raise ValueError(f"config.optimizer.warmup={self.warmup}, but it must be 0 or more steps.")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError(f"config.optimizer.clip_norm={self.clip_norm}, but it must be above 0, or None.")


def learning_rate(config: OptimizerConfig, *, batch_size: int, steps: int) -> optax.Schedule:
    """The learning rate as a function of the step."""
    peak = config.learning_rate * (batch_size if config.per_sample else 1)
    rest = max(1, steps - config.warmup)
    after = optax.cosine_decay_schedule(peak, rest) if config.schedule == "cosine" else optax.constant_schedule(peak)
    if not config.warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, config.warmup), after], [config.warmup])


def make_optimizer(config: OptimizerConfig, *, batch_size: int, steps: int) -> optax.GradientTransformation:
    """Adam, or AdamW where there is weight decay."""
    schedule = learning_rate(config, batch_size=batch_size, steps=steps)
    if config.weight_decay:
        adam = optax.adamw(schedule, config.b1, config.b2, weight_decay=config.weight_decay, mask=linear_weights)
    else:
        adam = optax.adam(schedule, config.b1, config.b2)
    clip = [] if config.clip_norm is None else [optax.clip_by_global_norm(config.clip_norm)]
    return optax.chain(*clip, adam)


def linear_weights(params: optax.Params) -> optax.Params:
    """True for the kernels of layers, False for embeddings, norms and biases."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)
