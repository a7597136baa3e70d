"""The original's checkpoints into directories of this project."""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from taming_jax import checkpoint
from taming_jax.checkpoint import CONDITION_STAGE, FIRST_STAGE
from taming_jax.convert.engine import Brought, bring
from taming_jax.convert.lpips import checked_sha256
from taming_jax.convert.reader import read_state
from taming_jax.convert.settings import Plan, load_project, translate
from taming_jax.convert.tables import CONDITION, FIRST, Model, table_of


@dataclass
class Report:
    """What was done: the kind of model, where it lies, the SHA-256 of each file, and notes for the user."""

    kind: str
    path: str
    digests: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def convert_checkpoint(
    source: str | Path,
    out_dir: str | Path,
    config: str | Path | None = None,
    *,
    n_classes: int = 0,
    check: Callable[[Plan], None] | None = None,
) -> Report:
    """Write the directory `out_dir` of a checkpoint of the original; `taming_jax.load` opens it.

    config: its project.yaml; without one it is looked for where the original's training leaves it.
    n_classes: for models conditioned on objects, how many classes of objects there are.
    check: called before anything is written. Raises ValueError for files that are missing, damaged, malicious or do not
    fit together, for settings that are not supported, and where `out_dir` holds something already. Nothing is left
    half-written.
    """
    out = _new_folder(out_dir)
    digest = checked_sha256(source)
    config = Path(config) if config else _find_project(Path(source))
    project = load_project(config)
    state, extras = read_state(source)
    try:
        plan = translate(project, state, n_classes)
        state = _without_copies(plan.model, state)
        brought = bring(table_of(plan.model), state)
    except ValueError as error:
        raise ValueError(f"{source} with {config}: {error}") from error
    if check is not None:
        check(plan)
    notes = plan.notes + _array_notes(state, brought)
    step = extras.get("global_step", 0)
    step = step if isinstance(step, int) and 0 <= step < 1 << 31 else 0
    origin = {"file": Path(source).name, "sha256": digest, "epoch": extras.get("epoch", 0), "bare": plan.model.bare}
    _write(out, plan, brought, step, origin)
    return Report(plan.configs[""]["kind"], str(out), {str(source): digest, str(config): checked_sha256(config)}, notes)


def _new_folder(out_dir: str | Path) -> Path:
    if "://" in str(out_dir):
        raise ValueError(f"{out_dir} is no folder of this machine; convert into one, and copy it there")
    out = Path(out_dir)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        content = ", ".join(sorted(child.name for child in out.iterdir())[:5]) if out.is_dir() else "a file"
        raise ValueError(f"{out} holds something already ({content}); name a new directory")
    return out


def _find_project(source: Path) -> Path:
    """The original's training writes RUN/checkpoints/last.ckpt and RUN/configs/DATE-project.yaml; the export here
    NAME.ckpt and NAME-project.yaml."""
    own = source.with_name(f"{source.stem}-project.yaml")
    if own.is_file():
        return own
    folders = (source.parent, source.parent.parent / "configs", source.parent / "configs")
    for folder in folders:
        found = sorted(folder.glob("*project.yaml"))
        if found:
            return found[-1]  # they begin with their date
    raise ValueError(f"no *project.yaml lies with {source}; name it with --config")


def _without_copies(model: Model, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A condition that is read by the image's first stage has its arrays saved a second time."""
    if not model.shared:
        return state
    for name, array in state.items():
        if name.startswith(CONDITION):
            twin = state.get(FIRST + name.removeprefix(CONDITION))
            if twin is None or not np.array_equal(array, twin):
                raise ValueError(f"{name} is not the first stage's, though the configuration says __is_first_stage__")
    return {name: array for name, array in state.items() if not name.startswith(CONDITION)}


def _array_notes(state: Mapping[str, np.ndarray], brought: Brought) -> list[str]:
    left = [name for name in state if "loss.perceptual_loss." in name]
    notes = []
    if left:
        notes.append(f"{len(left)} arrays of LPIPS are left out; training reads those that --vgg16 and --lpips convert")
    if "float64" in brought.dtypes.values():
        notes.append("arrays of float64 become float32")
    return notes


def memory(brought: Brought, folder: str, two_stage: bool) -> dict[str, Any]:
    """What the original's file held beside parameters, for the JSON of a folder, so that the way back is exact."""
    prefix = prefix_of(folder, two_stage)
    others = (FIRST, CONDITION) if two_stage and not folder else ()
    own = lambda names: {k: v for k, v in below(names, prefix).items() if not k.startswith(others or ("//",))}
    return {
        "buffers": {name: array.tolist() for name, array in own(brought.kept).items()},
        "dtypes": own(brought.dtypes),
        "absent": list(own(dict.fromkeys(brought.absent))),
    }


def _write(out: Path, plan: Plan, brought: Brought, step: int, origin: dict[str, Any]) -> None:
    """All folders beside `out` first, then its name."""
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # what an interrupted run has left
    try:
        two_stage = plan.configs[""]["kind"] == "two_stage"
        for folder, config in plan.configs.items():
            part = FIRST_STAGE if config["kind"] == "vqgan" and not folder else folder or "transformer"
            tree = unflatten_dict(below(brought.arrays, f"{part}/"), sep="/")
            own = memory(brought, folder, two_stage)
            checkpoint.save_model(
                str(partial / folder),
                params=tree["params"],
                config={**config, "original": {**origin, **own}},
                discriminator=tree.get("discriminator"),
                step=step,
            )
        if out.exists():
            out.rmdir()
        os.replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def prefix_of(folder: str, two_stage: bool) -> str:
    """What the original puts before the names of the arrays that lie in a folder."""
    return {FIRST_STAGE: FIRST, CONDITION_STAGE: CONDITION}.get(folder, "") if two_stage else ""


def below(names: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The entries whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in names.items() if name.startswith(prefix)}
