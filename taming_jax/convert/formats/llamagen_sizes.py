"""What LlamaGen's files do not hold: sizes that stand in its code, its command lines, or beside the file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from taming_jax.convert.original.settings import load_project
from taming_jax.limits import read_json

# (layers, width) of the published transformers -> heads.
HEADS = {
    (12, 768): 12,  # B
    (24, 1024): 16,  # L
    (36, 1280): 20,  # XL
    (48, 1536): 24,  # XXL
    (48, 2560): 40,  # XXXL
    (22, 2048): 32,  # 1B
    (24, 3200): 32,  # 3B
    (32, 4096): 32,  # 7B
}
SIDE = 256  # pixels, of the images that most were trained on
FACTOR = 16  # of the published tokenizer of the class-conditional ones
# What of its settings is of use here, by the names that LlamaGen gives them.
NAMES = ("n_layer", "n_head", "dim", "vocab_size", "block_size", "num_classes", "rope_base", "norm_eps", "image_size")
NAMES += ("downsample_size", "class_dropout_prob", "codebook_size", "codebook_embed_dim", "z_channels")
NAMES += ("commit_loss_beta", "entropy_loss_ratio", "multiple_of")


def told_by(
    source: Path, config: Path | None, args: Mapping[str, Any], arrays: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """(settings under LlamaGen's names, notes where they are from): the file `config`, or else a JSON or YAML that lies
    beside the checkpoint and has sizes, all of them those of its `arrays`; and the arguments saved in the checkpoint.

    Raises ValueError where `config` contradicts the arrays.
    """
    told = {name: value for name, value in _numbers(args).items()}
    if config is not None:
        given = _numbers(load_project(config))
        wrong = [f"{name}={given[name]}, but its arrays say {arrays[name]}" for name in _contradicted(given, arrays)]
        if wrong:
            raise ValueError(f"{config} is of another model: {', '.join(wrong)}")
        return told | given, [f"settings are those of {config}"]
    for file in sorted(path for ending in ("json", "yaml", "yml") for path in source.parent.glob(f"*.{ending}")):
        found = _beside(file)
        if len(found.keys() & arrays.keys()) >= 2 and not _contradicted(found, arrays):
            return told | found, [f"settings are those of {file.name}, which lies beside and has the same sizes"]
    return told, []


def grid_side(told: Mapping[str, Any], state: Mapping[str, np.ndarray], name: str, stage: Mapping[str, Any]) -> int:
    """Codes a side of the training images: by the table of positions where the file holds it; by the settings told; by
    the size in a published name, as `c2i_B_384.pt`; by the first stage's training, whose saved configuration `stage`
    is; else as published. Raises ValueError for tokens that make no square."""
    factor = 2 ** (len(stage["model"]["ch_mult"]) - 1) if stage else max(1, int(told.get("downsample_size", FACTOR)))
    tokens = 0
    if "freqs_cis" in state and state["freqs_cis"].ndim:
        tokens = len(state["freqs_cis"]) - 1
    elif "block_size" in told:
        tokens = int(told["block_size"])
    if tokens < 0:
        raise ValueError(f"{tokens} positions of image tokens cannot be")
    if tokens:
        side = round(tokens**0.5)
        if side * side != tokens:
            raise ValueError(f"{tokens} positions of image tokens make no square grid")
        return side
    named = [int(part) for part in name.removesuffix(".pt").split("_") if part in ("256", "384", "512")]
    pixels = told.get("image_size") or (named[-1] if named and name.startswith("c2i") else 0)
    if not pixels and stage:
        pixels = stage.get("data", {}).get("size", SIDE)
    pixels = pixels or SIDE
    return int(pixels if isinstance(pixels, int) else pixels[0]) // factor


def _numbers(found: Any) -> dict[str, Any]:
    if not isinstance(found, Mapping):
        return {}
    known = {name: value for name, value in found.items() if name in NAMES}
    return {name: value for name, value in known.items() if type(value) in (int, float) and abs(value) < 1 << 53}


def _beside(file: Path) -> dict[str, Any]:
    """The sizes in a JSON or YAML file; nothing where it is another kind of file."""
    try:
        if file.suffix == ".json":
            return _numbers(read_json(file))
        return _numbers(load_project(file))
    except (ValueError, OSError, UnicodeDecodeError):
        return {}


def _contradicted(found: Mapping[str, Any], arrays: Mapping[str, Any]) -> list[str]:
    return [name for name in found if name in arrays and found[name] != arrays[name]]
