"""Token orders: in which sequence the transformer sees the h x w codes of an image (paper, supplement).

An order is an index array into the flattened grid, an int32 permutation of range(h * w):

    sequence = ids.reshape(-1)[order]                  # (h, w) -> (h * w,)
    ids = sequence[inverse(order)].reshape(h, w)       # and back

In the PyTorch implementation these two arrays are the forward and the backward shuffle.
"""

import numpy as np
from jaxtyping import Int

MOST = 1 << 24  # codes of a grid
Order = Int[np.ndarray, " l"]


def row_major(h: int, w: int) -> Order:
    """Row by row from the top left, as text is read."""
    return np.arange(h * w)


def alternate_parsing(h: int, w: int) -> Order:
    """Row by row, every second row from right to left, so that neighbours in the sequence always touch."""
    grid = np.arange(h * w).reshape(h, w)
    grid[1::2] = grid[1::2, ::-1].copy()
    return grid.reshape(-1)


def subsample(h: int, w: int) -> Order:
    """Coarse to fine: one code of every large block first, then again at half the spacing, and so on.

    The grid is halved until its smaller side is 1: that side is a power of two and divides the other one.
    """
    small = min(h, w)
    if not _power_of_two(small) or h % small or w % small:
        raise ValueError(
            f"the token order 'subsample' halves the grid until its smaller side is 1, so that side must be a power of "
            f"two and divide the other one, and this grid is {h} x {w}; choose another size or 'row_major'"
        )
    grid = np.arange(h * w).reshape(1, h, w)
    while min(h, w) > 1:
        h, w = h // 2, w // 2
        # (c, h, 2, w, 2) -> (c, 2, 2, h, w): the four phases of a 2 x 2 raster become four smaller grids
        grid = grid.reshape(-1, h, 2, w, 2).transpose(0, 2, 4, 1, 3).reshape(-1, h, w)
    return grid.reshape(-1)


def z_curve(h: int, w: int) -> Order:
    """Morton order: the bits of row and column interleaved, so that 2 x 2, 4 x 4, ... blocks stay together."""
    if h != w or not _power_of_two(h):
        raise ValueError(
            f"the token order 'z_curve' needs a square grid whose side is a power of two, and this one is {h} x {w}; "
            "choose another size or 'row_major'"
        )
    rows, columns = np.divmod(np.arange(h * w), w)
    place = np.zeros(h * w, np.int64)  # of each code in the sequence
    for bit in range(h.bit_length() - 1):
        place |= (columns >> bit & 1) << 2 * bit | (rows >> bit & 1) << 2 * bit + 1
    return np.argsort(place)


def spiral_in(h: int, w: int) -> Order:
    """From the bottom right corner up along the border, counter-clockwise, and inwards."""
    grid = np.arange(h * w).reshape(h, w)
    parts = []
    while grid.size:
        parts.append(grid[::-1, -1])  # the last column, bottom to top
        grid = np.rot90(grid[:, :-1], -1)  # what is left, turned so that its next side is the last column
    return np.concatenate(parts)


def spiral_out(h: int, w: int) -> Order:
    """From the centre outwards, ending at the bottom right corner: the reverse of spiral_in."""
    return spiral_in(h, w)[::-1]


def random(h: int, w: int, seed: int = 1) -> Order:
    """One fixed random permutation; seed 1 is the published one. The legacy generator, because its stream is frozen."""
    return np.random.RandomState(seed).permutation(h * w)


ORDERS = {
    "row_major": row_major,
    "subsample": subsample,
    "z_curve": z_curve,
    "spiral_in": spiral_in,
    "spiral_out": spiral_out,
    "random": random,
    "alternate_parsing": alternate_parsing,
}


def order(name: str, h: int, w: int, seed: int = 1) -> Order:
    """The token order `name` of a grid of h x w codes -> int32 (h * w,).

    `seed` is used by "random" only. Raises ValueError for an unknown name, an empty grid, or a grid that the order
    cannot walk (`z_curve`, `subsample`).
    """
    if name not in ORDERS:
        raise ValueError(f"unknown token order {name!r}; known are {', '.join(ORDERS)}")
    if h < 1 or w < 1:
        raise ValueError(f"a token order needs a grid of at least 1 x 1 codes, and this one is {h} x {w}")
    if h * w > MOST:
        raise ValueError(f"a grid of {h} x {w} codes has more than {MOST}, for which no order is computed")
    indices = random(h, w, seed) if name == "random" else ORDERS[name](h, w)
    return np.ascontiguousarray(indices, np.int32)


def inverse(order: Order) -> Order:
    """The permutation (l,) that undoes `order` (l,): x[order][inverse(order)] == x."""
    back = np.empty_like(order)
    back[order] = np.arange(len(order), dtype=order.dtype)
    return back


def _power_of_two(n: int) -> bool:
    return n > 0 and n & (n - 1) == 0
