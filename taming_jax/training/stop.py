"""How a training stops: by a signal that all of its processes heed at the same step, and what it makes up for then."""

import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from taming_jax.stopping import Noted
from taming_jax.training.report import Report


class Stop(Noted):
    """Turns a signal into a question that all processes answer alike."""

    def __init__(self) -> None:
        super().__init__(several=jax.process_count() > 1)

    def requested(self, number: int) -> bool:
        return multihost_utils.reached_preemption_sync_point(number) if self.several else self.received is not None

    def requested_before(self, start: int) -> bool:
        """Whether the training ends before its first step, the one after `start`.

        The runtime says yes at a single step, the one after the last that any process has asked about when the signal
        comes: step 1 while none has asked, which a resumed training would never ask about. From here on it is the
        next one.
        """
        return start > 0 and (self.requested(1) or self.requested(start))


def left_out(hooks: Sequence[Any], step: int, last: bool, report: Report) -> list[Any]:
    """The hooks that were due at a step whose checkpoint a training goes on from, but were left out, since a signal
    stopped it there; the same in all processes. They leave a line in the history, or pictures with the step's name."""
    due = [hook for hook in hooks if step and (last or step % hook.every == 0)]
    if not due:
        return []
    logged, drawn = _logged(report, step), any((report.workdir / "images").glob(f"*_{step:07d}.png"))
    left = [f"{hook.name}/{hook.measures[0]}" not in logged if hook.measures else not drawn for hook in due]
    left = [missing and report.history.exists() for missing in left]  # nothing is known without a history
    if jax.process_count() > 1:  # of which the first alone writes the history
        left = list(multihost_utils.broadcast_one_to_all(np.array(left)))
    return [hook for hook, missing in zip(due, left, strict=True) if missing]


def _logged(report: Report, step: int) -> set[str]:
    """What the history says of a step."""
    lines = report.history.read_text(encoding="utf-8").splitlines() if report.history.exists() else []
    rows = [json.loads(line) for line in lines if f'"step": {step},' in line]
    return {name for row in rows for name in row}
