"""When each token of a large grid is drawn, and which part of its window the network has to read for it.

The token at (i, j) is drawn from the window around it (Taming Transformers, section 3.3): the condition's tokens, then
the window's image tokens before (i, j) in row-major order. Nothing else of the window matters, so

- rows run staggered by the width of a window: (i, j) is drawn at step w i + j, when all it reads is there, and the
  w (H - 1) + W steps each draw up to W / w tokens at once;
- keys and values are kept, one entry for each column of windows: while a window stays where it was, only the tokens
  drawn since then are read. Windows stand still along the first and last columns of a row, and from row to row in the
  first and last rows of the grid.

All of this follows from sizes alone, so it is worked out here with numpy, as tables that a compiled program walks.
"""

import dataclasses
from numbers import Integral
from typing import Any, NamedTuple

import jax
import numpy as np


class Op(NamedTuple):
    """Passes through the network, each field int32 (chunks, group): a chunk's windows are read as one batch.

    top, left: the window's first row and column. entry: where its keys and values are kept. start: the first position
    of its sequence that is read. at: which of the positions read predicts. row, column: the token drawn from that;
    row H for none.
    """

    top: Any
    left: Any
    entry: Any
    start: Any
    at: Any
    row: Any
    column: Any


@dataclasses.dataclass(frozen=True)
class Passes:
    """The passes that read `size` positions each; step t does the chunks from bounds[t] to bounds[t + 1]."""

    size: int
    ops: Op
    bounds: np.ndarray


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The walk over one grid. Sizes are static in a compiled program, the tables may change from call to call.

    passes: in this order within a step: whole prefixes into an empty entry, then rows of tokens, then single tokens.
    entries: windows whose keys and values are kept at a time, one of them for passes that only fill up a batch.
    """

    grid: tuple[int, int]
    window: tuple[int, int]
    condition: int
    entries: int
    passes: tuple[Passes, ...]

    @property
    def length(self) -> int:
        """Positions of the longest sequence read."""
        return self.condition + self.window[0] * self.window[1] - 1

    @property
    def steps(self) -> int:
        return len(self.passes[0].bounds) - 1


jax.tree_util.register_dataclass(Passes, data_fields=["ops", "bounds"], meta_fields=["size"])
jax.tree_util.register_dataclass(
    Schedule, data_fields=["passes"], meta_fields=["grid", "window", "condition", "entries"]
)


def corner(place: np.ndarray | int, size: int, window: int, stride: int = 1) -> np.ndarray:
    """First row (column) of the window from which row (column) `place` of `size` is drawn: it is centred, as far as
    the grid reaches, and moves by `stride` at a time."""
    return np.clip((np.asarray(place) - window // 2) // stride * stride, 0, size - window)


def wavefront_steps(grid: tuple[int, int], window: tuple[int, int]) -> int:
    """Steps in which a grid (H, W) is drawn with windows (h, w): rows follow one another a window's width apart."""
    (rows, columns), width = grid, min(window[1], grid[1])
    return width * (rows - 1) + columns


def make_schedule(
    grid: tuple[int, int],
    window: tuple[int, int],
    condition: int,
    *,
    keep: Any = None,
    stride: int = 1,
    keep_columns: bool = True,
    together: int | None = None,
) -> Schedule:
    """The schedule of a grid (H, W) for windows (h, w), none larger than the grid, after `condition` tokens (>= 1).

    keep: bool (H, W), tokens that are there already and need no pass; the same program serves any of them.
    stride: windows move by this many rows and columns at a time. Above 1 it is an approximation, with fewer and fewer
    passes over whole windows; up to half a window.
    keep_columns: keep keys and values of a whole row of windows; without, only of those in use, in less memory.
    together: at most this many windows in one batch; None for all that are ready.
    Raises ValueError for a stride out of range.
    """
    (rows, columns), (h, w) = grid, window
    check_stride(stride, window)
    tops = corner(np.arange(rows), rows, h, stride)
    lefts = corner(np.arange(columns), columns, w, stride)
    slots = -(-columns // w)  # rows under way at a time
    distinct = np.unique(lefts)
    entries = len(distinct) if keep_columns else slots
    # A prefix up to the middle of a window; what windows in the corners need beyond that is read row by row.
    fill = min(condition + h // 2 * w + w // 2, condition + h * w - 1)
    sizes = (fill, w, 1) if w > 1 else (fill, 1)
    held: dict[int, tuple[int, int, int]] = {}  # entry -> the corner of its window, and how many positions it has
    steps: list[list[list[tuple[int, Op]]]] = []
    for step in range(wavefront_steps(grid, window)):
        steps.append([])
        for i in range(max(0, -(-(step - columns + 1) // w)), min(rows - 1, step // w) + 1):
            j = step - w * i
            if keep is not None and keep[i, j]:
                continue
            top, left = int(tops[i]), int(lefts[j])
            entry = int(np.searchsorted(distinct, left)) if keep_columns else i % slots
            need = condition + (i - top) * w + (j - left)
            has = held[entry][2] if held.get(entry, ())[:2] == (top, left) else 0
            reads = _reads(has, need, sizes)
            held[entry] = (top, left, need)
            token = []
            for n, (kind, start) in enumerate(reads):
                row = i if n == len(reads) - 1 else rows
                at = min(need - start, sizes[kind]) - 1
                token.append((kind, Op(top, left, entry, start, at, row, j)))
            steps[-1].append(token)
    groups = [slots] * len(sizes)
    groups[0] = max(1, -(-(columns - w) // w))  # about as many windows move at a time
    if together is not None:
        groups = [min(group, together) for group in groups]
    idle = Op(0, 0, entries, 0, 0, rows, 0)
    passes = tuple(
        _tables(size, kind, steps, group, idle, rows * columns) for kind, (size, group) in enumerate(zip(sizes, groups))
    )
    return Schedule(grid, window, condition, entries + 1, passes)


def check_stride(stride: int, window: tuple[int, int]) -> None:
    """Raises ValueError for a stride by which windows (h, w) cannot move."""
    h, w = window
    most = max(1, min(h - h // 2, w - w // 2))
    if not isinstance(stride, Integral) or not 1 <= stride <= most:
        raise ValueError(f"stride={stride}, but windows of {h} x {w} tokens move by 1 to {most}.")


def _reads(has: int, need: int, sizes: tuple[int, ...]) -> list[tuple[int, int]]:
    """How an entry that holds `has` positions comes to hold `need`: (which size, first position) of each pass."""
    fill, row, one = 0, len(sizes) - 2, len(sizes) - 1
    reads = []
    if has == 0 or need - has > sizes[fill] // 2:
        reads.append((fill, 0))
        has = min(need, sizes[fill])
    while has < need:
        if need - has == 1:
            reads.append((one, has))
        else:
            reads.append((row, has if need - has > sizes[row] else max(0, need - sizes[row])))
        has = min(need, reads[-1][1] + sizes[reads[-1][0]])
    return reads


def _tables(size: int, kind: int, steps: list, group: int, idle: Op, room: int) -> Passes:
    """The passes of one kind, those of a step in chunks of `group`; one token's passes in different chunks."""
    chunks: list[list[Op]] = []
    bounds = [0]
    for tokens in steps:
        waiting = [[op for k, op in token if k == kind] for token in tokens]
        while any(waiting):
            ready = [ops.pop(0) for ops in waiting if ops]
            for first in range(0, len(ready), group):
                chunk = ready[first : first + group]
                chunks.append(chunk + [idle] * (group - len(chunk)))
        bounds.append(len(chunks))
    full = max(1, -(-len(chunks) // room)) * room  # one size of table for any `keep`
    chunks += [[idle] * group] * (full - len(chunks))
    table = np.asarray(chunks, np.int32)  # (chunks, group, fields)
    return Passes(size, Op(*np.moveaxis(table, 2, 0)), np.asarray(bounds, np.int32))
