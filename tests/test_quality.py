"""`evaluate distance` and its kin, with a small network of features in place of the large ones."""

import dataclasses
import json
import sys

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from taming_jax import evaluate
from taming_jax.data.config import DataConfig
from taming_jax.data.demo import DemoLandscapes, DemoScenes
from taming_jax.files import read_npz
from taming_jax.metrics import distances
from taming_jax.metrics.predictions import inception_score
from taming_jax.metrics.resizing import resize_for_features
from taming_jax.quality import features as feature_networks
from taming_jax.quality import images, statistics
from taming_jax.quality.distance import Measuring, distance, open_set
from taming_jax.quality.features import Kind, open_features
from taming_jax.quality.images import of_data, of_files
from taming_jax.quality.statistics import Chosen, gather, read_statistics
from taming_jax.sharding import MeshConfig, make_mesh

WEIGHT = np.random.RandomState(0).randn(12, 6).astype(np.float32)


class Tiny(nn.Module):
    """Six features, and four spatial ones, of pictures of two by two pixels."""

    @nn.compact
    def __call__(self, x):
        weight = self.param("weight", nn.initializers.ones, WEIGHT.shape)
        flat = x.reshape(len(x), -1)
        return {"6": jnp.tanh(flat @ weight), "3": flat[:, :3], "spatial": flat[:, :4], "logits": flat @ weight * 3}


TINY = Kind(
    network=Tiny(),
    shapes=lambda: {"weight": WEIGHT.shape},
    side=2,
    names=("3", "6"),
    main="6",
    spatial="spatial",
    predictions="logits",
)


@pytest.fixture(autouse=True)
def _tiny_network(monkeypatch):
    monkeypatch.setitem(feature_networks.KINDS, "tiny", TINY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two sets of pictures of several sizes, and weights of the network."""
    place, rs = tmp_path_factory.mktemp("sets"), np.random.RandomState(1)
    for name, n, bright in (("a", 23, 0), ("b", 17, 60)):
        (place / name).mkdir()
        for i in range(n):
            pixels = rs.randint(0, 190, (8 + i % 3, 9, 3)) + bright
            Image.fromarray(pixels.astype(np.uint8)).save(place / name / f"{i:03d}.png")
    np.savez(place / "tiny.npz", weight=WEIGHT)
    return place


def measuring(folder, devices=1, batch_size=0, **options):
    return Measuring(
        open_features(str(folder / "tiny.npz"), make_mesh(MeshConfig(data=devices)), **options), batch_size
    )


def expected_features(folder, name, resize="pytorch-fid"):
    """By numpy alone."""
    read = [np.asarray(Image.open(path)) for path in sorted((folder / name).iterdir())]
    x = np.stack([resize_for_features(pixels, 2, resize) for pixels in read]).reshape(len(read), -1)
    x = x / 127.5 - 1 if resize == "pytorch-fid" else (x - 128) / 128
    return np.tanh(x @ WEIGHT), x[:, :4], 3 * x @ WEIGHT


def frechet(x, y):
    return distances.frechet_distance(x.mean(0), np.cov(x, rowvar=False), y.mean(0), np.cov(y, rowvar=False))


@pytest.mark.parametrize("resize", ["pytorch-fid", "clean-fid", "tensorflow"])
def test_the_command_writes_what_the_formulas_give(folder, tmp_path, monkeypatch, capsys, resize):
    out = tmp_path / "result.json"
    arguments = ["distance", str(folder / "a"), str(folder / "b"), "--features", str(folder / "tiny.npz")]
    monkeypatch.setattr(sys, "argv", ["evaluate", *arguments, "--dims", "6", "--resize", resize, "--out", str(out)])
    evaluate.main()
    found = json.loads(out.read_text(encoding="utf-8"))
    (a, a_spatial, _), (b, b_spatial, logits) = (expected_features(folder, name, resize) for name in "ab")
    assert found["fid"] == pytest.approx(frechet(a, b), rel=1e-4)
    assert found["sfid"] == pytest.approx(frechet(a_spatial, b_spatial), rel=1e-4)
    assert found["inception_score"] == pytest.approx(inception_score(logits)[0], rel=1e-5)
    assert found["kernel_distance"] == pytest.approx(distances.kernel_distance(a, b), rel=1e-3, abs=1e-6)
    assert {k: found[k] for k in ("precision", "recall", "coverage")} == {
        k: pytest.approx(v) for k, v in distances.manifold_measures(a, b).items() if k != "density"
    }
    about = found["protocol"]
    assert about["features"] | {"weights": ""} == {
        "network": "tiny", "weights": "", "resize": resize, "feature": "6", "batch_size": 256
    }  # fmt: skip
    assert (about["reference"]["images"], about["images"]["images"]) == (23, 17)
    assert about["versions"]["jax"] and about["seconds"] > 0 and "8 x cpu" in about["devices"]
    assert any("has 23 images; below 10000" in warning for warning in found["warnings"])
    assert "| fid |" in out.with_suffix(".md").read_text(encoding="utf-8")
    with Image.open(out.with_suffix(".png")) as sheet:
        assert sheet.width > 8 * 96
    assert "fid " in capsys.readouterr().out


def test_the_plain_command_still_asks_for_a_working_directory(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate"])
    with pytest.raises(SystemExit):
        evaluate.main()
    assert "--workdir" in capsys.readouterr().err


def test_figures_depend_neither_on_batches_nor_on_devices_nor_on_order(folder, tmp_path):
    found = [
        distance(str(folder / "a"), str(folder / "b"), str(tmp_path / "out.json"), measuring(folder, *how)).figures
        for how in ((1, 0), (8, 8), (8, 16), (1, 5))
    ]
    names = sorted(str(path) for path in (folder / "b").iterdir())
    (tmp_path / "reversed.txt").write_text("\n".join(names[::-1]), encoding="utf-8")
    again = distance(str(folder / "a"), str(tmp_path / "reversed.txt"), str(tmp_path / "out.json"), measuring(folder))
    for other in (*found[1:], again.figures):
        assert other == pytest.approx(found[0], rel=1e-6, abs=1e-6)


def test_a_set_is_at_no_distance_from_itself(folder, tmp_path):
    same = distance(str(folder / "a"), str(folder / "a"), str(tmp_path / "out.json"), measuring(folder)).figures
    assert abs(same["fid"]) < 1e-6 and same["precision"] == same["recall"] == 1


def test_few_of_the_features_stay_in_memory_and_the_distance_knows_all(folder, tmp_path):
    all_kept = measuring(folder)
    few = Measuring(all_kept.features, 8, keep=5)
    a, b = (open_set(str(folder / name), few).measure(few) for name in "ab")
    assert a.features.shape == (5, 6) and a.n == 23
    x, y = (expected_features(folder, name)[0] for name in "ab")
    np.testing.assert_allclose(a.gaussians["6"].covariance, np.cov(x, rowvar=False), atol=1e-6)
    chosen = Chosen(5)
    chosen.add(x)
    np.testing.assert_allclose(a.features, x[chosen.numbers], atol=1e-6)


def test_what_stays_in_memory_is_of_the_whole_set_and_hangs_on_the_number_of_images_alone():
    rows = np.arange(2000)[:, None]
    for part in (1, 7, 500, 2000):
        chosen = Chosen(100)
        for first in range(0, 2000, part):
            chosen.add(rows[first : first + part])
        assert chosen.seen == 2000 and len(chosen.rows) == 100
        np.testing.assert_array_equal(chosen.rows[:, 0], chosen.numbers)
        assert np.all(np.diff(chosen.numbers) > 0) and 800 < chosen.numbers.mean() < 1200
    few = Chosen(100)
    few.add(rows[:60])
    np.testing.assert_array_equal(few.rows, rows[:60])


def test_the_images_of_a_training_are_measured_without_what_it_varies(tmp_path):
    pixels = np.random.RandomState(0).randint(0, 255, (4, 32, 96, 3)).astype(np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    data = DataConfig("folder", path=str(tmp_path), val_path=str(tmp_path), size=32, random_scale=True)
    found = of_data(data, "train")
    np.testing.assert_array_equal(np.stack(list(found.read(0, 4))), pixels[:, :, 32:64])


def test_classes_stay_with_their_images_where_not_all_are_kept(folder):
    few = Measuring(measuring(folder).features, 8, keep=5)
    images = of_files(str(folder / "a"))
    found = gather(dataclasses.replace(images, labels=np.arange(images.n)), few.features, 8, 5)
    x, _, _ = expected_features(folder, "a")
    np.testing.assert_allclose(found.features, x[found.labels], atol=1e-6)
    assert len(set(found.labels)) == 5


def test_unreadable_images_are_counted_named_and_left_out(folder, tmp_path):
    for i in range(12):
        Image.fromarray(np.full((9, 9, 3), 20 * i, np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "3.png").write_bytes(b"no picture")
    (tmp_path / "note.md").write_text("passed over", encoding="utf-8")
    out = tmp_path / "out.json"
    compared = distance(str(folder / "a"), str(tmp_path), str(out), measuring(folder, 8, 8))
    about = json.loads(out.read_text(encoding="utf-8"))["protocol"]["images"]
    assert about["images"] == 11 and about["unreadable"] == 1 and "3.png" in about["named"][0]
    assert any("1 image(s) cannot be read" in warning for warning in compared.warnings)


def varied(place, forms):
    """Folders of the same twelve pictures, each stored in another form."""
    rs = np.random.RandomState(3)
    for i in range(12):
        grey = rs.randint(0, 256, (6, 8), np.uint8)
        clear = np.where(rs.rand(6, 8) < 0.4, 0, 255).astype(np.uint8)
        exif = Image.Exif()
        exif[0x0112] = 6
        pictures = {
            "grey": (Image.fromarray(grey), {}),
            "deep": (Image.fromarray(grey.astype(np.uint16) * 257), {}),
            "turned": (Image.fromarray(np.ascontiguousarray(np.rot90(grey))), {"exif": exif}),
            "on_white": (Image.fromarray(np.where(clear > 0, grey, 255).astype(np.uint8)), {}),
            "clear": (Image.fromarray(np.dstack([grey, grey, grey, clear])), {}),
        }
        for form in forms:
            (place / form).mkdir(exist_ok=True)
            image, options = pictures[form]
            image.save(place / form / f"{i}.png", **options)


@pytest.mark.parametrize("forms", [("grey", "deep"), ("grey", "turned"), ("on_white", "clear")])
def test_pictures_are_measured_as_trainings_read_them(folder, tmp_path, forms):
    varied(tmp_path, forms)
    with_all = measuring(folder)
    found = distance(*(str(tmp_path / form) for form in forms), str(tmp_path / "r.json"), with_all)
    assert abs(found.figures["fid"]) < 1e-6
    first, second = (list(of_files(str(tmp_path / form)).read(0, 12)) for form in forms)
    assert all(np.array_equal(a, b) for a, b in zip(first, second))


def test_statistics_of_an_earlier_version_are_used_with_a_note(folder, tmp_path):
    with_all = measuring(folder)
    distance(str(folder / "a"), str(folder / "b"), str(tmp_path / "r.json"), with_all, save=True)
    with np.load(tmp_path / "r.npz") as file:
        arrays = dict(file)
    assert "in sRGB" in str(arrays.pop("pictures"))
    np.savez(tmp_path / "old.npz", **arrays)
    notes = {}
    for name in ("r", "old"):
        found = distance(str(tmp_path / f"{name}.npz"), str(folder / "b"), str(tmp_path / "s.json"), with_all)
        notes[name] = [note for note in found.warnings if "measured by an earlier version" in note]
        assert abs(found.figures["fid"]) < 1e-6
    assert not notes["r"] and "no picture by its EXIF" in notes["old"][0]


def test_statistics_go_through_files_of_both_kinds(folder, tmp_path):
    with_all = measuring(folder)
    direct = distance(str(folder / "a"), str(folder / "b"), str(tmp_path / "r.json"), with_all, save=True).figures
    stored = read_npz(tmp_path / "r.npz")
    assert {"mu", "sigma", "mu_s", "sigma_s"} <= set(stored)  # both pytorch-fid and ADM read it
    from_file = distance(str(tmp_path / "r.npz"), str(folder / "a"), str(tmp_path / "q.json"), with_all).figures
    assert from_file["fid"] == pytest.approx(direct["fid"], rel=1e-9)
    assert from_file["sfid"] == pytest.approx(direct["sfid"], rel=1e-9) and "precision" not in from_file
    result = distance(str(tmp_path / "r.json"), str(folder / "a"), str(tmp_path / "q.json"), with_all).figures
    assert result == from_file  # another result stands for its statistics
    np.savez(tmp_path / "pytorch.npz", mu=stored["mu"], sigma=stored["sigma"])
    foreign = distance(str(tmp_path / "pytorch.npz"), str(folder / "a"), str(tmp_path / "q.json"), with_all)
    assert foreign.figures["fid"] == pytest.approx(direct["fid"], rel=1e-9)
    assert any("does not say with which network" in warning for warning in foreign.warnings)
    turned = distance(str(folder / "a"), str(tmp_path / "pytorch.npz"), str(tmp_path / "q.json"), with_all, save=True)
    assert turned.figures["fid"] == pytest.approx(foreign.figures["fid"], rel=1e-6)
    assert read_statistics(str(tmp_path / "q.npz"), with_all.features.protocol).n is None  # nobody knows it


def test_a_file_of_adm_gives_its_statistics_and_pairs_from_its_images(folder, tmp_path):
    tensorflow = measuring(folder, resize="tensorflow")
    pixels = np.random.RandomState(5).randint(0, 255, (9, 4, 4, 3)).astype(np.uint8)
    sums = {"mu": np.ones(6), "sigma": np.eye(6), "mu_s": np.zeros(4), "sigma_s": np.eye(4)}
    np.savez(tmp_path / "adm.npz", arr_0=pixels, **sums)
    found = distance(str(tmp_path / "adm.npz"), str(folder / "b"), str(tmp_path / "r.json"), tensorflow).figures
    x, spatial, _ = expected_features(folder, "b", "tensorflow")
    expected = distances.frechet_distance(np.ones(6), np.eye(6), x.mean(0), np.cov(x, rowvar=False))
    assert found["fid"] == pytest.approx(expected, rel=1e-4) and "sfid" in found and "precision" in found
    with pytest.raises(ValueError, match="made with resize='tensorflow', and this comparison has 'pytorch-fid'"):
        open_set(str(tmp_path / "adm.npz"), measuring(folder))


def test_what_does_not_fit_is_refused_before_anything_is_measured(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "_prepared", lambda *_: pytest.fail("it has begun"))
    a, out, all_of = str(folder / "a"), str(tmp_path / "r.json"), measuring(folder)
    (tmp_path / "one").mkdir()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "one" / "0.png")
    np.savez(tmp_path / "wide.npz", mu=np.zeros(7), sigma=np.eye(7))
    np.savez(tmp_path / "bad.npz", mu=np.full(6, np.nan), sigma=np.eye(6))
    np.savez(tmp_path / "odd.npz", mu=np.zeros(6), sigma=np.eye(5))
    np.savez(tmp_path / "neither.npz", x=np.zeros(3))
    np.savez(tmp_path / "floats.npz", arr_0=np.zeros((3, 4, 4, 3)))
    (tmp_path / "r2.json").write_text("{}", encoding="utf-8")
    (tmp_path / "text.npz").write_text("no archive", encoding="utf-8")
    other = ["tiny", "0" * 64, "pytorch-fid", "6"]
    np.savez(tmp_path / "other.npz", mu=np.zeros(6), sigma=np.eye(6), protocol=np.array(other), n=5)
    for name, message in {
        "one": "has 1 image.s.; a distance needs at least 2",
        "none": "there is no .*none",
        "wide.npz": "means of 7 features, and this comparison is of 6: set --dims",
        "bad.npz": "not finite",
        "odd.npz": r"mu \(6,\) and sigma \(5, 5\)",
        "neither.npz": "no array arr_0",
        "floats.npz": r"arr_0 of .* is float64 \(3, 4, 4, 3\); expected uint8",
        "r2.json": "no result that has its statistics",
        "text.npz": "not a file of arrays",
        "other.npz": "made with weights='000",
    }.items():
        for pair in ((a, str(tmp_path / name)), (str(tmp_path / name), a)):
            with pytest.raises(ValueError, match=message):
                distance(*pair, out, all_of)
    with pytest.raises(ValueError, match=r"expected the name of a file that ends in \.json"):
        distance(a, a, str(tmp_path / "r.txt"), all_of)
    for options, message in (
        ({"name": "5"}, "--dims=5: the features of tiny have 3, 6"),
        ({"resize": "x"}, "resize=x"),
    ):
        with pytest.raises(ValueError, match=message):
            measuring(folder, **options)
    with pytest.raises(ValueError, match="--batch_size=6"):
        measuring(folder, 8, 6)
    with pytest.raises(ValueError, match=r"there are no weights at .*(\n|.)*convert --inception"):
        open_features(str(tmp_path / "gone.npz"), make_mesh())
    with pytest.raises(ValueError, match="no weight file of"):
        open_features(str(tmp_path / "neither.npz"), make_mesh())


def command(folder, *arguments):
    return ["evaluate", "distance", *map(str, arguments), "--features", str(folder / "tiny.npz")]


def test_a_result_takes_the_place_of_no_other_file(folder, tmp_path, monkeypatch):
    """Neither of what is measured, whatever its name, nor of files of the user's; of an earlier result it does."""
    a, b, all_of = str(folder / "a"), str(folder / "b"), measuring(folder)
    out = tmp_path / "r.json"
    distance(a, b, str(out), all_of, save=True)
    distance(b, a, str(out), all_of, save=True)
    (tmp_path / "own").mkdir()
    for ending in (".json", ".md", ".png", ".npz"):
        mine = tmp_path / "own" / f"r{ending}"
        mine.write_bytes(f"mine {ending}".encode())
        with pytest.raises(
            ValueError, match=rf"r\{ending}' is there already, and nothing says that this program wrote it"
        ):
            distance(a, b, str(mine.with_suffix(".json")), all_of, save=True)
        assert mine.read_bytes() == f"mine {ending}".encode()
        mine.unlink()
    (tmp_path / "own" / "link.npz").hardlink_to(tmp_path / "r.npz")
    before = {path: path.read_bytes() for path in tmp_path.rglob("r.*")}
    monkeypatch.setattr(statistics, "_prepared", lambda *_: pytest.fail("it has begun"))
    for reference, result in (
        (tmp_path / "r.npz", out),
        (tmp_path / "r.json", out),
        (tmp_path / "own" / ".." / "r.npz", out),
        (tmp_path / "r.npz", tmp_path / "own" / "link.json"),
        (a, folder / "a" / "000.json"),
    ):
        with pytest.raises(ValueError, match="is read by this call, and would be overwritten"):
            distance(str(reference), b, str(result), all_of, save=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("r.*")} == before


def test_figures_are_told_where_the_result_cannot_be_written(folder, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    for broken in ("write_statistics", "save_grid", "write_whole"):
        with monkeypatch.context() as patch:
            patch.setattr(f"taming_jax.quality.result.{broken}", full)
            out = ["--out", str(tmp_path / "r.json"), "--statistics"]
            patch.setattr(sys, "argv", command(folder, folder / "a", folder / "b", *out))
            with pytest.raises(SystemExit) as ended:
                evaluate.main()
        said = capsys.readouterr()
        assert ended.value.code == 2 and "fid  " in said.out and "No space left on device" in said.err
    monkeypatch.setattr(statistics, "_prepared", lambda *_: pytest.fail("it has begun"))
    monkeypatch.setattr(sys, "argv", command(folder, folder / "a", folder / "b", "--out", "/proc/none/r.json"))
    with pytest.raises(SystemExit):
        evaluate.main()
    assert "--out=/proc/none/r.json: '/proc/none/r.json' cannot be written" in capsys.readouterr().err


def test_images_of_an_npz_are_mapped_or_unpacked(tmp_path):
    pixels = np.random.RandomState(5).randint(0, 255, (5, 3, 4, 3)).astype(np.uint8)
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", pixels, np.arange(5))  # arr_0 and arr_1
        opened = images.of_npz(str(tmp_path / "x.npz"))
        np.testing.assert_array_equal(list(opened.read(1, 4)), pixels[1:4])
        assert opened.labels.tolist() == [0, 1, 2, 3, 4]
    np.savez(tmp_path / "objects.npz", arr_0=np.array([None], object))
    with pytest.raises(ValueError, match="no array arr_0 that can be read"):
        images.of_npz(str(tmp_path / "objects.npz"))


@pytest.mark.parametrize(
    ("name", "pictures", "side", "right"), [("demo", DemoScenes, 32, 0.95), ("landscapes", DemoLandscapes, 64, 0.9)]
)
def test_the_features_of_the_demo_read_its_pictures_and_their_distance_grows_with_damage(name, pictures, side, right):
    network = open_features(name, make_mesh())
    scenes = pictures(side, 160, seed=7)
    pixels = [scenes[i]["image"] for i in range(160)]
    sizes = ((side // 2**k, side // 2**k) for k in (1, 2, 3))
    blurred = [[np.asarray(Image.fromarray(x).resize(size).resize((side, side))) for x in pixels] for size in sizes]
    noisy = [(x + np.random.RandomState(0).normal(0, 25, x.shape)).clip(0, 255).astype(np.uint8) for x in pixels]
    outputs = [network([network.prepare(x) for x in shown], 160)[0] for shown in (pixels, *blurred, noisy)]
    read = np.argmax(outputs[0]["logits_unbiased"], axis=1)
    assert np.mean(read == [scenes.class_label(i) for i in range(160)]) > right
    reference, *others = (output["128"].astype(np.float64) for output in outputs)
    a_little, more, much, noise = (frechet(reference, other) for other in others)
    assert 0 < 2 * a_little < more < much / 2 and noise > a_little
