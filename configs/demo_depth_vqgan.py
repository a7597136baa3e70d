"""First stage of the demo for depth: maps of 32 x 32 pixels, 8 x 8 codes out of 256.

python train_vqgan.py --config=configs/demo_depth_vqgan.py

Hardware: 2 CPU cores, about a minute and a half. Expected on held-out scenes: l1 0.035 in a range of 2.
"""

from ml_collections import ConfigDict

from configs import common, demo_vqgan


def get_config(arg: str = "") -> ConfigDict:
    config = common.reads(demo_vqgan.get_config(), "depth", channels=1)
    config.workdir = "runs/demo_depth_vqgan"
    config.loss.disc_weight = 0.0
    config.train.update({"steps": 600, "eval_every": 300, "image_every": 300, "save_every": 300})
    return common.tiny_vqgan(config) if "tiny" in common.arguments(arg) else config
