"""The page over HTTP: asking, watching, cancelling, and what it refuses, without harm to the next request."""

import io
import json
import os
import socket
import struct
import threading
import time
import zlib

import numpy as np
import page_models
import pytest
from page_client import ask, b64, draw, named, serving, told, wait, wanted
from PIL import Image
from waiting import until

from taming_jax.page.room import Full


@pytest.fixture(scope="module")
def models():
    return page_models.painter("segmentation"), page_models.painter("edges")


@pytest.fixture
def slow(models):
    return page_models.Patient(models[0])


@pytest.fixture
def page(slow, models):
    with serving(slow, models[1]) as server:
        yield server


def error(answer, status=400):
    assert answer[0] == status, answer
    return json.loads(answer[1])["error"]


def seen(page, name, number=0):
    with Image.open(io.BytesIO(ask(page, "GET", "/picture", name=name, number=number)[1])) as picture:
        return np.asarray(picture)


def test_the_page_and_what_it_asks_first(page):
    for path, kind in (("/", "text/html"), ("/page.js", "text/javascript"), ("/page.css", "text/css")):
        status, body, headers = ask(page, "GET", path)
        assert status == 200 and headers["Content-Type"].startswith(kind)
        assert headers["Content-Security-Policy"].startswith("default-src 'self';")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert b"http://" not in body and b"https://" not in body  # nothing is fetched from elsewhere
    about = json.loads(ask(page, "GET", "/about")[1])
    assert [model["kind"] for model in about["models"]] == ["segmentation", "edges"]
    status, body, _ = ask(page, "GET", "/example", height=16, width=24, seed=4, model=0)
    assert status == 200 and len(body) == 16 * 24 and max(body) < 10


def test_a_picture_from_asking_to_fetching(page, slow):
    name = named(draw(page, seed=3))
    assert "nothing of this picture yet" in error(ask(page, "GET", "/picture", name=name))
    slow.go.release()
    until(lambda: told(page, name)["shown"])
    now = told(page, name)
    assert now["state"] == "drawing" and now["steps"] == 64 and now["done"] == 16 and now["ahead"] == 0
    part = seen(page, name)
    assert (part[:4] == [120, 90, 0]).all() and (part[4:] == 128).all()
    slow.go.release(3)
    now = wait(page, name, "done")
    assert now["shown"] == 5 and now["pictures"] == 1 and now["seed"] == 3 and "sample.py" in now["command"]
    assert (seen(page, name) == [120, 200, 40]).all()
    (file,) = now["files"]
    status, body, headers = ask(page, "GET", "/file", name=name, file=file)
    assert status == 200 and headers["Content-Type"] == "image/png" and body.startswith(b"\x89PNG")


def test_one_after_another_with_those_that_are_not_wanted_left_out(page, slow):
    names = [named(draw(page, seed=seed)) for seed in (1, 2, 3)]
    wait(page, names[0], "drawing")
    assert [told(page, name)["ahead"] for name in names] == [0, 1, 2]
    assert ask(page, "POST", "/cancel", b"", name=names[1])[0] == 200
    assert told(page, names[1])["state"] == "cancelled" and told(page, names[2])["ahead"] == 1
    assert ask(page, "POST", "/cancel", b"", name=names[0])[0] == 200
    slow.go.release()
    wait(page, names[0], "cancelled")
    slow.go.release(4)
    wait(page, names[2], "done")
    assert slow.drawn == [3]


def test_what_cannot_be_drawn_is_told_and_the_next_is_drawn(page, slow):
    slow.go.release(12)
    names = [named(draw(page, seed=seed)) for seed in (13, 14, 15)]
    wait(page, names[2], "done")
    first, second = (told(page, name) for name in names[:2])
    assert (first["state"], first["error"]) == ("failed", "13 is refused")
    assert second["state"] == "failed" and "RuntimeError" in second["error"] and "secret" not in second["error"]


def test_fifty_at_once_and_the_queue_goes_on(page, slow):
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(draw(page))) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statuses = sorted(answer[0] for answer in answers)
    assert len(statuses) == 50 and set(statuses) == {202, 503} and 8 <= statuses.count(202) <= 9
    assert b"waiting already" in next(answer[1] for answer in answers if answer[0] == 503)
    slow.go.release(40)
    for name in [named(answer) for answer in answers if answer[0] == 202]:
        wait(page, name, "done")
    slow.go.release(4)
    wait(page, named(draw(page, seed=99)), "done")


def test_who_asked_goes_away_and_the_queue_goes_on(page, slow):
    """In the middle of sending, of a picture that is drawn, and of fetching it."""
    address = page.server_address[:2]
    body = wanted(seed=1)
    start = b"POST /draw HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection(address, timeout=300) as client:
        client.sendall(start + body[: len(body) // 2])
    with socket.create_connection(address, timeout=300) as client:
        client.sendall(start + body)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, as of a killed one
    until(lambda: page.queue._drawings)
    (name,) = page.queue._drawings
    slow.go.release(4)
    wait(page, name, "done")
    for _ in range(3):
        with socket.create_connection(address, timeout=300) as client:
            client.sendall(b"GET /picture?name=%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % name.encode())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    slow.go.release(4)
    wait(page, named(draw(page, seed=2)), "done")
    assert slow.drawn == [1, 2] and page.bodies.taken == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": b64(bytes(255))}, "255 bytes are no map of 16 x 16"),
        ({"labels": b64(b"\x0a" * 256)}, "10 is not one of the 10"),
        ({"labels": "-" * 344}, "labels is not in base64"),
        ({"labels": None}, "labels is missing"),
        ({"labels": {"$ref": "/etc/passwd"}}, "labels is missing"),
        ({"labels": "A" * 3_000_000}, "labels is larger than"),
        ({"height": 17}, "multiples of 2"),
        ({"height": 8, "width": 32}, "at least 16"),
        ({"height": 100000, "width": 100000}, "are more than"),
        ({"height": -16}, "height must be a whole number"),
        ({"height": 1e9}, "height must be a whole number"),
        ({"height": True}, "height must be a whole number"),
        ({"seed": "../../etc/passwd"}, "seed must be a whole number"),
        ({"seed": 2**31}, "seed must be a whole number"),
        ({"temperature": float("nan")}, "temperature must be a number"),
        ({"temperature": "hot"}, "temperature must be a number"),
        ({"top_p": 0}, "top_p=0"),
        ({"top_k": 0}, "top_k must be a whole number"),
        ({"n": 10**9}, "n must be a whole number"),
        ({"model": 2}, "model must be a whole number from 0 to 1"),
        ({"model": -1}, "model must be a whole number"),
        ({"stride": 0}, "stride must be"),
        ({"stride": 9, "height": 32, "labels": b64(bytes(512))}, "stride"),
    ],
)
def test_bad_maps_and_settings_are_refused(page, changes, message):
    assert message in error(draw(page, **changes))


def png_of(width, height):
    """The beginning of a PNG that says how large it is; a few bytes."""
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


BAD_FILES = {
    "100 megapixels": (png_of(10000, 10000), "10000 x 10000 pixels, more than"),
    "a false size": (png_of(64, 64), ""),
    "a script": (b"#!/bin/sh\nrm -rf /\n", "no picture that is known; expected .jpg, .png, .webp"),
    "a vector drawing": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no picture that is known"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture that is known"),
    "a pickle": (b"\x80\x04\x95\x1f\x00", "no picture that is known"),
    "a TIFF": (b"II*\0\x08\0\0\0", "this picture cannot be used"),
    "a web page": (b"<!doctype html><title>404</title>", "(it is an HTML page, no picture: "),
    "an array of objects": (b"\x93NUMPY\x01\0v\0{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n", ".npy"),
    "nothing": (b"", "no picture that is known"),
    "a cut one": (png_of(16, 16)[:40], ""),
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_files_of_wrong_kinds_are_refused(page, what):
    file, message = BAD_FILES[what]
    begun = time.monotonic()
    told = error(draw(page, model=1, upload=b64(file)))
    assert message in told and len(told) < 400 and "/tmp" not in told and time.monotonic() - begun < 10
    assert error(ask(page, "POST", "/labels", wanted(upload=b64(file))))


def test_files_that_are_too_large_are_refused(page):
    assert "larger than the 8 MiB" in error(draw(page, model=1, upload="A" * (12 << 20)))


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"9" * 10_000]
)
def test_what_is_no_form_is_refused(page, body):
    for path in ("/draw", "/labels"):
        assert "JSON" in error(ask(page, "POST", path, body))


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/page.html",
        "//etc/passwd",
        "/%2e%2e/server.py",
        "/static/page.js",
        "/draw",
        "/x",
        "/page.js/",
    ],
)
def test_there_is_nothing_but_the_page(page, path):
    assert ask(page, "GET", path)[0] == 404


@pytest.mark.parametrize("name", ["", "0", "../x", "0" * 16])
def test_unknown_pictures(page, slow, name):
    for method, path in (("GET", "/drawing"), ("GET", "/picture"), ("GET", "/file"), ("POST", "/cancel")):
        assert "not known" in error(ask(page, method, path, b"" if method == "POST" else None, name=name))
    slow.go.release(4)
    there = named(draw(page))
    wait(page, there, "done")
    for file in ("", "/etc/passwd", "../../etc/passwd", "condition", f"{name}.png"):
        assert "no such file" in error(ask(page, "GET", "/file", name=there, file=file))
    assert error(ask(page, "GET", "/picture", name=there, number=1))
    assert error(ask(page, "GET", "/picture", name=there, number="-1"))


def test_nothing_is_left_behind(page, models, tmp_path, monkeypatch):
    """Files that were sent lie in a folder of their own while they are read, and nowhere afterwards."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    photo = io.BytesIO()
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(photo, format="PNG")
    name = named(draw(page, model=1, upload=b64(photo.getvalue())))
    error(draw(page, model=1, upload=b64(png_of(64, 64))))
    until(lambda: os.listdir(tmp_path))
    (folder,) = os.listdir(tmp_path)
    assert folder.startswith("taming_jax_page_")
    ask(page, "POST", "/cancel", b"", name=name)
    wait(page, name, "cancelled")
    assert not os.listdir(tmp_path)


def test_too_much_is_not_even_read(page):
    with socket.create_connection(page.server_address[:2], timeout=300) as client:
        client.sendall(b"POST /draw HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n")
        assert b"400" in client.recv(4096).split(b"\r\n")[0]
    with pytest.raises(Full, match="too much is being sent at once"), page.bodies.of(100 << 20):
        page.bodies.take(100 << 20)
    assert page.bodies.taken == 0 and ask(page, "GET", "/about")[0] == 200


def test_other_pages_cannot_use_it(page):
    host = f"localhost:{page.server_address[1]}"
    assert ask(page, "GET", "/about", headers={"Host": host, "Origin": f"http://{host}"}.items())[0] == 200
    assert ask(page, "GET", "/about", headers={"Host": "evil.example"}.items())[0] == 400
    assert ask(page, "GET", "/about", headers={"Host": host, "Origin": "http://evil.example"}.items())[0] == 400
