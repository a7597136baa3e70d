"""Second stage on COCO: scenes on the bounding boxes of their objects, 40 layers of width 1408, 1 B parameters.

python train_transformer.py --config=configs/coco_scene.py --config.data.path=COCO
python sample.py --config=configs/coco_scene.py --config.sample.condition=OBJECTS.json

Needs the first stage of configs/coco_vqgan.py, and the boxes of COCO and COCO-Stuff (docs/data.md). Hardware: 8 GPUs
with 80 GB at the global batch of 48. Expected: the things and stuff asked for at their places.
`--config.condition.kind=points` takes the centres of the objects instead.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    config = common.transformer("runs/coco_scene", first_stage="runs/coco_vqgan")
    config.data.update({"source": "coco_objects", "path": "data/coco", "size": 256, "batch_size": 48})
    config.data.update({"min_objects": 2, "min_object_area": 1e-5})
    config.condition.update({"kind": "boxes", "n_codes": 8192, "max_objects": 30})
    config.condition.update({"encode_crop": True, "group_flag": True})
    # a place more than is needed, as published
    config.transformer.update({"block_size": 348, "n_layer": 40, "n_head": 16, "n_embd": 1408})
    config.transformer.update({"embedding_dropout": 0.1, "residual_dropout": 0.1, "attention_dropout": 0.1})
    config.transformer.dtype = "bfloat16"
    config.train.update({"steps": 300_000, "monitor": "val/nll", "show": ("loss",)})
    config.sample.update({"top_k": 100})
    return common.tiny_transformer(config) if "tiny" in common.arguments(arg) else config
