"""LlamaGen-L (arXiv 2406.06525): ImageNet by class, 24 layers of width 1024, 343 M parameters.

python train_transformer.py --config=configs/llamagen_l.py --config.data.path=gs://BUCKET/tfds
python sample.py --config=configs/llamagen_l.py --config.sample.classes="n02119022,282" --config.sample.per_class=8

Needs the first stage of configs/llamagen_vqgan.py. Hardware: 8 GPUs with 40 GB at the global batch of 256.
Published result: FID 3.80 at 256 x 256 with guidance 2; with `--config.data.size=384` 3.07, of images of 384 x 384
resized to 256 (`python -m taming_jax.evaluate samples RUN --size 256`). What differs from the published recipe is in
docs/published.md.
"""

from ml_collections import ConfigDict

from configs import common, llamagen_b


def get_config(arg: str = "") -> ConfigDict:
    config = llamagen_b.get_config()
    config.workdir = "runs/llamagen_l"
    config.transformer.update({"n_layer": 24, "n_head": 16, "n_embd": 1024})
    return common.tiny_transformer(config) if "tiny" in common.arguments(arg) else config
