"""Train a second stage.

python train_transformer.py --config=configs/demo_class.py [--workdir=DIR] [--config.a.b=value]
"""

if __name__ == "__main__":  # before the imports, which take seconds
    from taming_jax.stopping import listen

    listen()

import dataclasses

import jax
from ml_collections import ConfigDict

from taming_jax import sharding
from taming_jax.cli import run
from taming_jax.data import pipeline
from taming_jax.experiment import TransformerExperiment, saved_form
from taming_jax.lease import Lease, held
from taming_jax.quality.in_training import second_stage_hooks
from taming_jax.settings import from_dict
from taming_jax.trained.evaluation import GeneratorEvaluation, hooks
from taming_jax.trained.sampler import Sampler
from taming_jax.trained.stages import condition_needs, open_stages, with_classes
from taming_jax.training import loop
from taming_jax.training.report import Report, check_workdir


def train_and_evaluate(experiment: TransformerExperiment, workdir: str) -> bool:
    """Train to the end, or go on where a checkpoint in `workdir` left off; False where a signal stopped it."""
    check_workdir(workdir)
    with held(workdir, "training") as lease:
        return _train(experiment, workdir, lease)


def _train(experiment: TransformerExperiment, workdir: str, lease: Lease) -> bool:
    mesh = sharding.make_mesh(experiment.mesh)
    data = experiment.data
    sharding.check_batch(data.batch_size, mesh, experiment.optimizer.accumulate)
    experiment = with_classes(experiment)
    needs = condition_needs(experiment.condition)
    pipeline.check(data, needs)  # before anything long starts
    stages = open_stages(experiment, workdir, mesh)
    model = stages.model
    experiment = dataclasses.replace(experiment, transformer=model.gpt.config)  # with the sizes of its tables

    filters = experiment.sample.filters()
    measure = GeneratorEvaluation(Sampler(stages), data, model, needs)
    quality = second_stage_hooks(measure, filters, experiment.train)
    with Report(workdir, is_main=jax.process_index() == 0) as report:
        _, finished = loop.train(
            training=experiment.training(model),
            frozen=stages.params,
            config=experiment.train,
            batches=lambda start: pipeline.make_batches(
                data, "train", start_step=start, needs=needs, **sharding.this_process(mesh)
            ),
            hooks=(
                *hooks(measure, lambda params: measure.pictures(params, filters), experiment.train, report),
                *quality,
            ),
            saved_config=saved_form(experiment, needs),
            workdir=workdir,
            mesh=mesh,
            report=report,
            lease=lease,
        )
    return finished


def main(config: ConfigDict, workdir: str) -> bool:
    experiment = from_dict(TransformerExperiment, config.to_dict())
    sharding.start_distributed(experiment.train.heartbeat_timeout)
    return train_and_evaluate(experiment, workdir)


if __name__ == "__main__":
    run(main, example="configs/demo_class.py")
