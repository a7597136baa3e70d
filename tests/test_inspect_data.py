"""The report before training, the likely mistakes it tells, and the command that looks at data and trains nothing."""

import importlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from taming_jax.data import inspection, mistakes, pipeline
from taming_jax.data.config import DataConfig, Needs
from taming_jax.experiment import TransformerExperiment, VQGANExperiment
from taming_jax.inspect_data import inspect_data, main
from taming_jax.settings import from_dict


def picture(seed, size=(24, 20)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8))


def photographs(folder, n, first=0):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + n):
        picture(i).save(folder / f"{i:03d}.png")


def folder_data(path, **settings):
    return DataConfig("folder", path=str(path), **{"size": 16, "batch_size": 4, "val_share": 0.25, **settings})


def settings_of(name, path, arg="", **sections):
    """A configuration at 16 pixels on a folder."""
    config = importlib.import_module(f"configs.{name}").get_config(arg)
    config.data.update({"source": "folder", "path": str(path), "size": 16, "resize": 0, "batch_size": 4, "workers": 2})
    config.data.val_share = 0.25
    for section, values in sections.items():
        config[section].update(values)
    return config


def experiment_of(config):
    return from_dict(TransformerExperiment if "transformer" in config else VQGANExperiment, config.to_dict())


def warned(path, **settings):
    return " | ".join(pipeline.warnings(folder_data(path, **settings)))


def test_nothing_is_warned_of_in_photographs_as_they_should_be(tmp_path):
    for i, name in enumerate(("cat", "dog", "train", "mask")):
        photographs(tmp_path / name, 4, first=10 * i)
    assert warned(tmp_path) == "4 images in folders named as those of maps: are there maps among the photographs? " + (
        "Move them to folders of their own"
    )
    assert warned(tmp_path / "cat", batch_size=2) == ""
    photographs(tmp_path / "trains/train", 9)
    assert "split" not in warned(tmp_path / "trains/train")


def test_folders_of_a_split_in_training(tmp_path):
    photographs(tmp_path / "photos/train", 6)
    photographs(tmp_path / "photos/val", 6, first=6)
    photographs(tmp_path / "more/x", 6, first=12)
    assert "folder(s) called 'train', 'val', which look like the parts of a split" in warned(tmp_path)
    assert "split" not in warned(tmp_path / "photos")  # is the split
    photographs(tmp_path / "photos", 1, first=30)
    assert "called 'train', 'val'" in warned(tmp_path / "photos", val_share=0.3)  # looked at anew


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("{}.jpg", "8 images that differ from another in their ending only"),
        ("{}_mask.png", "8 images named as the map of another"),
        ("{}-seg.png", "8 images named as the map of another"),
        ("depth_{}.png", "8 images named as the map of another"),
        ("{}x_label.png", "8 images named as maps"),
        ("masks/{}.png", "8 images in folders named as those of maps"),
    ],
)
def test_maps_beside_photographs(tmp_path, name, what):
    photographs(tmp_path, 8)
    (tmp_path / "masks").mkdir()
    for i in range(8):
        picture(100 + i).save(tmp_path / name.format(f"{i:03d}"))
    assert what in warned(tmp_path)


def test_one_class_and_fewer_images_than_a_batch(tmp_path):
    photographs(tmp_path / "cat", 8)
    assert "there is one class only, 'cat'" in warned(tmp_path)
    assert "the 6 training image(s) are fewer than a batch of 7" in warned(tmp_path, batch_size=7)
    assert "fewer" not in warned(tmp_path, batch_size=6)


def test_contents_that_are_the_same(tmp_path):
    photographs(tmp_path / "a", 8)
    photographs(tmp_path / "b", 4, first=20)
    (tmp_path / "b/copy.png").write_bytes((tmp_path / "a/003.png").read_bytes())
    (tmp_path / "a/again.png").write_bytes((tmp_path / "a/005.png").read_bytes())
    found = warned(tmp_path / "a", val_path=str(tmp_path / "b"))
    assert "1 of 5 validation images that were compared are training images too" in found and "copy.png" in found
    assert "1 of 9 training images that were compared have the content of another" in found and "005.png" in found
    for i in range(6):
        (tmp_path / "c").mkdir(exist_ok=True)
        (tmp_path / f"c/{i}.png").write_bytes((tmp_path / "a/003.png").read_bytes())
    assert "all images are alike: the 6 files" in warned(tmp_path / "c")


def test_contents_differ_where_their_pieces_do_not(tmp_path, monkeypatch):
    monkeypatch.setattr(mistakes, "PIECE", 4)
    for i, text in enumerate((b"a" * 100, b"a" * 30 + b"b" + b"a" * 69, b"a" * 100)):
        (tmp_path / str(i)).write_bytes(text)
    paths = [str(tmp_path / str(i)) for i in range(3)] + [str(tmp_path / "gone")]
    assert sorted(mistakes._same(paths)) == [paths[0], paths[2]]
    monkeypatch.setattr(mistakes, "HASHED", 50)
    assert mistakes._same(paths) == {}  # too much to read


def test_both_trainings_say_it_in_the_log(tmp_path, caplog):
    photographs(tmp_path / "cat", 8)
    (tmp_path / "cat/notes.doc").write_bytes(b"")
    with caplog.at_level(logging.INFO):
        pipeline.check(folder_data(tmp_path))
    assert "folder: train 6, validation 2 images, 1 classes; passed over: 1 .doc" in caplog.text
    assert "a likely mistake: there is one class only" in caplog.text


def test_the_command_reports_and_draws(tmp_path, capsys):
    photographs(tmp_path / "x", 12)
    (tmp_path / "x/a.doc").write_bytes(b"")
    (tmp_path / "x/broken.png").write_bytes(b"<html>")
    picture(3).crop((0, 0, 20, 9)).save(tmp_path / "x/small.png")
    Image.new("RGB", (20, 20)).save(tmp_path / "x/black.png")
    config = settings_of("folder_vqgan", tmp_path / "x", "small", data={"size": 16})
    assert main(config, str(tmp_path / "new/sheet.png"), 0)
    told = capsys.readouterr().out
    assert "folder: train 11, validation 4 images; passed over: 1 .doc" in told
    assert "read 15 of 15 images" in told and "9 to 20 pixels" in told and "1 below 16, to be enlarged" in told
    assert "unreadable: 1 file(s)" in told and "broken.png: it is an HTML page, no picture" in told
    assert "1 of the images that were read are of one colour all over" in told and "black.png" in told
    with Image.open(tmp_path / "new/sheet.png") as sheet:
        pixels = np.asarray(sheet)
    assert pixels.shape[1] == 6 * 100 + 4 and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 1000


def test_names_of_any_bytes_end_no_report(tmp_path):
    """On any terminal, and with a picture of the user's in the place of the contact sheet, not without a word."""
    for i, folder in enumerate(("Z\udcfcrich", "水山")):
        photographs(tmp_path / "x" / folder, 6, first=10 * i)
        (tmp_path / "x" / folder / "br\udce9ken.png").write_bytes(b"<html>")
    command = [sys.executable, "-m", "taming_jax.inspect_data", "--config=configs/folder_vqgan.py:small"]
    command += [f"--config.data.path={tmp_path / 'x'}", "--config.data.size=16", "--config.data.batch_size=4"]
    root = Path(__file__).parent.parent
    sheet = tmp_path / "sheet.png"
    run = lambda **more: subprocess.run(
        [*command, f"--out={sheet}"], cwd=root, capture_output=True, env={**os.environ, **more}, timeout=300
    )
    done = run(PYTHONIOENCODING="ascii:strict", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.returncode == 0 and b"br\\udce9ken.png" in done.stdout and sheet.is_file(), done.stderr[-2000:]
    picture(1).save(sheet)
    before = sheet.read_bytes()
    with pytest.raises(ValueError, match=r"sheet.png' is there already, and nothing says that this program wrote it"):
        inspect_data(experiment_of(settings_of("folder_vqgan", tmp_path / "x", "small")), str(sheet))
    assert sheet.read_bytes() == before


def test_a_sample_is_read_of_many_and_what_looks_broken_first(tmp_path, monkeypatch):
    photographs(tmp_path, 20)
    (tmp_path / "zz.png").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    monkeypatch.setattr(inspection, "MOST", 4)
    found = inspection.read(folder_data(tmp_path, val_share=0.5), Needs())
    assert 4 <= found.read <= 5 and found.of == 21 and [name[-6:] for name in found.unreadable] == ["zz.png"]
    assert "read 5 of 21" in next(found.lines(folder_data(tmp_path), Needs())) or found.read == 4
    assert inspection.read(folder_data(tmp_path, val_share=0.5), Needs(), 100).read == 21


def test_maps_are_drawn_beside_their_images(tmp_path, capsys):
    photographs(tmp_path / "x", 8)
    (tmp_path / "maps").mkdir()
    for i in range(8):
        Image.fromarray(np.full((20, 24), 1 + i % 2, np.uint8)).save(tmp_path / f"maps/{i:03d}.png")
    data = {"maps": str(tmp_path / "maps"), "n_labels": 3, "flip": False}
    config = settings_of("demo_segmentation_vqgan", tmp_path / "x", data=data)
    config.model.update({"in_channels": 3, "out_channels": 3})
    inspect_data(experiment_of(config), str(tmp_path / "first.png"))
    config = settings_of("demo_segmentation", tmp_path / "x", data=data)
    config.update({"first_stage": str(tmp_path / "none")})
    config.condition.stage = str(tmp_path / "none too")
    inspect_data(experiment_of(config), str(tmp_path / "second.png"))
    told = capsys.readouterr().out
    assert told.count("labels: 2 of 3 occur; in how many maps: 1 (4), 2 (4)") == 2
    assert f"not there yet, and needed for training: {tmp_path / 'none'}" in told
    for name in ("first", "second"):
        with Image.open(tmp_path / f"{name}.png") as sheet:
            pixels = np.asarray(sheet)
        cell = pixels[4 + 96 + 20 : 4 + 96 + 20 + 96, 4:100]  # below the first image
        assert len(np.unique(cell.reshape(-1, 3), axis=0)) == 1 and cell[0, 0].tolist() not in ([0] * 3, [255] * 3)


@pytest.mark.parametrize("name", ["demo_boxes", "demo_points", "demo_pose", "demo_depth", "demo_edges", "demo_low_res"])
def test_every_condition_of_the_demo_is_drawn_without_its_networks(tmp_path, name, capsys):
    config = importlib.import_module(f"configs.{name}").get_config()
    config.update({"first_stage": str(tmp_path / "none")})
    config.data.update({"n_train": 16, "n_val": 4, "size": 32})
    if config.condition.stage not in ("", "first_stage"):
        config.condition.stage = str(tmp_path / "none")
    inspect_data(experiment_of(config), str(tmp_path / "sheet.png"))
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height == 4 + 6 * 116  # three rows of images, each with one of conditions
    assert "demo: train 16, validation 4 images, 10 classes" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["demo_class", "demo_coordinate", "demo_uncond"])
def test_conditions_without_networks(tmp_path, name):
    config = importlib.import_module(f"configs.{name}").get_config()
    config.update({"first_stage": str(tmp_path / "none")})
    config.data.update({"n_train": 16, "n_val": 4, "size": 32})
    inspect_data(experiment_of(config), str(tmp_path / "sheet.png"))
    assert (tmp_path / "sheet.png").is_file()


def test_what_training_would_refuse_is_refused_after_the_report(tmp_path, capsys):
    photographs(tmp_path / "x", 8)
    (tmp_path / "maps").mkdir()
    for i in range(8):
        Image.fromarray(np.full((20, 24), 1 + 5 * (i in (2, 3)), np.uint8)).save(tmp_path / f"maps/{i:03d}.png")
    data = {"maps": str(tmp_path / "maps"), "n_labels": 3}
    config = settings_of("demo_segmentation_vqgan", tmp_path / "x", data=data)
    with pytest.raises(ValueError, match="in_channels="):
        inspect_data(experiment_of(config), str(tmp_path / "sheet.png"))
    config.model.update({"in_channels": 3, "out_channels": 3})
    with pytest.raises(ValueError, match=r"has the value 6, but there are 3 labels.*and 1 more file"):
        inspect_data(experiment_of(config), str(tmp_path / "sheet.png"))
    told = capsys.readouterr().out
    assert "training would stop at: 2 file(s)" in told and "002.png" in told and "003.png" in told


def test_nothing_readable_no_classes_and_codes_are_refused(tmp_path):
    photographs(tmp_path / "x", 4)
    with pytest.raises(ValueError, match="put images into one folder a class"):
        inspect_data(experiment_of(settings_of("demo_class", tmp_path / "x")), str(tmp_path / "sheet.png"))
    for file in (tmp_path / "x").iterdir():
        file.write_bytes(b"<html>")
    with pytest.raises(ValueError, match="none of the 4 images that were read can be used"):
        inspect_data(experiment_of(settings_of("folder_vqgan", tmp_path / "x", "small")), str(tmp_path / "sheet.png"))
    with pytest.raises(ValueError, match="read=-1"):
        main(settings_of("folder_vqgan", tmp_path / "x", "small"), "", -1)


def test_the_home_folder_in_every_flag_of_a_program(tmp_path):
    """`~` behind a `=`, which a shell leaves as it is."""
    (tmp_path / "mine.py").write_text("from configs.demo_vqgan import get_config\n", encoding="utf-8")
    flags = ["--config=~/mine.py:tiny", "--out=~/sheets/first.png", "--config.data.n_train=8", "--config.data.n_val=8"]
    command = [sys.executable, "-m", "taming_jax.inspect_data", *flags, "--read=4"]
    root = Path(__file__).parent.parent
    ended = subprocess.run(
        command, env={**os.environ, "HOME": str(tmp_path)}, cwd=root, capture_output=True, text=True, encoding="utf-8"
    )
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "sheets" / "first.png").is_file() and not (root / "~").exists()
