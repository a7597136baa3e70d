"""Reading images of every kind, and finding and splitting them. The batches are tested in test_pipeline.py."""

import io
import logging

import numpy as np
import pytest
from PIL import Image

from taming_jax.data import opening
from taming_jax.data.config import DataConfig
from taming_jax.data.names import choose_classes
from taming_jax.data.opening import BrokenImage
from taming_jax.data.pipeline import class_names, make_batches, num_examples
from taming_jax.data.transforms import load_image
from taming_jax.data.walk import class_of, find_images, split_off


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def solid(value, size=(40, 32)):
    return Image.new("RGB", size, (value, value, value))


def write(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_formats(kind):
    image = load_image(encoded(Image.new("RGB", (50, 40), (200, 100, 30)), kind, quality=95), 16)
    assert image.shape == (16, 16, 3) and image.dtype == np.uint8
    np.testing.assert_allclose(image.reshape(-1, 3), [(200, 100, 30)] * 256, atol=4)


def mode_samples():
    grey16 = Image.fromarray(np.full((20, 30), 100 * 257, np.uint16))
    palette = solid(100).quantize(4)
    clear = Image.new("RGBA", (20, 20), (10, 20, 30, 0))
    clear_palette = Image.new("P", (20, 20), 0)
    clear_palette.putpalette([1, 2, 3, 9, 9, 9])
    return {
        "greyscale": (encoded(Image.new("L", (20, 30), 100), "JPEG", quality=98), 100),
        "black and white": (encoded(Image.new("1", (20, 30), 1)), 255),
        "cmyk": (encoded(solid(100).convert("CMYK"), "JPEG", quality=98), 100),
        "16 bit": (encoded(grey16), 100),
        "palette": (encoded(palette), 100),
        "opaque": (encoded(solid(100).convert("RGBA")), 100),
        "transparent": (encoded(clear), 255),
        "grey and alpha": (encoded(Image.new("LA", (20, 30), (100, 255))), 100),
        "transparent palette": (encoded(clear_palette, transparency=0), 255),
    }


@pytest.mark.parametrize("name", mode_samples())
def test_modes_become_rgb(name):
    data, value = mode_samples()[name]
    np.testing.assert_allclose(load_image(data, 16), value, atol=3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation):
    upright = np.zeros((32, 32, 3), np.uint8)
    upright[:16, :16] = 255  # white at the top left
    upright[:16, 16:] = 128
    turns = {  # how a camera stores it; from the definition of the tag
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(turns[orientation](upright)))
    np.testing.assert_array_equal(load_image(encoded(stored, exif=exif), 32), upright)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # Pillow says so, and goes on
def test_damaged_exif_does_not_lose_the_picture():
    data = encoded(solid(100), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7f\x99")
    np.testing.assert_allclose(load_image(data, 16), 100, atol=3)


def test_centre_crop_is_antialiased():
    stripes = np.zeros((64, 256, 3), np.uint8)
    stripes[:, 96:160] = 255  # the central square is white ...
    stripes[:, 96:160:2] = 0  # ... with stripes too fine for 16 pixels
    image = load_image(encoded(Image.fromarray(stripes)), 16)
    assert image[:, 1:-1].min() > 120 and image[:, 1:-1].max() < 136


def test_random_crop_and_flip():
    ramp = np.broadcast_to(np.arange(96, dtype=np.uint8)[None, :, None] * 2, (32, 96, 3))
    data = encoded(Image.fromarray(np.ascontiguousarray(ramp)))
    crops = [load_image(data, 32, np.random.default_rng(i)) for i in range(40)]
    left = np.array([crop[0, :, 0].astype(int).min() for crop in crops])
    assert left.min() < 20 and left.max() > 105 and np.ptp([crop.mean() for crop in crops]) > 80
    flipped = [crop[0, 0, 0] > crop[0, -1, 0] for crop in crops]
    assert 8 < sum(flipped) < 32
    np.testing.assert_array_equal(crops[3], load_image(data, 32, np.random.default_rng(3)))
    centre = load_image(data, 32)
    fixed = [load_image(data, 32, np.random.default_rng(i), random_crop=False, flip=False) for i in range(4)]
    assert all(np.array_equal(image, centre) for image in fixed)


def noise(size):
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"this is text",
        encoded(noise((200, 200)), "JPEG")[:5000],
        encoded(noise((200, 200)))[:5000],
        encoded(Image.new("1", (20_000, 10_000))),  # 200 million pixels in 25 kB
    ],
    ids=["empty", "text", "truncated jpeg", "truncated png", "bomb"],
)
def test_broken_images_are_told_apart(data):
    with pytest.raises(BrokenImage):
        load_image(data, 16)


def test_too_many_pixels_are_refused_before_decoding(monkeypatch):
    monkeypatch.setattr(opening, "MAX_PIXELS", 1000)
    with pytest.raises(BrokenImage, match="40 x 32 pixels, more than the 1000"):
        load_image(encoded(solid(1)), 16)


def test_find_images_searches_subfolders_and_ignores_the_rest(tmp_path):
    for name in ("b.JPG", "a/x.png", "a/deep/y.webp", "a/.hidden.png", ".cache/z.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no image", encoding="utf-8")
    assert find_images(str(tmp_path))[:2] == (tmp_path, ["a/deep/y.webp", "a/x.png", "b.JPG"])


def test_list_file_is_relative_to_itself_or_to_root(tmp_path):
    write(tmp_path / "pictures/one.png", solid(1))
    (tmp_path / "near.txt").write_text("pictures/one.png\n\n", encoding="utf-8")
    assert find_images(str(tmp_path / "near.txt"))[:2] == (tmp_path, ["pictures/one.png"])
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/far.txt").write_text("one.png\n", encoding="utf-8")
    root = tmp_path / "pictures"
    assert find_images(str(tmp_path / "lists/far.txt"), str(root))[:2] == (root, ["one.png"])


def test_nothing_to_find_says_what_was_expected(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n", encoding="utf-8")
    (tmp_path / "wrong.txt").write_text("gone.png\nlost.png\n", encoding="utf-8")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\xd8")
    (tmp_path / "data.csv").write_text("a,b", encoding="utf-8")
    for name, message in {
        "missing": "no such folder or file.*missing.*list file",
        "empty": "no images in the folder",
        "empty.txt": "is empty",
        "wrong.txt": "2 of the 2 entries.*gone.png.*set `root`",
        "binary.txt": "not UTF-8",
        "data.csv": "neither a folder nor a list file",
    }.items():
        with pytest.raises(ValueError, match=message):
            make_batches(DataConfig(source="folder", path=str(tmp_path / name), size=16), "train")


def test_split_depends_on_names_alone():
    names = [f"{i:03}.png" for i in range(200)]
    train, val = split_off(names, 0.1)
    assert len(val) == 20 and sorted(train + val) == names and train == sorted(train)
    assert {*split_off(names[::-1], 0.1)[1]} == set(val)
    more = split_off([*names, *(f"new{i}.png" for i in range(10))], 0.1)[1]
    assert len(set(val) - set(more)) <= 3
    assert split_off(names, 0) == (names, [])
    assert [len(part) for part in split_off(names[:2], 0.01)] == [1, 1]
    assert [len(part) for part in split_off(names[:1], 0.5)] == [1, 0]


def test_classes_come_from_subfolders(tmp_path):
    for name, value in {"cat": 50, "dog": 150}.items():
        for i in range(6):
            write(tmp_path / f"{name}/more/{i}.png", solid(value))
    cfg = DataConfig(source="folder", path=str(tmp_path), size=16, batch_size=4, val_share=0.3, workers=2)
    assert class_names(cfg) == ("cat", "dog")
    assert num_examples(cfg, "train") == 8 and num_examples(cfg, "val") == 4
    for split in ("train", "val"):
        batch = next(make_batches(cfg, split))
        assert batch["class_label"].dtype == np.int32
        shown = np.round((batch["image"][:, 0, 0, 0] + 1) * 127.5)
        np.testing.assert_array_equal(shown, np.where(batch["class_label"] == 0, 50, 150))
    write(tmp_path / "stray.png", solid(0))
    assert class_names(DataConfig(source="folder", path=str(tmp_path), size=17)) is None
    assert class_of("a.png") is None and class_of("cat/b/c.png") == "cat" and class_of("/x/a.png") is None


def test_listed_classes_may_have_spaces_in_their_names(tmp_path):
    names = ("cat", "golden", "golden retriever", "n01")
    (tmp_path / "some.txt").write_text(" golden retriever \nn01 a fish\n", encoding="utf-8")
    assert choose_classes(str(tmp_path / "some.txt"), names) == ("golden retriever", "n01")
    (tmp_path / "wrong.txt").write_text("cat\nsilver retriever\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"classes that are not there: \['silver retriever'\]"):
        choose_classes(str(tmp_path / "wrong.txt"), names)


def test_validation_folder_of_its_own(tmp_path):
    for i in range(3):
        write(tmp_path / f"train/cat/{i}.png", solid(50))
    write(tmp_path / "val/cat/9.png", solid(90))
    write(tmp_path / "other/cow/9.png", solid(90))
    settings = {"source": "folder", "path": str(tmp_path / "train"), "size": 16, "batch_size": 1}
    cfg = DataConfig(**settings, val_path=str(tmp_path / "val"))
    assert num_examples(cfg, "train") == 3 and num_examples(cfg, "val") == 1
    with pytest.raises(ValueError, match=r"cow.*known: \['cat'\]"):
        num_examples(DataConfig(**settings, val_path=str(tmp_path / "other"), annotations=("class_label",)), "val")
    with pytest.raises(ValueError, match=r"3 image.*val_share=0.*val_path"):
        num_examples(DataConfig(**settings, val_share=0), "val")


@pytest.fixture
def folder_with_broken(tmp_path):
    for i in range(8):
        write(tmp_path / f"{i}.png", solid(20 * i + 20))
    for i in (2, 3, 5):
        (tmp_path / f"{i}.png").write_bytes(encoded(noise((100, 100)))[:2000])
    return DataConfig(source="folder", path=str(tmp_path), size=16, batch_size=2, val_share=0, workers=2)


def test_training_goes_on_over_broken_images_and_names_each_once(folder_with_broken, caplog):
    with caplog.at_level(logging.WARNING):
        batches = make_batches(folder_with_broken, "train")
        shown = np.concatenate([next(batches)["image"][:, 0, 0, 0] for _ in range(12)])  # three epochs
        later = make_batches(folder_with_broken, "train", start_step=5)
        again = np.concatenate([next(later)["image"][:, 0, 0, 0] for _ in range(7)])
    values = set(np.round((shown + 1) * 127.5).astype(int).tolist())
    assert values == {20, 40, 100, 140, 160}
    np.testing.assert_array_equal(shown[10:], again)
    named = [record.getMessage() for record in caplog.records if "skipped image" in record.getMessage()]
    assert sorted(message.split(".png")[0][-1] for message in named) == ["2", "3", "5"]
    assert "(3 skipped so far)" in named[-1]


def test_validation_masks_broken_images(tmp_path, folder_with_broken):
    settings = {"source": "folder", "path": str(tmp_path), "val_path": str(tmp_path), "size": 16, "batch_size": 3}
    batches = list(make_batches(DataConfig(**settings), "val"))
    assert len(batches) == 3 and all(batch["image"].shape == (3, 16, 16, 3) for batch in batches)
    valid = np.concatenate([batch["valid"] for batch in batches])
    np.testing.assert_array_equal(valid, [1, 1, 0, 0, 1, 0, 1, 1, 0])
    shown = np.concatenate([batch["image"][:, 0, 0, 0] for batch in batches])
    np.testing.assert_array_equal(np.round((shown[valid] + 1) * 127.5), [20, 40, 100, 140, 160])


def test_only_broken_images_end_with_an_error(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(b"broken")
    batches = make_batches(DataConfig(source="folder", path=str(tmp_path), size=16, batch_size=1, val_share=0), "train")
    with pytest.raises(ValueError, match="none of 3 images"):
        next(batches)
