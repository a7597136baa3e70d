"""The layouts in which data sets come: which files are found, their classes, labels and splits."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from taming_jax.data.config import SOURCES, DataConfig
from taming_jax.data.files import Files
from taming_jax.data.pipeline import (
    OPENERS,
    class_names,
    label_names,
    make_batches,
    num_examples,
    num_labels,
    unlabelled,
)
from taming_jax.data.sources.imagenet import RIN
from taming_jax.settings import to_dict


def write(path, value, size=(20, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("L", size, value)
    (image if path.suffix == ".png" else image.convert("RGB")).save(path)


def data(source, path, **settings):
    return DataConfig(source, **{"path": str(path), "size": 16, "batch_size": 4, "workers": 2, **settings})


def shown(cfg, split, key="class_label"):
    """{grey value of an image: its `key`} of one pass (for training, of enough batches for one)."""
    found = {}
    steps = -(-num_examples(cfg, split) // cfg.batch_size)
    for _, batch in zip(range(steps), make_batches(cfg, split)):
        for i in np.flatnonzero(batch.get("valid", np.ones(cfg.batch_size, bool))):
            found[round((batch["image"][i, 8, 8, 0] + 1) * 127.5)] = batch[key][i]
    return found


@pytest.fixture
def imagenet(tmp_path):
    for i, name in enumerate(("n01", "n02", "n03")):
        for j in range(2):
            write(tmp_path / f"train/{name}/{name}_{j}.JPEG", 60 * i + 20 * j)
    return tmp_path


def test_imagenet_with_validation_folders(imagenet):
    write(imagenet / "val/n02/x.JPEG", 200)
    write(imagenet / "val/n03/y.JPEG", 220)
    cfg = data("imagenet", imagenet)
    assert class_names(cfg) == ("n01", "n02", "n03")
    assert shown(cfg, "train") == {0: 0, 20: 0, 60: 1, 80: 1, 120: 2, 140: 2} and shown(cfg, "val") == {200: 1, 220: 2}
    (imagenet / "some.txt").write_text("n03 tench, Tinca tinca\nn01\n", encoding="utf-8")
    some = data("imagenet", imagenet, classes=str(imagenet / "some.txt"))
    assert class_names(some) == ("n01", "n03")
    assert shown(some, "train") == {0: 0, 20: 0, 120: 1, 140: 1} and shown(some, "val") == {220: 1}
    flat = data("imagenet", imagenet / "train", val_share=0.3)
    assert num_examples(flat, "train") == 4 and num_examples(flat, "val") == 2
    for classes in ("rin", "0:2"):
        with pytest.raises(ValueError, match=r"numbers of ImageNet's 1000 classes, but .* has 3 class folders"):
            num_examples(data("imagenet", imagenet, classes=classes), "train")
    (imagenet / "other.txt").write_text("n09\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"classes that are not there: \['n09'\]"):
        num_examples(data("imagenet", imagenet, classes=str(imagenet / "other.txt")), "val")
    write(imagenet / "val/n04/z.JPEG", 1)
    with pytest.raises(ValueError, match=r"does not have: \['n04'\]"):
        num_examples(data("imagenet", imagenet, val_share=0.2, annotations=("class_label",)), "val")
    assert num_examples(data("imagenet", imagenet, seed=1, val_share=0.1), "val") == 3  # without one no class is asked


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("LOC_val_solution.csv", "ImageId,PredictionString\nv1,n02 1 2 3 4\nv2,n01 5 6 7 8 n01 1 1 1 1\n"),
        ("validation_synset.txt", "v1.JPEG n02\nv2.JPEG n01\n"),
    ],
)
def test_imagenet_with_flat_validation(imagenet, name, text):
    write(imagenet / "val/v1.JPEG", 200)
    write(imagenet / "val/v2.JPEG", 220)
    with pytest.raises(ValueError, match=r"no list tells their classes; expected one of LOC_val_solution.csv"):
        num_examples(data("imagenet", imagenet, val_share=0.1, annotations=("class_label",)), "val")
    assert shown(data("imagenet", imagenet, val_share=0.4), "val") == {200: 0, 220: 0}  # no class is asked for
    (imagenet / name).write_text(text, encoding="utf-8")
    assert shown(data("imagenet", imagenet), "val") == {200: 1, 220: 0}
    assert shown(data("imagenet", imagenet, val_path=str(imagenet / name)), "val") == {200: 1, 220: 0}
    (imagenet / name).write_text("v1 65\nv2 1\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"class number 65, with 3 class folders"):
        num_examples(data("imagenet", imagenet, seed=2, val_share=0.2), "val")
    (imagenet / name).write_text("v3 n01\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"1 of the 1 images .* are not in .*v3.JPEG"):
        num_examples(data("imagenet", imagenet, val_share=0.3), "val")


def test_the_animals_of_the_depth_task(tmp_path):
    numbers = [i for part in RIN.split(",") for i in range(*map(int, part.split(":")))]
    assert len(numbers) == len(set(numbers)) == 194 and {30, 31, 151, 267} < set(numbers) and 32 not in numbers
    for i in range(1000):
        (tmp_path / f"train/n{i:04}").mkdir(parents=True)
    for i in (29, 30, 267, 268, 396):
        write(tmp_path / f"train/n{i:04}/a.JPEG", i % 250)
        write(tmp_path / f"depth/train/n{i:04}/a.png", i % 250)
    write(tmp_path / "val/a.JPEG", 7)
    (tmp_path / "val.txt").write_text("a.JPEG 151\n", encoding="utf-8")
    cfg = data("imagenet", tmp_path, classes="rin", depths=str(tmp_path / "depth"), annotations=("depth",))
    assert len(class_names(cfg)) == 194 and class_names(cfg)[0] == "n0030"
    assert shown(cfg, "train") == {30: 0, 17: numbers_before(numbers, 267), 146: 193}
    assert set(shown(data("imagenet", tmp_path, classes="rin"), "val").values()) == {numbers_before(numbers, 151)}


def numbers_before(numbers, last):
    return sum(number < last for number in numbers)


def test_faces(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(6):
        array = np.full((1, 3, 20, 20), 10 * i, np.uint8)
        (tmp_path / "celebahq").mkdir(exist_ok=True)
        np.save(tmp_path / f"celebahq/imgHQ0000{i}.npy", array if i % 2 else array[0])
    for number in (0, 1, 59_999, 60_000):
        write(tmp_path / f"ffhq/{number // 1000 * 1000:05}/{number:05}.jpg", 100 + number % 100)
    both = data("faceshq", tmp_path, val_share=0.3, annotations=("class_label", "crop"), resize=24)
    assert class_names(both) == ("CelebA-HQ", "FFHQ")
    train, val = shown(both, "train"), shown(both, "val")
    assert {v: c for v, c in train.items() if v >= 100} == {100: 1, 101: 1, 199: 1} and val[100] == 1
    assert len(train) == 7 and len(val) == 3 and not set(train.values()) - {0, 1}
    crops = next(make_batches(both, "train"))["crop"]
    assert crops[:, 2:].min() == 24 and crops[:, 0].max() <= 8 and crops.min() >= 0 and len(set(crops[:, 0])) > 1
    assert num_examples(data("ffhq", tmp_path), "train") == 3 and class_names(data("ffhq", tmp_path / "ffhq")) is None
    assert num_examples(data("celebahq", tmp_path / "celebahq", val_share=0.3), "val") == 2
    (tmp_path / "celebahqtrain.txt").write_text("imgHQ00001.npy\nimgHQ00002.npy\n", encoding="utf-8")
    (tmp_path / "celebahqvalidation.txt").write_text("imgHQ00005.npy\n", encoding="utf-8")
    write(tmp_path / "root/a.png", 10)
    write(tmp_path / "root/b.png", 20)
    for part, image in (("train", "b.png"), ("validation", "a.png")):
        (tmp_path / f"root/ffhq{part}.txt").write_text(image, encoding="utf-8")
    assert set(shown(data("ffhq", tmp_path / "root"), "train")) == {20}  # no subfolder
    listed = data("celebahq", tmp_path, val_share=0.4)
    assert set(shown(listed, "train")) == {10, 20} and set(shown(listed, "val")) == {50}
    np.save(tmp_path / "celebahq/imgHQ00005.npy", rng.random((3, 20, 20)))
    assert not next(make_batches(listed, "val"))["valid"].any()
    with pytest.raises(ValueError, match="no folder 'celebahq'"):
        num_examples(data("faceshq", tmp_path / "ffhq"), "train")


@pytest.mark.parametrize("layout", ["original", "flat"])
def test_ade20k(tmp_path, layout):
    for i in range(6):
        part = ("training" if i < 4 else "validation") if layout == "original" else ""
        write(tmp_path / "images" / part / f"{i}.jpg", 20 * i)
        write(tmp_path / ("annotations" if layout == "original" else "segmentations") / part / f"{i}.png", 20 * i + i)
    (tmp_path / "objectInfo150.txt").write_text(
        "Idx\tRatio\tTrain\tVal\tStuff\tName\n" + "".join(f"{i}\t0.1\t1\t1\t1\tname {i}\n" for i in range(1, 151)),
        encoding="utf-8",
    )
    cfg = data("ade20k", tmp_path, annotations=("segmentation",), val_share=0.34)
    assert num_labels(cfg) == 151 and label_names(cfg)[:2] == ("unlabelled", "name 1")
    assert num_examples(cfg, "train") == 4 and num_examples(cfg, "val") == 2
    for split in ("train", "val"):
        for value, labels in shown(cfg, split, "segmentation").items():
            assert set(np.unique(labels)) == {value + value // 20}
    images_only = data("ade20k", tmp_path, val_share=0.34)
    assert num_examples(images_only, "train") == 4


@pytest.mark.parametrize("maps", ["stuffthingmaps", "../cocostuffthings", ""])
def test_coco_stuff(tmp_path, maps):
    base = tmp_path / "coco"
    for split, values in {"train2017": (0, 40), "val2017": (180, 254)}.items():
        for value in values:
            write(base / split / f"{value:012}.jpg", value)
            write(base / (maps or "elsewhere") / split / f"{value:012}.png", {254: 255}.get(value, value))
    cfg = data("coco_stuff", base, annotations=("segmentation",), maps="" if maps else str(base / "elsewhere"))
    assert num_labels(cfg) == 183 and label_names(cfg) is None
    settings = to_dict(cfg)
    assert [unlabelled({**settings, "unlabelled": value}) for value in (-1, 7)] == [255, 7]
    assert unlabelled({**settings, "source": "ade20k"}) == -1
    with pytest.raises(ValueError, match="no codes are there"):
        unlabelled({**settings, "source": "codes", "path": str(tmp_path)})
    found = {k: v for split in ("train", "val") for k, v in shown(cfg, split, "segmentation").items()}
    assert {value: labels.max() for value, labels in found.items()} == {0: 1, 40: 41, 180: 181, 254: 0}
    write(base / (maps or "elsewhere") / "val2017/000000000180.png", 182)
    with pytest.raises(ValueError, match=r"000000000180.png' has the value 182, but there are 183 labels and 255"):
        list(make_batches(cfg, "val"))
    (base / "labels.txt").write_text("0: unlabelled\n1: person\n", encoding="utf-8")
    with pytest.raises(ValueError, match="names for 2 labels, but there are 183"):
        num_labels(data("coco_stuff", base, n_labels=0, maps=cfg.maps, val_share=0.1))
    with pytest.raises(ValueError, match=r"no label maps beside the images.*set `maps`"):
        write(tmp_path / "far/bare/train2017/a.jpg", 3)
        num_examples(data("coco_stuff", tmp_path / "far/bare", annotations=("segmentation",)), "train")


def test_every_source_refuses_a_folder_that_is_not_there(tmp_path):
    for source in SOURCES:
        if source not in ("demo", "landscapes", "tfds"):
            with pytest.raises(ValueError, match="nowhere"):
                num_examples(data(source, tmp_path / "nowhere"), "train")


def blocks(text, language="python"):
    return [part.split("```")[0] for part in text.split(f"```{language}\n")[1:]]


def test_the_documented_settings_and_source_work(tmp_path, monkeypatch):
    text = (Path(__file__).parent.parent / "docs/data.md").read_text(encoding="utf-8")
    (settings,) = [block for block in blocks(text) if block.startswith("DataConfig(")]
    made = []
    exec(settings, {"DataConfig": lambda *args, **kwargs: made.append(DataConfig(*args, **kwargs))})
    assert [cfg.source for cfg in made] == [
        "imagenet", "faceshq", "ade20k", "coco_stuff", "folder", "coco_objects", "open_images"
    ]  # fmt: skip
    (source,) = [block for block in blocks(text) if "def list_streets" in block]
    names: dict = {}
    exec(source, names)
    monkeypatch.setitem(SOURCES, "streets", "the data set")
    monkeypatch.setitem(OPENERS, "streets", partial(Files, find=names["list_streets"]))
    for name, value in {"rain_1": 10, "sun_1": 20, "snow_7": 30}.items():
        write(tmp_path / f"train/{name}.jpg", value)
        write(tmp_path / f"train/{name}.png", value // 10)
    cfg = data("streets", tmp_path, annotations=("segmentation", "class_label"))
    assert shown(cfg, "train") == {10: 0, 20: 2, 30: 1} and num_labels(cfg) == 19
    for value, labels in shown(cfg, "train", "segmentation").items():
        assert set(np.unique(labels)) == {value // 10}


def test_the_documented_table_names_every_source():
    text = (Path(__file__).parent.parent / "docs/data.md").read_text(encoding="utf-8")
    table = text.split("|---|---|---|---|\n")[1].split("\n\n")[0]
    assert [line.split("`")[1] for line in table.splitlines()] == list(SOURCES)


def test_imagenet_is_found_in_the_folders_that_kaggle_has(tmp_path):
    for i, name in enumerate(("n01", "n02")):
        write(tmp_path / f"ILSVRC/Data/CLS-LOC/train/{name}/{name}_0.JPEG", 60 * i)
        write(tmp_path / f"ILSVRC/Data/CLS-LOC/val/v{i}.JPEG", 120 + 60 * i)
    (tmp_path / "ILSVRC/Annotations").mkdir()
    (tmp_path / "LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\nv0,n02 1 2 3 4\nv1,n01 5 6 7 8\n", encoding="utf-8"
    )
    cfg = data("imagenet", tmp_path)
    assert shown(cfg, "train") == {0: 0, 60: 1} and shown(cfg, "val") == {120: 1, 180: 0}


@pytest.mark.parametrize("folder", ["stuffthingmaps", "stuffthingmaps_trainval2014"])
def test_coco_stuff_of_2014(tmp_path, folder):
    for part, value in (("train", 40), ("val", 90)):
        write(tmp_path / f"images/{part}2014/COCO_{part}2014_000000000009.jpg", value)
        write(tmp_path / f"{folder}/{part}2014/COCO_{part}2014_000000000009.png", value)
    cfg = data("coco_stuff", tmp_path, annotations=("segmentation",), flip=False)
    assert [int(shown(cfg, part, "segmentation")[grey].max()) for part, grey in (("train", 40), ("val", 90))] == [
        41,
        91,
    ]
