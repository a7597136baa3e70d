"""First stage on faces, CelebA-HQ and FFHQ joined, at 256 x 256: f16, 1024 codes.

python train_vqgan.py --config=configs/faceshq_vqgan.py --config.data.path=FACES

FACES holds the folders celebahq and ffhq (docs/data.md). Needs the LPIPS weights (README.md). Hardware: 4 GPUs with 40
GB at the global batch of 32. Expected: as configs/ffhq_vqgan.py, reconstructions that keep the likeness.
"""

from ml_collections import ConfigDict

from configs import common, ffhq_vqgan


def get_config(arg: str = "") -> ConfigDict:
    config = ffhq_vqgan.get_config()
    config.workdir = "runs/faceshq_vqgan"
    config.data.update({"source": "faceshq", "path": "data/faceshq", "val_share": 0.05})
    return common.tiny_vqgan(config) if "tiny" in common.arguments(arg) else config
