"""Steps that took longer than they do, and the host that the others had to wait for."""

import contextlib
import socket
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

SLOW, LEAST = 2.0, 1.0  # times the usual, and seconds beyond it
KEPT = 20  # looks whose usual steps count
BEHIND = 2  # steps on their way to the devices: what a host is late with shows so many steps after it
NAME = 64  # bytes of a host's name


def _gather(array: np.ndarray) -> np.ndarray:
    """Of every process, along a first axis."""
    if jax.process_count() == 1:
        return array[None]
    return np.asarray(multihost_utils.process_allgather(array)).reshape(-1, *array.shape)


class Pace:
    """Times of steps since the last look: how long each took, and how long of it this host waited for its devices.

    Steps take the same time on all hosts, since each needs the gradients of the others. Who holds them up is who waits
    least: its own work, such as reading data, is what took the time. Where that does not explain it, as with a slow
    chip, nobody is named.
    """

    def __init__(self, gather: Callable[[np.ndarray], np.ndarray] = _gather):
        self._gather = gather
        self._steps: list[tuple[float, float]] = []  # (seconds, of these the host's own)
        self._usual = deque[float](maxlen=KEPT)
        self._waited = 0.0

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        begun, self._waited = time.perf_counter(), 0.0
        yield
        seconds = time.perf_counter() - begun
        self._steps.append((seconds, seconds - self._waited))

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """For the devices, within a step."""
        begun = time.perf_counter()
        yield
        self._waited += time.perf_counter() - begun

    def look(self, number: int) -> str:
        """What to say of the steps up to `number`, and begin anew; "" where none was slow, or no other host is there.
        All processes ask at the same step, and hear the same: their times are gathered, a few bytes for each step."""
        if not self._steps:
            return ""
        times = self._gather(np.asarray(self._steps, np.float32))  # (hosts, steps, 2)
        self._steps.clear()
        seconds = np.median(times[..., 0], axis=0)
        self._usual.append(float(np.median(seconds)))
        usual, slowest = statistics.median(self._usual), int(np.argmax(seconds))
        if len(times) == 1 or seconds[slowest] <= max(SLOW * usual, usual + LEAST):
            return ""
        said = f"step {number - len(seconds) + 1 + slowest} took {seconds[slowest]:.2f} s, usually {usual:.2f}"
        busy = times[:, max(0, slowest - BEHIND) : slowest + 1, 1].sum(axis=1)
        return f"{said}; {self._late(busy, seconds[slowest] - usual)}"

    def _late(self, busy: np.ndarray, lost: float) -> str:
        """busy: seconds (hosts,) of each one's own work while so many were lost."""
        names = self._gather(np.frombuffer(socket.gethostname().encode()[:NAME].ljust(NAME, b"\0"), np.uint8))
        late = int(np.argmax(busy))
        others = np.median(np.delete(busy, late))
        if busy[late] - others < lost / 2:
            return f"all hosts waited, busy by themselves for {busy[late]:.2f} s at most around it"
        name = bytes(names[late]).rstrip(b"\0").decode(errors="replace")
        return (
            f"the others waited for process {late} on {name}, busy by itself for {busy[late]:.2f} s around it, "
            f"the others for {others:.2f}"
        )
