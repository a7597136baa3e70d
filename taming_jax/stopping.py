"""Ctrl-C, SIGTERM and a closed terminal (SIGHUP): a program ends in one line, and nothing is lost or left behind.

A program calls `listen` in its first line. From there on a signal raises `Stopped` wherever the program is, so that
its blocks clean up; `program.run_to_its_end` then says what there is, and ends it. A training notes the signal instead
(`Noted`), and saves. One signal is enough: further ones change nothing, so that they break no save.
"""

import contextlib
import errno
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

NAMES: dict[int, str] = {
    getattr(signal, name): said
    for name, said in (("SIGINT", "Ctrl-C"), ("SIGTERM", "SIGTERM"), ("SIGHUP", "a closed terminal (SIGHUP)"))
    if hasattr(signal, name)
}
GRACE = 5.0  # seconds that a program may take to come to its end; a compiler, for one, hears no signal
READER_GONE = (errno.EPIPE, errno.EIO)  # of a pipe; of a terminal


class Stopped(KeyboardInterrupt):
    """A signal asks the program to end. said: what there is of its work, for the one line."""

    def __init__(self, number: int, said: str = "") -> None:
        super().__init__(number)
        self.number, self.said = number, said

    def __str__(self) -> str:
        return f"stopped by {NAMES[self.number]}: {self.said or 'it had not come to its end'}"


class _Process:
    """What is known of signals in this process."""

    listens = False
    begun = False  # what the program does, after its imports
    lost: bool = False  # whether a `Stopped` was raised where Python drops what is raised
    number: int | None = None  # the first signal
    training: "Noted | None" = None  # that notes signals at present
    said: tuple[Callable[[], str], ...] = ()  # what there is, the innermost last
    undo: tuple[Callable[[], None], ...] = ()  # removes what would be left behind, the innermost last


def listen() -> None:
    """Take the signals from here on; to be called by a program, before the imports that take seconds.

    Signals that are ignored stay so, as under `nohup`, or for what a script starts in the background. From here on
    output goes on where its reader has gone: `tee` gets a Ctrl-C, too, and a terminal is gone with its window.
    """
    _Process.listens, _Process.begun, _Process.number = True, False, None
    sys.unraisablehook, sys.excepthook = _unraisable, _uncaught
    sys.stdout, sys.stderr = _lasting(sys.stdout, READER_GONE), _lasting(sys.stderr)
    take()
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)  # told at once, also while Python waits for a library
    threading.Thread(target=_watch, args=(read,), name="signals", daemon=True).start()


def begin() -> None:
    """The imports are over: from here on there may be something to clean up, or to tell of, at a signal."""
    _Process.begun = True


def take() -> None:
    """Let signals end the program, also SIGTERM, which the distributed runtime catches, only to note it."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in NAMES if _Process.listens else (signal.SIGTERM,):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _raise if _Process.listens else signal.SIG_DFL)


def received() -> int | None:
    """The first signal that this program was sent since it listens, or a training since it notes them."""
    return _Process.number


@contextlib.contextmanager
def telling(what: Callable[[], str]) -> Iterator[None]:
    """What a program says that is stopped within the block: `what()`, as "12 of 40 pictures are in OUT"."""
    before = _Process.said
    _Process.said = (*before, what)
    try:
        yield
    except Stopped as error:
        error.said = error.said or what()
        raise
    finally:
        _Process.said = before


@contextlib.contextmanager
def undoing(what: Callable[[], None]) -> Iterator[None]:
    """Call `what` at the end of the block, also where `leave` ends the program within it."""
    before = _Process.undo
    _Process.undo = (*before, what)
    try:
        yield
    finally:
        _Process.undo = before
        what()


def leave(code: int, line: str = "") -> None:
    """End the program here, from any thread, with a line; other threads, which may be in a library, are not waited for:
    some of them abort the interpreter that ends around them."""
    if _Process.number is None:
        _Process.number = 0  # from here on signals change nothing
    for what in reversed(_Process.undo):
        with contextlib.suppress(Exception):
            what()
    for stream, text in ((sys.stdout, ""), (sys.stderr, line and f"{line}\n")):
        with contextlib.suppress(Exception):
            stream.write(text)
            stream.flush()
    os._exit(code)


class Noted:
    """Within the block a signal is noted, for a training that saves before it ends by itself.

    received: the first signal, or None. began: whether there is something to save. In other threads than the main one,
    where Python has no handlers, nothing is noted. several: this is one of several processes; SIGTERM is then caught by
    the distributed runtime, which makes all of them agree on a step, and the other signals are passed on to it.
    """

    def __init__(self, several: bool = False) -> None:
        self.received: int | None = None
        self.began = False
        self.several, self._raises, self._after = several, False, 0.0
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Self:
        self._previous: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in NAMES:
                handler = signal.getsignal(number)
                if handler in (signal.SIG_IGN, None) or (self.several and number == signal.SIGTERM):
                    continue
                self._previous[number] = signal.signal(number, self._note)
            _Process.training = self
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if _Process.training is self:
            _Process.training = None

    @contextlib.contextmanager
    def raising(self, after: float = 0.0) -> Iterator[None]:
        """Within the block, of which nothing is saved, a signal raises Stopped, and one that was noted before does at
        once; not in one of several processes, which stop together. after: seconds that the block may take first."""
        self._raises, self._after = not self.several, after
        try:
            if self._raises and self.received is not None:
                self._raise(self.received)
            yield
        finally:
            self._raises = False
            if self._timer:
                self._timer.cancel()

    def _note(self, number: int, _: object) -> None:
        if self.received is not None and not _Process.lost:
            return
        again, _Process.lost = _Process.lost, False
        self.received = _Process.number = self.received or number
        if not again and self.several and number != signal.SIGTERM:
            os.kill(os.getpid(), signal.SIGTERM)
        if self._raises and again:
            raise Stopped(self.received)
        if self._raises:
            self._raise(self.received)

    def _raise(self, number: int) -> None:
        if not self._after:
            raise Stopped(number)
        self._timer = _send_again(number, self._after)


def _raise(number: int, _: object) -> None:
    if _Process.number is None or _Process.lost:
        _Process.number, _Process.lost = _Process.number or number, False
        stopped = Stopped(_Process.number)
        if not _Process.begun:
            leave(128 + number, str(stopped))
        raise stopped


def _unraisable(unraisable: Any) -> None:
    """Raise once more what was raised while garbage was collected, where Python drops it: JAX is called there."""
    if not isinstance(unraisable.exc_value, Stopped):
        sys.__unraisablehook__(unraisable)
        return

    _send_again(unraisable.exc_value.number, 0.02)


def _uncaught(kind: Any, error: Any, trace: Any) -> None:
    """What libraries print in threads of their own, once they are stopped in the middle, would bury the one line."""
    if _Process.number is None or threading.get_ident() == threading.main_thread().ident:
        sys.__excepthook__(kind, error, trace)


def _send_again(number: int, seconds: float) -> threading.Timer:
    """Come to the handler of a signal once more, that it may raise."""

    def send() -> None:
        _Process.lost = True
        os.kill(os.getpid(), number)

    timer = threading.Timer(seconds, send)
    timer.daemon = True
    timer.start()
    return timer


def _watch(read: int) -> None:
    """Answer signals at once, and end a program that does not come to its end, as while something is compiled."""
    while True:
        for number in os.read(read, 64):
            training = _Process.training
            if number not in NAMES:
                continue
            if training and (training.began or training.several):
                _say(f"{NAMES[number]}: stopping after this step, and saving. Ctrl-\\ ends it without.")
                continue
            time.sleep(GRACE)
            if not (_Process.training and _Process.training.began):
                said = _Process.said[-1]() if _Process.said else ""
                leave(128 + number, f"\n{Stopped(number, said)}")


def _say(line: str) -> None:
    from tqdm import tqdm  # a training has it

    with contextlib.suppress(Exception):
        tqdm.write(line, file=sys.stderr)


class _Lasting(io.FileIO):
    """A file descriptor whose writes go on where they fail with these errors, None for all."""

    passed_over: tuple[int, ...] | None = None

    def write(self, data: Any) -> Any:
        try:
            return super().write(data)
        except OSError as error:
            if self.passed_over is not None and error.errno not in self.passed_over:
                raise
            return memoryview(data).nbytes


def _lasting(stream: Any, passed_over: tuple[int, ...] | None = None) -> Any:
    """The same stream, on a descriptor that lasts; one that is none of a file, as a notebook's, stays."""
    try:
        raw = _Lasting(stream.fileno(), "wb", closefd=False)
    except (OSError, ValueError, AttributeError):
        return stream
    raw.passed_over = passed_over
    stream.flush()
    buffer: Any = raw if stream.write_through else io.BufferedWriter(raw)
    how = {name: getattr(stream, name) for name in ("encoding", "errors", "line_buffering", "write_through")}
    return io.TextIOWrapper(buffer, **how)
