"""An iterator that runs ahead in a background thread."""

import contextlib
import queue
import threading
import weakref
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")


class Prefetched(Iterator[T]):
    """Runs an iterator in a background thread, `depth` items ahead, until `close`, deletion or the program's end."""

    def __init__(self, items: Iterator[T], depth: int) -> None:
        self._queue: queue.Queue = queue.Queue(depth)
        stop = threading.Event()
        thread = threading.Thread(target=_fill, args=(items, self._queue, stop), name="data", daemon=True)
        # not through the object itself, which could never be deleted while the thread knew it
        self.close = weakref.finalize(self, _stop, self._queue, stop, thread)
        thread.start()

    def __next__(self) -> T:
        if not self.close.alive:
            raise StopIteration
        item, error = self._queue.get()
        if error is not None:
            self.close()
            raise error
        return item


def _fill(items: Iterator, target: queue.Queue, stop: threading.Event) -> None:
    try:
        for item in items:
            target.put((item, None))
            if stop.is_set():
                return
        target.put((None, StopIteration()))
    except BaseException as error:  # raised again where the batch is asked for
        target.put((None, error))


def _stop(items: queue.Queue, stop: threading.Event, thread: threading.Thread) -> None:
    stop.set()
    # the thread may be waiting for a place in the queue; and it may itself be where the garbage is collected
    while thread.is_alive() and thread is not threading.current_thread():
        with contextlib.suppress(queue.Empty):
            items.get(timeout=0.02)
