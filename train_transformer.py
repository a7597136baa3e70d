"""Train a second stage.

python train_transformer.py --config=configs/demo_class.py [--workdir=DIR] [--config.a.b=value]
"""

import dataclasses

import jax
from ml_collections import ConfigDict

from configs.command import run
from taming_jax import evaluate, generate, sharding
from taming_jax.data import pipeline
from taming_jax.experiment import TransformerExperiment, saved_form
from taming_jax.settings import from_dict
from taming_jax.training import loop, optim, transformer
from taming_jax.training.report import Report


def train_and_evaluate(experiment: TransformerExperiment, workdir: str) -> bool:
    """Train to the end, or go on where a checkpoint in `workdir` left off; False where a signal stopped it."""
    mesh = sharding.make_mesh(experiment.mesh)
    data, settings = experiment.data, experiment.train
    sharding.check_batch(data.batch_size, mesh)
    pipeline.num_examples(data, "train")  # refuses a folder that is missing or empty before anything long starts
    experiment = _with_classes(experiment)
    saved_config = saved_form(experiment)
    model = generate.two_stage(saved_config, generate.first_stage_model(experiment.first_stage, workdir))
    first_stage = generate.keep_first_stage(experiment.first_stage, workdir, mesh)

    optimizer = optim.make_optimizer(experiment.optimizer, batch_size=data.batch_size, steps=settings.steps)
    report = Report(workdir, is_main=jax.process_index() == 0)
    measure = evaluate.GeneratorEvaluation(model, first_stage, data)

    def draw(state, number):
        for name, (images, labels) in measure.pictures(state.params, experiment.sample.filters()).items():
            report.images(number, name, images, evaluate.columns(data), labels)

    _, finished = loop.train(
        config=settings,
        init=lambda key: transformer.make_state(key, model, optimizer),
        step=transformer.make_train_step(model, optimizer, jax.random.key(settings.seed)),
        frozen=first_stage.params,
        batches=lambda start: pipeline.make_batches(data, "train", start_step=start, **sharding.this_process()),
        hooks=(
            loop.Hook("val", settings.eval_every, lambda state, _: measure(state.params), measure.measures),
            loop.Hook("images", settings.image_every, draw),
        ),
        saved_config=saved_config,
        workdir=workdir,
        mesh=mesh,
        report=report,
    )
    return finished


def _with_classes(experiment: TransformerExperiment) -> TransformerExperiment:
    """Take the number and the names of the classes from the data where the configuration leaves them open."""
    condition = experiment.condition
    if condition.kind != "class_label" or condition.class_names:
        return experiment
    names = pipeline.class_names(experiment.data)
    if names is None:
        raise ValueError(
            f"config.condition.kind is class_label, but the data source {experiment.data.source!r} has no classes; put "
            "the images into one folder a class, or train with config.condition.kind=none."
        )
    if condition.n_classes not in (0, len(names)):
        raise ValueError(f"config.condition.n_classes={condition.n_classes}, but the data has {len(names)} classes.")
    condition = dataclasses.replace(condition, n_classes=len(names), class_names=tuple(names))
    return dataclasses.replace(experiment, condition=condition)


def main(config: ConfigDict, workdir: str) -> bool:
    sharding.start_distributed()
    return train_and_evaluate(from_dict(TransformerExperiment, config.to_dict()), workdir)


if __name__ == "__main__":
    run(main, example="configs/demo_class.py")
