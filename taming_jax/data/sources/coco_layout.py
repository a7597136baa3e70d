"""Where annotations in COCO's format and their images lie: as COCO has them, and as tools for labelling leave them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from taming_jax.data.config import DataConfig
from taming_jax.data.found import VALIDATION, split_kind, why_left_out
from taming_jax.data.walk import subfolders

TOOLS = ("_annotations.coco.json", "result.json", "labels.json")  # Roboflow, Label Studio, FiftyOne
POINTS = "person_keypoints_"
OTHERS = (POINTS, "stuff_", "captions_", "panoptic_", "image_info_")  # beside COCO's boxes
KEYS = (b'"images"', b'"annotations"', b'"categories"')
YEARS = ("2017", "2014")
HEAD = 1 << 20  # bytes of a file in which one of them stands
EXPECTED = (
    "annotations/instances_train2017.json (COCO), annotations/instances_default.json (CVAT), "
    "train/_annotations.coco.json (Roboflow), result.json (Label Studio), labels.json (FiftyOne)"
)


class Layout(NamedTuple):
    """What belongs to a split: the file with boxes, folders that may have the images, the likeliest first, the file
    with key points, and that with COCO-Stuff's boxes. shared: all of it is also the other split's, so that a part is to
    be held out. own: as COCO has it, where categories have the same ids in all files."""

    boxes: Path
    folders: list[Path]
    points: Path
    stuff: Path | None = None
    shared: bool = False
    own: bool = False


def find_layout(config: DataConfig, split: str) -> Layout:
    """Raises ValueError where there is none, or more than one."""
    base = Path(config.path)
    if config.boxes:
        of_val = split == "val" and config.val_boxes
        file = Path(config.val_boxes if of_val else config.boxes)
        file = file if file.is_file() else base / file
        return Layout(
            file, [Path(config.val_path) if of_val and config.val_path else base], file, shared=not config.val_boxes
        )
    if folder := split_folder(base, split):
        stuff = base / "annotations" / f"stuff_{folder.name}.json" if folder.name.endswith("2017") else None
        boxes, points = (
            base / "annotations" / f"{what}_{folder.name}.json" for what in ("instances", "person_keypoints")
        )
        return Layout(boxes, [folder], points, stuff, own=True)
    by_kind = _files(base)
    held_out = next((kind for kind in VALIDATION if kind in by_kind), "")
    if "train" in by_kind:
        kind = held_out if split == "val" and held_out else "train"
        shared = not held_out
    else:
        kind, shared = "", True
    if not (files := by_kind.get(kind, [])):
        raise ValueError(_nothing(config, by_kind))
    if len(files) > 1:
        named = ", ".join(str(file.relative_to(base)) for file in files[:5])
        raise ValueError(
            f"{config.path!r} has several files in COCO's format, {named}: name the one for training as `boxes` and "
            "the one for validation, if there is one, as `val_boxes`"
        )
    file = files[0]
    points = file.with_name(file.name.replace("instances_", POINTS))
    folders = list(dict.fromkeys(folder for folder in _folders(base, file, kind) if folder.is_dir()))
    return Layout(file, folders, points if points.is_file() else file, shared=shared)


def split_folder(base: Path, split: str) -> Path | None:
    """The folder of a split's images as COCO has it, of 2017 or else 2014; None where neither split has one."""
    for year in YEARS:
        every = {part: [top / f"{part}{year}" for top in (base, base / "images")] for part in ("train", "val")}
        if any(folder.is_dir() for folders in every.values() for folder in folders):
            return next((folder for folder in every[split] if folder.is_dir()), every[split][0])
    return None


def _files(base: Path) -> dict[str, list[Path]]:
    """The files in COCO's format by the kind of their split, "" where their place says none."""
    if not base.is_dir():
        return {}
    parts = [base / name for name in subfolders(base) if split_kind(name)]
    places = [folder for top in (base, *parts) for folder in (top, top / "annotations") if folder.is_dir()]
    every = [file for folder in places for file in sorted(folder.glob("*.json")) if not why_left_out(file.name)]
    well_known = [file for file in every if file.name.startswith("instances_") or file.name in TOOLS]
    points = [file for file in every if file.name.startswith(POINTS)]  # CVAT's, where all are figures
    others = [file for file in every if not file.name.startswith(OTHERS)]
    found: dict[str, list[Path]] = {}
    for file in well_known or points or [file for file in others if _has_form(file)]:
        found.setdefault(next(_kinds(base, file), ""), []).append(file)
    return found


def _has_form(file: Path) -> bool:
    """Whether a file of another name may be in COCO's format, by its beginning."""
    try:
        with file.open("rb") as content:
            head = content.read(HEAD)
    except OSError:
        return False
    return any(key in head for key in KEYS)


def _words(file: Path) -> list[str]:
    """Of "instances_val2017.json": val2017; the parts of other names."""
    stem = file.stem.removeprefix("instances_").removeprefix(POINTS)
    return [stem, *re.split(r"[-_. ]+", stem)]


def _kinds(base: Path, file: Path) -> Iterator[str]:
    """The kind of split that a file is for, by its name and by the folder that it lies in, if it has one."""
    names = [*_words(file), *reversed(file.relative_to(base).parts[:-1])]
    yield from (kind for name in names if (kind := split_kind(name)))


def _folders(base: Path, file: Path, kind: str) -> Iterator[Path]:
    """Where the images of a file may be."""
    here = file.parent.parent if file.parent.name == "annotations" else file.parent
    tops = (here / "images", here / "data", here)
    yield from (top / word for word in _words(file) for top in tops if word)
    alike = {"train": ("train",)}.get(kind, (kind, *VALIDATION)) if kind else ()
    for top in tops:
        by_kind = {split_kind(name): name for name in subfolders(top)} if top.is_dir() else {}
        yield from (top / by_kind[other] for other in alike if other in by_kind)
    yield from tops
    yield from (base / "images", base)


def _nothing(config: DataConfig, by_kind: dict[str, list[Path]]) -> str:
    base = Path(config.path)
    if not base.is_dir():
        return f"no such folder: {config.path!r}; set `path` to the folder of the data set"
    there = sorted(name for name in (entry.name for entry in base.iterdir()) if not why_left_out(name))
    if by_kind:
        return (
            f"{config.path!r} has boxes for {', '.join(map(repr, by_kind))} alone, "
            f"{', '.join(str(file.relative_to(base)) for files in by_kind.values() for file in files[:2])}, and none "
            "for training: name the file for training as `boxes`"
        )
    foreign = {"YOLO's": ("data.yaml", "data.yml", "labels/*.txt", "*/labels/*.txt", "labels/*/*.txt")}
    foreign |= {"Pascal VOC's": ("Annotations/*.xml", "*/Annotations/*.xml", "*.xml", "annotations/*.xml", "*/*.xml")}
    of_others = next((who for who, forms in foreign.items() if any(any(base.glob(form)) for form in forms)), "")
    return (
        f"no boxes in COCO's format in {config.path!r}, which has {', '.join(there[:8]) or 'nothing'}"
        f"{' ...' if len(there) > 8 else ''}"
        + (f"; it looks like {of_others} layout: export or convert it to COCO's" if of_others else "")
        + f"; looked for {EXPECTED}: name another file as `boxes`, with the folder of its images as `path`"
    )
