import errno
import json
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from PIL import Image

from taming_jax.pictures import PAD, grid
from taming_jax.training.report import Report


def lines(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def test_scalars_are_json_lines_that_keep_every_bit(tmp_path):
    report = Report(tmp_path / "new" / "run", tensorboard=False)
    loss = jnp.float32(1) / 3
    report.scalars(1, {"loss": loss, "b": 2, "a": np.float32(0.5)})
    report.scalars(np.int64(2), {"psnr": 20.5}, prefix="val")
    report.scalars(3, {"samples/match": 1.0}, prefix="")
    text = (tmp_path / "new" / "run" / "metrics.jsonl").read_text(encoding="utf-8")
    first, second, third = text.splitlines()
    assert first == f'{{"step": 1, "train/a": 0.5, "train/b": 2.0, "train/loss": {float(loss)!r}}}'
    assert np.float32(json.loads(first)["train/loss"]) == np.float32(loss)
    assert json.loads(second) == {"step": 2, "val/psnr": 20.5}
    assert json.loads(third) == {"step": 3, "samples/match": 1.0}
    assert text.endswith("\n")


def test_values_that_are_not_finite_are_null_because_json_has_no_word_for_them(tmp_path):
    Report(tmp_path, tensorboard=False).scalars(1, {"x": float("nan"), "y": jnp.inf})
    assert (tmp_path / "metrics.jsonl").read_text(encoding="utf-8") == '{"step": 1, "train/x": null, "train/y": null}\n'


def test_rewind_forgets_what_came_after_the_checkpoint(tmp_path):
    report = Report(tmp_path, tensorboard=False)
    report.rewind(0)  # nothing there yet
    for step in (1, 2, 3, 4):
        report.scalars(step, {"loss": step})
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 2, "train/lo')  # killed while writing
    report = Report(tmp_path, tensorboard=False)
    report.rewind(2)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]
    report.scalars(3, {"loss": 30})
    assert [(line["step"], line["train/loss"]) for line in lines(tmp_path)] == [(1, 1), (2, 2), (3, 30)]
    before = (tmp_path / "metrics.jsonl").read_bytes()
    report.rewind(3)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "times.jsonl"]


def test_images_are_png_grids(tmp_path):
    images = jnp.stack([jnp.full((100, 120, 3), value) for value in (-1.0, 0.0, 1.0)])
    Report(tmp_path, tensorboard=False).images(20, "val/reconstruction", images, columns=2)
    picture = np.asarray(Image.open(tmp_path / "images" / "val_reconstruction_0000020.png"))
    assert picture.shape == (2 * 100 + 3 * PAD, 2 * 120 + 3 * PAD, 3)
    for (row, column), value in {(0, 0): 0, (0, 1): 128, (1, 0): 255, (1, 1): 255}.items():
        assert (picture[PAD + row * (100 + PAD) :, PAD + column * (120 + PAD) :][:100, :120] == value).all()


def test_tiny_pictures_are_enlarged_without_smoothing():
    image = np.linspace(-1, 1, 8 * 6 * 1).reshape(1, 8, 6, 1)
    picture = np.asarray(grid(image))[PAD:-PAD, PAD:-PAD]
    assert picture.shape == (96, 72, 3)
    expected = np.round((image[0] + 1) * 127.5).astype(np.uint8)
    np.testing.assert_array_equal(picture[::12, ::12], np.tile(expected, (1, 1, 3)))
    np.testing.assert_array_equal(picture, picture[::12, ::12].repeat(12, axis=0).repeat(12, axis=1))


def test_out_of_range_is_clipped_and_nan_black():
    image = np.array([5.0, -5.0, np.nan, np.inf]).reshape(4, 1, 1, 1) * np.ones((4, 100, 100, 3))
    picture = np.asarray(grid(image, columns=4))
    middles = picture[50, PAD + 50 :: 100 + PAD][:4]
    np.testing.assert_array_equal(middles[:, 0], [255, 0, 0, 255])


def test_labels_are_drawn_under_the_pictures_and_stay_in_their_cell():
    white = np.ones((2, 100, 100, 3))
    picture = np.asarray(grid(white, columns=2, labels=["a very long label that cannot fit in", ""]))
    assert picture.shape[0] > np.asarray(grid(white, columns=2)).shape[0]
    assert (picture[PAD + 100 :, : PAD + 100] < 100).any()
    assert (picture[: PAD + 100] == 255).all() and (picture[:, PAD + 100 :] == 255).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": np.zeros((8, 8, 3))}, r"\(8, 8, 3\)"),
        ({"images": np.zeros((0, 8, 8, 3))}, r"\(0, 8, 8, 3\)"),
        ({"images": np.zeros((1, 8, 8, 2))}, r"\(1, 8, 8, 2\)"),
        ({"images": np.zeros((2, 8, 8, 3)), "columns": 0}, "columns is 0"),
        ({"images": np.zeros((2, 8, 8, 3)), "labels": ["one"]}, "2 images needs 2 labels, but 1"),
    ],
)
def test_bad_grids(arguments, message):
    with pytest.raises(ValueError, match=message):
        grid(**arguments)


def test_only_the_main_process_writes(tmp_path):
    report = Report(tmp_path / "run", is_main=False)
    report.scalars(1, {"loss": 1.0})
    report.images(1, "samples", np.zeros((1, 8, 8, 3)))
    report.text(1, "parameters", "none")
    report.rewind(0)
    report.close()
    assert list(tmp_path.iterdir()) == []


def test_texts_are_files(tmp_path):
    report = Report(tmp_path, tensorboard=False)
    report.text(0, "parameters", "old")
    report.text(0, "parameters", "encoder 3\ndecoder 4")
    assert (tmp_path / "parameters.txt").read_text(encoding="utf-8") == "encoder 3\ndecoder 4\n"


def test_tensorboard_gets_the_same(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    report = Report(tmp_path)
    report.scalars(7, {"loss": 0.25})
    report.images(7, "val/reconstruction", np.zeros((2, 8, 8, 3)))
    report.text(7, "parameters", "encoder 3")
    report.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"tensors": 0})
    events.Reload()
    assert set(events.Tags()["tensors"]) == {"train/loss", "val/reconstruction", "parameters"}
    (loss,) = events.Tensors("train/loss")
    assert loss.step == 7 and loss.tensor_proto.tensor_content == np.float32(0.25).tobytes()
    assert lines(tmp_path) == [{"step": 7, "train/loss": 0.25}]


def test_without_tensorflow_it_writes_the_rest_and_says_so_once(tmp_path):
    program = f"""
import sys
sys.modules["tensorflow"] = None  # importing it fails, as where it is not installed
from absl import logging
logging.set_verbosity(logging.INFO)
logging.use_absl_handler()
from taming_jax.training.report import Report
report = Report({str(tmp_path)!r})
report.scalars(1, {{"loss": 1.0}})
report.images(1, "samples", [[[[0.0]]]])
report.close()
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300, encoding="utf-8"
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("No TensorBoard files") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "metrics.jsonl", "times.jsonl"]


def test_the_time_of_training_goes_on_where_it_was_resumed(tmp_path, monkeypatch):
    """Without the time between, and without that of steps that were forgotten."""
    clock = iter((100.0, 110.0, 130.0, 190.0, 5000.0, 5007.0, 9000.0))
    monkeypatch.setattr("taming_jax.training.report.time.monotonic", lambda: next(clock))
    lines = lambda: (tmp_path / "times.jsonl").read_text(encoding="utf-8").splitlines()
    seconds = lambda: [tuple(json.loads(line).values()) for line in lines()]
    report = Report(tmp_path, tensorboard=False)
    for step in (5, 10, 15):
        report.scalars(step, {"loss": 1.0})
    assert seconds() == [(10.0, 5), (30.0, 10), (90.0, 15)]
    report = Report(tmp_path, tensorboard=False)
    report.rewind(10)
    report.scalars(15, {"loss": 1.0})
    assert seconds() == [(10.0, 5), (30.0, 10), (37.0, 15)]
    (tmp_path / "metrics.jsonl").write_text('{"step": 20, "train/loss": 1.0}\n', encoding="utf-8")  # an older version's
    report = Report(tmp_path, tensorboard=False)
    report.scalars(25, {"loss": 1.0})
    assert len(seconds()) == 3


def test_a_with_statement_closes_it(tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr(Report, "close", lambda self: closed.append(self))
    with pytest.raises(RuntimeError), Report(tmp_path, tensorboard=False) as report:
        assert not closed
        raise RuntimeError
    assert closed == [report]


def test_what_cannot_be_written_is_told_once_and_nothing_of_the_history_is_lost(tmp_path, caplog, monkeypatch):
    """A picture, a text and a line; the lines are written once there is room, each whole."""
    report, kind = Report(tmp_path, tensorboard=False), type(epath.Path(tmp_path))
    report.scalars(1, {"loss": 1})
    opened = kind.open

    def full(path, mode="r", **options):
        if mode.startswith("r"):
            return opened(path, mode, **options)
        with opened(path, mode, **options) as file:
            file.write(b"{" if "b" in mode else "{")  # a part of it still fits
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(kind, "open", full)
        for step in (2, 3):
            report.scalars(step, {"loss": step})
            report.images(step, "val", np.zeros((1, 8, 8, 3)))
            report.text(step, "parameters", "none")
    told = [record.getMessage() for record in caplog.records]
    names = ("times.jsonl", "metrics.jsonl", "images", "parameters.txt")
    assert [words.split("'")[1] for words in told] == [str(tmp_path / name) for name in names]
    assert all(words.endswith("(No space left on device); training goes on.") for words in told)
    report.scalars(4, {"loss": 4})
    report.close()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "metrics.jsonl", "times.jsonl"]


def test_lines_that_are_lost_in_the_end_are_counted(tmp_path, caplog):
    report = Report(tmp_path, tensorboard=False)
    (tmp_path / "metrics.jsonl").mkdir()
    for step in (1, 2):
        report.scalars(step, {"loss": step})
    report.close()
    assert "The last 2 line(s) of" in caplog.records[-1].getMessage() and len(caplog.records) == 2


def test_tensorboard_that_fails_is_left_out(tmp_path, caplog):
    class Writer:
        def write_scalars(self, step, numbers):
            raise RuntimeError("no room")

    report = Report(tmp_path, tensorboard=False)
    report._writer = Writer()
    for step in (1, 2):
        report.scalars(step, {"loss": step})
    report.close()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]
    (told,) = [record.getMessage() for record in caplog.records]
    assert "tensorboard' cannot be written (no room); training goes on." in told
