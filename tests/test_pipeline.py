"""Batches of the demo and of a folder: exact resume, sharing among processes, validation, and the background thread."""

import dataclasses
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image
from waiting import until

from taming_jax.data import demo
from taming_jax.data.config import SOURCES, DataConfig, Needs
from taming_jax.data.demo import landscape_kinds
from taming_jax.data.listing import list_once
from taming_jax.data.pipeline import (
    OPENERS,
    Prefetched,
    class_names,
    label_names,
    make_batches,
    make_crops,
    num_examples,
    num_labels,
    object_names,
    skipped,
)

N = 22


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """22 images; image i is a ramp upwards from the grey 10 * i, so crops and flips show."""
    path = tmp_path_factory.mktemp("pictures")
    for i in range(N):
        ramp = np.broadcast_to((10 * i + np.arange(40) // 5)[:, None, None], (40, 30, 3))
        Image.fromarray(ramp.astype(np.uint8)).save(path / f"{i:02}.png")
    return str(path)


@pytest.fixture(params=["demo", "landscapes", "folder"])
def cfg(request, folder):
    fixed = {"source": request.param, "size": 16, "batch_size": 4, "workers": 2, "seed": 1}
    if request.param == "folder":
        return DataConfig(**fixed, path=folder, val_share=0.32)
    return DataConfig(**fixed, n_train=15, n_val=7)


def take(iterator, n):
    return [next(iterator) for _ in range(n)]


def assert_equal(batches, others):
    for a, b in zip(batches, others, strict=True):
        assert set(a) == set(b)
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def keys(cfg, batches):
    """One name an example: crops of a folder's image keep its tens of grey, and scenes are all different."""
    images = np.concatenate([batch["image"] for batch in batches])
    if cfg.source == "folder":
        return [int(image.min() * 127.5 + 127.6) // 10 for image in images]
    return [image.tobytes() for image in images]


def test_batches_have_the_promised_shapes_and_types(cfg):
    batch = next(make_batches(cfg, "train"))
    assert batch["image"].shape == (4, 16, 16, 3) and batch["image"].dtype == np.float32
    assert batch["image"].min() >= -1 and batch["image"].max() <= 1
    assert batch["class_label"].shape == (4,) and batch["class_label"].dtype == np.int32
    assert set(batch) == {"image", "class_label"}
    assert num_examples(cfg, "train") == 15 and num_examples(cfg, "val") == 7
    names = {"demo": demo.CLASS_NAMES, "landscapes": landscape_kinds.CLASS_NAMES}
    assert class_names(cfg) == names.get(cfg.source)


def test_the_demo_has_every_annotation():
    asked = ("class_label", "segmentation", "depth", "crop", "objects", "keypoints")
    cfg = DataConfig(size=32, batch_size=6, n_val=9, max_objects=4, annotations=asked)
    batches = list(make_batches(cfg, "val"))
    shapes = {key: (value.shape[1:], value.dtype) for key, value in batches[0].items()}
    assert shapes == {
        "image": ((32, 32, 3), np.float32),
        "class_label": ((), np.int32),
        "valid": ((), bool),
        "segmentation": ((32, 32), np.int32),
        "depth": ((32, 32), np.float32),
        "crop": ((4,), np.int32),
        "flip": ((), bool),
        "object_boxes": ((4, 4), np.float32),
        "object_category": ((4,), np.int32),
        "object_flags": ((4,), np.int32),
        "keypoints": ((4, 5, 3), np.float32),
    }
    assert num_labels(cfg) == 12 and label_names(cfg) == demo.LABELS and object_names(cfg) == demo.CLASS_NAMES
    batch = {key: np.concatenate([batch[key] for batch in batches])[:9] for key in batches[0]}
    np.testing.assert_array_equal(batch["crop"], [[0, 0, 32, 32]] * 9)
    np.testing.assert_array_equal(batch["object_category"][:, 0], batch["class_label"])
    there = batch["object_category"] >= 0
    assert set(there.sum(1)) <= {1, 2, 3, 4} and (np.diff(there.astype(int)) <= 0).all()
    for i, j in zip(*np.nonzero(there)):
        x, y = (batch["keypoints"][i, j, 0, :2] * 32).astype(int)  # the centre, which an object before it may hide
        assert batch["segmentation"][i, y, x] in batch["object_category"][i, : j + 1] + demo.FIRST_OBJECT or (
            demo.CLASS_NAMES[batch["object_category"][i, j]] == "turquoise ring"
        )
        x, y, w, h = batch["object_boxes"][i, j]
        points = batch["keypoints"][i, j]
        np.testing.assert_allclose([x, y, x + w, y + h], [*points[:, :2].min(0), *points[:, :2].max(0)], atol=1e-6)
    assert (batch["keypoints"][..., 2] == there[..., None]).all() and not batch["object_boxes"][~there].any()
    few = DataConfig(size=32, batch_size=40, n_train=40, max_objects=2, annotations=("objects",))
    batch = next(make_batches(few, "train"))
    assert batch["object_category"].shape == (40, 2) and (batch["object_category"].min(1) >= 0).any()
    assert list(skipped(few, "train")) == ["objects or figures left out because an image has more than max_objects"]


def test_every_epoch_holds_every_example_once(cfg):
    names = keys(cfg, take(make_batches(cfg, "train"), 15))  # 60 examples, four epochs
    epochs = [names[i : i + 15] for i in range(0, 60, 15)]
    assert all(len(set(epoch)) == 15 and set(epoch) == set(epochs[0]) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


@pytest.mark.parametrize("start", [1, 3, 4, 9])  # the first epoch ends within step 3
def test_resume_is_exact(cfg, start):
    whole = take(make_batches(cfg, "train"), 12)
    assert_equal(whole[start:], take(make_batches(cfg, "train", start_step=start), 12 - start))


@pytest.mark.parametrize("start", range(5))
def test_sizes_take_turns_and_resume_is_exact(cfg, start):
    """Each size goes through all examples, in an order of its own; validation stays with `size`."""
    several = dataclasses.replace(cfg, sizes=(24, 16, 32))
    whole = take(make_batches(several, "train"), 15)
    assert [batch["image"].shape[1] for batch in whole] == 5 * [24, 16, 32]
    assert_equal(whole[start:], take(make_batches(several, "train", start_step=start), 15 - start))
    labels = [np.concatenate([batch["class_label"] for batch in whole[k::3]])[:15] for k in range(3)]
    assert cfg.source == "folder" or not np.array_equal(labels[0], labels[1])  # which has no classes here
    assert next(make_batches(several, "val"))["image"].shape[1:3] == cfg.sides


def test_a_folder_is_searched_once_for_all_sizes(folder):
    several = DataConfig(source="folder", path=folder, size=16, sizes=(24, 32), batch_size=4, val_share=0.4)
    before = list_once.cache_info().misses
    assert num_examples(several, "train") == 13
    take(make_batches(several, "train"), 2)
    assert list_once.cache_info().misses == before + 1


def test_needs_go_before_the_settings(folder):
    settings = {"size": 16, "batch_size": 4, "n_train": 8, "n_val": 4}
    asked = DataConfig(**settings, annotations=("objects", "crop"), max_objects=3)
    plain, needs = DataConfig(**settings, annotations=("depth",)), Needs(("objects", "crop"), max_objects=3)
    assert plain.meeting(needs) == asked and plain.meeting(Needs()) == plain
    for split in ("train", "val"):
        assert_equal(take(make_batches(plain, split, needs=needs), 1), take(make_batches(asked, split), 1))
        assert_equal(make_crops(plain, split, 0, 4, 0, 2, needs), make_crops(asked, split, 0, 4, 0, 2))
    assert "depth" in next(make_batches(plain, "val")) and "depth" in next(make_batches(plain, "val", needs=Needs()))
    photos = DataConfig(source="folder", path=folder, annotations=("crop",))
    for question in (class_names, num_labels, label_names):
        with pytest.raises(ValueError, match="has no class_label"):
            question(photos, Needs(("class_label",)))
    assert num_examples(photos, "train", Needs(())) == num_examples(photos, "train") == N - 1


def test_every_name_of_a_source_can_be_opened():
    assert list(OPENERS) == list(SOURCES)


def test_the_seed_changes_the_order(cfg):
    other = DataConfig(**{**vars(cfg), "seed": 2})
    assert keys(cfg, take(make_batches(cfg, "train"), 3)) != keys(other, take(make_batches(other, "train"), 3))


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("count", [2, 4])
def test_processes_together_have_the_batch_of_one(cfg, split, count):
    whole = make_batches(cfg, split)
    parts = [make_batches(cfg, split, process_index=i, process_count=count) for i in range(count)]
    for _ in range(5 if split == "train" else 2):
        batch, local = next(whole), [next(part) for part in parts]
        joined = {key: np.concatenate([part[key] for part in local]) for key in batch}
        assert_equal([batch], [joined])
    if split == "val":
        assert [next(iterator, None) for iterator in (whole, *parts)] == [None] * (count + 1)


def test_validation_is_one_padded_pass_in_order(cfg):
    batches = list(make_batches(cfg, "val"))
    assert len(batches) == 2 and all(batch["image"].shape[0] == 4 for batch in batches)
    valid = np.concatenate([batch["valid"] for batch in batches])
    np.testing.assert_array_equal(valid, [1] * 7 + [0])
    assert_equal(batches, list(make_batches(cfg, "val")))
    assert_equal(batches[1:], list(make_batches(cfg, "val", start_step=1)))
    held_out, training = keys(cfg, batches)[:7], keys(cfg, take(make_batches(cfg, "train"), 4))
    assert len(set(held_out)) == 7 and not set(held_out) & set(training)
    if cfg.source == "folder":
        assert held_out == sorted(held_out)


def test_augmentation_is_for_training_and_new_each_epoch(folder):
    settings = {"source": "folder", "path": folder, "size": 16, "batch_size": N, "val_path": folder}
    epochs = take(make_batches(DataConfig(**settings), "train"), 2)
    tops = [{int(image.min() * 127.5 + 127.6) // 10: image[0, 0, 0] for image in batch["image"]} for batch in epochs]
    assert np.mean([tops[0][i] != tops[1][i] for i in tops[0]]) > 0.5
    plain = DataConfig(**settings, random_crop=False, flip=False)
    images = np.sort(next(make_batches(plain, "train"))["image"].reshape(N, -1), axis=0)
    np.testing.assert_array_equal(images, np.sort(next(make_batches(plain, "val"))["image"].reshape(N, -1), axis=0))


def test_a_batch_may_be_larger_than_the_data(cfg):
    large = DataConfig(**{**vars(cfg), "batch_size": 40})
    assert len(set(keys(large, take(make_batches(large, "train"), 2)))) == 15
    (batch,) = make_batches(large, "val")
    assert batch["valid"].sum() == 7


def test_demo_scenes_are_drawn_once_within_bounded_memory(monkeypatch):
    from taming_jax.data.sources import demo as demo_source

    drawn = []
    real = demo.DemoScenes.__getitem__
    monkeypatch.setattr(demo.DemoScenes, "__getitem__", lambda self, i: drawn.append(i) or real(self, i))
    monkeypatch.setattr(demo_source, "MEMORY", (16 * 16 * 3 + 5) * 10)  # room for ten scenes
    kept = DataConfig(size=16, batch_size=10, n_train=10, seed=77)
    batches = take(make_batches(kept, "train"), 5)
    assert sorted(drawn) == list(range(10))
    assert_equal(batches[3:], take(make_batches(kept, "train", start_step=3), 2))
    drawn.clear()
    iterator = make_batches(DataConfig(size=16, batch_size=20, n_train=20, seed=77), "train")
    take(iterator, 2)
    iterator.close()
    assert len(drawn) >= 30


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "pictures"}, "source='pictures' is unknown; known: demo, landscapes, folder, tfds, imagenet, ffhq"),
        ({"source": "folder"}, "path='', but the data source 'folder' needs it"),
        ({"size": 100_000}, "size=100000, but it must be from 16 to 4096"),
        ({"size": 0}, "size=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"val_share": 1.5}, "val_share=1.5"),
        ({"n_train": 0}, "n_train=0"),
        ({"seed": -1}, "seed=-1"),
        ({"sizes": (32, 8)}, r"sizes=\(32, 8\), but they must differ, each from 16"),
        ({"size": 32, "sizes": (32, 64), "resize": 48}, r"sizes=\(32, 64\), but they are cut from images of resize=48"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(**settings)


def test_bad_requests():
    cfg = DataConfig(size=16, batch_size=6)
    with pytest.raises(ValueError, match="batch_size 6 cannot be shared by 4 processes"):
        make_batches(cfg, "train", process_count=4)
    with pytest.raises(ValueError, match="process_index is 2, but there are 2"):
        make_batches(cfg, "train", process_index=2, process_count=2)
    with pytest.raises(ValueError, match="start_step is -1"):
        make_batches(cfg, "train", start_step=-1)
    with pytest.raises(ValueError, match="unknown split 'test'; known: train, val"):
        make_batches(cfg, "test")
    with pytest.raises(ValueError, match="size=8, but it must be from 16"):
        DataConfig(size=8)


def data_threads():
    return [thread for thread in threading.enumerate() if thread.name == "data"]


def test_prefetching_works_ahead_and_stops():
    made = []
    iterator = Prefetched((made.append(i) or i for i in range(100)), depth=2)
    assert take(iterator, 3) == [0, 1, 2]
    until(lambda: len(made) >= 5)
    time.sleep(0.2)  # in which it could make more
    assert len(made) <= 7
    iterator.close()
    assert next(iterator, "end") == "end" and len(made) <= 8
    before = len(data_threads())
    iterator = Prefetched(iter(range(100)), depth=2)
    assert len(data_threads()) == before + 1
    del iterator
    assert len(data_threads()) == before
    assert list(Prefetched(iter(range(5)), depth=2)) == [0, 1, 2, 3, 4]


def test_an_error_in_the_background_reaches_the_reader():
    def items():
        yield 1
        raise ValueError("broken")

    iterator = Prefetched(items(), depth=2)
    assert next(iterator) == 1
    with pytest.raises(ValueError, match="broken"):
        next(iterator)
    assert next(iterator, "end") == "end"


def run(program, *arguments):
    command = [sys.executable, "-W", "error", "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, encoding="utf-8")


def test_the_demo_needs_no_tensorflow():
    result = run("""
import sys
sys.modules["tensorflow"] = sys.modules["tensorflow_datasets"] = None  # importing them now raises ImportError
from taming_jax.data.config import DataConfig
from taming_jax.data.pipeline import make_batches
print(next(make_batches(DataConfig(size=32), "train"))["image"].shape)
print(next(make_batches(DataConfig(source="landscapes", size=48), "train"))["image"].shape)
try:
    make_batches(DataConfig(source="tfds"), "train")
except ValueError as error:
    print(error)
""")
    assert result.returncode == 0, result.stderr
    assert (
        "(8, 32, 32, 3)" in result.stdout
        and "(8, 48, 48, 3)" in result.stdout
        and "pip install -e '.[data]'" in result.stdout
    )


def test_a_program_may_end_in_the_middle_of_training(folder):
    program = """
import sys
from taming_jax.data.config import DataConfig
from taming_jax.data.pipeline import make_batches
batches = make_batches(DataConfig(source="folder", path=sys.argv[1], size=16, workers=2), "train")
print(next(batches)["image"].shape)
"""
    result = run(program, folder)
    assert result.returncode == 0, result.stderr
    assert "(8, 16, 16, 3)" in result.stdout and "Traceback" not in result.stderr and "Fatal" not in result.stderr
