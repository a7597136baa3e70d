"""Batches for training and validation from any source.

The batch of step s depends on the configuration and s alone, so a run that starts again at step s continues exactly.
"""

import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from typing import Any

import numpy as np

from taming_jax.data.channels import to_float
from taming_jax.data.config import AS_SET, DataConfig, Needs, missing_values
from taming_jax.data.files import Files
from taming_jax.data.found import count
from taming_jax.data.listing import ListOne
from taming_jax.data.mistakes import likely_mistakes
from taming_jax.data.prefetch import Prefetched
from taming_jax.data.records import Record, Shard, Source, replace_broken
from taming_jax.data.sources.coco import list_coco_objects
from taming_jax.data.sources.codes import Codes, read_info
from taming_jax.data.sources.demo import Demo
from taming_jax.data.sources.faces import list_celebahq, list_faceshq, list_ffhq
from taming_jax.data.sources.folder import list_folder
from taming_jax.data.sources.imagenet import list_imagenet
from taming_jax.data.sources.label_maps import COCO_STUFF_UNLABELLED, list_ade20k, list_coco_stuff
from taming_jax.data.sources.landscapes import Landscapes
from taming_jax.data.sources.open_images import list_open_images
from taming_jax.data.sources.tfds import TfdsImages

log = logging.getLogger(__name__)

Opener = Callable[[DataConfig, str], Source]


def _files(find: ListOne) -> Opener:
    return partial(Files, find=find)


OPENERS: dict[str, Opener] = {  # what `config.SOURCES` names
    "demo": Demo,
    "landscapes": Landscapes,
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


@lru_cache(maxsize=8)  # a folder is searched once, and a demo scene drawn once, however often the data is iterated
def _open(config: DataConfig, split: str) -> Source:
    """config: with the needs met; sources see no others."""
    if split not in ("train", "val"):
        raise ValueError(f"unknown split {split!r}; known: train, val")
    source = OPENERS[config.source](config if split == "train" else config.validating(), split)
    if missing := [name for name in config.annotations if name not in source.gives]:
        hints = {"segmentation": "; label maps of your own are named by `maps`", "depth": "; depth maps by `depths`"}
        raise ValueError(
            f"the data source {config.source!r} with these settings has no {' and no '.join(missing)}; it has "
            f"{', '.join(source.gives)}"
            + "".join(hints.get(name, "") for name in missing)
            + "".join(f"; {source.listing.lacks[name]}" for name in missing if name in source.listing.lacks)
        )
    for what, n in source.problems.counts.items():
        log.warning("%s, %s: left out or changed: %d %s", config.source, split, n, what)
    for remark in source.listing.remarks:
        log.info("%s, %s: %s", config.source, split, remark)
    return source


def summary(config: DataConfig, needs: Needs = AS_SET) -> str:
    """What was found, as "folder: train 90, validation 10 images, 3 classes; passed over: 20 .tif, 2 hidden"."""
    config = config.meeting(needs)
    sources = [_open(config, split) for split in ("train", "val")]
    first = sources[0].listing
    passed_over = {place: what for source in sources for place, what in source.listing.passed_over.items() if what}
    line = f"{config.source}: train {len(sources[0])}, validation {len(sources[1])} images"
    line += f", {len(first.class_names)} classes" if first.class_names else ""
    for place, what in passed_over.items():
        line += f"; passed over{f' in {place!r}' if len(passed_over) > 1 else ''}: {count(what)}"
    return line


def warnings(config: DataConfig, needs: Needs = AS_SET) -> list[str]:
    """Likely mistakes in what was found, a sentence each; in many files they are looked for in a part."""
    config = config.meeting(needs)
    return likely_mistakes(config, _open(config, "train"), _open(config, "val"))


def check(config: DataConfig, needs: Needs = AS_SET) -> None:
    """Says in the log what was found, and which mistakes are likely.

    Raises ValueError where there is nothing to train on, or to evaluate on.
    """
    log.info("%s", summary(config, needs))
    for sentence in warnings(config, needs):
        log.warning("a likely mistake: %s", sentence)


def opened(config: DataConfig, split: str, needs: Needs = AS_SET) -> Source:
    """The split "train" or "val" as its source has it. Raises ValueError where there is nothing in it."""
    return _open(config.meeting(needs), split)


def num_examples(config: DataConfig, split: str, needs: Needs = AS_SET) -> int:
    """Number of examples of the split "train" or "val", over all processes."""
    return len(_open(config.meeting(needs), split))


def class_names(config: DataConfig, needs: Needs = AS_SET) -> tuple[str, ...] | None:
    """The names of the classes, in the order of `class_label`; None for data without classes."""
    return _open(config.meeting(needs), "train").listing.class_names


def num_labels(config: DataConfig, needs: Needs = AS_SET) -> int:
    """The number of labels in label maps; 0 for data without."""
    return _open(config.meeting(needs), "train").listing.n_labels


def label_names(config: DataConfig, needs: Needs = AS_SET) -> tuple[str, ...] | None:
    """The names of the labels in label maps, where they are known."""
    return _open(config.meeting(needs), "train").listing.label_names


def object_names(config: DataConfig, needs: Needs = AS_SET) -> tuple[str, ...] | None:
    """The names of the objects' categories, in the order of `object_category`; None without objects."""
    config = config.meeting(needs)
    if "objects" not in config.annotations:  # the files that name them are read for objects only
        config = config.meeting(Needs((*config.annotations, "objects")))
    return _open(config, "train").listing.object_names


def unlabelled(data: Mapping[str, Any]) -> int:
    """The value for "no label" in files of label maps that are read with these settings of a DataConfig, -1 for none;
    of codes, as the maps that they were made of. No files are listed. Raises ValueError for codes that are gone."""
    if data.get("source") == "codes":
        data = read_info(str(data.get("path", "")))["data"]
    given = data.get("unlabelled", -1)
    return COCO_STUFF_UNLABELLED if given < 0 and data.get("source") == "coco_stuff" else given


def missing_depths(data: Mapping[str, Any]) -> tuple[float, ...]:
    """The values for "nothing measured" in depth maps that are read with these settings of a DataConfig; of codes, as
    the maps that they were made of, as long as those are there."""
    if data.get("source") == "codes":
        try:
            data = read_info(str(data.get("path", "")))["data"]
        except ValueError:  # moved; a model that was trained on them is still one
            return ()
    return missing_values(data.get("missing", ""))


def skipped(config: DataConfig, split: str, needs: Needs = AS_SET) -> dict[str, int]:
    """How many of what was left out so far, in this process: unreadable files, boxes without area, ..."""
    return _open(config.meeting(needs), split).problems.counts


def make_batches(
    config: DataConfig,
    split: str,
    *,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    needs: Needs = AS_SET,
) -> Iterator[dict[str, np.ndarray]]:
    """Iterates over this process's part of the batches of a split, from `start_step` on.

    Each batch, where b is batch_size / process_count: image float32 (b, H, W, config.channels) in [-1, 1]; class_label
    int32 (b,), 0 without classes; and of the annotations that `needs` or else the settings ask for:
    - segmentation: int32 (b, H, W) in [0, n_labels). depth: float32 (b, H, W) in [-1, 1].
    - crop: int32 (b, 4), top, left, full_height, full_width: where the crop lies in the whole image, in pixels of
      the crop's scale, before it is mirrored; and flip bool (b,): whether it is.
    - objects: object_boxes float32 (b, M, 4), x0, y0, width, height in [0, 1] of the whole image, before it is mirrored
      (so they need crop and flip beside them); object_category int32 (b, M), -1 for an empty slot; object_flags int32
      (b, M), bits as in `listing.FLAGS`. In training the order is random.
    - keypoints: float32 (b, M, K, 3), x and y in [0, 1] of the crop, and 1; all 0 where a point is not seen.
    "train" is endless, shuffled anew each epoch, and passes over broken images; with `sizes`, step s has images of size
    s modulo their number, and each size has an order of its own. "val" is one pass in order, and has in
    addition valid bool (b,): False for the padding of the last batch and for broken images.
    The source "codes" has, in place of image and annotations, codes int32 (b, h, w), and condition_codes int32 (b, k)
    or, for conditions whose tokens have places, (b, h, w).
    Raises ValueError for a batch that the processes cannot share and for a source that has no data.
    """
    if config.batch_size % process_count:
        raise ValueError(
            f"batch_size {config.batch_size} cannot be shared by {process_count} processes: make it a multiple of them"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index is {process_index}, but there are {process_count} processes")
    if start_step < 0:
        raise ValueError(f"start_step is {start_step}; it must not be negative")
    config, shard = config.meeting(needs), Shard(process_index, process_count, config.batch_size // process_count)
    if split == "train" and config.sizes:
        streams = [_batches(one, split, shard, first) for one, first in _of_sizes(config, start_step)]
        return _in_turn(streams, start_step)
    return _batches(config, split, shard, start_step)


def _batches(config: DataConfig, split: str, shard: Shard, start_step: int) -> Iterator[dict[str, np.ndarray]]:
    source = _open(config, split)
    records = source.records(shard, start_step * shard.batch)
    if split == "train":
        records = replace_broken(records, limit=min(len(source), 10_000))
    return Prefetched(_collate(records, shard.batch, with_valid=split == "val"), depth=2)


def _of_sizes(config: DataConfig, start_step: int) -> list[tuple[DataConfig, int]]:
    """For each of `sizes` the settings that have it alone, and how many steps before `start_step` had it."""
    sizes, n, seeds = config.sizes, len(config.sizes), 1 << 32
    config = dataclasses.replace(config, sizes=(), val_resize=None)  # which is for `size`
    alone = lambda k, side: dataclasses.replace(config, size=side, seed=(config.seed + k) % seeds)
    return [(alone(k, side), (start_step - k + n - 1) // n) for k, side in enumerate(sizes)]


def _in_turn(streams: list[Iterator[dict[str, np.ndarray]]], start_step: int) -> Iterator[dict[str, np.ndarray]]:
    for step in itertools.count(start_step):
        yield next(streams[step % len(streams)])


def make_crops(
    config: DataConfig, split: str, start: int, stop: int, crop: int, batch_size: int, needs: Needs = AS_SET
) -> Iterator[dict[str, np.ndarray]]:
    """Iterates over images start..stop of a split in its own order, in batches as those of `make_batches`.

    In training each is cut as in epoch `crop`. valid bool (b,) is False for broken images and for what pads the last
    batch.
    """
    records = _open(config.meeting(needs), split).crops(start, stop, crop if split == "train" else None)
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
