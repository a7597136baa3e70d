"""Drawing a training-size grid of ids: one compiled program that prefills the cache and then draws token by token."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from taming_jax.models.gpt import GPT
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

    condition int32 (b, k), or (b, h, w) where its tokens have places; key, and numbers int32 (b,), which image of the
    key's series each one is; temperature and top_p scalars (see `filters.Filters`). given int32 (b, h, w) stands where
    keep, bool (b, h, w), is True; the rest is drawn. Returns int32 (b, h, w).

    A token's key is its image's folded with its place on the grid, so neither the batch nor the order of drawing
    matters.
    """
    keys, places = image_keys(key, numbers), jnp.asarray(model.sequence_order())  # (b,), (l,)
    given, keep = model.to_sequence(given), model.to_sequence(keep)  # (b, l)
    choose = partial(choose_token, keys, model.n_codes, temperature, top_p, top_k=top_k, greedy=greedy)
    condition = condition.reshape(condition.shape[0], -1)
    return model.to_grid(draw_sequence(model.gpt, params, condition, places, given, keep, choose))


def draw_sequence(
    gpt: GPT,
    params: Any,
    prefix: jax.Array,
    places: jax.Array,
    given: jax.Array,
    keep: jax.Array,
    choose: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
    """Continue prefix int32 (b, k) by l tokens -> int32 (b, l), of which those where keep (b, l) is True are `given`.

    choose: logits (b, n) and the token's entry of places (l,) -> ids (b,).
    """
    b, k = prefix.shape
    cache = gpt.init_cache(b, k + len(places) - 1)
    logits, cache = gpt.apply({"params": params}, prefix, cache=cache, start=0, last_only=True)
    first = jnp.where(keep[:, 0], given[:, 0], choose(logits[:, 0], places[0]))

    def advance(carry, xs):
        token, cache = carry
        position, place, given_here, keep_here = xs
        logits, cache = gpt.apply({"params": params}, token[:, None], cache=cache, start=position)
        token = jnp.where(keep_here, given_here, choose(logits[:, 0], place))
        return (token, cache), token

    positions = k + jnp.arange(len(places) - 1)
    steps = (positions, places[1:], given[:, 1:].T, keep[:, 1:].T)
    _, rest = jax.lax.scan(advance, (first, cache), steps)  # (l - 1, b)
    return jnp.concatenate([first[:, None], rest.T], axis=1)


def choose_token(
    keys: jax.Array,
    n_codes: int,
    temperature: jax.Array,
    top_p: jax.Array | None,
    logits: jax.Array,
    place: jax.Array,
    *,
    top_k: int | None,
    greedy: bool,
) -> jax.Array:
    """logits (b, n) of the tokens at `place` -> ids (b,) below n_codes, by keys (b,) folded with the place."""
    token_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, place)
    return draw(token_keys, logits[:, :n_codes], temperature, top_k, top_p, greedy)


def image_keys(key: jax.Array, numbers: jax.Array) -> jax.Array:
    """(b,) keys, one an image: image i of a key's series has the same in whatever batch it is drawn."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
