"""Second stage of the demo with the masked prior: scenes by class, drawn in 8 steps in place of 64.

python train_transformer.py --config=configs/demo_masked.py
python sample.py --config=configs/demo_masked.py --config.sample.classes="red disk,blue diamond"

Needs the first stage of configs/demo_vqgan.py. Hardware: 2 CPU cores, about 4 minutes. Expected: 83 % of the samples
show the class asked for, at a Frechet distance of 18.3; configs/demo_class.py has 91 % and 6.9 after as many steps.
This prior learns more slowly: of each image it is asked for about 64 % of the tokens, at once.
"""

from ml_collections import ConfigDict

from configs import common, demo_class


def get_config(arg: str = "") -> ConfigDict:
    config = demo_class.get_config("")
    config.workdir, config.prior = "runs/demo_masked", "masked"
    config.train.monitor = "val/masked_nll"
    config.sample.top_p = None
    return common.tiny_transformer(config) if "tiny" in common.arguments(arg) else config
