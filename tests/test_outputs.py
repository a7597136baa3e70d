"""Where programs write: nothing is lost, and what cannot be written is known before the work."""

import os
import random
import sys

import numpy as np
import pytest
from PIL import Image

from taming_jax.files import unfinished, whole, write_whole
from taming_jax.names import fitting, forgive_output, on_disk, written
from taming_jax.outputs import check_outputs, free_name, is_json, is_npz, is_text, new_folder, newest_folder

LETTERS = "aZ9_ -äß水山🙂\udcfc\udce9'\"\\\n[]*?"


def names(n, longest=400):
    rng = random.Random(0)
    return ["".join(rng.choices(LETTERS, k=rng.randint(1, longest))) for _ in range(n)]


def size(name):
    return len(name.encode("utf-8", "surrogateescape"))


def test_names_of_any_bytes_can_be_written_as_utf_8(monkeypatch):
    for name in (*names(50), "\ud800 of a JSON file"):
        written(name).encode()
    assert written(os.fsdecode("Zürich".encode())) == "Zürich" == written("Z\udcc3\udcbcrich")
    monkeypatch.setattr(os, "fsdecode", lambda name: name.decode("ascii", "surrogateescape"))  # as under LC_ALL=C
    assert written(on_disk("Zürich 水")) == "Zürich 水" and on_disk("a\udcfc") == "a\udcfc"
    assert written("Z\udcfcrich") == r"Z\xfcrich" and written("\ud800") == r"\ud800"


def test_long_names_are_cut_where_a_letter_ends_and_stay_different():
    for name in names(50):
        cut = fitting(name, "_beside.png")
        assert size(cut) <= 255 and cut.endswith("_beside.png")
        assert cut == name + "_beside.png" if size(name) <= 244 else cut != fitting(name + "x", "_beside.png")
    assert fitting("水" * 100, ".png", most=50).startswith("水" * 12 + "-")


def test_any_name_that_a_file_system_takes_can_be_written_whole(tmp_path):
    for ending in (".png", ""):
        for letter in ("n", "水"):
            name = letter * ((255 - len(ending)) // size(letter)) + ending
            write_whole(tmp_path / name, "text")
            assert [path.name for path in tmp_path.iterdir()] == [name]
            (tmp_path / name).unlink()
    long = [unfinished(tmp_path / f"{'n' * 250}{end}").name for end in "ab"]
    assert long[0] != long[1]


def test_an_error_of_writing_names_the_file(tmp_path):
    for number in (28, 5):
        with pytest.raises(OSError, match=r"result\.json") as caught, whole(tmp_path / "result.json"):
            raise OSError(number, os.strerror(number))
        assert caught.value.errno == number
    with pytest.raises(FileNotFoundError, match=r"'another'"), whole(tmp_path / "result.json"):
        raise FileNotFoundError(2, "No such file", "another")


def test_output_of_any_letters_ends_no_program(capfd, monkeypatch):
    for encoding in ("ascii", "utf-8", "cp1252"):
        with open(1, "w", encoding=encoding, closefd=False) as stream:
            monkeypatch.setattr(sys, "stdout", stream)
            forgive_output()
            print("Zürich 水 Z\udcfcrich")
    said = capfd.readouterr().out
    assert said.count(r"Z\udcfcrich") == 3 and r"Z\xfcrich \u6c34" in said


def no(path):
    return False


def yes(path):
    return True


def test_what_is_read_is_not_written_over_by_whatever_name(tmp_path):
    folder, file = tmp_path / "images", tmp_path / "images" / "a.png"
    folder.mkdir()
    file.write_bytes(b"1")
    (tmp_path / "link.png").symlink_to(file)
    (tmp_path / "hard.png").hardlink_to(file)
    (tmp_path / "folder").symlink_to(folder)
    spelt = folder / ".." / "images" / "a.png"
    for out in (file, tmp_path / "link.png", tmp_path / "hard.png", tmp_path / "folder" / "a.png", spelt):
        with pytest.raises(ValueError, match=r"--out=x: .* is read by this call, and would be overwritten"):
            check_outputs("--out=x", {out: yes}, ["", str(tmp_path / "none"), "gs://bucket/a", str(file)])
    for out in (file, tmp_path / "link.png", spelt):
        with pytest.raises(ValueError, match="is read by this call"):
            check_outputs("--out=x", {out: yes}, [str(tmp_path / "folder")])
    check_outputs("--out=x", {folder / "new.png": no, tmp_path / "other.png": no}, [str(folder)])
    assert sorted(path.name for path in folder.iterdir()) == ["a.png"]


def test_what_cannot_be_written_is_known_before(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loose").symlink_to(tmp_path / "nowhere" / "x")
    check_outputs("--out=x", {tmp_path / "file": no, tmp_path / "new" / "a.json": no})  # an empty file is nothing
    assert (tmp_path / "new").is_dir() and not any((tmp_path / "new").iterdir())
    for out, message in (
        (tmp_path / "file" / "a.json", "cannot be written"),
        (tmp_path / "folder", r"cannot be written \(it is a folder\)"),
        (tmp_path / ("n" * 256), r"cannot be written \(File name too long\)"),
        ("/dev/full/a.json", r"cannot be written \("),
        ("/proc/none/a.json", r"cannot be written \("),
        (tmp_path / "loose", "is there already, and nothing says that this program wrote it"),
    ):
        with pytest.raises(ValueError, match=message):
            check_outputs("--out=x", {out: no})


def test_files_of_our_own_are_known(tmp_path):
    (tmp_path / "a.json").write_text('{"fid": 1, "protocol": {}}', encoding="utf-8")
    (tmp_path / "b.json").write_text("[" * 100_000, encoding="utf-8")
    (tmp_path / "c.md").write_text("# Zürich\n", encoding="utf-8")
    (tmp_path / "d.bin").write_bytes(b"\xff\xfe")
    np.savez(tmp_path / "e.npz", mu=np.ones(2), sigma=np.ones(2))
    assert is_json(tmp_path / "a.json", "protocol") and not is_json(tmp_path / "a.json", "rows")
    assert is_text(tmp_path / "c.md", "# Zürich") and not is_text(tmp_path / "c.md", "Zürich")
    assert is_npz(tmp_path / "e.npz", "mu") and not is_npz(tmp_path / "e.npz", "mu", "protocol")
    for name in ("b.json", "d.bin", "none"):
        path = tmp_path / name
        assert not (is_json(path) or is_npz(path) or is_text(path, "x"))


def test_each_call_has_a_folder_of_its_own(tmp_path):
    path = tmp_path / "run [a]" / "samples"
    assert newest_folder(path).name == "samples"
    for number in (1, 2, 3):
        folder = new_folder(path)
        assert folder.name == f"samples{'' if number == 1 else f'_{number}'}"
        assert str(new_folder(path)) == str(folder) == str(newest_folder(path))  # it is empty still
        Image.new("L", (1, 1)).save(folder / "a.png")
    (path.parent / "samples_2" / "a.png").unlink()
    (path.parent / "samples_7").write_bytes(b"a file")
    (path.parent / "samples_old").mkdir()
    assert new_folder(path).name == "samples_8"


def test_a_name_that_is_free(tmp_path):
    path = tmp_path / "a_again.png"
    for name in ("a_again.png", "a_again_2.png", "a_again_3.png"):
        assert free_name(path).name == name
        free_name(path).write_bytes(b"")
