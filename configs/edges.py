"""Second stage on edges: photographs of ImageNet or any folder on their edges, f8, 24 layers of width 1024.

python train_transformer.py --config=configs/edges.py --config.data.path=ImageNet
python sample.py --config=configs/edges.py --config.sample.condition=PHOTOGRAPHS

Needs the first stages of configs/imagenet_vqgan.py:f8 and configs/edges_vqgan.py. Trained on crops of 128 x 128, which
are 16 x 16 codes; larger images are drawn by a sliding window. Hardware: 4 GPUs with 40 GB at the global batch of 64.
Expected: photographs whose outlines are those asked for, with colours of their own.
"""

from ml_collections import ConfigDict

from configs import common, drin


def get_config(arg: str = "") -> ConfigDict:
    config = drin.get_config()
    config.update({"workdir": "runs/edges", "first_stage": "runs/imagenet_vqgan_f8"})
    config.data.update({"depths": "", "classes": "", "size": 128, "resize": 256})
    config.condition.update({"kind": "edges", "stage": "runs/edges_vqgan"})
    return common.tiny_transformer(config) if "tiny" in common.arguments(arg) else config
