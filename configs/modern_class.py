"""Second stage on the codes of configs/modern_vqgan.py:16384: ImageNet by class, 24 layers of width 1024.

python train_transformer.py --config=configs/modern_class.py --config.data.path=gs://BUCKET/tfds
python sample.py --config=configs/modern_class.py --config.sample.classes="n02119022,282" --config.sample.per_class=8

Needs the first stage of configs/modern_vqgan.py:16384. Hardware: 8 GPUs with 40 GB at the global batch of 256.
Expected: not measured; nobody has trained it yet.

It is LlamaGen-L (arXiv 2406.06525) by its recipe, with queries and keys that are normed (Dehghani et al. 2023, arXiv
2302.05442) and guidance that grows by a power of a cosine (RAR: Yu et al. 2024, arXiv 2411.00776).
"""

from ml_collections import ConfigDict

from configs import common, llamagen_b


def get_config(arg: str = "") -> ConfigDict:
    config = llamagen_b.get_config()
    config.workdir, config.first_stage = "runs/modern_class", "runs/modern_vqgan_16384"
    config.transformer.update({"n_layer": 24, "n_head": 16, "n_embd": 1024, "qk_norm": True})
    config.sample.update({"guidance": 3.0, "guidance_schedule": "power-cosine"})
    return common.tiny_transformer(config) if "tiny" in common.arguments(arg) else config
