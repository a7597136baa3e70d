"""A request and its answer over HTTP, whatever it is about: read in time, and sent with the headers that all have."""

import base64
import contextlib
import hashlib
import io
import json
import logging
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any

from taming_jax.page.connections import Reader, Server
from taming_jax.page.room import Room

log = logging.getLogger(__name__)

SECONDS = 30  # that a client may keep a thread waiting by the body of a request, or by taking an answer
HEAD_SECONDS = 10  # and by its head
MOST_HEAD = 128 << 10  # bytes of it
MOST_BODY = 16 << 20  # bytes of a request
RETRY = 5  # seconds after which one is told to ask again
REFUSED = {  # by the library as errors of a server, which neither is
    HTTPStatus.NOT_IMPLEMENTED: HTTPStatus.METHOD_NOT_ALLOWED,
    HTTPStatus.HTTP_VERSION_NOT_SUPPORTED: HTTPStatus.BAD_REQUEST,
}


class Exchange(BaseHTTPRequestHandler):
    server: Server
    timeout = SECONDS
    server_version = "taming_jax"
    sys_version = ""

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.reader = Reader(self.connection, HEAD_SECONDS, MOST_HEAD)
        self.rfile = io.BufferedReader(self.reader)

    @contextlib.contextmanager
    def body(self, room: Room) -> Iterator[bytes]:
        """The body, which takes room as it comes: what is only promised takes none. Raises ValueError for one that is
        too long, before any of it is read, Full, and TimeoutError."""
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal() and len(length) < 10) or int(length) > MOST_BODY:
            self.close_connection = True
            raise ValueError(f"a request has at most {MOST_BODY} bytes, and says how many")
        self.reader.allow(SECONDS, int(length))
        parts, taken = bytearray(), 0
        try:
            while taken < int(length):
                part = self.rfile.read1(min(int(length) - taken, 1 << 16))
                if not part:
                    raise ConnectionAbortedError("who asked is gone")
                room.take(len(part))
                taken += len(part)
                parts += part
            self.server.waits(self.connection, False)
            body = bytes(parts)
            parts.clear()
            yield body
        finally:
            room.give(taken)

    def say(self, status: HTTPStatus, what: dict[str, Any]) -> None:
        self.send(status, json.dumps(what).encode(), "application/json")

    def send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        headers = {**self.server.security, "Content-Type": kind, "Content-Length": str(len(body))}
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers["Retry-After"] = str(RETRY)
        self.server.waits(self.connection, True)
        try:
            self.connection.settimeout(SECONDS)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
        except OSError:  # who asked is gone
            self.close_connection = True

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the library refuses, in the form of other answers."""
        status = REFUSED.get(HTTPStatus(code), HTTPStatus(code))
        self.close_connection, self.request_version = True, "HTTP/1.0"  # else one that has none gets no status either
        self.say(status, {"error": f"{status.phrase}: {status.description}" if status.description else status.phrase})

    def log_message(self, format: str, *arguments: Any) -> None:
        log.debug(format, *arguments)


def security(scripts: Iterable[bytes], origins: Iterable[str]) -> dict[str, str]:
    """Headers of every answer. scripts: in the page itself. origins: whose pages may show this one in a frame."""
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'" for script in scripts]
    policy = {
        "default-src": ["'self'"],
        "script-src": ["'self'", *hashes],
        "img-src": ["'self'", "blob:"],
        "frame-ancestors": ["'self'", *origins],
        "base-uri": ["'none'"],
    }
    return {
        "Content-Security-Policy": "; ".join(" ".join((what, *allowed)) for what, allowed in policy.items()),
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }
