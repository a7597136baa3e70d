"""First stage on faces (CelebA-HQ) at 256 x 256: f16, 1024 codes.

python train_vqgan.py --config=configs/celebahq_vqgan.py --config.data.path=CELEBAHQ

CELEBAHQ is the folder of the 30,000 .npy files or images (docs/data.md). Needs the LPIPS weights (README.md). Hardware:
4 GPUs with 40 GB at the global batch of 32. Expected: as configs/ffhq_vqgan.py, reconstructions that keep the likeness.
"""

from ml_collections import ConfigDict

from configs import common, ffhq_vqgan


def get_config(arg: str = "") -> ConfigDict:
    config = ffhq_vqgan.get_config()
    config.workdir = "runs/celebahq_vqgan"
    config.data.update({"source": "celebahq", "path": "data/celebahq", "val_share": 1 / 6})
    return common.tiny_vqgan(config) if "tiny" in common.arguments(arg) else config
