"""Second stage on the codes of configs/modern_vqgan.py:16384: ImageNet by class, 24 layers of width 1024; with
`modern_class.py:lfq18` on those of modern_vqgan.py:lfq18, 2^18, read and predicted in two parts of 9 bits.

python train_transformer.py --config=configs/modern_class.py --config.data.path=gs://BUCKET/tfds
python sample.py --config=configs/modern_class.py --config.sample.classes="n02119022,282" --config.sample.per_class=8

Needs the first stage of configs/modern_vqgan.py:16384, or :lfq18. Hardware: 8 GPUs with 40 GB, global batch 256.
Expected: not measured; nobody has trained it yet.

It is LlamaGen-L (arXiv 2406.06525) by its recipe, with queries and keys that are normed (Dehghani et al. 2023, arXiv
2302.05442) and guidance that grows by a power of a cosine (RAR: Yu et al. 2024, arXiv 2411.00776). Ids in two parts are
Open-MAGVIT2's (Luo et al. 2024, arXiv 2409.04410).
"""

from ml_collections import ConfigDict

from configs import common, llamagen_b


def get_config(arg: str = "") -> ConfigDict:
    words = common.arguments(arg, "lfq18")
    config = llamagen_b.get_config()
    config.workdir, config.first_stage = "runs/modern_class", "runs/modern_vqgan_16384"
    config.transformer.update({"n_layer": 24, "n_head": 16, "n_embd": 1024, "qk_norm": True})
    config.sample.update({"guidance": 3.0, "guidance_schedule": "power-cosine"})
    if "lfq18" in words:
        config.workdir, config.first_stage = "runs/modern_class_lfq18", "runs/modern_vqgan_lfq18"
        config.transformer.factors = (8, 8) if "tiny" in words else (512, 512)
    return common.tiny_transformer(config) if "tiny" in words else config
