"""Models of this project as checkpoints that the original loads."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from taming_jax.checkpoint import CONDITION_STAGE, FIRST_STAGE, Saved, open_saved
from taming_jax.convert.conversion import Conversion, checked_sha256
from taming_jax.convert.engine import Brought, send
from taming_jax.convert.original.memory import recall
from taming_jax.convert.original.names import CONDITION, FIRST, Networks, StageNetworks, lpips_arrays, table_of
from taming_jax.convert.original.project import project_of
from taming_jax.convert.writer import write_checkpoint
from taming_jax.files import whole
from taming_jax.models.discriminator import DiscriminatorConfig
from taming_jax.models.gpt import GPTConfig, unstack_layers
from taming_jax.models.lpips import load_lpips
from taming_jax.models.vqgan import VQGANConfig
from taming_jax.outputs import check_outputs
from taming_jax.settings import from_dict, sides


def _offsets_added(brought: Brought) -> Brought:
    """ActNorm's parameters are offsets from its start; the original's are the sums."""
    for name in [name for name in brought.arrays if "/batch_stats/" in name and name.endswith(("/loc", "/scale"))]:
        brought.arrays[name] = brought.arrays[name] + brought.arrays[name.replace("/batch_stats/", "/params/")]
    return brought


def _remapped(networks: Networks) -> dict[str, tuple[int, ...]]:
    """The codes in use of each first stage that has a list of them, by its folder."""
    own = "" if networks.transformer is None else FIRST_STAGE
    stages = {own: networks.first_stage, CONDITION_STAGE: networks.condition_stage}
    return {folder: stage.config.remap for folder, stage in stages.items() if stage is not None and stage.config.remap}


def _load(parts: Mapping[str, Saved]) -> tuple[Networks, Brought]:
    """The networks of a model and of its folders, with all of their arrays and what is remembered of the original's."""
    brought, stages = Brought({}), {}
    kind, own = parts[""].kind, parts[""].config
    for folder, saved in parts.items():
        config, part = saved.config, FIRST_STAGE if kind == "vqgan" else folder or "transformer"
        params = unstack_layers(saved.load_params())
        brought.arrays |= flatten_dict({part: {"params": params}}, sep="/")
        if saved.kind == "vqgan":
            discriminator = saved.load_discriminator()
            found = None
            if discriminator is not None:
                found = from_dict(DiscriminatorConfig, config["discriminator"], "config.discriminator")
                brought.arrays |= flatten_dict({part: {"discriminator": discriminator}}, sep="/")
            network = from_dict(VQGANConfig, config["model"], "config.model")
            stages[part] = StageNetworks(network, found, _colours(network, config))
        recall(config.get("original", {}), folder, kind == "two_stage", into=brought)
    brought.arrays = {name: np.asarray(array) for name, array in brought.arrays.items()}
    if kind == "vqgan":
        prefix = own.get("original", {}).get("prefix", "")
        return Networks(stages[FIRST_STAGE], prefix=prefix), _offsets_added(brought)
    if kind not in ("two_stage", "transformer"):
        path = parts[""].path
        raise ValueError(f"{path!r} holds a checkpoint of kind {kind!r}; known: vqgan, two_stage, transformer")
    gpt = from_dict(GPTConfig, own["transformer"], "config.transformer")
    if kind == "transformer":
        return Networks(transformer=gpt, bare=own.get("original", {}).get("bare", False)), brought
    first, size = stages[FIRST_STAGE], own["data"]["size"]
    shared = own["condition"].get("stage") == "first_stage"
    networks = Networks(first, stages.get(CONDITION_STAGE), gpt, own["order"], first.config.grid(*sides(size)), shared)
    return networks, _offsets_added(brought)


def _colours(network: VQGANConfig, config: Mapping[str, Any]) -> int:
    """For how many labels the original's file has colours: as it had when it came, or as its class always has."""
    if network.content == "segmentation":
        return network.in_channels
    kept = config.get("original", {}).get("buffers", {}).get("colorize")
    return len(kept[0]) if kept else 0


def _write_files(paths: Sequence[Path], tree: dict, project: dict, remaps: Mapping[str, tuple[int, ...]]) -> list[str]:
    import yaml

    with whole(paths[0]) as unfinished:
        write_checkpoint(unfinished, tree)
        paths[1].write_text(yaml.safe_dump(project, sort_keys=False), encoding="utf-8")
        for path, codes in remaps.items():
            np.save(path, np.asarray(codes, np.int64))
    return [str(path) for path in paths]


def export_checkpoint(
    workdir: str | Path,
    out: str | Path,
    *,
    step: int | str | None = None,
    lpips: str | Path | None = None,
    ldm: bool = False,
) -> Conversion:
    """Write a model of this project as the original's checkpoint `out`, with its project.yaml beside it.

    ldm: a first stage as latent-diffusion has it. lpips: the file of LPIPS weights, to be put into it as the original's
    loss holds them. Raises ValueError where the directory holds no model, the original cannot do what it does, or a
    file exists already.
    """
    out = Path(out)
    saved = open_saved(str(workdir), step)
    parts = {"": saved}
    if saved.kind == "two_stage":
        folders = {name: Path(saved.path) / name for name in (FIRST_STAGE, CONDITION_STAGE)}
        parts |= {name: open_saved(str(folder)) for name, folder in folders.items() if folder.is_dir()}
    networks, brought = _load(parts)
    codes = _remapped(networks)
    remaps = {folder: str(out.with_name("-".join(filter(None, (out.stem, folder, "remap.npy"))))) for folder in codes}
    paths = [out, out.with_name(f"{out.stem}-project.yaml"), *map(Path, remaps.values())]
    check_outputs("--export", dict.fromkeys(paths, lambda path: False))
    notes: list[str] = []
    project = project_of(networks, {folder: part.config for folder, part in parts.items()}, remaps, notes, ldm)
    state = send(table_of(networks), brought)
    if networks.shared:
        state |= {CONDITION + k.removeprefix(FIRST): v for k, v in state.items() if k.startswith(FIRST)}
    if networks.first_stage is not None and networks.first_stage.discriminator is not None:
        if lpips is not None:
            prefix = networks.prefix if networks.transformer is None else FIRST
            state |= {prefix + name: array for name, array in lpips_arrays(load_lpips(lpips)).items()}
        else:
            notes.append("LPIPS is left out: load with strict=False, or give --lpips weights/lpips_vgg16.npz")
    tree = {"epoch": saved.config.get("original", {}).get("epoch", 0), "global_step": saved.step}
    tree |= {"pytorch-lightning_version": "1.0.8", "callbacks": {}, "optimizer_states": [], "lr_schedulers": []}
    tree["state_dict"] = state
    written = _write_files(paths, tree, project, {remaps[folder]: used for folder, used in codes.items()})
    digests = {path: checked_sha256(path) for path in written}
    return Conversion(saved.kind, str(out), digests, notes, "latent-diffusion" if ldm else "original")
