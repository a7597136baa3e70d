"""The models that the package carries: they are small, open by their names, and obey maps and classes."""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import taming_jax
from taming_jax.checkpoint import open_saved
from taming_jax.checkpoint.portable import PACKAGED, PRETRAINED, read_params, write_portable
from taming_jax.data.demo import DemoLandscapes
from taming_jax.data.demo.landscape_kinds import N_CLASSES
from taming_jax.data.demo.landscape_reader import read_class, read_labels
from taming_jax.trained.first_stage import FirstStage
from taming_jax.trained.generator import Generator

HELD_OUT = 1 << 20


@pytest.fixture(scope="module")
def by_map():
    return taming_jax.load("landscapes")


def test_they_are_below_12_megabytes_with_cards():
    assert sum(path.stat().st_size for path in PACKAGED.rglob("*")) < 12e6
    for name in PRETRAINED:
        card = (PACKAGED / name / "README.md").read_text(encoding="utf-8")
        assert "license: mit" in card and f"`{name}`" in card and "Procedural landscapes" in card


def test_they_open_by_name_where_the_working_folder_has_none_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Path(open_saved("landscapes").path) == PACKAGED / "landscapes"
    assert isinstance(taming_jax.load("landscapes/first_stage"), FirstStage)
    (tmp_path / "landscapes" / "report").mkdir(parents=True)  # what evaluation leaves is no model
    assert Path(open_saved("landscapes").path) == PACKAGED / "landscapes"
    (tmp_path / "landscapes" / "checkpoints").mkdir()
    with pytest.raises(ValueError, match="holds no complete checkpoint"):
        open_saved("landscapes")


def test_pictures_show_what_the_map_says_and_not_what_another_says(by_map):
    pictures = DemoLandscapes(by_map.training_pixels, 32, start=HELD_OUT)
    maps = np.stack([pictures[i]["segmentation"] for i in range(32)])
    read = read_labels(np.asarray(by_map.sample(32, segmentation=maps, temperature=0.9, top_p=0.9)))
    right, wrong = np.mean(read == maps), np.mean(read == np.roll(maps, 1, axis=0))
    assert right > 0.7 and wrong < right / 2


def test_pictures_of_a_class_are_read_as_that_class():
    model = taming_jax.load("landscapes_class")
    wanted = np.repeat(np.arange(N_CLASSES), 2)
    read = read_class(np.asarray(model.sample(len(wanted), class_label=wanted, temperature=0.9, top_p=0.9)))
    assert np.mean(read == wanted) > 0.7


def test_of_any_class_is_as_if_there_were_no_class():
    model = taming_jax.load("landscapes_class")
    free = model.sample_ids(2, class_label="any", seed=3)
    np.testing.assert_array_equal(free, model.sample_ids(2, class_label=[4, 7], guidance=0.0, seed=3))
    knows_none = Generator(dataclasses.replace(model.model, condition_dropout=0.0), model.params, model.first_stage)
    with pytest.raises(ValueError, match=r"any class .* name classes"):
        knows_none.sample_ids(2, class_label="any")


def test_half_precision_is_loaded_as_float32(by_map, tmp_path):
    by_map.save_pretrained(tmp_path / "whole")
    by_map.save_pretrained(tmp_path / "half", dtype="float16")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.55 * sizes[0]
    again = taming_jax.load(str(tmp_path / "half"))
    assert {leaf.dtype for leaf in jax.tree.leaves(again.params)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(("dtype", "close"), [("bfloat16", 1 / 128), (np.float16, 1 / 1024)])
def test_what_is_written_in_half_is_read_again(by_map, tmp_path, dtype, close):
    first = by_map.first_stage
    first.save_pretrained(tmp_path / "half", dtype=dtype)
    again = taming_jax.load(str(tmp_path / "half"))
    near = partial(np.testing.assert_allclose, rtol=close, atol=1e-6)
    jax.tree.map(near, again.params, first.params)
    assert {leaf.dtype for leaf in jax.tree.leaves(again.params)} == {jnp.dtype("float32")}
    halved = taming_jax.load(str(tmp_path / "half"), dtype=jnp.bfloat16).params
    assert {leaf.dtype for leaf in jax.tree.leaves(halved)} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize("dtype", ["int8", "float64", "float8_e4m3fn", "bool", "half precision", None])
def test_types_that_are_not_read_are_not_written(by_map, tmp_path, dtype):
    with pytest.raises(ValueError, match=r"dtype=.* is unknown; known: float32, float16, bfloat16"):
        by_map.save_pretrained(tmp_path / "new" / "whole", dtype=dtype)
    assert not (tmp_path / "new").exists()


def test_numbers_beyond_a_type_and_files_of_other_types_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"dtype='float16' cannot hold the numbers of layer/kernel; take bfloat16"):
        write_portable(tmp_path / "a", {"layer": {"kernel": np.array([1e6, 1.0], np.float32)}}, {}, "float16")
    write_portable(tmp_path / "b", {"kernel": np.array([1e6, np.inf], np.float32)}, {}, "bfloat16")
    np.testing.assert_allclose(read_params(str(tmp_path / "b"))["kernel"], [1e6, np.inf], rtol=1e-2)
    (tmp_path / "c").mkdir()
    save_file({"kernel": np.array([-1, 0, 1], np.int8)}, tmp_path / "c" / "model.safetensors")
    with pytest.raises(ValueError, match=r"arrays that are no floats: kernel \(int8\); write it anew"):
        read_params(str(tmp_path / "c"))
