"""Strict renaming of arrays: every source is used or known to carry nothing, every target is filled once, every shape
fits; and the same table backwards."""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from taming_jax.convert.array_names import in_line
from taming_jax.differences import few

# Layout of an array in PyTorch -> here, and back.
LAYOUTS: dict[str, tuple[Callable, Callable]] = {
    "same": (lambda a: a, lambda a: a),
    "convolution": (lambda a: a.transpose(2, 3, 1, 0), lambda a: a.transpose(3, 2, 0, 1)),  # (out, in, h, w)
    "linear": (lambda a: a.T, lambda a: a.T),  # (out, in)
    "pointwise": (lambda a: a.T[None, None], lambda a: a[0, 0].T),  # (out, in) of what is a 1 x 1 convolution here
    "channels": (lambda a: a.reshape(-1), lambda a: a.reshape(1, -1, 1, 1)),  # (1, c, 1, 1)
    "channels_last": (lambda a: a.reshape(-1), lambda a: a.reshape(1, 1, 1, -1)),  # (1, 1, 1, c)
    "batch": (lambda a: a[0], lambda a: a[None]),  # a leading axis of one
}


@dataclass(frozen=True)
class Entry:
    """One array: its name there and here, and the shape and type it has here."""

    source: str
    target: str
    layout: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def source_shape(self) -> tuple[int, ...]:
        return LAYOUTS[self.layout][1](np.broadcast_to(np.zeros((), np.int8), self.shape)).shape


@dataclass(frozen=True)
class Passive:
    """An array of the source that is no parameter of ours, and may be missing.

    use: "exact": it must equal `like`, which is what goes back. "kept": any value of the shape of `like`; it is
    remembered, and where it is not, `like` goes back. "dropped": as "kept", but neither remembered nor sent back.
    """

    source: str
    like: np.ndarray
    use: str = "exact"


@dataclass
class Table:
    """Everything that a checkpoint of one configuration may hold.

    constants: targets of ours that no source fills, with their value.
    """

    entries: list[Entry] = field(default_factory=list)
    passive: list[Passive] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def __add__(self, other: "Table") -> "Table":
        constants = {**self.constants, **other.constants}
        return Table(self.entries + other.entries, self.passive + other.passive, constants)


def entries_of(
    shapes: Mapping[str, Any], parts: Mapping[str, str], layout: Callable[[str, int], str], prefix: str, folder: str
) -> list[Entry]:
    """An entry for each target `a/b/c`: its source is `prefix` and the parts, each renamed by the one pattern that
    fits.

    shapes: target -> anything with shape and dtype. layout: (target, number of axes) -> name in LAYOUTS. folder: stands
    before the targets.
    """
    found = []
    for target, leaf in shapes.items():
        names = []
        for part in target.split("/"):
            fitting = [re.sub(f"^{p}$", r, part) for p, r in parts.items() if re.fullmatch(p, part)]
            if len(fitting) != 1:
                raise ValueError(f"{target}: {len(fitting)} rules rename {part!r}; exactly one must")
            names.append(fitting[0])
        name = prefix + ".".join(n for n in names if n)
        kind = layout(target, len(leaf.shape))
        found.append(Entry(name, folder + target, kind, tuple(leaf.shape), np.dtype(leaf.dtype)))
    return found


def check_layers(layers: int, state: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError, before the network is built, where it would have more layers than the file has arrays."""
    if layers > len(state):
        raise ValueError(f"it is to have {layers} layers, and the file has {len(state)} arrays")


@dataclass
class Brought:
    """arrays: by our names, in our layout and type. kept: passive ones, by the source's names. dtypes: the type of each
    source that is not of the usual one (float32). absent: passive ones that the source does not hold."""

    arrays: dict[str, np.ndarray]
    kept: dict[str, np.ndarray] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)


def bring(table: Table, state: Mapping[str, np.ndarray]) -> Brought:
    """The arrays of a state dict. Raises one ValueError that names everything that does not fit."""
    _check_table(table)
    known = {entry.source for entry in table.entries} | {passive.source for passive in table.passive}
    wrong, lacking = _other_parts(table, state, known)
    missing = [e for e in table.entries if e.source not in state and _part(e.source) not in lacking]
    wrong += _missing(table, missing)
    found = Brought(dict(table.constants))
    for entry in table.entries:
        array = state.get(entry.source)
        if array is None:
            continue
        if array.shape != entry.source_shape:
            wrong.append(f"{entry.source} has shape {array.shape}, but the configuration makes it {entry.source_shape}")
        elif (np.dtype(entry.dtype).kind == "f") != _is_float(array.dtype):
            wrong.append(f"{entry.source} is of type {array.dtype}")
        else:
            ours = LAYOUTS[entry.layout][0](array)
            found.arrays[entry.target] = np.ascontiguousarray(ours, entry.dtype).reshape(entry.shape)
            if array.dtype != _type_there(entry):
                found.dtypes[entry.source] = str(array.dtype)
    for passive in table.passive:
        array = state.get(passive.source)
        if array is None:
            found.absent += [passive.source] if passive.use != "dropped" else []
            continue
        if array.shape != passive.like.shape or (passive.use == "exact" and not np.array_equal(array, passive.like)):
            wrong.append(f"{passive.source} {array.shape} is not what the configuration makes it, {passive.like.shape}")
        elif passive.use == "kept":
            found.kept[passive.source] = array
        if passive.use != "dropped" and array.dtype != passive.like.dtype:
            found.dtypes[passive.source] = str(array.dtype)
    parts = {_part(name) for name in known}
    wrong += [f"{in_line(n)} {state[n].shape} is unknown" for n in state if n not in known and _part(n) in parts]
    if wrong:
        raise ValueError(f"checkpoint and configuration do not fit: {few(wrong, most=12)}")
    return found


# What layers are called, by the layout of their kernel.
LAYERS = {
    "convolution": "convolutions",
    "pointwise": "attention's convolutions",
    "linear": "linear layers",
    "same": "norms",
}


def _missing(table: Table, missing: list[Entry]) -> list[str]:
    """In words: all biases of a kind of layer in one, the others by name."""
    layers = {
        entry.source.rpartition(".")[0]: entry.layout
        for entry in table.entries
        if entry.layout in LAYERS and entry.layout != "same"
    }
    kind = lambda e: layers.get(e.source.removesuffix(".bias"), "same") if e.source.endswith(".bias") else ""
    there, lacking = Counter(map(kind, table.entries)), Counter(map(kind, missing))
    whole = {name for name, count in lacking.items() if name and count == there[name] and count > 2}
    wrong = [f"all {there[name]} biases of {LAYERS[name]} are missing" for name in sorted(whole)]
    return wrong + [f"{entry.source} is missing" for entry in missing if kind(entry) not in whole]


def _part(name: str) -> str:
    """The network that an array belongs to, by the beginning of its name."""
    return name.split(".", 1)[0]


def _other_parts(table: Table, state: Mapping[str, np.ndarray], known: set[str]) -> tuple[list[str], set[str]]:
    """(in words, networks that one side alone has, as where a file holds a part of a model; those that it lacks)."""
    wanted = Counter(_part(entry.source) for entry in table.entries)
    there = Counter(map(_part, state))
    lacking = {part for part in wanted if part not in there}
    wrong = [
        f"nothing below {part!r} is there, where {wanted[part]} arrays should be" for part in wanted if part in lacking
    ]
    strange = {part: n for part, n in there.items() if part not in {_part(name) for name in known}}
    wrong += [f"{n} arrays below {in_line(part)!r} are unknown" for part, n in strange.items()]
    for part in lacking:
        inner = {_part(name.removeprefix(f"{part}.")) for name in known if _part(name) == part}
        if strange and set(strange) <= inner:
            wrong.append(f"the file seems to hold {part!r} alone: give the configuration of that part")
    for part in strange:
        inner = {_part(name.removeprefix(f"{part}.")) for name in state if _part(name) == part}
        if lacking and lacking <= inner:
            wrong.append(
                f"the file holds what is asked for below {in_line(part)!r}: give the configuration of all of it"
            )
    return wrong, lacking


def send(table: Table, brought: Brought) -> dict[str, np.ndarray]:
    """The way back: the state dict. Raises ValueError where an array is missing, unknown or of a wrong shape."""
    _check_table(table)
    arrays, wanted = brought.arrays, {entry.target: entry for entry in table.entries}
    wrong = [f"{name} is missing" for name in sorted(wanted.keys() - arrays.keys())]
    wrong += [f"{name} is unknown" for name in sorted(arrays.keys() - wanted.keys() - table.constants.keys())]
    shapes = ((name, arrays[name].shape, entry.shape) for name, entry in wanted.items() if name in arrays)
    wrong += [f"{name} is {found}, not {shape}" for name, found, shape in shapes if found != shape]
    if wrong:
        raise ValueError(f"the saved arrays do not fit their configuration: {few(wrong, most=12)}")
    state = {}
    for name, entry in wanted.items():
        theirs = LAYOUTS[entry.layout][1](arrays[name])
        dtype = np.dtype(brought.dtypes.get(entry.source, _type_there(entry)))
        state[entry.source] = np.ascontiguousarray(theirs, dtype).reshape(entry.source_shape)
    for passive in table.passive:
        if passive.use != "dropped" and passive.source not in brought.absent:
            value = brought.kept.get(passive.source, passive.like)
            state[passive.source] = np.asarray(value, brought.dtypes.get(passive.source, passive.like.dtype))
    return state


def _type_there(entry: Entry) -> np.dtype:
    return np.dtype(np.uint8) if entry.dtype == np.bool_ else entry.dtype


def _is_float(dtype: np.dtype) -> bool:
    return dtype.kind == "f" or dtype.name.startswith(("bfloat", "float8"))


def _check_table(table: Table) -> None:
    sources = [entry.source for entry in table.entries] + [passive.source for passive in table.passive]
    for names in (sources, [entry.target for entry in table.entries]):
        twice = sorted(name for name, times in Counter(names).items() if times > 1)
        if twice:
            raise ValueError(f"the table of names uses twice: {', '.join(twice)}")
