"""Which program a checkpoint is of, by what is in it, and the conversion that goes with it; and the way back."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from taming_jax.checkpoint import FIRST_STAGE, Saved, open_saved
from taming_jax.convert.conversion import Conversion, Part, checked_sha256, new_folder, unwrapped, write_parts
from taming_jax.convert.engine import bring, send
from taming_jax.convert.formats import diffusers, llamagen_sizes, llamagen_tokenizer, llamagen_transformer
from taming_jax.convert.formats.memory import recalled, remembered, tree_of
from taming_jax.convert.original import convert_checkpoint, export_checkpoint
from taming_jax.convert.original.settings import Plan
from taming_jax.convert.reader import ENTRIES, read_state
from taming_jax.convert.writer import write_checkpoint
from taming_jax.files import whole, write_whole
from taming_jax.models.gpt import GPTConfig
from taming_jax.models.vqgan import VQGANConfig
from taming_jax.outputs import check_outputs
from taming_jax.settings import from_dict, sides

FORMATS = ("original", "latent-diffusion", "llamagen", "diffusers")
SIGNS = {  # arrays that only one kind of file has
    diffusers.SIGN: "diffusers",
    llamagen_tokenizer.SIGN: "llamagen tokenizer",
    llamagen_transformer.SIGN: "llamagen transformer",
}


def convert(
    source: str | Path,
    out_dir: str | Path,
    config: str | Path | None = None,
    *,
    first_stage: str | Path | None = None,
    n_head: int = 0,
    ema: bool = False,
    n_classes: int = 0,
    check: Callable[[Plan], None] | None = None,
) -> Conversion:
    """Write the directory `out_dir` of a checkpoint of any program of the family, which its arrays tell.

    source: a file, or a directory of diffusers. config: the settings that go with it, where its format has any; without
    one they are looked for beside it. first_stage: for LlamaGen's transformers, the directory of the tokenizer, as this
    command wrote it; it goes into `out_dir`, which is then complete. n_head: their heads, where their size is none of
    the published ones. ema: take the averages of the parameters, where the file holds any beside them. n_classes and
    check: see `original.convert_checkpoint`.
    Raises ValueError as that, and for a kind of file that is not supported, with the reason.
    """
    source, config = Path(source), Path(config) if config else None
    if source.is_dir():
        return _from_diffusers(source, out_dir)
    if source.name == diffusers.CONFIG or source.stem == diffusers.STEM:
        return _from_diffusers(source.parent, out_dir)
    digest = checked_sha256(source)
    state, extras = read_state(source, ("ema", *ENTRIES) if ema else ENTRIES)
    names, notes = unwrapped(state)
    kind = next((kind for sign, kind in SIGNS.items() if sign in names), "")
    if kind == "diffusers":
        raise ValueError(f"{source} is of diffusers, whose settings stand in {diffusers.CONFIG}: name their directory")
    if kind:
        out = new_folder(out_dir)
        others = [name for name in extras.get("entries", []) if name != extras["entry"]]
        if ema and "ema" not in extras.get("entries", []):
            raise ValueError(f"--ema: {source} holds no averages of the parameters beside them")
        if others:
            notes.append(f"taken: the arrays of {extras['entry']!r}; left out: {', '.join(others)}")
        args = extras.get("args", {})
        try:
            if kind == "llamagen tokenizer":
                return _from_tokenizer(source, digest, out, config, names, args, notes)
            return _from_transformer(source, digest, out, config, names, args, notes, first_stage, n_head)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
    read = (digest, state, extras)
    return convert_checkpoint(source, out_dir, config, read=read, ema=ema, n_classes=n_classes, check=check)


def _from_diffusers(folder: Path, out_dir: str | Path) -> Conversion:
    out = new_folder(out_dir)
    state, settings, file = diffusers.read_folder(folder)
    state, notes = unwrapped(state)
    old = diffusers.has_old_names(state)
    try:
        network = diffusers.config_of(settings, str(folder / diffusers.CONFIG))
        brought = bring(diffusers.table_of(network, old), state)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    digests = {str(path): checked_sha256(path) for path in (file, folder / diffusers.CONFIG)}
    origin = {"format": "diffusers", "file": file.name, "settings": settings, "old_names": old, **remembered(brought)}
    saved = {**diffusers.saved_config(network), "original": origin}
    write_parts(out, {"": Part(saved, tree_of(brought))})
    return Conversion("vqgan", str(out), digests, notes, "diffusers")


def _from_tokenizer(
    source: Path,
    digest: str,
    out: Path,
    config: Path | None,
    state: Mapping[str, np.ndarray],
    args: Mapping[str, Any],
    notes: list[str],
) -> Conversion:
    shapes = state["quantize.embedding.weight"].shape if "quantize.embedding.weight" in state else (0, 0)
    known = {"codebook_size": shapes[0], "codebook_embed_dim": shapes[-1]}
    told, found = llamagen_sizes.told_by(source, config, args, known)
    network = llamagen_tokenizer.config_of(state, told)
    brought = bring(llamagen_tokenizer.table_of(network), state)
    origin = {"format": "llamagen", "file": source.name, "sha256": digest, **remembered(brought)}
    saved = {**llamagen_tokenizer.saved_config(network), "original": origin}
    write_parts(out, {"": Part(saved, tree_of(brought))})
    return Conversion("vqgan", str(out), {str(source): digest}, notes + found, "llamagen")


def _from_transformer(
    source: Path,
    digest: str,
    out: Path,
    config: Path | None,
    state: dict[str, np.ndarray],
    args: Mapping[str, Any],
    notes: list[str],
    first_stage: str | Path | None,
    n_head: int,
) -> Conversion:
    sizes = llamagen_transformer.sizes_of(state)
    told, found = llamagen_sizes.told_by(source, config, args, sizes)
    stage = _opened_stage(first_stage, sizes["vocab_size"]) if first_stage else None
    side = llamagen_sizes.grid_side(told, state, source.name, stage.config if stage else {})
    gpt = llamagen_transformer.config_of(sizes, told, n_head, side)
    brought = bring(llamagen_transformer.table_of(gpt), llamagen_transformer.split(state, gpt))
    origin = {"format": "llamagen", "file": source.name, "sha256": digest, **remembered(brought)}
    notes += [*found, f"{gpt.n_head} heads; a grid of {side} x {side} codes"]
    parts, size = {}, side * llamagen_sizes.FACTOR
    if stage is not None:
        network = from_dict(VQGANConfig, stage.config["model"], "config.model")
        size = side * network.factor
        parts[FIRST_STAGE] = Part(dict(stage.config), stage.load_params(), stage.load_discriminator())
    else:
        notes.append("a transformer alone; with --first-stage DIR, its tokenizer's directory, it draws images")
    saved = llamagen_transformer.saved_config(gpt, sizes["num_classes"], size, stage is not None)
    parts = {"": Part({**saved, "original": origin}, tree_of(brought)), **parts}
    write_parts(out, parts)
    return Conversion(saved["kind"], str(out), {str(source): digest}, notes, "llamagen")


def _opened_stage(path: str | Path, codes: int) -> Saved:
    """The first stage that a transformer is to draw with."""
    saved = open_saved(str(path))
    if saved.kind != "vqgan":
        raise ValueError(f"--first-stage {path} holds no first stage; convert the tokenizer first, and name that")
    network = from_dict(VQGANConfig, saved.config["model"], "config.model")
    if network.n_codes != codes:
        raise ValueError(f"--first-stage {path} has {network.n_codes} codes, but the transformer draws {codes}")
    return saved


def export(
    workdir: str | Path,
    out: str | Path,
    *,
    to: str = "",
    step: int | str | None = None,
    lpips: str | Path | None = None,
) -> Conversion:
    """Write a model of this project as a checkpoint of the format `to`, one of FORMATS; "": that from which it came,
    or for one that was trained here the one that can hold its networks.

    lpips: see `original.export_checkpoint`. Raises ValueError where the directory holds no model, the other program
    cannot do what it does, or something is there already.
    """
    saved = open_saved(str(workdir), step)
    to = to or saved.config.get("original", {}).get("format", "") or _natural(saved)
    if to not in FORMATS:
        raise ValueError(f"--format {to} is unknown; known: {', '.join(FORMATS)}")
    if to in ("original", "latent-diffusion"):
        ldm = to == "latent-diffusion"
        if ldm and saved.kind != "vqgan":
            raise ValueError(f"latent-diffusion has first stages alone, and {workdir} is of kind {saved.kind!r}")
        return export_checkpoint(workdir, out, step=step, lpips=lpips, ldm=ldm)
    if lpips is not None:
        raise ValueError(f"--lpips goes with the original's format, not with {to}")
    done = _to_diffusers(saved, Path(out)) if to == "diffusers" else _to_llamagen(saved, Path(out))
    done.digests = {path: checked_sha256(path) for path in done.digests}
    return done


def _natural(saved: Saved) -> str:
    """The format for a model that was trained here."""
    if saved.kind == "vqgan":
        network = from_dict(VQGANConfig, saved.config["model"], "config.model")
        found = {"normalized": "llamagen"}.get(network.quantizer, "")
        return found or ("latent-diffusion" if network.attention == "none" else "original")
    return "llamagen" if saved.config.get("transformer", {}).get("positions") == "rotary" else "original"


def _to_diffusers(saved: Saved, out: Path) -> Conversion:
    from safetensors.numpy import save_file

    if saved.kind != "vqgan":
        raise ValueError(f"diffusers' VQModel is a first stage, and {saved.path} is of kind {saved.kind!r}")
    memory = saved.config.get("original", {})
    memory = memory if memory.get("format") == "diffusers" else {}
    network = from_dict(VQGANConfig, saved.config["model"], "config.model")
    settings = memory.get("settings") or diffusers.settings_of(network)
    state = send(diffusers.table_of(network, memory.get("old_names", False)), recalled(saved))
    folder = new_folder(out)
    name = memory.get("file", f"{diffusers.STEM}.safetensors")
    with whole(folder) as unfinished:
        unfinished.mkdir(parents=True)
        write_whole(unfinished / diffusers.CONFIG, json.dumps(settings, indent=2, sort_keys=True) + "\n")
        if name.endswith(".bin"):
            write_checkpoint(unfinished / name, state)
        else:
            arrays = {key: np.ascontiguousarray(array) for key, array in state.items()}
            save_file(arrays, unfinished / name, metadata={"format": "pt"})
        if folder.exists():
            folder.rmdir()
    return Conversion(
        saved.kind, str(out), {str(folder / name): "", str(folder / diffusers.CONFIG): ""}, [], "diffusers"
    )


def _to_llamagen(saved: Saved, out: Path) -> Conversion:
    check_outputs("--export", {out: lambda path: False})
    notes = []
    if saved.kind == "vqgan":
        network = from_dict(VQGANConfig, saved.config["model"], "config.model")
        llamagen_tokenizer.check(network)
        state = send(llamagen_tokenizer.table_of(network), recalled(saved))
    else:
        gpt = from_dict(GPTConfig, saved.config["transformer"], "config.transformer")
        llamagen_transformer.check(gpt, saved.config.get("condition", {}))
        state = llamagen_transformer.joined(send(llamagen_transformer.table_of(gpt), recalled(saved)))
        notes.append(f"LlamaGen must be told n_head={gpt.n_head}, block_size={gpt.block_size}")
        if saved.kind == "two_stage":
            height, width = sides(saved.config["data"]["size"])
            if height != width or saved.config["order"] != "row_major":
                raise ValueError("LlamaGen's transformer draws squares row by row alone")
            notes.append(f"its tokenizer is not in it: --export {saved.path}/{FIRST_STAGE} OUT.pt")
    with whole(out) as unfinished:
        write_checkpoint(unfinished, {"model": state})
    return Conversion(saved.kind, str(out), {str(out): ""}, notes, "llamagen")
