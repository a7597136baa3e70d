"""A data set as codes, which `taming_jax.encode_dataset` writes: a second stage learns from them without its first.

A folder holds `info.json` and, for each split, shards of records like `train-00003-of-00016.tfrecord`. A record is a
tf.train.Example with whole numbers: number (of the image in its split), valid (0 where it could not be read),
class_label, codes (row by row) and condition_codes. Shards go crop by crop, and in a crop image by image.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from taming_jax import cores
from taming_jax.data.annotations import short
from taming_jax.data.config import ANNOTATIONS, DataConfig
from taming_jax.data.listing import Listing
from taming_jax.data.records import Problems, Record, Shard, epoch_order, tensorflow
from taming_jax.files import whole
from taming_jax.limits import SETTINGS, json_of, read_bytes

MOST_FILES = 1_000_000  # of a split
FORMAT = "codes of taming_jax, 1"
INFO, PLAN = "info.json", "plan.json"  # the plan is there from the start, the info when everything is written
MEMORY = 8 << 30  # bytes of crops that are kept instead of read again
AGAIN = "remove it, and run `python -m taming_jax.encode_dataset` once more, which makes what is missing"


class Part(NamedTuple):
    """What one shard holds: images start..stop of a split, in one crop."""

    file: epath.Path
    split: str
    crop: int
    start: int
    stop: int


def parts(folder: str, info: Mapping[str, Any], split: str) -> list[Part]:
    """The shards of a split, in order."""
    sizes = info["splits"][split]
    images, crops, step = sizes["images"], sizes["crops"], sizes["images_per_shard"]
    ranges = [(c, a, min(a + step, images)) for c in range(crops) for a in range(0, images, step)]
    return [
        Part(epath.Path(folder) / f"{split}-{i:05}-of-{len(ranges):05}.tfrecord", split, *part)
        for i, part in enumerate(ranges)
    ]


def read_info(folder: str) -> dict[str, Any]:
    """The description of a finished encoding. Raises ValueError where there is none."""
    path = epath.Path(folder) / INFO
    if not path.exists():
        begun = (epath.Path(folder) / PLAN).exists()
        raise ValueError(
            f"{folder!r} holds no {INFO}: "
            + ("its encoding was not finished; run the same command again" if begun else "no codes are there")
            + " (`python -m taming_jax.encode_dataset`)"
        )
    try:
        info = json_of(read_bytes(path, SETTINGS))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is damaged ({error}); remove it and encode again") from error
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        raise ValueError(f"{str(path)!r} does not describe {FORMAT!r}")
    if wrong := next(_wrong(info), ""):
        raise ValueError(f"{str(path)!r} is damaged: {wrong}; remove it and encode again")
    return info


def _wrong(info: Mapping[str, Any]) -> Iterator[str]:
    """What of a description is not as `taming_jax.encode_dataset` writes it."""
    condition, splits = info.get("condition"), info.get("splits")
    parts = [splits.get(name) for name in ("train", "val")] if isinstance(splits, dict) else [splits]
    for value in (condition, info.get("data"), *parts):
        if not isinstance(value, dict):
            yield f"{short(value)} stands where condition, data, splits.train or splits.val should be"
            return
    assert isinstance(condition, dict) and isinstance(splits, dict)
    numbers = {"n_codes": info.get("n_codes")} | {f"condition.{n}": condition.get(n) for n in ("length", "vocabulary")}
    for split in ("train", "val"):
        numbers |= {f"splits.{split}.{n}": splits[split].get(n) for n in ("images", "crops", "images_per_shard")}
    grids = {"grid": info.get("grid"), "condition.grid": condition.get("grid") or [1, 1]}
    for name, value in numbers.items():
        if type(value) is not int or not 0 < value < 1 << 40:
            yield f"{name} is {short(value)}, not a number above 0"
    for split in ("train", "val"):
        images, crops, step = (splits[split].get(n) for n in ("images", "crops", "images_per_shard"))
        if crops * images > MOST_FILES * step:
            yield f"splits.{split} is of more than {MOST_FILES} files"
        if type(skipped := splits[split].get("skipped")) is not int or skipped < 0:
            yield f"splits.{split}.skipped is {short(skipped)}, not a number"
    for name, value in grids.items():
        if not isinstance(value, list) or len(value) != 2 or any(type(n) is not int or n < 1 for n in value):
            yield f"{name} is {short(value)}, not rows and columns"
    names = {name: info.get(name, "missing") for name in ("class_names", "object_names", "annotations")}
    for name, value in names.items():
        texts = isinstance(value, list) and all(isinstance(text, str) for text in value)
        if not texts and (value is not None or name == "annotations"):
            yield f"{name} is {short(value)}, not a list of names"


def write_part(part: Part, batches: Iterable[Mapping[str, np.ndarray]]) -> None:
    """Write a shard of the batches' rows: under another name until it is whole. Raises ValueError where it cannot."""
    tf = tensorflow()
    try:
        with whole(part.file) as unfinished, tf.io.TFRecordWriter(str(unfinished)) as writer:
            for batch in batches:
                for row in range(len(batch["number"])):
                    feature = {
                        name: tf.train.Feature(int64_list=tf.train.Int64List(value=np.atleast_1d(values[row])))
                        for name, values in batch.items()
                    }
                    example = tf.train.Example(features=tf.train.Features(feature=feature))
                    writer.write(example.SerializeToString(deterministic=True))
    except tf.errors.OpError as error:
        raise ValueError(f"{str(part.file)!r} cannot be written: {error.message}") from error


def read_parts(parts: list[Part], info: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The records of shards of one crop, by the number of the image: int (n,), and codes and condition_codes (n, k).

    Raises ValueError, naming the file, for a damaged or missing shard, and for codes that are none.
    """
    first, n, limits = parts[0].start, parts[-1].stop - parts[0].start, _limits(info)
    arrays = {name: np.zeros((n, *shape), np.min_scalar_type(top - 1)) for name, (shape, top) in limits.items()}
    seen = np.zeros(n, bool)
    for batch in _examples(parts, {name: shape for name, (shape, _) in limits.items()}):
        place = batch["number"] - first
        for name, values in batch.items():
            if values.min() < 0 or values.max() >= limits[name][1] or not (0 <= place.min() <= place.max() < n):
                raise ValueError(
                    f"a record in {str(parts[0].file.parent)!r} has a {name} of {values.min()} or {values.max()}, "
                    f"which is not among the {limits[name][1]} that {INFO} speaks of; encode anew into another folder"
                )
            arrays[name][place] = values
        seen[place] = True
    if not seen.all():
        names = ", ".join(p.file.name for p in parts if not seen[p.start - first : p.stop - first].all())
        raise ValueError(f"{names} in {str(parts[0].file.parent)!r} is not whole; {AGAIN}")
    return arrays


def _limits(info: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], int]]:
    """The fields of a record: shape, and the number of values they can take."""
    (h, w), condition = info["grid"], info["condition"]
    most = max(split["images"] for split in info["splits"].values())
    return {
        "number": ((), most),
        "valid": ((), 2),
        "class_label": ((), 1 << 31),
        "codes": ((h * w,), info["n_codes"]),
        "condition_codes": ((condition["length"],), condition["vocabulary"]),
    }


def _examples(parts: list[Part], shapes: Mapping[str, tuple[int, ...]]) -> Iterator[dict[str, np.ndarray]]:
    tf = tensorflow()
    features = {name: tf.io.FixedLenFeature(shape, tf.int64) for name, shape in shapes.items()}

    def read(files: Sequence[epath.Path]) -> Iterator[dict[str, np.ndarray]]:
        threads, options = min(4, cores.allowed()), tf.data.Options()
        options.threading.private_threadpool_size = threads
        data = tf.data.TFRecordDataset([str(file) for file in files], num_parallel_reads=min(8, len(files)))
        data = data.batch(1024).map(lambda x: tf.io.parse_example(x, features), num_parallel_calls=threads)
        return data.prefetch(4).with_options(options).as_numpy_iterator()

    try:
        yield from read([part.file for part in parts])
    except tf.errors.OpError as error:
        for part in parts:  # which one it is
            try:
                for _ in read([part.file]):
                    pass
            except tf.errors.OpError:
                raise ValueError(f"{str(part.file)!r} is damaged or missing ({error.message}); {AGAIN}") from error
        raise ValueError(f"{str(parts[0].file.parent)!r} cannot be read: {error.message}") from error


class Codes:
    """One split of a data set as codes. Epoch e of training takes each image's crop e modulo their number, in the order
    in which the images themselves would come."""

    def __init__(self, config: DataConfig, split: str) -> None:
        self.config, self.train, self.info = config, split == "train", read_info(config.path)
        sizes = self.info["splits"][split]
        self.n, self.n_crops = sizes["images"], sizes["crops"]
        self.parts = parts(config.path, self.info, split)
        classes, objects = (
            tuple(names) if (names := self.info[key]) else None for key in ("class_names", "object_names")
        )
        self.listing = Listing([], class_names=classes, object_names=objects)
        given = {*self.info["annotations"], *(("class_label",) if classes else ())}
        self.gives = tuple(name for name in ANNOTATIONS if name in given)
        self.problems = Problems({"crops of unreadable files": sizes["skipped"]} if sizes["skipped"] else None)
        self._lock, self._reader = threading.Lock(), ThreadPoolExecutor(1, "codes")
        self._loaded: dict[int, Future[dict[str, np.ndarray]]] = {}

    def __len__(self) -> int:
        return self.n

    def records(self, shard: Shard, first: int) -> Iterator[Record]:
        """This process's records from number `first` on: endless and shuffled for training, else one padded pass."""
        grids = {"codes": self.info["grid"], "condition_codes": self.info["condition"]["grid"] or [-1]}
        place, epoch, order = first, -1, np.arange(self.n)
        while self.train or place < shard.padded_length(self.n):
            position = shard.position(place)
            if self.train and position // self.n != epoch:
                epoch = position // self.n
                order, arrays = epoch_order(self.n, self.config.seed, epoch), self._crop(epoch % self.n_crops)
            elif not self.train:
                arrays = self._crop(0)
            index = int(order[position % self.n])
            record = {name: arrays[name][index].astype(np.int32).reshape(shape) for name, shape in grids.items()}
            record["class_label"] = np.int32(arrays["class_label"][index])
            there = self.train or position < self.n
            yield {**record, "valid": np.bool_(arrays["valid"][index] and there)}
            place += 1

    def crops(self, start: int, stop: int, epoch: int | None) -> Iterator[Record]:
        raise ValueError(f"the data in {self.config.path!r} is codes already; only images can be cut out anew")

    def _crop(self, crop: int) -> dict[str, np.ndarray]:
        """The records of a crop; those of the next are read meanwhile."""
        wanted = (crop, (crop + 1) % self.n_crops)
        with self._lock:
            for c in wanted:
                if c not in self._loaded:
                    here = [part for part in self.parts if part.crop == c]
                    self._loaded[c] = self._reader.submit(read_parts, here, self.info)
            loaded = self._loaded[crop]
        arrays = loaded.result()
        most = max(2, MEMORY // max(1, sum(array.nbytes for array in arrays.values())))
        with self._lock:
            for c in [c for c in self._loaded if c not in wanted][: max(0, len(self._loaded) - most)]:
                del self._loaded[c]
        return arrays
