"""Procedural scenes in numpy: training data that needs no download, with every annotation known exactly.

A scene is a sky, a ground plane and one to four flat objects that stand on the ground. The main object is the nearest,
the largest and fully visible; its kind is the class of the scene. A kind occurs at most once in a scene.
"""

from typing import Any, NamedTuple

import numpy as np

from taming_jax.data.demo.scene_kinds import DARK, FIRST_OBJECT, KINDS, LIGHT, N_CLASSES


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
        _, right, bottom, left = KINDS[name].extremes
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
    return DARK[label] + np.clip(tone, 0, 1)[..., None] * (LIGHT[label] - DARK[label])


def _bump(x: np.ndarray, y: np.ndarray, cx: float, cy: float, wx: float, wy: float) -> np.ndarray:
    """A soft spot, (h, w), from column coordinates x (w,) and row coordinates y (h,)."""
    return np.exp(-(((y - cy) / wy) ** 2))[:, None] * np.exp(-(((x - cx) / wx) ** 2))[None, :]


def _draw_background(scene: _Scene, ys: np.ndarray, xs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image (h, w, 3) in 0..255, labels (h, w) and disparity (h, w), for the pixel centres `ys` (h,) and `xs` (w,)."""
    n = len(ys)
    sky_rows = int(np.searchsorted(ys, scene.horizon))
    y = ys[:sky_rows]
    tone = 0.25 + scene.light + 0.6 * (y / scene.horizon)[:, None] ** 1.5
    tone = tone + sum(0.5 * _bump(xs, y, *cloud) for cloud in scene.clouds.astype(np.float32))
    sun = _bump(xs, y, *scene.sun, 0.13, 0.13)
    sky = _tone(0, tone + 0.4 * sun) + sun[..., None] * np.array([18, 5, -10], np.float32)

    frequency, vanish = scene.furrows
    disparity = ((ys[sky_rows:] - scene.horizon) / (1 - scene.horizon))[:, None]
    furrows = np.sin(frequency * ((xs - vanish)[None, :] / (disparity + 0.15)))
    tone = 0.72 + scene.light - 0.2 * disparity + 0.16 * np.minimum(disparity * 2, 1) * furrows
    for o in scene.objects:  # contact shadows fall on the ground alone, so the ground keeps its line
        (_, (right, _), (_, bottom), (left, _)) = KINDS[o.kind].extremes
        width = 0.75 * o.size * (right - left)
        tone = tone - 0.55 * _bump(xs, ys[sky_rows:], o.x, o.y + o.size * bottom, width, 0.25 * o.size)
    ground = _tone(1, tone)

    image = np.concatenate([sky, ground])
    edge = (ys[sky_rows] - scene.horizon) * n - 0.5  # the pixel row that the horizon cuts is a mixture
    row = sky_rows if edge < 0 else sky_rows - 1
    image[row] += min(abs(edge), 0.5) * (image[2 * sky_rows - 1 - row] - image[row])
    labels = np.repeat(np.arange(2, dtype=np.int32), (sky_rows, n - sky_rows))[:, None]
    inverse_depth = np.concatenate([np.zeros(sky_rows, np.float32), disparity[:, 0]])[:, None]
    return image, np.repeat(labels, len(xs), 1), np.repeat(inverse_depth, len(xs), 1)


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


def _draw_object(
    o: _Object, ys: np.ndarray, xs: np.ndarray, image: np.ndarray, labels: np.ndarray, disparity: np.ndarray
) -> None:
    height, width, kind = len(ys), len(xs), KINDS[o.kind]
    (x0, y0), (x1, y1) = _corners(o)
    rows = slice(max(int(y0 * height) - 1, 0), int(y1 * height) + 2)
    columns = slice(max(int(x0 * width) - 1, 0), int(x1 * width) + 2)
    u = ((xs[columns] - o.x) / o.size)[None, :]
    v = ((ys[rows] - o.y) / o.size)[:, None]
    pixels = kind.distance(u, v) * (o.size * min(height, width))  # along the longer side it is softened a little more
    tone = 0.5 + 0.3 * _texture(o, u, v) - 0.16 * (u + v)
    cover = np.clip(0.5 - pixels, 0, 1)[..., None]
    image[rows, columns] += cover * (_tone(o.kind + FIRST_OBJECT, tone) - image[rows, columns])
    inside = pixels < 0
    labels[rows, columns][inside] = o.kind + FIRST_OBJECT
    disparity[rows, columns][inside] = o.disparity


def _corners(o: _Object) -> tuple[tuple[float, float], tuple[float, float]]:
    top, right, bottom, left = KINDS[o.kind].extremes
    return (o.x + left[0] * o.size, o.y + top[1] * o.size), (o.x + right[0] * o.size, o.y + bottom[1] * o.size)


class DemoScenes:
    """`n` scenes of `size` pixels, the side of a square or (height, width), to which they are then stretched; scene i
    depends on (seed, start + i) alone and is the same at every size.

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

    def __init__(self, size: int | tuple[int, int] = 64, n: int = 4096, seed: int = 0, start: int = 0) -> None:
        height, width = (size, size) if isinstance(size, int) else size
        if min(height, width) < 16:
            raise ValueError(f"demo scenes of size {size}: nothing can be recognised below 16 pixels; use 16 or more")
        if n < 1 or start < 0 or seed < 0:
            raise ValueError(f"demo scenes need n >= 1, start >= 0, seed >= 0; given n={n}, start={start}, seed={seed}")
        self.size, self.n, self.seed, self.start = size, n, seed, start
        self._ys, self._xs = (((np.arange(n) + 0.5) / n).astype(np.float32) for n in (height, width))

    def __len__(self) -> int:
        return self.n

    def class_label(self, i: int) -> int:
        block, place = divmod(self.start + i, N_CLASSES)
        return int(np.random.default_rng([self.seed, 0, block]).permutation(N_CLASSES)[place])

    def __getitem__(self, i: int) -> dict[str, Any]:
        if not 0 <= i < self.n:
            raise IndexError(f"scene {i} of {self.n}")
        label = self.class_label(i)
        scene = _invent_scene(np.random.default_rng([self.seed, 1, self.start + i]), label)
        image, labels, disparity = _draw_background(scene, self._ys, self._xs)
        for o in reversed(scene.objects):  # nearest last
            _draw_object(o, self._ys, self._xs, image, labels, disparity)
        corners = np.array([_corners(o) for o in scene.objects], np.float32)  # (k, 2, 2)
        points = np.array([[(0, 0), *KINDS[o.kind].extremes] for o in scene.objects], np.float32)  # (k, 5, 2)
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
