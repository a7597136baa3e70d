"""The tfds source on a small data set that is written to a temporary folder, so nothing is downloaded."""

import io
import logging
from typing import ClassVar

import numpy as np
import pytest

from taming_jax.data.config import DataConfig
from taming_jax.data.pipeline import class_names, make_batches, make_crops, num_examples

TRAIN, VAL = 23, 7


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """The folder with two prepared data sets: tiny_pictures (train and validation) and tiny_unlabelled (train alone).

    Image i of a split has red and green of 10 * i (+ 5 in validation) and the class i % 3.
    """
    import tensorflow_datasets as tfds

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        more: ClassVar = {"label": tfds.features.ClassLabel(names=["ant", "bee", "cow"]), "mask": tfds.features.Image()}
        validation = VAL

        def _info(self):
            features = tfds.features.FeaturesDict({"image": tfds.features.Image(), **self.more})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            splits = {"train": self.examples(TRAIN, 0)}
            return splits | ({"validation": self.examples(self.validation, 5)} if self.validation else {})

        def _generate_examples(self):
            raise NotImplementedError

        def examples(self, n, offset):
            for i in range(n):
                picture = np.full((20, 26, 3), 10 * i + offset, np.uint8)
                picture[..., 2] = np.arange(26) * 8  # crops and flips show in blue
                example = {"image": picture, "mask": picture, "label": i % 3}
                if self.name == "tiny_broken" and i in (3, 4, 5):
                    example["image"] = io.BytesIO(b"no image at all")
                yield i, {key: example[key] for key in ("image", *self.more)}

    class TinyPictures(Tiny, skip_registration=True):
        name = "tiny_pictures"

    class TinyUnlabelled(Tiny, skip_registration=True):
        name, validation = "tiny_unlabelled", 0
        more: ClassVar = {}

    class TinyBroken(Tiny, skip_registration=True):
        name = "tiny_broken"
        more: ClassVar = {}

    class TinyNumbers(Tiny, skip_registration=True):
        name = "tiny_numbers"

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"label": np.int64}))

        def examples(self, n, offset):
            for i in range(n):
                yield i, {"label": i}

    folder = tmp_path_factory.mktemp("tfds")
    tfds.disable_progress_bar()
    for builder in (TinyPictures, TinyUnlabelled, TinyBroken, TinyNumbers):
        config = tfds.download.DownloadConfig(num_shards=3 if builder is TinyPictures else 1)
        builder(data_dir=folder).download_and_prepare(download_config=config)
    return str(folder)


def config(data_dir, name="tiny_pictures", **settings):
    fixed = {"source": "tfds", "path": data_dir, "name": name, "size": 16, "batch_size": 4, "workers": 2}
    return DataConfig(**{**fixed, "shuffle_buffer": 8, **settings})


def ids(batches):
    """The numbers of the pictures, read from their red."""
    return np.concatenate([np.round((batch["image"][:, 8, 8, 0] + 1) * 12.75 - 0.2) for batch in batches]).astype(int)


def take(iterator, n):
    return [next(iterator) for _ in range(n)]


def test_every_epoch_holds_every_example_in_an_order_of_its_own(data_dir):
    cfg = config(data_dir, batch_size=23)
    epochs = [ids([batch]) for batch in take(make_batches(cfg, "train"), 3)]
    assert all(sorted(epoch) == list(range(TRAIN)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1]) and not np.array_equal(epochs[0], np.arange(TRAIN))
    other = ids(take(make_batches(config(data_dir, batch_size=23, seed=1), "train"), 1))
    assert not np.array_equal(epochs[0], other)


def test_augmentation_is_for_training_and_new_each_time(data_dir):
    batches = take(make_batches(config(data_dir, batch_size=23), "train"), 2)
    first, second = ({i: image[0, :, 2] for i, image in zip(ids([batch]), batch["image"])} for batch in batches)
    assert np.mean([not np.array_equal(first[i], second[i]) for i in first]) > 0.5
    assert len({row.tobytes() for row in first.values()}) > 7  # of 5 places, each mirrored or not
    (batch,) = make_batches(config(data_dir, batch_size=7), "val")
    assert (np.diff(batch["image"][:, 0, :, 2]) >= 0).all() and (batch["image"] == batch["image"][:1])[..., 2].all()


@pytest.mark.parametrize("epoch", [0, 1])
def test_what_is_encoded_are_the_crops_of_an_epoch(data_dir, epoch):
    """In another order, and whatever part is asked for."""
    cfg = config(data_dir, batch_size=23)
    batch = take(make_batches(cfg, "train"), 2)[epoch]
    parts = [part for bounds in ((0, 10), (10, 23)) for part in make_crops(cfg, "train", *bounds, epoch, 4)]
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    assert len(found["valid"]) == 12 + 16 and found["valid"].sum() == TRAIN
    rows = lambda arrays: {(label, image.tobytes()) for image, label in zip(arrays["image"], arrays["class_label"])}
    there = rows({name: values[found["valid"]] for name, values in found.items()})
    assert len(there) == TRAIN and there == rows(batch)
    (held_out,) = make_crops(cfg, "val", 0, VAL, 0, VAL)
    np.testing.assert_array_equal(
        held_out["image"], next(make_batches(config(data_dir, batch_size=VAL), "val"))["image"]
    )


def test_labels_and_types(data_dir):
    cfg = config(data_dir)
    assert class_names(cfg) == ("ant", "bee", "cow")
    assert num_examples(cfg, "train") == TRAIN and num_examples(cfg, "val") == VAL
    for batch in take(make_batches(cfg, "train"), 8):
        assert batch["image"].shape == (4, 16, 16, 3) and batch["image"].dtype == np.float32
        assert batch["class_label"].dtype == np.int32 and set(batch) == {"image", "class_label"}
        np.testing.assert_array_equal(ids([batch]) % 3, batch["class_label"])


@pytest.mark.parametrize("start", [3, 6, 13])  # epochs end within steps 5, 11, 17
def test_resume_is_exact(data_dir, start, caplog):
    caplog.set_level(logging.INFO)
    whole = take(make_batches(config(data_dir), "train"), 20)
    assert "records to pass over" not in caplog.text
    rest = take(make_batches(config(data_dir), "train", start_step=start), 20 - start)
    for a, b in zip(whole[start:], rest, strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])
        np.testing.assert_array_equal(a["class_label"], b["class_label"])
    assert f"reading {start * 4 % TRAIN} records to pass over" in caplog.text


def test_processes_share_an_epoch(data_dir):
    cfg = config(data_dir, batch_size=2)
    parts = []
    for process, size in enumerate((11, 12)):  # each reads a part of its own, of about the same size
        batches = make_batches(cfg, "train", process_index=process, process_count=2)
        part = ids(take(batches, size))
        assert len(set(part)) == size
        parts.append(part)
    assert sorted(np.concatenate(parts)) == list(range(TRAIN))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_validation_is_one_padded_pass_of_equal_length_for_all(data_dir, count):
    passes = [list(make_batches(config(data_dir), "val", process_index=i, process_count=count)) for i in range(count)]
    assert {len(batches) for batches in passes} == {2}
    batches = [batch for batches in passes for batch in batches]
    assert all(batch["image"].shape[0] == batch["valid"].shape[0] == 4 // count for batch in batches)
    valid = np.concatenate([batch["valid"] for batch in batches])
    assert sorted(ids(batches)[valid]) == list(range(VAL))
    (second,) = make_batches(config(data_dir), "val", start_step=1, process_count=count)
    np.testing.assert_array_equal(passes[0][1]["image"], second["image"])


def test_without_a_validation_split_the_end_of_training_is_held_out(data_dir):
    cfg = config(data_dir, "tiny_unlabelled", val_share=0.2, batch_size=1)
    assert class_names(cfg) is None
    assert num_examples(cfg, "train") == 18 and num_examples(cfg, "val") == 5
    train, val = ids(take(make_batches(cfg, "train"), 18)), ids(list(make_batches(cfg, "val")))
    assert sorted([*train, *val]) == list(range(TRAIN))
    with pytest.raises(ValueError, match=r"no example for 'val'.*'train': 23.*val_share"):
        num_examples(config(data_dir, "tiny_unlabelled", val_share=0), "val")


def test_a_prepared_data_set_is_found_by_its_folder(data_dir):
    assert num_examples(config(f"{data_dir}/tiny_pictures/1.0.0", "any name"), "train") == TRAIN


def test_it_is_downloaded_where_that_is_allowed(data_dir, monkeypatch):
    import tensorflow_datasets as tfds

    begun = []
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", lambda builder: begun.append(builder.name))
    make_batches(config(data_dir), "train")
    assert not begun
    make_batches(config(data_dir, download=True), "train")
    assert set(begun) == {"tiny_pictures"}


def test_the_buffer_decides_on_the_order(data_dir):
    unlike, alike = (
        [ids(take(make_batches(config(data_dir, shuffle_buffer=size), "train"), 3)) for size in sizes]
        for sizes in ((1, 8), (8, 8))
    )
    assert not np.array_equal(*unlike)
    np.testing.assert_array_equal(*alike)


def test_broken_images_are_replaced_and_named(data_dir, caplog):
    cfg = config(data_dir, "tiny_broken", batch_size=1)
    with caplog.at_level(logging.WARNING):
        shown = ids(take(make_batches(cfg, "train"), TRAIN))
        again = ids(take(make_batches(cfg, "train", start_step=9), TRAIN - 9))
    assert len(shown) == TRAIN and set(shown) == set(range(TRAIN)) - {3, 4, 5}
    np.testing.assert_array_equal(shown[9:], again)
    named = {record.getMessage() for record in caplog.records if "skipped image" in record.getMessage()}
    assert len(named) == 3 and all("train" in message for message in named)


def test_errors_say_what_to_do(data_dir):
    with pytest.raises(ValueError, match=r"no data set 'cifar1'.*similar names: .*cifar10"):
        make_batches(config(data_dir, "cifar1"), "train")
    with pytest.raises(ValueError, match=r"not prepared in .*`tfds build imagenet2012 --data_dir .*ILSVRC2012"):
        make_batches(config(data_dir, "imagenet2012"), "train")
    with pytest.raises(ValueError, match=r"no images; its features.*label"):
        make_batches(config(data_dir, "tiny_numbers"), "train")
    with pytest.raises(ValueError, match="23 examples cannot be shared by 24 processes"):
        next(make_batches(config(data_dir, batch_size=24), "train", process_index=0, process_count=24))
