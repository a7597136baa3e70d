"""The names of classes, of objects' categories and of labels, and which of them the settings leave."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from taming_jax.data.config import DataConfig
from taming_jax.data.text import normal, read_lines, read_text


def look_up(text: str, names: Sequence[str], parts: bool = True) -> int | None:
    """The place of the name that a text means; None where it means none.

    It is the name itself, or else the name but for capitals, spaces and the form of accents, or else, with `parts`, one
    of the parts that a name has between commas: "red fox" of "red fox, Vulpes vulpes". Raises ValueError where the
    first of these that holds at all holds for several names.
    """
    text, loose = text.strip(), _loose(text)
    rules = [lambda name: name.strip() == text, lambda name: _loose(name) == loose]
    if parts:
        rules.append(lambda name: loose in map(_loose, name.split(",")))
    for rule in rules:
        if found := [place for place, name in enumerate(names) if rule(name)]:
            if len(found) > 1:
                listed = ", ".join(f"{names[place]!r} (number {place})" for place in found[:10])
                raise ValueError(
                    f"{text[:100]!r} may be any of {len(found)} names: {listed}; write one of them in full"
                )
            return found[0]
    return None


def containing(text: str, names: Sequence[str], words: bool = False) -> list[str]:
    """The names that contain a text, or, with `words`, whose words it is: what may have been meant."""
    edge = r"(?<!\w){}(?!\w)" if words else "{}"
    pattern = re.compile(edge.format(re.escape(_loose(text))))
    return [name for name in names if _loose(text) and pattern.search(_loose(name))]


def split_names(text: str, names: Sequence[str]) -> list[str]:
    """The names in a text between commas; one that has commas itself, such as "red fox, Vulpes vulpes", stays whole."""
    pieces = text.split(",")
    with_commas = {_loose(name): name.count(",") + 1 for name in names if "," in name}
    longest, found, start = max(with_commas.values(), default=1), [], 0
    while start < len(pieces):
        for stop in range(min(start + longest, len(pieces)), start, -1):
            joined = ",".join(pieces[start:stop])
            if stop == start + 1 or _loose(joined) in with_commas:
                break
        found.append(joined.strip())
        start = stop
    return [name for name in found if name]


def _loose(name: str) -> str:
    return " ".join(normal(normal(name).casefold()).split())


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
        lines = read_lines(spec, known=names.__contains__)
        found = {line: _listed(spec, line, names) for line in lines}
        if unknown := [line for line, place in found.items() if place is None]:
            given = [line[:100] for line in unknown[:5]]
            raise ValueError(f"{spec!r} names classes that are not there: {given}; known: {list(names[:5])} ...")
        return tuple(names[place] for place in sorted({place for place in found.values() if place is not None}))
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


def _listed(spec: str, line: str, names: Sequence[str]) -> int | None:
    """The place of the name that a line begins with; names may have spaces."""
    try:
        for text, parts in ((line, False), (line.split()[0], False), (line, True)):
            if (place := look_up(text, names, parts)) is not None:
                return place
    except ValueError as error:
        raise ValueError(f"{spec!r}: {error}") from error
    return None


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
        number: dict[str, int] = {}
        named: list[str] = []
        for line in read_lines(spec, known=lambda line: line in every or line in every.values()):
            same = [_category(spec, part.strip(), every) for part in line.split("|")]
            number |= dict.fromkeys(same, len(named))
            named.append(every[same[0]])
        return number, tuple(named)
    chosen = set(every)
    if spec:
        if not spec.isdigit() or int(spec) < 1:
            raise ValueError(f"`categories` is {spec!r}; expected '', a number of categories, or a list file (.txt)")
        # of equally frequent ones the first by id, so that every machine chooses alike
        chosen = set(sorted((key for key in every if used[key]), key=lambda key: (-used[key], key))[: int(spec)])
    ordered = sorted(chosen)
    return {key: i for i, key in enumerate(ordered)}, tuple(every[key] for key in ordered)


def _category(spec: str, text: str, every: dict[str, str]) -> str:
    """The id of the category that a text names, by its id or its name."""
    if text in every:
        return text
    names = list(every.values())
    try:
        place = look_up(text, names)
    except ValueError as error:
        raise ValueError(f"{spec!r}: {error}, or give its id") from error
    if place is None:
        near = containing(text, names)
        known = f"names with it: {near[:10]}" if near else f"known: {sorted(names)[:10]} ..."
        raise ValueError(f"{spec!r} names unknown categories {[text[:100]]}; {known}")
    return list(every)[place]


def label_names(config: DataConfig, n_labels: int) -> tuple[str, ...] | None:
    """The names of the labels, where a file tells them; None without one.

    labels.txt in `maps` or `path`: one name a line, also as "number: name". objectInfo150.txt: as ADE20K has it.
    """
    places = [Path(folder, "labels.txt") for folder in (config.maps, config.path) if folder]
    for file in (*places, Path(config.path, "objectInfo150.txt")):
        if file.is_file():
            if file.name == "labels.txt":
                names = tuple(re.sub(r"^\d+\s*:\s*", "", line).strip() for line in read_lines(file))
            else:
                lines = [line for line in read_text(file).splitlines() if line.strip()]
                names = ("unlabelled", *(line.split("\t")[-1].strip() for line in lines[1:]))
            if len(names) != n_labels:
                raise ValueError(f"{str(file)!r} has names for {len(names)} labels, but there are {n_labels}")
            return names
    return None
