"""Label and depth maps in folders beside the images: which map belongs to which image."""

import os
from collections.abc import Sequence
from pathlib import Path

from taming_jax.data.config import DataConfig
from taming_jax.data.listing import Listing
from taming_jax.data.map_files import DEPTH_SUFFIXES, LABEL_SUFFIXES
from taming_jax.data.names import label_names
from taming_jax.data.walk import walk


def add_maps(
    config: DataConfig, listing: Listing, root: Path, names: Sequence[str], *, maps: str = "", every: Sequence[str] = ()
) -> Listing:
    """Puts the images `names` below `root` into the listing, with the label and depth maps that the settings ask for.

    A map has its image's name with its own suffix, below the folder `maps` (or config.depths), or below that one's
    subfolder that is called like `root`, where there is one. Images without a map are left out and counted, and maps
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
        listing.passed_over |= {str(place): files.passed_over}
        there = {os.path.splitext(name)[0]: str(place / name) for name in files.names}
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
    listing.n_labels = config.n_labels or listing.n_labels
    listing.unlabelled = config.unlabelled if config.unlabelled >= 0 else listing.unlabelled
    listing.label_names = label_names(config, listing.n_labels) if listing.n_labels else None
    if listing.maps and not listing.n_labels:
        raise ValueError(f"how many labels have the maps in {maps!r}? Set `n_labels`; their values are 0..n_labels - 1")
    lists = [paths for paths in (listing.maps, listing.depths) if paths]
    return listing.keep([i for i in range(len(names)) if all(paths[i] for paths in lists)])
