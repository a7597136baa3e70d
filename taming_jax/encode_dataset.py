"""Write a data set as codes, so that a second stage trains without running its first.

python -m taming_jax.encode_dataset --config=configs/demo_class.py --out=DIR [--crops=1] [--config.a.b=value]

The configuration is that of the second stage's training, which then runs with `--config.data.source=codes
--config.data.path=DIR`. A call that was stopped is repeated as it was, and goes on. Several hosts share the work.
"""

if __name__ == "__main__":  # before the imports, which take seconds
    from taming_jax.stopping import listen

    listen()

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from tqdm import tqdm

from taming_jax import sharding, stopping
from taming_jax.data import pipeline
from taming_jax.data.config import DataConfig, Needs
from taming_jax.data.sources import codes
from taming_jax.differences import differences
from taming_jax.experiment import TransformerExperiment
from taming_jax.files import write_whole
from taming_jax.lease import held
from taming_jax.outputs import check_outputs, is_json
from taming_jax.settings import as_saved, from_dict, to_dict
from taming_jax.trained.fingerprint import describe
from taming_jax.trained.stages import condition_needs, open_stages, with_classes
from taming_jax.two_stage import TwoStage

OPTIONS = {
    "out": ("", "The folder to write, on disk or in a bucket."),
    "crops": (1, "Crops of each training image: those that as many epochs would cut."),
    "images_per_shard": (8192, "Images in a file; a call that was stopped loses at most as many for each process."),
}
HARMLESS = ("batch_size", "workers", "download")  # settings of the data that no code depends on
WAIT = 2.0  # seconds between two looks for the files of other processes
TELL = 60.0  # seconds after which the log says again what is missing
SHARED = 300.0  # seconds until the first file of the first process must show, where the folder is shared


def encode(experiment: TransformerExperiment, out: str, crops: int = 1, images_per_shard: int = 8192) -> dict[str, Any]:
    """Write what is missing in `out`, and return its description, which `info.json` holds.

    Every process of a distributed runtime is to call it; each writes files of its own, and all return when everything
    is there and the first has read it; what was finished before is not read again. Raises ValueError for settings that
    do not fit each other, or what `out` already holds, and for an `out` that the processes do not share.
    """
    _check(experiment, out, crops, images_per_shard)
    ours = {epath.Path(out) / name: lambda path: is_json(path, "format", "splits") for name in (codes.PLAN, codes.INFO)}
    check_outputs(f"--out={out}", ours)
    process, processes = _this_process()
    with held(out, "encoding", together=False) if process == 0 else contextlib.nullcontext():
        return _encode(experiment, out, crops, images_per_shard, process, processes)


def _encode(
    experiment: TransformerExperiment, out: str, crops: int, images_per_shard: int, process: int, processes: int
) -> dict[str, Any]:
    experiment = with_classes(experiment)
    mesh = sharding.make_mesh(devices=jax.local_devices())  # each process works for itself
    stages = open_stages(experiment, "", mesh)
    model, data = stages.model, experiment.data
    needs = condition_needs(experiment.condition)
    plan = _plan(experiment, model, needs, crops, images_per_shard)
    _keep_plan(plan, out, write=process == 0)
    parts = [part for split in plan["splits"] for part in codes.parts(out, plan, split)]
    mine = [part for part in parts[process::processes] if not part.file.exists()]
    info = epath.Path(out) / codes.INFO
    if mine:
        info.unlink(missing_ok=True)  # so that it is there only when everything is
    tokens = jax.jit(lambda stages, batch: _tokens(model, stages, batch))
    size = max(1, data.batch_size // processes)
    total = sum(part.stop - part.start for part in mine)
    there = lambda: sum(part.file.exists() for part in parts)
    said = lambda: f"{there()} of {len(parts)} files are in {out}, and the same command goes on from there"
    with stopping.telling(said), tqdm(total=total, unit="image", mininterval=1.0, disable=process != 0) as progress:
        for part in mine:
            batches = pipeline.make_crops(data, part.split, part.start, part.stop, part.crop, size, needs)
            rows = _rows(batches, part, lambda batch: tokens(stages.params, sharding.put_whole(batch, mesh)))
            with jax.set_mesh(mesh):  # see `sharding.split_by_image`
                codes.write_part(part, _watched(rows, progress))
    _wait_for([part.file for part in parts])
    if process == 0 and not info.exists():
        _finish(plan, out)
    _wait_for([info])  # who ends long before the first process makes it fail
    return codes.read_info(out)


def _this_process() -> tuple[int, int]:
    """(its number, of how many)."""
    return jax.process_index(), jax.process_count()


def _check(experiment: TransformerExperiment, out: str, crops: int, images_per_shard: int) -> None:
    if not out:
        raise ValueError("--out is missing: the folder to write.")
    for name, value in (("crops", crops), ("images_per_shard", images_per_shard)):
        if value < 1:
            raise ValueError(f"--{name}={value}, but it must be at least 1.")
    if experiment.data.source == "codes":
        raise ValueError("config.data.source is 'codes', which are encoded already; name the data with the images.")
    data = experiment.data
    if crops > 1 and (data.source == "demo" or (data.source == "landscapes" and data.resize <= min(data.sides))):
        hint = "" if data.source == "demo" else f"; with config.data.resize above {min(data.sides)} they are"
        raise ValueError(
            f"--crops={crops}, but whole pictures of the demo are never cropped: all would be the same{hint}."
        )


def _tokens(model: TwoStage, stages: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """A batch -> int32 (b, k) codes of the images and of their conditions."""
    n = len(batch["image"])
    condition = model.condition.tokens(batch, n, stages)
    return {"codes": model.encode(stages, batch).reshape(n, -1), "condition_codes": condition.reshape(n, -1)}


def _rows(
    batches: Iterator[dict[str, np.ndarray]], part: codes.Part, tokens: Callable[[dict], Mapping[str, jax.Array]]
) -> Iterator[dict[str, np.ndarray]]:
    """The records of a shard, in batches; the devices work on one while the one before is written."""
    number, waiting = part.start, None

    def fetch(
        computed: Mapping[str, jax.Array], valid: np.ndarray, label: np.ndarray, number: int
    ) -> dict[str, np.ndarray]:
        n = min(len(valid), part.stop - number)
        found = {name: np.asarray(values)[:n] for name, values in computed.items()}
        valid = valid[:n]
        found = {name: values * valid[:, None] for name, values in found.items()}  # nothing is known of broken images
        return {"number": np.arange(number, number + n), "valid": valid.astype(int), "class_label": label[:n], **found}

    for batch in batches:
        valid, label = batch.pop("valid"), batch["class_label"]
        computed = tokens(batch)
        if waiting:
            yield fetch(*waiting)
        waiting, number = (computed, valid, label, number), number + len(valid)
    if waiting:
        yield fetch(*waiting)


def _watched(rows: Iterator[dict[str, np.ndarray]], progress: tqdm) -> Iterator[dict[str, np.ndarray]]:
    for batch in rows:
        yield batch
        progress.update(len(batch["number"]))


def _plan(
    experiment: TransformerExperiment, model: TwoStage, needs: Needs, crops: int, images_per_shard: int
) -> dict[str, Any]:
    """The description of what is going to be written; the same in every process."""
    condition, data = model.condition, experiment.data.meeting(needs)
    objects = pipeline.object_names(data) if "objects" in data.annotations else None
    plan = {
        "format": codes.FORMAT,
        "grid": model.grid,
        "n_codes": model.n_codes,
        "condition": {
            "kind": experiment.condition.kind,
            "length": condition.length,
            "grid": condition.grid,
            "vocabulary": condition.vocabulary,
        },
        "class_names": pipeline.class_names(data),
        "object_names": objects,
        "annotations": data.annotations,
        "splits": {
            split: {
                "images": pipeline.num_examples(data, split),
                "crops": crops if split == "train" else 1,
                "images_per_shard": images_per_shard,
            }
            for split in ("train", "val")
        },
        "tokens_of": describe(experiment, model),
        "first_stage": experiment.first_stage,
        "condition_stage": experiment.condition.stage,
        "data": to_dict(data),
    }
    return json.loads(json.dumps(plan))


def _keep_plan(plan: dict[str, Any], out: str, write: bool) -> None:
    """Write the plan, or compare it to that of the call that goes on here. Raises ValueError for another."""
    path = epath.Path(out) / codes.PLAN
    path.parent.mkdir(parents=True, exist_ok=True)
    if write and not path.exists():
        write_whole(path, json.dumps(plan, indent=1))
    _wait_for([path], SHARED)
    notes = differences(_fixed(json.loads(path.read_text(encoding="utf-8"))), _fixed(plan), "config")
    if notes:
        raise ValueError(
            f"{out!r} holds codes made otherwise ({notes}); repeat the call as it was, or choose another --out."
        )


def _fixed(plan: dict[str, Any]) -> dict[str, Any]:
    """What must be the same when a call goes on. Where the networks lie may change; their parameters are compared."""
    every = to_dict(from_dict(DataConfig, as_saved(plan["data"])))  # with settings that came later, at their defaults
    data = {name: value for name, value in every.items() if name not in HARMLESS}
    return {name: plan[name] for name in ("format", "splits", "tokens_of", "class_names", "object_names")} | {
        "data": data
    }


def _wait_for(files: Sequence[epath.Path], patience: float = math.inf) -> None:
    """Until the other processes have written these. No collective operation, which would not wait as long as that may
    take. Raises ValueError where none of them shows within `patience` seconds."""
    begun = told = time.monotonic()
    while missing := [file for file in files if not file.exists()]:
        files, now = missing, time.monotonic()
        if now - begun >= patience:
            raise ValueError(
                f"{str(missing[0])!r}, which the first process writes, has not shown in {patience:.0f} seconds. Do all "
                "hosts see this folder? Give --out=gs://BUCKET/FOLDER, or a folder on a file system that they share; "
                "if they do see it, the log of the first process says what keeps it."
            )
        if now - told >= TELL:
            told = now
            logging.info("waiting for %d file(s) of other processes, among them %s", len(missing), missing[0])
        time.sleep(WAIT)


def _finish(plan: dict[str, Any], out: str) -> None:
    """Read all that was written, count what was left out, and say so in `info.json`."""
    for split, sizes in plan["splits"].items():
        parts = codes.parts(out, plan, split)
        sizes["skipped"] = 0
        for crop in range(sizes["crops"]):
            valid = codes.read_parts([part for part in parts if part.crop == crop], plan)["valid"]
            sizes["skipped"] += int((valid == 0).sum())
        if sizes["skipped"]:
            logging.warning(
                "%s: %d of %d crops are of unreadable images, left out; the log names the files.",
                *(split, sizes["skipped"], sizes["images"] * sizes["crops"]),
            )
    write_whole(epath.Path(out) / codes.INFO, json.dumps(plan, indent=1))


def main(config: Any, out: str, crops: int, images_per_shard: int) -> bool:
    experiment = from_dict(TransformerExperiment, config.to_dict())
    sharding.start_distributed(experiment.train.heartbeat_timeout)
    stopping.take()  # files here have their name when they are whole: end at once
    info = encode(experiment, out, crops, images_per_shard)
    if jax.process_index() == 0:
        for split, sizes in info["splits"].items():
            print(f"{split}: {sizes['images']} images, {sizes['crops']} crop(s) each, {sizes['skipped']} left out")
        print(f"Train with --config.data.source=codes --config.data.path={out}")
    return True


if __name__ == "__main__":
    from taming_jax.cli import run

    run(main, example="configs/demo_class.py", options=OPTIONS, has_workdir=False)
