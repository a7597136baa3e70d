"""Grids larger than those of training: every token is drawn from the window around it, rows in a wavefront."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Float, Int

from taming_jax.models.gpt import GPT, GPTConfig, cast_layers, head_of
from taming_jax.nn.cache import as_rows
from taming_jax.nn.masks import Position
from taming_jax.priors.base import Job, Prior, seen_conditions
from taming_jax.priors.decode import token_chooser
from taming_jax.priors.wavefront import Op, Schedule, check_stride, make_schedule

Walk = tuple[Int[Array, "b H W"], Any]  # the ids, and the keys and values that are kept


def sample_window(prior: Prior, params: Any, job: Job, schedule: Schedule | None = None) -> Int[Array, "b H W"]:
    """Draw ids on a grid of any size; to be compiled with `prior` static.

    The job's condition is int32 (b, H, W): one token for each of the image's, of which a window sees its own part; or
    (b, k): the same for every window. schedule: see `schedule_for`; None for the exact one that draws everything.

    Raises ValueError for what does not fit the model, before compiling. The schedule does not change what is drawn, and
    on a grid of the training size that is what `decode.sample` draws.
    """
    schedule = schedule or schedule_for(prior, job.condition.shape, job.given.shape)
    walk = start_walk(prior, job, schedule)
    return go_on(prior, params, job, schedule, walk, 0, schedule.steps)[0]


def start_walk(prior: Prior, job: Job, schedule: Schedule) -> Walk:
    """What a walk over the grid carries from step to step, before the first: the ids (b, H, W), and the keys and values
    that are kept, each (entries, b or, with guidance, 2 b, L, d): flat, so that what is written lies as it is read."""
    _check_shapes(schedule, job.condition.shape, job.given.shape)
    rows = len(job.given) * (1 if job.filters.guidance is None else 2)
    cache = jax.eval_shape(lambda: jax.tree.map(_flat, prior.gpt.init_cache(rows, schedule.length)))
    kept = jax.tree.map(lambda array: jnp.zeros((schedule.entries, *array.shape), array.dtype), cache)
    return jnp.where(job.keep, job.given, 0), kept


def go_on(prior: Prior, params: Any, job: Job, schedule: Schedule, walk: Walk, first: Position, last: Position) -> Walk:
    """The steps from `first` to before `last` of `schedule.steps`, so that a caller can show how far it is."""
    gpt, choose = _gpt(prior, schedule), token_chooser(job, prior.sequences.n_codes, head_of(prior.gpt, params))
    params, condition = cast_layers(params, gpt.config.dtype), seen_conditions(job, prior.sequences.hidden_token)
    layout = prior.sequences.window_layout(schedule.condition, condition.ndim == 3, schedule.window)

    def read(ids: Int[Array, "b H W"], op: Op, tokens: int, cache: Any, start: Position) -> tuple[Array, Any]:
        """Read one window's positions from `start` on -> the token drawn (b,), and the cache with them."""
        sequence = _sequence(jnp.repeat(ids, len(condition) // len(ids), axis=0), condition, op, schedule)
        inputs = jax.lax.dynamic_slice_in_dim(sequence, start, tokens, axis=1)
        logits, cache = gpt.apply({"params": params}, inputs, cache=cache, start=start, at=op.at, layout=layout)
        drawn = choose(logits[:, 0], op.row * schedule.grid[1] + op.column)
        return jnp.where(job.keep[:, op.row, op.column], ids[:, op.row, op.column], drawn), cache

    def run(kind: int, op: Op, walk: Walk) -> Walk:
        """Read the windows of one chunk as one batch; op's fields are (g,)."""
        ids, kept = walk
        tokens = schedule.passes[kind].size
        if kind == 0:  # an empty entry: nothing to fetch, and the cache is no longer than what is read
            one = lambda op: read(ids, op, tokens, gpt.init_cache(len(condition), tokens), 0)
            drawn, read_now = _over_group(one, op)
        else:
            one = lambda op, cache: read(ids, op, tokens, _as_cache(gpt, cache), op.start)
            drawn, read_now = _over_group(one, op, _fetch(kept, op.entry))
        new = _cut(read_now, op.start, tokens)
        return ids.at[:, op.row, op.column].set(drawn.T, mode="drop"), _store(kept, new, op.entry, op.start)

    def step(t: Position, walk: Walk) -> Walk:
        for kind, passes in enumerate(schedule.passes):
            ops, bounds = jax.tree.map(jnp.asarray, (passes.ops, passes.bounds))
            chunk = lambda c, walk, kind=kind, ops=ops: run(kind, jax.tree.map(lambda field: field[c], ops), walk)
            with jax.named_scope(f"pass_{kind}"):
                walk = jax.lax.fori_loop(bounds[t], bounds[t + 1], chunk, walk)
        return walk

    return jax.lax.fori_loop(first, last, step, walk)


def schedule_for(
    prior: Prior,
    condition: tuple[int, ...],
    given: tuple[int, ...],
    *,
    keep: np.ndarray | None = None,
    stride: int = 1,
    keep_columns: bool = True,
    together: int | None = None,
) -> Schedule:
    """The schedule for a condition (b, H, W) or (b, k) and a grid of ids (b, H, W), by their shapes.

    keep: bool (b, H, W) or (H, W); what all images keep is passed over, where otherwise it would cost as much as
    drawing it. The other options are those of `wavefront.make_schedule`; together=None is one window at a time on
    the CPU, where a batch saves nothing, and elsewhere all that are ready.
    Raises ValueError for what does not fit the model.
    """
    check_window(prior, given[1:], stride)
    check_condition(prior, condition, given)
    grid = (given[1], given[2])
    window = _window(prior, grid)
    length = window[0] * window[1] if len(condition) == 3 else condition[1]
    if together is None and jax.default_backend() == "cpu":
        together = 1
    if keep is not None and np.shape(keep) not in (grid, given):
        raise ValueError(f"keep has shape {np.shape(keep)}; expected {grid} or {given}.")
    return make_schedule(
        grid,
        window,
        length,
        keep=None if keep is None else np.reshape(keep, (-1, *grid)).all(axis=0),
        stride=stride,
        keep_columns=keep_columns,
        together=together,
    )


def check_window(prior: Prior, grid: tuple[int, ...], stride: int = 1) -> None:
    """Raises ValueError where ids of `grid` (H, W) cannot be drawn by a sliding window that moves by `stride`."""
    tokens = prior.sequences.tokens
    if tokens.order != "row_major":
        raise ValueError(
            f"the token order is {tokens.order!r}, but only 'row_major' can slide over {' x '.join(map(str, grid))} "
            f"codes; sample the training size, {tokens.grid[0]} x {tokens.grid[1]} codes, or train with 'row_major'."
        )
    if len(grid) != 2 or min(grid) < 1:
        raise ValueError(f"the grid of ids is {grid}; expected (H, W), each at least 1.")
    check_stride(stride, _window(prior, grid))


def check_condition(prior: Prior, condition: tuple[int, ...], given: tuple[int, ...]) -> None:
    """Raises ValueError where windows cannot read a condition (b, H, W) or (b, k) for a grid of ids (b, H, W), by their
    shapes."""
    _check_fit(condition, given)
    settings, spatial = prior.gpt.config, len(condition) == 3
    known = prior.sequences.tokens.length if spatial else condition[1]
    if settings.n_unmasked > known:
        raise ValueError(
            f"transformer.n_unmasked={settings.n_unmasked} positions see one another, but only the {known} of the "
            "condition are known before an image is drawn."
        )
    tokens = math.prod(_window(prior, given[1:]))
    read = tokens if spatial else condition[1]
    if read < 1:
        raise ValueError(f"the condition has shape {condition}; there must be at least one condition token.")
    if read + tokens - 1 > settings.block_size:
        raise ValueError(
            f"a window of {read + tokens - 1} tokens does not fit transformer.block_size={settings.block_size}."
        )


def cache_bytes(config: GPTConfig, schedule: Schedule, images: int) -> int:
    """Memory for the keys and values of `images` images drawn at once (with guidance each counts twice): most of what
    sampling takes beside the parameters. Less with keep_columns=False, a stride above 1 or fewer images."""
    share = (config.kv_heads or config.n_head) / config.n_head
    a_position = int(2 * config.n_layer * config.n_embd * share) * jnp.dtype(config.dtype).itemsize
    return images * schedule.entries * schedule.length * a_position


def _window(prior: Prior, grid: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of the windows that slide over a grid."""
    rows, columns = prior.sequences.tokens.grid
    return min(rows, grid[0]), min(columns, grid[1])


def _check_shapes(schedule: Schedule, condition: tuple[int, ...], given: tuple[int, ...]) -> None:
    if len(given) != 3 or given[1:] != schedule.grid:
        raise ValueError(
            f"the grid of ids has shape {given}; this schedule is for grids of {' x '.join(map(str, schedule.grid))}."
        )
    _check_fit(condition, given)
    h, w = schedule.window
    if len(condition) not in (2, 3) or schedule.condition != (h * w if len(condition) == 3 else condition[1]):
        raise ValueError(f"the condition has shape {condition}, but the schedule is for {schedule.condition} tokens.")


def _check_fit(condition: tuple[int, ...], given: tuple[int, ...]) -> None:
    if condition[0] != given[0]:
        raise ValueError(f"there are conditions for {condition[0]} images, but ids of {given[0]}; give one an image.")
    if len(condition) == 3 and condition[1:] != given[1:]:
        raise ValueError(
            f"the condition is a map of {condition[1]} x {condition[2]} tokens, but the image one of "
            f"{given[1]} x {given[2]}; a window needs one condition token for each image token."
        )


def _gpt(prior: Prior, schedule: Schedule) -> GPT:
    """The network for windows that may be smaller than those of training, and then have fewer condition tokens."""
    config = prior.gpt.config
    return GPT(dataclasses.replace(config, n_unmasked=min(config.n_unmasked, schedule.condition)))


def _sequence(
    ids: Int[Array, "b H W"], condition: Int[Array, "b ..."], op: Op, schedule: Schedule
) -> Int[Array, "b l"]:
    """What the network reads of the window at (op.top, op.left)."""
    cut = lambda grid: jax.lax.dynamic_slice(grid, (0, op.top, op.left), (len(grid), *schedule.window))
    flat = lambda grid: cut(grid).reshape(len(grid), -1)
    before = flat(condition) if condition.ndim == 3 else condition
    return jnp.concatenate([before, flat(ids)], axis=1)[:, : schedule.length]


def _over_group(function: Callable, *arguments: Any) -> Any:
    """`function` of each window of a chunk (leading axis), all as one batch."""
    if jax.tree.leaves(arguments)[0].shape[0] > 1:
        return jax.vmap(function)(*arguments)
    one = function(*jax.tree.map(lambda array: array[0], arguments))  # so that a slice stays a slice, and no gather
    return jax.tree.map(lambda array: array[None], one)


def _fetch(kept: Any, entries: Int[Array, " g"]) -> Any:
    """Arrays (entries, b, ...) -> those of some entries, (g, b, ...)."""
    return _lying(jax.tree.map(lambda array: jnp.stack([array[entry] for entry in entries]), _lying(kept)))


def _flat(array: Float[Array, "b rows l c"]) -> Float[Array, "b l _"]:
    """Keys or values with all heads side by side."""
    return array.swapaxes(1, 2).reshape(array.shape[0], array.shape[2], -1)


def _as_cache(gpt: GPT, kept: Any) -> Any:
    """The way back, to the cache that the network reads."""
    shapes = jax.eval_shape(lambda: gpt.init_cache(1, 1))
    return jax.tree.map(lambda array, shape: as_rows(array[:, :, None], shape.shape[1]), kept, shapes)


def _cut(cache: Any, starts: Int[Array, " g"], tokens: int) -> Any:
    """So many positions of each cache (g, b, rows, L, r), from its own start on -> flat, (g, b, tokens, d)."""
    cut = lambda array, start: _flat(jax.lax.dynamic_slice_in_dim(array, start, tokens, axis=2))
    return jax.tree.map(lambda array: jnp.stack([cut(*one) for one in zip(array, starts)]), cache)


def _store(kept: Any, new: Any, entries: Int[Array, " g"], starts: Int[Array, " g"]) -> Any:
    """Write new keys and values (g, b, tokens, d) from `starts` on; slice by slice, so in place."""
    kept, new = _lying(kept), _lying(new)
    for g in range(entries.shape[0]):
        place = (entries[g], 0, starts[g], 0)
        write = lambda array, part, g=g, place=place: jax.lax.dynamic_update_slice(array, part[g : g + 1], place)
        kept = jax.tree.map(write, kept, new)
    return _lying(kept)


def _lying(arrays: Any) -> Any:
    """Arrays (n, b, l, d) in this order in memory: left to itself a TPU's compiler has one kind of pass keep positions
    side by side and another channels, and brings all that is kept from one into the other at every step."""
    return jax.tree.map(lambda array: with_layout_constraint(array, Layout((0, 1, 2, 3))), arrays)
