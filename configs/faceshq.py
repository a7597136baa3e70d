"""Second stage on faces (FacesHQ), by where in the whole image a crop lies: 24 layers of width 1024, 0.3 B parameters.

python train_transformer.py --config=configs/faceshq.py --config.data.path=FACES
python sample.py --config=configs/faceshq.py

Needs the first stage of configs/faceshq_vqgan.py and the same images. Hardware: 4 GPUs with 40 GB at the global batch
of 64. Expected: aligned faces; the coordinates hold them together in images larger than a window, where training sees
crops of larger ones (`--config.data.resize=512`). As published, training sees whole images.
"""

from ml_collections import ConfigDict

from configs import common, ffhq_uncond


def get_config(arg: str = "") -> ConfigDict:
    config = ffhq_uncond.get_config()
    config.update({"workdir": "runs/faceshq", "first_stage": "runs/faceshq_vqgan"})
    config.data.update({"source": "faceshq", "path": "data/faceshq", "val_share": 0.05})
    # places more than are needed, as published
    config.transformer.update({"block_size": 512, "n_layer": 24, "n_head": 16, "n_embd": 1024})
    config.condition.update({"kind": "coordinate", "n_codes": 1024, "factor": 16})
    return common.tiny_transformer(config) if "tiny" in common.arguments(arg) else config
