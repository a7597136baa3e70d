"""Second stage on faces (CelebA-HQ), without a condition: 24 layers of width 1664, 0.8 B parameters.

python train_transformer.py --config=configs/celebahq_uncond.py --config.data.path=CELEBAHQ
python sample.py --config=configs/celebahq_uncond.py

Needs the first stage of configs/faceshq_vqgan.py. Sizes are those of the published file. Hardware: 8 GPUs with 40 GB
at the global batch of 64. Published result: FID of the samples 10.2 on CelebA-HQ.
"""

from ml_collections import ConfigDict

from configs import common, ffhq_uncond


def get_config(arg: str = "") -> ConfigDict:
    config = ffhq_uncond.get_config()
    config.workdir = "runs/celebahq_uncond"
    config.data.update({"source": "celebahq", "path": "data/celebahq", "val_share": 1 / 6})
    return common.tiny_transformer(config) if "tiny" in common.arguments(arg) else config
