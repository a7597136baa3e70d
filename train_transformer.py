"""Train a second stage.

python train_transformer.py --config=configs/demo_class.py [--workdir=DIR] [--config.a.b=value]
"""

import dataclasses
from typing import Any

import jax
from ml_collections import ConfigDict

from taming_jax import checkpoint, evaluate, sharding
from taming_jax.cli import run
from taming_jax.conditioning import has_stage
from taming_jax.data import pipeline
from taming_jax.experiment import TransformerExperiment, saved_form
from taming_jax.models.gpt import stack_layers, unstack_layers
from taming_jax.settings import from_dict
from taming_jax.trained.fingerprint import check_codes
from taming_jax.trained.generator import Generator
from taming_jax.trained.loading import condition_stage, two_stage
from taming_jax.trained.stages import annotated, keep_stage, remapping, stage_model, with_classes
from taming_jax.training import loop, optim, transformer
from taming_jax.training.report import Report


def train_and_evaluate(experiment: TransformerExperiment, workdir: str) -> bool:
    """Train to the end, or go on where a checkpoint in `workdir` left off; False where a signal stopped it."""
    mesh = sharding.make_mesh(experiment.mesh)
    data, settings = experiment.data, experiment.train
    sharding.check_batch(data.batch_size, mesh, experiment.optimizer.accumulate)
    pipeline.num_examples(data, "train")  # refuses a folder that is missing or empty before anything long starts
    experiment = with_classes(experiment)
    condition = experiment.condition
    changes = {} if checkpoint.has_checkpoint(workdir) else remapping(experiment)  # its copy has them
    first = stage_model(experiment.first_stage, workdir, **changes)
    second = None
    if has_stage(condition):
        second = stage_model(condition.stage, workdir, checkpoint.CONDITION_STAGE)
    model = two_stage(saved_form(experiment), first, second)
    if data.source == "codes":
        check_codes(experiment, model, workdir)
    data = annotated(experiment, model.condition)
    experiment = dataclasses.replace(experiment, data=data, transformer=model.gpt.config)  # with its sizes computed
    first_stage = keep_stage(experiment.first_stage, workdir, mesh, **changes)
    second_stage = keep_stage(condition.stage, workdir, mesh, checkpoint.CONDITION_STAGE) if second else None
    generator = Generator(model, None, first_stage, condition_stage(model, first_stage, second_stage))

    decay = experiment.optimizer.ema_decay
    optimizer = optim.make_optimizer(experiment.optimizer, batch_size=data.batch_size, steps=settings.steps)
    report = Report(workdir, is_main=jax.process_index() == 0)
    measure = evaluate.GeneratorEvaluation(generator, data, model)

    def draw(state, number):
        for name, (images, labels) in measure.pictures(optim.best_params(state), experiment.sample.filters()).items():
            report.images(number, name, images, evaluate.columns(data), labels)

    _, finished = loop.train(
        config=settings,
        init=lambda key: transformer.make_state(key, model, optimizer, decay),
        step=transformer.make_train_step(
            model, optimizer, jax.random.key(settings.seed), experiment.optimizer.accumulate, decay
        ),
        frozen=generator.stages,
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


def _start(experiment: TransformerExperiment) -> dict[str, Any]:
    """The fields of the state that come from the model named by `init_from`."""
    if not experiment.init_from:
        return {}
    saved = checkpoint.load_config(experiment.init_from).get("transformer")
    if saved is None:
        raise ValueError(f"config.init_from={experiment.init_from!r} holds no second stage.")
    if saved["n_head"] != experiment.transformer.n_head:  # the shapes do not tell
        raise ValueError(
            f"config.init_from holds another network: transformer.n_head is {saved['n_head']} there, "
            f"{experiment.transformer.n_head} here."
        )
    params = unstack_layers(checkpoint.load_params(experiment.init_from))
    if experiment.transformer.scan_layers and saved["n_layer"] == experiment.transformer.n_layer:
        params = stack_layers(params, saved["n_layer"])
    return {"params": params, "averages": optim.start_averages(experiment.optimizer.ema_decay, params)}


def main(config: ConfigDict, workdir: str) -> bool:
    experiment = from_dict(TransformerExperiment, config.to_dict())
    sharding.start_distributed(experiment.train.heartbeat_timeout)
    return train_and_evaluate(experiment, workdir)


if __name__ == "__main__":
    run(main, example="configs/demo_class.py")
