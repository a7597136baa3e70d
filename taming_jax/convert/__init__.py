"""Weights of other programs into the files of this one. PyTorch is imported only here, where needed."""
