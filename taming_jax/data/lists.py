"""List files: which files the lines of a text mean."""

import os
import re
from collections import Counter
from pathlib import Path, PurePath

from taming_jax.data.found import SERVICES, TWICE, Found, why_left_out
from taming_jax.data.text import normal, read_lines


def read_list(path: Path, base: Path) -> Found:
    """The files that a list names one a line, relative to `base`, each once, in their order.

    Raises ValueError for a list that is empty or no text, and where entries do not exist.
    """
    lines = read_lines(path, lambda line: os.path.isfile(base / line))
    found = _Entries(base).find(str(path), lines)
    if not found.names:
        raise ValueError(f"the list file {str(path)!r} is empty but for comments; expected one image a line")
    return found


class _Entries:
    """Finds the files that a list names, also where quotes, backslashes or another form of letters tell them apart."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.inside: dict[str, dict[str, str]] = {}  # folder -> names in their normal form -> names

    def find(self, path: str, lines: list[str]) -> Found:
        names: dict[tuple[int, int] | str, str] = {}
        passed_over: Counter[str] = Counter()
        missing = []
        for line in lines:
            name = self._name(line)
            if name is None:
                missing.append(line)
            elif _is_rubbish(name):
                passed_over[SERVICES] += 1
            elif (key := self._identity(name)) in names:
                passed_over[TWICE] += 1
            else:
                names[key] = name
        if missing:
            raise ValueError(
                f"{len(missing)} of the {len(lines)} entries of {path!r} do not exist, the first of them "
                f"{[name[:100] for name in missing[:3]]}; they are looked for in {str(self.base)!r}: "
                + self._advice(missing[0])
            )
        return Found(self.base, list(names.values()), passed_over)

    def _name(self, line: str) -> str | None:
        """The name of the file that a line means, None where there is none."""
        bare = line[1:-1].strip() if len(line) > 1 and line[0] == line[-1] and line[0] in "\"'" else line
        for name in dict.fromkeys((line, bare, bare.replace("\\", "/"))):
            if os.path.isfile(self.base / name):
                return name
        return self._by_form(bare.replace("\\", "/"))

    def _by_form(self, name: str) -> str | None:
        if name.isascii():
            return None
        found = PurePath(PurePath(name).anchor)
        for part in PurePath(name).relative_to(found).parts:
            folder = str(self.base / found)
            if folder not in self.inside:
                there = os.listdir(folder) if os.path.isdir(folder) else []
                self.inside[folder] = {normal(entry): entry for entry in there}
            entry = part if part == ".." else self.inside[folder].get(normal(part))
            if entry is None:
                return None
            found /= entry
        return str(found) if os.path.isfile(self.base / found) else None

    def _identity(self, name: str) -> tuple[int, int] | str:
        stat = os.stat(self.base / name)
        return (stat.st_dev, stat.st_ino) if stat.st_ino else os.path.realpath(self.base / name)

    def _advice(self, line: str) -> str:
        between = (r"\t", ",", ";", r"\s+", r"\s+(?=\S+$)", r"^\S+\s+")  # names may have spaces
        columns = [column.strip() for pattern in between for column in re.split(pattern, line)]
        if any(column != line and self._name(column) for column in columns):
            return (
                "the lines have further columns, but a list has one image a line and nothing else (its class is its "
                "folder): remove the other columns"
            )
        return "correct the list, or set `root` to the folder they are relative to"


def _is_rubbish(name: str) -> bool:
    # a list may name hidden files on purpose, but not these
    return PurePath(name).name.startswith("._") or any(why_left_out(p) == SERVICES for p in PurePath(name).parts)
