"""What scenes are made of: ten kinds of object, each a shape with its own colour, before a sky and a ground.

Every label owns a short line in RGB space, from its dark to its light tone, and texture, shading and shadow move along
that line only (but for a touch of warmth around the sun). So the label of a pixel is that of the nearest line, and an
image can be read back by that rule.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# The shapes: signed distance (nearly so; negative inside) of (u, v) in object units, v pointing down. All have about
# the same area (2.2 to 2.75), so that `size` alone decides which object is the largest.


def _disk(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.hypot(u, v) - 0.92


def _square(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(u), np.abs(v)) - 0.82


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    # fold the plane into half of one arm: there the outline is the line from the tip (1.22, 0) to the inner corner
    radius, angle = np.hypot(u, v), np.arctan2(u, -v)
    angle = np.abs((angle + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
    x, y = 0.62 * math.cos(math.pi / 5), 0.62 * math.sin(math.pi / 5)
    return ((radius * np.cos(angle) - 1.22) * y + radius * np.sin(angle) * (1.22 - x)) / math.hypot(y, 1.22 - x)


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    # apex (0, -1.2), base from (-1.15, 1) to (1.15, 1)
    return np.maximum((np.abs(u) * 2.2 - (v + 1.2) * 1.15) / math.hypot(2.2, 1.15), v - 1.0)


def _ring(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.abs(np.hypot(u, v) - 0.72) - 0.28


def _diamond(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (np.abs(u) + np.abs(v) - 1.14) * 0.7071


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    a, b = np.abs(u), np.abs(v)
    return np.minimum(np.maximum(a - 0.4, b - 1.05), np.maximum(a - 1.05, b - 0.4))


def _heart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    # a square on its corner with a disk on each upper side
    u, v = np.abs(u), v - 0.1
    return np.minimum((u + np.abs(v) - 0.86) * 0.7071, np.hypot(u - 0.43, v + 0.43) - 0.608)


def _dome(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    v = v - 0.3
    return np.maximum(np.where(v < 0, np.hypot(u, v), np.abs(u)) - 1.1, v - 0.35)


def _hexagon(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    u, v = np.abs(u), np.abs(v)
    return np.maximum(0.5 * u + 0.866 * v, u) - 0.9


class Kind(NamedTuple):
    name: str
    colour: tuple[int, int, int]
    distance: Callable[[np.ndarray, np.ndarray], np.ndarray]
    extremes: tuple[tuple[float, float], ...]  # (x, y) of the top, right, bottom and left point in object units


# the star's tips
_S1, _C1, _S2, _C2 = (1.22 * f(a) for a in (math.tau / 5, 2 * math.tau / 5) for f in (math.sin, math.cos))
KINDS = (
    Kind("red disk", (214, 40, 40), _disk, ((0, -0.92), (0.92, 0), (0, 0.92), (-0.92, 0))),
    Kind("orange square", (244, 130, 24), _square, ((0, -0.82), (0.82, 0), (0, 0.82), (-0.82, 0))),
    Kind("yellow star", (244, 214, 40), _star, ((0, -1.22), (_S1, -_C1), (_S2, -_C2), (-_S1, -_C1))),
    Kind("green triangle", (46, 160, 56), _triangle, ((0, -1.2), (1.15, 1), (0, 1), (-1.15, 1))),
    Kind("turquoise ring", (16, 182, 172), _ring, ((0, -1), (1, 0), (0, 1), (-1, 0))),
    Kind("blue diamond", (38, 76, 214), _diamond, ((0, -1.14), (1.14, 0), (0, 1.14), (-1.14, 0))),
    Kind("purple cross", (124, 50, 190), _cross, ((0, -1.05), (1.05, 0), (0, 1.05), (-1.05, 0))),
    Kind("pink heart", (238, 92, 176), _heart, ((0.43, -0.938), (1.038, -0.33), (0, 0.96), (-1.038, -0.33))),
    Kind("white dome", (250, 249, 246), _dome, ((0, -0.8), (1.1, 0.3), (0, 0.65), (-1.1, 0.3))),
    Kind("black hexagon", (40, 38, 44), _hexagon, ((0, -1.039), (0.9, 0), (0, 1.039), (-0.9, 0))),
)

N_CLASSES = len(KINDS)
CLASS_NAMES = tuple(kind.name for kind in KINDS)
LABELS = ("sky", "ground", *CLASS_NAMES)  # class k has label k + 2 in the label map
FIRST_OBJECT = 2  # ... so this is the label of class 0

# each label's line in RGB from dark to light, (label, 3) in 0..255; its middle is the colour in drawn label maps
_COLOURS = np.array([kind.colour for kind in KINDS], np.float32)
DARK = np.concatenate([np.array([[84, 140, 212], [98, 84, 66]], np.float32), 0.76 * _COLOURS])
LIGHT = np.concatenate([np.array([[170, 208, 240], [178, 158, 126]], np.float32), _COLOURS + 0.16 * (255 - _COLOURS)])
DARK[LABELS.index("white dome")] *= 1.1  # apart from pale sky
PALETTE = np.round((DARK + LIGHT) / 2).astype(np.uint8)
