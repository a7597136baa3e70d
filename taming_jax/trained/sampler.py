"""Drawing from a two-stage model: one request, checked, as a compiled program takes it. Parameters are arguments."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from taming_jax import sharding
from taming_jax.models.gpt import with_layers_apart
from taming_jax.nn.devices import on_tpu
from taming_jax.priors.base import Job, check_filters, traced_for
from taming_jax.priors.filters import Filters, check_guidance
from taming_jax.priors.wavefront import Schedule, wavefront_steps
from taming_jax.priors.window import cache_bytes, check_condition, check_window, go_on, schedule_for, start_walk
from taming_jax.trained import tiles
from taming_jax.trained.first_stage import check_ids
from taming_jax.trained.networks import Stages

CACHE_BYTES = 6 << 30  # what a device may give to the keys and values of sliding windows
PARTS = 100  # in which a walk is run where its progress is shown


@dataclasses.dataclass(frozen=True)
class Request:
    """Images to draw together.

    batch: their conditions as entries of a batch, those that `Generator.parse_condition` or the data pipeline makes.
    n: how many; pixels: height and width of each.
    given, int (h, w) or (n, h, w), with keep, bool of the same shape: ids that stay, for completing an image.
    first: the number of the first image; image i of a seed is the same in whatever batch it is drawn.
    stride: rows and columns that a sliding window moves at a time.
    """

    batch: Mapping[str, np.ndarray]
    n: int
    pixels: tuple[int, int]
    filters: Filters = Filters()
    given: Any = None
    keep: Any = None
    seed: int = 0
    first: int = 0
    stride: int = 1


class Sampler:
    """Draws from a two-stage model with whatever parameters of its transformer, layers apart; compiled once for each
    shape of a request, not for its parameters, condition, seed, temperature or top_p."""

    def __init__(self, stages: Stages) -> None:
        self.stages, self.mesh = stages, stages.mesh
        self.model = dataclasses.replace(stages.model, gpt=with_layers_apart(stages.model.gpt))
        model, whole = self.model, sharding.replicated(self.mesh)
        self._sample = jax.jit(model.prior.sample, out_shardings=whole)
        walk = sharding.batch_sharding(self.mesh), sharding.batch_sharding(self.mesh, axis=1)
        self._start_walk = jax.jit(start_walk, static_argnums=0, out_shardings=walk)
        self._go_on = jax.jit(go_on, static_argnums=0, donate_argnums=4, out_shardings=walk)
        self._whole = jax.jit(lambda ids: ids, out_shardings=whole)
        self._tokens = jax.jit(lambda stages, batch: model.condition_tokens(stages, batch, len(batch["number"])))
        self._log_likelihood = jax.jit(
            lambda params, stages, batch: model.prior.log_likelihood(
                params, model.condition_tokens(stages, batch, len(batch["ids"])), batch["ids"]
            )
        )

    @property
    def training_pixels(self) -> tuple[int, int]:
        """Height and width of the images it was trained on."""
        factor = self.model.first_stage.config.factor
        return self.model.grid[0] * factor, self.model.grid[1] * factor

    def steps(self, pixels: tuple[int, int], filters: Filters | None = None) -> int:
        """Steps in which images of a height and width in pixels are drawn, however many: at the training size as many
        as the prior takes, elsewhere those of the sliding window's wavefront."""
        grid = self._grid(pixels)
        if grid == self.model.grid:
            return self.model.prior.steps(filters or Filters())
        return wavefront_steps(grid, self.model.grid)

    def drawing_steps(self, pixels: tuple[int, int]) -> Int[np.ndarray, "h w"]:
        """The step, int (h, w), in which each code of an image is drawn."""
        grid = self._grid(pixels)
        if grid == self.model.grid:
            return self.model.tokens.steps
        rows, columns = np.indices(grid)
        return rows * min(self.model.grid[1], grid[1]) + columns

    def check(self, request: Request) -> Request:
        """The request with `given` and `keep` of each image, (n, h, w). Raises ValueError for what cannot be drawn;
        draws and compiles nothing."""
        check_guidance(request.filters.guidance, self.model.condition_dropout)
        classes = request.batch.get("class_label", ()) if self.model.condition.by_class else ()
        if self.model.hidden_token in classes and not self.model.condition_dropout:
            raise ValueError(
                "a picture of any class was asked for, but without config.condition_dropout in training a model does "
                "not know what images look like without a class; name classes."
            )
        n, grid = request.n, self._grid(request.pixels)
        given, keep = _completion((n, *grid), request.given, request.keep, self.model.n_codes)
        check_filters(self.model.prior, self.model.kind, request.filters)
        if grid != self.model.grid:
            if not self.model.prior.any_size:
                height, width = self.training_pixels
                raise ValueError(
                    f"{request.pixels[0]} x {request.pixels[1]} pixels were asked for, but config.prior="
                    f"{self.model.kind!r} draws those of its training, {height} x {width}; ask for these."
                )
            check_window(self.model.prior, grid, request.stride)
            self._check_reading(request)
            tokens = jax.eval_shape(self._tokens, self.stages.params, {"number": np.arange(n), **request.batch})
            check_condition(self.model.prior, tokens.shape, given.shape)
        return dataclasses.replace(request, given=given, keep=keep)

    def draw(
        self,
        params: Any,
        request: Request,
        progress: Callable[[int], Any] | None = None,
        watch: Callable[[np.ndarray], Any] | None = None,
    ) -> Int[Array, "n h w"]:
        """The ids, int32 (n, h, w). progress: called with the number of steps done since the last call, of
        `steps(pixels)` in all. watch: called with the ids so far, (n, h, w), after each such call but where they are of
        the training's size; `drawing_steps` says which are drawn. Raises ValueError as `check`."""
        request = self.check(request)
        with jax.set_mesh(self.mesh):  # each device draws its own images, see `sharding.split_by_image`
            seen = watch and (lambda ids: watch(ids[: request.n]))
            return self._draw(params, request, progress, seen)[: request.n]

    def _draw(
        self,
        params: Any,
        request: Request,
        progress: Callable[[int], Any] | None,
        watch: Callable[[np.ndarray], Any] | None,
    ) -> Int[Array, "m h w"]:
        """The ids of a request that is checked, and of what fills up the devices."""
        grid = request.given.shape[1:]
        sliding, prior = grid != self.model.grid, self.model.prior
        numbers = request.first + np.arange(request.n)
        arrays = {"number": numbers, "given": request.given, "keep": request.keep, **request.batch}
        arrays = sharding.put_whole(arrays, self.mesh, 1 if sliding else rows_at_once())
        job = Job(
            condition=self._tokens(self.stages.params, {name: arrays[name] for name in ("number", *request.batch)}),
            given=arrays["given"],
            keep=arrays["keep"],
            key=jax.random.key(request.seed),
            numbers=arrays["number"],
            filters=traced_for(prior, request.filters, grid),
        )
        if sliding:
            schedule = self._schedule(job, np.all(request.keep, axis=0), request.stride)
            return self._slide(params, job, schedule, progress, watch)
        ids = self._sample(params, job)
        if progress:
            ids.block_until_ready()
            progress(prior.steps(request.filters))
        return ids

    def log_likelihood(
        self, params: Any, ids: Int[np.ndarray, "b h w"], batch: Mapping[str, np.ndarray]
    ) -> Float[Array, " b"]:
        """The natural logarithm of the probability of int32 (b, h, w) ids under the conditions of a batch, float32
        (b,). Raises ValueError for a prior that has no likelihood."""
        if not self.model.prior.likelihood:
            raise ValueError(f"config.prior={self.model.kind!r} has no likelihood; it draws, and tells no probability.")
        batch = {"number": np.arange(len(ids)), "ids": ids, **batch}
        function = lambda params, batch: self._log_likelihood(params, self.stages.params, batch)
        return sharding.in_shares(function, params, batch, self.mesh)

    def _grid(self, pixels: tuple[int, int]) -> tuple[int, int]:
        return self.model.first_stage.config.grid(*pixels)

    def _check_reading(self, request: Request) -> None:
        """Refuse condition maps that would not fit into memory while they are read."""
        stage, images = self.stages.condition_stage, -(-request.n // sharding.batch_shares(self.mesh))
        if stage is not None:
            free = tiles.free_bytes(self.mesh.devices.flat[0])
            tiles.check_reading(stage.config, stage.config.grid(*request.pixels), images, free)

    def _schedule(self, job: Job, keep: np.ndarray, stride: int) -> Schedule:
        """How the window slides: keeping what columns of windows have read, where memory allows."""
        shapes = job.condition.shape, job.given.shape
        schedule = schedule_for(self.model.prior, *shapes, keep=keep, stride=stride)
        images = -(-len(job.given) // sharding.batch_shares(self.mesh)) * (1 if job.filters.guidance is None else 2)
        if cache_bytes(self.model.gpt.config, schedule, images) > CACHE_BYTES:
            schedule = schedule_for(self.model.prior, *shapes, keep=keep, stride=stride, keep_columns=False)
        return schedule

    def _slide(
        self,
        params: Any,
        job: Job,
        schedule: Schedule,
        progress: Callable[[int], Any] | None,
        watch: Callable[[np.ndarray], Any] | None,
    ) -> Int[Array, "n h w"]:
        """The walk of a sliding window; in PARTS parts where somebody watches."""
        schedule = jax.device_put(schedule, sharding.replicated(self.mesh))
        walk = self._start_walk(self.model.prior, job, schedule)
        parts = PARTS if progress or watch else 1
        bounds = np.linspace(0, schedule.steps, parts + 1).astype(int)
        for here, end in itertools.pairwise(np.unique(bounds)):
            walk = self._go_on(self.model.prior, params, job, schedule, walk, here, end)
            if progress:
                walk[0].block_until_ready()
                progress(int(end - here))
            if watch:
                watch(np.array(self._whole(walk[0])))  # a copy: the walk is given away to the next part
        return self._whole(walk[0])


def rows_at_once() -> int:
    """Images that a device draws at least: fewer rows are no faster on a TPU, whose tiles have eight."""
    return sharding.TPU_TILE if on_tpu() else 1


def _completion(grid: tuple[int, int, int], given: Any, keep: Any, n_codes: int) -> tuple[np.ndarray, np.ndarray]:
    """`given` and `keep` of each image, (n, h, w). Raises ValueError where they do not fit."""
    if (given is None) != (keep is None):
        raise ValueError("given and keep go together: the ids, and where they stay; one of them is missing.")
    if given is None:
        return np.zeros(grid, np.int32), np.zeros(grid, bool)
    given, keep = np.asarray(given), np.asarray(keep)
    for name, array in (("given", given), ("keep", keep)):
        if array.shape not in (grid, grid[1:]):
            raise ValueError(f"{name} has shape {array.shape}; expected {grid[1:]} or {grid}.")
    if keep.dtype != bool:
        raise ValueError(f"keep is {keep.dtype}; expected bool, True where the given ids stay.")
    given = check_ids(np.where(keep, given, 0).reshape(-1, *grid[1:]), n_codes)
    return np.broadcast_to(given, grid), np.broadcast_to(keep, grid)
