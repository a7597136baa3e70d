"""Second stage on ADE20K: images on label maps, 28 layers of width 1024, 0.4 B parameters.

python train_transformer.py --config=configs/ade20k.py --config.data.path=ADE20K
python sample.py --config=configs/ade20k.py --config.sample.condition=MAPS

Needs both first stages of configs/ade20k_vqgan.py and the same data. Hardware: 4 GPUs with 80 GB at the global batch of
64. Published result: FID of the samples 35.5.

The published file could not be read. One rate of dropout is that of embeddings, of what layers add, and of attention,
as in the published files of the transformers on scenes.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    config = common.transformer("runs/ade20k", first_stage="runs/ade20k_vqgan")
    config.data.update({"source": "ade20k", "path": "data/ade20k", "size": 256, "resize": 296, "batch_size": 64})
    config.data.val_resize = 0  # training sees crops, validation the largest square in the middle
    config.condition.update({"kind": "segmentation", "stage": "runs/ade20k_segmentation_vqgan"})
    # a place more than is needed, as published
    config.transformer.update({"block_size": 512, "n_layer": 28, "n_head": 16, "n_embd": 1024})
    config.transformer.update({"embedding_dropout": 0.1, "residual_dropout": 0.1, "attention_dropout": 0.1})
    config.transformer.dtype = "bfloat16"
    config.train.update({"steps": 300_000, "monitor": "val/nll", "show": ("loss",)})
    config.sample.update({"top_k": 100})
    return common.tiny_transformer(config) if "tiny" in common.arguments(arg) else config
