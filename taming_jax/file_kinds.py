"""What a file is, by its first bytes: for files that people give as weights, whatever they are called."""

import contextlib
import re
import tarfile
import zipfile
from itertools import islice
from pathlib import Path
from typing import NamedTuple

UNPACK = "unpack it first, and give the checkpoint in it"
PICTURE = "get the checkpoint itself"
ELSEWHERE = "save its arrays as a state dict (torch.save) or as safetensors"
LOOKED_AT = 4096  # bytes


class Kind(NamedTuple):
    """words: what it is, to stand behind "it is". advice: what to do; "" for what can be read, of some network."""

    name: str
    words: str
    advice: str = ""

    def __str__(self) -> str:
        return f"it is {self.words}" + (f": {self.advice}" if self.advice else "")


def _starts(name: str, pattern: bytes, words: str, advice: str) -> tuple[re.Pattern[bytes], Kind]:
    return re.compile(pattern, re.DOTALL), Kind(name, words, advice)


# The one table: how a file begins, and what it then is; the first that fits counts.
STARTS = (
    _starts(
        "lfs", rb"version https://git-lfs", "a pointer of git LFS, not the file itself", "fetch it: `git lfs pull`"
    ),
    _starts("png", rb"\x89PNG", "a picture (PNG)", PICTURE),
    _starts("jpeg", rb"\xff\xd8\xff", "a picture (JPEG)", PICTURE),
    _starts("gif", rb"GIF8", "a picture (GIF)", PICTURE),
    _starts("webp", rb"RIFF....(WEBP|WAVE|AVI )", "a picture, sound or film (RIFF)", PICTURE),
    _starts("tiff", rb"II\*\0|MM\0\*", "a picture (TIFF)", PICTURE),
    _starts("film", rb"....ftyp", "a picture or film (HEIC, AVIF or MP4)", PICTURE),
    _starts("pdf", rb"%PDF", "a PDF", PICTURE),
    _starts("gzip", rb"\x1f\x8b", "compressed with gzip", UNPACK),
    _starts("bzip2", rb"BZh[1-9]", "compressed with bzip2", UNPACK),
    _starts("xz", rb"\xfd7zXZ\0", "compressed with xz", UNPACK),
    _starts("zstd", rb"[\x22-\x28]\xb5\x2f\xfd", "compressed with Zstandard", UNPACK),
    _starts("lz4", rb"\x04\x22\x4d\x18", "compressed with LZ4", UNPACK),
    _starts("7z", rb"7z\xbc\xaf", "an archive of 7-Zip", UNPACK),
    _starts("rar", rb"Rar!", "a RAR archive", UNPACK),
    _starts("tar", rb".{257}ustar", "a tar archive", UNPACK),
    _starts("gguf", rb"GGUF|ggjt|tjgg|lmgg", "a file of llama.cpp (GGUF), whose arrays may be quantized", ELSEWHERE),
    _starts("hdf5", rb"\x89HDF", "an HDF5 file, as Keras writes it", ELSEWHERE),
    _starts("npy", rb"\x93NUMPY", "one array of numpy (.npy), without names", ELSEWHERE),
    _starts("parquet", rb"PAR1", "a table (Parquet)", PICTURE),
    _starts("arrow", rb"ARROW1", "a table (Arrow)", PICTURE),
    _starts("sqlite", rb"SQLite format 3", "a database (SQLite)", PICTURE),
    _starts("matlab", rb"MATLAB 5", "a file of MATLAB", ELSEWHERE),
    _starts("tflite", rb"....TFL3", "a program of TensorFlow Lite", ELSEWHERE),
    _starts("ocdbt", rb"\x0c\xdb\x3a\x2a", "a piece of a checkpoint folder of Orbax or TensorStore", "name the folder"),
    _starts("savedmodel", rb"\x08\x01\x12.{1,5}\x0a", "a SavedModel of TensorFlow", ELSEWHERE),
    _starts("onnx", rb"\x08[\x01-\x20](\x12[\x01-\x40][ -~]|[\x1a\x22\x28\x32\x3a\x42])", "a graph (ONNX)", ELSEWHERE),
    _starts("flax", rb"([\x81-\x8f]|\xde..|\xdf....)[\xa1-\xbf\xd9]", "a file of Flax (msgpack)", ""),
    _starts("pickle", rb"\x80[\x01-\x05]", "a pickle of Python", ""),
)
# Of texts, without the mark of their encoding and leading blanks.
TEXTS = (
    _starts("html", rb"<", "a page of HTML or XML, such as a site shows in place of a download", "get the file itself"),
    _starts("index", rb'[{].*"weight_map"', "an index of a checkpoint in several files (JSON)", ""),
    _starts("json", rb"[{\[]", "a text of JSON, and no checkpoint", "give the file of the arrays"),
    _starts("tf", rb"(all_)?model_checkpoint_path", "TensorFlow's list of checkpoints (a text)", ELSEWHERE),
)
# What begins in no way of its own, by the name.
NAMES = (
    _starts("tf", rb".*\.(data-\d{5}-of-\d{5}|index)$", "a part of a checkpoint of TensorFlow", ELSEWHERE),
    _starts("pb", rb".*\.pb$", "a graph of TensorFlow", ELSEWHERE),
    _starts("mlmodel", rb".*\.mlmodel$", "a model of Core ML", ELSEWHERE),
)
TABLE_END = bytes.fromhex("57fb808b247547db")  # of a table of LevelDB, which TensorFlow's .index is
CHECKPOINTS = (".ckpt", ".pt", ".pth", ".bin", ".safetensors", ".msgpack", ".yaml", ".yml", ".json", ".h5", ".npz")


def kind_of(path: str | Path) -> Kind:
    """What the file is. Raises OSError where it cannot be read."""
    path = Path(path)
    with open(path, "rb") as file:
        start = file.read(LOOKED_AT)
        size = file.seek(0, 2)
        file.seek(max(0, size - len(TABLE_END)))
        end = file.read()
    if not start:
        return Kind("empty", "empty", "its download has not begun, or was broken off")
    if size > 8 and start[8:9] == b"{" and 2 <= int.from_bytes(start[:8], "little") < 100 << 20:
        return Kind("safetensors", "a file of safetensors")  # eight bytes of the header's length, and the header: JSON
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")):
        return _zip(path)
    for pattern, kind in STARTS:
        if pattern.match(start):
            return kind if kind.name != "tar" else _tar(path)
    if (text := _text(start)) is not None:
        for pattern, kind in TEXTS:
            if pattern.match(text.encode()):
                return kind
        if not text:
            return Kind("empty", "empty, except for blanks", "get the file itself")
        return Kind("text", f"a text, and no checkpoint; it begins {shown(text)!r}", "get the file itself")
    if not start.strip(b"\0"):
        return Kind("zeros", "nothing but zeros where it begins", "its download was broken off; get it again")
    if end == TABLE_END:
        return NAMES[0][1]
    for pattern, kind in NAMES:
        if pattern.match(path.name.encode(errors="replace")):
            return kind
    with contextlib.suppress(Exception), tarfile.open(path, "r:") as archive:  # of the form before "ustar"
        if archive.next() is not None:
            return _tar(path)
    return Kind("unknown", f"of no kind that is known; it begins with the bytes {start[:8].hex(' ')}", PICTURE)


def shown(text: str, letters: int = 60) -> str:
    """The beginning of a foreign text in one line, of letters that can be printed anywhere."""
    line = " ".join(text[: 4 * letters].split())
    line = "".join(c if c.isprintable() and not 0xD800 <= ord(c) < 0xE000 else "?" for c in line)
    return line if len(line) <= letters else line[:letters] + "..."


def _text(start: bytes) -> str | None:
    """The beginning as text, without blanks before it; None where it is none."""
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):  # what a shell of Windows writes
        text = start[: len(start) // 2 * 2].decode("utf-16", errors="replace")
    else:
        text = start.removeprefix(b"\xef\xbb\xbf").decode("utf-8", errors="surrogateescape")
        cut = text[:-3] if len(start) == LOOKED_AT else text  # the last letter may be half
        if any("\ud800" <= c < "\ue000" for c in cut):
            text = start.decode("latin-1")
            if sum(c >= "\x7f" for c in text) > len(text) // 8:
                return None
    if any(c < " " and c not in "\t\n\r\f\x1b" for c in text):
        return None
    return text.lstrip("\ufeff \t\r\n").encode(errors="replace").decode()


def _held(names: list[str]) -> str:
    """What an archive holds, what may be wanted first."""
    files = [name for name in names if not name.endswith("/") and "__MACOSX/" not in name]
    files.sort(key=lambda name: not name.lower().endswith(CHECKPOINTS))
    if not files:
        return "nothing"
    return " and ".join(shown(name) for name in files[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")


def _zip(path: Path) -> Kind:
    if not zipfile.is_zipfile(path):
        return Kind("truncated", "truncated", "it begins as a zip archive and has no end; get it again")
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception as error:  # zipfile has many for a directory that is damaged
        return Kind("truncated", "a damaged zip archive", f"{shown(str(error))}; get it again")
    inside = {name.rsplit("/", 1)[-1] for name in names}
    if "data.pkl" in inside and "constants.pkl" in inside:
        advice = "save its arrays: torch.save(torch.jit.load(FILE).state_dict(), NEW)"
        return Kind("torchscript", "a program of TorchScript, not a checkpoint", advice)
    if "data.pkl" in inside:
        return Kind("torch", "a PyTorch checkpoint", "")
    if names and all(name.endswith(".npy") for name in names):
        return Kind("npz", "a file of numpy's arrays (npz)", ELSEWHERE)
    if "model.weights.h5" in inside:
        return Kind("keras", "a model of Keras", ELSEWHERE)
    return Kind("zip", f"a zip archive that holds {_held(names)}", "unzip it, and give the checkpoint in it")


def _tar(path: Path) -> Kind:
    try:
        with tarfile.open(path, "r:") as archive:
            held = _held([member.name for member in islice(archive, 50)])
    except Exception:  # tarfile has many for one that is damaged
        held = "what cannot be read"
    return Kind("tar", f"a tar archive that holds {held}", UNPACK)
