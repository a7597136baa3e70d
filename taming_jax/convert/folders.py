"""Which file of a folder is its checkpoint; and what a folder is that holds none."""

import re
from pathlib import Path

from taming_jax.file_kinds import shown
from taming_jax.limits import read_json

# What programs of Hugging Face call their files, without ending, the first that is there before the others.
STEMS = ("diffusion_pytorch_model", "model", "pytorch_model", "flax_model")
ENDINGS = (".safetensors", ".bin", ".msgpack", ".ckpt", ".pth", ".pt")
PART = re.compile(r"-(\d{5})-of-(\d{5})(?=\.)")  # of one file of several
INDEX = re.compile(r"\.index(\.[\w-]+)?\.json$")
# What lies in folders that are no checkpoints of any format here, and what to do then; the first that fits counts.
FOREIGN = (
    ("checkpoints/*/params", "a model of this project already: load it as it is; --export writes it for others"),
    ("model_index.json", "a whole pipeline of diffusers: name the folder of its first stage in it, such as {inside}"),
    ("mp_rank_*_model_states.pt", "a checkpoint of DeepSpeed: give {inside}, or what zero_to_fp32.py makes of it"),
    ("*/mp_rank_*_model_states.pt", "a checkpoint of DeepSpeed: give {inside}, or what zero_to_fp32.py makes of it"),
    (
        "*.distcp",
        "a distributed checkpoint of PyTorch: make one file of it, python -m torch.distributed.checkpoint.format_utils "
        "dcp_to_torch FOLDER FILE",
    ),
    ("saved_model.pb", "a SavedModel of TensorFlow: save its arrays as safetensors"),
    ("*.index", "a checkpoint of TensorFlow: save its arrays as safetensors"),
    ("*.data-*-of-*", "a checkpoint of TensorFlow: save its arrays as safetensors"),
    ("_CHECKPOINT_METADATA", "a checkpoint of Orbax of another program: save its parameters as safetensors there"),
    ("_METADATA", "a checkpoint of Orbax of another program: save its parameters as safetensors there"),
    ("manifest.ocdbt", "a checkpoint of Orbax of another program: save its parameters as safetensors there"),
    (".zarray", "an array of Zarr: save its arrays as safetensors"),
    ("data.pkl", "an unpacked file of PyTorch: get the file again, and do not unpack it"),
    ("*/data.pkl", "an unpacked file of PyTorch: get the file again, and do not unpack it"),
    ("checkpoint_*", "a checkpoint folder of Flax: name one of its files, such as {inside}"),
)


def refuse_foreign(folder: Path) -> None:
    """Raise ValueError, with what it is, for a folder that holds no checkpoint that is read."""
    config = folder / "config.json"
    if config.is_file() and config.stat().st_size < 1 << 20 and b'"taming_jax"' in config.read_bytes():
        raise ValueError(f"{folder} is {FOREIGN[0][1]}")
    for pattern, words in FOREIGN:
        if inside := next(iter(sorted(folder.glob(pattern))), None):
            if pattern == "model_index.json":
                stages = [path for name in ("vqvae", "vqgan", "movq", "vae") if (path := folder / name).is_dir()]
                inside = next(iter(stages), folder / "vqvae")
            raise ValueError(f"{folder} is {words.format(inside=inside)}")


def file_in(folder: Path) -> tuple[Path, list[str]]:
    """(the file of the checkpoint in a folder, or the index of its files, notes). Raises ValueError where there is
    none, or are several."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    names = {path.name for path in files}
    for stem in STEMS:
        for name in (f"{stem}{ending}{more}" for ending in ENDINGS for more in ("", ".index.json")):
            if name in names:
                return folder / name, []
    found = {index_of(path) or path for path in files if path.suffix in ENDINGS}
    if parts := {path for path in found if PART.search(path.name)}:  # without an index, the first for all
        found -= parts - {min(parts)}
    variants = {path for path in found if path.name.startswith(tuple(f"{stem}." for stem in STEMS))}
    for chosen in (found, variants, {path for path in variants if ".safetensors" in path.name}):
        if len(chosen) == 1:
            (path,) = chosen
            return path, [f"taken of {folder}: {path.name}"]
    if not found:
        refuse_foreign(folder)
        if (folder / "checkpoints").is_dir():  # where the original's training leaves them
            return file_in(folder / "checkpoints")
        others = ", ".join(shown(path.name) for path in sorted(folder.iterdir())[:8])
        raise ValueError(f"{folder} holds no checkpoint ({', '.join(ENDINGS)}), but {others or 'nothing'}")
    several = ", ".join(sorted(shown(path.name) for path in found)[:8])
    raise ValueError(f"{folder} holds several checkpoints; name one of them: {several}")


def index_of(part: Path) -> Path | None:
    """The index of which a file is one of several; None where there is none."""
    if not PART.search(part.name):
        return None
    for path in sorted(part.parent.glob("*.index*.json")):
        try:
            if part.name in weight_map(path).values():
                return path
        except ValueError:
            continue
    return None


def weight_map(index: Path) -> dict[str, str]:
    """The file of each array. Raises ValueError where it is no index, or names files outside of its folder."""
    try:
        found = read_json(index, 16 << 20)["weight_map"]
        if not isinstance(found, dict) or not found or not all(isinstance(file, str) for file in found.values()):
            raise ValueError("its weight_map names no file for each array")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{index} is no index of a checkpoint: {str(error)[:200]}") from error
    outside = [file for file in found.values() if re.search(r"(^|[/\\])\.\.([/\\]|$)|^[/\\~]|^\w:|\0|^$", file)]
    if outside:
        raise ValueError(f"{index} names {shown(outside[0])!r}, which is outside of its folder; refused")
    return found
