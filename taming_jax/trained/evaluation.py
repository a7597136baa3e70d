"""Trained models measured and drawn over held-out data: the hooks of both trainings, and what `evaluate` reports."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from taming_jax import sharding
from taming_jax.conditioning import resize_nearest
from taming_jax.data import pipeline
from taming_jax.data.config import AS_SET, DataConfig, Needs
from taming_jax.metrics.image import MEASURES
from taming_jax.metrics.states import FirstStageMetrics, TokenMetrics
from taming_jax.models.gpt import unstack_layers
from taming_jax.models.vqgan import VQGAN, network_input
from taming_jax.nn.codes import count_codes
from taming_jax.pictures import colours
from taming_jax.priors.filters import Filters
from taming_jax.trained.sampler import Request, Sampler
from taming_jax.training.loop import Hook, TrainConfig
from taming_jax.training.optim import best_params
from taming_jax.training.report import Report
from taming_jax.training.vqgan_loss import lpips_distance
from taming_jax.two_stage import TwoStage

PICTURES = 8  # images in a grid's row, where a batch has as many

# Name -> (images float32 (n, H, W, 3), a label for each or None).
Pictures = Mapping[str, tuple[np.ndarray, Sequence[str] | None]]


def make_image_eval(model: VQGAN) -> Callable[..., tuple[FirstStageMetrics, jax.Array]]:
    """The function `evaluate(params, batch, lpips_params=None) -> (metrics, reconstruction)`, to be jitted.

    Of each image what its kind is measured by, see `models.content`, and with LPIPS parameters lpips. The
    reconstruction is (b, H, W, c). Images where `batch["valid"]` (b,) is False count nowhere; without it all do.
    """

    def evaluate(
        params: Any, batch: Mapping[str, jax.Array], lpips_params: Any = None
    ) -> tuple[FirstStageMetrics, jax.Array]:
        images = network_input(model.config, batch)
        fake, quantized = model.apply({"params": params}, images)
        valid = batch.get("valid", jnp.ones(images.shape[:1], jnp.bool_)).astype(jnp.float32)
        counted = jnp.broadcast_to(valid[:, None, None], quantized.ids.shape)
        counts = count_codes(quantized.ids, model.config.n_embed, counted)
        content = model.config.reads
        measured = {name: MEASURES[name](images, fake) for name in content.measures}
        if lpips_params is not None and content.image_losses:
            measured["lpips"] = lpips_distance(lpips_params, images, jnp.clip(fake, -1, 1))
        return FirstStageMetrics.of(measured, valid, counts), fake

    return evaluate


def make_token_eval(model: TwoStage) -> Callable[..., TokenMetrics]:
    """The function `evaluate(params, stages, batch) -> metrics` of the valid images, to be jitted."""

    def evaluate(params: Any, stages: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> TokenMetrics:
        return TokenMetrics.of(model.evaluate(params, stages, batch), batch["valid"].astype(jnp.float32))

    return evaluate


class FirstStageEvaluation:
    """Reconstruction quality and codebook use over the validation split; compiled once, called with parameters."""

    def __init__(
        self,
        model: VQGAN,
        data: DataConfig,
        mesh: jax.sharding.Mesh,
        lpips_params: Any = None,
        needs: Needs = AS_SET,
    ) -> None:
        """needs: what the model reads of batches; settings of data that were saved with a model meet them."""
        if data.source == "codes":
            raise ValueError("config.data.source is 'codes', which say nothing to a first stage; name the images.")
        _require_images(data, needs)
        self.model, self.data, self.needs, self.mesh, self.lpips_params = model, data, needs, mesh, lpips_params
        self._evaluate = jax.jit(make_image_eval(model))
        self._read = jax.jit(lambda batch: network_input(model.config, batch))

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of what it measures."""
        content = self.model.config.reads
        lpips = ("lpips",) if self.lpips_params is not None and content.image_losses else ()
        return (*content.measures, "usage", "perplexity", *lpips)

    def __call__(self, params: Any) -> dict[str, float]:
        """Means over the images: psnr (dB), ssim, l1, and lpips where its weights are there; for label maps accuracy,
        the share of pixels of the right label. Of the codes: usage (share of the codebook that occurs) and
        perplexity."""
        found = (self.evaluate(params, batch)[0] for batch in self.batches())
        return _figures(functools.reduce(FirstStageMetrics.merge, found))

    def batches(self) -> Iterator[dict[str, jax.Array]]:
        """The validation split."""
        return _validation(self.data, self.needs, self.mesh)

    def evaluate(self, params: Any, batch: Mapping[str, jax.Array]) -> tuple[FirstStageMetrics, jax.Array]:
        """(what is measured of a batch, its reconstruction (b, H, W, c)), see `make_image_eval`."""
        with jax.set_mesh(self.mesh):  # see `sharding.split_by_image`
            return self._evaluate(params, batch, self.lpips_params)

    def pictures(self, params: Any) -> Pictures:
        """Held-out images and their "reconstructions", alternating rows of `columns`."""
        batch = next(self.batches())
        _, reconstruction = self.evaluate(params, batch)
        with jax.set_mesh(self.mesh):
            inputs = self._read(batch)
        valid, inputs = _shown(batch), whole(inputs)
        images = _rows(*(self.model.config.reads.picture(x[valid]) for x in (inputs, whole(reconstruction))))
        return {"reconstructions": (images, None)}


class GeneratorEvaluation:
    """Held-out likelihood, samples and completions of a transformer; compiled once, called with parameters."""

    def __init__(
        self, sampler: Sampler, data: DataConfig, model: TwoStage | None = None, needs: Needs = AS_SET
    ) -> None:
        """model: the one that the parameters are for, where training keeps its layers in other arrays. needs: of the
        condition; settings of data that were saved with a model meet them."""
        _require_images(data, needs)
        self.sampler, self.data, self.needs, self.mesh = sampler, data, needs, sampler.mesh
        self._evaluate = jax.jit(make_token_eval(model or sampler.model))

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of what it measures."""
        return self.sampler.model.prior.measures

    def __call__(self, params: Any) -> dict[str, float]:
        """Means over the images, of what the prior measures: nll, nats per token, and bits_per_token, where it has a
        likelihood."""
        stages, batches = self.sampler.stages.params, self.batches()
        with jax.set_mesh(self.mesh):  # see `sharding.split_by_image`
            found = (self._evaluate(params, stages, batch) for batch in batches)
            return _figures(functools.reduce(TokenMetrics.merge, found, TokenMetrics()))

    def batches(self) -> Iterator[dict[str, jax.Array]]:
        """The validation split."""
        return _validation(self.data, self.needs, self.mesh)

    def pictures(self, params: Any, filters: Filters) -> Pictures:
        """The "samples", below their conditions where these can be drawn and above the images that have them, and
        "completions" of the upper half of held-out images, below the originals' reconstructions."""
        params, sampler, condition = unstack_layers(params), self.sampler, self.sampler.model.condition
        first_stage = sampler.stages.first_stage
        batch = next(self.batches())
        valid = _shown(batch)
        shown = {key: whole(value)[valid][:PICTURES] for key, value in batch.items()}
        if "codes" in shown:  # in place of the images
            ids = shown["codes"]
            truth = np.asarray(first_stage.decode(ids))
        else:
            truth = shown["image"]
            ids = np.asarray(first_stage.encode(truth))
        n = len(ids)
        request = Request(shown, n, sampler.training_pixels, filters)
        keep = np.zeros(ids.shape, bool)
        keep[:, : ids.shape[1] // 2] = True
        samples = first_stage.decode(sampler.draw(params, request))
        completed = first_stage.decode(sampler.draw(params, dataclasses.replace(request, given=ids, keep=keep)))
        labels, drawn = condition.describe(shown, n), _drawn_condition(sampler, shown, n)
        drawable = lambda images: colours(np.asarray(images))
        rows = [samples] if drawn is None else [drawn, samples, truth]
        return {
            "samples": (_rows(*map(drawable, rows)), labels * len(rows)),
            "completions": (_rows(*map(drawable, (first_stage.decode(ids), completed))), labels * 2),
        }


def _drawn_condition(sampler: Sampler, batch: Mapping[str, np.ndarray], n: int) -> np.ndarray | None:
    """The conditions of a batch as pictures, also where it has only their tokens; None for those put in words."""
    stage, pixels = sampler.stages.condition_stage, sampler.training_pixels
    if stage is None or "condition_codes" not in batch:
        return sampler.model.condition.picture(batch, n, pixels)
    codes = batch["condition_codes"] % stage.config.n_codes  # a class may be beside them
    maps = np.asarray(stage.decode(codes))
    return resize_nearest(stage.config.reads.picture(maps), *pixels)


def hooks(
    measure: FirstStageEvaluation | GeneratorEvaluation,
    pictures: Callable[[Any], Pictures],
    config: TrainConfig,
    report: Report,
) -> tuple[Hook, Hook]:
    """Of the training loop: "val", what `measure` tells of the weights, and "images", the pictures of them."""

    def draw(state: Any, number: int) -> None:
        for name, (images, labels) in pictures(best_params(state)).items():
            report.images(number, name, images, columns(measure.data, measure.needs), labels)

    return (
        Hook("val", config.eval_every, lambda state, _: measure(best_params(state)), measure.measures),
        Hook("images", config.image_every, draw),
    )


def columns(data: DataConfig, needs: Needs = AS_SET) -> int:
    """Images in a row of the grids that the evaluations make."""
    return min(PICTURES, data.batch_size, pipeline.num_examples(data, "val", needs))


def _figures(metrics: FirstStageMetrics | TokenMetrics) -> dict[str, float]:
    figures = metrics.compute()
    if not figures:
        logging.warning("No image of the validation split could be read; nothing was measured.")
    return figures


def _validation(data: DataConfig, needs: Needs, mesh: jax.sharding.Mesh) -> Iterator[dict[str, jax.Array]]:
    """The validation split as global batches."""
    for batch in pipeline.make_batches(data, "val", needs=needs, **sharding.this_process(mesh)):
        yield sharding.put_batch(batch, mesh)


def _require_images(data: DataConfig, needs: Needs) -> None:
    if pipeline.num_examples(data, "val", needs) == 0:
        raise ValueError("the validation split has no images; raise config.data.val_share or set config.data.val_path.")


def whole(array: jax.Array) -> np.ndarray:
    """A global array as numpy on every process."""
    if array.is_fully_addressable:
        return np.asarray(array)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def _shown(batch: Mapping[str, jax.Array]) -> np.ndarray:
    """Which images of a batch to draw: those that are no padding; all where none is, so that there is a picture."""
    valid = whole(batch["valid"])
    return valid if valid.any() else np.ones_like(valid)


def _rows(*batches: Any) -> np.ndarray:
    """Batches of the same length as alternating rows of `columns`, at most two of each."""
    arrays = [np.asarray(batch)[: 2 * PICTURES] for batch in batches]
    width = min(PICTURES, len(arrays[0]))
    rows = [array[i : i + width] for i in range(0, len(arrays[0]), width) for array in arrays]
    return np.concatenate(rows)
