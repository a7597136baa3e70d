"""A mapping of a project.yaml, every entry of which must be spoken for."""

import contextlib
from collections.abc import Mapping
from typing import Any

from taming_jax.differences import few, short

REQUIRED = object()


class Node:
    """Reads entries one by one; `close` refuses what is left over. `notes` collects what the user should know.

    where: how the user finds it, such as `model.params.ddconfig`. program: whose class it belongs to, "taming", "ldm"
    or "torch".
    """

    program = "taming"

    def __init__(self, values: Any, where: str, notes: list[str]):
        if not isinstance(values, Mapping):
            raise ValueError(f"{where} of the configuration is {short(values)}, but it must be a mapping")
        self.values, self.where, self.notes = dict(values), where, notes

    def take(self, key: str, default: Any = REQUIRED, kind: type | None = None) -> Any:
        """The entry, or the default of the original. kind: int, float, bool, str or list (of integers)."""
        if key not in self.values and default is REQUIRED:
            raise ValueError(f"the configuration lacks {self.where}.{key}, which the original needs, too")
        value = self.values.pop(key, default)
        return value if kind is None or value is default else _fit(value, kind, f"{self.where}.{key}")

    def leave(self, key: str, why: str) -> None:
        """An entry that changes nothing here."""
        value = self.values.pop(key, None)
        if value not in (None, [], {}):
            self.notes.append(f"{self.where}.{_name(key)}={short(value)}: {why}")

    def must(self, key: str, expected: Any, default: Any, why: str) -> None:
        """An entry that can only have one value here."""
        omitted = " (the original's default)" if key not in self.values else ""
        value = self.values.pop(key, default)
        if value != expected:
            given = f"{self.where}.{key}={short(value)}{omitted}"
            raise ValueError(f"{given} is not supported, only {short(expected)}: {why}")

    def part(self, key: str, default: Any = REQUIRED) -> tuple[str, "Node"]:
        """An entry {target: a.b.Class, params: {...}}: the class, if it is one of the original or of latent-diffusion,
        and its settings."""
        return target(self.take(key, default), f"{self.where}.{key}", self.notes)

    def close(self) -> None:
        if self.values:
            names = few([f"{self.where}.{_name(key)}={short(value)}" for key, value in self.values.items()], most=8)
            raise ValueError(f"the configuration has settings that the original does not know: {names}")


def target(values: Any, where: str, notes: list[str]) -> tuple[str, Node]:
    """As `Node.part`."""
    node = Node(values, where, notes)
    name = node.take("target", kind=str)
    params = Node(node.values.pop("params", None) or {}, f"{where}.params", notes)
    for key in list(node.values):
        if key != "base_learning_rate":
            node.leave(key, "the original does not read it either")
    params.program = name.split(".")[0]
    if not name.startswith(("taming.", "ldm.")) and name != "torch.nn.Identity":
        raise ValueError(
            f"{where}.target={short(name)} is no class of the original, whose names begin with 'taming.', or of "
            "latent-diffusion, whose names begin with 'ldm.'"
        )
    return name.rsplit(".", 1)[1], params


def _name(key: Any) -> str:
    return short(key)[1:-1] if isinstance(key, str) else short(key)


def _fit(value: Any, kind: type, where: str) -> Any:
    if kind in (int, float) and isinstance(value, str):  # YAML 1.1 reads 1e-6 as text
        with contextlib.suppress(ValueError):
            value = float(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            value = float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind is list and isinstance(value, (list, tuple)):
        return [_fit(item, int, where) for item in value]
    if not isinstance(value, kind) or (kind in (int, float) and isinstance(value, bool)):
        raise ValueError(f"{where} of the configuration is {short(value)}, but it must be of type {kind.__name__}")
    return value
