"""First stage of the demo for key points: a map for each of 5 points of the objects, 8 x 8 codes out of 256.

python train_vqgan.py --config=configs/demo_pose_vqgan.py

Hardware: 2 CPU cores, about 2 minutes. Expected on held-out scenes: a soft dot at each point.
"""

from ml_collections import ConfigDict

from configs import common, demo_vqgan


def get_config(arg: str = "") -> ConfigDict:
    config = common.reads(demo_vqgan.get_config(), "pose", channels=5)
    config.workdir = "runs/demo_pose_vqgan"
    config.loss.disc_weight = 0.0
    config.train.update({"steps": 600, "eval_every": 300, "image_every": 300, "save_every": 300})
    return common.tiny_vqgan(config) if "tiny" in common.arguments(arg) else config
