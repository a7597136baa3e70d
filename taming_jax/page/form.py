"""A form that a browser sends, JSON, whose values are read as what they must be; nothing is trusted."""

import json
import re
import typing
from typing import Any

import numpy as np

from taming_jax.page.uploads import from_base64

FILES = (b'"upload"', b'"picture"', b'"labels"', b'"redraw"')  # fields that hold files and maps, in base64
MOST_TEXT = 1 << 10  # bytes of any other text
MOST_ELSE = 1 << 16  # bytes of all that is no text
MOST_PARTS = 1 << 14  # texts, brackets, commas and colons
MOST_DEPTH = 16
NO_FORM = "what was sent is not JSON as forms are"
_PARTS = re.compile(rb'"[^"\\]*+"|"(?:[^"\\]|\\.){0,%d}+"|[][{},:"]' % MOST_TEXT, re.DOTALL)


def check_json(body: bytes) -> None:
    """Raises ValueError for what would take much more memory or time than it has bytes, before it is parsed."""
    depth, texts, last = 0, 0, [b"", b""]
    for count, found in enumerate(_PARTS.finditer(body), start=1):
        part = found[0][: MOST_TEXT + 3]
        depth += (part in b"[{") - (part in b"]}")
        if depth > MOST_DEPTH or count > MOST_PARTS:
            raise ValueError(f"{NO_FORM}: it has more than {MOST_PARTS} parts, or more than {MOST_DEPTH} levels")
        in_a_file = depth == 1 and last[1] == b":" and last[0] in FILES
        if part == b'"' or (len(part) > MOST_TEXT + 2 and not in_a_file):
            raise ValueError(f"{NO_FORM}: a text has no end, or more than {MOST_TEXT} bytes and is no file")
        texts += found.end() - found.start()
        last = [last[1], part]
    if len(body) - texts > MOST_ELSE:
        raise ValueError(f"{NO_FORM}: it has more than {MOST_ELSE} bytes beside its texts")


class Form:
    """The fields of a JSON object; each is read as what it must be. Raises ValueError."""

    def __init__(self, body: bytes) -> None:
        check_json(body)
        try:
            fields = json.loads(body.decode())  # in no other encoding, whose bytes were not what was checked
        except (ValueError, RecursionError):
            raise ValueError("what was sent is not JSON") from None
        if not isinstance(fields, dict):
            raise ValueError("what was sent is no JSON object")
        self.fields: dict[str, Any] = fields
        self._files: dict[str, bytes] = {}

    def whole(self, name: str, low: int, high: int, default: int | None = None) -> int:
        value = self.fields.get(name, default)
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{name} must be a whole number from {low} to {high}")
        return value

    def number(self, name: str, low: float, high: float, default: float) -> float:
        value = self.fields.get(name, default)
        if type(value) not in (int, float) or not low <= value <= high:  # which are exact, and false for NaN
            raise ValueError(f"{name} must be a number from {low:g} to {high:g}")
        return float(value)

    def setting(self, name: str, hint: Any, default: Any, most: float) -> Any:
        """As the annotation `hint` of a settings class says: a number from 0 to `most`, or to the default where that is
        more, whole numbers, a text, or None. The class itself refuses what else does not fit."""
        value = self.fields.get(name, default)
        if name not in self.fields or (value is None and type(None) in typing.get_args(hint)):
            return value
        plain = next((kind for kind in typing.get_args(hint) if kind is not type(None)), hint)
        if typing.get_origin(hint) is tuple:
            if not isinstance(value, list) or not all(type(one) is int for one in value):
                raise ValueError(f"{name} must be a list of whole numbers")
            return tuple(value)
        if plain is str:
            if not isinstance(value, str):
                raise ValueError(f"{name} must be a text")
            return value
        most = max(most, default or 0)
        return self.whole(name, 1, int(most)) if plain is int else self.number(name, 0, most, 0.0)

    def file(self, name: str, what: str) -> bytes:
        if name not in self._files:
            self._files[name] = from_base64(self.fields.pop(name, None), what)
        return self._files[name]

    def mask(self, name: str, size: tuple[int, int], values: int, most: int) -> np.ndarray:
        """uint8 (height, width), a byte for each pixel, each below `values`."""
        body = from_base64(self.fields.get(name), name, most)
        if len(body) != size[0] * size[1]:
            raise ValueError(f"{name}: {len(body)} bytes are no map of {size[0]} x {size[1]} pixels")
        values_there = np.frombuffer(body, np.uint8).reshape(size)
        if values_there.max() >= values:
            raise ValueError(f"{name}: {values_there.max()} is not one of the {values} that there are")
        return values_there
