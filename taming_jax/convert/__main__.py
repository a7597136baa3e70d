"""python -m taming_jax.convert: checkpoints and weights of other programs into the files of this one, and back.

python -m taming_jax.convert CHECKPOINT OUT_DIR [--config YAML] [--first-stage DIR] [--n-head N] [--ema]
python -m taming_jax.convert --vgg16 vgg16-397923af.pth --lpips vgg.pth [--out weights/lpips_vgg16.npz]
python -m taming_jax.convert --inception pt_inception-2015-12-05-6726825d.pth [--out weights/inception_fid.npz]
python -m taming_jax.convert --dino dinov2_vits14_pretrain.pth [--out weights/dinov2_vits14.npz]
python -m taming_jax.convert --export DIR OUT [--format NAME] [--lpips weights/lpips_vgg16.npz] [--step N]

CHECKPOINT is of the original (CompVis/taming-transformers), of latent-diffusion, LlamaGen or diffusers (a directory);
which, its arrays tell.
"""

import argparse
import os
import sys
from collections.abc import Callable

from taming_jax.checkpoint import quiet_orbax
from taming_jax.convert import formats
from taming_jax.convert.conversion import Conversion
from taming_jax.convert.dinov2 import convert_dinov2
from taming_jax.convert.inception import convert_inception
from taming_jax.convert.lpips import convert_lpips
from taming_jax.convert.original.settings import Plan
from taming_jax.files import printable
from taming_jax.models.discriminator import DiscriminatorConfig
from taming_jax.settings import from_dict
from taming_jax.training.optim import OptimizerConfig
from taming_jax.training.vqgan_loss import VQGANLossConfig


def check_training(plan: Plan) -> None:
    """Raise ValueError where training would not take the settings for it, which the converter itself does not know."""
    kinds = {"loss": VQGANLossConfig, "optimizer": OptimizerConfig, "discriminator": DiscriminatorConfig}
    for config in plan.configs.values():
        for name, kind in kinds.items():
            if name in config:
                from_dict(kind, config[name], f"config.{name}")


# What is done, by the argument that asks for it.
JOBS: dict[str, Callable[[argparse.Namespace], Conversion]] = {
    "out_dir": lambda given: formats.convert(
        given.checkpoint,
        given.out_dir,
        given.config,
        first_stage=given.first_stage,
        n_head=given.n_head,
        ema=given.ema,
        n_classes=given.classes,
        check=check_training,
    ),
    "vgg16": lambda given: convert_lpips(given.vgg16, given.lpips, given.out or "weights/lpips_vgg16.npz"),
    "inception": lambda given: convert_inception(given.inception, given.out or "weights/inception_fid.npz"),
    "dino": lambda given: convert_dinov2(given.dino, given.out or ""),
    "export": lambda given: formats.export(*given.export, to=given.format, step=given.step, lpips=given.lpips),
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m taming_jax.convert",
        description=__doc__.split("\n")[0].split(": ")[1],
        epilog=__doc__.split("\n\n")[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", nargs="?", type=os.path.expanduser, help="the file, or diffusers' directory")
    parser.add_argument(
        "out_dir", nargs="?", type=os.path.expanduser, help="directory to write; it must be new or empty"
    )
    parser.add_argument(
        "--config",
        type=os.path.expanduser,
        help="the original's project.yaml, latent-diffusion's config.yaml, or LlamaGen's settings; default: what lies "
        "beside",
    )
    parser.add_argument(
        "--first-stage",
        type=os.path.expanduser,
        metavar="DIR",
        help="of LlamaGen's transformer: its tokenizer, converted before",
    )
    parser.add_argument("--n-head", type=int, default=0, help="heads of LlamaGen's transformer, of no published size")
    parser.add_argument("--ema", action="store_true", help="the averages of the parameters, where there are any")
    parser.add_argument("--classes", type=int, default=0, help="classes of objects, of a model conditioned on them")
    parser.add_argument(
        "--export",
        nargs=2,
        type=os.path.expanduser,
        metavar=("DIR", "OUT"),
        help="write DIR as a checkpoint of another program, default that from which it came",
    )
    parser.add_argument("--format", default="", choices=("", *formats.FORMATS), help="with --export: whose")
    parser.add_argument("--step", help="with --export: the checkpoint, default the newest")
    parser.add_argument(
        "--vgg16", type=os.path.expanduser, help="torchvision's vgg16-397923af.pth, or an npz of its arrays"
    )
    parser.add_argument(
        "--lpips",
        type=os.path.expanduser,
        help="LPIPS's linear layers, vgg.pth, or an npz of its arrays; with --export: the file made of them, to put in",
    )
    parser.add_argument("--inception", type=os.path.expanduser, help="pytorch-fid's Inception, for the FID")
    parser.add_argument(
        "--dino", type=os.path.expanduser, help="DINOv2's ViT-S, B or L of 14 pixels, without registers"
    )
    parser.add_argument("--out", type=os.path.expanduser, help="file to write; default: weights/ and a name of its own")
    given = parser.parse_args(arguments)
    asked = [job for argument, job in JOBS.items() if getattr(given, argument) is not None]
    if len(asked) != 1 or (given.checkpoint and not given.out_dir):
        parser.error("give one of CHECKPOINT OUT_DIR, --vgg16 with --lpips, --inception, --dino, --export DIR OUT")
    if given.vgg16 and not given.lpips:
        parser.error("--vgg16 needs --lpips")
    quiet_orbax()
    try:
        done = asked[0](given)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {printable(str(error))}")
    for path, digest in done.digests.items():
        print(f"{digest}  {path}")
    for note in done.notes:
        print(f"note: {note}")
    if done.format:
        print(f"format: {done.format}")
    print(f"wrote {done.path} ({done.kind})")


if __name__ == "__main__":
    main()
