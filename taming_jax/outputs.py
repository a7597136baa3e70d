"""Where programs write: what was there before stays, and that it can be written is known before the work."""

import os
import re
import secrets
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from etils import epath

from taming_jax.files import PathLike, unfinished
from taming_jax.limits import DATA, check_regular, read_json

Ours = Callable[[epath.Path], bool]  # whether the file that is there is one that the program has written


def check_outputs(option: str, outputs: Mapping[Any, Ours], inputs: Iterable[PathLike] = ()) -> None:
    """Raise ValueError where a file that a program is going to write cannot be written, is read by the same call, or is
    there already and none that the program has written. Folders are made.

    option: what names the files, such as "--out=result.json". outputs: paths, each with what knows our own. inputs:
    files and folders that the call reads; they are compared as files, so that links and other spellings count.
    """
    read = [os.path.realpath(path) for path in inputs if path and "://" not in str(path)]
    tried = set()
    for name, is_ours in outputs.items():
        path = epath.Path(name)
        try:
            there = _is_there(path)
            if path.is_dir():
                raise IsADirectoryError("it is a folder")
            if path.parent not in tried:
                path.parent.mkdir(parents=True, exist_ok=True)
                attempt = unfinished(path, f"try{secrets.token_hex(4)}")
                attempt.write_bytes(bytes(4096))
                attempt.unlink()
                tried.add(path.parent)
        except Exception as error:  # each kind of bucket has its own
            why = getattr(error, "strerror", None) or error
            raise ValueError(f"{option}: {str(path)!r} cannot be written ({why}); choose another") from error
        if there and any(_is_part(path, one) for one in read):
            raise ValueError(f"{option}: {str(path)!r} is read by this call, and would be overwritten; choose another")
        if there and not is_ours(path):
            raise ValueError(
                f"{option}: {str(path)!r} is there already, and nothing says that this program wrote it, so it stays; "
                "move it away, or choose another"
            )


def _is_there(path: epath.Path) -> bool:
    """Whether something would be lost: an empty file is nothing, a link that leads nowhere is something."""
    if "://" in str(path):
        return path.exists()
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return found.st_size > 0


def _is_part(path: epath.Path, read: str) -> bool:
    """Whether a file is what is read, or lies in a folder that is."""
    if os.path.isdir(read):
        return Path(os.path.realpath(path)).is_relative_to(read)
    return os.path.exists(read) and os.path.exists(path) and os.path.samefile(path, read)


def is_json(path: epath.Path, *keys: str) -> bool:
    """Whether a file is a JSON object with these keys."""
    try:
        found = read_json(path, DATA)
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and all(key in found for key in keys)


def is_npz(path: epath.Path, *names: str) -> bool:
    """Whether a file holds arrays of these names."""
    try:
        check_regular(path)
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            return {f"{name}.npy" for name in names} <= set(archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def is_text(path: epath.Path, pattern: str) -> bool:
    """Whether a text begins with what a regular expression says."""
    try:
        check_regular(path)
        with path.open("rb") as file:
            begin = file.read(1 << 14).decode("utf-8", "ignore")
    except (OSError, ValueError):
        return False
    return re.match(pattern, begin) is not None


def new_folder(path: PathLike) -> epath.Path:
    """Make a folder for one call: PATH, or PATH_2, PATH_3 and so on behind the last one that has something in it."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = _numbers(path)
    last = _numbered(path, max(numbers, default=1))
    if last.is_dir() and not any(last.iterdir()):
        return last
    number = max(numbers, default=0)
    while True:
        number += 1
        try:
            _numbered(path, number).mkdir()
            return _numbered(path, number)
        except FileExistsError:  # made by another call meanwhile
            continue


def newest_folder(path: PathLike) -> epath.Path:
    """The last that `new_folder` has made; PATH where there is none."""
    path = epath.Path(path)
    return _numbered(path, max((n for n in _numbers(path) if _numbered(path, n).is_dir()), default=1))


def free_name(path: PathLike) -> epath.Path:
    """The path, or where something is there, the first of NAME_2, NAME_3 and so on, with the same ending."""
    path = found = epath.Path(path)
    number = 1
    while os.path.lexists(found) if "://" not in str(found) else found.exists():
        number += 1
        found = path.with_name(f"{path.stem}_{number}{path.suffix}")
    return found


def _numbered(path: epath.Path, number: int) -> epath.Path:
    return path if number == 1 else path.with_name(f"{path.name}_{number}")


def _numbers(path: epath.Path) -> list[int]:
    """Of what is there under the names of `_numbered`."""
    pattern = re.compile(re.escape(path.name) + r"(?:_([1-9]\d{0,8}))?")
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    found = (pattern.fullmatch(other.name) for other in beside)
    return [int(match[1] or 1) for match in found if match]
