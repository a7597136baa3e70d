import time

import numpy as np
import pytest

from taming_jax.data.demo import (
    CLASS_NAMES,
    FIRST_OBJECT,
    LABELS,
    N_CLASSES,
    PALETTE,
    DemoScenes,
    read_class,
    read_labels,
)


@pytest.fixture(scope="module", params=[32, 64])
def scenes(request):
    data = DemoScenes(request.param, 500, seed=3)
    return [data[i] for i in range(len(data))]


def stack(scenes, key):
    return np.stack([scene[key] for scene in scenes])


def blurred(images, factor):
    """Mean over squares of `factor` pixels, put back to the old size."""
    b, h, w, c = images.shape
    small = images.reshape(b, h // factor, factor, w // factor, factor, c).mean((2, 4))
    return small.repeat(factor, 1).repeat(factor, 2)


def test_reader_reads_the_class_of_nearly_every_scene(scenes):
    images, classes = stack(scenes, "image"), stack(scenes, "class_label")
    assert np.mean(read_class(images) == classes) >= 0.98
    as_float = images.astype(np.float32) / 127.5 - 1
    assert np.mean(read_class(as_float) == classes) >= 0.98


def test_reader_survives_blur_and_noise(scenes):
    images, classes = stack(scenes, "image"), stack(scenes, "class_label")
    bad = blurred(images.astype(np.float32) / 127.5 - 1, 2) + np.random.default_rng(0).normal(0, 0.1, images.shape)
    assert np.mean(read_class(bad) == classes) >= 0.98
    assert np.mean(read_labels(bad) == stack(scenes, "segmentation")) >= 0.93


def test_reader_reads_the_label_map(scenes):
    read, true = read_labels(stack(scenes, "image")), stack(scenes, "segmentation")
    assert read.dtype == np.int32 and np.mean(read == true) >= 0.98
    for label in range(len(LABELS)):
        both, either = (read == label) & (true == label), (read == label) | (true == label)
        assert both.sum() / either.sum() >= 0.88, LABELS[label]


def test_main_object_is_by_far_the_largest_and_the_nearest(scenes):
    for scene in scenes:
        areas = np.bincount(scene["segmentation"].ravel(), minlength=len(LABELS))[FIRST_OBJECT:]
        main = scene["class_label"]
        assert scene["box_labels"][0] == main + FIRST_OBJECT
        assert areas[main] >= 1.6 * np.delete(areas, main).max()
        depth_of_main = scene["depth"][scene["segmentation"] == main + FIRST_OBJECT]
        on_objects = scene["segmentation"] >= FIRST_OBJECT
        assert np.ptp(depth_of_main) == 0 and depth_of_main[0] == scene["depth"][on_objects].max()


def test_classes_are_balanced_and_not_in_a_fixed_order(scenes):
    classes = stack(scenes, "class_label")
    assert (np.bincount(classes, minlength=N_CLASSES) == 50).all()
    assert not np.array_equal(classes[:10], classes[10:20])
    data = DemoScenes(32, 500, seed=3)
    assert [data.class_label(i) for i in range(20)] == classes[:20].tolist()


def test_scenes_have_one_to_four_objects_and_some_hide_others(scenes):
    counts = [len(scene["boxes"]) for scene in scenes]
    assert set(counts) == {1, 2, 3, 4}
    assert all(len(set(scene["box_labels"])) == len(scene["box_labels"]) for scene in scenes)
    shown = [
        (scene["segmentation"] == scene["box_labels"][-1]).mean() / scene["boxes"][-1, 2:].prod() for scene in scenes
    ]
    alone = [share for share, count in zip(shown, counts) if count == 1]
    assert min(shown) < 0.6 * min(alone) and min(shown) > 0


def test_boxes_and_keypoints_agree_with_the_label_map():
    size = 256
    for scene in map(DemoScenes(size, 30, seed=1).__getitem__, range(30)):
        ys, xs = np.nonzero(scene["segmentation"] == scene["box_labels"][0])
        x, y, w, h = scene["boxes"][0] * size
        seen = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        np.testing.assert_allclose([x, y, x + w, y + h], seen, atol=3.5)  # a sharp tip is thinner than a pixel
        points = scene["keypoints"]
        assert points.shape == (len(scene["boxes"]), 5, 2)
        centre, top, right, bottom, left = np.moveaxis(points, 1, 0)
        box = np.stack([left[:, 0], top[:, 1], right[:, 0] - left[:, 0], bottom[:, 1] - top[:, 1]], 1)
        np.testing.assert_allclose(box, scene["boxes"], atol=1e-6)
        assert (np.abs(centre - (scene["boxes"][:, :2] + scene["boxes"][:, 2:] / 2)) < 0.1).all()
        assert scene["boxes"].min() >= 0 and (scene["boxes"][:, :2] + scene["boxes"][:, 2:]).max() <= 1


@pytest.mark.parametrize("size", [32, 64, 100, 128, 256])
def test_a_scene_is_the_same_at_every_size(size):
    for i in range(5):
        large, small = DemoScenes(512, 5, seed=2)[i], DemoScenes(size, 5, seed=2)[i]
        assert small["image"].shape == (size, size, 3) and small["image"].dtype == np.uint8
        assert small["segmentation"].shape == small["depth"].shape == (size, size)
        assert small["segmentation"].dtype == np.int32 and small["depth"].dtype == np.float32
        assert small["depth"].min() >= -1 and small["depth"].max() <= 1
        at = ((np.arange(size) + 0.5) / size * 512).astype(int)
        assert np.mean(large["segmentation"][at][:, at] == small["segmentation"]) > 0.97
        assert np.abs(large["image"][at][:, at].astype(float) - small["image"]).mean() < 4
        np.testing.assert_array_equal(large["boxes"], small["boxes"])


def test_scenes_depend_on_seed_and_index_alone():
    data = DemoScenes(32, 20, seed=5)
    backwards = [data[i]["image"] for i in reversed(range(20))][::-1]
    again = [DemoScenes(32, 20, seed=5)[i]["image"] for i in range(20)]
    np.testing.assert_array_equal(backwards, again)
    np.testing.assert_array_equal(DemoScenes(32, 5, seed=5, start=7)[2]["image"], again[9])
    assert len({image.tobytes() for image in again}) == 20
    assert not np.array_equal(DemoScenes(32, 1, seed=6)[0]["image"], again[0])


def test_drawing_is_fast():
    data = DemoScenes(64, 64)
    _ = data[0]
    start = time.process_time()
    for i in range(64):
        _ = data[i]
    assert (time.process_time() - start) / 64 < 0.01  # 0.6 ms on an idle core; it feeds the training on the same cores


def test_names_and_colours():
    assert len(CLASS_NAMES) == N_CLASSES == 10 and ("sky", "ground", *CLASS_NAMES) == LABELS
    assert PALETTE.shape == (12, 3) and PALETTE.dtype == np.uint8
    np.testing.assert_array_equal(read_labels(PALETTE[None]), [np.arange(12)])


def test_bad_arguments_say_what_to_do():
    with pytest.raises(ValueError, match=r"size 8.*16 or more"):
        DemoScenes(8)
    with pytest.raises(ValueError, match="n >= 1"):
        DemoScenes(32, 0)
    with pytest.raises(ValueError, match=r"\(\.\.\., H, W, 3\).*\(4, 4, 1\)"):
        read_labels(np.zeros((4, 4, 1)))
    with pytest.raises(IndexError, match="scene 3 of 3"):
        _ = DemoScenes(32, 3)[3]
