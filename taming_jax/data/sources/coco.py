"""Objects with boxes and key points of people from COCO's JSON files."""

from collections import Counter
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from taming_jax.data.annotations import LARGEST_SIDE, key, number, short, stored_size, tell_apart
from taming_jax.data.config import DataConfig
from taming_jax.data.found import Found
from taming_jax.data.listing import Figures, Listing
from taming_jax.data.map_folders import add_maps
from taming_jax.data.names import choose_categories
from taming_jax.data.objects import GROUP, gather, training_names
from taming_jax.data.sources.coco_file import CocoFile, Marks
from taming_jax.data.sources.coco_layout import Layout, find_layout
from taming_jax.data.text import normal
from taming_jax.data.walk import find_images, hold_out

BOX = "[x, y, width, height]"


class Pictures(NamedTuple):
    """The images that are there: names of files, `sizes` int32 (n, 2), and id -> place of all ids that name them."""

    names: list[str]
    sizes: np.ndarray
    place: dict[str, int]

    def only(self, places: list[int]) -> "Pictures":
        new = {old: i for i, old in enumerate(places)}
        place = {identity: new[old] for identity, old in self.place.items() if old in new}
        return Pictures([self.names[i] for i in places], self.sizes[places], place)


def list_coco_objects(config: DataConfig, split: str) -> Listing:
    """COCO's path/annotations/{instances,stuff,person_keypoints}_{train,val}2017.json and path/{train,val}2017, or
    another layout that `coco_layout` knows."""
    layout = find_layout(config, split)
    if not {"objects", "keypoints"} & set(config.annotations):
        found = _images(layout)
        names = hold_out(config, found.names, split) if layout.shared else found.names
        listing = _begun(layout, found)
        return add_maps(config, listing, found.root, names, every=found.names)
    if layout.own:
        _images(layout)  # says what is wrong at once
    things = CocoFile(layout.boxes, ("images", "annotations", "categories"))
    found = _images(layout, things)
    folder, listing = found.root, _begun(layout, found)
    pictures, known = _pictures(things, folder, set(found.names), listing)
    if layout.shared:
        names = set(hold_out(config, pictures.names, split))
        pictures = pictures.only([i for i, name in enumerate(pictures.names) if name in names])
    people, joints = None, ()
    if "keypoints" in config.annotations:
        same = layout.points == layout.boxes
        file = things if same else CocoFile(layout.points, ("annotations", "categories"))
        people, joints = _people(file)
        shown = {pictures.place[image] for image in people.images if image in pictures.place}
        listing.note("images without key points", len(pictures.names) - len(shown))
        pictures = pictures.only(sorted(shown))
        if not same:  # else with the boxes
            file.left.note(listing)
    parts = [things]
    if config.stuff and layout.stuff and "objects" in config.annotations:
        parts.append(CocoFile(layout.stuff, ("annotations", "categories")))
    every = _categories(parts)
    marked = [_boxes(part, pictures, known, every, listing) for part in parts]
    # the residual category of COCO-Stuff is none; numbers go by the ids as text ("1", "10", "11", ...), which is how
    # the published models count
    named = tell_apart({identity: name for identity, name in every.items() if name != "other"}, things.left)
    ids = lambda field: [identity for part in marked for identity in getattr(part, field)]
    marks = Marks(
        ids("numbers"),
        ids("images"),
        ids("categories"),
        np.concatenate([part.values for part in marked]),
        np.concatenate([part.crowd for part in marked]),
    )
    number_of, listing.object_names = choose_categories(
        config, named, Counter(marks.categories), training_names(config, split, list_coco_objects, not layout.own)
    )
    chosen = np.array([category in number_of for category in marks.categories], bool)
    residual = sum(category not in named for category in marks.categories)
    listing.note("objects of categories that are not chosen", int((~chosen).sum()) - residual)
    marks = marks.only(chosen)
    images = np.array([pictures.place[image] for image in marks.images], np.int64)
    boxes = marks.values / np.tile(pictures.sizes, 2)[images]
    category = np.array([number_of[category] for category in marks.categories], np.int32)
    flags = np.where(marks.crowd, GROUP, 0).astype(np.int32)
    for part in parts:
        part.left.note(listing)
    names, kept, listing.objects = gather(
        config, listing, pictures.names, images, boxes, category, flags, pictures.sizes
    )
    if people:
        listing.figures = _figures(people, joints, pictures.only(kept.tolist()))
    listing.images = [str(folder / n) for n in names]
    return listing


def _images(layout: Layout, file: CocoFile | None = None) -> Found:
    """The images of the folder that has most of those that the file names; without a file of the first that has any."""
    records = file.lists["images"] if file else []
    names = {
        name for record in records if isinstance(record, dict) and isinstance(name := record.get("file_name"), str)
    }
    best, most = None, -1
    for folder in layout.folders if len(layout.folders) > 1 else ():
        try:
            found = find_images(str(folder))
        except ValueError:  # none there
            continue
        n = len(_files_of(names, set(found.names)))
        if n > most:
            best, most = found, n
        if n == len(names):  # all, or there is no file
            break
    return best or find_images(str(layout.folders[-1]))


def _begun(layout: Layout, found: Found) -> Listing:
    """An empty listing that says where its parts come from, where that is not as COCO has them."""
    where = f"boxes of {str(layout.boxes)!r}, images of {str(found.root)!r}"
    share = "; val_share of the images are held out for validation" if layout.shared else ""
    remarks = () if layout.own else (where + share,)
    return Listing([], passed_over={str(found.root): found.passed_over}, remarks=remarks)


def _pictures(file: CocoFile, folder: Path, there: set[str], listing: Listing) -> tuple[Pictures, set[str]]:
    """(the annotated images that are in the folder, the ids of all)."""
    found: dict[str, str] = {}  # id -> file_name
    clashes: set[str] = set()
    first: dict[str, int] = {}
    records = file.lists["images"]
    for i, record in enumerate(records):
        identity, name = (record.get("id"), record.get("file_name")) if isinstance(record, dict) else (None, None)
        identity = key(identity)
        if identity is None or not isinstance(name, str) or not name:
            field = "id" if identity is None else "file_name"
            file.left.add("images without id or file_name", file.where("images", i, field))
        elif identity not in found:
            found[identity], first[identity] = name, i
        elif found[identity] == name:
            file.left.add("images that are there twice", file.where("images", i, "file_name"))
        else:
            clashes.add(identity)
            file.left.add("images that have the id of another file", file.where("images", i, "file_name"))
    if records and len(clashes) == len(found):
        file.left.refuse(len(records), "images")
    files = _files_of(set(found.values()), there)
    names: list[str] = []
    sizes: list[tuple[int, int]] = []
    place: dict[str, int] = {}
    places: dict[str, int] = {}  # file -> place
    for identity, name in found.items():
        named = files.get(name)
        if named is None or identity in clashes:
            continue
        if named in places:
            place[identity] = places[named]
            file.left.add("images under a second id, put together", file.where("images", first[identity], "file_name"))
            continue
        record = records[first[identity]]
        size = (_side(record.get("width")), _side(record.get("height")))
        if not all(size):
            size = stored_size(str(folder / named)) or (0, 0)
        if not all(size):
            file.left.add("images whose size neither tells", file.where("images", first[identity], "width"))
            continue
        place[identity] = places[named] = len(names)
        names.append(named)
        sizes.append(size)
    listing.note("annotated images that are not in the folder", sum(name not in files for name in found.values()))
    listing.note("images without annotations", len(there - set(files.values())))
    return Pictures(names, np.array(sizes, np.int32).reshape(-1, 2), place), set(found)


def _side(value: object) -> int:
    """An image's width or height in pixels; 0 for what is none."""
    found = number(value)
    return int(found) if found is not None and found.is_integer() and 0 < found <= LARGEST_SIDE else 0


def _files_of(names: set[str], there: set[str]) -> dict[str, str]:
    """file_name -> file of the folder: the same name, or the same below folders that the annotations name before it, or
    of a name without folders the one file that is called so."""
    files = {name: name for name in names if name in there}
    if len(files) == len(names):
        return files
    forms = {normal(name): name for name in there}
    last: dict[str, list[str]] = {}  # the last part of a file's name -> such files
    for form in forms:
        last.setdefault(form.rsplit("/", 1)[-1], []).append(form)
    guessed: dict[str, list[str]] = {}
    for name in names - set(files):
        parts = PurePosixPath(normal(name.replace("\\", "/"))).parts
        ends = ["/".join(parts[i:]) for i in range(len(parts))]
        ends += last.get(parts[0], []) if len(parts) == 1 and len(last.get(parts[0], [])) == 1 else []
        if (end := next((end for end in ends if end in forms), None)) is not None:
            guessed.setdefault(forms[end], []).append(name)
    # what two names could mean is neither's
    return files | {
        meant[0]: name for name, meant in guessed.items() if len(meant) == 1 and name not in set(files.values())
    }


def _categories(parts: list[CocoFile]) -> dict[str, str]:
    every: dict[str, str] = {}
    for part in parts:
        for identity, name in part.categories().items():
            if every.setdefault(identity, name) != name:
                raise ValueError(
                    f"{str(part.path)!r}: the category {identity} is {short(name)}, but in {parts[0].path.name!r} it "
                    f"is {short(every[identity])}; give each an id of its own, or set config.data.stuff=False"
                )
    return every


def _boxes(part: CocoFile, pictures: Pictures, known: set[str], every: dict[str, str], listing: Listing) -> Marks:
    """The boxes in images that are there, of categories that are listed."""
    marks = part.marks("bbox", 4, BOX)
    listing.note("annotations of unknown images", sum(image not in known for image in marks.images))
    marks = marks.only(np.array([image in pictures.place for image in marks.images], bool))
    listed = np.array([category in every for category in marks.categories], bool)
    for place in np.flatnonzero(~listed).tolist():
        where = part.where("annotations", marks.numbers[place], "category_id")
        part.left.add("annotations whose category_id is not listed", where)
    if len(listed) and not listed.any():
        part.left.refuse(len(listed), "annotations")
    marks = marks.only(listed)
    part.check_form(marks, pictures.sizes[[pictures.place[image] for image in marks.images]].reshape(-1, 2))
    return marks


def _people(file: CocoFile) -> tuple[Marks, tuple[str, ...]]:
    """(the annotations with a point that is known, the names of the points)."""
    named = [c.get("keypoints") for c in file.lists["categories"] if isinstance(c, dict)]
    joints = next((tuple(names) for names in named if isinstance(names, list) and names), ())
    if not joints or not all(isinstance(joint, str) for joint in joints) or len(set(joints)) < len(joints):
        raise ValueError(
            f"{str(file.path)!r}, categories[0].keypoints is {short(named[0]) if named else 'missing'}; expected the "
            "names of the key points, each once, by which left and right are told apart"
        )
    marks = file.marks("keypoints", 3 * len(joints), f"{len(joints)} times x, y, v, as its category names them")
    for place in np.flatnonzero(~np.isfinite(marks.values).all(1)).tolist():
        where = file.where("annotations", marks.numbers[place], "keypoints")
        file.left.add("annotations whose keypoints are not finite", where)
    known = np.isfinite(marks.values).all(1) & (marks.values[:, 2::3] != 0).any(1)
    return marks.only(known), joints


def _figures(people: Marks, joints: tuple[str, ...], pictures: Pictures) -> Figures:
    places = np.array([pictures.place.get(image, -1) for image in people.images], np.int64)
    order = np.argsort(places, kind="stable")
    order = order[places[order] >= 0]
    images = places[order]
    points = people.values[order].astype(np.float32).reshape(len(order), len(joints), 3)
    points[..., :2] /= pictures.sizes[images][:, None, :]
    points[..., 2] = points[..., 2] > 0
    counts = np.bincount(images, minlength=len(pictures.names))
    other = [n.replace("left_", "right_") if "left_" in n else n.replace("right_", "left_") for n in joints]
    mirror = tuple(joints.index(n) if n in joints else i for i, n in enumerate(other))
    return Figures(points, np.concatenate([[0], np.cumsum(counts)]), mirror)
