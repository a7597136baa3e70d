"""Drawing token by token: the cache is prefilled with the condition, then each token is drawn and read."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from taming_jax.models.factors import FactoredHead
from taming_jax.models.gpt import GPT, cast_layers
from taming_jax.nn.layout import SequenceLayout
from taming_jax.priors.base import Job
from taming_jax.priors.filters import draw, guide
from taming_jax.sharding import split_by_image

PARTS = 4  # lengths of the cache in one program
SHORTEST = 64  # tokens drawn with one of them, at least


def token_chooser(job: Job, n_codes: int, head: FactoredHead | None = None) -> Callable[[Array, Array], Array]:
    """choose: logits (b, n), or with guidance (2 b, n), of the tokens at a place -> ids (b,) below n_codes.

    head: of a network that predicts ids in two parts; then choose is given what it reads in place of logits. All
    filters are applied to each part, the second's after the first one that was drawn.
    """
    filters = job.filters
    image_keys = jax.vmap(jax.random.fold_in, (None, 0))(job.key, job.numbers)  # (b,)

    def choose(logits: Float[Array, "_ n"], place: Int[Array, ""], part: int | None = None) -> Int[Array, " b"]:
        # Brought together first: filters that walk over pieces of a vocabulary that `tensor` splits talk several times.
        logits = split_by_image(logits)
        if filters.guidance is not None:
            logits = guide(logits, filters.guidance[place])
        keys = jax.vmap(jax.random.fold_in, (0, None))(image_keys, place)
        keys = keys if part is None else jax.vmap(jax.random.fold_in, (0, None))(keys, part)
        return draw(keys, logits[:, :n_codes], filters.temperature, filters.top_k, filters.top_p, filters.greedy)

    if head is None:
        return choose

    def choose_parts(prediction: Float[Array, "_ d"], place: Int[Array, ""]) -> Int[Array, " b"]:
        x = prediction[:, None]
        first = choose(head.first(x)[:, 0], place, 0)
        for_each_row = jnp.repeat(first, len(x) // len(first))[:, None]
        return first * head.factors[1] + choose(head.second(x, for_each_row)[:, 0], place, 1)

    return choose_parts


def draw_sequence(
    gpt: GPT,
    params: Any,
    prefix: Int[Array, "rows k"],
    places: Int[Array, " l"],
    given: Int[Array, "b l"],
    keep: Bool[Array, "b l"],
    choose: Callable[[Array, Array], Array],
    layout: SequenceLayout | None = None,
) -> Int[Array, "b l"]:
    """Continue the prefix by l tokens, of which those where `keep` is True are `given`.

    choose: logits (rows, n), or what the network gives in their place, and the token's entry of places -> ids (b,). The
    prefix may have a multiple of b rows, each image's next to one another: all of them go on with the image's tokens.
    layout: of prefix and tokens, as `GPT` takes it.
    """
    params = cast_layers(params, gpt.config.dtype)
    rows, k = prefix.shape
    lengths = cache_lengths(k, len(places) - 1)
    cache = gpt.init_cache(rows, lengths[0])
    logits, cache = gpt.apply({"params": params}, prefix, cache=cache, start=0, last_only=True, layout=layout)
    token = jnp.where(keep[:, 0], given[:, 0], choose(logits[:, 0], places[0]))

    def advance(carry: tuple[Array, Any], xs: tuple[Array, ...]) -> tuple[tuple[Array, Any], Array]:
        token, cache = carry
        position, place, given_here, keep_here = xs
        tokens = jnp.repeat(token, rows // len(token))[:, None]
        logits, cache = gpt.apply({"params": params}, tokens, cache=cache, start=position, layout=layout)
        token = jnp.where(keep_here, given_here, choose(logits[:, 0], place))
        return (token, cache), token

    drawn = [token[None]]
    for start, end in itertools.pairwise((k, *lengths)):
        cache = jax.tree.map(lambda kept, end=end: _longer(kept, end), cache)
        here = slice(start - k + 1, end - k + 1)
        steps = (jnp.arange(start, end), places[here], given[:, here].T, keep[:, here].T)
        (token, cache), tokens = jax.lax.scan(advance, (token, cache), steps)  # (end - start, b)
        drawn.append(tokens)
    return jnp.concatenate(drawn).T


def cache_lengths(prefix: int, tokens: int) -> list[int]:
    """How long the cache is while `tokens` tokens are read after a prefix: it grows up to PARTS times, since each step
    reads all of it, and each length is compiled by itself."""
    parts = min(PARTS, max(1, tokens // SHORTEST))
    return [prefix + round(tokens * part / parts) for part in range(1, parts + 1)]


def _longer(kept: Float[Array, "b rows L c"], length: int) -> Float[Array, "b rows {length} c"]:
    """A cache with room for `length` positions."""
    return jnp.pad(kept, ((0, 0), (0, 0), (0, length - kept.shape[2]), (0, 0)))
