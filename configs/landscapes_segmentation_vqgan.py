"""First stage on the label maps of landscapes: 10 labels, 16 x 16 codes out of 512 for 64 x 64 pixels.

python train_vqgan.py --config=configs/landscapes_segmentation_vqgan.py

Hardware: 2 CPU cores, about an hour. Expected: not measured to the end yet.
"""

from ml_collections import ConfigDict

from configs import common, landscapes_vqgan


def get_config(arg: str = "") -> ConfigDict:
    config = common.reads(landscapes_vqgan.get_config(), "segmentation", channels=10)
    config.workdir = "runs/landscapes_segmentation_vqgan"
    config.train.update({"steps": 1000, "eval_every": 500})
    return common.tiny_vqgan(config, "landscapes") if "tiny" in common.arguments(arg) else config
