"""Models as hubs keep them: written by loaded models, read by `load`, from a folder or through huggingface_hub."""

import json
import shutil
import sys
import types

import ml_dtypes
import numpy as np
import pytest
import torch
from golden import weights
from safetensors.numpy import load_file
from safetensors.torch import save_file as save_torch
from test_formats import drawing  # noqa: F401  # a fixture

import taming_jax
from taming_jax import checkpoint, compile_for
from taming_jax.checkpoint import open_saved
from taming_jax.trained import fingerprint


@pytest.fixture(scope="module")
def saved(drawing, tmp_path_factory):  # noqa: F811
    folder, arrays = drawing
    out = tmp_path_factory.mktemp("hub") / "small-faces"
    model = taming_jax.load(str(folder / "out"))
    model.save_pretrained(out, licence="mit", data="Codes drawn at random.", metrics={"fid": 2.18}, words="A test.")
    return out, model, arrays


def test_it_draws_as_before(saved):
    out, _, arrays = saved
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "config.json",
        "first_stage",
        "model.safetensors",
    ]
    again = taming_jax.load(str(out))
    ids = again.sample_ids(3, class_label=arrays["class_label"], temperature=0)
    np.testing.assert_array_equal(ids, arrays["greedy"])
    flat = load_file(out / "model.safetensors")
    np.testing.assert_array_equal(flat["token/embedding"], weights(arrays)["tok_embeddings.weight"])
    alone = taming_jax.load(str(out / "first_stage"))
    images = np.clip(again.decode(ids), -1, 1)
    np.testing.assert_array_equal(alone.encode(images), again.first_stage.encode(images))


def test_the_card_says_data_settings_metrics_and_licence(saved):
    text = (saved[0] / "README.md").read_text(encoding="utf-8")
    for part in ("license: mit", "library_name: taming_jax", "# small-faces", "Codes drawn at random.", "fid: 2.18"):
        assert part in text
    for part in ("A test.", "- `n_layer`: `3`", "Converted from gpt.pt (llamagen)", "## Licence\n\nmit"):
        assert part in text


def test_a_used_folder_and_foreign_ones_are_refused(saved, tmp_path):
    out, model, _ = saved
    with pytest.raises(ValueError, match="holds something already; name a new folder"):
        model.save_pretrained(out)
    with pytest.raises(ValueError, match=r"leave the step out"):
        taming_jax.load(str(out), step=3)
    shutil.copytree(out, tmp_path / "foreign")
    (tmp_path / "foreign/config.json").write_text(json.dumps({"model_type": "gpt2"}), encoding="utf-8")
    with pytest.raises(ValueError, match="holds a model of another library"):
        taming_jax.load(str(tmp_path / "foreign"))
    shutil.copytree(out, tmp_path / "damaged")
    (tmp_path / "damaged/model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(ValueError, match=r"model.safetensors' is damaged"):
        taming_jax.load(str(tmp_path / "damaged"))
    model.saved, kept = None, model.saved
    with pytest.raises(ValueError, match="was not loaded from a checkpoint"):
        model.save_pretrained(tmp_path / "new")
    model.saved = kept


def test_hf_paths_go_through_huggingface_hub(saved, monkeypatch):
    asked = []

    def snapshot_download(name, *, revision, allow_patterns):
        asked.append((name, revision))
        assert "*model.safetensors" in allow_patterns
        if name == "nobody/nothing":
            raise OSError("404 Client Error.\nRepository not found")
        return str(saved[0])

    stand_in = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", stand_in)
    assert open_saved("hf://me/small-faces").kind == "two_stage"
    assert open_saved("hf://me/small-faces@v1.0").path == str(saved[0])
    assert asked == [("me/small-faces", None), ("me/small-faces", "v1.0")]
    with pytest.raises(ValueError, match="'hf://nobody/nothing' could not be fetched: 404 Client Error"):
        open_saved("hf://nobody/nothing")
    with pytest.raises(ValueError, match="names no model of a hub; expected hf://OWNER/NAME"):
        open_saved("hf://small-faces")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match="needs the package huggingface_hub; pip install huggingface_hub"):
        open_saved("hf://me/small-faces")


def test_a_model_is_named_in_the_same_ways_everywhere(saved, monkeypatch):
    """Also where no model is made of it, but its settings or arrays are read."""
    out, model, _ = saved
    monkeypatch.setitem(
        sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=lambda *_, **__: str(out))
    )
    network, there = model.first_stage.model, model.saved.path + "/first_stage"
    digest = fingerprint._network(network, there)["parameters"]
    for name in (str(out / "first_stage"), there):
        assert checkpoint.has_model(name)
        assert fingerprint._network(network, name)["parameters"] == digest
        assert compile_for._network(name, "config.first_stage").config == network.config
    assert checkpoint.has_model("landscapes/first_stage") and checkpoint.has_model("hf://me/small-faces")
    assert compile_for._network("landscapes/first_stage", "config.first_stage").config.norm_groups == 8
    assert not checkpoint.has_model(str(out.parent / "nowhere"))
    with pytest.raises(
        ValueError, match=r"is a file, and no directory of a model \(it is a file of safetensors\); python -m"
    ):
        taming_jax.load(str(out / "model.safetensors"))
    assert checkpoint.beside("runs/x", "samples") == "runs/x/samples"
    with pytest.raises(ValueError, match=r"'hf://me/small-faces' is on a hub, where no samples can be written; name a"):
        checkpoint.beside("hf://me/small-faces", "samples")


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float16"])
def test_a_model_of_a_hub_in_small_floats(saved, tmp_path, dtype):
    out, _, _ = saved
    folder = shutil.copytree(out / "first_stage", tmp_path / "small")
    arrays = load_file(folder / "model.safetensors")
    small = {name: array.astype(getattr(ml_dtypes, dtype, np.float16)) for name, array in arrays.items()}
    tensors = {name: torch.from_numpy(array).to(getattr(torch, dtype)) for name, array in arrays.items()}
    save_torch(tensors, folder / "model.safetensors")
    codebook = open_saved(str(folder)).load_params()["quantizer"]["codebook"]
    assert codebook.dtype == np.float32
    np.testing.assert_array_equal(codebook, small["quantizer/codebook"].astype(np.float32))
