"""First stage of key points, a map for each of a body's 17, on COCO at 256 x 256: f16, 1024 codes.

python train_vqgan.py --config=configs/pose_vqgan.py --config.data.path=COCO

COCO holds COCO 2017 with person_keypoints_*.json (docs/data.md). Hardware: 4 GPUs with 40 GB at the global batch of 32.
Expected: a dot at each visible point.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    config = common.vqgan("runs/pose_vqgan")
    config.data.update({"source": "coco_objects", "path": "data/coco", "size": 256, "batch_size": 32})
    config.model.dtype = "bfloat16"
    common.reads(config, "pose", 17)
    config.loss.disc_weight = 0.0
    config.train.steps = 100_000
    return common.tiny_vqgan(config) if "tiny" in common.arguments(arg) else config
