"""Draw images.

python sample.py --config=configs/imagenet_cond.py [--workdir=DIR] [--config.sample.n=64 ...]
python sample.py --reproduce=PICTURE.png [--workdir=DIR] [--out=FILE]

Every single picture holds the settings, checkpoint and number by which the second command draws it again.
"""

if __name__ == "__main__":  # before the imports, which take seconds
    from taming_jax.stopping import listen

    listen()

import sys

from ml_collections import ConfigDict

from taming_jax.cli import is_given, run
from taming_jax.drawing import drawing, reproduction
from taming_jax.experiment import SampleConfig
from taming_jax.settings import from_dict

OPTIONS = {
    "reproduce": ("", "A picture that this program wrote, to be drawn once more, in place of --config."),
    "out": ("", "With --reproduce: the file or folder to write; default: PICTURE_again.png."),
}
DIFFERS = 1  # the exit status where a picture comes out otherwise


def main(config: ConfigDict | None, workdir: str, reproduce: str = "", out: str = "") -> bool:
    if config is None or reproduce:
        if config is not None:
            raise ValueError("--reproduce takes all settings from the picture; leave --config out.")
        if not reproduction.reproduce(reproduce, workdir, out):
            sys.exit(DIFFERS)
        return True
    if out:
        raise ValueError("--out goes with --reproduce; the folder of new pictures is --config.sample.out.")
    if "sample" not in config:
        raise ValueError(
            "--config is the configuration of a first stage; name the second's, such as configs/demo_class.py."
        )
    settings = from_dict(SampleConfig, config.sample.to_dict(), "config.sample")
    drawing.draw(settings, workdir, config.data.to_dict(), fresh=not is_given("sample.out"))
    return True


if __name__ == "__main__":
    run(main, example="configs/demo_class.py", options=OPTIONS, instead="reproduce")
