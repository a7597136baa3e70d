"""The networks that a second stage is trained on, and what its settings take from its data."""

import dataclasses
import io
import logging
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from taming_jax import checkpoint, files, limits
from taming_jax.checkpoint import CONDITION_STAGE, FIRST_STAGE, Saved, open_saved
from taming_jax.conditioning import KINDS, ConditionConfig, annotations_of, has_stage
from taming_jax.data import pipeline
from taming_jax.data.config import DataConfig, Needs
from taming_jax.data.sources import codes
from taming_jax.experiment import TransformerExperiment, saved_form
from taming_jax.models.vqgan import VQGAN
from taming_jax.settings import as_saved, from_dict
from taming_jax.trained.fingerprint import check_codes, codes_digest
from taming_jax.trained.first_stage import FirstStage
from taming_jax.trained.loading import condition_stage, two_stage, vqgan_of
from taming_jax.trained.networks import Stages

log = logging.getLogger(__name__)


def with_classes(experiment: TransformerExperiment) -> TransformerExperiment:
    """Take the number and the names of the classes from the data where the configuration leaves them open. Raises
    ValueError where the data has none, or another number of them."""
    condition = experiment.condition
    of_objects, beside = condition.kind in ("boxes", "points"), condition.kind in KINDS and condition.n_classes
    if not (condition.kind == "class_label" or of_objects or beside):
        return experiment
    names = (pipeline.object_names if of_objects else pipeline.class_names)(experiment.data)
    if names is None and condition.class_names:
        return experiment
    if names is None:
        lacks = "objects; take a source that has" if of_objects else "classes; put images into one folder a class"
        raise ValueError(
            f"config.condition.kind is {condition.kind}{', with n_classes' if beside else ''}, but the data source "
            f"{experiment.data.source!r} has no {lacks}, or train with config.condition."
            f"{'n_classes=0' if beside else 'kind=none'}."
        )
    if condition.n_classes not in (0, len(names)):
        raise ValueError(f"config.condition.n_classes={condition.n_classes}, but the data has {len(names)} classes.")
    if len(condition.class_names) not in (0, len(names)):
        given = len(condition.class_names)
        raise ValueError(f"config.condition.class_names are {given}, but the data has {len(names)} classes.")
    names = condition.class_names or tuple(names)
    condition = dataclasses.replace(condition, n_classes=len(names), class_names=names)
    return dataclasses.replace(experiment, condition=condition)


def write_list(path: files.PathLike, used: np.ndarray, digest: str) -> None:
    """Write a list of codes, on disk or in a bucket: a .npy file of whole numbers (n,), and behind them, where np.load
    does not look unless it is called again, `codes_digest` of the first stage that they are of."""
    content = io.BytesIO()
    np.save(content, used)
    np.save(content, np.array(digest))
    files.write_whole(path, content.getvalue())


def read_list(path: str) -> tuple[tuple[int, ...], str]:
    """(the codes of a file of `write_list`, or of any .npy of whole numbers; the digest, "" where there is none).

    Raises ValueError for anything else.
    """
    try:
        data = limits.read_bytes(path)
        content = io.BytesIO(data)
        codes = files.read_array(content, len(data))
        digest = str(files.read_array(content, len(data) - content.tell())) if content.tell() < len(data) else ""
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"{path!r} is no list of codes ({files.first_line(error)}); taming_jax.codes_used makes one"
        ) from error
    if codes.ndim != 1 or not len(codes) or not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(f"{path!r} holds {codes.dtype} {codes.shape}; expected a list of codes, whole numbers (n,).")
    return tuple(int(code) for code in codes), digest


def remapping(experiment: TransformerExperiment, params: Any) -> dict[str, Any]:
    """The settings of the first stage, whose parameters are given, that the second changes: which codes are in use.

    Raises ValueError for a list of another first stage's codes.
    """
    if not experiment.remap:
        return {}
    used, digest = read_list(experiment.remap)
    again = f"python -m taming_jax.codes_used --workdir={experiment.first_stage} --out={experiment.remap}"
    if not digest:
        log.warning(
            "%r does not say of which first stage its codes are; %s makes one that does", experiment.remap, again
        )
    elif digest != codes_digest(params):
        raise ValueError(
            f"config.remap={experiment.remap!r} lists the codes in use of another first stage than "
            f"config.first_stage={experiment.first_stage!r}, or of another step of it; make it anew: {again}"
        )
    return {"remap": used, "unknown": experiment.unknown}


def condition_needs(settings: ConditionConfig) -> Needs:
    """What a condition with these settings is made of; its networks need not be there."""
    return Needs(annotations_of(settings), settings.max_objects, settings.encode_crop)


def pictured(data: DataConfig) -> DataConfig:
    """The images that codes were made of, where the data is codes; other data as it is."""
    if data.source != "codes":
        return data
    source = {**as_saved(codes.read_info(data.path)["data"]), "batch_size": data.batch_size}
    return from_dict(DataConfig, source, f"the data of {data.path!r}")


def open_stages(experiment: TransformerExperiment, workdir: str, mesh: jax.sharding.Mesh) -> Stages:
    """The networks that make the tokens of a second stage, and the model around them.

    A training keeps copies of them in its `workdir`, so that it stands alone, and one that goes on opens these,
    whatever has become of their sources. Where `workdir` is empty, the sources are opened and nothing is written.
    Raises ValueError where a directory holds no first stage, where the parts do not fit, or where the data is codes of
    other networks; before anything is written.
    """
    begun = bool(workdir) and checkpoint.has_checkpoint(workdir)
    sources = {FIRST_STAGE: experiment.first_stage}
    if has_stage(experiment.condition):
        sources[CONDITION_STAGE] = experiment.condition.stage
    if begun:
        sources = {name: _copy_in(workdir, name) for name in sources}
    saved = {name: _open_first_stage(path, name) for name, path in sources.items()}
    params = {name: found.load_params() for name, found in saved.items()}
    if not begun:  # the copy has them
        saved[FIRST_STAGE] = _with_settings(saved[FIRST_STAGE], remapping(experiment, params[FIRST_STAGE]))
        _compare_start(experiment.init_from, params)
    networks = {name: vqgan_of(found) for name, found in saved.items()}
    _check_channels(experiment.data, networks[FIRST_STAGE])
    model = two_stage(saved_form(experiment), networks[FIRST_STAGE], networks.get(CONDITION_STAGE))
    if experiment.data.source == "codes":
        check_codes(experiment, model, workdir)
    opened = {name: FirstStage(networks[name], params[name], mesh) for name in saved}
    if workdir and not begun:
        for name, stage in opened.items():
            checkpoint.save_model(os.path.join(workdir, name), params=stage.params, config=saved[name].config)
    first, second = opened[FIRST_STAGE], opened.get(CONDITION_STAGE)
    return Stages(model, first, condition_stage(model, first, second))


def _compare_start(path: str, params: Mapping[str, Any]) -> None:
    """Say where the second stage that training starts from has learned from the codes of other networks than these."""
    for name in params if path else ():
        copy = os.path.join(path, name)
        if checkpoint.has_checkpoint(copy) and codes_digest(checkpoint.load_params(copy)) != codes_digest(params[name]):
            log.warning("config.init_from=%r has learned from codes of another %s: they mean other things", path, name)


def _check_channels(data: DataConfig, first_stage: VQGAN) -> None:
    channels = first_stage.config.in_channels
    if data.source != "codes" and first_stage.config.content == "image" and data.channels != channels:
        raise ValueError(
            f"config.data.channels={data.channels}, but config.first_stage reads images of {channels} channels; set it "
            "to that."
        )


def _with_settings(saved: Saved, changes: dict[str, Any]) -> Saved:
    """A first stage with settings of its network changed, such as its remap."""
    return dataclasses.replace(saved, config={**saved.config, "model": {**saved.config["model"], **changes}})


def _copy_in(workdir: str, name: str) -> str:
    """Where a training that has begun keeps its copy of a network."""
    path = os.path.join(workdir, name)
    if not checkpoint.has_checkpoint(path):
        raise ValueError(f"{workdir!r} holds a first stage; choose another --workdir for the second.")
    return path


def _open_first_stage(path: str, name: str) -> Saved:
    saved = open_saved(path)
    saved.require("vqgan", "config.first_stage:" if name == FIRST_STAGE else "config.condition.stage:")
    return saved
