"""Every configuration: composes with each of its arguments, says how to run it, and is of the published size."""

import importlib
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from taming_jax.conditioning import NoCondition
from taming_jax.experiment import SampleConfig, TransformerExperiment, VQGANExperiment, saved_form
from taming_jax.models.gpt import GPT
from taming_jax.models.vqgan import VQGAN
from taming_jax.settings import from_dict, to_dict

ROOT = Path(__file__).parent.parent
NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem not in ("common", "command"))
ARGUMENTS = {"imagenet_vqgan": ("", "16384", "tiny", "16384,tiny")} | dict.fromkeys(
    ("folder_vqgan", "folder_uncond"), ("", "small", "tiny")
)
CASES = [(name, arg) for name in NAMES for arg in ARGUMENTS.get(name, ("", "tiny"))]
COUNTS = json.loads((ROOT / "tests" / "goldens" / "parameter_counts.json").read_text())


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
    assert from_dict(type(settings), {key: value for key, value in saved.items() if key != "kind"}) == settings
    if "tiny" in arg:
        assert settings.train.steps <= 100 and settings.data.size == 32 and settings.workdir.endswith("_tiny")


@pytest.mark.parametrize("name", NAMES)
def test_its_docstring_has_command_hardware_and_result(name):
    text = importlib.import_module(f"configs.{name}").__doc__
    program = "train_vqgan.py" if name.endswith("vqgan") else "train_transformer.py"
    assert f"python {program} --config=configs/{name}.py" in text
    assert "Hardware:" in text and ("Expected" in text or "Published result" in text)


@pytest.mark.parametrize("name", [name for name in NAMES if not name.endswith("vqgan")])
@pytest.mark.parametrize("arg", ["", "tiny"])
def test_both_stages_fit(name, arg):
    second = experiment(name, arg)
    first = {"runs/demo_vqgan": "demo_vqgan", "runs/folder_vqgan": "folder_vqgan", "runs/ffhq_vqgan": "ffhq_vqgan"}
    stage, _, _ = second.first_stage.partition("_tiny")
    words = ",".join(word for word in ("16384" if "16384" in stage else "", arg) if word)
    first_stage = experiment(first.get(stage, "imagenet_vqgan"), words)
    assert first_stage.workdir == second.first_stage
    h, w = first_stage.model.grid(second.data.size, second.data.size)
    length = NoCondition().length + h * w - 1
    assert second.transformer.block_size >= length
    assert second.transformer.vocab_size >= max(first_stage.model.n_embed, second.condition.n_classes)


@pytest.mark.parametrize(
    ("name", "arg", "published"),
    [
        ("imagenet_vqgan", "", "imagenet_f16_1024"),
        ("imagenet_vqgan", "16384", "imagenet_f16_16384"),
        ("ffhq_vqgan", "", "imagenet_f16_1024"),
        ("folder_vqgan", "", "imagenet_f16_1024"),
    ],
)
def test_first_stages_have_the_published_size(name, arg, published):
    config = experiment(name, arg).model
    variables = jax.eval_shape(VQGAN(config).init, jax.random.key(0), jnp.zeros((1, 256, 256, 3)))
    parts = {part: parameters(tree) for part, tree in variables["params"].items()}
    parts["codebook"] = parts.pop("quantizer")
    assert parts == COUNTS[published]


@pytest.mark.parametrize(
    ("name", "published"), [("imagenet_cond", "gpt_imagenet_class_1p4b"), ("ffhq_uncond", "gpt_faceshq_drin")]
)
def test_transformers_have_the_published_size(name, published):
    config = experiment(name).transformer
    variables = jax.eval_shape(GPT(config).init, jax.random.key(0), jnp.zeros((1, config.block_size), jnp.int32))
    assert parameters(variables) == COUNTS[published]["params"]


def test_a_flag_can_change_any_setting():
    """Every field of the dataclasses is a key of the configuration, so `--config.a.b=v` reaches it."""
    config = importlib.import_module("configs.imagenet_cond").get_config()
    for section, settings in to_dict(experiment("imagenet_cond")).items():
        if isinstance(settings, dict):
            assert set(config[section].keys()) == set(settings), section
    assert config.sample.get_type("top_p") is float and config.sample.get_type("per_class") is int
    assert to_dict(SampleConfig())["top_p"] is None
