"""A source that reads any listing of files.

A data set is a function `(config, split) -> Listing` that finds its files and annotations. All else is the same for
all: reading, cropping, checking, skipping, shuffling, and going on where a training stopped.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from taming_jax.data.config import DataConfig
from taming_jax.data.listing import ListOne, list_once
from taming_jax.data.reader import Reader
from taming_jax.data.records import Problems, Record, Shard, augmentation_rng, epoch_order, read_parallel, tensorflow


class Files:
    """One split of a data set of files, listed by `find`."""

    def __init__(self, config: DataConfig, split: str, find: ListOne) -> None:
        self.config, self.train = config, split == "train"
        paired = tuple(sorted(set(config.annotations) - {"class_label", "crop"}))
        # what the listing does not depend on is set to one value
        key = dataclasses.replace(
            config.validating(), annotations=paired, size=16, resize=0, batch_size=1, seed=0, workers=0
        )
        key = dataclasses.replace(key, max_pixels=1 << 16, color_profiles=True, crop_from="image", resampling="bicubic")
        self.listing = list_once(find, key, split)
        self.reader = Reader(config, self.listing)

    @property
    def gives(self) -> tuple[str, ...]:
        return self.listing.gives

    @property
    def problems(self) -> Problems:
        return self.reader.problems

    def __len__(self) -> int:
        return len(self.listing.images)

    def records(self, shard: Shard, first: int) -> Iterator[Record]:
        """This process's records from number `first` on: endless and shuffled for training, else one padded pass."""
        tf, n = tensorflow(), len(self)

        def read(place: np.integer) -> Record:
            position = shard.position(int(place))
            if self.train:
                epoch, place_in_epoch = divmod(position, n)
                return self.read(int(epoch_order(n, self.config.seed, epoch)[place_in_epoch]), epoch)
            return self.read(position, None) if position < n else self.reader.blank

        end = tf.int64.max if self.train else shard.padded_length(n)
        return read_parallel(tf.data.Dataset.range(first, end), read, self.reader.blank, self.config.threads)

    def crops(self, start: int, stop: int, epoch: int | None) -> Iterator[Record]:
        """Images start..stop of the listing, each as it is cut in an epoch of training; None: its middle."""
        indices = tensorflow().data.Dataset.range(start, stop)
        return read_parallel(
            indices, lambda index: self.read(int(index), epoch), self.reader.blank, self.config.threads
        )

    def read(self, index: int, epoch: int | None) -> Record:
        """Image `index` of the listing as it is cut in an epoch of training; None: its central square. The blank record
        where it cannot be read; ValueError where training would stop at it."""
        labels, path = self.listing.labels, str(self.listing.images[index])
        rng = None if epoch is None else augmentation_rng(self.config.seed, epoch, index)
        return self.reader.read(path, path, labels[index] if labels else 0, rng, index)
