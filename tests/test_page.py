"""The painting page: its queue, its requests, and what it refuses."""

import dataclasses
import http.client
import io
import json
import socket
import threading
import time
from urllib.parse import urlencode

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny import TINY

from taming_jax.conditioning import StageCondition
from taming_jax.data.demo import landscape_kinds
from taming_jax.models.gpt import GPT, GPTConfig
from taming_jax.models.vqgan import VQGAN
from taming_jax.page import painter as painting
from taming_jax.page.painter import Painter
from taming_jax.page.queue import Full, Queue
from taming_jax.page.server import PageServer
from taming_jax.sharding import MeshConfig, make_mesh
from taming_jax.trained.first_stage import FirstStage
from taming_jax.trained.generator import Generator
from taming_jax.two_stage import TwoStage

CONFIG = {"data": {"source": "landscapes"}}


@pytest.fixture(scope="module")
def generator():
    """An untrained one that draws 16 pixels in grids of 8 x 8 on maps of the landscapes' labels."""
    first = VQGAN(TINY)
    second = VQGAN(dataclasses.replace(TINY, content="segmentation", in_channels=10, out_channels=10))
    gpt = GPT(GPTConfig(vocab_size=20, block_size=127, n_layer=1, n_head=2, n_embd=16))
    model = TwoStage(first, gpt, StageCondition("segmentation", second, True, 16), (8, 8))
    init = lambda network, *x: jax.jit(network.init)(jax.random.key(0), *x)["params"]
    mesh = make_mesh(MeshConfig())
    stages = [
        FirstStage(net, init(net, jnp.zeros((1, 16, 16, net.config.in_channels))), mesh) for net in (first, second)
    ]
    return Generator(model, init(gpt, jnp.zeros((1, 2), jnp.int32)), *stages)


@pytest.fixture(scope="module")
def painter(generator):
    return Painter(generator, CONFIG)


class Slow(Painter):
    """Draws nothing, in as many steps as are let pass."""

    def __init__(self, painter):
        self.__dict__ |= vars(painter)
        self.go, self.drawn = threading.Semaphore(0), []

    def steps(self, asked):
        return 3

    def draw(self, asked, progress, show):
        for i in range(3):
            self.go.acquire()
            progress(1)
            show(b"part %d" % i)
        if asked.seed == 13:
            raise ValueError("13 is refused")
        if asked.seed == 14:
            raise RuntimeError("a secret of the machine")
        self.drawn.append(asked.seed)
        return b"picture %d" % asked.seed


@pytest.fixture
def slow(painter):
    return Slow(painter)


@pytest.fixture
def page(slow):
    server = PageServer(slow, ("127.0.0.1", 0))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def ask(page, method, path, body=None, headers=(), **fields):
    """(status, body, headers)"""
    connection = http.client.HTTPConnection("127.0.0.1", page.server_address[1], timeout=20)
    connection.request(method, path + ("?" + urlencode(fields) if fields else ""), body, dict(headers))
    answer = connection.getresponse()
    told = answer.status, answer.read(), answer.headers
    connection.close()
    return told


def draw(page, seed=0, body=bytes(256), **fields):
    sizes = {"height": 16, "width": 16, "seed": seed, "temperature": 1, "top_p": 0.9}
    return ask(page, "POST", "/draw", body, **sizes | fields)


def told(page, name):
    return json.loads(ask(page, "GET", "/drawing", name=name)[1])


def wait(page, name, state):
    for _ in range(400):
        if told(page, name)["state"] == state:
            return told(page, name)
        time.sleep(0.01)
    raise AssertionError(f"it stays {told(page, name)}")


def named(answer):
    assert answer[0] == 202, answer
    return json.loads(answer[1])["name"]


def test_what_is_painted_is_drawn(painter):
    labels = painter.example(16, 32, seed=3)
    assert labels.shape == (16, 32) and labels.dtype == np.uint8 and len(np.unique(labels)) > 1
    asked, steps = painter.ask(labels.tobytes(), 16, 32, 5, 1.0, 0.9), []
    np.testing.assert_array_equal(asked.labels, labels)
    with Image.open(io.BytesIO(painter.draw(asked, steps.append, lambda png: None))) as picture:
        assert picture.size == (32, 16) and picture.format == "PNG"
        drawn = np.asarray(picture)
    assert sum(steps) == painter.steps(asked)
    images = painter.generator.sample(1, segmentation=labels.astype(np.int32), seed=5, temperature=1.0, top_p=0.9)
    np.testing.assert_array_equal(drawn, np.round((np.clip(images[0], -1, 1) + 1) * 127.5).astype(np.uint8))


def test_the_picture_is_shown_while_it_is_drawn(painter, monkeypatch):
    """From above, on the map's colours, and what is drawn stays."""
    monkeypatch.setattr(painting, "PAUSE", 0.0)
    monkeypatch.setattr(painting, "REST", 0.0)
    labels = np.full((32, 32), 7, np.uint8)
    files = []
    last = painter.draw(painter.ask(labels.tobytes(), 32, 32, 0, 1.0, 1.0), lambda steps: None, files.append)
    parts = [np.asarray(Image.open(io.BytesIO(file))) for file in (*files, last)]
    meadow = landscape_kinds.PALETTE[7]
    undrawn = [float(np.mean((part == meadow).all(-1))) for part in parts]
    assert len(parts) > 3 and undrawn[0] > 0.5 and undrawn[-1] < 0.1 and undrawn == sorted(undrawn, reverse=True)
    first_row = (parts[len(parts) // 2][-1] == meadow).all(), (parts[len(parts) // 2][0] == meadow).all()
    assert first_row == (True, False)


def test_a_drawing_can_be_stopped_in_the_middle(painter):
    class Stop(Exception):
        pass

    def progress(steps):
        raise Stop

    with pytest.raises(Stop):
        painter.draw(painter.ask(bytes(16 * 32), 16, 32, 0, 1.0, 1.0), progress, None)


def test_the_painter_knows_its_labels(painter, generator):
    about = painter.about()
    assert [label["name"] for label in about["labels"]] == list(landscape_kinds.LABELS)
    assert about["labels"][7]["colour"] == landscape_kinds.PALETTE[7].tolist()
    assert about["factor"] == 2 and about["sides"] == (16, 16)
    other = Painter(generator, {"data": {"source": "ade20k"}})
    assert other.names[9] == "label 9" and other.colours.shape == (10, 3) and not other.example(16, 16, 1).any()


def test_only_generators_on_label_maps_will_do(generator):
    with pytest.raises(ValueError, match="does not draw on label maps"):
        Painter(generator.first_stage, CONFIG)


def test_the_page_and_what_it_asks_first(page):
    status, body, headers = ask(page, "GET", "/")
    assert status == 200 and b"<canvas" in body and headers["Content-Type"].startswith("text/html")
    assert "default-src 'self'" in headers["Content-Security-Policy"] and headers["X-Content-Type-Options"] == "nosniff"
    assert b"http://" not in body and b"https://" not in body  # nothing is fetched from elsewhere
    about = json.loads(ask(page, "GET", "/about")[1])
    assert len(about["labels"]) == 10
    status, body, _ = ask(page, "GET", "/example", height=16, width=24, seed=4)
    assert status == 200 and len(body) == 16 * 24 and max(body) < 10


def test_a_picture_from_asking_to_fetching(page, slow):
    name = named(draw(page, seed=7))
    assert ask(page, "GET", "/picture", name=name)[0] == 400
    slow.go.release()
    while (now := told(page, name))["done"] < 1:
        time.sleep(0.01)
    assert now["state"] == "drawing" and now["steps"] == 3 and now["ahead"] == 0
    while told(page, name)["shown"] < 1:
        time.sleep(0.01)
    assert ask(page, "GET", "/picture", name=name)[:2] == (200, b"part 0")
    slow.go.release(2)
    assert wait(page, name, "done")["shown"] == 4
    status, body, headers = ask(page, "GET", "/picture", name=name)
    assert (status, body, headers["Content-Type"]) == (200, b"picture 7", "image/png")


def test_one_after_another_with_those_that_are_not_wanted_left_out(page, slow):
    names = [named(draw(page, seed=seed)) for seed in (1, 2, 3)]
    wait(page, names[0], "drawing")
    assert [told(page, name)["ahead"] for name in names] == [0, 1, 2]
    assert ask(page, "POST", "/cancel", b"", name=names[1])[0] == 200
    assert told(page, names[1])["state"] == "cancelled" and told(page, names[2])["ahead"] == 1
    assert ask(page, "POST", "/cancel", b"", name=names[0])[0] == 200
    slow.go.release()
    wait(page, names[0], "cancelled")
    slow.go.release(3)
    wait(page, names[2], "done")
    assert slow.drawn == [3]


def test_what_cannot_be_drawn_is_told_and_the_next_is_drawn(page, slow):
    slow.go.release(9)
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
    slow.go.release(30)
    for name in [named(answer) for answer in answers if answer[0] == 202]:
        wait(page, name, "done")
    slow.go.release(3)
    wait(page, named(draw(page, seed=99)), "done")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"body": bytes(255)}, "255 bytes are no map of 16 x 16"),
        ({"body": b"\x0a" * 256}, "label 10 is not one of the 10"),
        ({"height": 17}, "multiples of 2"),
        ({"height": 8, "width": 32}, "at least 16"),
        ({"height": 100000, "width": 100000}, "are more than"),
        ({"height": -16}, "height must be a whole number"),
        ({"height": "1e9"}, "height must be a whole number"),
        ({"seed": "../../etc/passwd"}, "seed must be a whole number"),
        ({"temperature": "nan"}, "temperature from 0 to 2"),
        ({"temperature": "hot"}, "temperature must be a number"),
        ({"top_p": 0}, "top_p above 0"),
    ],
)
def test_bad_maps_and_settings_are_refused(page, changes, message):
    status, body, _ = draw(page, **changes)
    assert status == 400 and message in json.loads(body)["error"]


@pytest.mark.parametrize(
    "path", ["/../../etc/passwd", "/page.html", "//etc/passwd", "/%2e%2e/server.py", "/draw", "/x"]
)
def test_there_is_nothing_but_the_page(page, path):
    assert ask(page, "GET", path)[0] == 404


@pytest.mark.parametrize("name", ["", "0", "../x", "0" * 16])
def test_unknown_pictures(page, name):
    for method, path in (("GET", "/drawing"), ("GET", "/picture"), ("POST", "/cancel")):
        assert ask(page, method, path, b"" if method == "POST" else None, name=name)[0] == 400


def test_too_much_is_not_even_read(page):
    with socket.create_connection(page.server_address[:2], timeout=20) as client:
        client.sendall(b"POST /draw HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n")
        assert b"400" in client.recv(4096).split(b"\r\n")[0]
    with socket.create_connection(page.server_address[:2], timeout=20) as client:
        client.sendall(b"POST /draw?height=16&width=16 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 256\r\n\r\n123")
    assert ask(page, "GET", "/about")[0] == 200  # one that goes away in the middle ends nothing


def test_other_pages_cannot_use_it(page):
    host = f"localhost:{page.server_address[1]}"
    assert ask(page, "GET", "/about", headers={"Host": host, "Origin": f"http://{host}"}.items())[0] == 200
    assert ask(page, "GET", "/about", headers={"Host": "evil.example"}.items())[0] == 400
    assert ask(page, "GET", "/about", headers={"Host": host, "Origin": "http://evil.example"}.items())[0] == 400


def test_old_pictures_are_forgotten():
    queue = Queue(lambda asked, progress, show: asked, waiting=50, kept=3)
    drawings = []
    for i in range(8):
        drawings.append(queue.add(b"%d" % i, 1))
        while not drawings[-1].over:
            time.sleep(0.005)
    assert [queue.get(drawing.name) is None for drawing in drawings] == [True] * 4 + [False] * 4
    assert drawings[-1].png == b"7"


def test_the_queue_is_bounded():
    go = threading.Event()
    queue = Queue(lambda asked, progress, show: b"%d" % go.wait(20), waiting=2)
    first = queue.add(0, 1)
    while first.state == "waiting":
        time.sleep(0.005)
    queue.add(1, 1), queue.add(2, 1)
    with pytest.raises(Full, match="2 pictures are waiting"):
        queue.add(3, 1)
    go.set()


def test_the_least_size_is_that_of_training(painter):
    with pytest.raises(ValueError, match="at least 16 and 16"):
        painter.check_size(14, 64)
    assert painting.MOST_PIXELS >= 2048 * 512
