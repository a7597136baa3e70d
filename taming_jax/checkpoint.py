"""Checkpoints, and the only file that knows Orbax.

A working directory holds `checkpoints/STEP/{params,train,config}`: `params` is what loading the model needs, `train`
the rest of the training state, `config` the whole configuration as JSON. So a directory can be read knowing only its
path.
"""

import logging
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

FOLDER = "checkpoints"
# Where a two-stage directory keeps its own copies of the networks that make tokens.
FIRST_STAGE, CONDITION_STAGE = "first_stage", "condition_stage"


class Checkpoints:
    """Saves, lists and restores the checkpoints of one working directory, asynchronously and atomically."""

    def __init__(self, workdir: str, *, keep: int = 1, keep_best: int = 0, monitor: str = "", mode: str = "min"):
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
        self._manager = ocp.CheckpointManager(
            (epath.Path(workdir) / FOLDER).resolve(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
                best_fn=score if monitor else None,
                best_mode=mode,
                cleanup_tmp_directories=True,  # what a killed save has left
            ),
        )

    def latest(self) -> int | None:
        """The step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

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
        """Start to save; returns when the arrays are copied, and writes in the background."""
        items = {"params": ocp.args.StandardSave(params), "config": ocp.args.JsonSave(dict(config))}
        if train is not None:
            items["train"] = ocp.args.StandardSave(train)
        if discriminator is not None:
            items["discriminator"] = ocp.args.StandardSave(discriminator)
        self._manager.save(
            step,
            args=ocp.args.Composite(**items),
            metrics=dict(metrics) if metrics else None,
            force=True,
        )

    def restore(self, step: int, *, params: Any, train: Any) -> tuple[Any, Any]:
        """(params, train) of `step`, laid out like the targets: trees of jax.ShapeDtypeStruct with shardings.

        Raises ValueError where the saved arrays have other names or shapes than the targets.
        """
        for name, targets in (("params", params), ("train", train)):
            difference = _difference(self._manager.directory / str(step) / name, targets)
            if difference:
                raise ValueError(
                    f"the checkpoint of step {step} in {self._manager.directory} does not fit this configuration "
                    f"({name}: {difference}); go on with the configuration it was saved with, or choose another "
                    "--workdir."
                )
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(params=ocp.args.StandardRestore(params), train=ocp.args.StandardRestore(train)),
        )
        return restored.params, restored.train

    def close(self) -> None:
        """Wait until everything is written, and release what it takes."""
        self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


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
        with _reader(folder) as manager:
            found = {s: (manager.metrics(s) or {}).get(settings["monitor"]) for s in steps}
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


def load_config(workdir: str, step: int | str | None = None) -> dict[str, Any]:
    """The configuration saved with a checkpoint."""
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
        return reader.restore((find_step(workdir, step) / "config").resolve())


def load_params(workdir: str, step: int | str | None = None, dtype: Any = None) -> Any:
    """The parameters of a checkpoint, and nothing else of it, as numpy arrays, cast to `dtype` where floating.

    Where training kept averages of them, these.
    """
    folder = find_step(workdir, step)
    if (folder / "train").exists() and load_config(workdir, step).get("optimizer", {}).get("ema_decay"):
        return _load_tree(folder / "train", dtype, only=("averages",))["averages"]
    return _load_tree(folder / "params", dtype)


def _load_tree(path: epath.Path, dtype: Any = None, only: tuple[str, ...] | None = None) -> Any:
    """The arrays of one item as numpy, of all its entries or of those named."""
    path = path.resolve()
    with ocp.PyTreeCheckpointer() as reader:
        tree = reader.metadata(path).item_metadata.tree
        if only is not None:
            tree = {name: tree[name] for name in only if name in tree}
        targets = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)

        def arguments(leaf):
            cast = dtype if dtype is not None and np.issubdtype(leaf.dtype, np.floating) else None
            return ocp.RestoreArgs(restore_type=np.ndarray, dtype=cast)

        restore_args = jax.tree.map(arguments, targets)
        return reader.restore(
            path, args=ocp.args.PyTreeRestore(item=targets, restore_args=restore_args, partial_restore=True)
        )


def has_checkpoint(workdir: str) -> bool:
    """Whether training in this directory would resume."""
    return bool(_steps(epath.Path(workdir) / FOLDER))


def load_discriminator(workdir: str, step: int | str | None = None) -> dict[str, Any] | None:
    """The discriminator saved with a first stage, as numpy: {"params", "batch_stats"}; None where there is none."""
    folder = find_step(workdir, step)
    if (folder / "discriminator").exists():
        return _load_tree(folder / "discriminator")
    if not (folder / "train").exists():
        return None
    found = _load_tree(folder / "train", only=("disc_params", "batch_stats"))
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


def _difference(path: epath.Path, targets: Any) -> str:
    """What the saved arrays and the targets do not share, in words; empty where names and shapes agree."""
    with ocp.PyTreeCheckpointer() as reader:
        saved_tree = reader.metadata(path).item_metadata.tree
    return shape_difference(saved_tree, targets)


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


def _reader(folder: epath.Path) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(read_only=True)
    return ocp.CheckpointManager(folder.resolve(), options=options)


# Orbax narrates each file it touches; what a user can act on is raised here with our own words.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname or record.levelno >= logging.ERROR)
