"""The size at which images are measured: files that are cut, samples that are resized, and one set read both ways."""

import json
import sys

import numpy as np
import pytest
from PIL import Image
from test_crops import adm_centre
from test_pixels import deep_png
from test_programs import experiment, second_stage

import taming_jax
import train_transformer
import train_vqgan
from taming_jax import evaluate
from taming_jax.data.config import DataConfig
from taming_jax.metrics.resizing import resize_drawn
from taming_jax.pictures import to_pixels
from taming_jax.quality import samples
from taming_jax.quality.distance import Measuring, Opened, distance, open_set
from taming_jax.quality.features import open_features
from taming_jax.quality.images import Cut, of_data, of_files, of_npz
from taming_jax.quality.measures import compare
from taming_jax.quality.reconstruction import data_of
from taming_jax.sharding import make_mesh

KINDS = ("RGB", "RGBA", "L", "LA", "RGB16", "RGBA16", "L16", "LA16")


def write(path, random, kind, size, turn=1):
    """A picture of noise: grey or in colours, opaque or not, of 8 bits, turned by EXIF, or of 16."""
    shape = (*size[::-1], {"RGB": 3, "RGBA": 4, "L": 1, "LA": 2}[kind.removesuffix("16")])
    if kind.endswith("16"):
        path.write_bytes(deep_png(random.integers(0, 65536, shape).astype(np.uint16)))
        return
    pixels, exif = random.integers(0, 256, shape).astype(np.uint8), Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(pixels[..., 0] if shape[2] == 1 else pixels).save(path, exif=exif)


@pytest.fixture
def mixed(tmp_path):
    """A folder of pictures of every kind, some turned by EXIF, of many sizes, some of exactly 32."""
    random, folder = np.random.default_rng(0), tmp_path / "mixed"
    folder.mkdir()
    sizes = [(32, 32), (32, 47), (60, 32), (128, 130), *random.integers(24, 90, (2, 2)).tolist()]
    for i, size in enumerate(sizes):
        for kind in KINDS:
            write(folder / f"{kind}{i}.png", random, kind, size, int(random.integers(1, 9)))
        Image.fromarray(random.integers(0, 256, (90 + i, 200, 3), np.uint8)).save(folder / f"{i}.jpg", quality=90)
    return folder


def measuring(cut=None):
    return Measuring(open_features("demo", make_mesh()), 16, cut=cut or Cut())


@pytest.mark.parametrize("resampling", ["", "adm"])
def test_a_folder_is_at_no_distance_from_itself_read_as_data(mixed, resampling):
    how = measuring(Cut(32, resampling))
    data = DataConfig(
        "folder", path=str(mixed), val_path=str(mixed), size=32, batch_size=16, resampling=resampling or "bicubic"
    )
    by_files = open_set(str(mixed), how)
    for split in ("train", "val"):
        by_data = Opened(of_data(data, split))
        pairs = zip(by_files.images.read(0, 54), by_data.images.read(0, 54), strict=True)
        assert sum(int(np.array_equal(a, b)) for a, b in pairs) == 54
    found = compare(by_data.measure(how), by_files.measure(how), only={"fid"}).figures
    assert found["fid"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_the_size_are_measured_as_they_are(tmp_path, kind):
    random = np.random.default_rng(1)
    for i in range(4):
        write(tmp_path / f"{i}.png", random, kind, (48, 48), turn=2 * i + 1)
    data = DataConfig("folder", path=str(tmp_path), val_path=str(tmp_path), size=48, batch_size=4)
    as_data, as_files, cut = (
        list(images.read(0, 4))
        for images in (of_data(data, "val"), of_files(str(tmp_path)), of_files(str(tmp_path), Cut(48, "adm")))
    )
    np.testing.assert_array_equal(as_data, as_files)
    np.testing.assert_array_equal(cut, as_files)


def test_a_distance_is_of_squares_cut_from_the_middle(mixed, tmp_path):
    random, out = np.random.default_rng(2), tmp_path / "r.json"
    arrays = random.integers(0, 256, (6, 40, 70, 3), np.uint8)
    np.savez(tmp_path / "a.npz", arr_0=arrays)
    found = list(of_npz(str(tmp_path / "a.npz"), Cut(32, "adm")).read(0, 6))
    np.testing.assert_array_equal(found, [adm_centre(Image.fromarray(x), 32) for x in arrays])
    compared = distance(str(mixed), str(mixed), str(out), measuring(Cut(32, "adm")))
    assert compared.figures["fid"] == pytest.approx(0, abs=1e-6)
    about = json.loads(out.read_text(encoding="utf-8"))["protocol"]["features"]
    assert about["cut"] == {"size": 32, "resampling": "adm"}
    distance(str(mixed), str(mixed), str(out), measuring())
    assert "cut" not in json.loads(out.read_text(encoding="utf-8"))["protocol"]["features"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((5, ""), r"--size=5, but it must be 0 or from 16 to 4096\."),
        ((-1, ""), r"--size=-1, but"),
        ((0, "adm"), r"--resampling=adm needs --size"),
        ((32, "area"), r"--resampling='area' is unknown; known: bicubic, adm"),
    ],
)
def test_other_sizes_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Cut(*values)


def test_a_reference_is_the_training_data_at_that_size():
    data = DataConfig("folder", path="x", size=384, resize=432, val_resize=0, zoom=())
    found = Cut(256, "adm").data(data)
    assert (found.size, found.resize, found.resampling) == (256, 0, "adm")
    found = Cut(256).data(DataConfig("folder", path="x", size=384, resize=432, sizes=(384, 400)))
    assert (found.size, found.resize, found.resampling, found.sizes) == (256, 288, "bicubic", ())
    assert Cut(64).like((96, 160)).size == (64, 107) and Cut().like((96, 160)) == Cut()
    wide = Cut(64).like((96, 192)).data(DataConfig("folder", path="x", size=(96, 192)))
    assert wide.size == (64, 128) and Cut().data(data) is data


def test_reconstructions_read_a_folder_as_adm_or_as_the_training():
    saved = {"source": "folder", "path": "x", "size": 64, "resampling": "adm"}
    assert data_of(saved, "w", "x", 0, 8).resampling == "adm"
    assert data_of(saved, "w", "x", 0, 8, "bicubic").resampling == "bicubic"
    assert data_of({}, "w", "x", 32, 8, "adm").resampling == "adm"
    with pytest.raises(ValueError, match="--resampling=adm is for --images"):
        data_of(saved, "w", "", 0, 8, "adm")


@pytest.mark.parametrize("sides", [(24, 24), (16, 40), (50, 70), (36, 36), (7, 9)])
def test_drawn_images_are_resized_as_pytorch_does(sides):
    torch = pytest.importorskip("torch")
    images = np.random.default_rng(3).normal(size=(3, 36, 36, 3)).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.tensor(images).permute(0, 3, 1, 2), size=sides, mode="bicubic")
    np.testing.assert_allclose(resize_drawn(images, sides), expected.permute(0, 2, 3, 1).numpy(), atol=2e-5)


@pytest.fixture(scope="module")
def class_dir(tmp_path_factory):
    first, second = (str(tmp_path_factory.mktemp(name)) for name in ("vqgan", "class"))
    assert train_vqgan.train_and_evaluate(
        experiment("demo_vqgan", loss={"disc_weight": 0.0}, train={"steps": 1}), first
    )
    assert train_transformer.train_and_evaluate(second_stage(first, train={"steps": 1}), second)
    return second


def test_samples_are_resized_before_they_are_measured(class_dir, tmp_path, monkeypatch, capsys):
    def run(*more, out="r.json"):
        options = ["--n", 8, "--draw_batch", 8, "--reference", "val", "--batch_size", 8, "--seed", 2]
        arguments = ["evaluate", "samples", class_dir, *options, "--out", tmp_path / out, *more]
        monkeypatch.setattr(sys, "argv", list(map(str, arguments)))
        evaluate.main()

    npz = tmp_path / "for_adm.npz"
    run("--size", 24, "--export-npz", npz)
    images = np.stack(list(of_npz(str(npz)).read(0, 8)))
    drawn = np.asarray(taming_jax.load(class_dir).sample(8, class_label=np.arange(8) % 10, seed=2))
    assert drawn.shape[1] == 16
    np.testing.assert_array_equal(images, to_pixels(resize_drawn(drawn, (24, 24))))
    about = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["protocol"]
    assert about["drawn"]["size"] == [16, 16] and about["drawn"]["resized"]["size"] == [24, 24]
    assert "bicubic of a = -0.75" in about["drawn"]["resized"]["by"] and about["features"]["cut"]["size"] == 24
    for more in ((), ("--size", 32)):  # the images that are kept are of another size
        with pytest.raises(SystemExit):
            run(*more)
        assert "drawn with other settings (resized: there" in capsys.readouterr().err
    monkeypatch.setattr(samples.Model, "_draw", lambda *_: pytest.fail("they were drawn already"))
    run("--size", 24)
    with pytest.raises(SystemExit):
        run("--resampling", "adm", out="other.json")
    assert "--resampling=adm needs --size" in capsys.readouterr().err
