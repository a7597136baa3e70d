"""Second stage on COCO-Stuff: images on label maps, 32 layers of width 1280, 0.65 B parameters.

python train_transformer.py --config=configs/coco.py --config.data.path=COCO
python sample.py --config=configs/coco.py --config.sample.condition=MAPS

Needs both first stages of configs/coco_vqgan.py and the same data. Hardware: 8 GPUs with 80 GB at the global batch of
64. Published result: FID of the samples 20.4.
"""

from ml_collections import ConfigDict

from configs import ade20k, common


def get_config(arg: str = "") -> ConfigDict:
    config = ade20k.get_config()
    config.update({"workdir": "runs/coco", "first_stage": "runs/coco_vqgan"})
    config.data.update({"source": "coco_stuff", "path": "data/coco"})
    config.condition.stage = "runs/coco_segmentation_vqgan"
    config.transformer.update({"n_layer": 32, "n_embd": 1280})
    config.transformer.update(dict.fromkeys(("embedding_dropout", "residual_dropout", "attention_dropout"), 0.0))
    return common.tiny_transformer(config) if "tiny" in common.arguments(arg) else config
