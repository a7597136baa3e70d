"""ImageNet (ILSVRC 2012) in class folders, its animal subset RIN, and validation images in one flat folder."""

import re
from collections import Counter
from pathlib import Path

from taming_jax.data.config import DataConfig
from taming_jax.data.listing import Listing
from taming_jax.data.map_folders import add_maps
from taming_jax.data.names import choose_classes
from taming_jax.data.text import normal, read_lines
from taming_jax.data.walk import SUFFIXES, class_of, find_images, hold_out, subfolders

# The animals of Restricted ImageNet as the paper's depth task uses them, by class number: amphibians, turtles, dogs,
# cats, birds, monkeys, fish, crabs, insects. The ends are left out, as the published models were trained.
RIN = "30:32,33:37,80:100,118:121,151:268,281:285,300:319,365:382,389:397"
# where people keep the labels of a flat validation folder: "name wnid" or "name number" a line, commas allowed
VAL_LISTS = ("LOC_val_solution.csv", "validation_synset.txt", "val.txt")

KAGGLE = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")  # where the folders are below `path`


def list_imagenet(config: DataConfig, split: str) -> Listing:
    """path/train/WNID/*.JPEG (or path/WNID/*.JPEG, or either in Kaggle's ILSVRC/Data/CLS-LOC); validation from
    val_path, path/val, or held out of training."""
    base = next(
        (top for top in (Path(config.path, part) for part in KAGGLE) if (top / "train").is_dir()), Path(config.path)
    )
    top = base / "train" if (base / "train").is_dir() else base
    if not top.is_dir():
        raise ValueError(f"no such folder: {config.path!r}; set `path` to the folder of ImageNet")
    every = tuple(subfolders(top))
    spec = RIN if config.classes == "rin" else config.classes
    if spec and not spec.endswith(".txt") and len(every) != 1000:
        raise ValueError(
            f"`classes` is {config.classes!r}, numbers of ImageNet's 1000 classes, but {str(top)!r} has {len(every)} "
            "class folders; give the names in a list file (.txt), or leave `classes` empty for all that are there"
        )
    classes = choose_classes(spec, every)
    listing = Listing([], class_names=classes)
    held_out = config.val_path or next((str(base / n) for n in ("val", "validation") if (base / n).is_dir()), "")
    if split == "val" and held_out:
        root, names, wnids, listing.passed_over[held_out] = _validation(config, held_out, base, every)
        found = names
    else:
        root, found, listing.passed_over[str(top)] = find_images(str(top))
        names = found if held_out else hold_out(config, found, split)
        wnids = [class_of(name) or "" for name in names]
    number = {normal(wnid): i for i, wnid in enumerate(classes)}
    kept = [i for i, wnid in enumerate(wnids) if normal(wnid) in number]
    if foreign := sorted(set(map(normal, wnids)) - set(map(normal, every))):
        reason = f"images in {str(root)!r} have classes that {str(top)!r} does not have: {foreign[:5]}"
        if foreign == [""] and held_out:
            reason = (
                f"the validation images in {str(root)!r} lie in no class folders, and no list tells their classes; "
                f"expected one of {', '.join(VAL_LISTS)} in {config.path!r}, or the list's path as `val_path`"
            )
        if split == "train" or config.classes:
            raise ValueError(reason)
        listing.class_names, kept = None, list(range(len(names)))
        listing.lacks["class_label"] = reason  # which matters only where classes are asked for
    else:
        listing.labels = [number[normal(wnids[i])] for i in kept]
    return add_maps(config, listing, root, [names[i] for i in kept], maps=config.maps, every=found)


def _validation(
    config: DataConfig, place: str, base: Path, classes: tuple[str, ...]
) -> tuple[Path, list[str], list[str], Counter[str]]:
    """(folder, names relative to it, class of each, what else is in the folder)."""
    file = Path(place)
    if file.is_dir():
        if set(map(normal, subfolders(file))) & set(map(normal, classes)):
            root, names, passed_over = find_images(place)
            return root, names, [class_of(name) or "" for name in names], passed_over
        root = file
        candidates = [folder / name for folder in (Path(config.path), root, root.parent) for name in VAL_LISTS]
        file = next((path for path in candidates if path.is_file()), root / VAL_LISTS[0])
    else:
        root = Path(config.root or base / "val")
    found = find_images(str(root))
    if not file.is_file():
        return root, found.names, ["" for _ in found.names], found.passed_over
    names, wnids = [], []
    for line in read_lines(file):
        parts = re.split(r"[\s,]+", line)
        if parts[0] != "ImageId":
            names.append(parts[0] if parts[0].lower().endswith(SUFFIXES) else f"{parts[0]}.JPEG")
            wnids.append(_wnid(parts[1] if len(parts) > 1 else "", file, classes))
    there = {normal(name): name for name in found.names}
    if missing := [name for name in names if normal(name) not in there]:
        raise ValueError(
            f"{len(missing)} of the {len(names)} images of {str(file)!r} are not in {str(root)!r}: {missing[:3]}"
        )
    return root, [there[normal(name)] for name in names], wnids, found.passed_over


def _wnid(text: str, file: Path, classes: tuple[str, ...]) -> str:
    if not text.isdigit():
        if normal(text) in map(normal, classes):
            return text
        raise ValueError(f"{str(file)!r} gives the class {text!r}; expected lines of a name and a class folder's name")
    if len(classes) != 1000 or int(text) >= 1000:
        raise ValueError(
            f"{str(file)!r} gives the class number {text}, with {len(classes)} class folders; numbers must be from 0 "
            "to 999 in the order of all 1000 folders (the development kit counts otherwise, and from 1)"
        )
    return classes[int(text)]
