"""Event loops that end only when all that was begun in them has ended.

Orbax begins many reads or writes at once, leaves at the first that fails, and closes its loop. The others then end in a
loop that is closed, and each tells a traceback of that on stderr, before and after the error that matters.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from orbax.checkpoint._src import asyncio_utils

T = TypeVar("T")
PATIENCE = 60.0  # seconds for what may wait for another process in vain


def _finish(loop: asyncio.AbstractEventLoop) -> None:
    """Wait for the tasks that are left, and close the loop. What they raise is told by nobody: the first one's is."""
    loop.set_exception_handler(lambda *_: None)
    if rest := asyncio.all_tasks(loop):
        loop.run_until_complete(asyncio.wait(rest, timeout=PATIENCE))
    loop.close()


def _run_sync_via_new_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(coroutine)
    finally:
        _finish(loop)
        asyncio.set_event_loop(None)


def _run_event_loop(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        _finish(loop)


def wait_for_all_tasks() -> None:
    """Let Orbax's loops end so. Called again, it does nothing."""
    for ours in (_run_sync_via_new_loop, _run_event_loop):  # one of the two runs whatever it does
        if hasattr(asyncio_utils, ours.__name__):  # an Orbax without it may have mended it
            setattr(asyncio_utils, ours.__name__, ours)
