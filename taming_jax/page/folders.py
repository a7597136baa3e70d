"""Temporary folders that are gone in any case: when they were used, when the page ends, or when it starts again."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where a page that was killed leaves its folders
    fcntl = None  # type: ignore[assignment]

PREFIX = "taming_jax_page_"
_in_use: set[str] = set()


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder of its own, held by a lock, which the system lets go even when this process is killed."""
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as name, _held(name):
        _in_use.add(name)
        try:
            yield Path(name)
        finally:
            _in_use.discard(name)


def remove_all() -> None:
    """Remove those in use, of a process that is about to end without cleaning up."""
    for name in list(_in_use):
        shutil.rmtree(name, ignore_errors=True)


def remove_left() -> None:
    """Remove those of this user that nobody holds: of pages that were killed."""
    if fcntl is None:
        return
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            about = path.lstat()
            if os.path.isdir(path) and not path.is_symlink() and about.st_uid == os.geteuid():
                with _held(str(path)):
                    shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _held(name: str) -> Iterator[None]:
    """Raises OSError where another process holds it."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
