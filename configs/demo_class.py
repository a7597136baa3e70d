"""Second stage of the demo: scenes drawn by the class of their main object.

python train_transformer.py --config=configs/demo_class.py
python sample.py --config=configs/demo_class.py --config.sample.classes="red disk,blue diamond"

Needs the first stage of configs/demo_vqgan.py. Hardware: 2 CPU cores, about 3 minutes. Expected: at least 90 % of the
samples show the class asked for.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    config = common.transformer("runs/demo_class", first_stage="runs/demo_vqgan")
    config.data.update({"source": "demo", "size": 32, "batch_size": 16, "n_train": 8192, "n_val": 256})
    config.condition.kind = "class_label"
    config.transformer.update({"n_layer": 3, "n_head": 4, "n_embd": 192})
    config.optimizer.update({"learning_rate": 2e-3, "per_sample": False, "schedule": "cosine", "warmup": 50})
    config.train.update({"steps": 1600, "log_every": 20, "eval_every": 800, "image_every": 400, "save_every": 400})
    config.train.update({"show": ("loss",), "monitor": "val/nll"})
    config.sample.update({"n": 40, "batch_size": 40, "top_p": 0.8})
    return common.tiny_transformer(config) if "tiny" in common.arguments(arg) else config
