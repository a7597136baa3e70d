"""Data that needs no download, drawn by rules that can also be read back from a picture: `scenes` and their readers."""

from taming_jax.data.demo.scene_kinds import CLASS_NAMES, FIRST_OBJECT, LABELS, N_CLASSES, PALETTE
from taming_jax.data.demo.scene_readers import read_class, read_labels, score_class
from taming_jax.data.demo.scenes import DemoScenes

__all__ = ["CLASS_NAMES", "FIRST_OBJECT", "LABELS", "N_CLASSES", "PALETTE", "DemoScenes"]
__all__ += ["read_class", "read_labels", "score_class"]
