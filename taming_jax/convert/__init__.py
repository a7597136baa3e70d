"""Weights of other programs into the files of this one, and back. No PyTorch is needed for any of it."""
