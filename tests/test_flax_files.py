"""The VQGAN of DALL-E mini in Flax's own files: its numbers, the way back bit for bit, and what is refused."""

import json
import shutil

import msgpack
import numpy as np
import pytest
from flax.serialization import to_bytes
from flax.traverse_util import unflatten_dict
from golden import close, weights

import taming_jax
from taming_jax.convert.__main__ import main
from taming_jax.convert.flax_file import read_flax
from taming_jax.convert.formats import vqgan_jax

SETTINGS = {"architectures": ["del"], "attn_resolutions": [16], "ch": 32, "ch_mult": [2, 1], "double_z": False}
SETTINGS |= {"dropout": 0.0, "embed_dim": 16, "give_pre_end": False, "in_channels": 3, "n_embed": 96}
SETTINGS |= {"num_res_blocks": 1, "num_resolutions": 2, "out_ch": 3, "resamp_with_conv": True, "resolution": 32}
SETTINGS |= {"transformers_version": "4.46.3", "z_channels": 24}


def write(folder, state, settings=SETTINGS, below=()):
    folder.mkdir(parents=True, exist_ok=True)
    tree = unflatten_dict(state, sep=".")
    for name in below:
        tree = {name: tree, "step": np.array(3)}
    (folder / "flax_model.msgpack").write_bytes(to_bytes(tree))
    if settings is not None:
        (folder / "config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return folder


def with_old_norms(state):
    """As before Flax 0.3.6."""
    norm = lambda name: name.endswith((".scale", ".bias")) and ".norm" in name
    return {name: a.reshape(1, 1, 1, -1) if norm(name) else a for name, a in state.items()}


@pytest.mark.parametrize("form", ["new", "old norms", "below params"])
def test_its_numbers_and_the_way_back(tmp_path, golden, capsys, form):
    arrays = golden("vqgan_jax")
    state = with_old_norms(weights(arrays)) if form == "old norms" else weights(arrays)
    source = write(tmp_path / "flax", state, below=("params",) if form == "below params" else ())
    if form == "old norms":
        assert sum(array.shape[:3] == (1, 1, 1) and array.ndim == 4 for array in state.values()) > 10
    main([str(source if form == "new" else source / "flax_model.msgpack"), str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "format: vqgan-jax" in printed
    assert ("taken: the arrays of 'params'; left out: step" in printed) == (form == "below params")
    stage = taming_jax.load(str(tmp_path / "out"))
    if form == "new":
        np.testing.assert_array_equal(stage.encode(arrays["image"]), arrays["indices"])
        close(stage.decode(arrays["indices"]), arrays["reconstruction"], 1e-4)
        close(stage.decode(arrays["codes"].reshape(-1, 5, 5)), arrays["decoded_codes"], 1e-4)
    scale = state["encoder.down_0.block_0.norm1.scale"].reshape(-1)
    np.testing.assert_array_equal(stage.params["encoder"]["down_0_block_0"]["norm1"]["scale"], scale)
    main(["--export", str(tmp_path / "out"), str(tmp_path / "back")])
    back = read_flax(tmp_path / "back/flax_model.msgpack")[0]
    assert back.keys() == state.keys()
    for name, array in state.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)
    assert json.loads((tmp_path / "back/config.json").read_text(encoding="utf-8")) == SETTINGS


def test_half_precision_goes_there_and_back(tmp_path, golden):
    state = {name: array.astype(np.float16) for name, array in weights(golden("vqgan_jax")).items()}
    main([str(write(tmp_path / "flax", state)), str(tmp_path / "out")])
    main(["--export", str(tmp_path / "out"), str(tmp_path / "back"), "--format", "vqgan-jax"])
    back = read_flax(tmp_path / "back/flax_model.msgpack")[0]
    assert all(back[name].dtype == np.float16 and (back[name] == array).all() for name, array in state.items())


OTHERS = {
    "a first stage of diffusers in Flax": "encoder.down_blocks_0.resnets_0.conv1.kernel",
    "an encoder and decoder for texts, as DALL-E mini's": "model.encoder.embed_tokens.embedding",
    "a language model, as GPT-2": "transformer.h.0.attn.c_attn.kernel",
    "the tokenizer of MaskGIT": "encoder.Conv_0.kernel",
    "at its top are blob": "blob.kernel",
}


@pytest.mark.parametrize("what", OTHERS)
def test_other_networks_in_flaxs_files_are_named(tmp_path, what):
    folder = write(tmp_path / "flax", {OTHERS[what]: np.zeros((2, 2), np.float32)})
    for source in (folder, folder / "flax_model.msgpack"):
        with pytest.raises(SystemExit, match=f"it is a file of Flax, but of no VQGAN: {what}"):
            main([str(source), str(tmp_path / "out")])


def test_names_and_settings_are_strict(tmp_path, golden):
    state = weights(golden("vqgan_jax"))
    first, *_ = (name for name in state if name.endswith("q.kernel"))
    changes = {
        f"{first} is missing": {name: a for name, a in state.items() if name != first},
        r"decoder\.extra \(2,\) is unknown": {**state, "decoder.extra": np.zeros(2, np.float32)},
        "has shape": {**state, first: np.zeros((3, 3, 32, 32), np.float32)},
    }
    for i, (words, spoilt) in enumerate(changes.items()):
        with pytest.raises(SystemExit, match=words):
            main([str(write(tmp_path / str(i), spoilt)), str(tmp_path / "out")])
    for words, change in {
        "ch must be|config": {"ch": "x"},
        "the settings novel are unknown": {"novel": 1},
        "double_z=True is not supported": {"double_z": True},
        "resamp_with_conv=False is not supported": {"resamp_with_conv": False},
        "ch_mult must be a list": {"ch_mult": {"a": 1}},
    }.items():
        with pytest.raises(ValueError, match=words):
            vqgan_jax.config_of(SETTINGS | change, "config.json")
    with pytest.raises(ValueError, match="lacks ch"):
        vqgan_jax.config_of({k: v for k, v in SETTINGS.items() if k != "ch"}, "config.json")
    alone = write(tmp_path / "alone", state, None)
    with pytest.raises(SystemExit, match=r"needs its config\.json; there is none at"):
        main([str(alone), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def array(shape, name, content):
    return msgpack.ExtType(1, msgpack.packb((shape, name, content)))


HOSTILE = {
    "an array of shape .* holds 4 bytes": {"a": array((1 << 40, 1 << 40), "float32", bytes(4))},
    "an array of type b'O', which is not read": {"a": array((1,), "O", bytes(8))},
    "an array of type b'V9": {"a": array((1,), "V999999999", bytes(8))},
    "described wrongly": {"a": array((-1,), "float32", bytes(4))},
    "a value of kind 7": {"a": msgpack.ExtType(7, b"x")},
    "these entries are no arrays: a": {"a": 5},
    "exceeds max_array_len": {"a": [[]] * 9},
    "an array in pieces": {"a": {"__msgpack_chunked_array__": True, "shape": {"0": 1}}},
}


@pytest.mark.parametrize("words", HOSTILE)
def test_files_that_lie_are_refused(tmp_path, words):
    path = tmp_path / "flax_model.msgpack"
    path.write_bytes(msgpack.packb(HOSTILE[words]))
    with pytest.raises(
        ValueError, match=rf"flax_model\.msgpack is truncated, or not a file of Flax: .*{words}"
    ) as error:
        read_flax(path)
    assert "\n" not in str(error.value)


def test_deep_many_and_cut_files_are_refused(tmp_path, golden):
    path = tmp_path / "flax_model.msgpack"
    good = to_bytes(unflatten_dict({"a.b": np.arange(5.0)}, sep="."))
    files = [b"\x81\xa1a" * 900 + b"\x80", b"\x81\xa1a" * 200 + b"\x80", b"\xdf\x7f\xff\xff\xff\xa1a\x80"]
    files += [good[:length] for length in range(1, len(good))]
    files.append(b"\x81\xa1a\xdf\x00\x0f\xff\xff" + b"".join(b"\xa4" + b"%04x" % i + b"\x80" for i in range(1 << 16)))
    for data in files:
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"flax_model\.msgpack"):
            read_flax(path)
    shutil.rmtree(tmp_path)
