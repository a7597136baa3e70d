"""Files that are whole or not there, and how two things differ in words."""

import errno

import numpy as np
import pytest
from etils import epath

from taming_jax.differences import differences, few
from taming_jax.files import check_writable, printable, read_npz, unfinished, whole, write_whole


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path):
    path = tmp_path / "info.json"
    write_whole(path, "old")
    with pytest.raises(KeyboardInterrupt), whole(path) as attempt:
        assert attempt.parent == tmp_path and attempt.suffix == ".json"
        attempt.write_text("half", encoding="utf-8")
        assert path.read_text(encoding="utf-8") == "old"
        raise KeyboardInterrupt
    assert [file.name for file in tmp_path.iterdir()] == ["info.json"] and path.read_text(encoding="utf-8") == "old"
    unfinished(path).write_text("what a killed process has left", encoding="utf-8")
    write_whole(str(path), b"new")
    assert [file.name for file in tmp_path.iterdir()] == ["info.json"] and path.read_text(encoding="utf-8") == "new"


def test_a_folder_too(tmp_path):
    left = unfinished(tmp_path / "model")
    left.mkdir()
    (left / "old").write_text("what a killed process has left", encoding="utf-8")
    with whole(tmp_path / "model") as attempt:
        (attempt / "part").mkdir(parents=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["part"]


def test_a_file_that_several_write_is_of_one_of_them(tmp_path):
    path = tmp_path / "map.png"
    with whole(path, mark="1") as one, whole(path, mark="2") as two:
        one.write_text("one", encoding="utf-8")
        two.write_text("two", encoding="utf-8")
    assert [file.name for file in tmp_path.iterdir()] == ["map.png"] and path.read_text(encoding="utf-8") == "one"


def test_arrays_are_read_and_nothing_else(tmp_path):
    np.savez(tmp_path / "arrays.npz", a=np.arange(3), b=np.ones((2, 2)))
    found = read_npz(tmp_path / "arrays.npz")
    assert sorted(found) == ["a", "b"]
    np.testing.assert_array_equal(found["a"], np.arange(3))
    np.savez(tmp_path / "objects.npz", a=np.array([{}], object))
    (tmp_path / "half.npz").write_bytes((tmp_path / "arrays.npz").read_bytes()[:100])
    np.save(tmp_path / "one.npy", np.arange(3))
    for name in ("objects.npz", "half.npz", "one.npy"):
        with pytest.raises(ValueError, match=rf"{name} is truncated, or not a file of arrays alone: ."):
            read_npz(tmp_path / name)


def test_differences_in_words():
    saved = {"model": {"ch": 16, "remap": [], "old": None}, "kind": "vqgan"}
    given = {"model": {"ch": 32, "remap": list(range(99)), "new": "nothing"}, "kind": "vqgan"}
    assert differences(saved, saved) == ""
    notes = differences(saved, given, "config").split("; ")
    assert notes[:2] == ["config.model.ch: 16 there, 32 here", "config.model.new: nothing there, 'nothing' here"]
    assert notes[2] == "config.model.old: None there, nothing here"
    assert notes[3].startswith("config.model.remap: [] there, [0, 1, 2") and "...] here" in notes[3]
    many = differences({}, {str(i): i for i in range(6)})
    assert many.startswith("0: nothing there, 0 here; 1: ") and many.endswith("; and 2 more")
    assert few(["a", "b"], most=2) == "a; b"


def test_a_folder_that_cannot_be_written_is_known_before_the_work(tmp_path, monkeypatch):
    check_writable(tmp_path / "new" / "run")
    assert not list(tmp_path.iterdir())  # nothing is left, nor made
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for folder in ("file", "file/run"):
        with pytest.raises(OSError, match=r"file' is a file\); name another folder"):
            check_writable(tmp_path / folder)

    def full(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(type(epath.Path(tmp_path)), "write_bytes", full)
    with pytest.raises(OSError, match=r"run' cannot be written \(.*Read-only file system\); name another folder"):
        check_writable(tmp_path / "run")


def test_what_would_break_a_line_is_escaped():
    assert printable("a\nb\x1b[31m\udcff ä 水\u2028") == "a\\nb\\x1b[31m\\udcff ä 水\\u2028"
