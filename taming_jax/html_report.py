"""One page about trainings and drawings, with pictures, curves and figures in it, to be opened in a browser.

python -m taming_jax.html_report FOLDER... [--out report.html] [--title TITLE] [--next TEXT]

A folder is the working directory of a training, a folder of drawn pictures, or one of results of taming_jax.evaluate.
The page is a single file; it needs nothing else, and nothing in it runs.
"""

if __name__ == "__main__":  # before the imports, which take seconds
    from taming_jax.stopping import listen

    listen()

import argparse
import base64
import html
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from taming_jax import stopping
from taming_jax.checkpoint import has_checkpoint, open_saved
from taming_jax.files import write_whole
from taming_jax.limits import read_bytes, read_json
from taming_jax.names import written
from taming_jax.outputs import check_outputs, is_text, newest_folder
from taming_jax.program import readable_errors, run_to_its_end
from taming_jax.training.report import SECONDS, TIMES

MOST_PICTURES = 6  # of a folder without an overview
CURVES = ("loss", "nll", "l1", "psnr", "fid", "rfid", "accuracy")  # the ends of the names that are drawn
LARGEST = 1e300  # of numbers that are drawn
WIDTH, HEIGHT = 420, 150  # of a curve in pixels
HEAD = '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>'
STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
img { max-width: 100%; image-rendering: auto; display: block; margin: .6rem 0; }
h2 { border-top: 1px solid #8886; padding-top: 1rem; }
table { border-collapse: collapse; } td { padding: .1rem 1rem .1rem 0; font-variant-numeric: tabular-nums; }
figure { display: inline-block; margin: 0 1.5rem 1rem 0; } figcaption { font-size: .85rem; opacity: .8; }
svg { background: #8881; } polyline { fill: none; stroke: #4a90d9; stroke-width: 1.5; }
pre { overflow-x: auto; background: #8881; padding: .8rem; }
"""


def text(name: str) -> str:
    """A name as it stands in the page."""
    return html.escape(written(name))


def picture(path: Path) -> str:
    """The picture itself, within the page."""
    kind = {".gif": "gif", ".png": "png"}[path.suffix]
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{text(path.stem)}" src="data:image/{kind};base64,{data}">'


def table(figures: Mapping[str, object]) -> str:
    """The figures that are numbers, one a row."""
    numbers = {name: x for name, x in figures.items() if _is_number(x)}
    rows = (f"<tr><td>{text(name)}</td><td>{value:.5g}</td></tr>" for name, value in numbers.items())
    return f"<table>{''.join(rows)}</table>" if numbers else ""


def curve(name: str, points: Sequence[tuple[float, float]]) -> str:
    """A line over the steps, with the first, the least, the largest and the last value in words."""
    steps, values = zip(*points)
    low, high = min(values), max(values)
    across, down = max(max(steps) - min(steps), 1e-9), max(high - low, 1e-9)
    places = (
        f"{8 + (step - min(steps)) / across * (WIDTH - 16):.1f},{8 + (high - value) / down * (HEIGHT - 16):.1f}"
        for step, value in points
    )
    words = f"{text(name)}: from {values[0]:.4g} to {values[-1]:.4g}, between {low:.4g} and {high:.4g}"
    line = f'<polyline points="{" ".join(places)}"/>'
    return (
        f'<figure><svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{words}">{line}</svg>'
        f"<figcaption>{words}</figcaption></figure>"
    )


def read_metrics(path: Path) -> dict[str, list[tuple[float, float]]]:
    """name -> [(step, value)] of a metrics.jsonl; cut lines and what is no finite number are passed over."""
    found: dict[str, list[tuple[float, float]]] = {}
    for line in read_bytes(path).decode("utf-8", "replace").splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(row, dict) or not _is_number(row.get("step")):
            continue
        for name, value in row.items():
            if name != "step" and _is_number(value):
                found.setdefault(name, []).append((row["step"], value))
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -LARGEST < value < LARGEST


def of_training(folder: Path) -> list[str]:
    """What a working directory holds, or the folder of a model that was trained elsewhere."""
    saved, metrics = open_saved(str(folder)), read_metrics(folder / "metrics.jsonl")
    logged = [step for points in metrics.values() for step, _ in points if step <= saved.step]
    times = read_metrics(folder / TIMES)
    took = {step: seconds for step, seconds in times.get(SECONDS, []) if step <= saved.step}
    known = took and max(took) >= max(logged, default=0)  # older versions did not log them
    lasted = f", {max(took.values()) / 60:.1f} minutes" if known else ""
    trained = "Training" if metrics else "Model"
    parts = [f"<p>{trained} of kind {text(saved.kind)}, {saved.step} steps{lasted}.</p>"]
    drawn = [name for name in metrics if name.split("/")[-1].split("_")[-1] in CURVES and len(metrics[name]) > 1]
    parts += [curve(name, metrics[name]) for name in drawn]
    parts.append(table({name: points[-1][1] for name, points in metrics.items() if name.startswith(("val/", "qual"))}))
    images = sorted((folder / "images").glob("*.png"), key=_step)
    return [*parts, *(f"<p>{text(path.stem)}</p>{picture(path)}" for path in images[-1:])]


def _step(path: Path) -> tuple[int, str]:
    """The step that the name of a picture of a training ends in, and then the name."""
    found = re.search(r"_(\d+)$", path.stem)
    return (int(found[1]) if found else -1, path.stem)


def of_results(folder: Path) -> list[str]:
    """What evaluation has written: tables, and the pictures beside them."""
    parts = []
    for path in sorted(folder.glob("*.json")):
        try:
            figures = read_json(path)
        except ValueError:
            continue
        if isinstance(figures, dict):  # others are of another program
            parts.append(f"<h3>{text(path.stem)}</h3>{table(figures)}")
    return parts + [f"<p>{text(path.stem)}</p>{picture(path)}" for path in sorted(folder.glob("*.png"))]


def of_pictures(folder: Path) -> list[str]:
    """The overview of drawn pictures, or the first of them."""
    overview, alone = folder / "grid.png", sorted(folder.glob("*.png"))
    shown = [overview] if overview.is_file() else alone[:MOST_PICTURES]
    return [f"<p>{len([p for p in alone if p != overview])} pictures.</p>", *map(picture, shown)]


def section(folder: Path) -> str:
    """Raises ValueError where the folder is none that can be shown."""
    if (folder / "metrics.jsonl").is_file() or has_checkpoint(str(folder)):
        parts = of_training(folder)
        drawn = Path(newest_folder(folder / "samples"))  # the last call's
        parts += of_pictures(drawn) if drawn.is_dir() else []
    elif any(folder.glob("*.json")):
        parts = of_results(folder)
    elif any(folder.glob("*.png")):
        parts = of_pictures(folder)
    else:
        raise ValueError(f"{str(folder)!r} holds no training, no results and no pictures; name folders that do.")
    return "\n".join([f"<h2>{text(folder.name)}</h2>", f"<p><code>{text(str(folder))}</code></p>", *parts])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m taming_jax.html_report", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folders", nargs="+", type=os.path.expanduser, metavar="FOLDER")
    parser.add_argument("--out", type=os.path.expanduser, default="report.html", help="[%(default)s]")
    parser.add_argument("--title", default="What was trained and drawn", help="[%(default)s]")
    parser.add_argument("--next", default="", help="what to do next, at the end, as it is to be typed")
    given = parser.parse_args()
    with readable_errors(2), stopping.telling(lambda: "no page is written"):
        check_outputs(f"--out={given.out}", {given.out: lambda path: is_text(path, re.escape(HEAD))})
        sections = [section(Path(folder)) for folder in given.folders]
    if given.next:
        sections.append(f"<h2>Next</h2><pre>{text(given.next)}</pre>")
    title = text(given.title)
    head = f"{HEAD}{title}</title>"
    head += f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>'
    try:
        write_whole(given.out, "\n".join([head, f"<body><h1>{title}</h1>", *sections, "</body></html>"]))
    except OSError as error:
        parser.exit(2, f"error: {error}\n")
    print(f"The report is {given.out}; open it in a browser.")


if __name__ == "__main__":
    run_to_its_end(main)
