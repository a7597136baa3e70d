"""First stage of the demo for label maps: 12 labels, 8 x 8 codes out of 256.

python train_vqgan.py --config=configs/demo_segmentation_vqgan.py

Hardware: 2 CPU cores, about 3 minutes. Expected on held-out scenes: 98 % of the pixels right, all codes used.
"""

from ml_collections import ConfigDict

from configs import common, demo_vqgan


def get_config(arg: str = "") -> ConfigDict:
    config = common.reads(demo_vqgan.get_config(), "segmentation", channels=12)
    config.workdir = "runs/demo_segmentation_vqgan"
    config.train.update({"steps": 1400, "eval_every": 700, "image_every": 700, "save_every": 350})
    return common.tiny_vqgan(config) if "tiny" in common.arguments(arg) else config
