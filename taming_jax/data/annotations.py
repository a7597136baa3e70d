"""Records of annotations as people's files have them: what is read, and what is left out by file, record and field."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from taming_jax.data.listing import Listing
from taming_jax.data.opening import BrokenImage, opened
from taming_jax.data.text import READ, REFUSED, read_text
from taming_jax.limits import ANY, check_regular, told

YES, NO = ("1", "true", "yes", "t", "y"), ("", "0", "-1", "false", "no", "f", "n", "none", "null", "nan")
SEPARATORS = ",;\t|"
LARGEST_SIDE = 1 << 24  # of an image in pixels; numbers beyond are no sizes


def short(value: Any, most: int = 80) -> str:
    """A value of a file in one short line, as JSON has it where it can be."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = told(value, most)
    text = text.encode("utf-8", "replace").decode()  # JSON may name halves of letters, which no terminal shows
    return text if len(text) <= most else text[: most - 4] + " ..."


def read_json(path: str | Path) -> Any:
    """What a JSON file in any encoding of Unicode holds. Raises ValueError that names the file and the place."""
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        cut = "; it ends too early, as one that was not copied to its end" if error.pos >= len(text.rstrip()) else ""
        raise ValueError(f"{str(path)!r} is not JSON: {error}{cut}") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of brackets
        raise ValueError(f"{str(path)!r} is not JSON that can be read: {str(error).splitlines()[0]}") from error


def key(value: Any) -> str | None:
    """An id as text, so that 7, 7.0 and "7" are one; None for what is no id."""
    if type(value) is int and -(1 << 63) < value < 1 << 63:  # at once: files have millions
        return str(value)
    if isinstance(value, str):
        return value or None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 1 << 63:
        return None
    return str(value)


def number(value: Any) -> float | None:
    """A number, also as text, also one that is not finite; None for anything else."""
    if isinstance(value, float):
        return value
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def numbers(value: Any, n: int) -> list[float] | None:
    """A list of `n` numbers; None for anything else."""
    if not isinstance(value, list | tuple) or len(value) != n:
        return None
    found = [part if type(part) is float else number(part) for part in value]
    return None if None in found else [part for part in found if part is not None]


def truth(value: Any) -> bool | None:
    """1, 1.0, true, "1.0", "True", "yes" and their like are true; the opposites, -1 and nothing are not; else None."""
    if value is None or isinstance(value, bool):
        return bool(value)
    text = str(value).strip().lower() if isinstance(value, int | float | str) else "?"
    text = text.removesuffix(".0")
    return True if text in YES else False if text in NO else None


def stored_size(path: str) -> tuple[int, int] | None:
    """(width, height) of an image as its file's beginning has them; None for what is no image."""
    try:
        return opened(path, lambda image, size: size, max_pixels=LARGEST_SIDE**2)
    except BrokenImage:
        return None


class LeftOut:
    """What of a file is not used: how many by reason, and of each reason the first, with what it has."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def add(self, reason: str, where: str, n: int = 1) -> None:
        """reason: of what, in the plural. where: the record, the field and its value."""
        self.counts[reason] += n
        self.first.setdefault(reason, where)

    def note(self, listing: Listing) -> None:
        for reason, n in self.counts.items():
            listing.note(f"{reason} (the first in {str(self.path)!r}, {self.first[reason]})", n)

    def refuse(self, n: int, what: str) -> None:
        """Raises ValueError where of n > 0 things none is left, for the reason that comes first."""
        reason = next(iter(self.counts))
        raise ValueError(
            f"{str(self.path)!r}, {self.first[reason]}; none of its {n} {what} can be used: "
            + ", ".join(f"{count} {why}" for why, count in self.counts.items())
        )


def tell_apart(every: dict[str, str], left: LeftOut) -> dict[str, str]:
    """id -> name of categories, with the id behind each name that several have."""
    alike = {name: n for name, n in Counter(every.values()).items() if n > 1}
    for name, n in alike.items():
        ids = [identity for identity, other in every.items() if other == name]
        left.add(
            "categories whose name others have too, told apart by their ids", f"{short(name)} of {short(ids)}", n=n
        )
    return {identity: f"{name} ({identity})" if name in alike else name for identity, name in every.items()}


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """(number of the line, fields) of each line of a CSV file that is not blank, with no memory of the lines before.

    columns: names that the first line may have; what is between them, or else comes first, is what separates fields in
    all lines. Quotes are taken off. Raises ValueError for what is no text.
    """
    i, separator, encoding = 0, "", "utf-8"
    try:
        check_regular(path, ANY)
        with path.open("rb") as raw:  # once, for its mark and for its text
            start = raw.peek(4)
            if kind := next((kind for mark, kind in REFUSED.items() if start.startswith(mark)), ""):
                raise ValueError(f"{str(path)!r} is {kind} text, not UTF-8: save it as UTF-8")
            encoding = next((kind for mark, kind in READ.items() if start.startswith(mark)), encoding)
            with io.TextIOWrapper(raw, encoding) as file:
                for i, line in enumerate(file, 1):
                    if "\0" in line:
                        raise ValueError(f"{str(path)!r}, line {i}: it has zero bytes, so it is no CSV in UTF-8")
                    separator = separator or _separator(line, columns)
                    if not line.isspace():
                        yield i, _fields(line.rstrip("\n"), separator)
    except OSError as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    except UnicodeError as error:
        raise ValueError(f"{str(path)!r}, after line {i}: it is not {encoding} text; save it as UTF-8") from error


def _fields(line: str, separator: str) -> list[str]:
    if '"' not in line:
        return line.split(separator)
    try:
        return next(csv.reader([line], delimiter=separator))
    except csv.Error:
        return []  # as a line that is too short


def _separator(line: str, columns: Sequence[str]) -> str:
    wanted = {name.lower() for name in columns}
    for separator in SEPARATORS:
        if wanted & {field.strip().lower() for field in _fields(line.strip(), separator)}:
            return separator
    return next((letter for letter in line if letter in SEPARATORS), ",")  # behind the first of the fields
