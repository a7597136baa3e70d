"""How the page ends: by Ctrl-C, SIGTERM or a closed terminal, in one line, also while XLA draws in another thread."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from taming_jax.page import folders

NAMES = {"SIGINT": "Ctrl-C", "SIGTERM": "SIGTERM", "SIGHUP": "the end of its terminal"}


def on_signal(call: Callable[[int], None]) -> None:
    """call: gets the number of each signal that asks to end, from now on; not of those that whoever started this has
    switched off, as nohup does."""
    for name in NAMES:
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda came, _: call(came))


def leave(number: int, what: str = "") -> NoReturn:
    """End at once with the status that shells give to a signal, without Python's own end: it would stop the threads in
    the middle of XLA, which aborts."""
    folders.remove_all()
    with contextlib.suppress(OSError):  # whoever read it may be gone
        print(f"The page was ended by {NAMES[signal.Signals(number).name]}{what}.", file=sys.stderr, flush=True)
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(128 + number)
