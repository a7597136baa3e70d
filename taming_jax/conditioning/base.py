"""What a condition is: the members that all kinds have, and the settings that choose one."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Protocol

import numpy as np
from jaxtyping import Array, Float, Int

from taming_jax.settings import PathText, Size, check, plain_size

Pictures = Float[np.ndarray, "n H W 3"]


@dataclasses.dataclass(frozen=True)
class ConditionConfig:
    """What images are conditioned on.

    kind: a name of `CONDITIONS`.
    n_classes, class_names: of `class_label`, and of the objects of `boxes` and `points`; names may be left empty. For
        maps, of the class that stands beside them; 0: none does. class_from: labels of the map, one for each such
        class: where no class is given to draw from, it is the one whose label covers most of the map, the
        first where it shows none.
    stage: for maps, the working directory of the first stage that reads them; "first_stage" is the image's own.
    size: for maps, the pixels that the training image's map is brought to (nearest neighbour) before its stage reads
        it, so that it becomes fewer tokens: the side of squares, or (height, width); 0 leaves it.
    scale: how many times smaller the image of `low_res` is.
    n_codes: ids of `coordinate`, and places of a corner or centre of `boxes` and `points`, on a square grid.
    factor: pixels a side that share one token of `coordinate`.
    max_objects: slots of `boxes` and `points`. encode_crop: boxes are those of the whole image, with the crop after
        them, instead of those of the crop. group_flag, more_flags: each kind of object is told apart by whether it is a
        group, and by whether it is occluded, a depiction, or seen from inside.
    """

    kind: str = "none"
    n_classes: int = 0
    class_names: tuple[str, ...] = ()
    class_from: tuple[int, ...] = ()
    stage: PathText = ""
    size: Size = 0
    scale: int = 4
    n_codes: int = 1024
    factor: int = 16
    max_objects: int = 30
    encode_crop: bool = False
    group_flag: bool = False
    more_flags: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", plain_size(self.size))  # frozen for everybody else
        for name in ("scale", "n_codes", "factor", "max_objects"):
            check(self, name, getattr(self, name) >= 1, "it must be at least 1")
        check(self, "n_classes", self.n_classes >= 0, "it must not be negative")


class Condition(Protocol):
    """One kind of condition. All members are static, so that a condition can live inside a compiled function."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The keywords of `Generator.sample` that can give it, the first being its own; () for nothing."""

    @property
    def annotations(self) -> tuple[str, ...]:
        """What a training batch must hold beside the image (`DataConfig.annotations`)."""

    @property
    def length(self) -> int:
        """Tokens in the sequence of a training image."""

    @property
    def vocabulary(self) -> int:
        """Ids it uses: all of its tokens are below this."""

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of the tokens of a training image, where they have places; else None."""

    @property
    def by_class(self) -> bool:
        """Whether it is a class, of which there are `vocabulary`, so that all of them can be asked for."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Of the files that it is read from; () for what is not read from files."""

    @property
    def label_maps(self) -> bool:
        """Whether these files are label maps, for which `read` must know the value that means "no label"."""

    def read(self, file: Path, factor: int, size: tuple[int, int] | None, unlabelled: int = -1) -> dict[str, Any]:
        """What a file says, as keywords of `Generator.sample` for one image.

        Maps and photographs are resized to `size` (height, width), label maps by nearest neighbour, or else cut in the
        middle to sides that `factor` divides. unlabelled: see `map_files.read_label_map`. Raises ValueError or OSError
        for what cannot be read, often without the file's name.
        """

    def tokens(self, batch: Mapping[str, Any], size: int, stages: Mapping[str, Any]) -> Int[Array, "{size} ..."]:
        """The batch of `size` images -> int32 (size, length), or (size, h, w) where the tokens have places.

        `stages` holds the parameters of the first stages, "first_stage" and "condition_stage". Runs inside compiled
        functions.
        """

    def pixels(self, given: Mapping[str, Any]) -> tuple[int, int] | None:
        """Height and width of the images that what a user gave belongs to, where it says so."""

    def parse(self, given: Mapping[str, Any], n: int, pixels: tuple[int, int]) -> dict[str, np.ndarray]:
        """What a user gave for `n` images of `pixels`, checked, as entries of a batch. Raises ValueError."""

    def describe(self, batch: Mapping[str, Any], n: int) -> list[str]:
        """A short label for each image, for grids and file names; empty for a condition that is better drawn."""

    def picture(self, batch: Mapping[str, Any], n: int, pixels: tuple[int, int]) -> Pictures | None:
        """The condition drawn, float32 (n, H, W, 3) in [-1, 1], where it can be."""


class NotFromFiles:
    """The members of a condition that is put in words or numbers alone."""

    suffixes: ClassVar[tuple[str, ...]] = ()
    label_maps: ClassVar[bool] = False

    def read(self, file: Path, factor: int, size: tuple[int, int] | None, unlabelled: int = -1) -> NoReturn:
        raise ValueError(f"{file} cannot be a condition of this model: {type(self).__name__} is not read from files.")


def per_image(value: Any, n: int, ndims: tuple[int, ...], name: str, expected: str) -> np.ndarray:
    """An array for one image or for each of `n` (one axis more) as one for each. Raises ValueError.

    ndims: the numbers of axes that one image's may have, each also with the leading axis of a batch.
    """
    array = np.asarray(value)
    if 3 not in ndims and array.ndim > 2 and array.shape[-1] == 1:  # one channel, written out
        array = array[..., 0]
    if array.ndim in {d + 1 for d in ndims} and (array.ndim not in ndims or len(array) in (1, n)):
        pass
    elif array.ndim in ndims:
        array = array[None]
    else:
        raise ValueError(
            f"{name} has shape {array.shape}; expected {expected}, with or without a leading axis for images."
        )
    if len(array) not in (1, n):
        raise ValueError(
            f"{name} is given for {len(array)} images, but {n} are asked for; give one for all or one each."
        )
    return np.broadcast_to(array, (n, *array.shape[1:]))


def height_and_width(value: Any, channels: bool = False) -> tuple[int, int] | None:
    """Of an array (H, W) or (H, W, c), where `channels` or c is 1, with or without leading axis; None for others."""
    shape: tuple[int, ...] = np.shape(value) if value is not None else ()
    shape = shape[:-1] if channels or (len(shape) > 2 and shape[-1] == 1) else shape
    return (shape[-2], shape[-1]) if len(shape) >= 2 else None


def check_size(value: np.ndarray, pixels: tuple[int, int], name: str) -> None:
    if value.shape[1:3] != pixels:
        raise ValueError(
            f"{name} is {value.shape[1]} x {value.shape[2]} pixels; expected {pixels[0]} x {pixels[1]}: ask for images "
            "of its size, or resize it."
        )
