"""Reads files that would like to fill the memory, to take for ever, or to crash: each in turn, within limits.

python tests/hostile.py FOLDER prints what became of each, as JSON: `tests/test_hostile.py` looks at it.
"""

import json
import os
import resource
import signal
import struct
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from hostile_pickles import PICKLED

from taming_jax import checkpoint, pictures
from taming_jax.convert import formats
from taming_jax.convert.flax_file import read_flax
from taming_jax.convert.original.settings import load_project
from taming_jax.convert.reader import read_state
from taming_jax.data.annotations import read_json
from taming_jax.data.lists import read_list
from taming_jax.data.opening import opened
from taming_jax.drawing.reproduction import reproduce
from taming_jax.experiment import SampleConfig
from taming_jax.files import read_npz
from taming_jax.models.gpt import GPTConfig
from taming_jax.models.vqgan import VQGANConfig
from taming_jax.quality.images import of_npz
from taming_jax.settings import from_dict, to_dict

SECONDS, BYTES = 10, 2 << 30
MIB = 1 << 20
BOMB = 300 * MIB
FAR = 1 << 62


def yaml(content: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        (folder / "a.yaml").write_text(content, encoding="utf-8")
        return load_project(folder / "a.yaml")

    return read


def aliases(last: str, more: str = "[*{0}, *{0}]") -> str:
    lines = [f"x{i}: &x{i} {more.format(f'x{i - 1}')}" for i in range(1, 40)]
    return "\n".join(["x0: &x0 {a: 1}", *lines, f"{last}: *x39", ""])


def header(shape: tuple[int, ...], kind: str = "|u1") -> bytes:
    words = repr({"descr": kind, "fortran_order": False, "shape": shape}).encode()
    words += b" " * (63 - (len(words) + 10) % 64) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(words)) + words


def npz(
    entry: bytes, read: Callable[[str], Any], kind: int = zipfile.ZIP_STORED, zeros: int = 0
) -> Callable[[Path], Any]:
    def made(folder: Path) -> Any:
        with zipfile.ZipFile(folder / "a.npz", "w", kind) as archive:
            with archive.open("arr_0.npy", "w", force_zip64=True) as file:
                file.write(entry)
                for _ in range(zeros // MIB):
                    file.write(bytes(MIB))
            archive.writestr("arr_9.npy", bytes(4000))
        return read(str(folder / "a.npz"))

    return made


def flax(data: bytes) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        (folder / "a.msgpack").write_bytes(data)
        return read_flax(folder / "a.msgpack")

    return read


def safetensors(head: Any) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        words = head if isinstance(head, bytes) else json.dumps(head).encode()
        (folder / "a.safetensors").write_bytes(struct.pack("<Q", len(words)) + words)
        return read_state(folder / "a.safetensors")

    return read


def picture(**change: Any) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        made = {"workdir": "landscapes_class", "number": 0, "of": 1, "largest": 1, "sample": to_dict(SampleConfig(n=1))}
        sample = change.pop("sample", {})
        made |= change
        made["sample"] |= sample
        pictures.save(np.zeros((64, 64, 3), np.float32), epath.Path(folder / "a.png"), made)
        return reproduce(str(folder / "a.png"), out=str(folder / "again.png"))

    return read


def special(kind: str, read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def made(folder: Path) -> Any:
        path = folder / f"a{kind}.txt"
        os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
        return read(path)

    return made


def pipe_in_checkpoint(part: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        checkpoint.save_model(str(folder / "run"), params={"w": np.zeros(3)}, config={"kind": "vqgan"})
        (path,) = (folder / "run").rglob(part)
        path.unlink()
        os.mkfifo(path)
        return checkpoint.open_saved(str(folder / "run")).load_params()

    return read


def diffusers(**change: Any) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        settings = {"_class_name": "VQModel", **change}
        (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
        entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
        words = json.dumps({"decoder.up_blocks.0.resnets.0.conv1.weight": entry}).encode()
        file = folder / "diffusion_pytorch_model.safetensors"
        file.write_bytes(struct.pack("<Q", len(words)) + words + bytes(16))
        return formats.convert(folder, folder / "out")

    return read


ODD_YAML = ('!!int ""', '!!float ""', "!!timestamp x", "!!bool x", "2020-99-99")
READ: dict[str, Callable[[Path], Any]] = {
    **PICKLED,
    "aliases": yaml(aliases("monitor")),
    "merged aliases": yaml(aliases("monitor", "{{<<: [*{0}, *{0}]}}")),
    "an alias in itself": yaml("a: &a [*a]\n"),
    "brackets in YAML": yaml("a: " + "[" * 20_000),
    **{f"YAML {odd}": yaml(f"a: {odd}\n") for odd in ODD_YAML},
    "array past its entry": npz(header((30, 4, 4, 3)) + bytes(100), of_npz),
    "array past its packed entry": npz(header((30, 4, 4, 3)) + bytes(100), of_npz, zipfile.ZIP_DEFLATED),
    "array of 2^50": npz(header((1 << 50,)), read_npz),
    "packed zeros": npz(header((BOMB,)), read_npz, zipfile.ZIP_DEFLATED, BOMB),
    "packed images": npz(header((BOMB // 12, 2, 2, 3)), of_npz, zipfile.ZIP_DEFLATED, BOMB),
    "msgpack of 2^31": flax(b"\x81\xa1a\xdd\xff\xff\xff\xff"),
    "deep msgpack": flax(b"\x81\xa1a" * 100_000),
    "deep header": safetensors(b'{"a":' * 100_000),
    "long name": safetensors({"a/" * 500_000: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}),
    "shape of a header": safetensors({"a": {"dtype": "F32", "shape": [0, FAR, FAR], "data_offsets": [0, 0]}}),
    "largest": picture(of=10**9, largest=10**9),
    "largest of one": picture(largest=10**9),
    "of": picture(of=10**9, sample={"n": 10**9, "batch_size": 1}),
    "size": picture(sample={"size": [16_000_000, 16_000_000]}),
    "infinite number": picture(number=float("inf")),
    "long number": picture(number=10**30),
    "model elsewhere": picture(workdir="hf://someone/thing"),
    "list is a pipe": special("pipe", lambda path: read_list(path, path.parent)),
    "list is a device": special("device", lambda path: read_list(path, path.parent)),
    "JSON is a device": special("device", read_json),
    "picture is a pipe": special("pipe", lambda path: opened(str(path), lambda image, size: size)),
    "settings are a pipe": pipe_in_checkpoint("config/metadata"),
    "arrays are a pipe": pipe_in_checkpoint("params/_METADATA"),
    "blocks": lambda folder: from_dict(VQGANConfig, {"num_res_blocks": 10**8}),
    "levels": lambda folder: from_dict(VQGANConfig, {"ch_mult": [1] * 10_000}),
    "layers": lambda folder: from_dict(GPTConfig, {"n_layer": 10**9}),
    "blocks of diffusers": diffusers(layers_per_block=10**9),
    "widths of diffusers": diffusers(block_out_channels=[0]),
    "kinds of diffusers": diffusers(down_block_types=[[1]]),
}  # fmt: skip


def ring(*_: Any) -> None:
    raise KeyboardInterrupt("it hangs")


def main(folder: Path) -> None:
    with open("/proc/self/statm", encoding="ascii") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + BYTES, taken + BYTES))
    signal.signal(signal.SIGALRM, ring)
    found = {}
    for number_, (what, read) in enumerate(READ.items()):
        place, start = folder / str(number_), time.monotonic()
        place.mkdir()
        signal.alarm(SECONDS * 6)  # by the clock, which a busy machine stretches
        try:
            became = f"read: {read(place)}"
        except BaseException as error:
            became = f"{type(error).__name__}: {error}"
        signal.alarm(0)
        found[what] = (became[:2000], time.monotonic() - start)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
