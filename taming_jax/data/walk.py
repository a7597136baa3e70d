"""Which files there are: images below a folder or in a list file, and which of them are held out for validation."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath

from taming_jax.data.channels import PICTURES
from taming_jax.data.config import DataConfig
from taming_jax.data.found import AGAIN, BROKEN, CLOSED, NO_SUFFIX, SPECIAL, Found, count, folders_of, why_left_out
from taming_jax.data.kinds import is_named, why_unreadable
from taming_jax.data.lists import read_list

SUFFIXES = PICTURES


def walk(place: Path, suffixes: tuple[str, ...]) -> Found:
    """The files below a folder with these (lower-case) suffixes, sorted by name, each real file once; where pictures
    are among them also those whose names say nothing, by their first bytes.

    Links are followed, after all that is there without them: what was reached already keeps its own name, and a folder
    that links to itself ends there.
    """
    return _Walk(place, suffixes).found()


class _Walk:
    def __init__(self, place: Path, suffixes: tuple[str, ...]) -> None:
        self.place, self.suffixes = place, suffixes
        self.names: list[str] = []
        self.passed_over: Counter[str] = Counter()
        self.folders: set[str] = set()  # real paths of those walked
        self.links: list[str] = []  # to follow when all else is done
        self.targets: set[str] = set()  # real paths of files that were reached by links
        self.by_number: dict[int, str] = {}  # inode -> name, to tell hard links

    def found(self) -> Found:
        self._folder("", os.path.realpath(self.place))
        while self.links:
            links, self.links = sorted(self.links), []
            for name in links:
                self._link(name)
        return Found(self.place, sorted(self.names), self.passed_over)

    def _folder(self, top: str, real: str) -> None:
        """All below a folder that can be reached without links; `real` is its real path."""
        waiting = [(top, real)]
        while waiting:
            here, real = waiting.pop()
            if real in self.folders:
                self.passed_over[AGAIN] += 1
                continue
            self.folders.add(real)
            try:
                with os.scandir(real) as entries:
                    inside = sorted(entries, key=lambda entry: entry.name)
            except OSError:
                self.passed_over[CLOSED] += 1
                continue
            below = []
            for entry in inside:
                name = os.path.join(here, entry.name)
                if reason := why_left_out(entry.name):
                    self.passed_over[reason] += 1
                elif entry.is_symlink():
                    self.links.append(name)
                elif entry.is_dir(follow_symlinks=False):
                    below.append((name, os.path.join(real, entry.name)))
                elif not is_named(entry.name, os.path.join(real, entry.name), self.suffixes):
                    self.passed_over[_suffix(entry.name)] += 1
                elif not entry.is_file(follow_symlinks=False):
                    self.passed_over[SPECIAL] += 1
                elif self._same(entry.inode(), name):
                    self.passed_over[AGAIN] += 1
                else:
                    self.names.append(name)
            waiting += reversed(below)

    def _link(self, name: str) -> None:
        real = os.path.realpath(self.place / name)
        folder, own_name = os.path.split(real)
        walked = folder in self.folders and not why_left_out(own_name) and is_named(own_name, real, self.suffixes)
        if _holds(real, self.place):
            self.passed_over[AGAIN] += 1
        elif os.path.isdir(real):
            self._folder(name, real)
        elif not is_named(name, real, self.suffixes):
            self.passed_over[_suffix(name)] += 1
        elif not os.path.exists(real):
            self.passed_over[BROKEN] += 1
        elif not os.path.isfile(real):
            self.passed_over[SPECIAL] += 1
        elif walked or real in self.targets:
            self.passed_over[AGAIN] += 1
        else:
            self.targets.add(real)
            self.names.append(name)

    def _same(self, number: int, name: str) -> bool:
        """Whether the file is one that was found by another name; numbers alone may be alike on joined file systems."""
        other = self.by_number.setdefault(number, name)
        return other != name and os.path.samefile(self.place / other, self.place / name)


def subfolders(place: Path) -> list[str]:
    """The sorted names of the folders in a folder, each real one once, that `walk` would enter."""
    folders = [entry.name for entry in place.iterdir() if entry.is_dir() and not why_left_out(entry.name)]
    by_target: dict[str, str] = {}
    for name in sorted(folders, key=lambda name: ((place / name).is_symlink(), name)):
        if not _holds(real := os.path.realpath(place / name), place):
            by_target.setdefault(real, name)
    return sorted(by_target.values())


def _holds(real: str, place: Path) -> bool:
    """Whether a folder is the one that is searched, or one around it, so that a link to it leads round in a circle."""
    return Path(os.path.realpath(place)).is_relative_to(real)


def _suffix(name: str) -> str:
    return why_unreadable(name) or NO_SUFFIX


def find_images(path: str, root: str = "", suffixes: tuple[str, ...] = SUFFIXES) -> Found:
    """The images of a folder, searched with its subfolders, or of a list file.

    A list file ends in .txt and names one image a line, relative to `root` or, without one, to the list file's folder.
    Raises ValueError where there is nothing to find, or where entries of a list do not exist.
    """
    named = [".jpg", ".png", "..."] if PICTURES[0] in suffixes else suffixes
    expected = f"expected a folder of images ({', '.join(named)}) or a list file (.txt, one image a line)"
    place = Path(path)
    if not path or not place.exists():
        raise ValueError(f"no such folder or file: {path!r}; {expected}: set `path`")
    if place.is_dir():
        found = walk(place, suffixes)
        if not found.names:
            there = f"; there are {count(found.passed_over)}" if found.passed_over else ""
            raise ValueError(f"no images in the folder {path!r} or its subfolders{there}; {expected}: set `path`")
        return found
    if place.suffix.lower() != ".txt":
        raise ValueError(f"{path!r} is neither a folder nor a list file named *.txt; {expected}: set `path`")
    return read_list(place, Path(root) if root else place.parent)


def split_off(names: Sequence[str], share: float) -> tuple[list[str], list[str]]:
    """(training, validation): the `share` of the names with the smallest hash is for validation.

    The split depends on the names alone, neither on a seed nor on their order, and hardly moves when images are added.
    Of two or more images at least one is on either side, unless share is 0.
    """
    as_bytes = lambda name: PurePath(name).as_posix().encode(errors="surrogateescape")  # as the disk has them
    by_hash = sorted(set(names), key=lambda name: hashlib.sha256(as_bytes(name)).digest())
    count = min(max(1, round(share * len(by_hash))), len(by_hash) - 1) if share > 0 else 0
    held_out = set(by_hash[:count])
    return [n for n in names if n not in held_out], [n for n in names if n in held_out]


def hold_out(config: DataConfig, names: Sequence[str], split: str) -> list[str]:
    """The names of the split "train" or "val" where a data set has no split of its own."""
    training, validation = split_off(names, config.val_share)
    if split == "val" and not validation:
        raise ValueError(
            f"{config.path!r} has {len(names)} image(s), and val_share={config.val_share} leaves none for validation; "
            "give more images, a larger `val_share`, or a folder or list of their own by `val_path`"
        )
    return training if split == "train" else validation


def class_of(name: str) -> str | None:
    """The first folder of a relative path: "cat/a.jpg" and "cat/b/c.jpg" are of the class "cat", "a.jpg" of none."""
    return None if os.path.isabs(name) else next(iter(folders_of(name)), None)
