"""Frozen dataclasses of settings from plain mappings and back, refusing what does not fit.

A dataclass begins its errors with the name of its own field (`check`, `check_known`); what is around it puts the path
before that (`below`), so that all are told as "config.loss.beta=-1, but ...".
"""

import contextlib
import dataclasses
import os
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, TypeVar

from taming_jax.differences import few
from taming_jax.limits import told

T = TypeVar("T")
Size = int | tuple[int, ...]  # of images in pixels: the side of a square, or (height, width), which has no equal sides
PathText = Annotated[str, "path"]  # of a file or folder, on disk or in a bucket; `~` is the home folder


def sides(size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width of a size as settings and their JSON have it."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def plain_size(size: Any, name: str = "size") -> Size:
    """A size in the form that all settings and checkpoints have: a square as one number. Raises ValueError."""
    values = (size,) if isinstance(size, int) else tuple(size) if isinstance(size, (tuple, list)) else ()
    if not (isinstance(size, int) or len(values) == 2) or any(type(value) is not int for value in values):
        raise ValueError(f"{name}={told(size)}, but it must be one whole number, or (height, width) in pixels.")
    return values[0] if len(set(values)) == 1 else values


def check(settings: Any, name: str, fits: bool, expected: str) -> None:
    """Raise ValueError where a field of settings does not fit, with what is expected of it."""
    if not fits:
        raise ValueError(f"{name}={told(getattr(settings, name))}, but {expected}.")


def check_known(settings: Any, name: str, known: Collection[str]) -> None:
    """Raise ValueError where a field of settings is none of the known names."""
    value = getattr(settings, name)
    if value not in known:
        raise ValueError(f"{name}={told(value)} is unknown; known: {', '.join(map(str, known))}.")


@contextlib.contextmanager
def below(path: str) -> Iterator[None]:
    """Put the path of settings before the field with which an error of theirs begins."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}.{error}") from error


def from_dict(cls: type[T], values: Mapping[str, Any], name: str = "config") -> T:
    """Build the settings dataclass `cls`, and those inside it, from `values`; `name` is what the user calls them.

    Lists become tuples and integers floats where the field asks for it, and `~` in a path the home folder. Raises
    ValueError for unknown or missing keys and for values that are of another type than the field's, or that the
    dataclass refuses.
    """
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        raise ValueError(f"{name} is {told(values)} ({type(values).__name__}), but it must be a mapping of settings.")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(fields))
    if unknown:
        strange = few([told(key)[1:-1] for key in unknown], most=8)
        raise ValueError(f"{name} has unknown key(s) {strange}; known keys: {', '.join(sorted(fields))}.")
    missing = sorted(
        key
        for key, field in fields.items()
        if key not in values and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    )
    if missing:
        raise ValueError(f"{name} needs the key(s) {', '.join(missing)}; add {name}.{missing[0]}.")
    hints = typing.get_type_hints(cls, include_extras=True)
    fitted = {key: _fit(value, hints[key], f"{name}.{key}") for key, value in values.items()}
    with below(name):
        return cls(**fitted)


def fitted(cls: type, name: str, value: Any, where: str) -> Any:
    """The value as `from_dict` takes it for the field `name` of `cls`; where: what the user calls the field. Raises
    ValueError for a value of another type."""
    return _fit(value, typing.get_type_hints(cls, include_extras=True)[name], where)


# What settings of the data that came later did before there were any, where files are read.
BEFORE = {"color_profiles": False}


def as_saved(data: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the data as a training or an encoding has saved them; what they do not name yet is as it was then."""
    if not isinstance(data, Mapping):
        raise ValueError(f"config.data is {told(data)} ({type(data).__name__}), but it must be a mapping of settings.")
    of_files = data.get("source", "demo") not in ("demo", "landscapes", "codes")
    return {**(BEFORE if of_files else {}), **data}


def to_dict(settings: Any) -> dict[str, Any]:
    """The reverse of `from_dict`, ready for JSON."""
    return {key: _plain(value) for key, value in dataclasses.asdict(settings).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _fit(value: Any, hint: Any, where: str) -> Any:
    if hint is PathText:
        return os.path.expanduser(_fit(value, str, where))
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_dict(hint, value, where)  # type: ignore[arg-type]
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        for argument in arguments:
            if argument is not type(None):
                try:
                    return _fit(value, argument, where)
                except ValueError:
                    continue
    elif origin is tuple:
        if isinstance(value, (list, tuple)):
            return tuple(_fit(item, arguments[0], where) for item in value)
    elif hint is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            with contextlib.suppress(OverflowError):  # of a whole number that no float is as large as
                return float(value)
    elif hint is int:
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63:
            return value
    elif isinstance(value, hint):
        return value
    expected = hint.__name__ if isinstance(hint, type) else str(hint)
    raise ValueError(f"{where} is {told(value)} ({type(value).__name__}), but it must be {expected}.")
