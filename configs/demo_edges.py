"""Second stage of the demo: scenes drawn on edges.

python train_transformer.py --config=configs/demo_edges.py
python sample.py --config=configs/demo_edges.py
python sample.py --config=configs/demo_edges.py --config.sample.condition=PHOTOGRAPH.png

Needs the first stages of configs/demo_vqgan.py and configs/demo_edges_vqgan.py. Hardware: 2 CPU cores, about 9 minutes.
Expected: edges of samples are 1.0 pixels from those asked for, those of reconstructions 0.6. Colours are free.
"""

from ml_collections import ConfigDict

from configs import common, demo_segmentation


def get_config(arg: str = "") -> ConfigDict:
    config = demo_segmentation.get_config()
    config.workdir = "runs/demo_edges"
    config.condition.update({"kind": "edges", "stage": "runs/demo_edges_vqgan"})
    config.condition_dropout = 0.1
    config.train.update({"steps": 1600, "eval_every": 800, "image_every": 800, "save_every": 400})
    config.sample.guidance = 2.0
    return common.tiny_transformer(config) if "tiny" in common.arguments(arg) else config
