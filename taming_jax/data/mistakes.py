"""Likely mistakes in what a source found, looked for before training: each is only said, since it may be meant."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from taming_jax.data.config import DataConfig
from taming_jax.data.depth import Range, range_of
from taming_jax.data.found import count, doubtful, folders_of, split_kind
from taming_jax.data.map_files import measured_depth
from taming_jax.data.records import Source

NAMES = 200_000  # names of a split that are looked at
COMPARED = 10_000  # files of a split whose contents are compared
HASHED = 256 << 20  # bytes that are read for it
DEPTHS = 16  # depth maps that are read
PIECE = 4096  # bytes of each of three places of a file, read before the whole of it


def likely_mistakes(config: DataConfig, train: Source, val: Source) -> list[str]:
    """Sentences on the two splits, which were opened with these settings. What is looked at is bounded, so that a
    large data set takes seconds."""
    listings = (train.listing, val.listing)
    images = [[str(path) for path in listing.images[:NAMES]] for listing in listings]
    names = _below(images[0]), _below([*images[0], *images[1]])
    found = [_split(train.listing.class_names or (), names[0])]
    if doubts := doubtful(names[1]):
        found.append(f"{count(doubts)}: are there maps among the photographs? Move them to folders of their own")
    if train.listing.class_names and len(train.listing.class_names) == 1:
        found.append(f"there is one class only, {train.listing.class_names[0]!r}; to tell classes, give each a folder")
    if len(train) < config.batch_size:
        found.append(
            f"the {len(train)} training image(s) are fewer than a batch of {config.batch_size}: lower batch_size"
        )
    paths = [[str(path) for path in spread(listing.images, COMPARED)] for listing in listings]
    maps = spread([str(path) for listing in listings for path in listing.depths], DEPTHS)
    return [sentence for sentence in (*found, *_contents(*paths), *_depths(config, maps)) if sentence]


def spread(things: Sequence[Any], most: int) -> Sequence[Any]:
    """At most so many of the things, evenly from all of them."""
    return things if len(things) <= most else [things[i * len(things) // most] for i in range(most)]


def _below(paths: Sequence[str]) -> list[str]:
    """Paths as they are named below the folder that all of them share."""
    folders = {os.path.dirname(path) for path in paths}
    try:
        top = os.path.commonpath(folders) if folders else ""
    except ValueError:  # absolute and relative ones, or several drives
        return list(paths)
    return [path[len(top) :].lstrip("/" + os.sep) for path in paths]


def _split(classes: Sequence[str], names: Sequence[str]) -> str:
    """Folders of a split, such as train and val, both in training."""
    folders = {folder for name in names for folder in folders_of(name)}
    parts = {folder: kind for folder in sorted(folders) if (kind := split_kind(folder))}
    both = "train" in parts.values() and len(set(parts.values())) > 1
    if not both and not (parts and len(classes) <= 3):  # one of many classes may well be a train
        return ""
    return (
        f"training has images in folder(s) called {', '.join(map(repr, parts))}, which look like the parts of a split "
        "but are none here: set `path` to the folder for training, and `val_path` to that for validation"
    )


def _contents(train: Sequence[str], val: Sequence[str]) -> list[str]:
    """Files of the same content: in both splits, or all of them, or some."""
    content = _same(list(dict.fromkeys((*train, *val))))
    if not content:
        return []
    n, distinct = len({*train, *val}), len(set(content.values()))
    if n > 1 and len(content) == n and distinct == 1:
        return [f"all images are alike: the {n} files that were compared have the same content"]
    found = []
    of_train: dict[Any, str] = {content[path]: path for path in train if path in content}
    shared = [path for path in val if path in content and content[path] in of_train]
    if shared:
        found.append(
            f"{len(shared)} of {len(val)} validation images that were compared are training images too, by their "
            f"content, such as {shared[0]!r} and {of_train[content[shared[0]]]!r}: validation would not show "
            "overfitting"
        )
    twins = [content[path] for path in train if path in content]
    if again := len(twins) - len(set(twins)):
        twin = Counter(twins).most_common(1)[0][0]
        first, second = [path for path in train if content.get(path) == twin][:2]
        found.append(
            f"{again} of {len(train)} training images that were compared have the content of another, such as "
            f"{first!r} and {second!r}"
        )
    return found


def _depths(config: DataConfig, paths: Sequence[str]) -> list[str]:
    """Where holes, the sky or outliers take most of the range of depth maps."""
    ranges: list[Range] = []
    for path in paths:
        try:
            ranges.append(range_of(*measured_depth(path, config.max_pixels, config.missing_depths)))
        except ValueError:  # the reader will say why
            continue
    found, read = [], f"of {len(ranges)} depth maps that were read"
    if apart := [one for one in ranges if one.apart]:
        shares: dict[float, list[float]] = defaultdict(list)
        for one in apart:
            for value, share in one.apart.items():
                shares[value].append(share)
        often = sorted(shares, key=lambda value: (-len(shares[value]), value))[:4]
        named = " and ".join(f"{value:.9g} ({np.mean(shares[value]):.1%} of the pixels)" for value in often)
        values = ",".join([*filter(None, [config.missing]), *(f"{value:.9g}" for value in sorted(often))])
        found.append(
            f"in {len(apart)} {read}, frequent values stand apart, {named}, and the others take "
            f"{np.mean([one.rest for one in apart]):.0%} of the range: if they mean that nothing was measured, or the "
            f"sky, set config.data.missing={values}"
        )
    if outliers := [one for one in ranges if one.outliers]:
        found.append(
            f"in {len(outliers)} {read}, 98 % of the pixels take {np.mean([one.bulk for one in outliers]):.0%} of the "
            "range, because a few lie far outside: clip them"
        )
    if flat := sum(one.flat for one in ranges):
        found.append(f"{flat} {read} hold one value alone")
    return found


def _same(paths: Sequence[str]) -> dict[str, Any]:
    """Of the files that another one equals, what tells their contents apart; by sizes, then pieces, then all bytes."""
    budget = HASHED
    keys: dict[str, Any] = {path: size for path in paths if (size := _size(path)) > 0}
    for whole in (False, True):
        groups = defaultdict(list)
        for path, key in keys.items():
            groups[key].append(path)
        keys = {}
        for key, group in groups.items():
            size = key[0] if isinstance(key, tuple) else key
            done = whole and size <= 3 * PIECE  # the pieces were all of it
            cost = 0 if done else (size if whole else min(size, 3 * PIECE)) * len(group)
            if len(group) > 1 and cost <= budget:
                budget -= cost
                keys |= {path: key if done else (size, _digest(path, size, whole)) for path in group}
    again = Counter(keys.values())
    return {path: key for path, key in keys.items() if again[key] > 1 and key[1]}


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def _digest(path: str, size: int, whole: bool) -> bytes:
    """Of a file's bytes, or of its beginning, middle and end; empty where it cannot be read."""
    try:
        with open(path, "rb") as file:
            if whole or size <= 3 * PIECE:
                return hashlib.file_digest(file, "blake2b").digest()
            digest = hashlib.blake2b()
            for place in (0, size // 2, size - PIECE):
                file.seek(place)
                digest.update(file.read(PIECE))
            return digest.digest()
    except OSError:
        return b""
