"""The networks that a second stage is trained on, and what its settings take from its data."""

import dataclasses
import io
import os
from typing import Any

import jax
import numpy as np
from etils import epath

from taming_jax import checkpoint
from taming_jax.checkpoint import FIRST_STAGE
from taming_jax.conditioning import Condition, ConditionConfig
from taming_jax.data import pipeline
from taming_jax.data.config import DataConfig, Needs
from taming_jax.data.sources import codes
from taming_jax.experiment import TransformerExperiment
from taming_jax.models.vqgan import VQGAN, VQGANConfig
from taming_jax.settings import from_dict
from taming_jax.trained.first_stage import FirstStage
from taming_jax.trained.loading import load_first_stage


def with_classes(experiment: TransformerExperiment) -> TransformerExperiment:
    """Take the number and the names of the classes from the data where the configuration leaves them open."""
    condition = experiment.condition
    of_objects = condition.kind in ("boxes", "points")
    if not (condition.kind == "class_label" or of_objects) or condition.class_names:
        return experiment
    names = (pipeline.object_names if of_objects else pipeline.class_names)(experiment.data)
    if names is None:
        raise ValueError(
            f"config.condition.kind is {condition.kind}, but the data source {experiment.data.source!r} has no "
            f"{'objects; take a source that has' if of_objects else 'classes; put images into one folder a class'}, or "
            "train with config.condition.kind=none."
        )
    if condition.n_classes not in (0, len(names)):
        raise ValueError(f"config.condition.n_classes={condition.n_classes}, but the data has {len(names)} classes.")
    condition = dataclasses.replace(condition, n_classes=len(names), class_names=tuple(names))
    return dataclasses.replace(experiment, condition=condition)


def read_list(path: str) -> tuple[int, ...]:
    """The codes of a file that `taming_jax.codes_used` wrote, or of any .npy of whole numbers, on disk or in a bucket.

    Raises ValueError for anything else.
    """
    try:
        codes = np.load(io.BytesIO(epath.Path(path).read_bytes()), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path!r} is no list of codes ({error}); taming_jax.codes_used makes one") from error
    if codes.ndim != 1 or not len(codes) or not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(f"{path!r} holds {codes.dtype} {codes.shape}; expected a list of codes, whole numbers (n,).")
    return tuple(int(code) for code in codes)


def remapping(experiment: TransformerExperiment) -> dict[str, Any]:
    """The settings of the first stage that the second changes: which codes are in use."""
    if not experiment.remap:
        return {}
    return {"remap": read_list(experiment.remap), "unknown": experiment.unknown}


def condition_needs(condition: Condition, settings: ConditionConfig) -> Needs:
    """What a condition with these settings is made of."""
    return Needs(condition.annotations, settings.max_objects, settings.encode_crop)


def pictured(data: DataConfig) -> DataConfig:
    """The images that codes were made of, where the data is codes; other data as it is."""
    if data.source != "codes":
        return data
    source = {**codes.read_info(data.path)["data"], "batch_size": data.batch_size}
    return from_dict(DataConfig, source, f"the data of {data.path!r}")


def stage_model(source: str, workdir: str, name: str = FIRST_STAGE, **changes: Any) -> VQGAN:
    """The network that `keep_stage` will load, from its configuration. Raises ValueError where it cannot."""
    if checkpoint.has_checkpoint(workdir):
        if not checkpoint.has_checkpoint(os.path.join(workdir, name)):
            raise ValueError(f"{workdir!r} holds a first stage; choose another --workdir for the second.")
        source, changes = os.path.join(workdir, name), {}
    config = checkpoint.load_config(source)
    if config.get("kind") != "vqgan":
        setting = "config.first_stage" if name == FIRST_STAGE else "config.condition.stage"
        raise ValueError(f"{source!r} holds no first stage; name the working directory of one as {setting}.")
    return VQGAN(from_dict(VQGANConfig, {**config["model"], **changes}, "config.model"))


def keep_stage(
    source: str, workdir: str, mesh: jax.sharding.Mesh, name: str = FIRST_STAGE, **changes: Any
) -> FirstStage:
    """A network that makes tokens for a training in `workdir`, which keeps a copy of it, so that it stands alone.

    A training that goes on uses its own copy, whatever has become of `source`. changes: settings of the network that
    differ in the copy, such as its remap.
    """
    own = os.path.join(workdir, name)
    if not checkpoint.has_checkpoint(workdir):
        found = load_first_stage(source, mesh=mesh)
        config = checkpoint.load_config(source)
        config = {**config, "model": {**config["model"], **changes}}
        checkpoint.save_model(own, params=found.params, config=config)
    return load_first_stage(own, mesh=mesh)
