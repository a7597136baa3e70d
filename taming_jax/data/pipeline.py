"""Batches for training and validation from any source.

The batch of step s depends on the configuration and s alone, so a run that starts again at step s continues exactly.
"""

import contextlib
import os
import queue
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from . import demo
from .folder import Folder
from .records import Record, Shard, epoch_order, replace_broken
from .tfds_images import TfdsImages
from .transforms import to_float

DEMO_VAL_START = 1 << 40  # validation scenes have indices of their own, whatever n_train is
DEMO_MEMORY = 512 << 20  # bytes of scenes that are kept instead of drawn again


@dataclass(frozen=True)
class DataConfig:
    """What to train on.

    source: "demo" (drawn scenes), "folder" (own images) or "tfds" (TensorFlow Datasets).
    size: side of the square images in pixels. batch_size: of all processes together.
    path: folder: a folder, searched with its subfolders, or a list file (.txt); tfds: where the data sets are ("" is
        TFDS's own place) or the folder of one prepared data set.
    root: folder that the entries of a list file are relative to ("": that of the list file).
    val_path: a folder or list of its own for validation. Without it, `val_share` of the images is held out (folder:
        those with the smallest hash of the name; tfds: the data set's validation or test split, else the end of train).
    name: tfds: the data set. download: tfds: may download it. shuffle_buffer: tfds: encoded images shuffled at a time.
    n_train, n_val: number of demo scenes.
    flip, random_crop: augmentation in training; the demo scenes need none.
    seed: of shuffling, augmentation and demo scenes; the split does not depend on it.
    workers: threads that decode; 0 is one a CPU core.
    """

    source: str = "demo"
    size: int = 256
    batch_size: int = 8
    path: str = ""
    root: str = ""
    val_path: str = ""
    val_share: float = 0.05
    name: str = "imagenet2012"
    download: bool = False
    shuffle_buffer: int = 4096
    n_train: int = 4096
    n_val: int = 256
    flip: bool = True
    random_crop: bool = True
    seed: int = 0
    workers: int = 0

    def __post_init__(self):
        if self.source not in SOURCES:
            raise ValueError(f"unknown data source {self.source!r}; known: {', '.join(SOURCES)}")
        if self.source == "folder" and not self.path:
            raise ValueError("the data source 'folder' needs `path`: a folder of images or a list file (.txt)")
        limits = {"size": (16, 4096), "batch_size": (1, 1 << 20), "val_share": (0, 0.9), "seed": (0, (1 << 32) - 1)}
        limits |= {"n_train": (1, 1 << 40), "n_val": (1, 1 << 40), "shuffle_buffer": (1, 1 << 30), "workers": (0, 1024)}
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"data setting {name} is {getattr(self, name)}; it must be from {low} to {high}")

    @property
    def threads(self) -> int:
        return self.workers or os.cpu_count() or 1


class _Demo:
    """One split of the demo scenes. Its records have label and depth maps beside what those of every source have."""

    class_names = demo.CLASS_NAMES

    def __init__(self, cfg: DataConfig, split: str):
        self.train, self.seed = split == "train", cfg.seed
        n, start = (cfg.n_train, 0) if self.train else (cfg.n_val, DEMO_VAL_START)
        self.scenes = demo.DemoScenes(cfg.size, n, cfg.seed, start)
        self._drawn: dict[int, Record] = {}
        self._keep = DEMO_MEMORY // (cfg.size**2 * 8)  # 3 bytes of image, 1 of labels and 4 of depth a pixel

    def __len__(self) -> int:
        return len(self.scenes)

    def _record(self, index: int) -> Record:
        if index in self._drawn:
            return self._drawn[index]
        scene = self.scenes[index]
        record = {key: scene[key] for key in ("image", "class_label", "depth")}
        record |= {"segmentation": scene["segmentation"].astype(np.uint8), "valid": True}
        if len(self._drawn) < self._keep:
            self._drawn[index] = record
        return record

    def records(self, shard: Shard, first: int) -> Iterator[Record]:
        n, place = len(self), first
        while self.train or place < shard.padded_length(n):
            position = shard.position(place)
            epoch, index = divmod(position, n)
            if self.train:
                yield self._record(int(epoch_order(n, self.seed, epoch)[index]))
            else:
                yield {**self._record(index), "valid": position < n}
            place += 1


SOURCES = {"demo": _Demo, "folder": Folder, "tfds": TfdsImages}


@lru_cache(maxsize=4)  # a folder is searched once, and a demo scene drawn once, however often the data is iterated
def _open(cfg: DataConfig, split: str):
    if split not in ("train", "val"):
        raise ValueError(f"unknown split {split!r}; known: train, val")
    return SOURCES[cfg.source](cfg, split)


def num_examples(cfg: DataConfig, split: str) -> int:
    """Number of examples of the split "train" or "val", over all processes."""
    return len(_open(cfg, split))


def class_names(cfg: DataConfig) -> tuple[str, ...] | None:
    """The names of the classes, in the order of `class_label`; None for data without classes."""
    return _open(cfg, "train").class_names


def make_batches(
    cfg: DataConfig, split: str, *, start_step: int = 0, process_index: int = 0, process_count: int = 1
) -> Iterator[dict[str, np.ndarray]]:
    """Iterates over this process's part of the batches of a split, from `start_step` on.

    Each batch: image float32 (b, H, W, 3) in [-1, 1] and class_label int32 (b,), 0 without classes, where b is
    batch_size / process_count; for the demo also segmentation int32 (b, H, W) and depth float32 (b, H, W) in [-1, 1].
    "train" is endless, shuffled anew each epoch, and passes over broken images. "val" is one pass in order, and has in
    addition valid bool (b,): False for the padding of the last batch and for broken images.
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


def _collate(records: Iterator[Record], size: int, with_valid: bool) -> Iterator[dict[str, np.ndarray]]:
    types = {"class_label": np.int32, "segmentation": np.int32}
    batch: list[Record] = []
    for record in records:
        batch.append(record)
        if len(batch) == size:
            arrays = {key: np.asarray([r[key] for r in batch], types.get(key)) for key in batch[0]}
            arrays["image"] = to_float(arrays["image"])
            if not with_valid:
                del arrays["valid"]
            yield arrays
            batch = []


class Prefetched(Iterator):
    """Runs an iterator in a background thread, `depth` items ahead, until `close`, deletion or the program's end."""

    def __init__(self, items: Iterator, depth: int):
        self._queue: queue.Queue = queue.Queue(depth)
        stop = threading.Event()
        thread = threading.Thread(target=_fill, args=(items, self._queue, stop), name="data", daemon=True)
        # not through the object itself, which could never be deleted while the thread knew it
        self.close = weakref.finalize(self, _stop, self._queue, stop, thread)
        thread.start()

    def __next__(self):
        if not self.close.alive:
            raise StopIteration
        item, error = self._queue.get()
        if error is not None:
            self.close()
            raise error
        return item


def _fill(items: Iterator, target: queue.Queue, stop: threading.Event) -> None:
    try:
        for item in items:
            target.put((item, None))
            if stop.is_set():
                return
        target.put((None, StopIteration()))
    except BaseException as error:  # raised again where the batch is asked for
        target.put((None, error))


def _stop(items: queue.Queue, stop: threading.Event, thread: threading.Thread) -> None:
    stop.set()
    # the thread may be waiting for a place in the queue; and it may itself be where the garbage is collected
    while thread.is_alive() and thread is not threading.current_thread():
        with contextlib.suppress(queue.Empty):
            items.get(timeout=0.02)
