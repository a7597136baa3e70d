"""Look at the data of a training before it: what is found, what is not used, likely mistakes, and a contact sheet.

python -m taming_jax.inspect_data --config=configs/folder_vqgan.py [--out=FILE.png] [--read=N] [--config.a.b=value]

The configuration is that of a first or of a second stage. Nothing is trained; a second stage's first stage need not be
there yet. Ends with status 1 where training would refuse the data.
"""

if __name__ == "__main__":  # before the imports, which take seconds
    from taming_jax.stopping import listen

    listen()

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from taming_jax import sharding, stopping
from taming_jax.checkpoint import has_checkpoint
from taming_jax.conditioning import ConditionConfig, has_stage, make_condition
from taming_jax.conditioning.spatial import KINDS
from taming_jax.data import inspection, pipeline
from taming_jax.data.config import DataConfig, Needs
from taming_jax.experiment import TransformerExperiment, VQGANExperiment
from taming_jax.models.vqgan import VQGAN, VQGANConfig, network_input
from taming_jax.outputs import check_outputs
from taming_jax.pictures import is_ours, save_grid
from taming_jax.settings import from_dict
from taming_jax.trained.evaluation import FirstStageEvaluation
from taming_jax.trained.stages import condition_needs, open_stages, pictured, with_classes

OPTIONS = {
    "out": ("contact_sheet.png", "The picture to write: images as the network gets them, with what belongs to them."),
    "read": (0, "Images to read; 0: as many as a few seconds allow, at most 2000."),
}


def inspect_data(experiment: VQGANExperiment | TransformerExperiment, out: str, most: int = 0) -> None:
    """Print the report on the data of a training, and write its contact sheet to `out`.

    most: images to read, see `inspection.read`. Raises ValueError where training would refuse the data, as late as
    possible: after the report on what there is.
    """
    check_outputs(f"--out={out}", {out: is_ours}, [experiment.data.path, experiment.data.maps])
    mesh = sharding.make_mesh(devices=jax.local_devices()[:1])  # the training's own may be on another machine
    sharding.check_batch(experiment.data.batch_size, mesh, experiment.optimizer.accumulate)
    if isinstance(experiment, VQGANExperiment):
        needs = experiment.needs
        data, draw, lacking = _first_stage(experiment, mesh)
    else:
        experiment = with_classes(experiment)
        needs = condition_needs(experiment.condition)
        data, draw, lacking = _second_stage(experiment, needs, mesh)
    print(pipeline.summary(data, needs))
    sources = {split: pipeline.opened(data, split, needs) for split in ("train", "val")}
    for remark in dict.fromkeys(remark for source in sources.values() for remark in source.listing.remarks):
        print(remark)
    for split, source in sources.items():
        for what, n in source.problems.counts.items():
            print(f"{split}: left out or changed: {n} {what}")
    found = inspection.read(data, needs, most)
    refusal = found.refusal()
    for line in found.lines(data, needs):
        print(line)
    for sentence in (*pipeline.warnings(data, needs), *found.warnings()):
        print(f"warning, a likely mistake: {sentence}")
    for path in lacking:
        print(f"not there yet, and needed for training: {path}")
    try:
        save_grid(inspection.contact_sheet(data, needs, draw), out)
        print(f"contact sheet: {out}")
    except ValueError as error:
        refusal = refusal or str(error)
    if refusal:
        raise ValueError(refusal)


Found = tuple[DataConfig, inspection.Draw, list[str]]  # the images, what draws beside them, files that are lacking


def _first_stage(experiment: VQGANExperiment, mesh: jax.sharding.Mesh) -> Found:
    experiment.check_channels()
    training, config, loss = experiment.training(), experiment.model, experiment.loss
    config.grid(*training.batch_shape[1:3])
    FirstStageEvaluation(training.model, experiment.data, mesh, None, experiment.needs)  # refuses what training does
    draw: inspection.Draw = lambda batch, n, pixels: config.reads.picture(np.asarray(network_input(config, batch)))
    needed = {loss.lpips_path: loss.perceptual_weight, loss.feature_path: loss.feature_weight}
    lacking = [path for path, weight in needed.items() if weight and not Path(path).is_file()]
    return experiment.data, _nothing if config.content == "image" else draw, lacking


def _second_stage(experiment: TransformerExperiment, needs: Needs, mesh: jax.sharding.Mesh) -> Found:
    settings = experiment.condition
    networks = [experiment.first_stage] + ([settings.stage] if has_stage(settings) else [])
    lacking = [path for path in networks if not has_checkpoint(path)]
    data = pictured(experiment.data)
    if not lacking:
        return data, open_stages(experiment, "", mesh).model.condition.picture, []
    labels = pipeline.num_labels(data, needs)

    def draw(batch: Mapping[str, Any], n: int, pixels: tuple[int, int]) -> np.ndarray | None:
        network = _stand_in(settings, batch, labels)
        return make_condition(settings, network, data.size, network).picture(batch, n, pixels)

    return data, draw, lacking


def _stand_in(settings: ConditionConfig, batch: Mapping[str, Any], labels: int) -> VQGAN:
    """A first stage with no more than the shapes to draw what one would read, where that one is not there."""
    content = KINDS[settings.kind].contents[0] if settings.kind in KINDS else "image"
    dots = batch["keypoints"].shape[2] if "keypoints" in batch else 1
    channels = {"segmentation": labels, "pose": dots, "image": batch["image"].shape[-1]}.get(content, 1)
    return VQGAN(VQGANConfig(content=content, in_channels=channels, out_channels=channels))


def _nothing(batch: Mapping[str, Any], n: int, pixels: tuple[int, int]) -> None:
    return None


def main(config: Any, out: str, read: int) -> bool:
    if read < 0:
        raise ValueError(f"--read={read}: the number of images to read, or 0")
    kind: Any = TransformerExperiment if "transformer" in config else VQGANExperiment
    log = logging.getLogger("taming_jax")
    level = log.level
    log.setLevel(logging.ERROR)  # the report has it all
    try:
        with stopping.telling(lambda: "no contact sheet is written"):
            inspect_data(from_dict(kind, config.to_dict()), out, read)
    finally:
        log.setLevel(level)
    return True


if __name__ == "__main__":
    from taming_jax.cli import run

    run(main, example="configs/folder_vqgan.py", options=OPTIONS, has_workdir=False)
