"""Smooth noise in the plane, the same to the bit on every machine.

Here, and in all that draws landscapes, arrays meet nothing but sums, products, quotients and square roots, which IEEE
754 rounds alike everywhere; sines, exponentials and powers of numpy differ between processors.
"""

import numpy as np

PERIOD = 256  # cells after which the noise repeats
_WIDTH = PERIOD + 1  # the first row and column once more at the end
_VALUES = np.pad(2 * np.random.default_rng(0).random((PERIOD, PERIOD)) - 1, ((0, 1), (0, 1)), "wrap")
_VALUES = _VALUES.astype(np.float32).ravel()
_RIGHT, _BELOW, _BELOW_RIGHT = _VALUES[1:], _VALUES[_WIDTH:], _VALUES[_WIDTH + 1 :]  # neighbours at the same index


def smooth(x: np.ndarray) -> np.ndarray:
    """0 where x is below 0, 1 above 1, and between them the cubic that is level at both ends."""
    x = np.minimum(np.maximum(x, 0), 1)
    return x * x * (3 - 2 * x)


def noise(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Values in [-1, 1], random at whole numbers and smooth between them; x and y float32, broadcast."""
    left, top = np.floor(x), np.floor(y)
    fx, fy = x - left, y - top
    fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
    cell = (top.astype(np.int32) & (PERIOD - 1)) * _WIDTH + (left.astype(np.int32) & (PERIOD - 1))
    upper, lower = _VALUES.take(cell), _BELOW.take(cell)
    upper += fx * (_RIGHT.take(cell) - upper)
    lower += fx * (_BELOW_RIGHT.take(cell) - lower)
    lower -= upper
    lower *= fy
    upper += lower
    return upper


def cell_values(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Values in [-1, 1], one for each pair of int32, broadcast."""
    return _VALUES.take((y & (PERIOD - 1)) * _WIDTH + (x & (PERIOD - 1)))


def turn(angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sine and cosine of angles in radians, float64, by their series, for the reason above."""
    around = 6.283185307179586
    angle = angle - np.floor(angle / around + 0.5) * around  # in [-pi, pi)
    half = angle * 0.25  # small enough for a short series; doubled twice below
    square = half * half
    sine = half * (1 - square / 6 * (1 - square / 20 * (1 - square / 42 * (1 - square / 72 * (1 - square / 110)))))
    cosine = 1 - square / 2 * (1 - square / 12 * (1 - square / 30 * (1 - square / 56 * (1 - square / 90))))
    for _ in range(2):
        sine, cosine = 2 * sine * cosine, 1 - 2 * sine * sine
    return sine, cosine
