"""A transformer alone as an object: what comes next in sequences of ids."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from taming_jax import sharding
from taming_jax.models.gpt import GPT
from taming_jax.sampling.decode import Job, draw_sequence, token_chooser
from taming_jax.sampling.filters import Filters


class TokenModel:
    """A trained transformer alone: what comes next in sequences of ids."""

    def __init__(self, model: GPT, params: Any, mesh: jax.sharding.Mesh | None = None) -> None:
        self.model, self.mesh = model, mesh or sharding.make_mesh()
        self.params = sharding.place(params, self.mesh)
        whole = sharding.replicated(self.mesh)
        self._logits = jax.jit(lambda params, batch: model.apply({"params": params}, batch["ids"]), out_shardings=whole)
        self._extend = jax.jit(self._draw, out_shardings=whole)

    def logits(self, ids: Any) -> Float[Array, "b l n"]:
        """int32 (b, l) -> float32 (b, l, n): the prediction of what follows each."""
        return sharding.in_shares(self._logits, self.params, {"ids": self._check(ids, 0)}, self.mesh)

    def extend(
        self,
        ids: Any,
        n: int,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> Int[Array, "b l"]:
        """Draw the `n` ids that follow int32 (b, l) -> int32 (b, n); filters as in `Generator.sample_ids`."""
        filters = Filters(temperature=temperature, top_k=top_k, top_p=top_p)
        ids = self._check(ids, n - 1)
        nothing = np.zeros((len(ids), n), np.int32)
        arrays = {"condition": ids, "given": nothing, "keep": nothing > 0, "numbers": np.arange(len(ids))}
        job = Job(
            **sharding.put_whole(arrays, self.mesh),
            key=jax.random.key(seed),
            filters=filters.traced(np.arange(n)),
        )
        with jax.set_mesh(self.mesh):
            return self._extend(self.params, job)[: len(ids)]

    def _draw(self, params: Any, job: Job) -> Int[Array, "b l"]:
        choose, places = token_chooser(job, self.model.config.vocab_size), jnp.arange(job.given.shape[1])
        return draw_sequence(self.model, params, job.condition, places, job.given, job.keep, choose)

    def _check(self, ids: Any, further: int) -> Int[np.ndarray, "b l"]:
        ids, config = np.asarray(ids), self.model.config
        if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer) or ids.shape[1] < 1 or further < 0:
            raise ValueError(
                f"ids have shape {ids.shape} and type {ids.dtype}; expected integers (b, l), l and n from 1."
            )
        if ids.size and (ids.min() < 0 or ids.max() >= config.vocab_size):
            raise ValueError(
                f"ids reach from {ids.min()} to {ids.max()}; this transformer knows 0..{config.vocab_size - 1}."
            )
        if ids.shape[1] + further > config.block_size:
            raise ValueError(f"{ids.shape[1] + further} tokens do not fit transformer.block_size={config.block_size}.")
        return ids.astype(np.int32)
