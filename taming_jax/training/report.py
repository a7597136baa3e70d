"""What a run leaves for people: metrics.jsonl and PNG grids always, TensorBoard files where TensorFlow is installed."""

import contextlib
import importlib.util
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath

from taming_jax.files import write_whole
from taming_jax.names import written
from taming_jax.pictures import grid as grid  # where it was until version 0.2

TIMES, SECONDS = "times.jsonl", "seconds"  # the file, and what it says of each step


class Report:
    """Writes the history of a run into its workdir (a folder or a bucket); on all processes but one it does nothing.

    metrics.jsonl: one JSON object a line, {"step": 100, "train/loss": 1.5}, keys sorted; null for what is not finite.
    times.jsonl: {"seconds": 9.5, "step": 100}, of training so far; a resumed run goes on counting. It is a file of its
    own, since two trainings that measure the same take another time.
    images/NAME_STEP.png and NAME.txt. TensorBoard files in tensorboard/, if wanted and if TensorFlow is installed.
    """

    def __init__(self, workdir: str, *, is_main: bool = True, tensorboard: bool = True):
        self.workdir = epath.Path(workdir)
        self.is_main = is_main
        self._writer = None
        self._began, self._before = time.monotonic(), None  # the seconds before it, where they are known
        if not is_main:
            return
        self.workdir.mkdir(parents=True, exist_ok=True)
        self._before = self._counted()
        if tensorboard and all(importlib.util.find_spec(name) for name in ("tensorflow", "tensorboard")):
            from clu import metric_writers  # late: it imports TensorFlow

            self._writer = metric_writers.SummaryWriter(os.fsencode(self.workdir / "tensorboard"))
        elif tensorboard:
            logging.info("No TensorBoard files: they need TensorFlow and TensorBoard (pip install -e '.[data]').")

    def __enter__(self) -> "Report":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    @property
    def history(self) -> epath.Path:
        return self.workdir / "metrics.jsonl"

    @property
    def times(self) -> epath.Path:
        return self.workdir / TIMES

    def scalars(self, step: int, values: Mapping[str, Any], prefix: str = "train") -> None:
        """Append one line with the numbers (Python's, numpy's or jax's scalars), named prefix/name."""
        if not self.is_main:
            return
        values = jax.device_get(dict(values))  # one transfer for all of them
        numbers = {f"{prefix}/{name}" if prefix else name: float(value) for name, value in values.items()}
        strict = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        if self._before is not None:
            seconds = self._before + time.monotonic() - self._began
            _append(self.times, {"step": int(step), SECONDS: round(seconds, 3)})
        _append(self.history, {"step": int(step), **strict})
        if self._writer is not None:
            self._writer.write_scalars(int(step), numbers)

    def images(
        self, step: int, name: str, images: Any, columns: int | None = None, labels: Sequence[str] | None = None
    ) -> None:
        """Write one grid of pictures, see `grid`. A slash in the name becomes an underscore in the file's name."""
        if not self.is_main:
            return
        picture = grid(jax.device_get(images), columns, labels)
        path = self.workdir / "images" / f"{name.replace('/', '_')}_{int(step):07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            picture.save(file, format="PNG")
        if self._writer is not None:
            self._writer.write_images(int(step), {name: np.asarray(picture)[None]})
            self._writer.flush()

    def text(self, step: int, name: str, text: str) -> None:
        """Write a text, the overview of the parameters for example, replacing an older one of that name."""
        if not self.is_main:
            return
        (self.workdir / f"{name.replace('/', '_')}.txt").write_text(written(text).rstrip("\n") + "\n", encoding="utf-8")
        if self._writer is not None:
            indented = "\n".join(f"    {line}" for line in written(text).splitlines())  # Markdown for "as it is"
            self._writer.write_texts(int(step), {name: indented})

    def rewind(self, step: int) -> None:
        """Forget the lines after `step`, at which a resumed run goes on, so that its history has each step once.

        A half-written line, which a killed process leaves at the end, goes too.
        """
        if not self.is_main:
            return
        for file in (self.history, self.times):
            lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
            kept = [line for line in lines if line.endswith("\n") and _step(line) <= step]
            if kept != lines:
                write_whole(file, "".join(kept))
        self._before = self._counted()

    def _counted(self) -> float | None:
        """Seconds of training up to the end of the history; None where an older version has written that."""
        steps, seconds = ([row for row in _rows(file) if "step" in row] for file in (self.history, self.times))
        if not steps:
            return 0.0
        known = bool(seconds) and seconds[-1]["step"] >= steps[-1]["step"] and SECONDS in seconds[-1]
        return float(seconds[-1][SECONDS]) if known else None

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _step(line: str) -> float:
    """The step of a line of the history; infinity for a broken one."""
    try:
        return json.loads(line)["step"]
    except (ValueError, TypeError, KeyError):
        return math.inf


def _rows(file: epath.Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a file."""
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict):
                yield row


def _append(file: epath.Path, row: Mapping[str, Any]) -> None:
    line = json.dumps(row, sort_keys=True, allow_nan=False)
    with file.open("a", encoding="utf-8") as opened:  # closed, hence on disk, after every line
        opened.write(line + "\n")
