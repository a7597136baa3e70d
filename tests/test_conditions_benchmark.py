"""The benchmark of the conditions: its measures on real scenes, and a run of it from end to end."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import conditions
import measures


@pytest.fixture(scope="module")
def scenes():
    return conditions.held_out(24)


@pytest.mark.parametrize("name", [name for name in conditions.TESTS if name != "depth"])
def test_real_scenes_obey_and_others_do_not(name, scenes):
    test = conditions.TESTS[name]
    own = test.read(scenes["image"], scenes)
    other = test.read(np.roll(scenes["image"], 1, axis=0), scenes)
    if test.higher:
        assert own > 0.9 and other < 0.6 * own
    else:
        assert own == 0 and other > (1.0 if name == "edges" else 0.1)
    assert test.met(own, own, other) and not test.met(own, other, other) and not test.met(own, own, own)


def test_conditions_go_by_the_names_in_the_document():
    text = (Path(__file__).parent.parent / "docs" / "conditions.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|.*[≥≤]", text, re.MULTILINE)
    assert rows == list(conditions.TESTS)
    options = conditions.parse([])
    assert all(conditions.experiment(name, options).condition.kind == name for name in rows)
    assert conditions.experiment("class_label", options).workdir == "runs/demo_class"  # that of `make demo`


def test_depth_is_read_by_a_network_that_has_seen_scenes(scenes, monkeypatch):
    monkeypatch.setattr(measures, "depth_reader", lambda: lambda images: scenes["depth"] + 0.25)
    assert measures.depth_error(scenes["image"], scenes) == pytest.approx(0.25, abs=1e-6)


def test_hidden_and_tiny_objects_are_not_counted():
    labels = np.zeros((1, 32, 32), np.int32)
    labels[0, 4:12, 4:12] = 2 + 3
    labels[0, 16:20, 4:8] = 2 + 7  # too small
    labels[0, 20:30, 20:23] = 2 + 5  # a strip of what lies behind something
    boxes = np.array([[[4, 4, 8, 8], [14, 18, 12, 12], [4, 16, 4, 4], [0, 0, 0, 0]]]) / 32
    scene = {"segmentation": labels, "object_boxes": boxes, "object_category": np.array([[3, 5, 7, -1]])}
    assert [set(boxes) for boxes in measures._visible(scene)] == [{3}]
    np.testing.assert_allclose(measures.region(labels[0], 3) * 32, [4, 4, 8, 8])
    assert measures.region(labels[0], 0) is None
    assert measures.box_iou(np.array([0, 0, 0.5, 0.5]), np.array([0.25, 0, 0.5, 0.5])) == pytest.approx(1 / 3)


def test_it_trains_measures_and_goes_on(tmp_path, capsys):
    out, runs = tmp_path / "out", tmp_path / "runs"
    arguments = ["--quick", "--only", "low_res", "--scenes", "8", "--out", str(out), "--runs", str(runs)]
    found = conditions.main(arguments)["conditions"]["low_res"]
    text = capsys.readouterr().out
    assert text.count("training ") == 2 and "| low_res |" in text
    assert {"ceiling", "sample", "wrong", "bar", "met"} <= set(found) and 0 < found["ceiling"] < 2
    assert json.loads((out / "conditions.json").read_text(encoding="utf-8"))["conditions"]["low_res"] == found
    for name, rows in (("low_res", 3), ("overview", 2)):
        with Image.open(out / f"{name}.png") as picture:
            assert picture.width > 8 * 96 and picture.height > rows * 96
    conditions.trained("low_res", conditions.parse(arguments))
    assert "training " not in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"holds another model; give another folder with --runs"):
        conditions.trained("low_res", conditions.parse(arguments[1:]))
    with pytest.raises(SystemExit):
        conditions.main(["--only", "smell"])
    assert "unknown condition(s) smell; known: class" in capsys.readouterr().err
