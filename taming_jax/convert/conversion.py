"""What every conversion needs: the files that it reads, the folder that it writes, and what it tells."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from taming_jax import checkpoint
from taming_jax.convert.reader import read_state
from taming_jax.files import read_npz, whole


@dataclass
class Conversion:
    """What was done: the kind of model, where it lies, the SHA-256 of each file, notes for the user, and in whose
    format the model was or is."""

    kind: str
    path: str
    digests: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    format: str = ""


@dataclass
class Part:
    """What goes into one folder of a converted model. params, discriminator: trees."""

    config: dict[str, Any]
    params: Any
    discriminator: Any = None


def write_parts(out: Path, parts: Mapping[str, Part], step: int = 0) -> None:
    """All folders of a model, "" being its own, or none."""
    with whole(out) as unfinished:
        for folder, part in parts.items():
            checkpoint.save_model(
                str(unfinished / folder),
                params=part.params,
                config=part.config,
                discriminator=part.discriminator,
                step=step,
            )
        if out.exists():
            out.rmdir()


def checked_sha256(path: str | Path) -> str:
    """SHA-256 of a file, compared with the first digits in a name like `vgg16-397923af.pth` where it has them."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    named = re.search(r"-([0-9a-f]{8})\.pth$", path.name)
    if named and not digest.startswith(named[1]):
        raise ValueError(f"{path} is damaged: its SHA-256 {digest} does not begin as its name says; download it again")
    return digest


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file or of a PyTorch state dict (any other ending), running no code from the file."""
    return read_npz(path) if Path(path).suffix == ".npz" else read_state(path)[0]


def torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """What PyTorch has for a kernel (h, w, in, out) or (in, out); other arrays are alike."""
    return (shape[3], shape[2], shape[0], shape[1]) if len(shape) == 4 else shape[::-1] if len(shape) == 2 else shape


def from_torch(array: np.ndarray) -> np.ndarray:
    """The way back, float32: (out, in, h, w) -> (h, w, in, out); (out, in) -> (in, out)."""
    array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T if array.ndim == 2 else array
    return np.ascontiguousarray(array, np.float32)


WRAPPERS = ("module.", "_orig_mod.")  # what DistributedDataParallel and torch.compile put before every name


def unwrapped(state: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[str]]:
    """(the arrays without what training in parallel or compiled has put before all of their names, notes)."""
    notes = []
    while prefix := next((p for p in WRAPPERS if state and all(name.startswith(p) for name in state)), ""):
        state = {name.removeprefix(prefix): array for name, array in state.items()}
        notes.append(f"all names begin with {prefix!r}, which is left out")
    inner = {name: name.replace("._orig_mod.", ".") for name in state}  # of parts that were compiled by themselves
    if any(name != new for name, new in inner.items()) and len(set(inner.values())) == len(inner):
        state = {inner[name]: array for name, array in state.items()}
        notes.append("'_orig_mod.' within names is left out")
    return state, notes


def read_weights(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str], list[str]]:
    """(the unwrapped arrays of a file, its SHA-256 by its path, notes), for a network that is converted by itself."""
    digests = {str(path): checked_sha256(path)}
    state, notes = unwrapped(read_arrays(path))
    return state, digests, notes


def new_folder(out_dir: str | Path) -> Path:
    """The folder to convert into. Raises ValueError where it is none of this machine, or holds something already."""
    if "://" in str(out_dir):
        raise ValueError(f"{out_dir} is no folder of this machine; convert into one, and copy it there")
    checkpoint.check_path(out_dir)
    out = Path(out_dir)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        content = ", ".join(sorted(child.name for child in out.iterdir())[:5]) if out.is_dir() else "a file"
        raise ValueError(f"{out} holds something already ({content}); name a new directory")
    return out
