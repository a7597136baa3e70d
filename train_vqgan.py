"""Train a first stage.

python train_vqgan.py --config=configs/demo_vqgan.py [--workdir=DIR] [--config.a.b=value]
"""

if __name__ == "__main__":  # before the imports, which take seconds
    from taming_jax.stopping import listen

    listen()

import jax
from ml_collections import ConfigDict

from taming_jax import sharding
from taming_jax.cli import run
from taming_jax.data import pipeline
from taming_jax.experiment import VQGANExperiment, saved_form
from taming_jax.lease import Lease, held
from taming_jax.models.feature_discriminator import load_network
from taming_jax.models.lpips import load_lpips
from taming_jax.quality.in_training import first_stage_hooks
from taming_jax.settings import from_dict
from taming_jax.trained.evaluation import FirstStageEvaluation, hooks
from taming_jax.training import loop
from taming_jax.training.report import Report, check_workdir


def train_and_evaluate(experiment: VQGANExperiment, workdir: str) -> bool:
    """Train to the end, or go on where a checkpoint in `workdir` left off; False where a signal stopped it."""
    check_workdir(workdir)
    with held(workdir, "training") as lease:
        return _train(experiment, workdir, lease)


def _train(experiment: VQGANExperiment, workdir: str, lease: Lease) -> bool:
    mesh = sharding.make_mesh(experiment.mesh)
    data, needs, loss = experiment.data, experiment.needs, experiment.loss
    sharding.check_batch(data.batch_size, mesh, experiment.optimizer.accumulate)
    experiment.check_channels()
    training = experiment.training()
    lpips_params = load_lpips(loss.lpips_path) if loss.perceptual_weight else None
    features = load_network(experiment.feature_discriminator, loss.feature_path) if loss.feature_weight else None
    frozen = jax.device_put({"lpips": lpips_params, "features": features}, sharding.replicated(mesh))
    pipeline.check(data, needs)  # before anything long starts
    measure = FirstStageEvaluation(training.model, data, mesh, frozen["lpips"], needs)
    quality = first_stage_hooks(measure, experiment.train)
    with Report(workdir, is_main=jax.process_index() == 0) as report:
        _, finished = loop.train(
            training=training,
            frozen=frozen,
            config=experiment.train,
            batches=lambda start: pipeline.make_batches(
                data, "train", start_step=start, needs=needs, **sharding.this_process(mesh)
            ),
            hooks=(*hooks(measure, measure.pictures, experiment.train, report), *quality),
            saved_config=saved_form(experiment, needs),
            workdir=workdir,
            mesh=mesh,
            report=report,
            lease=lease,
        )
    return finished


def main(config: ConfigDict, workdir: str) -> bool:
    experiment = from_dict(VQGANExperiment, config.to_dict())
    sharding.start_distributed(experiment.train.heartbeat_timeout)
    return train_and_evaluate(experiment, workdir)


if __name__ == "__main__":
    run(main, example="configs/demo_vqgan.py")
