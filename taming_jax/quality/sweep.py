"""`evaluate sweep`: what each filter does to quality and variety, drawn once per setting."""

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from taming_jax.experiment import SampleConfig
from taming_jax.files import whole, write_whole
from taming_jax.pictures import SOFTWARE
from taming_jax.priors.filters import FILTER_NAMES
from taming_jax.quality.distance import Measuring
from taming_jax.quality.measures import Compared
from taming_jax.quality.options import text_of
from taming_jax.quality.result import Clock, check_out, described, environment, sheet, write_result
from taming_jax.quality.samples import Model, images_folder, measured_samples, open_reference, protocol_of
from taming_jax.settings import fitted

PLOTTED = ("fid", "inception_score", "precision", "recall", "class_read_right")


def settings_of(base: SampleConfig, values: Mapping[str, Sequence[Any]]) -> list[tuple[str, Any, SampleConfig]]:
    """(filter, its value, all settings): each value of each filter, with the others as in `base`. Raises ValueError for
    a value that cannot be drawn with, for a filter that changes nothing beside the others, and for none at all."""
    if not any(values.values()):
        names = ", ".join(f"--{name}" for name in FILTER_NAMES)
        raise ValueError(f"nothing to sweep: give values for some of {names}.")
    found = []
    for name, several in values.items():
        for value in several:
            whole = int(value) if name == "top_k" and isinstance(value, float) and value.is_integer() else value
            fits = fitted(SampleConfig, name, whole, f"--{name}")
            settings = dataclasses.replace(base, **{name: fits})
            if reason := settings.filters().idle.get(name):
                raise ValueError(f"--{name}={fits!r} changes nothing with {reason}; give others by --fixed NAME=VALUE.")
            found.append((name, fits, settings))
    return found


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Each measure over each filter, as a PNG."""
    from matplotlib.figure import Figure  # an extra; this way it needs no display and keeps no state

    filters = list(dict.fromkeys(row["filter"] for row in rows))
    measures = [name for name in PLOTTED if any(name in row["figures"] for row in rows)]
    figure = Figure(figsize=(3.2 * len(measures), 2.6 * len(filters)), layout="constrained")
    axes = figure.subplots(len(filters), len(measures), squeeze=False)
    for i, name in enumerate(filters):
        here = [row for row in rows if row["filter"] == name]
        numbers = all(isinstance(row["value"], (int, float)) for row in here)
        here = sorted(here, key=lambda row: row["value"]) if numbers else here
        for j, measure in enumerate(measures):
            shown = [row["value"] if numbers else text_of(row["value"]) for row in here]
            places = [value for value, row in zip(shown, here) if measure in row["figures"]]
            axes[i, j].plot(places, [row["figures"][measure] for row in here if measure in row["figures"]], "o-")
            axes[i, j].set(xlabel=name, title=measure, xscale="log" if name == "top_k" and numbers else "linear")
            axes[i, j].grid(alpha=0.3)
    with whole(path) as unfinished, unfinished.open("wb") as file:
        figure.savefig(file, format="png", dpi=110, metadata=SOFTWARE)


def sweep(
    workdir: str,
    base: SampleConfig,
    values: Mapping[str, Sequence[Any]],
    reference: str,
    out: str,
    measuring: Measuring,
) -> list[dict[str, Any]]:
    """Draw `base.n` images for each setting, compare each with the reference, and write the table and the plot.

    Returns {filter, value, figures} for each. What was drawn stays, and a sweep that was killed goes on.
    Raises ValueError, also where matplotlib is missing, before anything is drawn.
    """
    clock = Clock()
    check_out(out, [reference], [".plot.png"])
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("the plot of a sweep needs matplotlib: pip install 'taming-jax[plots]'")
    if base.n < 2:
        raise ValueError(f"--n={base.n}: a distance needs at least 2 images.")
    settings = settings_of(base, values)
    model = Model.open(workdir, base, measuring.cut)
    measuring = dataclasses.replace(measuring, cut=model.cut)
    models = [(name, value, dataclasses.replace(model, settings=_with_step(s, model))) for name, value, s in settings]
    for _, _, one in models:
        one.generator.sampler.check(next(one.wanted()).request)
    stores = [one.store(images_folder(out) / f"{name}_{text_of(value)}") for name, value, one in models]
    real = open_reference(reference, model.saved, measuring).measure(measuring)
    rows: list[dict[str, Any]] = []
    pictures, compared = {}, Compared({}, (), {})
    for (name, value, one), store in zip(models, stores):
        images = one.draw(store)
        compared, statistics = measured_samples(one, images, real, measuring)
        rows.append({"filter": name, "value": value, "figures": dict(compared.figures)})
        pictures[f"{name} {text_of(value)}"] = statistics.shown[:8]
    protocol = {"measured": "sweep", "reference": described(real), **protocol_of(model, measuring, compared.details)}
    if jax.process_index() == 0:
        print(table(rows), flush=True)
        plot(rows, Path(out).with_suffix(".plot.png"))
    write_result(out, {"rows": rows}, compared.warnings, {**protocol, **environment(clock)}, sheet(pictures))
    if jax.process_index() == 0:
        text = Path(out).with_suffix(".md")
        write_whole(text, f"# {Path(out).stem}\n\n{table(rows)}\n![plot]({Path(out).stem}.plot.png)\n")
    return rows


def _with_step(settings: SampleConfig, model: Model) -> SampleConfig:
    return dataclasses.replace(settings, step=model.settings.step)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """In Markdown, a setting a line."""
    names = list(dict.fromkeys(name for row in rows for name in row["figures"]))
    lines = [f"| filter | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for row in rows:
        cells = [f"{row['figures'][name]:.4g}" if name in row["figures"] else "" for name in names]
        lines.append(f"| {row['filter']} {text_of(row['value'])} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
