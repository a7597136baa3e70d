"""Files as nobody should have them: valid ones spoiled at random, and the readers that must refuse them in one line.

`run(seed, i, folder)` spoils one and reads it; what it returns is what the reader should not have done.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import yaml
from flax.traverse_util import flatten_dict
from fuzzing_weights import SPOILED, Weights, draw_weights
from PIL import Image
from projects import gpt, network, two_stage, vq
from spoiling import (
    encoded,
    spoil_archive,
    spoil_array,
    spoil_bytes,
    spoil_names,
    spoil_picture,
    spoil_state,
    spoil_text,
    spoil_tree,
)

import taming_jax
from taming_jax import checkpoint
from taming_jax.checkpoint import open_saved
from taming_jax.conditioning import files
from taming_jax.conditioning.objects import ObjectsCondition
from taming_jax.convert.__main__ import check_training
from taming_jax.convert.engine import Brought, send
from taming_jax.convert.original import convert_checkpoint
from taming_jax.convert.original.names import Networks, StageNetworks, table_of
from taming_jax.convert.original.settings import Plan
from taming_jax.convert.reader import read_state
from taming_jax.convert.writer import write_checkpoint
from taming_jax.data.config import DataConfig
from taming_jax.data.map_files import read_depth, read_label_map
from taming_jax.data.pipeline import OPENERS
from taming_jax.data.records import tensorflow
from taming_jax.data.sources.codes import FORMAT
from taming_jax.drawing.completion import read_mask, read_picture
from taming_jax.models.gpt import GPT, GPTConfig, unstack_layers
from taming_jax.models.vqgan import VQGAN, VQGANConfig
from taming_jax.settings import to_dict

LIMIT = 10  # seconds of computing for one reading; six times as long by the clock, which a busy machine stretches
HOME = Path(taming_jax.__file__).parent


class Hang(BaseException):
    """The limit is over."""


class Stop(Exception):
    """A conversion has read everything."""


@contextmanager
def watchdog(seconds: float) -> Iterator[None]:
    """Raises Hang in the main thread."""

    def ring(_: int, frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# Valid files, and what reads them.

LINES = "ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf,IsOccluded\n" + "".join(
    f"{i},/m/{i % 2},0.1,0.6,0.2,0.7,{i % 2},0\n" for i in range(3)
)
COCO = {
    "images": [{"id": i, "file_name": f"{i}.jpg", "width": 48, "height": 32} for i in range(3)],
    "annotations": [
        {"id": i, "image_id": i % 3, "category_id": 1 + i % 2, "bbox": [4, 6, 20, 15], "iscrowd": 0} for i in range(5)
    ],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
}
PEOPLE = {
    "annotations": [{"id": 1, "image_id": i, "category_id": 1, "keypoints": [4, 6, 2, 20, 15, 1]} for i in range(3)],
    "categories": [{"id": 1, "name": "person", "keypoints": ["left_eye", "right_eye"]}],
}
CODES = {
    "format": FORMAT, "data": {"source": "folder", "path": "x"}, "annotations": ["class_label"], "grid": [2, 2],
    "n_codes": 16, "class_names": ["a", "b"], "object_names": None,
    "condition": {"kind": "class_label", "length": 1, "vocabulary": 2, "grid": None},
    "splits": {name: {"images": 4, "crops": 1, "images_per_shard": 4, "skipped": 0} for name in ("train", "val")},
}  # fmt: skip
OBJECTS = [{"category": "cat", "box": [0, 0, 0.5, 0.5], "group": True}, {"category": 1, "box": [0.1, 0.1, 0.5, 0.5]}]
PROJECT = two_stage(
    vq(8, 16, dd=network(ch=32, ch_mult=[1], z_channels=32, resolution=16, attn_resolutions=[])),
    gpt(vocab_size=16, block_size=300, n_layer=1, n_embd=8, n_head=1),
)


def draw_folder(folder: Path) -> None:
    for place in ("a", "b", "a/more"):
        (folder / "photos" / place).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(3)
    names = ("a/0.jpg", "a/more/1.png", "b/2.jpg", "b/3.webp")
    for name in names:
        Image.fromarray(rng.integers(0, 255, (32, 48, 3), np.uint8)).save(folder / "photos" / name)
        for kind in ("maps", "depths"):
            file = folder / kind / Path(name).with_suffix(".png")
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 4, (32, 48), np.uint8)).save(file)
    (folder / "maps/labels.txt").write_text("sky\nsea\nland\nman\n", encoding="utf-8")
    (folder / "classes.txt").write_text("a\nb\n", encoding="utf-8")
    (folder / "list.txt").write_text("".join(f"photos/{name}\n" for name in names), encoding="utf-8")
    np.save(folder / "depth.npy", rng.normal(size=(32, 48)))
    np.save(folder / "pose.npy", rng.normal(size=(32, 48, 3)).astype(np.float32))


def draw_sets(folder: Path) -> None:
    for place in ("coco/train2017", "open/train"):
        (folder / place).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (48, 32), (60 * i, 90, 30)).save(folder / place / f"{i}.jpg")
    (folder / "coco/annotations").mkdir()
    (folder / "coco/annotations/instances_train2017.json").write_text(json.dumps(COCO), encoding="utf-8")
    (folder / "coco/annotations/person_keypoints_train2017.json").write_text(json.dumps(PEOPLE), encoding="utf-8")
    (folder / "open/train-annotations-bbox.csv").write_text(LINES, encoding="utf-8")
    (folder / "open/class-descriptions-boxable.csv").write_text("/m/0,Cat\n/m/1,Dog\n", encoding="utf-8")
    (folder / "open/categories.txt").write_text("Dog\nCat | /m/1\n", encoding="utf-8")


def draw_models(folder: Path) -> None:
    """A checkpoint of the original's form with its project.yaml, and one of this project."""
    folder.mkdir(parents=True)
    config = VQGANConfig(
        resolution=16,
        ch=32,
        ch_mult=(1,),
        num_res_blocks=1,
        attn_resolutions=(),
        z_channels=32,
        embed_dim=8,
        n_embed=16,
    )
    sizes = GPTConfig(vocab_size=16, block_size=300, n_layer=1, n_head=1, n_embd=8)
    shapes = {
        "first_stage": jax.eval_shape(VQGAN(config).init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"],
        "transformer": jax.eval_shape(GPT(sizes).init, jax.random.key(0), jnp.zeros((1, 2), int))["params"],
    }
    arrays = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    flat = flatten_dict(
        {
            "first_stage": {"params": arrays["first_stage"]},
            "transformer": {"params": unstack_layers(arrays["transformer"])},
        },
        sep="/",
    )
    networks = Networks(StageNetworks(config), None, sizes, "row_major", (16, 16))
    state = send(table_of(networks), Brought(flat))
    write_checkpoint(folder / "last.ckpt", {"state_dict": state, "global_step": 7, "epoch": 1})
    (folder / "project.yaml").write_text(yaml.safe_dump(PROJECT), encoding="utf-8")
    saved = {"kind": "vqgan", "model": to_dict(config), "data": {"source": "demo"}}
    checkpoint.save_model(str(folder / "run"), params=arrays["first_stage"], config=saved)


OPENED: Counter[str] = Counter()  # how often each file was


def _count(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        OPENED[os.fsdecode(arguments[0])] += 1


sys.addaudithook(_count)


def records_of(config: DataConfig, i: int) -> None:
    """Lists a source, looks whether a file is there or was opened twice, and reads some records of it."""
    found: list[tuple[int, int]] = []
    for split in ("train", "val") if config.source == "folder" else ("train",):
        OPENED.clear()
        source = OPENERS[config.source](config, split)
        again = [path for path, n in OPENED.items() if n > 1 and "case_" in path]
        if again:
            raise AssertionError(f"files are opened twice: {again[:6]}")
        found += [(stat.st_dev, stat.st_ino) for stat in map(os.stat, source.listing.images)]
        if i % 16 == 0:
            for _ in source.crops(0, min(3, len(source)), None):
                pass
        else:
            for place in range(min(3, len(source))):
                source.read(place, i)
    if len(set(found)) < len(found):
        raise AssertionError("files are listed twice")


def read_objects(file: Path) -> None:
    condition = ObjectsCondition(False, 2, ("cat", "dog"), 100, 3, False, True, True)
    condition.parse(condition.read(file, 16, None), 1, (32, 32))


def convert(folder: Path) -> None:
    def stop(plan: Plan) -> None:
        check_training(plan)
        raise Stop

    convert_checkpoint(folder / "last.ckpt", folder / "out", folder / "project.yaml", check=stop)


class Fuzz(Weights):
    """Draws the valid files below `home` once; `run` spoils a copy of some."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.refused: Counter[str] = Counter()  # by case; the others were read
        self.read: Counter[str] = Counter()
        tensorflow()  # importing it takes longer than some limits
        draw_folder(home / "folder")
        draw_sets(home / "sets")
        draw_models(home / "models")
        draw_weights(home / "weights")

    def run(self, seed: int, i: int) -> str:
        """Spoils and reads number i. Returns what was wrong with how it was read, "" where nothing was."""
        rng = random.Random(f"{seed} {i}")
        name, case = rng.choices(list(CASES), list(CASES.values()))[0], self.home / f"case_{i}"
        if case.exists():
            shutil.rmtree(case)
        shutil.copytree(self.home / SOURCE[name.split("_")[0]], case)
        start = time.process_time()
        try:
            with watchdog(6 * LIMIT):
                getattr(self, name)(rng, case, i)
            self.read[name] += 1
        except Stop:
            self.read[name] += 1
        except Hang:
            return f"{name} {i}: longer than {LIMIT} s"
        except BaseException as error:
            if wrong := judged(error):
                return f"{name} {i}: {wrong}"
            self.refused[name] += 1
        finally:
            shutil.rmtree(case, ignore_errors=True)
        return f"{name} {i}: longer than {LIMIT} s" if time.process_time() - start > LIMIT else ""

    def folder_names(self, rng: random.Random, case: Path, i: int) -> None:
        spoil_names(rng, case / rng.choice(("photos", "photos", "maps", "depths")))
        self._folder(case, i)

    def folder_pictures(self, rng: random.Random, case: Path, i: int) -> None:
        file = rng.choice(
            sorted(p for p in (case / rng.choice(("photos", "maps", "depths"))).rglob("*.*") if p.is_file())
        )
        if rng.random() < 0.5 and file.suffix != ".txt":
            spoil_picture(rng, file)
        else:
            file.write_bytes(spoil_bytes(rng, file.read_bytes()))
        self._folder(case, i)

    def folder_lists(self, rng: random.Random, case: Path, i: int) -> None:
        file = case / rng.choice(("list.txt", "list.txt", "classes.txt", "maps/labels.txt"))
        file.write_bytes(
            encoded(
                rng,
                spoil_text(rng, file.read_text(encoding="utf-8").replace("\n", ",\n" if rng.random() < 0.1 else "\n")),
            )
        )
        if file.name == "list.txt":
            records_of(DataConfig("folder", path=str(file), size=16, val_share=0.3), i)
        else:
            self._folder(case, i, classes=str(case / "classes.txt"))

    def _folder(self, case: Path, i: int, classes: str = "") -> None:
        maps = {"maps": str(case / "maps"), "depths": str(case / "depths"), "n_labels": 4}
        settings: dict[str, Any] = {"annotations": ("segmentation", "depth"), **maps} if i % 2 else {}
        records_of(
            DataConfig("folder", path=str(case / "photos"), size=16, val_share=0.3, classes=classes, **settings), i
        )

    def folder_conditions(self, rng: random.Random, case: Path, i: int) -> None:
        names = ("photos/a/0.jpg", "photos/a/more/1.png", "maps/a/0.png", "depths/a/0.png", "depth.npy", "pose.npy")
        file = case / rng.choice(names)
        if file.suffix == ".npy" and rng.random() < 0.6:
            spoil_array(rng, file)
        elif file.suffix == ".png" and rng.random() < 0.5:
            spoil_picture(rng, file)
        else:
            file.write_bytes(spoil_bytes(rng, file.read_bytes()))
        readers: list[Callable[[], Any]] = [lambda: read_picture(str(file), 8)]
        readers.append(lambda: files.photograph(file, 8, rng.choice((None, (16, 24)))))
        readers.append(lambda: read_mask(str(file), np.zeros((32, 48, 3), np.float32), 8))
        for kind, channels in ((files.LABEL_MAP, 4), (files.DEPTH, 1), (files.ARRAY, 3)):
            readers.append(lambda kind=kind, channels=channels: kind.read(file, 8, None, channels, -1))
            readers.append(lambda kind=kind, channels=channels: kind.read(file, 8, (16, 24), channels, 255))
        readers += [lambda: read_label_map(str(file), 4), lambda: read_depth(str(file))]
        each(readers)

    def sets_coco(self, rng: random.Random, case: Path, i: int) -> None:
        base = case / "coco"
        people = rng.random() < 0.3
        file = base / f"annotations/{'person_keypoints' if people else 'instances'}_train2017.json"
        kind = rng.randrange(8)
        if kind == 0:
            file.write_bytes(spoil_bytes(rng, file.read_bytes()))
        elif kind == 1:
            spoil_names(rng, base)
        else:
            file.write_bytes(encoded(rng, json.dumps(spoil_tree(rng, PEOPLE if people else COCO), ensure_ascii=False)))
        annotations = ("objects", "keypoints") if people else ("objects", "crop")
        config = DataConfig("coco_objects", path=str(base), size=16, annotations=annotations, stuff=False)
        records_of(config, i)

    def sets_open(self, rng: random.Random, case: Path, i: int) -> None:
        base, kind = case / "open", rng.randrange(6)
        names = ("train-annotations-bbox.csv",) * 3 + ("class-descriptions-boxable.csv", "categories.txt")
        file = base / rng.choice(names)
        if kind == 0:
            file.write_bytes(spoil_bytes(rng, file.read_bytes()))
        elif kind == 1:
            spoil_names(rng, base)
        else:
            file.write_bytes(encoded(rng, spoil_text(rng, file.read_text(encoding="utf-8"))))
        settings = {"categories": str(file)} if file.suffix == ".txt" else {}
        config = DataConfig("open_images", path=str(base), size=16, annotations=("objects", "crop"), **settings)
        records_of(config, i)

    def json_objects(self, rng: random.Random, case: Path, i: int) -> None:
        file = case / "objects.json"
        data = encoded(rng, json.dumps(spoil_tree(rng, OBJECTS), ensure_ascii=False))
        file.write_bytes(spoil_bytes(rng, data) if rng.random() < 0.2 else data)
        read_objects(file)

    def json_codes(self, rng: random.Random, case: Path, i: int) -> None:
        data = encoded(rng, json.dumps(spoil_tree(rng, CODES), ensure_ascii=False))
        (case / "info.json").write_bytes(spoil_bytes(rng, data) if rng.random() < 0.2 else data)
        len(OPENERS["codes"](DataConfig("codes", path=str(case)), "train"))

    def models_yaml(self, rng: random.Random, case: Path, i: int) -> None:
        file = case / "project.yaml"
        if rng.random() < 0.25:
            file.write_bytes(spoil_bytes(rng, file.read_bytes()))
        else:
            file.write_bytes(encoded(rng, yaml.safe_dump(spoil_tree(rng, PROJECT), allow_unicode=True)))
        convert(case)

    def models_checkpoint(self, rng: random.Random, case: Path, i: int) -> None:
        file, kind = case / "last.ckpt", rng.randrange(3)
        if kind == 0:
            file.write_bytes(spoil_bytes(rng, file.read_bytes()))
        elif kind == 1:
            spoil_archive(rng, file)
        else:
            write_checkpoint(file, {"state_dict": spoil_state(rng, read_state(file)[0]), "global_step": 7})
        convert(case)

    def models_run(self, rng: random.Random, case: Path, i: int) -> None:
        inside = sorted(path for path in (case / "run").rglob("*") if path.is_file())
        file = rng.choice([f for f in inside if "config" in f.parts] if rng.random() < 0.5 else inside)
        if (
            file.parent.name == "config"
            and file.suffix != ".tmp"
            and rng.random() < 0.5
            and file.read_bytes()[:1] == b"{"
        ):
            file.write_bytes(encoded(rng, json.dumps(spoil_tree(rng, json.loads(file.read_text(encoding="utf-8"))))))
        else:
            file.write_bytes(spoil_bytes(rng, file.read_bytes()))
        saved = open_saved(str(case / "run"))
        saved.load_params()


def each(readers: list[Callable[[], Any]]) -> None:
    """Calls all; of what they raise the first thing that they should not."""
    for read in readers:
        try:
            read()
        except Exception as error:
            if judged(error):
                raise


CASES = {
    "folder_names": 20, "folder_pictures": 20, "folder_lists": 12, "folder_conditions": 20, "sets_coco": 30,
    "sets_open": 20, "json_objects": 10, "json_codes": 8, "models_yaml": 20, "models_checkpoint": 15, "models_run": 5,
    **SPOILED,
}  # fmt: skip
SOURCE = {"folder": "folder", "sets": "sets", "json": "folder/maps", "models": "models", "weights": "weights"}


def judged(error: BaseException) -> str:
    """What is wrong with an error: "" for a ValueError of this project's own words, or an OSError, in one line."""
    where = traceback.extract_tb(error.__traceback__)
    last = where[-1]
    text = f"{type(error).__name__}: {error}"
    at = " <- ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in where[:-5:-1])
    if not isinstance(error, ValueError | OSError):
        return f"{text[:300]} at {at}"
    if isinstance(error, ValueError) and not Path(last.filename).is_relative_to(HOME):
        return f"another's words: {text[:300]} at {at}"
    if "\n" in str(error) or "\r" in str(error):
        return f"more than one line: {text[:300]!r} at {at}"
    return f"{len(text)} letters: {text[:200]} at {at}" if len(text) > 3000 else ""
