"""The original's checkpoints into directories of this project."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from taming_jax import checkpoint
from taming_jax.checkpoint import FIRST_STAGE
from taming_jax.convert.conversion import Conversion, checked_sha256, new_folder, unwrapped
from taming_jax.convert.engine import Brought, bring
from taming_jax.convert.original.memory import below, remembered
from taming_jax.convert.original.names import CONDITION, FIRST, Networks, table_of
from taming_jax.convert.original.settings import Plan, load_project, translate
from taming_jax.convert.reader import read_state
from taming_jax.files import whole


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


def _without_copies(networks: Networks, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A condition that is read by the image's first stage has its arrays saved a second time."""
    if not networks.shared:
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


def _write(out: Path, plan: Plan, brought: Brought, step: int, origin: dict[str, Any]) -> None:
    """All folders first, then their name."""
    with whole(out) as unfinished:
        two_stage = plan.configs[""]["kind"] == "two_stage"
        for folder, config in plan.configs.items():
            part = FIRST_STAGE if config["kind"] == "vqgan" and not folder else folder or "transformer"
            tree = unflatten_dict(below(brought.arrays, f"{part}/"), sep="/")
            own = remembered(brought, folder, two_stage)
            checkpoint.save_model(
                str(unfinished / folder),
                params=tree["params"],
                config={**config, "original": {**origin, **own}},
                discriminator=tree.get("discriminator"),
                step=step,
            )
        if out.exists():
            out.rmdir()


def convert_checkpoint(
    source: str | Path,
    out_dir: str | Path,
    config: str | Path | None = None,
    *,
    n_classes: int = 0,
    check: Callable[[Plan], None] | None = None,
) -> Conversion:
    """Write the directory `out_dir` of a checkpoint of the original; `taming_jax.load` opens it.

    config: its project.yaml; without one it is looked for where the original's training leaves it.
    n_classes: for models conditioned on objects, how many classes of objects there are.
    check: called before anything is written. Raises ValueError for files that are missing, damaged, malicious or do not
    fit together, for settings that are not supported, and where `out_dir` holds something already. Nothing is left
    half-written.
    """
    out = new_folder(out_dir)
    digest = checked_sha256(source)
    config = Path(config) if config else _find_project(Path(source))
    project = load_project(config)
    state, extras = read_state(source)
    state, unwrapping = unwrapped(state)
    try:
        plan = translate(project, state, n_classes)
        state = _without_copies(plan.networks, state)
        brought = bring(table_of(plan.networks), state)
    except ValueError as error:
        raise ValueError(f"{source} with {config}: {error}") from error
    if check is not None:
        check(plan)
    notes = unwrapping + plan.notes + _array_notes(state, brought)
    step = extras.get("global_step", 0)
    step = step if isinstance(step, int) and 0 <= step < 1 << 31 else 0
    origin = {"file": Path(source).name, "sha256": digest, "epoch": extras.get("epoch", 0), "bare": plan.networks.bare}
    _write(out, plan, brought, step, origin)
    digests = {str(source): digest, str(config): checked_sha256(config)}
    return Conversion(plan.configs[""]["kind"], str(out), digests, notes)
