"""Second stage on landscapes: pictures of any size, painted as label maps; 4 layers of width 208.

python train_transformer.py --config=configs/landscapes_segmentation.py
python sample.py --config=configs/landscapes_segmentation.py --config.sample.condition=MAP.png
python sample.py --config=configs/landscapes_segmentation.py --config.sample.condition=MAP.png \\
    --config.sample.size="(128,512)"

Needs the first stages of configs/landscapes_vqgan.py and configs/landscapes_segmentation_vqgan.py. The window that it
learns is 48 pixels wide and high, of pictures of up to 512; `--config=configs/landscapes_segmentation.py:32`, or 64,
learns another. The light is beside the map, and where none is asked for it is that of the map's sky: `sample.py ...
--config.sample.classes=dusk`. Hardware: 2 CPU cores, 65 minutes.
Expected: 2.87 nats a code on held-out maps; the labels read back from pictures agree with the maps as do those of
reconstructions (docs/quality.md).
"""

from ml_collections import ConfigDict

from configs import common, landscapes_class


def get_config(arg: str = "") -> ConfigDict:
    words = common.arguments(arg, "32", "64")
    config = landscapes_class.get_config()
    config.workdir = "runs/landscapes_segmentation"
    config.data.update({"size": 48, "resize": 512, "random_scale": True, "classes": "moods"})
    config.condition.update({"kind": "segmentation", "stage": "runs/landscapes_segmentation_vqgan"})
    config.condition.update({"n_classes": 3, "class_from": (0, 1, 2)})
    config.transformer.update({"n_layer": 4, "n_embd": 208, "condition_table": True})
    config.train.update({"steps": 6000, "eval_every": 1000, "image_every": 1000, "save_every": 500})
    config.sample.update({"n": 16, "batch_size": 16, "top_p": 0.7, "guidance": 1.5})
    for size in words - {"tiny"}:
        config.workdir += f"_{size}"
        config.data.update({"size": int(size), "batch_size": {"32": 16, "64": 4}[size]})
    if "tiny" in words:
        config = common.tiny_transformer(config, "landscapes")
        config.condition.n_classes = 3
    return config
