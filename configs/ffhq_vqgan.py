"""First stage on faces (FFHQ) at 256 x 256: f16, 1024 codes.

python train_vqgan.py --config=configs/ffhq_vqgan.py --config.data.path=FFHQ

FFHQ is the folder of FFHQ's 70,000 images (github.com/NVlabs/ffhq-dataset; the 1024 x 1024 ones are shrunk while
reading, the thumbnails are too small). Needs the LPIPS weights (README.md). Hardware: 4 GPUs with 40 GB at the global
batch of 32.
Expected: reconstructions that keep the likeness; in the paper they belong to samples with FID 9.6.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    config = common.vqgan("runs/ffhq_vqgan")
    config.data.update({"source": "folder", "path": "data/ffhq", "size": 256, "batch_size": 32})
    config.data.val_share = 1 / 70  # 1,000 of 70,000
    config.model.dtype = "bfloat16"
    config.loss.update({"disc_learn_start": 25_000, "disc_start": 30_001, "disc_ramp": 10_000})
    config.train.update({"steps": 400_000, "monitor": "val/lpips"})
    config.train.show = ("nll_loss", "quant_loss", "d_weight", "disc_loss")
    return common.tiny_vqgan(config) if "tiny" in common.arguments(arg) else config
