"""Second stage of the demo without a condition: scenes drawn from nothing.

python train_transformer.py --config=configs/demo_uncond.py
python sample.py --config=configs/demo_uncond.py

Needs the first stage of configs/demo_vqgan.py. Hardware: 2 CPU cores, about 3 minutes. Expected: scenes of sky, ground
and one to four objects.
"""

from ml_collections import ConfigDict

from configs import common, demo_class


def get_config(arg: str = "") -> ConfigDict:
    config = demo_class.get_config()
    config.workdir = "runs/demo_uncond"
    config.condition.kind = "none"
    return common.tiny_transformer(config) if "tiny" in common.arguments(arg) else config
