"""The commands of `python -m taming_jax.evaluate` beside its report: what they are called, and their options."""

import argparse
import logging
import os
from collections.abc import Callable, Mapping

from taming_jax import sharding
from taming_jax.metrics.resizing import RESIZES
from taming_jax.quality.distance import Measuring, distance
from taming_jax.quality.features import DEMO, open_features
from taming_jax.quality.measures import Compared


def _of_features(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """The options that say how sets are measured."""
    home = os.path.expanduser
    file = "weights of the features, made by taming_jax.convert --inception or --dino; demo: those of the package"
    parser.add_argument("--features", type=home, default=default, required=default is None, help=file)
    parser.add_argument("--dims", default="", help="the feature, by its number; default: the network's last")
    parser.add_argument("--resize", default="", choices=("", *RESIZES), help="default: the network's own")
    parser.add_argument("--batch_size", type=int, default=0, help="images at once; default: 32 a device")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn at random")


def _measuring(given: argparse.Namespace) -> Measuring:
    features = open_features(given.features, sharding.make_mesh(), given.resize, given.dims)
    return Measuring(features, given.batch_size)


def _distance_options(parser: argparse.ArgumentParser) -> None:
    sets = "a folder of images, a list of them (.txt), images or statistics (.npz), or a result (.json)"
    parser.add_argument("reference", type=os.path.expanduser, help=f"{sets}: what is right")
    parser.add_argument("images", type=os.path.expanduser, help="likewise: what is measured")
    _of_features(parser, default=DEMO)
    parser.add_argument("--out", type=os.path.expanduser, default="distance.json", help="the result [%(default)s]")
    parser.add_argument("--statistics", action="store_true", help="write those of the images, too, as OUT.npz")


def _distance(given: argparse.Namespace) -> Compared:
    return distance(given.reference, given.images, given.out, _measuring(given), given.statistics, given.seed)


# Name -> (what it does, its options, the command).
Command = tuple[str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], Compared]]
COMMANDS: Mapping[str, Command] = {
    "distance": ("compare two sets of images: FID and its kin", _distance_options, _distance),
}


def main(arguments: list[str]) -> None:
    """Run one of COMMANDS; an error that the user can mend ends the program in one line."""
    parser = argparse.ArgumentParser(prog="python -m taming_jax.evaluate")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (help, options, _) in COMMANDS.items():
        options(commands.add_parser(name, help=help, description=help.capitalize() + "."))
    given = parser.parse_args(arguments)
    logging.getLogger("taming_jax").setLevel(logging.INFO)
    try:
        sharding.start_distributed()
        compared = COMMANDS[given.command][2](given)
    except (ValueError, OSError) as error:
        parser.exit(2, f"error: {error}\n")
    print("\n".join(f"{name:32s} {value:12.6g}" for name, value in compared.figures.items()))
    print("\n".join(f"warning: {warning}" for warning in compared.warnings))
    print(f"The result is {given.out}, with its protocol.")
