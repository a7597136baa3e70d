"""What the sources share: the place of a process among all, the order of an epoch, and decoding through tf.data."""

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from .transforms import BrokenImage, load_image

log = logging.getLogger(__name__)

# image uint8 (H, W, 3), class_label int, valid bool (False: padding, or could not be read), and a source's own maps
Record = dict[str, Any]


class Shard(NamedTuple):
    """The part of process `process` of `processes`, each of which takes `batch` records a step."""

    process: int
    processes: int
    batch: int

    def position(self, place: int) -> int:
        """This process's record `place` (0, 1, ...) in the order that all processes share.

        A step's records are consecutive in that order, so the global batch is the same for any number of processes.
        """
        step, offset = divmod(place, self.batch)
        return (step * self.processes + self.process) * self.batch + offset

    def padded_length(self, n: int) -> int:
        """Records of each process in one pass over n, padded to whole batches, as many as in every other process."""
        return -(-n // (self.processes * self.batch)) * self.batch


@lru_cache(maxsize=4)
def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The shuffled indices of one epoch, (n,)."""
    return np.random.default_rng([seed, 0, epoch]).permutation(n)


def augmentation_rng(seed: int, *where: int) -> np.random.Generator:
    """The generator for one record's crop and flip, e.g. by (epoch, index)."""
    return np.random.default_rng([seed, 1, *where])


class Reader:
    """Reads images, and does not stop at broken ones: it counts them and names each in the log, once."""

    def __init__(self, size: int, random_crop: bool, flip: bool):
        self.size, self.random_crop, self.flip = size, random_crop, flip
        self.skipped: set[str] = set()
        self._lock = threading.Lock()  # many threads read

    def read(self, name: str, source: str | bytes, rng: np.random.Generator | None) -> tuple[np.ndarray, bool]:
        """The image, uint8 (size, size, 3), and True; or black and False. source, rng: as in `load_image`."""
        try:
            return load_image(source, self.size, rng, random_crop=self.random_crop, flip=self.flip), True
        except BrokenImage as error:
            with self._lock:
                if name not in self.skipped:
                    self.skipped.add(name)
                    log.warning("skipped image %s: %s (%d skipped so far)", name, error, len(self.skipped))
            return self.blank, False

    @property
    def blank(self) -> np.ndarray:
        return np.zeros((self.size, self.size, 3), np.uint8)


def replace_broken(records: Iterator[Record], limit: int) -> Iterator[Record]:
    """Puts the next readable record of an endless stream in the place of every broken one.

    What comes out at a place depends on that place and what follows it, so a stream that starts later continues alike.
    Raises ValueError after `limit` broken ones in a row.
    """
    ahead: deque[Record] = deque()
    while True:
        record = ahead.popleft() if ahead else next(records)
        if not record["valid"]:
            while not (good := [r for r in ahead if r["valid"]]):
                if len(ahead) >= limit:
                    raise ValueError(f"none of {limit} images in a row could be read; the log says why for each")
                ahead.append(next(records))
            record = good[0]
        yield record


def tensorflow():
    """Imports TensorFlow and keeps it off the accelerators, which belong to JAX."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ValueError(
            "the data sources 'folder' and 'tfds' read through tf.data, but TensorFlow cannot be imported: "
            "`pip install tensorflow-cpu tensorflow-datasets`, or use the source 'demo'"
        ) from error
    if tf.config.get_visible_devices("GPU"):
        tf.config.set_visible_devices([], "GPU")
    return tf


def read_parallel(dataset, read: Callable, workers: int) -> Iterator[Record]:
    """Maps read(*element) -> (image uint8 (H, W, 3), label, valid) over a tf.data dataset, by `workers` threads."""
    tf = tensorflow()

    def element(*parts):
        return tf.numpy_function(lambda *x: _typed(*read(*x)), parts, (tf.uint8, tf.int64, tf.bool))

    options = tf.data.Options()
    options.threading.private_threadpool_size = workers
    options.threading.max_intra_op_parallelism = 1
    dataset = dataset.map(element, num_parallel_calls=workers, deterministic=True).prefetch(2 * workers)
    for image, label, valid in dataset.with_options(options).as_numpy_iterator():
        yield {"image": image, "class_label": label, "valid": valid}


def _typed(image, label, valid):
    return image, np.int64(label), np.bool_(valid)
