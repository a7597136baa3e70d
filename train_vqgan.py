"""Train a first stage.

python train_vqgan.py --config=configs/demo_vqgan.py [--workdir=DIR] [--config.a.b=value]
"""

import dataclasses
import math
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from taming_jax import checkpoint, evaluate, sharding
from taming_jax.cli import run
from taming_jax.data import pipeline
from taming_jax.data.pipeline import DataConfig
from taming_jax.experiment import VQGANExperiment, saved_form
from taming_jax.models.discriminator import Discriminator
from taming_jax.models.lpips import load_lpips
from taming_jax.models.vqgan import VQGAN
from taming_jax.settings import from_dict
from taming_jax.training import loop, optim, vqgan
from taming_jax.training.report import Report


def train_and_evaluate(experiment: VQGANExperiment, workdir: str) -> bool:
    """Train to the end, or go on where a checkpoint in `workdir` left off; False where a signal stopped it."""
    mesh = sharding.make_mesh(experiment.mesh)
    experiment = dataclasses.replace(experiment, data=_annotated(experiment))
    data, loss, settings = experiment.data, experiment.loss, experiment.train
    sharding.check_batch(data.batch_size, mesh, experiment.optimizer.accumulate)
    _check_images(experiment)
    lpips_params = load_lpips(loss.lpips_path) if loss.perceptual_weight else None
    lpips_params = jax.device_put(lpips_params, sharding.replicated(mesh))
    pipeline.num_examples(data, "train")  # refuses a folder that is missing or empty before anything long starts

    model = VQGAN(experiment.model)
    discriminator = Discriminator(experiment.discriminator) if loss.disc_weight else None
    optimizer, disc_optimizer = (
        optim.make_optimizer(experiment.optimizer, batch_size=data.batch_size, steps=settings.steps) for _ in range(2)
    )
    key = jax.random.key(settings.seed)
    parts, decay = experiment.optimizer.accumulate, experiment.optimizer.ema_decay
    train_step = vqgan.make_train_step(
        model, discriminator, loss, optimizer, disc_optimizer, accumulate=parts, ema_decay=decay
    )

    def init(key):
        shape = (data.size, data.size, experiment.model.in_channels)
        return vqgan.make_state(key, model, discriminator, (optimizer, disc_optimizer), shape, decay)

    def step(state, lpips_params, batch):
        return train_step(state, batch, jax.random.fold_in(key, state.step), lpips_params)

    report = Report(workdir, is_main=jax.process_index() == 0)
    measure = evaluate.FirstStageEvaluation(model, data, mesh, lpips_params)

    def draw(state, number):
        report.images(number, "reconstructions", measure.pictures(optim.best_params(state)), evaluate.columns(data))

    _, finished = loop.train(
        config=settings,
        init=init,
        step=step,
        frozen=lpips_params,
        batches=lambda start: pipeline.make_batches(data, "train", start_step=start, **sharding.this_process(mesh)),
        hooks=(
            loop.Hook("val", settings.eval_every, lambda state, _: measure(optim.best_params(state)), measure.measures),
            loop.Hook("images", settings.image_every, draw),
        ),
        saved_config=saved_form(experiment),
        workdir=workdir,
        mesh=mesh,
        report=report,
        initial=lambda: _start(experiment),
    )
    return finished


def _annotated(experiment: VQGANExperiment) -> DataConfig:
    """The data, with what the network reads."""
    return dataclasses.replace(experiment.data, annotations=experiment.model.reads.annotations)


def _start(experiment: VQGANExperiment) -> dict[str, Any]:
    """The fields of the state that come from the model named by `init_from`."""
    if not experiment.init_from:
        return {}
    config = checkpoint.load_config(experiment.init_from)
    if config.get("kind") != "vqgan":
        raise ValueError(f"config.init_from={experiment.init_from!r} holds no first stage.")
    if config["model"]["norm_groups"] != experiment.model.norm_groups:  # the shapes do not tell
        raise ValueError(
            f"config.init_from holds another network: model.norm_groups is {config['model']['norm_groups']} there, "
            f"{experiment.model.norm_groups} here."
        )
    params = checkpoint.load_params(experiment.init_from)
    fields = {"params": params, "averages": optim.start_averages(experiment.optimizer.ema_decay, params)}
    if experiment.model.quantizer == "ema":  # averages that say what the codebook is, each code used alike
        codebook, data = params["quantizer"]["codebook"], experiment.data
        latents = data.batch_size * math.prod(experiment.model.grid(data.size, data.size))
        count = np.full(len(codebook), latents / len(codebook), np.float32)
        fields["ema"] = {"quantizer": {"count": count, "total": count[:, None] * codebook}}
    found = checkpoint.load_discriminator(experiment.init_from) if experiment.loss.disc_weight else None
    return fields | ({"disc_params": found["params"], "batch_stats": found["batch_stats"]} if found else {})


def _check_images(experiment: VQGANExperiment) -> None:
    """Raise ValueError where the parts do not fit."""
    model, size = experiment.model, experiment.data.size
    expected = model.reads.data_channels(pipeline.num_labels(experiment.data))
    if expected and model.in_channels != expected:
        raise ValueError(
            f"config.model.in_channels={model.in_channels}, but the data's {model.content} has {expected} channels; "
            "set it and out_channels to that."
        )
    found = experiment.discriminator.in_channels
    if experiment.loss.disc_weight and found != model.out_channels:
        raise ValueError(
            f"config.discriminator.in_channels={found}, but the images have {model.out_channels} channels; set "
            "it to that."
        )
    try:
        model.grid(size, size)
    except ValueError as error:
        raise ValueError(f"config.data.size={size}: {error}") from error


def main(config: ConfigDict, workdir: str) -> bool:
    experiment = from_dict(VQGANExperiment, config.to_dict())
    sharding.start_distributed(experiment.train.heartbeat_timeout)
    return train_and_evaluate(experiment, workdir)


if __name__ == "__main__":
    run(main, example="configs/demo_vqgan.py")
