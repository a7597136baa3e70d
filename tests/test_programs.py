"""The programs through their own entry functions: train both stages for a few steps, stop, resume, sample, evaluate."""

import dataclasses
import gc
import importlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import weakref
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import sample
import taming_jax
import train_transformer
import train_vqgan
from taming_jax import checkpoint, codes_used, evaluate, html_report, outputs
from taming_jax.convert.formats import export
from taming_jax.data import pipeline
from taming_jax.data.demo.known import KNOWN
from taming_jax.drawing.drawing import draw
from taming_jax.drawing.reproduction import reproduce
from taming_jax.experiment import SampleConfig, TransformerExperiment, VQGANExperiment
from taming_jax.models.gpt import GPT, unstack_layers
from taming_jax.priors.filters import Filters
from taming_jax.settings import from_dict
from taming_jax.sharding import MeshConfig, make_mesh
from taming_jax.trained import evaluation
from taming_jax.training import loop

ROOT = Path(__file__).parent.parent
ONE = MeshConfig(data=1)
STEPS = 6
# Of `vqgan_dir`: a test that asks for it, and else for the same, finds the program of a training step compiled.
ADVERSARIAL = {"disc_learn_start": 0, "disc_start": 2, "disc_ramp": 2, "disc_weight": 0.8}


def experiment(name, arg="tiny", **sections):
    """A configuration's experiment at 16 pixels, for a few steps on one device."""
    config = importlib.import_module(f"configs.{name}").get_config(arg).to_dict()
    config["data"] |= {"size": 16, "n_train": 32, "n_val": 8}
    config["train"] |= {"steps": STEPS, "log_every": 1, "eval_every": 3, "image_every": STEPS, "save_every": 3}
    config["mesh"] |= {"data": 1}
    for section, values in sections.items():
        config[section] = config[section] | values if isinstance(values, dict) else values
    return from_dict(TransformerExperiment if "transformer" in config else VQGANExperiment, config)


def history(workdir):
    return [json.loads(line) for line in (Path(workdir) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture(scope="module")
def vqgan_dir(tmp_path_factory):
    workdir = str(tmp_path_factory.mktemp("vqgan"))
    assert train_vqgan.train_and_evaluate(experiment("demo_vqgan", loss=ADVERSARIAL), workdir)
    return workdir


def second_stage(vqgan_dir, **sections):
    return experiment("imagenet_cond", first_stage=vqgan_dir, **sections)


@pytest.fixture(scope="module")
def class_dir(tmp_path_factory, vqgan_dir):
    workdir = str(tmp_path_factory.mktemp("class"))
    assert train_transformer.train_and_evaluate(second_stage(vqgan_dir), workdir)
    return workdir


def stop_at(monkeypatch, step):
    """Send SIGTERM to this process, as a preempted machine does, while the batch of `step` is asked for."""
    make_batches = pipeline.make_batches

    def batches(data, split, **options):
        for number, batch in enumerate(make_batches(data, split, **options), options.get("start_step", 0) + 1):
            if split == "train" and number == step:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    monkeypatch.setattr(pipeline, "make_batches", batches)


@pytest.mark.parametrize(("stage", "stop"), [("vqgan", 4), ("transformer", 4), ("transformer", 3)])  # 3: it evaluates
def test_stopped_and_resumed_equals_uninterrupted(stage, stop, vqgan_dir, class_dir, tmp_path, monkeypatch):
    workdir = str(tmp_path)
    if stage == "vqgan":
        settings, whole = experiment("demo_vqgan", loss=ADVERSARIAL), vqgan_dir
        run = lambda: train_vqgan.train_and_evaluate(settings, workdir)
    else:
        run, whole = lambda: train_transformer.train_and_evaluate(second_stage(vqgan_dir), workdir), class_dir
    with monkeypatch.context() as patch:
        stop_at(patch, stop)
        assert not run()
    assert checkpoint.find_step(workdir).name == str(stop)
    assert run()
    assert history(workdir) == history(whole)
    saved, expected = checkpoint.load_params(workdir), checkpoint.load_params(whole)
    jax.tree.map(np.testing.assert_array_equal, saved, expected)


def test_first_stage_leaves_what_it_should(vqgan_dir):
    lines = history(vqgan_dir)
    assert [line["step"] for line in lines if "train/total_loss" in line] == list(range(1, STEPS + 1))
    measured = [line for line in lines if "val/psnr" in line]
    assert [line["step"] for line in measured] == [3, STEPS]
    assert 0 < measured[-1]["val/usage"] <= 1 and 1 <= measured[-1]["val/perplexity"] <= 64
    assert lines[0]["train/disc_factor"] == 0 and lines[STEPS - 1]["train/g_loss"] != 0
    assert pixels(Path(vqgan_dir) / "images" / f"reconstructions_{STEPS:07d}.png").shape[1] > 100
    assert "encoder/conv_in" in (Path(vqgan_dir) / "parameters.txt").read_text(encoding="utf-8")


def test_a_first_stage_is_loaded_knowing_only_its_path(vqgan_dir):
    vqgan = taming_jax.load(vqgan_dir)
    images = next(pipeline.make_batches(experiment("demo_vqgan").data, "val"))["image"]
    ids = vqgan.encode(images[:3])  # three images on eight devices
    assert ids.shape == (3, 4, 4) and ids.dtype == np.int32
    np.testing.assert_array_equal(vqgan.decode(ids), vqgan.reconstruct(images[:3]))


def test_a_second_stage_directory_stands_alone(class_dir, vqgan_dir):
    generator = taming_jax.load(class_dir, mesh=make_mesh(ONE))
    assert generator.model.condition.names[0] == pipeline.class_names(experiment("demo_vqgan").data)[0]
    images = generator.sample(2, class_label=[0, generator.model.condition.names[1]], top_k=5)
    assert images.shape == (2, 16, 16, 3) and np.isfinite(images).all()
    own = generator.first_stage.params["quantizer"]["codebook"]
    np.testing.assert_array_equal(own, checkpoint.load_params(vqgan_dir)["quantizer"]["codebook"])


def test_a_masked_prior_goes_through_the_programs(vqgan_dir, tmp_path, monkeypatch):
    """Trained, stopped and resumed, drawn, drawn again and evaluated as any other."""
    settings = second_stage(vqgan_dir, prior="masked", train={"monitor": "val/masked_nll"}, workdir="masked")
    whole, halves = str(tmp_path / "whole"), str(tmp_path / "halves")
    assert train_transformer.train_and_evaluate(settings, whole)
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        assert not train_transformer.train_and_evaluate(settings, halves)
    with pytest.raises(ValueError, match=r"another model.*config.prior: saved 'masked', given 'autoregressive'"):
        train_transformer.train_and_evaluate(second_stage(vqgan_dir), halves)
    assert train_transformer.train_and_evaluate(settings, halves)
    assert history(halves) == history(whole) and "val/masked_nll" in history(whole)[-1]
    jax.tree.map(np.testing.assert_array_equal, *(checkpoint.load_params(workdir) for workdir in (halves, whole)))
    assert checkpoint.open_saved(whole, "best").config["prior"] == "masked"
    out = draw(SampleConfig(classes="1", n=2, batch_size=2, steps=3, guidance=1.0, out=str(tmp_path / "a")), whole)
    first = sorted(Path(out).glob("00000*.png"))[0]
    assert reproduce(str(first), out=str(tmp_path / "again.png"))
    report = evaluate.evaluate(whole, str(tmp_path / "report"), 8, 8)
    assert report["transformer/masked_nll"] > 0 and "transformer/bits_per_token" not in report


def test_sampling_writes_pictures_that_can_be_drawn_again(class_dir, tmp_path, capsys):
    settings = SampleConfig(classes="1,0", per_class=3, batch_size=4, seed=1, top_p=0.9, out=str(tmp_path / "a"))
    out = draw(settings, class_dir)
    names = sorted(path.name for path in out.iterdir())
    assert len(names) == 7 and "grid.png" in names and names[0].startswith("00000_")
    assert "images/s" in capsys.readouterr().out
    again = draw(dataclasses.replace(settings, batch_size=2, out=str(tmp_path / "b")), class_dir)
    for name in names:
        np.testing.assert_array_equal(pixels(out / name), pixels(again / name))
    assert pixels(out / names[0]).shape == (16, 16, 3)


def test_pictures_of_earlier_calls_and_of_others_stay(class_dir, tmp_path):
    """Without a name each call has a folder of its own; in a named one our pictures alone are drawn over."""
    settings = SampleConfig(n=2, batch_size=2)
    folders = [draw(settings, class_dir)]
    (Path(folders[0]) / "20240131_best.png").write_bytes(b"a picture of the user's")
    before = {path: path.read_bytes() for path in Path(folders[0]).iterdir()}
    folders += [draw(dataclasses.replace(settings, seed=1), class_dir) for _ in range(2)]
    assert len({str(folder) for folder in folders}) == 3 and all((folder / "grid.png").exists() for folder in folders)
    assert {path: path.read_bytes() for path in Path(folders[0]).iterdir()} == before
    assert str(outputs.newest_folder(Path(class_dir) / "samples")) == str(folders[-1])

    named = dataclasses.replace(settings, out=str(tmp_path / "named"))
    out = Path(draw(named, class_dir))
    linked = tmp_path / "liked.png"
    linked.hardlink_to(next(out.glob("00001*.png")))
    liked = linked.read_bytes()
    draw(dataclasses.replace(named, seed=1), class_dir)
    assert linked.read_bytes() == liked != next(out.glob("00001*.png")).read_bytes()
    fresh = draw(named, class_dir, fresh=True)
    assert fresh.name == "named_2"
    Image.new("RGB", (8, 8)).save(out / "grid.png")
    theirs = (out / "grid.png").read_bytes()
    with pytest.raises(ValueError, match=r"sample.out='.*named.*grid.png' is there already, and nothing says that"):
        draw(named, class_dir)
    (out / "grid.png").unlink()
    (out / "grid.png").mkdir()
    with pytest.raises(ValueError, match=r"grid.png' cannot be written \(it is a folder\)"):
        draw(named, class_dir)
    assert len(theirs) and sorted(path.name for path in tmp_path.iterdir()) == ["liked.png", "named", "named_2"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": "unicorn"}, "class 'unicorn' is unknown; known: "),
        ({"classes": "10"}, "class 10 is out of range"),
        ({"step": "1"}, "no checkpoint of step 1"),
        ({"step": "newest"}, "checkpoint 'newest' is unknown"),
    ],
)
def test_bad_sampling_settings_are_refused(class_dir, settings, message):
    with pytest.raises(ValueError, match=message):
        draw(SampleConfig(**settings), class_dir)


def run_notebook(name, first_cell):
    """Execute the code of a notebook, its first cell replaced by settings for the test; its variables at the end."""
    cells = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    variables = {}
    for source in (first_cell, *sources[1:]):
        exec(compile(source, name, "exec"), variables)
    return variables


def test_the_notebook_that_loads_and_samples(class_dir, capsys):
    variables = run_notebook("load_and_sample", f"workdir = {class_dir!r}")
    assert "16 x 16 pixels are (4, 4) codes" in capsys.readouterr().out
    keep, ids = variables["keep"], np.asarray(variables["ids"])
    assert variables["filled"].shape == (7, 16, 16, 3) and not keep.all()
    assert variables["right"].shape == (8,) and (np.asarray(variables["right"]) < 0).all() and ids.shape == (8, 4, 4)


def test_the_notebook_that_compares_first_stages(vqgan_dir, class_dir, capsys):
    workdirs = {"a": vqgan_dir, "b": f"{class_dir}/first_stage"}
    run_notebook("compare_first_stages", f"workdirs, size = {workdirs!r}, 16")
    first, second = [line.split() for line in capsys.readouterr().out.splitlines()[-2:]]
    assert first[0] == "a" and second[0] == "b" and first[1:] == second[1:]  # the copy is the same network
    assert 5 < float(first[1]) < 60


def test_codes_in_use_are_found_and_make_a_smaller_vocabulary(vqgan_dir, tmp_path, capsys, caplog):
    caplog.set_level(logging.WARNING, "taming_jax")
    codes_used.main(["--workdir", vqgan_dir, "--out", str(tmp_path / "new" / "used"), "--batches", "2"])
    file = tmp_path / "new" / "used.npy"
    used = np.load(file)
    said = capsys.readouterr().out
    assert f"{len(used)} of 64 codes" in said and str(file) in said and list(file.parent.iterdir()) == [file]
    np.save(tmp_path / "mine.npy", np.ones((3, 3)))
    workdir = str(tmp_path / "remapped")
    settings = {"remap": str(file), "transformer": {"vocab_size": max(10, len(used))}}
    assert train_transformer.train_and_evaluate(second_stage(vqgan_dir, **settings), workdir)
    generator = taming_jax.load(workdir)
    assert generator.model.n_codes == len(used) and generator.first_stage.config.remap == tuple(used)
    assert int(generator.sample_ids(4, class_label=1).max()) < len(used)
    assert not caplog.records
    for wrong, message in (
        (("--out", str(file / "used.npy")), "cannot be written"),
        (("--out", str(tmp_path / "mine")), "mine.npy' is there already, and nothing says that this program wrote it"),
        (("--out", "used.npy", "--batches", "0"), "--batches=0, but it must be at least 1"),
    ):
        with pytest.raises(SystemExit):
            codes_used.main(["--workdir", "not read yet", *wrong])
        assert message in capsys.readouterr().err
    np.save(file, np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"expected a list of codes"):
        train_transformer.train_and_evaluate(second_stage(vqgan_dir, **settings), str(tmp_path / "other"))
    assert train_transformer.train_and_evaluate(second_stage(vqgan_dir, **settings), workdir)  # has its own copy


def test_codes_without_a_table_go_all_the_way_and_ids_in_two_parts(tmp_path, capsys):
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    settings = experiment("modern_vqgan", "lfq18,tiny", loss={"disc_weight": 0.0, "guard": 0.0, "lecam_weight": 0.0})
    assert train_vqgan.train_and_evaluate(settings, first)
    uses = [line["train/usage_recent"] for line in history(first) if "train/usage_recent" in line]
    assert len(uses) == STEPS and 0 < uses[0] <= max(uses) <= 1
    codes_used.main(["--workdir", first, "--out", str(tmp_path / "used"), "--batches", "1"])
    assert "of 64 codes" in capsys.readouterr().out
    settings = experiment("modern_class", "lfq18,tiny", first_stage=first)
    assert train_transformer.train_and_evaluate(settings, second)
    losses = [line["train/loss"] for line in history(second) if "train/loss" in line]
    np.testing.assert_allclose(losses[0], np.log(64), rtol=1e-4)  # both parts' heads start at zero
    assert losses[-1] < losses[0]
    generator = taming_jax.load(second)
    config = generator.model.gpt.config
    assert (config.factors, config.vocab_size) == ((8, 8), 64) and "token" not in generator.params
    assert "quantizer" not in generator.first_stage.params
    ids = generator.sample_ids(2, class_label=[0, 1], guidance=1.5)
    assert ids.max() < 64 and np.isfinite(generator.decode(ids)).all()
    for workdir, message in ((first, "quantizer='lfq': the original has none of this kind"), (second, "factors")):
        with pytest.raises(ValueError, match=message):
            export(workdir, tmp_path / "out.ckpt")


def test_training_can_start_from_another_model(vqgan_dir, tmp_path):
    workdir = str(tmp_path)
    settings = experiment("demo_vqgan", loss=ADVERSARIAL, init_from=vqgan_dir, optimizer={"learning_rate": 1e-9})
    settings = dataclasses.replace(settings, train=dataclasses.replace(settings.train, steps=1, image_every=1))
    assert train_vqgan.train_and_evaluate(settings, workdir)
    start, end = checkpoint.load_params(vqgan_dir), checkpoint.load_params(workdir)
    away = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), start, end)
    # the codebook has followed the latents for a step, a small part of the way
    assert 0 < away.pop("quantizer")["codebook"] < 0.2 * np.abs(start["quantizer"]["codebook"]).max()
    assert max(jax.tree.leaves(away)) < 1e-6
    discs = [checkpoint.load_discriminator(path)["params"] for path in (vqgan_dir, workdir)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *discs)
    gone = dataclasses.replace(settings, init_from=str(tmp_path / "gone"))
    assert train_vqgan.train_and_evaluate(gone, workdir)  # to go on, the other model need not be there any more
    wider = dataclasses.replace(settings, model=dataclasses.replace(settings.model, ch=32))
    with pytest.raises(ValueError, match=r"config.init_from holds another network"):
        train_vqgan.train_and_evaluate(wider, str(tmp_path / "wider"))
    groups = dataclasses.replace(settings, model=dataclasses.replace(settings.model, norm_groups=4))
    with pytest.raises(ValueError, match=r"model.norm_groups is 8 there, 4 here"):
        train_vqgan.train_and_evaluate(groups, str(tmp_path / "groups"))


def test_a_second_stage_starts_from_one_with_the_same_heads(vqgan_dir, class_dir, tmp_path):
    with pytest.raises(ValueError, match=r"init_from=.* holds no second stage"):
        train_transformer.train_and_evaluate(second_stage(vqgan_dir, init_from=vqgan_dir), str(tmp_path))
    other = second_stage(vqgan_dir, init_from=class_dir, transformer={"n_head": 2})
    with pytest.raises(ValueError, match=r"transformer.n_head is \d there, 2 here"):
        train_transformer.train_and_evaluate(other, str(tmp_path))


def test_sampling_without_a_second_stage_is_refused(vqgan_dir, tmp_path):
    with pytest.raises(ValueError, match="no checkpoint directory at"):
        draw(SampleConfig(), str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="holds no second stage, but a first stage"):
        draw(SampleConfig(), vqgan_dir)
    with pytest.raises(ValueError, match="is the configuration of a first stage; name the second's"):
        sample.main(importlib.import_module("configs.demo_vqgan").get_config(), vqgan_dir)


def test_the_report_of_a_second_stage(class_dir, tmp_path):
    figures = evaluate.evaluate(class_dir, str(tmp_path), samples=20, batch_size=8)
    assert {"reconstruction/psnr", "transformer/nll", "samples/class_read_right"} <= set(figures)
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == figures
    for name in ("reconstructions", "samples", "completions"):
        assert (tmp_path / f"{name}.png").exists() and f"{name}.png" in (tmp_path / "report.md").read_text(
            encoding="utf-8"
        )
    logged = [line["val/nll"] for line in history(class_dir) if "val/nll" in line][-1]
    np.testing.assert_allclose(figures["transformer/nll"], logged, rtol=1e-5)
    for settings, message in (({"samples": -1}, "--samples=-1"), ({"batch_size": 6}, "--batch_size=6 .* 8 devices")):
        with pytest.raises(ValueError, match=message):
            evaluate.evaluate(class_dir, str(tmp_path / "none"), **{"samples": 0, "batch_size": 8, **settings})
    assert not (tmp_path / "none").exists()


def test_the_page_about_trainings_and_pictures_holds_everything(vqgan_dir, class_dir, tmp_path, monkeypatch, capsys):
    drawn, results, page = tmp_path / "drawn", tmp_path / "results", tmp_path / "pages" / "report.html"
    drawn.mkdir(), results.mkdir(), page.parent.mkdir()
    for name in ("00000", "00001_<b>"):
        Image.new("RGB", (8, 8)).save(drawn / f"{name}.png")
    (results / "samples.json").write_text(json.dumps({"fid": 1.25, "protocol": {"n": 3}}), encoding="utf-8")
    command = ["html_report", vqgan_dir, class_dir, str(drawn), str(results), "--out", str(page), "--next", "a < b"]
    monkeypatch.setattr(sys, "argv", command)
    html_report.main()
    text = page.read_text(encoding="utf-8")
    assert "open it in a browser" in capsys.readouterr().out
    for part in ("val/psnr: from", "train/loss: from", "<td>fid</td><td>1.25</td>", "2 pictures", "a &lt; b"):
        assert part in text
    assert text.count("data:image/png;base64,") >= 4 and "<script" not in text and "http" not in text
    monkeypatch.setattr(sys, "argv", ["html_report", str(tmp_path / "pages" / "none")])
    with pytest.raises(SystemExit):
        html_report.main()
    assert "holds no training, no results and no pictures" in capsys.readouterr().err


def test_the_page_tells_times_and_the_newest_picture_as_they_were_logged(class_dir, tmp_path, monkeypatch):
    """Not as the times of files are, which a copy changes; and nothing where an older version has logged no times."""
    copy, page = tmp_path / "Zürich <1>", tmp_path / "report.html"
    shutil.copytree(class_dir, copy)
    for step, name in ((9, "a"), (10, "samples"), (2, "z")):
        Image.new("RGB", (8, 8)).save(copy / "images" / f"{name}_{step}.png")
    for path in sorted(copy.rglob("*"), reverse=True):
        os.utime(path, (path.stat().st_size, 1e9 - path.stat().st_size))
    lasting = json.dumps({"seconds": 600.0, "step": checkpoint.open_saved(class_dir).step})
    said = []
    for times in (lasting + "\n" + lasting.replace("600.0", "660.0"), '{"seconds": 1.0, "step": 0}', None):
        (copy / "times.jsonl").unlink(missing_ok=True)
        if times:
            (copy / "times.jsonl").write_text(times, encoding="utf-8")
        monkeypatch.setattr(sys, "argv", ["html_report", str(copy), "--out", str(page)])
        html_report.main()
        text = page.read_text(encoding="utf-8")
        assert "<p>samples_10</p>" in text and "Zürich &lt;1&gt;" in text
        said.append(re.search(r"steps[^<]*", text)[0])
    assert said == ["steps, 11.0 minutes.", "steps.", "steps."]
    page.write_text("<html>mine</html>", encoding="utf-8")
    with pytest.raises(SystemExit):
        html_report.main()
    assert page.read_text(encoding="utf-8") == "<html>mine</html>"


def test_samples_are_judged_in_batches_of_one_size(monkeypatch):
    drawn = []

    class Model:
        training_pixels = (16, 16)

        def parse_condition(self, n, *, class_label):
            return {"class_label": class_label}

        def draw(self, request):
            drawn.append((request.n, request.first))
            right = request.first + np.arange(request.n) < 15  # from the sixteenth on none is
            return np.where(right, request.batch["class_label"], -1)

        def decode(self, ids):
            return ids

    monkeypatch.setitem(KNOWN, "demo", KNOWN["demo"]._replace(read_class=lambda images: images, n_classes=10))
    assert evaluate.class_accuracy(Model(), 20, Filters(), 8, "demo") == 0.75
    assert drawn == [(8, 0), (8, 8), (8, 16)]


def test_pictures_leave_out_the_padding_of_a_batch(vqgan_dir):
    first_stage = taming_jax.load(vqgan_dir, mesh=make_mesh(ONE))
    data = experiment("demo_vqgan", data={"n_val": 3}).data
    measure = evaluation.FirstStageEvaluation(first_stage.model, data, first_stage.mesh)
    pictures, _ = measure.pictures(first_stage.params)["reconstructions"]
    assert pictures.shape == (6, 16, 16, 3) and evaluation.columns(data) == 3
    scenes = next(pipeline.make_batches(data, "val"))["image"][:3]
    np.testing.assert_array_equal(pictures[:3], scenes)


def test_second_stage_on_eight_devices_is_that_on_one(vqgan_dir, class_dir, tmp_path):
    mesh = {"data": 2, "fsdp": 2, "tensor": 2}
    assert train_transformer.train_and_evaluate(second_stage(vqgan_dir, mesh=mesh, train={"steps": 2}), str(tmp_path))
    one, eight = history(class_dir), history(tmp_path)
    for step in range(2):
        np.testing.assert_allclose(one[step]["train/loss"], eight[step]["train/loss"], rtol=1e-4)


def test_averaged_weights_and_layers_in_one_array_are_loaded_as_any(vqgan_dir, tmp_path):
    settings = {"transformer": {"scan_layers": True, "remat": "block"}, "train": {"steps": 2}}
    settings["optimizer"] = {"ema_decay": 0.9, "accumulate": 2}
    assert train_transformer.train_and_evaluate(second_stage(vqgan_dir, **settings), str(tmp_path))
    model = taming_jax.load(str(tmp_path))
    assert model.sample_ids(1, class_label=0).shape == (1, *model.model.grid)
    saved = checkpoint.find_step(str(tmp_path))
    last = unstack_layers(checkpoint.read.load_tree(saved, "params"))["block_1"]["mlp"]["up"]["kernel"]
    averaged = unstack_layers(checkpoint.read.load_tree(saved, "train", only=("averages",))["averages"])
    found = np.asarray(model.params["block_1"]["mlp"]["up"]["kernel"])
    np.testing.assert_array_equal(found, averaged["block_1"]["mlp"]["up"]["kernel"])
    assert (found != last).any()
    again = second_stage(vqgan_dir, init_from=str(tmp_path), **settings)
    start = again.training(dataclasses.replace(model.model, gpt=GPT(again.transformer))).start()
    assert start["params"]["blocks"]["mlp"]["up"]["kernel"].shape[1:] == found.shape
    assert start["averages"] is start["params"]


def test_a_loss_that_is_not_finite_stops_and_leaves_the_last_checkpoint(vqgan_dir, tmp_path, monkeypatch):
    make_batches = pipeline.make_batches

    def batches(data, split, **options):
        for number, batch in enumerate(make_batches(data, split, **options), 1):
            broken = split == "train" and number == 5
            yield {**batch, "image": batch["image"] * np.float32(np.nan)} if broken else batch

    monkeypatch.setattr(pipeline, "make_batches", batches)
    with pytest.raises(FloatingPointError, match=r"step 5: \w+ is nan. The checkpoint of step 3 is intact"):
        train_vqgan.train_and_evaluate(experiment("demo_vqgan", loss=ADVERSARIAL), str(tmp_path))
    assert checkpoint.find_step(str(tmp_path)).name == "3"
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(checkpoint.load_params(str(tmp_path))))


def test_another_model_in_the_workdir_is_refused(vqgan_dir):
    with pytest.raises(ValueError, match=r"config\.model\.n_embed: saved 64, given 32"):
        train_vqgan.train_and_evaluate(experiment("demo_vqgan", model={"n_embed": 32}), vqgan_dir)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"batch_size": 6}, "mesh": {"data": 4}}, r"batch_size=6 .* not divisible by the 4 devices"),
        ({"data": {"size": 18}}, r"config\.data\.size=18: .* not divisible by the factor 4"),
        ({"data": {"sizes": (32, 18)}}, r"config\.data\.size=18: .* not divisible by the factor 4"),
        ({"model": {"in_channels": 1, "out_channels": 1}}, r"in_channels=1, but the data's image has 3 channels"),
        (
            {"model": {"in_channels": 5, "out_channels": 5, "content": "segmentation"}, "loss": {"disc_weight": 0.0}},
            r"in_channels=5, but the data's segmentation has 12 channels",
        ),
        ({"data": {"source": "folder", "path": "/nonexistent"}}, r"/nonexistent"),
        ({"loss": {"perceptual_weight": 1.0, "lpips_path": "nowhere.npz"}}, r"nowhere\.npz"),
    ],
)
def test_bad_training_settings_are_refused_before_anything_long(tmp_path, monkeypatch, sections, message):
    monkeypatch.setattr(loop, "train", lambda **_: pytest.fail("training began"))
    with pytest.raises(ValueError, match=message):
        train_vqgan.train_and_evaluate(experiment("demo_vqgan", **sections), str(tmp_path))


def test_stages_that_do_not_fit_are_refused(vqgan_dir, tmp_path):
    with pytest.raises(ValueError, match=r"vocab_size=40, but the first stage has 64 codes"):
        train_transformer.train_and_evaluate(second_stage(vqgan_dir, transformer={"vocab_size": 40}), str(tmp_path))
    with pytest.raises(ValueError, match=r"no checkpoint directory at 'nowhere'"):
        train_transformer.train_and_evaluate(second_stage("nowhere"), str(tmp_path))
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"holds a first stage; choose another --workdir"):
        train_transformer.train_and_evaluate(second_stage(vqgan_dir), vqgan_dir)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_k": 0}, "top_k=0"),
        ({"temperature": -1}, "temperature"),
        ({"guidance": 2.0}, r"config\.sample\.guidance=2\.0, but without config\.condition_dropout"),
    ],
)
def test_filters_are_checked_with_the_other_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        experiment("demo_class", sample=settings)


def test_drawing_leaves_no_second_copy_of_the_weights(class_dir):
    """Training draws in between, and needs the memory of the weights that it drew with."""
    generator = taming_jax.load(class_dir, mesh=make_mesh(ONE))
    measure = evaluation.GeneratorEvaluation(generator.sampler, experiment("demo_class").data)
    params = jax.tree.map(jax.numpy.copy, generator.params)
    copies = [weakref.ref(leaf) for leaf in jax.tree.leaves(params)]
    assert set(measure.pictures(params, Filters())) == {"samples", "completions"}
    del params
    gc.collect()
    assert all(copy() is None for copy in copies)


def test_a_bad_array_anywhere_in_the_state_is_not_saved(vqgan_dir, tmp_path, monkeypatch):
    run_hooks = loop._run_hooks

    def poisoned(hooks, state, number, report):
        if number == STEPS:  # after the last step's losses, before its save
            count = state.ema["quantizer"]["count"]
            state.ema["quantizer"]["count"] = count * np.float32(np.nan)
        return run_hooks((), state, number, report)

    monkeypatch.setattr(loop, "_run_hooks", poisoned)
    settings = experiment("demo_vqgan", model={"quantizer": "ema"}, loss={"disc_weight": 0.0})
    with pytest.raises(FloatingPointError, match=r"step 6: an array of the state .* checkpoint of step 3 is intact"):
        train_vqgan.train_and_evaluate(settings, str(tmp_path))
    assert checkpoint.find_step(str(tmp_path)).name == "3"


@pytest.mark.parametrize(
    ("mesh", "loss", "sizes"),
    [
        ({"data": 1, "fsdp": 1}, ADVERSARIAL, ()),
        ({"data": 2, "fsdp": 4}, {"disc_weight": 0.0}, ()),
        ({"data": 1, "fsdp": 1}, {"disc_weight": 0.0}, (24, 16)),
    ],
)
def test_a_training_step_compiles_once_for_a_size_and_keeps_its_layout(tmp_path, mesh, loss, sizes, caplog):
    states = []
    settings = experiment("demo_vqgan", mesh=mesh, loss=loss, data={"sizes": sizes}, train={"eval_every": 1})
    original = loop._run_hooks

    def record(hooks, state, *rest):
        states.append(jax.tree.map(lambda leaf: leaf.sharding, state))
        return original((), state, *rest)

    with pytest.MonkeyPatch.context() as patch, jax.log_compiles():
        patch.setattr(loop, "_run_hooks", record)
        train_vqgan.train_and_evaluate(settings, str(tmp_path))
    assert sum(message.startswith("Compiling jit(step)") for message in caplog.messages) == max(1, len(sizes))
    assert states[0] == states[-1]
    kernel = states[0].params["decoder"]["conv_out"]["kernel"]
    assert kernel.mesh.shape["fsdp"] == mesh["fsdp"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train_vqgan.py --config=configs/demo_vqgan.py --config.model.chh=3", 'Did you mean "ch" instead of "chh"'),
        ("train_vqgan.py --config=configs/demo_vqgan.py --config.model.ch=abc", "--config.model.ch=abc"),
        ("train_transformer.py --config=configs/none.py", "No such file or directory"),
        ("sample.py --config=configs/imagenet_cond.py --workdir=nowhere", "error: no checkpoint directory at 'now"),
    ],
)
def test_a_bad_command_line_ends_with_an_error_and_no_traceback(arguments, message):
    root = Path(__file__).parent.parent
    result = subprocess.run(
        [sys.executable, *arguments.split()], cwd=root, capture_output=True, text=True, timeout=300, encoding="utf-8"
    )
    assert result.returncode != 0 and message in result.stderr and "Traceback" not in result.stderr


def test_unknown_keys_are_named():
    with pytest.raises(ValueError, match=r"config.model has unknown key\(s\) chanels; known keys: .*ch_mult"):
        experiment("demo_vqgan", model={"chanels": 3})
    with pytest.raises(ValueError, match=r"unknown configuration argument 'tyni'; known: 16384, f8, tiny"):
        experiment("imagenet_vqgan", arg="tyni")
