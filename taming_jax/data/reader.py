"""From one example of a listing to its record: the image cut out, and its annotations by the same window."""

import numpy as np

from taming_jax.data.config import DataConfig
from taming_jax.data.listing import Figures, Listing, ObjectTable
from taming_jax.data.map_files import read_depth, read_label_map
from taming_jax.data.pixels import BrokenImage, Photo, decode
from taming_jax.data.records import TOO_MANY, Problems, Record, blank_record
from taming_jax.data.transforms import Window, choose_window, cut_map, cut_photo, cut_points, upright_points


class Reader:
    """Reads examples, and does not stop at broken ones: it counts them and names each in the log, once."""

    def __init__(self, config: DataConfig, listing: Listing) -> None:
        self.config, self.listing = config, listing
        self.blank = blank_record(config, listing.figures.points.shape[1] if listing.figures else 0)
        self.problems = Problems(listing.skipped)

    def read(
        self, name: str, source: str | bytes, label: int, rng: np.random.Generator | None, index: int | None = None
    ) -> Record:
        """The record of an image and, where it is number `index` of the listing, of its annotations; or the blank one.

        source: as in `decode`. rng: draws crop, flip and the order of objects; None for the middle of the image.
        """
        config = self.config
        try:
            photo = decode(source, config.enough, config.channels, config.max_pixels, config.color_profiles)
            for remark in photo.remarks:
                self.problems.note(remark, name)
            window = choose_window(
                photo,
                config.sides,
                rng,
                resize=config.zoomed or config.resize,
                random_crop=config.random_crop,
                random_scale=config.random_scale,
                flip=config.flip,
                crop_from=config.crop_from,
                resampling=config.resampling,
            )
            record: Record = {"image": cut_photo(photo, window, config.sides, config.resampling)}
            record |= {"class_label": np.int32(label), "valid": np.bool_(True)}
            if "crop" in config.annotations:
                record |= {"crop": window.crop(config.sides), "flip": np.bool_(window.flip)}
            if index is not None:
                record |= self._annotations(index, photo, window, rng)
            return record
        except BrokenImage as error:
            self.problems.skip(name, error)
            return self.blank

    def _annotations(self, index: int, photo: Photo, window: Window, rng: np.random.Generator | None) -> Record:
        config, listing = self.config, self.listing
        asked, most = config.annotations, config.max_pixels
        record: Record = {}
        if "segmentation" in asked:
            values = read_label_map(listing.maps[index], listing.n_labels, listing.unlabelled, most)
            record["segmentation"] = self._cut_map(listing.maps[index], values, index, photo, window)
        if "depth" in asked:
            depth = read_depth(listing.depths[index], most, config.missing_depths)
            depth = self._cut_map(listing.depths[index], depth, index, photo, window)
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
        return cut_map(values, photo, window, self.config.sides)

    def _check_size(self, sizes: np.ndarray | None, index: int, photo: Photo) -> None:
        # boxes are shares, so an image that was made smaller is fine, but not one of another shape
        if sizes is not None:
            (w, h), (width, height) = sizes[index].tolist(), photo.stored
            if abs(w * height - h * width) > max(w, h, width, height):
                raise ValueError(
                    f"the image {self.listing.images[index]!r} is {width} x {height} pixels, but its objects were "
                    f"annotated on {w} x {h}; take the images that belong to the annotations"
                )

    def _objects(
        self, objects: ObjectTable, index: int, photo: Photo, window: Window, rng: np.random.Generator | None
    ) -> Record:
        config = self.config
        chosen = slice(objects.start[index], objects.start[index + 1])
        corners = objects.boxes[chosen].reshape(-1, 2, 2).copy()  # the image's corner and the extent ...
        corners[:, 1] += corners[:, 0]
        corners = np.sort(upright_points(corners, photo), axis=1)  # ... to two corners, (k, 2, 2)
        extent = np.array([window.width, window.height], np.float32)
        low = np.array([window.left, window.top], np.float32) / extent
        inside = np.clip(corners, low, low + np.array([window.across, window.down], np.float32) / extent)
        whole, seen = ((box[:, 1] - box[:, 0]).prod(-1) for box in (corners, inside))
        keep = np.flatnonzero((seen > 0) & (seen >= config.min_visible * whole))
        self.problems.count("objects left out because the crop shows too little of them", len(whole) - len(keep))
        if len(keep) > config.max_objects:
            self.problems.count(TOO_MANY, len(keep) - config.max_objects)
            keep = np.sort(keep[np.argsort(-seen[keep], kind="stable")[: config.max_objects]])  # the largest
        if rng is not None:
            keep = rng.permutation(keep)  # so that a place in the sequence says nothing about the object
        shown = corners if config.whole_boxes else inside
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
        self.problems.count(TOO_MANY, len(order) - self.config.max_objects)
        slots = self.blank["keypoints"].copy()
        order = np.sort(order[: self.config.max_objects])
        slots[: len(order)] = points[order]
        return slots
