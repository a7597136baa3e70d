"""First stage on landscapes: parts of 64 x 64 pixels of pictures of up to 256 x 256, 16 x 16 codes out of 512.

python train_vqgan.py --config=configs/landscapes_vqgan.py

Hardware: 2 CPU cores, 40 minutes. Expected on held-out parts: PSNR 30.0 dB, SSIM 0.84, all codes used. It
reads and draws pictures of any size divisible by 4.
"""

from ml_collections import ConfigDict

from configs import common, demo_vqgan


def get_config(arg: str = "") -> ConfigDict:
    config = demo_vqgan.get_config()
    config.workdir = "runs/landscapes_vqgan"
    config.data.update({"source": "landscapes", "size": 64, "resize": 256, "random_scale": True, "n_train": 65536})
    config.model.update({"resolution": 64, "n_embed": 512})
    # Textures get crisp late, by a discriminator that has learned for long before it is heard.
    config.loss.update({"disc_learn_start": 500, "disc_start": 1500, "disc_ramp": 500})
    config.discriminator.ndf = 16
    config.optimizer.update({"learning_rate": 1e-3, "warmup": 100})
    config.train.update({"steps": 4000, "eval_every": 1000, "image_every": 500, "save_every": 250})
    return common.tiny_vqgan(config, "landscapes") if "tiny" in common.arguments(arg) else config
