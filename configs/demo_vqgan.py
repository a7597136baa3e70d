"""First stage of the demo: drawn scenes of 32 x 32 pixels, 8 x 8 codes out of 256.

python train_vqgan.py --config=configs/demo_vqgan.py

Hardware: 2 CPU cores, about 4 minutes. Expected on held-out scenes: PSNR 27 dB, all codes used.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    config = common.vqgan("runs/demo_vqgan")
    # Small batches: on few cores many small steps learn more in a minute than few large ones.
    config.data.update({"source": "demo", "size": 32, "batch_size": 8, "n_train": 8192, "n_val": 256})
    config.model.update(
        {"resolution": 32, "ch": 16, "ch_mult": (1, 2, 4), "num_res_blocks": 1, "attn_resolutions": ()}
        | {"z_channels": 32, "embed_dim": 8, "n_embed": 256, "norm_groups": 8}
        | {"quantizer": "ema", "ema_decay": 0.98}
    )
    config.discriminator.update({"ndf": 8, "n_layers": 2})
    config.loss.update({"perceptual_weight": 0.0, "disc_weight": 0.4})
    config.loss.update({"disc_learn_start": 800, "disc_start": 900, "disc_ramp": 300})
    config.optimizer.update({"learning_rate": 2e-3, "per_sample": False, "schedule": "cosine", "warmup": 20})
    config.optimizer.update({"b1": 0.9, "b2": 0.99})
    config.train.update({"steps": 1400, "log_every": 20, "eval_every": 700, "image_every": 350, "save_every": 350})
    config.train.update({"show": ("l1_loss", "d_weight", "usage"), "monitor": "val/psnr", "monitor_mode": "max"})
    return common.tiny_vqgan(config) if "tiny" in common.arguments(arg) else config
