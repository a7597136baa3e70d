"""Saving, listing and restoring the checkpoints of a training, and those that are set aside."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from taming_jax.checkpoint.failures import reading, save_failure
from taming_jax.checkpoint.paths import check_path, checkpoints_of, complete_steps
from taming_jax.checkpoint.read import (
    restore_arrays,
    saved_sums,
    saved_tree,
    shape_difference,
)
from taming_jax.checkpoint.sums import array_sums, check, text_sum

# Where a two-stage directory keeps its own copies of the networks that make tokens.
FIRST_STAGE, CONDITION_STAGE = "first_stage", "condition_stage"
DAMAGED = "damaged_checkpoints"  # where training puts those that it could not read


class Checkpoints:
    """Saves, lists and restores the checkpoints of one working directory, asynchronously and atomically."""

    def __init__(self, workdir: str, *, keep: int = 2, keep_best: int = 0, monitor: str = "", mode: str = "min"):
        """Keep the newest `keep` checkpoints, and of those saved with metrics the `keep_best` best by `monitor`.

        Raises ValueError where `keep` is below 1 or `mode` is neither 'min' nor 'max'.
        """
        if keep < 1:
            raise ValueError(
                f"config.train.keep={keep}, but at least the newest checkpoint must be kept: set 1 or more."
            )
        if mode not in ("min", "max"):
            raise ValueError(f"config.train.monitor_mode={mode!r}; known: min, max.")
        worst = math.inf if mode == "min" else -math.inf

        def score(metrics: Mapping[str, float]) -> float:
            return metrics.get(monitor, worst)  # an older checkpoint may lack a metric that is monitored now

        policies: list[checkpoint_managers.PreservationPolicy] = [checkpoint_managers.LatestN(keep)]
        if keep_best and monitor:
            best = checkpoint_managers.BestN(
                get_metric_fn=score,
                reverse=mode == "min",  # Orbax keeps the last ones of the sorted list
                n=keep_best,
                keep_checkpoints_without_metrics=False,
            )
            policies.append(best)
        check_path(workdir)
        self.workdir = workdir
        self._saving: int | None = None
        self._manager = ocp.CheckpointManager(
            checkpoints_of(workdir),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
                best_fn=score if monitor else None,
                best_mode=mode,
                cleanup_tmp_directories=True,  # what a killed save has left
            ),
        )

    def steps(self) -> list[int]:
        """The steps of the complete checkpoints, the newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def save(
        self,
        step: int,
        *,
        params: Any,
        config: Mapping[str, Any],
        train: Any = None,
        discriminator: Any = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Start to save; returns when the arrays are copied, and writes in the background.

        Raises OSError, also for an earlier save, where it could not be written; what was saved before stays.
        """
        items = {"params": params, "train": train, "discriminator": discriminator}
        items = {name: tree for name, tree in items.items() if tree is not None}
        sums: dict[str, Any] = {name: array_sums(tree) for name, tree in items.items()}
        sums["config"] = text_sum(config)
        arguments = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        arguments |= {"config": ocp.args.JsonSave(dict(config)), "sums": ocp.args.JsonSave(sums)}
        self.wait()
        self._saving = step
        with self._saved():
            self._manager.save(
                step,
                args=ocp.args.Composite(**arguments),
                metrics=dict(metrics) if metrics else None,
                force=True,
            )

    def restore(self, step: int, *, params: Any, train: Any) -> tuple[Any, Any]:
        """(params, train) of `step`, laid out like the targets: trees of jax.ShapeDtypeStruct with shardings.

        Raises ValueError where the saved arrays have other names or shapes than the targets, DamagedCheckpoint where
        they are no longer what was saved, and OSError where they cannot be read for another reason; on all processes
        where on one of them.
        """
        folder, targets = self._manager.directory / str(step), {"params": params, "train": train}
        for name, target in targets.items():
            with reading(folder, everywhere=True):
                difference = shape_difference(saved_tree(folder / name), target)
            if difference:
                raise ValueError(
                    f"the checkpoint of step {step} in {self.workdir!r} does not fit this configuration "
                    f"({name}: {difference}); go on with the configuration it was saved with, or choose another "
                    "--workdir."
                )
        with reading(folder, everywhere=True):
            saved = saved_sums(folder)
            restored = {name: restore_arrays(folder / name, target) for name, target in targets.items()}
        with reading(folder, everywhere=True):  # apart: all processes sum together, hence only once all have read
            for name, tree in restored.items():
                check(saved.get(name), array_sums(tree))
        return restored["params"], restored["train"]

    def set_aside(self, step: int) -> epath.Path:
        """Move a checkpoint out of the way, so that its step can be saved again; returns where it is now."""
        target = (epath.Path(self.workdir) / DAMAGED / str(step)).resolve()
        if jax.process_index() == 0:
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                target.rmtree()
            (self._manager.directory / str(step)).rename(target)
        multihost_utils.sync_global_devices(f"checkpoint {step} set aside")
        self._manager.reload()
        return target

    def check(self) -> None:
        """Raise OSError where the save that was started last has failed."""
        with self._saved():
            self._manager.check_for_errors()

    def wait(self) -> None:
        """Return when all is written. Raises OSError where it could not be."""
        with self._saved():
            self._manager.wait_until_finished()

    def intact(self) -> str:
        """Wait, and say which checkpoint can be gone back to, and whether the newest save has failed."""
        try:
            self.wait()
        except OSError as error:
            return str(error)
        return self._intact()

    @contextlib.contextmanager
    def _saved(self) -> Iterator[None]:
        """What Orbax says when a save fails, as one error."""
        try:
            yield
        except Exception as error:
            failed, self._saving = self._saving, None
            raise save_failure(failed, self.workdir, self._intact(failed), error) from error

    def _intact(self, failed: int | None = None) -> str:
        saved = [step for step in complete_steps(checkpoints_of(self.workdir)) if step != failed]
        return f"The checkpoint of step {saved[-1]} is intact." if saved else "No checkpoint had been saved before."

    def close(self) -> None:
        """Wait until everything is written, and release what it takes."""
        try:
            self.wait()
        finally:
            with contextlib.suppress(Exception):  # Orbax raises once more what it has raised in waiting
                self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is None:
            self.close()
        elif jax.process_count() == 1 or issubclass(kind, FloatingPointError):  # all processes come to that together
            with contextlib.suppress(Exception):  # the error that is under way says more
                self.close()
        # else: the others may never come to the place where they would be waited for


def save_model(
    workdir: str, *, params: Any, config: Mapping[str, Any], discriminator: Any = None, step: int = 0
) -> None:
    """Write a checkpoint that holds a model alone, with nothing to resume from, in place of what was there.

    discriminator: of a first stage, {"params", "batch_stats"}, so that its training can go on.
    """
    check_path(workdir)
    folder = checkpoints_of(workdir)
    if jax.process_index() == 0 and folder.exists():
        folder.rmtree()
    multihost_utils.sync_global_devices("old model removed")
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(step, params=params, config=config, discriminator=discriminator)
