"""What files of others may cost, and how their values are shown."""

import os
import zipfile

import numpy as np
import pytest

from taming_jax import limits
from taming_jax.files import read_npz
from taming_jax.limits import check_regular, check_unpacked, json_of, read_json, told
from taming_jax.memory import out_of_memory
from taming_jax.quality.features import Protocol
from taming_jax.quality.statistics import read_statistics


def laughing(depth):
    found = ["lol"]
    for _ in range(depth):
        found = [found, found]
    return found


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("short", "'short'"),
        (-7, "-7"),
        (0.5, "0.5"),
        (None, "None"),
        ((256, 128), "(256, 128)"),
        ({"a": [1]}, "{'a': [1]}"),
        ("x" * 1000, "... (1000 letters)"),
        (10**400, "a whole number of 1329 bits"),
        (list(range(1000)), "..."),
        (laughing(60), "..."),
        ("a\nb", r"'a\nb'"),
    ],
)
def test_a_value_is_shown_in_short(value, shown):
    text = told(value)
    assert shown in text and len(text) <= 80 and "\n" not in text


def test_a_value_that_holds_itself_is_shown():
    value = []
    value.append(value)
    assert len(told(value)) < 80


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "too deep"),
        ("[" * 200 + "]" * 200, "more than 100"),
        ("9" * 5000, "digits"),
        ("{", "Expecting"),
        (b"\xff\xfe\0", "UTF|utf"),
    ],
)
def test_json_that_nobody_writes_is_refused_in_one_line(text, words):
    with pytest.raises(ValueError, match=words) as caught:
        json_of(text)
    assert "\n" not in str(caught.value)


def test_files_alone_are_read_and_of_a_size(tmp_path):
    (tmp_path / "good.json").write_text('{"a": [1, 2.5]}', encoding="utf-8")
    assert read_json(tmp_path / "good.json") == {"a": [1, 2.5]}
    with pytest.raises(ValueError, match=r"has 15 bytes, and at most 14"):
        read_json(tmp_path / "good.json", 14)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name, kind in (("pipe", "a pipe"), ("zero", "a device"), ("", "a folder")):
        with pytest.raises(ValueError, match=f"is {kind}, and no file"):
            check_regular(tmp_path / name)
    check_regular(tmp_path / "missing")  # opening it says why
    with pytest.raises(OSError, match="missing"):
        read_json(tmp_path / "missing")


def test_what_unpacks_out_of_proportion_is_refused(monkeypatch):
    check_unpacked(1, limits.SMALL, "it")
    check_unpacked(limits.SMALL, limits.SMALL * 2, "it")
    with pytest.raises(ValueError, match="unpacked; refused"):
        check_unpacked(1000, limits.SMALL + 1, "it")
    monkeypatch.setattr(limits, "free_memory", lambda: limits.SMALL)
    with pytest.raises(ValueError, match="in memory, of which"):
        check_unpacked(limits.SMALL, limits.SMALL * 2, "it")
    assert 1 << 20 < limits.free_memory() <= 1 << 60


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_back_as_they_were_saved(tmp_path, save):
    arrays = {
        "c": np.arange(6, dtype=">i4").reshape(2, 3),
        "f": np.asfortranarray(np.eye(3)[:, :2]),
        "none": np.zeros((0, 3)),
        "one": np.array(2.5),
        "text": np.array(["a", "bc"]),
        "large": np.arange(1 << 19, dtype=np.float64),
    }
    save(tmp_path / "a.npz", **arrays)
    found = read_npz(tmp_path / "a.npz")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and found[name].flags.writeable
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_arrays_of_one_name_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("a.npy", archive.read("a.npy"))
    with pytest.raises(ValueError, match=r"two entries called 'a\.npy'"):
        read_npz(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ({"n": np.zeros(3)}, "one number of images"),
        ({"n": np.array(np.inf)}, "n=inf"),
        ({"n": np.array(-5)}, "at least 1"),
        ({"n": np.array("x")}, "one number of images"),
        ({"protocol": np.array(["a"])}, "expected texts"),
        ({"protocol": np.array(["a"] * 50)}, "expected texts"),
        ({"protocol": np.array("a")}, "expected texts"),
        ({"mu": np.array(["x"] * 4)}, "expected numbers"),
        ({"sigma": np.eye(3)}, "expected"),
        ({"mu": np.full(4, np.nan)}, "not finite"),
    ],
)
def test_statistics_of_a_wrong_form_are_refused(tmp_path, odd, words):
    good = {"mu": np.zeros(4), "sigma": np.eye(4), "n": np.array(9)}
    np.savez(tmp_path / "good.npz", **good)
    protocol = Protocol("demo", "", "", "4")
    assert read_statistics(str(tmp_path / "good.npz"), protocol).n == 9
    np.savez(tmp_path / "odd.npz", **{**good, **odd})
    with pytest.raises(ValueError, match=words):
        read_statistics(str(tmp_path / "odd.npz"), protocol)


def test_full_memory_is_told_with_the_file_that_asked_for_it():
    error = MemoryError("reading runs/a.ckpt: Unable to allocate 7.45 GiB for an array")
    assert "(7.45 GiB were asked for), which was needed for reading runs/a.ckpt." in out_of_memory(error)
