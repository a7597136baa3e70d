"""What an evaluation leaves: one JSON with the figures and their whole protocol, a table, a sheet of pictures."""

import datetime
import importlib.metadata
import json
import math
import platform
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from taming_jax import outputs
from taming_jax.checkpoint.sums import array_sums, text_sum
from taming_jax.files import write_whole
from taming_jax.pictures import grid, is_ours, save_grid
from taming_jax.quality.statistics import Statistics, write_statistics

CELL, COLUMNS = 96, 8  # of the sheet
NAMED = 100  # unreadable files that a result names
PACKAGES = ("taming-jax", "jax", "flax", "numpy", "pillow")


class Clock:
    """When an evaluation began, and for how long it has run."""

    def __init__(self) -> None:
        self._began, self._ticks = datetime.datetime.now(datetime.UTC), time.perf_counter()

    def __call__(self) -> dict[str, Any]:
        began = self._began.isoformat(timespec="seconds")
        return {"began": began, "seconds": round(time.perf_counter() - self._ticks, 2)}


def versions() -> dict[str, str]:
    """Of what has computed the figures; "" for a package that is not installed but lies beside."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = ""
    return found


def environment(clock: Clock) -> dict[str, Any]:
    """What stands in every protocol: versions, devices, processes, command, time."""
    devices = jax.devices()
    return {
        "versions": versions(),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "processes": jax.process_count(),
        "command": " ".join(["python -m taming_jax.evaluate", *sys.argv[1:]]),
        **clock(),
    }


def checkpoint_of(path: str, step: int, *params: Any) -> dict[str, Any]:
    """A model, for the protocol: which checkpoint of it, and a sum of the bits of all its parameters."""
    return {"workdir": path, "step": step, "sum": f"{text_sum({'parts': [array_sums(x) for x in params]}):08x}"}


def described(statistics: Statistics) -> dict[str, Any]:
    """A set, for the protocol."""
    found = {"source": statistics.source, "images": statistics.n, "unreadable": len(statistics.unreadable)}
    return {**found, **({"named": list(statistics.unreadable[:NAMED])} if statistics.unreadable else {})}


def thumbnails(images: Sequence[np.ndarray]) -> np.ndarray:
    """uint8 (H, W, 3) of any sizes -> float32 (n, CELL, CELL, 3) in [-1, 1], each whole, on white."""
    cells = []
    for pixels in images:
        picture = Image.fromarray(pixels)
        share = CELL / max(picture.size)
        size = (max(1, round(picture.width * share)), max(1, round(picture.height * share)))
        how = Image.Resampling.BOX if share < 1 else Image.Resampling.NEAREST
        cell = Image.new("RGB", (CELL, CELL), "white")
        cell.paste(picture.resize(size, how), ((CELL - size[0]) // 2, (CELL - size[1]) // 2))
        cells.append(np.asarray(cell, np.float32) / 127.5 - 1)
    return np.stack(cells)


def sheet(rows: Mapping[str, Sequence[np.ndarray]]) -> Image.Image | None:
    """Pictures uint8 (H, W, 3) of several sets in one sheet, each set from a new row on; None without any."""
    cells: list[np.ndarray] = []
    labels: list[str] = []
    for name, images in rows.items():
        if images:
            pad = -len(images) % COLUMNS
            cells += [*thumbnails(images), *[np.ones((CELL, CELL, 3), np.float32)] * pad]
            labels += [name] * len(images) + [""] * pad
    return grid(np.stack(cells), COLUMNS, labels) if cells else None


def table(figures: Mapping[str, Any], warnings: Sequence[str], protocol: Mapping[str, Any]) -> str:
    """The figures and the protocol in Markdown."""
    lines = ["| measure | value |", "|---|---|"]
    lines += [f"| {name} | {_text(value)} |" for name, value in figures.items() if not isinstance(value, Mapping)]
    for name, rows in figures.items():
        if isinstance(rows, Mapping) and rows:
            columns = list(next(iter(rows.values())))
            lines += ["", f"| {name} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
            lines += [f"| {key} | {' | '.join(_text(row[c]) for c in columns)} |" for key, row in rows.items()]
    lines += ["", *[f"**Warning:** {warning}\n" for warning in warnings], "## Protocol", "", "```json"]
    return "\n".join([*lines, json.dumps(protocol, indent=2), "```", ""])


def _text(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else json.dumps(value)


def write_result(
    out: str,
    figures: Mapping[str, Any],
    warnings: Sequence[str],
    protocol: Mapping[str, Any],
    picture: Image.Image | None = None,
    statistics: Statistics | None = None,
) -> None:
    """Print the figures, and then write OUT.json, OUT.md and, where they are there, OUT.png and OUT.npz; by the first
    process alone. So what was measured is known also where nothing can be written any more."""
    if jax.process_index():
        return
    for name, value in figures.items():
        if isinstance(value, (int, float)):
            print(f"{name:32s} {value:12.6g}")
    print(*(f"warning: {warning}" for warning in warnings), sep="\n", flush=True)
    path = Path(out)
    strict = {name: None if isinstance(x, float) and not math.isfinite(x) else x for name, x in figures.items()}
    if statistics is not None:
        write_statistics(statistics, str(path.with_suffix(".npz")))
        protocol = {**protocol, "statistics": path.with_suffix(".npz").name}
    text = table(strict, warnings, protocol)
    if picture is not None:
        save_grid(picture, path.with_suffix(".png"))
        text = text.replace("## Protocol", f"![images]({path.with_suffix('.png').name})\n\n## Protocol", 1)
    write_whole(path.with_suffix(".md"), f"# {path.stem}\n\n{text}")
    content = {**strict, "warnings": list(warnings), "protocol": dict(protocol)}
    write_whole(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


OURS: Mapping[str, outputs.Ours] = {  # the files of a result by their endings
    ".json": lambda path: outputs.is_json(path, "protocol", "warnings"),
    ".md": lambda path: outputs.is_text(path, r"# .*\n\n\| (measure|filter) \|"),
    ".png": is_ours,
    ".npz": lambda path: outputs.is_npz(path, "mu", "sigma", "protocol"),
    ".plot.png": is_ours,
}


def check_out(out: str, inputs: Iterable[str] = (), more: Sequence[str] = ()) -> None:
    """Raise ValueError where a result cannot be written under that name, or would take the place of what the evaluation
    reads, or of a file that is no result. more: endings of what is written beside OUT.json, OUT.md and OUT.png."""
    path = Path(out)
    if path.suffix != ".json":
        raise ValueError(f"--out={out}: expected the name of a file that ends in .json")
    # A result and its statistics belong together, whichever of the two is read.
    beside = [str(Path(one).with_suffix(ending)) for one in inputs for ending in (".json", ".npz") if Path(one).name]
    files = {path.with_suffix(ending): OURS[ending] for ending in (".json", ".md", ".png", *more)}
    outputs.check_outputs(f"--out={out}", files, [*inputs, *beside])
