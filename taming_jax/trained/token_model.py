"""A transformer alone as an object: what comes next in sequences of ids."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from taming_jax import sharding
from taming_jax.checkpoint import Saved
from taming_jax.models.gpt import GPT, head_of
from taming_jax.priors.base import Job
from taming_jax.priors.decode import draw_sequence, token_chooser
from taming_jax.priors.filters import Filters
from taming_jax.trained.described import described
from taming_jax.trained.pretrained import save_pretrained


class TokenModel:
    """A trained transformer alone: what comes next in sequences of ids. saved: what it was loaded from."""

    saved: Saved | None = None

    def __init__(self, model: GPT, params: Any, mesh: jax.sharding.Mesh | None = None) -> None:
        self.model, self.mesh = model, mesh or sharding.make_mesh()
        self.params = sharding.place(params, self.mesh)
        whole = sharding.replicated(self.mesh)
        self._logits = jax.jit(lambda params, batch: model.apply({"params": params}, batch["ids"]), out_shardings=whole)
        self._extend = jax.jit(self._draw, out_shardings=whole)

    def __repr__(self) -> str:
        config = self.model.config
        return described(self, [f"{config.vocab_size} ids", f"sequences of up to {config.block_size}"])

    def logits(self, ids: Any) -> Float[Array, "b l n"]:
        """int32 (b, l) -> float32 (b, l, n): the prediction of what follows each. Raises ValueError for a transformer
        with `factors`, which never makes these."""
        if self.model.config.factors:
            raise ValueError(
                f"transformer.factors={self.model.config.factors}: ids are predicted in two parts, and there are no "
                "logits of whole ones; use extend."
            )
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

    def save_pretrained(self, folder: str | Path, **card: Any) -> None:
        """Write the model as hubs keep it: config.json, model.safetensors and a model card,
        README.md; `taming_jax.load` opens it. card: licence, data, metrics, words, see `pretrained.save_pretrained`.
        Raises ValueError where the folder holds something already, or the model was not loaded."""
        save_pretrained(folder, {"": (self.params, self.saved)}, **card)

    def _draw(self, params: Any, job: Job) -> Int[Array, "b l"]:
        choose = token_chooser(job, self.model.config.vocab_size, head_of(self.model, params))
        places = jnp.arange(job.given.shape[1])
        return draw_sequence(self.model, params, job.condition, places, job.given, job.keep, choose)

    def _check(self, ids: Any, further: int) -> Int[np.ndarray, "b l"]:
        ids, config = np.asarray(ids), self.model.config
        if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer) or ids.shape[1] < 1 or further < 0:
            raise ValueError(
                f"ids have shape {ids.shape} and type {ids.dtype}; expected integers (b, l), l and n from 1."
            )
        before = min(config.conditions, ids.shape[1]) if config.condition_table else 0
        for part, known, what in (
            (ids[:, :before], config.condition_size, "ids of the condition"),
            (ids[:, before:], config.vocab_size, "ids"),
        ):
            if part.size and (part.min() < 0 or part.max() >= known):
                raise ValueError(
                    f"{what} reach from {part.min()} to {part.max()}; this transformer knows 0..{known - 1}."
                )
        if ids.shape[1] < config.n_unmasked:
            raise ValueError(
                f"{ids.shape[1]} token(s) are given, but the first {config.n_unmasked} see one another "
                "(transformer.n_unmasked); give at least these."
            )
        if ids.shape[1] + further > config.block_size:
            raise ValueError(f"{ids.shape[1] + further} tokens do not fit transformer.block_size={config.block_size}.")
        return ids.astype(np.int32)
