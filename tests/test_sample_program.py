"""`sample.py` beyond the training size: completion, rejection sampling, animation, and pictures drawn again."""

import base64
import contextlib
import dataclasses
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import page_models
import pytest
from etils import epath
from PIL import Image
from tiny import TINY, untrained

from configs import common, demo_class, demo_segmentation
from taming_jax import checkpoint, pictures
from taming_jax.checkpoint import Saved
from taming_jax.data import pipeline
from taming_jax.data.config import DataConfig
from taming_jax.drawing import drawing
from taming_jax.drawing.completion import complete, read_mask, read_picture
from taming_jax.drawing.drawing import Drawn, draw
from taming_jax.drawing.reproduction import reproduce
from taming_jax.drawing.requests import _held_out, open_model, requests
from taming_jax.experiment import SampleConfig, TransformerExperiment, saved_form
from taming_jax.models.gpt import GPT
from taming_jax.models.vqgan import VQGAN
from taming_jax.page.asked import parse
from taming_jax.page.painter import Painter
from taming_jax.priors.rejection import choose, draw_best, load_scorer, rounds_for
from taming_jax.settings import from_dict, to_dict
from taming_jax.trained import tiles
from taming_jax.trained.loading import load, load_saved

FIRST = dataclasses.replace(TINY, ch_mult=(1, 1, 1), n_embed=32)
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A model of random weights: 16 x 16 pixels, 4 x 4 codes, ten classes."""
    path = str(tmp_path_factory.mktemp("model"))
    config = common.tiny_transformer(demo_class.get_config()).to_dict()
    config["data"] |= {"size": 16, "n_val": 8}
    config["condition"] |= {"n_classes": 10, "class_names": tuple(f"kind {i}" for i in range(10))}
    config["transformer"] |= {"vocab_size": 64, "block_size": 20, "n_embd": 32}
    experiment = from_dict(TransformerExperiment, {**config, "condition_dropout": 0.1})
    first = untrained(VQGAN(FIRST), jnp.zeros((1, 16, 16, 3)))
    params = jax.jit(GPT(experiment.transformer).init)(jax.random.key(1), jnp.zeros((1, 2), jnp.int32))["params"]
    params = jax.tree.map(lambda leaf: leaf * 8 if leaf.ndim == 2 else leaf, params)
    checkpoint.save_model(f"{path}/first_stage", params=first, config={"kind": "vqgan", "model": to_dict(FIRST)})
    checkpoint.save_model(path, params=params, config=saved_form(experiment), step=7)
    return path


@pytest.fixture(scope="module")
def map_workdir(tmp_path_factory):
    """A model of zeros under label maps, trained on a folder whose maps say with 255 that there is no label."""
    path, data = tmp_path_factory.mktemp("maps"), tmp_path_factory.mktemp("data")
    for name in ("images", "maps"):
        (data / name).mkdir()
    rng = np.random.RandomState(1)
    for i in range(4):
        Image.fromarray(rng.randint(0, 255, (16, 16, 3)).astype(np.uint8)).save(data / f"images/{i}.png")
        Image.fromarray(rng.choice([0, 1, 2, 255], (16, 16)).astype(np.uint8)).save(data / f"maps/{i}.png")
    config = common.tiny_transformer(demo_segmentation.get_config()).to_dict()
    config["data"] |= {"source": "folder", "path": str(data / "images"), "maps": str(data / "maps"), "size": 16}
    config["data"] |= {"n_labels": 4, "unlabelled": 255, "val_share": 0.5, "annotations": ("segmentation",)}
    config["transformer"] |= {"vocab_size": 64, "block_size": 40, "n_embd": 32}
    experiment = from_dict(TransformerExperiment, config)
    second = dataclasses.replace(FIRST, content="segmentation", in_channels=4, out_channels=4)
    zeros = lambda network, x: jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, leaf.dtype), jax.eval_shape(network.init, jax.random.key(0), x)["params"]
    )
    for name, stage in (("first_stage", FIRST), ("condition_stage", second)):
        params = zeros(VQGAN(stage), jnp.zeros((1, 16, 16, stage.in_channels)))
        config = {"kind": "vqgan", "model": to_dict(stage)}
        checkpoint.save_model(str(path / name), params=params, config=config)
    params = zeros(GPT(experiment.transformer), jnp.zeros((1, 2), jnp.int32))
    checkpoint.save_model(str(path), params=params, config=saved_form(experiment), step=3)
    return str(path)


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(np.random.RandomState(0).randint(0, 255, (17, 22, 3)).astype(np.uint8)).save(path)
    return str(path)


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def redness(images, conditions):
    assert set(conditions) == {"class_label"}
    return images[..., 0].mean(axis=(1, 2))


def test_a_picture_of_the_page_is_drawn_again(workdir, photo, tmp_path, capsys):
    """From what its PNG says, with the files that the page gives beside it."""
    saved = checkpoint.open_saved(workdir)
    painter = Painter(load_saved(saved), saved)
    with Image.open(photo) as picture:
        file = io.BytesIO()
        picture.resize((16, 16)).save(file, format="PNG")
    redraw = np.repeat([0, 1], 128).astype(np.uint8)
    fields = {"height": 16, "width": 16, "class": 3, "n": 2, "seed": 4, "guidance": 1.5, "top_k": 20}
    files = {"picture": file.getvalue(), "redraw": redraw.tobytes()}
    fields |= {name: base64.b64encode(content).decode() for name, content in files.items()}
    asked = parse(json.dumps(fields).encode(), [painter], lambda name: None)
    drawn, _ = painter.draw(asked, lambda steps: None, lambda files: None)
    for name, content in (*asked.files.items(), ("second.png", drawn[1])):
        (tmp_path / name).write_bytes(content)
    with contextlib.chdir(tmp_path):
        assert reproduce("second.png"), capsys.readouterr().out


def test_a_picture_is_drawn_again_from_what_it_says(workdir, photo, tmp_path, capsys):
    settings = SampleConfig(
        n=5,
        batch_size=2,
        seed=3,
        size=(24, 32),
        complete=photo,
        top_k=20,
        guidance=1.5,
        animate=True,
        out=str(tmp_path / "out"),
    )
    out = draw(settings, workdir)
    files = sorted(path.name for path in out.glob("0000[0-9]*"))
    assert len(files) == 5 * 3  # picture, beside, animation
    single = next(out.glob("00003*_3.png"))
    assert pixels(single).shape == (24, 32, 3)
    assert reproduce(str(single), out=str(tmp_path / "new" / "again.png"))
    np.testing.assert_array_equal(pixels(tmp_path / "new" / "again.png"), pixels(single))
    assert "the same picture" in capsys.readouterr().out
    with Image.open(next(out.glob("00003*.gif"))) as animation:
        assert animation.n_frames > 10 and animation.size == (32, 24)
    image, made = pictures.load(epath.Path(single))
    pictures.save(-(image / 127.5 - 1), tmp_path / "other.png", made)
    assert not reproduce(str(tmp_path / "other.png"), out=str(tmp_path / "new"))
    assert "differs by up to" in capsys.readouterr().out and (tmp_path / "new" / "other.png").exists()


def test_rejection_keeps_the_best_and_they_are_drawn_again_without_the_scorer(workdir, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scorers_of_mine", sys.modules[__name__])
    settings = SampleConfig(classes="4,2", per_class=2, batch_size=3, out=str(tmp_path / "all"))
    judged = dataclasses.replace(settings, scorer="scorers_of_mine:redness", accept=0.25, out=str(tmp_path / "best"))
    usual, best = draw(settings, workdir), draw(judged, workdir)
    mean = lambda folder: np.mean([pixels(path)[..., 0].mean() for path in folder.glob("0000*.png")])
    assert len(list(best.glob("0000*.png"))) == 4 and mean(best) > mean(usual)
    monkeypatch.delitem(sys.modules, "scorers_of_mine")  # a picture must not have its code run
    for path in list(best.glob("0000*.png")):
        assert reproduce(str(path))


def test_the_best_of_each_condition_are_chosen():
    scores = np.array([[1.0, 9, 3], [5, 0, 4], [2, 7, 8]])
    assert choose(scores, ["a", "a", "b"]).tolist() == [[0, 1], [2, 1], [2, 2]]
    assert choose(scores, ["a", "b", "c"]).tolist() == [[1, 0], [0, 1], [2, 2]]
    assert [rounds_for(share) for share in (1, 0.5, 0.25, 1 / 3, 0.3)] == [1, 2, 4, 3, 4]
    draw = lambda number: (np.full((2, 1, 1), number), np.full((2, 4, 4, 3), number))
    best = draw_best(2, {"class_label": np.array([1, 1])}, 3, draw, lambda images, _: images[:, 0, 0, 0])
    assert best.ids.ravel().tolist() == [2, 2] and best.rounds.tolist() == [2, 2] and best.places.tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"the scorer gave \(2, 4\) for 2 images; expected 2 numbers"):
        draw_best(2, {}, 1, draw, lambda images, _: images[:, :, 0, 0])
    with pytest.raises(ValueError, match="some of them not a number"):
        draw_best(2, {}, 1, draw, lambda images, _: [np.nan, 1])


def test_maps_from_files_get_the_labels_that_they_had_in_training(map_workdir):
    generator, saved, _ = open_model(SampleConfig(), map_workdir)
    (held_out,) = requests(SampleConfig(), generator, saved)
    data = from_dict(DataConfig, saved.config["data"])
    truth = next(pipeline.make_batches(data, "val"))
    np.testing.assert_array_equal(held_out.request.batch["segmentation"], truth["segmentation"][: len(held_out.labels)])
    names = [Path(path).stem for path in pipeline._open(data, "val").listing.images]

    def from_files(unlabelled):
        settings = SampleConfig(n=4, condition=data.maps, unlabelled=unlabelled)
        found = requests(open_model(settings, map_workdir)[2], generator, saved)
        return {
            name: labels
            for wanted in found
            for name, labels in zip(wanted.labels, wanted.request.batch["segmentation"])
        }

    found = from_files(None)
    for i, name in enumerate(names):
        np.testing.assert_array_equal(found[name], held_out.request.batch["segmentation"][i])
    with pytest.raises(ValueError, match="has the value 255, but there are 4 labels"):
        from_files(-1)


def test_maps_of_several_sizes(map_workdir, tmp_path, monkeypatch, capsys):
    for i, width in enumerate((16, 16, 32, 16, 16, 16)):
        Image.fromarray(np.full((16, width), i % 3, np.uint8)).save(tmp_path / f"{i}.png")
    sizes, filled = [], []

    def drawn(generator, wanted, size, first, *_):  # stands for drawing, which is tested elsewhere
        n = len(wanted.labels)
        sizes.append((wanted.request.pixels[1], n, size))
        filled.append(len(wanted.filled(size).batch["segmentation"]))
        return Drawn(np.zeros((n, *wanted.request.pixels, 3), np.float32), first + np.arange(n))

    monkeypatch.setattr(drawing, "draw_numbered", drawn)
    monkeypatch.setattr(drawing, "GRID_MOST", 3)
    settings = SampleConfig(n=5, batch_size=2, condition=str(tmp_path), out=str(tmp_path / "out"))
    out = draw(settings, map_workdir)
    assert sizes == [(16, 2, 2), (32, 1, 1), (16, 2, 2)] and filled == [2, 1, 2]
    told = capsys.readouterr().out
    assert "the first as many of 6 conditions" in told and "the first 3 of 16 x 16 pixels together" in told
    largest = [pictures.load(out / f"0000{i}_{i}.png")[1]["largest"] for i in range(5)]
    assert largest == [2, 2, 1, 2, 2]


def test_held_out_images_that_cannot_be_read_are_passed_over(tmp_path, capsys):
    for name in ("a", "c"):
        Image.new("RGB", (16, 16), (9, 9, 9)).save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    data = {"source": "folder", "path": str(tmp_path), "val_path": str(tmp_path), "size": 16}
    saved = Saved("", 0, {"data": data})
    found = list(_held_out(SampleConfig(n=3, batch_size=2), saved, {}))
    assert [len(wanted.labels) for wanted in found] == [1, 1]
    assert all((wanted.truth < -0.9).all() and (wanted.truth > -1).all() for wanted in found)
    assert "only 2 held-out images can be read" in capsys.readouterr().out
    for name in ("a", "c"):
        (tmp_path / f"{name}.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="none of the 3 held-out images can be read"):
        list(_held_out(SampleConfig(batch_size=4), saved, {}))


def test_what_a_mask_keeps_becomes_given_ids(workdir, photo, tmp_path, monkeypatch):
    first = load(workdir).first_stage
    image = read_picture(photo, 4)  # 17 x 22 pixels, cut to 16 x 20
    ids = np.asarray(first.encode(image[None])[0])
    left = complete(first, image, read_mask("left", image, 4))
    assert left["keep"].tolist() == [[True, True, False, False, False]] * 4  # a code stays where all its pixels do
    np.testing.assert_array_equal(left["given"][left["keep"]], ids[left["keep"]])
    wider = complete(first, image, size=(24, 32))
    assert wider["keep"].shape == (6, 8) and wider["keep"].sum() == 20 and wider["keep"][:4, :5].all()
    hole = np.full((17, 22), 255, np.uint8)
    hole[6:9, 10:12] = 0
    Image.fromarray(hole).save(tmp_path / "hole.png")
    inside = complete(first, image, read_mask(str(tmp_path / "hole.png"), image, 4))["keep"]
    assert (~inside).sum() in (1, 2, 3, 4) and not inside[1, 2]
    with pytest.raises(ValueError, match="all of the picture stays"):
        complete(first, image)
    with pytest.raises(ValueError, match=r"16 x 20 pixels and does not fit into 16 x 16"):
        complete(first, image, size=(16, 16))
    with pytest.raises(ValueError, match="expected top, bottom, left, right, or a picture"):
        read_mask("middle", image, 4)
    Image.fromarray(hole[:8]).save(tmp_path / "small.png")
    with pytest.raises(ValueError, match=r"has 8 x 20 pixels, the picture 16 x 20"):
        read_mask(str(tmp_path / "small.png"), image, 4)
    monkeypatch.setattr(tiles, "free_bytes", lambda device: 1000)
    with pytest.raises(ValueError, match=r"reading 1 picture of 4 x 5 codes at once takes about"):
        complete(first, image, size=(24, 32))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"accept": 0.5}, "goes together"),
        ({"accept": 0.0, "scorer": "a:b"}, r"accept=0.0, but the share"),
        ({"keep": "top"}, "keep='top', but it needs the picture, in complete"),
        ({"guidance": -1.0}, "guidance=-1"),
        ({"unlabelled": 256}, "unlabelled=256, but it must be 0 to 255"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SampleConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scorer": "no.such.module:f", "accept": 0.5}, "the scorer 'no.such.module:f' cannot be loaded"),
        ({"scorer": "math:pi", "accept": 0.5}, "is no function but float"),
        ({"complete": "nowhere.png"}, "the picture 'nowhere.png' cannot be read"),
        ({"size": (18, 16)}, "18 x 16 pixels is not divisible by the factor 4"),
        ({"size": (32, 32), "stride": 4}, "stride=4, but windows of 4 x 4 tokens move by 1 to 2"),
    ],
)
def test_bad_requests_end_before_anything_long(workdir, settings, message):
    earlier = Path(workdir) / "samples" / "00000_earlier.png"
    earlier.parent.mkdir(exist_ok=True)
    earlier.write_bytes(b"a picture of an earlier call")
    with pytest.raises(ValueError, match=message):
        draw(SampleConfig(**settings), workdir)
    assert earlier.exists()
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_scorer("math")


def test_held_out_conditions_have_the_training_size(map_workdir, photo):
    generator, saved, _ = open_model(SampleConfig(), map_workdir)
    for settings, message in (
        (SampleConfig(size=(16, 32)), r"sample\.size=\(16, 32\) needs config\.sample\.condition"),
        (SampleConfig(complete=photo, keep="top"), r"complete='.*photo\.png', a picture of 16 x 20 pixels, needs"),
    ):
        with pytest.raises(ValueError, match=message):
            list(requests(settings, generator, saved))


def test_conditions_of_any_name_are_drawn(map_workdir, tmp_path):
    """However long, and of any bytes; and what is read is not drawn over."""
    stems = ["n" * 243, "水" * 80, "Z\udcfcrich\n", "..a", "CON"]
    for folder in ("maps", "out"):
        (tmp_path / folder).mkdir()
    for stem in stems:
        Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "maps" / f"{stem}.png")
    settings = SampleConfig(
        n=5, batch_size=2, condition=str(tmp_path / "maps"), animate=True, out=str(tmp_path / "out")
    )
    out = Path(draw(settings, map_workdir))
    found = sorted(path.name for path in out.iterdir())
    assert len(found) == 5 * 3 + 1 and max(len(os.fsencode(name)) for name in found) <= 220
    long = next(out.glob("*_n*-????????.png"))
    assert reproduce(str(long)) and reproduce(str(long))
    again = {path.name.removeprefix(long.stem) for path in out.glob("*_again*")}
    assert again == {"_again.png", "_again_2.png"}
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(ValueError, match=r"sample.out=.* is read by this call, and would be overwritten"):
        draw(dataclasses.replace(settings, complete=str(long), keep="top"), map_workdir)
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_pictures_that_cannot_be_drawn_again_say_why(workdir, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "foreign.png")
    with pytest.raises(ValueError, match="does not say how it was made"):
        reproduce(str(tmp_path / "foreign.png"))
    out = draw(SampleConfig(n=1, batch_size=1, out=str(tmp_path / "out")), workdir)
    image, made = pictures.load(next(out.glob("00000*.png")))
    assert made["sample"]["step"] == "7" and json.dumps(made)
    for change, message in (
        ({"workdir": str(tmp_path / "gone")}, "no checkpoint directory"),
        ({"sample": {**made["sample"], "step": "8"}}, "no checkpoint of step 8"),
        ({"sample": {**made["sample"], "evil": 1}}, "unknown key"),
        ({"number": -1}, "which cannot be"),
        ({"of": 9, "number": 5}, "is image 5 of 9, but its settings now ask for 1"),
        ({"largest": None}, "does not say all"),
    ):
        pictures.save(image / 127.5 - 1, tmp_path / "changed.png", {**made, **change})
        with pytest.raises(ValueError, match=message):
            reproduce(str(tmp_path / "changed.png"))
    nowhere = str(tmp_path / "foreign.png" / "again.png")
    picture = str(next(out.glob("00000*.png")))
    for arguments, message in (
        (["--reproduce", picture, "--out", nowhere], "foreign.png"),
        (["--reproduce", str(tmp_path / "foreign.png")], "does not say how it was made"),
        (["--reproduce", picture, "--config=configs/demo_class.py"], "leave --config out"),
        (["--config=configs/demo_class.py", "--out", nowhere], "is --config.sample.out"),
    ):
        command = [sys.executable, "sample.py", *arguments]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, encoding="utf-8")
        assert result.returncode == 1 and "error: " in result.stderr and "Traceback" not in result.stderr
        assert message in result.stderr


def test_one_class_may_be_named_beside_maps(tmp_path):
    light, plain = page_models.painter("light"), page_models.painter("segmentation")
    file = tmp_path / "map.png"
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(file)

    def classes_of(name, painter=light):
        settings = SampleConfig(n=2, batch_size=2, condition=str(file), classes=name, unlabelled=-1)
        (wanted,) = requests(settings, painter.generator, painter.saved)
        return wanted.request.batch["class_label"].tolist()

    assert classes_of("") == [0, 0] and classes_of("dusk") == [1, 1]
    for name, painter in (("day,dusk", light), ("noon", light), ("dusk", plain)):
        with pytest.raises(ValueError, match="class"):
            classes_of(name, painter)
