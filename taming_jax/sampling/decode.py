"""Drawing a training-size grid of ids: one compiled program that prefills the cache and then draws token by token."""

from typing import Any

import jax
import jax.numpy as jnp

from taming_jax.sampling.filters import draw
from taming_jax.two_stage import TwoStage


def sample(
    model: TwoStage,
    params: Any,
    condition: jax.Array,
    key: jax.Array,
    numbers: jax.Array,
    temperature: jax.Array,
    top_p: jax.Array | None,
    given: jax.Array,
    keep: jax.Array,
    *,
    top_k: int | None = None,
    greedy: bool = False,
) -> jax.Array:
    """Draw ids with a static key/value cache; to be compiled with `model`, `top_k` and `greedy` static.

    condition int32 (b, k); key, and numbers int32 (b,), which image of the key's series each one is; temperature and
    top_p scalars (see `filters.Filters`). given int32 (b, h, w) stands where keep, bool (b, h, w), is True; the rest is
    drawn. Returns int32 (b, h, w).

    A token's key is its image's folded with its place on the grid, so neither the batch nor the order of drawing
    matters.
    """
    b, prefix = condition.shape
    order = jnp.asarray(model.sequence_order())  # (l,)
    keys = image_keys(key, numbers)
    given, keep = model.to_sequence(given), model.to_sequence(keep)  # (b, l)

    def choose(logits, place, given_here, keep_here):
        """logits (b, n) of the token at grid position `place` -> its ids (b,)."""
        token_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, place)
        drawn = draw(token_keys, logits[:, : model.n_codes], temperature, top_k, top_p, greedy)
        return jnp.where(keep_here, given_here, drawn)

    cache = model.gpt.init_cache(b, prefix + model.length - 1)
    logits, cache = model.gpt.apply({"params": params}, condition, cache=cache, start=0, last_only=True)
    first = choose(logits[:, 0], order[0], given[:, 0], keep[:, 0])

    def advance(carry, xs):
        token, cache = carry
        position, place, given_here, keep_here = xs
        logits, cache = model.gpt.apply({"params": params}, token[:, None], cache=cache, start=position)
        token = choose(logits[:, 0], place, given_here, keep_here)
        return (token, cache), token

    positions = prefix + jnp.arange(model.length - 1)
    steps = (positions, order[1:], given[:, 1:].T, keep[:, 1:].T)
    _, rest = jax.lax.scan(advance, (first, cache), steps)  # (l - 1, b)
    return model.to_grid(jnp.concatenate([first[:, None], rest.T], axis=1))


def image_keys(key: jax.Array, numbers: jax.Array) -> jax.Array:
    """(b,) keys, one an image: image i of a key's series has the same in whatever batch it is drawn."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
