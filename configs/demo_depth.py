"""Second stage of the demo: scenes drawn on depth maps.

python train_transformer.py --config=configs/demo_depth.py
python sample.py --config=configs/demo_depth.py
python sample.py --config=configs/demo_depth.py --config.sample.condition=MAP.npy

Needs the first stages of configs/demo_vqgan.py and configs/demo_depth_vqgan.py. Hardware: 2 CPU cores, about 5 minutes.
Expected: objects where the map has them, in colours and of kinds of their own.
"""

from ml_collections import ConfigDict

from configs import common, demo_segmentation


def get_config(arg: str = "") -> ConfigDict:
    config = demo_segmentation.get_config()
    config.workdir = "runs/demo_depth"
    config.condition.update({"kind": "depth", "stage": "runs/demo_depth_vqgan"})
    return common.tiny_transformer(config) if "tiny" in common.arguments(arg) else config
