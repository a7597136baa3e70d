"""Second stage of the demo: scenes drawn on the centres of their objects.

python train_transformer.py --config=configs/demo_points.py
python sample.py --config=configs/demo_points.py
python sample.py --config=configs/demo_points.py --config.sample.condition=OBJECTS.json

Needs the first stage of configs/demo_vqgan.py. Hardware: 2 CPU cores, about 10 minutes. Expected: 81 % of the
objects of at least 8 pixels a side are read within 3 pixels of their centres, where reconstructions have 96 %.
"""

from ml_collections import ConfigDict

from configs import common, demo_boxes


def get_config(arg: str = "") -> ConfigDict:
    config = demo_boxes.get_config()
    config.workdir = "runs/demo_points"
    config.condition.kind = "points"
    config.train.update({"steps": 5000, "eval_every": 1000, "image_every": 2500, "save_every": 1000})
    return common.tiny_transformer(config) if "tiny" in common.arguments(arg) else config
