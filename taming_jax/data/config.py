"""What to train on, as settings: the names of the sources, and what their batches can carry."""

import dataclasses
from typing import Any

from taming_jax import cores
from taming_jax.limits import told
from taming_jax.settings import PathText, Size, check, check_known, plain_size, sides

# By name, what `path` must name for it; empty where `path` may be left so. `pipeline.OPENERS` has what opens each.
SOURCES = {
    "demo": "",
    "landscapes": "",
    "folder": "images or a list file (.txt)",
    "tfds": "",
    "imagenet": "the data set",
    "ffhq": "the data set",
    "celebahq": "the data set",
    "faceshq": "the data set",
    "ade20k": "the data set",
    "coco_stuff": "the data set",
    "coco_objects": "the data set",
    "open_images": "the data set",
    "codes": "the data set",
}

CROPS_FROM = ("image", "center")
RESAMPLINGS = ("bicubic", "adm")
ANNOTATIONS = ("class_label", "segmentation", "depth", "crop", "objects", "keypoints")


@dataclasses.dataclass(frozen=True)
class Needs:
    """What a condition, or what a first stage reads, asks of batches, before what the settings of the same names say.

    annotations, max_objects, whole_boxes: as in `DataConfig`; None for what the settings say.
    """

    annotations: tuple[str, ...] | None = None
    max_objects: int | None = None
    whole_boxes: bool | None = None


AS_SET = Needs()  # batches as the settings alone say


def missing_values(text: str) -> tuple[float, ...]:
    """Of "0,65535". Raises ValueError for what is no list of numbers."""
    if not isinstance(text, str):
        raise ValueError(f"config.data.missing={told(text)}, but it must be numbers with commas between them.")
    return tuple(float(part) for part in text.split(",")) if text.strip() else ()


def check_missing(settings: Any) -> None:
    """Raises ValueError where their `missing` is no text for `missing_values`."""
    try:
        missing_values(settings.missing or "")
    except ValueError:
        check(settings, "missing", False, "it must be numbers with commas between them, such as 0,65535")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What to train on; docs/data.md shows the layouts of the sources.

    source: a name of `SOURCES`.
    size: of the images in pixels: the side of squares, or (height, width). batch_size: of all processes together.
    sizes: sides of squares that the steps of training take in turn, in place of `size`; validation stays with that.
    annotations: what the batches carry beside image and class_label: segmentation, depth, crop, objects, keypoints. A
        source that cannot give it is refused; class_label named here demands that there are classes.

    path: where the data is. folder: a folder, searched with its subfolders, or a list file (.txt); tfds: where the data
        sets are ("" is TFDS's own place) or the folder of one prepared data set; codes: a folder that
        `taming_jax.encode_dataset` wrote; demo, landscapes: not used; else the data set's own folder.
    root: folder that the entries of a list file are relative to ("": that of the list file).
    val_path: a folder or list of its own for validation. Without it, and where the data set has no split of its own,
        `val_share` of the images is held out (those with the smallest hash of the name; tfds: the end of train).
    classes: folder, imagenet: only these: a list file (.txt) of names, or ranges of numbers without their ends, as
        "30:32,80:100"; imagenet also "rin", the animals of the paper's depth task. They are numbered anew from 0.
        landscapes: "moods", the light alone.
    name: tfds: the data set. download: tfds: may download it. shuffle_buffer: tfds: encoded images shuffled at a time.
    n_train, n_val: number of demo scenes, or of landscapes.

    maps: folder of label maps, n_labels: how many labels they have (0: as many as the data set is known to have),
        unlabelled: their value for "no label", which becomes 0 while all others become one more; -1: there is none.
    depths: folder of depth maps. missing: their values for "nothing measured", as "0" or "0,65535"; see `read_depth`.
        Both have their images' names; each map is as large as its image.

    max_objects: slots for objects and for figures with key points; of more in an image, those that show most are kept.
    min_objects: images with fewer are left out. min_object_area: boxes below this share of the image are left out.
    min_visible: boxes of which the crop shows less than this share are left out. whole_boxes: the others reach beyond
        the crop, instead of being cut at its edge. categories: coco_objects, open_images: only these: the number of
        most frequent ones, or a list file (.txt). stuff: coco_objects: with COCO-Stuff's boxes.
    boxes, val_boxes: coco_objects: files in COCO's format, where they are not found by their places; their images are
        in `path`, those of val_boxes in `val_path`, if that is given. Without val_boxes a part is held out.

    channels: of the images: 3 for RGB; 1 grey, 2 grey and alpha, 4 colour and alpha, or as many as .npy and .tif files
        have; the former are read where it is not 3. 16 bits and floats (in [-1, 1]) are then kept.
    color_profiles: whether pictures with a color profile (ICC), such as Display P3 or Adobe RGB, are brought to sRGB.
    max_pixels: an image or map that decodes to more is left out, as a likely decompression bomb.
    resize: the smaller side of the whole image in pixels, from which `size` is cut; 0: as small as it can be.
    val_resize: that of validation; None: as `resize`. zoom: (least, most): in training the smaller side is drawn, as
        so many times that of `size`, in place of `resize`.
    crop_from: where in the whole image a random crop lies: anywhere in the "image", or in its "center", the largest
        part of `size`'s shape in the middle.
    resampling: "bicubic", smoothed, in one step; "adm": halved by means of 2 x 2 pixels while twice as many are there
        as needed, then bicubic, as guided-diffusion (ADM) and LlamaGen prepare images.
    flip, random_crop: augmentation in training; the demo scenes need none. random_scale: how much is cut out is drawn,
        between `size` pixels of the file and the most that `resize` allows; landscapes: how large the whole is, up to
        `resize`.
    seed: of shuffling, augmentation, demo scenes and landscapes; the split does not depend on it.
    workers: threads that decode; 0 is one a CPU core that this process may use.
    """

    source: str = "demo"
    size: Size = 256
    batch_size: int = 8
    annotations: tuple[str, ...] = ()
    path: PathText = ""
    root: PathText = ""
    val_path: PathText = ""
    val_share: float = 0.05
    classes: PathText = ""
    name: str = "imagenet2012"
    download: bool = False
    shuffle_buffer: int = 4096
    n_train: int = 4096
    n_val: int = 256
    maps: PathText = ""
    n_labels: int = 0
    unlabelled: int = -1
    depths: PathText = ""
    missing: str = ""
    max_objects: int = 30
    min_objects: int = 1
    min_object_area: float = 1e-5
    min_visible: float = 0.1
    whole_boxes: bool = False
    categories: PathText = ""
    stuff: bool = True
    boxes: PathText = ""
    val_boxes: PathText = ""
    channels: int = 3
    max_pixels: int = 100_000_000
    resize: int = 0
    flip: bool = True
    random_crop: bool = True
    random_scale: bool = False
    seed: int = 0
    workers: int = 0
    sizes: tuple[int, ...] = ()
    color_profiles: bool = True
    val_resize: int | None = None
    zoom: tuple[float, ...] = ()
    crop_from: str = "image"
    resampling: str = "bicubic"

    def __post_init__(self) -> None:
        check_known(self, "source", SOURCES)
        check(self, "annotations", set(self.annotations) <= set(ANNOTATIONS), f"known are {', '.join(ANNOTATIONS)}")
        folder = f"the data source {self.source!r} needs it: a folder of {SOURCES[self.source]}"
        check(self, "path", bool(self.path or not SOURCES[self.source]), folder)
        object.__setattr__(self, "size", plain_size(self.size))  # frozen for everybody else
        check(self, "size", 16 <= min(self.sides) <= max(self.sides) <= 4096, "it must be from 16 to 4096")
        each = all(isinstance(side, int) and 16 <= side <= 4096 for side in self.sizes)
        check(self, "sizes", each and len(set(self.sizes)) == len(self.sizes), "they must differ, each from 16 to 4096")
        check(self, "sizes", self.source != "codes" or not self.sizes, "codes are of images of one size")
        check(self, "val_boxes", bool(self.boxes or not self.val_boxes), "it goes with `boxes`, those for training")
        limits = {"batch_size": (1, 1 << 20), "val_share": (0, 0.9), "seed": (0, (1 << 32) - 1)}
        limits |= {"n_train": (1, 1 << 40), "n_val": (1, 1 << 40), "shuffle_buffer": (1, 1 << 30), "workers": (0, 1024)}
        limits |= {"n_labels": (0, 256), "unlabelled": (-1, 255), "max_objects": (1, 1000), "min_objects": (0, 1000)}
        limits |= {"min_object_area": (0, 1), "min_visible": (0, 1), "resize": (0, 1 << 16)}
        limits |= {"channels": (1, 1024), "max_pixels": (1 << 16, 1 << 34)}
        for name, (low, high) in limits.items():
            check(self, name, low <= getattr(self, name) <= high, f"it must be from {low} to {high}")
        check_missing(self)
        least = min(self.sides)
        check(self, "resize", not 0 < self.resize < least, f"it must be 0 or at least size={least}")
        fits = self.val_resize in (None, 0) or least <= (self.val_resize or 0) <= 1 << 16
        check(self, "val_resize", fits, f"it must be None, 0 or from size={least} to {1 << 16}")
        check_known(self, "crop_from", CROPS_FROM)
        check_known(self, "resampling", RESAMPLINGS)
        pair = not self.zoom or (len(self.zoom) == 2 and 1 <= self.zoom[0] <= self.zoom[1] <= 16)
        check(self, "zoom", pair, "it must be (least, most), from 1 to 16 times `size`, or () for none")
        alone = not (self.zoom and (self.resize or self.random_scale))
        check(self, "zoom", alone, "it takes the place of `resize`, which must be 0, and of `random_scale`")
        smaller = not self.resize or self.resize >= max(self.sizes, default=0)
        check(self, "sizes", smaller, f"they are cut from images of resize={self.resize}")

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        return sides(self.size)

    @property
    def zoomed(self) -> tuple[int, int] | None:
        """The least and the most of the whole image's smaller side in pixels, by `zoom`."""
        least, most = (int(times * min(self.sides) + 1e-6) for times in self.zoom or (0, 0))
        return (least, most) if self.zoom else None

    @property
    def enough(self) -> int:
        """The smaller side in pixels that suffices when a file is decoded, 0 for all of it: see `pixels.decode`."""
        return (
            0
            if self.random_scale or self.resampling == "adm"
            else 2 * max(*self.sides, self.resize, *self.zoomed or (0,))
        )

    @property
    def missing_depths(self) -> tuple[float, ...]:
        """The values of `missing`."""
        return missing_values(self.missing)

    @property
    def threads(self) -> int:
        return self.workers or cores.allowed()

    def validating(self) -> "DataConfig":
        """The settings as they are in effect for validation, which has one size and one scale."""
        resize = self.resize if self.val_resize is None else self.val_resize
        return dataclasses.replace(self, sizes=(), zoom=(), resize=resize, val_resize=None)

    def meeting(self, needs: Needs) -> "DataConfig":
        """The settings as they are in effect for these needs: what sources see, and what a checkpoint keeps."""
        return dataclasses.replace(self, **{name: value for name, value in vars(needs).items() if value is not None})
