"""What a foreign file holds beside parameters, in the JSON of the folder that is made of it, so that the way back is
exact."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from taming_jax.checkpoint import Saved
from taming_jax.convert.engine import Brought
from taming_jax.models.gpt import unstack_layers


def remembered(brought: Brought) -> dict[str, Any]:
    """As JSON."""
    told = lambda a: {"dtype": str(a.dtype), "shape": list(a.shape), "value": _value(a)}
    kept = {name: told(array) for name, array in brought.kept.items()}
    return {"kept": kept, "dtypes": brought.dtypes, "absent": brought.absent}


def recalled(saved: Saved) -> Brought:
    """The arrays of a saved model with what is remembered of its file; nothing for one that was trained here."""
    memory: Mapping[str, Any] = saved.config.get("original", {})
    params = flatten_dict({"params": unstack_layers(saved.load_params())}, sep="/")
    brought = Brought({name: np.asarray(array) for name, array in params.items()})
    for name, told in memory.get("kept", {}).items():
        value = np.asarray(told["value"], told["dtype"])
        brought.kept[name] = np.broadcast_to(value, told["shape"]) if value.ndim == 0 else value.reshape(told["shape"])
    brought.dtypes, brought.absent = dict(memory.get("dtypes", {})), list(memory.get("absent", []))
    return brought


def tree_of(brought: Brought) -> Any:
    """The parameters as a tree."""
    return unflatten_dict(brought.arrays, sep="/")["params"]


def _value(array: np.ndarray) -> Any:
    """One number where all are the same."""
    first = array.reshape(-1)[0].item() if array.size else 0
    return first if array.size and (array == array.reshape(-1)[0]).all() else array.tolist()
