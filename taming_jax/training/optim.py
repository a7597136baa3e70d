"""Optimizers from settings: Adam for the first stage, AdamW for the second, their schedules, averages of weights."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from taming_jax.settings import check, check_known

SEEN = 20  # norms of gradients that are seen before one can be a jump


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """learning_rate: for the whole batch, or with `per_sample` multiplied by the global batch size, as the reference
    does.

    schedule: constant or cosine (at the last step `floor` times the peak); either begins with `warmup` steps from zero.
    weight_decay: on the weights of linear layers only, and with decay_embeddings on tables of tokens too. clip_norm:
    largest global gradient norm, None for no limit.
    accumulate: parts in which a batch goes through the networks one after the other before an update, for less memory.
    ema_decay: of the average of the weights that evaluation and sampling then use, such as 0.9999; 0 for none.
    skip_above: an update is left out where the gradient's norm is more than so many times its running average; 0: none.
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
    floor: float = 0.0
    skip_above: float = 0.0

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
        check(self, "floor", 0 <= self.floor < 1, "it is a share of the peak, in [0, 1)")
        check(self, "floor", self.schedule == "cosine" or not self.floor, "it goes with schedule='cosine'")
        skips = self.skip_above == 0 or self.skip_above > 1
        check(self, "skip_above", skips, "it must be above 1 times the average, or 0 for no limit")


@dataclasses.dataclass(frozen=True)
class DiscOptimizerConfig:
    """What the optimizer of the discriminators has for itself: see `OptimizerConfig`; None: as the generator's."""

    learning_rate: float | None = None
    b1: float | None = None
    b2: float | None = None

    def beside(self, generator: OptimizerConfig) -> OptimizerConfig:
        """All of its settings, beside those of the generator's. Raises ValueError for what cannot be."""
        own = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        return dataclasses.replace(generator, **own)


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An optimizer of optax with its learning rate by the step, for the log, and its setting `skip_above`."""

    init: Callable[[Any], Any]
    update: Callable[..., tuple[Any, Any]]
    rate: optax.Schedule
    skip_above: float = 0.0


AnyOptimizer: TypeAlias = Optimizer | optax.GradientTransformation


def learning_rate(config: OptimizerConfig, *, batch_size: int, steps: int) -> optax.Schedule:
    """The learning rate as a function of the step."""
    peak = config.learning_rate * (batch_size if config.per_sample else 1)
    rest = max(1, steps - config.warmup)
    after = optax.constant_schedule(peak)
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, rest, config.floor)
    if not config.warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, config.warmup), after], [config.warmup])


def make_optimizer(config: OptimizerConfig, *, batch_size: int, steps: int) -> Optimizer:
    """Adam, or AdamW where there is weight decay. The arrays of its state have the same names whatever the settings, so
    that a training can go on with others."""
    clip, decay = optax.identity(), optax.identity()
    if config.clip_norm is not None:
        clip = optax.clip_by_global_norm(config.clip_norm)
    if config.weight_decay:
        decay = optax.add_decayed_weights(config.weight_decay, matrices if config.decay_embeddings else linear_weights)
    adam = optax.scale_by_adam(config.b1, config.b2)
    rate = learning_rate(config, batch_size=batch_size, steps=steps)
    chain = optax.chain(clip, adam, decay, optax.scale_by_learning_rate(rate))
    return Optimizer(chain.init, chain.update, rate, config.skip_above)


def linear_weights(params: optax.Params) -> optax.Params:
    """True for the kernels of layers, False for embeddings, norms and biases."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def matrices(params: optax.Params) -> optax.Params:
    """True for the kernels of layers and for embeddings, False for norms and biases."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in ("kernel", "embedding"), params)


class Updated(NamedTuple):
    """What an update makes of a network. taken: whether it was one; None where it could be nothing else."""

    params: Any
    opt_state: Any
    norms: dict[str, jax.Array]
    metrics: dict[str, jax.Array]
    taken: jax.Array | None

    def chosen(self, before: Any, after: Any) -> Any:
        """What is to be of arrays that the update moves, and that stay where it was not taken."""
        if (taken := self.taken) is None:
            return after
        return jax.tree.map(lambda old, new: jnp.where(taken, new, old), before, after)


def start_norms(optimizer: AnyOptimizer | None) -> dict[str, jax.Array]:
    """What `updated` knows of earlier gradients before there were any; empty for an optimizer that skips none."""
    if not isinstance(optimizer, Optimizer) or not optimizer.skip_above:
        return {}
    return {"average": jnp.zeros(()), "seen": jnp.zeros((), jnp.int32), "skipped": jnp.zeros((), jnp.int32)}


def updated(
    optimizer: AnyOptimizer,
    gradients: optax.Updates,
    opt_state: Any,
    params: optax.Params,
    norms: dict[str, jax.Array],
    step: jax.Array,
    learns: jax.Array | None = None,
) -> Updated:
    """One update, of the step of this number from 0.

    learns: whether the network learns at this step; None: always. Where it does not, or where the norm of its gradients
    jumps, parameters and moments stay as they are, and only the optimizer's counts go on, which are those of steps.
    """
    norm, taken = optax.tree.norm(gradients), learns
    metrics = {"grad_norm": norm}
    if isinstance(optimizer, Optimizer):
        metrics["learning_rate"] = jnp.asarray(optimizer.rate(step), jnp.float32)
    if isinstance(optimizer, Optimizer) and norms:
        norms, calm = _watched(norms, norm, optimizer.skip_above)
        metrics["skipped_updates"] = norms["skipped"].astype(jnp.float32)
        taken = calm if learns is None else calm & learns
    updates, moved = optimizer.update(gradients, opt_state, params)
    found = Updated(optax.apply_updates(params, updates), moved, norms, metrics, taken)
    count = lambda leaf: jnp.issubdtype(leaf.dtype, jnp.integer)
    kept = jax.tree.map(lambda old, new: new if count(new) else found.chosen(old, new), opt_state, moved)
    return found._replace(params=found.chosen(params, found.params), opt_state=kept)


def _watched(norms: dict[str, jax.Array], norm: jax.Array, limit: float) -> tuple[dict[str, jax.Array], jax.Array]:
    """(the norms after one more, whether it is none of a jump).

    A jump counts as the highest norm that is none, so that a lasting rise is a jump for some steps only. A gradient of
    zero, as of a network that does not learn yet, is no norm to compare with.
    """
    average, seen, highest = norms["average"], norms["seen"], limit * norms["average"]
    calm = (seen < SEEN) | (norm <= highest)  # NaN is not
    keep = jnp.minimum(0.99, seen / (seen + 1.0))  # the mean of the first hundred, then a moving average
    average = keep * average + (1 - keep) * jnp.where(calm, norm, highest)
    counts = norm != 0
    now = {"average": jnp.where(counts, average, norms["average"]), "seen": seen + counts}
    return {**now, "skipped": norms["skipped"] + ~calm}, calm


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
