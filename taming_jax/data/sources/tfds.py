"""Any image data set of TensorFlow Datasets by name: which splits and features it has, and its records.

The files hold encoded images, and they stay encoded until they have been shuffled and, on resume, skipped.
"""

import difflib
import hashlib
import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from taming_jax.data.config import DataConfig
from taming_jax.data.listing import Listing
from taming_jax.data.reader import Reader
from taming_jax.data.records import Problems, Record, Shard, augmentation_rng, read_parallel, tensorflow

VALIDATION_SPLITS = ("validation", "val", "valid", "dev", "test")  # the first that a data set has


def open_builder(name: str, data_dir: str, download: bool) -> Any:
    """The builder of a data set that is on disk. Raises ValueError saying what to do where it is not."""
    tensorflow()
    import tensorflow_datasets as tfds

    try:
        if data_dir and (Path(data_dir) / "dataset_info.json").is_file():
            builder = tfds.builder_from_directory(data_dir)
        else:
            builder = tfds.builder(name, data_dir=data_dir or None)
    except tfds.core.DatasetNotFoundError as error:
        close = difflib.get_close_matches(name, tfds.list_builders(), n=5, cutoff=0.5)
        raise ValueError(
            f"TensorFlow Datasets knows no data set {name!r}"
            + (f"; similar names: {', '.join(close)}" if close else "")
            + ". All names: https://www.tensorflow.org/datasets/catalog. A prepared data set is found by its name in "
            f"`path` (given: {data_dir!r}), or by `path` alone where that is the folder with dataset_info.json"
        ) from error
    if download:
        builder.download_and_prepare()
    if not builder.is_prepared():
        manual = getattr(builder, "MANUAL_DOWNLOAD_INSTRUCTIONS", None)
        command = f"tfds build {name}" + (f" --data_dir {data_dir}" if data_dir else "")
        raise ValueError(
            f"the data set {name!r} is not prepared in {str(builder.data_path)!r}. Prepare it once by `{command}`, "
            "set `download=True`, or correct `path`."
            + (f" It has to be downloaded by hand first: {' '.join(manual.split())}" if manual else "")
        )
    return builder


def find_feature(builder: Any, kind: type, preferred: str) -> str | None:
    """The name of the data set's only feature of this type, or of the preferred one among several, or None."""
    names = [name for name, feature in builder.info.features.items() if isinstance(feature, kind)]
    if len(names) > 1 and preferred not in names:
        raise ValueError(
            f"the data set {builder.name!r} has several features of type {kind.__name__}, {names}, none of them called "
            f"{preferred!r}; this loader needs a data set with one"
        )
    return preferred if preferred in names else names[0] if names else None


class TfdsImages:
    """One split of a TFDS image data set. Validation is the split of that kind, or the last `val_share` of training."""

    def __init__(self, config: DataConfig, split: str) -> None:
        builder = open_builder(config.name, config.path, config.download)
        import tensorflow_datasets as tfds

        self.config, self.train, self.builder = config, split == "train", builder
        image = find_feature(builder, tfds.features.Image, "image")
        self.label = find_feature(builder, tfds.features.ClassLabel, "label")
        if image is None:
            raise ValueError(f"the data set {config.name!r} has no images; its features: {dict(builder.info.features)}")
        self.image = image
        names = builder.info.features[self.label].names if self.label else None
        self.split, self.start, self.stop = self._range(split)
        if self.stop <= self.start:
            raise ValueError(
                f"the data set {config.name!r} leaves no example for {split!r}: its splits are "
                f"{ {name: info.num_examples for name, info in builder.info.splits.items()} }; set `val_share`"
            )
        self.listing = Listing([], class_names=tuple(names) if names else None)
        self.reader = Reader(config, self.listing)

    def _range(self, split: str) -> tuple[str, int, int]:
        """(the data set's split, first and last + 1 example of it) that make up "train" or "val"."""
        splits = self.builder.info.splits
        if "train" not in splits:
            raise ValueError(f"the data set {self.config.name!r} has no split 'train', only {list(splits)}")
        n = splits["train"].num_examples
        held_out = next((name for name in VALIDATION_SPLITS if name in splits), None)
        if held_out:
            return ("train", 0, n) if split == "train" else (held_out, 0, splits[held_out].num_examples)
        border = n - round(n * self.config.val_share)
        return ("train", 0, border) if split == "train" else ("train", border, n)

    @property
    def gives(self) -> tuple[str, ...]:
        return self.listing.gives

    @property
    def problems(self) -> Problems:
        return self.reader.problems

    def __len__(self) -> int:
        return self.stop - self.start

    def records(self, shard: Shard, first: int) -> Iterator[Record]:
        """This process's records from number `first` on: endless and shuffled for training, else one padded pass."""
        lower, upper = (self.start + len(self) * i // shard.processes for i in (shard.process, shard.process + 1))
        if not self.train:
            if lower < upper:
                yield from self._pass(lower, upper, None, first)
            yield from itertools.repeat(self.reader.blank, shard.padded_length(len(self)) - max(first, upper - lower))
            return
        if lower == upper:
            raise ValueError(f"{len(self)} examples cannot be shared by {shard.processes} processes: use fewer")
        epoch, skip = divmod(first, upper - lower)
        if skip:
            logging.info("Going on within epoch %d: reading %d records to pass over, seen already.", epoch + 1, skip)
        while True:
            yield from self._pass(lower, upper, epoch, skip)
            epoch, skip = epoch + 1, 0

    def crops(self, start: int, stop: int, epoch: int | None) -> Iterator[Record]:
        """Examples start..stop of the split, each as it is cut in an epoch of training; None: its middle."""
        return self._pass(self.start + start, self.start + stop, epoch, 0, shuffle=False)

    def _pass(self, lower: int, upper: int, epoch: int | None, skip: int, shuffle: bool = True) -> Iterator[Record]:
        """Examples lower..upper but the first `skip`, cut as in the epoch (None: their middles), and in its order if
        `shuffle`, else in the order of the files."""
        import tensorflow_datasets as tfds

        config, tf = self.config, tensorflow()
        shuffle_seed = None
        if shuffle and epoch is not None:
            shuffle_seed = int(np.random.default_rng([config.seed, 0, epoch]).integers(1 << 31))
        options = tf.data.Options()
        options.deterministic = True
        wanted: dict[str, Any] = {name: True for name in (self.image, self.label) if name}
        dataset = self.builder.as_dataset(
            split=tfds.core.ReadInstruction(self.split, from_=lower, to=upper, unit="abs"),
            shuffle_files=shuffle_seed is not None,
            decoders=tfds.decode.PartialDecoding(wanted, decoders={self.image: tfds.decode.SkipDecoding()}),
            read_config=tfds.ReadConfig(
                shuffle_seed=shuffle_seed, options=options, try_autocache=False, skip_prefetch=True, add_tfds_id=True
            ),
        )
        if shuffle_seed is not None:
            dataset = dataset.shuffle(config.shuffle_buffer, seed=shuffle_seed, reshuffle_each_iteration=False)

        def parts(example: dict[str, Any]) -> tuple[Any, Any, Any]:
            label = example[self.label] if self.label else tf.constant(0, tf.int64)
            return example["tfds_id"], example[self.image], label

        def read(name: bytes, encoded: bytes, label: np.integer) -> Record:
            # by its name: where it stands in the epoch depends on the number of processes
            rng = None if epoch is None else augmentation_rng(config.seed, epoch, *hashlib.sha256(name).digest())
            return self.reader.read(name.decode(), encoded, max(int(label), 0), rng)  # a split without labels has -1

        return read_parallel(dataset.skip(skip).map(parts), read, self.reader.blank, config.threads)
