"""Settings from mappings: what fits, and what each misfit is told."""

from dataclasses import dataclass

import pytest

from taming_jax.data.config import DataConfig
from taming_jax.experiment import TransformerExperiment, VQGANExperiment
from taming_jax.settings import check, from_dict, to_dict


@dataclass(frozen=True)
class Inner:
    width: int = 4
    rate: float = 0.5
    mult: tuple[int, ...] = (1, 2)
    limit: int | None = None

    def __post_init__(self):
        if self.width < 1:
            check(self, "width", self.width >= 1, "it must be at least 1")


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = Inner()


def test_there_and_back():
    settings = Outer("a", Inner(8, 1.0, (3,), 2))
    assert from_dict(Outer, to_dict(settings)) == settings
    assert to_dict(settings)["inner"]["mult"] == [3]  # as JSON gives it back


def test_numbers_and_lists_are_fitted():
    settings = from_dict(Outer, {"name": "a", "inner": {"rate": 1, "mult": [1, 2, 4], "limit": None}})
    assert settings.inner == Inner(rate=1.0, mult=(1, 2, 4))
    assert isinstance(settings.inner.rate, float)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("~/photos", "/home/me/photos"),
        ("~", "/home/me"),
        ("a/~b", "a/~b"),
        ("gs://bucket/~", "gs://bucket/~"),
        ("", ""),
    ],
)
def test_the_home_folder_in_paths(monkeypatch, given, expected):
    monkeypatch.setenv("HOME", "/home/me")
    assert from_dict(DataConfig, {"path": given}).path == expected
    assert DataConfig(path="~").path == "~"  # of Python code nothing is expanded behind its back


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"name": "a", "inner": {"widht": 3}},
            r"config.inner has unknown key\(s\) widht; known keys: limit, mult, rate",
        ),
        ({"inner": {}}, r"config needs the key\(s\) name"),
        ({"name": 3}, r"config.name is 3 \(int\), but it must be str"),
        ({"name": "a", "inner": {"width": 2.5}}, r"config.inner.width is 2.5 \(float\), but it must be int"),
        ({"name": "a", "inner": {"width": True}}, r"config.inner.width is True"),
        ({"name": "a", "inner": {"mult": [1, "x"]}}, r"config.inner.mult is 'x'"),
        ({"name": "a", "inner": {"limit": "x"}}, r"config.inner.limit is 'x'"),
        ({"name": "a", "inner": {"width": 0}}, r"^config.inner.width=0, but it must be at least 1.$"),
    ],
)
def test_misfits_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        from_dict(Outer, values)


FIRST, SECOND = {"workdir": "a", "data": {}}, {"workdir": "a", "first_stage": "b", "data": {}}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("data.source", "attic"),
        ("data.path", ""),
        ("data.size", 8),
        ("data.resize", 20),
        ("data.annotations", ("smell",)),
        ("mesh.fsdp", 0),
        ("mesh.data", -2),
        ("mesh.data", -1),
        ("train.steps", 0),
        ("train.monitor_mode", "most"),
        ("optimizer.schedule", "linear"),
        ("optimizer.learning_rate", 0.0),
        ("optimizer.warmup", -1),
        ("optimizer.clip_norm", 0.0),
        ("optimizer.accumulate", 0),
        ("optimizer.ema_decay", 1.0),
        ("model.ch", 0),
        ("model.ch_mult", ()),
        ("model.norm_groups", 48),
        ("model.resolution", 100),
        ("model.ema_decay", 1.0),
        ("model.dropout", 1.0),
        ("model.quantizer", "round"),
        ("model.dtype", "int8"),
        ("model.content", "smell"),
        ("model.in_channels", 2),
        ("model.out_channels", 4),
        ("model.remap", (1, 1)),
        ("model.unknown", "some"),
        ("discriminator.ndf", 0),
        ("discriminator.norm", "layer"),
        ("discriminator.dtype", "int8"),
        ("feature_discriminator.network", "vgg"),
        ("feature_discriminator.layers", (12,)),
        ("feature_discriminator.width", 0),
        ("loss.pixel_weight", -1.0),
        ("loss.feature_weight", -1.0),
        ("loss.adaptive_cap", 0.0),
        ("loss.disc_loss", "wasserstein"),
        ("loss.temperature_start", 0.0),
        ("loss.temperature_max", 0.0),
        ("loss.temperature_warmup", -1),
        ("loss.disc_learn_start", 5),
        ("transformer.vocab_size", -1),
        ("transformer.n_layer", 0),
        ("transformer.residual_dropout", 1.0),
        ("transformer.n_embd", 1000),
        ("transformer.dtype", "int8"),
        ("transformer.attention", "cudnn"),
        ("transformer.remat", "all"),
        ("sample.n", 0),
        ("sample.per_class", 0),
        ("sample.size", (3,)),
        ("sample.unlabelled", 256),
        ("sample.accept", 0.0),
        ("sample.scorer", "module:function"),
        ("sample.keep", "top"),
        ("sample.temperature", -1.0),
        ("sample.top_k", 0),
        ("sample.top_p", 0.0),
        ("sample.guidance", 2.0),
        ("sample.guidance_schedule", "up"),
    ],
)
def test_every_refusal_begins_with_the_path_and_its_value(path, value):
    section, name = path.split(".")
    others = {"data.path": {"source": "folder"}, "data.resize": {"size": 32}, "mesh.data": {"tensor": -1}}
    others |= {"model.unknown": {"remap": (1,)}, "model.in_channels": {"content": "depth"}}
    given = {section: {name: value, **others.get(path, {})}}
    of_first = section in ("model", "discriminator", "feature_discriminator", "loss")
    with pytest.raises(ValueError) as refusal:
        from_dict(*((VQGANExperiment, FIRST | given) if of_first else (TransformerExperiment, SECOND | given)))
    shown = "" if path == "model.remap" else f"={value!r}"  # it may be long
    assert str(refusal.value).startswith(f"config.{path}{shown}") and str(refusal.value).endswith(".")
