"""Checkpoints, and the only file that knows Orbax.

A working directory holds `checkpoints/STEP/{params,train,config,sums}`: `params` is what loading the model needs,
`train` the rest of the training state, `config` the whole configuration as JSON, and `sums` tells whether all of it is
still as it was saved. So a directory can be read knowing only its path.
"""

import contextlib
import errno
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from taming_jax.checkpoint.sums import WrongSum, array_sums, check, text_sum

FOLDER = "checkpoints"
# Where a two-stage directory keeps its own copies of the networks that make tokens.
FIRST_STAGE, CONDITION_STAGE = "first_stage", "condition_stage"
DAMAGED = "damaged_checkpoints"  # where training puts those that it could not read


class DamagedCheckpoint(ValueError):
    """A checkpoint that is complete, but cannot be read or is not as it was saved."""


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
        self.workdir = workdir
        self._saving: int | None = None
        self._manager = ocp.CheckpointManager(
            (epath.Path(workdir) / FOLDER).resolve(),
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
            with _reading(folder, everywhere=True):
                difference = shape_difference(_saved_tree(folder / name), target)
            if difference:
                raise ValueError(
                    f"the checkpoint of step {step} in {self._manager.directory} does not fit this configuration "
                    f"({name}: {difference}); go on with the configuration it was saved with, or choose another "
                    "--workdir."
                )
        with _reading(folder, everywhere=True):
            saved = _saved_sums(folder)
            restored = {name: _restore(folder / name, target) for name, target in targets.items()}
        with _reading(folder, everywhere=True):  # apart: all processes sum together, hence only once all have read
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
            when = "When there is room to write again" if _no_room(error) else "When the cause is removed"
            raise OSError(
                f"The checkpoint of step {failed} in {self.workdir!r} could not be saved ({_short(error)}). "
                f"{self._intact(failed)} {when}, the same command goes on from there."
            ) from error

    def _intact(self, failed: int | None = None) -> str:
        saved = [step for step in _steps(epath.Path(self.workdir) / FOLDER) if step != failed]
        return f"The checkpoint of step {saved[-1]} is intact." if saved else "No checkpoint had been saved before."

    def close(self) -> None:
        """Wait until everything is written, and release what it takes."""
        try:
            self.wait()
        finally:
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


def find_step(workdir: str, step: int | str | None = None) -> epath.Path:
    """The folder of checkpoint `step` (default: the newest; 'best': the best by its monitored metric).

    Raises ValueError where the directory is missing, holds no checkpoint of this project, or not this step.
    """
    root = epath.Path(workdir)
    if not root.exists():
        raise ValueError(
            f"no checkpoint directory at {workdir!r}; train one first (see README), or name another with --workdir."
        )
    folder = root / FOLDER
    steps = _steps(folder)
    if not steps:
        content = ", ".join(sorted(child.name for child in root.iterdir())[:8]) or "nothing"
        raise ValueError(
            f"{workdir!r} holds no complete checkpoint of taming_jax: expected {FOLDER}/STEP/ with params and config "
            f"in it, found {content}. Name the directory that was given to training as --workdir."
        )
    if step == "best":
        settings = load_config(workdir, steps[-1]).get("train", {"monitor": ""})  # none in a converted model
        found = {s: _load_metrics(folder / str(s)).get(settings["monitor"]) for s in steps}
        scored = {s: value for s, value in found.items() if value is not None}
        if not scored:
            raise ValueError(f"no checkpoint in {workdir!r} was saved with the monitored metric; use the newest.")
        step = (min if settings["monitor_mode"] == "min" else max)(scored, key=scored.__getitem__)
    elif isinstance(step, str):
        if not step.isdigit():
            raise ValueError(f"checkpoint {step!r} is unknown; give the number of a step, or 'best'.")
        step = int(step)
    if step is not None and step not in steps:
        raise ValueError(f"{workdir!r} has no checkpoint of step {step}; it has {', '.join(map(str, steps))}.")
    return folder / str(steps[-1] if step is None else step)


def load_config(workdir: str, step: int | str | None = None, everywhere: bool = False) -> dict[str, Any]:
    """The configuration saved with a checkpoint; everywhere: read by all processes, which fail where one does.

    Raises ValueError where there is none or where it is damaged, and OSError where it cannot be read otherwise.
    """
    folder = find_step(workdir, step)
    with _reading(folder, everywhere):
        config = _load_json(folder / "config")
        check(_saved_sums(folder).get("config"), text_sum(config))
    return config


def load_params(workdir: str, step: int | str | None = None, dtype: Any = None) -> Any:
    """The parameters of a checkpoint, and nothing else of it, as numpy arrays, cast to `dtype` where floating.

    Where training kept averages of them, these.
    """
    folder = find_step(workdir, step)
    if (folder / "train").exists() and load_config(workdir, step).get("optimizer", {}).get("ema_decay"):
        return _load_tree(folder, "train", only=("averages",), dtype=dtype)["averages"]
    return _load_tree(folder, "params", dtype=dtype)


def _load_tree(folder: epath.Path, name: str, only: tuple[str, ...] | None = None, dtype: Any = None) -> Any:
    """The arrays of one item as numpy, of all its entries or of those named. Raises DamagedCheckpoint and OSError."""

    def cast(leaf: np.ndarray) -> np.ndarray:
        return leaf.astype(dtype) if dtype is not None and jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    with _reading(folder):
        tree = _saved_tree(folder / name)
        if only is not None:
            tree = {name: tree[name] for name in only if name in tree}
        target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
        loaded = _restore(folder / name, target)
        check(_saved_sums(folder).get(name), array_sums(loaded))
    return jax.tree.map(cast, loaded)


def has_checkpoint(workdir: str) -> bool:
    """Whether training in this directory would resume."""
    return bool(_steps(epath.Path(workdir) / FOLDER))


def load_discriminator(workdir: str, step: int | str | None = None) -> dict[str, Any] | None:
    """The discriminator saved with a first stage, as numpy: {"params", "batch_stats"}; None where there is none."""
    folder = find_step(workdir, step)
    if (folder / "discriminator").exists():
        return _load_tree(folder, "discriminator")
    if not (folder / "train").exists():
        return None
    found = _load_tree(folder, "train", only=("disc_params", "batch_stats"))
    if not found.get("disc_params"):
        return None
    return {"params": found["disc_params"], "batch_stats": found["batch_stats"]}


def save_model(
    workdir: str, *, params: Any, config: Mapping[str, Any], discriminator: Any = None, step: int = 0
) -> None:
    """Write a checkpoint that holds a model alone, with nothing to resume from, in place of what was there.

    discriminator: of a first stage, {"params", "batch_stats"}, so that its training can go on.
    """
    folder = epath.Path(workdir) / FOLDER
    if jax.process_index() == 0 and folder.exists():
        folder.rmtree()
    multihost_utils.sync_global_devices("old model removed")
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(step, params=params, config=config, discriminator=discriminator)


def _steps(folder: epath.Path) -> list[int]:
    """The complete checkpoints in it."""
    children = [child for child in folder.iterdir() if child.name.isdigit()] if folder.exists() else []
    complete = (c for c in children if ocp.utils.is_checkpoint_finalized(c) and (c / "config").exists())
    return sorted(int(child.name) for child in complete)


@contextlib.contextmanager
def _reading(folder: epath.Path, everywhere: bool = False) -> Iterator[None]:
    """Turns what goes wrong in reading a checkpoint into DamagedCheckpoint where its files are at fault, else OSError.

    everywhere: on all processes alike. What is read may then not wait for other processes: these would wait in vain
    for one that fails, and it for them.
    """
    failure: Exception | None = None
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError):
        raise  # the devices' matter
    except Exception as error:
        failure = error
    worst = 0 if failure is None else 1 if _is_damage(failure) else 2
    if everywhere and jax.process_count() > 1:
        worst = int(np.max(multihost_utils.process_allgather(np.int32(worst))))
    if not worst:
        return
    which = f"the checkpoint of step {folder.name} in {str(folder.parent.parent)!r}"
    reason = _short(failure) if failure else "found by another process"
    if worst == 1:
        raise DamagedCheckpoint(
            f"{which} is damaged ({reason}); name another one, train on from an older one, or get its files again."
        ) from failure
    kind = f"{type(failure).__name__}: " if failure else ""
    raise OSError(
        f"{which} could not be read ({kind}{reason}), which need not be its files' fault; remove the cause and give "
        "the same command again, or move this checkpoint away."
    ) from failure


# How TensorStore begins to say that a file is missing, shorter than it was or cannot be decoded; where the operating
# system refuses to read one, its number stands behind.
_DAMAGE = re.compile(r"NOT_FOUND:|(DATA_LOSS|OUT_OF_RANGE|FAILED_PRECONDITION):(?!.*os_error_code)", re.DOTALL)


def _is_damage(error: BaseException) -> bool:
    """Whether reading failed by what the files are. Anything else, as a disk that does not answer, may pass."""
    error = _innermost(error)
    spoiled = (WrongSum, FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError)
    return isinstance(error, spoiled) or bool(isinstance(error, ValueError) and _DAMAGE.match(str(error)))


def _no_room(error: BaseException) -> bool:
    """Whether writing failed since a disk or a quota is full."""
    error, full = _innermost(error), (errno.ENOSPC, errno.EDQUOT)
    told = any(f"os_error_code='{number}'" in str(error) for number in full)  # TensorStore's way
    return told or (isinstance(error, OSError) and error.errno in full)


def _short(error: BaseException) -> str:
    """The innermost reason that Orbax gives, in one line: what was done stands at its beginning, why not at its end."""
    error = _innermost(error)
    text = " ".join(str(error).split(" [tensorstore_spec=")[0].split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:97]} ... {text[-98:]}"


def _innermost(error: BaseException) -> BaseException:
    while inner := error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__:
        error = inner
    return error


def _saved_sums(folder: epath.Path) -> dict[str, Any]:
    return _load_json(folder / "sums") if (folder / "sums").exists() else {}


def _load_metrics(folder: epath.Path) -> dict[str, float]:
    with _reading(folder):
        return _load_json(folder / "metrics", "metrics") if (folder / "metrics").exists() else {}


# Orbax's handlers read for this process alone; its checkpointers around them wait for all others in the end.
def _load_json(path: epath.Path, file: str | None = None) -> dict[str, Any]:
    return dict(ocp.JsonCheckpointHandler(file).restore(path.resolve()))


def _saved_tree(path: epath.Path) -> Any:
    """What is known of one item's arrays without reading them: a tree whose leaves have shape and dtype."""
    return ocp.PyTreeCheckpointHandler().metadata(path.resolve()).tree


def _restore(path: epath.Path, target: Any) -> Any:
    """The arrays of one item named by a tree of jax.ShapeDtypeStruct: jax arrays where it has shardings, else numpy."""
    restore_args = ocp.checkpoint_utils.construct_restore_args(target)
    args = ocp.args.PyTreeRestore(item=target, restore_args=restore_args, partial_restore=True)
    return ocp.PyTreeCheckpointHandler().restore(path.resolve(), args=args)


def shape_difference(there: Any, here: Any) -> str:
    """How two trees of arrays differ in names and shapes, in a few words; empty where they do not."""
    saved, wanted = (
        {
            jax.tree_util.keystr(p, simple=True, separator="/"): tuple(leaf.shape)
            for p, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
        }
        for tree in (there, here)
    )
    notes = [
        f"{name} is {saved[name]} there and {wanted[name]} here"
        for name in saved.keys() & wanted.keys()
        if saved[name] != wanted[name]
    ]
    notes += [f"{name} is only there" for name in saved.keys() - wanted.keys()]
    notes += [f"{name} is only here" for name in wanted.keys() - saved.keys()]
    return "; ".join(sorted(notes)[:3]) + (f" and {len(notes) - 3} more" if len(notes) > 3 else "")
