"""First stage on ImageNet at 256 x 256 as one would train it today: f16, codes of length 1 in 8 channels, 1024 of them;
with `modern_vqgan.py:16384` 16384, with `:fsq16` 64000 by rounding alone, with `:lfq18` 2^18 by signs alone; each with
`:f8` too, such as `modern_vqgan.py:16384,f8`, and with `:dino`, a second discriminator, on the features of DINOv2.

python train_vqgan.py --config=configs/modern_vqgan.py:16384 --config.data.path=gs://BUCKET/tfds

Needs imagenet2012 prepared by TensorFlow Datasets, and the LPIPS weights (README.md). Hardware: 8 GPUs with 40 GB at
the global batch of 128. Expected: not measured; nobody has trained it yet.

Where each choice comes from:
- Codes of length 1 in few channels: Yu et al. 2022 (arXiv 2110.04627); 16384 of them in 8 channels: Sun et al. 2024
  (LlamaGen, arXiv 2406.06525). The rotation trick: Fifty et al. 2024 (arXiv 2410.06424).
- New places for idle codes: Dhariwal et al. 2020 (Jukebox, arXiv 2005.00341); the optimizer's memory of them goes, too.
- `fsq16`: the levels for 2^16 codes of Mentzer et al. 2023 (arXiv 2309.15505).
- `lfq18`: 18 bits and an entropy term: Yu et al. 2023 (arXiv 2310.05737); that the term begins heavier: Luo et al. 2024
  (Open-MAGVIT2, arXiv 2409.04410). The weights are ours, and not tuned.
- Spectral norm in place of batch normalisation: Miyato et al. 2018 (arXiv 1802.05957); LeCAM: Tseng et al. 2021 (arXiv
  2104.03310); the generator's -log D: Goodfellow et al. 2014. The weights are ours, and not tuned.
- `dino`: a discriminator on frozen features beside that on patches: Sauer et al. 2023 (StyleGAN-T, arXiv 2301.09515);
  half of the weight each, ours, and not tuned. DINOv2 is a download and a conversion, see docs/models.md.
- A discriminator that learns before it is heard, a ramp, and a guard: ours; docs/quality.md says what was measured.
- Averages of the weights for evaluation, gradient clipping: LlamaGen's recipe, as in configs/llamagen_vqgan.py.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    words = common.arguments(arg, "16384", "fsq16", "lfq18", "f8", "dino")
    config = common.vqgan("_".join(["runs/modern_vqgan", *sorted(words - {"tiny"})]))
    config.data.update({"source": "tfds", "name": "imagenet2012", "size": 256, "batch_size": 128})
    config.model.dtype = "bfloat16"
    if "f8" in words:
        config.model.update({"ch_mult": (1, 2, 2, 4), "attn_resolutions": (32,)})
    config.loss.update({"disc_loss": "non_saturating", "disc_weight": 0.5, "lecam_weight": 0.001})
    config.loss.update({"disc_learn_start": 18_000, "disc_start": 20_000, "disc_ramp": 20_000, "guard": 1.0})
    if "dino" in words:
        config.loss.update({"disc_weight": 0.25, "feature_weight": 0.25})
    config.discriminator.update({"norm": "none", "spectral": True})
    config.optimizer.update({"learning_rate": 1e-4, "per_sample": False, "b1": 0.9, "b2": 0.95, "warmup": 2000})
    config.optimizer.update({"clip_norm": 1.0, "ema_decay": 0.9999})
    config.train.update({"steps": 400_000, "log_every": 100, "eval_every": 5_000, "monitor": "val/lpips"})
    config.train.show = ("nll_loss", "usage_recent", "d_weight", "disc_loss")
    if "tiny" in words:
        config = common.tiny_vqgan(config)
    config = with_quantizer(config, words)
    config.usage_window = max(65536, 4 * config.model.n_embed)  # in which 98 % of codes that are used alike occur
    return config


def with_quantizer(config: ConfigDict, words: set[str]) -> ConfigDict:
    """The codes that the words name, 64 of the same kind in a tiny one."""
    tiny = "tiny" in words
    if "fsq16" in words:
        levels = (4, 4, 4) if tiny else (8, 8, 8, 5, 5, 5)
        codes = 64 if tiny else 64_000
        config.model.update({"quantizer": "fsq", "levels": levels, "embed_dim": len(levels), "n_embed": codes})
    elif "lfq18" in words:
        bits = 6 if tiny else 18
        config.model.update({"quantizer": "lfq", "embed_dim": bits, "n_embed": 2**bits, "entropy_weight": 0.1})
        config.loss.update({"entropy_start": 3.0, "entropy_steps": 20 if tiny else 40_000})
    else:
        codes = 64 if tiny else 16384 if "16384" in words else 1024
        config.model.update({"quantizer": "normalized", "n_embed": codes, "embed_dim": 8})
        config.model.update({"estimator": "rotation", "restart_below": 0.05})
    return config
