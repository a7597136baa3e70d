"""Maps made by another model: written where the sources find them, and continued."""

import sys
import types

import numpy as np
import pytest
from PIL import Image

from taming_jax.data.config import DataConfig
from taming_jax.data.map_files import read_label_map
from taming_jax.data.pipeline import make_batches
from taming_jax.data.prepare import load_model, main, prepare


@pytest.fixture
def images(tmp_path):
    """Three images, dark on the left and light on the right, one of them stored turned by a camera."""
    for i, name in enumerate(("a.png", "sub/b.jpg", "sub/c.png")):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = 6 if i == 2 else 1
        ramp = np.broadcast_to((np.arange(48) * 5)[None, :, None], (32, 48, 3)).astype(np.uint8)
        image = Image.fromarray(np.rot90(ramp) if i == 2 else ramp)
        image.save(path, exif=exif, quality=95)
    return tmp_path / "images"


def brightness(image):
    """Stands in for a depth network; its map is half as large."""
    return image[::2, ::2, 0].astype(np.float32) / 10


def test_depth_fits_its_image(images, tmp_path):
    out = tmp_path / "depth"
    assert prepare("depth", str(images), str(out), brightness) == {"written": 3, "there": 0, "skipped": 0}
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.*")) == ["a.png", "sub/b.png", "sub/c.png"]
    cfg = DataConfig(
        "folder", 16, 3, ("depth",), path=str(images), val_path=str(images), depths=str(out), random_crop=False
    )
    batch = next(make_batches(cfg, "val"))
    assert batch["valid"].all()
    grey = (batch["image"][..., 0] + 1) * 127.5
    assert (np.ptp(grey, axis=(1, 2)) > 100).all()
    np.testing.assert_allclose((batch["depth"] + 1) * 235 / 2, grey, atol=12)


def test_a_stopped_run_goes_on(images, tmp_path, monkeypatch):
    seen = []

    def failing(image):
        seen.append(image.shape)
        if len(seen) == 2:
            raise RuntimeError("out of memory")
        return image[..., 0] // 100

    with pytest.raises(RuntimeError):
        prepare("segmentation", str(images), str(tmp_path / "maps"), failing)
    counts = prepare("segmentation", str(images), str(tmp_path / "maps"), failing)
    assert counts == {"written": 2, "there": 1, "skipped": 0}
    assert len(seen) == 4
    np.testing.assert_array_equal(
        read_label_map(str(tmp_path / "maps/a.png"), 3), np.broadcast_to(np.arange(48) * 5 // 100, (32, 48))
    )


def test_what_the_model_may_not_give(images, tmp_path):
    (images / "broken.png").write_bytes(b"no image")
    counts = prepare("depth", str(images), str(tmp_path / "a"), lambda image: image[..., 0] * np.nan)
    assert counts == {"written": 0, "there": 0, "skipped": 4} and not list((tmp_path / "a").rglob("*.png"))
    with pytest.raises(ValueError, match=r"gave uint8 \(32, 48, 3\) for .*a.png"):
        prepare("depth", str(images), str(tmp_path / "b"), lambda image: image)
    with pytest.raises(ValueError, match=r"expected a map .* of whole numbers"):
        prepare("segmentation", str(images), str(tmp_path / "b"), brightness)
    with pytest.raises(ValueError, match=r"labels 0..300 .*8 bits hold 0..255"):
        prepare("segmentation", str(images), str(tmp_path / "b"), lambda image: np.array([[0, 300]]))
    with pytest.raises(ValueError, match="unknown task 'pose'; known: depth, segmentation"):
        prepare("pose", str(images), str(tmp_path / "b"), brightness)
    Image.new("RGB", (20, 20)).save(images / "a.jpg")
    with pytest.raises(ValueError, match=r"1 images .* differ in their suffix only"):
        prepare("depth", str(images), str(tmp_path / "b"), brightness)


def test_the_command(images, tmp_path, monkeypatch, capsys):
    module = types.ModuleType("my_models")
    module.brightness = brightness
    monkeypatch.setitem(sys.modules, "my_models", module)
    arguments = ["--task", "depth", "--images", str(images), "--out", str(tmp_path / "d")]
    main([*arguments, "--model", "python:my_models:brightness"])
    assert capsys.readouterr().out == "3 written, 0 there, 0 skipped\n"
    with pytest.raises(SystemExit, match=r"error: the model 'python:my_models:darkness' cannot be loaded"):
        main([*arguments, "--model", "python:my_models:darkness"])
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit, match=r"'hub:owner/name:entry' cannot be loaded.*pip install torch"):
        main([*arguments, "--model", "hub:owner/name:entry"])


def test_hugging_face_labels_keep_their_numbers(monkeypatch):
    """The pipeline gives a mask a label by name; the numbers are the model's."""

    class Pipeline:
        model = types.SimpleNamespace(
            config=types.SimpleNamespace(label2id={"sky": 2, "sea": 7}, id2label={2: "sky", 7: "sea"})
        )

        def __call__(self, image, subtask):
            assert subtask == "semantic" and image.size == (4, 2)
            upper = np.array([[255] * 4, [0] * 4], np.uint8)
            masks = {"sky": upper, "sea": 255 - upper}
            return [{"label": name, "mask": Image.fromarray(mask)} for name, mask in masks.items()]

    module = types.ModuleType("transformers")
    module.pipeline = lambda task, model: Pipeline() if (task, model) == ("image-segmentation", "some/model") else None
    monkeypatch.setitem(sys.modules, "transformers", module)
    labels = load_model("segmentation", "some/model")(np.zeros((2, 4, 3), np.uint8))
    np.testing.assert_array_equal(labels, [[2] * 4, [7] * 4])
    Pipeline.model.config.id2label = {2: "sky", 7: "sea", 8: "sea"}
    with pytest.raises(ValueError, match="several labels of one name"):
        load_model("segmentation", "some/model")
