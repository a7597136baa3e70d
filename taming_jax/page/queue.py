"""Pictures that were asked for, drawn one after another by one thread; each can be watched and cancelled."""

import dataclasses
import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from taming_jax.memory import out_of_memory
from taming_jax.page.room import Full

log = logging.getLogger(__name__)

# draws: (what was asked for, called with the steps since the last call and raising to stop, called with the files of
# pictures that are not finished) -> the files of the pictures, and what else is kept beside them
Draw = Callable[[Any, Callable[[int], None], Callable[[Sequence[bytes]], None]], tuple[Sequence[bytes], Any]]


class Cancelled(Exception):
    """Raised within a drawing that nobody wants any more."""


@dataclasses.dataclass
class Drawing:
    """Pictures that are drawn together. state: waiting, drawing, done, failed or cancelled. steps: how many are done of
    how many in all. pictures: the files of what there is of them, for the shown-th time. kept: what else was drawn."""

    asked: Any
    steps: int
    name: str = dataclasses.field(default_factory=lambda: secrets.token_hex(8))
    state: str = "waiting"
    done: int = 0
    seconds: float = 0.0
    error: str = ""
    pictures: Sequence[bytes] = ()
    kept: Any = None
    shown: int = 0
    unwanted: threading.Event = dataclasses.field(default_factory=threading.Event)

    @property
    def over(self) -> bool:
        return self.state in ("done", "failed", "cancelled")

    @property
    def bytes(self) -> int:
        """Of all that is kept of it."""
        return sum(map(len, self.pictures)) + sum(getattr(part, "bytes", 0) for part in (self.asked, self.kept))

    def drop(self) -> None:
        """What it was to be drawn from, and what there is of it: of what nobody wants, or can have, nothing is kept."""
        self.pictures = ()
        if hasattr(self.asked, "without_files"):
            self.asked = self.asked.without_files()


class Queue:
    """Draws in the order of asking. waiting: how many may wait; kept, kept_bytes: how many that are over, and how much
    of their pictures and of what these were drawn from, can still be fetched."""

    def __init__(self, draw: Draw, waiting: int = 8, kept: int = 48, kept_bytes: int = 256 << 20) -> None:
        self._draw, self._most, self._kept, self._kept_bytes = draw, waiting, kept, kept_bytes
        self._drawings: dict[str, Drawing] = {}
        self._changed = threading.Condition()
        self._ended = ""  # why nothing more is drawn
        threading.Thread(target=self._work, name="drawing", daemon=True).start()

    def add(self, asked: Any, steps: int) -> Drawing:
        """Raises Full."""
        drawing = Drawing(asked, steps)
        with self._changed:
            if self._ended:
                raise Full(self._ended)
            waiting = sum(other.state == "waiting" for other in self._drawings.values())
            if waiting >= self._most:
                raise Full(f"{waiting} pictures are waiting already; try again later")
            self._drawings[drawing.name] = drawing
            self._forget()
            self._changed.notify_all()
        return drawing

    def get(self, name: str) -> Drawing | None:
        with self._changed:
            return self._drawings.get(name)

    def ahead(self, drawing: Drawing) -> int:
        """How many are to be drawn before it."""
        with self._changed:
            names = [name for name, other in self._drawings.items() if not other.over]
            return names.index(drawing.name) if drawing.name in names else 0

    def cancel(self, drawing: Drawing) -> None:
        """At once where it waits, else with its next step."""
        with self._changed:
            drawing.unwanted.set()
            if drawing.state == "waiting":
                drawing.state = "cancelled"
                drawing.drop()

    def unfinished(self) -> tuple[int, int]:
        """How many are being drawn, and wait."""
        with self._changed:
            states = [drawing.state for drawing in self._drawings.values()]
        return states.count("drawing"), states.count("waiting")

    def end(self, why: str, seconds: float) -> bool:
        """Draw nothing more. Those that wait have failed, for this reason, and so has the one that is being drawn, for
        whose next step this waits, so long at most. Whether there were any."""
        with self._changed:
            self._ended = why
            left = [drawing for drawing in self._drawings.values() if not drawing.over]
            for drawing in left:
                drawing.unwanted.set()
                if drawing.state == "waiting":
                    drawing.error, drawing.state = why, "failed"
            self._changed.wait_for(lambda: all(drawing.over for drawing in left), seconds)
            for drawing in left:
                if not drawing.over:
                    drawing.error, drawing.state = why, "failed"
        return bool(left)

    def _forget(self) -> None:
        """The oldest that are over, where there are too many; first those without pictures."""
        over = sorted((drawing for drawing in self._drawings.values() if drawing.over), key=lambda d: d.state == "done")
        held = sum(drawing.bytes for drawing in over)
        while len(over) > self._kept or (over and held > self._kept_bytes):
            oldest = over.pop(0)
            held -= oldest.bytes
            del self._drawings[oldest.name]

    def _next(self) -> Drawing:
        with self._changed:
            while True:
                for drawing in self._drawings.values():
                    if drawing.state == "waiting":
                        drawing.state = "drawing"
                        return drawing
                self._changed.wait()

    def _work(self) -> None:
        while True:
            drawing, begun = self._next(), time.monotonic()

            def progress(steps: int, drawing: Drawing = drawing, begun: float = begun) -> None:
                drawing.done, drawing.seconds = drawing.done + steps, time.monotonic() - begun
                if drawing.unwanted.is_set():
                    raise Cancelled

            def show(pictures: Sequence[bytes], drawing: Drawing = drawing) -> None:
                drawing.pictures, drawing.shown = pictures, drawing.shown + 1

            error = ""
            try:
                pictures, kept = self._draw(drawing.asked, progress, show)
                show(pictures)
                drawing.kept, drawing.seconds, state = kept, time.monotonic() - begun, "done"
            except Cancelled:
                error, state = self._ended, "failed" if self._ended else "cancelled"
            except Exception as raised:  # one picture that cannot be drawn must not end the page
                error, state = told(raised), "failed"
            with self._changed:
                if not drawing.over:  # the page may have ended around it
                    drawing.error, drawing.state = error, state
                if state != "done":
                    drawing.drop()
                self._changed.notify_all()


def told(error: Exception) -> str:
    """What the page says of an error; of one that the user cannot mend the log has more."""
    if isinstance(error, ValueError):
        return str(error)
    log.error("a picture could not be drawn", exc_info=error)
    return out_of_memory(error) or f"{type(error).__name__}; the server's log has more"
