"""Train a first stage.

python train_vqgan.py --config=configs/demo_vqgan.py [--workdir=DIR] [--config.a.b=value]
"""

import jax
from ml_collections import ConfigDict

from configs.command import run
from taming_jax import evaluate, sharding
from taming_jax.data import pipeline
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
    data, loss, settings = experiment.data, experiment.loss, experiment.train
    sharding.check_batch(data.batch_size, mesh)
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
    train_step = vqgan.make_train_step(model, discriminator, loss, optimizer, disc_optimizer, lpips_params)

    def init(key):
        shape = (data.size, data.size, experiment.model.in_channels)
        return vqgan.make_state(key, model, discriminator, (optimizer, disc_optimizer), shape)

    def step(state, lpips_params, batch):
        return train_step(state, batch, jax.random.fold_in(key, state.step), lpips_params)

    report = Report(workdir, is_main=jax.process_index() == 0)
    measure = evaluate.FirstStageEvaluation(model, data, mesh, lpips_params)

    def draw(state, number):
        report.images(number, "reconstructions", measure.pictures(state.params), evaluate.columns(data))

    _, finished = loop.train(
        config=settings,
        init=init,
        step=step,
        frozen=lpips_params,
        batches=lambda start: pipeline.make_batches(data, "train", start_step=start, **sharding.this_process()),
        hooks=(
            loop.Hook("val", settings.eval_every, lambda state, _: measure(state.params), measure.measures),
            loop.Hook("images", settings.image_every, draw),
        ),
        saved_config=saved_form(experiment),
        workdir=workdir,
        mesh=mesh,
        report=report,
    )
    return finished


def _check_images(experiment: VQGANExperiment) -> None:
    """Raise ValueError where the network does not take what the data gives."""
    model, size = experiment.model, experiment.data.size
    channels = {"model.in_channels": model.in_channels, "model.out_channels": model.out_channels}
    channels["discriminator.in_channels"] = experiment.discriminator.in_channels
    for name, value in channels.items():
        if value != 3:
            raise ValueError(f"config.{name}={value}, but the images have 3 channels; set it to 3.")
    try:
        model.grid(size, size)
    except ValueError as error:
        raise ValueError(f"config.data.size={size}: {error}") from error


def main(config: ConfigDict, workdir: str) -> bool:
    sharding.start_distributed()
    return train_and_evaluate(from_dict(VQGANExperiment, config.to_dict()), workdir)


if __name__ == "__main__":
    run(main, example="configs/demo_vqgan.py")
