"""The table of codes between two steps of training: its start from data, what its averages make of it, new places for
idle codes."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Key

from taming_jax.models.vqgan import VQGANConfig
from taming_jax.nn.codes import count_codes, nearest
from taming_jax.nn.quantizers import ema_codebook

TABLE = "quantizer/codebook"  # how the path of its parameters ends, also in what an optimizer keeps of them


def kmeans(latents: Float[Array, "m c"], n: int, iterations: int, key: Key[Array, ""]) -> Float[Array, "n c"]:
    """n centres of latents (Lloyd's algorithm from latents at random; one that loses all of its own stays).

    Where there are fewer latents than centres they are taken several times, a hundredth of their spread apart, so that
    no centre is another's double.
    """
    m, keys = latents.shape[0], jax.random.split(key)
    start = latents[jnp.resize(jax.random.permutation(keys[0], m), (n,))]
    doubles = (jnp.arange(n) >= m)[:, None]
    apart = 0.01 * jnp.std(latents) * jax.random.normal(keys[1], start.shape)
    start = jnp.where(doubles, start + apart, start)

    def move(_: Any, centres: Float[Array, "n c"]) -> Float[Array, "n c"]:
        ids = nearest(latents, centres)
        counts, sums = count_codes(ids, n)[:, None], jnp.zeros_like(centres).at[ids].add(latents)
        return jnp.where(counts > 0, sums / jnp.maximum(counts, 1), centres)

    return jax.lax.fori_loop(0, iterations, move, start)


def started(config: VQGANConfig, state: Any, latents: Float[Array, "m c"], key: Key[Array, ""]) -> Any:
    """A training state whose table starts at the means of these latents, as if each code had always been used alike:
    with other averages the next step would pull it back, or take it for idle."""
    codes = kmeans(latents, config.n_embed, config.kmeans, key)
    state = _with_table(state, lambda _: codes)
    return replace(state, ema=evenly_used(config, codes, latents.shape[0])) if state.ema else state


def evenly_used(config: VQGANConfig, codes: Any, latents: int) -> dict[str, Any]:
    """The collection `ema` of a table whose codes have each been used alike, of so many latents a step."""
    count = jnp.full(len(codes), latents / len(codes), jnp.float32)
    if config.quantizer == "ema":
        return {"quantizer": {"count": count, "total": count[:, None] * codes}}
    return {"quantizer": {"count": count, "candidates": jnp.zeros(codes.shape, jnp.float32)}}


def followed(config: VQGANConfig, state: Any, latents: int) -> Any:
    """A training state after the optimizer's update, with the table that its collection `ema` asks for, of so many
    latents a step.

    A code with a new place begins anew: it counts as used like others, the optimizer has no momentum for it, and
    averages of the weights do not mix it with what it was.
    """
    if not state.ema:
        return state
    kept = state.ema["quantizer"]
    if config.quantizer == "ema":
        return _with_table(state, lambda _: ema_codebook(kept))
    average = latents / config.n_embed
    idle = kept["count"] < config.restart_below * average
    state = _with_table(state, lambda table: jnp.where(idle[:, None], kept["candidates"], table))
    opt_state = _at_table(state.opt_state, lambda moments: jnp.where(idle[:, None], 0.0, moments))
    kept = {**kept, "count": jnp.where(idle, average, kept["count"])}
    return replace(state, opt_state=opt_state, ema={"quantizer": kept})


def _with_table(state: Any, change: Any) -> Any:
    return replace(state, params=_at_table(state.params, change), averages=_at_table(state.averages, change))


def _at_table(tree: Any, change: Any) -> Any:
    """change(array) where the tree holds the table, or what belongs to it."""
    named = lambda path: jax.tree_util.keystr(path, simple=True, separator="/").endswith(TABLE)
    return jax.tree_util.tree_map_with_path(lambda path, leaf: change(leaf) if named(path) else leaf, tree)
