"""Data that needs no download, drawn by rules that can also be read back from a picture: `scenes` of objects, and
`landscapes`. Here are the names of the scenes; those of landscapes are in `landscape_kinds` and `landscape_reader`."""

from taming_jax.data.demo.landscapes import DemoLandscapes
from taming_jax.data.demo.scene_kinds import CLASS_NAMES, FIRST_OBJECT, LABELS, N_CLASSES, PALETTE
from taming_jax.data.demo.scene_readers import read_class, read_labels, score_class
from taming_jax.data.demo.scenes import DemoScenes

__all__ = ["CLASS_NAMES", "FIRST_OBJECT", "LABELS", "N_CLASSES", "PALETTE", "DemoLandscapes", "DemoScenes"]
__all__ += ["read_class", "read_labels", "score_class"]
