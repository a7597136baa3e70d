"""First stage of the paper on ImageNet at 256 x 256: f16 with 1024 codes, or 16384 with `imagenet_vqgan.py:16384`;
f8 with 1024 codes, of which no file was published, with `imagenet_vqgan.py:f8`.

python train_vqgan.py --config=configs/imagenet_vqgan.py --workdir=gs://BUCKET/imagenet_vqgan \
    --config.data.path=gs://BUCKET/tfds

Needs imagenet2012 prepared by TensorFlow Datasets, and the LPIPS weights (README.md). Hardware: 8 accelerators with 40
GB or more at the global batch of 96. Published result: reconstruction FID on the validation set 7.94 with 1024 codes,
4.98 with 16384.

With 16384 codes the discriminator is heard from the first step, as published. With 1024 it is heard from the published
step on, but has learned for 5000 steps by then, and is heard more and more: docs/published.md has each setting.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    words = common.arguments(arg, "16384", "f8")
    config = common.vqgan("runs/imagenet_vqgan" + "".join(f"_{word}" for word in ("16384", "f8") if word in words))
    config.data.update({"source": "tfds", "name": "imagenet2012", "size": 256, "batch_size": 96})
    config.model.update({"n_embed": 16384 if "16384" in words else 1024, "dtype": "bfloat16"})
    if "16384" in words:
        config.discriminator.n_layers = 2
        config.loss.disc_weight = 0.75
    else:
        config.loss.update({"disc_learn_start": 245_000, "disc_start": 250_001, "disc_ramp": 10_000})
    if "f8" in words:
        config.model.update({"ch_mult": (1, 1, 2, 4), "attn_resolutions": (32,)})
    config.train.update({"steps": 1_000_000, "log_every": 100, "eval_every": 10_000, "image_every": 5_000})
    config.train.update({"save_every": 5_000, "monitor": "val/lpips"})
    config.train.show = ("nll_loss", "quant_loss", "d_weight", "disc_loss")
    return common.tiny_vqgan(config) if "tiny" in words else config
