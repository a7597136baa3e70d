"""Checkpoints of the original (PyTorch, CompVis/taming-transformers) into directories of this project, and back."""

from taming_jax.convert.original.convert import convert_checkpoint
from taming_jax.convert.original.export import export_checkpoint

__all__ = ["convert_checkpoint", "export_checkpoint"]
