"""The ground of a landscape: a height field around the eye, cut along circles of growing distance.

Lengths are in heights of the eye above the plain. Detail is left out where it would be smaller than some pixels.
"""

import math
from typing import NamedTuple

import numpy as np

from taming_jax.data.demo.landscape_kinds import Country
from taming_jax.data.demo.landscape_noise import cell_values, noise, smooth, turn

LAYERS = 22  # of noise; the first layer of each kind:
HILLS, MOUNTAINS, DETAIL, SHORES, WOODS, MASSIFS = 0, 5, 12, 17, 19, 21
NEAR, FAR = 1.0, 70.0  # distance of the first and about that of the last circle


class Ground(NamedTuple):
    """What is at n distances in each of w columns of the picture.

    distance (n, 1). height (n, w), of the ground, negative below the water; level (n, w), without its finest detail;
    steep (n, w), the slope of that; lit (n, w), cosine of the light's angle. field (n, w), about -1 to 1, growth;
    wood (n, w): positive in woods; tree (n, w) in [-1, 1], of each tree. top (n, w): where its top appears, in pixels
    above the horizon, trees included.
    """

    distance: np.ndarray
    height: np.ndarray
    level: np.ndarray
    steep: np.ndarray
    lit: np.ndarray
    field: np.ndarray
    wood: np.ndarray
    tree: np.ndarray
    top: np.ndarray


def circles(height: int) -> np.ndarray:
    """Distances for pictures of `height` pixels, (n, 1): 80 for 64, 620 for 1024."""
    fine = math.sqrt(64 / height) * math.sqrt(math.sqrt(64 / height))
    distances = [NEAR]
    while distances[-1] < FAR:
        distances.append(distances[-1] * (1 + fine * (0.042 + 0.06 / distances[-1])))
    return np.array(distances, np.float32)[:, None]


class Land:
    """The height field of one scene.

    country: its numbers, drawn from the ranges. places: float32 (k, 2), where in the noise each of its layers begins.
    light: the direction that it comes from: right, up, away from the eye. focal: pixels of a length at the same
    distance.
    """

    def __init__(self, country: Country, places: np.ndarray, light: tuple[float, float, float], focal: int) -> None:
        self.country, self.light, self.focal = country, light, focal
        self.places = places

    def _noise(self, layer: int, x: np.ndarray, y: np.ndarray, width: float, stretch: float = 1.0) -> np.ndarray:
        place, scale = self.places[layer], 1 / width
        return noise(x * scale + place[0], y * (scale / stretch) + place[1])

    def seen_from(self, columns: np.ndarray) -> Ground:
        """columns: float32 (w,), pixels right of the middle; the first and the last serve their neighbours' slopes."""
        country, z = self.country, circles(self.focal)
        sine, cosine = (part.astype(np.float32) for part in turn(columns.astype(np.float64) / self.focal))
        x, y = z * sine, z * cosine
        height, level = self._hills(x, y, z)
        base = self._shore(x, y, z)
        height, level = height + base, level + base
        self._raise_mountains(x, y, z, height, level)
        across, along = self._slopes(level, z)
        steep = np.sqrt(across * across + along * along)
        across, along = self._slopes(height, z)
        right, up, away = self.light
        lit = (up - across * right - along * away) / np.sqrt(1 + across * across + along * along)
        field = self._detail(x, y, z)
        fringe = 0.3 * smooth(0.25 * self.focal / z - 0.5)
        wood = (
            self._noise(WOODS, x, y, 4.0) * 0.7 + self._noise(WOODS + 1, x, y, 1.3) * fringe - (1 - 2 * country.trees)
        )
        wood = np.minimum(wood, country.tree_line - level)
        wood = np.minimum(wood, (z - country.clearing) * 0.5)
        wood = np.minimum(wood, (country.rock * 1.15 - steep) * 2)
        wood = np.minimum(wood, (level - (country.sand + 0.06)) * 6)
        tall, tree = self._trees(columns, z)
        top = (np.maximum(height, 0) - 1) * (self.focal / z) + np.where(wood > 0, tall * np.minimum(wood * 6, 1), 0)
        inner = (field[:, 1:-1] for field in (height, level, steep, lit, field, wood, tree, top))
        return Ground(z, *map(np.ascontiguousarray, inner))

    def _hills(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Height and level, which has the first two octaves alone."""
        height, level = np.zeros_like(x), np.zeros_like(x)
        amplitude, width = self.country.roll, self.country.roll_width
        for octave in range(5):
            seen = smooth(width * self.focal / (4 * z) - 1)
            n = int((seen > 0).sum())
            if not n:
                break
            height[:n] += amplitude * seen[:n] * self._noise(HILLS + octave, x[:n], y[:n], width)
            amplitude, width = amplitude * 0.42, width * 0.47
            if octave == 1:
                level = height.copy()
        grown = np.minimum(0.25 + z * 0.16, self.country.grow)
        return height * grown, level * grown

    def _shore(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Height of the plain, which the water is a part of."""
        country = self.country
        if not country.shore:
            return np.full_like(x, country.near)
        edge = country.shore * (1 + 0.3 * self._noise(SHORES, x, y, 3.0))
        opposite = country.shore + country.across * (1 + 0.5 * self._noise(SHORES + 1, x, y, 20.0))
        below = country.near + (-country.below - country.near) * smooth((z - edge) / 0.8)
        return below + (country.below + 0.3) * smooth((z - opposite) / 6)

    def _raise_mountains(
        self, x: np.ndarray, y: np.ndarray, z: np.ndarray, height: np.ndarray, level: np.ndarray
    ) -> None:
        """Adds ridges, and ridges on them where they are high; level gets the first two octaves alone."""
        country = self.country
        first = int((z <= country.far).sum())
        x, y, z = x[first:], y[first:], z[first:]
        lift = smooth((z - country.far) / country.far)
        lift = lift * smooth(self._noise(MASSIFS, x, y, country.peak_width * 2.2) - country.gaps + 0.4)
        total, weight, rough = np.zeros_like(x), np.ones_like(x), np.zeros_like(x)
        amplitude, width = country.peak, country.peak_width
        for octave in range(7):
            seen = smooth(width * self.focal / (7 * z) - 0.8)
            n = int((seen > 0).sum())
            if not n:
                break
            ridge = 1 - np.abs(self._noise(MOUNTAINS + octave, x[:n], y[:n], width, 1.4))
            ridge *= ridge
            total[:n] += amplitude * seen[:n] * weight[:n] * (ridge - 0.45 if octave else ridge)
            weight[:n] *= np.minimum(ridge * 1.3, 1)
            amplitude, width = amplitude * 0.46, width * 0.5
            if octave == 1:
                rough = total.copy()
        height[first:] += total * lift
        level[first:] += rough * lift

    def _detail(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        total, amplitude, width = np.zeros_like(x), 1.0, 0.9
        for octave in range(5):
            seen = smooth(width * self.focal / (6 * z) - 0.5)
            n = int((seen > 0).sum())
            if not n:
                break
            total[:n] += amplitude * seen[:n] * self._noise(DETAIL + octave, x[:n], y[:n], width)
            amplitude, width = amplitude * 0.6, width * 0.4
        return total

    def _slopes(self, height: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rise to the right and away from the eye."""
        across, along = np.zeros_like(height), np.empty_like(height)
        across[:, 1:-1] = (height[:, 2:] - height[:, :-2]) * (self.focal / (2 * z))
        along[1:] = (height[1:] - height[:-1]) / (z[1:] - z[:-1])
        along[0] = along[1]
        return across, along

    def _trees(self, columns: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Outlines of firs in pixels, (n, w), a row of them at each distance, and a number in [-1, 1] for each."""
        tall = np.maximum(0.2 * self.focal / z - 0.6, 0)  # far woods are smooth
        row = np.arange(len(z), dtype=np.int32)[:, None]
        place = columns / np.maximum(tall * 0.62, 2.2) + (row * 37 % 101).astype(np.float32) * 0.37
        cell = np.floor(place)
        number = cell_values(cell.astype(np.int32), row * 7)
        return tall * (0.75 + 0.3 * number) * (1 - 2 * np.abs(place - cell - 0.5)), number
