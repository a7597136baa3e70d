"""Every filter holds wherever images are drawn: in Python, in evaluations and their protocols, on the page."""

import ast
import dataclasses
import importlib.resources
import inspect
import json
import re
import typing
from types import SimpleNamespace

import page_models
import pytest
from page_client import wanted
from test_page import flags

from taming_jax.checkpoint import Saved
from taming_jax.experiment import SampleConfig
from taming_jax.page.asked import parse
from taming_jax.page.painter import Painter
from taming_jax.priors import Autoregressive
from taming_jax.priors.filters import FILTER_NAMES, Filters
from taming_jax.quality import commands, samples
from taming_jax.quality.comparison import compare_results
from taming_jax.quality.store import SETTINGS
from taming_jax.quality.sweep import settings_of, table
from taming_jax.settings import from_dict, to_dict
from taming_jax.trained.generator import Generator
from taming_jax.trained.token_model import TokenModel

# Of each filter another value than its default, with which all of them act.
OTHER = {
    "temperature": 0.5,
    "top_k": 7,
    "top_p": 0.25,
    "guidance": 3.0,
    "guidance_schedule": "power-cosine",
    "guidance_power": 2.75,
    "guidance_interval": (1, 40),
    "steps": 6,
    "choice_temperature": 2.5,
}
SAVED, DEFAULT = Filters(**OTHER), {name: getattr(Filters(), name) for name in FILTER_NAMES}
CONFIG = {"sample": to_dict(SampleConfig(n=99, seed=9, **OTHER))}
ACTING = {name: OTHER[name] for name in Autoregressive.follows}  # of the model that the tests draw with
DRAWN = Filters(**ACTING)
each = pytest.mark.parametrize("name", FILTER_NAMES)
each_acting = pytest.mark.parametrize("name", ACTING)


def given(command, *options):
    parser = commands.Parser()
    commands.COMMANDS[command][1](parser)
    return parser.parse_args(["workdir", *options])


def text(value):
    return "none" if value is None else str(value).replace(" ", "")


@pytest.fixture
def saved(monkeypatch):
    monkeypatch.setattr(commands, "open_saved", lambda *_: Saved("workdir", 7, CONFIG))


def model_of(settings):
    model = samples.Model(SimpleNamespace(training_pixels=(16, 16)), Saved("workdir", 7, CONFIG), settings)
    object.__setattr__(model, "checkpoint", lambda: {"sum": "12345678"})
    return model


def test_there_is_another_value_for_every_filter():
    assert set(OTHER) == set(FILTER_NAMES) and not SAVED.idle
    assert not [field.name for field in dataclasses.fields(Filters) if OTHER[field.name] == field.default]


def test_the_settings_and_the_keywords_are_the_fields_of_the_filters():
    hints, ours = typing.get_type_hints(Filters), typing.get_type_hints(SampleConfig)
    keywords = inspect.signature(Generator.sample_ids).parameters
    of_ids = inspect.signature(TokenModel.extend).parameters
    for field in dataclasses.fields(Filters):
        assert hints[field.name] == ours[field.name], field.name
        assert getattr(SampleConfig(), field.name) == field.default == keywords[field.name].default, field.name
        if field.name in ACTING and not field.name.startswith("guidance"):  # ids alone have no condition to hide
            assert of_ids[field.name].default == field.default


@each
def test_a_keyword_reaches_what_draws(name):
    generator, seen = page_models.painter("class_label").generator, []
    generator = SimpleNamespace(
        _pixels=generator._pixels,
        parse_condition=generator.parse_condition,
        draw=lambda request, _: seen.append(request),
    )
    Generator.sample_ids(generator, 1, class_label=0, **{name: OTHER[name]})
    assert seen[0].filters == Filters(**{name: OTHER[name]})


def test_an_evaluation_draws_as_saved(saved):
    for command in ("samples", "sweep"):
        settings = commands._drawn(given(command, "--n", "5"), {})
        assert settings.filters() == SAVED and settings.n == 5 and settings.seed == 0


@each
def test_a_flag_takes_the_place_of_what_was_saved(saved, name):
    default = DEFAULT[name]
    options = given("samples", f"--{name}", text(default))
    settings = commands._drawn(options, commands.filter_values(options))
    assert settings.filters() == dataclasses.replace(SAVED, **{name: default})
    options = given("sweep", "--fixed", f"{name}={text(default)}")
    assert commands._drawn(options, commands.fixed_values(options.fixed)).filters() == settings.filters()


@each
def test_what_is_no_value_is_refused_in_a_line(saved, name, tmp_path, capsys):
    out = str(tmp_path / "r.json")
    for command in ("samples", "sweep"):
        with pytest.raises(SystemExit, match="2"):
            commands.main([command, "workdir", f"--{name}", "(2,1)", "--features", "demo", "--out", out])
        said = capsys.readouterr().err
        assert said.startswith(f"error: --{name}") or said.startswith(f"error: {name}="), said
        assert said.count("\n") == 1


def test_a_likelihood_takes_no_filters(capsys):
    for name in FILTER_NAMES:
        with pytest.raises(SystemExit):
            given("likelihood", f"--{name}", text(OTHER[name]))
    assert "unrecognized arguments" in capsys.readouterr().err


@each
def test_results_tell_it_and_what_was_begun_with_it_goes_on_with_it_alone(name, tmp_path):
    settings, changed = SampleConfig(n=4, **OTHER), SampleConfig(n=4, **{**OTHER, name: DEFAULT[name]})
    measuring = SimpleNamespace(protocol=dict)
    told = [samples.protocol_of(model_of(one), measuring, {})["drawn"] for one in (settings, changed)]
    assert told[0][name] == to_dict(settings)[name] and told[0][name] != told[1][name]
    model_of(settings).store(tmp_path / "images")
    model_of(settings).store(tmp_path / "images")
    with pytest.raises(ValueError, match=f"drawn with other settings .{name}: there"):
        model_of(changed).store(tmp_path / "images")


@pytest.mark.parametrize("lacking", [("guidance_power", "guidance_interval"), FILTER_NAMES])
def test_what_was_written_before_there_was_a_filter_was_drawn_without_it(lacking, tmp_path):
    settings = SampleConfig(n=4)
    model_of(settings).store(tmp_path / "images")
    path = tmp_path / "images" / SETTINGS
    before = {
        name: value for name, value in json.loads(path.read_text(encoding="utf-8")).items() if name not in lacking
    }
    path.write_text(json.dumps(before), encoding="utf-8")
    model_of(settings).store(tmp_path / "images")
    for name in lacking:
        with pytest.raises(ValueError, match=f"{name}: there"):
            model_of(SampleConfig(n=4, **{name: OTHER[name]})).store(tmp_path / "images")
    drawn = samples.protocol_of(model_of(settings), SimpleNamespace(protocol=dict), {})["drawn"]
    other = {**drawn, "guidance_power": 2.75}
    for file, said in (("new", drawn), ("old", {k: v for k, v in drawn.items() if k not in lacking}), ("other", other)):
        protocol = {"fid": 1.0, "warnings": [], "protocol": {"drawn": said}}
        (tmp_path / f"{file}.json").write_text(json.dumps(protocol), encoding="utf-8")
    paths = {file: str(tmp_path / f"{file}.json") for file in ("new", "old", "other")}
    assert "otherwise" not in compare_results([paths["new"], paths["old"]])
    assert "| drawn.guidance_power | 1.0 | 2.75 |" in compare_results([paths["old"], paths["other"]])
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match="is damaged"):
        model_of(settings).store(tmp_path / "images")


SWEPT = {
    "temperature": ("0.5,1", [0.5, 1.0], ["0.5", "1"]),
    "top_k": ("none,7", [None, 7], ["none", "7"]),
    "top_p": ("0.25", [0.25], ["0.25"]),
    "guidance": ("1,3", [1.0, 3.0], ["1", "3"]),
    "guidance_schedule": ("linear,power-cosine", ["linear", "power-cosine"], ["linear", "power-cosine"]),
    "guidance_power": ("1,2.75", [1.0, 2.75], ["1", "2.75"]),
    "guidance_interval": ("(),(0,32)", [(), (0, 32)], ["all", "0-32"]),
    "steps": ("none,4", [None, 4], ["none", "4"]),
    "choice_temperature": ("0,4.5", [0.0, 4.5], ["0", "4.5"]),
}


@each
def test_it_can_be_swept(saved, name):
    options, values, shown = SWEPT[name]
    options = given("sweep", f"--{name}", options)
    assert commands.swept_values(options) == {name: values}
    found = settings_of(commands._drawn(options, {}), commands.swept_values(options))
    assert [(one, value, s.filters()) for one, value, s in found] == [
        (name, value, dataclasses.replace(SAVED, **{name: value})) for value in values
    ]
    rows = table([{"filter": name, "value": value, "figures": {"fid": 1.0}} for value in values])
    assert [line.split(" | ")[0] for line in rows.splitlines()[2:]] == [f"| {name} {one}" for one in shown]


def test_one_interval_needs_no_brackets():
    assert commands.swept_values(given("sweep", "--guidance_interval", "0,32")) == {"guidance_interval": [(0, 32)]}


@pytest.mark.parametrize("name", [name for name in FILTER_NAMES if name not in ("temperature", "guidance", "steps")])
def test_a_sweep_of_what_changes_nothing_is_refused(name):
    base = SampleConfig(temperature=0.0)
    with pytest.raises(ValueError, match=f"--{name}=.* changes nothing with (temperature=0.0|guidance=1.0)"):
        settings_of(base, {name: [OTHER[name]]})


def test_an_evaluation_refuses_what_it_does_not_draw_by(monkeypatch):
    monkeypatch.setattr(samples, "open_model", lambda *_: pytest.fail("it has begun"))
    used, refused = set(samples.USED_SETTINGS), []
    others = {"classes": "1", "per_class": 2, "size": (32, 32), "condition": "maps", "unlabelled": 0, "missing": "0"}
    others |= {"stride": 2, "complete": "a.png", "keep": "top", "scorer": "a:b", "accept": 0.5, "animate": True}
    others |= {"out": "elsewhere"}
    together = {"keep": {"complete": "a.png"}, "scorer": {"accept": 0.5}, "accept": {"scorer": "a:b"}}
    for field in dataclasses.fields(SampleConfig):
        if field.name not in used:
            settings = SampleConfig(**{field.name: others[field.name], **together.get(field.name, {})})
            with pytest.raises(
                ValueError, match=f"{'|'.join((field.name, *together.get(field.name, {})))}=.*evaluation"
            ):
                samples.Model.open("workdir", settings)
            refused.append(field.name)
    assert set(refused) == set(others)


def followed(filters):
    return {name: value for name, value in to_dict(filters).items() if name in ACTING}


def page_of(sample):
    painter = page_models.painter("segmentation")
    return Painter(painter.generator, dataclasses.replace(painter.saved, config={**painter.saved.config, **sample}))


def asked(painter, **changes):
    body = json.loads(wanted(**changes))
    return parse(json.dumps({k: v for k, v in body.items() if k != "top_p" or k in changes}).encode(), [painter], None)


def test_the_page_begins_with_what_was_saved():
    painter = page_of({"sample": to_dict(SampleConfig(n=99, seed=9, **ACTING))})
    assert painter.about()["sample"] == followed(DRAWN)
    assert asked(painter).settings.filters() == DRAWN  # what is silent
    assert asked(painter, **json.loads(json.dumps(painter.about()["sample"]))).settings.filters() == DRAWN
    assert page_of({"sample": {}}).about()["sample"] == followed(Filters())  # of a checkpoint before there were any
    large = page_of({"sample": {"guidance": 33.0, "top_k": 1 << 21}})
    assert asked(large, **large.about()["sample"]).settings.guidance == 33.0


def test_the_page_has_a_field_for_each():
    page = importlib.resources.files("taming_jax.page").joinpath("static/page.html").read_text(encoding="utf-8")
    ids = set(re.findall(r'id="(\w+)"', page))
    assert ids >= {*FILTER_NAMES, "guidance_first", "guidance_end"} - {"guidance_interval"}  # which is these two


@each_acting
def test_the_page_its_recipe_and_its_picture_have_it(name):
    painter = page_of({"sample": {}})
    one, other = (asked(painter, **followed(f)) for f in (DRAWN, dataclasses.replace(DRAWN, **{name: DEFAULT[name]})))
    assert one.told()["filters"] == followed(DRAWN) and getattr(other.settings, name) == DEFAULT[name]
    assert flags(one)[name] == OTHER[name]
    calls = [calls_of(drawing.told()["python"]) for drawing in (one, other)]
    assert calls[0][name] == OTHER[name] and name not in calls[1]
    made = from_dict(SampleConfig, json.loads(json.dumps(to_dict(one.settings))), "sample")  # as a PNG keeps it
    assert made == one.settings and made.filters() == DRAWN


def calls_of(lines):
    """The keywords in the last line of a recipe."""
    call = ast.parse(lines.splitlines()[-1]).body[0].value
    return {word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"guidance_schedule": "up"}, "guidance_schedule='up' is unknown"),
        ({"guidance_schedule": ["linear"]}, "guidance_schedule must be a text"),
        ({"guidance_power": 0}, "guidance_power=0"),
        ({"guidance_power": "much"}, "guidance_power must be a number"),
        ({"guidance_power": 10**400}, "guidance_power must be a number"),
        ({"guidance": 21}, "guidance must be a number from 0 to 20"),
        ({"guidance_interval": [3]}, "guidance_interval=.3,., but"),
        ({"guidance_interval": 3}, "guidance_interval must be a list of whole numbers"),
        ({"guidance_interval": [0.5, 3]}, "guidance_interval must be a list of whole numbers"),
        ({"guidance_interval": [5, 3]}, "guidance_interval=.5, 3., but"),
        ({"top_k": 1.5}, "top_k must be a whole number"),
    ],
)
def test_the_page_refuses_what_is_no_filter(changes, message):
    with pytest.raises(ValueError, match=message):
        asked(page_of({"sample": {}}), **changes)


def test_a_model_without_condition_dropout_is_not_guided_by_the_page():
    assert asked(page_models.painter("none"), guidance=3.0, guidance_schedule="linear").settings.guidance == 1.0
