"""Pictures that are not finished yet, as often as somebody wants to see them, at little cost."""

import io
import time
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image

PAUSE = 1.0  # seconds between two, at least
REST = 6.0  # and between two decodings times as long as the last one took, so that most of the time is for drawing


class Preview:
    """What is there of images (n, H, W, 3): decoded now and then; codes drawn since then in the mean colour that each
    had where it was decoded; the rest as in `background`, uint8 of that shape.

    decode: ids (n, h, w) -> uint8 (n, H, W, 3). n_codes: how many there are. when: int (h, w), the step in which each
    is drawn. keep: bool (h, w), which are there from the start.
    """

    def __init__(
        self,
        decode: Callable[[np.ndarray], UInt8[np.ndarray, "n H W 3"]],
        n_codes: int,
        when: Int[np.ndarray, "h w"],
        keep: Bool[np.ndarray, "h w"],
        background: UInt8[np.ndarray, "n H W 3"],
    ) -> None:
        self._decode, self._when, self._keep = decode, when, keep
        self._colours = np.full((n_codes, 3), 128, np.uint8)
        self._picture, self._decoded = background.copy(), np.zeros(when.shape, bool)
        self._next, self._next_decoding = time.monotonic() + PAUSE, 0.0

    def update(self, ids: Int[np.ndarray, "n h w"], done: int) -> list[bytes]:
        """PNGs of what is there after `done` steps; empty where the last ones are not old enough."""
        begun = time.monotonic()
        if begun < self._next:
            return []
        drawn = (self._when < done) | self._keep
        factor = self._picture.shape[1] // drawn.shape[0]
        new = (drawn & ~self._decoded).repeat(factor, 0).repeat(factor, 1)[..., None]
        rough = None
        if begun >= self._next_decoding:
            image = self._decode(ids)
            self._picture = np.where(drawn.repeat(factor, 0).repeat(factor, 1)[..., None], image, self._picture)
            self._decoded = drawn
            self._learn(ids[:, drawn], image, drawn, factor)
            end = time.monotonic()
            self._next_decoding = end + REST * (end - begun)
        else:
            rough = self._colours[ids].repeat(factor, 1).repeat(factor, 2)
        files = [png(image) for image in (self._picture if rough is None else np.where(new, rough, self._picture))]
        self._next = max(begun + PAUSE, time.monotonic() + PAUSE / 4)
        return files

    def _learn(self, codes: np.ndarray, image: np.ndarray, drawn: np.ndarray, factor: int) -> None:
        """The mean colour of each code: codes (n, k), those of the places that are drawn."""
        n, h, w = len(image), *drawn.shape
        colours = image.reshape(n, h, factor, w, factor, 3).mean((2, 4))[:, drawn].reshape(-1, 3)
        count = np.bincount(codes.ravel(), minlength=len(self._colours))
        for channel in range(3):
            total = np.bincount(codes.ravel(), colours[:, channel], minlength=len(self._colours))
            self._colours[count > 0, channel] = (total[count > 0] / count[count > 0]).astype(np.uint8)


def png(image: UInt8[np.ndarray, "H W 3"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG", compress_level=1)  # fast rather than small
    return file.getvalue()
