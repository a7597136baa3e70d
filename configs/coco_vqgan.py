"""First stages on COCO-Stuff at 256 x 256: f16, 8192 codes for the images; `:segmentation` is that of the 183 labels.

python train_vqgan.py --config=configs/coco_vqgan.py --config.data.path=COCO
python train_vqgan.py --config=configs/coco_vqgan.py:segmentation --config.data.path=COCO

COCO holds COCO 2017 and COCO-Stuff's pixel maps (docs/data.md). The images' stage, which configs/coco_scene.py and
configs/pose.py use too, needs the LPIPS weights (README.md). Hardware: 4 GPUs with 40 GB at the global batch of 32.
Expected: images as in the paper's samples with FID 20.4; of label maps nearly all pixels right, but for small objects.
"""

from ml_collections import ConfigDict

from configs import ade20k_vqgan, common


def get_config(arg: str = "") -> ConfigDict:
    words = common.arguments(arg, "segmentation")
    labels = "segmentation" in words
    config = ade20k_vqgan.get_config("segmentation" if labels else "")
    config.workdir = "runs/coco_segmentation_vqgan" if labels else "runs/coco_vqgan"
    config.data.update({"source": "coco_stuff", "path": "data/coco"})
    if labels:
        common.reads(config, "segmentation", 183)
    else:
        config.model.n_embed = 8192
    return common.tiny_vqgan(config) if "tiny" in words else config
