"""Weight files of fixed networks: npz files of exactly the arrays that the network asks for."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from flax.traverse_util import unflatten_dict

from taming_jax.files import read_npz

Shapes = Mapping[str, tuple[int, ...]]


def differences(found: Shapes, expected: Shapes, most: int = 8) -> str:
    """The names that are missing, unknown or of another shape, "" for none."""
    wrong = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
    return ", ".join(wrong[:most]) + (f" and {len(wrong) - most} more" if len(wrong) > most else "")


def load_weights(path: str | Path, networks: Mapping[str, Shapes]) -> tuple[str, dict]:
    """(which of the networks a file is of, its parameters, float32). Raises ValueError where it is of none."""
    arrays = read_npz(path)
    found = {name: array.shape for name, array in arrays.items()}
    fitting = [name for name, shapes in networks.items() if shapes == found]
    if not fitting:
        nearest = min(networks, key=lambda name: len(networks[name].keys() ^ found.keys()))
        raise ValueError(
            f"{path} is no weight file of {', '.join(networks)}; of {nearest} these are missing, unknown or of a wrong "
            f"shape: {differences(found, networks[nearest])}"
        )
    return fitting[0], unflatten_dict({k: np.asarray(v, np.float32) for k, v in arrays.items()}, sep="/")
