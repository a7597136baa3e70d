"""From boxes as annotations have them to the objects of a listing: what is unfit is left out and counted."""

import numpy as np

from taming_jax.data.config import DataConfig
from taming_jax.data.listing import FLAGS, Listing, ListOne, ObjectTable, list_once

GROUP = 1 << FLAGS.index("group")


def training_names(config: DataConfig, split: str, find: ListOne, always: bool = False) -> tuple[str, ...] | None:
    """The most frequent categories are those of training, in validation too; None where nothing has to be counted.

    always: the categories may have other ids in the file for validation.
    """
    if split == "val" and (always or config.categories.isdigit()):
        return list_once(find, config, "train").object_names
    return None


def gather(
    config: DataConfig,
    listing: Listing,
    names: list[str],
    images: np.ndarray,
    boxes: np.ndarray,
    category: np.ndarray,
    flags: np.ndarray,
    sizes: np.ndarray | None,
) -> tuple[list[str], np.ndarray, ObjectTable]:
    """(names, places of the images kept, their objects), after the objects and images that are unfit are left out.

    images (n,), boxes (n, 4) as shares, category (n,), flags (n,): all objects, in any order of images.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # of boxes that are infinite
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    inside = np.clip(corners, 0, 1)
    extent = inside[:, 2:] - inside[:, :2]
    good = np.isfinite(boxes).all(1) & (boxes[:, 2:] > 0).all(1) & (extent > 0).all(1)
    listing.note("boxes outside the image or without area", int((~good).sum()))
    listing.note("boxes cut at the image's edge", int((good & (np.abs(inside - corners) > 0.01).any(1)).sum()))
    large = good & (extent.prod(1) >= config.min_object_area)
    listing.note("objects smaller than min_object_area", int((good & ~large).sum()))
    counts = np.bincount(images[large], minlength=len(names))
    kept = np.flatnonzero(counts >= config.min_objects)
    listing.note("images with fewer than min_objects objects", len(names) - len(kept))
    listing.note("images with more than max_objects objects", int((counts[kept] > config.max_objects).sum()))
    order = np.flatnonzero(large)
    order = order[np.argsort(images[order], kind="stable")]
    order = order[counts[images[order]] >= config.min_objects]
    objects = ObjectTable(
        np.concatenate([inside[order, :2], extent[order]], axis=1).astype(np.float32),
        category[order],
        flags[order],
        np.concatenate([[0], np.cumsum(counts[kept])]),
        None if sizes is None else sizes[kept],
    )
    return [names[i] for i in kept], kept, objects
