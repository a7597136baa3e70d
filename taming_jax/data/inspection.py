"""A look at data that trains nothing: what is read of it, in words, and what a network gets, as one picture."""

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from math import ceil
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from taming_jax import pictures
from taming_jax.data import pipeline
from taming_jax.data.config import DataConfig, Needs
from taming_jax.data.files import Files
from taming_jax.data.mistakes import spread
from taming_jax.data.opening import BrokenImage, opened
from taming_jax.data.pixels import is_array
from taming_jax.data.profiles import changes, profile_of
from taming_jax.data.records import Record, Source

MOST, SECONDS = 2000, 7.0  # images of a data set that are read unless told otherwise, and for how long
HEADERS = 10_000  # files of a split of which the beginning is read
COLUMNS, TRAIN_ROWS = 6, 2  # of the contact sheet; with one row for validation
MOST_PIXELS = 1 << 48  # nothing is decoded
WIDEST = 2400  # pixels of the contact sheet


@dataclasses.dataclass
class Reading:
    """What came out of reading images.

    read, of: how many of how many. unreadable: files and why. refused: files at which training would stop, and why.
    sides: smaller sides in pixels of the files whose beginning could be read. flat: images of one colour. labels: in
    how many label maps each label is. profiles: names of color profiles other than sRGB, among the files whose
    beginning was read. remarks: what was done to images.
    """

    read: int = 0
    of: int = 0
    unreadable: dict[str, str] = dataclasses.field(default_factory=dict)
    refused: dict[str, str] = dataclasses.field(default_factory=dict)
    sides: list[int] = dataclasses.field(default_factory=list)
    flat: list[str] = dataclasses.field(default_factory=list)
    labels: Counter[int] = dataclasses.field(default_factory=Counter)
    profiles: Counter[str] = dataclasses.field(default_factory=Counter)
    remarks: Counter[str] = dataclasses.field(default_factory=Counter)

    def lines(self, data: DataConfig, needs: Needs) -> Iterator[str]:
        """What there is to say, for people."""
        part = " (a sample; --read=N reads more)" if self.read < self.of else ""
        yield f"read {self.read} of {self.of} images{part}"
        if sides := sorted(self.sides):
            least = min(data.sides)
            small = sum(side < least for side in sides)
            yield f"smaller sides of {len(sides)} files: {sides[0]} to {sides[-1]} pixels, half of them at least " + (
                f"{sides[len(sides) // 2]}" + (f"; {small} below {least}, to be enlarged" if small else "")
            )
        if self.profiles:
            names = ", ".join(f"{n} {name}" for name, n in self.profiles.most_common(8))
            yield f"color profiles, converted to sRGB: {names} (of {len(self.sides)} files)"
        yield from (f"{n} {what}" for what, n in self.remarks.items())
        if self.labels:
            n = pipeline.num_labels(data, needs)
            names = pipeline.label_names(data, needs)
            order = sorted(self.labels.items(), key=lambda item: (-item[1], item[0]))
            frequent = ", ".join(f"{names[label] if names else label} ({times})" for label, times in order[:5])
            yield f"labels: {len(self.labels)} of {n} occur; in how many maps: {frequent}"
        for title, files in (("unreadable", self.unreadable), ("training would stop at", self.refused)):
            if files:
                yield f"{title}: {len(files)} file(s)"
                yield from (f"  {name}: {why}" for name, why in sorted(files.items()))

    def warnings(self) -> Iterator[str]:
        """Likely mistakes that only pixels show."""
        if self.flat:
            yield f"{len(self.flat)} of the images that were read are of one colour all over, such as {self.flat[0]!r}"
        if len(self.labels) == 1:
            yield f"all label maps that were read hold the label {next(iter(self.labels))} alone"
        if self.read and 0 < len(self.unreadable) < self.read and 4 * len(self.unreadable) > self.read:
            yield f"{len(self.unreadable)} of the {self.read} images that were read cannot be used"

    def refusal(self) -> str:
        """Why training would stop, in one line; "" where it would not."""
        if self.refused:
            others = f" (and {len(self.refused) - 1} more files)" if len(self.refused) > 1 else ""
            return next(iter(self.refused.values())) + others
        if self.read and len(self.unreadable) >= self.read:
            return f"none of the {self.read} images that were read can be used: {next(iter(self.unreadable.values()))}"
        return ""


def read(data: DataConfig, needs: Needs, most: int = 0) -> Reading:
    """Reads the images of both splits with what belongs to them, as training does.

    most: of how many; those whose beginning is unlike an image first, the others at random. 0: MOST, or as many as can
    be read in SECONDS.
    """
    sources = [pipeline.opened(data, split, needs) for split in ("train", "val")]
    found = Reading(of=sum(map(len, sources)))
    with tqdm(total=min(most or MOST, found.of), unit="image", desc="reading", leave=False) as progress:
        for source in sources:
            share = len(source) / found.of
            until = time.monotonic() + (max(1.0, SECONDS * share) if not most else float("inf"))
            for name, record, why in _records(source, min(len(source), ceil((most or MOST) * share)), until, found):
                progress.update()
                found.read += 1
                if record is None:
                    found.refused[name] = why
                elif record["valid"]:
                    _note(found, name, record)
            found.unreadable |= source.problems.unreadable
            found.remarks.update(source.problems.noted)
    return found


def _records(source: Source, most: int, until: float, found: Reading) -> Iterator[tuple[str, Record | None, str]]:
    """(name, record or None where training would stop at it, why) of up to so many images, until a time."""
    if not isinstance(source, Files):
        for number, record in enumerate(source.crops(0, most, None)):
            yield str(number), record, ""
            if time.monotonic() > until:
                return
        return
    paths = [str(path) for path in source.listing.images]

    def one(index: int) -> tuple[str, Record | None, str] | None:
        if time.monotonic() > until:
            return None
        try:
            return paths[index], source.read(index, None), ""
        except ValueError as error:
            return paths[index], None, str(error)

    with ThreadPoolExecutor(source.config.threads) as pool:
        places = spread(range(len(paths)), HEADERS)
        headers = dict(zip(places, pool.map(_header, (paths[place] for place in places))))
        sides = {place: header.side if header else None for place, header in headers.items()}
        found.sides += filter(None, sides.values())
        if source.config.color_profiles:
            found.profiles.update(header.profile for header in headers.values() if header and header.profile)
        first = [place for place, side in sides.items() if side is None][:most]
        rest = np.random.default_rng(0).permutation(len(paths)).tolist()
        chosen = [*first, *(place for place in rest if sides.get(place, 1) is not None)]
        yield from filter(None, pool.map(one, chosen[:most]))


class _Header(NamedTuple):
    """What the beginning of a file says: the smaller side, 0 for arrays, and the name of a profile other than sRGB."""

    side: int
    profile: str = ""


def _header(path: str) -> _Header | None:
    """None where it is no image; the reader will say why."""
    if is_array(path):
        return _Header(0)

    def read(image: Image.Image, size: tuple[int, int]) -> _Header:
        profile = image.info.get("icc_profile")
        return _Header(min(size), profile_of(profile).name if profile and changes(profile) else "")

    try:
        return opened(path, read, max_pixels=MOST_PIXELS)
    except BrokenImage:
        return None


def _note(found: Reading, name: str, record: Record) -> None:
    if record["image"].min() == record["image"].max():
        found.flat.append(name)
    if "segmentation" in record:
        found.labels.update(np.unique(record["segmentation"]).tolist())


# Draws what a network gets beside the image: (batch, n, (height, width)) -> (n, height, width, 3) in [-1, 1], or None.
Draw = Callable[[Mapping[str, Any], int, tuple[int, int]], np.ndarray | None]


def contact_sheet(data: DataConfig, needs: Needs, draw: Draw) -> Image.Image:
    """The first training images as the network gets them, each above what `draw` makes of it, and below them the first
    ones for validation. Raises ValueError where training would, in the first batches."""
    asked = data.annotations if needs.annotations is None else needs.annotations
    needs = dataclasses.replace(needs, annotations=tuple(dict.fromkeys((*asked, "crop"))))
    data = dataclasses.replace(data, batch_size=COLUMNS)
    say = _Words(data, needs)
    rows: list[np.ndarray] = []
    labels: list[str] = []
    for split, wanted in (("train", TRAIN_ROWS), ("val", 1)):
        for batch in islice(pipeline.make_batches(data, split, needs=needs), wanted):
            n = int(batch["valid"].sum()) if "valid" in batch else COLUMNS
            if n == 0:
                continue
            batch = {key: value[batch["valid"]] if "valid" in batch else value for key, value in batch.items()}
            height, width = batch["image"].shape[1:3]
            image = pictures.colours(batch["image"])
            rows.append(image)
            labels += _filled([say.image(split, batch, i) for i in range(n)])
            if (drawn := draw(batch, n, (height, width))) is not None:
                rows.append(_over(image, drawn) if {"objects", "keypoints"} & set(asked) else drawn)
                labels += _filled([say.annotations(batch, i) for i in range(n)])
    white = lambda row: np.ones((COLUMNS - len(row), *row.shape[1:]), np.float32)
    sheet = pictures.grid(np.concatenate([part for row in rows for part in (row, white(row))]), COLUMNS, labels)
    sheet.thumbnail((WIDEST, 4 * WIDEST))
    return sheet


class _Words:
    """Labels below the pictures of the contact sheet."""

    def __init__(self, data: DataConfig, needs: Needs) -> None:
        self.classes = pipeline.class_names(data, needs)
        self.labels = pipeline.label_names(data, needs)
        self.objects = pipeline.object_names(data, needs) if "objects" in (needs.annotations or ()) else None

    def image(self, split: str, batch: Mapping[str, np.ndarray], i: int) -> str:
        """Split, class, and how the square lies in the whole image."""
        top, left, height, width = batch["crop"][i].tolist()
        parts = [split] + ([self.classes[int(batch["class_label"][i])]] if self.classes else [])
        parts += ["mirrored"] if batch["flip"][i] else []
        return ", ".join([*parts, f"at {left}, {top} of {width} x {height}"])

    def annotations(self, batch: Mapping[str, np.ndarray], i: int) -> str:
        """What is there, the most of it first."""
        if "segmentation" in batch:
            counts = np.bincount(batch["segmentation"][i].ravel())
            order = [int(label) for label in np.argsort(-counts, kind="stable") if counts[label]]
            return ", ".join(self.labels[label] if self.labels else str(label) for label in order)
        if "depth" in batch:
            return f"{batch['depth'][i].min():.2f} to {batch['depth'][i].max():.2f}"
        if "object_category" in batch:
            there = [int(number) for number in batch["object_category"][i] if number >= 0]
            return ", ".join(self.objects[number] if self.objects else str(number) for number in there)
        if "keypoints" in batch:
            return f"{int((batch['keypoints'][i, :, :, 2] > 0).any(-1).sum())} figure(s)"
        return ""


def _filled(labels: Sequence[str]) -> list[str]:
    return [*labels, *[""] * (COLUMNS - len(labels))]


def _over(image: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """What is drawn on black, on a darkened image."""
    there = drawn.max(axis=-1, keepdims=True) > -0.95
    return np.where(there, drawn, 0.4 * (image + 1) - 1).astype(np.float32)
