"""Second stage on key points: photographs of people on their pose, 18 layers of width 768, 0.14 B parameters.

python train_transformer.py --config=configs/pose.py --config.data.path=COCO
python sample.py --config=configs/pose.py

Needs the first stages of configs/coco_vqgan.py and configs/pose_vqgan.py. Sizes are those published for DeepFashion,
whose tall images give sequences of 340 tokens: 17 x 10 of the pose and as many of the image. Hardware: 4 GPUs with 40
GB at the global batch of 64. Expected: people where the points are, in roughly their pose; COCO's photographs are far
more varied than the fashion photographs that the paper shows for this task.
"""

from ml_collections import ConfigDict

from configs import common, drin


def get_config(arg: str = "") -> ConfigDict:
    config = drin.get_config()
    config.update({"workdir": "runs/pose", "first_stage": "runs/coco_vqgan"})
    config.data.update({"source": "coco_objects", "path": "data/coco", "depths": "", "classes": ""})
    config.data.size = (272, 160)
    config.transformer.update({"block_size": 340, "n_layer": 18, "n_embd": 768})
    config.condition.update({"kind": "pose", "stage": "runs/pose_vqgan"})
    return common.tiny_transformer(config) if "tiny" in common.arguments(arg) else config
