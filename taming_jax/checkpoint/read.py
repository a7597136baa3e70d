"""Reading checkpoints, knowing only the path of their working directory."""

import functools
import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from taming_jax.checkpoint.failures import MissingCheckpoint, reading
from taming_jax.checkpoint.paths import FOLDER, check_path, checkpoints_of, complete_steps, finalized_steps
from taming_jax.checkpoint.sums import array_sums, by_name, check, text_sum
from taming_jax.differences import differences
from taming_jax.settings import as_saved


# Orbax's handlers read for this process alone; its checkpointers around them wait for all others in the end.
def load_json(path: epath.Path, file: str | None = None) -> dict[str, Any]:
    return dict(ocp.JsonCheckpointHandler(file).restore(path.resolve()))


def saved_sums(folder: epath.Path) -> dict[str, Any]:
    """The sums saved with a checkpoint, by item; empty for one that has none."""
    return load_json(folder / "sums") if (folder / "sums").exists() else {}


def _metrics_of(folder: epath.Path) -> dict[str, float]:
    """The metrics that a checkpoint was saved with, if any."""
    with reading(folder):
        return load_json(folder / "metrics", "metrics") if (folder / "metrics").exists() else {}


def saved_tree(path: epath.Path) -> Any:
    """What is known of one item's arrays without reading them: a tree whose leaves have shape and dtype."""
    return ocp.PyTreeCheckpointHandler().metadata(path.resolve()).tree


def restore_arrays(path: epath.Path, target: Any) -> Any:
    """The arrays of one item named by a tree of jax.ShapeDtypeStruct: jax arrays where it has shardings, else numpy."""
    restore_args = ocp.checkpoint_utils.construct_restore_args(target)
    args = ocp.args.PyTreeRestore(item=target, restore_args=restore_args, partial_restore=True)
    return ocp.PyTreeCheckpointHandler().restore(path.resolve(), args=args)


def shape_difference(there: Any, here: Any) -> str:
    """How two trees of arrays differ in names and shapes, in a few words; empty where they do not."""
    saved, wanted = ({name: tuple(leaf.shape) for name, leaf in by_name(tree).items()} for tree in (there, here))
    return differences(saved, wanted)


def find_step(workdir: str, step: int | str | None = None) -> epath.Path:
    """The folder of checkpoint `step` (default: the newest; 'best': the best by its monitored metric).

    Raises ValueError where the directory is missing, holds no checkpoint of this project, or not this step.
    """
    root = epath.Path(workdir)
    if not root.exists():
        raise ValueError(
            f"no checkpoint directory at {workdir!r}; train one first (see README), or name another with --workdir."
        )
    folder = checkpoints_of(workdir)
    steps = complete_steps(folder)
    if not steps and (folder.exists() or (root / "metrics.jsonl").exists()):
        raise ValueError(
            f"{workdir!r} holds no complete checkpoint yet, but a training has begun there, which saves one every "
            "config.train.save_every steps and at its end: wait for that, or train on."
        )
    if not steps:
        content = ", ".join(sorted(child.name for child in root.iterdir())[:8]) or "nothing"
        raise ValueError(
            f"{workdir!r} holds no complete checkpoint of taming_jax: expected {FOLDER}/STEP/ with params and config "
            f"in it, found {content}. Name the directory that was given to training as --workdir."
        )
    check_path(workdir)  # of one that was moved there
    if step == "best":
        settings = load_config(workdir, steps[-1]).get("train", {"monitor": ""})  # none in a converted model
        found = {s: _metrics_of(folder / str(s)).get(settings["monitor"]) for s in steps}
        scored = {s: value for s, value in found.items() if value is not None}
        if not scored:
            raise ValueError(f"no checkpoint in {workdir!r} was saved with the monitored metric; use the newest.")
        step = (min if settings["monitor_mode"] == "min" else max)(scored, key=scored.__getitem__)
    elif isinstance(step, str):
        if not step.isdigit():
            raise ValueError(f"checkpoint {step!r} is unknown; give the number of a step, or 'best'.")
        step = int(step)
    if step is None and (passed := [number for number in finalized_steps(folder) if number > steps[-1]]):
        _tell_passed(str(workdir), passed[-1], steps[-1])
    if step is not None and step not in steps:
        raise MissingCheckpoint(f"{workdir!r} has no checkpoint of step {step}; it has {', '.join(map(str, steps))}.")
    return folder / str(steps[-1] if step is None else step)


@functools.cache  # once a process, since each part of a checkpoint is looked for
def _tell_passed(workdir: str, passed: int, taken: int) -> None:
    words = "The checkpoint of step %d in %r has lost its configuration and is passed over; that of step %d is taken."
    logging.getLogger(__name__).warning(words, passed, workdir, taken)


def has_checkpoint(workdir: str) -> bool:
    """Whether training in this directory would resume."""
    return bool(complete_steps(checkpoints_of(workdir)))


def load_config(workdir: str, step: int | str | None = None, everywhere: bool = False) -> dict[str, Any]:
    """The configuration saved with a checkpoint; everywhere: read by all processes, which fail where one does.

    Raises ValueError where there is none or where it is damaged, and OSError where it cannot be read otherwise.
    """
    folder = find_step(workdir, step)
    with reading(folder, everywhere):
        config = load_json(folder / "config")
        check(saved_sums(folder).get("config"), text_sum(config))
    return {**config, "data": as_saved(config["data"])} if "data" in config else config


def load_metrics(workdir: str, step: int | str | None = None) -> dict[str, float]:
    """The metrics that a checkpoint was saved with, if any."""
    return _metrics_of(find_step(workdir, step))


def load_tree(folder: epath.Path, name: str, only: tuple[str, ...] | None = None, dtype: Any = None) -> Any:
    """The arrays of one item as numpy, of all its entries or of those named. Raises DamagedCheckpoint and OSError."""

    def cast(leaf: np.ndarray) -> np.ndarray:
        return leaf.astype(dtype) if dtype is not None and jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    with reading(folder):
        tree = saved_tree(folder / name)
        if only is not None:
            tree = {name: tree[name] for name in only if name in tree}
        target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
        loaded = restore_arrays(folder / name, target)
        check(saved_sums(folder).get(name), array_sums(loaded))
    return jax.tree.map(cast, loaded)


def load_params(workdir: str, step: int | str | None = None, dtype: Any = None) -> Any:
    """The parameters of a checkpoint, and nothing else of it, as numpy arrays, cast to `dtype` where floating.

    Where training kept averages of them, these.
    """
    folder = find_step(workdir, step)
    if (folder / "train").exists() and load_config(workdir, step).get("optimizer", {}).get("ema_decay"):
        return load_tree(folder, "train", only=("averages",), dtype=dtype)["averages"]
    return load_tree(folder, "params", dtype=dtype)


def load_discriminator(
    workdir: str, step: int | str | None = None, params: str = "disc_params", stats: str = "batch_stats"
) -> dict[str, Any] | None:
    """The discriminator saved with a first stage, as numpy: {"params", "batch_stats"}; None where there is none.

    params, stats: the fields of the training's state that are its own; a model without training has that on patches.
    """
    folder = find_step(workdir, step)
    if (folder / "discriminator").exists():
        return load_tree(folder, "discriminator") if params == "disc_params" else None
    if not (folder / "train").exists():
        return None
    found = load_tree(folder, "train", only=(params, stats))
    if not found.get(params):
        return None
    return {"params": found[params], "batch_stats": found.get(stats, {})}
