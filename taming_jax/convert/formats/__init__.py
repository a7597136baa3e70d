"""Checkpoints of all programs of the family: which it is, by what is in it, and the way there and back for each."""

from taming_jax.convert.formats.choose import FORMATS, convert, export

__all__ = ["FORMATS", "convert", "export"]
