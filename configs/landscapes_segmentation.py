"""Second stage on landscapes: pictures of any size, painted as label maps; 4 layers of width 224.

python train_transformer.py --config=configs/landscapes_segmentation.py
python sample.py --config=configs/landscapes_segmentation.py --config.sample.condition=MAP.png
python sample.py --config=configs/landscapes_segmentation.py --config.sample.n=1 --config.sample.size="(128,512)"

Needs the first stages of configs/landscapes_vqgan.py and configs/landscapes_segmentation_vqgan.py. The window that it
learns is 32 pixels wide and high; `--config=configs/landscapes_segmentation.py:48`, or 64, learns a larger one, which
sees more of the map, in more hours. The sky's label says the mood. Hardware: 2 CPU cores, 55 minutes.
Expected: 3.12 nats a code on held-out maps; the labels read back from pictures agree with the maps as do those of
reconstructions (docs/quality.md).
"""

from ml_collections import ConfigDict

from configs import common, landscapes_vqgan


def get_config(arg: str = "") -> ConfigDict:
    words = common.arguments(arg, "48", "64")
    config = common.transformer("runs/landscapes_segmentation", first_stage="runs/landscapes_vqgan")
    config.data = landscapes_vqgan.get_config().data
    config.condition.update({"kind": "segmentation", "stage": "runs/landscapes_segmentation_vqgan"})
    config.condition_dropout = 0.1
    config.transformer.update({"n_layer": 4, "n_head": 4, "n_embd": 224})
    config.optimizer.update({"learning_rate": 1e-3, "per_sample": False, "schedule": "cosine", "warmup": 200})
    config.train.update({"steps": 4500, "log_every": 20, "eval_every": 1000, "image_every": 1000})
    config.train.update({"save_every": 500, "show": ("loss",), "monitor": "val/nll"})
    config.sample.update({"n": 16, "batch_size": 16, "temperature": 0.9, "top_p": 0.9, "guidance": 2.0})
    config.data.update({"size": 32, "batch_size": 16})
    for size in words - {"tiny"}:
        config.workdir += f"_{size}"
        config.data.update({"size": int(size), "batch_size": 8})
    return common.tiny_transformer(config, "landscapes") if "tiny" in words else config
