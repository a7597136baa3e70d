"""Annotations as people's files have them: what is read, and what is said of the rest by file, record and field."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from taming_jax.conditioning.objects import ObjectsCondition
from taming_jax.data import annotations
from taming_jax.data.config import DataConfig
from taming_jax.data.listing import list_once
from taming_jax.data.sources.coco import list_coco_objects
from taming_jax.data.sources.open_images import list_open_images

SIZE = (96, 80)
CATEGORIES = [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}]
FILE = "instances_train2017.json"


def coco(path, *, images=None, found=None, categories=CATEGORIES, n=3, encoding="utf-8"):
    (path / "train2017").mkdir(parents=True, exist_ok=True)
    (path / "annotations").mkdir(exist_ok=True)
    for i in range(n):
        Image.new("RGB", SIZE, (60 * i, 90, 30)).save(path / f"train2017/{i}.jpg")
    if images is None:
        images = [{"id": i + 1, "file_name": f"{i}.jpg", "width": SIZE[0], "height": SIZE[1]} for i in range(n)]
    if found is None:
        found = [mark(i + 1, 1 + i % 2) for i in range(n)]
    content = {"images": images, "annotations": found, "categories": categories}
    (path / "annotations" / FILE).write_bytes(json.dumps(content, ensure_ascii=False).encode(encoding))
    return path


def mark(image, category, box=(8, 6, 40, 30), **more):
    return {"id": 10 * image + category, "image_id": image, "category_id": category, "bbox": box, **more}


def listed(path, source=list_coco_objects, **settings):
    name = "coco_objects" if source is list_coco_objects else "open_images"
    settings = {"annotations": ("objects",), "stuff": False, **settings}
    return source(DataConfig(name, path=str(path), **settings), "train")


def test_ids_and_numbers_of_any_kind():
    assert [annotations.key(v) for v in (7, 7.0, "7", "a", True, None, [], 1e400, 10**400, "")] == [
        *("7", "7", "7", "a"),
        *[None] * 6,
    ]
    assert annotations.numbers([1, "2.5", 3.0], 3) == [1, 2.5, 3]
    for wrong in ([1, None], [1, True], "12", None, [1], [10**400, 1], {"x": 1, "y": 2}, [[1], 2]):
        assert annotations.numbers(wrong, 2) is None
    assert all(annotations.truth(v) is True for v in (1, 1.0, True, "1", "1.0", "True", "true", " yes "))
    assert all(annotations.truth(v) is False for v in (0, -1, "0.0", "-1", "False", "", None, float("nan")))
    assert annotations.truth("perhaps") is None and annotations.truth([1]) is None


def test_sizes_come_from_the_images_where_the_file_has_none(tmp_path):
    whole = listed(coco(tmp_path / "a"))
    images = [{"id": 1, "file_name": "0.jpg"}, {"id": 2, "file_name": "1.jpg", "width": None, "height": 80}]
    images.append({"id": 3, "file_name": "2.jpg", "width": 10**30, "height": "eighty"})
    found = listed(coco(tmp_path / "b", images=images))
    np.testing.assert_array_equal(found.objects.boxes, whole.objects.boxes)
    np.testing.assert_array_equal(found.objects.sizes, [SIZE] * 3)
    (tmp_path / "b/train2017/1.jpg").write_bytes(b"no image")
    found = listed(tmp_path / "b")
    assert len(found.images) == 2
    (what,) = found.skipped
    assert "images whose size neither tells" in what and f"{FILE}', images[1] (id 2): width is null" in what


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"bbox": None}, "annotations[1] (id 22): bbox is null"),
        ({"bbox": []}, "bbox is []"),
        ({"bbox": [1, 2, 3]}, "bbox is [1, 2, 3]"),
        ({"bbox": [1, 2, 3, {}]}, "bbox is [1, 2, 3, {}]"),
        ({"bbox": "1 2 3 4"}, 'bbox is "1 2 3 4"'),
        ({"bbox": [1, 2, 3, 10**400]}, "bbox is [1, 2, 3, 1000"),
        ({"category_id": 9}, "annotations[1] (id 22): category_id is 9"),
        ({"category_id": None}, "category_id is null"),
        ({"image_id": [2]}, "image_id is [2]"),
        ({"id": 11, "image_id": 1, "category_id": 1}, "annotations[1] (id 11)"),
        (None, "annotations[1]: it is null"),
    ],
)
def test_annotations_that_cannot_be_used_are_counted_and_named(tmp_path, change, what):
    found = [mark(1, 1), None if change is None else {**mark(2, 2), **change}, mark(3, 2)]
    listing = listed(coco(tmp_path, found=found))
    assert [path[-5:] for path in listing.images] == ["0.jpg", "2.jpg"]
    assert [n for text, n in listing.skipped.items() if what in text and FILE in text] == [1]


def test_ids_as_text_and_boxes_as_text_are_read(tmp_path):
    found = [{**mark(1, 1), "image_id": "1"}, {**mark(2, 2), "category_id": 2.0}, mark(3, 1, ["8", "6", "40", "30"])]
    whole = listed(coco(tmp_path / "a", found=[mark(1, 1), mark(2, 2), mark(3, 1)]))
    listing = listed(coco(tmp_path / "b", found=found))
    assert listing.skipped == {} and list(listing.objects.category) == [0, 1, 0]
    np.testing.assert_array_equal(listing.objects.boxes, whole.objects.boxes)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_other_encodings(tmp_path, encoding):
    categories = [{"id": 1, "name": "Tür"}, {"id": 2, "name": "ключ"}]
    assert listed(coco(tmp_path, categories=categories, encoding=encoding)).object_names == ("Tür", "ключ")


def test_names_of_categories(tmp_path):
    listing = listed(coco(tmp_path, categories=[{"id": 1}, {"id": 2, "name": None}, {"name": "lost"}]))
    assert listing.object_names == ("category 1", "category 2")
    assert sum("categories[0] (id 1): name is missing" in what for what in listing.skipped) == 1
    assert sum("categories[2]: id is missing" in what for what in listing.skipped) == 1
    listing = listed(coco(tmp_path, categories=[{"id": i, "name": "thing"} for i in (1, 2)]))
    assert listing.object_names == ("thing (1)", "thing (2)") and list(listing.objects.category) == [0, 1, 0]
    assert any("told apart by their ids" in what for what in listing.skipped)
    with pytest.raises(ValueError, match=rf"{FILE}', categories\[1\] \(id 1\): its name is \"b\".*\"a\" too"):
        listed(coco(tmp_path, categories=[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]))


def test_images_named_twice(tmp_path):
    images = [{"id": 1, "file_name": "0.jpg"}, {"id": 1, "file_name": "0.jpg"}, {"id": 2, "file_name": "0.jpg"}]
    images += [{"id": 3, "file_name": "1.jpg"}, {"id": 4, "file_name": "2.jpg"}, {"id": 4, "file_name": "1.jpg"}]
    found = [mark(1, 1), mark(2, 2, [1, 2, 30, 40]), mark(3, 1), mark(4, 2)]
    listing = listed(coco(tmp_path, images=images, found=found))
    assert [path[-5:] for path in listing.images] == ["0.jpg", "1.jpg"]
    assert list(listing.objects.start) == [0, 2, 3]
    for what in ("images that are there twice", "put together", "have the id of another file"):
        assert sum(what in text for text in listing.skipped) == 1
    with pytest.raises(ValueError, match=r"images\[1\] \(id 0\).*none of its 3 images can be used"):
        listed(coco(tmp_path, images=[{"id": 0, "file_name": f"{i}.jpg"} for i in range(3)]))


def test_names_of_files_with_folders_before_them(tmp_path):
    names = ["train2017/0.jpg", r"C:\data\train2017\1.jpg", "./2.jpg"]
    images = [{"id": i + 1, "file_name": name} for i, name in enumerate(names)]
    assert len(listed(coco(tmp_path, images=images)).images) == 3
    images[1]["file_name"] = "other/0.jpg"  # what two names could mean is neither's
    listing = listed(coco(tmp_path, images=images))
    assert [path[-5:] for path in listing.images] == ["2.jpg"]
    assert listing.skipped["annotated images that are not in the folder"] == 2


def test_boxes_as_corners_are_refused(tmp_path):
    wide = [mark(i, 1, [40, 30, 90, 70]) for i in (1, 2, 3)]
    with pytest.raises(ValueError, match=rf"{FILE}', annotations\[0\] \(id 11\): bbox is \[40.*3 of 3 reach beyond"):
        listed(coco(tmp_path, found=wide))
    outline = [[8, 6, 48, 6, 48, 36]]
    found = [mark(i, 1, [8, 6, 48, 36], segmentation=outline) for i in (1, 2)]
    with pytest.raises(ValueError, match=r"corners .* 2 fit to the outlines in `segmentation` as corners, 0 as such"):
        listed(coco(tmp_path, found=found))
    right = [mark(i, 1, [8, 6, 40, 30], segmentation=outline) for i in (1, 2)]
    assert len(listed(coco(tmp_path, found=right)).images) == 2
    with pytest.raises(ValueError, match=r"all boxes are below one pixel"):
        listed(coco(tmp_path, found=[mark(i, 1, [0.1, 0.2, 0.5, 0.5]) for i in (1, 2)]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not JSON"),
        ('{"images": [{"id": 1, ', "is not JSON: .*; it ends too early"),
        ("[" * 100_000, "is not JSON that can be read"),
        (f'{{"images": {"9" * 5000}}}', "is not JSON that can be read"),
        ("[1]", r"must have images, annotations, categories; it is \[1\]"),
        ('{"images": {}, "annotations": [], "categories": []}', "images is {}; expected a list of records"),
        ('{"images": [], "annotations": [{"bbox": []}], "categories": []}', r"annotations\[0\].* image_id is missing"),
        ('{"images": [4], "annotations": [], "categories": []}', "finds no example|images"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, content, message):
    (coco(tmp_path) / "annotations" / FILE).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=f"{FILE}.*({message})" if "finds" not in message else message) as caught:
        config = DataConfig("coco_objects", path=str(tmp_path), annotations=("objects",), stuff=False)
        list_once(list_coco_objects, config, "train")
    assert "\n" not in str(caught.value)


def test_stuff_under_the_ids_of_things_is_refused(tmp_path):
    coco(tmp_path)
    stuff = {"annotations": [], "categories": [{"id": 1, "name": "sky"}]}
    (tmp_path / "annotations/stuff_train2017.json").write_text(json.dumps(stuff), encoding="utf-8")
    with pytest.raises(ValueError, match=r'stuff_train2017.json.*the category 1 is "sky".*is "red"'):
        listed(tmp_path, stuff=True)


def people(path, found, names=("left_eye", "right_eye")):
    coco(path)
    content = {"annotations": found, "categories": [{"id": 1, "name": "person", "keypoints": names}]}
    (path / "annotations/person_keypoints_train2017.json").write_text(json.dumps(content), encoding="utf-8")
    return listed(path, annotations=("keypoints",))


def test_key_points_that_cannot_be_used(tmp_path):
    good = [48, 40, 2, 24, 20, 1]
    found = [mark(1, 1, keypoints=good), mark(2, 1, keypoints=good[:5]), mark(2, 1), mark(2, 1, keypoints=None)]
    found.append(mark(3, 1, keypoints=[float("nan"), *good[1:]]))
    listing = people(tmp_path, found)
    assert len(listing.images) == 1 and listing.figures.mirror == (1, 0)
    np.testing.assert_allclose(listing.figures.points, [[[0.5, 0.5, 1], [0.25, 0.25, 1]]])
    text = "; ".join(listing.skipped)
    assert "keypoints is not 2 times x, y, v" in text and "keypoints are not finite" in text
    assert "image_id or keypoints" in text
    with pytest.raises(ValueError, match=r"person_keypoints_train2017.json', categories\[0\].keypoints is null"):
        people(tmp_path, found, names=None)


HEADER = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf"
ROWS = ["a,x,/m/1,1,0.1,0.6,0.2,0.7,0,0,1", "b,x,/m/2,1,0.1,0.6,0.2,0.7,1,0,0"]


def open_images(path, lines, names="/m/1,Cat\n/m/2,Dog\n", encoding="utf-8"):
    (path / "train").mkdir(parents=True, exist_ok=True)
    for name in "ab":
        Image.new("RGB", SIZE).save(path / f"train/{name}.jpg")
    (path / "train-annotations-bbox.csv").write_bytes("\r\n".join(lines).encode(encoding))
    (path / "class-descriptions-boxable.csv").write_bytes(names.encode(encoding))
    return listed(path, list_open_images)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    "change",
    [
        lambda line: line,
        lambda line: line.replace(",", ";"),
        lambda line: line.replace(",", "\t"),
        lambda line: line.replace(".", "@").replace(",", ";").replace("@", ","),  # numbers as in much of Europe
        lambda line: ",".join(f'"{field}"' for field in line.split(",")),
        lambda line: line[:-1] + {"0": "False", "1": "True"}.get(line[-1], line[-1]),
        lambda line: line[:-1] + {"0": "0.0", "1": "1.0"}.get(line[-1], line[-1]),
        lambda line: line.replace("a,x", "a.jpg,x").replace("b,", "b , "),
        lambda line: line.upper() if line == HEADER else line + "\r\n\r\n  ",
    ],
)
def test_open_images_in_other_hands(tmp_path, change, encoding):
    listing = open_images(tmp_path, [change(line) for line in (HEADER, *ROWS)], encoding=encoding)
    assert listing.object_names == ("Cat", "Dog") and listing.skipped == {}
    assert list(listing.objects.category) == [0, 1] and list(listing.objects.flags) == [1, 2]
    np.testing.assert_allclose(listing.objects.boxes, [[0.1, 0.2, 0.5, 0.5]] * 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ("a,x,/m/1,1", r"rows that are too short .*train-annotations-bbox.csv', line 4: ..a., .x."),
        ("a,x,/m/9,1,0,1,0,1,0,0,0", "LabelName has no description .*line 4: LabelName ./m/9"),
        ("a,x,/m/1,1,0,1,0,wide,0,0,0", "line 4: could not convert YMax .wide. to a number"),
        ("a,x,/m/1,1,0,1,0,,0,0,0", "line 4: could not convert YMax .. to a number"),
        ("a,x,/m/1,1,0,1,0,nan,0,0,0", "boxes outside the image or without area"),
        ("a,x,/m/1,1,0,1,0,1,0,0,maybe", "flags that are neither true nor false .*line 4: IsGroupOf .maybe."),
        ('a,"x,/m/1,1,0,1,0,1,0,0,0', "rows that are too short"),
        ("c,x,/m/1,1,0,1,0,1,0,0,0", "boxes of images that are not in the folder"),
    ],
)
def test_rows_that_cannot_be_used_are_counted_and_named(tmp_path, row, what):
    listing = open_images(tmp_path, [HEADER, *ROWS, row])
    assert [n for text, n in listing.skipped.items() if re.search(what, text)] == [1]
    assert list(listing.objects.category[-1:]) == [1]


def test_tables_that_cannot_be_read_are_named(tmp_path):
    for lines, message in {
        (): r"lacks the column\(s\) ImageID, .*has nothing",
        (HEADER.replace("XMax,", ""), *ROWS): r"train-annotations-bbox.csv' lacks the column\(s\) XMax; .*ImageID",
        (*ROWS,): "lacks the column",
        (HEADER, "a,x,/m/1,1,8,48,6,36,0,0,0"): "the boxes are in pixels",
        (HEADER, "a,x,/m/9,1,0,1,0,1,0,0,0"): "line 2: LabelName ./m/9.; none of its 1 rows can be used",
        (HEADER, "a\0"): "line 2: it has zero bytes",
    }.items():
        with pytest.raises(ValueError, match=message):
            open_images(tmp_path, lines)
    with pytest.raises(ValueError, match=r"bbox.csv', after line .*: it is not utf-8 text"):
        open_images(tmp_path, [HEADER, "ä"], encoding="latin-1")
    with pytest.raises(ValueError, match=r"class-descriptions-boxable.csv' names no category"):
        open_images(tmp_path, [HEADER, *ROWS], names="\n")
    assert open_images(tmp_path, [HEADER, *ROWS], names="/m/1;A\n/m/2;A").object_names == ("A (/m/1)", "A (/m/2)")


def test_lists_of_objects_for_sampling(tmp_path):
    condition = ObjectsCondition(False, 2, ("cat", "dog"), 100, 3, False, True, True)
    file = tmp_path / "a.json"
    box = [0, 0, 0.5, "0.5"]
    file.write_text(json.dumps([{"category": "dog", "box": box, "group": "true", "inside": 0}]), "utf-8-sig")
    parsed = condition.parse(condition.read(file, 16, None), 1, (32, 32))
    assert parsed["object_category"][0, 0] == 1 and parsed["object_flags"][0, 0] == 1
    for wrong, message in {
        '{"category": null, "box": [0, 0, 1, 1]}': "category null of object 0",
        '{"category": 1.5, "box": [0, 0, 1, 1]}': "category 1.5 of object 0",
        '{"category": 1, "box": null}': "box null of object 0",
        f'{{"category": 1, "box": [0, 0, 1, 1{"0" * 400}]}}': "box .* of object 0",
        '{"category": 1, "box": [0, 0, 1, 1], "group": "perhaps"}': 'group of object 0 is "perhaps"',
    }.items():
        file.write_text(f"[{wrong}]", encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            condition.parse(condition.read(file, 16, None), 1, (32, 32))
    file.write_text("[", encoding="utf-8")
    with pytest.raises(ValueError, match=r"a.json' is not JSON"):
        condition.read(file, 16, None)
