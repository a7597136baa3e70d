"""First stage of depth on ImageNet at 256 x 256: f16, 1024 codes, one channel.

python train_vqgan.py --config=configs/drin_vqgan.py --config.data.path=ImageNet --config.data.depths=ImageNet_depth

ImageNet_depth are depth maps with the images' names, which `python -m taming_jax.data.prepare` makes (docs/data.md).
Needs the LPIPS weights (README.md), which see depth as grey images, as in the published training; without them
`--config.loss.perceptual_weight=0`. Hardware: 4 GPUs with 40 GB at the global batch of 32. Expected: smooth maps, l1 on
held-out ones below 0.02 of the range of 2.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    config = common.vqgan("runs/drin_vqgan")
    config.data.update({"source": "imagenet", "path": "data/imagenet", "depths": "data/imagenet_depth"})
    config.data.update({"size": 256, "batch_size": 32})
    config.model.dtype = "bfloat16"
    common.reads(config, "depth", 1)
    config.loss.update({"perceptual_weight": 1.0, "disc_weight": 0.75})
    config.loss.update({"disc_learn_start": 45_000, "disc_start": 50_001, "disc_ramp": 10_000})
    config.train.steps = 200_000
    return common.tiny_vqgan(config) if "tiny" in common.arguments(arg) else config
