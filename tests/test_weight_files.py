"""Checkpoints in several files, and under other names: by their folder, by a file, by their index."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from projects import gpt
from safetensors.numpy import load_file, save_file
from torch_stages import Diffusers, Stage

import taming_jax
from taming_jax.convert.__main__ import main
from taming_jax.convert.original.names import Networks, table_of
from taming_jax.convert.weights import read_weights
from taming_jax.convert.writer import write_checkpoint
from taming_jax.models.gpt import GPTConfig

STEM = "diffusion_pytorch_model"
SETTINGS = {"_class_name": "VQModel", "block_out_channels": [32, 32], "latent_channels": 4, "num_vq_embeddings": 30}
SETTINGS |= {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    found = Stage(Diffusers, (32, 32), 1, 4, 4, 30).state_dict()
    return {name: value.numpy() for name, value in found.items()}


def write(path, arrays):
    save_file(arrays, path) if path.suffix == ".safetensors" else write_checkpoint(path, arrays)


def folder_of(folder, arrays, name):
    """A directory of diffusers whose arrays are in the file `name`; "{}" in it: in three files, with an index."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SETTINGS), encoding="utf-8")
    if "{}" not in name:
        write(folder / name, arrays)
        return folder
    split(folder, arrays, name, f"{name.replace('{}', '')}.index.json")
    return folder


def split(folder, arrays, name, index=""):
    names, places = sorted(arrays), {}
    for i in range(3):
        file = name.format(f"-{i + 1:05d}-of-00003")
        write(folder / file, {n: arrays[n] for n in names[i::3]})
        places |= dict.fromkeys(names[i::3], file)
    if index:
        (folder / index).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}), encoding="utf-8")


# The name of the file or files, and what is given to the command, "" for the folder.
FORMS = (
    (f"{STEM}.safetensors", ""),
    (f"{STEM}.fp16.safetensors", ""),
    (f"{STEM}.fp16.safetensors", f"{STEM}.fp16.safetensors"),
    (f"{STEM}.non_ema.bin", ""),
    (f"{STEM}{{}}.safetensors", ""),
    (f"{STEM}{{}}.safetensors", f"{STEM}.safetensors.index.json"),
    (f"{STEM}{{}}.safetensors", f"{STEM}-00002-of-00003.safetensors"),
    (f"{STEM}{{}}.bin", ""),
    (f"{STEM}.fp16{{}}.safetensors", ""),
    (f"{STEM}{{}}.fp16.safetensors", ""),
    ("model{}.safetensors", ""),
    ("any name.safetensors", "any name.safetensors"),
    (f"{STEM}.safetensors", "config.json"),
)


@pytest.mark.parametrize(("name", "given"), FORMS)
def test_a_model_of_diffusers_in_every_form(tmp_path, state, capsys, name, given):
    arrays = {n: a.astype(np.float16) if "fp16" in name else a for n, a in state.items()}
    folder = folder_of(tmp_path / "vqvae", arrays, name)
    main([str(folder / given), str(tmp_path / "out")])
    printed = capsys.readouterr().out
    files = [path for path in folder.iterdir() if path.name != "config.json" and not path.name.endswith(".index.json")]
    assert all(f"  {path}\n" in printed for path in files)
    params = taming_jax.load(str(tmp_path / "out")).params
    np.testing.assert_array_equal(params["quantizer"]["codebook"], arrays["quantize.embedding.weight"])
    kernel = arrays["decoder.conv_out.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(params["decoder"]["conv_out"]["kernel"], kernel)
    if "fp16.safetensors" in name and not given:
        main(["--export", str(tmp_path / "out"), str(tmp_path / "back")])
        (file,) = (tmp_path / "back").glob("*.safetensors")
        back = load_file(file)
        assert all((back[n] == a).all() and back[n].dtype == a.dtype for n, a in arrays.items())


def test_the_file_that_is_named_is_read_and_the_plain_one_is_preferred(tmp_path, state):
    folder = folder_of(tmp_path / "vqvae", state, f"{STEM}.safetensors")
    other = {name: array + 1 for name, array in state.items()}
    for name in (f"{STEM}.bin", f"{STEM}.fp16.safetensors"):
        write(folder / name, other)
    codes = lambda out: taming_jax.load(str(out)).params["quantizer"]["codebook"]
    main([str(folder), str(tmp_path / "plain")])
    np.testing.assert_array_equal(codes(tmp_path / "plain"), state["quantize.embedding.weight"])
    main([str(folder / f"{STEM}.bin"), str(tmp_path / "named")])
    np.testing.assert_array_equal(codes(tmp_path / "named"), other["quantize.embedding.weight"])


def test_two_variants_are_refused_with_their_names(tmp_path, state):
    folder = folder_of(tmp_path / "vqvae", state, f"{STEM}.fp16.safetensors")
    write(folder / f"{STEM}.bf16.safetensors", state)
    with pytest.raises(SystemExit, match=rf"name one of them: {STEM}\.bf16\.safetensors, {STEM}\.fp16\.safetensors"):
        main([str(folder), str(tmp_path / "out")])


@pytest.mark.parametrize("with_index", [True, False])
def test_parts_that_are_missing_are_named(tmp_path, state, with_index):
    folder = folder_of(tmp_path / "vqvae", state, f"{STEM}{{}}.safetensors")
    (folder / f"{STEM}-00002-of-00003.safetensors").unlink()
    if not with_index:
        (folder / f"{STEM}.safetensors.index.json").unlink()
    with pytest.raises(
        SystemExit, match=rf"of 3 files, and these are missing: {STEM}-00002-of-00003\.safetensors; get"
    ):
        main([str(folder), str(tmp_path / "out")])


@pytest.mark.parametrize("place", ["../x.safetensors", "/etc/x.safetensors", "a/../../x", "..\\x", "C:\\x", "~/x", ""])
def test_an_index_cannot_point_outside_of_its_folder(tmp_path, state, place):
    folder = folder_of(tmp_path / "vqvae", state, f"{STEM}{{}}.safetensors")
    write(tmp_path / "x.safetensors", state)
    index = folder / f"{STEM}.safetensors.index.json"
    found = json.loads(index.read_text(encoding="utf-8"))
    found["weight_map"]["encoder.conv_in.weight"] = place
    index.write_text(json.dumps(found), encoding="utf-8")
    with pytest.raises(SystemExit, match="which is outside of its folder; refused"):
        main([str(index), str(tmp_path / "out")])


@pytest.mark.parametrize("content", ["[]", "{", '{"weight_map": 5}', '{"weight_map": {"a": 5}}', "[" * 9000])
def test_an_index_that_is_none(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_text(content, encoding="utf-8")
    with pytest.raises(SystemExit, match=r"model\.safetensors\.index\.json is no index of a checkpoint"):
        main([str(tmp_path), str(tmp_path / "out")])


def test_index_and_files_must_agree(tmp_path, state, capsys):
    folder = folder_of(tmp_path / "vqvae", state, f"{STEM}{{}}.safetensors")
    part = folder / f"{STEM}-00001-of-00003.safetensors"
    arrays = load_file(part)
    save_file({**arrays, "more": np.zeros(2)}, part)
    read = read_weights(folder / f"{STEM}.safetensors.index.json")
    assert read.state.keys() == state.keys() and len(read.files) == 4
    assert "1 arrays of diffusion_pytorch_model-00001-of-00003.safetensors are left out" in read.notes[0]
    arrays.pop(first := sorted(arrays)[0])
    save_file(arrays, part)
    with pytest.raises(
        SystemExit, match=rf"{part.name} lacks what {STEM}\.safetensors\.index\.json says of it: {first}"
    ):
        main([str(folder), str(tmp_path / "out")])


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
@pytest.mark.parametrize("given", ["", "index", "part"])
def test_a_transformer_of_the_original_in_several_files(tmp_path, ending, given):
    sizes = GPTConfig(vocab_size=64, block_size=9, n_layer=1, n_head=4, n_embd=64)
    table = table_of(Networks(transformer=sizes))
    rng = np.random.default_rng(0)
    arrays = {entry.source: rng.normal(size=entry.source_shape).astype(np.float32) for entry in table.entries}
    folder = tmp_path / "gpt"
    folder.mkdir()
    name = f"model{{}}.{ending}"
    split(folder, arrays, name, f"model.{ending}.index.json" if given != "part" else "")
    (folder / "config.yaml").write_text(
        yaml.safe_dump({"transformer_config": gpt(block_size=9, n_layer=1)}), encoding="utf-8"
    )
    source = {"": "", "index": f"model.{ending}.index.json", "part": name.format("-00003-of-00003")}[given]
    main([str(folder / source), str(tmp_path / "out")])
    params = taming_jax.load(str(tmp_path / "out")).params
    np.testing.assert_array_equal(params["token"]["embedding"], arrays["transformer.tok_emb.weight"])
    shutil.rmtree(folder)
