"""Files that hold arrays, settings and figures: valid ones, how each is spoiled, and what reads them."""

import json
import pickle
import random
import re
import struct
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import yaml
from etils import epath
from flax.serialization import to_bytes
from pickles import program
from safetensors.numpy import save_file
from spoiling import encoded, spoil_archive, spoil_bytes, spoil_state, spoil_text, spoil_tree

from taming_jax import pictures
from taming_jax.checkpoint import open_saved
from taming_jax.checkpoint.portable import read_params, write_portable
from taming_jax.convert import formats
from taming_jax.convert.flax_file import read_flax
from taming_jax.convert.formats import diffusers, llamagen_tokenizer, llamagen_transformer
from taming_jax.convert.original.settings import load_project, translate
from taming_jax.convert.reader import LEGACY_MAGIC, read_state
from taming_jax.convert.writer import write_checkpoint
from taming_jax.drawing.reproduction import _made
from taming_jax.experiment import SampleConfig
from taming_jax.files import read_npz
from taming_jax.html_report import read_metrics
from taming_jax.models.vqgan import VQGAN, VQGANConfig
from taming_jax.quality.comparison import compare_results
from taming_jax.quality.images import of_npz
from taming_jax.quality.statistics import Protocol, is_statistics, read_statistics
from taming_jax.settings import to_dict
from taming_jax.trained.loading import two_stage, vqgan_of

SPOILED = {
    "weights_pickle": 40, "weights_archive": 10, "weights_safetensors": 15, "weights_msgpack": 15, "weights_npz": 25,
    "weights_hub": 15, "weights_second": 15, "weights_diffusers": 15, "weights_picture": 15, "weights_aliases": 10,
    "weights_figures": 10, "weights_llamagen": 10,
}  # fmt: skip
PROTOCOL = Protocol("demo", "x", "y", "4")
TINY = VQGANConfig(resolution=8, ch=32, ch_mult=(1,), num_res_blocks=1, attn_resolutions=(), z_channels=4, embed_dim=4,
                   n_embed=8, norm_groups=4)  # fmt: skip
SECOND = {
    "kind": "two_stage", "transformer": {"n_layer": 1, "n_head": 1, "n_embd": 8}, "order": "row_major", "pkeep": 0.9,
    "condition": {"kind": "class_label", "n_classes": 3}, "condition_dropout": 0.1,
    "data": {"source": "demo", "size": 8},
}  # fmt: skip
DIFFUSERS = {
    "_class_name": "VQModel", "block_out_channels": [32, 64], "layers_per_block": 1, "sample_size": 32,
    "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2, "latent_channels": 3,
}  # fmt: skip


def draw_weights(folder: Path) -> None:
    folder.mkdir(parents=True)
    arrays = {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b.c": np.ones(5, np.float16), "n": np.array(3)}
    write_checkpoint(folder / "model.pt", {"state_dict": arrays, "epoch": 1})
    shapes = jax.eval_shape(VQGAN(TINY).init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    write_portable(folder / "hub", params, {"kind": "vqgan", "model": to_dict(TINY), "data": {"size": 8}})
    (folder / "flax_model.msgpack").write_bytes(to_bytes({"params": {"encoder": arrays}, "step": 7}))
    (folder / "config.json").write_text(json.dumps(DIFFUSERS), encoding="utf-8")
    told = {"n": np.array(9), "protocol": np.array(["demo", "x", "y", "4"])}
    for name, save in (("stored", np.savez), ("packed", np.savez_compressed)):
        save(folder / f"{name}.npz", mu=np.zeros(4), sigma=np.eye(4), **told)
        save(folder / f"{name}_images.npz", arr_0=np.ones((3, 8, 8, 3), np.uint8), arr_1=np.arange(3))
    made = {"workdir": "runs/x", "number": 0, "of": 3, "largest": 2, "sample": to_dict(SampleConfig())}
    pictures.save(np.zeros((8, 8, 3), np.float32), epath.Path(folder / "made.png"), made)
    rows = [{"step": i, "loss": 1 / (i + 1), "lr": 1e-4} for i in range(5)]
    save_file(llamagen_arrays(), folder / "tokenizer.safetensors")
    sizes = {"n_layer": 2, "dim": 64, "vocab_size": 8, "num_classes": 3, "hidden": 256, "fused": 192}
    gpt = llamagen_transformer.config_of(sizes, {}, 4, 2)
    split = {e.source: np.zeros(e.source_shape, np.float32) for e in llamagen_transformer.table_of(gpt).entries}
    save_file(llamagen_transformer.joined(split), folder / "transformer.safetensors")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    result = {"fid": 3.5, "n": 50, "protocol": {"network": "demo", "versions": {"jax": "1"}}}
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")


def llamagen_arrays() -> dict[str, np.ndarray]:
    config = VQGANConfig(resolution=16, ch=32, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=(), z_channels=8,
                         embed_dim=8, n_embed=8, quantizer="normalized")  # fmt: skip
    return {e.source: np.zeros(e.source_shape, np.float32) for e in llamagen_tokenizer.table_of(config).entries}


class Weights:
    """Each method spoils something in the folder `case`, and reads it."""

    def weights_pickle(self, rng: random.Random, case: Path, i: int) -> None:
        file, data = case / "model.pt", program(rng)
        if rng.random() < 0.2:
            data = spoil_bytes(rng, data)
        if rng.random() < 0.7:
            names = rng.choice((*[("0", "1")] * 8, ("0",), ("0", "0")))
            zipped(file, [("archive/data.pkl", data), *((f"archive/data/{name}", bytes(64)) for name in names)])
        else:
            head = b"".join(pickle.dumps(one, 2) for one in (LEGACY_MAGIC, 1001, {"little_endian": True}))
            tail = pickle.dumps(["0"], 2) + struct.pack("<q", 16) + bytes(64)
            file.write_bytes(head + data + tail if rng.random() < 0.8 else data)
        read_state(file)

    def weights_archive(self, rng: random.Random, case: Path, i: int) -> None:
        file = case / "model.pt"
        if rng.random() < 0.5:
            spoil_archive(rng, file)
        else:
            file.write_bytes(spoil_bytes(rng, file.read_bytes()))
        read_state(file)

    def weights_safetensors(self, rng: random.Random, case: Path, i: int) -> None:
        file = case / "hub/model.safetensors"
        data = file.read_bytes()
        length = struct.unpack("<Q", data[:8])[0]
        if rng.random() < 0.6:
            header = encoded(rng, json.dumps(spoil_tree(rng, json.loads(data[8 : 8 + length]))))
            data = struct.pack("<Q", len(header)) + header + data[8 + length :]
        file.write_bytes(spoil_bytes(rng, data) if rng.random() < 0.3 else data)
        read_params(str(case / "hub")) if i % 2 else read_state(file)

    def weights_msgpack(self, rng: random.Random, case: Path, i: int) -> None:
        file = case / "flax_model.msgpack"
        file.write_bytes(spoil_bytes(rng, file.read_bytes()))
        read_flax(file)

    def weights_npz(self, rng: random.Random, case: Path, i: int) -> None:
        file = case / rng.choice(("stored.npz", "packed.npz", "stored_images.npz", "packed_images.npz"))
        if rng.random() < 0.5:
            spoil_npz(rng, file)
        else:
            file.write_bytes(spoil_bytes(rng, file.read_bytes()))
        if "images" in file.name and i % 3:
            images = of_npz(str(file))
            for image in images.read(0, 3):
                np.asarray(image).sum()
        elif i % 3 and is_statistics(str(file)):
            read_statistics(str(file), PROTOCOL)
        else:
            read_npz(file)

    def weights_hub(self, rng: random.Random, case: Path, i: int) -> None:
        file = case / "hub/config.json"
        tree = spoil_tree(rng, json.loads(file.read_text(encoding="utf-8")))
        file.write_bytes(encoded(rng, json.dumps(tree)))
        saved = open_saved(str(case / "hub"))
        vqgan_of(saved)

    def weights_second(self, rng: random.Random, case: Path, i: int) -> None:
        file = case / "hub/config.json"
        tree = spoil_tree(rng, {"library_name": "taming_jax", **SECOND})
        file.write_bytes(encoded(rng, json.dumps(tree)))
        two_stage(open_saved(str(case / "hub")).config, VQGAN(TINY))

    def weights_diffusers(self, rng: random.Random, case: Path, i: int) -> None:
        file = case / "config.json"
        file.write_bytes(encoded(rng, json.dumps(spoil_tree(rng, DIFFUSERS))))
        diffusers.config_of(diffusers.read_settings(file), str(file))

    def weights_picture(self, rng: random.Random, case: Path, i: int) -> None:
        file = case / "made.png"
        pixels, made = pictures.load(epath.Path(file))
        if rng.random() < 0.3:
            file.write_bytes(spoil_bytes(rng, file.read_bytes()))
        else:
            pictures.save(np.zeros((8, 8, 3), np.float32), epath.Path(file), spoil_tree(rng, made))
        pixels, made = pictures.load(epath.Path(file))
        _made(epath.Path(file), made, pixels.shape, "")

    def weights_aliases(self, rng: random.Random, case: Path, i: int) -> None:
        file, names = case / "project.yaml", "abcdefghijklmnopqrstuvwxyz"
        lines = ["a0: &a0 [lol, lol]"] + [
            f"a{n}: &a{n} {rng.choice(('[*{0},*{0}]', '{{x: *{0}, y: *{0}}}', '{{<<: *{0}}}')).format(f'a{n - 1}')}"
            for n in range(1, rng.choice((3, 10, 60)))
        ]
        text = "\n".join(lines) + "\n" + yaml.safe_dump({"model": {"target": "taming.models.vqgan.VQModel"}})
        text += (
            rng.choice(names)
            + ": "
            + rng.choice(("!!int ''", "!!timestamp x", "1:1:1", "*a0", "[" * 500, "2020-99-99"))
        )
        file.write_bytes(encoded(rng, spoil_text(rng, text) if rng.random() < 0.3 else text))
        translate(load_project(file), {})

    def weights_llamagen(self, rng: random.Random, case: Path, i: int) -> None:
        file = case / rng.choice(("tokenizer.safetensors", "transformer.safetensors"))
        state = read_state(file)[0]
        save_file(spoil_numbers(rng, state) if rng.random() < 0.6 else spoil_state(rng, dict(state)), file)
        told = {"image_size": 32, "n_head": 4, "block_size": 4, "rope_base": 1e4, "downsample_size": 2}
        (case / "told.yaml").write_text(yaml.safe_dump(spoil_tree(rng, told) if i % 2 else told), encoding="utf-8")
        formats.convert(file, case / "out", case / "told.yaml", n_head=rng.choice((0, 4, 4, 3)))

    def weights_figures(self, rng: random.Random, case: Path, i: int) -> None:
        file = case / "metrics.jsonl"
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        file.write_bytes(encoded(rng, "\n".join(json.dumps(row) for row in spoil_rows(rng, rows))))
        read_metrics(file)
        other = case / "result.json"
        other.write_bytes(encoded(rng, json.dumps(spoil_tree(rng, json.loads(other.read_text(encoding="utf-8"))))))
        compare_results([str(other), str(other)])


def spoil_numbers(rng: random.Random, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays by name, one of which has another number in its name, and one another shape."""
    name = rng.choice([name for name in state if re.search(r"\d", name)])
    odd = rng.choice(("99999999", "-1", "9" * 400, "3", "x", "1e9"))
    state = {**state, re.sub(r"\d+", odd, name, count=1): state[name]}
    shape = rng.choice(((), (0,), (0, 3, 3, 3), (1, 1), (3,), (2, 2, 2)))
    state[rng.choice(sorted(state))] = np.zeros(shape, np.float32)
    return state


def zipped(file: Path, entries: Iterable[tuple[str, bytes]], kind: int = zipfile.ZIP_STORED) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two entries with one name
        with zipfile.ZipFile(file, "w", kind) as archive:
            for name, data in entries:
                archive.writestr(name, data)


def spoil_rows(rng: random.Random, rows: list[dict]) -> list:
    spoiled = spoil_tree(rng, rows)
    return spoiled if isinstance(spoiled, list) else [spoiled]


def spoil_npz(rng: random.Random, file: Path) -> None:
    """Other shapes and types in the header of an array, other values, entries that are there twice."""
    with zipfile.ZipFile(file) as archive:
        kind = archive.infolist()[0].compress_type
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    place = rng.randrange(len(entries))
    name, data = entries[place]
    change = rng.choice((
        (b"(3, 8, 8, 3)", b"(30, 8, 8, 3)"), (b"(4,)", b"(40,)"), (b"()", b"(9999999999,)"), (b"<f8", b"<f4"),
        (b"|u1", b"|O8"), (b"False", b"True "), (b"(3,)", b"(-3,)"), (b"(4, 4)", b"(4, 1 << 40)"),
    ))  # fmt: skip
    swapped = data.replace(*change)
    entries[place] = (name, swapped if len(swapped) == len(data) or rng.random() < 0.5 else spoil_bytes(rng, data))
    if rng.random() < 0.2:
        entries.append(entries[0])
    zipped(file, entries, kind)
