"""What a loaded model is, in one line."""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import jax

from taming_jax.checkpoint import Saved


class Loaded(Protocol):
    """A loaded model."""

    saved: Saved | None
    params: Any


def described(model: Loaded, facts: Sequence[str]) -> str:
    """Its class, the checkpoint that it was loaded from, the facts, and how many parameters it has."""
    origin = f"{model.saved.path!r}, step {model.saved.step}" if model.saved else "of no checkpoint"
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(model.params))
    return f"<{type(model).__name__} {origin}: {', '.join([*facts, f'{count:,} parameters'])}>"
