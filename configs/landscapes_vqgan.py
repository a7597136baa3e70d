"""First stage on landscapes: parts of 64 x 64 pixels of pictures of up to 256 x 256, 16 x 16 codes out of 512.

python train_vqgan.py --config=configs/landscapes_vqgan.py
python train_vqgan.py --config=configs/landscapes_vqgan.py:decoder  # a finer decoder for the codes of the first

Hardware: 2 CPU cores, 40 minutes, and 50. Expected on held-out parts: PSNR 30.0 dB, SSIM 0.84, all codes used; with
the second decoder 31.6 dB and 0.885. It reads and draws pictures of any size divisible by 4.
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
    words = common.arguments(arg, "decoder")
    if "decoder" in words:
        config.update({"workdir": "runs/landscapes_decoder", "init_from": "runs/landscapes_vqgan", "freeze": "encoder"})
        # Attention over a panorama is unlike any over the small pictures of training, and takes most of its time.
        config.model.update({"decoder_blocks": 2, "decoder_attention": "none"})
        config.loss.update({"disc_learn_start": 1000, "disc_start": 2500, "disc_ramp": 1000})
        config.train.steps = 4500
    return common.tiny_vqgan(config, "landscapes") if "tiny" in words else config
