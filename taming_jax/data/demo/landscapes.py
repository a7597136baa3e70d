"""Procedural landscapes in numpy, of any size: training data that needs no download, with exact annotations.

A height field is cut along circles around the eye; what a pixel shows is the first of them that reaches as high.
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from taming_jax.data.demo.landscape_ground import LAYERS, Ground, Land
from taming_jax.data.demo.landscape_kinds import (
    DARK,
    FOREST,
    LIGHT,
    MEADOW,
    MOODS,
    N_CLASSES,
    RECIPES,
    ROCK,
    SAND,
    SKIES,
    SNOW,
    WATER,
    Country,
)
from taming_jax.data.demo.landscape_noise import noise
from taming_jax.data.demo.landscape_sky import SKY_LAYERS, paint_sky

_GRAIN = np.zeros(10, np.float32)  # how strong the grain of a label is
_GRAIN[[SNOW, ROCK, FOREST, MEADOW, SAND]] = 0.05, 0.12, 0.1, 0.1, 0.05


class _Scene(NamedTuple):
    mood: int
    country: Country
    light: tuple[float, float, float]  # where it comes from: right, up, away from the eye
    sun: tuple[float, float]  # right of the middle and above the horizon, in heights of the picture
    cover: float  # of clouds
    haze: float  # how much of the farthest ground it hides
    places: np.ndarray  # float32 (k, 2): where in the noise each layer begins


def _invent_scene(rng: np.random.Generator, label: int) -> _Scene:
    """Draws everything that is random."""
    number, mood = divmod(label, len(MOODS))
    ranges = zip(*list(RECIPES.values())[number], strict=True)
    country = Country(*(low + (high - low) * rng.random() for low, high in ranges))
    side = 1 if rng.random() < 0.5 else -1
    light = (side * (0.7, 0.85, 0.3)[mood], (0.62, 0.42, 0.85)[mood], -0.35)
    sun = rng.random() - 0.5, (0.25 + 0.45 * rng.random() if mood == 0 else 0.03 + 0.12 * rng.random())
    cover = (0.5, 0.4, 0.0)[mood] * rng.random()
    haze = (0.3, 0.3, 0.35)[mood] * (0.8 + 0.4 * rng.random())
    places = (rng.random((LAYERS + SKY_LAYERS + 3, 2)) * 256).astype(np.float32)
    return _Scene(mood, country, light, sun, cover, haze, places)


class _Seen(NamedTuple):
    """Which part of the ground shows in each pixel, (h, w).

    place: flat index into the ground's arrays, of the nearest circle that reaches as high; before: of the circle before
    it, and share: how far it is from there to here. sky: where there is none.
    """

    before: np.ndarray
    place: np.ndarray
    share: np.ndarray
    sky: np.ndarray

    def of(self, values: np.ndarray) -> np.ndarray:
        """What an array of the ground, (n, w), has there."""
        before = values.take(self.before)
        return before + self.share * (values.take(self.place) - before)


def _look(top: np.ndarray, elevations: np.ndarray) -> _Seen:
    """top: (n, w), as in `Ground`; elevations: (h,) of the rows of pixels, from the first row of the picture on."""
    n, w = top.shape
    h, column = len(elevations), np.arange(w, dtype=np.int32)
    skyline = np.maximum.accumulate(top, axis=0)
    row = np.ceil(elevations[0] - skyline).astype(np.int32)  # the first that this circle and nearer ones cover
    row = np.minimum(np.maximum(row, 0), h)
    row[1:] = np.where(row[1:] < row[:-1], row[1:], h)  # those that cover no further row
    first = np.full((h + 1, w), n, np.int32)
    first[row, column] = np.arange(n, dtype=np.int32)[:, None]
    first = np.minimum.accumulate(first[:h], axis=0)
    place = np.minimum(np.maximum(first, 1), n - 1) * w + column
    lower, upper = top.take(place - w), top.take(place)
    share = (elevations[:, None] - lower) / np.maximum(upper - lower, 1e-6)
    return _Seen(place - w, place, np.minimum(np.maximum(share, 0), 1), first == n)


def _label(country: Country, ground: Ground, seen: _Seen, wobble: np.ndarray) -> np.ndarray:
    """Labels (h, w) of the ground. wobble: noise (h, w), of borders between labels."""
    height, steep = seen.of(ground.height), seen.of(ground.steep)
    level = 0.5 * (height + seen.of(ground.level))
    labels = np.full(steep.shape, MEADOW, np.int32)
    if country.sand:
        labels[level < country.sand * (1 + 0.25 * wobble)] = SAND
    labels[(level > country.tree_line * (1 + 0.2 * wobble)) | (steep > country.rock)] = ROCK
    labels[(level > country.snow * (1 + 0.12 * wobble)) & (steep < country.rock * 2)] = SNOW
    labels[seen.of(ground.wood) > 0] = FOREST
    labels[height < 0] = WATER
    return labels


def _paint_ground(
    scene: _Scene, ground: Ground, seen: _Seen, labels: np.ndarray, grain: np.ndarray, distance: np.ndarray
) -> np.ndarray:
    """RGB float32 (3, h, w) in 0..255; where there is water, its bed."""
    tone = 0.12 + 0.75 * np.maximum(seen.of(ground.lit), 0)
    tone += _GRAIN[labels] * grain + 0.13 * seen.of(ground.field)
    trees = 0.35 * tone + 0.35 * seen.share + 0.18 + 0.15 * ground.tree.take(seen.place)  # bright at their tops
    tone = np.minimum(np.maximum(np.where(labels == FOREST, trees, tone), 0), 1)
    dark, light = DARK[scene.mood].T, LIGHT[scene.mood].T
    image = dark.take(labels, axis=1) + tone * (light - dark).take(labels, axis=1)
    mist = np.minimum(distance * (1 / 90), 1)
    mist = scene.haze * mist * (2 - mist) * np.where(labels == SNOW, np.float32(0.5), np.float32(1))  # it shines
    haze = SKIES[scene.mood, 2] * 0.75 + SKIES[scene.mood, 1] * 0.25
    return image + mist * (haze[:, None, None] - image)


def _fill_water(mood: int, image: np.ndarray, water: np.ndarray, ripple: np.ndarray) -> None:
    """Paints water, where it is, mirroring what stands above its far shore in the same column."""
    h, w = water.shape
    row = np.arange(h, dtype=np.int32)[:, None]
    shore = np.maximum.accumulate(np.where(water, 0, row), axis=0)
    below = row - shore
    mirrored = shore + 1 - below + np.floor(ripple * np.minimum(below * 0.12, 3)).astype(np.int32)
    mirrored = np.minimum(np.maximum(mirrored, 0), row) * w + np.arange(w, dtype=np.int32)
    tone = np.minimum(np.maximum(0.45 + 0.35 * ripple, 0), 1)
    dark, light = DARK[mood, WATER][:, None, None], LIGHT[mood, WATER][:, None, None]
    body = dark + tone * (light - dark)
    np.copyto(image, 0.5 * (image.reshape(3, -1).take(mirrored, axis=1) + body), where=water)


def _draw(
    scene: _Scene, whole: tuple[int, int], top: int, left: int, height: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image uint8 (height, width, 3), labels int32 and disparity float32 (height, width) of a part of the picture."""
    size, horizon = whole[0], scene.country.horizon * whole[0]
    columns = np.arange(left - 1, left + width + 1, dtype=np.float32) + (0.5 - whole[1] / 2)
    rows = np.arange(top + height, dtype=np.float32)  # from the first, since water mirrors what stands above
    elevations = (horizon - 0.5) - rows
    layers = iter(scene.places[LAYERS + SKY_LAYERS :])
    ground = Land(scene.country, scene.places, scene.light, size).seen_from(columns)
    columns = columns[1:-1]
    seen = _look(ground.top, elevations)

    def speckle(across: float, down: float) -> np.ndarray:
        place = next(layers)
        return noise(columns * (1 / across) + place[0], rows[:, None] * (1 / down) + place[1])

    rough = math.sqrt(size / 64)
    grain, wobble = speckle(3.1, 2.3), speckle(7 * rough, 5 * rough)
    labels = _label(scene.country, ground, seen, wobble)
    distance = np.where(seen.sky, np.float32(1e9), ground.distance.take(seen.place // width))
    image = _paint_ground(scene, ground, seen, labels, grain, distance)
    n_sky = int(seen.sky.any(1).sum())
    sky, sky_labels = paint_sky(
        scene.mood, scene.sun, scene.cover, scene.places[LAYERS:], size, columns, elevations[:n_sky]
    )
    np.copyto(image[:, :n_sky], sky, where=seen.sky[:n_sky])
    np.copyto(labels[:n_sky], sky_labels, where=seen.sky[:n_sky])
    water = labels == WATER
    if water.any():
        _fill_water(scene.mood, image, water, speckle(9, 2))
    image = np.minimum(np.maximum(image[:, top:] + 0.5, 0), 255).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(image, 0, 2)), labels[top:], np.minimum(1.4 / distance[top:], 1)


@lru_cache(maxsize=4096)
def _class_order(seed: int, block: int) -> np.ndarray:
    return np.random.default_rng([seed, 2, block]).permutation(N_CLASSES)


class DemoLandscapes:
    """`n` landscapes of `size` pixels, the side of a square or (height, width); landscape i depends on
    (seed, start + i) alone, and is the same to the bit on every machine.

    A picture is a view all around, `height` pixels high, of which the middle `width` are shown (it closes after 2 pi
    heights); so wide ones continue narrow ones. In high ones the same land shows finer detail, while the smallest stays
    of the same size in pixels: a network that learned from parts of pictures has seen the textures of larger ones.

    Classes are balanced: every 18 consecutive indices (from a multiple of 18) hold each once. Ranges of indices that do
    not overlap (`start`, `n`) give disjoint sets. An item is a dict:
      image         uint8 (H, W, 3)
      class_label   int, index into CLASS_NAMES: the country and the mood
      mood          int, index into MOODS
      segmentation  int32 (H, W), index into LABELS; sky that is not clouded has its mood for a label
      depth         float32 (H, W) in [-1, 1]: inverse depth; -1 in the sky, 1 nearest
      crop          int32 (4,): top, left, height and width of the whole picture
    """

    def __init__(self, size: int | tuple[int, int] = 64, n: int = 4096, seed: int = 0, start: int = 0) -> None:
        self.sides = (size, size) if isinstance(size, int) else (size[0], size[1])
        if not 16 <= min(self.sides) <= max(self.sides) <= 1 << 16:
            raise ValueError(f"landscapes of size {size}: they have from 16 to {1 << 16} pixels a side")
        if n < 1 or start < 0 or seed < 0:
            raise ValueError(f"landscapes need n >= 1, start >= 0, seed >= 0; given n={n}, start={start}, seed={seed}")
        self.n, self.seed, self.start = n, seed, start

    def __len__(self) -> int:
        return self.n

    def class_label(self, i: int) -> int:
        block, place = divmod(self.start + i, N_CLASSES)
        return int(_class_order(self.seed, block)[place])

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self.part(i, self.sides, 0, 0)

    def part(self, i: int, whole: tuple[int, int], top: int, left: int) -> dict[str, Any]:
        """What `size` pixels of landscape i show that begin at `top` and `left` in its picture of `whole` pixels, as it
        is there. Raises ValueError where they reach beyond it."""
        if not 0 <= i < self.n:
            raise IndexError(f"landscape {i} of {self.n}")
        height, width = self.sides
        if not (0 <= top <= whole[0] - height and 0 <= left <= whole[1] - width):
            raise ValueError(f"{height} x {width} pixels at {(top, left)} are not in a picture of {whole}")
        label = self.class_label(i)
        scene = _invent_scene(np.random.default_rng([self.seed, 3, self.start + i]), label)
        image, labels, disparity = _draw(scene, whole, top, left, height, width)
        return {
            "image": image,
            "class_label": label,
            "mood": scene.mood,
            "segmentation": labels,
            "depth": 2 * disparity - 1,
            "crop": np.array([top, left, *whole], np.int32),
        }
