"""Every configuration: composes with each of its arguments, says how to run it, and is of the published size."""

import dataclasses
import importlib
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from configs import demo_class
from taming_jax import cli
from taming_jax.conditioning import CONDITIONS, has_stage, make_condition
from taming_jax.data.config import Needs
from taming_jax.experiment import SampleConfig, TransformerExperiment, VQGANExperiment, saved_form
from taming_jax.models.gpt import GPT
from taming_jax.models.vqgan import VQGAN
from taming_jax.settings import from_dict, sides, to_dict
from taming_jax.two_stage import TwoStage

ROOT = Path(__file__).parent.parent
NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem != "common")
ARGUMENTS = {"imagenet_vqgan": ("", "16384", "f8", "tiny", "16384,tiny", "f8,tiny")}
ARGUMENTS |= {"openimages_vqgan": ("", "256", "16384", "tiny"), "llamagen_vqgan": ("", "f8", "tiny")}
ARGUMENTS |= dict.fromkeys(("folder_vqgan", "folder_uncond"), ("", "small", "tiny"))
ARGUMENTS |= dict.fromkeys(
    ("ade20k_vqgan", "coco_vqgan", "sflckr_vqgan"), ("", "segmentation", "tiny", "segmentation,tiny")
)
MODERN = ("", "16384", "fsq16", "lfq18")
ARGUMENTS["modern_vqgan"] = (*MODERN, *(f"{w},{x}".strip(",") for x in ("f8", "tiny") for w in MODERN))
ARGUMENTS["modern_vqgan"] += ("dino", "dino,tiny")
ARGUMENTS["modern_class"] = ("", "lfq18", "tiny", "lfq18,tiny")
ARGUMENTS["landscapes"] = ("", "class", "panorama")
ARGUMENTS["landscapes_segmentation"] = ("", "32", "64", "tiny")
CASES = [(name, arg) for name in NAMES for arg in ARGUMENTS.get(name, ("", "tiny"))]
COUNTS = json.loads((ROOT / "tests" / "goldens" / "parameter_counts.json").read_text(encoding="utf-8"))


def experiment(name, arg=""):
    config = importlib.import_module(f"configs.{name}").get_config(arg).to_dict()
    config["data"]["path"] = config["data"]["path"] or "somewhere"
    return from_dict(TransformerExperiment if "transformer" in config else VQGANExperiment, config)


def parameters(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(("name", "arg"), CASES)
def test_it_composes(name, arg):
    settings = experiment(name, arg)
    saved = json.loads(json.dumps(saved_form(settings)))
    if name.endswith("vqgan"):
        settings = dataclasses.replace(settings, model=settings.model.settled)
    assert from_dict(type(settings), {key: value for key, value in saved.items() if key != "kind"}) == settings
    if "tiny" in arg:
        assert settings.train.steps <= 100 and settings.data.size == 32 and settings.workdir.endswith("_tiny")


def test_what_is_saved_of_the_data_meets_the_needs_of_the_training():
    settings = experiment("demo_class")
    data = saved_form(settings, Needs(("objects", "crop"), max_objects=4, whole_boxes=True))["data"]
    changed = {"annotations": ["objects", "crop"], "max_objects": 4, "whole_boxes": True}
    assert data == saved_form(settings)["data"] | changed


@pytest.mark.parametrize("name", NAMES)
def test_its_docstring_has_command_hardware_and_result(name):
    text = importlib.import_module(f"configs.{name}").__doc__
    trained = "train_vqgan.py" if name.endswith("vqgan") else "train_transformer.py"
    program = "sample.py" if name == "landscapes" else trained  # which is there already
    assert f"python {program} --config=configs/{name}.py" in text
    assert "Hardware:" in text and ("Expected" in text or "Published result" in text)


@pytest.fixture(scope="module")
def first_stages():
    """Working directory -> the first stage that is trained there."""
    return {stage.workdir: stage for stage in (experiment(*case) for case in CASES if case[0].endswith("vqgan"))}


def test_working_directories_are_their_own():
    trained = (case for case in CASES if case[0] != "landscapes")  # which is there already, and drawn from twice
    workdirs = [experiment(*case).workdir for case in trained]
    assert len(set(workdirs)) == len(workdirs)


def two_stage_model(second, first_stages):
    """The second stage around the first that it names."""
    first, condition, size = first_stages[second.first_stage], second.condition, second.data.size
    if condition.kind in ("class_label", "boxes", "points") and not condition.n_classes:
        condition = dataclasses.replace(condition, n_classes=10)  # the data says how many
    stage = first_stages[condition.stage] if has_stage(condition) else None
    height, width = sides(size)
    for other in filter(None, (first, stage)):  # they read any size; half as much again is asked of LlamaGen's alone
        assert max(height, width) <= 1.5 * max(sides(other.data.size))
    assert stage is None or (stage.data.source, stage.data.n_labels) == (second.data.source, second.data.n_labels)
    made = make_condition(condition, VQGAN(first.model), size, VQGAN(stage.model) if stage else None)
    grid, dropout = first.model.grid(height, width), second.condition_dropout
    return TwoStage(VQGAN(first.model), GPT(second.transformer), made, grid, condition_dropout=dropout)


SECONDS = [case for case in CASES if not case[0].endswith("vqgan")]


@pytest.mark.parametrize(("name", "arg"), SECONDS)
def test_both_stages_fit(name, arg, first_stages):
    model = two_stage_model(experiment(name, arg), first_stages)  # refuses what is too small
    spare = model.gpt.config.block_size - (model.condition.length + model.tokens.length - 1)
    assert spare <= 1 or name == "faceshq"  # published with 512 for 511


# What was written in the configurations before it was computed: trainings of then go on.
SIZES = {
    **dict.fromkeys(("demo_class", "demo_uncond"), (256, 64)),
    **dict.fromkeys(("coordinate", "depth", "low_res", "segmentation"), (256, 127)),
    **{"edges": (257, 127), "pose": (257, 127), "boxes": (257, 75), "points": (257, 71)},
}
SIZES = {(name if name.startswith("demo_") else f"demo_{name}", ""): sizes for name, sizes in SIZES.items()} | {
    ("imagenet_cond", ""): (16384, 256),
    ("folder_uncond", ""): (1024, 256),
    ("folder_uncond", "small"): (512, 256),
    ("ffhq_uncond", ""): (1024, 256),
    ("faceshq", ""): (1024, 512),
    ("llamagen_b", ""): (16384, 256),
    ("ade20k", ""): (4096, 512),
    ("coco", ""): (8192, 512),
    ("pose", ""): (8192, 340),
    ("sflckr", ""): (1024, 512),
    ("open_images_scene", ""): (8192, 348),
    ("landscapes_segmentation", "64"): (512, 511),
    ("landscapes_segmentation", ""): (512, 287),
    ("demo_boxes", "tiny"): (65, 75),
    ("demo_edges", "tiny"): (65, 127),
    ("demo_class", "tiny"): (64, 64),
    ("coco_scene", "tiny"): (64, 77),
}


@pytest.mark.parametrize(("name", "arg"), SIZES)
def test_open_sizes_are_those_of_trainings_that_named_them(name, arg, first_stages):
    second = experiment(name, arg)
    assert second.transformer.vocab_size == 0
    config = two_stage_model(second, first_stages).gpt.config
    vocab_size, block_size = SIZES[name, arg]
    rows = (3 * 512 if second.data.classes == "moods" else 1000) + 1 if second.transformer.condition_table else 0
    sizes = {"vocab_size": vocab_size, "block_size": block_size, "condition_size": rows}
    assert config == dataclasses.replace(second.transformer, **sizes)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("demo_") and not name.endswith("vqgan")])
def test_tiny_ones_are_conditioned_alike(name):
    whole, tiny = experiment(name), experiment(name, "tiny")
    assert tiny.condition.kind == whole.condition.kind and tiny.data.source == "demo"


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("landscapes_")])
def test_tiny_ones_of_landscapes_are_of_landscapes(name):
    whole, tiny = experiment(name), experiment(name, "tiny")
    assert tiny.data.source == whole.data.source == "landscapes"
    if name.endswith("vqgan"):
        assert tiny.model.in_channels == whole.model.in_channels and tiny.model.content == whole.model.content


def test_what_ships_of_landscapes_is_small(first_stages):
    """Below 12 MB in 16 bits: both first stages, and the transformers on the map and on the class."""
    count, shape = 0, lambda config, size: jnp.zeros((1, size, size, config.in_channels))
    for name in ("landscapes_vqgan", "landscapes_segmentation_vqgan"):
        config = experiment(name).model
        count += parameters(jax.eval_shape(VQGAN(config).init, jax.random.key(0), shape(config, 64)))
    for name in ("landscapes_segmentation", "landscapes_class"):
        config = two_stage_model(experiment(name), first_stages).gpt.config
        ids = jnp.zeros((1, config.block_size), jnp.int32)
        count += parameters(jax.eval_shape(GPT(config).init, jax.random.key(0), ids))
    assert 4e6 < count < 6e6


def test_every_condition_has_a_demo():
    kinds = {experiment(name).condition.kind for name in NAMES if name.startswith("demo_") and name[-5:] != "vqgan"}
    assert kinds == set(CONDITIONS) - {"image"}


@pytest.mark.parametrize(
    ("name", "arg", "published"),
    [
        ("imagenet_vqgan", "", "imagenet_f16_1024"),
        ("imagenet_vqgan", "16384", "imagenet_f16_16384"),
        ("openimages_vqgan", "", "gumbel_f8_8192"),
        ("ffhq_vqgan", "", "imagenet_f16_1024"),
        ("folder_vqgan", "", "imagenet_f16_1024"),
        ("faceshq_vqgan", "", "imagenet_f16_1024"),
        ("drin_vqgan", "", "imagenet_depth"),
        ("coco_vqgan", "segmentation", "coco_segmentation"),
        ("sflckr_vqgan", "segmentation", "sflckr_segmentation"),
    ],
)
def test_first_stages_have_the_published_size(name, arg, published):
    config = experiment(name, arg).model
    variables = jax.eval_shape(VQGAN(config).init, jax.random.key(0), jnp.zeros((1, 256, 256, config.in_channels)))
    parts = {part: parameters(tree) for part, tree in variables["params"].items()}
    parts["codebook"] = parts.pop("quantizer")
    if config.quantizer == "gumbel":  # the published number leaves out the layer that gives a logit to each code
        parts["codebook"] -= parameters(variables["params"]["quantizer"]["proj"])
    assert parts == COUNTS[published]


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("imagenet_cond", "gpt_imagenet_class_1p4b"),
        ("faceshq", "gpt_faceshq_drin"),
        ("drin", "gpt_faceshq_drin"),
        ("sflckr", "gpt_faceshq_drin"),
        ("coco_scene", "gpt_coco_scene"),
        ("open_images_scene", "gpt_open_images_scene"),
    ],
)
def test_transformers_have_the_published_size(name, published, first_stages):
    config = two_stage_model(experiment(name), first_stages).gpt.config
    variables = jax.eval_shape(GPT(config).init, jax.random.key(0), jnp.zeros((1, config.block_size), jnp.int32))
    assert parameters(variables) == COUNTS[published]["params"]


@pytest.mark.parametrize(
    ("name", "millions"),
    [("llamagen_b", 111), ("llamagen_l", 343), ("llamagen_xl", 775), ("llamagen_xxl", 1411), ("llamagen_3b", 3098)],
)
def test_llamagens_transformers_have_the_published_size(name, millions, first_stages):
    """B to XXL as its paper counts, 3B as 3.1 B."""
    config = two_stage_model(experiment(name), first_stages).gpt.config
    variables = jax.eval_shape(GPT(config).init, jax.random.key(0), jnp.zeros((1, config.block_size), jnp.int32))
    assert round(parameters(variables) / 1e6) == pytest.approx(millions, rel=5e-3)


@pytest.mark.parametrize(("arg", "millions"), [("", 72), ("f8", 70)])
def test_llamagens_tokenizers_have_the_published_size(arg, millions):
    config = experiment("llamagen_vqgan", arg).model
    variables = jax.eval_shape(VQGAN(config).init, jax.random.key(0), jnp.zeros((1, 256, 256, 3)))
    assert round(parameters(variables) / 1e6) == millions


@pytest.mark.parametrize(
    ("name", "layers", "width", "codes", "block"),
    [
        ("ffhq_uncond", 24, 1664, 1024, 256),
        ("celebahq_uncond", 24, 1664, 1024, 256),
        ("lsun", 24, 1024, 1024, 256),
        ("superres", 12, 1024, 1024, 512),
        ("pose", 18, 768, 8192, 340),
        ("coco", 32, 1280, 8192, 512),
    ],
)
def test_other_transformers_have_the_size_of_their_layers(name, layers, width, codes, block, first_stages):
    config = two_stage_model(experiment(name), first_stages).gpt.config
    variables = jax.eval_shape(GPT(config).init, jax.random.key(0), jnp.zeros((1, config.block_size), jnp.int32))
    a_layer = 12 * width**2 + 13 * width  # matrices; four biases, two of the MLP, two norms
    assert parameters(variables) == layers * a_layer + (2 * codes + block + 2) * width


def test_a_flag_can_change_any_setting():
    """Every field of the dataclasses is a key of the configuration, so `--config.a.b=v` reaches it."""
    config = importlib.import_module("configs.imagenet_cond").get_config()
    for section, settings in to_dict(experiment("imagenet_cond")).items():
        if isinstance(settings, dict):
            assert set(config[section].keys()) == set(settings), section
    assert config.sample.get_type("top_p") is float and config.sample.get_type("per_class") is int
    assert to_dict(SampleConfig())["top_p"] is None


def test_a_setting_can_be_emptied_by_a_flag():
    config = demo_class.get_config()
    assert config.sample.top_p == 0.8
    for flag in ("--config.sample.top_p=none", "--config.condition.kind=None", "--config.optimizer.clip_norm=none"):
        cli._set_to_none(config, cli.NONE.match(flag)[1])
    experiment = from_dict(TransformerExperiment, config.to_dict())
    assert experiment.sample.top_p is None and experiment.optimizer.clip_norm is None
    assert experiment.condition.kind == "none" and not cli.NONE.match("--config.order=nonesuch")
    cli._set_to_none(config, "train.steps")
    with pytest.raises(ValueError, match=r"config.train.steps is None \(NoneType\), but it must be int"):
        from_dict(TransformerExperiment, config.to_dict())
