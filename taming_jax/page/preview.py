"""Pictures that are not finished yet, as often as somebody wants to see them, at little cost."""

import io
import time
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image

from taming_jax.trained.tiles import tile_corners

PAUSE = 1.0  # seconds between two, at least
REST = 6.0  # and times as long as decoding takes, so that most of the time is for drawing
MARGIN = 2  # codes around a tile that are decoded with it, so that tiles fit together
# And as many times its rows of codes from all of what is there: a decoder's normalisation sees the whole picture, and a
# meadow alone came out brown (measured: 0.17 from the whole picture's pixels without them, 0.03 with them, of 2).
CONTEXT = 1


class Preview:
    """What is there of images (n, H, W, 3).

    Tiles whose codes are all there, and those around them, are decoded, once, a few at a time; other codes that are
    there have the mean colour that such codes had so far; the rest is as in `background`, uint8 of that shape. A whole
    picture would take much longer than its tiles where the decoder has attention.

    decode: ids (n, h, w) -> uint8 (n, H, W, 3). n_codes: how many there are. when: int (h, w), the step in which each
    is drawn. keep: bool (h, w), which are there from the start. tile: height and width in codes.
    """

    def __init__(
        self,
        decode: Callable[[np.ndarray], UInt8[np.ndarray, "n H W 3"]],
        n_codes: int,
        when: Int[np.ndarray, "h w"],
        keep: Bool[np.ndarray, "h w"],
        background: UInt8[np.ndarray, "n H W 3"],
        tile: tuple[int, int],
    ) -> None:
        self._decode, self._when, self._keep = decode, when, keep
        self._picture, self._decoded = background.copy(), np.zeros(when.shape, bool)
        self._factor = background.shape[1] // when.shape[0]
        self._tile = min(tile[0], when.shape[0]), min(tile[1], when.shape[1])
        self._left = list(tile_corners((when.shape[0], when.shape[1]), self._tile, 0))
        self._sums, self._counts = np.zeros((n_codes, 3)), np.zeros(n_codes)
        self._last = time.monotonic()
        self._next = self._last + PAUSE

    def update(self, ids: Int[np.ndarray, "n h w"], done: int) -> list[bytes]:
        """PNGs of what is there after `done` steps; empty where the last ones are not old enough."""
        begun = time.monotonic()
        if begun < self._next:
            return []
        drawn = (self._when < done) | self._keep
        ready = [corner for corner in self._left if drawn[self._around(corner)].all()]
        if not ready and not self._counts.any() and drawn.any():
            self._learn(ids, drawn, self._left[0])  # so that there are colours from the beginning
        for corner in ready:
            image = self._learn(ids, drawn, corner)
            rows, columns = self._place(corner, self._factor)
            self._picture[:, rows, columns], self._decoded[self._place(corner)] = image, True
            self._left.remove(corner)
            if time.monotonic() - begun > (begun - self._last) / REST:
                break
        files = [png(image) for image in self._with_rough(ids, drawn & ~self._decoded)]
        self._last = time.monotonic()
        self._next = max(begun + PAUSE, self._last + PAUSE / 4)
        return files

    def _place(self, corner: tuple[int, int], times: int = 1) -> tuple[slice, slice]:
        (top, left), (h, w) = corner, self._tile
        return slice(top * times, (top + h) * times), slice(left * times, (left + w) * times)

    def _around(self, corner: tuple[int, int]) -> tuple[slice, slice]:
        """A tile with its margin, moved back onto the grid where that is beyond."""
        lengths = [min(side + 2 * MARGIN, most) for side, most in zip(self._tile, self._when.shape)]
        starts = [
            min(max(0, start - MARGIN), most - length) for start, most, length in zip(corner, self._when.shape, lengths)
        ]
        top, left = starts
        return slice(top, top + lengths[0]), slice(left, left + lengths[1])

    def _learn(self, ids: np.ndarray, drawn: np.ndarray, corner: tuple[int, int]) -> np.ndarray:
        """A tile decoded, uint8 (n, H, W, 3), and the mean colours of its codes and those around it taken in; there is
        at least one code."""
        around = self._around(corner)
        codes, there, f = ids[:, *around], drawn[around], self._factor
        n, h, w = codes.shape
        everywhere = ids[:, drawn]
        some = np.linspace(0, everywhere.shape[1] - 1, CONTEXT * h * w).astype(int)
        context = everywhere[:, some].reshape(n, CONTEXT * h, w)
        image = self._decode(np.concatenate([codes, context], axis=1))[:, : h * f]
        colours = image.reshape(n, h, f, w, f, 3).mean((2, 4))[:, there].reshape(-1, 3)
        codes = codes[:, there].ravel()
        self._counts += np.bincount(codes, minlength=len(self._counts))
        for channel in range(3):
            self._sums[:, channel] += np.bincount(codes, colours[:, channel], minlength=len(self._counts))
        top, left = ((start - part.start) * f for start, part in zip(corner, around))
        return image[:, top : top + self._tile[0] * f, left : left + self._tile[1] * f]

    def _with_rough(self, ids: np.ndarray, rough: np.ndarray) -> np.ndarray:
        """The pictures, with mean colours where (h, w) says, as far as they are known."""
        known = rough & (self._counts[ids] > 0)  # (n, h, w)
        colours = (self._sums / np.maximum(self._counts, 1)[:, None]).astype(np.uint8)[ids]
        larger = lambda x: x.repeat(self._factor, 1).repeat(self._factor, 2)
        return np.where(larger(known)[..., None], larger(colours), self._picture)


def png(image: UInt8[np.ndarray, "H W 3"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG", compress_level=1)  # fast rather than small
    return file.getvalue()
