"""The arrays of a checkpoint in one file, or in several with an index."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from taming_jax.convert.folders import INDEX, PART, index_of, weight_map
from taming_jax.convert.reader import read_state
from taming_jax.differences import few
from taming_jax.file_kinds import kind_of


@dataclass
class Weights:
    """extras: as `read_state` has them. files: all that were read."""

    state: dict[str, np.ndarray]
    extras: dict[str, Any]
    files: list[Path]
    notes: list[str] = field(default_factory=list)


def read_weights(path: Path, ema: bool = False) -> Weights:
    """The arrays of a file, of the files that an index names, or of all files of which the given one is a part.

    Raises ValueError as `read_state`, and where a file is missing or does not hold what the index says."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    part = PART.search(path.name)
    index = path if INDEX.search(path.name) or kind_of(path).name == "index" else index_of(path)
    if index is not None:
        return _by_index(
            index, [] if index == path else [f"{path.name} is one of several: all of {index.name} are read"]
        )
    if part is None:
        state, extras = read_state(path, ema)
        return Weights(state, extras, [path])
    count = int(part[2])
    if not 1 <= count <= 1000:
        raise ValueError(f"{path.name} is to be one of {count} files, and there is no index of them beside it")
    files = [path.with_name(PART.sub(f"-{i:05d}-of-{part[2]}", path.name)) for i in range(1, count + 1)]
    _all_there(files, path.name)
    state = {}
    for file in files:
        own = read_state(file)[0]
        if twice := state.keys() & own.keys():
            raise ValueError(f"{file} holds arrays that other files hold, too: {few(sorted(twice), most=3)}")
        state |= own
    return Weights(state, {}, files, [f"{path.name} is one of several, without an index: all {count} are read"])


def _by_index(index: Path, notes: list[str]) -> Weights:
    places = weight_map(index)
    state: dict[str, np.ndarray] = {}
    files = {name: index.parent / name for name in places.values()}
    _all_there(list(files.values()), index.name)
    for name, file in files.items():
        own, wanted = read_state(file)[0], [array for array, place in places.items() if place == name]
        if lacking := [array for array in wanted if array not in own]:
            raise ValueError(f"{file} lacks what {index.name} says of it: {few(lacking, most=3)}")
        if len(own) > len(wanted):
            notes.append(
                f"{len(own) - len(wanted)} arrays of {file.name} are left out, which {index.name} does not name"
            )
        state |= {array: own[array] for array in wanted}
    return Weights(state, {}, [index, *files.values()], notes)


def _all_there(files: list[Path], name: str) -> None:
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ValueError(
            f"{name} is of {len(files)} files, and these are missing: {few(missing, most=5)}; get them, too"
        )
