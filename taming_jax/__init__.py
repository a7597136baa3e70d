"""taming_jax: VQGAN and transformer image synthesis (Esser, Rombach, Ommer, CVPR 2021) in JAX."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from taming_jax.first_stage import FirstStage
    from taming_jax.generate import Generator, load

__all__ = ["FirstStage", "Generator", "load"]


def __getattr__(name: str) -> Any:
    """Import the objects on first use, so that `import taming_jax.nn...` stays quick."""
    if name in __all__:
        from taming_jax import generate

        return getattr(generate, name)
    raise AttributeError(f"module 'taming_jax' has no attribute {name!r}")
