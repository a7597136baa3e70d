"""The demo's landscapes: the same everywhere, consistent in all parts, and read back right."""

import hashlib
import io
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from taming_jax.data.demo import landscape_kinds as kinds
from taming_jax.data.demo import landscape_reader as reader
from taming_jax.data.demo.landscape_noise import turn
from taming_jax.data.demo.landscapes import DemoLandscapes

ARRAYS = ("image", "segmentation", "depth")
FIRST = {  # of what landscapes 0 to 17 of seed 4 hold; a change to the data set changes it on purpose
    64: "065a877ab38b4501",
    (48, 80): "2cab17a6e7b1f888",
}


def digest(size: int | tuple[int, int]) -> str:
    data, sums = DemoLandscapes(size, 18, seed=4), hashlib.sha256()
    for i in range(18):
        item = data[i]
        for key in ARRAYS:
            sums.update(item[key].tobytes())
    return sums.hexdigest()[:16]


@pytest.fixture(scope="module")
def landscapes():
    """Whole pictures of 64 pixels."""
    data = DemoLandscapes(64, 180, seed=11)
    return [data[i] for i in range(len(data))]


@pytest.fixture(scope="module")
def parts():
    """Of 64 pixels, of pictures of 256 pixels."""
    data, rng = DemoLandscapes(64, 180, seed=12), np.random.default_rng(0)
    return [data.part(i, (256, 256), *rng.integers(0, 193, 2).tolist()) for i in range(len(data))]


def stack(items, key):
    return np.stack([item[key] for item in items])


def mean_iou(read, true):
    ious = []
    for label in range(len(kinds.LABELS)):
        both, either = (read == label) & (true == label), (read == label) | (true == label)
        ious.append(both.sum() / either.sum())
    return np.mean(ious)


@pytest.mark.parametrize("size", FIRST)
def test_they_are_these_on_every_machine(size):
    assert digest(size) == FIRST[size]


def test_they_do_not_depend_on_the_instructions_of_the_processor():
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    if not found:
        pytest.skip("this processor has no instructions that numpy could do without")
    command = "import sys; sys.path.insert(0, 'tests'); import test_landscapes as t; print(t.digest((48, 80)))"
    environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": " ".join(found)}
    run = subprocess.run(
        [sys.executable, "-c", command], env=environment, capture_output=True, text=True, check=True, encoding="utf-8"
    )
    assert run.stdout.strip() == FIRST[48, 80]


def test_they_depend_on_seed_and_index_alone():
    data = DemoLandscapes(32, 20, seed=5)
    backwards = [data[i]["image"] for i in reversed(range(20))][::-1]
    again = [DemoLandscapes(32, 20, seed=5)[i]["image"] for i in range(20)]
    np.testing.assert_array_equal(backwards, again)
    np.testing.assert_array_equal(DemoLandscapes(32, 5, seed=5, start=7)[2]["image"], again[9])
    assert len({image.tobytes() for image in again}) == 20
    assert not np.array_equal(DemoLandscapes(32, 1, seed=6)[0]["image"], again[0])


@pytest.mark.parametrize("whole", [(64, 64), (96, 300), (201, 130)])
def test_parts_of_a_picture_are_parts_of_it(whole):
    pictures, data, rng = (
        DemoLandscapes(whole, 18, seed=1),
        DemoLandscapes((24, 40), 18, seed=1),
        np.random.default_rng(1),
    )
    for i in range(18):
        corners = [(0, 0), (whole[0] - 24, whole[1] - 40), (rng.integers(whole[0] - 23), rng.integers(whole[1] - 39))]
        picture = pictures[i]
        for top, left in corners:
            part = data.part(i, whole, int(top), int(left))
            for key in ARRAYS:
                np.testing.assert_array_equal(part[key], picture[key][top : top + 24, left : left + 40], err_msg=key)
            np.testing.assert_array_equal(part["crop"], [top, left, *whole])


def test_wide_pictures_continue_narrow_ones():
    wide, narrow = DemoLandscapes((48, 200), 18, seed=2), DemoLandscapes((48, 64), 18, seed=2)
    for i in range(18):
        for key in ARRAYS:
            np.testing.assert_array_equal(wide[i][key][:, 68:132], narrow[i][key])


def test_high_pictures_show_the_same_in_finer_detail():
    large, small = DemoLandscapes(256, 18, seed=3), DemoLandscapes(64, 18, seed=3)
    agree = [np.mean(large[i]["segmentation"][2::4, 2::4] == small[i]["segmentation"]) for i in range(18)]
    assert np.mean(agree) > 0.85 and np.min(agree) > 0.65
    assert [large.class_label(i) for i in range(18)] == [small.class_label(i) for i in range(18)]


def test_the_smallest_detail_has_one_size_in_pixels(parts, landscapes):
    """Grain, as the mean difference of neighbours within meadows, is alike in parts of large pictures and in small."""

    def grain(items):
        differences = []
        for item in items:
            meadow = item["segmentation"] == kinds.MEADOW
            both = meadow[:, 1:] & meadow[:, :-1]
            differences.append(np.abs(np.diff(item["image"].astype(int).sum(2), axis=1))[both])
        return np.concatenate(differences).mean()

    assert 0.6 < grain(parts) / grain(landscapes) < 1.4


def test_an_item_has_what_it_says(landscapes):
    for item in landscapes[:36]:
        assert item["image"].shape == (64, 64, 3) and item["image"].dtype == np.uint8
        assert item["segmentation"].shape == item["depth"].shape == (64, 64)
        assert item["segmentation"].dtype == np.int32 and item["depth"].dtype == np.float32
        assert kinds.CLASS_NAMES[item["class_label"]].startswith(list(kinds.RECIPES)[item["class_label"] // 3])
        assert item["mood"] == item["class_label"] % 3
        sky, depth = item["segmentation"] <= kinds.CLOUD, item["depth"]
        assert (depth[sky] == -1).all() and (depth[~sky] > -1).all() and depth.max() <= 1
        skies = np.unique(item["segmentation"][item["segmentation"] < kinds.CLOUD])
        np.testing.assert_array_equal(skies, [item["mood"]])
        nearer = np.diff(np.where(sky, -1, depth), axis=0) >= 0
        assert nearer.all()  # the lower, the nearer


def test_classes_are_balanced_and_all_labels_occur(landscapes):
    classes = stack(landscapes, "class_label")
    assert (np.bincount(classes, minlength=kinds.N_CLASSES) == 10).all()
    assert not np.array_equal(classes[:18], classes[18:36])
    shares = np.bincount(stack(landscapes, "segmentation").ravel(), minlength=len(kinds.LABELS)) / (180 * 64 * 64)
    assert shares.min() > 0.01 and shares.max() < 0.3


def test_maps_are_without_specks(landscapes):
    labels = stack(landscapes, "segmentation")
    middle = labels[:, 1:-1, 1:-1]
    around = (labels[:, :-2, 1:-1], labels[:, 2:, 1:-1], labels[:, 1:-1, :-2], labels[:, 1:-1, 2:])
    assert np.mean(np.all([middle != other for other in around], axis=0)) < 0.004


def test_water_mirrors_what_stands_above_its_shore():
    """The lower half of a lake is more like what is above, upside down, than like that of another lake."""
    data, alike, unlike = DemoLandscapes(128, 72, seed=8), [], []
    lakes = [data[i] for i in range(72) if data.class_label(i) == list(kinds.RECIPES).index("lake") * 3]
    for item in lakes:
        water = item["segmentation"] == kinds.WATER
        for column in range(0, 128, 8):
            rows = np.flatnonzero(water[:, column])
            if len(rows) > 12 and rows[0] > 20 and np.all(np.diff(rows[:12]) == 1):
                mirrored = item["image"][rows[0] - 12 : rows[0], column].astype(float).sum(1)[::-1]
                below = item["image"][rows[:12], column].astype(float).sum(1)
                alike.append(np.corrcoef(mirrored, below)[0, 1])
                unlike.append(np.corrcoef(mirrored[::-1], below)[0, 1])
    assert len(alike) > 20 and np.nanmean(alike) > 0.6 > np.nanmean(unlike)


def test_large_pictures_are_drawn(tmp_path):
    item = DemoLandscapes((256, 4096), 1, seed=1)[0]
    assert item["image"].shape == (256, 4096, 3)
    assert len(np.unique(item["segmentation"][:, :1024])) >= 3


def as_is(images, rng):
    return images


def noisy(images, rng):
    return np.clip(images + rng.normal(0, 8, images.shape), 0, 255).astype(np.uint8)


def blurred(images, rng):
    """Mean over 3 x 3 pixels, with a little noise; as floats in [-1, 1]."""
    x = np.pad(images.astype(np.float32), ((0, 0), (1, 1), (1, 1), (0, 0)), "edge")
    x = (x[:, :-2] + x[:, 1:-1] + x[:, 2:]) / 3
    x = (x[:, :, :-2] + x[:, :, 1:-1] + x[:, :, 2:]) / 3
    return (x + rng.normal(0, 4, images.shape)) / 127.5 - 1


def compressed(images, rng):
    """By a codec, with about 27 dB."""

    def once(image):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=50)
        return np.asarray(Image.open(file))

    return np.stack([once(image) for image in images])


@pytest.mark.parametrize("worn", [as_is, noisy, blurred, compressed])
@pytest.mark.parametrize("items", ["landscapes", "parts"])
def test_the_reader_reads_labels_and_mood(items, worn, request):
    items = request.getfixturevalue(items)
    images, true = worn(stack(items, "image"), np.random.default_rng(0)), stack(items, "segmentation")
    read = reader.read_labels(images)
    assert read.dtype == np.int32 and np.mean(read == true) >= (0.95 if worn is as_is else 0.9)
    assert mean_iou(read, true) >= (0.85 if worn is as_is else 0.75)
    assert np.mean(reader.read_mood(images) == stack(items, "mood")) >= 0.99


@pytest.mark.parametrize("worn", [as_is, noisy, blurred, compressed])
def test_the_reader_reads_the_class(landscapes, worn):
    images, classes = worn(stack(landscapes, "image"), np.random.default_rng(1)), stack(landscapes, "class_label")
    read = reader.read_class(images)
    assert read.dtype == np.int32 and np.mean(read == classes) >= 0.95
    np.testing.assert_array_equal(reader.score_class(images, {"class_label": classes}), read == classes)
    assert reader.read_class(images[0]) == read[0] and reader.read_labels(images[0]).shape == (64, 64)


def test_the_reader_is_not_fooled_by_what_is_no_landscape():
    """Noise is not read as some map or other: the reader must be able to fail."""
    true = DemoLandscapes(64, 1)[0]["segmentation"]
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert np.mean(reader.read_labels(noise) == true) < 0.4


def test_drawing_is_fast():
    data = DemoLandscapes(64, 72)
    _ = data[0]
    start = time.process_time()
    for i in range(72):
        _ = data[i]
    assert (time.process_time() - start) / 72 < 0.02  # 2 ms on an idle core; it feeds the training on the same cores


def test_sines_and_cosines_of_any_angle():
    angles = np.concatenate([np.linspace(-7, 7, 1001), [100.0, -1234.5]])
    sine, cosine = turn(angles)
    np.testing.assert_allclose(sine, np.sin(angles), atol=1e-9)
    np.testing.assert_allclose(cosine, np.cos(angles), atol=1e-9)


def test_names_and_colours():
    assert len(kinds.LABELS) == 10 and kinds.N_CLASSES == 18 and kinds.CLASS_NAMES[4] == "lake at dusk"
    assert not any("," in name for name in kinds.CLASS_NAMES)  # flags part them by commas
    assert kinds.PALETTE.shape == (10, 3) and kinds.PALETTE.dtype == np.uint8
    apart = np.abs(kinds.PALETTE[:, None].astype(int) - kinds.PALETTE).sum(-1) + 999 * np.eye(10, dtype=int)
    assert apart.min() > 40


def test_bad_arguments_say_what_to_do():
    with pytest.raises(ValueError, match=r"size 8.*from 16 to 65536"):
        DemoLandscapes(8)
    with pytest.raises(ValueError, match="n >= 1"):
        DemoLandscapes(32, 0)
    with pytest.raises(ValueError, match=r"32 x 32 pixels at \(10, 40\) are not in a picture of \(64, 64\)"):
        DemoLandscapes(32).part(0, (64, 64), 10, 40)
    with pytest.raises(IndexError, match="landscape 3 of 3"):
        _ = DemoLandscapes(32, 3)[3]
    with pytest.raises(ValueError, match=r"\(\.\.\., H, W, 3\).*\(4, 4, 1\)"):
        reader.read_labels(np.zeros((4, 4, 1)))
