"""The benchmark of training, on networks too small to say anything about speed."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import train

QUICK = ["--no-peer", "--steps", "1", "--repeat", "1", "--warm", "0", "--batch", "8"]
SHRUNK = {"resolution": 16, "ch": 4, "ch_mult": (1, 1, 1), "num_res_blocks": 1, "attn_resolutions": ()}
SHRUNK |= {"z_channels": 4, "embed_dim": 4, "norm_groups": 4}


def test_a_row_of_the_second_stage(monkeypatch, tmp_path, capsys):
    network, disc, _ = train.FIRST_STAGES["small"]
    monkeypatch.setitem(train.FIRST_STAGES, "small", (network.__class__(**SHRUNK), disc, 16))
    monkeypatch.setitem(train.TRANSFORMERS, "small", (1, 2, 32, 64, "small"))
    arguments = [
        "--stage",
        "transformer",
        *QUICK,
        "--peak",
        "1",
        "--bandwidth",
        "10",
        "--count",
        "--mesh",
        "2",
        "1",
        "1",
    ]
    [row] = train.main([*arguments, "--profile", str(tmp_path)])
    text = capsys.readouterr().out.splitlines()
    assert text[0].split()[:3] == ["stage", "model", "batch"] and text[1].split()[:2] == ["transformer", "small"]
    assert json.loads(text[-1])["rows"] == [row] and json.loads(text[-1])["devices"] == 8
    assert row["tokens/s"] == pytest.approx(16 * row["images/s"])
    assert row["mfu"] == pytest.approx(row["TFLOP/s"] / 2) and row["mfu"] > 0
    assert row["program_GB"] > 0 and 0 <= row["input_lost"] < 1
    count = row["count"]
    assert sum(count["shares"].values()) == pytest.approx(1)
    assert row["TFLOP"] == count["model_TFLOP"] < count["jaxpr_TFLOP"] < 1.5 * count["model_TFLOP"]
    assert 0.9 * count["jaxpr_TFLOP"] < count["xla_TFLOP"] < 2 * count["jaxpr_TFLOP"]
    assert list(tmp_path.rglob("*.xplane.pb")), "no trace"


def test_the_pipeline_alone(tmp_path):
    for i in range(4):
        Image.fromarray(np.full((40, 40, 3), 60 * i, np.uint8)).save(tmp_path / f"{i}.png")
    [row] = train.main(["--input", str(tmp_path), "--size", "32", "--batch", "2", "--seconds", "0.1"])
    assert (row["images"], row["size"], row["batch"]) == (4, 32, 2) and row["images/s"] > 0


def test_a_model_of_the_other_stage_is_refused(capsys):
    with pytest.raises(SystemExit):
        train.main(["--stage", "vqgan", "--model", "1.4B"])
    assert "known: vqgan: small, f16" in capsys.readouterr().err


def test_the_first_stage_is_counted_without_what_is_computed_again(monkeypatch):
    network, disc, _ = train.FIRST_STAGES["small"]
    monkeypatch.setitem(train.FIRST_STAGES, "small", (network.__class__(**SHRUNK), disc, 16))
    options = train.parse(["--remat", "block"])
    measured = train.first_stage("small", 2, options)
    training = measured.training
    shapes = jax.eval_shape(training.init, jax.random.key(0)), measured.frozen, measured.batch
    counted = train.flops.products(training.step, *shapes)
    assert 0 < measured.model_flops < sum(product.flops for product in counted)
    state, metrics = jax.eval_shape(training.step, *shapes)
    assert set(measured.losses) <= set(metrics) and jax.tree.structure(state) == jax.tree.structure(shapes[0])
    assert "LPIPS" in train.flops.by_part(counted) and "Discriminator" in train.flops.by_part(counted)
