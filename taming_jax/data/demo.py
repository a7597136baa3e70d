"""Procedural scenes in numpy: training data that needs no download, with every annotation known exactly.

A scene is a sky, a ground plane and one to four flat objects that stand on the ground. Ten kinds of object exist,
each a shape with its own colour. The main object is the nearest, the largest and fully visible; its kind is the class
of the scene. A kind occurs at most once in a scene.

Every label owns a short line in RGB space, from its dark to its light tone, and texture, shading and shadow move along
that line only (but for a touch of warmth around the sun). So the label of a pixel is that of the nearest line, and
`read_labels` and `read_class` read an image back by that rule.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

# The shapes: signed distance (nearly so; negative inside) of (u, v) in object units, v pointing down. All have about
# the same area (2.2 to 2.75), so that `size` alone decides which object is the largest.


def _disk(u, v):
    return np.hypot(u, v) - 0.92


def _square(u, v):
    return np.maximum(np.abs(u), np.abs(v)) - 0.82


def _star(u, v):
    # fold the plane into half of one arm: there the outline is the line from the tip (1.22, 0) to the inner corner
    radius, angle = np.hypot(u, v), np.arctan2(u, -v)
    angle = np.abs((angle + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
    x, y = 0.62 * math.cos(math.pi / 5), 0.62 * math.sin(math.pi / 5)
    return ((radius * np.cos(angle) - 1.22) * y + radius * np.sin(angle) * (1.22 - x)) / math.hypot(y, 1.22 - x)


def _triangle(u, v):
    # apex (0, -1.2), base from (-1.15, 1) to (1.15, 1)
    return np.maximum((np.abs(u) * 2.2 - (v + 1.2) * 1.15) / math.hypot(2.2, 1.15), v - 1.0)


def _ring(u, v):
    return np.abs(np.hypot(u, v) - 0.72) - 0.28


def _diamond(u, v):
    return (np.abs(u) + np.abs(v) - 1.14) * 0.7071


def _cross(u, v):
    a, b = np.abs(u), np.abs(v)
    return np.minimum(np.maximum(a - 0.4, b - 1.05), np.maximum(a - 1.05, b - 0.4))


def _heart(u, v):
    # a square on its corner with a disk on each upper side
    u, v = np.abs(u), v - 0.1
    return np.minimum((u + np.abs(v) - 0.86) * 0.7071, np.hypot(u - 0.43, v + 0.43) - 0.608)


def _dome(u, v):
    v = v - 0.3
    return np.maximum(np.where(v < 0, np.hypot(u, v), np.abs(u)) - 1.1, v - 0.35)


def _hexagon(u, v):
    u, v = np.abs(u), np.abs(v)
    return np.maximum(0.5 * u + 0.866 * v, u) - 0.9


class _Kind(NamedTuple):
    name: str
    colour: tuple[int, int, int]
    distance: Callable
    extremes: tuple  # (x, y) of the top, right, bottom and left point in object units


# the star's tips
_S1, _C1, _S2, _C2 = (1.22 * f(a) for a in (math.tau / 5, 2 * math.tau / 5) for f in (math.sin, math.cos))
_KINDS = (
    _Kind("red disk", (214, 40, 40), _disk, ((0, -0.92), (0.92, 0), (0, 0.92), (-0.92, 0))),
    _Kind("orange square", (244, 130, 24), _square, ((0, -0.82), (0.82, 0), (0, 0.82), (-0.82, 0))),
    _Kind("yellow star", (244, 214, 40), _star, ((0, -1.22), (_S1, -_C1), (_S2, -_C2), (-_S1, -_C1))),
    _Kind("green triangle", (46, 160, 56), _triangle, ((0, -1.2), (1.15, 1), (0, 1), (-1.15, 1))),
    _Kind("turquoise ring", (16, 182, 172), _ring, ((0, -1), (1, 0), (0, 1), (-1, 0))),
    _Kind("blue diamond", (38, 76, 214), _diamond, ((0, -1.14), (1.14, 0), (0, 1.14), (-1.14, 0))),
    _Kind("purple cross", (124, 50, 190), _cross, ((0, -1.05), (1.05, 0), (0, 1.05), (-1.05, 0))),
    _Kind("pink heart", (238, 92, 176), _heart, ((0.43, -0.938), (1.038, -0.33), (0, 0.96), (-1.038, -0.33))),
    _Kind("white dome", (250, 249, 246), _dome, ((0, -0.8), (1.1, 0.3), (0, 0.65), (-1.1, 0.3))),
    _Kind("black hexagon", (40, 38, 44), _hexagon, ((0, -1.039), (0.9, 0), (0, 1.039), (-0.9, 0))),
)

N_CLASSES = len(_KINDS)
CLASS_NAMES = tuple(kind.name for kind in _KINDS)
LABELS = ("sky", "ground", *CLASS_NAMES)  # class k has label k + 2 in the label map
FIRST_OBJECT = 2  # ... so this is the label of class 0

# each label's line in RGB from dark to light, (label, 3) in 0..255; its middle is the colour in drawn label maps
_COLOURS = np.array([kind.colour for kind in _KINDS], np.float32)
_DARK = np.concatenate([np.array([[84, 140, 212], [98, 84, 66]], np.float32), 0.76 * _COLOURS])
_LIGHT = np.concatenate([np.array([[170, 208, 240], [178, 158, 126]], np.float32), _COLOURS + 0.16 * (255 - _COLOURS)])
_DARK[LABELS.index("white dome")] *= 1.1  # apart from pale sky
PALETTE = np.round((_DARK + _LIGHT) / 2).astype(np.uint8)


class _Object(NamedTuple):
    kind: int
    x: float  # centre, in [0, 1] of the image's side
    y: float
    size: float  # one object unit, as a share of the image's side
    disparity: float  # inverse depth: 0 at the horizon, 1 at the bottom edge
    texture: int
    frequency: float
    angle: float


class _Scene(NamedTuple):
    horizon: float
    light: float
    sun: tuple[float, float]
    clouds: np.ndarray  # (3, 4): x, y, half width, half height
    furrows: tuple[float, float]  # frequency, vanishing point
    objects: list[_Object]  # nearest first


def _invent_scene(rng: np.random.Generator, kind: int) -> _Scene:
    """Draws everything that is random, in coordinates that do not depend on the image size."""
    horizon = rng.uniform(0.34, 0.54)
    kinds = np.concatenate([[kind], rng.permutation(np.delete(np.arange(N_CLASSES), kind))])
    base, size = rng.uniform(0.84, 0.97), rng.uniform(0.2, 0.27)
    near = (base - horizon) / (1 - horizon)
    objects: list[_Object] = []
    for j in range(rng.integers(1, 5)):
        name = int(kinds[j])
        _, right, bottom, left = _KINDS[name].extremes
        if objects:
            base = rng.uniform(horizon + 0.08, objects[0].y + objects[0].size * 0.5)
            disparity = (base - horizon) / (1 - horizon)
            # smaller with distance, and never so large that the main object could be mistaken
            size = objects[0].size * min(max(disparity / near * rng.uniform(0.9, 1.3), 0.34), 0.66)
        else:
            disparity = near
        look = int(rng.integers(5)), rng.uniform(5.5, 8.0), rng.uniform(0, np.pi)
        for x in rng.uniform(0.02 - left[0] * size, 0.98 - right[0] * size, 8).tolist():
            # overlap is welcome, but no object may be mostly hidden: without a free place it is left out
            if all(abs(x - o.x) > 0.7 * max(size, o.size) + 0.2 * min(size, o.size) for o in objects):
                objects.append(_Object(name, x, base - bottom[1] * size, size, disparity, *look))
                break
    objects.sort(key=lambda o: -o.disparity)
    clouds = rng.uniform([0, 0, 0.12, 0.02], [1, 0.3, 0.35, 0.06], (3, 4))
    sun = rng.uniform(0.1, 0.9), rng.uniform(0.0, 0.2)
    return _Scene(horizon, rng.uniform(-0.15, 0.15), sun, clouds, (rng.uniform(3, 6), rng.uniform(0.2, 0.8)), objects)


def _tone(label: int, tone: np.ndarray) -> np.ndarray:
    """Tone in [0, 1], (h, w), to RGB on the line of the label, (h, w, 3)."""
    return _DARK[label] + np.clip(tone, 0, 1)[..., None] * (_LIGHT[label] - _DARK[label])


def _bump(x, y, cx, cy, wx, wy):
    """A soft spot, (h, w), from column coordinates x (w,) and row coordinates y (h,)."""
    return np.exp(-(((y - cy) / wy) ** 2))[:, None] * np.exp(-(((x - cx) / wx) ** 2))[None, :]


def _draw_background(scene: _Scene, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image (h, w, 3) in 0..255, labels (h, w) and disparity (h, w), for the pixel centres `grid` (h,)."""
    n = len(grid)
    sky_rows = int(np.searchsorted(grid, scene.horizon))
    y = grid[:sky_rows]
    tone = 0.25 + scene.light + 0.6 * (y / scene.horizon)[:, None] ** 1.5
    tone = tone + sum(0.5 * _bump(grid, y, *cloud) for cloud in scene.clouds.astype(np.float32))
    sun = _bump(grid, y, *scene.sun, 0.13, 0.13)
    sky = _tone(0, tone + 0.4 * sun) + sun[..., None] * np.array([18, 5, -10], np.float32)

    frequency, vanish = scene.furrows
    disparity = ((grid[sky_rows:] - scene.horizon) / (1 - scene.horizon))[:, None]
    furrows = np.sin(frequency * ((grid - vanish)[None, :] / (disparity + 0.15)))
    tone = 0.72 + scene.light - 0.2 * disparity + 0.16 * np.minimum(disparity * 2, 1) * furrows
    for o in scene.objects:  # contact shadows fall on the ground alone, so the ground keeps its line
        (_, (right, _), (_, bottom), (left, _)) = _KINDS[o.kind].extremes
        width = 0.75 * o.size * (right - left)
        tone = tone - 0.55 * _bump(grid, grid[sky_rows:], o.x, o.y + o.size * bottom, width, 0.25 * o.size)
    ground = _tone(1, tone)

    image = np.concatenate([sky, ground])
    edge = (grid[sky_rows] - scene.horizon) * n - 0.5  # the pixel row that the horizon cuts is a mixture
    row = sky_rows if edge < 0 else sky_rows - 1
    image[row] += min(abs(edge), 0.5) * (image[2 * sky_rows - 1 - row] - image[row])
    labels = np.repeat(np.arange(2, dtype=np.int32), (sky_rows, n - sky_rows))[:, None]
    inverse_depth = np.concatenate([np.zeros(sky_rows, np.float32), disparity[:, 0]])[:, None]
    return image, np.repeat(labels, n, 1), np.repeat(inverse_depth, n, 1)


def _texture(o: _Object, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Pattern in [-1, 1], (h, w), from columns u (1, w) and rows v (h, 1)."""
    f = o.frequency
    if o.texture == 0:
        return np.sin(f * (u * np.cos(o.angle) + v * np.sin(o.angle)))
    if o.texture == 1:
        return np.clip(2 * np.sin(0.8 * f * u + o.angle) * np.sin(0.8 * f * v), -1, 1)
    if o.texture == 2:
        return np.clip(1.5 * (np.cos(f * u) + np.cos(f * v)) - 0.8, -1, 1)
    if o.texture == 3:
        return np.sin(f * np.hypot(u, v) + o.angle)
    return np.clip(1 - 1.1 * np.hypot(u + 0.3, v + 0.35), -1, 1)


def _draw_object(o: _Object, grid: np.ndarray, image: np.ndarray, labels: np.ndarray, disparity: np.ndarray) -> None:
    n, kind = len(grid), _KINDS[o.kind]
    (x0, y0), (x1, y1) = _corners(o)
    rows = slice(max(int(y0 * n) - 1, 0), int(y1 * n) + 2)
    columns = slice(max(int(x0 * n) - 1, 0), int(x1 * n) + 2)
    u = ((grid[columns] - o.x) / o.size)[None, :]
    v = ((grid[rows] - o.y) / o.size)[:, None]
    pixels = kind.distance(u, v) * (o.size * n)
    tone = 0.5 + 0.3 * _texture(o, u, v) - 0.16 * (u + v)
    cover = np.clip(0.5 - pixels, 0, 1)[..., None]
    image[rows, columns] += cover * (_tone(o.kind + FIRST_OBJECT, tone) - image[rows, columns])
    inside = pixels < 0
    labels[rows, columns][inside] = o.kind + FIRST_OBJECT
    disparity[rows, columns][inside] = o.disparity


def _corners(o: _Object) -> tuple[tuple[float, float], tuple[float, float]]:
    top, right, bottom, left = _KINDS[o.kind].extremes
    return (o.x + left[0] * o.size, o.y + top[1] * o.size), (o.x + right[0] * o.size, o.y + bottom[1] * o.size)


class DemoScenes:
    """`n` scenes of `size` x `size` pixels; scene i depends on (seed, start + i) alone and is the same at every size.

    Classes are balanced: every ten consecutive indices (from a multiple of ten) hold each class once. Ranges of indices
    that do not overlap (`start`, `n`) give disjoint sets of scenes. An item is a dict:
      image         uint8 (H, W, 3)
      class_label   int, the kind of the main object: an index into CLASS_NAMES
      segmentation  int32 (H, W), index into LABELS; hard edges, while the image's are anti-aliased
      depth         float32 (H, W) in [-1, 1]: inverse depth; -1 in the sky and at the horizon, 1 nearest
      boxes         float32 (k, 4): x, y, width, height in [0, 1], tight around the whole object, hidden parts
                    included; nearest first
      box_labels    int32 (k,), index into LABELS; the first is the main object
      keypoints     float32 (k, 5, 2): x, y in [0, 1] of the centre and the top, right, bottom and left extremal points
    """

    def __init__(self, size: int = 64, n: int = 4096, seed: int = 0, start: int = 0):
        if size < 16:
            raise ValueError(f"demo scenes of size {size}: nothing can be recognised below 16 pixels; use 16 or more")
        if n < 1 or start < 0 or seed < 0:
            raise ValueError(f"demo scenes need n >= 1, start >= 0, seed >= 0; given n={n}, start={start}, seed={seed}")
        self.size, self.n, self.seed, self.start = size, n, seed, start
        self._grid = ((np.arange(size) + 0.5) / size).astype(np.float32)

    def __len__(self) -> int:
        return self.n

    def class_label(self, i: int) -> int:
        block, place = divmod(self.start + i, N_CLASSES)
        return int(np.random.default_rng([self.seed, 0, block]).permutation(N_CLASSES)[place])

    def __getitem__(self, i: int) -> dict:
        if not 0 <= i < self.n:
            raise IndexError(f"scene {i} of {self.n}")
        label = self.class_label(i)
        scene = _invent_scene(np.random.default_rng([self.seed, 1, self.start + i]), label)
        image, labels, disparity = _draw_background(scene, self._grid)
        for o in reversed(scene.objects):  # nearest last
            _draw_object(o, self._grid, image, labels, disparity)
        corners = np.array([_corners(o) for o in scene.objects], np.float32)  # (k, 2, 2)
        points = np.array([[(0, 0), *_KINDS[o.kind].extremes] for o in scene.objects], np.float32)  # (k, 5, 2)
        centres = np.array([[(o.x, o.y)] for o in scene.objects], np.float32)
        sizes = np.array([[[o.size]] for o in scene.objects], np.float32)
        return {
            "image": np.clip(image + 0.5, 0, 255).astype(np.uint8),
            "class_label": label,
            "segmentation": labels,
            "depth": 2 * disparity - 1,
            "boxes": np.concatenate([corners[:, 0], corners[:, 1] - corners[:, 0]], axis=1),
            "box_labels": np.array([o.kind + FIRST_OBJECT for o in scene.objects], np.int32),
            "keypoints": centres + sizes * points,
        }


def _nearest_line(pixels: np.ndarray) -> np.ndarray:
    """Label of the nearest line for pixels (n, 3) in 0..255."""
    # squared distance to dark + t * line, t in [0, 1], without the term that all labels share; (labels, n)
    line = _LIGHT - _DARK
    length = np.square(line).sum(1, keepdims=True)
    towards = line @ pixels.T - (line * _DARK).sum(1, keepdims=True)
    t = np.clip(towards / length, 0, 1)
    distance = np.square(_DARK).sum(1, keepdims=True) - 2 * (_DARK @ pixels.T) + t * (t * length - 2 * towards)
    return np.argmin(distance, axis=0).astype(np.int32)


def read_labels(images: np.ndarray) -> np.ndarray:
    """Reads the label map back: the label whose line in RGB is nearest to the pixel.

    images: (..., H, W, 3), uint8 or float in [-1, 1]. Returns int32 (..., H, W), index into LABELS.
    """
    images = np.asarray(images)
    if images.ndim < 3 or images.shape[-1] != 3:
        raise ValueError(f"images must be (..., H, W, 3); given shape {images.shape}")
    pixels = images.reshape(-1, 3).astype(np.float32)
    if images.dtype != np.uint8:
        pixels = (pixels + 1) * 127.5
    chunks = np.array_split(pixels, len(pixels) // 8192 + 1)  # small enough to stay in the processor's cache
    return np.concatenate([_nearest_line(chunk) for chunk in chunks]).reshape(images.shape[:-1])


def read_class(images: np.ndarray) -> np.ndarray:
    """The class of each image: the object label with the largest area.

    images: as in `read_labels`. Returns int32 (...), index into CLASS_NAMES.
    """
    labels = read_labels(images)
    areas = [(labels == label).sum((-2, -1)) for label in range(FIRST_OBJECT, len(LABELS))]
    return np.argmax(areas, axis=0).astype(np.int32)


def score_class(images: np.ndarray, conditions: Mapping[str, np.ndarray]) -> np.ndarray:
    """A scorer for rejection sampling: of the pixels read as objects the share that is of the class asked for, (n,)."""
    labels = read_labels(images)
    right = labels == np.asarray(conditions["class_label"])[:, None, None] + FIRST_OBJECT
    return right.sum(axis=(1, 2)) / np.maximum(1, (labels >= FIRST_OBJECT).sum(axis=(1, 2)))
