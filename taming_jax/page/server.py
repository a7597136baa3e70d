"""The page over HTTP, by the standard library. A request names no file and reaches no code but what is here."""

import json
import logging
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

from taming_jax.page.painter import MOST_PIXELS, Painter
from taming_jax.page.queue import Full, Queue

log = logging.getLogger(__name__)

SECONDS = 30  # that a client may keep a thread waiting
_SECURITY = {
    "Content-Security-Policy": "default-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src 'self' blob:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class PageServer(ThreadingHTTPServer):
    """painter: what draws. address: (host, port), where port 0 is any that is free."""

    daemon_threads = True
    request_queue_size = 128  # that may come at once without being turned away

    def __init__(self, painter: Painter, address: tuple[str, int]) -> None:
        self.painter, self.queue = painter, Queue(painter.draw)
        self.page = files("taming_jax.page").joinpath("page.html").read_bytes()
        super().__init__(address, _Handler)

    @property
    def local(self) -> bool:
        """Whether it serves this machine alone."""
        return str(self.server_address[0]).startswith("127.")


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    timeout = SECONDS
    server_version = "taming_jax"

    def do_GET(self) -> None:
        self._answer({"/": self._page, "/about": self._about, "/example": self._example, "/drawing": self._watch})

    def do_POST(self) -> None:
        self._answer({"/draw": self._draw, "/cancel": self._cancel})

    def _answer(self, routes: dict[str, Any]) -> None:
        url = urlsplit(self.path)
        try:
            self._check_origin()
            if url.path == "/picture" and self.command == "GET":
                return self._picture(_fields(url.query))
            if url.path not in routes:
                return self._say(HTTPStatus.NOT_FOUND, {"error": "there is no such page"})
            routes[url.path](_fields(url.query))
        except Full as error:
            self._say(HTTPStatus.SERVICE_UNAVAILABLE, {"error": str(error)})
        except ValueError as error:
            self._say(HTTPStatus.BAD_REQUEST, {"error": str(error)})
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _check_origin(self) -> None:
        """No page of elsewhere may use this one: neither by a name that leads here, nor by its own scripts."""
        host = self.headers.get("Host", "")
        if self.server.local and urlsplit(f"//{host}").hostname not in ("localhost", "127.0.0.1"):
            raise ValueError("this page answers to localhost only")
        origin = self.headers.get("Origin")
        if origin and urlsplit(origin).netloc != host:
            raise ValueError("requests come from the page itself only")

    def _page(self, fields: dict[str, str]) -> None:
        self._send(HTTPStatus.OK, self.server.page, "text/html; charset=utf-8")

    def _about(self, fields: dict[str, str]) -> None:
        self._say(HTTPStatus.OK, self.server.painter.about())

    def _example(self, fields: dict[str, str]) -> None:
        height, width, seed = (_whole(fields, name) for name in ("height", "width", "seed"))
        labels = self.server.painter.example(height, width, seed)
        self._send(HTTPStatus.OK, labels.tobytes(), "application/octet-stream")

    def _draw(self, fields: dict[str, str]) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MOST_PIXELS:
            self.close_connection = True  # what comes is not read
            raise ValueError(f"a map has at most {MOST_PIXELS} bytes, and says how many")
        body = self.rfile.read(int(length))
        height, width, seed = (_whole(fields, name) for name in ("height", "width", "seed"))
        temperature, top_p = _number(fields, "temperature"), _number(fields, "top_p")
        asked = self.server.painter.ask(body, height, width, seed, temperature, top_p)
        drawing = self.server.queue.add(asked, self.server.painter.steps(asked))
        self._say(HTTPStatus.ACCEPTED, {"name": drawing.name})

    def _watch(self, fields: dict[str, str]) -> None:
        drawing, queue = self._find(fields), self.server.queue
        told = {name: getattr(drawing, name) for name in ("state", "done", "steps", "seconds", "error", "shown")}
        self._say(HTTPStatus.OK, {**told, "ahead": queue.ahead(drawing)})

    def _cancel(self, fields: dict[str, str]) -> None:
        self.server.queue.cancel(self._find(fields))
        self._say(HTTPStatus.OK, {})

    def _picture(self, fields: dict[str, str]) -> None:
        drawing = self._find(fields)
        if not drawing.png:
            raise ValueError(f"there is nothing of this picture yet; it is {drawing.state}")
        self._send(HTTPStatus.OK, drawing.png, "image/png")

    def _find(self, fields: dict[str, str]) -> Any:
        drawing = self.server.queue.get(fields.get("name", ""))
        if drawing is None:
            raise ValueError("this picture is not known, or no longer kept")
        return drawing

    def _say(self, status: HTTPStatus, what: dict[str, Any]) -> None:
        self._send(status, json.dumps(what).encode(), "application/json")

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in {**_SECURITY, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        log.debug(format, *arguments)


def _fields(query: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(query, max_num_fields=16).items()}


def _whole(fields: dict[str, str], name: str) -> int:
    text = fields.get(name, "")
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise ValueError(f"{name} must be a whole number")
    return int(text)


def _number(fields: dict[str, str], name: str) -> float:
    try:
        return float(fields.get(name, ""))
    except ValueError:
        raise ValueError(f"{name} must be a number") from None
