"""`evaluate likelihood`: how well a second stage predicts the codes of held-out images."""

from taming_jax import sharding
from taming_jax.checkpoint import open_saved
from taming_jax.data import pipeline
from taming_jax.data.config import DataConfig
from taming_jax.quality.measures import Compared
from taming_jax.quality.result import Clock, check_out, checkpoint_of, environment, write_result
from taming_jax.settings import from_dict
from taming_jax.trained.evaluation import GeneratorEvaluation
from taming_jax.trained.generator import Generator
from taming_jax.trained.loading import load_saved


def likelihood(workdir: str, out: str, batch_size: int = 0, step: str = "") -> Compared:
    """Measure the second stage in `workdir` over the validation split of its training and write the result.

    nll: nats per token; bits_per_token; bits_per_pixel: of the codes, over the pixels of the image that they stand for.
    Raises ValueError for a model without its data, and for what is no second stage.
    """
    clock = Clock()
    check_out(out)
    saved = open_saved(workdir, step or None)
    saved.require("two_stage", "evaluate likelihood:")
    if not saved.trained_here:
        raise ValueError(f"{workdir!r} was not trained here, so there is no held-out data with its conditions.")
    model = load_saved(saved)
    assert isinstance(model, Generator)
    if not model.model.prior.likelihood:
        raise ValueError(f"{workdir!r} holds a prior of kind {model.model.kind!r}, which has no likelihood.")
    batch_size = batch_size or 8 * sharding.batch_shares(model.mesh)
    sharding.check_batch(batch_size, model.mesh, name="--batch_size")
    data = from_dict(DataConfig, {**saved.config["data"], "batch_size": batch_size}, "config.data")
    figures = GeneratorEvaluation(model.sampler, data)(model.params)
    if not figures:
        raise ValueError("no image of the validation split could be read; nothing was measured")
    pixels, tokens = model.training_pixels, model.model.tokens.length
    figures["bits_per_pixel"] = figures["bits_per_token"] * tokens / (pixels[0] * pixels[1])
    n = pipeline.num_examples(data, "val")
    protocol = {
        "measured": "likelihood",
        "checkpoint": checkpoint_of(workdir, saved.step, model.params, model.stages),
        "reference": {"source": f"{data.source} {data.val_path or data.path} (val)", "images": n},
        "size": list(pixels),
        "tokens": tokens,
    }
    write_result(out, figures, (), {**protocol, **environment(clock)})
    return Compared(figures, (), {})
