"""The original's checkpoints into directories of this project."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from taming_jax.checkpoint import FIRST_STAGE
from taming_jax.convert.conversion import Conversion, Part, checked_sha256, new_folder, unwrapped, write_parts
from taming_jax.convert.engine import Brought, bring, check_layers
from taming_jax.convert.original.memory import below, remembered
from taming_jax.convert.original.names import CONDITION, FIRST, SIGN, Networks, table_of
from taming_jax.convert.original.settings import Plan, load_project, translate
from taming_jax.convert.reader import read_state

EMA = "model_ema."


def _find_project(source: Path) -> Path:
    """The original's training writes RUN/checkpoints/last.ckpt and RUN/configs/DATE-project.yaml; the export here
    NAME.ckpt and NAME-project.yaml; published are also NAME.ckpt with NAME.yaml, and model.ckpt with config.yaml."""
    own = source.with_name(f"{source.stem}-project.yaml")
    if own.is_file():
        return own
    folders = (source.parent, source.parent.parent / "configs", source.parent / "configs")
    for folder in folders:
        found = sorted(folder.glob("*project.yaml"))
        if found:
            return found[-1]  # they begin with their date
    for published in (source.with_suffix(".yaml"), source.with_name("config.yaml")):
        if published.is_file():
            return published
    raise ValueError(f"no *project.yaml lies with {source}, and no config.yaml; name it with --config")


def below_first_stage(networks: Networks, state: dict[str, np.ndarray], notes: list[str]) -> dict[str, np.ndarray]:
    """Of a latent diffusion model only the first stage is wanted."""
    if not networks.prefix:
        return state
    own = {name: array for name, array in state.items() if name.startswith(networks.prefix)}
    if len(own) < len(state):
        notes.append(f"{len(state) - len(own)} arrays outside of the first stage ({networks.prefix}*) are left out")
    return own


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


def _parts(plan: Plan, brought: Brought, origin: dict[str, Any]) -> dict[str, Part]:
    parts = {}
    two_stage = plan.configs[""]["kind"] == "two_stage"
    for folder, config in plan.configs.items():
        part = FIRST_STAGE if config["kind"] == "vqgan" and not folder else folder or "transformer"
        tree = unflatten_dict(below(brought.arrays, f"{part}/"), sep="/")
        own = remembered(brought, folder, two_stage)
        saved = {**config, "original": {**origin, **own}}
        parts[folder] = Part(saved, tree["params"], tree.get("discriminator"))
    return parts


def _averaged(state: dict[str, np.ndarray], ema: bool) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays without latent-diffusion's averages of them (`model_ema.*`), or with these in their place."""
    own = {name: array for name, array in state.items() if not name.startswith(EMA)}
    names = {EMA + name.replace(".", ""): name for name in own}
    averages = {names[name]: array for name, array in state.items() if name in names}
    counts = (f"{EMA}decay", f"{EMA}num_updates")
    own |= {name: a for name, a in state.items() if name.startswith(EMA) and name not in names and name not in counts}
    if ema and not averages:
        raise ValueError("--ema: the checkpoint holds no averages (model_ema.*) of these arrays")
    if ema:
        return own | averages, [f"{len(averages)} arrays are the averages (model_ema.*)"]
    return own, [f"{len(averages)} averages (model_ema.*) are left out; --ema takes them instead"] if averages else []


def convert_checkpoint(
    source: str | Path,
    out_dir: str | Path,
    config: str | Path | None = None,
    *,
    read: tuple[str, dict[str, np.ndarray], dict[str, Any]] | None = None,
    ema: bool = False,
    n_classes: int = 0,
    check: Callable[[Plan], None] | None = None,
) -> Conversion:
    """Write the directory `out_dir` of a checkpoint of the original, or of latent-diffusion's first stages, which are
    the original's with a few more settings; `taming_jax.load` opens it.

    config: its project.yaml; without one it is looked for where the trainings leave it.
    read: its SHA-256 and what `read_state` gave of it, where they are known already. ema: take latent-diffusion's
    averages of the parameters.
    n_classes: for models conditioned on objects, how many classes of objects there are.
    check: called before anything is written. Raises ValueError for files that are missing, damaged, malicious or do not
    fit together, for settings that are not supported, and where `out_dir` holds something already. Nothing is left
    half-written.
    """
    out = new_folder(out_dir)
    digest = read[0] if read else checked_sha256(source)
    config = Path(config) if config else _find_project(Path(source))
    project = load_project(config)
    state, extras = read[1:] if read else read_state(source)
    try:
        state, unwrapping, _ = unwrapped(state, SIGN)
        plan = translate(project, state, n_classes)
        if plan.networks.transformer is not None:
            check_layers(plan.networks.transformer.n_layer, state)
        state = _without_copies(plan.networks, below_first_stage(plan.networks, state, plan.notes))
        state, averaging = _averaged(state, ema)
        brought = bring(table_of(plan.networks), state)
    except ValueError as error:
        raise ValueError(f"{source} with {config}: {error}") from error
    if check is not None:
        check(plan)
    notes = unwrapping + averaging + plan.notes + _array_notes(state, brought)
    step = extras.get("global_step", 0)
    step = step if isinstance(step, int) and 0 <= step < 1 << 31 else 0
    origin = {"file": Path(source).name, "sha256": digest, "epoch": extras.get("epoch", 0), "bare": plan.networks.bare}
    if plan.program == "ldm":
        origin |= {"format": "latent-diffusion", "class": plan.kind, "prefix": plan.networks.prefix}
    write_parts(out, _parts(plan, brought, origin), step)
    digests = {str(source): digest, str(config): checked_sha256(config)}
    return Conversion(plan.configs[""]["kind"], str(out), digests, notes, origin.get("format", "original"))
