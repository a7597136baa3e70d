"""Second stage for super-resolution: photographs on the same in 4 times fewer pixels a side, f8, 12 layers of 1024.

python train_transformer.py --config=configs/superres.py --config.data.path=ImageNet
python sample.py --config=configs/superres.py --config.sample.condition=PHOTOGRAPHS

Needs the first stage of configs/imagenet_vqgan.py:f8 alone: it reads the small images too, enlarged. Trained on crops
of 128 x 128, which are 16 x 16 codes; larger images are drawn by a sliding window. Hardware: 4 GPUs with 40 GB at the
global batch of 64. Expected: sharp images whose blurred ones are those asked for.
"""

from ml_collections import ConfigDict

from configs import common, drin


def get_config(arg: str = "") -> ConfigDict:
    config = drin.get_config()
    config.update({"workdir": "runs/superres", "first_stage": "runs/imagenet_vqgan_f8"})
    config.data.update({"depths": "", "classes": "", "size": 128, "resize": 256})
    config.transformer.n_layer = 12
    config.condition.update({"kind": "low_res", "stage": "first_stage", "scale": 4})
    return common.tiny_transformer(config) if "tiny" in common.arguments(arg) else config
