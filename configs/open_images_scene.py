"""Second stage on Open Images: scenes on the bounding boxes of their objects, 36 layers of width 1536, 1 B parameters.

python train_transformer.py --config=configs/open_images_scene.py --config.data.path=OpenImages
python sample.py --config=configs/open_images_scene.py --config.sample.condition=OBJECTS.json

Needs the first stage of configs/coco_vqgan.py (best trained on both data sets), and the boxes of Open Images
(docs/data.md), of which the 300 most frequent categories are taken; the published model also has those that COCO knows,
for which `--config.data.categories=LIST.txt` takes a list of both. Hardware: 8 GPUs with 80 GB at the global batch of
48. Expected: the objects asked for at their places.
"""

from ml_collections import ConfigDict

from configs import coco_scene, common


def get_config(arg: str = "") -> ConfigDict:
    config = coco_scene.get_config()
    config.workdir = "runs/open_images_scene"
    config.data.update({"source": "open_images", "path": "data/open_images", "categories": "300"})
    config.data.update({"min_object_area": 1e-4, "random_scale": True})
    config.condition.more_flags = True
    config.transformer.update({"n_layer": 36, "n_embd": 1536})
    return common.tiny_transformer(config) if "tiny" in common.arguments(arg) else config
