"""Second stage of the demo: scenes drawn on label maps.

python train_transformer.py --config=configs/demo_segmentation.py
python sample.py --config=configs/demo_segmentation.py
python sample.py --config=configs/demo_segmentation.py --config.sample.condition=MAP.png

Needs the first stages of configs/demo_vqgan.py and configs/demo_segmentation_vqgan.py. Hardware: 2 CPU cores, about 5
minutes. Expected: label maps read from held-out samples have a mean IoU of 0.63 with those asked for, where
reconstructions have 0.79.
"""

from ml_collections import ConfigDict

from configs import common, demo_class


def get_config(arg: str = "") -> ConfigDict:
    config = demo_class.get_config()
    config.workdir = "runs/demo_segmentation"
    config.condition.update({"kind": "segmentation", "stage": "runs/demo_segmentation_vqgan"})
    config.train.update({"steps": 800, "eval_every": 400, "image_every": 400, "save_every": 200})
    config.sample.update({"n": 16, "batch_size": 16, "temperature": 0.7})  # closer to the condition, less varied
    return common.tiny_transformer(config) if "tiny" in common.arguments(arg) else config
