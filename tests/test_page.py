"""What the page draws with: what a browser asks for as settings, pictures that come, the queue."""

import ast
import io
import json
import shlex
import threading

import numpy as np
import page_models
import pytest
from page_client import b64, wanted
from PIL import Image
from waiting import until

from taming_jax.data.demo import landscape_kinds
from taming_jax.experiment import SampleConfig
from taming_jax.page import painter as painting
from taming_jax.page import preview as previewing
from taming_jax.page.asked import parse, read_labels
from taming_jax.page.painter import Painter
from taming_jax.page.preview import Preview
from taming_jax.page.queue import Drawing, Full, Queue
from taming_jax.pictures import KEY
from taming_jax.settings import from_dict


@pytest.fixture(scope="module")
def painter():
    return page_models.painter("segmentation")


def asked_of(painter, find=lambda name: None, **changes):
    return parse(wanted(**changes), [painter], find)


def pixels(file):
    with Image.open(io.BytesIO(file)) as picture:
        return np.asarray(picture)


def a_file(values):
    file = io.BytesIO()
    Image.fromarray(values).save(file, format="PNG")
    return file.getvalue()


DUSK_SKY, DUSK, OVERCAST = 1, {"class": 1}, {"class": 2}
PHOTO = np.random.RandomState(0).randint(0, 255, (24, 40, 3)).astype(np.uint8)


def test_what_is_painted_is_drawn_and_a_part_of_it_again(painter, monkeypatch):
    monkeypatch.setattr(previewing, "PAUSE", 0.0)
    labels, steps, shown = painter.example(16, 32, seed=3), [], []
    assert labels.shape == (16, 32) and labels.dtype == np.uint8 and len(np.unique(labels)) > 1
    size = {"height": 16, "width": 32}
    asked = asked_of(painter, **size, labels=b64(labels.tobytes()), seed=5, temperature=1)
    (file,), drawn = painter.draw(asked, steps.append, shown.append)
    assert sum(steps) == asked.steps and len(shown) > 3
    ids = painter.generator.sample_ids(1, segmentation=labels.astype(np.int32), seed=5, top_p=0.9)
    np.testing.assert_array_equal(drawn.ids, ids)
    images = np.asarray(painter.generator.decode(ids))
    np.testing.assert_array_equal(pixels(file), np.round((np.clip(images[0], -1, 1) + 1) * 127.5).astype(np.uint8))
    made = json.loads(Image.open(io.BytesIO(file)).text[KEY])
    assert made["number"] == 0 and made["sample"]["seed"] == 5 and made["workdir"] == "runs/tiny_segmentation"
    assert made["sample"]["condition"] in asked.files

    drawing = Drawing(asked, 1, pictures=[file], kept=drawn)
    again = np.zeros((16, 32), np.uint8)
    again[:, 17:] = 1
    asked = asked_of(
        painter, {"a": drawing}.get, **size, labels=b64(labels.tobytes()), seed=6, base="a", redraw=b64(again.tobytes())
    )
    _, redrawn = painter.draw(asked, lambda n: None, lambda files: None)
    np.testing.assert_array_equal(redrawn.ids[..., :8], drawn.ids[..., :8])  # the ninth column is half erased
    assert (redrawn.ids[..., 8:] != drawn.ids[..., 8:]).mean() > 0.5
    assert pixels(asked.files[asked.settings.complete]).shape == (16, 32, 3)


def test_a_drawing_can_be_stopped_in_the_middle(painter):
    class Stop(Exception):
        pass

    def progress(steps):
        raise Stop

    with pytest.raises(Stop):
        painter.draw(asked_of(painter, height=16, width=32, labels=b64(bytes(512))), progress, None)


def test_an_unfinished_picture_is_decoded_by_tiles_and_guessed_between(monkeypatch):
    """What is drawn shows at once, in the mean colour of its code where its tile is not complete; the rest shows the
    background, and so does a code that was not seen yet. Each tile is decoded once."""
    monkeypatch.setattr(previewing, "PAUSE", 0.0)
    monkeypatch.setattr(previewing, "MARGIN", 0)
    decoded, palette = [], np.arange(30, dtype=np.uint8).reshape(10, 3) * 8

    def decode(ids):
        decoded.append(ids[0, : len(ids[0]) // 2].tolist())  # the rest are some of what else is there
        return palette[ids].repeat(2, 1).repeat(2, 2)

    when, ids = np.arange(8).reshape(2, 4), np.array([[[1, 2, 1, 2], [2, 1, 5, 1]]])
    background = np.full((1, 4, 8, 3), 7, np.uint8)
    preview = Preview(decode, 10, when, np.zeros((2, 4), bool), background, (1, 2))
    whole = palette[ids[0]].repeat(2, 0).repeat(2, 1)
    for done, seen in ((1, 1), (3, 3), (7, 6)):  # the seventh is the first 5, in a tile that lacks the eighth
        picture = pixels(preview.update(ids, done)[0])
        drawn = (when < seen).repeat(2, 0).repeat(2, 1)
        np.testing.assert_array_equal(picture[drawn], whole[drawn])
        assert (picture[~drawn] == 7).all()
        for _ in range(3):
            preview.update(ids, done)
    for _ in range(3):
        last = preview.update(ids, 8)
    np.testing.assert_array_equal(pixels(last[0]), whole)
    assert decoded == [[[1, 2]], [[1, 2]], [[1, 2]], [[2, 1]], [[5, 1]]]  # the first for its colours alone, too
    monkeypatch.setattr(previewing, "MARGIN", 1)  # then a tile is decoded with what is around it, and later
    preview, decoded[:] = Preview(decode, 10, when, np.zeros((2, 4), bool), background, (1, 2)), []
    for done in (8, 8, 8, 8):
        last = preview.update(ids, done)
    np.testing.assert_array_equal(pixels(last[0]), whole)
    assert decoded == [ids[0].tolist()] * 4
    monkeypatch.setattr(previewing, "PAUSE", 60.0)
    assert Preview(decode, 10, when, np.zeros((2, 4), bool), background, (1, 2)).update(ids, 3) == []


def flags(asked):
    """The settings that the command of a picture says."""
    words = shlex.split(asked.told()["command"].replace("\\\n", ""))
    assert words[:2] == ["python", "sample.py"] and words[3] == f"--workdir={asked.painter.saved.path}"
    pairs = [word.removeprefix("--config.sample.").split("=", 1) for word in words[4:]]
    texts = ("classes", "condition", "complete", "keep", "guidance_schedule")
    return {name: value if name in texts else ast.literal_eval(value) for name, value in pairs}


def test_the_command_and_the_lines_say_the_same(painter):
    asked = asked_of(painter, seed=3, n=2, top_k=5, top_p=1, guidance=2.5, temperature=0.5)
    before = asked.painter.saved.config["sample"] | flags(asked) | {"batch_size": 2, "step": "7"}
    settings = from_dict(SampleConfig, before, "config.sample")
    assert settings == asked.settings and settings.guidance == 2.5 and settings.top_p is None
    assert "--config=configs/demo_segmentation.py" in asked.told()["command"]
    calls = []

    class Model:
        def __getattr__(self, name):
            return self

        def read(self, path, factor, size):
            return {"segmentation": str(path)}

        def sample(self, n, **options):
            calls.append((n, options))

    lines = asked.told()["python"].replace("import taming_jax\n", "")
    exec(lines, {"taming_jax": type("", (), {"load": lambda path: Model()})})
    map_file = f"{asked.stem}_map.png"
    given = {"size": (16, 16), "seed": 3, "temperature": 0.5, "top_k": 5, "guidance": 2.5, "segmentation": map_file}
    assert calls == [(2, given)] and list(asked.files) == [map_file]
    np.testing.assert_array_equal(pixels(asked.files[map_file]), np.zeros((16, 16)))


def test_classes_objects_photographs_and_nothing():
    classes = page_models.painter("class_label")
    asked = asked_of(classes, **{"class": 4, "n": 3})
    assert flags(asked)["classes"] == page_models.CLASSES[4] and asked.settings.n == 3
    assert f"class_label={page_models.CLASSES[4]!r}" in asked.told()["python"]
    assert asked.told()["class"] == page_models.CLASSES[4]
    every = asked_of(classes)
    assert every.settings.n == len(page_models.CLASSES) and every.told()["class"] is None  # one of each
    asked = asked_of(classes, **{"class": 18})
    assert flags(asked)["classes"] == "any" and "class_label='any'" in asked.told()["python"]
    with pytest.raises(ValueError, match="class must be a whole number from 0 to 18"):
        asked_of(classes, **{"class": 19})

    boxes = page_models.painter("boxes")
    things = [{"category": "star", "box": [0.1, 0.1, 0.5, 0.5]}]
    asked = asked_of(boxes, objects=things)
    assert json.loads(asked.files[asked.settings.condition]) == things
    with pytest.raises(ValueError, match="has no area"):
        asked_of(boxes, objects=[{"category": "star", "box": [0.1, 0.1, 0, 0]}])

    edges = page_models.painter("edges")
    asked = asked_of(edges, height=16, width=32, upload=b64(a_file(PHOTO)))
    assert asked.settings.condition.endswith("_condition.png")
    with pytest.raises(ValueError, match="the file is missing"):
        asked_of(edges)
    depth = np.random.RandomState(1).rand(24, 24).astype(np.float32)
    file = io.BytesIO()
    np.save(file, depth)
    assert asked_of(page_models.painter("depth"), upload=b64(file.getvalue())).settings.condition.endswith(".npy")
    assert not asked_of(page_models.painter("none")).files


def test_a_class_beside_the_map():
    light = page_models.painter("light")
    assert light.about()["classes"] == page_models.MOODS and light.about()["class_from_map"]
    labels = np.full((16, 16), DUSK_SKY, np.uint8)
    ask = lambda **more: asked_of(light, height=16, width=16, labels=b64(labels.tobytes()), **more)
    drawn = [light.draw(ask(**more), lambda steps: None, lambda files: None)[1].ids for more in ({}, DUSK, OVERCAST)]
    np.testing.assert_array_equal(drawn[0], drawn[1])  # as the map says
    assert (drawn[0] != drawn[2]).any()
    assert (
        flags(ask(**OVERCAST))["classes"] == "overcast" and "class_label='overcast'" in ask(**OVERCAST).told()["python"]
    )
    with pytest.raises(ValueError, match="class"):
        ask(**{"class": 3})


def test_what_is_to_be_completed(painter):
    mask = np.zeros((16, 16), np.uint8)
    mask[8:] = 1
    photo = PHOTO[:16, :16]
    asked = asked_of(painter, picture=b64(a_file(photo)), redraw=b64(mask.tobytes()))
    np.testing.assert_array_equal(pixels(asked.files[asked.settings.keep]), np.where(mask, 0, 255))
    assert asked.ids is None and flags(asked)["complete"] == asked.settings.complete
    assert "complete(generator.first_stage" in asked.told()["python"]
    for changes, message in (
        ({"redraw": b64(bytes(256))}, "nothing is erased yet"),
        ({"redraw": b64(b"\1" * 256)}, "nothing of the picture would stay"),
        ({"redraw": b64(b"\2" * 256)}, "2 is not one of the 2"),
        ({"picture": b64(a_file(PHOTO))}, r"the picture has \(40, 24\) pixels"),
        ({"picture": b64(b"GIF89a")}, "this is a .gif file; expected .png"),
        ({"base": "gone"}, "not known, or no longer kept"),
        ({"base": 3}, "not known, or no longer kept"),
    ):
        with pytest.raises(ValueError, match=message):
            asked_of(painter, **{"picture": b64(a_file(photo)), "redraw": b64(mask.tobytes()), **changes})


def test_a_picture_is_extended_at_any_side(painter):
    ids = np.arange(64, dtype=np.int32).reshape(1, 8, 8) % 20
    drawing = Drawing(asked_of(painter), 1, pictures=[a_file(PHOTO[:16, :16])], kept=painting.Drawn(ids, [""]))
    again = np.ones((16, 24), np.uint8)
    again[:, 8:] = 0
    options = {"height": 16, "width": 24, "labels": b64(bytes(384)), "base": "a", "redraw": b64(again.tobytes())}
    asked = asked_of(painter, {"a": drawing}.get, **options, left=8)
    np.testing.assert_array_equal(asked.ids[:, 4:], ids[0])
    np.testing.assert_array_equal(pixels(asked.files[asked.settings.complete])[:, 8:], PHOTO[:16, :16])
    for left in (7, 10, 1000):
        with pytest.raises(ValueError, match="does not lie at"):
            asked_of(painter, {"a": drawing}.get, **options, left=left)
    other = page_models.painter("segmentation")  # whose codes may mean something else
    assert asked_of(other, {"a": drawing}.get, **options, left=8).ids is None


def test_a_file_of_labels_can_be_painted_on(painter):
    file = a_file(np.full((32, 32), 9, np.uint8))
    labels = read_labels(wanted(labels=None, upload=b64(file)), [painter])
    assert labels.shape == (16, 16) and (labels == 9).all()
    for bad, message in ((a_file(PHOTO), "RGB"), (a_file(np.full((16, 16), 10, np.uint8)), "there are 10 labels")):
        with pytest.raises(ValueError, match=message) as caught:
            read_labels(wanted(upload=b64(bad)), [painter])
        assert "/tmp" not in str(caught.value)


def test_the_painter_knows_its_labels(painter):
    about = painter.about()
    assert [label["name"] for label in about["labels"]] == list(landscape_kinds.LABELS)
    assert about["labels"][7]["colour"] == landscape_kinds.PALETTE[7].tolist()
    assert about["kind"] == "segmentation" and about["factor"] == 2 and about["sides"] == (16, 16)
    other = page_models.painter("segmentation", source="ade20k")
    assert other.names[9] == "label 9" and other.colours.shape == (10, 3) and not other.example(16, 16, 1).any()


def test_only_generators_will_do(painter):
    with pytest.raises(ValueError, match="holds no second stage"):
        Painter(painter.generator.first_stage, painter.saved)


def test_sizes(painter):
    for size, message in (((14, 64), "at least 16 and 16"), ((17, 16), "multiples of 2"), ((4096, 4096), "are more")):
        with pytest.raises(ValueError, match=message):
            painter.check_size(*size)
    with pytest.raises(ValueError, match="64 pictures of 512 x 512 are more than"):
        asked_of(painter, height=512, width=512, labels=b64(bytes(512 * 512)), n=64)
    assert painting.MOST_PIXELS >= 2048 * 512


def test_old_pictures_are_forgotten():
    queue = Queue(lambda asked, progress, show: ([asked], None), waiting=50, kept=3)
    drawings = []
    for i in range(8):
        drawings.append(queue.add(b"%d" % i, 1))
        until(lambda: drawings[-1].over)
    assert [queue.get(drawing.name) is None for drawing in drawings] == [True] * 4 + [False] * 4
    assert list(drawings[-1].pictures) == [b"7"]
    queue = Queue(lambda asked, progress, show: ([asked], None), kept_bytes=150)
    large = [queue.add(bytes(100), 1)]
    for _ in range(2):
        until(lambda: large[-1].over)
        large.append(queue.add(bytes(100), 1))
    assert queue.get(large[0].name) is None and queue.get(large[1].name)


def test_the_queue_is_bounded():
    go = threading.Event()
    queue = Queue(lambda asked, progress, show: ([b"%d" % go.wait(300)], None), waiting=2)
    first = queue.add(0, 1)
    until(lambda: first.state != "waiting")
    queue.add(1, 1), queue.add(2, 1)
    with pytest.raises(Full, match="2 pictures are waiting"):
        queue.add(3, 1)
    go.set()
