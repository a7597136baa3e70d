"""Second stage on LSUN's churches and towers at 256 x 256, without a condition: 24 layers of width 1024, 0.3 B
parameters.

python train_transformer.py --config=configs/lsun.py --config.data.path=LSUN
python sample.py --config=configs/lsun.py

LSUN is a folder of the images. Needs the first stage of configs/imagenet_vqgan.py. No file of this model was published:
sizes are those of the paper's other transformers of this kind. Hardware: 4 GPUs with 40 GB at the global batch of 64.
Expected: buildings that stand upright against the sky.
"""

from ml_collections import ConfigDict

from configs import common, ffhq_uncond


def get_config(arg: str = "") -> ConfigDict:
    config = ffhq_uncond.get_config()
    config.update({"workdir": "runs/lsun", "first_stage": "runs/imagenet_vqgan"})
    config.data.update({"path": "data/lsun", "val_share": 0.01, "resize": 256})
    config.transformer.update({"n_layer": 24, "n_head": 16, "n_embd": 1024})
    return common.tiny_transformer(config) if "tiny" in common.arguments(arg) else config
