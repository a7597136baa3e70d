"""Objects of COCO and Open Images: categories, boxes under crop and flip, and what is left out."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from taming_jax.data.config import DataConfig
from taming_jax.data.pipeline import make_batches, num_examples, object_names, skipped

OBJECTS = ("objects", "crop")
COLOURS = {1: (250, 0, 0), 10: (0, 250, 0), 2: (0, 0, 250)}
# image 7: three boxes of three categories on a wide image, one of them at the left edge
BOXES = {1: [0, 10, 30, 40], 10: [60, 30, 20, 20], 2: [100, 8, 16, 48]}


def draw(path, size=(120, 64), boxes=BOXES):
    """Each category's box is a rectangle of its colour, so that what a box says can be compared with what is seen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0], 3), 120, np.uint8)
    for category, (x, y, w, h) in boxes.items():
        pixels[y : y + h, x : x + w] = COLOURS[category]
    Image.fromarray(pixels).save(path, quality=95)


def coco(path, annotations, images=None, split="train", stuff=()):
    images = images or [{"id": 7, "file_name": "a.jpg", "width": 120, "height": 64}]
    for image in images:
        draw(path / f"{split}2017" / image["file_name"], (image["width"], image["height"]))
    categories = [{"id": 1, "name": "person"}, {"id": 2, "name": "bicycle"}, {"id": 10, "name": "traffic light"}]
    (path / "annotations").mkdir(exist_ok=True)
    content = {"images": images, "annotations": annotations, "categories": categories}
    (path / f"annotations/instances_{split}2017.json").write_text(json.dumps(content), encoding="utf-8")
    categories = [{"id": 92, "name": "banner"}, {"id": 183, "name": "other"}]
    content = {"annotations": list(stuff), "categories": categories}
    (path / f"annotations/stuff_{split}2017.json").write_text(json.dumps(content), encoding="utf-8")


def annotation(category, box, image=7, **more):
    return {"image_id": image, "category_id": category, "bbox": box, "iscrowd": 0, **more}


def config(path, source="coco_objects", **settings):
    settings = {"size": 32, "batch_size": 4, "workers": 2, "max_objects": 5, "annotations": OBJECTS, **settings}
    return DataConfig(source, path=str(path), **settings)


def in_crop(batch, i):
    """The boxes of image i in the shown square, x0, y0, x1, y1 in shares of it."""
    top, left, height, width = batch["crop"][i]
    size = batch["image"].shape[1]
    x, y, w, h = (batch["object_boxes"][i][:, k] for k in range(4))
    corners = np.stack([x * width - left, y * height - top, (x + w) * width - left, (y + h) * height - top], 1) / size
    if batch["flip"][i]:
        corners[:, [0, 2]] = 1 - corners[:, [2, 0]]
    return corners


@pytest.mark.parametrize("settings", [{}, {"random_scale": True}, {"resize": 48}])
def test_boxes_move_with_the_image(tmp_path, settings):
    coco(tmp_path, [annotation(c, box, iscrowd=int(c == 2)) for c, box in BOXES.items()])
    cfg = config(tmp_path, stuff=False, **settings)
    assert object_names(cfg) == object_names(config(tmp_path, stuff=False, annotations=()))
    # numbered by the ids as text: "1" < "10" < "2"
    assert object_names(cfg) == ("person", "traffic light", "bicycle")
    batches = make_batches(cfg, "train")
    mirrored, compared, orders = set(), 0, set()
    for _ in range(6):
        batch = next(batches)
        for i in range(4):
            mirrored.add(bool(batch["flip"][i]))
            pixels = (batch["image"][i] + 1) * 127.5
            orders.add(tuple(batch["object_category"][i]))
            for number, flags, box in zip(batch["object_category"][i], batch["object_flags"][i], in_crop(batch, i)):
                if number >= 0:
                    category = (1, 10, 2)[number]
                    assert flags == (category == 2) and box.min() > -0.03 and box.max() < 1.03
                    seen = np.abs(pixels - np.array(COLOURS[category])).max(-1) < 90
                    ys, xs = np.nonzero(seen)
                    found = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) / 32
                    np.testing.assert_allclose(found, box, atol=0.06)
                    compared += 1
    assert compared > 20 and mirrored == {True, False} and len(orders) > 3


def test_whole_boxes_and_what_the_crop_hides(tmp_path):
    boxes = {1: [0, 0, 120, 64], 10: [60, 30, 20, 20], 2: [20, 8, 18, 48]}
    coco(tmp_path, [annotation(c, box) for c, box in boxes.items()], split="val")
    coco(tmp_path, [annotation(1, [0, 0, 9, 9])])
    # the central square is columns 28 to 92
    (batch,) = make_batches(config(tmp_path, min_visible=0.6), "val")
    np.testing.assert_allclose(batch["object_boxes"][0, 0], [60 / 120, 30 / 64, 20 / 120, 20 / 64], atol=1e-6)
    np.testing.assert_array_equal(batch["object_category"][0], [1, -1, -1, -1, -1])
    (batch,) = make_batches(config(tmp_path, min_visible=0.5), "val")
    np.testing.assert_array_equal(batch["object_category"][0], [0, 1, 2, -1, -1])
    np.testing.assert_allclose(batch["object_boxes"][0, 0], [28 / 120, 0, 64 / 120, 1], atol=1e-6)
    np.testing.assert_allclose(batch["object_boxes"][0, 2], [28 / 120, 8 / 64, 10 / 120, 48 / 64], atol=1e-6)
    cfg = config(tmp_path, whole_boxes=True)
    (batch,) = make_batches(cfg, "val")
    np.testing.assert_allclose(batch["object_boxes"][0, 0], [0, 0, 1, 1], atol=1e-6)
    (batch,) = make_batches(config(tmp_path, max_objects=2), "val")
    np.testing.assert_array_equal(batch["object_category"][0], [0, 2])  # the largest in the crop
    assert skipped(config(tmp_path, max_objects=2), "val")["images with more than max_objects objects"] == 1


def test_unfit_objects_and_images_are_counted(tmp_path):
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 120, "height": 64} for i in (7, 8, 9, 10)]
    good = [5, 5, 20, 20]
    found = [annotation(1, good), annotation(2, good), annotation(1, [110, 50, 40, 40]), annotation(1, [130, 0, 9, 9])]
    found += [annotation(1, [5, 5, 0, 9]), annotation(1, [5, 5, 1, 1]), annotation(1, good, image=99)]
    found += [annotation(1, [float("nan"), 1, 2, 3]), annotation(1, good, image=10), annotation(1, good, image=8)]
    stuff = [annotation(92, [0, 0, 120, 64], image=8), annotation(183, good, image=9)]
    coco(tmp_path, found, images, stuff=stuff)
    (tmp_path / "train2017/10.jpg").unlink()
    draw(tmp_path / "train2017/11.jpg")
    cfg = config(tmp_path, min_objects=2, min_object_area=0.001)
    assert num_examples(cfg, "train") == 2
    assert object_names(cfg) == ("person", "traffic light", "bicycle", "banner")
    assert skipped(cfg, "train") == {
        "annotated images that are not in the folder": 1,
        "images without annotations": 1,
        "annotations of unknown images": 1,
        "boxes outside the image or without area": 3,
        "boxes cut at the image's edge": 1,
        "objects smaller than min_object_area": 1,
        "images with fewer than min_objects objects": 1,
    }
    assert num_examples(config(tmp_path, annotations=()), "train") == 4
    with pytest.raises(ValueError, match=r"finds no example for 'train' .* 3 images with fewer than min_objects"):
        num_examples(config(tmp_path, min_objects=9), "train")


def test_categories_may_be_chosen(tmp_path):
    coco(tmp_path, [annotation(c, BOXES[c]) for c in (1, 10, 10, 2, 2)])
    assert object_names(config(tmp_path, categories="2", stuff=False)) == ("traffic light", "bicycle")
    coco(tmp_path, [annotation(1, BOXES[1])] * 9, split="val")  # counts nothing: training decides
    val = config(tmp_path, categories="2", stuff=False, min_objects=0, min_visible=0)
    assert next(make_batches(val, "val"))["object_category"].max() == -1
    (tmp_path / "few.txt").write_text("bicycle | traffic light\n1\n", encoding="utf-8")
    cfg = config(tmp_path, categories=str(tmp_path / "few.txt"), stuff=False, flip=False)
    assert object_names(cfg) == ("bicycle", "person")
    wide = config(tmp_path, categories=str(tmp_path / "few.txt"), stuff=False, min_visible=0, size=32)
    batches = make_batches(wide, "train")
    assert {number for _ in range(4) for number in next(batches)["object_category"].flat} == {0, 1, -1}
    (tmp_path / "wrong.txt").write_text("unicorn\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"unknown categories \['unicorn'\]; known: \['bicycle'"):
        object_names(config(tmp_path, categories=str(tmp_path / "wrong.txt"), stuff=False))
    with pytest.raises(ValueError, match="`categories` is 'person'; expected"):
        object_names(config(tmp_path, categories="person"))


def test_files_that_do_not_fit(tmp_path):
    coco(tmp_path, [annotation(1, BOXES[1])], images=[{"id": 7, "file_name": "a.jpg", "width": 120, "height": 64}])
    draw(tmp_path / "train2017/a.jpg", size=(60, 32), boxes={})
    next(make_batches(config(tmp_path), "train"))  # smaller, but of the same shape
    draw(tmp_path / "train2017/a.jpg", size=(64, 120), boxes={})
    with pytest.raises(ValueError, match=r"a.jpg' is 64 x 120 pixels, but its objects were annotated on 120 x 64"):
        next(make_batches(config(tmp_path), "train"))
    with pytest.raises(ValueError, match=r"no such .*val2017"):
        num_examples(config(tmp_path), "val")
    file = tmp_path / "annotations/instances_train2017.json"
    for content, message in {
        "{": "is not JSON",
        '{"images": []}': "not in COCO's format: it must have images, annotations, categories",
        '{"images": [], "categories": [], "annotations": [{"image_id": 1}]}': "an annotation without image_id",
    }.items():
        file.write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match=f"instances_train2017.json.*{message}"):
            num_examples(config(tmp_path, min_objects=0), "train")
    file.unlink()
    with pytest.raises(ValueError, match=r"no such file: .*instances_train2017.json"):
        num_examples(config(tmp_path, min_objects=0), "train")


def test_key_points_change_sides_in_a_mirrored_image(tmp_path):
    coco(tmp_path, [annotation(c, box) for c, box in BOXES.items()])
    draw(tmp_path / "train2017/b.jpg")
    corners = [8, 20, 2, 22, 30, 1, 0, 0, 0]  # left hand, right hand, and a nose that is not known
    people = {"categories": [{"id": 1, "name": "person", "keypoints": ["left_hand", "right_hand", "nose"]}]}
    people["annotations"] = [
        annotation(1, BOXES[1], keypoints=[v + 40 * (i % 3 == 0) for i, v in enumerate(corners)]),
        annotation(1, BOXES[1], keypoints=[0] * 9),
    ]
    (tmp_path / "annotations/person_keypoints_train2017.json").write_text(json.dumps(people), encoding="utf-8")
    batches = make_batches(config(tmp_path, annotations=("keypoints", "crop")), "train")
    seen = set()
    for _ in range(4):
        batch = next(batches)
        assert batch["keypoints"].shape == (4, 5, 3, 3)
        for i in range(4):
            top, left, height, width = batch["crop"][i]
            (x0, y0, v0), (x1, y1, v1), nose = batch["keypoints"][i, 0]
            assert not batch["keypoints"][i, 1:].any() and not nose.any()
            if v0 and v1:
                hands = np.array([[48 / 120, 20 / 64], [62 / 120, 30 / 64]]) * [width, height] - [left, top]
                if batch["flip"][i]:
                    hands = np.array([[32, 0], [32, 0]]) + hands[::-1] * [-1, 1]
                np.testing.assert_allclose([[x0, y0], [x1, y1]], hands / 32, atol=0.03)
                seen.add(bool(batch["flip"][i]))
    assert seen == {True, False}


def open_images(path, rows):
    columns = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax"
    columns += ",IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
    with (path / "oidv6-train-annotations-bbox.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns.split(","), *rows])
    (path / "class-descriptions-boxable.csv").write_text("/m/03,Cat\n/m/01,Dog\n/m/02,Tree\n", encoding="utf-8")
    for name in ("00aa", "00bb"):
        draw(path / f"train/{name}.jpg")


@pytest.mark.parametrize(
    "moved",
    [
        {},
        {"oidv6-train-annotations-bbox.csv": "csv/train-annotations-bbox.csv"},
        {"class-descriptions-boxable.csv": "oidv7-class-descriptions-boxable.csv"},
        {
            "oidv6-train-annotations-bbox.csv": "train/labels/detections.csv",
            "class-descriptions-boxable.csv": "train/metadata/classes.csv",
            "train/00aa.jpg": "train/data/00aa.jpg",
            "train/00bb.jpg": "train/data/00bb.jpg",
        },
    ],
)
def test_tables_of_open_images_are_found_where_people_have_them(tmp_path, moved):
    rows = [(name, "x", "/m/01", 1, 0.4, 0.6, 0.25, 0.75, 0, 0, 0, 0, 0) for name in ("00aa", "00bb")]
    open_images(tmp_path, rows)
    for old, new in moved.items():
        (tmp_path / new).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / old).rename(tmp_path / new)
    cfg = config(tmp_path, "open_images")
    assert object_names(cfg) == ("Dog", "Tree", "Cat") and num_examples(cfg, "train") == 2


def test_open_images(tmp_path):
    rows = [
        ("00aa", "x", "/m/01", 1, 0.4, 0.6, 0.25, 0.75, 1, 1, 1, 0, 1),
        ("00aa", "x", "/m/03", 1, 0.3, 0.7, 0, 1, 0, 0, 0, 1, -1),  # -1: not known
        ("00bb", "x", "/m/03", 1, 0.5, 0.5, 0, 1, 0, 0, 0, 0, 0),
        ("00cc", "x", "/m/03", 1, 0, 1, 0, 1, 0, 0, 0, 0, 0),
    ]
    open_images(tmp_path, rows)
    cfg = config(tmp_path, "open_images", random_crop=False, flip=False, batch_size=1)
    assert object_names(cfg) == ("Dog", "Tree", "Cat") and num_examples(cfg, "train") == 1
    batch = next(make_batches(cfg, "train"))
    order = np.argsort(batch["object_category"][0][:2])
    np.testing.assert_allclose(batch["object_boxes"][0][order], [[0.4, 0.25, 0.2, 0.5], [0.3, 0, 0.4, 1]], atol=1e-6)
    np.testing.assert_array_equal(batch["object_category"][0][order], [0, 2])
    np.testing.assert_array_equal(batch["object_flags"][0][order], [1 + 2 + 8 + 16, 4])
    assert skipped(cfg, "train") == {
        "boxes of images that are not in the folder": 1,
        "boxes outside the image or without area": 1,
        "images with fewer than min_objects objects": 1,
    }
    assert object_names(config(tmp_path, "open_images", categories="1")) == ("Cat",)
    assert num_examples(config(tmp_path, "open_images", annotations=()), "train") == 2
    table = tmp_path / "oidv6-train-annotations-bbox.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("0.4,", "much,"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"oidv6-train-annotations-bbox.csv', line 2: could not convert"):
        num_examples(config(tmp_path, "open_images", min_objects=2), "train")
    table.write_text("ImageID,LabelName\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"lacks the column.*XMin"):
        num_examples(config(tmp_path, "open_images", min_objects=2), "train")
