"""Second stage of the demo with the masked prior: scenes by class, drawn in 8 steps in place of 64.

python train_transformer.py --config=configs/demo_masked.py
python sample.py --config=configs/demo_masked.py --config.sample.classes="red disk,blue diamond"

Needs the first stage of configs/demo_vqgan.py. Hardware: 2 CPU cores, about 4 minutes. Expected: 83 % of the samples
show the class asked for, and their Frechet distance is 18.3 (configs/demo_class.py in as many steps: 91 % and 6.9). This
prior learns more slowly: it is told 64 % of an image's tokens at a time, and the noise of which these are.
"""

from ml_collections import ConfigDict

from configs import common, demo_class


def get_config(arg: str = "") -> ConfigDict:
    config = demo_class.get_config("")
    config.workdir, config.prior = "runs/demo_masked", "masked"
    config.train.monitor = "val/masked_nll"
    config.sample.top_p = None
    return common.tiny_transformer(config) if "tiny" in common.arguments(arg) else config
