"""What a run leaves for people: metrics.jsonl and PNG grids always, TensorBoard files where TensorFlow is installed."""

import contextlib
import importlib.util
import io
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath

from taming_jax.checkpoint import check_path
from taming_jax.files import check_writable, write_whole
from taming_jax.names import written
from taming_jax.pictures import grid as grid  # where it was until version 0.2

TIMES, SECONDS = "times.jsonl", "seconds"  # the file, and what it says of each step


def check_workdir(workdir: str) -> None:
    """Raise ValueError or OSError where a training cannot write there, before it begins."""
    check_path(workdir)
    if jax.process_index() == 0:
        check_writable(workdir)


class Report:
    """Writes the history of a run into its workdir (a folder or a bucket); on all processes but one it does nothing.

    metrics.jsonl: one JSON object a line, {"step": 100, "train/loss": 1.5}, keys sorted; null for what is not finite.
    times.jsonl: {"seconds": 9.5, "step": 100}, of training so far; a resumed run goes on counting. It is a file of its
    own, since two trainings that measure the same take another time.
    images/NAME_STEP.png and NAME.txt. TensorBoard files in tensorboard/, if wanted and if TensorFlow is installed.

    What cannot be written, as on a full disk, is told once, and training goes on: it is the checkpoints that count, and
    their saving fails by itself. Lines of the history are kept and written once there is room.
    """

    def __init__(self, workdir: str, *, is_main: bool = True, tensorboard: bool = True):
        self.workdir = epath.Path(workdir)
        self.is_main = is_main
        self._writer: Any = None
        self._lines = {file.name: _Lines(file) for file in (self.times, self.history)}
        self._began, self._before = time.monotonic(), None  # the seconds before it, where they are known
        self._told: set[str] = set()
        if not is_main:
            return
        self.workdir.mkdir(parents=True, exist_ok=True)
        self._before = self._counted()
        if tensorboard and all(importlib.util.find_spec(name) for name in ("tensorflow", "tensorboard")):
            from clu import metric_writers  # late: it imports TensorFlow

            self._attempt("tensorboard", lambda: self._open(metric_writers.SummaryWriter))
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
            self._lines[TIMES].add({"step": int(step), SECONDS: round(seconds, 3)})
        self._lines[self.history.name].add({"step": int(step), **strict})
        for name, lines in self._lines.items():
            self._attempt(name, lines.write)
        self._tensorboard(lambda writer: writer.write_scalars(int(step), numbers))

    def images(
        self, step: int, name: str, images: Any, columns: int | None = None, labels: Sequence[str] | None = None
    ) -> None:
        """Write one grid of pictures, see `grid`. A slash in the name becomes an underscore in the file's name."""
        if not self.is_main:
            return
        picture, content = grid(jax.device_get(images), columns, labels), io.BytesIO()
        picture.save(content, format="PNG")
        path = self.workdir / "images" / f"{name.replace('/', '_')}_{int(step):07d}.png"

        def write() -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, content.getvalue())

        def show(writer: Any) -> None:
            writer.write_images(int(step), {name: np.asarray(picture)[None]})
            writer.flush()

        self._attempt("images", write)
        self._tensorboard(show)

    def text(self, step: int, name: str, text: str) -> None:
        """Write a text, the overview of the parameters for example, replacing an older one of that name."""
        if not self.is_main:
            return
        file = f"{name.replace('/', '_')}.txt"
        self._attempt(file, lambda: write_whole(self.workdir / file, text.rstrip("\n") + "\n"))
        indented = "\n".join(f"    {line}" for line in written(text).splitlines())  # Markdown for "as it is"
        self._tensorboard(lambda writer: writer.write_texts(int(step), {name: indented}))

    def rewind(self, step: int) -> None:
        """Forget the lines after `step`, at which a resumed run goes on, so that its history has each step once.

        A half-written line, which a killed process leaves at the end, goes too. Raises OSError where this cannot be
        done, since the history would then have steps twice.
        """
        if not self.is_main or not self.history.exists():
            return
        for file in (self.history, self.times):
            lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
            kept = [line for line in lines if line.endswith("\n") and _step(line) <= step]
            if kept != lines:
                _write_again(file, kept, step)
        self._before = self._counted()

    def _counted(self) -> float | None:
        """Seconds of training up to the end of the history; None where an older version has written that."""
        steps, seconds = ([row for row in _rows(file) if "step" in row] for file in (self.history, self.times))
        if not steps:
            return 0.0
        known = bool(seconds) and seconds[-1]["step"] >= steps[-1]["step"] and SECONDS in seconds[-1]
        return float(seconds[-1][SECONDS]) if known else None

    def close(self) -> None:
        """Write what is left, or tell that it is lost."""
        for name, lines in self._lines.items():
            if not self._attempt(name, lines.write):
                told = "The last %d line(s) of %r could not be written; no checkpoint depends on them."
                logging.warning(told, lines.waiting, str(lines.file))
        self._tensorboard(lambda writer: writer.close())
        self._writer = None

    def _open(self, writer: Callable[[Any], Any]) -> None:
        self._writer = writer(os.fsencode(self.workdir / "tensorboard"))

    def _tensorboard(self, write: Callable[[Any], None]) -> None:
        """Write to TensorBoard's files; once that has failed, no more."""
        writer = self._writer
        if writer is not None and not self._attempt("tensorboard", lambda: write(writer)):
            self._writer = None

    def _attempt(self, name: str, write: Callable[[], None]) -> bool:
        """Write a file of the workdir; where that fails, tell it the first time, and return False."""
        try:
            write()
        except Exception as error:  # each kind of bucket has its own, and TensorFlow
            if name not in self._told:
                self._told.add(name)
                reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:300] or type(error).__name__
                logging.warning("%r cannot be written (%s); training goes on.", str(self.workdir / name), reason)
            return False
        return True


class _Lines:
    """A file of JSON, one object a line, that keeps what cannot be written until it can."""

    def __init__(self, file: epath.Path):
        self.file = file
        self._waiting: list[str] = []
        self._torn = False  # whether the last attempt may have left a part of a line

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def add(self, row: Mapping[str, Any]) -> None:
        self._waiting.append(json.dumps(row, sort_keys=True, allow_nan=False) + "\n")

    def write(self) -> None:
        """Write what is waiting. Raises what the file system does."""
        if not self._waiting:
            return
        torn, self._torn = self._torn, True
        if torn:
            there = self.file.read_text(encoding="utf-8").splitlines(keepends=True) if self.file.exists() else []
            write_whole(self.file, "".join([*(line for line in there if line.endswith("\n")), *self._waiting]))
        else:
            with self.file.open("a", encoding="utf-8") as opened:  # closed, hence on disk, after every line
                opened.write("".join(self._waiting))
        self._waiting, self._torn = [], False


def _write_again(file: epath.Path, lines: Sequence[str], step: int) -> None:
    try:
        write_whole(file, "".join(lines))
    except OSError as error:
        raise OSError(
            f"{str(file)!r} cannot be written ({error.strerror or error}), and it has lines after step {step}, from "
            "where this training goes on. Remove the cause and give the same command again; the checkpoints are as "
            "they were."
        ) from error


def _step(line: str) -> float:
    """The step of a line of the history; infinity for a broken one."""
    try:
        return json.loads(line)["step"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return math.inf


def _rows(file: epath.Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a file."""
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict):
                yield row
