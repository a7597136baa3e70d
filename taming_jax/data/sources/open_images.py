"""Objects with boxes from Open Images' CSV files."""

from array import array
from collections import Counter
from pathlib import Path

import numpy as np

from taming_jax.data.annotations import LeftOut, number, read_rows, short, tell_apart, truth
from taming_jax.data.config import DataConfig
from taming_jax.data.listing import FLAGS, Listing
from taming_jax.data.map_folders import add_maps
from taming_jax.data.names import choose_categories
from taming_jax.data.objects import gather, training_names
from taming_jax.data.walk import find_images

COLUMNS = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax")
MARKS = {"IsGroupOf": "group", "IsOccluded": "occluded", "IsDepiction": "depiction", "IsInside": "inside"}
MARKS |= {"IsTruncated": "truncated"}


def list_open_images(config: DataConfig, split: str) -> Listing:
    """Open Images: path/{train,validation}/ID.jpg, path/*{train,validation}-annotations-bbox.csv and
    path/*class-descriptions-boxable.csv, the tables also in a folder below; or as FiftyOne leaves it,
    path/train/data/ID.jpg, path/train/labels/detections.csv and path/train/metadata/classes.csv."""
    base, name = Path(config.path), {"train": "train", "val": "validation"}[split]
    root, files, passed_over = find_images(str(base / name))
    if (root / "data").is_dir() and all(Path(file).parts[0] == "data" for file in files):
        root, files, passed_over = find_images(str(root / "data"))
    listing = Listing([], passed_over={str(root): passed_over})
    if "objects" not in config.annotations:
        return add_maps(config, listing, root, files)
    tables = _tables(base, f"*{name}-annotations-bbox.csv", f"{name}/labels/detections.csv")
    if not tables:
        raise ValueError(f"no file '*{name}-annotations-bbox.csv' in {config.path!r} or a folder in it")
    listing.note(f"tables of boxes that are not read, because {tables[0].name!r} is", len(tables) - 1)
    names = _tables(base, "*class-descriptions-boxable.csv", f"{name}/metadata/classes.csv")
    every = _descriptions(names[0] if names else base / "class-descriptions-boxable.csv", listing)
    # a table may name images with their endings, too
    place = {file: i for i, file in enumerate(files)} | {Path(file).stem: i for i, file in enumerate(files)}
    left = LeftOut(tables[0])
    codes, images, boxes, labels, flags = _read_boxes(tables[0], place, every, listing, left)
    used = Counter(dict(zip(codes, np.bincount(labels, minlength=len(codes)).tolist())))
    number_of, listing.object_names = choose_categories(
        config, every, used, training_names(config, split, list_open_images)
    )
    lookup = np.array([number_of.get(code, -1) for code in codes], np.int32)
    category = lookup[labels]
    kept = category >= 0
    left.note(listing)
    listing.note("objects of categories that are not chosen", int((~kept).sum()))
    names, _, listing.objects = gather(
        config, listing, files, images[kept], boxes[kept], category[kept], flags[kept], None
    )
    listing.images = [str(root / n) for n in names]
    return listing


def _tables(base: Path, name: str, of_fiftyone: str) -> list[Path]:
    """The tables of such a name in the folder, or else in one below it, or else where FiftyOne has them."""
    places = (base.glob(name), base.glob(f"*/{name}"), base.glob(of_fiftyone))
    return next((found for place in places if (found := sorted(place))), [])


def _descriptions(path: Path, listing: Listing) -> dict[str, str]:
    """LabelName -> the category's name. Raises ValueError where the file has none."""
    if not path.is_file():
        raise ValueError(f"no file {str(path)!r}, which names the categories")
    every: dict[str, str] = {}
    left = LeftOut(path)
    for line, row in read_rows(path, ("LabelName", "DisplayName")):
        code, name = row[0].strip() if row else "", row[1].strip() if len(row) > 1 else ""
        if code == "LabelName":
            continue
        if not code or not name:
            left.add("rows without a LabelName and a name", f"line {line}: {short(row)}")
        elif every.setdefault(code, name) != name:
            left.add("rows with a second name for a LabelName", f"line {line}: {short(row)}")
    if not every:
        raise ValueError(f"{str(path)!r} names no category; expected rows such as /m/01g317,Person")
    every = tell_apart(every, left)
    left.note(listing)
    return every


def _read_boxes(
    table: Path, place: dict[str, int], every: dict[str, str], listing: Listing, left: LeftOut
) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(category ids, then arrays of image, box in shares, category as place in the ids, flags) of the known images."""
    codes: dict[str, int] = {}
    images, labels, flags, corners = array("q"), array("q"), array("q"), array("d")
    foreign, lines = 0, 0
    rows = read_rows(table, COLUMNS)  # 14 million rows: plain loops over small arrays
    header, marks = _header(table, next(rows, (0, []))[1])
    image, label, *edges = (header[name] for name in COLUMNS)
    truths: dict[str, bool | None] = {}
    longest = max(image, label, *edges)
    for line, row in rows:
        lines += 1
        if len(row) <= longest:
            left.add("rows that are too short", f"line {line}: {short(row)}")
            continue
        index = place.get(row[image].strip())
        if index is None:
            foreign += 1
            continue
        code = row[label].strip()
        if code not in every:
            left.add("boxes whose LabelName has no description", f"line {line}: LabelName {short(code)}")
            continue
        try:
            box = [float(row[i]) for i in edges]
        except ValueError:
            found = [number(row[i].strip().replace(",", ".")) for i in edges]
            if None in found:
                field = found.index(None)
                where = f"line {line}: could not convert {COLUMNS[2 + field]} {short(row[edges[field]])} to a number"
                left.add("boxes that are no numbers", where)
                continue
            box = [edge for edge in found if edge is not None]
        images.append(index)
        labels.append(codes.setdefault(code, len(codes)))
        corners.extend(box)
        bits = 0
        for name, i, bit in marks:
            text = row[i] if i < len(row) else ""
            if text not in truths:
                truths[text] = truth(text)  # -1 is unknown
            if truths[text]:
                bits |= bit
            elif truths[text] is None:
                left.add("flags that are neither true nor false", f"line {line}: {name} {short(text)}")
        flags.append(bits)
    if left.counts and not images and not foreign:
        left.refuse(lines, "rows")
    listing.note("boxes of images that are not in the folder", foreign)
    x0, x1, y0, y1 = np.asarray(corners, np.float64).reshape(-1, 4).T
    boxes = np.stack([x0, y0, x1 - x0, y1 - y0], axis=1)
    if len(boxes) and np.median(np.maximum(x1, y1)) > 2:
        raise ValueError(
            f"{str(table)!r}: XMax and YMax reach to {np.nanmax(x1):g} and {np.nanmax(y1):g}, so the boxes are in "
            "pixels; expected shares of the image, from 0 to 1: divide by its width and height"
        )
    return list(codes), np.asarray(images), boxes, np.asarray(labels), np.asarray(flags, np.int32)


def _header(table: Path, names: list[str]) -> tuple[dict[str, int], list[tuple[str, int, int]]]:
    """(column of each name of COLUMNS; name, column and bit of each flag that is there). Raises ValueError."""
    places = {name.strip().lower(): i for i, name in enumerate(names)}
    if missing := [name for name in COLUMNS if name.lower() not in places]:
        has = ", ".join(short(name, 40) for name in names[:20]) or "nothing"
        raise ValueError(
            f"{str(table)!r} lacks the column(s) {', '.join(missing)}; its first line has {has}, and must name them"
        )
    flags = [(n, places[n.lower()], 1 << FLAGS.index(flag)) for n, flag in MARKS.items() if n.lower() in places]
    return {name: places[name.lower()] for name in COLUMNS}, flags
