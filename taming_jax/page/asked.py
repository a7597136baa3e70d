"""What a browser asks for, from JSON to settings of `sample.py` and the files that they name; nothing is trusted."""

import contextlib
import dataclasses
import io
import json
import secrets
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

from taming_jax.conditioning.labels import ANY
from taming_jax.experiment import SampleConfig
from taming_jax.page.form import Form
from taming_jax.page.painter import Asked, Drawn, Painter
from taming_jax.page.uploads import check_file, read_upload
from taming_jax.priors.filters import Filters

MOST_PICTURES = 64
MOST_SEED = 2**31 - 1
MOST_OF = {
    "temperature": 5,
    "top_k": 1 << 20,
    "guidance": 20,
    "guidance_power": 20,
    "steps": 1 << 10,
    "choice_temperature": 100,
}  # of other numbers 1


Work = Callable[[int], contextlib.AbstractContextManager[Any]]  # room for work on so many pixels, which may raise Full


def unbounded(pixels: int) -> contextlib.AbstractContextManager[Any]:
    return contextlib.nullcontext()


def read_labels(body: bytes, painters: list[Painter], work: Work = unbounded) -> np.ndarray:
    """A file of labels as uint8 (height, width) of the size asked for, to be painted on."""
    form = Form(body)
    painter, size = _choice(form, painters), _size(form)
    painter.check_size(*size)
    if not painter.condition.label_maps:
        raise ValueError("this model does not read label maps")
    file = form.file("upload", "the file")
    with work(_pixels(size, check_file(file, painter.condition.suffixes)[1])):
        labels = read_upload(file, painter.condition, painter.factor, size, painter.unlabelled)
    return labels[painter.condition.keys[0]].astype(np.uint8)


def parse(body: bytes, painters: list[Painter], find: Callable[[str], Any], work: Work = unbounded) -> Asked:
    """find: a name -> the drawing of that name, or None. work: in which files are opened. Raises ValueError for what
    cannot be drawn, as far as that is known without computing."""
    form = Form(body)
    painter, size = _choice(form, painters), _size(form)
    painter.check_size(*size)
    settings = SampleConfig(
        n=form.whole("n", 1, MOST_PICTURES, 1),
        seed=form.whole("seed", 0, MOST_SEED, 0),
        size=size,
        stride=form.whole("stride", 1, 64, 1),
        step=str(painter.saved.step or ""),  # one that hubs keep has no steps
        **_filters(form, painter),
    )
    stem = f"picture_{secrets.token_hex(3)}"
    files: dict[str, bytes] = {}
    with work(_pixels(size, *_sent(form, painter))):
        settings, keywords = _condition(form, painter, settings, stem, files)
        settings = dataclasses.replace(settings, batch_size=settings.n)
        ids = None
        if form.fields.get("redraw") is not None:
            settings, ids = _completion(form, painter, settings, stem, files, find)
    painter.check(settings)
    return Asked(painter, settings, files, keywords, stem, ids)


def _filters(form: Form, painter: Painter) -> dict[str, Any]:
    """How tokens are drawn: what is not asked for is as it was saved with the model."""
    hints, saved = typing.get_type_hints(Filters), painter.filters
    found = {
        name: form.setting(name, hints[name], getattr(saved, name), MOST_OF.get(name, 1)) for name in painter.follows
    }
    if found["top_p"] == 1:
        found["top_p"] = None
    return found if painter.guided else {**found, "guidance": 1.0}


def _choice(form: Form, known: list[Painter]) -> Painter:
    return known[form.whole("model", 0, len(known) - 1, 0)]


def _pixels(*sizes: tuple[int, int]) -> int:
    return sum(height * width for height, width in sizes)


def _sent(form: Form, painter: Painter) -> Iterator[tuple[int, int]]:
    """The sizes of the pictures that will be opened."""
    if painter.by_file:
        yield check_file(form.file("upload", "the file"), painter.condition.suffixes)[1]
    if form.fields.get("redraw") is not None and form.fields.get("base") is None:
        yield check_file(form.file("picture", "the picture"), (".png",))[1]


def _size(form: Form) -> tuple[int, int]:
    return form.whole("height", 1, 1 << 20), form.whole("width", 1, 1 << 20)


def _condition(
    form: Form, painter: Painter, settings: SampleConfig, stem: str, files: dict[str, bytes]
) -> tuple[SampleConfig, Mapping[str, Any]]:
    """The settings with the condition, whose file goes into `files`, and the keywords of those without a file."""
    condition, size = painter.condition, (settings.size[0], settings.size[1])
    if condition.by_class:
        if form.fields.get("class") is None:  # one of each
            every = condition.vocabulary
            return dataclasses.replace(settings, n=every), {"class_label": list(range(every))}
        name = _class_name(form, painter, condition.vocabulary, any_too=painter.guided)
        return dataclasses.replace(settings, classes=str(name)), {"class_label": name}
    keywords = {}
    if painter.beside and not (painter.class_from_map and form.fields.get("class") is None):
        keywords["class_label"] = _class_name(form, painter, painter.beside.vocabulary)
        settings = dataclasses.replace(settings, classes=str(keywords["class_label"]))
    if condition.label_maps:
        labels = form.mask("labels", size, painter.n_labels, painter.most_pixels)
        name, content = f"{stem}_map.png", _png(labels)
        settings = dataclasses.replace(settings, unlabelled=-1)
    elif condition.keys[:1] in (("boxes",), ("points",)):
        objects = form.fields.get("objects")
        condition.parse({condition.keys[0]: objects}, 1, size)
        name, content = f"{stem}_objects.json", json.dumps(objects).encode()
    elif painter.by_file:
        content = form.file("upload", "the file")
        name = f"{stem}_condition{check_file(content, condition.suffixes)[0]}"
        condition.parse(read_upload(content, condition, painter.factor, size), 1, size)
    else:
        return settings, {}
    files[name] = content
    return dataclasses.replace(settings, condition=name), keywords


def _class_name(form: Form, painter: Painter, classes: int, any_too: bool = False) -> str | int:
    """The class asked for, by its name where it has one."""
    number = form.whole("class", 0, classes - (not any_too))
    return ANY if number == classes else (painter.classes or range(classes))[number]


def _completion(
    form: Form,
    painter: Painter,
    settings: SampleConfig,
    stem: str,
    files: dict[str, bytes],
    find: Callable[[str], Any],
) -> tuple[SampleConfig, np.ndarray | None]:
    """The settings with the picture to complete and its mask, and where the picture was drawn here its ids in the grid
    of the new one, (h, w), so that what stays need not be read from its pixels."""
    size = (settings.size[0], settings.size[1])
    stays = form.mask("redraw", size, 2, painter.most_pixels) == 0
    ids = None
    if form.fields.get("base") is not None:
        image, ids, there = _drawn(form, painter, size, find)
        stays &= there
        content = _png(image)
    else:
        content = form.file("picture", "the picture")
        if (sides := check_file(content, (".png",))[1]) != size[::-1]:
            raise ValueError(f"the picture has {sides} pixels, but the one to draw {size[::-1]}")
    cells = stays.reshape(size[0] // painter.code, painter.code, size[1] // painter.code, painter.code).all((1, 3))
    if not cells.any() or cells.all():
        raise ValueError(
            "nothing of the picture would stay: erase less of it"
            if not cells.any()
            else "nothing is erased yet: mark what is to be drawn again"
        )
    names = f"{stem}_before.png", f"{stem}_keep.png"
    files.update(zip(names, (content, _png(stays.astype(np.uint8) * 255))))
    return dataclasses.replace(settings, complete=names[0], keep=names[1]), ids


def _drawn(
    form: Form, painter: Painter, size: tuple[int, int], find: Callable[[str], Any]
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """A picture that was drawn here, at a place of a new one: its pixels (H, W, c), its ids (h, w), and bool (H, W),
    where it lies. The ids are None where another model drew it."""
    base = form.fields["base"]
    drawing = find(base) if isinstance(base, str) else None
    if drawing is None or not isinstance(drawing.kept, Drawn):
        raise ValueError("the picture to go on from is not known, or no longer kept")
    drawn = drawing.kept
    number = form.whole("number", 0, len(drawn.ids) - 1, 0)
    with Image.open(io.BytesIO(drawing.pictures[number])) as file:
        pixels = np.asarray(file)
    top, left = (form.whole(name, 0, 1 << 20, 0) for name in ("top", "left"))
    place = np.s_[top : top + pixels.shape[0], left : left + pixels.shape[1]]
    there = np.zeros(size, bool)
    there[place] = True
    if top % painter.code or left % painter.code or there.sum() != pixels.shape[0] * pixels.shape[1]:
        raise ValueError(
            f"a picture of {pixels.shape[0]} x {pixels.shape[1]} pixels does not lie at {top}, {left} of "
            f"{size[0]} x {size[1]}, or not where codes begin, at multiples of {painter.code}"
        )
    image = np.full((*size, *pixels.shape[2:]), 128, np.uint8)
    image[place] = pixels
    if drawing.asked.painter is not painter:
        return image, None, there
    ids = np.zeros([side // painter.code for side in size], np.int32)
    part = drawn.ids[number]
    ids[top // painter.code :, left // painter.code :][: part.shape[0], : part.shape[1]] = part
    return image, ids, there


def _png(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, format="PNG")
    return file.getvalue()
