"""LlamaGen's image tokenizer (arXiv 2406.06525) on ImageNet at 256 x 256: 16384 codes of length 1 in 8 channels,
f16 with 72 M parameters, with `llamagen_vqgan.py:f8` f8 with 70 M.

python train_vqgan.py --config=configs/llamagen_vqgan.py --config.data.path=gs://BUCKET/tfds

Needs imagenet2012 prepared by TensorFlow Datasets, and the LPIPS weights (README.md). Hardware: 8 GPUs with 40 GB at
the global batch of 128, 40 epochs. Published result: reconstruction FID 2.19 with f16, 0.59 with f8.

The recipe is that of the published program: squared differences of pixels, a fixed weight of the adversarial loss,
Adam without decay (the paper writes AdamW with 0.05, the program never hands it over), crops of images whose smaller
side is drawn from 256 to 320 pixels. What differs is in docs/published.md.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    words = common.arguments(arg, "f8")
    config = common.vqgan("runs/llamagen_vqgan" + ("_f8" if "f8" in words else ""))
    config.data.update({"source": "tfds", "name": "imagenet2012", "size": 256, "batch_size": 128})
    config.data.update({"zoom": (1.0, 1.25), "resampling": "adm"})
    config.model.update({"quantizer": "normalized", "n_embed": 16384, "embed_dim": 8, "dtype": "bfloat16"})
    if "f8" in words:
        config.model.update({"ch_mult": (1, 2, 2, 4), "attn_resolutions": (32,)})
    config.loss.update({"pixel_loss": "l2", "disc_weight": 0.5, "fixed_weight": True, "disc_start": 20_000})
    config.optimizer.update({"learning_rate": 1e-4, "per_sample": False, "b1": 0.9, "b2": 0.95})
    config.optimizer.update({"clip_norm": 1.0, "ema_decay": 0.9999})
    config.train.update({"steps": 400_000, "log_every": 100, "eval_every": 10_000, "monitor": "val/lpips"})
    config.train.show = ("nll_loss", "quant_loss", "d_weight", "disc_loss")
    return common.tiny_vqgan(config) if "tiny" in words else config
