"""LlamaGen-XL (arXiv 2406.06525): ImageNet by class, 36 layers of width 1280, 775 M parameters.

python train_transformer.py --config=configs/llamagen_xl.py --config.data.path=gs://BUCKET/tfds \
    --config.mesh.fsdp=-1 --config.mesh.data=1
python sample.py --config=configs/llamagen_xl.py --config.sample.classes="n02119022,282" --config.sample.per_class=8

Needs the first stage of configs/llamagen_vqgan.py. Hardware: 8 GPUs with 80 GB at the global batch of 256.
Published result: FID 2.62 with guidance 1.75.

As published it is trained on images of 384 x 384 and draws such; FID is of those resized to 256
(`python -m taming_jax.evaluate samples RUN --size 256`). With `--config.data.size=256` it learns and draws those, of
which no result was published. What differs from the published recipe is in docs/published.md.
"""

from ml_collections import ConfigDict

from configs import common, llamagen_b


def get_config(arg: str = "") -> ConfigDict:
    config = llamagen_b.get_config()
    config.workdir = "runs/llamagen_xl"
    config.data.size = 384
    config.transformer.update({"n_layer": 36, "n_head": 20, "n_embd": 1280})
    config.transformer.update({"scan_layers": True, "remat": "block"})
    config.sample.guidance = 1.75
    return common.tiny_transformer(config) if "tiny" in common.arguments(arg) else config
