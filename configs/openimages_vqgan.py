"""First stages on Open Images at 256 x 256, f8: the Gumbel quantizer with 8192 codes, after
CompVis/taming-transformers; with `openimages_vqgan.py:16384` or `:256` the nearest of so many codes of four channels,
after CompVis/latent-diffusion (its vq-f8 and vq-f8-n256).

python train_vqgan.py --config=configs/openimages_vqgan.py --config.data.path=OpenImages/train
python train_vqgan.py --config=configs/openimages_vqgan.py:16384 --config.data.path=OpenImages/train

The images alone are needed, as a folder, and the LPIPS weights (README.md). Hardware: 8 GPUs with 40 GB at the global
batch of 64. Published result: reconstruction FID on ImageNet's validation set 1.49 with Gumbel, 1.14 with 16384 codes,
1.49 with 256.

docs/published.md has each setting. With Gumbel and with 16384 codes the discriminator is heard from the first step, as
published; with 256 it is heard from the published step on, but has learned for 5000 steps by then, and is heard more
and more. What the Gumbel model's discriminator was could not be read: it is that of vq-f8.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    words = common.arguments(arg, "256", "16384")
    codes = 256 if "256" in words else 16384 if "16384" in words else 0
    config = common.vqgan("runs/openimages_vqgan" + (f"_{codes}" if codes else ""))
    config.data.update({"source": "folder", "path": "data/open_images", "size": 256, "resize": 384, "batch_size": 64})
    config.model.update({"attn_resolutions": (32,), "dtype": "bfloat16"})
    if codes:
        config.model.update({"ch_mult": (1, 2, 2, 4), "z_channels": 4, "embed_dim": 4, "n_embed": codes})
    else:
        config.model.update({"ch_mult": (1, 1, 2, 4), "quantizer": "gumbel", "n_embed": 8192, "kl_weight": 1e-8})
        # the temperature is lowest at the end of the training
        config.loss.update({"temperature_start": 0.9, "temperature_max": 0.9, "temperature_warmup": 0})
    if codes == 256:
        config.loss.update({"disc_weight": 0.75, "disc_learn_start": 245_000, "disc_start": 250_001})
        config.loss.disc_ramp = 10_000
    else:
        config.discriminator.n_layers = 2
        config.loss.update({"disc_weight": 0.6, "disc_start": 1})
    config.train.update({"steps": 600_000 if codes else 1_000_000, "monitor": "val/lpips"})
    config.train.show = ("nll_loss", "quant_loss", "d_weight", "disc_loss")
    return common.tiny_vqgan(config) if "tiny" in words else config
