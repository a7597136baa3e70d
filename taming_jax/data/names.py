"""The names of classes, of objects' categories and of labels, and which of them the settings leave."""

import re
from collections import Counter
from pathlib import Path

from taming_jax.data.config import DataConfig


def choose_classes(spec: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """The classes that the setting `classes` leaves of all, in their order.

    spec: "" for all; a list file (.txt) with one name a line, behind which may be more; or ranges such as
    "30:32,80:100" of places in `names`, counted from 0, each without its end.
    """
    if not spec:
        return names
    if spec.endswith(".txt"):
        if not Path(spec).is_file():
            raise ValueError(f"no such list of classes: {spec!r}; set `classes`")
        lines = [line.strip() for line in Path(spec).read_text(encoding="utf-8").splitlines() if line.strip()]
        wanted = {line if line in names else line.split()[0] for line in lines}  # names may have spaces
        unknown = [line for line in lines if line not in names and line.split()[0] not in names]
        if unknown:
            raise ValueError(f"{spec!r} names classes that are not there: {unknown[:5]}; known: {list(names[:5])} ...")
        return tuple(name for name in names if name in wanted)
    places: set[int] = set()
    for part in spec.split(","):
        start, _, stop = part.strip().partition(":")
        if not (start.isdigit() and stop.isdigit() and int(start) < int(stop) <= len(names)):
            raise ValueError(
                f"`classes` has the part {part.strip()!r}; expected ranges such as 30:32,80:100 within the "
                f"{len(names)} classes, or a list file (.txt) with one name a line"
            )
        places |= set(range(int(start), int(stop)))
    return tuple(names[i] for i in sorted(places))


def choose_categories(
    config: DataConfig, every: dict[str, str], used: Counter[str], names: tuple[str, ...] | None = None
) -> tuple[dict[str, int], tuple[str, ...]]:
    """(number of each category's id, names in that order) for the setting `categories`, or for the names given.

    every: id -> name. used: how many objects of each id. "" takes all, a number the most frequent ones; they are
    numbered by id. A list file (.txt) has one category a line, by name or id, and numbers them by line; further names
    on a line, behind "|", are counted as the first.
    """
    spec = config.categories
    if names is not None:
        return {key: names.index(name) for key, name in every.items() if name in names}, names
    if spec.endswith(".txt"):
        if not Path(spec).is_file():
            raise ValueError(f"no such list of categories: {spec!r}; set `categories`")
        lines = [line for line in Path(spec).read_text(encoding="utf-8").splitlines() if line.strip()]
        ids = {name: key for key, name in every.items()} | {key: key for key in every}
        number: dict[str, int] = {}
        named: list[str] = []
        for line in lines:
            same = [part.strip() for part in line.split("|")]
            if unknown := [name for name in same if name not in ids]:
                known = sorted(every.values())
                raise ValueError(f"{spec!r} names unknown categories {unknown}; known: {known[:10]} ...")
            number |= {ids[name]: len(named) for name in same}
            named.append(every[ids[same[0]]])
        return number, tuple(named)
    chosen = set(every)
    if spec:
        if not spec.isdigit() or int(spec) < 1:
            raise ValueError(f"`categories` is {spec!r}; expected '', a number of categories, or a list file (.txt)")
        # of equally frequent ones the first by id, so that every machine chooses alike
        chosen = set(sorted((key for key in every if used[key]), key=lambda key: (-used[key], key))[: int(spec)])
    ordered = sorted(chosen)
    return {key: i for i, key in enumerate(ordered)}, tuple(every[key] for key in ordered)


def label_names(config: DataConfig, n_labels: int) -> tuple[str, ...] | None:
    """The names of the labels, where a file tells them; None without one.

    labels.txt in `maps` or `path`: one name a line, also as "number: name". objectInfo150.txt: as ADE20K has it.
    """
    places = [Path(folder, "labels.txt") for folder in (config.maps, config.path) if folder]
    for file in (*places, Path(config.path, "objectInfo150.txt")):
        if file.is_file():
            lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
            if file.name == "labels.txt":
                names = tuple(re.sub(r"^\d+\s*:\s*", "", line).strip() for line in lines)
            else:
                names = ("unlabelled", *(line.split("\t")[-1].strip() for line in lines[1:]))
            if len(names) != n_labels:
                raise ValueError(f"{str(file)!r} has names for {len(names)} labels, but there are {n_labels}")
            return names
    return None
