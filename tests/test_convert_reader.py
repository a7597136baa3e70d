"""Reading PyTorch's files without PyTorch: real ones, damaged ones, and those that would like to run something."""

import io
import json
import os
import pickle
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest
from conftest import GOLDENS
from safetensors.numpy import save_file

from taming_jax.convert import unpickler
from taming_jax.convert.reader import read_state
from taming_jax.convert.writer import write_checkpoint

# Written by PyTorch 2.13 as Lightning does it, with classes that are not installed here, and in the form before 1.6.
REAL = [GOLDENS / "lightning.ckpt", GOLDENS / "lightning_before_1_6.ckpt"]
STEPS = np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 8
WHERE = {"entry": "state_dict", "entries": ["state_dict"]}  # which entry the arrays are, and what else may be
INTEGERS = ("int64", "int32", "int16", "int8", "uint8", "bool")


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_every_type_view_and_entry_that_torch_writes(path):
    state, extras = read_state(path)
    assert extras == {"epoch": 2, "global_step": 345, "pytorch-lightning_version": "1.0.8"} | WHERE
    expected = {
        "float32": STEPS,
        "transposed": STEPS.transpose(2, 0, 1),
        "slice": np.array([2, 5, 8], np.float32),
        "whole": np.arange(10, dtype=np.float32),
        "repeated": np.full((3, 2), 1.5, np.float32),
        "parameter": STEPS[0],
        "scalar": np.array(7),
        "empty": np.zeros((0, 3), np.float32),
        **{name: np.arange(5).astype(name) for name in ("float16", "float64", *INTEGERS)},
        "bfloat16": np.arange(5).astype(ml_dtypes.bfloat16),
    }
    assert list(state) and set(state) == set(expected)
    for name, array in expected.items():
        assert state[name].dtype == array.dtype, name
        np.testing.assert_array_equal(state[name], array)


def test_a_state_dict_alone_and_what_is_written_here_come_back(tmp_path):
    arrays = {"a.b": STEPS.transpose(2, 1, 0), "n": np.array(-3), "half": STEPS[0].astype(np.float16)}
    write_checkpoint(tmp_path / "alone.pt", arrays)
    state, extras = read_state(tmp_path / "alone.pt")
    assert extras == {}
    for name, array in arrays.items():
        assert state[name].dtype == array.dtype
        np.testing.assert_array_equal(state[name], array)
    tree = {"state_dict": arrays, "global_step": 2**40, "epoch": -1, "text": "é", "x": 0.5, "none": [None, True, (1,)]}
    write_checkpoint(tmp_path / "tree.pt", tree)
    assert read_state(tmp_path / "tree.pt")[1] == {"global_step": 2**40, "epoch": -1, "text": "é", "x": 0.5} | WHERE


class Run:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def pickled(tree, pid=None):
    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return pid if isinstance(value, range) else None

    file = io.BytesIO()
    Pickler(file, protocol=2).dump(tree)
    return file.getvalue()


def archive(path, entries):
    with zipfile.ZipFile(path, "w") as file:
        for name, data in entries.items():
            file.writestr(name, data)
    return path


STORAGE = range(3)  # stands for a storage below


@pytest.mark.parametrize(
    ("make", "pid", "named"),
    [
        (lambda evil: evil, None, "system"),
        (lambda evil: {"state_dict": {"w": evil}}, None, "system"),
        (lambda evil: {"callbacks": {"a": [evil]}, "state_dict": {}}, None, "system"),
        (lambda evil: {"state_dict": {"w": STORAGE}}, lambda evil: ("storage", evil, "0", "cpu", 4), "system"),
        (lambda evil: {"state_dict": {"w": Run(eval, "1")}}, None, r"\w+\.eval"),
        (lambda evil: {"state_dict": {"w": Run(getattr, {}, "get")}}, None, r"\w+\.getattr"),
        (lambda evil: {"state_dict": {"w": Run(np.load, "x")}}, None, "no arrays by name"),
        (lambda evil: {"state_dict": {"w": Run(io.open, "x", "w")}}, None, r"io\.open"),
        (lambda evil: {"state_dict": {"w": STORAGE}}, lambda evil: ("module", "x"), "refers to .*module"),
        (lambda evil: {"state_dict": {"w": STORAGE}}, lambda evil: ("storage", "Float", "0", "cpu", 4), "wrongly"),
    ],
)
@pytest.mark.parametrize("form", ["zip", "plain"])
def test_a_file_that_would_run_something_is_refused_and_runs_nothing(tmp_path, monkeypatch, make, pid, named, form):
    monkeypatch.chdir(tmp_path)
    evil = Run(os.system, "touch was_run")
    data = pickled(make(evil), pid and pid(evil))
    path = tmp_path / "evil.ckpt"
    if form == "zip":
        archive(path, {"archive/data.pkl": data, "archive/data/0": bytes(16)})
    else:
        path.write_bytes(data)
        named = f"{named}|no PyTorch checkpoint|outside of itself"
    with pytest.raises(ValueError, match=rf"evil\.ckpt.*({named})"):
        read_state(path)
    assert not (tmp_path / "was_run").exists()
    assert not (tmp_path / "x").exists()


def unicode(text):
    return b"X" + len(text).to_bytes(4, "little") + text.encode()


def storage_and_array(of_storage=b"", of_array=b""):
    """A pickle of {"w": an array of 4 floats}, with opcodes behind its storage and behind itself."""
    storage = b"(" + unicode("storage") + b"ctorch\nFloatStorage\n" + unicode("0") + unicode("cpu") + b"K\x04tQ"
    array = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + of_storage + b"K\x00(K\x04t(K\x01ttR"
    return b"\x80\x02}" + unicode("w") + array + of_array + b"s."


LARGE = b"J\x00\x00\x10\x00"  # 2^20
TYPE = b"(K\x03" + unicode(">") + b"NNNM\xe8\x03M\xff\xffK\x00tb"  # how a type of numpy is changed: 1000 bytes large


@pytest.mark.parametrize(
    "data",
    [
        storage_and_array(of_array=b"}" + unicode("shape") + b"(" + LARGE + b"tsb"),
        storage_and_array(of_array=b"N}" + unicode("offset") + LARGE + b"s\x86b"),
        storage_and_array(of_storage=b"}" + unicode("numel") + LARGE + b"sb"),
        b"\x80\x02}" + unicode("w") + b"ctorch\nBFloat16Storage\n" + TYPE + b"s.",
    ],
)
def test_a_file_that_changes_what_it_has_described_is_refused(tmp_path, data):
    path = archive(tmp_path / "good.ckpt", {"archive/data.pkl": storage_and_array(), "archive/data/0": bytes(16)})
    np.testing.assert_array_equal(read_state(path)[0]["w"], np.zeros(4))
    path = archive(tmp_path / "evil.ckpt", {"archive/data.pkl": data, "archive/data/0": bytes(16)})
    with pytest.raises(ValueError, match=r"evil\.ckpt"):
        read_state(path)
    assert np.dtype(ml_dtypes.bfloat16).itemsize == 2


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path, path):
    whole, short = path.read_bytes(), tmp_path / "short.ckpt"
    for length in (*range(0, len(whole) - 1, 311), len(whole) - 1):
        short.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"short\.ckpt"):
            read_state(short)


def test_a_damaged_storage_is_noticed(tmp_path):
    write_checkpoint(tmp_path / "a.ckpt", {"w": np.full(8, 2.5, np.float32)})
    data = (tmp_path / "a.ckpt").read_bytes()
    (tmp_path / "b.ckpt").write_bytes(data.replace(np.float32(2.5).tobytes(), np.float32(2.75).tobytes(), 1))
    with pytest.raises(ValueError, match=r"b\.ckpt is truncated.*CRC"):
        read_state(tmp_path / "b.ckpt")


def tensor_pickle(numel, offset, shape, strides):
    """{"w": a float tensor of this shape on the storage "0"}, as opcodes."""
    number = lambda n: b"J" + int(n).to_bytes(4, "little", signed=True)
    numbers = lambda values: b"(" + b"".join(map(number, values)) + b"t"
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu" + number(numel) + b"tQ"
    arguments = b"(" + storage + number(offset) + numbers(shape) + numbers(strides)
    arguments += b"\x89ccollections\nOrderedDict\n)Rt"
    return b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rs."


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ((4, 0, (4,), (1,)), None),
        ((5, 0, (5,), (1,)), "holds 16 bytes, and its array needs 20"),
        ((4, 1, (4,), (1,)), "reaches to element 4 of a storage of 4"),
        ((4, 0, (2, 2), (1,)), "described wrongly"),
        ((4, -1, (4,), (1,)), "described wrongly"),
        ((4, 3, (2,), (-1,)), "described wrongly"),
        ((4, 0, (1 << 20, 1 << 20), (1, 1)), "reaches to element"),
    ],
)
def test_an_array_cannot_reach_out_of_its_storage(tmp_path, tensor, message):
    path = archive(tmp_path / "a.ckpt", {"a/data.pkl": tensor_pickle(*tensor), "a/data/0": bytes(16)})
    if message is None:
        np.testing.assert_array_equal(read_state(path)[0]["w"], np.zeros(4))
        return
    with pytest.raises(ValueError, match=message):
        read_state(path)


def test_other_files_are_refused_with_what_they_are(tmp_path):
    good = tensor_pickle(4, 0, (4,), (1,))
    cases = {
        "there is no file": tmp_path / "none.ckpt",
        "holds data.pkl 2 times": archive(tmp_path / "a.ckpt", {"a/data.pkl": good, "b/data.pkl": good}),
        "entry a/data/0 is missing": archive(tmp_path / "b.ckpt", {"a/data.pkl": good}),
        "no arrays by name": archive(tmp_path / "c.ckpt", {"a/data.pkl": pickled({"state_dict": {}})}),
        "holds no state dict, but list": archive(tmp_path / "d.ckpt", {"a/data.pkl": pickled([1])}),
    }
    packed = tmp_path / "f.ckpt"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/data.pkl", good)
    cases["compressed"] = packed
    for message, path in cases.items():
        with pytest.raises(ValueError, match=message):
            read_state(path)


def named(*names):
    """A pickle of {"callbacks": [objects of these classes, made and filled in every way], "state_dict": {"w": ...}}."""
    objects = b"".join(
        f"c{module}\n{name}\n".encode() + made
        for module, name in names
        for made in (
            b")\x81}" + unicode("x") + b"K\x01sb",  # as classes are made since protocol 2, with their attributes
            b"(K\x01K\x02tR" + unicode("key") + b"K\x01s",  # called, and filled as a mapping
            b")R(K\x01K\x02e",  # called, and filled as a list
            b")R)R",  # what is made is called, too
            b"",  # the class itself
        )
    )
    array = storage_and_array()[len(b"\x80\x02}") : -len(b"s.")]
    return b"\x80\x02}" + unicode("callbacks") + b"](" + objects + b"es" + unicode("state_dict") + b"}" + array + b"ss."


OWN = (
    "__main__.ImageLogger",
    "ldm.callbacks.SetupCallback",
    "main.Setup",
    "my_project.src.utils.Log",
    "torch.optim.Adam",
)
OWN += (
    "functools.partial",
    "collections.Counter",
    "datetime.datetime",
    "enum.Enum",
    "numpy._core.multiarray._reconstruct",
)


def test_classes_of_peoples_own_are_inert_and_never_imported(tmp_path, monkeypatch):
    for name in ("ldm", "my_project"):  # which would be seen, if they were imported
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    data = named(*(name.rsplit(".", 1) for name in OWN))
    path = archive(tmp_path / "own.ckpt", {"a/data.pkl": data, "a/data/0": bytes(16)})
    np.testing.assert_array_equal(read_state(path)[0]["w"], np.zeros(4))
    assert not {"ldm", "my_project"} & set(sys.modules)


@pytest.mark.parametrize(
    "name", ["os.system", "subprocess.Popen", "builtins.eval", "shutil.rmtree", "importlib.import_module"]
)
def test_what_can_do_harm_is_refused_by_name(tmp_path, name):
    path = archive(tmp_path / "evil.ckpt", {"a/data.pkl": named(name.rsplit(".", 1)), "a/data/0": bytes(16)})
    with pytest.raises(ValueError, match=rf"evil\.ckpt: it names \w+\.{name.split('.')[1]}, which no checkpoint needs"):
        read_state(path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ((b"(K\x04t(K\x01t", b"cldm.x\nShape\n)R(K\x01t"), "described wrongly: a Storage, a Inert, a tuple"),
        ((b"ctorch\nFloatStorage\n", b"cldm.x\nStorage\n"), "an array of a type that is not read: ldm.x.Storage"),
        ((b"ctorch._utils\n_rebuild_tensor_v2\n", b"cldm.x\nrebuild\n"), "no arrays by name"),
    ],
)
def test_an_inert_object_is_no_part_of_an_array(tmp_path, spoil, message):
    data = storage_and_array()
    assert spoil[0] in data
    path = archive(tmp_path / "evil.ckpt", {"a/data.pkl": data.replace(*spoil), "a/data/0": bytes(16)})
    with pytest.raises(ValueError, match=rf"evil\.ckpt.*{message}"):
        read_state(path)


def test_inert_objects_are_cheap(tmp_path):
    """A class for each name would be a kilobyte for a few bytes of the file, and text without end in messages."""
    many = b"".join(f"cown\nC{i}\n0".encode() for i in range(20_000))
    laughs = b"(" + unicode("x") + b"t" + b"".join(b"2\x86" for _ in range(60))  # a tuple of itself twice, 60 deep
    classes = set(map(id, type.__subclasses__(unpickler.Inert)))
    path = archive(tmp_path / "a.ckpt", {"a/data.pkl": b"\x80\x02" + many + b"}."})
    with pytest.raises(ValueError, match="no arrays by name"):
        read_state(path)
    assert {id(c) for c in type.__subclasses__(unpickler.Inert)} == classes
    path = archive(tmp_path / "b.ckpt", {"a/data.pkl": b"\x80\x02" + laughs + b"Q."})
    with pytest.raises(ValueError, match=r"b\.ckpt: it refers to a tuple outside of itself"):
        read_state(path)


def test_a_whole_object_is_named(tmp_path):
    path = archive(tmp_path / "a.ckpt", {"a/data.pkl": b"\x80\x02cldm.models\nVQModel\n)\x81}b."})
    with pytest.raises(ValueError, match=r"a whole object \(ldm\.models\.VQModel\).*state_dict\(\)"):
        read_state(path)
    path = archive(tmp_path / "b.ckpt", {"a/data.pkl": b"\x80\x02}" + unicode("net") + b"cnn\nNet\n)\x81s."})
    with pytest.raises(ValueError, match=r"'net' are whole objects: save their state_dict\(\)"):
        read_state(path)
    for name in ("c.ckpt", "d.pkl"):
        data = pickle.dumps({"w": np.zeros(3)}, 2)
        path = archive(tmp_path / name, {"a/data.pkl": data}) if name == "c.ckpt" else tmp_path / name
        if name == "d.pkl":
            path.write_bytes(data)
        with pytest.raises(ValueError, match=r"'w' are arrays of numpy|a pickle of Python, but no PyTorch checkpoint"):
            read_state(path)


@pytest.mark.parametrize(
    ("entries", "ema", "taken"),
    [
        (("model_state_dict",), False, "model_state_dict"),
        (("generator", "generator_ema"), False, "generator"),
        (("generator", "generator_ema"), True, "generator_ema"),
        (("state_dict", "other"), False, "state_dict"),
        (("model", "ema"), True, "ema"),
        (("generator", "discriminator"), False, ""),
    ],
)
def test_which_entry_is_the_state_dict(tmp_path, entries, ema, taken):
    tree = {name: {"w": np.full(2, i, np.float32)} for i, name in enumerate(entries)}
    write_checkpoint(tmp_path / "a.pt", {**tree, "step": 3})
    if not taken:
        with pytest.raises(ValueError, match=r"several state dicts, 'generator', 'discriminator': save the one"):
            read_state(tmp_path / "a.pt")
        return
    state, extras = read_state(tmp_path / "a.pt", ema)
    np.testing.assert_array_equal(state["w"], tree[taken]["w"])
    assert extras["entry"] == taken and set(extras["entries"]) == set(entries) and extras["step"] == 3


FLOATS = ("float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "float8_e4m3fnuz", "float8_e5m2fnuz", "bfloat16", "float16")


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("form", ["torch", "here", "safetensors"])
def test_every_small_float_is_read_as_pytorch_writes_it(tmp_path, name, form):
    torch = pytest.importorskip("torch")

    values = 2.0 ** np.random.RandomState(3).randint(-3, 4, (3, 5))
    array = values.astype(getattr(ml_dtypes, name, np.float16))
    tensor = torch.tensor(values).to(getattr(torch, name))
    path = tmp_path / f"a.{form}"
    if form == "torch":
        torch.save({"w": tensor}, path)
    elif form == "here":
        write_checkpoint(path, {"w": array})
        assert torch.equal(torch.load(path, weights_only=True)["w"].float(), tensor.float())
    else:
        from safetensors.torch import save_file

        save_file({"w": tensor}, path)
    found = read_state(path)[0]["w"]
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found.astype(np.float32), values)
    data = path.read_bytes()
    if form == "safetensors":  # the header says more than there is
        path.write_bytes(data.replace(b"[3,5]", b"[3,6]"))
        with pytest.raises(ValueError, match="it is truncated, or not a safetensors file"):
            read_state(path)


def test_a_type_that_numpy_cannot_have_is_named(tmp_path):
    header = json.dumps({"w": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(2))
    with pytest.raises(ValueError, match=r"a\.safetensors: its array 'w' is of type F4, which is not read"):
        read_state(tmp_path / "a.safetensors")


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="is a folder; name the checkpoint's file in it"):
        read_state(tmp_path)


def test_safetensors_whatever_the_file_is_called(tmp_path):
    arrays = {"a.weight": STEPS, "n": np.array(-3), "half": STEPS[0].astype(ml_dtypes.bfloat16)}
    path = tmp_path / "model.ckpt"
    save_file(arrays, path)
    state, extras = read_state(path)
    assert (set(state), extras) == (set(arrays), {})
    for name, array in arrays.items():
        assert state[name].dtype == array.dtype
        np.testing.assert_array_equal(state[name], array)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"model\.ckpt: it is truncated, or not a safetensors file"):
        read_state(path)
