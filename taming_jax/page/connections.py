"""Connections of the page: so many at once, and each only as long as it gets on."""

import contextlib
import errno
import http.client
import io
import logging
import socket
import sys
import threading
import time
from http.server import ThreadingHTTPServer
from typing import Any

try:
    import resource
except ImportError:  # Windows, where sockets are no files
    resource = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

MOST = 512  # at once
SPARE = 64  # files of the process that are no connections
ENDING = 16  # that may be about to end beside those
NO_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
PAUSE = 0.1  # seconds after which a connection is tried again that found no file


class Server(ThreadingHTTPServer):
    """Where there are too many connections, the one ends that has kept its thread waiting longest, by sending or by
    taking little; where all are being worked for, a new one is closed."""

    security: dict[str, str]  # headers of every answer
    daemon_threads = True

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self.most = most_connections()
        self._connections, self._slow = set[socket.socket](), dict[socket.socket, None]()  # the slowest first
        self._connections_lock = threading.Lock()
        super().__init__(*arguments, **keywords)

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in NO_FILES:  # the connection still waits, so that without a pause this is tried endlessly
                with self._connections_lock:
                    self._end_slowest()
                time.sleep(PAUSE)
            raise

    def verify_request(self, request: Any, client_address: Any) -> bool:
        with self._connections_lock:
            if len(self._connections) >= self.most:
                self._end_slowest()
            if len(self._connections) >= self.most + ENDING:
                return False
            self._connections.add(request)
            self._slow[request] = None
        return True

    def waits(self, connection: socket.socket, for_client: bool) -> None:
        """Whether from now on the client is waited for, or waits."""
        with self._connections_lock:
            self._slow.pop(connection, None)
            if for_client and connection in self._connections:
                self._slow[connection] = None

    def close_request(self, request: Any) -> None:
        with self._connections_lock:
            self._connections.discard(request)
            self._slow.pop(request, None)
        super().close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.error("a connection ended by %s", in_a_line(sys.exception()))

    def _end_slowest(self) -> None:
        """With the lock. Its own thread closes it."""
        if self._slow:
            slowest = next(iter(self._slow))
            del self._slow[slowest]
            with contextlib.suppress(OSError):
                slowest.shutdown(socket.SHUT_RDWR)


class Reader(io.RawIOBase):
    """What comes by a connection: so much at most, and until a moment, however it is cut into pieces."""

    def __init__(self, connection: socket.socket, seconds: float, most: int) -> None:
        self._connection = connection
        self.allow(seconds, most)

    def allow(self, seconds: float, most: int) -> None:
        """From now on."""
        self._end, self._left = time.monotonic() + seconds, most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("it took too long")
        if self._left <= 0:
            raise http.client.LineTooLong("request's head")
        self._connection.settimeout(seconds)
        count = self._connection.recv_into(memoryview(buffer)[: self._left])
        self._left -= count
        return count


def most_connections() -> int:
    """As many as the process may have files."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if resource else -1
    return MOST if files < 0 else max(ENDING, min(MOST, files - SPARE - ENDING))


def in_a_line(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {str(error)[:200]!r}"


def is_gone(connection: socket.socket) -> bool:
    """Whether the other side has closed it."""
    before = connection.gettimeout()
    try:
        connection.settimeout(0)
        return not connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        connection.settimeout(before)
