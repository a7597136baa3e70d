"""taming_jax: VQGAN and transformer image synthesis (Esser, Rombach, Ommer, CVPR 2021) in JAX."""

import importlib
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from taming_jax.trained.first_stage import FirstStage
    from taming_jax.trained.generator import Generator
    from taming_jax.trained.loading import load
    from taming_jax.trained.token_model import TokenModel

# TensorFlow only reads files here, and need not narrate it, nor its fast matrix products, which that level leaves in.
# It looks when it is imported, which nothing above does.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

_HOMES = {"FirstStage": "first_stage", "Generator": "generator", "TokenModel": "token_model", "load": "loading"}
__all__ = ["FirstStage", "Generator", "TokenModel", "load"]


def __getattr__(name: str) -> Any:
    """Import the objects on first use, so that `import taming_jax.nn...` stays quick."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"taming_jax.trained.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'taming_jax' has no attribute {name!r}")
