"""The models that the package carries: they are small, open by their names, and obey maps and classes."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import taming_jax
from taming_jax.checkpoint import open_saved
from taming_jax.checkpoint.portable import PACKAGED, PRETRAINED
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
