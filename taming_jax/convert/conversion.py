"""What every conversion needs: the files that it reads, the folder that it writes, and what it tells."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from taming_jax import checkpoint
from taming_jax.convert.array_names import in_line, is_average, one_of
from taming_jax.convert.reader import read_state
from taming_jax.file_kinds import kind_of
from taming_jax.files import read_npz, unfinished, whole
from taming_jax.outputs import check_outputs


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


# Files whose publishers put the first digits of the sum into the name.
PUBLISHED = ("vgg16-397923af.pth", "pt_inception-2015-12-05-6726825d.pth")


def checked_sha256(path: str | Path, notes: list[str] | None = None) -> str:
    """SHA-256 of a file. Raises ValueError where it is called as one of PUBLISHED and is another.

    notes: gets a line for other files whose names seem to end with a sum that is not theirs, as torch.hub has them; the
    digits may be anything else, and eight decimal ones are a date or a step.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    named = re.search(r"-([0-9a-f]{8})\.pth$", path.name)
    if named and not digest.startswith(named[1]):
        if path.name in PUBLISHED:
            kind = kind_of(path)
            what = f"; {kind}" if kind.advice else ""
            raise ValueError(
                f"{path} is damaged: its SHA-256 {digest} does not begin as its name says{what}; download it again, or "
                "rename it where it was saved anew"
            )
        if notes is not None and not named[1].isdecimal():
            notes.append(f"{path.name}: if {named[1]} is to be its SHA-256, the file is damaged, whose is {digest[:8]}")
    return digest


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file or of a checkpoint, running no code from the file."""
    npz = Path(path).is_file() and (kind_of(path).name == "npz" or Path(path).suffix == ".npz")
    return read_npz(path) if npz else read_state(path)[0]


def torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """What PyTorch has for a kernel (h, w, in, out) or (in, out); other arrays are alike."""
    return (shape[3], shape[2], shape[0], shape[1]) if len(shape) == 4 else shape[::-1] if len(shape) == 2 else shape


def from_torch(array: np.ndarray) -> np.ndarray:
    """The way back, float32: (out, in, h, w) -> (h, w, in, out); (out, in) -> (in, out)."""
    array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T if array.ndim == 2 else array
    return np.ascontiguousarray(array, np.float32)


# What training in parallel or compiled puts into the names of parts.
INNER = re.compile(r"(?<=\.)(_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def unwrapped(
    state: dict[str, np.ndarray], sign: str, ema: bool = False
) -> tuple[dict[str, np.ndarray], list[str], bool]:
    """(the arrays without what wrappers have put before all of their names, notes, whether they are averages).

    sign: a pattern of the names by which the networks that are wanted are known; what stands before them is left out.
    ema: of plain arrays and their averages below two names, take these. Raises ValueError where it is not clear which
    of several sets of arrays is meant.
    """
    notes = []
    inner = {name: INNER.sub("", name) for name in state}
    if any(name != new for name, new in inner.items()) and len(set(inner.values())) == len(inner):
        left = sorted({found for name in state for found in INNER.findall(name)})
        state = {inner[name]: array for name, array in state.items()}
        notes.append(f"{', '.join(map(repr, left))} within names is left out")
    found = {match[1] for name in state if (match := re.fullmatch(rf"((?:.*?\.)??)(?:{sign})", name))}
    beside = [prefix for prefix in found if prefix and is_average(prefix)]
    if not found or ("" in found and (len(beside) != 1 or len(found) != 2)):
        return state, notes, False
    named = ", ".join(repr(in_line(prefix)) for prefix in sorted(found)[:8])
    if (prefix := one_of(found, ema)) is None:
        raise ValueError(f"it holds several networks, below {named}; save the one to convert in a file of its own")
    elsewhere = tuple(other for other in found if not prefix and other)  # what the plain names do not begin with
    ours = lambda name: name.startswith(prefix) and not name.startswith(elsewhere)
    own = {name.removeprefix(prefix): array for name, array in state.items() if ours(name)}
    if len(own) == len(state):
        notes.append(f"all names begin with {in_line(prefix)!r}, which is left out")
    else:
        others = sorted({in_line(name.split(".")[0]) for name in state if not ours(name)})
        taken = f"taken: the arrays below {in_line(prefix)!r}; " if prefix else ""
        notes.append(f"{taken}{len(state) - len(own)} others are left out: {', '.join(others[:5])}")
        notes[-1] += "; --ema takes the averages" if beside and not ema else ""
    return own, notes, ema and is_average(prefix)


def read_weights(path: str | Path, sign: str) -> tuple[dict[str, np.ndarray], dict[str, str], list[str]]:
    """(the unwrapped arrays of a file, its SHA-256 by its path, notes), for a network that is converted by itself.
    sign: as for `unwrapped`."""
    notes: list[str] = []
    digests = {str(path): checked_sha256(path, notes)}
    try:
        state, more, _ = unwrapped(read_arrays(path), sign)
    except ValueError as error:
        text = str(error)
        raise ValueError(text if text.startswith(str(path)) else f"{path}: {text}") from error
    return state, digests, notes + more


def new_folder(out_dir: str | Path) -> Path:
    """The folder to convert into. Raises ValueError where it is none of this machine, or holds something already."""
    if "://" in str(out_dir):
        raise ValueError(f"{out_dir} is no folder of this machine; convert into one, and copy it there")
    checkpoint.check_path(out_dir)
    out = Path(out_dir)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        content = ", ".join(sorted(child.name for child in out.iterdir())[:5]) if out.is_dir() else "a file"
        raise ValueError(f"{out} holds something already ({content}); name a new directory")
    check_outputs(str(out), {unfinished(out, "new"): lambda path: False})
    return out
