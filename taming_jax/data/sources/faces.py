"""FFHQ, CelebA-HQ, and the two joined as FacesHQ."""

from pathlib import Path, PurePath

from taming_jax.data.config import DataConfig
from taming_jax.data.found import Found
from taming_jax.data.listing import Listing
from taming_jax.data.map_folders import add_maps
from taming_jax.data.walk import SUFFIXES, find_images, hold_out

FFHQ_TRAINING = 60_000  # the data set's own split: the images from this number on are for validation


def list_ffhq(config: DataConfig, split: str) -> Listing:
    return _join(config, [_find(config, split, "ffhq")])


def list_celebahq(config: DataConfig, split: str) -> Listing:
    return _join(config, [_find(config, split, "celebahq")])


def list_faceshq(config: DataConfig, split: str) -> Listing:
    """path/celebahq and path/ffhq, as the classes 0 and 1."""
    for name in ("celebahq", "ffhq"):
        if not Path(config.path, name).is_dir():
            raise ValueError(f"no folder {name!r} in {config.path!r}; FacesHQ is a `path` with celebahq and ffhq in it")
    listing = _join(config, [_find(config, split, "celebahq"), _find(config, split, "ffhq")])
    listing.class_names = ("CelebA-HQ", "FFHQ")
    return listing


def _find(config: DataConfig, split: str, name: str) -> Found:
    """The images of one of the two. Lists NAMEtrain.txt and NAMEvalidation.txt in `path`, or beside the folder of
    the images, are obeyed."""
    base = Path(config.path)
    suffixes = (".npy", *SUFFIXES) if name == "celebahq" else SUFFIXES
    folder = next((base / n for n in (name, "images1024x1024", "thumbnails128x128") if (base / n).is_dir()), base)
    for place in (base, folder.parent):
        lists = [place / f"{name}{part}.txt" for part in ("train", "validation")]
        if all(file.is_file() for file in lists):
            return find_images(str(lists[split == "val"]), str(folder), suffixes)
    if config.val_path and split == "val":
        return find_images(config.val_path, config.root, suffixes)
    found = find_images(str(folder), suffixes=suffixes)
    numbers = [PurePath(n).stem for n in found.names]
    if config.val_path:
        return found
    if name == "ffhq" and all(n.isdigit() for n in numbers):
        late = [int(n) >= FFHQ_TRAINING for n in numbers]
        if any(late) and not all(late):
            return found._replace(names=[n for n, is_late in zip(found.names, late) if is_late == (split == "val")])
    return found._replace(names=hold_out(config, found.names, split))


def _join(config: DataConfig, sets: list[Found]) -> Listing:
    labels: list[int] = []
    joined = Listing([], labels=labels)
    for number, (root, names, passed_over) in enumerate(sets):
        part = add_maps(config, Listing([], passed_over={str(root): passed_over}), root, names)
        joined.passed_over |= part.passed_over
        joined.images = [*joined.images, *part.images]
        joined.depths = [*joined.depths, *part.depths]
        labels += [number] * len(part.images)
        for what, n in part.skipped.items():
            joined.note(what, n)
    return joined
