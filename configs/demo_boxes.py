"""Second stage of the demo: scenes drawn on the bounding boxes of their objects.

python train_transformer.py --config=configs/demo_boxes.py
python sample.py --config=configs/demo_boxes.py
python sample.py --config=configs/demo_boxes.py --config.sample.condition=OBJECTS.json

Needs the first stage of configs/demo_vqgan.py. Hardware: 2 CPU cores, about 25 minutes. Expected: 73 % of
the objects of at least 8 pixels a side are read at their boxes, where reconstructions have 84 %.
"""

from ml_collections import ConfigDict

from configs import common, demo_segmentation


def get_config(arg: str = "") -> ConfigDict:
    config = demo_segmentation.get_config()
    config.workdir = "runs/demo_boxes"
    config.condition.update({"kind": "boxes", "stage": "", "n_codes": 256, "max_objects": 4})
    config.condition_dropout = 0.1
    config.train.update({"steps": 10000, "eval_every": 2000, "image_every": 5000, "save_every": 1000})
    config.sample.guidance = 2.0
    return common.tiny_transformer(config) if "tiny" in common.arguments(arg) else config
