"""A two-stage model as an object: what notebooks and `sample.py` use."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int

from taming_jax import sharding
from taming_jax.checkpoint import CONDITION_STAGE, FIRST_STAGE, Saved
from taming_jax.priors.filters import Filters
from taming_jax.trained.described import described
from taming_jax.trained.first_stage import FirstStage, check_ids
from taming_jax.trained.networks import Stages
from taming_jax.trained.pretrained import save_pretrained
from taming_jax.trained.sampler import Request, Sampler
from taming_jax.two_stage import TwoStage


class Generator:
    """A trained two-stage model: draws images, completes them, and tells how likely they are.

    params: the transformer's, with its layers apart. first_stage, and condition_stage where the condition is a map
    (both may be the same), are its parts. `sampler` does the work, with parameters as arguments.
    saved: the checkpoint that it was loaded from.
    """

    saved: Saved | None = None

    def __init__(
        self, model: TwoStage, params: Any, first_stage: FirstStage, condition_stage: FirstStage | None = None
    ):
        self.first_stage, self.condition_stage = first_stage, condition_stage
        self.sampler = Sampler(Stages(model, first_stage, condition_stage))
        self.model, self.mesh = self.sampler.model, self.sampler.mesh
        self.params = sharding.place(params, self.mesh)

    def __repr__(self) -> str:
        model, factor = self.model, self.first_stage.config.factor
        height, width = (side * factor for side in model.grid)
        condition = " and ".join(model.condition.keys) or "no condition"
        return described(self, [f"{height} x {width} pixels", condition, f"{model.n_codes} codes"])

    @property
    def stages(self) -> dict[str, Any]:
        """The parameters that make tokens, as the functions of `model` take them."""
        return self.sampler.stages.params

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
        guidance_power: float = 1.0,
        guidance_interval: tuple[int, ...] = (),
        steps: int | None = None,
        choice_temperature: float | None = None,
        stride: int = 1,
        given: Any = None,
        keep: Any = None,
        first: int = 0,
        progress: Callable[[int], Any] | None = None,
        **condition: Any,
    ) -> Int[Array, "n h w"]:
        """Draw the ids of `n` images, int32 (n, h, w).

        size: height and width in pixels, default that of the condition's map, of `given`, or else of the training
        images; anything else than the training size is drawn by a sliding window.
        temperature 0 is greedy; top_k and top_p each work alone or together (see `priors.filters`).
        guidance: above 1 the condition is obeyed more and images vary less; for models trained with condition dropout.
        guidance_schedule: "constant", or from 1 up to it along the drawing, "linear", "cosine" or "power-cosine", the
        last with guidance_power. guidance_interval: (first, end) of the tokens that are guided, in the order of
        drawing; see `priors.filters`.
        steps, choice_temperature: of priors that draw many tokens at once, see `priors.filters`.
        stride: rows and columns that a sliding window moves at a time; above 1 faster, but an approximation.
        given, int (h, w) or (n, h, w), with keep, bool of the same shape: ids that stay, for completing an image.
        first: the number of the first image; image i of a seed is the same in whatever batch it is drawn.
        progress: called with the number of steps done since the last call, of `steps(size)` in all.
        The condition goes under its name, such as `class_label=...` or `segmentation=...`: one for all or one an image.
        Raises ValueError for anything that does not fit the model, before compiling.
        """
        if n < 1:
            raise ValueError(f"n={n} images were asked for; give 1 or more.")
        filters = Filters(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            guidance=guidance,
            guidance_schedule=guidance_schedule,
            guidance_power=guidance_power,
            guidance_interval=tuple(guidance_interval),
            steps=steps,
            choice_temperature=choice_temperature,
        )
        pixels = self._pixels(size, given, condition)
        batch = self.parse_condition(n, pixels, **condition)
        return self.draw(Request(batch, n, pixels, filters, given, keep, seed, first, stride), progress)

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
        progress: Callable[[int], Any] | None = None,
        **filters: Any,
    ) -> Int[Array, "n h w"]:
        """As `sample_ids`, under conditions that are entries of a batch already: those that `parse_condition` or the
        data pipeline makes. n, pixels: how many and how large, default as the batch's images."""
        n, pixels = n or len(batch["image"]), pixels or batch["image"].shape[1:3]
        return self.draw(Request(batch, n, pixels, Filters(**filters), given, keep, seed, first, stride), progress)

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
        self.sampler.check(Request(batch, n, pixels, Filters(**filters), given, keep, stride=stride))

    def draw(self, request: Request, progress: Callable[[int], Any] | None = None) -> Int[Array, "n h w"]:
        """The ids of a request, int32 (n, h, w); what the other methods of drawing come to."""
        return self.sampler.draw(self.params, request, progress)

    def steps(self, pixels: tuple[int, int], filters: Filters | None = None) -> int:
        """Steps in which images of a height and width in pixels are drawn, however many: at the training size as many
        as the prior takes, elsewhere those of the sliding window's wavefront."""
        return self.sampler.steps(pixels, filters)

    @property
    def training_pixels(self) -> tuple[int, int]:
        """Height and width of the images it was trained on."""
        return self.sampler.training_pixels

    def drawing_steps(self, pixels: tuple[int, int]) -> Int[np.ndarray, "h w"]:
        """The step, int (h, w), in which each code of an image is drawn."""
        return self.sampler.drawing_steps(pixels)

    def decode(self, ids: Any) -> Float[Array, "b H W c"]:
        """int32 (b, h, w) -> float32 (b, H, W, c)."""
        return self.first_stage.decode(ids)

    def sample(self, n: int, **options: Any) -> Float[Array, "n H W c"]:
        """`sample_ids` and `decode` in one: float32 (n, H, W, c) in about [-1, 1]."""
        return self.decode(self.sample_ids(n, **options))

    def log_likelihood(self, ids: Any, **condition: Any) -> Float[Array, " b"]:
        """The natural logarithm of the probability of int (b, h, w) ids under the model, float32 (b,)."""
        ids = check_ids(ids, self.model.n_codes)
        if ids.shape[1:] != self.model.grid:
            raise ValueError(f"ids have shape {ids.shape}; expected (b, {self.model.grid[0]}, {self.model.grid[1]}).")
        batch = self.parse_condition(len(ids), self.training_pixels, **condition)
        return self.sampler.log_likelihood(self.params, ids, batch)

    def parse_condition(self, n: int, pixels: tuple[int, int] | None = None, **condition: Any) -> dict[str, np.ndarray]:
        """The user's keywords for `n` images, checked, as batch entries. Raises ValueError."""
        keys = self.model.condition.keys
        unknown = sorted(set(condition) - set(keys))
        if unknown:
            takes = f"takes {' or '.join(keys)}" if keys else "is unconditional"
            raise ValueError(f"unknown argument(s) {', '.join(unknown)}; this model {takes}.")
        return self.model.condition.parse(condition, n, pixels or self._pixels(None, None, condition))

    def save_pretrained(self, folder: str | Path, **card: Any) -> None:
        """Write the model as hubs keep it: config.json, model.safetensors for each network and a model card,
        README.md; `taming_jax.load` opens it. card: licence, data, metrics, words, see `pretrained.save_pretrained`.
        Raises ValueError where the folder holds something already, or the model was not loaded."""
        parts = {"": (self.params, self.saved), FIRST_STAGE: (self.first_stage.params, self.first_stage.saved)}
        if self.condition_stage not in (None, self.first_stage):
            parts[CONDITION_STAGE] = (self.condition_stage.params, self.condition_stage.saved)
        save_pretrained(folder, parts, **card)

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
