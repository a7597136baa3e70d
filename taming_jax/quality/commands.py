"""The commands of `python -m taming_jax.evaluate` beside its report: what they are called, and their options."""

import argparse
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

from taming_jax import sharding, stopping
from taming_jax.checkpoint import open_saved, quiet_orbax
from taming_jax.data.config import RESAMPLINGS
from taming_jax.experiment import SampleConfig, saved_filters
from taming_jax.files import write_whole
from taming_jax.metrics.resizing import RESIZES
from taming_jax.outputs import check_outputs, is_text
from taming_jax.program import readable_errors
from taming_jax.quality.comparison import compare_results
from taming_jax.quality.distance import Measuring, distance
from taming_jax.quality.features import OWN, open_features
from taming_jax.quality.images import AS_THEY_ARE, Cut
from taming_jax.quality.likelihood import likelihood
from taming_jax.quality.measures import Compared
from taming_jax.quality.options import add_filters, filter_values, fixed_values, swept_values
from taming_jax.quality.reconstruction import reconstruction
from taming_jax.quality.samples import samples
from taming_jax.quality.sweep import sweep
from taming_jax.settings import to_dict

Parser = argparse.ArgumentParser
Given = argparse.Namespace
HOME = os.path.expanduser
USUAL = "weights/inception_fid.npz"
SETS = "a folder of images, a list of them (.txt), images or statistics (.npz), or a result (.json)"


def _of_features(parser: Parser) -> None:
    """The options that say how sets are measured."""
    file = f"weights of the network of features, made by taming_jax.convert; {', '.join(OWN)}: the package's"
    parser.add_argument("--features", type=HOME, default="", help=f"{file}; default: {USUAL}, but for data of the demo")
    parser.add_argument("--dims", default="", help="the feature, by its number; default: the network's last")
    parser.add_argument("--resize", default="", choices=("", *RESIZES), help="default: the network's own")


def _of_all(parser: Parser, out: str) -> None:
    parser.add_argument("--batch_size", type=int, default=0, help="images measured at once; default: 32 a device")
    parser.add_argument("--out", type=HOME, default=out, help="the result, beside which the others go [%(default)s]")


def _of_size(parser: Parser, help: str) -> None:
    parser.add_argument("--size", type=int, default=0, help=help)
    how = "with --size: how files are cut to it, see config.data.resampling; default: bicubic, or as in training"
    parser.add_argument("--resampling", default="", choices=("", *RESAMPLINGS), help=how)


def _of_model(parser: Parser) -> None:
    parser.add_argument("workdir", type=HOME, help="working directory of a training, or a converted model")
    parser.add_argument("--step", default="", help='the checkpoint; default: the newest; "best": by its metric')


def _of_drawing(parser: Parser) -> None:
    parser.add_argument("--n", type=int, default=50_000, help="images to draw [%(default)s]")
    parser.add_argument("--reference", type=HOME, default="train", help=f"train, val, {SETS} [%(default)s]")
    _of_size(parser, "pixels that drawn images are resized to, and those of the reference cut to; default: as they are")
    parser.add_argument("--draw_batch", type=int, default=64, help="images drawn at once [%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="of the images and of the extrapolation [%(default)s]")


def _measuring(given: Given, cut: Cut = AS_THEY_ARE) -> Measuring:
    quiet_orbax()
    source = open_saved(given.workdir).config.get("data", {}).get("source") if "workdir" in given else ""
    path = given.features or (source if source in OWN else USUAL)
    features = open_features(path, sharding.make_mesh(), given.resize, given.dims)
    return Measuring(features, given.batch_size, cut=cut)


def _cut(given: Given) -> Cut:
    return Cut(given.size, given.resampling)


def _drawn(given: Given, filters: Mapping[str, Any]) -> SampleConfig:
    """The settings of drawing: `filters`, and where they are silent those saved with the model."""
    saved = open_saved(given.workdir, given.step or None).config
    values = {**to_dict(saved_filters(saved)), **filters}
    return SampleConfig(n=given.n, batch_size=given.draw_batch, seed=given.seed, step=given.step, **values)


def _distance_options(parser: Parser) -> None:
    parser.add_argument("reference", type=HOME, help=f"{SETS}: what is right")
    parser.add_argument("images", type=HOME, help="likewise: what is measured")
    _of_features(parser)
    _of_size(parser, "pixels of the square that is cut from the middle of each image; default: images as they are")
    _of_all(parser, "distance.json")
    parser.add_argument("--seed", type=int, default=0, help="of the extrapolation [%(default)s]")
    parser.add_argument("--statistics", action="store_true", help="write those of the images, too, as OUT.npz")


def _distance(given: Given) -> Compared:
    measuring = _measuring(given, _cut(given))
    return distance(given.reference, given.images, given.out, measuring, given.statistics, given.seed)


def _samples_options(parser: Parser) -> None:
    _of_model(parser)
    _of_features(parser)
    _of_drawing(parser)
    _of_all(parser, "samples.json")
    add_filters(parser)
    parser.add_argument("--by_class", action="store_true", help="also FID, precision and recall of each class")
    parser.add_argument("--export-npz", type=HOME, default="", help="write the images for ADM's evaluator, too")


def _samples(given: Given) -> Compared:
    settings = _drawn(given, filter_values(given))
    measuring = _measuring(given, _cut(given))
    more = {"export": given.export_npz, "by_class": given.by_class}
    return samples(given.workdir, settings, given.reference, given.out, measuring, **more)


def _reconstruction_options(parser: Parser) -> None:
    _of_model(parser)
    _of_features(parser)
    parser.add_argument("--images", type=HOME, default="", help="a folder; default: the training's validation data")
    _of_size(parser, "with --images: pixels of a side; default: the training's")
    parser.add_argument("--lpips", type=HOME, default="", help="weights for LPIPS, as of the perceptual loss")
    _of_all(parser, "reconstruction.json")


def _reconstruction(given: Given) -> Compared:
    options = {name: getattr(given, name) for name in ("images", "size", "resampling", "lpips", "step")}
    return reconstruction(given.workdir, given.out, _measuring(given), **options)


def _likelihood_options(parser: Parser) -> None:
    _of_model(parser)
    _of_all(parser, "likelihood.json")


def _likelihood(given: Given) -> Compared:
    quiet_orbax()
    return likelihood(given.workdir, given.out, given.batch_size, given.step)


def _sweep_options(parser: Parser) -> None:
    _of_model(parser)
    _of_features(parser)
    _of_drawing(parser)
    _of_all(parser, "sweep.json")
    add_filters(parser, several=True)
    fixed = "a filter of all rows, instead of the one saved with the model; may be repeated"
    parser.add_argument("--fixed", action="append", default=[], metavar="NAME=VALUE", help=fixed)


def _sweep(given: Given) -> None:
    values, base = swept_values(given), _drawn(given, fixed_values(given.fixed))
    sweep(given.workdir, base, values, given.reference, given.out, _measuring(given, _cut(given)))


def _compare_options(parser: Parser) -> None:
    parser.add_argument("results", nargs="+", type=HOME, help="results (.json)")
    parser.add_argument("--out", type=HOME, default="", help="a file for the table; default: it is only printed")


def _compare(given: Given) -> None:
    if given.out:
        ours = {given.out: lambda path: is_text(path, r"\| measure \|")}
        check_outputs(f"--out={given.out}", ours, given.results)
    text = compare_results(given.results)
    print(text, flush=True)
    if given.out:
        write_whole(given.out, text)


# Name -> (what it does, its options, the command).
Command = tuple[str, Callable[[Parser], None], Callable[[Given], Compared | None]]  # each prints its figures
COMMANDS: Mapping[str, Command] = {
    "distance": ("compare two sets of images: FID and its kin", _distance_options, _distance),
    "samples": ("draw from a second stage, and compare with a reference", _samples_options, _samples),
    "reconstruction": ("measure what a first stage keeps of images", _reconstruction_options, _reconstruction),
    "likelihood": ("measure how well a second stage predicts codes", _likelihood_options, _likelihood),
    "sweep": ("draw with several filters, and plot what they do", _sweep_options, _sweep),
    "compare": ("put results side by side", _compare_options, _compare),
}


def main(arguments: list[str]) -> None:
    """Run one of COMMANDS; an error that the user can mend ends the program in one line."""
    parser = Parser(prog="python -m taming_jax.evaluate")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (help, options, _) in COMMANDS.items():
        options(commands.add_parser(name, help=help, description=help.capitalize() + "."))
    given = parser.parse_args(arguments)
    logging.getLogger("taming_jax").setLevel(logging.INFO)
    with readable_errors(2), stopping.telling(lambda: "there is no result yet"):
        sharding.start_distributed()
        COMMANDS[given.command][2](given)
    if given.out:
        print(f"The result is {given.out}.")
