"""Second stage on D-RIN: ImageNet's animals on their depth, 24 layers of width 1024, 0.3 B parameters.

python train_transformer.py --config=configs/drin.py --config.data.path=ImageNet --config.data.depths=ImageNet_depth
python sample.py --config=configs/drin.py --config.sample.condition=MAPS

Needs the first stages of configs/imagenet_vqgan.py and configs/drin_vqgan.py and the same data. Hardware: 4 GPUs with
40 GB at the global batch of 64. Expected: animals that fill the shape of the map, of other kinds at each draw.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    config = common.transformer("runs/drin", first_stage="runs/imagenet_vqgan")
    config.data.update({"source": "imagenet", "path": "data/imagenet", "depths": "data/imagenet_depth"})
    config.data.update({"classes": "rin", "size": 256, "batch_size": 64})
    config.condition.update({"kind": "depth", "stage": "runs/drin_vqgan"})
    # a place more than is needed, as published
    config.transformer.update({"block_size": 512, "n_layer": 24, "n_head": 16, "n_embd": 1024})
    config.transformer.dtype = "bfloat16"
    config.train.update({"steps": 300_000, "monitor": "val/nll", "show": ("loss",)})
    config.sample.update({"top_k": 100})
    return common.tiny_transformer(config) if "tiny" in common.arguments(arg) else config
