"""What the files of others may cost, and how their values are shown: none of them is trusted.

A size is counted before anything of it is allocated, and a limit is in proportion to the file. What a file holds is
never written out whole: the text of a value may be many times as long as its file, or have no end.
"""

import json
import os
import reprlib
import stat
from typing import Any

from etils import epath

SETTINGS = 4 << 20  # bytes of a file of settings, which has some thousand
DATA = 4 << 30  # of a list or of annotations, which are read whole
ANY = 1 << 60  # of what is mapped, not read
SWELLS = 100  # times that what is packed may be as large unpacked
SMALL = 64 << 20  # bytes that may swell as they like
DEEPEST = 100  # brackets of JSON within one another


class _Shown(reprlib.Repr):
    def __init__(self, most: int) -> None:
        super().__init__()
        self.maxlevel, self.maxother = 3, most
        self.maxtuple = self.maxlist = self.maxdict = 12
        self.maxstring = self.maxlong = most

    def repr_str(self, x: str, level: int) -> str:
        text = repr(x[: self.maxstring])
        return text if len(x) <= self.maxstring else f"{text[:50]}... ({len(x)} letters)"

    def repr_int(self, x: int, level: int) -> str:
        if x.bit_length() < 200:
            return repr(x)
        return f"a whole number of {x.bit_length()} bits"  # Python itself refuses to write it


def told(value: Any, most: int = 60) -> str:
    """A value of a file as Python writes it, in one line of about `most` letters, without going through all of it."""
    if isinstance(value, (list, tuple, dict, set, frozenset, str, bytes, int, float, type(None))):
        text = _Shown(most).repr(value)
    else:
        text = repr(value)
    text = " ".join(text[: 10 * most].split())
    return text if len(text) <= most + 20 else f"{text[: most - 10]}..."


def check_regular(path: str | os.PathLike[str], most: int = DATA) -> None:
    """Raise ValueError where a path of this machine is neither a file that has an end, nor missing, or has more than
    `most` bytes."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return  # opening it says why
    if not stat.S_ISREG(found.st_mode):
        what = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        raise ValueError(f"{told(str(path), 200)} is {what.get(stat.S_IFMT(found.st_mode), 'a device')}, and no file")
    if found.st_size > most:
        raise ValueError(f"{told(str(path), 200)} has {found.st_size} bytes, and at most {most} are read")


def read_bytes(path: str | os.PathLike[str], most: int = DATA) -> bytes:
    """The content of a file. Raises ValueError as `check_regular`, and OSError where it cannot be read."""
    check_regular(path, most)
    return epath.Path(path).read_bytes()


def json_of(text: str | bytes) -> Any:
    """What a text of JSON says. Raises ValueError in one line, which does not name the file, also where its brackets
    lie too deep in one another or its numbers are too long."""
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ValueError("its brackets lie too deep in one another") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"it is no UTF-8: {error.reason} at byte {error.start}") from error
    except ValueError as error:
        raise ValueError(str(error).splitlines()[0][:200]) from error
    if _deeper(found, DEEPEST):
        raise ValueError(f"more than {DEEPEST} of its brackets lie in one another")
    return found


def read_json(path: str | os.PathLike[str], most: int = SETTINGS) -> Any:
    """What a file of settings in JSON says. Raises ValueError that names it, and OSError where it cannot be read."""
    data = read_bytes(path, most)
    try:
        return json_of(data)
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is no JSON: {error}") from error


def _deeper(tree: Any, most: int) -> bool:
    """Whether lists and mappings lie more than `most` deep in one another."""
    level = [tree]
    for _ in range(most):
        inside = [part for part in level if isinstance(part, (list, dict))]
        level = [value for part in inside for value in (part.values() if isinstance(part, dict) else part)]
        if not level:
            return False
    return any(isinstance(part, (list, dict)) for part in level)


def free_memory() -> int:
    """Bytes that this process may still take, as far as is known."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            told_by = dict(line.split(":", 1) for line in file)
        return int(told_by["MemAvailable"].split()[0]) << 10
    except (OSError, KeyError, ValueError, IndexError):
        return 1 << 60


def check_unpacked(packed: int, unpacked: int, what: str) -> None:
    """Raise ValueError where something is beyond all proportion larger than in its file, or than free memory."""
    if unpacked > SMALL and unpacked > SWELLS * packed:
        raise ValueError(f"{what} has {packed} bytes and would have {unpacked} unpacked; refused")
    if unpacked > SMALL and unpacked > (free := free_memory()):
        raise ValueError(f"{what} would have {unpacked} bytes in memory, of which {free} are free")
