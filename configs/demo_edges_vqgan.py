"""First stage of the demo for edges: Canny on scenes of 32 x 32 pixels, 8 x 8 codes out of 256.

python train_vqgan.py --config=configs/demo_edges_vqgan.py

Hardware: 2 CPU cores, about 2 minutes. Expected on held-out scenes: l1 0.14 in a range of 2, where a blank map has
0.31.
"""

from ml_collections import ConfigDict

from configs import common, demo_vqgan


def get_config(arg: str = "") -> ConfigDict:
    config = common.reads(demo_vqgan.get_config(), "edges", channels=1)
    config.workdir = "runs/demo_edges_vqgan"
    config.model.edge_sigma = 1.0  # in pixels, and the scenes have few
    config.loss.disc_weight = 0.0
    config.train.update({"steps": 800, "eval_every": 400, "image_every": 400, "save_every": 400})
    return common.tiny_vqgan(config) if "tiny" in common.arguments(arg) else config
