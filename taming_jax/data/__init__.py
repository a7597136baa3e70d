"""Sources of images and their batches; `pipeline.py` is the way in."""
