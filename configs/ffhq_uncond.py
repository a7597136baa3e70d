"""Second stage on faces (FFHQ) at 256 x 256, without a condition: 24 layers of width 1664, 0.8 B parameters.

python train_transformer.py --config=configs/ffhq_uncond.py --config.data.path=FFHQ
python sample.py --config=configs/ffhq_uncond.py

Needs the first stage of configs/faceshq_vqgan.py. Sizes are those of the published file. Hardware: 8 GPUs with 40 GB
at the global batch of 64. Published result: FID of the samples 9.6 on FFHQ.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    config = common.transformer("runs/ffhq_uncond", first_stage="runs/faceshq_vqgan")
    config.data.update({"source": "folder", "path": "data/ffhq", "val_share": 1 / 70, "size": 256, "batch_size": 64})
    config.transformer.update({"n_layer": 24, "n_head": 16, "n_embd": 1664})
    config.transformer.dtype = "bfloat16"
    config.train.update({"steps": 300_000, "monitor": "val/nll", "show": ("loss",)})
    config.sample.update({"top_k": 300})
    return common.tiny_transformer(config) if "tiny" in common.arguments(arg) else config
