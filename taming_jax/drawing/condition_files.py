"""Conditions from a user's files, for drawing: label maps, depth maps, photographs, lists of objects."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from taming_jax.conditioning import Condition, StageCondition
from taming_jax.data.map_files import read_depth, read_label_map
from taming_jax.data.pixels import decode
from taming_jax.data.transforms import to_float

PHOTOGRAPHS = (".jpg", ".jpeg", ".png", ".webp")
SUFFIXES = {  # what each kind of condition is read from
    "segmentation": (".png",),
    "depth": (".png", ".npy"),
    "pose": (".npy",),
    "boxes": (".json",),
    "points": (".json",),
}


def find_files(path: str, condition: Condition) -> list[Path]:
    """The file named, or those of a folder, in order. Raises ValueError where there is none that can be read."""
    place, suffixes = Path(path), SUFFIXES.get(condition.keys[0] if condition.keys else "", PHOTOGRAPHS)
    if not condition.keys or condition.keys[0] in ("class_label", "coordinate"):
        takes = condition.keys[0] if condition.keys else "no condition"
        raise ValueError(
            f"config.sample.condition={path!r}, but this model takes {takes}, which is not read from files."
        )
    found = [place] if place.is_file() else sorted(place.iterdir()) if place.is_dir() else []
    files = [file for file in found if file.suffix.lower() in suffixes]
    if not files:
        raise ValueError(
            f"config.sample.condition={path!r} names no file for {condition.keys[0]}; expected a file or folder with "
            f"{', '.join(suffixes)}."
        )
    return files


def read_condition(
    file: Path, condition: Condition, factor: int, size: tuple[int, int] | None, unlabelled: int = -1
) -> dict[str, Any]:
    """The keywords of `Generator.sample` that a file stands for.

    Maps and photographs are resized to `size` (height, width), label maps by nearest neighbour, or else cut in the
    middle to sides that `factor` divides. unlabelled: see `map_files.read_label_map`. Raises ValueError naming the file
    for what cannot be read.
    """
    try:
        return _read(file, condition, factor, size, unlabelled)
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) and str(file) in str(error):
            raise
        raise ValueError(f"{file}: {error}") from error


def _read(
    file: Path, condition: Condition, factor: int, size: tuple[int, int] | None, unlabelled: int
) -> dict[str, Any]:
    kind = condition.keys[0]
    if kind in ("boxes", "points"):
        try:
            return {kind: json.loads(file.read_text())}
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{file} is no JSON list of objects: {error}") from error
    if isinstance(condition, StageCondition) and kind == "segmentation":
        labels = read_label_map(str(file), condition.stage.config.in_channels, unlabelled).astype(np.int32)
        return {kind: fit(labels, factor, size, Image.Resampling.NEAREST)}
    if kind == "depth":
        return {kind: fit(read_depth(str(file)), factor, size, Image.Resampling.BILINEAR)}
    if kind == "pose":
        pose = np.load(file, allow_pickle=False)
        if pose.ndim != 3 or pose.dtype.kind not in "fiu":
            raise ValueError(f"a pose is numbers (H, W, points), but this is {pose.dtype} {pose.shape}.")
        return {kind: fit(pose.astype(np.float32), factor, size, Image.Resampling.BILINEAR)}
    photo = decode(str(file)).rgb
    if size is not None:  # one that the factor does not divide is refused later
        return {"image": to_float(np.asarray(photo.resize(size[::-1], Image.Resampling.BICUBIC)))}
    if isinstance(condition, StageCondition) and kind == "low_res":
        factor = math.lcm(factor, condition.scale)
    return {"image": fit(to_float(np.asarray(photo)), factor, None, None)}


def fit(values: np.ndarray, factor: int, size: tuple[int, int] | None, resample: Any) -> np.ndarray:
    """(H, W) or (H, W, c) resized, or cut in the middle to multiples of `factor`."""
    if size is not None:
        if values.ndim == 3:  # any number of channels
            return np.stack([fit(channel, factor, size, resample) for channel in np.moveaxis(values, -1, 0)], axis=-1)
        return np.asarray(Image.fromarray(values).resize(size[::-1], resample))
    (h, w), (height, width) = values.shape[:2], (side // factor * factor for side in values.shape[:2])
    if height < 1 or width < 1:
        raise ValueError(f"a map of {h} x {w} pixels is smaller than one code, {factor} x {factor} pixels.")
    top, left = (h - height) // 2, (w - width) // 2
    return values[top : top + height, left : left + width]
