"""Room for what requests take before anything is drawn: bytes that are being sent, pixels that are being worked on."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

LOOK = 0.2  # seconds after which one that waits looks whether somebody still wants it


class Full(ValueError):
    """Too much at once; later there may be room."""


class Room:
    """most: how much there is at once. patience: seconds that one waits for room. why: what those are told who find
    none."""

    def __init__(self, most: int, patience: float, why: str) -> None:
        self.most, self.taken = most, 0
        self._patience, self._why, self._changed = patience, why, threading.Condition()

    @contextlib.contextmanager
    def of(self, amount: int, gone: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Raises Full where there is no room in time, and ConnectionAbortedError where by then nobody wants it."""
        self.take(amount, gone)
        try:
            yield
        finally:
            self.give(amount)

    def take(self, amount: int, gone: Callable[[], bool] = lambda: False) -> None:
        end = time.monotonic() + self._patience
        with self._changed:
            while not gone():
                left = end - time.monotonic()
                if self.taken + amount <= self.most:
                    self.taken += amount
                    return
                if left <= 0:
                    raise Full(self._why)
                self._changed.wait(min(left, LOOK))
        raise ConnectionAbortedError("who asked is gone")

    def give(self, amount: int) -> None:
        with self._changed:
            self.taken -= amount
            self._changed.notify_all()
