"""The only training loop: resume, step, log, hooks, save, stop. Each program hands it its own training."""

import contextlib
import dataclasses
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from clu import parameter_overview
from tqdm import tqdm

from taming_jax import sharding
from taming_jax.checkpoint import Checkpoints, DamagedCheckpoint, load_config, shape_difference
from taming_jax.lease import Lease
from taming_jax.settings import PathText, check, check_known
from taming_jax.stopping import GRACE, Stopped
from taming_jax.training.changes import compare
from taming_jax.training.goodput import Goodput
from taming_jax.training.pace import Pace
from taming_jax.training.quality import QualityConfig
from taming_jax.training.report import Report
from taming_jax.training.stop import Stop, left_out

State = Any
Batch = Mapping[str, jax.Array]
AHEAD = 2  # steps that may be on their way to the devices: enough to keep these busy, and few batches in memory


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """steps: updates in all. The other numbers are steps between two logs, evaluations, pictures, checkpoints.

    keep: newest checkpoints kept; keep_best: besides them the best by `monitor`, a metric of the evaluation, where
    monitor_mode (min or max) says what is better. show: the metrics beside the progress bar.
    evaluate: distances of sets of images, see `QualityConfig`.
    allow_changes: go on with settings of data, loss and optimizer that are not those of the checkpoint.
    heartbeat_timeout: seconds after which a process that does not answer counts as dead, and the others end.
    compilation_cache: where compiled programs are kept, so that a training that goes on need not compile again: "" for
    `compilation_cache` in the working directory, on accelerators; "none" for nowhere.
    profiler_port: where JAX's profiler answers, such as 9012, for TensorBoard or xprof to look at steps; 0: nowhere.
    """

    steps: int = 100_000
    seed: int = 0
    log_every: int = 50
    eval_every: int = 2000
    image_every: int = 2000
    save_every: int = 2000
    keep: int = 2
    keep_best: int = 1
    monitor: str = ""
    monitor_mode: str = "min"
    show: tuple[str, ...] = ()
    evaluate: QualityConfig = QualityConfig()
    allow_changes: bool = False
    heartbeat_timeout: int = 60
    compilation_cache: PathText = ""
    profiler_port: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "eval_every", "image_every", "save_every", "keep", "heartbeat_timeout"):
            check(self, name, getattr(self, name) >= 1, "it must be at least 1")
        check(self, "profiler_port", 0 <= self.profiler_port < 1 << 16, "it must be a port, or 0 for none")
        check_known(self, "monitor_mode", ("min", "max"))


class Training(Protocol):
    """What the loop trains, such as `vqgan.VQGANTraining`: static parts alone, arrays go in and out.

    One whose attribute `heeds` is True has also `heed(state, measured) -> state`, which is told what the hooks have
    measured, by the names of the log, before that state is saved.
    """

    def init(self, key: jax.Array) -> State:
        """A fresh state, with the fields `step` and `params`."""

    def start(self) -> Mapping[str, Any]:
        """The fields of a fresh state that start from other arrays, and these."""

    def step(self, state: State, frozen: Any, batch: Batch) -> tuple[State, Mapping[str, jax.Array]]:
        """One update -> (state, metrics); `frozen` are arrays that it only reads."""


@dataclasses.dataclass(frozen=True)
class Hook:
    """Something to do every so many steps and after the last: run(state, step) may return metrics to log.

    measures: their names; such a hook runs before a checkpoint is saved at the same step, which carries them as
    "{name}/{metric}". One without comes after it.
    """

    name: str
    every: int
    run: Callable[[State, int], Mapping[str, float] | None]
    measures: tuple[str, ...] = ()


def train(
    *,
    training: Training,
    frozen: Any,
    config: TrainConfig,
    batches: Callable[[int], Iterator[Mapping[str, np.ndarray]]],
    hooks: Sequence[Hook],
    saved_config: Mapping[str, Any],
    workdir: str,
    mesh: jax.sharding.Mesh,
    report: Report,
    lease: Lease | None = None,
) -> tuple[State, bool]:
    """Train until `config.steps`, or until Ctrl-C, SIGTERM or SIGHUP; returns the state and whether it got to the end.

    training: its step is compiled here with the state donated and kept where the sharding rules place it; its `start`
    is asked for a fresh state only. frozen: the arrays that its step only reads.
    batches: first step -> this process's share of the batches from there on; a resumed run continues the same stream.
    saved_config: goes into every checkpoint. lease: of the workdir, without which nothing more is written.
    Raises FloatingPointError for a loss that is not finite, naming it and the step, ValueError where the workdir holds
    a checkpoint of another configuration, and OSError where one could not be saved.
    """
    _check_monitor(config, hooks)
    still_ours = lease.check if lease else lambda: None
    keep_compiled(config.compilation_cache, workdir, mesh)
    goodput, pace = Goodput(), Pace()
    if config.profiler_port:
        jax.profiler.start_server(config.profiler_port)
    with Stop() as stop, _open(workdir, config) as checkpoints:
        with goodput.other("start"):
            state, shardings, start = _initial_state(training, config, checkpoints, saved_config, workdir, mesh)
        update = jax.jit(training.step, donate_argnums=0, out_shardings=(shardings, None))
        report.rewind(start)
        _describe(state, start, report)
        heed = getattr(training, "heed", None) if getattr(training, "heeds", False) else None
        with _History(config, report, start, checkpoints, pace) as history:
            number = saved = start
            stopping, measured = number < config.steps and stop.requested_before(start), dict[str, float]()
            try:
                if missing := [] if stopping else left_out(hooks, start, start == config.steps, report):
                    with goodput.other("evaluation"), stop.raising():
                        _run_hooks(missing, state, start, report)
                compiled = set[Any]()  # the shapes of batches that the step was compiled for
                stream = batches(start) if start < config.steps and not stopping else iter(())
                while number < config.steps and not stopping:
                    alike = len(compiled) == 1  # and so are the times of steps, but for the first
                    with pace.step() if alike else contextlib.nullcontext():
                        with goodput.other("data"), stop.raising(after=GRACE):
                            batch = sharding.put_batch(next(stream), mesh)
                        number += 1
                        shapes = tuple((name, array.shape) for name, array in sorted(batch.items()))
                        known = shapes in compiled
                        compiled.add(shapes)
                        compiles = contextlib.nullcontext() if known else goodput.other("compiling")
                        with compiles, jax.set_mesh(mesh):  # where activations are to be, see `sharding.split_by_image`
                            state, metrics = update(state, frozen, batch)
                        stop.began = True
                        history.add(number, metrics)
                    if number % config.log_every == 0:
                        checkpoints.check()
                        still_ours()
                        if len(compiled) == 1 and (slow := pace.look(number)) and jax.process_index() == 0:
                            logging.warning("Slow: %s.", slow)
                    last = number == config.steps
                    stopping, measured = not last and stop.requested(number), {}
                    due = [hook for hook in hooks if last or number % hook.every == 0]
                    # What is measured is saved too, unless the machine may go any moment; pictures can wait, and may
                    # fail. But where the training heeds them, its state is another one with them.
                    first = [hook for hook in due if hook.measures and (heed or not stopping)]
                    if due or last or stopping or number % config.save_every == 0:
                        history.flush()  # the steps so far are steps, and no part of what follows
                    with goodput.other("evaluation"), contextlib.nullcontext() if heed else stop.raising():
                        measured = _run_hooks(first, state, number, report)
                        state = heed(state, measured) if heed else state
                    if stopping:  # the other hooks can wait until the training goes on
                        break
                    if last or number % config.save_every == 0:
                        with goodput.other("saving"):
                            still_ours()
                            _save(checkpoints, state, number, saved_config, measured)
                        saved = number
                        logging.info("Step %d: %s", number, goodput)
                    if later := [hook for hook in due if hook not in first]:
                        with goodput.other("pictures"), contextlib.nullcontext() if last else stop.raising():
                            checkpoints.wait()  # who fails alone in drawing ends at once, whatever is being written
                            _run_hooks(later, state, number, report)
            except Stopped:  # in what the state does not depend on
                stopping = True
            if saved < number:
                history.flush()
                with goodput.other("saving"):
                    still_ours()
                    _save(checkpoints, state, number, saved_config, measured)
                logging.info("Step %d: %s", number, goodput)
    finished = number >= config.steps and not stopping
    if not finished and number:
        logging.warning("Stopped by a signal at step %d, saved; the same command goes on from there.", number)
    elif not finished:
        logging.warning("Stopped by a signal before the first step; there is nothing to save.")
    return state, finished


def keep_compiled(where: str, workdir: str, mesh: jax.sharding.Mesh) -> None:
    """Keep what is compiled from here on, see `TrainConfig.compilation_cache`; where JAX has a place already, such as
    by JAX_COMPILATION_CACHE_DIR, it stays there."""
    on_accelerator = mesh.devices.flat[0].platform != "cpu"  # whose programs may not run on the next CPU
    chosen = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]  # it has every setting
    if where == "none" or chosen or not (where or on_accelerator):
        return
    jax.config.update("jax_compilation_cache_dir", where or f"{workdir.rstrip('/')}/compilation_cache")


def _check_monitor(config: TrainConfig, hooks: Sequence[Hook]) -> None:
    measures = [f"{hook.name}/{name}" for hook in hooks for name in hook.measures]
    if config.monitor and config.monitor not in measures:
        raise ValueError(f"config.train.monitor={config.monitor!r} is not measured here; known: {', '.join(measures)}.")


def _save(
    checkpoints: Checkpoints, state: State, number: int, saved_config: Mapping[str, Any], measured: Mapping[str, float]
) -> None:
    """Save a state that is found finite; a bad one leaves the last good checkpoint alone."""
    if not bool(_all_finite(state)):
        raise FloatingPointError(f"step {number}: an array of the state is not finite after it. {checkpoints.intact()}")
    params, rest = split_state(state)
    checkpoints.save(number, params=params, train=rest, config=saved_config, metrics=measured)


def split_state(state: State) -> tuple[Any, dict[str, Any]]:
    """(params, everything else by field name): the two items of a checkpoint."""
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return fields.pop("params"), fields


def _initial_state(
    training: Training,
    config: TrainConfig,
    checkpoints: Checkpoints,
    saved_config: Mapping[str, Any],
    workdir: str,
    mesh: jax.sharding.Mesh,
) -> tuple[State, Any, int]:
    """(state, its shardings, steps done): fresh or the newest checkpoint's, each array where it belongs on the mesh."""
    key = jax.random.key(config.seed)
    abstract = jax.eval_shape(training.init, key)
    shardings = sharding.state_shardings(abstract, mesh)
    target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)
    damaged: dict[int, DamagedCheckpoint] = {}
    for saved in checkpoints.steps():
        try:
            _check_changes(load_config(workdir, saved, everywhere=True), saved_config, workdir, config.allow_changes)
            params, rest = split_state(target)
            params, rest = checkpoints.restore(saved, params=params, train=rest)
        except DamagedCheckpoint as error:
            damaged[saved] = error
            continue
        for newer, reason in damaged.items():
            logging.warning("%s It was moved to %s.", reason, checkpoints.set_aside(newer))
        logging.info("Resumed from step %d in %s.", saved, workdir)
        return abstract.replace(params=params, **rest), shardings, saved
    if damaged:  # they stay: training must not begin at step 0 unasked, now or when it is started again
        raise ValueError(
            f"no checkpoint in {workdir!r} can be read: {' '.join(map(str, damaged.values()))} To start anew, remove "
            "that directory's checkpoints or choose another --workdir."
        ) from next(iter(damaged.values()))
    given = training.start()
    for name, value in given.items():
        if difference := shape_difference(value, getattr(abstract, name)):
            raise ValueError(
                f"config.init_from holds another network ({name}: {difference}); copy its settings into the "
                "configuration."
            )
    state = jax.jit(training.init, out_shardings=shardings)(key)
    state = state.replace(**{name: jax.device_put(value, getattr(shardings, name)) for name, value in given.items()})
    return state, shardings, 0


def _check_changes(saved: Mapping[str, Any], given: Mapping[str, Any], workdir: str, allowed: bool) -> None:
    """Refuse to go on with settings that make another model of it or, unless they are allowed, another training."""
    changes = compare(saved, given)
    if changes["model"]:
        raise ValueError(
            f"{workdir!r} holds a checkpoint of another model ({'; '.join(changes['model'])}); go on with the saved "
            "settings or choose another --workdir."
        )
    if changes["training"] and not allowed:
        raise ValueError(
            f"{workdir!r} holds a checkpoint of another training ({'; '.join(changes['training'])}); go on with the "
            "saved settings, choose another --workdir, or say --config.train.allow_changes=True to go on like this."
        )
    if both := changes["training"] + changes["harmless"]:
        logging.info("Changed since the checkpoint: %s.", "; ".join(both))


def _open(workdir: str, config: TrainConfig) -> Checkpoints:
    return Checkpoints(
        workdir, keep=config.keep, keep_best=config.keep_best, monitor=config.monitor, mode=config.monitor_mode
    )


def _describe(state: State, step: int, report: Report) -> None:
    """The table of all parameters, for the log and the workdir, and what a device holds."""
    overview = parameter_overview.get_parameter_overview(state.params, include_stats=False)
    held, total = sharding.bytes_held(state)
    overview += f"\nEach device holds {held / 2**20:.1f} of the state's {total / 2**20:.1f} MiB ({held / total:.1%})."
    report.text(step, "parameters", overview)
    logging.info("Parameters:\n%s", overview)


def _run_hooks(hooks: Sequence[Hook], state: State, number: int, report: Report) -> dict[str, float]:
    """Run the hooks, and log what they measure."""
    measured: dict[str, float] = {}
    for hook in hooks:
        found = hook.run(state, number) or {}
        measured |= {f"{hook.name}/{name}": value for name, value in found.items()}
    if measured:
        report.scalars(number, measured, prefix="")
    return measured


class _History:
    """The metrics of all steps: fetched many at once, so that the devices need not wait; checked and logged."""

    def __init__(self, config: TrainConfig, report: Report, start: int, checkpoints: Checkpoints, pace: Pace):
        self.config, self.report, self.checkpoints, self.pace = config, report, checkpoints, pace
        self._pending: list[tuple[int, Mapping[str, jax.Array]]] = []
        hidden = jax.process_index() != 0
        self._progress = tqdm(total=config.steps, initial=start, disable=hidden, unit="step", mininterval=1.0)

    def __enter__(self) -> "_History":
        return self

    def __exit__(self, *_: Any) -> None:
        self._progress.close()

    def add(self, number: int, metrics: Mapping[str, jax.Array]) -> None:
        self._pending.append((number, metrics))
        if len(self._pending) > AHEAD:
            with self.pace.waiting():
                jax.block_until_ready(self._pending[-1 - AHEAD][1])
        self._progress.update()
        if number % self.config.log_every == 0 or number == self.config.steps:
            self.flush()

    def flush(self) -> None:
        """Fetch what the devices have computed, look at every step of it, and log the steps that are due."""
        with self.pace.waiting():
            jax.block_until_ready([metrics for _, metrics in self._pending])
        for number, metrics in self._pending:
            values = {name: float(value) for name, value in jax.device_get(metrics).items()}
            for name, value in values.items():
                if not math.isfinite(value):
                    raise FloatingPointError(
                        f"step {number}: {name} is {value}. {self.checkpoints.intact()} Try a lower "
                        "config.optimizer.learning_rate, config.optimizer.clip_norm=1.0, or float32."
                    )
            if number % self.config.log_every == 0 or number == self.config.steps:
                self.report.scalars(number, values, prefix="train")
                shown = {name: f"{values[name]:.4g}" for name in self.config.show if name in values}
                self._progress.set_postfix(shown)
        self._pending.clear()


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    return jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]).all()
