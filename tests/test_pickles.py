"""Pickles that no program of today writes: which of them are read, and that the others leave nothing behind."""

import inspect
import pickle

import numpy as np
import pytest
from hostile_pickles import in_zip
from pickles import array, items, name, number, state, storage, text, twice

from taming_jax.convert import unpickler
from taming_jax.convert.reader import LEGACY_MAGIC, read_state


def test_what_old_and_honest_programs_write_is_read(tmp_path):
    """Keys that are small tuples, sets, and dictionaries of pairs, as Python 2 wrote them."""
    w = array(storage())
    pairs = b"](" + items(text("w"), w) + b"e"
    ordered = name("collections", "OrderedDict") + items(pairs) + b"R"
    tree = {
        "state_dict": ordered,
        "keys": b"}" + items(text("a"), number(1)) + number(2) + b"s",
        "long": b"}" + text("x" * 5000) + number(2) + b"s",
        "set": name("builtins", "set") + items(b"](" + number(1) + items(number(1), text("b")) + b"e") + b"R",
        "epoch": number(3),
    }
    path = in_zip(tmp_path / "old.ckpt", state(tree), ("0", bytes(64)))
    found, extras = read_state(path)
    assert list(found) == ["w"] and extras["epoch"] == 3
    np.testing.assert_array_equal(found["w"], np.zeros(4))


def test_a_refused_file_leaves_nothing_behind(tmp_path):
    good = in_zip(tmp_path / "good.ckpt", state({"w": array(storage())}), ("0", bytes(64)))
    odd = b"\x80\x02" + twice(40) + name("builtins", "set") + b"h\x28bN" + name("_codecs", "encode") + b"h\x28ab."
    with pytest.raises(ValueError, match="odd"):
        read_state(in_zip(tmp_path / "odd.ckpt", odd))
    assert list(read_state(good)[0]) == ["w"]
    assert inspect.signature(unpickler._encode).parameters["encoding"].default == "latin1"


@pytest.mark.parametrize("form", ["zip", "plain"])
def test_arrays_of_one_storage_share_its_bytes(tmp_path, form):
    arrays = {f"w{i}": array(storage(), i, (2,), (1,)) for i in range(8)}
    path = tmp_path / "a.ckpt"
    if form == "zip":
        in_zip(path, state(arrays), ("0", np.arange(16, dtype=np.float32).tobytes()))
    else:
        head = b"".join(pickle.dumps(one, 2) for one in (LEGACY_MAGIC, 1001, {"little_endian": True}))
        tail = pickle.dumps(["0"], 2) + (16).to_bytes(8, "little") + np.arange(16, dtype=np.float32).tobytes()
        path.write_bytes(head + state(arrays) + tail)
    found = read_state(path)[0]
    for i in range(8):
        np.testing.assert_array_equal(found[f"w{i}"], [i, i + 1])
    assert np.shares_memory(found["w0"], found["w1"])
