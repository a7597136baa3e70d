"""Data sets as codes: what is written, how a stopped encoding goes on, and that training from codes is training."""

import dataclasses
import importlib
import itertools
import json
import logging
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny import TINY, untrained

import taming_jax
import train_transformer
import train_vqgan
from taming_jax import checkpoint, encode_dataset
from taming_jax.conditioning import make_condition
from taming_jax.data import pipeline
from taming_jax.data.records import Shard
from taming_jax.data.sources import codes
from taming_jax.experiment import TransformerExperiment, VQGANExperiment
from taming_jax.models.vqgan import VQGAN, VQGANConfig
from taming_jax.settings import from_dict, to_dict
from taming_jax.trained import evaluation
from taming_jax.trained.fingerprint import codes_digest
from taming_jax.trained.sampler import Sampler
from taming_jax.trained.stages import condition_needs, open_stages, pictured, with_classes, write_list

PHOTOS, BATCH = 11, 4  # one of the photographs is none


def save_stage(path, seed=0, **settings):
    """A first stage of 16 pixels and 4 x 4 codes with random parameters."""
    config = dataclasses.replace(TINY, ch_mult=(1, 1, 2), n_embed=32, **settings)
    params = untrained(VQGAN(config), jnp.zeros((1, 16, 16, config.in_channels)), seed=seed)
    checkpoint.save_model(str(path), params=params, config={"kind": "vqgan", "model": to_dict(config)})
    return str(path)


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages")
    labels = {"content": "segmentation", "in_channels": 12, "out_channels": 12}
    return {"image": save_stage(folder / "image"), "labels": save_stage(folder / "labels", **labels)}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Wide pictures of many greys, in which places and crops show, and one broken file."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(PHOTOS - 1):
        picture = Image.fromarray(rng.integers(0, 256, (5, 8, 3), np.uint8))
        picture.resize((40, 25), Image.Resampling.BICUBIC).save(folder / f"{i:02}.png")
    (folder / "no_picture.png").write_bytes(b"no picture")
    return str(folder)


def second_stage(stages, kind="none", **sections):
    config = importlib.import_module("configs.demo_class").get_config("tiny").to_dict()
    config["first_stage"] = stages["image"]
    config["data"] |= {"size": 16, "n_train": 10, "n_val": 6, "batch_size": BATCH, "workers": 2, "seed": 3}
    config["condition"] |= {"kind": kind, "n_codes": 30, "max_objects": 3, "stage": "first_stage"}
    config["transformer"] |= {"vocab_size": 33, "block_size": 60, "n_embd": 16, "n_layer": 1, "n_head": 2}
    config["train"] |= {"steps": 5, "log_every": 1, "eval_every": 5, "image_every": 5, "save_every": 5}
    config["mesh"] |= {"data": 1}
    config["optimizer"] |= {"schedule": "constant"}
    for section, values in sections.items():
        config[section] = config[section] | values if isinstance(values, dict) else values
    return from_dict(TransformerExperiment, config)


def from_codes(experiment, folder):
    return dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, source="codes", path=str(folder)))


def take(data, n, split="train", **options):
    return list(itertools.islice(pipeline.make_batches(data, split, **options), n))


def assert_equal(batches, others):
    for a, b in zip(batches, others, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)


def test_classes_by_other_names_are_as_many_as_those_of_the_data():
    settings = importlib.import_module("configs.demo_class").get_config("tiny").to_dict()
    experiment = from_dict(TransformerExperiment, settings)
    own = lambda names: dataclasses.replace(
        experiment, condition=dataclasses.replace(experiment.condition, n_classes=0, class_names=names)
    )
    names = tuple(f"kind {i}" for i in range(10))
    found = with_classes(own(names)).condition
    assert (found.n_classes, found.class_names) == (10, names)
    two = dataclasses.replace(experiment.condition, n_classes=2, class_names=("a", "b"))
    with pytest.raises(ValueError, match=r"n_classes=2, but the data has 10 classes"):
        with_classes(dataclasses.replace(experiment, condition=two))
    with pytest.raises(ValueError, match=r"class_names are 2, but the data has 10 classes"):
        with_classes(own(("a", "b")))


def tokens_of(experiment, batches):
    """What the step of training computes of pixels."""
    stages = open_stages(with_classes(experiment), "", taming_jax.sharding.make_mesh())
    tokens = jax.jit(lambda params, batch: encode_dataset._tokens(stages.model, params, batch))
    images = [{name: value for name, value in batch.items() if name != "valid"} for batch in batches]
    return [tokens(stages.params, batch) for batch in images]


@pytest.fixture(scope="module")
def photo_experiment(stages, photos):
    data = {"source": "folder", "path": photos, "val_share": 0.3, "resize": 20}
    return second_stage(stages, "coordinate", data=data, condition={"factor": 4})


@pytest.fixture(scope="module")
def photo_codes(photo_experiment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photo_codes")
    encode_dataset.encode(photo_experiment, str(folder), crops=2, images_per_shard=3)
    return folder


@pytest.fixture(scope="module")
def class_codes(stages, tmp_path_factory):
    folder = tmp_path_factory.mktemp("class_codes")
    encode_dataset.encode(second_stage(stages, "class_label"), str(folder))
    return folder


def test_networks_are_copied_only_where_all_fits(stages, tmp_path):
    mesh, folder = taming_jax.sharding.make_mesh(), tmp_path / "training"
    wrong = second_stage(stages, "segmentation", condition={"stage": stages["image"]})
    with pytest.raises(ValueError, match=r"condition\.stage=.* reads image"):
        open_stages(wrong, str(folder), mesh)
    right = second_stage(stages, "segmentation", condition={"stage": stages["labels"]})
    opened = open_stages(right, "", mesh)
    assert not folder.exists() and sorted(opened.params) == ["condition_stage", "first_stage"]
    kept = open_stages(right, str(folder), mesh)
    assert sorted(path.name for path in folder.iterdir()) == ["condition_stage", "first_stage"]
    jax.tree.map(np.testing.assert_array_equal, kept.params, opened.params)
    copy = checkpoint.load_params(str(folder / "first_stage"))
    jax.tree.map(np.testing.assert_array_equal, copy, kept.params["first_stage"])


CONDITIONS = {
    "class_label": {},
    "segmentation": {"stage": "labels"},
    "low_res": {},
    "boxes": {"encode_crop": True},
}


def test_codes_written_before_a_setting_came_still_fit(photo_experiment, photo_codes, monkeypatch):
    info, mesh = codes.read_info(str(photo_codes)), taming_jax.sharding.make_mesh()
    network = {name: value for name, value in info["tokens_of"]["first_stage"].items() if name != "entropy_batch"}
    told = {**info, "tokens_of": {**info["tokens_of"], "first_stage": network}}
    monkeypatch.setattr(codes, "read_info", lambda path: told)
    coded = from_codes(photo_experiment, photo_codes)
    open_stages(coded, "", mesh)
    network["n_embed"] = 16
    with pytest.raises(ValueError, match=r"first_stage\.n_embed: 16 there, 32 here"):
        open_stages(coded, "", mesh)


@pytest.mark.parametrize("kind", CONDITIONS)
def test_codes_are_the_tokens_of_the_images(kind, stages, tmp_path):
    """With the same classes, in the same order, under every kind of condition; so the loss is the same function."""
    settings = {name: stages[value] if name == "stage" else value for name, value in CONDITIONS[kind].items()}
    experiment = second_stage(stages, kind, condition=settings)
    info = encode_dataset.encode(experiment, str(tmp_path))
    model = open_stages(with_classes(experiment), "", taming_jax.sharding.make_mesh()).model
    data, coded = experiment.data, from_codes(experiment, tmp_path).data
    needs = condition_needs(experiment.condition)
    for split, n in (("train", 6), ("val", 2)):
        pixels, found = take(data, n, split, needs=needs), take(coded, n, split, needs=needs)
        for tokens, batch, here in zip(tokens_of(experiment, pixels), pixels, found, strict=True):
            np.testing.assert_array_equal(here["codes"].reshape(BATCH, -1), tokens["codes"])
            valid = batch.get("valid", np.ones(BATCH, bool))
            np.testing.assert_array_equal(here["condition_codes"].reshape(BATCH, -1), tokens["condition_codes"])
            np.testing.assert_array_equal(here.get("valid", valid), valid)
            np.testing.assert_array_equal(here["class_label"], batch["class_label"])
            assert here["codes"].shape == (BATCH, 4, 4) and here["codes"].dtype == np.int32
            grid = model.condition.grid or (model.condition.length,)
            assert here["condition_codes"].shape == (BATCH, *grid) and here["condition_codes"].dtype == np.int32
    assert info["splits"]["train"] == {"images": 10, "crops": 1, "images_per_shard": 8192, "skipped": 0}
    assert len(np.unique(found[0]["codes"])) > 3  # the random stage tells images apart
    assert pipeline.class_names(coded, needs) == pipeline.class_names(data, needs)


def test_crops_are_those_of_as_many_epochs(photo_experiment, photo_codes):
    """The batches of the first two epochs are those of the images, crops, mirrors, order, broken image and all; then
    the crops come again, in the order of the epoch."""
    data = dataclasses.replace(photo_experiment.data, annotations=("crop",))
    coded = from_codes(photo_experiment, photo_codes).data
    n = pipeline.num_examples(data, "train")
    assert pipeline.num_examples(coded, "train") == n == 8 and pipeline.num_examples(coded, "val") == 3
    tokens = tokens_of(photo_experiment, take(data, 2 * n // BATCH))
    found = take(coded, 4 * n // BATCH)
    joined = lambda batches, name: np.concatenate([batch[name].reshape(BATCH, -1) for batch in batches])
    for name in ("codes", "condition_codes"):  # the last image is the broken one: the next epoch's first replaces it
        np.testing.assert_array_equal(joined(found, name)[: 2 * n - 1], joined(tokens, name)[:-1])
    epochs = np.stack([batch["condition_codes"] for batch in found]).reshape(4, n, 4, 4)
    as_set = lambda epoch: sorted(map(bytes, epoch))
    assert as_set(epochs[0]) != as_set(epochs[1])  # the coordinates depend on the crop
    assert sum(pipeline.skipped(coded, split).get("crops of unreadable files", 0) for split in ("train", "val")) in (
        1,
        2,
    )
    valid = np.concatenate([batch["valid"] for batch in take(coded, 1, "val")])
    np.testing.assert_array_equal(valid, take(data, 1, "val")[0]["valid"])


def test_a_batch_depends_on_its_step_alone_and_processes_share_it(stages, class_codes):
    coded = from_codes(second_stage(stages, "class_label"), class_codes).data
    whole = take(coded, 6)
    assert_equal(take(coded, 3, start_step=3), whole[3:])
    shares = [take(coded, 6, process_index=i, process_count=2) for i in range(2)]
    source = pipeline._open(coded, "val")
    joined = [jax.tree.map(lambda *parts: np.concatenate(parts), *both) for both in zip(*shares)]
    assert_equal(joined, whole)
    held_out = [list(source.records(Shard(i, 4, 1), 0)) for i in range(4)]  # six scenes and two of padding
    assert [[bool(r["valid"]) for r in part] for part in held_out] == [[True, True]] * 2 + [[True, False]] * 2
    epochs = np.concatenate([batch["codes"] for batch in whole])[:20].reshape(2, 10, 16)
    scenes = [sorted(epoch.tolist()) for epoch in epochs]
    assert scenes[0] == scenes[1] and epochs[0].tolist() != epochs[1].tolist()  # each once, in another order


def files(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_a_stopped_encoding_goes_on_and_leaves_the_same_bytes(photo_experiment, photo_codes, tmp_path, monkeypatch):
    folder, make_crops, begun = str(tmp_path), pipeline.make_crops, []

    def dying(*arguments):
        begun.append(arguments)
        yield from itertools.islice(make_crops(*arguments), 1 if len(begun) == 3 else None)
        if len(begun) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "make_crops", dying)
        with pytest.raises(KeyboardInterrupt):
            encode_dataset.encode(photo_experiment, folder, crops=2, images_per_shard=3)
    left = files(folder)
    assert sum(name.endswith(".tfrecord") for name in left) == 2 and codes.INFO not in left
    with pytest.raises(ValueError, match="its encoding was not finished"):
        codes.read_info(folder)
    monkeypatch.setattr(pipeline, "make_crops", lambda *arguments: begun.append(arguments) or make_crops(*arguments))
    encode_dataset.encode(photo_experiment, folder, crops=2, images_per_shard=3)
    assert len(begun) == 3 + 5  # 2 crops x 3 files of training, 1 of validation, less 2
    assert files(folder) == files(photo_codes)
    with monkeypatch.context() as patch:
        patch.setattr(codes, "read_parts", lambda *_: pytest.fail("what was finished is read again"))
        encode_dataset.encode(photo_experiment, folder, crops=2, images_per_shard=3)
    assert len(begun) == 8
    (tmp_path / "val-00000-of-00001.tfrecord").unlink()
    encode_dataset.encode(photo_experiment, folder, crops=2, images_per_shard=3)
    assert len(begun) == 9 and files(folder) == files(photo_codes)


def test_processes_write_shards_of_their_own(photo_experiment, photo_codes, tmp_path, monkeypatch):
    """And leave together: when the first has read everything."""
    written, write_part, read_parts, this = [], codes.write_part, codes.read_parts, threading.local()

    def write(part, rows):
        written.append((this.process, part.file.name))
        write_part(part, rows)

    def read_late(*arguments):
        assert this.process == 0
        time.sleep(0.1)
        return read_parts(*arguments)

    def run(process):
        this.process = process
        info = encode_dataset.encode(photo_experiment, str(tmp_path), crops=2, images_per_shard=3)
        return info, (tmp_path / codes.INFO).stat().st_mtime_ns

    monkeypatch.setattr(codes, "write_part", write)
    monkeypatch.setattr(codes, "read_parts", read_late)
    monkeypatch.setattr(encode_dataset, "WAIT", 0.01)
    monkeypatch.setattr(encode_dataset, "_this_process", lambda: (this.process, 2))
    with ThreadPoolExecutor(2) as pool:
        (info, when), other = pool.map(run, range(2))
    assert other == (info, when) and info == codes.read_info(str(tmp_path))
    names = sorted(name for name in files(photo_codes) if name.endswith(".tfrecord"))
    assert sorted(written) == [(0, name) for name in names[::2]] + [(1, name) for name in names[1::2]]
    assert files(tmp_path) == files(photo_codes)
    (tmp_path / names[1]).unlink()  # the info is older than what is missing, and must not be taken for the new one
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(run, range(2))
    assert first == second and first[1] > when and files(tmp_path) == files(photo_codes)


def test_a_process_that_waits_says_for_what(photo_experiment, tmp_path, monkeypatch, caplog):
    """And gives up where the folder cannot be the one into which the first process writes."""
    monkeypatch.setattr(encode_dataset, "WAIT", 0.01)
    monkeypatch.setattr(encode_dataset, "TELL", 0.0)
    monkeypatch.setattr(encode_dataset, "SHARED", 0.05)
    monkeypatch.setattr(encode_dataset, "_this_process", lambda: (1, 2))
    with caplog.at_level(logging.INFO), pytest.raises(ValueError, match=r"plan\.json', which .* Do all hosts see this"):
        encode_dataset.encode(photo_experiment, str(tmp_path))
    assert "waiting for 1 file(s) of other processes" in caplog.text and not files(tmp_path)


def test_sigterm_ends_it_at_once(monkeypatch):
    """Also under the distributed runtime, whose handler only notes the signal for a training that looks."""
    before, seen = signal.getsignal(signal.SIGTERM), []
    start = lambda *_: signal.signal(signal.SIGTERM, lambda *_: None)
    monkeypatch.setattr(encode_dataset.sharding, "start_distributed", start)
    encode = lambda *_: seen.append(signal.getsignal(signal.SIGTERM)) or {"splits": {}}
    monkeypatch.setattr(encode_dataset, "encode", encode)
    try:
        encode_dataset.main(importlib.import_module("configs.demo_class").get_config("tiny"), "codes", 1, 1)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIG_DFL]


def history(workdir):
    lines = [json.loads(line) for line in (Path(workdir) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {(line["step"], name): value for line in lines for name, value in line.items()}


def test_training_from_codes_has_the_losses_of_training_from_images(stages, class_codes, tmp_path, monkeypatch):
    """With noise in the tokens and hidden conditions; in evaluation too."""
    experiment = second_stage(stages, "class_label", pkeep=0.8, condition_dropout=0.3)
    with monkeypatch.context() as patch:
        patch.setattr(evaluation.GeneratorEvaluation, "pictures", lambda *_: {})  # which takes longest
        assert train_transformer.train_and_evaluate(experiment, str(tmp_path / "images"))
    coded = from_codes(experiment, class_codes)
    monkeypatch.setattr(VQGAN, "encode_ids", lambda *_: pytest.fail("stage one was run"))
    assert train_transformer.train_and_evaluate(coded, str(tmp_path / "codes"))
    of_images, of_codes = history(tmp_path / "images"), history(tmp_path / "codes")
    assert {name for _, name in of_images} >= {"train/loss", "val/nll"} and of_images.keys() <= of_codes.keys()
    for (step, name), value in of_images.items():
        if name.startswith(("train/", "val/")):
            np.testing.assert_allclose(of_codes[step, name], value, rtol=1e-6, err_msg=name)
    assert (tmp_path / "codes" / "images" / "completions_0000005.png").exists()
    assert pictured(coded.data) == experiment.data.meeting(condition_needs(experiment.condition))


def test_a_list_of_used_codes_belongs_to_its_first_stage(stages, tmp_path, monkeypatch, caplog):
    """To what makes its codes: other weights there are refused, and another decoder is not."""
    caplog.set_level(logging.WARNING, "taming_jax")
    mesh, path = taming_jax.sharding.make_mesh(), str(tmp_path / "used.npy")
    used = np.sort(np.random.default_rng(0).permutation(20)[:7])
    params = checkpoint.load_params(stages["image"])
    write_list(path, used, codes_digest(params))
    np.testing.assert_array_equal(np.load(path), used)  # for other programs it is a plain list
    experiment = second_stage(stages, remap=path)
    assert open_stages(experiment, "", mesh).first_stage.config.remap == tuple(used)
    near = open_stages(dataclasses.replace(experiment, unknown="0"), "", mesh).first_stage.config
    assert (near.remap, near.unknown) == (tuple(used), "0")
    saved = checkpoint.open_saved(stages["image"])
    for name in ("encoder", "quant_conv", "quantizer", "decoder", "post_quant_conv"):
        other = str(tmp_path / name)
        changed = {**params, name: jax.tree.map(lambda leaf: leaf + 1e-3, params[name])}
        checkpoint.save_model(other, params=changed, config=saved.config)
        given = dataclasses.replace(experiment, first_stage=other)
        if name in ("decoder", "post_quant_conv"):
            assert open_stages(given, "", mesh).first_stage.config.remap == tuple(used)
            continue
        with pytest.raises(
            ValueError, match=rf"used\.npy' lists .* of another first stage .* --workdir=.*{name} --out="
        ):
            open_stages(given, str(tmp_path / "w"), mesh)
        with pytest.raises(ValueError, match="of another first stage"):
            encode_dataset.encode(given, str(tmp_path / "w"))
    assert not any((tmp_path / "w").iterdir()) and not caplog.records
    np.save(path, used)  # as before there were digests
    assert open_stages(experiment, "", mesh).first_stage.config.remap == tuple(used)
    assert "does not say of which first stage its codes are" in caplog.text
    with open(path, "ab") as file:
        file.write(b"and more")
    with pytest.raises(ValueError, match="is no list of codes"):
        open_stages(experiment, "", mesh)


def test_a_start_from_codes_of_another_first_stage_is_said(stages, tmp_path, caplog):
    caplog.set_level(logging.WARNING, "taming_jax")
    mesh, other = taming_jax.sharding.make_mesh(), {**stages, "image": save_stage(tmp_path / "other", seed=1)}
    open_stages(second_stage(stages), str(tmp_path / "begun"), mesh)  # keeps a copy
    open_stages(second_stage(stages, init_from=str(tmp_path / "begun")), "", mesh)
    assert not caplog.records
    open_stages(second_stage(other, init_from=str(tmp_path / "begun")), "", mesh)
    assert "begun' has learned from codes of another first_stage" in caplog.text


def test_what_does_not_fit_is_refused(stages, class_codes, tmp_path, monkeypatch):
    monkeypatch.setattr(train_transformer.loop, "train", lambda **_: pytest.fail("training began"))
    other = {"image": save_stage(tmp_path / "other", seed=1)}
    wider = {"image": save_stage(tmp_path / "wider", dropout=0.1)}
    np.save(tmp_path / "used.npy", np.arange(20))
    cases = [
        (second_stage(other, "class_label"), r"config\.first_stage\.parameters: '\w+' there, '\w+' here"),
        (second_stage(wider, "class_label"), r"config\.first_stage\.dropout: 0\.0 there, 0\.1 here"),
        (second_stage(stages, "none"), r"config\.condition\.kind: 'class_label' there, 'none' here"),
        (second_stage(stages, "class_label", data={"size": 24}), r"config\.size: 16 there, 24 here"),
        (second_stage(stages, "class_label", remap=str(tmp_path / "used.npy")), r"config\.first_stage\.remap: \[\] th"),
        (second_stage(stages, "boxes"), r"has no objects; it has class_label"),
    ]
    for experiment, message in cases:
        with pytest.raises(ValueError, match=message):
            experiment = from_codes(experiment, class_codes)
            train_transformer.train_and_evaluate(experiment, str(tmp_path / "w"))
    assert not (tmp_path / "w").exists()
    with pytest.raises(ValueError, match="no codes are there"):
        train_transformer.train_and_evaluate(from_codes(second_stage(stages), tmp_path), str(tmp_path / "w"))
    images = second_stage(stages, "class_label")
    with pytest.raises(ValueError, match=r"codes made otherwise \(config\.data\.seed: 3 there, 4 here\)"):
        seed = dataclasses.replace(images, data=dataclasses.replace(images.data, seed=4))
        encode_dataset.encode(seed, str(class_codes))
    with pytest.raises(ValueError, match="which are encoded already"):
        encode_dataset.encode(from_codes(images, class_codes), str(tmp_path / "again"))
    with pytest.raises(ValueError, match="never cropped"):
        encode_dataset.encode(images, str(tmp_path / "again"), crops=2)
    with pytest.raises(ValueError, match="holds no complete checkpoint"):
        encode_dataset.encode(dataclasses.replace(images, first_stage=str(tmp_path)), str(tmp_path / "again"))
    first = importlib.import_module("configs.demo_vqgan").get_config("tiny").to_dict()
    first["data"] |= {"source": "codes", "path": str(class_codes), "size": 32}
    with pytest.raises(ValueError, match="which say nothing to a first stage"):
        train_vqgan.train_and_evaluate(from_dict(VQGANExperiment, first), str(tmp_path / "first"))


@pytest.mark.parametrize("damage", ["cut", "changed", "missing", "foreign"])
def test_damaged_shards_are_named(damage, stages, photo_experiment, photo_codes, tmp_path):
    for name, content in files(photo_codes).items():
        (tmp_path / name).write_bytes(content)
    path = tmp_path / "train-00001-of-00006.tfrecord"
    content, message = path.read_bytes(), f"{path.name}.* is damaged or missing"
    if damage == "cut":
        path.write_bytes(content[:-5])
    elif damage == "changed":
        path.write_bytes(content[:60] + bytes([content[60] ^ 1]) + content[61:])
    elif damage == "missing":
        path.unlink()
    else:
        path.write_bytes((tmp_path / "train-00000-of-00006.tfrecord").read_bytes())
        message = f"{path.name} in .* is not whole"
    with pytest.raises(ValueError, match=message):
        take(from_codes(photo_experiment, tmp_path).data, 1)


@pytest.mark.parametrize("kind", ["coordinate", "segmentation"])
def test_conditions_can_be_drawn_from_their_tokens(kind, stages):
    """Coordinates as they are from the images; a map as its stage brings it back, brought to the images' size."""
    experiment = second_stage(stages, kind, condition={"factor": 4, "stage": stages["labels"], "size": 8})
    stages = open_stages(experiment, "", taming_jax.sharding.make_mesh())
    model, stage = stages.model, stages.condition_stage
    grid = model.condition.grid
    tokens = np.arange(grid[0] * grid[1], dtype=np.int32).reshape(1, *grid)
    if kind == "coordinate":
        batch = {"image": np.zeros((1, 16, 16, 3)), "crop": np.array([[2, 3, 24, 20]])}
        tokens = np.asarray(model.condition.tokens(batch, 1, {}))
        wanted, within = model.condition.picture(batch, 1, (16, 16)), 0.3  # a cell has one value, and 30 steps
    else:
        decoded = stage.config.reads.picture(np.asarray(stage.decode(tokens)))
        assert decoded.shape == (1, 8, 8, 3)
        wanted, within = decoded.repeat(2, axis=1).repeat(2, axis=2), 0
    drawn = evaluation._drawn_condition(Sampler(stages), {"condition_codes": tokens}, 1)
    assert np.ptp(drawn) > 0.3
    np.testing.assert_allclose(drawn, wanted, atol=within)


def test_objects_can_be_drawn_from_their_tokens(stages):
    for kind, crop in (("boxes", False), ("boxes", True), ("points", True)):
        config = dataclasses.replace(second_stage(stages, kind).condition, n_classes=10, n_codes=8192, encode_crop=crop)
        condition = make_condition(config, VQGAN(VQGANConfig(resolution=16, ch_mult=(1, 1, 2), norm_groups=4)), 16)
        boxes = np.array([[[0.3, 0.2, 0.2, 0.3], [0.5, 0.4, 0.1, 0.1], [0, 0, 0, 0]]], np.float32)
        batch = {"object_boxes": boxes, "object_category": np.array([[4, 7, -1]]), "image": np.zeros((1, 16, 16, 3))}
        batch["crop"] = np.array([[4, 8, 32, 32]])  # half of the width and height, from a quarter and an eighth on
        found = condition.objects(np.asarray(condition.tokens(batch, 1, {})))
        assert found["object_category"].tolist() == [[4, 7, -1]]
        centres = lambda b: b[..., :2] + b[..., 2:] / 2
        expected = (centres(boxes) - [0.25, 0.125]) / 0.5
        np.testing.assert_allclose(centres(found["object_boxes"])[:, :2], expected[:, :2], atol=0.03)
        assert condition.picture(found, 1, (16, 16)).shape == (1, 16, 16, 3)
