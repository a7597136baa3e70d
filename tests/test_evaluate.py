"""`evaluate samples`, `reconstruction`, `likelihood`, `sweep` and `compare` on models trained for a step."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_programs import experiment, second_stage

import taming_jax
import train_transformer
import train_vqgan
from taming_jax import evaluate
from taming_jax.data import pipeline
from taming_jax.experiment import SampleConfig
from taming_jax.metrics.distances import frechet_distance
from taming_jax.metrics.image import psnr
from taming_jax.pictures import to_pixels
from taming_jax.quality import commands, samples, statistics
from taming_jax.quality.distance import Measuring, distance
from taming_jax.quality.features import open_features
from taming_jax.quality.images import of_npz
from taming_jax.quality.reconstruction import reconstruction
from taming_jax.quality.store import Store
from taming_jax.quality.sweep import settings_of
from taming_jax.sharding import make_mesh

N = 12


@pytest.fixture(scope="module")
def vqgan_dir(tmp_path_factory):
    workdir = str(tmp_path_factory.mktemp("vqgan"))
    loss = {"disc_weight": 0.0}
    assert train_vqgan.train_and_evaluate(experiment("demo_vqgan", loss=loss, train={"steps": 1}), workdir)
    return workdir


@pytest.fixture(scope="module")
def class_dir(tmp_path_factory, vqgan_dir):
    workdir = str(tmp_path_factory.mktemp("class"))
    assert train_transformer.train_and_evaluate(second_stage(vqgan_dir, train={"steps": 1}), workdir)
    return workdir


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, arguments)])
    evaluate.main()


@pytest.fixture
def drawn(class_dir, tmp_path, monkeypatch):
    """The result of `evaluate samples`, with what else it writes."""
    out, npz = tmp_path / "result.json", tmp_path / "for_adm.npz"
    options = ["--n", N, "--draw_batch", 8, "--top_k", 7, "--seed", 3, "--reference", "val", "--batch_size", 8]
    run(monkeypatch, "samples", class_dir, *options, "--out", out, "--export-npz", npz)
    return out


def test_samples_are_those_of_the_model_and_their_distance_is_that_of_the_files(drawn, class_dir, tmp_path, capsys):
    found, images = json.loads(drawn.read_text(encoding="utf-8")), of_npz(str(tmp_path / "for_adm.npz"))
    labels = np.arange(N) % 10
    assert images.labels.tolist() == labels.tolist()  # the classes take turns
    model = taming_jax.load(class_dir)
    expected = to_pixels(np.asarray(model.sample(8, class_label=labels[:8], seed=3, top_k=7)))
    np.testing.assert_array_equal(list(images.read(0, 8)), expected)
    about = found["protocol"]
    assert about["drawn"]["n"] == N and about["drawn"]["top_k"] == 7 and "nearest" in about["drawn"]["rounding"]
    assert about["features"]["network"] == "demo" and about["reference"]["images"] == 8
    assert about["checkpoint"]["step"] == 1 and len(about["checkpoint"]["sum"]) == 8
    assert {"fid", "precision", "inception_score", "class_read_right"} <= set(found)
    # from the files alone, the other way round: a distance has no direction
    measuring = Measuring(open_features("demo", make_mesh()), 8)
    again = distance(str(drawn), str(tmp_path / "for_adm.npz"), str(tmp_path / "again.json"), measuring)
    assert again.figures["fid"] < 1e-3 * found["fid"]
    with Image.open(drawn.with_suffix(".png")) as sheet:
        assert sheet.width > 8 * 96


def test_the_figures_of_each_class(class_dir, tmp_path):
    measuring, out = Measuring(open_features("demo", make_mesh()), 8), tmp_path / "r.json"
    settings = SampleConfig(n=N * 4, batch_size=16)
    samples.samples(class_dir, settings, "train", str(out), measuring, by_class=True)
    found = json.loads(out.read_text(encoding="utf-8"))["by_class"]  # of 32 scenes: 3 or 4 a class, and 4 are needed
    scenes = pipeline.make_crops(experiment("demo_vqgan").data, "train", 0, 32, 0, 32)
    labels = next(scenes)["class_label"]
    assert found and {int(name) for name in found} == {k for k in range(10) if (labels == k).sum() > 3}
    assert all(row["images"] == (np.arange(N * 4) % 10 == int(name)).sum() for name, row in found.items())
    assert all(row["of_reference"] == (labels == int(name)).sum() for name, row in found.items())
    assert "| by_class | images |" in out.with_suffix(".md").read_text(encoding="utf-8")
    reference = shutil.copy(out.with_suffix(".npz"), tmp_path / "statistics.npz")
    with pytest.raises(ValueError, match="--by_class needs"):
        samples.samples(class_dir, settings, str(reference), str(out), measuring, by_class=True)


def test_drawing_that_was_killed_goes_on_and_other_settings_are_refused(class_dir, tmp_path, monkeypatch):
    settings = SampleConfig(n=N, batch_size=8, seed=1, top_k=5)
    model = samples.Model.open(class_dir, settings)
    draw, parts = model.generator.sampler.draw, []

    def counted(params, request, progress=None):
        parts.append(request.first)
        if len(parts) == 2:
            raise KeyboardInterrupt
        return draw(params, request, progress)

    monkeypatch.setattr(model.generator.sampler, "draw", counted)
    with pytest.raises(KeyboardInterrupt):
        model.draw(model.store(tmp_path / "images"))
    images = model.draw(model.store(tmp_path / "images"))
    assert parts == [0, 8, 8] and images.n == N  # the first part was there
    whole = np.stack(list(images.read(0, N)))
    monkeypatch.setattr(model.generator.sampler, "draw", draw)
    np.testing.assert_array_equal(whole, np.stack(list(model.draw(model.store(tmp_path / "at_once")).read(0, N))))
    np.testing.assert_array_equal(np.stack(list(images.read(6, 10))), whole[6:10])  # over the edge of a part
    other = samples.Model.open(class_dir, SampleConfig(n=N, batch_size=8, seed=2, top_k=5))
    with pytest.raises(ValueError, match=r"drawn with other settings .seed: there 1, now 2"):
        other.store(tmp_path / "images")
    with pytest.raises(ValueError, match="lacks the images from number 99 on"):
        Store(tmp_path / "images").images({0: 8, 99: 1}, "")


def test_what_does_not_fit_is_refused_before_anything_is_drawn(class_dir, vqgan_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(samples.Model, "draw", lambda *_: pytest.fail("it has begun"))
    monkeypatch.setattr(statistics, "_prepared", lambda *_: pytest.fail("it has begun"))
    np.savez(tmp_path / "wide.npz", mu=np.zeros(7), sigma=np.eye(7))
    for arguments, message in {
        ("samples", class_dir, "--n", 1): "a distance needs at least 2",
        ("samples", class_dir, "--top_k", 0): "top_k",
        ("samples", class_dir, "--guidance", 2): "guidance",
        (
            "samples",
            class_dir,
            "--reference",
            tmp_path / "wide.npz",
        ): "means of 7 features",
        ("samples", class_dir, "--reference", tmp_path / "none"): "there is no",
        ("samples", class_dir, "--features", tmp_path / "none.npz"): "there are no weights",
        ("samples", vqgan_dir): "no second stage",
        ("sweep", class_dir): "nothing to sweep",
        ("sweep", class_dir, "--top_p", "0.5,3"): "top_p",
        ("likelihood", vqgan_dir): "no second stage",
        ("compare", tmp_path / "wide.npz", tmp_path / "wide.npz"): "is no result",
        ("reconstruction", vqgan_dir, "--images", tmp_path): "no images in the folder",
    }.items():
        with pytest.raises(SystemExit) as ended:
            run(monkeypatch, *arguments, *(["--out", tmp_path / "r.json"] if arguments[0] != "compare" else []))
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert message in said and said.startswith("error: "), (arguments, said)
    assert not list(tmp_path.glob("r*"))


def test_the_reconstructions_of_a_folder(vqgan_dir, tmp_path):
    """Against the model's own reconstructions of the same files."""
    rs = np.random.RandomState(0)
    (tmp_path / "images").mkdir()
    pixels = rs.randint(0, 255, (9, 16, 16, 3)).astype(np.uint8)
    for i, x in enumerate(pixels):
        Image.fromarray(x).save(tmp_path / "images" / f"{i}.png")
    measuring = Measuring(open_features("demo", make_mesh()), 8)
    out = tmp_path / "r.json"
    found = reconstruction(vqgan_dir, str(out), measuring, images=str(tmp_path / "images")).figures
    x = pixels.astype(np.float32) / 127.5 - 1
    y = np.asarray(taming_jax.load(vqgan_dir).reconstruct(x))
    assert found["psnr"] == pytest.approx(float(np.mean(psnr(x, y.clip(-1, 1)))), abs=1e-3)
    assert {"ssim", "l1", "usage", "perplexity", "precision"} <= set(found) and "fid" not in found
    features = measuring.features
    rows = [features([features.prepare(p) for p in part], len(part))[0]["128"] for part in (pixels, to_pixels(y))
            for part in (np.resize(part, (16, *part.shape[1:])),)]  # fmt: skip
    (a, b) = (r[:9].astype(np.float64) for r in rows)
    expected = frechet_distance(a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False))
    assert found["rfid"] == pytest.approx(expected, rel=1e-3)
    assert json.loads(out.read_text(encoding="utf-8"))["protocol"]["reference"]["images"] == 9


def test_the_likelihood_of_the_validation_split(class_dir, tmp_path, monkeypatch):
    run(monkeypatch, "likelihood", class_dir, "--batch_size", 8, "--out", tmp_path / "l.json")
    found = json.loads((tmp_path / "l.json").read_text(encoding="utf-8"))
    expected = evaluate.evaluate(class_dir, str(tmp_path / "report"), samples=0, batch_size=8)["transformer/nll"]
    assert found["nll"] == pytest.approx(expected, rel=1e-6)
    per_pixel = found["nll"] / np.log(2) * found["protocol"]["tokens"] / (16 * 16)
    assert found["bits_per_pixel"] == pytest.approx(per_pixel, rel=1e-6)


def test_a_sweep_has_a_row_for_each_value_and_a_plot(class_dir, tmp_path, monkeypatch, capsys):
    out = tmp_path / "sweep.json"
    options = ["--n", N, "--draw_batch", 8, "--reference", "val", "--batch_size", 8, "--out", out]
    run(monkeypatch, "sweep", class_dir, *options, "--top_k", "1,9", "--temperature", "0.5")
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert [(row["filter"], row["value"]) for row in rows] == [("temperature", 0.5), ("top_k", 1), ("top_k", 9)]
    assert len({row["figures"]["fid"] for row in rows}) == 3
    with Image.open(tmp_path / "sweep.plot.png") as plot:
        assert plot.width > plot.height > 100
    assert out.with_suffix(".md").read_text(encoding="utf-8").count("| top_k") == 2
    assert "| top_k 9 |" in capsys.readouterr().out
    monkeypatch.setattr(samples.Model, "_draw", lambda *_: pytest.fail("it was drawn already"))
    run(monkeypatch, "sweep", class_dir, *options, "--top_k", "1,9", "--temperature", "0.5")


def logged(workdir):
    lines = [json.loads(line) for line in (Path(workdir) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(line["step"], line) for line in lines if any(name.startswith("quality/") for name in line)]


def test_a_first_stage_in_training_measures_its_reconstructions_and_is_kept_by_them(tmp_path):
    evaluate = {"measures": ("rfid", "precision"), "features": "demo", "batch_size": 8, "every": 1}
    train = {"steps": 2, "evaluate": evaluate, "monitor": "quality/rfid", "monitor_mode": "min"}
    settings = experiment("demo_vqgan", loss={"disc_weight": 0.0}, train=train)
    assert train_vqgan.train_and_evaluate(settings, str(tmp_path / "w"))
    found = logged(tmp_path / "w")
    assert [step for step, _ in found] == [1, 2]
    measuring = Measuring(open_features("demo", make_mesh()), 8)
    later = reconstruction(str(tmp_path / "w"), str(tmp_path / "r.json"), measuring).figures
    assert found[-1][1]["quality/rfid"] == pytest.approx(later["rfid"], rel=1e-3)
    assert found[-1][1]["quality/precision"] == later["precision"]


def test_a_second_stage_in_training_draws_and_measures(vqgan_dir, tmp_path):
    evaluate = {"measures": ("fid", "inception_score"), "features": "demo", "batch_size": 8, "n": N, "every": 1}
    train = {"steps": 1, "evaluate": evaluate, "monitor": "quality/fid"}
    assert train_transformer.train_and_evaluate(second_stage(vqgan_dir, train=train), str(tmp_path / "w"))
    ((_, found),) = logged(tmp_path / "w")
    measuring = Measuring(open_features("demo", make_mesh()), 8)
    drawn = SampleConfig(n=N, batch_size=8)
    later = samples.samples(str(tmp_path / "w"), drawn, "val", str(tmp_path / "r.json"), measuring).figures
    assert found["quality/fid"] == pytest.approx(later["fid"], rel=1e-3)
    assert found["quality/inception_score"] == pytest.approx(later["inception_score"], rel=1e-4)


def test_what_a_training_cannot_measure_is_refused_before_it_begins(vqgan_dir, tmp_path):
    for asked, message in (
        (
            {"measures": ("sfid",), "features": "demo"},
            "sfid cannot be measured here, of 1000 images on",
        ),
        ({"measures": ("fid_infinity",), "n": 9, "features": "demo"}, "fid_infinity cannot be .* of 9 images"),
        ({"measures": ("recall",), "n": 3, "features": "demo"}, "recall cannot be .* of 3 images"),
        ({"measures": ("rfid",), "features": "demo"}, "rfid cannot be measured"),
        ({"measures": ("fid",), "features": "gone.npz"}, "there are no weights at 'gone.npz'"),
        ({"measures": ("fid",), "features": "demo", "reference": "gone"}, "there is no 'gone'"),
    ):
        settings = second_stage(vqgan_dir, train={"evaluate": asked})
        with pytest.raises(ValueError, match=message):
            train_transformer.train_and_evaluate(settings, str(tmp_path / "w"))
    np.savez(tmp_path / "moments.npz", mu=np.zeros(128), sigma=np.eye(128))
    for name in ("precision", "kernel_distance"):
        asked = {"measures": ("fid", name), "features": "demo", "reference": str(tmp_path / "moments.npz")}
        with pytest.raises(ValueError, match=rf"moments.npz do not allow {name}; name a folder"):
            train_transformer.train_and_evaluate(
                second_stage(vqgan_dir, train={"evaluate": asked}), str(tmp_path / "w")
            )
    with pytest.raises(ValueError, match=r"evaluate\.measures=.*known are fid"):
        second_stage(vqgan_dir, train={"evaluate": {"measures": ("beauty",)}})


def test_what_is_swept_is_one_filter_at_a_time():
    found = settings_of(SampleConfig(top_p=0.9), {"top_k": [3.0], "top_p": [0.5]})
    assert [(s.top_k, s.top_p) for _, _, s in found] == [(3, 0.9), (None, 0.5)]


def test_results_side_by_side_name_what_was_measured_otherwise(tmp_path, monkeypatch, capsys):
    for name, fid, resize in (("a", 1.5, "clean-fid"), ("b", 2.5, "tensorflow")):
        protocol = {"features": {"resize": resize, "network": "x"}, "seconds": fid, "versions": {"jax": name}}
        (tmp_path / f"{name}.json").write_text(
            json.dumps({"fid": fid, "warnings": [], "protocol": protocol}), encoding="utf-8"
        )
    run(monkeypatch, "compare", tmp_path / "a.json", tmp_path / "b.json", "--out", tmp_path / "c.md")
    text = (tmp_path / "c.md").read_text(encoding="utf-8")
    assert "| fid | 1.5 | 2.5 |" in text and '| features.resize | "clean-fid" | "tensorflow" |' in text
    assert "seconds" not in text and "versions" not in text and text in capsys.readouterr().out
    with pytest.raises(ValueError, match="at least two"):
        commands.compare_results([str(tmp_path / "a.json")])
