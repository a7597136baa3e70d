"""What strangers send to the page: requests made up at random, many at once, slowly, and large from few bytes."""

import contextlib
import errno
import io
import json
import logging
import random
import resource
import socket
import struct
import threading
import time
import zlib

import numpy as np
import page_models
import pytest
from page_client import ask, b64, draw, named, serving, wait, wanted
from PIL import Image
from waiting import until

from taming_jax.page import asked, connections, exchange, form
from taming_jax.page.queue import Queue
from taming_jax.page.room import Full, Room
from taming_jax.page.server import MADE_UP, MOST_WORK

SEED = 7
N_HEADS, N_FORMS = 400, 400
SECONDS = 10  # for any answer, on a busy machine


@pytest.fixture(scope="module")
def models():
    kinds = ("segmentation", "edges", "boxes", "class_label", "depth")
    return [page_models.painter(kind) for kind in kinds]


@pytest.fixture
def slow(models):
    return [page_models.Patient(model) for model in models]


@pytest.fixture
def page(slow):
    with serving(*slow) as server:
        yield server


@pytest.fixture(autouse=True)
def quiet(caplog, capfd):
    """Nothing that strangers do is an error of the server."""
    with caplog.at_level(logging.ERROR):
        yield
    assert not caplog.records and "Traceback" not in "".join(capfd.readouterr())


def exchange_of(page, sent, ends=True):
    """What comes back for some bytes."""
    with socket.create_connection(page.server_address[:2], timeout=SECONDS) as client:
        with contextlib.suppress(OSError):  # where it has answered already
            client.sendall(sent)
            if ends:
                client.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while part := client.recv(1 << 16):
                answer += part
    return answer


def status_of(answer):
    return int(answer.split(b" ")[1]) if answer.startswith(b"HTTP/") else None


def is_well(page):
    begun = time.monotonic()
    assert ask(page, "GET", "/about")[0] == 200 and time.monotonic() - begun < SECONDS


PATHS = [
    "/",
    "/about",
    "/example",
    "/drawing",
    "/picture",
    "/file",
    "/draw",
    "/labels",
    "/cancel",
    "/page.js",
    "//page.js",
]
PATHS += [
    "*",
    "http://localhost/about",
    "//[",
    "/[",
    "/%00",
    "/\x80\xff",
    "/about\x00",
    "/..//../etc/passwd",
    "http://[::1/",
    "/?" + "a=1&" * 40,
]
FIELDS = ["name", "height", "width", "seed", "model", "number", "file", "\xff", "a" * 300]
TEXTS = [
    "",
    "0",
    "16",
    "1e400",
    "-1",
    "9" * 400,
    "nan",
    "%ff",
    "%00",
    "\u0661".encode().decode("latin1"),
    "../x",
    "condition",
]
NAMES = [
    "Host",
    "Origin",
    "Sec-Fetch-Site",
    "Sec-Fetch-Mode",
    "Content-Length",
    "Transfer-Encoding",
    "Expect",
    "X" * 200,
    "",
    " ",
    "\x80",
]
VALUES = [
    "localhost",
    "localhost/evil",
    "evil.example",
    "null",
    "same-origin",
    "cross-site",
    "navigate",
    "5",
    "-5",
    "5, 5",
    "9" * 5000,
]
VALUES += ["chunked", "100-continue", "", "\x00", "\xe9" * 300, "[::1", "\t", "a" * 70_000]


def some_head(rng):
    """A request that has much of one, in bytes."""
    query = "&".join(f"{rng.choice(FIELDS)}={rng.choice(TEXTS)}" for _ in range(rng.randrange(5)))
    method = rng.choice(["GET", "GET", "GET", "POST", "POST", "HEAD", "PUT", "get", "", "\x16\x03", "<script>"])
    version = rng.choice(["HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/9.9", "HTTP/1.1.1", "", "HTTP/" + "9" * 300])
    lines = [f"{method} {rng.choice(PATHS)}?{query} {version}"]
    lines += ["Host: localhost"] * rng.choice([0, 1, 1, 1, 1, 2])
    many = rng.choice([0, 0, 1, 2, 3, 120])
    lines += [f"{rng.choice(NAMES)}{rng.choice([':', ': ', '', ' :'])}{rng.choice(VALUES)}" for _ in range(many)]
    rng.shuffle(lines[1:])
    head = (
        rng.choice(["\r\n", "\r\n", "\r\n", "\n", "\r"]).join(lines).encode("latin1") + b"\r\n\r\n" + rng.randbytes(9)
    )
    if rng.random() < 0.2:
        head = bytearray(head)
        for _ in range(rng.randrange(1, 9)):
            head[rng.randrange(len(head))] = rng.randrange(256)
    return bytes(head[: rng.randrange(len(head))] if rng.random() < 0.1 else head)


def test_no_head_breaks_it(page):
    rng, statuses = random.Random(SEED), set()
    for _ in range(N_HEADS):
        sent = some_head(rng)
        status = status_of(exchange_of(page, sent))
        assert status is None or status < 500 or status == 503, sent[:300]
        statuses.add(status)
    assert {200, 400, 404, 405, 431} <= statuses  # else these are not requests of many kinds
    is_well(page)


def some_value(rng, depth=0):
    leaf = [
        None,
        True,
        False,
        0,
        -1,
        1,
        16,
        2**31,
        2**63,
        10**400,
        -(10**400),
        0.5,
        -0.0,
        1e308,
        float("nan"),
        float("inf"),
    ]
    leaf += ["", "1", "any", "\ud800", "\x00", "a" * rng.randrange(2000), b64(rng.randbytes(rng.choice([4, 256])))]
    if depth > 5 or rng.random() < 0.6:
        return rng.choice(leaf)
    inner = [some_value(rng, depth + 1) for _ in range(rng.randrange(5))]
    return inner if rng.random() < 0.5 else dict(zip(["category", "box", "a", "", "is_group_of"], inner))


def some_picture(rng):
    """A PNG that may be damaged."""
    file = io.BytesIO()
    mode = rng.choice(["L", "RGB", "RGBA", "P", "1"])
    Image.new(mode, (rng.choice([1, 16, 32]), 16)).save(file, format=rng.choice(["PNG", "PNG", "WEBP", "BMP"]))
    content = bytearray(file.getvalue())
    for _ in range(rng.choice([0, 0, 1, 5])):
        content[rng.randrange(len(content))] = rng.randrange(256)
    return b64(bytes(content))


KEYS = [
    "model",
    "height",
    "width",
    "class",
    "n",
    "seed",
    "temperature",
    "top_p",
    "top_k",
    "guidance",
    "stride",
    "labels",
]
KEYS += ["redraw", "base", "number", "top", "left", "picture", "upload", "objects"]


def some_form(rng):
    """The body of a request of which a few fields are as they should not be."""
    objects = [{"category": rng.randrange(2), "box": [0, 0, 0.5, 0.5]}]
    fields = json.loads(wanted(model=rng.randrange(5), objects=objects, upload=some_picture(rng)))
    fields["class"] = 0
    if rng.random() < 0.3:
        fields |= {"redraw": b64(bytes(128) + b"\1" * 128), "picture": some_picture(rng)}
    for _ in range(rng.randrange(4)):
        fields[rng.choice(KEYS)] = some_value(rng)
    body = bytearray(json.dumps(fields).encode())
    if rng.random() < 0.2:
        for _ in range(rng.randrange(1, 4)):
            body[rng.randrange(len(body))] = rng.choice(b'"[]{},:\\0\xff')
    return bytes(body)


def test_no_form_breaks_it(page, slow):
    """Nothing is refused but for what it says, and what is taken can be drawn, or says why not."""
    rng, statuses = random.Random(SEED), set()
    for _ in range(N_FORMS):
        body, path = some_form(rng), rng.choice(["/draw", "/draw", "/draw", "/labels"])
        status, answer, _ = ask(page, "POST", path, body)
        assert status < 500 or status == 503, (answer, body[:500])
        assert len(answer) < 2000
        statuses.add((path, status))
        if status == 202:
            ask(page, "POST", "/cancel", b"", name=json.loads(answer)["name"])
            for model in slow:
                model.go.release(1)
    assert {("/draw", 202), ("/draw", 400), ("/labels", 200), ("/labels", 400)} <= statuses
    is_well(page)


@pytest.mark.parametrize("value", [10**400, -(10**400), float("nan"), float("inf"), "1", [1], True, {"a": 1}])
@pytest.mark.parametrize("name", ["temperature", "top_p"])
def test_numbers_that_are_none_are_told(page, name, value):
    status, answer, _ = ask(page, "POST", "/draw", wanted(**{name: value}))
    assert status == 400 and f"{name} must be a number" in json.loads(answer)["error"]


SWELLING = {
    "items": b'{"objects":[' + b"{}," * 1_000_000 + b"{}]}",
    "texts": b"[" + b'"",' * 1_000_000 + b'""]',
    "numbers": b'{"a":' + b"[1" + b",1" * 1_000_000 + b"]}",
    "depth": b'{"a":' * 17 + b"1" + b"}" * 17,
    "a number": b'{"a":0.' + b"1" * 100_000 + b"}",
    "a text that is no file": b'{"category":"' + b"a" * 2000 + b'"}',
    "a text below": b'{"a":{"upload":"' + b"a" * 2000 + b'"}}',
    "a text with escapes": b'{"upload":"' + b"\\n" * 100_000 + b'"}',
    "after a text without end": b'{"upload":"' + b"\\n" * 2000 + b'","a":[' + b"{}," * 100_000 + b"{}]}",
    "another encoding": '{"a":"\u2200","b":[1]}'.encode("utf-16"),
    "spaces": b"{" + b" " * 100_000 + b"}",
}


@pytest.mark.parametrize("what", SWELLING)
def test_what_swells_is_not_parsed(page, what, monkeypatch):
    def parsed(text):
        raise AssertionError("it was parsed")

    if what != "another encoding":
        monkeypatch.setattr(form.json, "loads", parsed)
        with pytest.raises(ValueError, match=r"not JSON.*(more than|no end)"):
            form.Form(SWELLING[what])
        monkeypatch.undo()
    for path in ("/draw", "/labels"):
        status, answer, _ = ask(page, "POST", path, SWELLING[what])
        assert status == 400 and "JSON" in json.loads(answer)["error"]


def test_forms_as_they_are_pass():
    files = {name: "A" * 3_000_000 for name in ("upload", "picture", "labels", "redraw")}
    things = [{"category": 'a "bear" \\ \u2200', "box": [0.1, 0.2, 0.3, 1e-5], "is_group_of": True}] * 300
    body = json.dumps({**files, "objects": things}, ensure_ascii=False, indent=1).encode()
    assert form.Form(body).fields == {**files, "objects": things}


def test_work_waits_for_room_and_no_longer_than_it_is_wanted():
    work = Room(10, 0.3, "busy")
    with work.of(4), work.of(6):
        with pytest.raises(Full, match="busy"):
            work.take(1)
        with pytest.raises(ConnectionAbortedError):
            work.take(1, lambda: True)
    begun = time.monotonic()
    with pytest.raises(Full), work.of(11):  # never
        pass
    assert work.taken == 0 and time.monotonic() - begun < SECONDS
    patient = Room(10, 300, "busy")
    patient.take(10)
    threading.Timer(0.1, patient.give, (10,)).start()
    with patient.of(10):
        assert patient.taken == 10
    assert patient.taken == 0


@pytest.fixture
def busy(page, monkeypatch):
    """Lets no work be done before it is set."""
    go, at_work, most = threading.Event(), [], []
    made = page_models.Patient.example

    def example(self, height, width, seed):
        at_work.append(height * width)
        most.append(sum(at_work))
        assert go.wait(300)
        at_work.remove(height * width)
        return made(self, 16, 16, seed)

    monkeypatch.setattr(page_models.Patient, "example", example)
    monkeypatch.setattr(page.work, "_patience", 1.0)
    yield go, most
    go.set()


def test_maps_that_are_made_up_take_turns_and_others_are_told_to_come_again(page, busy):
    go, most = busy
    answers = []
    ask_one = lambda: answers.append(ask(page, "GET", "/example", height=1024, width=2048, seed=1, model=0))
    threads = [threading.Thread(target=ask_one) for _ in range(12)]
    for thread in threads:
        thread.start()
    until(lambda: len(answers) == 11)
    assert {answer[0] for answer in answers} == {503} and all(int(answer[2]["Retry-After"]) > 0 for answer in answers)
    assert b"busy" in answers[0][1]
    is_well(page)
    go.set()
    for thread in threads:
        thread.join()
    assert sorted(answer[0] for answer in answers) == [200] + [503] * 11
    assert MADE_UP * max(most) <= MOST_WORK and len(most) == 1 and page.work.taken == 0


def test_nothing_is_made_up_for_who_is_gone(page, busy):
    go, most = busy
    line = b"GET /example?height=1024&width=2048&seed=1&model=0 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with socket.create_connection(page.server_address[:2], timeout=SECONDS) as stays:
        stays.sendall(line)
        until(lambda: most)
        for _ in range(20):
            with socket.create_connection(page.server_address[:2], timeout=SECONDS) as client:
                client.sendall(line)
        until(lambda: len(page._connections) == 1)
        go.set()
        assert status_of(stays.recv(100)) == 200
    assert len(most) == 1


def bomb(side):
    """A PNG of few bytes and many pixels."""
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    rows = zlib.compress(bytes((side + 1) * side), 9)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("fields", [{"model": 0}, {"model": 1}, {"model": 0, "redraw": b64(bytes(256))}])
def test_pictures_count_by_their_pixels(fields):
    models = [page_models.painter(kind) for kind in ("segmentation", "edges")]
    taken, name = [], "picture" if "redraw" in fields else "upload"

    @contextlib.contextmanager
    def work(pixels):
        taken.append(pixels)
        raise Full("there is no room")
        yield

    read = (
        asked.read_labels
        if name == "upload" and fields["model"] == 0
        else lambda *given: asked.parse(*given[:2], None, given[2])
    )
    with pytest.raises(Full):
        read(wanted(**fields, **{name: b64(bomb(1000))}), models, work)
    assert taken == [1000 * 1000 + 16 * 16]


def test_heads_and_bodies_have_an_end(page, monkeypatch):
    monkeypatch.setattr(exchange, "HEAD_SECONDS", 1)
    monkeypatch.setattr(exchange, "SECONDS", 1)
    starts = [
        b"",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ",
        b"POST /draw HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n\r\n",
    ]
    for start in starts:
        with socket.create_connection(page.server_address[:2], timeout=0.1) as client:
            client.sendall(start)
            begun, answer = time.monotonic(), None
            while answer is None and time.monotonic() - begun < 3 * SECONDS:
                with contextlib.suppress(TimeoutError, ConnectionError):
                    client.sendall(b"y")
                    answer = client.recv(1000)
                    continue
                with contextlib.suppress(TimeoutError):
                    try:
                        answer = client.recv(1000)
                    except ConnectionError:
                        answer = b""
            assert answer == b""
    long = b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"".join(b"X%d: %s\r\n" % (i, b"y" * 60_000) for i in range(9))
    assert status_of(exchange_of(page, long + b"\r\n", ends=False)) in (431, None)
    assert page.bodies.taken == 0
    is_well(page)


def test_a_body_takes_room_as_it_comes(page):
    """What is promised alone keeps nobody out."""
    start = b"POST /draw HTTP/1.1\r\nHost: localhost\r\nContent-Length: 16000000\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            client = stack.enter_context(socket.create_connection(page.server_address[:2], timeout=SECONDS))
            client.sendall(start + b" " * 100)
        until(lambda: page.bodies.taken == 2000)
        assert ask(page, "POST", "/draw", wanted(temperature="hot"))[0] == 400
    until(lambda: page.bodies.taken == 0)


def test_more_connections_than_there_are_end_the_slowest(page):
    page.most = 20
    with contextlib.ExitStack() as stack:
        clients = []
        for i in range(60):
            clients.append(stack.enter_context(socket.create_connection(page.server_address[:2], timeout=SECONDS)))
            clients[-1].sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
            until(lambda i=i: len(page._connections) == min(i + 1, 20))
        is_well(page)
        assert clients[0].recv(10) == b""
    until(lambda: not page._connections and not page._slow)


def test_where_all_are_worked_for_a_new_one_is_closed(page, busy):
    go, most = busy
    page.most, ending = 1, connections.ENDING
    line = b"GET /example?height=16&width=16&seed=1&model=0 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with contextlib.ExitStack() as stack:
        clients = []
        for i in range(1 + ending):
            clients.append(stack.enter_context(socket.create_connection(page.server_address[:2], timeout=SECONDS)))
            clients[-1].sendall(line)
            until(lambda i=i: len(most) == i + 1)
        assert status_of(exchange_of(page, line)) is None
        go.set()
        assert {status_of(client.recv(100)) for client in clients} == {200}


def test_without_files_for_connections_it_waits(page, monkeypatch):
    calls, accept = [], page.socket.accept

    class Exhausted:
        """A listening socket in a process that has no more files, for a second."""

        def __getattr__(self, name):
            return getattr(real, name)

        def accept(self):
            calls.append(time.monotonic())
            if calls[-1] - calls[0] < 1:
                raise OSError(errno.EMFILE, "Too many open files")
            return accept()

    real = page.socket
    monkeypatch.setattr(page, "socket", Exhausted())
    is_well(page)
    assert len(calls) < 30


def test_connections_fit_into_the_files_of_the_process(monkeypatch):
    for soft, most in ((1024, connections.MOST), (200, 120), (20, connections.ENDING), (-1, connections.MOST)):
        monkeypatch.setattr(resource, "getrlimit", lambda which, soft=soft: (soft, soft))
        assert connections.most_connections() == most


def test_files_of_what_is_not_drawn_are_not_kept(page, slow):
    name, junk = None, np.random.default_rng(SEED).bytes(100_000)
    file = io.BytesIO()
    Image.frombytes("L", (100, 1000), junk).save(file, format="PNG")
    for _ in range(12):
        name = named(draw(page, model=1, upload=b64(file.getvalue())))
        assert ask(page, "POST", "/cancel", b"", name=name)[0] == 200
        slow[1].go.release(1)
        wait(page, name, "cancelled")
    assert page.queue.get(name).bytes == 0
    slow[1].go.release(8)
    drawn = named(draw(page, model=1, upload=b64(file.getvalue())))
    wait(page, drawn, "done")
    assert page.queue.get(drawn).bytes > 100_000
    (sent,) = json.loads(ask(page, "GET", "/drawing", name=drawn)[1])["files"]
    assert ask(page, "GET", "/file", name=drawn, file=sent)[1] == file.getvalue()


def test_files_count_among_what_is_kept():
    class Given:
        bytes = 60

    queue = Queue(lambda asked, progress, show: ([b"x" * 10], None), kept_bytes=200)
    drawings = [queue.add(Given(), 1) for _ in range(4)]
    until(lambda: all(drawing.over for drawing in drawings))
    queue.add(Given(), 1)
    assert [bool(queue.get(drawing.name)) for drawing in drawings] == [False, False, True, True]


def test_an_error_of_ours_is_told_in_a_line(page, monkeypatch, caplog):
    def example(self, height, width, seed):
        raise RuntimeError("a secret\nof two lines")

    monkeypatch.setattr(page_models.Patient, "example", example)
    status, answer, _ = ask(page, "GET", "/example", height=16, width=16, seed=1, model=0)
    assert status == 500 and b"secret" not in answer and json.loads(answer)["error"].startswith("RuntimeError")
    (record,) = caplog.records
    assert "a secret" in record.getMessage() and "\n" not in record.getMessage() and not record.exc_info
    caplog.clear()
    is_well(page)


@pytest.mark.parametrize("site", ["cross-site", "same-site", "Cross-Site"])
def test_pages_of_elsewhere_get_nothing(page, site):
    """But for who follows a link to the page."""
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}
    routes = [("GET", path) for path in (*page.static, "/about", "/example", "/drawing", "/picture", "/file")]
    for method, path in [*routes, ("POST", "/draw"), ("POST", "/labels"), ("POST", "/cancel")]:
        status, answer, told = ask(page, method, path, b"" if method == "POST" else None, headers.items())
        assert status == 400 and site.lower().encode() in answer
        assert told["Cross-Origin-Resource-Policy"] == "same-origin"
    navigates = {**headers, "Sec-Fetch-Mode": "navigate"}
    assert ask(page, "GET", "/", headers=navigates.items())[0] == 200
    origin = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors", "Origin": "http://of.the.proxy.example"}
    assert ask(page, "GET", "/page.js", headers=origin.items())[0] == 200  # so that the page can say what is wrong
    twice = b"GET /about HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: none\r\nSec-Fetch-Site: cross-site\r\n\r\n"
    assert status_of(exchange_of(page, twice)) == 400


def test_two_slashes_are_no_one(page):
    assert status_of(exchange_of(page, b"GET //page.js HTTP/1.1\r\nHost: localhost\r\n\r\n")) == 404
    refused = exchange_of(page, b"PUT /about HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert status_of(refused) == 405 and b"Content-Security-Policy" in refused


def test_honest_ones_are_answered_among_many(page):
    """300 at once, of whom none is sent away."""
    begun, answers = time.monotonic(), []
    threads = [threading.Thread(target=lambda: answers.append(ask(page, "GET", "/about")[0])) for _ in range(300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 300 and time.monotonic() - begun < 6 * SECONDS
