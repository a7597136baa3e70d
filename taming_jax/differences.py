"""How two things with named parts differ, in a few words: settings, descriptions of data, trees of arrays."""

from collections.abc import Mapping, Sequence
from typing import Any

from taming_jax.limits import told

_MISSING = object()


def differences(there: Mapping[str, Any], here: Mapping[str, Any], name: str = "") -> str:
    """How two nested mappings differ, in a few words; empty where they do not. name: as for `flat`."""
    there, here = flat(there, name), flat(here, name)
    names = sorted(there.keys() | here.keys())
    pairs = {name: (there.get(name, _MISSING), here.get(name, _MISSING)) for name in names}
    return few([f"{name}: {short(a)} there, {short(b)} here" for name, (a, b) in pairs.items() if a != b], most=4)


def flat(tree: Mapping[str, Any], name: str = "") -> dict[str, Any]:
    """The values of nested mappings by their paths, such as `model.ch`; name: stands before them."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{name}.{key}" if name else key
        found |= flat(value, path) if isinstance(value, Mapping) else {path: value}
    return found


def few(notes: Sequence[str], most: int) -> str:
    """Notes in one line, the first of them if they are many."""
    return "; ".join(notes[:most]) + (f"; and {len(notes) - most} more" if len(notes) > most else "")


def short(value: Any) -> str:
    """A value as Python writes it, cut if it is long."""
    return "nothing" if value is _MISSING else told(value)
