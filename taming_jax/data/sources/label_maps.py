"""ADE20K and COCO-Stuff: photographs with a label map each, in the layouts in which they are distributed."""

from pathlib import Path

from taming_jax.data.config import DataConfig
from taming_jax.data.found import why_left_out
from taming_jax.data.listing import Listing
from taming_jax.data.map_folders import add_maps
from taming_jax.data.sources.coco_layout import split_folder
from taming_jax.data.walk import find_images, hold_out

COCO_STUFF_UNLABELLED = 255  # in its files


def list_ade20k(config: DataConfig, split: str) -> Listing:
    """The scene parsing benchmark's ADE20K: 0 is unlabelled, 1..150 are the classes."""
    folders = {"train": "training", "val": "validation"}
    return _list_pairs(config, split, folders, ("annotations", "segmentations"), Listing([], n_labels=151))


def list_coco_stuff(config: DataConfig, split: str) -> Listing:
    """COCO 2017, or 2014, with COCO-Stuff's pixel maps: 0..181, and 255 for unlabelled, which become 1..182 and 0."""
    found = split_folder(Path(config.path), split)
    year = found.name.removeprefix(split) if found else "2017"
    folders = {part: f"{part}{year}" for part in ("train", "val")}
    maps = (
        "stuffthingmaps",
        f"stuffthingmaps_trainval{year}",
        "cocostuffthings",
        "../cocostuffthings",
        "segmentations",
        "annotations",
    )
    return _list_pairs(config, split, folders, maps, Listing([], n_labels=183, unlabelled=COCO_STUFF_UNLABELLED))


def _list_pairs(
    config: DataConfig, split: str, folders: dict[str, str], map_folders: tuple[str, ...], listing: Listing
) -> Listing:
    """Images in a folder of their own a split (or in one folder, split by name), label maps in a folder beside them."""
    base = Path(config.path)
    tops = [top for top in (base, base / "images") if any((top / name).is_dir() for name in folders.values())]
    if tops:
        root, every, passed_over = find_images(str(tops[0] / folders[split]))
        names = every
    else:
        root, every, passed_over = find_images(str(base / "images" if (base / "images").is_dir() else base))
        names = hold_out(config, every, split)
    maps = config.maps or next((str(base / name) for name in map_folders if _has_maps(base / name, root, split)), "")
    if "segmentation" in config.annotations and not maps:
        raise ValueError(
            f"no label maps beside the images in {str(root)!r}; looked for the folders "
            f"{[str(base / name) for name in map_folders]}: set `maps` to the folder that has them"
        )
    listing.passed_over[str(root)] = passed_over
    return add_maps(config, listing, root, names, maps=maps, every=every)


def _has_maps(folder: Path, root: Path, split: str) -> bool:
    # COCO's own folder "annotations" holds other things, but may have the maps in a subfolder
    return (folder / root.name).is_dir() or any(not why_left_out(file.name) for file in folder.glob("*.[pP][nN][gG]"))
