"""Drawing a picture once more, from what it says of how it was made."""

import numpy as np
from etils import epath
from tqdm import tqdm

from taming_jax import outputs, pictures
from taming_jax.drawing.drawing import draw_numbered
from taming_jax.drawing.requests import files_read, open_model, requests
from taming_jax.experiment import SampleConfig
from taming_jax.settings import from_dict


def reproduce(picture: str, workdir: str = "", out: str = "") -> bool:
    """Draw the image of a PNG that `draw` wrote once more, into the file or folder `out`, and tell whether it is the
    same. workdir: where the model is now, default where it was. The default of `out` is PICTURE_again.png, which also
    takes the place of the picture itself, or where that is there, PICTURE_again_2.png and so on.

    What is needed besides - the checkpoint, files of conditions, the data - must still be there. No code that the
    picture names is run: an image that a scorer chose is drawn by its number.
    """
    path = epath.Path(picture)
    pixels, made = pictures.load(path)
    try:
        settings = from_dict(SampleConfig, made["sample"], "sample")
        number, n, largest = int(made["number"]), int(made["of"]), int(made["largest"])
        workdir = workdir or str(made["workdir"])
        if min(number, n - 1, largest - 1) < 0:
            raise ValueError(f"{path} says that it is image {number} of {n}, which cannot be.")
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} does not say all of how it was made: {error} is missing.") from error
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
    with tqdm(total=generator.steps(wanted.request.pixels), unit="step") as progress:
        drawn = draw_numbered(generator, wanted, largest, first + number // n * n, n, progress.update)
    image = drawn.images[number % n - first]
    pictures.save(image, target, made)
    again = pictures.stored(image)
    most = int(np.abs(again.astype(int) - pixels).max()) if again.shape == pixels.shape else 255
    print(f"Written to {target}: " + (f"differs by up to {most} of 255" if most else "the same picture"))
    return not most


def _target(path: epath.Path, out: str) -> epath.Path:
    """The file to write."""
    target = epath.Path(out or path.parent)
    target = target / path.name if target.is_dir() else target
    if target.resolve() == path.resolve():
        return outputs.free_name(path.with_name(f"{path.stem}_again.png"))
    return target
