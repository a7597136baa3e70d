"""Second stage on your own photographs, without a condition: 24 layers of width 1024, 0.3 B parameters.

python train_transformer.py --config=configs/folder_uncond.py --workdir=runs/mine --config.first_stage=runs/mine_vqgan \
    --config.data.path=PHOTOS
python sample.py --config=configs/folder_uncond.py --workdir=runs/mine

Needs the first stage of configs/folder_vqgan.py. Hardware: one GPU with 40 GB at batch 16 in bfloat16. Expected: bits
per token fall from 10 to about 7 on varied photographs; with fewer than some thousand of them it learns them by heart
(watch val/nll).

Without a GPU: `configs/folder_uncond.py:small`, on the first stage of `configs/folder_vqgan.py:small`.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    config = common.transformer("runs/folder_uncond", first_stage="runs/folder_vqgan")
    config.data.update({"source": "folder", "size": 256, "batch_size": 16})
    config.transformer.update({"n_layer": 24, "n_head": 16, "n_embd": 1024})
    config.transformer.dtype = "bfloat16"
    config.train.update({"steps": 200_000, "monitor": "val/nll", "show": ("loss",)})
    config.sample.update({"top_k": 250})
    words = common.arguments(arg, "small")
    if "small" in words:
        config.workdir += "_small"
        config.first_stage += "_small"
        config.data.update({"size": 128, "batch_size": 8})
        config.transformer.update({"n_layer": 4, "n_head": 4, "n_embd": 128, "dtype": "float32"})
        config.optimizer.update({"learning_rate": 1e-3, "per_sample": False, "schedule": "cosine", "warmup": 50})
        config.train.update({"steps": 600, "eval_every": 200, "image_every": 300, "save_every": 300})
    return common.tiny_transformer(config, source="folder") if "tiny" in words else config
