"""Second stage of the demo: scenes drawn on the key points of their objects.

python train_transformer.py --config=configs/demo_pose.py
python sample.py --config=configs/demo_pose.py
python sample.py --config=configs/demo_pose.py --config.sample.condition=MAP.npy

Needs the first stages of configs/demo_vqgan.py and configs/demo_pose_vqgan.py. Hardware: 2 CPU cores, about 5 minutes.
Expected: 66 % of the figures are read where their points are, where reconstructions have 85 %. Kinds are
not asked for.
"""

from ml_collections import ConfigDict

from configs import common, demo_segmentation


def get_config(arg: str = "") -> ConfigDict:
    config = demo_segmentation.get_config()
    config.workdir = "runs/demo_pose"
    config.condition.update({"kind": "pose", "stage": "runs/demo_pose_vqgan"})
    config.condition_dropout = 0.1
    config.train.update({"steps": 1600, "eval_every": 800, "image_every": 800, "save_every": 400})
    return common.tiny_transformer(config) if "tiny" in common.arguments(arg) else config
