"""What people give in place of a file of weights is called what it is, with what to do, by every reader of them."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from taming_jax.convert.conversion import read_arrays
from taming_jax.convert.flax_file import read_flax
from taming_jax.convert.folders import file_in
from taming_jax.convert.reader import read_state
from taming_jax.convert.writer import write_checkpoint
from taming_jax.file_kinds import STARTS, kind_of
from taming_jax.files import read_npz

WORDS = ("mirror", "curl: (22)", "Quota exceeded", "Too many requests", "Access", "(dp0", "}", "K", "cos\nsystem", "é")


def text(rng):
    return (rng.choice(WORDS) + " " + " ".join(rng.choice(WORDS, rng.integers(1, 30)))).encode()


def picture(kind):
    file = io.BytesIO()
    Image.new("RGB", (5, 4), (9, 80, 200)).save(file, kind)
    return file.getvalue()


def zipped(**files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in files.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), data)
    return file.getvalue()


def tarred(form, names=("model.ckpt", "config.yaml")):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    return file.getvalue()


def old_tar():
    """Of the form before "ustar", with its sum made anew."""
    data = bytearray(tarred(tarfile.USTAR_FORMAT))
    for start in (0, 512):
        data[start + 257 : start + 265] = bytes(8)
        data[start + 148 : start + 156] = b" " * 8
        data[start + 148 : start + 156] = f"{sum(data[start : start + 512]):06o}\0 ".encode()
    return bytes(data)


def arrays():
    file = io.BytesIO()
    np.savez(file, a=np.zeros(3))
    return file.getvalue()


RNG = np.random.default_rng(7)
HERE = {
    "it is empty: .*download": b"",
    "a pointer of git LFS.*`git lfs pull`": b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
    "a page of HTML or XML.*get the file itself": b"\n <!DOCTYPE html><html>Sign in",
    "a page of HTML": b"\xef\xbb\xbf<html>",
    "a text of JSON, and no checkpoint": b'{"error": "not found"}',
    "a text, and no checkpoint; it begins 'not here'": "not here".encode("utf-16"),
    "TensorFlow's list of checkpoints": b'model_checkpoint_path: "model.ckpt-5"\n',
    "compressed with gzip: unpack it first": gzip.compress(b"x"),
    "compressed with bzip2: unpack": bz2.compress(b"x"),
    "compressed with xz: unpack": lzma.compress(b"x"),
    "compressed with Zstandard: unpack": b"\x28\xb5\x2f\xfd\x04\x00\x09",
    "an archive of 7-Zip: unpack": b"7z\xbc\xaf\x27\x1c\x00",
    "a RAR archive: unpack": b"Rar!\x1a\x07\x01\x00",
    "a tar archive that holds model.ckpt and config.yaml: unpack": tarred(tarfile.PAX_FORMAT),
    "a tar archive that holds model.ckpt": tarred(tarfile.GNU_FORMAT),
    "a tar archive that holds": old_tar(),
    r"zip archive that holds model\.ckpt and config\.yaml: unzip it": zipped(model_ckpt=b"1", config_yaml=b"a: 1"),
    "zip archive that holds nothing": zipped(),
    "a program of TorchScript": zipped(a__data_pkl=b"", a__constants_pkl=b"", a__code__x_py=b""),
    "a model of Keras": zipped(metadata_json=b"", config_json=b"", model_weights_h5=b"").replace(b"l.w", b"l.w"),
    "numpy's arrays .npz.": arrays(),
    "one array of numpy": b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'}",
    "an HDF5 file, as Keras": b"\x89HDF\r\n\x1a\n",
    r"a picture \(PNG\)": picture("PNG"),
    r"a picture \(JPEG\)": picture("JPEG"),
    r"a picture \(TIFF\)": picture("TIFF"),
    r"a picture, sound or film": picture("WEBP"),
    "a picture or film": b"\0\0\0\x18ftypheic\0\0\0\0",
    "a PDF: get the checkpoint itself": b"%PDF-1.7\n%\xe2\xe3",
    "a file of llama.cpp": b"GGUF\x03\0\0\0\x02\0\0\0\0\0\0\0",
    r"a graph \(ONNX\)": b"\x08\x08\x12\x07pytorch\x1a\x052.1.0",
    "a SavedModel of TensorFlow": b"\x08\x01\x12\xff\x1c\n\x07",
    "a part of a checkpoint of TensorFlow": b"\x00\x00\x0e\x03" + bytes(40) + bytes.fromhex("57fb808b247547db"),
    "a program of TensorFlow Lite": b"\x1c\0\0\0TFL3",
    "a table .Parquet.": b"PAR1\x15\x04",
    "a database": b"SQLite format 3\0",
    "a file of Flax": b"\x81\xa7decoder\x80",
    "a piece of a checkpoint folder of Orbax": b"\x0c\xdb\x3a\x2a\x00\x00",
    "nothing but zeros.*broken off": bytes(5000),
    "of no kind that is known; it begins with the bytes c3 28 00 01": b"\xc3\x28\x00\x01rest\xff",
    "a pickle of Python, but no PyTorch.*a dict of 'G_ema'": pickle.dumps({"G_ema": {"w": [1.0]}}),
    "it begins as a zip archive and has no end": b"PK\x03\x04" + bytes(60),
}


@pytest.mark.parametrize("words", HERE)
@pytest.mark.parametrize("name", ["last.ckpt", "vgg16-12345678.pth"])
def test_each_is_called_what_it_is(tmp_path, words, name):
    path = tmp_path / name
    path.write_bytes(HERE[words])
    with pytest.raises(ValueError, match=words) as error:
        read_state(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 500
    if "npz" not in words:
        with pytest.raises(ValueError, match=rf"{name}.*") as again:
            read_arrays(path)  # as LPIPS, Inception and DINOv2 are read
        assert str(again.value) == str(error.value)


@pytest.mark.parametrize("seed", range(8))
def test_a_text_is_a_text_whatever_it_begins_with(tmp_path, seed):
    path = tmp_path / "last.ckpt"
    path.write_bytes(text(np.random.default_rng(seed)))
    with pytest.raises(ValueError, match=r"last\.ckpt: it is a text(?!.*(pickle|load key|MARK|underflow))"):
        read_state(path)


def test_other_readers_name_them_too(tmp_path):
    path = tmp_path / "weights.npz"
    for words in ("a page of HTML", "a file of Flax", r"a picture \(PNG\)"):
        path.write_bytes(HERE[words])
        with pytest.raises(
            ValueError, match=rf"weights\.npz is truncated, or not a file of arrays alone: it is {words}"
        ):
            read_npz(path)
        if "Flax" not in words:
            with pytest.raises(ValueError, match=rf"is no file of Flax: it is {words}"):
                read_flax(path)


def test_a_checkpoint_in_place_of_converted_weights_is_to_be_converted(tmp_path):
    write_checkpoint(tmp_path / "inception.npz", {"w": np.zeros(3, np.float32)})
    with pytest.raises(
        ValueError, match=r"it is a PyTorch checkpoint, of which python -m taming_jax\.convert makes one"
    ):
        read_npz(tmp_path / "inception.npz")


def test_the_folder_of_a_training_is_looked_through(tmp_path):
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/checkpoints/last.ckpt").write_bytes(b"x")
    (tmp_path / "run/configs").mkdir()
    assert file_in(tmp_path / "run")[0] == tmp_path / "run/checkpoints/last.ckpt"


def test_random_bytes_and_cut_files_end_in_a_kind(tmp_path):
    """None of the patterns needs more than there is, and none has an error of its own."""
    path, rng = tmp_path / "x", np.random.default_rng(1)
    starts = [data[: rng.integers(1, len(data) + 1)] for data in HERE.values() if data]
    for data in [*starts, *(rng.bytes(rng.integers(1, 700)) for _ in range(200))]:
        path.write_bytes(data)
        assert str(kind_of(path)).startswith("it is ")
    assert len({kind.name for _, kind in STARTS}) == len(STARTS)


FOLDERS = {
    "a whole pipeline of diffusers.*vqvae": {"model_index.json": "{}", "vqvae/config.json": "{}"},
    "a checkpoint of DeepSpeed: give .*mp_rank_00": {"latest": "x", "checkpoint/mp_rank_00_model_states.pt": "x"},
    "a distributed checkpoint of PyTorch.*dcp_to_torch": {".metadata": "x", "__0_0.distcp": "x"},
    "a SavedModel of TensorFlow": {"saved_model.pb": "x", "variables/variables.index": "x"},
    "a checkpoint of TensorFlow": {"model.ckpt-5.index": "x", "model.ckpt-5.data-00000-of-00001": "x"},
    "a checkpoint of Orbax": {"_METADATA": "{}", "manifest.ocdbt": "x"},
    "a model of this project already": {"config.json": json.dumps({"library_name": "taming_jax"})},
    "an unpacked file of PyTorch": {"archive/data.pkl": "x", "archive/data/0": "x"},
    "holds no checkpoint .*, but readme.txt": {"readme.txt": "x"},
    "holds several checkpoints; name one of them: a.ckpt, b.ckpt": {"a.ckpt": "x", "b.ckpt": "x"},
}


@pytest.mark.parametrize("words", FOLDERS)
def test_each_folder_is_called_what_it_is(tmp_path, words):
    for name, content in FOLDERS[words].items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=words) as error:
        file_in(tmp_path)
    assert "\n" not in str(error.value)
