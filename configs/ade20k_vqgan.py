"""First stages on ADE20K at 256 x 256: f16, 4096 codes for the images; `:segmentation` is that of the 151 labels.

python train_vqgan.py --config=configs/ade20k_vqgan.py --config.data.path=ADE20K
python train_vqgan.py --config=configs/ade20k_vqgan.py:segmentation --config.data.path=ADE20K

ADE20K is ADEChallengeData2016 (docs/data.md). The images' stage needs the LPIPS weights (README.md). Hardware: 4 GPUs
with 40 GB at the global batch of 32. Expected: images as in the paper's samples with FID 35.5; of label maps nearly all
pixels right, but for small objects.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    words = common.arguments(arg, "segmentation")
    config = common.vqgan("runs/ade20k_vqgan")
    config.data.update({"source": "ade20k", "path": "data/ade20k", "size": 256, "resize": 296, "batch_size": 32})
    config.data.val_resize = 0  # training sees crops, validation the largest square in the middle
    config.model.update({"n_embed": 4096, "dtype": "bfloat16"})
    config.loss.update({"disc_learn_start": 25_000, "disc_start": 30_001, "disc_ramp": 10_000})
    config.train.update({"steps": 400_000, "monitor": "val/lpips"})
    config.train.show = ("nll_loss", "quant_loss", "d_weight", "disc_loss")
    if "segmentation" in words:
        config.workdir = "runs/ade20k_segmentation_vqgan"
        config.model.n_embed = 1024
        config.train.steps = 100_000
        common.reads(config, "segmentation", 151)
    return common.tiny_vqgan(config) if "tiny" in words else config
