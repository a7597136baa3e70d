"""What a run leaves for people: metrics.jsonl and PNG grids always, TensorBoard files where TensorFlow is installed."""

import importlib.util
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath

from taming_jax.files import write_whole
from taming_jax.pictures import grid as grid  # where it was until version 0.2


class Report:
    """Writes the history of a run into its workdir (a folder or a bucket); on all processes but one it does nothing.

    metrics.jsonl: one JSON object a line, {"step": 100, "train/loss": 1.5}, keys sorted; null for what is not finite.
    images/NAME_STEP.png and NAME.txt. TensorBoard files in tensorboard/, if wanted and if TensorFlow is installed.
    """

    def __init__(self, workdir: str, *, is_main: bool = True, tensorboard: bool = True):
        self.workdir = epath.Path(workdir)
        self.is_main = is_main
        self._writer = None
        if not is_main:
            return
        self.workdir.mkdir(parents=True, exist_ok=True)
        if tensorboard and all(importlib.util.find_spec(name) for name in ("tensorflow", "tensorboard")):
            from clu import metric_writers  # late: it imports TensorFlow

            self._writer = metric_writers.SummaryWriter(str(self.workdir / "tensorboard"))
        elif tensorboard:
            logging.info("No TensorBoard files: they need TensorFlow and TensorBoard (pip install -e '.[data]').")

    def __enter__(self) -> "Report":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    @property
    def history(self) -> epath.Path:
        return self.workdir / "metrics.jsonl"

    def scalars(self, step: int, values: Mapping[str, Any], prefix: str = "train") -> None:
        """Append one line with the numbers (Python's, numpy's or jax's scalars), named prefix/name."""
        if not self.is_main:
            return
        values = jax.device_get(dict(values))  # one transfer for all of them
        numbers = {f"{prefix}/{name}" if prefix else name: float(value) for name, value in values.items()}
        strict = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        line = json.dumps({"step": int(step), **strict}, sort_keys=True, allow_nan=False)
        with self.history.open("a") as file:  # closed, hence on disk, after every line
            file.write(line + "\n")
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
        (self.workdir / f"{name.replace('/', '_')}.txt").write_text(text.rstrip("\n") + "\n")
        if self._writer is not None:
            indented = "\n".join(f"    {line}" for line in text.splitlines())  # Markdown for "as it is"
            self._writer.write_texts(int(step), {name: indented})

    def rewind(self, step: int) -> None:
        """Forget the lines after `step`, at which a resumed run goes on, so that its history has each step once.

        A half-written line, which a killed process leaves at the end, goes too.
        """
        if not self.is_main or not self.history.exists():
            return
        lines = self.history.read_text().splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and _step(line) <= step]
        if kept != lines:
            write_whole(self.history, "".join(kept))

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
