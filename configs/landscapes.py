"""Landscapes of any size from label maps, by the model that the package carries: nothing to train or to download.

python sample.py --config=configs/landscapes.py
python sample.py --config=configs/landscapes.py:class
python sample.py --config=configs/landscapes.py:panorama [--config.sample.condition=MAP.png]

The first draws held-out maps, the second pictures of each class, the third a panorama of 256 x 1024 pixels by the map
docs/landscape_map.png. Paint your own at `python -m taming_jax.page --workdir=landscapes`. Trained by
configs/landscapes_segmentation.py and configs/landscapes_class.py on the first stage of configs/landscapes_vqgan.py;
taming_jax/pretrained/*/README.md say how. Hardware: 2 CPU cores. Expected: each within about a minute.
"""

from ml_collections import ConfigDict

from configs import common, landscapes_class, landscapes_segmentation


def get_config(arg: str = "") -> ConfigDict:
    words = common.arguments(arg, "class", "panorama")
    if "tiny" in words:
        raise ValueError("configs/landscapes.py draws from a model that is there already; nothing of it is tiny.")
    config = landscapes_class.get_config() if "class" in words else landscapes_segmentation.get_config()
    config.workdir = "landscapes_class" if "class" in words else "landscapes"
    config.sample.out = f"runs/landscapes{'_' if words else ''}{'_'.join(sorted(words))}"
    if "panorama" in words:
        config.sample.update({"n": 1, "batch_size": 1, "condition": "docs/landscape_map.png"})
        config.sample.update({"stride": 3, "top_p": 0.6, "guidance": 1.0})
    return config
