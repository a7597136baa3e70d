"""The records of a file in COCO's format: those that can be used, and of the others how many and which is the first."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from taming_jax.data.annotations import LeftOut, key, numbers, read_json, short, truth

POLYGONS = 2000  # as many are compared with their boxes
NEAR = 1.5  # pixels: boxes and outlines are rounded


class Marks(NamedTuple):
    """What n annotations say: their places in the file's list, ids, `values` float64 (n, k) and `crowd` bool (n,)."""

    numbers: list[int]
    images: list[str]
    categories: list[str]
    values: np.ndarray
    crowd: np.ndarray

    def only(self, kept: np.ndarray) -> "Marks":
        """Those where `kept` bool (n,) is True."""
        places = np.flatnonzero(kept).tolist()
        images, categories = ([ids[i] for i in places] for ids in (self.images, self.categories))
        return Marks([self.numbers[i] for i in places], images, categories, self.values[kept], self.crowd[kept])


class CocoFile:
    """One file with the given lists of records. Raises ValueError for what is no such file."""

    def __init__(self, path: Path, lists: tuple[str, ...]) -> None:
        if not path.is_file():
            raise ValueError(f"no such file: {str(path)!r}; `path` must be the folder with COCO's `annotations` in it")
        self.path, self.left = path, LeftOut(path)
        self.lists = found = read_json(path)
        if not isinstance(found, dict) or any(name not in found for name in lists):
            has = f"; it has {short(list(found))}" if isinstance(found, dict) else f"; it is {short(found)}"
            raise ValueError(f"{str(path)!r} is not in COCO's format: it must have {', '.join(lists)}{has}")
        for name in lists:
            if not isinstance(found[name], list):
                raise ValueError(f"{str(path)!r}: {name} is {short(found[name])}; expected a list of records")

    def where(self, name: str, i: int, field: str = "") -> str:
        """Record i of the list `name`, as users find it, and what it has in a field."""
        record = self.lists[name][i]
        if not isinstance(record, Mapping):
            return f"{name}[{i}]: it is {short(record)}, not a record"
        identity = f" (id {short(record['id'], 30)})" if "id" in record else ""
        value = short(record[field]) if field in record else "missing"
        return f"{name}[{i}]{identity}" + (f": {field} is {value}" if field else "")

    def categories(self) -> dict[str, str]:
        """id -> name of all, also of COCO-Stuff's residual "other"."""
        every: dict[str, str] = {}
        for i, record in enumerate(self.lists["categories"]):
            identity = key(record.get("id")) if isinstance(record, Mapping) else None
            if identity is None:
                self.left.add("categories without id", self.where("categories", i, "id"))
                continue
            name = record.get("name")
            if not isinstance(name, str) or not name.strip():
                self.left.add("categories without name, called by their ids", self.where("categories", i, "name"))
                name = f"category {identity}"
            if every.setdefault(identity, name) != name:
                raise ValueError(
                    f"{str(self.path)!r}, {self.where('categories', i)}: its name is {short(name)}, but {identity} is "
                    f"the id of {short(every[identity])} too; give every category an id of its own"
                )
        return every

    def marks(self, field: str, n: int, expected: str) -> Marks:
        """The annotations whose field has `n` numbers. Raises ValueError where there are annotations, but none such."""
        records, rows, found = self.lists["annotations"], [], Marks([], [], [], np.zeros((0, n)), np.zeros(0, bool))
        crowd: list[bool] = []
        seen: dict[str, int] = {}
        wanted = ("image_id", "category_id", field) if field == "bbox" else ("image_id", field)
        for i, record in enumerate(records):
            if not isinstance(record, Mapping):
                self.left.add("annotations that are no records", self.where("annotations", i))
                continue
            image, category = key(record.get("image_id")), key(record.get("category_id"))
            lacks = {"image_id": image is None, "category_id": category is None, field: field not in record}
            if missing := [name for name in wanted if lacks[name]]:
                what = f"without {', '.join(wanted[:-1])} or {wanted[-1]}"
                where = self.where("annotations", i, missing[0]).replace(": ", f": an annotation {what}: ", 1)
                self.left.add(f"annotations {what}", where)
                continue
            if (row := numbers(record[field], n)) is None:
                self.left.add(f"annotations whose {field} is not {expected}", self.where("annotations", i, field))
                continue
            identity = key(record.get("id"))
            place = i if identity is None else seen.setdefault(identity, i)
            if place != i and records[place] == record:
                self.left.add("annotations that are there twice", self.where("annotations", i))
                continue
            rows.append(row)
            found.numbers.append(i)
            found.images.append(image or "")
            found.categories.append(category or "")
            crowd.append(truth(record.get("iscrowd")) is True)
        if records and not rows:
            self.left.refuse(len(records), "annotations")
        return found._replace(values=np.array(rows, np.float64).reshape(-1, n), crowd=np.array(crowd, bool))

    def check_form(self, marks: Marks, sizes: np.ndarray) -> None:
        """Raises ValueError where the boxes (n, 4) of images of `sizes` (n, 2) are corners, as far as can be told."""
        boxes = marks.values
        with np.errstate(invalid="ignore", over="ignore"):
            beyond = (boxes[:, :2] + boxes[:, 2:] > 1.01 * sizes + 1).any(1)
            corners = (boxes[:, 2:] > boxes[:, :2]).all(1) & (boxes[:, 2:] <= sizes + 1).all(1)
        why, first = "", 0
        if len(boxes) and corners.all() and beyond.sum() >= max(2, len(boxes) / 10):
            first = int(np.argmax(beyond))
            why = f"{beyond.sum()} of {len(boxes)} reach beyond their images as such, and none does as corners"
        else:
            as_boxes, as_corners = self._outlines(marks)
            if len(as_corners) > len(as_boxes):
                first = as_corners[0]
                why = f"{len(as_corners)} fit to the outlines in `segmentation` as corners, {len(as_boxes)} as such"
        if why:
            width, height = sizes[first].tolist()
            raise ValueError(
                f"{str(self.path)!r}, {self.where('annotations', marks.numbers[first], 'bbox')} in an image of {width} "
                f"x {height} pixels: the boxes seem to be corners [x0, y0, x1, y1], but COCO's are [x, y, width, "
                f"height]: {why}; write [x0, y0, x1 - x0, y1 - y0], or cut boxes that are right at the image's edge"
            )
        if len(boxes) > 1 and (sizes >= 16).all() and ((boxes >= 0) & (boxes <= 1)).all() and (boxes[:, 2:] < 1).all():
            raise ValueError(
                f"{str(self.path)!r}, {self.where('annotations', marks.numbers[0], 'bbox')}: all boxes are below one "
                "pixel, as if they were shares of the image; expected [x, y, width, height] in pixels"
            )

    def _outlines(self, marks: Marks) -> tuple[list[int], list[int]]:
        """Which boxes fit to their outlines as x, y, width, height only, and which as corners only."""
        as_boxes: list[int] = []
        as_corners: list[int] = []
        for place, i in enumerate(marks.numbers[:POLYGONS]):
            polygons = self.lists["annotations"][i].get("segmentation")
            if not isinstance(polygons, list) or not all(isinstance(part, list) and part for part in polygons):
                continue
            points = [numbers(part, len(part) // 2 * 2) for part in polygons]
            if not points or None in points:
                continue
            flat = np.concatenate([np.reshape(part, (-1, 2)) for part in points if part is not None])
            outline = np.concatenate([flat.min(0), flat.max(0)])
            box = marks.values[place]
            fits = [(np.abs(form - outline) < NEAR).all() for form in (box + [0, 0, *box[:2]], box)]
            if fits[0] != fits[1]:
                (as_boxes if fits[0] else as_corners).append(place)
        return as_boxes, as_corners
