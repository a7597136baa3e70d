"""LlamaGen-B (arXiv 2406.06525): ImageNet by class, 12 layers of width 768, 111 M parameters.

python train_transformer.py --config=configs/llamagen_b.py --config.data.path=gs://BUCKET/tfds
python sample.py --config=configs/llamagen_b.py --config.sample.classes="n02119022,282" --config.sample.per_class=8

Needs the first stage of configs/llamagen_vqgan.py. Hardware: 8 GPUs with 40 GB at the global batch of 256.
Published result: FID 5.46 at 256 x 256 with guidance 2; with `--config.data.size=384` 6.09, of images of 384 x 384
resized to 256 (`python -m taming_jax.evaluate samples RUN --size 256`).

The recipe is the published one: AdamW, weight decay on all matrices, one class in ten hidden, 300 epochs; crops of the
central square, which is 1.05 to 1.1 times as large, as codes of ten crops an image, written once (`python -m
taming_jax.encode_dataset --config=configs/llamagen_b.py --out=CODES --crops=10`, then `--config.data.source=codes
--config.data.path=CODES`). What differs, such as the places of the crops: docs/published.md. The published files:
docs/models.md.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    config = common.transformer("runs/llamagen_b", first_stage="runs/llamagen_vqgan")
    config.data.update({"source": "tfds", "name": "imagenet2012", "size": 256, "batch_size": 256})
    config.data.update({"zoom": (1.05, 1.1), "crop_from": "center", "resampling": "adm"})
    config.condition.update({"kind": "class_label", "n_classes": 1000})
    config.transformer.update({"n_layer": 12, "n_head": 12, "n_embd": 768})
    config.transformer.update({"norm": "rms", "mlp": "swiglu", "bias": False, "positions": "rotary"})
    config.transformer.update({"condition_table": True, "zero_head": True, "dtype": "bfloat16"})
    config.transformer.update({"embedding_dropout": 0.1, "residual_dropout": 0.1})
    config.condition_dropout = 0.1
    config.optimizer.update({"learning_rate": 1e-4, "per_sample": False, "b1": 0.9, "b2": 0.95, "weight_decay": 0.05})
    config.optimizer.update({"decay_embeddings": True, "clip_norm": 1.0})
    config.train.update({"steps": 1_500_000, "log_every": 100, "eval_every": 10_000, "image_every": 10_000})
    config.train.update({"save_every": 5_000, "monitor": "val/nll", "show": ("loss",)})
    config.sample.update({"n": 64, "batch_size": 64, "guidance": 2.0})
    return common.tiny_transformer(config) if "tiny" in common.arguments(arg) else config
