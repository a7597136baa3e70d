"""Label and depth maps in folders beside the images: which map belongs to which image."""

import os
from collections import Counter
from collections.abc import Container, Sequence
from itertools import takewhile
from pathlib import Path, PurePath

from taming_jax.data.config import DataConfig
from taming_jax.data.found import AGAIN, count, folders_of, inner_name
from taming_jax.data.listing import Listing
from taming_jax.data.map_files import DEPTH_SUFFIXES, LABEL_SUFFIXES
from taming_jax.data.names import label_names
from taming_jax.data.text import normal
from taming_jax.data.walk import walk


def add_maps(
    config: DataConfig, listing: Listing, root: Path, names: Sequence[str], *, maps: str = "", every: Sequence[str] = ()
) -> Listing:
    """Puts the images `names` below `root` into the listing, with the label and depth maps that the settings ask for.

    A map has its image's name with its own suffix, below the folder `maps` (or config.depths), or below that one's
    subfolder that is called like `root`, where there is one; where none has, without the outermost folders that all
    images share. Images without a map are left out and counted, and maps
    that belong to no image (of `every` below root) are counted. Raises ValueError where no image has a map.
    """
    listing.images = [str(root / name) for name in names]
    wanted = {
        "maps": ("segmentation", "label map", maps, LABEL_SUFFIXES),
        "depths": ("depth", "depth map", config.depths, DEPTH_SUFFIXES),
    }
    for field, (annotation, what, folder, suffixes) in wanted.items():
        if annotation not in config.annotations or not folder:
            continue
        if not Path(folder).is_dir():
            raise ValueError(f"no such folder of {what}s: {folder!r}; set `{field}`")
        place = Path(folder, root.name) if Path(folder, root.name).is_dir() else Path(folder)
        files = walk(place, suffixes)
        what_else = Counter({reason: n for reason, n in files.passed_over.items() if reason != AGAIN})  # see `_linked`
        listing.passed_over |= {str(place): what_else}
        # of several maps of one name, that of the first kind
        kinds = [[name for name in files.names if name.lower().endswith(suffix)] for suffix in reversed(suffixes)]
        there = {_stem(name): str(place / name) for kind in kinds for name in kind}
        above = _folders_above(names, there)
        found = [there.get(_stem(name, above), "") or _linked(place, name, above, suffixes) for name in names]
        stray = len(set(there) - {_stem(name, above) for name in (*names, *every)})
        if names and not any(found):
            besides = f" (passed over: {count(what_else)})" if what_else else ""
            raise ValueError(
                f"none of the {len(names)} images in {str(root)!r} has a {what} in {str(place)!r}, which has "
                f"{len(there)} of other names{besides}; for the image {names[0]!r} it should be called "
                + " or ".join(repr(os.path.splitext(names[0])[0] + suffix) for suffix in suffixes[:2])
            )
        setattr(listing, field, found)
        listing.note(f"images without a {what}", found.count(""))
        listing.note(f"{what}s without an image", stray)
    listing.n_labels = config.n_labels or listing.n_labels
    listing.unlabelled = config.unlabelled if config.unlabelled >= 0 else listing.unlabelled
    listing.label_names = label_names(config, listing.n_labels) if listing.n_labels else None
    if listing.maps and not listing.n_labels:
        raise ValueError(f"how many labels have the maps in {maps!r}? Set `n_labels`; their values are 0..n_labels - 1")
    lists = [paths for paths in (listing.maps, listing.depths) if paths]
    return listing.keep([i for i in range(len(names)) if all(paths[i] for paths in lists)])


def _stem(name: str, above: int = 0) -> str:
    """What an image's name and its map's have in common; without the `above` outermost folders."""
    stem = normal(os.path.splitext(inner_name(name))[0])
    return stem if not above else str(PurePath(*PurePath(stem).parts[above:]))


def _folders_above(names: Sequence[str], there: Container[str]) -> int:
    """How many of the outermost folders, which all the names share, the names of maps lack."""
    if not names:
        return 0
    folders = [folders_of(name) for name in names]
    shared = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(min(folders), max(folders)))))
    return next((n for n in range(shared + 1) if any(_stem(name, n) in there for name in names)), 0)


def _linked(place: Path, name: str, above: int, suffixes: tuple[str, ...]) -> str:
    """A map that several images share by links, of which the walk knows one name only; "" where there is none."""
    stem = str(PurePath(*PurePath(os.path.splitext(inner_name(name))[0]).parts[above:]))
    files = (place / f"{stem}{suffix}" for suffix in (*suffixes, *(suffix.upper() for suffix in suffixes)))
    return next((str(file) for file in files if file.is_file()), "")
