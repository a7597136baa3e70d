"""Second stage on landscapes (S-FLCKR): photographs on label maps, 24 layers of width 1024, 0.3 B parameters.

python train_transformer.py --config=configs/sflckr.py --config.data.path=PHOTOS --config.data.maps=MAPS
python sample.py --config=configs/sflckr.py --config.sample.condition=MAP.png

Needs both first stages of configs/sflckr_vqgan.py and the same data. Hardware: 4 GPUs with 40 GB at the global batch of
64. Expected: landscapes that follow the map; maps of any size divisible by 16 are drawn by the sliding window, as the
megapixel images of the paper's figures.
"""

from ml_collections import ConfigDict

from configs import ade20k, common


def get_config(arg: str = "") -> ConfigDict:
    config = ade20k.get_config()
    config.update({"workdir": "runs/sflckr", "first_stage": "runs/sflckr_vqgan"})
    config.data.update({"source": "folder", "path": "data/flickr/images", "maps": "data/flickr/labels"})
    config.data.update({"n_labels": 182, "resize": 0, "random_scale": True})  # crops of all sizes
    config.condition.stage = "runs/sflckr_segmentation_vqgan"
    config.transformer.n_layer = 24
    config.transformer.update(dict.fromkeys(("embedding_dropout", "residual_dropout", "attention_dropout"), 0.0))
    return common.tiny_transformer(config) if "tiny" in common.arguments(arg) else config
