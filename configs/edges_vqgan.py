"""First stage of edges (Canny, sigma 2) on ImageNet or any folder at 256 x 256: f8, 1024 codes, one channel.

python train_vqgan.py --config=configs/edges_vqgan.py --config.data.path=ImageNet

Nothing but photographs is needed; for your own add `--config.data.source=folder`. Hardware: 4 GPUs with 40 GB at the
global batch of 32. Expected: the edges again, with breaks where they are dense.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    config = common.vqgan("runs/edges_vqgan")
    config.data.update({"source": "imagenet", "path": "data/imagenet", "size": 256, "batch_size": 32})
    config.model.update({"edge_sigma": 2.0, "dtype": "bfloat16", "ch_mult": (1, 1, 2, 4), "attn_resolutions": (32,)})
    common.reads(config, "edges", 1)
    config.loss.update({"disc_learn_start": 20_000, "disc_start": 25_000, "disc_ramp": 10_000})
    config.train.steps = 200_000
    return common.tiny_vqgan(config) if "tiny" in common.arguments(arg) else config
