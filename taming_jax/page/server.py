"""The page over HTTP, by the standard library. A request names no file and reaches no code but what is here."""

import contextlib
import logging
import re
import socket
import time
from collections.abc import Callable
from http import HTTPStatus
from importlib.resources import files
from urllib.parse import parse_qs, urlsplit

from taming_jax.page.asked import MOST_PICTURES, parse, read_labels
from taming_jax.page.connections import Server, in_a_line, is_gone
from taming_jax.page.exchange import Exchange, security
from taming_jax.page.listening import listen
from taming_jax.page.painter import MOST_PIXELS, Asked, Painter
from taming_jax.page.queue import Drawing, Queue
from taming_jax.page.room import Full, Room
from taming_jax.page.uploads import MOST_BYTES
from taming_jax.page.uploads import MOST_PIXELS as MOST_FILE_PIXELS
from taming_jax.page.visitors import Visitors

log = logging.getLogger(__name__)

LAST_STEP, LAST_ANSWERS = 1.5, 0.7  # seconds for the picture that is drawn and for who asks for it, when the page ends
MOST_BODIES = 128 << 20  # of all requests that are being read
MOST_WORK = MOST_FILE_PIXELS + MOST_PIXELS  # pixels that are worked on before drawing: the largest file, for its size
MADE_UP = 12  # a pixel of a map that is made up takes memory as so many of a file do (measured: 134 bytes, and 10)
PATIENCE = 1.5  # seconds that work waits for other work
STATIC = {  # path -> (file, kind)
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/easel.js": ("easel.js", "text/javascript; charset=utf-8"),
    "/files.js": ("files.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


class PageServer(Server):
    """painters: what draws. address: (host, port), where port 0 is any that is free; or a socket that takes connections
    already. visitors: who may ask; default: this machine, or for another host its names."""

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
        self.bodies = Room(MOST_BODIES, 0, "too much is being sent at once; try again later")
        self.work = Room(MOST_WORK, PATIENCE, "the page is busy with other pictures; try again in a few seconds")
        listening = listen(*address) if isinstance(address, tuple) else address
        super().__init__(listening.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.visitors = visitors or Visitors(listening.getsockname()[0])
        scripts = re.findall(rb"<script>(.*?)</script>", self.static["/"][0], re.DOTALL)
        self.security = security(scripts, [str(origin) for origin in self.visitors.origins])

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


class _Handler(Exchange):
    server: PageServer

    def do_GET(self) -> None:
        routes = {"/about": self._about, "/example": self._example, "/drawing": self._watch}
        self._answer({**routes, "/picture": self._picture, "/file": self._file})

    def do_POST(self) -> None:
        self._answer({"/draw": self._draw, "/labels": self._labels, "/cancel": self._cancel})

    def _answer(self, routes: dict[str, Callable[[dict[str, str]], None]]) -> None:
        try:
            if self.command == "GET":
                self.server.waits(self.connection, False)
            if self.requestline.split()[1].startswith("//"):  # of which the library has made one
                return self.say(HTTPStatus.NOT_FOUND, {"error": "there is no such page"})
            url = urlsplit(self.path)
            path = self.server.visitors.path(url.path)
            static = self.server.static if self.command == "GET" else {}
            self.server.visitors.check(self.headers, url, opens=path in static)
            if path in static:
                return self.send(HTTPStatus.OK, *static[path])
            if path not in routes:
                return self.say(HTTPStatus.NOT_FOUND, {"error": _nothing_at(path, {*routes, *static})})
            routes[path](_fields(url.query))
        except Full as error:
            self.say(HTTPStatus.SERVICE_UNAVAILABLE, {"error": str(error)})
        except ValueError as error:
            self.say(HTTPStatus.BAD_REQUEST, {"error": str(error)})
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except MemoryError:
            self.say(HTTPStatus.SERVICE_UNAVAILABLE, {"error": "the server's memory is full; try again later"})
        except Exception as error:  # one request that cannot be answered must not end in silence
            log.error("%s %.100r could not be answered: %s", self.command, self.path, in_a_line(error))
            self.say(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": f"{type(error).__name__}; the server's log has more"})

    def _about(self, fields: dict[str, str]) -> None:
        limits = {"pixels": MOST_PIXELS, "pictures": MOST_PICTURES, "bytes": MOST_BYTES}
        limits["file_pixels"] = MOST_FILE_PIXELS
        self.say(HTTPStatus.OK, {"models": [painter.about() for painter in self.server.painters], "most": limits})

    def _example(self, fields: dict[str, str]) -> None:
        height, width, seed, model = (_whole(fields, name) for name in ("height", "width", "seed", "model"))
        if model >= len(self.server.painters):
            raise ValueError(f"there are {len(self.server.painters)} models")
        painter = self.server.painters[model]
        painter.check_size(height, width)
        with self._work(MADE_UP * height * width):
            labels = painter.example(height, width, seed)
        self.send(HTTPStatus.OK, labels.tobytes(), "application/octet-stream")

    def _labels(self, fields: dict[str, str]) -> None:
        with self.body(self.server.bodies) as body:
            labels = read_labels(body, self.server.painters, self._work)
        self.send(HTTPStatus.OK, labels.tobytes(), "application/octet-stream")

    def _draw(self, fields: dict[str, str]) -> None:
        queue = self.server.queue
        with self.body(self.server.bodies) as body:
            asked: Asked = parse(body, self.server.painters, queue.get, self.server.work.of)
        self.say(HTTPStatus.ACCEPTED, {"name": queue.add(asked, asked.steps).name})

    def _work(self, pixels: int) -> contextlib.AbstractContextManager[None]:
        """Room for work on so many pixels, if somebody still waits for what comes of it."""
        return self.server.work.of(pixels, lambda: is_gone(self.connection))

    def _watch(self, fields: dict[str, str]) -> None:
        drawing, queue = self._find(fields), self.server.queue
        told = {name: getattr(drawing, name) for name in ("state", "done", "steps", "seconds", "error", "shown")}
        kept = drawing.kept
        told |= {"ahead": queue.ahead(drawing), "pictures": len(drawing.pictures)}
        told |= {"labels": list(kept.labels), "condition": bool(kept.condition)} if kept else {}
        self.say(HTTPStatus.OK, {**told, **drawing.asked.told()})

    def _cancel(self, fields: dict[str, str]) -> None:
        self.server.queue.cancel(self._find(fields))
        self.say(HTTPStatus.OK, {})

    def _picture(self, fields: dict[str, str]) -> None:
        drawing, number = self._find(fields), _whole({"number": "0", **fields}, "number")
        files = drawing.pictures
        if number >= len(files):
            raise ValueError(f"there is nothing of this picture yet; it is {drawing.state}")
        self.send(HTTPStatus.OK, files[number], "image/png")

    def _file(self, fields: dict[str, str]) -> None:
        """One of those that a picture was drawn from; or the condition as it is seen."""
        drawing, name = self._find(fields), fields.get("file", "")
        if name == "condition" and drawing.kept and drawing.kept.condition:
            return self.send(HTTPStatus.OK, drawing.kept.condition, "image/png")
        content = drawing.asked.files.get(name)
        if content is None:
            raise ValueError("this picture has no such file")
        kind = "image/png" if name.endswith(".png") else "application/octet-stream"
        self.send(HTTPStatus.OK, content, kind)

    def _find(self, fields: dict[str, str]) -> Drawing:
        drawing = self.server.queue.get(fields.get("name", ""))
        if drawing is None:
            raise ValueError("this picture is not known, or no longer kept")
        return drawing


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
