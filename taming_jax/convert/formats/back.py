"""Models of this project as checkpoints of all programs of the family."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from taming_jax.checkpoint import FIRST_STAGE, Saved, open_saved
from taming_jax.convert.conversion import Conversion, checked_sha256, new_folder
from taming_jax.convert.engine import send
from taming_jax.convert.formats import diffusers, llamagen_tokenizer, llamagen_transformer, vqgan_jax
from taming_jax.convert.formats.memory import recalled
from taming_jax.convert.original import export_checkpoint
from taming_jax.convert.writer import write_checkpoint
from taming_jax.files import whole, write_whole
from taming_jax.models.gpt import GPTConfig
from taming_jax.models.vqgan import VQGANConfig
from taming_jax.outputs import check_outputs
from taming_jax.settings import from_dict, sides

FORMATS = ("original", "latent-diffusion", "llamagen", "diffusers", "vqgan-jax")


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
    writers = {"diffusers": _to_diffusers, "vqgan-jax": _to_flax, "llamagen": _to_llamagen}
    done = writers[to](saved, Path(out))
    done.digests, done.format = {path: checked_sha256(path) for path in done.digests}, to
    return done


def _natural(saved: Saved) -> str:
    """The format for a model that was trained here."""
    if saved.kind == "vqgan":
        network = from_dict(VQGANConfig, saved.config["model"], "config.model")
        found = {"normalized": "llamagen"}.get(network.quantizer, "")
        return found or ("latent-diffusion" if network.attention == "none" else "original")
    return "llamagen" if saved.config.get("transformer", {}).get("positions") == "rotary" else "original"


def _stage_of(saved: Saved, to: str, name: str) -> tuple[VQGANConfig, Mapping[str, Any]]:
    """(the network of a first stage, what it remembers of the format). name: of the other program's class."""
    if saved.kind != "vqgan":
        raise ValueError(f"{name} is a first stage, and {saved.path} is of kind {saved.kind!r}")
    memory = saved.config.get("original", {})
    network = from_dict(VQGANConfig, saved.config["model"], "config.model")
    return network, memory if memory.get("format") == to else {}


def _to_diffusers(saved: Saved, out: Path) -> Conversion:
    from safetensors.numpy import save_file

    network, memory = _stage_of(saved, "diffusers", "diffusers' VQModel")
    settings = memory.get("settings") or diffusers.settings_of(network)
    state = send(diffusers.table_of(network, memory.get("old_names", False)), recalled(saved))

    def write(path: Path) -> None:
        if path.suffix == ".bin":
            write_checkpoint(path, state)
        else:
            arrays = {key: np.ascontiguousarray(array) for key, array in state.items()}
            save_file(arrays, path, metadata={"format": "pt"})

    return _write_folder(saved, out, memory.get("file", f"{diffusers.STEM}.safetensors"), settings, write)


def _to_flax(saved: Saved, out: Path) -> Conversion:
    from flax.serialization import msgpack_serialize

    network, memory = _stage_of(saved, "vqgan-jax", "vqgan-jax's VQModel")
    settings = memory.get("settings") or vqgan_jax.settings_of(network)
    state = send(vqgan_jax.table_of(network, memory.get("old_norms", False)), recalled(saved))
    tree = unflatten_dict({name: np.ascontiguousarray(array) for name, array in state.items()}, sep=".")
    write = lambda path: path.write_bytes(msgpack_serialize(tree))
    return _write_folder(saved, out, vqgan_jax.FILE, settings, write)


def _write_folder(
    saved: Saved, out: Path, name: str, settings: Mapping[str, Any], write: Callable[[Path], Any]
) -> Conversion:
    """A folder of config.json and the file `name`, which `write` makes at a path."""
    folder = new_folder(out)
    with whole(folder) as unfinished:
        unfinished.mkdir(parents=True)
        write_whole(unfinished / diffusers.CONFIG, json.dumps(settings, indent=2, sort_keys=True) + "\n")
        write(Path(unfinished / name))
        if folder.exists():
            folder.rmdir()
    written = {str(folder / name): "", str(folder / diffusers.CONFIG): ""}
    return Conversion(saved.kind, str(out), written)


def _to_llamagen(saved: Saved, out: Path) -> Conversion:
    check_outputs("--export", {out: lambda path: False})
    notes = []
    if saved.kind == "vqgan":
        network, _ = _stage_of(saved, "llamagen", "LlamaGen's tokenizer")
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
    return Conversion(saved.kind, str(out), {str(out): ""}, notes)
