"""Examples that lie in files: what a data set lists, and one source that reads any list.

A data set is a function `(cfg, split) -> Listing` that finds its files and annotations. All else is here, once:
reading, cropping, checking, skipping, shuffling, and going on where a training stopped.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from .map_files import read_depth, read_label_map
from .records import (
    ANNOTATIONS,
    TOO_MANY,
    Problems,
    Record,
    Shard,
    augmentation_rng,
    blank_record,
    epoch_order,
    read_parallel,
    tensorflow,
)
from .transforms import BrokenImage, Photo, Window, choose_window, cut, cut_map, cut_points, decode, upright_points

FLAGS = ("group", "occluded", "depiction", "inside", "truncated")  # bit i of object_flags


class Objects(NamedTuple):
    """The objects of all images one after the other; those of image i are start[i] .. start[i + 1].

    boxes: float32 (n, 4), x0, y0, width, height as shares of the image as its file has it. category: int32 (n,).
    flags: int32 (n,), bits as in FLAGS. start: int64 (images + 1,).
    sizes: int32 (images, 2), the width and height that the annotations were made for, where they say it.
    """

    boxes: np.ndarray
    category: np.ndarray
    flags: np.ndarray
    start: np.ndarray
    sizes: np.ndarray | None = None


class Figures(NamedTuple):
    """Key points of all images one after the other, as in `Objects`.

    points: float32 (n, k, 3), x and y as shares of the image, and 1 where the point is known, else 0.
    mirror: which point each becomes in a mirrored image (a left hand a right one).
    """

    points: np.ndarray
    start: np.ndarray
    mirror: tuple[int, ...]


@dataclasses.dataclass
class Listing:
    """The examples of one split. All but `images` may be left out; lists are as long as `images`.

    images: paths. labels: class numbers, and class_names in their order.
    maps: paths of label maps of n_labels labels. unlabelled: as in `read_label_map`. label_names: of the labels.
    depths: paths of depth maps. objects, and object_names, of their categories. figures: key points.
    skipped: how many of what was left out.
    """

    images: Sequence[str]
    labels: Sequence[int] | None = None
    class_names: tuple[str, ...] | None = None
    maps: Sequence[str] = ()
    n_labels: int = 0
    unlabelled: int = -1
    label_names: tuple[str, ...] | None = None
    depths: Sequence[str] = ()
    objects: Objects | None = None
    object_names: tuple[str, ...] | None = None
    figures: Figures | None = None
    skipped: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def gives(self) -> tuple[str, ...]:
        """The annotations that these examples have."""
        has = (self.class_names, self.maps, self.depths, True, self.objects, self.figures)
        return tuple(name for name, there in zip(ANNOTATIONS, has, strict=True) if there)

    def note(self, what: str, n: int) -> None:
        """Counts n things that were left out."""
        if n:
            self.skipped[what] = self.skipped.get(what, 0) + n

    def keep(self, places: Sequence[int]) -> "Listing":
        """Leaves only the images at these places, and what belongs to them. (Objects and figures come after it.)"""
        if len(places) < len(self.images):
            for field in ("images", "labels", "maps", "depths"):
                if values := getattr(self, field):
                    setattr(self, field, [values[i] for i in places])
        return self


class Reader:
    """Reads examples, and does not stop at broken ones: it counts them and names each in the log, once."""

    def __init__(self, cfg, listing: Listing):
        self.cfg, self.listing = cfg, listing
        self.blank = blank_record(cfg, listing.figures.points.shape[1] if listing.figures else 0)
        self.problems = Problems(listing.skipped)

    def read(
        self, name: str, source: str | bytes, label: int, rng: np.random.Generator | None, index: int | None = None
    ) -> Record:
        """The record of an image and, where it is number `index` of the listing, of its annotations; or the blank one.

        source: as in `decode`. rng: draws crop, flip and the order of objects; None for the central square.
        """
        cfg = self.cfg
        try:
            photo = decode(source, 0 if cfg.random_scale else 2 * max(cfg.size, cfg.resize))
            window = choose_window(
                photo,
                cfg.size,
                rng,
                resize=cfg.resize,
                random_crop=cfg.random_crop,
                random_scale=cfg.random_scale,
                flip=cfg.flip,
            )
            record: Record = {"image": cut(photo.rgb, window, cfg.size, Image.Resampling.BICUBIC)}
            record |= {"class_label": np.int32(label), "valid": np.bool_(True)}
            if "crop" in cfg.annotations:
                record |= {"crop": window.crop(cfg.size), "flip": np.bool_(window.flip)}
            if index is not None:
                record |= self._annotations(index, photo, window, rng)
            return record
        except BrokenImage as error:
            self.problems.skip(name, error)
            return self.blank

    def _annotations(self, index: int, photo: Photo, window: Window, rng) -> Record:
        listing, asked = self.listing, self.cfg.annotations
        record = {}
        if "segmentation" in asked:
            values = read_label_map(listing.maps[index], listing.n_labels, listing.unlabelled)
            record["segmentation"] = self._cut_map(listing.maps[index], values, index, photo, window)
        if "depth" in asked:
            depth = self._cut_map(listing.depths[index], read_depth(listing.depths[index]), index, photo, window)
            record["depth"] = np.clip(depth, -1, 1)
        if "objects" in asked and listing.objects:
            self._check_size(listing.objects.sizes, index, photo)
            record |= self._objects(listing.objects, index, photo, window, rng)
        if "keypoints" in asked and listing.figures:
            record["keypoints"] = self._keypoints(listing.figures, index, photo, window)
        return record

    def _cut_map(self, path: str, values: np.ndarray, index: int, photo: Photo, window: Window) -> np.ndarray:
        if values.shape[::-1] != photo.stored:
            (w, h), (width, height) = values.shape[::-1], photo.stored
            raise ValueError(
                f"the map {path!r} is {w} x {h} pixels, but its image {self.listing.images[index]!r} is {width} x "
                f"{height}; they must be equally large"
                + (", before the camera's turn (EXIF) is applied" if photo.orientation > 1 else "")
            )
        return cut_map(values, photo, window, self.cfg.size)

    def _check_size(self, sizes: np.ndarray | None, index: int, photo: Photo) -> None:
        # boxes are shares, so an image that was made smaller is fine, but not one of another shape
        if sizes is not None:
            (w, h), (width, height) = sizes[index].tolist(), photo.stored
            if abs(w * height - h * width) > max(w, h, width, height):
                raise ValueError(
                    f"the image {self.listing.images[index]!r} is {width} x {height} pixels, but its objects were "
                    f"annotated on {w} x {h}; take the images that belong to the annotations"
                )

    def _objects(self, objects: Objects, index: int, photo: Photo, window: Window, rng) -> Record:
        cfg = self.cfg
        chosen = slice(objects.start[index], objects.start[index + 1])
        corners = objects.boxes[chosen].reshape(-1, 2, 2).copy()  # the image's corner and the extent ...
        corners[:, 1] += corners[:, 0]
        corners = np.sort(upright_points(corners, photo), axis=1)  # ... to two corners, (k, 2, 2)
        extent = np.array([window.width, window.height], np.float32)
        low = np.array([window.left, window.top], np.float32) / extent
        inside = np.clip(corners, low, low + np.float32(window.side) / extent)
        whole, seen = ((box[:, 1] - box[:, 0]).prod(-1) for box in (corners, inside))
        keep = np.flatnonzero((seen > 0) & (seen >= cfg.min_visible * whole))
        self.problems.count("objects left out because the crop shows too little of them", len(whole) - len(keep))
        if len(keep) > cfg.max_objects:
            self.problems.count(TOO_MANY, len(keep) - cfg.max_objects)
            keep = np.sort(keep[np.argsort(-seen[keep], kind="stable")[: cfg.max_objects]])  # the largest
        if rng is not None:
            keep = rng.permutation(keep)  # so that a place in the sequence says nothing about the object
        shown = corners if cfg.whole_boxes else inside
        boxes = np.concatenate([shown[:, 0], shown[:, 1] - shown[:, 0]], axis=1)
        record = {key: value.copy() for key, value in self.blank.items() if key.startswith("object_")}
        record["object_boxes"][: len(keep)] = boxes[keep]
        record["object_category"][: len(keep)] = objects.category[chosen][keep]
        record["object_flags"][: len(keep)] = objects.flags[chosen][keep]
        return record

    def _keypoints(self, figures: Figures, index: int, photo: Photo, window: Window) -> np.ndarray:
        found = figures.points[figures.start[index] : figures.start[index + 1]]
        places = cut_points(upright_points(found[..., :2], photo), window)
        if window.flip:
            places, found = places[:, list(figures.mirror)], found[:, list(figures.mirror)]
        visible = (found[..., 2] > 0) & (places >= 0).all(-1) & (places <= 1).all(-1)
        shown = visible.sum(axis=1)
        points = np.concatenate([places, np.ones_like(places[..., :1])], axis=-1) * visible[..., None]
        order = np.argsort(-shown, kind="stable")  # those of which most is seen
        order = order[shown[order] > 0]
        self.problems.count(TOO_MANY, len(order) - self.cfg.max_objects)
        slots = self.blank["keypoints"].copy()
        order = np.sort(order[: self.cfg.max_objects])
        slots[: len(order)] = points[order]
        return slots


@lru_cache(maxsize=4)  # large annotation files are read once, however many settings ask for them
def list_once(find: Callable[..., Listing], cfg, split: str) -> Listing:
    return find(cfg, split)


class Files:
    """One split of a data set of files, listed by `find`."""

    def __init__(self, cfg, split: str, find: Callable[..., Listing]):
        self.cfg, self.train = cfg, split == "train"
        paired = tuple(sorted(set(cfg.annotations) - {"class_label", "crop"}))
        # what the listing does not depend on is set to one value
        key = dataclasses.replace(cfg, annotations=paired, size=16, resize=0, batch_size=1, seed=0, workers=0)
        self.listing = list_once(find, key, split)
        if not self.listing.images:
            raise ValueError(
                f"the data source {cfg.source!r} finds no example for {split!r} in {cfg.path!r}"
                + "".join(f"; {n} {what}" for what, n in self.listing.skipped.items())
            )
        self.class_names = self.listing.class_names
        self.reader = Reader(cfg, self.listing)

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

        def read(place):
            position = shard.position(int(place))
            if self.train:
                epoch, place_in_epoch = divmod(position, n)
                return self._read(int(epoch_order(n, self.cfg.seed, epoch)[place_in_epoch]), epoch)
            return self._read(position, None) if position < n else self.reader.blank

        end = tf.int64.max if self.train else shard.padded_length(n)
        return read_parallel(tf.data.Dataset.range(first, end), read, self.reader.blank, self.cfg.threads)

    def crops(self, start: int, stop: int, epoch: int | None) -> Iterator[Record]:
        """Images start..stop of the listing, each as it is cut in an epoch of training; None: its central square."""
        read = lambda index: self._read(int(index), epoch)
        indices = tensorflow().data.Dataset.range(start, stop)
        return read_parallel(indices, read, self.reader.blank, self.cfg.threads)

    def _read(self, index: int, epoch: int | None) -> Record:
        labels, path = self.listing.labels, str(self.listing.images[index])
        rng = None if epoch is None else augmentation_rng(self.cfg.seed, epoch, index)
        return self.reader.read(path, path, labels[index] if labels else 0, rng, index)
