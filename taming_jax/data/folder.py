"""Images in a folder or a list file, with label and depth maps in folders beside them: what is there, and its split."""

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePath

from .files import Listing
from .map_files import DEPTH_SUFFIXES, LABEL_SUFFIXES

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def walk(place: Path, suffixes: tuple[str, ...]) -> list[str]:
    """The sorted relative names of the files below a folder with these (lower-case) suffixes; links are followed."""
    names = []
    for folder, subfolders, files in os.walk(place, followlinks=True):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        here = os.path.relpath(folder, place)
        good = [name for name in files if name.lower().endswith(suffixes) and not name.startswith(".")]
        names += [os.path.normpath(os.path.join(here, name)) for name in good]
    return sorted(names)


def find_images(path: str, root: str = "", suffixes: tuple[str, ...] = SUFFIXES) -> tuple[Path, list[str]]:
    """(root, names relative to it) of the images of a folder, searched with its subfolders, or of a list file.

    A list file ends in .txt and names one image a line, relative to `root` or, without one, to the list file's folder.
    Raises ValueError where there is nothing to find, or where entries of a list do not exist.
    """
    expected = f"expected a folder of images ({', '.join(suffixes)}) or a list file (.txt, one image a line)"
    place = Path(path)
    if not path or not place.exists():
        raise ValueError(f"no such folder or file: {path!r}; {expected}: set `path`")
    if place.is_dir():
        names = walk(place, suffixes)
        if not names:
            raise ValueError(f"no images in the folder {path!r} or its subfolders; {expected}: set `path`")
        return place, names
    if place.suffix.lower() != ".txt":
        raise ValueError(f"{path!r} is neither a folder nor a list file; {expected}: set `path`")
    base = Path(root) if root else place.parent
    try:
        names = [line.strip() for line in place.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"the list file {path!r} is not UTF-8 text ({error}); {expected}") from error
    if not names:
        raise ValueError(f"the list file {path!r} is empty; {expected}")
    missing = [name for name in names if not (base / name).is_file()]
    if missing:
        raise ValueError(
            f"{len(missing)} of the {len(names)} entries of {path!r} do not exist, the first of them {missing[:3]}; "
            f"they are looked for in {str(base)!r}: correct the list, or set `root` to the folder they are relative to"
        )
    return base, names


def split_off(names: Sequence[str], share: float) -> tuple[list[str], list[str]]:
    """(training, validation): the `share` of the names with the smallest hash is for validation.

    The split depends on the names alone, neither on a seed nor on their order, and hardly moves when images are added.
    Of two or more images at least one is on either side, unless share is 0.
    """
    by_hash = sorted(set(names), key=lambda name: hashlib.sha256(PurePath(name).as_posix().encode()).digest())
    count = min(max(1, round(share * len(by_hash))), len(by_hash) - 1) if share > 0 else 0
    held_out = set(by_hash[:count])
    return [n for n in names if n not in held_out], [n for n in names if n in held_out]


def class_of(name: str) -> str | None:
    """The first folder of a relative path: "cat/a.jpg" and "cat/b/c.jpg" are of the class "cat", "a.jpg" of none."""
    parts = PurePath(name).parts
    return parts[0] if len(parts) > 1 and not PurePath(name).is_absolute() else None


def list_folder(cfg, split: str) -> Listing:
    """A folder or list file; there are classes only where every image of `path` lies in a subfolder."""
    root, names = find_images(cfg.path, cfg.root)
    if cfg.val_path:
        val_root, val_names = find_images(cfg.val_path, cfg.root)
        chosen_root, chosen = (root, names) if split == "train" else (val_root, val_names)
    else:
        val_names = []
        chosen_root, chosen = root, hold_out(cfg, names, split)
    classes = sorted({class_of(name) or "" for name in names})
    listing = Listing([], class_names=None if "" in classes else tuple(classes))
    if listing.class_names:
        listing.class_names = choose_classes(cfg.classes, listing.class_names)
        number: dict[str | None, int] = {name: i for i, name in enumerate(listing.class_names)}
        foreign = sorted({str(class_of(name)) for name in chosen} - set(classes))
        if foreign:
            raise ValueError(
                f"{cfg.val_path!r} has classes (subfolders) that {cfg.path!r} does not have: {foreign[:5]}; "
                f"known: {classes[:10]}{' ...' if len(classes) > 10 else ''}"
            )
        chosen = [name for name in chosen if class_of(name) in number]
        listing.labels = [number[class_of(name)] for name in chosen]
    elif cfg.classes:
        raise ValueError(
            f"`classes` is {cfg.classes!r}, but {cfg.path!r} has no classes: some of its images lie in no subfolder"
        )
    return add_maps(cfg, listing, chosen_root, chosen, maps=cfg.maps, every=(*names, *val_names))


def hold_out(cfg, names: Sequence[str], split: str) -> list[str]:
    """The names of the split "train" or "val" where a data set has no split of its own."""
    training, validation = split_off(names, cfg.val_share)
    if split == "val" and not validation:
        raise ValueError(
            f"{cfg.path!r} has {len(names)} image(s), and val_share={cfg.val_share} leaves none for validation; "
            "give more images, a larger `val_share`, or a folder or list of their own by `val_path`"
        )
    return training if split == "train" else validation


def choose_classes(spec: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """The classes that the setting `classes` leaves of all, in their order.

    spec: "" for all; a list file (.txt) with one name a line, behind which may be more; or ranges such as
    "30:32,80:100" of places in `names`, counted from 0, each without its end.
    """
    if not spec:
        return names
    if spec.endswith(".txt"):
        if not Path(spec).is_file():
            raise ValueError(f"no such list of classes: {spec!r}; set `classes`")
        lines = [line.strip() for line in Path(spec).read_text(encoding="utf-8").splitlines() if line.strip()]
        wanted = {line if line in names else line.split()[0] for line in lines}  # names may have spaces
        unknown = [line for line in lines if line not in names and line.split()[0] not in names]
        if unknown:
            raise ValueError(f"{spec!r} names classes that are not there: {unknown[:5]}; known: {list(names[:5])} ...")
        return tuple(name for name in names if name in wanted)
    places: set[int] = set()
    for part in spec.split(","):
        start, _, stop = part.strip().partition(":")
        if not (start.isdigit() and stop.isdigit() and int(start) < int(stop) <= len(names)):
            raise ValueError(
                f"`classes` has the part {part.strip()!r}; expected ranges such as 30:32,80:100 within the "
                f"{len(names)} classes, or a list file (.txt) with one name a line"
            )
        places |= set(range(int(start), int(stop)))
    return tuple(names[i] for i in sorted(places))


def add_maps(
    cfg, listing: Listing, root: Path, names: Sequence[str], *, maps: str = "", every: Sequence[str] = ()
) -> Listing:
    """Puts the images `names` below `root` into the listing, with the label and depth maps that the settings ask for.

    A map has its image's name with its own suffix, below the folder `maps` (or cfg.depths), or below that one's
    subfolder that is called like `root`, where there is one. Images without a map are left out and counted, and maps
    that belong to no image (of `every` below root) are counted. Raises ValueError where no image has a map.
    """
    listing.images = [str(root / name) for name in names]
    wanted = {
        "maps": ("segmentation", "label map", maps, LABEL_SUFFIXES),
        "depths": ("depth", "depth map", cfg.depths, DEPTH_SUFFIXES),
    }
    for field, (annotation, what, folder, suffixes) in wanted.items():
        if annotation not in cfg.annotations or not folder:
            continue
        if not Path(folder).is_dir():
            raise ValueError(f"no such folder of {what}s: {folder!r}; set `{field}`")
        place = Path(folder, root.name) if Path(folder, root.name).is_dir() else Path(folder)
        there = {os.path.splitext(name)[0]: str(place / name) for name in walk(place, suffixes)}
        found = [there.get(os.path.splitext(name)[0], "") for name in names]
        stray = len(set(there) - {os.path.splitext(name)[0] for name in (*names, *every)})
        if names and not any(found):
            raise ValueError(
                f"none of the {len(names)} images in {str(root)!r} has a {what} in {str(place)!r}, which has "
                f"{len(there)} of other names; for the image {names[0]!r} it should be called "
                + " or ".join(repr(os.path.splitext(names[0])[0] + suffix) for suffix in suffixes)
            )
        setattr(listing, field, found)
        listing.note(f"images without a {what}", found.count(""))
        listing.note(f"{what}s without an image", stray)
    listing.n_labels = cfg.n_labels or listing.n_labels
    listing.unlabelled = cfg.unlabelled if cfg.unlabelled >= 0 else listing.unlabelled
    listing.label_names = label_names(cfg, listing.n_labels) if listing.n_labels else None
    if listing.maps and not listing.n_labels:
        raise ValueError(f"how many labels have the maps in {maps!r}? Set `n_labels`; their values are 0..n_labels - 1")
    lists = [paths for paths in (listing.maps, listing.depths) if paths]
    return listing.keep([i for i in range(len(names)) if all(paths[i] for paths in lists)])


def label_names(cfg, n_labels: int) -> tuple[str, ...] | None:
    """The names of the labels, where a file tells them; None without one.

    labels.txt in `maps` or `path`: one name a line, also as "number: name". objectInfo150.txt: as ADE20K has it.
    """
    places = [Path(folder, "labels.txt") for folder in (cfg.maps, cfg.path) if folder]
    for file in (*places, Path(cfg.path, "objectInfo150.txt")):
        if file.is_file():
            lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
            if file.name == "labels.txt":
                names = tuple(re.sub(r"^\d+\s*:\s*", "", line).strip() for line in lines)
            else:
                names = ("unlabelled", *(line.split("\t")[-1].strip() for line in lines[1:]))
            if len(names) != n_labels:
                raise ValueError(f"{str(file)!r} has names for {len(names)} labels, but there are {n_labels}")
            return names
    return None
