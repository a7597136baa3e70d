"""Sets of images to measure: a folder or list of files, the arrays of an npz file, the data of a training."""

import dataclasses
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from taming_jax import cores
from taming_jax.data import pipeline
from taming_jax.data.config import RESAMPLINGS, DataConfig, Needs
from taming_jax.data.pixels import Photo, decode
from taming_jax.data.records import Problems
from taming_jax.data.transforms import middle
from taming_jax.data.walk import find_images
from taming_jax.files import entries_of, first_line, npy_header, read_npy
from taming_jax.limits import ANY, check_regular
from taming_jax.pictures import colours, to_pixels
from taming_jax.settings import Size, plain_size, sides


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """n images by number. read: the images from one number to another, in order: uint8 (H, W, 3), or what is wrong."""

    source: str
    n: int
    read: Callable[[int, int], Iterator[np.ndarray | str]]
    labels: np.ndarray | None = None  # int (n,), the class of each where it is known, -1 until it has been read

    def first(self, n: int) -> "ImageSet":
        """The first n of them, all where there are fewer."""
        labels = None if self.labels is None else self.labels[:n]
        return dataclasses.replace(self, n=min(n, self.n), labels=labels)


@dataclasses.dataclass(frozen=True)
class Cut:
    """How images are brought to one size before they are measured: the largest part in the middle of each that has the
    shape of `size`, to so many pixels, by the `resampling` of a DataConfig ("": its default). 0: they stay as they are.
    """

    size: Size = 0
    resampling: str = ""

    def __post_init__(self) -> None:
        if self.size and not 16 <= min(self.sides) <= max(self.sides) <= 4096:
            raise ValueError(f"--size={self.size}, but it must be 0 or from 16 to 4096.")
        if self.resampling not in ("", *RESAMPLINGS):
            raise ValueError(f"--resampling={self.resampling!r} is unknown; known: {', '.join(RESAMPLINGS)}.")
        if self.resampling and not self.size:
            raise ValueError(f"--resampling={self.resampling} needs --size, the pixels that images are cut to.")

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return sides(self.size)

    @property
    def enough(self) -> int:
        """As `DataConfig.enough`."""
        return 0 if self.resampling == "adm" else 2 * max(self.sides)

    def like(self, shape: tuple[int, int]) -> "Cut":
        """With the smaller side as it is, and the shape of (height, width)."""
        scaled = [round(length * min(self.sides) / min(shape)) for length in shape]
        return dataclasses.replace(self, size=plain_size(scaled)) if self.size else self

    def photo(self, photo: Photo) -> np.ndarray:
        """uint8 (H, W, 3)."""
        return middle(photo, self.sides, self.resampling or "bicubic") if self.size else np.asarray(photo.rgb)

    def pixels(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3)."""
        image = Image.fromarray(pixels)
        return self.photo(Photo((image,), *image.size, image.size, 1)) if self.size else pixels

    def data(self, data: DataConfig) -> DataConfig:
        """Settings of a training whose images are to be cut so, with as much around them as there is in validation."""
        if not self.size:
            return data
        data, resampling = data.validating(), self.resampling or data.resampling
        resize = round(data.resize * min(self.sides) / min(data.sides))
        return dataclasses.replace(data, size=self.size, resize=resize, resampling=resampling)


AS_THEY_ARE = Cut()


def of_files(path: str, cut: Cut = AS_THEY_ARE) -> ImageSet:
    """The images below a folder, or in a list file (.txt). They are read as trainings read them: upright, in sRGB, on
    white; pytorch-fid, clean-fid and ADM's evaluator do none of this. Raises ValueError where there are none."""
    found = find_images(path)
    files = [str(found.root / name) for name in found.names]
    pool, problems = ThreadPoolExecutor(cores.allowed()), Problems()

    def read(path: str) -> np.ndarray | str:
        try:
            photo = decode(path, cut.enough)
        except ValueError as error:
            return f"{path}: {first_line(error)}"
        for remark in photo.remarks:
            problems.note(remark, path)
        return cut.photo(photo)

    return ImageSet(path, len(files), lambda start, stop: pool.map(read, files[start:stop]))


def of_npz(path: str, cut: Cut = AS_THEY_ARE) -> ImageSet:
    """The images of `arr_0`, uint8 (n, H, W, 3), as ADM's evaluator takes them, with the classes of `arr_1` where they
    are there. Raises ValueError for another file."""
    images, labels = stored_array(path, "arr_0"), None
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"arr_0 of {path} is {images.dtype} {images.shape}; expected uint8 (n, H, W, 3)")
    if "arr_1" in array_names(path):
        labels = np.asarray(stored_array(path, "arr_1"))
        if labels.shape != images.shape[:1]:
            raise ValueError(f"arr_1 of {path} has shape {labels.shape}, but there are {len(images)} images in arr_0")
    return of_array(images, path, labels, cut)


def of_array(images: np.ndarray, source: str, labels: np.ndarray | None = None, cut: Cut = AS_THEY_ARE) -> ImageSet:
    """uint8 (n, H, W, 3)."""
    read = lambda start, stop: (cut.pixels(np.array(x)) for x in images[start:stop])
    return ImageSet(source, len(images), read, labels)


def of_data(data: DataConfig, split: str) -> ImageSet:
    """The images of a split as trainings see them, at their size and without what training varies: the middle of each;
    the first three channels, or grey."""
    data = dataclasses.replace(data.validating(), flip=False, random_crop=False, random_scale=False)
    source = pipeline.opened(data, split, Needs(annotations=()))
    size, labels = min(64, len(source)), np.full(len(source), -1)

    def read(start: int, stop: int) -> Iterator[np.ndarray | str]:
        number = start
        for batch in pipeline.make_crops(data, split, start, stop, 0, size, Needs(annotations=())):
            rows = zip(to_pixels(colours(batch["image"])), batch["valid"], batch["class_label"])
            for image, valid, label in rows:
                if number < stop:
                    labels[number] = label
                    yield image if valid else f"image {number} of {split}"
                number += 1

    return ImageSet(f"{data.source} {data.path} ({split})".replace("  ", " "), len(source), read, labels)


def array_names(path: str) -> list[str]:
    """The arrays of an npz file. Raises ValueError for another file."""
    try:
        check_regular(path, ANY)
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in entries_of(archive)]
    except Exception as error:  # of zipfile, for damaged files
        raise ValueError(f"{path} is not a file of arrays (.npz): {first_line(error)}") from error


def stored_array(path: str, name: str) -> np.ndarray:
    """An array of an npz file, mapped into memory where it is stored as it is, so that it may be larger than memory."""
    try:
        check_regular(path, ANY)
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            entry = entries_of(archive)[f"{name}.npy"]
            if entry.compress_type != zipfile.ZIP_STORED:
                return read_npy(archive, entry)
            archive.open(entry).close()  # refuses one that begins elsewhere than the archive says
            file.seek(entry.header_offset + 26)
            lengths = np.frombuffer(file.read(4), "<u2")
            file.seek(entry.header_offset + 30 + int(lengths.sum()))
            shape, fortran, dtype = npy_header(file, entry.file_size)
            if 0 in shape:
                return np.zeros(shape, dtype)
            return np.memmap(path, dtype, "r", file.tell(), shape, "F" if fortran else "C")
    except MemoryError as error:
        raise MemoryError(f"reading {path}: {error}") from error
    except Exception as error:  # of zipfile and numpy, for damaged files
        raise ValueError(f"{path} has no array {name} that can be read: {first_line(error)}") from error


def open_images(path: str, cut: Cut = AS_THEY_ARE) -> ImageSet:
    """A folder, a list file (.txt), or an npz file with images. Raises ValueError for anything else."""
    return of_npz(path, cut) if Path(path).suffix == ".npz" else of_files(path, cut)
