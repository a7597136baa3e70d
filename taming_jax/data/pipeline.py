"""Batches for training and validation from any source.

The batch of step s depends on the configuration and s alone, so a run that starts again at step s continues exactly.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np

from . import demo
from .codes import Codes, read_info
from .demo_source import Demo
from .faces import list_celebahq, list_faceshq, list_ffhq
from .files import Files
from .folder import list_folder
from .imagenet import list_imagenet
from .label_map_sets import COCO_STUFF_UNLABELLED, list_ade20k, list_coco_stuff
from .objects import list_coco_objects, list_open_images
from .prefetch import Prefetched
from .records import ANNOTATIONS, Record, Shard, replace_broken
from .tfds_images import TfdsImages
from .transforms import to_float

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataConfig:
    """What to train on; docs/data.md shows the layouts of the sources.

    source: a name of `SOURCES`.
    size: side of the square images in pixels. batch_size: of all processes together.
    annotations: what the batches carry beside image and class_label: segmentation, depth, crop, objects, keypoints. A
        source that cannot give it is refused; class_label named here demands that there are classes.

    path: where the data is. folder: a folder, searched with its subfolders, or a list file (.txt); tfds: where the data
        sets are ("" is TFDS's own place) or the folder of one prepared data set; codes: a folder that
        `taming_jax.encode_dataset` wrote; demo: not used; else the data set's own folder.
    root: folder that the entries of a list file are relative to ("": that of the list file).
    val_path: a folder or list of its own for validation. Without it, and where the data set has no split of its own,
        `val_share` of the images is held out (those with the smallest hash of the name; tfds: the end of train).
    classes: folder, imagenet: only these: a list file (.txt) of names, or ranges of numbers without their ends, as
        "30:32,80:100"; imagenet also "rin", the animals of the paper's depth task. They are numbered anew from 0.
    name: tfds: the data set. download: tfds: may download it. shuffle_buffer: tfds: encoded images shuffled at a time.
    n_train, n_val: number of demo scenes.

    maps: folder of label maps, n_labels: how many labels they have (0: as many as the data set is known to have),
        unlabelled: their value for "no label", which becomes 0 while all others become one more; -1: there is none.
    depths: folder of depth maps. Both have their images' names; each map is as large as its image.

    max_objects: slots for objects and for figures with key points; of more in an image, those that show most are kept.
    min_objects: images with fewer are left out. min_object_area: boxes below this share of the image are left out.
    min_visible: boxes of which the crop shows less than this share are left out. whole_boxes: the others reach beyond
        the crop, instead of being cut at its edge. categories: coco_objects, open_images: only these: the number of
        most frequent ones, or a list file (.txt). stuff: coco_objects: with COCO-Stuff's boxes.

    resize: the smaller side of the whole image in pixels, from which the square is cut; 0: `size`.
    flip, random_crop: augmentation in training; the demo scenes need none. random_scale: the square's side is drawn
        between `size` pixels of the file and the smaller side.
    seed: of shuffling, augmentation and demo scenes; the split does not depend on it.
    workers: threads that decode; 0 is one a CPU core.
    """

    source: str = "demo"
    size: int = 256
    batch_size: int = 8
    annotations: tuple[str, ...] = ()
    path: str = ""
    root: str = ""
    val_path: str = ""
    val_share: float = 0.05
    classes: str = ""
    name: str = "imagenet2012"
    download: bool = False
    shuffle_buffer: int = 4096
    n_train: int = 4096
    n_val: int = 256
    maps: str = ""
    n_labels: int = 0
    unlabelled: int = -1
    depths: str = ""
    max_objects: int = 30
    min_objects: int = 1
    min_object_area: float = 1e-5
    min_visible: float = 0.1
    whole_boxes: bool = False
    categories: str = ""
    stuff: bool = True
    resize: int = 0
    flip: bool = True
    random_crop: bool = True
    random_scale: bool = False
    seed: int = 0
    workers: int = 0

    def __post_init__(self):
        if self.source not in SOURCES:
            raise ValueError(f"unknown data source {self.source!r}; known: {', '.join(SOURCES)}")
        if unknown := [name for name in self.annotations if name not in ANNOTATIONS]:
            raise ValueError(f"unknown annotation(s) {', '.join(map(repr, unknown))}; known: {', '.join(ANNOTATIONS)}")
        if self.source not in ("demo", "tfds") and not self.path:
            what = "images or a list file (.txt)" if self.source == "folder" else "the data set"
            raise ValueError(f"the data source {self.source!r} needs `path`: a folder of {what}")
        limits = {"size": (16, 4096), "batch_size": (1, 1 << 20), "val_share": (0, 0.9), "seed": (0, (1 << 32) - 1)}
        limits |= {"n_train": (1, 1 << 40), "n_val": (1, 1 << 40), "shuffle_buffer": (1, 1 << 30), "workers": (0, 1024)}
        limits |= {"n_labels": (0, 256), "unlabelled": (-1, 255), "max_objects": (1, 1000), "min_objects": (0, 1000)}
        limits |= {"min_object_area": (0, 1), "min_visible": (0, 1), "resize": (0, 1 << 16)}
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"data setting {name} is {getattr(self, name)}; it must be from {low} to {high}")
        if 0 < self.resize < self.size:
            raise ValueError(f"resize is {self.resize}, but it must be 0 or at least size={self.size}")

    @property
    def threads(self) -> int:
        return self.workers or os.cpu_count() or 1


def _files(find: Callable) -> Callable:
    return partial(Files, find=find)


SOURCES: dict[str, Callable[..., Any]] = {
    "demo": Demo,
    "folder": _files(list_folder),
    "tfds": TfdsImages,
    "imagenet": _files(list_imagenet),
    "ffhq": _files(list_ffhq),
    "celebahq": _files(list_celebahq),
    "faceshq": _files(list_faceshq),
    "ade20k": _files(list_ade20k),
    "coco_stuff": _files(list_coco_stuff),
    "coco_objects": _files(list_coco_objects),
    "open_images": _files(list_open_images),
    "codes": Codes,
}


@lru_cache(maxsize=4)  # a folder is searched once, and a demo scene drawn once, however often the data is iterated
def _open(cfg: DataConfig, split: str):
    if split not in ("train", "val"):
        raise ValueError(f"unknown split {split!r}; known: train, val")
    source = SOURCES[cfg.source](cfg, split)
    if missing := [name for name in cfg.annotations if name not in source.gives]:
        hints = {"segmentation": "; label maps of your own are named by `maps`", "depth": "; depth maps by `depths`"}
        raise ValueError(
            f"the data source {cfg.source!r} with these settings has no {' and no '.join(missing)}; it has "
            f"{', '.join(source.gives)}" + "".join(hints.get(name, "") for name in missing)
        )
    for what, n in source.problems.counts.items():
        log.warning("%s, %s: left out or changed: %d %s", cfg.source, split, n, what)
    return source


def num_examples(cfg: DataConfig, split: str) -> int:
    """Number of examples of the split "train" or "val", over all processes."""
    return len(_open(cfg, split))


def class_names(cfg: DataConfig) -> tuple[str, ...] | None:
    """The names of the classes, in the order of `class_label`; None for data without classes."""
    return _open(cfg, "train").class_names


def num_labels(cfg: DataConfig) -> int:
    """The number of labels in label maps; 0 for data without."""
    return len(demo.LABELS) if cfg.source == "demo" else _listing(cfg, "n_labels") or 0


def unlabelled(data: Mapping[str, Any]) -> int:
    """The value for "no label" in files of label maps that are read with these settings of a DataConfig, -1 for none;
    of codes, as the maps that they were made of. No files are listed. Raises ValueError for codes that are gone."""
    if data.get("source") == "codes":
        data = read_info(data["path"])["data"]
    given = data.get("unlabelled", -1)
    return COCO_STUFF_UNLABELLED if given < 0 and data.get("source") == "coco_stuff" else given


def label_names(cfg: DataConfig) -> tuple[str, ...] | None:
    """The names of the labels in label maps, where they are known."""
    return demo.LABELS if cfg.source == "demo" else _listing(cfg, "label_names")


def object_names(cfg: DataConfig) -> tuple[str, ...] | None:
    """The names of the objects' categories, in the order of `object_category`; None without objects."""
    if "objects" not in cfg.annotations:  # the files that name them are read for objects only
        cfg = replace(cfg, annotations=(*cfg.annotations, "objects"))
    return demo.CLASS_NAMES if cfg.source == "demo" else _listing(cfg, "object_names")


def _listing(cfg: DataConfig, field: str):
    return getattr(getattr(_open(cfg, "train"), "listing", None), field, None)


def skipped(cfg: DataConfig, split: str) -> dict[str, int]:
    """How many of what was left out so far, in this process: unreadable files, boxes without area, ..."""
    return _open(cfg, split).problems.counts


def make_batches(
    cfg: DataConfig, split: str, *, start_step: int = 0, process_index: int = 0, process_count: int = 1
) -> Iterator[dict[str, np.ndarray]]:
    """Iterates over this process's part of the batches of a split, from `start_step` on.

    Each batch, where b is batch_size / process_count: image float32 (b, H, W, 3) in [-1, 1]; class_label int32 (b,), 0
    without classes; and of `cfg.annotations`:
    - segmentation: int32 (b, H, W) in [0, n_labels). depth: float32 (b, H, W) in [-1, 1].
    - crop: int32 (b, 4), top, left, full_height, full_width: where the square lies in the whole image, in pixels of
      the square's scale, before it is mirrored; and flip bool (b,): whether it is.
    - objects: object_boxes float32 (b, M, 4), x0, y0, width, height in [0, 1] of the whole image, before it is mirrored
      (so they need crop and flip beside them); object_category int32 (b, M), -1 for an empty slot; object_flags int32
      (b, M), bits as in `files.FLAGS`. In training the order is random.
    - keypoints: float32 (b, M, K, 3), x and y in [0, 1] of the crop, and 1; all 0 where a point is not seen.
    "train" is endless, shuffled anew each epoch, and passes over broken images. "val" is one pass in order, and has in
    addition valid bool (b,): False for the padding of the last batch and for broken images.
    The source "codes" has, in place of image and annotations, codes int32 (b, h, w), and condition_codes int32 (b, k)
    or, for conditions whose tokens have places, (b, h, w).
    Raises ValueError for a batch that the processes cannot share and for a source that has no data.
    """
    if cfg.batch_size % process_count:
        raise ValueError(
            f"batch_size {cfg.batch_size} cannot be shared by {process_count} processes: make it a multiple of them"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index is {process_index}, but there are {process_count} processes")
    if start_step < 0:
        raise ValueError(f"start_step is {start_step}; it must not be negative")
    source = _open(cfg, split)
    shard = Shard(process_index, process_count, cfg.batch_size // process_count)
    records = source.records(shard, start_step * shard.batch)
    if split == "train":
        records = replace_broken(records, limit=min(len(source), 10_000))
    return Prefetched(_collate(records, shard.batch, with_valid=split == "val"), depth=2)


def make_crops(
    cfg: DataConfig, split: str, start: int, stop: int, crop: int, batch_size: int
) -> Iterator[dict[str, np.ndarray]]:
    """Iterates over images start..stop of a split in its own order, in batches as those of `make_batches`.

    In training each is cut as in epoch `crop`. valid bool (b,) is False for broken images and for what pads the last
    batch.
    """
    records = _open(cfg, split).crops(start, stop, crop if split == "train" else None)
    return Prefetched(_collate(_padded(records, batch_size), batch_size, with_valid=True), depth=2)


def _padded(records: Iterator[Record], size: int) -> Iterator[Record]:
    """Repeats the last record, as one that is not valid, up to a multiple of `size`."""
    n, record = 0, None
    for record in records:
        yield record
        n += 1
    if record:
        yield from [{**record, "valid": np.bool_(False)}] * (-n % size)


def _collate(records: Iterator[Record], size: int, with_valid: bool) -> Iterator[dict[str, np.ndarray]]:
    batch: list[Record] = []
    for record in records:
        batch.append(record)
        if len(batch) == size:
            arrays = {key: np.stack([r[key] for r in batch]) for key in batch[0]}
            if "image" in arrays:
                arrays["image"] = to_float(arrays["image"])
            if "segmentation" in arrays:
                arrays["segmentation"] = arrays["segmentation"].astype(np.int32)
            if not with_valid:
                del arrays["valid"]
            yield arrays
            batch = []
