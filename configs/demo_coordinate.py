"""Second stage of the demo: where in the whole image a crop lies.

python train_transformer.py --config=configs/demo_coordinate.py
python sample.py --config=configs/demo_coordinate.py

Needs the first stage of configs/demo_vqgan.py. Hardware: 2 CPU cores, about 5 minutes. Expected: scenes as
without a condition: the demo's images are whole ones, so that the coordinates are the same for all, and this only
shows that it runs.
"""

from ml_collections import ConfigDict

from configs import common, demo_segmentation


def get_config(arg: str = "") -> ConfigDict:
    config = demo_segmentation.get_config()
    config.workdir = "runs/demo_coordinate"
    config.condition.update({"kind": "coordinate", "stage": "", "n_codes": 256, "factor": 4})
    return common.tiny_transformer(config) if "tiny" in common.arguments(arg) else config
