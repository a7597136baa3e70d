"""First stage on your own photographs: f16, 1024 codes, 256 x 256 pixels.

python train_vqgan.py --config=configs/folder_vqgan.py --workdir=runs/mine_vqgan --config.data.path=PHOTOS

PHOTOS is a folder with subfolders, or a list file. LPIPS needs VGG16's weights, see "Perceptual loss" in README.md;
without them add --config.loss.perceptual_weight=0. Hardware: one GPU with 24 GB at batch 8 in bfloat16. Expected:
recognisable after some thousand steps; PSNR on held-out photographs of 19 to 22 dB where the data is as varied as COCO.
"""

from configs import common


def get_config(arg: str = ""):
    config = common.vqgan("runs/folder_vqgan")
    config.data.update({"source": "folder", "size": 256, "batch_size": 8})
    config.model.dtype = "bfloat16"
    # The discriminator learns before it is heard, and then is heard ever louder: switched on at once it wrecks the
    # images.
    config.loss.update({"disc_learn_start": 8_000, "disc_start": 10_000, "disc_ramp": 5_000})
    config.train.update({"steps": 100_000, "monitor": "val/psnr", "monitor_mode": "max"})
    config.train.show = ("nll_loss", "quant_loss", "d_weight", "disc_loss")
    return common.tiny_vqgan(config, source="folder") if "tiny" in common.arguments(arg) else config
