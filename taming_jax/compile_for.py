"""Compile a training, an evaluation or a drawing for accelerators that are not there, and tell what it would take.

python -m taming_jax.compile_for --slice=v5litepod-16 --config=configs/imagenet_cond.py
    [--program=train|eval|sample|window] [--config.a.b=value ...] [--save=FOLDER] [--find]

No data, checkpoint or weights are needed, only the compiler: that of TPUs is pip install 'taming-jax[pods]'; for NVIDIA
GPUs, as --slice=8xH100, an error tells how to get it. The first stage of a second one is read from `config.first_stage`
where that is a checkpoint, else from the configuration of that workdir. --find tries remat, accumulation and meshes,
and tells the best first. The last line is JSON. The exit status is 1 where the program does not fit into the devices'
memory.
"""

if __name__ == "__main__":  # before the imports, which take seconds
    from taming_jax.stopping import listen

    listen()

import importlib.metadata
import json
import os
import sys
from pathlib import Path
from typing import Any

import jax

from taming_jax import checkpoint, sharding, stopping
from taming_jax.cli import config_named, run
from taming_jax.compiling import gpus, programs, report, search, slices
from taming_jax.compiling.programs import Program
from taming_jax.compiling.target import Target
from taming_jax.conditioning import has_stage
from taming_jax.experiment import TransformerExperiment, VQGANExperiment
from taming_jax.files import write_whole
from taming_jax.models.vqgan import VQGAN, VQGANConfig
from taming_jax.outputs import Ours, check_outputs, is_json, is_text
from taming_jax.settings import from_dict
from taming_jax.trained.loading import vqgan_of

OPTIONS = {
    "slice": (
        "",
        "The devices: v5litepod-16, v4-32, v5p-64, v6e-16, 2xv5p-64 for two slices, chips as v5e:2x2, or GPUs as "
        "8xH100, 8xH200, 8xA100.",
    ),
    "program": ("train", f"What to compile: {', '.join(programs.PROGRAMS)}."),
    "save": ("", "A folder for the program's text (HLO) and the report."),
    "find": (False, "Try remat, accumulation and meshes of a training; minutes for each."),
}
DOES_NOT_FIT = 1


def main(config: Any, slice: str, program: str, save: str, find: bool) -> bool:
    if not slice:
        raise ValueError("--slice is missing, such as --slice=v5litepod-16.")
    jax.config.update("jax_platforms", "cpu")  # no device is asked for, not even one that is there
    if find and (program != "train" or save):
        raise ValueError("--find goes with --program=train, and without --save.")
    if find and gpus.known(slice):
        raise ValueError(
            "--find goes by the compiler's cycles, and that of GPUs estimates none; compile them one by one."
        )
    target = gpus.target(slice) if gpus.known(slice) else slices.target(slice)
    settings = config.to_dict()
    with stopping.telling(lambda: "it was still compiling"):
        fits = _compile(settings, target, program, save, find)
    if not fits:
        sys.exit(DOES_NOT_FIT)
    return True


def _compile(settings: dict[str, Any], target: Target, program: str, save: str, find: bool) -> bool:
    """Print what is found; whether it fits."""
    if find:
        found = search.find(settings, lambda changed: compile_one(changed, target, program), print)
        print("\nThe best first:", *map(search.line, found), sep="\n")
        print(json.dumps(found))
        return any(row["fits"] for row in found)
    one = compile_one(settings, target, program, save)
    print(report.table(one))
    print(json.dumps(one))
    return one["fits"]


def compile_one(settings: dict[str, Any], target: Target, name: str, save: str = "") -> dict[str, Any]:
    """What is known of a program of these settings, as JSON. Raises ValueError for settings that do not fit."""
    if save:
        files: dict[Path, Ours] = {Path(save, f"{name}.json"): lambda path: is_json(path, "program", "versions")}
        files[Path(save, f"{name}.hlo")] = lambda path: is_text(path, "HloModule")
        check_outputs(f"--save={save}", files)
    program, batch = make_program(settings, target.devices, name)
    counts, text = report.measure(program, target)
    found = {
        "config": settings["workdir"],
        "program": name,
        "slice": target.name,
        "chips": len(target.devices),
        "mesh": dict(program.mesh.shape),
        "batch": batch,
        **counts,
        "flags": os.environ.get(target.flags, ""),
        "versions": {name: importlib.metadata.version(name) for name in target.packages},
    }
    if save:
        folder = Path(save)
        write_whole(folder / f"{name}.json", json.dumps(found, indent=1))
        if text:
            write_whole(folder / f"{name}.hlo", text)
    return found


def make_program(settings: dict[str, Any], devices: list[Any], name: str) -> tuple[Program, int]:
    """The program of a configuration of either stage, and its batch."""
    if "first_stage" not in settings:
        first = from_dict(VQGANExperiment, settings)
        mesh = sharding.make_mesh(first.mesh, devices)
        sharding.check_batch(first.data.batch_size, mesh, first.optimizer.accumulate)
        return programs.first_stage_program(first, mesh, name), first.data.batch_size
    second = programs.with_classes_assumed(from_dict(TransformerExperiment, settings))
    draws = name in ("sample", "window")
    mesh = sharding.make_mesh(second.sample.mesh if draws else second.mesh, devices)
    batch = second.sample.batch_size if draws else second.data.batch_size
    if not draws:
        sharding.check_batch(second.data.batch_size, mesh, second.optimizer.accumulate)
    network = _network(second.first_stage, "config.first_stage")
    of_condition = None
    if has_stage(second.condition):
        of_condition = _network(second.condition.stage, "config.condition.stage")
    return programs.second_stage_program(second, network, of_condition, mesh, name), batch


def _network(workdir: str, setting: str) -> VQGAN:
    """A first stage as its checkpoint says, or the configuration whose `workdir` it is."""
    if checkpoint.has_model(workdir):
        return vqgan_of(checkpoint.open_saved(workdir))
    config = config_named(workdir)
    if config is None or "model" not in config:
        raise ValueError(
            f"{setting}={workdir!r} holds no checkpoint, and no configuration beside that of --config has it as its "
            "workdir; name one or the other."
        )
    return VQGAN(from_dict(VQGANConfig, config.model.to_dict(), "config.model"))


if __name__ == "__main__":
    run(main, example="configs/imagenet_cond.py", options=OPTIONS, has_workdir=False)
