"""Checkpoints of all programs of the family: which it is, by what is in it, and the way there and back for each."""

from taming_jax.convert.formats.back import FORMATS, export
from taming_jax.convert.formats.choose import convert

__all__ = ["FORMATS", "convert", "export"]
