"""How well images of the demo's scenes show what was asked for: images (n, H, W, 3) in [-1, 1] and the batch of the
scenes that the conditions are from -> one figure. What an image shows is read by `taming_jax.data.demo.read_labels`."""

from functools import lru_cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import ndimage

from taming_jax.data import demo, pipeline
from taming_jax.data.config import DataConfig
from taming_jax.nn import maps

Batch = dict[str, np.ndarray]
NEAR = 3  # pixels that a centre may be away
ASKED = 8  # pixels a side: smaller objects are not counted
SMALLEST = 9  # pixels: smaller regions are no objects
READER_STEPS = 500


def right_class(images: np.ndarray, scenes: Batch) -> float:
    """Share of images whose largest object is of the class."""
    return float(np.mean(demo.read_class(images) == scenes["class_label"]))


def label_iou(images: np.ndarray, scenes: Batch) -> float:
    """Intersection over union of the read label map with the asked one, mean over the labels that the latter has."""
    ious = []
    for read, asked in zip(demo.read_labels(images), scenes["segmentation"]):
        labels = np.unique(asked)
        ious.append(np.mean([((read == k) & (asked == k)).sum() / ((read == k) | (asked == k)).sum() for k in labels]))
    return float(np.mean(ious))


def edge_distance(images: np.ndarray, scenes: Batch) -> float:
    """Mean distance in pixels from an edge to the nearest edge of the other, both ways (chamfer distance)."""
    ours, asked = (np.asarray(maps.edges(jnp.asarray(x), 1.0))[..., 0] > 0 for x in (images, scenes["image"]))
    return float(np.mean([(_to_nearest(a, b) + _to_nearest(b, a)) / 2 for a, b in zip(ours, asked)]))


def _to_nearest(edges: np.ndarray, others: np.ndarray) -> float:
    if not edges.any():
        return 0.0 if not others.any() else float(len(edges))
    return ndimage.distance_transform_edt(~others)[edges].mean() if others.any() else float(len(edges))


def low_res_error(images: np.ndarray, scenes: Batch) -> float:
    """Mean absolute difference of the images at a quarter of the resolution, in a range of 2."""
    small = [np.asarray(maps.low_resolution(jnp.asarray(x), 4)) for x in (images, scenes["image"])]
    return float(np.abs(small[0] - small[1]).mean())


def boxes_found(images: np.ndarray, scenes: Batch) -> float:
    """Share of the objects (see `_visible`) that are read at their box, with an intersection over union above 0.5."""
    return _share_found(images, scenes, lambda found, box, _: found is not None and box_iou(found, box) > 0.5)


def centres_found(images: np.ndarray, scenes: Batch) -> float:
    """Share of the objects whose read region has its box's centre within NEAR pixels of the asked centre."""

    def is_near(found, box, side):
        return found is not None and np.hypot(*(found[:2] + found[2:] / 2 - box[:2] - box[2:] / 2)) * side <= NEAR

    return _share_found(images, scenes, is_near)


def figures_found(images: np.ndarray, scenes: Batch) -> float:
    """As `boxes_found`, for an object of any kind at the box that the key points span: they do not tell the kind."""
    good = []
    for read, boxes in zip(demo.read_labels(images), _visible(scenes)):
        regions = [region(read, kind) for kind in range(demo.N_CLASSES)]
        good += [any(r is not None and box_iou(r, box) > 0.5 for r in regions) for box in boxes.values()]
    return float(np.mean(good))


def _share_found(images: np.ndarray, scenes: Batch, is_right) -> float:
    good = []
    for read, boxes in zip(demo.read_labels(images), _visible(scenes)):
        good += [is_right(region(read, kind), box, len(read)) for kind, box in boxes.items()]
    return float(np.mean(good))


def _visible(scenes: Batch) -> list[dict[int, np.ndarray]]:
    """Kind -> box of the objects that count: at least ASKED pixels a side, which is two codes, and not hidden by nearer
    ones, so that the real scene's own label map has a region with an intersection over union above 0.5."""
    shown = []
    for labels, boxes, kinds in zip(scenes["segmentation"], scenes["object_boxes"], scenes["object_category"]):
        found = {int(kind): (box, region(labels, kind)) for kind, box in zip(kinds, boxes) if kind >= 0}
        found = {kind: (box, r) for kind, (box, r) in found.items() if box[2:].min() * len(labels) >= ASKED}
        shown.append({kind: box for kind, (box, r) in found.items() if r is not None and box_iou(r, box) > 0.5})
    return shown


def region(labels: np.ndarray, kind: int) -> np.ndarray | None:
    """The box, as shares x, y, width, height, of the largest connected region of a kind of object, if there is one."""
    parts, n = ndimage.label(labels == kind + demo.FIRST_OBJECT, np.ones((3, 3)))
    if not n:
        return None
    sizes = np.bincount(parts.ravel())[1:]
    if sizes.max() < SMALLEST:
        return None
    rows, columns = ndimage.find_objects(parts)[int(sizes.argmax())]
    return np.array([columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]) / len(labels)


def box_iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes (x, y, width, height)."""
    sides = np.minimum(a[:2] + a[2:], b[:2] + b[2:]) - np.maximum(a[:2], b[:2])
    common = np.prod(np.maximum(sides, 0))
    return float(common / (a[2] * a[3] + b[2] * b[3] - common))


def depth_error(images: np.ndarray, scenes: Batch) -> float:
    """Mean absolute difference of the depth that `depth_reader` reads from the asked one, in a range of 2."""
    return float(np.abs(depth_reader()(images) - scenes["depth"]).mean())


class _Reader(nn.Module):
    """Depth of 32 x 32 scenes: convolutions that see ever more around a pixel, and the pixel's place."""

    @nn.compact
    def __call__(self, x):
        rows = jnp.broadcast_to(jnp.linspace(-1, 1, x.shape[1])[None, :, None, None], (*x.shape[:3], 1))
        x = jnp.concatenate([x, rows], axis=-1)
        for dilation in (1, 2, 4, 8, 4, 2, 1):
            x = nn.relu(nn.Conv(24, (3, 3), kernel_dilation=dilation)(x))
        return nn.Conv(1, (1, 1))(x)[..., 0]


@lru_cache(maxsize=1)
def depth_reader(steps: int = READER_STEPS):
    """A small network trained on real scenes: images -> depth (n, H, W). No rule reads depth, which is a matter of
    where an object stands. On real held-out scenes it is as far from the truth as `depth_error` of them says."""
    data = DataConfig("demo", size=32, batch_size=16, n_train=8192, annotations=("depth",))
    model, tx = _Reader(), optax.adam(optax.cosine_decay_schedule(3e-3, steps))
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    state = tx.init(params)

    @jax.jit
    def step(params, state, image, depth):
        grads = jax.grad(lambda p: jnp.abs(model.apply(p, image) - depth).mean())(params)
        updates, state = tx.update(grads, state)
        return optax.apply_updates(params, updates), state

    batches = pipeline.make_batches(data, "train")
    for _ in range(steps):
        batch = next(batches)
        params, state = step(params, state, batch["image"], batch["depth"])
    read = jax.jit(model.apply)
    return lambda images: np.asarray(read(params, jnp.asarray(images)))
