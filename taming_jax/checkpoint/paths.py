"""Folders of checkpoints, by the very characters of their names."""

import glob
import os
from collections.abc import Iterator
from typing import Any

import orbax.checkpoint as ocp
from etils import epath

FOLDER = "checkpoints"
BUCKETS = ("gs", "s3", "az", "hf")  # that etils reads and writes, as gs://BUCKET and as /gs/BUCKET alike


class _Literal(type(epath.Path())):  # type: ignore[misc]  # which of its classes depends on the system
    """A path whose own characters are no pattern where Orbax looks for files below it."""

    def glob(self, pattern: str) -> Iterator[Any]:
        if "://" in str(self):
            return super().glob(pattern)  # type: ignore[no-any-return]
        return (self / name for name in glob.glob(pattern, root_dir=self))


def checkpoints_of(workdir: str | os.PathLike[str]) -> epath.Path:
    """The folder of the checkpoints in a working directory, as Orbax is to be given it."""
    return _Literal(workdir).resolve() / FOLDER


def finalized_steps(folder: epath.Path) -> list[int]:
    """The checkpoints in it that were saved to their end."""
    children = [child for child in folder.iterdir() if child.name.isdigit()] if folder.exists() else []
    return sorted(int(child.name) for child in children if _is_finalized(child))


def _is_finalized(child: epath.Path) -> bool:
    try:
        return bool(ocp.utils.is_checkpoint_finalized(child))
    except (OSError, ValueError):  # it is removed at this moment
        return False


def complete_steps(folder: epath.Path) -> list[int]:
    """Those of them that still say of what they are."""
    return [step for step in finalized_steps(folder) if (folder / str(step) / "config").exists()]


def check_path(path: str | os.PathLike[str]) -> None:
    """Raise ValueError where no checkpoint can be written to this folder, or read, for the characters of its name."""
    text = os.fspath(path)
    scheme, separator, _ = text.partition("://")
    whole = text if separator else os.path.abspath(text)
    reason = ""
    if separator and scheme not in BUCKETS:
        reason = f"of addresses only those of buckets are known, {', '.join(f'{each}://' for each in BUCKETS)}"
    elif separator and (found := next((char for char in "*?[]\\" if char in whole), "")):
        reason = f"in a bucket, a {found!r} in it would be taken as a pattern"
    elif not separator and whole.split(os.sep)[1] in BUCKETS:
        reason = f"a folder /{whole.split(os.sep)[1]} would be taken for a bucket"
    elif "\0" in whole:
        reason = "no name can hold a zero byte"
    elif "\\" in whole:
        reason = "TensorStore, which writes the arrays, takes a backslash for a slash"
    elif not separator and "gs:/" in f"{whole}/":
        reason = "Orbax, which keeps the checkpoints, takes a name that ends in gs: for a bucket"
    elif any(part.endswith(".__lock") for part in whole.split(os.sep)):
        reason = "TensorStore, which writes the arrays, keeps names that end in .__lock for itself"
    elif not _is_utf8(whole):
        reason = "TensorStore, which writes the arrays, takes only names that are UTF-8"
    if reason:
        where = "" if whole == text else f" ({whole!r})"
        raise ValueError(f"no checkpoint can lie in {text!r}{where}: {reason}; name or move the folder otherwise.")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
