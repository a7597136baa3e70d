"""First stages on landscapes (S-FLCKR) at 256 x 256: f16, 1024 codes; `:segmentation` is that of the 182 labels.

python train_vqgan.py --config=configs/sflckr_vqgan.py --config.data.path=PHOTOS
python train_vqgan.py --config=configs/sflckr_vqgan.py:segmentation --config.data.path=PHOTOS --config.data.maps=MAPS

PHOTOS is a folder of photographs, and MAPS one of their label maps, PNGs with COCO-Stuff's 182 labels, which
`python -m taming_jax.data.prepare` makes (docs/data.md). The images' stage needs the LPIPS weights (README.md).
Hardware: 4 GPUs with 40 GB at the global batch of 32. Expected: landscapes with little loss; of label maps nearly all
pixels right.
"""

from ml_collections import ConfigDict

from configs import ade20k_vqgan, common


def get_config(arg: str = "") -> ConfigDict:
    words = common.arguments(arg, "segmentation")
    labels = "segmentation" in words
    config = ade20k_vqgan.get_config("segmentation" if labels else "")
    config.workdir = "runs/sflckr_segmentation_vqgan" if labels else "runs/sflckr_vqgan"
    config.model.n_embed = 1024
    config.data.update({"source": "folder", "path": "data/flickr/images", "maps": "data/flickr/labels"})
    config.data.update({"n_labels": 182, "resize": 0, "random_scale": True})  # crops of all sizes
    if labels:
        common.reads(config, "segmentation", 182)
    return common.tiny_vqgan(config) if "tiny" in words else config
