"""First stage on your own photographs: f16, 1024 codes, 256 x 256 pixels.

python train_vqgan.py --config=configs/folder_vqgan.py --workdir=runs/mine_vqgan --config.data.path=PHOTOS

PHOTOS is a folder with subfolders, or a list file. LPIPS needs VGG16's weights, see "Perceptual loss" in README.md;
without them add --config.loss.perceptual_weight=0. Hardware: one GPU with 24 GB at batch 8 in bfloat16. Expected:
recognisable after some thousand steps; PSNR on held-out photographs of 19 to 22 dB where the data is as varied as COCO.

Without a GPU: `configs/folder_vqgan.py:small`, 128 x 128 pixels, f8, no LPIPS and no discriminator.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    config = common.vqgan("runs/folder_vqgan")
    config.data.update({"source": "folder", "size": 256, "batch_size": 8})
    config.model.dtype = "bfloat16"
    # The discriminator learns before its loss counts, and that has a warm-up: switched on at once it wrecks the images.
    config.loss.update({"disc_learn_start": 8_000, "disc_start": 10_000, "disc_ramp": 5_000})
    config.train.update({"steps": 100_000, "monitor": "val/psnr", "monitor_mode": "max"})
    config.train.show = ("nll_loss", "quant_loss", "d_weight", "disc_loss")
    words = common.arguments(arg, "small")
    if "small" in words:
        config.workdir += "_small"
        config.data.update({"size": 128, "batch_size": 4})
        config.model.update(
            {"resolution": 128, "ch": 16, "ch_mult": (1, 2, 4, 8), "num_res_blocks": 1, "attn_resolutions": ()}
            | {"z_channels": 64, "embed_dim": 8, "n_embed": 512, "norm_groups": 8, "dtype": "float32"}
            | {"quantizer": "ema", "ema_decay": 0.98}
        )
        config.loss.update({"perceptual_weight": 0.0, "disc_weight": 0.0})
        config.optimizer.update({"learning_rate": 2e-3, "per_sample": False, "schedule": "cosine", "warmup": 20})
        config.optimizer.update({"b1": 0.9, "b2": 0.99})
        config.train.update({"steps": 1500, "eval_every": 500, "image_every": 500, "save_every": 500})
        config.train.show = ("l1_loss", "quant_loss", "perplexity")
    return common.tiny_vqgan(config, source="folder") if "tiny" in words else config
