"""A browser's requests to the page, without a browser."""

import base64
import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

from waiting import until

from taming_jax.page.server import PageServer


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


@contextmanager
def serving(*painters: Any) -> Iterator[PageServer]:
    server = PageServer(list(painters), ("127.0.0.1", 0))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask(page: PageServer, method: str, path: str, body: Any = None, headers: Any = (), **fields: Any) -> Any:
    """(status, body, headers)"""
    connection = http.client.HTTPConnection("127.0.0.1", page.server_address[1], timeout=300)
    connection.request(method, path + ("?" + urlencode(fields) if fields else ""), body, dict(headers))
    answer = connection.getresponse()
    told = answer.status, answer.read(), answer.headers
    connection.close()
    return told


def wanted(**changes: Any) -> bytes:
    """The body of a request for a picture of 16 x 16 on a map of the first label; None takes a field away."""
    fields = {"model": 0, "height": 16, "width": 16, "labels": b64(bytes(256)), "seed": 0, "top_p": 0.9, **changes}
    return json.dumps({name: value for name, value in fields.items() if value is not None}).encode()


def draw(page: PageServer, **changes: Any) -> Any:
    return ask(page, "POST", "/draw", wanted(**changes))


def named(answer: Any) -> str:
    assert answer[0] == 202, answer
    return json.loads(answer[1])["name"]


def told(page: PageServer, name: str) -> dict[str, Any]:
    return json.loads(ask(page, "GET", "/drawing", name=name)[1])


def wait(page: PageServer, name: str, *states: str) -> dict[str, Any]:
    until(lambda: told(page, name)["state"] in states)
    return told(page, name)
