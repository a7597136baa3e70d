"""The page over HTTP, by the standard library. A request names no file and reaches no code but what is here."""

import base64
import contextlib
import hashlib
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

from taming_jax.page.asked import MOST_PICTURES, parse, read_labels
from taming_jax.page.listening import listen
from taming_jax.page.painter import MOST_PIXELS, Asked, Painter
from taming_jax.page.queue import Drawing, Full, Queue
from taming_jax.page.uploads import MOST_BYTES
from taming_jax.page.uploads import MOST_PIXELS as MOST_FILE_PIXELS
from taming_jax.page.visitors import Visitors

log = logging.getLogger(__name__)

SECONDS = 30  # that a client may keep a thread waiting
LAST_STEP, LAST_ANSWERS = 1.5, 0.7  # seconds for the picture that is drawn and for who asks for it, when the page ends
MOST_BODY = 16 << 20  # bytes of a request
MOST_BODIES = 128 << 20  # of all requests that are being read
STATIC = {  # path -> (file, kind)
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/easel.js": ("easel.js", "text/javascript; charset=utf-8"),
    "/files.js": ("files.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


class PageServer(ThreadingHTTPServer):
    """painters: what draws. address: (host, port), where port 0 is any that is free; or a socket that takes connections
    already. visitors: who may ask; default: this machine, or for another host its names."""

    daemon_threads = True

    def __init__(
        self, painters: list[Painter], address: tuple[str, int] | socket.socket, visitors: Visitors | None = None
    ) -> None:
        self.painters = painters
        if len({painter.name for painter in painters}) < len(painters):
            for painter in painters:
                painter.name = painter.workdir
        self.queue = Queue(lambda asked, progress, show: asked.painter.draw(asked, progress, show))
        folder = files("taming_jax.page").joinpath("static")
        self.static = {path: (folder.joinpath(name).read_bytes(), kind) for path, (name, kind) in STATIC.items()}
        self._reading, self._lock = 0, threading.Lock()
        listening = listen(*address) if isinstance(address, tuple) else address
        super().__init__(listening.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.visitors = visitors or Visitors(listening.getsockname()[0])
        scripts = re.findall(rb"<script>(.*?)</script>", self.static["/"][0], re.DOTALL)
        self.security = _security(scripts, [str(origin) for origin in self.visitors.origins])

    def unfinished(self) -> str:
        drawn, waited = self.queue.unfinished()
        parts = ["a picture was being drawn"] * drawn + [f"{waited} waited"] * bool(waited)
        return " and ".join(parts) or "nothing was being drawn"

    def end(self) -> str:
        """Draw nothing more, tell who waits, and close; in few seconds. Says what was not finished."""
        said = self.unfinished()
        if self.queue.end("The page was ended.", LAST_STEP):
            time.sleep(LAST_ANSWERS)  # who waits asks again and again, and hears of it
        self.shutdown()
        self.server_close()
        return said

    @contextlib.contextmanager
    def room(self, length: int) -> Iterator[None]:
        """Memory for the body of a request while it is read. Raises Full."""
        with self._lock:
            if self._reading + length > MOST_BODIES:
                raise Full("too much is being sent at once; try again later")
            self._reading += length
        try:
            yield
        finally:
            with self._lock:
                self._reading -= length


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    timeout = SECONDS
    server_version = "taming_jax"
    sys_version = ""

    def do_GET(self) -> None:
        routes = {"/about": self._about, "/example": self._example, "/drawing": self._watch}
        self._answer({**routes, "/picture": self._picture, "/file": self._file})

    def do_POST(self) -> None:
        self._answer({"/draw": self._draw, "/labels": self._labels, "/cancel": self._cancel})

    def _answer(self, routes: dict[str, Callable[[dict[str, str]], None]]) -> None:
        try:
            url = urlsplit(self.path)
            path = self.server.visitors.path(url.path)
            static = self.server.static if self.command == "GET" else {}
            self.server.visitors.check(self.headers, url, opens=path in static)
            if path in static:
                return self._send(HTTPStatus.OK, *static[path])
            if path not in routes:
                return self._say(HTTPStatus.NOT_FOUND, {"error": _nothing_at(path, {*routes, *static})})
            routes[path](_fields(url.query))
        except Full as error:
            self._say(HTTPStatus.SERVICE_UNAVAILABLE, {"error": str(error)})
        except ValueError as error:
            self._say(HTTPStatus.BAD_REQUEST, {"error": str(error)})
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _about(self, fields: dict[str, str]) -> None:
        limits = {"pixels": MOST_PIXELS, "pictures": MOST_PICTURES, "bytes": MOST_BYTES}
        limits["file_pixels"] = MOST_FILE_PIXELS
        self._say(HTTPStatus.OK, {"models": [painter.about() for painter in self.server.painters], "most": limits})

    def _example(self, fields: dict[str, str]) -> None:
        height, width, seed, model = (_whole(fields, name) for name in ("height", "width", "seed", "model"))
        if model >= len(self.server.painters):
            raise ValueError(f"there are {len(self.server.painters)} models")
        labels = self.server.painters[model].example(height, width, seed)
        self._send(HTTPStatus.OK, labels.tobytes(), "application/octet-stream")

    def _labels(self, fields: dict[str, str]) -> None:
        labels = self._reading(lambda body: read_labels(body, self.server.painters))
        self._send(HTTPStatus.OK, labels.tobytes(), "application/octet-stream")

    def _draw(self, fields: dict[str, str]) -> None:
        queue = self.server.queue
        asked: Asked = self._reading(lambda body: parse(body, self.server.painters, queue.get))
        self._say(HTTPStatus.ACCEPTED, {"name": queue.add(asked, asked.steps).name})

    def _reading(self, use: Callable[[bytes], Any]) -> Any:
        """What is made of the body. Raises ValueError for one that is too long, before any of it is read."""
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()) or int(length) > MOST_BODY:
            self.close_connection = True
            raise ValueError(f"a request has at most {MOST_BODY} bytes, and says how many")
        end, parts, left = time.monotonic() + SECONDS, list[bytes](), int(length)
        with self.server.room(left):
            while left:
                part = self.rfile.read1(min(left, 1 << 16))
                if not part or time.monotonic() > end:
                    raise TimeoutError  # gone, or sending a byte now and then
                parts.append(part)
                left -= len(part)
            return use(b"".join(parts))

    def _watch(self, fields: dict[str, str]) -> None:
        drawing, queue = self._find(fields), self.server.queue
        told = {name: getattr(drawing, name) for name in ("state", "done", "steps", "seconds", "error", "shown")}
        kept = drawing.kept
        told |= {"ahead": queue.ahead(drawing), "pictures": len(drawing.pictures)}
        told |= {"labels": list(kept.labels), "condition": bool(kept.condition)} if kept else {}
        self._say(HTTPStatus.OK, {**told, **drawing.asked.told()})

    def _cancel(self, fields: dict[str, str]) -> None:
        self.server.queue.cancel(self._find(fields))
        self._say(HTTPStatus.OK, {})

    def _picture(self, fields: dict[str, str]) -> None:
        drawing, number = self._find(fields), _whole({"number": "0", **fields}, "number")
        files = drawing.pictures
        if number >= len(files):
            raise ValueError(f"there is nothing of this picture yet; it is {drawing.state}")
        self._send(HTTPStatus.OK, files[number], "image/png")

    def _file(self, fields: dict[str, str]) -> None:
        """One of those that a picture was drawn from; or the condition as it is seen."""
        drawing, name = self._find(fields), fields.get("file", "")
        if name == "condition" and drawing.kept and drawing.kept.condition:
            return self._send(HTTPStatus.OK, drawing.kept.condition, "image/png")
        if name not in drawing.asked.files:
            raise ValueError("this picture has no such file")
        kind = "image/png" if name.endswith(".png") else "application/octet-stream"
        self._send(HTTPStatus.OK, drawing.asked.files[name], kind)

    def _find(self, fields: dict[str, str]) -> Drawing:
        drawing = self.server.queue.get(fields.get("name", ""))
        if drawing is None:
            raise ValueError("this picture is not known, or no longer kept")
        return drawing

    def _say(self, status: HTTPStatus, what: dict[str, Any]) -> None:
        self._send(status, json.dumps(what).encode(), "application/json")

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        try:
            self.send_response(status)
            for name, value in {**self.server.security, "Content-Type": kind, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
        except (ConnectionError, TimeoutError):  # who asked is gone
            self.close_connection = True

    def log_message(self, format: str, *arguments: Any) -> None:
        log.debug(format, *arguments)


def _security(scripts: Iterable[bytes], origins: Iterable[str]) -> dict[str, str]:
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
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }


def _nothing_at(path: str, known: set[str]) -> str:
    """Where something else stands before what there is, it is most likely the path of a proxy."""
    end = "/" + path.rpartition("/")[2]
    advice = (
        f"; where a proxy has put {path.removesuffix(end) or path!r} before it, start the page with --origin= and its "
        "address in the browser, path included"
    )
    return f"there is no such page{advice if end in known else ''}"


def _fields(query: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(query, max_num_fields=16).items()}


def _whole(fields: dict[str, str], name: str) -> int:
    text = fields.get(name, "")
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise ValueError(f"{name} must be a whole number")
    return int(text)
