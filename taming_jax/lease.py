"""One training, or one encoding, a folder: a file in it names who is at work, and a heartbeat tells that it still is.

An operating system's lock would be simpler, but buckets have none, and on network file systems it cannot be relied on.
A file in the folder is the same by every path, link and host. On the machine and in the container of its owner, who is
alive is asked of the system, so that what a killed process leaves is taken over at once; elsewhere an owner counts as
dead whose heartbeat does not change for PATIENCE seconds by the clock of who waits, so that clocks need not agree.
"""

import contextlib
import dataclasses
import datetime
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from taming_jax import stopping

FILE = "in_use.lock"
BEAT = 5.0  # seconds between two heartbeats
PATIENCE = 30.0  # seconds without one after which an owner on another host is dead
SETTLE = 1.0  # seconds in which two that come at once to a bucket have both written

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Owner:
    """A process. machine: what its number is unique within: a boot of a machine and, there, a container."""

    work: str
    host: str
    pid: int
    began: str
    machine: str
    started: str
    token: str

    @classmethod
    def this(cls, work: str) -> "Owner":
        pid, began = os.getpid(), datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        return cls(work, socket.gethostname(), pid, began, _machine(), _started(pid), secrets.token_hex(8))

    def __str__(self) -> str:
        return f"a process of {self.work} (host {self.host}, pid {self.pid}, since {self.began})"

    def dead_here(self) -> bool | None:
        """Whether it has ended; None where this cannot be known, since it is of another machine."""
        if self.machine != _machine():
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:  # another user's
            return False
        return self.started != _started(self.pid)  # the number was given again


def _machine() -> str:
    parts = [socket.gethostname()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with contextlib.suppress(OSError):
            parts.append(os.readlink(path) if "/ns/" in path else Path(path).read_text(encoding="utf-8").strip())
    return " ".join(parts)


def _started(pid: int) -> str:
    """When a process began, in the system's own unit; "" where that is not known."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


class Lease:
    """The right to write into a folder, held within `held`."""

    def __init__(self, folder: str | os.PathLike[str], work: str) -> None:
        self.folder, self.owner = epath.Path(folder), Owner.this(work)
        self.file = self.folder / FILE
        self._text = json.dumps(dataclasses.asdict(self.owner))
        self._over = threading.Event()
        self._lost: Owner | None = None

    def check(self) -> None:
        """Raise ValueError where another process has taken the folder over, since this one did not answer, as in a
        machine that slept."""
        if self._lost:
            raise ValueError(
                f"{os.fspath(self.folder)!r} was taken over by {self._lost}; nothing more is written there."
            )

    def take(self) -> None:
        """Raises ValueError where another process is at work in the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        in_turn = "://" not in os.fspath(self.file)
        while True:
            found = self._read()
            if found is not None and not self._dead(*found):
                owner, _ = self._read() or found  # which may just have come, and named itself
                raise ValueError(
                    f"{os.fspath(self.folder)!r} is in use by {owner}. Wait for its end, stop it, or choose another "
                    f"folder; if there is no such process, remove {os.fspath(self.file)!r}."
                )
            if found is not None:
                log.warning("%s has ended without a word; its folder is taken over.", found[0])
                self.file.unlink(missing_ok=True)
            if in_turn and found is None:
                try:
                    file = open(self.file, "x", encoding="utf-8")  # noqa: SIM115  # of two that come at once, the first has it
                except FileExistsError:
                    continue
                try:
                    with file:
                        file.write(self._text)
                except OSError:  # as on a full disk
                    self.file.unlink()
                    raise
                break
            self.file.write_text(self._text, encoding="utf-8")  # of two that come at once, the last has it
            time.sleep(SETTLE)
            found = self._read()
            if found and found[0].token == self.owner.token:
                break
        threading.Thread(target=self._beat, name="lease", daemon=True).start()

    def give_back(self) -> None:
        self._over.set()
        with contextlib.suppress(Exception):  # a disk or bucket that has gone keeps nobody from ending
            found = self._read()
            if found and found[0].token == self.owner.token:
                self.file.unlink()

    def _dead(self, owner: Owner, beat: Any) -> bool:
        if (known := owner.dead_here()) is not None:
            return known
        log.warning("Waiting for %g s to see whether %s is at work in %s.", PATIENCE, owner, self.folder)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            time.sleep(min(BEAT, PATIENCE) / 2)
            found = self._read()
            if found is None or found != (owner, beat):
                return found is None
        return True

    def _read(self) -> tuple[Owner, Any] | None:
        """(the owner, what each heartbeat changes), or None where there is none."""
        try:
            with self.file.open("rb") as file:  # opened anew, since network file systems keep what they know of others
                content = file.read()
            return Owner(**json.loads(content)), self.file.stat().mtime
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, RecursionError):  # half written by who is about to begin, or is dead
            return Owner("another kind", "?", 0, "?", "?", "", ""), None

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            with contextlib.suppress(Exception):  # as on a full disk: the next may come through
                found = self._read()
                if found and found[0].token not in ("", self.owner.token):
                    self._lost = found[0]
                    return
                if found and "://" not in os.fspath(self.file):
                    os.utime(self.file)  # which takes no room
                else:
                    self.file.write_text(self._text, encoding="utf-8")


@contextlib.contextmanager
def held(folder: str | os.PathLike[str], work: str, together: bool = True) -> Iterator[Lease]:
    """Hold the folder while the block runs. Raises ValueError where another process is at work there.

    work: what is done, for the words. together: the processes of a distributed runtime call this together, the first
    holds the folder for all, and all are refused alike; else each is to hold a folder of its own.
    """
    lease, new = Lease(folder, work), not epath.Path(folder).exists()

    def give_back() -> None:
        lease.give_back()
        if new:
            with contextlib.suppress(OSError):  # it holds something
                os.rmdir(folder)

    with stopping.undoing(give_back):
        several = together and jax.process_count() > 1
        refused: Exception | None = None
        if not several or jax.process_index() == 0:
            try:
                lease.take()
            except (ValueError, OSError) as error:
                refused = error
        if several and bool(multihost_utils.broadcast_one_to_all(np.array(refused is not None))) and refused is None:
            refused = ValueError(f"{os.fspath(folder)!r} is refused to the first process, whose log says why.")
        if refused:
            raise refused
        yield lease
