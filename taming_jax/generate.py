"""Trained models as objects: what notebooks, `sample.py` and the training hooks use."""

import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from taming_jax import checkpoint, sharding
from taming_jax.conditioning import ConditionConfig, make_condition
from taming_jax.losses import token_cross_entropy
from taming_jax.models.gpt import GPT, GPTConfig
from taming_jax.models.vqgan import VQGAN, VQGANConfig
from taming_jax.sampling.decode import sample
from taming_jax.sampling.filters import Filters
from taming_jax.settings import from_dict
from taming_jax.two_stage import TwoStage

FIRST_STAGE = "first_stage"  # where a two-stage directory keeps its own copy of the first stage


class FirstStage:
    """A trained VQGAN: images to ids and back. `model` is the Flax module, `params` its parameters."""

    def __init__(self, model: VQGAN, params: Any, mesh: jax.sharding.Mesh | None = None):
        self.model, self.mesh = model, mesh or sharding.make_mesh()
        self.params = _place(params, self.mesh)
        whole = sharding.replicated(self.mesh)  # so that every process can read all of the result
        self._encode = jax.jit(
            lambda params, x: model.apply({"params": params}, x, method="encode").ids, out_shardings=whole
        )
        self._decode = jax.jit(
            lambda params, ids: model.apply({"params": params}, ids, method="decode_ids"), out_shardings=whole
        )

    @property
    def config(self) -> VQGANConfig:
        return self.model.config

    def encode(self, images: Any) -> jax.Array:
        """float32 (b, H, W, c) in [-1, 1] -> int32 (b, h, w). Raises ValueError for another shape or range."""
        images = np.asarray(images)
        channels = self.config.in_channels
        if images.ndim != 4 or images.shape[-1] != channels:
            raise ValueError(f"images have shape {images.shape}; expected (b, H, W, {channels}).")
        if not np.issubdtype(images.dtype, np.floating) or np.abs(images).max(initial=0) > 1.5:
            raise ValueError(
                f"images are {images.dtype} with values up to {images.max():g}; expected floats in [-1, 1]: "
                "use images / 127.5 - 1 for 8-bit pictures."
            )
        self.config.grid(*images.shape[1:3])
        return _in_shares(self._encode, self.params, images.astype(np.float32), self.mesh)

    def decode(self, ids: Any) -> jax.Array:
        """int32 (b, h, w) -> float32 (b, H, W, c), about [-1, 1]. Raises ValueError for ids that are not codes."""
        ids = _check_ids(ids, self.config.n_embed)
        return _in_shares(self._decode, self.params, ids, self.mesh)

    def reconstruct(self, images: Any) -> jax.Array:
        """Encode and decode: what the codes keep of the images."""
        return self.decode(self.encode(images))


class Generator:
    """A trained two-stage model: draws images, completes them, and tells how likely they are."""

    def __init__(self, model: TwoStage, params: Any, first_stage: FirstStage):
        self.model, self.first_stage, self.mesh = model, first_stage, first_stage.mesh
        self.params = _place(params, self.mesh)
        whole = sharding.replicated(self.mesh)
        self._sample = jax.jit(sample, static_argnums=0, static_argnames=("top_k", "greedy"), out_shardings=whole)
        self._log_likelihood = jax.jit(self._sequence_log_likelihood)

    def sample_ids(
        self,
        n: int,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        given: Any = None,
        keep: Any = None,
        first: int = 0,
        **condition: Any,
    ) -> jax.Array:
        """Draw the ids of `n` images, int32 (n, h, w).

        temperature 0 is greedy; top_k and top_p each work alone or together (see `sampling.filters`).
        given, int (h, w) or (n, h, w), with keep, bool of the same shape: ids that stay, for completing an image.
        first: the number of the first image; image i of a seed is the same in whatever batch it is drawn.
        The condition goes under its name, such as `class_label=...`: one for all or one an image.
        Raises ValueError for anything that does not fit the model, before compiling.
        """
        if n < 1:
            raise ValueError(f"n={n} images were asked for; give 1 or more.")
        filters = Filters(temperature=temperature, top_k=top_k, top_p=top_p)
        batch = self.parse_condition(n, **condition)
        given, keep = self._completion(n, given, keep)
        arrays = {"number": first + np.arange(n), "given": given, "keep": keep, **batch}
        arrays = sharding.put_whole(arrays, self.mesh)
        ids = self._sample(
            self.model,
            self.params,
            self.model.condition.tokens(arrays, len(arrays["number"])),
            jax.random.key(seed),
            arrays["number"],
            jnp.float32(filters.temperature or 1.0),
            None if filters.top_p is None else jnp.float32(filters.top_p),
            arrays["given"],
            arrays["keep"],
            top_k=filters.top_k,
            greedy=filters.greedy,
        )
        return ids[:n]

    def decode(self, ids: Any) -> jax.Array:
        """int32 (b, h, w) -> float32 (b, H, W, c)."""
        return self.first_stage.decode(ids)

    def sample(self, n: int, **options: Any) -> jax.Array:
        """`sample_ids` and `decode` in one: float32 (n, H, W, c) in about [-1, 1]."""
        return self.decode(self.sample_ids(n, **options))

    def log_likelihood(self, ids: Any, **condition: Any) -> jax.Array:
        """The natural logarithm of the probability of int (b, h, w) ids under the model, float32 (b,)."""
        ids = _check_ids(ids, self.model.n_codes)
        if ids.shape[1:] != self.model.grid:
            raise ValueError(f"ids have shape {ids.shape}; expected (b, {self.model.grid[0]}, {self.model.grid[1]}).")
        batch = self.parse_condition(len(ids), **condition)
        return self._log_likelihood(self.params, self.model.condition.tokens(batch, len(ids)), ids)

    def parse_condition(self, n: int, **condition: Any) -> dict[str, np.ndarray]:
        """The user's keywords for `n` images, checked, as batch entries. Raises ValueError."""
        key = self.model.condition.key
        unknown = sorted(set(condition) - {key})
        if unknown:
            takes = f"takes {key}" if key else "is unconditional"
            raise ValueError(f"unknown argument(s) {', '.join(unknown)}; this model {takes}.")
        value = self.model.condition.parse(condition.get(key), n)
        return {} if value is None else {key: value}

    def _completion(self, n: int, given: Any, keep: Any) -> tuple[np.ndarray, np.ndarray]:
        grid = (n, *self.model.grid)
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
        given = _check_ids(np.where(keep, given, 0).reshape(-1, *grid[1:]), self.model.n_codes)
        return np.broadcast_to(given, grid), np.broadcast_to(keep, grid)

    def _sequence_log_likelihood(self, params: Any, condition: jax.Array, ids: jax.Array) -> jax.Array:
        sequence = self.model.to_sequence(ids)
        return -token_cross_entropy(self.model.logits(params, condition, sequence), sequence).sum(axis=1)


def load(
    path: str, *, step: int | str | None = None, dtype: Any = None, mesh: jax.sharding.Mesh | None = None
) -> FirstStage | Generator:
    """Open a checkpoint directory; what is in it decides: a first stage or a two-stage generator.

    step: which checkpoint, default the newest; "best" for the best by its monitored metric.
    dtype: keep the parameters in this type, such as jnp.bfloat16, in half the memory.
    mesh: where to work, default all devices.
    Raises ValueError for a missing or foreign directory.
    """
    config = checkpoint.load_config(path, step)
    if config.get("kind") == "vqgan":
        vqgan = VQGAN(from_dict(VQGANConfig, config["model"], "config.model"))
        return FirstStage(vqgan, checkpoint.load_params(path, step, dtype), mesh)
    if config.get("kind") != "two_stage":
        raise ValueError(f"{path!r} holds a checkpoint of kind {config.get('kind')!r}; known: vqgan, two_stage.")
    first_stage = load_first_stage(os.path.join(path, FIRST_STAGE), dtype=dtype, mesh=mesh)
    model = two_stage(config, first_stage.model)
    return Generator(model, checkpoint.load_params(path, step, dtype), first_stage)


def load_first_stage(path: str, **options: Any) -> FirstStage:
    """`load` where only a first stage will do. Raises ValueError for anything else."""
    loaded = load(path, **options)
    if not isinstance(loaded, FirstStage):
        raise ValueError(f"{path!r} holds a two-stage model; name the working directory of a first stage.")
    return loaded


def first_stage_model(source: str, workdir: str) -> VQGAN:
    """The network that `keep_first_stage` will load, from its configuration. Raises ValueError where it cannot."""
    if checkpoint.has_checkpoint(workdir):
        if checkpoint.load_config(workdir)["kind"] != "two_stage":
            raise ValueError(f"{workdir!r} holds a first stage; choose another --workdir for the second.")
        source = os.path.join(workdir, FIRST_STAGE)
    config = checkpoint.load_config(source)
    if config.get("kind") != "vqgan":
        raise ValueError(f"{source!r} holds no first stage; name the working directory of one as config.first_stage.")
    return VQGAN(from_dict(VQGANConfig, config["model"], "config.model"))


def keep_first_stage(source: str, workdir: str, mesh: jax.sharding.Mesh) -> FirstStage:
    """The first stage for a training in `workdir`, which keeps a copy of it, so that the directory stands alone.

    A training that goes on uses its own copy, whatever has become of `source`.
    """
    own = os.path.join(workdir, FIRST_STAGE)
    if not checkpoint.has_checkpoint(workdir):
        found = load_first_stage(source, mesh=mesh)
        checkpoint.save_model(own, params=found.params, config=checkpoint.load_config(source))
    return load_first_stage(own, mesh=mesh)


def two_stage(config: Mapping[str, Any], first_stage: VQGAN) -> TwoStage:
    """The two-stage model that a saved or composed configuration names, around its first stage."""
    return TwoStage(
        first_stage=first_stage,
        gpt=GPT(from_dict(GPTConfig, config["transformer"], "config.transformer")),
        condition=make_condition(from_dict(ConditionConfig, config["condition"], "config.condition")),
        grid=first_stage.config.grid(config["data"]["size"], config["data"]["size"]),
        order=config["order"],
        pkeep=float(config["pkeep"]),
    )


def _check_ids(ids: Any, n_codes: int) -> np.ndarray:
    ids = np.asarray(ids)
    if ids.ndim != 3 or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"ids have shape {ids.shape} and type {ids.dtype}; expected integers (b, h, w).")
    if ids.size and (ids.min() < 0 or ids.max() >= n_codes):
        raise ValueError(f"ids reach from {ids.min()} to {ids.max()}; this first stage has codes 0..{n_codes - 1}.")
    return ids.astype(np.int32)


def _place(params: Any, mesh: jax.sharding.Mesh) -> Any:
    return jax.device_put(params, sharding.state_shardings(params, mesh))


def _in_shares(function: Any, params: Any, array: np.ndarray, mesh: jax.sharding.Mesh) -> jax.Array:
    """Run over the batch, split over the devices."""
    return function(params, sharding.put_whole({"x": array}, mesh)["x"])[: len(array)]
