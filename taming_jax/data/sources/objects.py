"""Objects with boxes from COCO's JSON and Open Images' CSV files, and COCO's key points of people."""

import csv
import json
from array import array
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from taming_jax.data.config import DataConfig
from taming_jax.data.listing import FLAGS, Figures, Listing, ListOne, ObjectTable, list_once
from taming_jax.data.map_folders import add_maps
from taming_jax.data.names import choose_categories
from taming_jax.data.walk import find_images

GROUP = 1 << FLAGS.index("group")


def list_coco_objects(config: DataConfig, split: str) -> Listing:
    """COCO 2017: path/annotations/{instances,stuff,person_keypoints}_{train,val}2017.json, path/{train,val}2017."""
    base, name = Path(config.path), f"{split}2017"
    folder = next((top / name for top in (base, base / "images") if (top / name).is_dir()), base / name)
    found = find_images(str(folder))
    there = set(found.names)
    listing = Listing([], passed_over={str(folder): found.passed_over})
    if not {"objects", "keypoints"} & set(config.annotations):
        return add_maps(config, listing, folder, sorted(there))
    things = _load(base / "annotations" / f"instances_{name}.json", ("images", "annotations", "categories"))
    rows = [image for image in things["images"] if image["file_name"] in there]
    listing.note("annotated images that are not in the folder", len(things["images"]) - len(rows))
    people = None
    if "keypoints" in config.annotations:
        file = base / "annotations" / f"person_keypoints_{name}.json"
        people = _load(file, ("annotations", "categories"), "keypoints")
        shown = {a["image_id"] for a in people["annotations"] if any(a["keypoints"][2::3])}
        listing.note("images without key points", sum(image["id"] not in shown for image in rows))
        rows = [image for image in rows if image["id"] in shown]
    listing.note("images without annotations", len(there - {image["file_name"] for image in things["images"]}))
    place = {image["id"]: i for i, image in enumerate(rows)}
    sizes = np.array([(image["width"], image["height"]) for image in rows], np.int32).reshape(-1, 2)
    parts = [things]
    if config.stuff and "objects" in config.annotations:
        parts.append(_load(base / "annotations" / f"stuff_{name}.json", ("annotations", "categories")))
    # the residual category of COCO-Stuff is none; numbers go by the ids as text ("1", "10", "11", ...), which is how
    # the published models count
    every = {str(c["id"]): c["name"] for part in parts for c in part["categories"] if c["name"] != "other"}
    known = {image["id"] for image in things["images"]}
    annotations = [a for part in parts for a in part["annotations"]]
    listing.note("annotations of unknown images", sum(a["image_id"] not in known for a in annotations))
    annotations = [a for a in annotations if a["image_id"] in place]
    used = Counter(str(a["category_id"]) for a in annotations)
    number, listing.object_names = choose_categories(
        config, every, used, _training_names(config, split, list_coco_objects)
    )
    annotations = [a for a in annotations if str(a["category_id"]) in number]
    images = np.array([place[a["image_id"]] for a in annotations], np.int64)
    boxes = np.array([a["bbox"] for a in annotations], np.float64).reshape(-1, 4) / np.tile(sizes, 2)[images]
    category = np.array([number[str(a["category_id"])] for a in annotations], np.int32)
    flags = np.array([GROUP * bool(a.get("iscrowd", 0)) for a in annotations], np.int32)
    names, kept, listing.objects = _gather(
        config, listing, [image["file_name"] for image in rows], images, boxes, category, flags, sizes
    )
    if people:
        listing.figures = _figures(people, {rows[i]["id"]: j for j, i in enumerate(kept)}, sizes[kept])
    listing.images = [str(folder / n) for n in names]
    return listing


def list_open_images(config: DataConfig, split: str) -> Listing:
    """Open Images: path/{train,validation}/ID.jpg, path/*{train,validation}-annotations-bbox.csv and
    path/class-descriptions-boxable.csv."""
    base, name = Path(config.path), {"train": "train", "val": "validation"}[split]
    root, files, passed_over = find_images(str(base / name))
    listing = Listing([], passed_over={str(root): passed_over})
    if "objects" not in config.annotations:
        return add_maps(config, listing, root, files)
    place = {Path(file).stem: i for i, file in enumerate(files)}
    if not (tables := sorted(base.glob(f"*{name}-annotations-bbox.csv"))):
        raise ValueError(f"no file '*{name}-annotations-bbox.csv' in {config.path!r}")
    descriptions = base / "class-descriptions-boxable.csv"
    if not descriptions.is_file():
        raise ValueError(f"no file {str(descriptions)!r}, which names the categories")
    with descriptions.open(encoding="utf-8", newline="") as file:
        every = {row[0]: row[1] for row in csv.reader(file) if len(row) > 1 and row[0] != "LabelName"}
    codes, images, boxes, labels, flags = _read_boxes(tables[0], place, listing)
    used = Counter(dict(zip(codes, np.bincount(labels, minlength=len(codes)).tolist())))
    number, listing.object_names = choose_categories(
        config, every, used, _training_names(config, split, list_open_images)
    )
    lookup = np.array([number.get(code, -1) for code in codes], np.int32)
    category = lookup[labels]
    kept = category >= 0
    names, _, listing.objects = _gather(
        config, listing, files, images[kept], boxes[kept], category[kept], flags[kept], None
    )
    listing.images = [str(root / n) for n in names]
    return listing


def _read_boxes(
    table: Path, place: dict[str, int], listing: Listing
) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(category ids, then arrays of image, box in shares, category as place in the ids, flags) of the known images."""
    columns = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax")
    bits = {"IsGroupOf": "group", "IsOccluded": "occluded", "IsDepiction": "depiction", "IsInside": "inside"}
    bits |= {"IsTruncated": "truncated"}
    codes: dict[str, int] = {}
    images, labels, flags, corners, foreign = array("q"), array("q"), array("q"), array("d"), 0
    with table.open(encoding="utf-8", newline="") as file:  # 14 million rows: plain loops over small arrays
        rows = csv.reader(file)
        header = {name: i for i, name in enumerate(next(rows, []))}
        if missing := [name for name in columns if name not in header]:
            raise ValueError(f"{str(table)!r} lacks the column(s) {', '.join(missing)}; it has {', '.join(header)}")
        image, label, *edges = (header[name] for name in columns)
        marks = [(header[name], 1 << FLAGS.index(flag)) for name, flag in bits.items() if name in header]
        for row in rows:
            index = place.get(row[image])
            if index is None:
                foreign += 1
                continue
            images.append(index)
            labels.append(codes.setdefault(row[label], len(codes)))
            try:
                corners.extend([float(row[i]) for i in edges])
            except (ValueError, IndexError) as error:
                raise ValueError(f"{str(table)!r}, line {rows.line_num}: {error}") from error
            flags.append(sum(bit for i, bit in marks if row[i] == "1"))  # -1 is unknown
    listing.note("boxes of images that are not in the folder", foreign)
    x0, x1, y0, y1 = np.asarray(corners, np.float64).reshape(-1, 4).T
    boxes = np.stack([x0, y0, x1 - x0, y1 - y0], axis=1)
    return list(codes), np.asarray(images), boxes, np.asarray(labels), np.asarray(flags, np.int32)


def _load(path: Path, keys: tuple[str, ...], what: str = "bbox") -> dict[str, Any]:
    """A file in COCO's format with these keys, each of whose annotations has `what`."""
    if not path.is_file():
        raise ValueError(f"no such file: {str(path)!r}; `path` must be the folder with COCO's `annotations` in it")
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is not JSON: {error}") from error
    if not isinstance(found, dict) or any(key not in found for key in keys):
        raise ValueError(f"{str(path)!r} is not in COCO's format: it must have {', '.join(keys)}")
    for annotation in found["annotations"]:
        if not annotation.keys() >= {"image_id", "category_id", what}:
            short = str(annotation)[:200]
            raise ValueError(f"{str(path)!r} has an annotation without image_id, category_id or {what}: {short}")
    return found


def _training_names(config: DataConfig, split: str, find: ListOne) -> tuple[str, ...] | None:
    """The most frequent categories are those of training, in validation too; None where nothing has to be counted."""
    return list_once(find, config, "train").object_names if split == "val" and config.categories.isdigit() else None


def _gather(
    config: DataConfig,
    listing: Listing,
    names: list[str],
    images: np.ndarray,
    boxes: np.ndarray,
    category: np.ndarray,
    flags: np.ndarray,
    sizes: np.ndarray | None,
) -> tuple[list[str], np.ndarray, ObjectTable]:
    """(names, places of the images kept, their objects), after the objects and images that are unfit are left out.

    images (n,), boxes (n, 4) as shares, category (n,), flags (n,): all objects, in any order of images.
    """
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    inside = np.clip(corners, 0, 1)
    extent = inside[:, 2:] - inside[:, :2]
    good = np.isfinite(boxes).all(1) & (boxes[:, 2:] > 0).all(1) & (extent > 0).all(1)
    listing.note("boxes outside the image or without area", int((~good).sum()))
    listing.note("boxes cut at the image's edge", int((good & (np.abs(inside - corners) > 0.01).any(1)).sum()))
    large = good & (extent.prod(1) >= config.min_object_area)
    listing.note("objects smaller than min_object_area", int((good & ~large).sum()))
    counts = np.bincount(images[large], minlength=len(names))
    kept = np.flatnonzero(counts >= config.min_objects)
    listing.note("images with fewer than min_objects objects", len(names) - len(kept))
    listing.note("images with more than max_objects objects", int((counts[kept] > config.max_objects).sum()))
    order = np.flatnonzero(large)
    order = order[np.argsort(images[order], kind="stable")]
    order = order[counts[images[order]] >= config.min_objects]
    objects = ObjectTable(
        np.concatenate([inside[order, :2], extent[order]], axis=1).astype(np.float32),
        category[order],
        flags[order],
        np.concatenate([[0], np.cumsum(counts[kept])]),
        None if sizes is None else sizes[kept],
    )
    return [names[i] for i in kept], kept, objects


def _figures(people: dict[str, Any], place: dict[int, int], sizes: np.ndarray) -> Figures:
    joints: list[str] = next((c["keypoints"] for c in people["categories"] if c.get("keypoints")), [])
    found = [a for a in people["annotations"] if a["image_id"] in place and any(a["keypoints"][2::3])]
    found.sort(key=lambda a: place[a["image_id"]])
    images = np.array([place[a["image_id"]] for a in found], np.int64)
    points = np.array([a["keypoints"] for a in found], np.float32).reshape(len(found), len(joints), 3)
    points[..., :2] /= sizes[images][:, None, :]
    points[..., 2] = points[..., 2] > 0
    counts = np.bincount(images, minlength=len(place))
    other = [n.replace("left_", "right_") if "left_" in n else n.replace("right_", "left_") for n in joints]
    return Figures(points, np.concatenate([[0], np.cumsum(counts)]), tuple(joints.index(n) for n in other))
