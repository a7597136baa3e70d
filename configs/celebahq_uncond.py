"""Second stage on faces (CelebA-HQ), without a condition: 24 layers of width 1024, 0.3 B parameters.

python train_transformer.py --config=configs/celebahq_uncond.py --config.data.path=CELEBAHQ
python sample.py --config=configs/celebahq_uncond.py

Needs the first stage of configs/celebahq_vqgan.py and the same images. Hardware: 4 GPUs with 40 GB at the global batch
of 64. Published result: FID of the samples 10.2, with a larger transformer.
"""

from ml_collections import ConfigDict

from configs import common, ffhq_uncond


def get_config(arg: str = "") -> ConfigDict:
    config = ffhq_uncond.get_config()
    config.update({"workdir": "runs/celebahq_uncond", "first_stage": "runs/celebahq_vqgan"})
    config.data.update({"source": "celebahq", "path": "data/celebahq", "val_share": 1 / 6})
    return common.tiny_transformer(config) if "tiny" in common.arguments(arg) else config
