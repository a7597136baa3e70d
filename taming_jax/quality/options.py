"""The filters as options of `evaluate`: one option for each field of `Filters`, read from its text."""

import argparse
import ast
import re
from collections.abc import Iterable
from typing import Any

from taming_jax.priors.filters import FILTER_NAMES, SCHEDULES, Filters
from taming_jax.settings import fitted

# What an option's help says of its values, where the name does not say enough.
VALUES = {
    "top_k": "a whole number, or none",
    "top_p": "a number, or none",
    "guidance_schedule": ", ".join(SCHEDULES),
    "guidance_interval": "FIRST,END of the tokens that are guided; () for all",
}
OUTSIDE = re.compile(r",(?![^(\[]*[)\]])")  # a comma that is not between brackets


def add_filters(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """An option for each filter, which `filter_values` or, with `several` values, `swept_values` reads."""
    for name in FILTER_NAMES:
        kind = VALUES.get(name, "a number")
        if several:
            kind = f"values with commas between them ({kind.replace('FIRST,END', '(FIRST,END)')})"
        else:
            kind += "; default: as saved with the model"
        parser.add_argument(f"--{name}", metavar="VALUES" if several else "VALUE", default=None, help=kind)


def filter_values(given: argparse.Namespace) -> dict[str, Any]:
    """The filters that were given. Raises ValueError for a text that is none of its values."""
    texts = {name: getattr(given, name) for name in FILTER_NAMES}
    return {name: _value(name, text) for name, text in texts.items() if text is not None}


def swept_values(given: argparse.Namespace) -> dict[str, list[Any]]:
    """The values that were given of each filter. Raises ValueError as `filter_values`."""
    texts = {name: getattr(given, name) for name in FILTER_NAMES}
    return {name: _values(name, text) for name, text in texts.items() if text is not None}


def fixed_values(given: Iterable[str]) -> dict[str, Any]:
    """NAME=VALUE, ... -> the filters. Raises ValueError as `filter_values`, and for an unknown name."""
    pairs = [pair.partition("=") for pair in given]
    for name, sign, _ in pairs:
        if not sign or name not in FILTER_NAMES:
            raise ValueError(f"--fixed {name}{sign}: expected NAME=VALUE, where NAME is of {', '.join(FILTER_NAMES)}.")
    return {name: _value(name, text) for name, _, text in pairs}


def text_of(value: Any) -> str:
    """A filter's value in a few letters, of which a name of a file may be made."""
    if isinstance(value, (tuple, list)):
        return "-".join(map(str, value)) or "all"
    return "none" if value is None else value if isinstance(value, str) else f"{value:g}"


def _values(name: str, text: str) -> list[Any]:
    try:
        return [_value(name, part) for part in OUTSIDE.split(text) if part.strip()]
    except ValueError:
        return [_value(name, text)]  # one interval without brackets, such as 0,32


def _value(name: str, text: str) -> Any:
    return fitted(Filters, name, _plain(text.strip()), f"--{name}")


def _plain(text: str) -> Any:
    """A number, none, a tuple, or else the text itself."""
    if text.lower() == "none":
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
