"""Which files there are: images below a folder or in a list file, and which of them are held out for validation."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path, PurePath

from taming_jax.data.channels import PICTURES
from taming_jax.data.config import DataConfig

SUFFIXES = PICTURES


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


def hold_out(config: DataConfig, names: Sequence[str], split: str) -> list[str]:
    """The names of the split "train" or "val" where a data set has no split of its own."""
    training, validation = split_off(names, config.val_share)
    if split == "val" and not validation:
        raise ValueError(
            f"{config.path!r} has {len(names)} image(s), and val_share={config.val_share} leaves none for validation; "
            "give more images, a larger `val_share`, or a folder or list of their own by `val_path`"
        )
    return training if split == "train" else validation


def class_of(name: str) -> str | None:
    """The first folder of a relative path: "cat/a.jpg" and "cat/b/c.jpg" are of the class "cat", "a.jpg" of none."""
    parts = PurePath(name).parts
    return parts[0] if len(parts) > 1 and not PurePath(name).is_absolute() else None
