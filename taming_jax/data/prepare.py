"""Depth or label maps for a folder of images, by a model that the user names.

    python -m taming_jax.data.prepare --task depth --images IMAGES --out MAPS --model Intel/dpt-large

MODEL is a model of Hugging Face (needs `transformers`), or `hub:REPOSITORY:ENTRY` of torch.hub (needs `torch`; the
repository as OWNER/NAME or a local folder), or `python:MODULE:FUNCTION`, a function of your own. A map has its image's
name, below MAPS: depth as an RGBA PNG, one float32 a pixel, labels as an 8-bit PNG. Maps that exist are not made again,
so a run that was stopped goes on.
"""

if __name__ == "__main__":  # before the imports, which take seconds
    from taming_jax.stopping import listen

    listen()

import argparse
import importlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from taming_jax import stopping
from taming_jax.data.found import count, inner_name
from taming_jax.data.map_files import write_depth, write_label_map
from taming_jax.data.orientation import stored_again
from taming_jax.data.pixels import BrokenImage, Photo, decode
from taming_jax.data.walk import find_images
from taming_jax.files import whole
from taming_jax.program import log_beside_bars, readable_errors, run_to_its_end

log = logging.getLogger(__name__)

TASKS = ("depth", "segmentation")
# uint8 (H, W, 3) -> depth, float (h, w), or labels, int (h, w) in 0..255; h and w need not be H and W
Model = Callable[[np.ndarray], np.ndarray]


def prepare(task: str, images: str, out: str, model: Model) -> dict[str, int]:
    """Writes a map for every image of a folder (or list file) that has none yet.

    Depth is resized to the image bilinearly, labels by nearest neighbour. Images that cannot be read, and such of which
    the model makes values that are not finite, are named in the log and left out.
    Returns how many were `written`, were already `there`, and were `skipped`. Raises ValueError for an unknown task, a
    folder without images, and a model whose output is no map.
    """
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; known: {', '.join(TASKS)}")
    root, names, passed_over = find_images(images)
    if passed_over:
        log.info("passed over in %s: %s", images, count(passed_over))
    targets = [(root / name, Path(out, inner_name(name)).with_suffix(".png")) for name in names]
    if outside := [name for name in names if os.path.isabs(name)]:
        raise ValueError(f"{images!r} names {outside[0]!r}; a map has its image's name, which must be relative")
    if twice := len(targets) - len({target for _, target in targets}):
        raise ValueError(f"{twice} images in {images!r} differ in their suffix only, so their maps would have one name")
    counts = {"written": 0, "there": 0, "skipped": 0}
    for number, (path, target) in enumerate(targets):
        if target.is_file():
            counts["there"] += 1
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            photo = decode(str(path))
            found = _fit(task, model(np.asarray(photo.rgb)), photo, str(path))
            with whole(target, mark=str(os.getpid())) as unfinished:
                (write_depth if task == "depth" else write_label_map)(str(unfinished), found)
        except BrokenImage as error:
            counts["skipped"] += 1
            log.warning("skipped image %s: %s", path, error)
            continue
        counts["written"] += 1
        if counts["written"] % 100 == 0:
            log.info("%d of %d images", number + 1, len(targets))
    return counts


def _fit(task: str, found: np.ndarray, photo: Photo, path: str) -> np.ndarray:
    """The model's map as large as the image, on the pixels as they are stored in its file."""
    found = np.asarray(found)
    kinds = "fiu" if task == "depth" else "iu"
    if found.ndim != 2 or found.dtype.kind not in kinds:
        raise ValueError(
            f"the model gave {found.dtype} {found.shape} for {path!r}; expected a map (h, w) of "
            + ("numbers" if task == "depth" else "whole numbers, the labels")
        )
    if task == "depth":
        if not np.isfinite(found).all():
            raise BrokenImage("the model's depth is not finite")
        image, resample = Image.fromarray(found.astype(np.float32)), Image.Resampling.BILINEAR
    else:
        if found.min() < 0 or found.max() > 255:
            raise ValueError(f"the model gave labels {found.min()}..{found.max()} for {path!r}; 8 bits hold 0..255")
        image, resample = Image.fromarray(found.astype(np.uint8)), Image.Resampling.NEAREST
    return np.asarray(stored_again(image.resize((photo.width, photo.height), resample), photo.orientation))


def load_model(task: str, name: str, side: int = 384, options: dict[str, Any] | None = None) -> Model:
    """The model of a name, see the top of this file. Raises ValueError where it cannot be loaded.

    side: smaller side in pixels at which a model of torch.hub sees images. options: keywords for torch.hub.load or
    transformers.pipeline.
    """
    kind, _, rest = name.partition(":")
    try:
        if kind == "python":
            module, _, function = rest.partition(":")
            return getattr(importlib.import_module(module), function)
        if kind == "hub":
            return _hub_model(task, rest, side, options or {})
        return _hugging_face_model(task, name, options or {})
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"the model {name!r} cannot be loaded: {error}; expected a model of Hugging Face (`pip install "
            "transformers torch`), hub:REPOSITORY:ENTRY (`pip install torch`), or python:MODULE:FUNCTION"
        ) from error


def _hugging_face_model(task: str, name: str, options: dict[str, Any]) -> Model:
    from transformers import pipeline

    run = pipeline("depth-estimation" if task == "depth" else "image-segmentation", model=name, **options)
    if task == "depth":
        return lambda image: run(Image.fromarray(image))["predicted_depth"].squeeze().cpu().numpy()
    numbers = run.model.config.label2id
    if len(numbers) != len(run.model.config.id2label):
        raise ValueError(f"the model {name!r} has several labels of one name, so its output cannot be told apart")

    def labels(image: np.ndarray) -> np.ndarray:
        found = np.zeros(image.shape[:2], np.int64)
        for part in run(Image.fromarray(image), subtask="semantic"):
            found[np.asarray(part["mask"]) > 0] = numbers[part["label"]]
        return found

    return labels


def _hub_model(task: str, name: str, side: int, options: dict[str, Any]) -> Model:
    """A network that takes (1, 3, h, w), normalised as for ImageNet, and gives depth or the labels' logits (or a dict
    with them as "out")."""
    import torch

    repository, _, entry = name.rpartition(":")
    source = "local" if Path(repository).is_dir() else "github"
    network = torch.hub.load(repository, entry, source=source, **options).eval()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network.to(device)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])

    def run(image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        scale = side / min(height, width)
        fitting = [max(32, round(length * scale / 32) * 32) for length in (width, height)]  # strides go up to 32
        small = np.asarray(Image.fromarray(image).resize(fitting, Image.Resampling.BICUBIC)) / 255
        x = torch.from_numpy(((small - mean) / std).transpose(2, 0, 1)[None].astype(np.float32)).to(device)
        with torch.no_grad():
            out = network(x)
            out = out["out"] if isinstance(out, dict) else out
            if task == "depth":
                return out.squeeze().cpu().numpy()
            large = torch.nn.functional.interpolate(out, (height, width), mode="bilinear", align_corners=False)
            return large[0].argmax(0).cpu().numpy()

    return run


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m taming_jax.data.prepare", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--task", required=True, choices=TASKS)
    parser.add_argument(
        "--images", type=os.path.expanduser, required=True, help="folder with subfolders, or a list file (.txt)"
    )
    parser.add_argument("--out", type=os.path.expanduser, required=True, help="folder for the maps")
    parser.add_argument("--model", required=True)
    parser.add_argument("--side", type=int, default=384, help="torch.hub: smaller side in pixels that the model sees")
    parser.add_argument("--options", default="{}", help='JSON for the model\'s loader, such as {"pretrained": true}')
    args = parser.parse_args(arguments)
    log_beside_bars()
    log.setLevel(logging.INFO)
    written = lambda: f"the maps that are done are in {args.out}, and the same command goes on from there"
    with readable_errors(), stopping.telling(written):
        model = load_model(args.task, args.model, args.side, json.loads(args.options))
        counts = prepare(args.task, args.images, args.out, model)
    print(", ".join(f"{n} {what}" for what, n in counts.items()))


if __name__ == "__main__":
    run_to_its_end(main)
