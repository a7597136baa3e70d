"""First stage of the demo: drawn scenes of 64 x 64 pixels, 8 x 8 codes out of 128.

python train_vqgan.py --config=configs/demo_vqgan.py

Hardware: 2 CPU cores, about 4 minutes. Expected on held-out scenes: PSNR above 22 dB, more than half of the codes used.
"""

from configs import common


def get_config(arg: str = ""):
    config = common.vqgan("runs/demo_vqgan")
    config.data.update({"source": "demo", "size": 64, "batch_size": 16, "n_train": 4096, "n_val": 256})
    config.model.update(
        {"resolution": 64, "ch": 16, "ch_mult": (1, 2, 2, 4), "num_res_blocks": 1, "attn_resolutions": ()}
        | {"z_channels": 32, "embed_dim": 32, "n_embed": 128, "norm_groups": 8}
    )
    config.discriminator.update({"ndf": 16, "n_layers": 2})
    config.loss.update({"perceptual_weight": 0.0, "disc_weight": 0.0})
    config.optimizer.update({"learning_rate": 2e-3, "per_sample": False, "schedule": "cosine", "warmup": 20})
    config.train.update({"steps": 600, "log_every": 20, "eval_every": 300, "image_every": 300, "save_every": 300})
    config.train.update({"show": ("l1_loss", "quant_loss", "perplexity"), "monitor": "val/psnr", "monitor_mode": "max"})
    return common.tiny_vqgan(config) if "tiny" in common.arguments(arg) else config
