"""Which program a checkpoint is of, by what is in it, and the conversion that goes with it."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from taming_jax.checkpoint import FIRST_STAGE, Saved, open_saved
from taming_jax.convert.array_names import is_average
from taming_jax.convert.conversion import Conversion, Part, checked_sha256, new_folder, unwrapped, write_parts
from taming_jax.convert.engine import Table, bring
from taming_jax.convert.flax_file import read_flax
from taming_jax.convert.folders import PART, file_in
from taming_jax.convert.formats import diffusers, llamagen_sizes, llamagen_tokenizer, llamagen_transformer, vqgan_jax
from taming_jax.convert.formats.memory import remembered, tree_of
from taming_jax.convert.original import convert_checkpoint
from taming_jax.convert.original.names import SIGN
from taming_jax.convert.original.settings import Plan
from taming_jax.convert.weights import Weights, read_weights
from taming_jax.file_kinds import kind_of
from taming_jax.models.vqgan import VQGANConfig
from taming_jax.settings import from_dict

SIGNS = {  # arrays that only one kind of file has
    diffusers.SIGN: "diffusers",
    llamagen_tokenizer.SIGN: "llamagen tokenizer",
    llamagen_transformer.SIGN: "llamagen transformer",
}
ANY = f"{SIGN}|{re.escape(llamagen_transformer.SIGN)}"  # of all; first stages of others have one of the original's


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

    source: a file, an index of several files, or a folder with one of these. config: the settings that go with it,
    where its format has any; without one they are looked for beside it. first_stage: for LlamaGen's transformers, the
    directory of the tokenizer, as this command wrote it; it goes into `out_dir`, which is then complete. n_head: their
    heads, where their size is none of the published ones. ema: take the averages of the parameters, where the file
    holds any beside them. n_classes and check: see `original.convert_checkpoint`.
    Raises ValueError as that, and for a kind of file that is not supported, with the reason.
    """
    if "://" in str(source):
        raise ValueError(f"{source} is no file of this machine: download it first, and name the file or its folder")
    source, config = Path(source), Path(config) if config else None
    out = new_folder(out_dir)
    notes: list[str] = []
    if source.name == diffusers.CONFIG:  # the settings were named instead
        source = source.parent
    if source.is_dir():
        source, notes = file_in(source)
    digest = checked_sha256(source, notes)
    if kind_of(source).name == "flax":
        done, files = _from_flax(source, out, config), [source]
    else:
        read = read_weights(source, ema)
        files, notes = read.files, notes + read.notes
        done = _from_arrays(source, out, config, digest, read, first_stage, n_head, ema, n_classes, check)
    done.digests = {str(file): checked_sha256(file) for file in files} | done.digests
    done.notes = notes + done.notes
    return done


def _from_arrays(
    source: Path,
    out: Path,
    config: Path | None,
    digest: str,
    read: Weights,
    first_stage: str | Path | None,
    n_head: int,
    ema: bool,
    n_classes: int,
    check: Callable[[Plan], None] | None,
) -> Conversion:
    entry, entries = read.extras.get("entry", ""), read.extras.get("entries", [])
    notes = []
    if others := [name for name in entries if name != entry]:
        notes.append(f"taken: the arrays of {entry!r}; left out: {', '.join(others)}")
    try:
        state, more, averages = unwrapped(read.state, ANY, ema)
        notes += more
        averages = averages or (ema and is_average(entry))
        kind = next((kind for sign, kind in SIGNS.items() if sign in state), "")
        if kind and ema and not averages:
            raise ValueError("--ema: it holds no averages of the parameters beside them")
        if kind == "diffusers":
            done = _from_diffusers(source, out, config, state)
        elif kind == "llamagen tokenizer":
            done = _from_tokenizer(source, digest, out, config, state, read.extras.get("args", {}))
        elif kind:
            args = read.extras.get("args", {})
            done = _from_transformer(source, digest, out, config, state, args, first_stage, n_head)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    if not kind:
        found, own = (digest, state, read.extras), ema and not averages
        done = convert_checkpoint(source, out, config, read=found, ema=own, n_classes=n_classes, check=check)
    done.notes = notes + done.notes
    return done


def _from_flax(source: Path, out: Path, config: Path | None) -> Conversion:
    state, notes = read_flax(source)
    path = config or source.with_name(vqgan_jax.CONFIG)
    try:
        state, more, _ = unwrapped(state, re.escape(vqgan_jax.SIGN))
        vqgan_jax.check_is_vqgan(state)
        settings = diffusers.read_settings(path)
        network = vqgan_jax.config_of(settings, str(path))
        old = vqgan_jax.has_old_norms(state)
        origin = {"format": "vqgan-jax", "file": source.name, "settings": settings, "old_norms": old}
        done = _stage(out, state, vqgan_jax.table_of(network, old), vqgan_jax.saved_config(network), origin)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    done.digests = {str(path): checked_sha256(path)}
    done.notes = notes + more
    return done


def _from_diffusers(source: Path, out: Path, config: Path | None, state: Mapping[str, np.ndarray]) -> Conversion:
    path = config or source.with_name(diffusers.CONFIG)
    settings, old = diffusers.read_settings(path), diffusers.has_old_names(state)
    network = diffusers.config_of(settings, str(path))
    own = source.name.startswith(diffusers.STEM) and source.suffix in (".bin", ".safetensors")
    ending = ".bin" if ".bin" in source.suffixes else ".safetensors"
    file = source.name if own and not PART.search(source.name) else f"{diffusers.STEM}{ending}"
    origin = {"format": "diffusers", "file": file, "settings": settings, "old_names": old}
    done = _stage(out, state, diffusers.table_of(network, old), diffusers.saved_config(network), origin)
    done.digests = {str(path): checked_sha256(path)}
    return done


def _stage(
    out: Path, state: Mapping[str, np.ndarray], table: Table, config: dict[str, Any], origin: dict[str, Any]
) -> Conversion:
    """Write a first stage. config: the configuration to save; origin: what it is to say of where it comes from."""
    brought = bring(table, state)
    saved = {**config, "original": {**origin, **remembered(brought)}}
    write_parts(out, {"": Part(saved, tree_of(brought))})
    return Conversion("vqgan", str(out), format=origin["format"])


def _from_tokenizer(
    source: Path,
    digest: str,
    out: Path,
    config: Path | None,
    state: Mapping[str, np.ndarray],
    args: Mapping[str, Any],
) -> Conversion:
    shapes = state["quantize.embedding.weight"].shape if "quantize.embedding.weight" in state else ()
    known = {"codebook_size": shapes[0], "codebook_embed_dim": shapes[-1]} if shapes else {}
    told, found = llamagen_sizes.told_by(source, config, args, known)
    network = llamagen_tokenizer.config_of(state, told)
    origin = {"format": "llamagen", "file": source.name, "sha256": digest}
    table = llamagen_tokenizer.table_of(network)
    done = _stage(out, state, table, llamagen_tokenizer.saved_config(network), origin)
    done.notes = found
    return done


def _from_transformer(
    source: Path,
    digest: str,
    out: Path,
    config: Path | None,
    state: dict[str, np.ndarray],
    args: Mapping[str, Any],
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
    notes = [*found, f"{gpt.n_head} heads; a grid of {side} x {side} codes"]
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
    saved.require("vqgan", "--first-stage:")
    network = from_dict(VQGANConfig, saved.config["model"], "config.model")
    if network.n_codes != codes:
        raise ValueError(f"--first-stage {path} has {network.n_codes} codes, but the transformer draws {codes}")
    return saved
