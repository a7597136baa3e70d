"""What a browser asks for, from JSON to settings of `sample.py` and the files that they name; nothing is trusted."""

import dataclasses
import io
import json
import secrets
import typing
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image

from taming_jax.conditioning.labels import ANY
from taming_jax.experiment import SampleConfig
from taming_jax.page.painter import Asked, Drawn, Painter
from taming_jax.page.uploads import check_file, from_base64, read_upload
from taming_jax.sampling.filters import FILTER_NAMES, Filters

MOST_PICTURES = 64
MOST_SEED = 2**31 - 1
MOST_OF = {"temperature": 5, "top_k": 1 << 20, "guidance": 20, "guidance_power": 20}  # of other numbers 1


class Form:
    """The fields of a JSON object; each is read as what it must be. Raises ValueError."""

    def __init__(self, body: bytes) -> None:
        try:
            fields = json.loads(body)
        except (ValueError, RecursionError):
            raise ValueError("what was sent is not JSON") from None
        if not isinstance(fields, dict):
            raise ValueError("what was sent is no JSON object")
        self.fields: dict[str, Any] = fields

    def whole(self, name: str, low: int, high: int, default: int | None = None) -> int:
        value = self.fields.get(name, default)
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{name} must be a whole number from {low} to {high}")
        return value

    def number(self, name: str, low: float, high: float, default: float) -> float:
        value = self.fields.get(name, default)
        if type(value) not in (int, float) or not low <= value <= high:  # NaN is not either
            raise ValueError(f"{name} must be a number from {low:g} to {high:g}")
        return float(value)

    def setting(self, name: str, hint: Any, default: Any, most: float) -> Any:
        """As the annotation `hint` of a settings class says: a number from 0 to `most`, or to the default where that is
        more, whole numbers, a text, or None. The class itself refuses what else does not fit."""
        value = self.fields.get(name, default)
        if name not in self.fields or (value is None and type(None) in typing.get_args(hint)):
            return value
        plain = next((kind for kind in typing.get_args(hint) if kind is not type(None)), hint)
        if typing.get_origin(hint) is tuple:
            if not isinstance(value, list) or not all(type(one) is int for one in value):
                raise ValueError(f"{name} must be a list of whole numbers")
            return tuple(value)
        if plain is str:
            if not isinstance(value, str):
                raise ValueError(f"{name} must be a text")
            return value
        most = max(most, default or 0)
        return self.whole(name, 1, int(most)) if plain is int else self.number(name, 0, most, 0.0)

    def choice(self, known: list[Painter]) -> Painter:
        return known[self.whole("model", 0, len(known) - 1, 0)]

    def mask(self, name: str, size: tuple[int, int], values: int, most: int) -> np.ndarray:
        """uint8 (height, width), a byte for each pixel, each below `values`."""
        body = from_base64(self.fields.get(name), name, most)
        if len(body) != size[0] * size[1]:
            raise ValueError(f"{name}: {len(body)} bytes are no map of {size[0]} x {size[1]} pixels")
        values_there = np.frombuffer(body, np.uint8).reshape(size)
        if values_there.max() >= values:
            raise ValueError(f"{name}: {values_there.max()} is not one of the {values} that there are")
        return values_there


def read_labels(body: bytes, painters: list[Painter]) -> np.ndarray:
    """A file of labels as uint8 (height, width) of the size asked for, to be painted on."""
    form = Form(body)
    painter, size = form.choice(painters), _size(form)
    painter.check_size(*size)
    if not painter.condition.label_maps:
        raise ValueError("this model does not read label maps")
    file = from_base64(form.fields.get("upload"), "the file")
    labels = read_upload(file, painter.condition, painter.factor, size, painter.unlabelled)
    return labels[painter.condition.keys[0]].astype(np.uint8)


def parse(body: bytes, painters: list[Painter], find: Callable[[str], Any]) -> Asked:
    """find: a name -> the drawing of that name, or None. Raises ValueError for what cannot be drawn, as far as that is
    known without computing."""
    form = Form(body)
    painter, size = form.choice(painters), _size(form)
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
    found = {name: form.setting(name, hints[name], getattr(saved, name), MOST_OF.get(name, 1)) for name in FILTER_NAMES}
    if found["top_p"] == 1:
        found["top_p"] = None
    return found if painter.guided else {**found, "guidance": 1.0}


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
    elif condition.suffixes:
        content = from_base64(form.fields.get("upload"), "the file")
        name = f"{stem}_condition{check_file(content, condition.suffixes)}"
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
        content = from_base64(form.fields.get("picture"), "the picture")
        check_file(content, (".png",))
        with Image.open(io.BytesIO(content)) as picture:
            if picture.size != size[::-1]:
                raise ValueError(f"the picture has {picture.size} pixels, but the one to draw {size[::-1]}")
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
