"""Trained models as objects: what notebooks, `sample.py` and the training hooks use."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from taming_jax import sharding
from taming_jax.models.gpt import token_cross_entropy, with_layers_apart
from taming_jax.nn import orders
from taming_jax.sampling.decode import Job, sample
from taming_jax.sampling.filters import Filters, check_guidance
from taming_jax.sampling.wavefront import Schedule, wavefront_steps
from taming_jax.sampling.window import cache_bytes, check_condition, check_window, go_on, schedule_for, start_walk
from taming_jax.trained import tiles
from taming_jax.trained.first_stage import FirstStage, check_ids
from taming_jax.two_stage import TwoStage

CACHE_BYTES = 6 << 30  # what a device may give to the keys and values of sliding windows
PARTS = 100  # in which a walk is run where its progress is shown


class Generator:
    """A trained two-stage model: draws images, completes them, and tells how likely they are.

    params: the transformer's, with its layers apart. first_stage, and condition_stage where the condition is a map
    (both may be the same), are its parts.
    """

    def __init__(
        self, model: TwoStage, params: Any, first_stage: FirstStage, condition_stage: FirstStage | None = None
    ):
        model = dataclasses.replace(model, gpt=with_layers_apart(model.gpt))
        self.model, self.first_stage, self.mesh = model, first_stage, first_stage.mesh
        self.condition_stage = condition_stage
        self.params = sharding.place(params, self.mesh)
        whole = sharding.replicated(self.mesh)
        self._sample = jax.jit(sample, static_argnums=0, out_shardings=whole)
        walk = sharding.batch_sharding(self.mesh), sharding.batch_sharding(self.mesh, axis=1)
        self._start_walk = jax.jit(start_walk, static_argnums=0, out_shardings=walk)
        self._go_on = jax.jit(go_on, static_argnums=0, donate_argnums=4, out_shardings=walk)
        self._whole = jax.jit(lambda ids: ids, out_shardings=whole)
        self._tokens = jax.jit(lambda stages, batch: model.condition_tokens(stages, batch, len(batch["number"])))
        self._log_likelihood = jax.jit(self._sequence_log_likelihood)

    @property
    def stages(self) -> dict[str, Any]:
        """The parameters that make tokens, as the functions of `model` take them."""
        stages = {"first_stage": self.first_stage.params}
        if self.condition_stage not in (None, self.first_stage):
            stages["condition_stage"] = self.condition_stage.params
        return stages

    def sample_ids(
        self,
        n: int,
        *,
        size: int | tuple[int, int] | None = None,
        seed: int = 0,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        guidance: float = 1.0,
        guidance_schedule: str = "constant",
        stride: int = 1,
        given: Any = None,
        keep: Any = None,
        first: int = 0,
        progress: Callable[[int], None] | None = None,
        **condition: Any,
    ) -> jax.Array:
        """Draw the ids of `n` images, int32 (n, h, w).

        size: height and width in pixels, default that of the condition's map, of `given`, or else of the training
        images; anything else than the training size is drawn by a sliding window.
        temperature 0 is greedy; top_k and top_p each work alone or together (see `sampling.filters`).
        guidance: above 1 the condition is obeyed more and images vary less; for models trained with condition dropout.
        guidance_schedule: "constant", or from 1 up to it along the drawing, "linear" or "cosine".
        stride: a sliding window moves by so many rows and columns at a time; above 1 faster, but an approximation.
        given, int (h, w) or (n, h, w), with keep, bool of the same shape: ids that stay, for completing an image.
        first: the number of the first image; image i of a seed is the same in whatever batch it is drawn.
        progress: called with the number of steps done since the last call, of `steps(size)` in all.
        The condition goes under its name, such as `class_label=...` or `segmentation=...`: one for all or one an image.
        Raises ValueError for anything that does not fit the model, before compiling.
        """
        if n < 1:
            raise ValueError(f"n={n} images were asked for; give 1 or more.")
        filters = Filters(temperature, top_k, top_p, guidance, guidance_schedule)
        pixels = self._pixels(size, given, condition)
        batch = self.parse_condition(n, pixels, **condition)
        return self._draw(n, batch, pixels, seed, filters, given, keep, first, stride, progress)

    def sample_ids_like(
        self,
        batch: Mapping[str, np.ndarray],
        *,
        n: int | None = None,
        pixels: tuple[int, int] | None = None,
        seed: int = 0,
        given: Any = None,
        keep: Any = None,
        first: int = 0,
        stride: int = 1,
        progress: Callable[[int], None] | None = None,
        **filters: Any,
    ) -> jax.Array:
        """As `sample_ids`, under conditions that are entries of a batch already: those that `parse_condition` or the
        data pipeline makes. n, pixels: how many and how large, default as the batch's images."""
        n, pixels = n or len(batch["image"]), pixels or batch["image"].shape[1:3]
        return self._draw(n, batch, pixels, seed, Filters(**filters), given, keep, first, stride, progress)

    def check(
        self,
        batch: Mapping[str, np.ndarray],
        *,
        n: int | None = None,
        pixels: tuple[int, int] | None = None,
        given: Any = None,
        keep: Any = None,
        stride: int = 1,
        **filters: Any,
    ) -> None:
        """Raises ValueError where `sample_ids_like` would with the same arguments; draws and compiles nothing."""
        n, pixels = n or len(batch["image"]), pixels or batch["image"].shape[1:3]
        self._check(n, batch, pixels, Filters(**filters), given, keep, stride)

    def steps(self, pixels: tuple[int, int]) -> int:
        """Steps in which images of a height and width in pixels are drawn, however many: tokens of the training size,
        elsewhere those of the sliding window's wavefront."""
        grid = self.first_stage.config.grid(*pixels)
        return self.model.length if grid == self.model.grid else wavefront_steps(grid, self.model.grid)

    @property
    def training_pixels(self) -> tuple[int, int]:
        """Height and width of the images it was trained on."""
        factor = self.first_stage.config.factor
        return self.model.grid[0] * factor, self.model.grid[1] * factor

    def drawing_steps(self, pixels: tuple[int, int]) -> np.ndarray:
        """The step, int (h, w), in which each code of an image is drawn."""
        grid = self.first_stage.config.grid(*pixels)
        if grid == self.model.grid:
            return orders.inverse(self.model.sequence_order()).reshape(grid)
        rows, columns = np.indices(grid)
        return rows * min(self.model.grid[1], grid[1]) + columns

    def _draw(self, n, batch, pixels, seed, filters, given, keep, first, stride, progress) -> jax.Array:
        given, keep = self._check(n, batch, pixels, filters, given, keep, stride)
        grid = given.shape[1:]
        sliding = grid != self.model.grid
        order = np.arange(grid[0] * grid[1]) if sliding else self.model.sequence_order()
        arrays = {"number": first + np.arange(n), "given": given, "keep": keep, **batch}
        arrays = sharding.put_whole(arrays, self.mesh)
        job = Job(
            condition=self._tokens(self.stages, {name: arrays[name] for name in ("number", *batch)}),
            given=arrays["given"],
            keep=arrays["keep"],
            key=jax.random.key(seed),
            numbers=arrays["number"],
            temperature=jnp.float32(filters.temperature or 1.0),
            top_p=None if filters.top_p is None else jnp.float32(filters.top_p),
            guidance=filters.guidance_scales(order),
            top_k=filters.top_k,
            greedy=filters.greedy,
        )
        if sliding:
            ids = self._slide(job, self._schedule(job, np.all(keep, axis=0), stride), progress)
        else:
            ids = self._sample(self.model, self.params, job)
            if progress:
                ids.block_until_ready()
                progress(self.model.length)
        return ids[:n]

    def _check(self, n, batch, pixels, filters, given, keep, stride) -> tuple[np.ndarray, np.ndarray]:
        """`given` and `keep` of each image, (n, h, w). Raises ValueError for what cannot be drawn."""
        check_guidance(filters.guidance, self.model.condition_dropout)
        grid = self.first_stage.config.grid(*pixels)
        given, keep = self._completion((n, *grid), given, keep)
        if grid != self.model.grid:
            check_window(self.model, grid, stride)
            self._check_reading(n, pixels)
            tokens = jax.eval_shape(self._tokens, self.stages, {"number": np.arange(n), **batch})
            check_condition(self.model, tokens.shape, given.shape)
        return given, keep

    def _check_reading(self, n: int, pixels: tuple[int, int]) -> None:
        """Refuse condition maps that would not fit into memory while they are read."""
        if self.condition_stage:
            config, images = self.condition_stage.config, -(-n // sharding.batch_shares(self.mesh))
            tiles.check_reading(config, config.grid(*pixels), images, tiles.free_bytes(self.mesh.devices.flat[0]))

    def _slide(self, job: Job, schedule: Schedule, progress: Callable[[int], None] | None) -> jax.Array:
        """The walk of a sliding window; in PARTS parts where somebody watches."""
        schedule = jax.device_put(schedule, sharding.replicated(self.mesh))
        walk = self._start_walk(self.model, job, schedule)
        bounds = np.linspace(0, schedule.steps, PARTS + 1).astype(int) if progress else np.array([0, schedule.steps])
        for here, end in itertools.pairwise(np.unique(bounds)):
            walk = self._go_on(self.model, self.params, job, schedule, walk, here, end)
            if progress:
                walk[0].block_until_ready()
                progress(int(end - here))
        return self._whole(walk[0])

    def _schedule(self, job: Job, keep: np.ndarray, stride: int) -> Schedule:
        """How the window slides: keeping what columns of windows have read, where memory allows."""
        shapes = job.condition.shape, job.given.shape
        schedule = schedule_for(self.model, *shapes, keep=keep, stride=stride)
        images = -(-len(job.given) // sharding.batch_shares(self.mesh)) * (1 if job.guidance is None else 2)
        if cache_bytes(self.model.gpt.config, schedule, images) > CACHE_BYTES:
            schedule = schedule_for(self.model, *shapes, keep=keep, stride=stride, keep_columns=False)
        return schedule

    def decode(self, ids: Any) -> jax.Array:
        """int32 (b, h, w) -> float32 (b, H, W, c)."""
        return self.first_stage.decode(ids)

    def sample(self, n: int, **options: Any) -> jax.Array:
        """`sample_ids` and `decode` in one: float32 (n, H, W, c) in about [-1, 1]."""
        return self.decode(self.sample_ids(n, **options))

    def log_likelihood(self, ids: Any, **condition: Any) -> jax.Array:
        """The natural logarithm of the probability of int (b, h, w) ids under the model, float32 (b,)."""
        ids = check_ids(ids, self.model.n_codes)
        if ids.shape[1:] != self.model.grid:
            raise ValueError(f"ids have shape {ids.shape}; expected (b, {self.model.grid[0]}, {self.model.grid[1]}).")
        batch = self.parse_condition(len(ids), self._pixels(None, ids, condition), **condition)
        tokens = self._tokens(self.stages, {"number": np.arange(len(ids)), **batch})
        return self._log_likelihood(self.params, tokens, ids)

    def parse_condition(self, n: int, pixels: tuple[int, int] | None = None, **condition: Any) -> dict[str, np.ndarray]:
        """The user's keywords for `n` images, checked, as batch entries. Raises ValueError."""
        keys = self.model.condition.keys
        unknown = sorted(set(condition) - set(keys))
        if unknown:
            takes = f"takes {' or '.join(keys)}" if keys else "is unconditional"
            raise ValueError(f"unknown argument(s) {', '.join(unknown)}; this model {takes}.")
        return self.model.condition.parse(condition, n, pixels or self._pixels(None, None, condition))

    def _pixels(self, size: Any, given: Any, condition: Mapping[str, Any]) -> tuple[int, int]:
        """Height and width of the images to draw."""
        if size is not None:
            sides = (size, size) if np.ndim(size) == 0 else tuple(size)
            if len(sides) != 2 or not all(isinstance(side, (int, np.integer)) for side in sides):
                raise ValueError(
                    f"size={size!r}; expected height and width in pixels, such as (256, 512), or one whole number."
                )
            return int(sides[0]), int(sides[1])
        from_condition = self.model.condition.pixels(condition)
        if from_condition:
            return from_condition
        h, w = self.model.grid if given is None or np.ndim(given) < 2 else np.shape(given)[-2:]
        return h * self.first_stage.config.factor, w * self.first_stage.config.factor

    def _completion(self, grid: tuple[int, int, int], given: Any, keep: Any) -> tuple[np.ndarray, np.ndarray]:
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
        given = check_ids(np.where(keep, given, 0).reshape(-1, *grid[1:]), self.model.n_codes)
        return np.broadcast_to(given, grid), np.broadcast_to(keep, grid)

    def _sequence_log_likelihood(self, params: Any, condition: jax.Array, ids: jax.Array) -> jax.Array:
        sequence = self.model.to_sequence(ids)
        return -token_cross_entropy(self.model.logits(params, condition, sequence), sequence).sum(axis=1)
