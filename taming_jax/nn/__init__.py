"""Layers: arrays and plain keywords in, arrays out; they know nothing of the networks built from them."""
