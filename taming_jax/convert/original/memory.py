"""What the original's file holds beside parameters: kept in the JSON of each folder, so that the way back is exact."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from taming_jax.checkpoint import CONDITION_STAGE, FIRST_STAGE
from taming_jax.convert.engine import Brought
from taming_jax.convert.original.names import CONDITION, FIRST


def _prefix_of(folder: str, two_stage: bool) -> str:
    """What the original puts before the names of the arrays that lie in a folder."""
    return {FIRST_STAGE: FIRST, CONDITION_STAGE: CONDITION}.get(folder, "") if two_stage else ""


def below(names: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The entries whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in names.items() if name.startswith(prefix)}


def remembered(brought: Brought, folder: str, two_stage: bool) -> dict[str, Any]:
    """The part of it that belongs to a folder, as JSON."""
    prefix = _prefix_of(folder, two_stage)
    others = (FIRST, CONDITION) if two_stage and not folder else ()
    own = lambda names: {k: v for k, v in below(names, prefix).items() if not k.startswith(others or ("//",))}
    return {
        "buffers": {name: array.tolist() for name, array in own(brought.kept).items()},
        "dtypes": own(brought.dtypes),
        "absent": list(own(dict.fromkeys(brought.absent))),
    }


def recall(memory: Mapping[str, Any], folder: str, two_stage: bool, into: Brought) -> None:
    """The way back: add what a folder's JSON remembers; nothing for a model that was trained here."""
    prefix = _prefix_of(folder, two_stage)
    into.absent += [prefix + name for name in memory.get("absent", [])]
    into.kept |= {prefix + name: np.asarray(value) for name, value in memory.get("buffers", {}).items()}
    into.dtypes |= {prefix + name: value for name, value in memory.get("dtypes", {}).items()}
