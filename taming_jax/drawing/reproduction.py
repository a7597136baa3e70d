"""Drawing a picture once more, from what it says of how it was made."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from tqdm import tqdm

from taming_jax import outputs, pictures
from taming_jax.drawing.drawing import draw_numbered
from taming_jax.drawing.requests import files_read, open_model, requests
from taming_jax.experiment import SampleConfig
from taming_jax.limits import told
from taming_jax.settings import from_dict, sides

MOST = 1 << 20  # pictures of one call
MOST_PIXELS = 1 << 26  # that are drawn at once


def reproduce(picture: str, workdir: str = "", out: str = "") -> bool:
    """Draw the image of a PNG that `draw` wrote once more, into the file or folder `out`, and tell whether it is the
    same. workdir: where the model is now, default where it was. The default of `out` is PICTURE_again.png, which also
    takes the place of the picture itself, or where that is there, PICTURE_again_2.png and so on.

    What is needed besides - the checkpoint, files of conditions, the data - must still be there. No code that the
    picture names is run: an image that a scorer chose is drawn by its number.
    """
    path = epath.Path(picture)
    pixels, made = pictures.load(path)
    settings, number, n, largest, workdir = _made(path, made, pixels.shape, workdir)
    target = _target(path, out)
    outputs.check_outputs(
        f"--out={out}",
        dict.fromkeys((target, target.with_suffix(".npy")), pictures.is_ours),
        [str(path), *files_read(settings)],
    )
    generator, saved, settings = open_model(settings, workdir)
    first = 0
    for wanted in requests(settings, generator, saved):
        if first <= number % n < first + len(wanted.labels):
            break
        first += len(wanted.labels)
    else:
        raise ValueError(f"{path} is image {number % n} of {n}, but its settings now ask for {first}.")
    if tuple(wanted.request.pixels) != pixels.shape[:2]:
        h, w = wanted.request.pixels
        raise ValueError(f"{path} has {pixels.shape[0]} x {pixels.shape[1]} pixels, but its settings make {h} x {w}.")
    with tqdm(total=generator.steps(wanted.request.pixels, settings.filters()), unit="step") as progress:
        drawn = draw_numbered(generator, wanted, largest, first + number // n * n, n, progress.update)
    image = drawn.images[number % n - first]
    pictures.save(image, target, made)
    again = pictures.stored(image)
    most = int(np.abs(again.astype(int) - pixels).max()) if again.shape == pixels.shape else 255
    print(f"Written to {target}: " + (f"differs by up to {most} of 255" if most else "the same picture"))
    return not most


def _made(
    path: epath.Path, made: Mapping[str, Any], shape: tuple[int, ...], workdir: str
) -> tuple[SampleConfig, int, int, int, str]:
    """(the settings, the number of the picture, how many there were, how many at once, the model's directory), from
    what a picture of this shape says. Anybody may have written that, so it may ask for no more than such a picture
    takes, and for nothing from elsewhere. Raises ValueError."""
    if missing := [name for name in ("sample", "number", "of", "largest", "workdir") if made.get(name) is None]:
        raise ValueError(f"{path} does not say all of how it was made: {missing[0]!r} is missing.")
    settings = from_dict(SampleConfig, made["sample"], "sample")
    number, n, largest = (made[name] for name in ("number", "of", "largest"))
    if any(type(value) is not int for value in (number, n, largest)) or not isinstance(made["workdir"], str):
        raise ValueError(f"{path} says that it is image {told(number)} of {told(n)}, which cannot be.")
    wrong, size = "", f"{shape[0]} x {shape[1]}"
    if min(number, n - 1, largest - 1) < 0 or largest > n:
        wrong = f"it is image {told(number)} of {told(n)}, of which {told(largest)} were drawn at once, which cannot be"
    elif max(n, settings.n, number // n) > MOST or (settings.per_class or 0) > n:
        wrong = f"it is one of {told(max(n, settings.n))} images, and of more than {MOST} none is drawn again"
    elif settings.size and sides(settings.size) != shape[:2]:
        wrong = f"it was drawn with {told(settings.size)} pixels, and has {size}"
    elif largest * shape[0] * shape[1] > MOST_PIXELS:
        wrong = f"{largest} of {size} pixels were drawn at once, and at most {MOST_PIXELS} pixels are"
    elif not workdir and "://" in made["workdir"]:
        wrong = (
            f"its model is at {told(made['workdir'], 200)}, and a picture has nothing fetched: give --workdir yourself"
        )
    if wrong:
        raise ValueError(f"{path} says that {wrong}.")
    return settings, number, n, largest, workdir or made["workdir"]


def _target(path: epath.Path, out: str) -> epath.Path:
    """The file to write."""
    target = epath.Path(out or path.parent)
    target = target / path.name if target.is_dir() else target
    if target.resolve() == path.resolve():
        return outputs.free_name(path.with_name(f"{path.stem}_again.png"))
    return target
