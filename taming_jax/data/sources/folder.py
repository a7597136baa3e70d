"""Images in a folder or a list file, with a class a subfolder, and label and depth maps in folders beside them."""

import os
from collections.abc import Sequence
from itertools import count as numbers
from pathlib import Path, PurePath
from typing import NamedTuple

from taming_jax.data.channels import suffixes
from taming_jax.data.config import DataConfig
from taming_jax.data.found import VALIDATION, folders_of, split_kind
from taming_jax.data.listing import Listing
from taming_jax.data.map_folders import add_maps
from taming_jax.data.names import choose_classes
from taming_jax.data.text import normal
from taming_jax.data.walk import find_images, hold_out


def list_folder(config: DataConfig, split: str) -> Listing:
    """A folder or list file; there are classes only where every image of `path` lies in a subfolder."""
    kinds = suffixes(config.channels)
    found = find_images(config.path, config.root, kinds)
    listing = Listing([], passed_over={config.path: found.passed_over})
    depth, listed = 0, not Path(config.path).is_dir()
    root, names, every = found.root, found.names, found.names  # every: those that maps may belong to
    if config.val_path:
        val = find_images(config.val_path, config.root, kinds)
        listing.passed_over |= {config.val_path: val.passed_over}
        every = [*found.names, *val.names]
        (root, chosen) = (found.root, names) if split == "train" else (val.root, val.names)
    elif own := own_split(found.names, listed):
        names, depth = own.train, own.depth + 1
        chosen = own.train if split == "train" else own.val
        listing.remarks = (own.remark,)
        if rest := len(found.names) - len(own.train) - len(own.val):
            listing.passed_over |= {config.path: found.passed_over + type(found.passed_over)({own.others: rest})}
    else:
        chosen = hold_out(config, names, split)
    _add_classes(config, listing, _classes(names, depth, listed), chosen)
    return add_maps(config, listing, root, listing.images, maps=config.maps, every=every)


class OwnSplit(NamedTuple):
    """The names for training and for validation by the folders at `depth`, and `others`, what lies in no such one."""

    train: list[str]
    val: list[str]
    depth: int
    remark: str
    others: str


def own_split(names: Sequence[str], listed: bool = False) -> OwnSplit | None:
    """The split that the folders make where they are train and val (or validation, test, ...), and no others.

    listed: the folders need not be the outermost ones. None where images lie beside them, or in folders of other names.
    """
    depth = _differing(names) if listed else 0
    folders = [_folder(name, depth) or "" for name in names]
    kinds: dict[str, str] = {}
    for folder in sorted(set(folders)):
        kind = split_kind(folder)
        if not kind or kind in kinds:
            return None
        kinds[kind] = folder
    held_out = next((kind for kind in VALIDATION if kind in kinds), "")
    if "train" not in kinds or not held_out:
        return None
    train, val = kinds["train"], kinds[held_out]
    others = [folder for kind, folder in kinds.items() if folder not in (train, val)]
    return OwnSplit(
        [name for name, folder in zip(names, folders) if folder == train],
        [name for name, folder in zip(names, folders) if folder == val],
        depth,
        f"the folder {train!r} is for training and {val!r} for validation (they are no classes)",
        "in " + ", ".join(map(repr, others)),
    )


class _Classes(NamedTuple):
    depth: int
    names: dict[str, str]  # by their normal form; empty where there are none
    why_none: str


def _classes(names: Sequence[str], depth: int, listed: bool) -> _Classes:
    """The classes of training: the folders at `depth`, in a list the outermost ones that differ."""
    if listed:
        differing = _differing(names, depth)
        if all(_folder(name, differing) for name in names):
            depth = differing
        if any(".." in PurePath(name).parts for name in names) and len({_folder(name, depth) for name in names}) == 1:
            return _Classes(depth, {}, f"no folder differs among its entries, such as {names[0]!r}, to name the class")
    if bare := next((name for name in names if not _folder(name, depth)), ""):
        why = "is absolute (give a list of relative names, and `root`)" if os.path.isabs(bare) else "does not"
        return _Classes(depth, {}, f"every image must lie in a subfolder that names its class; {bare!r} {why}")
    named: dict[str, str] = {}
    for name in sorted({_folder(name, depth) or "" for name in names}):
        named.setdefault(normal(name), name)
    return _Classes(depth, named, "")


def _add_classes(config: DataConfig, listing: Listing, classes: _Classes, chosen: list[str]) -> None:
    """Puts those of the names that are of the chosen classes into the listing, with their classes."""
    listing.images = chosen
    if classes.why_none:
        listing.lacks["class_label"] = f"{config.path!r}: {classes.why_none}"
        if config.classes:
            raise ValueError(
                f"`classes` is {config.classes!r}, but {config.path!r} has no classes: some of its images lie in no "
                f"subfolder ({classes.why_none})"
            )
        return
    longest = max((len(folders_of(name)) for name in chosen), default=0)
    for depth in (classes.depth, *range(longest)):  # a folder for validation may lie deeper or less deep
        of = [normal(_folder(name, depth) or "") for name in chosen]
        if set(of) <= set(classes.names):
            break
    else:
        place, known = config.val_path or config.path, list(classes.names.values())
        foreign = sorted({_folder(name, classes.depth) or "" for name in chosen} - set(known))
        if bare := next((name for name in chosen if not _folder(name, classes.depth)), ""):
            reason = f"{place!r} has images that lie in no subfolder of a class, such as {bare!r}"
        else:
            reason = f"{place!r} has classes (subfolders) that {config.path!r} does not have: {foreign[:5]}"
        reason += f"; known: {known[:10]}{' ...' if len(known) > 10 else ''}"
        if config.classes:
            raise ValueError(reason)
        listing.lacks["class_label"] = reason  # which matters only where classes are asked for
        return
    listing.class_names = choose_classes(config.classes, tuple(classes.names.values()))
    number = {normal(name): i for i, name in enumerate(listing.class_names)}
    listing.images = [name for name, own in zip(chosen, of) if own in number]
    listing.labels = [number[own] for own in of if own in number]


def _folder(name: str, depth: int) -> str | None:
    """The folder of a relative name at a depth, 0 being the outermost; absolute names have none."""
    folders = () if os.path.isabs(name) else folders_of(name)
    return folders[depth] if depth < len(folders) else None


def _differing(names: Sequence[str], start: int = 0) -> int:
    """The smallest depth from `start` on at which the folders of the names are not all the same."""
    for depth in numbers(start):
        if len(there := {_folder(name, depth) for name in names}) > 1 or None in there:
            return depth
    raise AssertionError("unreachable: names end")
