"""Images in a folder or a list file: what is there, how it is split, and its records."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from .records import Reader, Record, Shard, augmentation_rng, epoch_order, read_parallel, tensorflow

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def find_images(path: str, root: str = "") -> tuple[Path, list[str]]:
    """(root, names relative to it) of the images of a folder, searched with its subfolders, or of a list file.

    A list file ends in .txt and names one image a line, relative to `root` or, without one, to the list file's folder.
    Raises ValueError where there is nothing to find, or where entries of a list do not exist.
    """
    expected = f"expected a folder of images ({', '.join(SUFFIXES)}) or a list file (.txt, one image a line)"
    place = Path(path)
    if not path or not place.exists():
        raise ValueError(f"no such folder or file: {path!r}; {expected}: set `path`")
    if place.is_dir():
        names = []
        for folder, subfolders, files in os.walk(place, followlinks=True):
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            here = os.path.relpath(folder, place)
            good = [name for name in files if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
            names += [os.path.normpath(os.path.join(here, name)) for name in good]
        if not names:
            raise ValueError(f"no images in the folder {path!r} or its subfolders; {expected}: set `path`")
        return place, sorted(names)
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


class Folder:
    """One split of a folder or list file. `class_names` is None unless every image of `path` lies in a subfolder."""

    def __init__(self, cfg, split: str):
        self.cfg, self.train = cfg, split == "train"
        root, names = find_images(cfg.path, cfg.root)
        if cfg.val_path:
            training, (val_root, validation) = names, find_images(cfg.val_path, cfg.root)
        else:
            (training, validation), val_root = split_off(names, cfg.val_share), root
        if split == "val" and not validation:
            raise ValueError(
                f"{cfg.path!r} has {len(names)} image(s), and val_share={cfg.val_share} leaves none for validation; "
                "give more images, a larger `val_share`, or a folder or list of their own by `val_path`"
            )
        classes = sorted({class_of(name) or "" for name in names})
        self.class_names = None if "" in classes else tuple(classes)
        self.root, self.names = (root, training) if self.train else (val_root, validation)
        self.labels = self._labels()
        self.reader = Reader(cfg.size, cfg.random_crop, cfg.flip)

    def _labels(self) -> list[int]:
        if self.class_names is None:
            return [0] * len(self.names)
        number: dict[str | None, int] = {name: i for i, name in enumerate(self.class_names)}
        foreign = sorted({str(class_of(name)) for name in self.names} - set(number))
        if foreign:
            raise ValueError(
                f"{self.cfg.val_path!r} has classes (subfolders) that {self.cfg.path!r} does not have: {foreign[:5]}; "
                f"known: {list(number)[:10]}{' ...' if len(number) > 10 else ''}"
            )
        return [number[class_of(name)] for name in self.names]

    def __len__(self) -> int:
        return len(self.names)

    def records(self, shard: Shard, first: int) -> Iterator[Record]:
        """This process's records from number `first` on: endless and shuffled for training, else one padded pass."""
        tf = tensorflow()
        n, seed = len(self), self.cfg.seed

        def read(place):
            position = shard.position(int(place))
            if self.train:
                epoch, place_in_epoch = divmod(position, n)
                index = int(epoch_order(n, seed, epoch)[place_in_epoch])
                rng = augmentation_rng(seed, epoch, index)
            elif position < n:
                index, rng = position, None
            else:
                return self.reader.blank, 0, False
            path = str(self.root / self.names[index])
            image, valid = self.reader.read(path, path, rng)
            return image, self.labels[index], valid

        end = tf.int64.max if self.train else shard.padded_length(n)
        return read_parallel(tf.data.Dataset.range(first, end), read, self.cfg.threads)
