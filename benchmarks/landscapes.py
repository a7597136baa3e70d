"""How well the models of landscapes obey: maps, moods, classes; and the folders that the package carries.

python benchmarks/landscapes.py --maps runs/landscapes_segmentation --classes runs/landscapes_class [--out runs/figures]
python benchmarks/landscapes.py ... [--decoder runs/landscapes_decoder] --ship FOLDER

Held-out maps are drawn by the model; what its pictures show is read back by the reader of landscapes, and so is what
the real pictures and their reconstructions show. Writes landscapes.json, and sheets of pictures. --decoder: a first
stage with the same codes, that takes the place of the models' own. With --ship the models are stored in half precision
with cards that hold the figures, as taming_jax/pretrained has them. About six minutes on two cores.
"""

import argparse
import dataclasses
import json
import platform
import shutil
import time
from pathlib import Path

import jax
import numpy as np

import taming_jax
from taming_jax.checkpoint.portable import PRETRAINED
from taming_jax.data import pipeline
from taming_jax.data.config import DataConfig
from taming_jax.data.demo.landscape_kinds import CLASS_NAMES, LABELS, MOODS, N_CLASSES, PALETTE
from taming_jax.data.demo.landscape_reader import read_class, read_labels, read_mood
from taming_jax.data.demo.landscapes import DemoLandscapes
from taming_jax.pictures import grid, to_pixels
from taming_jax.settings import from_dict
from taming_jax.trained.first_stage import FirstStage
from taming_jax.trained.generator import Generator

HELD_OUT = 1 << 20  # of indices that no training reaches
FILTERS = {"temperature": 0.9, "top_p": 0.9, "guidance": 2.0}  # of classes
BY_MAP = {"temperature": 0.9, "top_p": 0.7, "guidance": 1.5}  # where windows are many, what is rare must be rarer
WIDE = {**BY_MAP, "top_p": 0.6, "guidance": 1.0}  # of panoramas: half the time, and hardly a second sun


def mean_iou(maps: np.ndarray, read: np.ndarray) -> float:
    """The mean over labels of what maps and pictures have in common, of what either has; int (n, H, W) each."""
    both = [np.sum((maps == label) & (read == label)) for label in range(len(LABELS))]
    either = [np.sum((maps == label) | (read == label)) for label in range(len(LABELS))]
    return float(np.mean([b / e for b, e in zip(both, either) if e]))


def maps_obeyed(model: Generator, n: int, size: int, out: Path) -> dict[str, float]:
    """On n held-out maps of a size, which where it is not the training's are drawn by the sliding window."""
    assert model.saved is not None
    data = from_dict(DataConfig, {**model.saved.config["data"], "batch_size": n, "size": size}, "config.data")
    held_out = next(iter(pipeline.make_batches(data, "val")))
    truth, maps = held_out["image"], held_out["segmentation"]
    moods = held_out["class_label"] % len(MOODS)
    again = np.asarray(model.first_stage.reconstruct(truth))
    beside = {"class_label": moods} if "class_label" in model.model.condition.keys else {}
    drawn = np.asarray(model.sample(n, segmentation=maps, **beside, **BY_MAP))
    read = {"real": read_labels(truth), "reconstructed": read_labels(again), "drawn": read_labels(drawn)}
    figures = {f"iou_{name}": mean_iou(maps, labels) for name, labels in read.items()}
    figures["iou_drawn_by_another_map"] = mean_iou(np.roll(maps, 1, axis=0), read["drawn"])
    sky = np.isin(maps, range(len(MOODS))).mean((1, 2)) > 0.05  # without sky nothing says the mood
    figures["mood_right"] = float(np.mean((read_mood(drawn) == moods)[sky]))
    figures["mood_right_real"] = float(np.mean((read_mood(truth) == moods)[sky]))
    rows = [PALETTE[maps[:24]] / np.float32(127.5) - 1, drawn[:24], again[:24], truth[:24]]
    grid(np.concatenate(rows, axis=2), 4).save(out / f"maps_{size}.png")
    return {f"{name}_{size}": value for name, value in figures.items()}


def panoramas(model: Generator, size: tuple[int, int], seeds: int, stride: int, out: Path) -> dict[str, float]:
    """Moods at both ends, and seconds for each picture (the first of which compiles)."""
    pictures, kept, seconds = DemoLandscapes(size, N_CLASSES, start=HELD_OUT), [], []
    for seed in range(seeds):
        i = next(i for i in range(6 * seed, N_CLASSES) if pictures.class_label(i) % len(MOODS) == seed % len(MOODS))
        item, started = pictures[i], time.perf_counter()
        drawn = np.asarray(model.sample(1, segmentation=item["segmentation"], seed=seed, stride=stride, **WIDE))[0]
        seconds.append(time.perf_counter() - started)
        ends = read_mood(np.stack([drawn[:, : size[0]], drawn[:, -size[0] :]]))
        kept.append(bool((ends == item["mood"]).all()))
        shown = np.concatenate([PALETTE[item["segmentation"]], to_pixels(drawn), item["image"]])
        grid(shown[None] / np.float32(127.5) - 1, 1).save(out / f"panorama_{size[0]}x{size[1]}_{seed}.png")
    name = f"panorama_{size[0]}x{size[1]}"
    return {f"{name}_mood_kept": float(np.mean(kept)), f"{name}_seconds": min(seconds)}


def classes_right(model: Generator, each: int, out: Path) -> dict[str, float]:
    wanted = np.tile(np.arange(N_CLASSES), each)
    drawn = np.asarray(model.sample(len(wanted), class_label=wanted, **FILTERS))
    grid(drawn[:36], 9, [CLASS_NAMES[i] for i in wanted[:36]]).save(out / "classes.png")
    real = DemoLandscapes(model.training_pixels, 360, start=HELD_OUT)
    items = [real[i] for i in range(len(real))]
    of_real = read_class(np.stack([x["image"] for x in items])) == [x["class_label"] for x in items]
    read = read_class(drawn)
    moods = read % len(MOODS) == wanted % len(MOODS)
    nearest(model, drawn[:8], out)
    figures = {"class_read_right": np.mean(read == wanted), "class_mood_right": np.mean(moods)}
    return {name: float(x) for name, x in {**figures, "class_read_right_real": of_real.mean()}.items()}


def nearest(model: Generator, drawn: np.ndarray, out: Path) -> None:
    """Beside each picture the training's that is nearest to it, in pixels."""
    assert model.saved is not None
    data = model.saved.config["data"]
    training = DemoLandscapes(model.training_pixels, min(data["n_train"], 20_000), data["seed"])
    small = np.stack([_small(training[i]["image"]) for i in range(len(training))])
    found = [int(np.abs(small - _small(to_pixels(x))).mean(-1).argmin()) for x in drawn]
    beside = np.stack([training[i]["image"] for i in found]) / np.float32(127.5) - 1
    grid(np.concatenate([drawn, beside], axis=2), 4).save(out / "nearest.png")


def _small(image: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) -> the means of 4 x 4 pixels, in a row."""
    h, w = image.shape[0] // 4 * 4, image.shape[1] // 4 * 4
    return image[:h, :w].reshape(h // 4, 4, w // 4, 4, 3).mean((1, 3)).astype(np.float32).ravel()


def with_decoder(model: Generator, name: str) -> Generator:
    """The model on another first stage, whose codes are the same bit for bit."""
    other, own = taming_jax.load(name), model.first_stage
    assert isinstance(other, FirstStage)
    for part in ("encoder", "quant_conv", "quantizer"):
        jax.tree.map(np.testing.assert_array_equal, other.params[part], own.params[part])
    changed = dataclasses.replace(model.model, first_stage=other.model)
    stages = [other if stage is own else stage for stage in (own, model.condition_stage)]
    result = Generator(changed, model.params, *stages)
    result.saved = model.saved
    return result


def share_first_stage(folder: Path, name: str) -> None:
    """Take the first stage of the model of that name instead of a copy, which must be the same."""
    same = [(path / "model.safetensors").read_bytes() for path in (folder / "first_stage", folder.parent / name)]
    assert same[0] == same[1], "the two models were trained on different first stages"
    shutil.rmtree(folder / "first_stage")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "first_stage": name}, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", default="landscapes")
    parser.add_argument("--classes", default="landscapes_class")
    parser.add_argument("--decoder", help="the directory of a first stage that takes the place of the models' own")
    parser.add_argument("--out", type=Path, default=Path("runs/landscapes_figures"))
    parser.add_argument("--seeds", type=int, default=3, help="panoramas of each size [%(default)s]")
    parser.add_argument("--ship", type=Path, help="the folder of the package that takes the models")
    parser.add_argument("--hours", default="", help="with --ship: what the cards say of the trainings' time")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    by_map, by_class = taming_jax.load(given.maps), taming_jax.load(given.classes)
    assert isinstance(by_map, Generator) and isinstance(by_class, Generator)
    if given.decoder:
        by_map, by_class = with_decoder(by_map, given.decoder), with_decoder(by_class, given.decoder)
    of_maps: dict[str, float] = {}
    for size in sorted({by_map.training_pixels[0], 64}):
        of_maps |= maps_obeyed(by_map, 64, size, given.out)
    of_maps |= panoramas(by_map, (128, 512), given.seeds, 1, given.out)
    of_maps |= panoramas(by_map, (256, 1024), given.seeds, 3, given.out)
    of_classes = classes_right(by_class, 10, given.out)
    figures = {
        "maps": of_maps,
        "classes": of_classes,
        "filters": {"maps": BY_MAP, "panoramas": WIDE, "classes": FILTERS},
        "jax": jax.__version__,
    }
    (given.out / "landscapes.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2))
    if given.ship:
        for model, name, of, filters in (
            (by_map, PRETRAINED[0], of_maps, BY_MAP),
            (by_class, PRETRAINED[1], of_classes, FILTERS),
        ):
            assert model.saved is not None
            trained, first = model.saved.config, model.first_stage.saved
            assert first is not None
            words = (
                f"Trained on the package's own landscapes by configs/{Path(trained['workdir']).name}.py, "
                f"{trained['train']['steps']} steps, on the codes of configs/landscapes_vqgan.py"
                f"{':decoder' if first.config.get('freeze') else ''}, on 2 CPU cores"
                f"{given.hours and ', ' + given.hours}; seed "
                f"{trained['train']['seed']}, Python {platform.python_version()}, jax {jax.__version__}. "
                f"Stored in half precision. Load it by its name, `{name}`."
            )
            config = {**trained, "sample": {**trained["sample"], **filters}}
            model.saved = dataclasses.replace(model.saved, config=config)
            data = "Procedural landscapes, drawn by taming_jax/data/demo/landscapes.py; no photographs."
            out = given.ship / name
            model.save_pretrained(out, licence="mit", data=data, metrics=of, words=words, dtype="float16")
            if name != PRETRAINED[0]:
                share_first_stage(out, f"{PRETRAINED[0]}/first_stage")
            print(f"{out}: {sum(f.stat().st_size for f in out.rglob('*')) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
