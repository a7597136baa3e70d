"""docs/published.md: each configuration of a published model is there, and what its tables call ours is what it has."""

import ast
import importlib
import re

import pytest
from test_configs import CASES, NAMES, ROOT, experiment

from configs import common
from taming_jax.convert.formats import llamagen_tokenizer, llamagen_transformer
from taming_jax.models.gpt import GPTConfig
from taming_jax.models.vqgan import VQGANConfig

HEADER = ["setting", "published", "ours", "source", "what differs, and why"]
NOT_THE_RECIPE = re.compile(  # where things are, and what is about speed, memory and pictures alone
    r"workdir|first_stage|condition\.stage|data\.(source|name|path|maps|depths)|transformer\.(scan_layers|remat)"
    r"|train\.(?!steps$).*|sample\.(n|batch_size)|mesh\..*"
)
# What a table must say even where a configuration leaves it at its default, since the published one may be another.
ALWAYS = {"optimizer.learning_rate", "optimizer.per_sample", "optimizer.b1", "optimizer.b2", "optimizer.weight_decay"}
ALWAYS |= {"data.size", "data.flip", "data.batch_size", "train.steps"}
FIRST = {"model.n_embed", "model.embed_dim", "model.z_channels", "model.ch", "model.ch_mult", "model.attn_resolutions"}
FIRST |= {"model.dtype", "discriminator.n_layers", "loss.pixel_loss", "loss.perceptual_weight", "loss.codebook_weight"}
FIRST |= {"loss.disc_weight", "loss.disc_start", "loss.disc_learn_start", "loss.disc_ramp"}
JUDGED = {"loss.fixed_weight", "loss.disc_loss", "discriminator.norm", "optimizer.clip_norm", "optimizer.ema_decay"}
SECOND = {"transformer.n_layer", "transformer.n_head", "transformer.n_embd", "transformer.dtype", "optimizer.warmup"}
SECOND |= {f"transformer.{part}_dropout" for part in ("embedding", "residual", "attention")}
SECOND |= {"optimizer.clip_norm", "optimizer.schedule", "condition_dropout", "sample.top_k"}


def tables():
    """(names of the configurations, rows as dictionaries) of each section with a table of settings."""
    found = []
    for section in (ROOT / "docs" / "published.md").read_text(encoding="utf-8").split("\n## ")[1:]:
        title, *lines = section.splitlines()
        listed = next((line for line in lines if line.startswith("Of `")), title)
        cells = [[cell.strip() for cell in line.strip()[1:-1].split("|")] for line in lines if line.startswith("|")]
        assert cells[0] == HEADER and set("".join(cells[1])) == {"-"}, title
        assert {len(row) for row in cells} == {len(HEADER)}, title
        found.append((re.findall("`(.+?)`", listed), [dict(zip(HEADER, row)) for row in cells[2:]]))
    return found


TABLES = tables()
SPECS = sorted({name for names, _ in TABLES for name in names})


def rows_of(spec):
    return [row for names, rows in TABLES if spec in names for row in rows]


def settings(config, before=""):
    """Path -> value of every setting."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from settings(value, f"{before}{name}.")
        else:
            yield before + name, value


def of(spec):
    name, _, arg = spec.partition(":")
    return dict(settings(importlib.import_module(f"configs.{name}").get_config(arg).to_dict()))


def literal(text):
    """What stands between backticks; None for words."""
    return ast.literal_eval(text.strip("`")) if re.fullmatch("`[^`]+`", text) else None


@pytest.mark.parametrize("spec", SPECS)
def test_what_a_table_calls_ours_is_what_the_configuration_has(spec):
    config, rows = of(spec), rows_of(spec)
    paths = [row["setting"].strip("`") for row in rows]
    assert len(set(paths)) == len(paths), "a setting stands in two tables"
    assert set(paths) <= set(config)
    for path, row in zip(paths, rows):
        said = literal(row["ours"])
        assert (said, type(said)) == (config[path], type(config[path])), path


@pytest.mark.parametrize("spec", SPECS)
def test_what_differs_from_the_published_has_a_reason_and_what_does_not_a_source(spec):
    for row in rows_of(spec):
        alike = row["published"] == row["ours"]
        assert alike or len(row["what differs, and why"].split()) > 1, row
        assert not alike or len(row["source"]) > 3, row
        assert (row["source"] == "-") == (row["published"] == "*unknown*"), row


@pytest.mark.parametrize("spec", SPECS)
def test_nothing_that_a_configuration_changes_is_left_out(spec):
    config, rows = of(spec), {row["setting"].strip("`") for row in rows_of(spec)}
    first = "model.n_embed" in config
    default = dict(settings((common.vqgan("x") if first else common.transformer("x", "y")).to_dict()))
    changed = {path for path in config if config[path] != default[path] and not NOT_THE_RECIPE.fullmatch(path)}
    judged = JUDGED if first and config["loss.disc_weight"] else set()
    assert changed | ALWAYS | (FIRST | judged if first else SECOND) <= rows


def test_every_configuration_of_a_published_model_has_a_table():
    says = re.compile(r"\bpublished\b|\bthe paper\b|\brecipe\b", re.IGNORECASE)
    claims = {name for name in NAMES if says.search(importlib.import_module(f"configs.{name}").__doc__)}
    shown = {spec.partition(":")[0] for spec in SPECS}
    ours = {"modern_vqgan"}  # its file says where each choice comes from; no such model was published
    assert claims - shown == ours
    variants = {":".join(filter(None, case)) for case in CASES if case[0] in shown and "tiny" not in case[1]}
    assert variants == set(SPECS)


def test_the_recipes_beside_converted_files_are_those_of_the_configurations():
    """Who fine-tunes a converted file of LlamaGen starts from the settings that are saved with it."""
    tokenizer = llamagen_tokenizer.saved_config(VQGANConfig(resolution=256))
    gpt = GPTConfig(vocab_size=16384, block_size=256)
    transformer = llamagen_transformer.saved_config(gpt, classes=1000, size=256, two_stage=True)
    for spec, saved in (("llamagen_vqgan", tokenizer), ("llamagen_b", transformer)):
        config = of(spec)
        kept = {path: value for path, value in settings(saved) if path in config and not path.startswith("model.")}
        kept = {path: value for path, value in kept.items() if not path.startswith("transformer.")}
        assert kept == {path: config[path] for path in kept} and len(kept) > 10, spec
        default = dict(settings((common.vqgan("x") if "loss" in saved else common.transformer("x", "y")).to_dict()))
        recipe = {p for p in config if p.startswith(("loss.", "optimizer.", "data.")) and config[p] != default[p]}
        assert recipe - set(kept) <= {"data.source", "data.batch_size", "optimizer.ema_decay"}, spec


def test_the_temperature_of_gumbel_falls_from_the_first_step_to_the_last():
    settings = experiment("openimages_vqgan")
    temperature, steps = settings.loss.temperature, settings.train.steps
    assert [float(temperature(step)) for step in (0, steps // 2, steps)] == pytest.approx([0.9, 0.45, 1e-6], rel=1e-4)


def test_the_tables_are_read_as_they_stand():
    """A wrong number, or one without a reason, would be seen."""
    assert literal("`(1, 2)`") == (1, 2) and literal("12 a GPU") is None and literal("`None`") is None
    assert len(TABLES) > 30 and sum(len(rows) for _, rows in TABLES) > 300
