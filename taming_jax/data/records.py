"""What the sources share: the place of a process among all, the order of an epoch, and reading through tf.data."""

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np

from taming_jax.data.config import ANNOTATIONS, DataConfig
from taming_jax.data.listing import Listing
from taming_jax.data.pixels import BrokenImage

log = logging.getLogger(__name__)

# image uint8 (H, W, 3), or float32 in [-1, 1] of other channels; class_label int32; valid bool (False: padding, or what
# could not be read); and the annotations
Record = dict[str, Any]

TOO_MANY = "objects or figures left out because an image has more than max_objects"


def blank_record(config: DataConfig, n_keypoints: int = 0) -> Record:
    """The record that stands for none, with the arrays that the settings ask for, in shape and type."""
    sides, slots = config.sides, config.max_objects
    arrays: dict[str, Record] = {
        "segmentation": {"segmentation": np.zeros(sides, np.uint8)},
        "depth": {"depth": np.zeros(sides, np.float32)},
        "crop": {"crop": np.array([0, 0, *sides], np.int32), "flip": np.bool_(False)},
        "objects": {
            "object_boxes": np.zeros((slots, 4), np.float32),
            "object_category": np.full(slots, -1, np.int32),
            "object_flags": np.zeros(slots, np.int32),
        },
        "keypoints": {"keypoints": np.zeros((slots, n_keypoints, 3), np.float32)},
    }
    image = np.zeros((*sides, 3), np.uint8)
    if config.channels != 3:
        image = np.full((*sides, config.channels), -1, np.float32)
    record = {"image": image, "class_label": np.int32(0), "valid": np.bool_(False)}
    for name in ANNOTATIONS:
        if name in config.annotations:
            record |= arrays.get(name, {})
    return record


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


class Source(Protocol):
    """One split of a data set, opened."""

    @property
    def listing(self) -> Listing:
        """The names and numbers that belong to the data set; the examples themselves for data sets of files only."""

    @property
    def gives(self) -> tuple[str, ...]:
        """The annotations that it has."""

    @property
    def problems(self) -> "Problems":
        """What was left out so far."""

    def __len__(self) -> int:
        """The number of examples."""

    def records(self, shard: Shard, first: int) -> Iterator[Record]:
        """A process's records from number `first` on: endless and shuffled for training, else one padded pass."""

    def crops(self, start: int, stop: int, epoch: int | None) -> Iterator[Record]:
        """Examples start..stop in the split's own order, each as it is cut in an epoch; None: its middle."""


@lru_cache(maxsize=4)
def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The shuffled indices of one epoch, (n,)."""
    return np.random.default_rng([seed, 0, epoch]).permutation(n)


def augmentation_rng(seed: int, *where: int) -> np.random.Generator:
    """The generator for one record's crop and flip, e.g. by (epoch, index)."""
    return np.random.default_rng([seed, 1, *where])


class Problems:
    """What was left out while reading: how many of each kind, and in the log each file, once."""

    def __init__(self, found: dict[str, int] | None = None) -> None:
        self._counts = dict(found or {})
        self._files: dict[str, str] = {}  # why each could not be read
        self._noted: dict[str, set[str]] = {}
        self._lock = threading.Lock()  # many threads read

    def skip(self, name: str, error: BrokenImage) -> None:
        """An unreadable file."""
        with self._lock:
            if name not in self._files:
                self._files[name] = str(error)
                log.warning("skipped image %s: %s (%d skipped so far)", name, error, len(self._files))

    def count(self, kind: str, n: int) -> None:
        """n more of something (none if n is not positive), said in the log the first time."""
        if n > 0:
            with self._lock:
                if kind not in self._counts:
                    log.warning("%d %s; further ones are counted silently", n, kind)
                self._counts[kind] = self._counts.get(kind, 0) + n

    def note(self, kind: str, name: str) -> None:
        """A file of which something must be known, once however often it is read."""
        with self._lock:
            files = self._noted.setdefault(kind, set())
            if name not in files:
                if not files:
                    log.warning("%s: %s; further ones are counted silently", kind, name)
                files.add(name)

    @property
    def noted(self) -> dict[str, int]:
        """Of how many files something must be known, by what."""
        with self._lock:
            return {kind: len(files) for kind, files in self._noted.items()}

    @property
    def unreadable(self) -> dict[str, str]:
        """Files that could not be read, and why."""
        with self._lock:
            return dict(self._files)

    @property
    def counts(self) -> dict[str, int]:
        with self._lock:
            return {**self._counts, **({"unreadable files": len(self._files)} if self._files else {})}


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


def tensorflow() -> Any:
    """Imports TensorFlow and keeps it off the accelerators, which belong to JAX."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ValueError(
            "every data source but 'demo' and 'landscapes' reads through tf.data, but TensorFlow cannot be imported: "
            "`pip install -e '.[data]'` in the folder of taming_jax installs the one for this machine; or use these two"
        ) from error
    if tf.config.get_visible_devices("GPU"):
        tf.config.set_visible_devices([], "GPU")
    return tf


def read_parallel(dataset: Any, read: Callable[..., Record], blank: Record, workers: int) -> Iterator[Record]:
    """Maps read(*element) -> record over a tf.data dataset, by `workers` threads.

    blank: a record with the keys, shapes and types of all. A ValueError in `read` comes out in its turn.
    """
    tf = tensorflow()
    types = {key: np.asarray(value).dtype for key, value in blank.items()}
    failures: list[ValueError] = []

    def element(*parts: Any) -> list[Any]:
        record, failure = blank, -1
        try:
            record = read(*parts)
        except ValueError as error:  # tf.data would bury it in an error of its own
            failures.append(error)
            failure = failures.index(error)
        return [np.int64(failure), *(np.asarray(record[key], kind) for key, kind in types.items())]

    options = tf.data.Options()
    options.threading.private_threadpool_size = workers
    options.threading.max_intra_op_parallelism = 1
    kinds = [tf.int64, *(tf.as_dtype(kind) for kind in types.values())]
    dataset = dataset.map(
        lambda *parts: tf.numpy_function(element, parts, kinds), num_parallel_calls=workers, deterministic=True
    )
    for failure, *values in dataset.prefetch(2 * workers).with_options(options).as_numpy_iterator():
        if failure >= 0:
            raise failures[failure]
        yield dict(zip(types, values, strict=True))
