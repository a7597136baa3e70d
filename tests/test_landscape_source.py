"""Landscapes as training data: parts of pictures and whole ones, in batches with their annotations."""

import dataclasses
import importlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from taming_jax import encode_dataset
from taming_jax.data.config import DataConfig
from taming_jax.data.demo import landscape_kinds as kinds
from taming_jax.data.demo import landscape_reader as reader
from taming_jax.data.demo.landscapes import DemoLandscapes
from taming_jax.data.pipeline import class_names, label_names, make_batches, make_crops, num_labels, object_names
from taming_jax.data.sources.demo import VAL_START
from taming_jax.experiment import VQGANExperiment
from taming_jax.inspect_data import inspect_data
from taming_jax.settings import from_dict

ASKED = ("class_label", "segmentation", "depth", "crop")


def settings(**changes):
    fixed = {"source": "landscapes", "size": 32, "batch_size": 6, "n_train": 18, "n_val": 9, "annotations": ASKED}
    return DataConfig(**fixed | changes)


def epochs(config, n):
    """The batches of n epochs of training, each as one dict of arrays."""
    batches = make_batches(config, "train")
    parts = [[next(batches) for _ in range(config.n_train // config.batch_size)] for _ in range(n)]
    return [{key: np.concatenate([batch[key] for batch in part]) for key in part[0]} for part in parts]


def place(batch, i):
    return tuple(batch["crop"][i].tolist())


def test_a_batch_has_what_was_asked_for():
    config = settings()
    batch = next(make_batches(config, "val"))
    shapes = {key: (value.shape, value.dtype) for key, value in batch.items()}
    assert shapes == {
        "image": ((6, 32, 32, 3), np.float32),
        "class_label": ((6,), np.int32),
        "valid": ((6,), bool),
        "segmentation": ((6, 32, 32), np.int32),
        "depth": ((6, 32, 32), np.float32),
        "crop": ((6, 4), np.int32),
        "flip": ((6,), bool),
    }
    assert num_labels(config) == 10 and label_names(config) == kinds.LABELS and not batch["flip"].any()
    pictures = DemoLandscapes(32, 9, start=VAL_START)
    for i in range(6):
        np.testing.assert_array_equal(batch["image"][i], pictures[i]["image"] / np.float32(127.5) - 1)
        np.testing.assert_array_equal(batch["segmentation"][i], pictures[i]["segmentation"])
        np.testing.assert_array_equal(batch["depth"][i], pictures[i]["depth"])
        assert batch["class_label"][i] == pictures[i]["class_label"] and place(batch, i) == (0, 0, 32, 32)
    assert np.mean(reader.read_labels(batch["image"]) == batch["segmentation"]) > 0.9


@pytest.mark.parametrize("what", ["objects", "keypoints"])
def test_what_landscapes_do_not_have_is_refused(what):
    with pytest.raises(ValueError, match=f"'landscapes' with these settings has no {what}; it has class_label, segm"):
        next(make_batches(settings(annotations=(what,)), "train"))
    with pytest.raises(ValueError, match="has no objects"):
        object_names(settings())


def test_the_light_alone_may_be_the_class():
    whole, moods = (next(make_batches(settings(classes=classes), "val")) for classes in ("", "moods"))
    assert class_names(settings(classes="moods")) == kinds.MOODS
    np.testing.assert_array_equal(moods["class_label"], whole["class_label"] % len(kinds.MOODS))
    np.testing.assert_array_equal(moods["image"], whole["image"])
    with pytest.raises(ValueError, match="'moods'"):
        next(make_batches(settings(classes="countries"), "val"))


def test_parts_of_large_pictures_are_new_in_each_epoch():
    config = settings(resize=80)
    one, two = epochs(config, 2)
    assert (one["crop"][:, 2:] == 80).all()
    places = [{int(label): place(batch, i) for i, label in enumerate(batch["class_label"])} for batch in (one, two)]
    assert len(places[0]) == 18 and np.mean([places[0][label] != places[1][label] for label in places[0]]) > 0.9
    pictures = DemoLandscapes(80, 18)
    by_class = {pictures.class_label(i): i for i in range(18)}
    for i, label in enumerate(one["class_label"].tolist()):
        top, left, _, _ = place(one, i)
        whole = pictures[by_class[label]]
        part = whole["segmentation"][top : top + 32, left : left + 32]
        np.testing.assert_array_equal(one["segmentation"][i], part)
    tops, lefts = np.concatenate([one["crop"], two["crop"]])[:, :2].T
    assert min(tops.min(), lefts.min()) < 8 and max(tops.max(), lefts.max()) > 40


def test_validation_sees_the_same_parts_always_and_not_only_the_middle():
    config = settings(resize=80)
    first, again = list(make_batches(config, "val")), list(make_batches(config, "val"))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])
    assert len({place(first[0], i) for i in range(6)}) == 6
    middle = next(make_batches(settings(resize=80, random_crop=False), "val"))
    np.testing.assert_array_equal(middle["crop"], [[24, 24, 80, 80]] * 6)


def test_pictures_of_all_sizes():
    (batch,) = epochs(settings(resize=128, random_scale=True, n_train=180, batch_size=180), 1)
    heights = batch["crop"][:, 2]
    assert heights.min() < 36 and heights.max() > 100 and np.median(heights) < 70
    np.testing.assert_array_equal(batch["crop"][:, 2], batch["crop"][:, 3])


def test_rectangles_are_parts_of_rectangles():
    batch = next(make_batches(settings(size=(32, 64), resize=48), "train"))
    assert batch["image"].shape == (6, 32, 64, 3) and (batch["crop"][:, 2:] == [48, 96]).all()


def test_a_training_that_goes_on_sees_the_same_parts():
    config = settings(resize=128, random_scale=True)
    batches = make_batches(config, "train")
    whole = [next(batches) for _ in range(8)]
    later = make_batches(config, "train", start_step=5)
    halves = [make_batches(config, "train", start_step=5, process_index=i, process_count=2) for i in (0, 1)]
    for batch in whole[5:]:
        other, parts = next(later), [next(half) for half in halves]
        for key, value in batch.items():
            np.testing.assert_array_equal(value, other[key])
            np.testing.assert_array_equal(value, np.concatenate([part[key] for part in parts]))


def test_crops_are_those_of_the_epochs():
    config = settings(resize=80, batch_size=18)
    (one,) = epochs(config, 1)
    (crops,) = make_crops(config, "train", 0, 18, 0, 18)
    assert {image.tobytes() for image in crops["image"]} == {image.tobytes() for image in one["image"]}
    (held_out,) = make_crops(config, "val", 0, 6, 0, 6)
    np.testing.assert_array_equal(held_out["image"], next(make_batches(config, "val"))["image"][:6])


def test_other_channels():
    batch = next(make_batches(settings(channels=1), "train"))
    assert batch["image"].shape == (6, 32, 32, 1) and -1 <= batch["image"].min() < batch["image"].max() <= 1


def test_whole_pictures_are_not_encoded_several_times():
    config = importlib.import_module("configs.demo_class").get_config("tiny")
    config.data.source = "landscapes"
    with pytest.raises(ValueError, match=r"--crops=2, but whole .* never cropped.*resize above 32"):
        encode_dataset.main(config, "codes", 2, 1)


def test_the_contact_sheet_shows_them(tmp_path: Path, capsys):
    config = importlib.import_module("configs.demo_segmentation_vqgan").get_config().to_dict()
    config["data"] |= {"source": "landscapes", "size": 32, "resize": 96, "n_train": 18, "n_val": 6}
    config["model"] |= {"in_channels": 10, "out_channels": 10}
    config["discriminator"]["in_channels"] = 10
    inspect_data(from_dict(VQGANExperiment, config), str(tmp_path / "sheet.png"))
    told = capsys.readouterr().out
    assert "landscapes: train 18, validation 6 images, 18 classes" in told and "labels: 10 of 10 occur" in told
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height == 4 + 6 * 116  # three rows of images, each with one of label maps


def test_settings_keep_what_they_meant():
    assert DataConfig().source == "demo" and not DataConfig().resize
    assert dataclasses.replace(settings(), size=(32, 48)).sides == (32, 48)
