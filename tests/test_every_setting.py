"""Every setting of both trainings, at another value than its default, changes what is run, or is refused by its name.

The tables name all settings. One that is new fails here until it has an entry: `Set` with a value that the probe of its
section sees (`PROBES`), or `Seen` with the test that sees it, such as one on files.
"""

import ast
import dataclasses
import functools
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import setting_probes as probes

from taming_jax.experiment import TransformerExperiment, VQGANExperiment

HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Set:
    """value: another than the default. beside: the settings, by their paths, without which it would have no effect."""

    value: Any
    beside: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Refused(Set):
    """A value that goes with nothing on this machine, and is refused by the name of the setting."""


@dataclasses.dataclass(frozen=True)
class Seen:
    """test: FILE::NAME of the test that sets it and sees what it does."""

    test: str


GUMBEL = {"model.quantizer": "gumbel"}
LFQ = {"model.quantizer": "lfq", "model.embed_dim": 4}
GRAY = {"model.in_channels": 1, "model.out_channels": 1, "loss.disc_weight": 0.0}
ENTROPY = {**LFQ, "model.entropy_weight": 0.1}
ANNEALED = {**ENTROPY, "loss.entropy_start": 2.0, "loss.entropy_steps": 9}
ATTENTION = {"model.attn_resolutions": [16]}
FEATURES = {"loss.feature_weight": 0.5}
DECAY, COSINE = {"optimizer.weight_decay": 0.1}, {"optimizer.schedule": "cosine"}
SWIGLU, ROTARY = {"transformer.mlp": "swiglu"}, {"transformer.positions": "rotary"}
BOXES = {"condition.kind": "boxes", "data.annotations": ["objects"]}
MAPS = {"condition.kind": "segmentation", "condition.stage": "elsewhere", "data.annotations": ["segmentation"]}
OBJECTS = {"data.annotations": ["objects"]}
FOLDER = {"data.source": "folder"}

MODEL: dict[str, Set | Seen] = {
    "content": Set("edges", {**GRAY, "data.channels": 1}),
    "resolution": Set(32, ATTENTION),
    "in_channels": Refused(4),
    "out_channels": Refused(4),
    "ch": Set(8),
    "ch_mult": Set([1, 2]),
    "num_res_blocks": Set(3),
    "attn_resolutions": Set([16, 8]),
    "z_channels": Set(8),
    "embed_dim": Set(8),
    "n_embed": Set(12),
    "dropout": Set(0.1),
    "norm_groups": Set(4),
    "quantizer": Set("normalized"),
    "beta": Set(0.7),
    "legacy_beta": Set(False),
    "ema_decay": Set(0.9, {"model.quantizer": "ema"}),
    "ema_restart_below": Set(0.1, {"model.quantizer": "ema"}),
    "kl_weight": Set(0.1, GUMBEL),
    "edge_sigma": Set(1.0, {**GRAY, "model.content": "edges"}),
    "remap": Seen("test_other_stages.py::test_remapped_ids_are_places_among_the_used_codes"),
    "unknown": Seen("test_quantizers.py::test_remap_goes_to_the_places_of_used_codes_and_back"),
    "dtype": Set("bfloat16"),
    "remat": Set(True),
    "attention": Set("none", ATTENTION),
    "entropy_weight": Set(0.2, LFQ),
    "entropy_temperature": Set(0.3, ENTROPY),
    "entropy_sample": Set(0.3, ENTROPY),
    "entropy_batch": Set(0.3, ENTROPY),
    "levels": Set(
        [5, 3], {"model.quantizer": "fsq", "model.embed_dim": 2, "model.levels": [3, 5], "model.n_embed": 15}
    ),
    "estimator": Set("rotation"),
    "kmeans": Set(2),
    "restart_below": Set(0.1),
    "decoder_ch": Set(8),
    "decoder_blocks": Set(3),
    "decoder_attention": Set("none", ATTENTION),
}
DISCRIMINATOR = {
    "in_channels": Refused(4),
    "ndf": Set(8),
    "n_layers": Set(2),
    "norm": Set("actnorm"),
    "dtype": Set("bfloat16"),
    "spectral": Set(True),
}
FEATURE_DISCRIMINATOR = {
    "network": Set("dinov2_vitb14", FEATURES),
    "layers": Set([3], FEATURES),
    "width": Set(64, FEATURES),
}
LOSS = {
    "perceptual_weight": Set(0.5),
    "pixel_weight": Set(0.5),
    "codebook_weight": Set(0.5),
    "disc_weight": Set(0.5),
    "disc_loss": Set("vanilla"),
    "disc_start": Set(7),
    "disc_learn_start": Set(3, {"loss.disc_start": 7}),
    "disc_ramp": Set(5),
    "adaptive_cap": Set(3.0),
    "fixed_weight": Set(True),
    "lpips_path": Set("elsewhere.npz", {"loss.perceptual_weight": 0.5}),
    "temperature_start": Set(0.5, GUMBEL),
    "temperature_max": Set(0.5, GUMBEL),
    "temperature_min": Set(0.1, GUMBEL),
    "temperature_warmup": Set(7, GUMBEL),
    "temperature_steps": Set(9000, GUMBEL),
    "entropy_start": Set(3.0, ANNEALED),
    "entropy_steps": Set(7, ANNEALED),
    "lecam_weight": Set(0.1),
    "lecam_decay": Set(0.9, {"loss.lecam_weight": 0.1}),
    "r1_weight": Set(0.1, {"discriminator.norm": "none"}),
    "guard": Set(0.5, {"loss.disc_ramp": 5}),
    "feature_weight": Set(0.3),
    "feature_path": Set("elsewhere.npz", FEATURES),
    "pixel_loss": Set("l2"),
    "augment": Set("color"),
}
OPTIMIZER = {
    "learning_rate": Set(0.1),
    "per_sample": Set(False),
    "schedule": Set("cosine"),
    "warmup": Set(5),
    "b1": Set(0.3),
    "b2": Set(0.3),
    "weight_decay": Set(0.1),
    "clip_norm": Set(0.5),
    "accumulate": Set(2),
    "ema_decay": Set(0.9),
    "decay_embeddings": Set(True, DECAY),
    "floor": Set(0.1, COSINE),
    "skip_above": Set(3.0),
}
TRANSFORMER = {
    "vocab_size": Set(40),
    "block_size": Set(90),
    "n_layer": Set(2),
    "n_head": Set(4),
    "n_embd": Set(32),
    "embedding_dropout": Set(0.1),
    "residual_dropout": Set(0.1),
    "attention_dropout": Set(0.1),
    "n_unmasked": Set(1),
    "dtype": Set("bfloat16"),
    "attention": Refused("cudnn"),
    "remat": Set("block"),
    "scan_layers": Set(True),
    "norm": Set("rms"),
    "mlp": Set("swiglu"),
    "mlp_multiple": Set(8, SWIGLU),
    "bias": Set(False),
    "positions": Set("rotary"),
    "rotary_base": Set(100.0, ROTARY),
    "qk_norm": Set(True),
    "kv_heads": Set(1),
    "condition_table": Set(True),
    "condition_size": Set(9, {"transformer.condition_table": True}),
    "zero_head": Set(True),
    "mlp_dropout": Set(0.1),
    "drop_path": Set(0.1, {"transformer.n_layer": 2}),
    "grid": Seen("test_modern_gpt.py::test_a_transformer_alone_must_be_told_its_grid"),
    "factors": Refused([4, 4]),
    "residual_dtype": Set("float32", {"transformer.dtype": "bfloat16"}),
    "target_positions": Set(True),
}
CONDITION = {
    "kind": Set("class_label", {"condition.kind": "none"}),
    "n_classes": Set(4),
    "class_names": Set(["a", "b", "c"]),
    "class_from": Set([0, 1], {**MAPS, "condition.n_classes": 2}),
    "stage": Seen("test_codes.py::test_networks_are_copied_only_where_all_fits"),
    "size": Set(8, MAPS),
    "scale": Set(2, {"condition.kind": "low_res", "condition.stage": "first_stage"}),
    "n_codes": Set(16, BOXES),
    "factor": Set(8, {"condition.kind": "coordinate", "data.annotations": ["crop"]}),
    "max_objects": Set(3, BOXES),
    "encode_crop": Set(True, {**BOXES, "data.annotations": ["objects", "crop"]}),
    "group_flag": Set(True, BOXES),
    "more_flags": Set(True, BOXES),
}
DATA = {
    "source": Set("landscapes"),
    "size": Set(24),
    "batch_size": Set(3),
    "annotations": Set(["segmentation"]),
    "path": Seen("test_folder_data.py::test_classes_come_from_subfolders"),
    "root": Seen("test_sources_sets.py::test_faces"),
    "val_path": Seen("test_folder_data.py::test_validation_folder_of_its_own"),
    "val_share": Seen("test_coco_layouts.py::test_one_file_serves_both_splits"),
    "classes": Seen("test_sources_sets.py::test_the_animals_of_the_depth_task"),
    "name": Seen("test_tfds_data.py::test_a_prepared_data_set_is_found_by_its_folder"),
    "download": Seen("test_tfds_data.py::test_it_is_downloaded_where_that_is_allowed"),
    "shuffle_buffer": Seen("test_tfds_data.py::test_the_buffer_decides_on_the_order"),
    "n_train": Set(5),
    "n_val": Set(3),
    "maps": Seen("test_sources_maps.py::test_no_map_unless_it_is_asked_for"),
    "n_labels": Seen("test_sources_maps.py::test_a_label_out_of_range_stops"),
    "unlabelled": Seen("test_sources_maps.py::test_label_map_files"),
    "depths": Seen("test_sources_maps.py::test_images_and_maps_without_each_other_are_counted"),
    "missing": Seen("test_depth.py::test_real_depth_takes_the_whole_range"),
    "max_objects": Set(3, OBJECTS),
    "min_objects": Seen("test_sources_objects.py::test_unfit_objects_and_images_are_counted"),
    "min_object_area": Seen("test_sources_objects.py::test_unfit_objects_and_images_are_counted"),
    "min_visible": Seen("test_sources_objects.py::test_whole_boxes_and_what_the_crop_hides"),
    "whole_boxes": Seen("test_sources_objects.py::test_whole_boxes_and_what_the_crop_hides"),
    "categories": Seen("test_sources_objects.py::test_categories_may_be_chosen"),
    "stuff": Seen("test_sources_objects.py::test_categories_may_be_chosen"),
    "boxes": Seen("test_coco_layouts.py::test_settings_name_what_is_not_found_by_its_place"),
    "val_boxes": Seen("test_coco_layouts.py::test_settings_name_what_is_not_found_by_its_place"),
    "channels": Set(1),
    "max_pixels": Seen("test_pixels.py::test_what_is_too_large_is_counted_with_the_setting_that_allows_it"),
    "resize": Set(20, FOLDER),
    "flip": Set(False, FOLDER),
    "random_crop": Set(False, FOLDER),
    "random_scale": Set(True, FOLDER),
    "val_resize": Set(20, FOLDER),
    "zoom": Set([1.0, 1.5], FOLDER),
    "crop_from": Set("center", {**FOLDER, "data.resize": 20}),
    "resampling": Set("adm", FOLDER),
    "seed": Set(3),
    "workers": Seen("test_cores.py::test_decoding_and_evaluation_take_as_many_threads"),
    "sizes": Set([16, 24]),
    "color_profiles": Seen("test_readings.py::test_profiles_can_be_left_out"),
}
MESH = {"data": Set(2, {"mesh.fsdp": 2}), "fsdp": Set(2), "tensor": Set(2), "dcn": Refused(3)}
VAL, QUALITY = {"train.monitor": "val/loss"}, {"train.evaluate.measures": ["rfid"]}
TRAIN = {
    "steps": Set(3),
    "seed": Set(3),
    "log_every": Set(2),
    "eval_every": Set(7),
    "image_every": Set(7),
    "save_every": Set(3, {"train.keep": 3}),
    "keep": Set(3),
    "keep_best": Set(3, VAL),
    "monitor": Set("val/loss"),
    "monitor_mode": Set("max", VAL),
    "show": Set(["loss"]),
    "allow_changes": Seen("test_loop.py::test_changes_are_told_or_refused"),
    "heartbeat_timeout": Set(7),
    "compilation_cache": Set("elsewhere"),
    "profiler_port": Set(9012),
}
IN_TRAINING = "test_evaluate.py::test_a_second_stage_in_training_draws_and_measures"
REFUSED_IN_TRAINING = "test_evaluate.py::test_what_a_training_cannot_measure_is_refused_before_it_begins"
EVALUATE = {
    "measures": Set(["rfid"]),
    "n": Seen(IN_TRAINING),
    "every": Set(7, QUALITY),
    "batch_size": Seen(IN_TRAINING),
    "features": Set("elsewhere.npz", QUALITY),
    "resize": Set("clean-fid", QUALITY),
    "reference": Seen(REFUSED_IN_TRAINING),
}
DRAWN = "test_sample_program.py::"
SAMPLE = {
    "n": Set(3),
    "per_class": Set(1),
    "classes": Set("2,5"),
    "seed": Set(7),
    "batch_size": Set(3),
    "size": Set([16, 32]),
    "condition": Seen(DRAWN + "test_conditions_of_any_name_are_drawn"),
    "unlabelled": Seen(DRAWN + "test_maps_from_files_get_the_labels_that_they_had_in_training"),
    "missing": Seen("test_depth.py::test_conditions_are_read_as_the_training_read_its_maps"),
    "temperature": Set(0.5),
    "top_k": Set(3),
    "top_p": Set(0.5),
    "guidance": Set(2.0),
    "guidance_schedule": Set("linear"),
    "guidance_power": Set(2.0),
    "guidance_interval": Set([1, 3]),
    "steps": Seen("test_masked.py::test_it_draws_as_the_paper_says"),
    "choice_temperature": Seen("test_masked.py::test_it_draws_as_the_paper_says"),
    "stride": Set(2, {"sample.size": [16, 32]}),
    "complete": Seen(DRAWN + "test_a_picture_is_drawn_again_from_what_it_says"),
    "keep": Seen(DRAWN + "test_what_a_mask_keeps_becomes_given_ids"),
    "scorer": Seen(DRAWN + "test_rejection_keeps_the_best_and_they_are_drawn_again_without_the_scorer"),
    "accept": Seen(DRAWN + "test_rejection_keeps_the_best_and_they_are_drawn_again_without_the_scorer"),
    "animate": Seen(DRAWN + "test_a_picture_is_drawn_again_from_what_it_says"),
    "out": Seen(DRAWN + "test_conditions_of_any_name_are_drawn"),
    "step": Set("7"),
}
START = "test_programs.py::test_training_can_start_from_another_model"
ALONE = "test_programs.py::test_a_second_stage_directory_stands_alone"
OF_FIRST: dict[str, dict[str, Any]] = {
    "": {
        "workdir": Seen("test_every_setting.py::test_a_training_is_where_its_configuration_says"),
        "init_from": Seen(START),
        "freeze": Seen("test_stability.py::test_a_frozen_encoder_stays_bit_for_bit"),
        "usage_window": Set(64),
    },
    "data": DATA,
    "model": MODEL,
    "discriminator": DISCRIMINATOR,
    "feature_discriminator": FEATURE_DISCRIMINATOR,
    "loss": LOSS,
    "optimizer": {**OPTIMIZER, "decay_embeddings": Refused(True, DECAY)},
    "disc_optimizer": {"learning_rate": Set(0.1), "b1": Set(0.3), "b2": Set(0.3)},
    "mesh": MESH,
    "train": TRAIN,
    "train.evaluate": EVALUATE,
}
OF_SECOND: dict[str, dict[str, Any]] = {
    "": {
        "workdir": Seen("test_every_setting.py::test_a_training_is_where_its_configuration_says"),
        "first_stage": Seen(ALONE),
        "init_from": Seen("test_programs.py::test_a_second_stage_starts_from_one_with_the_same_heads"),
        "prior": Set("masked"),
        "order": Set("spiral_in"),
        "pkeep": Set(0.5),
        "condition_dropout": Set(0.1),
        "remap": Seen("test_codes.py::test_a_list_of_used_codes_belongs_to_its_first_stage"),
        "unknown": Seen("test_codes.py::test_a_list_of_used_codes_belongs_to_its_first_stage"),
    },
    "transformer": TRANSFORMER,
    "condition": CONDITION,
    "optimizer": OPTIMIZER,
    "token_loss": {"label_smoothing": Set(0.1), "z_loss": Set(0.1)},
    "sample": SAMPLE,
    "sample.mesh": MESH,
    "data": DATA,  # both trainings hand these three on alike
    "mesh": MESH,
    "train": TRAIN,
    "train.evaluate": EVALUATE,
}
TABLES = {VQGANExperiment: OF_FIRST, TransformerExperiment: OF_SECOND}

# Where a setting, or a section of settings, shows.
OF_BOTH = {
    "data": probes.batches,
    "mesh": probes.mesh,
    "train": probes.left,
    "train.eval_every": probes.begun,
    "train.image_every": probes.begun,
    "train.heartbeat_timeout": probes.begun,
    "train.evaluate": probes.begun,
}
PROBES = {
    VQGANExperiment: {
        "": probes.first_stage,
        "loss": probes.step,
        "loss.lpips_path": probes.begun,
        "loss.feature_path": probes.begun,
        "optimizer": probes.step,
        "disc_optimizer": probes.step,
        **OF_BOTH,
    },
    TransformerExperiment: {
        "": probes.second_stage,
        "sample": probes.asked,
        "sample.mesh": probes.opened,
        "sample.step": probes.opened,
        **OF_BOTH,
    },
}


def paths_of(table: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {f"{section}.{name}".lstrip("."): entry for section, names in table.items() for name, entry in names.items()}


def leaves(settings: Any, path: str = "") -> dict[str, Any]:
    """The settings of a class and of those inside it by their paths, with their defaults."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        inner = dataclasses.is_dataclass(field.type)
        found |= leaves(field.type, f"{path}{field.name}.") if inner else {f"{path}{field.name}": field.default}
    return found


def entries(kind: type) -> list[Any]:
    """The settings with an entry of this kind, (probe, path, entry); what both stages share once."""
    found = {}
    for stage, table in TABLES.items():
        for path, entry in paths_of(table).items():
            places = itertools.accumulate(path.split("."), lambda whole, name: f"{whole}.{name}")
            probe = [PROBES[stage][place] for place in ("", *places) if place in PROBES[stage]][-1]
            if type(entry) is kind:
                found[probe, path] = pytest.param(probe, path, entry, id=f"{probe.__name__}-{path}")
    return [*found.values()]


@functools.cache
def seen(probe: Any, beside: str) -> tuple[list[Any], Iterator[Any]]:
    """What has been observed so far beside these settings, and what has not."""
    return [], probe(json.loads(beside))


def observed(probe: Any, beside: dict[str, Any]) -> Iterator[Any]:
    """Everything that the probe tells, which is found out once."""
    known, others = seen(probe, json.dumps(beside))
    yield from known
    for one in others:
        known.append(one)
        yield one


@pytest.mark.parametrize("stage", TABLES)
def test_every_setting_has_an_entry_with_another_value(stage):
    there, known = leaves(stage), paths_of(TABLES[stage])
    assert set(known) == set(there)
    for path, entry in known.items():
        if isinstance(entry, Set):
            value = tuple(entry.value) if isinstance(entry.value, list) else entry.value
            assert value != there[path] and entry.value != entry.beside.get(path)


@pytest.mark.parametrize(("probe", "path", "entry"), entries(Set))
def test_it_shows_where_it_is_used(probe, path, entry):
    pairs = itertools.zip_longest(observed(probe, entry.beside), probe({**entry.beside, path: entry.value}))
    assert any(one != other for one, other in pairs), f"{path}={entry.value!r} is without effect"


@pytest.mark.parametrize(("probe", "path", "entry"), entries(Refused))
def test_it_is_refused_by_its_name(probe, path, entry):
    name = path.rpartition(".")[2]
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        list(probe({**entry.beside, path: entry.value}))


@pytest.mark.parametrize(("probe", "path", "entry"), entries(Seen))
def test_a_test_of_it_is_there(probe, path, entry):
    file, _, test = entry.test.partition("::")
    functions = [node for node in ast.parse((HERE / file).read_text(encoding="utf-8")).body if hasattr(node, "name")]
    (there,) = [node for node in functions if node.name == test]
    assert re.search(rf"\b{path.rpartition('.')[2]}\b", ast.unparse(there)), f"{entry.test} does not set {path}"


@pytest.mark.parametrize("probe", sorted({probe for table in PROBES.values() for probe in table.values()}, key=repr))
def test_a_probe_tells_the_same_of_the_same_settings(probe):
    assert list(probe({})) == list(observed(probe, {}))


def test_a_training_is_where_its_configuration_says(tmp_path):
    (tmp_path / "x.py").write_text(
        "from ml_collections import ConfigDict\nget_config = lambda arg='': ConfigDict({'workdir': 'here'})\n",
        encoding="utf-8",
    )
    program = "from taming_jax import cli\ncli.run(lambda config, workdir: not print(workdir), 'x.py')"
    command = [sys.executable, "-c", program, f"--config={tmp_path / 'x.py'}"]
    for flags, workdir in (([], "here"), (["--config.workdir=there"], "there"), (["--workdir=elsewhere"], "elsewhere")):
        result = subprocess.run([*command, *flags], capture_output=True, text=True, timeout=200, encoding="utf-8")
        assert (result.returncode, result.stdout) == (0, f"{workdir}\n"), result.stderr
