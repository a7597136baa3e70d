"""Boxes in COCO's format as tools for labelling leave them: which files and images are taken, and what is refused."""

import json

import numpy as np
import pytest
from PIL import Image

from taming_jax.data import pipeline
from taming_jax.data.config import DataConfig

OBJECTS = ("objects", "crop")
SIDE = 40


def picture(path, grey):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIDE, SIDE), (grey,) * 3).save(path)


def write(path, names, greys, *, prefix="", kinds=("cup", "plate"), first_id=1, points=False):
    """A file in COCO's format of these images, each with one box: a cup where its grey is even, else a plate."""
    ids = dict(zip(kinds, range(first_id, 100)))
    images = [{"id": i, "file_name": prefix + name, "width": SIDE, "height": SIDE} for i, name in enumerate(names)]
    marks = []
    for i, grey in enumerate(greys):
        mark = {"id": i, "image_id": i, "category_id": ids[("cup", "plate")[grey % 2]], "bbox": [grey % 9, 4, 12, 20]}
        marks.append(mark | ({"keypoints": [8, 9, 2, 20, 9, 2]} if points else {}))
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    if points:
        categories = [kind | {"keypoints": ["left_end", "right_end"]} for kind in categories]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"info": {}, "images": images, "annotations": marks, "categories": categories}), encoding="utf-8"
    )


def split(base, folder, file, seed, n=6, **options):
    """n images of greys by the seed in a folder, and their file."""
    greys = np.random.default_rng(seed).permutation(np.arange(20, 220))[:n].tolist()
    names = [f"p{seed}_{i}.png" for i in range(n)]
    for name, grey in zip(names, greys):
        picture(base / folder / name, grey)
    write(base / file, names, greys, **options)
    return set(greys)


def data(base, **settings):
    settings = {"path": str(base), "size": 32, "batch_size": 3, "workers": 1, "annotations": OBJECTS} | settings
    return DataConfig("coco_objects", flip=False, val_share=0.34, **settings)


def seen(config, part):
    """The greys of the images of a split; each must have the box that its grey says, of the category by name."""
    found, names = set(), pipeline.object_names(config)
    for number, batch in enumerate(pipeline.make_batches(config, part)):
        if part == "train" and number >= 12:
            break
        for i in np.flatnonzero(batch.get("valid", np.ones(config.batch_size, bool))):
            grey = round((batch["image"][i].mean() + 1) * 127.5)
            slot = np.flatnonzero(batch["object_category"][i] >= 0)
            assert [names[number] for number in batch["object_category"][i][slot]] == [("cup", "plate")[grey % 2]]
            np.testing.assert_allclose(batch["object_boxes"][i][slot][0, :2], [grey % 9 / SIDE, 4 / SIDE], atol=1e-6)
            found.add(grey)
    return found


ALONE = {  # folder of the images, file, what the file's names begin with
    "CVAT": ("images/default", "annotations/instances_default.json", ""),
    "CVAT without subsets": ("images", "annotations/instances_default.json", ""),
    "CVAT with paths": ("images/default", "annotations/instances_default.json", "default/"),
    "CVAT beside": (".", "annotations/instances_default.json", ""),
    "Roboflow, not split": ("train", "train/_annotations.coco.json", ""),
    "Roboflow, flat": (".", "_annotations.coco.json", ""),
    "Label Studio": ("images", "result.json", "images/"),
    "Label Studio on Windows": ("images", "result.json", "images\\"),
    "Label Studio, older": ("images", "result.json", "../../label-studio/data/media/upload/1/"),
    "FiftyOne": ("data", "labels.json", ""),
    "any name": ("photos", "my labels.json", "photos/"),
}


@pytest.mark.parametrize("layout", ALONE)
def test_one_file_serves_both_splits(tmp_path, layout):
    folder, file, prefix = ALONE[layout]
    greys = split(tmp_path, folder, file, seed=len(layout), prefix=prefix)
    (tmp_path / "README.roboflow.txt").write_text("by a tool", encoding="utf-8")
    train, val = seen(data(tmp_path), "train"), seen(data(tmp_path), "val")
    assert train | val == greys and not train & val and len(val) == 2
    remark = pipeline.opened(data(tmp_path), "train").listing.remarks[0]
    assert file.split("/")[-1] in remark and "val_share" in remark


SPLIT = {  # image folder and file of each
    "Roboflow": (("train", "train/_annotations.coco.json"), ("valid", "valid/_annotations.coco.json")),
    "CVAT's subsets": (
        ("images/train", "annotations/instances_train.json"),
        ("images/validation", "annotations/instances_validation.json"),
    ),
    "FiftyOne": (("train/data", "train/labels.json"), ("test/data", "test/labels.json")),
    "COCO 2014": (
        ("train2014", "annotations/instances_train2014.json"),
        ("val2014", "annotations/instances_val2014.json"),
    ),
    "by names alone": (("images/train", "train.json"), ("images/val", "val.json")),
    "other words": (("train", "annotations/annotations_train.json"), ("val", "annotations/annotations_val.json")),
}


@pytest.mark.parametrize("layout", SPLIT)
def test_each_split_has_its_file(tmp_path, layout):
    (folder, file), (val_folder, val_file) = SPLIT[layout]
    own = layout == "COCO 2014"  # whose categories have the same ids in all files
    train = split(tmp_path, folder, file, seed=1)
    val = split(
        tmp_path, val_folder, val_file, seed=2, n=4, **({} if own else {"kinds": ("plate", "cup"), "first_id": 7})
    )
    if layout == "Roboflow":
        split(tmp_path, "test", "test/_annotations.coco.json", seed=3)
    assert seen(data(tmp_path), "train") == train and seen(data(tmp_path), "val") == val
    whole = data(tmp_path, annotations=())  # without boxes, the same images
    assert [pipeline.num_examples(whole, part) for part in ("train", "val")] == [6, 4]


def test_settings_name_what_is_not_found_by_its_place(tmp_path):
    train = split(tmp_path, "raw/a", "export/one.json", seed=1)
    val = split(tmp_path, "raw/b", "export/two.json", seed=2, n=4)
    boxes = str(tmp_path / "export/one.json")
    alone = data(tmp_path / "raw/a", boxes=boxes)
    assert seen(alone, "train") | seen(alone, "val") == train and len(seen(alone, "val")) == 2
    both = {"boxes": boxes, "val_boxes": str(tmp_path / "export/two.json")}
    for config in (data(tmp_path / "raw", **both), data(tmp_path / "raw/a", val_path=str(tmp_path / "raw/b"), **both)):
        assert seen(config, "train") == train and seen(config, "val") == val
    assert pipeline.num_examples(data(tmp_path, boxes="export/one.json"), "train") == 4  # below `path`
    with pytest.raises(ValueError, match=r"val_boxes.*goes with `boxes`"):
        data(tmp_path, val_boxes=boxes)


def test_key_points_come_from_their_own_file_or_from_that_of_the_boxes(tmp_path):
    split(tmp_path / "one", "train", "train/_annotations.coco.json", seed=1, points=True)
    split(tmp_path / "two", "images", "annotations/instances_default.json", seed=1)
    split(tmp_path / "two", "images", "annotations/person_keypoints_default.json", seed=1, points=True)
    split(tmp_path / "three", "images", "annotations/person_keypoints_default.json", seed=1, points=True)
    for name in ("one", "two", "three"):
        batch = next(pipeline.make_batches(data(tmp_path / name, annotations=("keypoints",)), "train"))
        np.testing.assert_allclose(batch["keypoints"][:, 0], [[[0.2, 0.225, 1], [0.5, 0.225, 1]]] * 3, atol=1e-6)


def test_images_elsewhere_are_found_by_the_last_part_of_their_names_where_that_is_one_file(tmp_path):
    greys = split(tmp_path, "elsewhere/deep", "annotations/instances_default.json", 1)
    picture(tmp_path / "images/other.png", 7)
    assert seen(data(tmp_path), "train") | seen(data(tmp_path), "val") == greys
    split(tmp_path / "again", "elsewhere/deep", "annotations/instances_default.json", 1)
    picture(tmp_path / "again/images/p1_0.png", 7)  # which is meant is not known
    assert sum(pipeline.num_examples(data(tmp_path / "again"), part) for part in ("train", "val")) == 5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda base: None, r"no boxes in COCO's format in .*nothing.*instances_default.json \(CVAT\).* as `boxes`"),
        (lambda base: (base / "a.json").write_text('{"x": 1}', encoding="utf-8"), r"which has a\.json; looked for"),
        (lambda base: [write(base / f"{n}.json", ["x.png"], [2]) for n in "ab"], r"several files.*a\.json, b\.json"),
        (lambda base: write(base / "instances_val.json", ["x.png"], [2]), r"boxes for 'val' alone.*none for training"),
        (
            lambda base: (
                picture(base / "train/images/a.png", 1),
                (base / "data.yaml").write_text("nc: 2", encoding="utf-8"),
            ),
            r"data\.yaml, train; it looks like YOLO's layout: export or convert",
        ),
        (
            lambda base: (
                (picture(base / "JPEGImages/a.png", 1), picture(base / "Annotations/a.png", 1))
                and (base / "Annotations/a.xml").write_text("<annotation/>", encoding="utf-8")
            ),
            r"it looks like Pascal VOC's layout",
        ),
        (lambda base: split(base, "val2017", "annotations/instances_val2017.json", 1), r"no such folder.*train2017'"),
    ],
)
def test_what_is_not_recognised_is_said(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(ValueError, match=message):
        pipeline.num_examples(data(tmp_path), "train")
    with pytest.raises(ValueError, match="no such folder"):
        pipeline.num_examples(data(tmp_path / "typing error"), "train")
