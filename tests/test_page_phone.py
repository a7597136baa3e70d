"""The page as phones use it, in a real browser: fingers, large photographs, and a proxy that puts a path before it."""

import contextlib
import http.client
import http.server
import itertools
import threading

import numpy as np
import page_visits
import pytest
from page_client import serving
from page_visits import asked, expect, file_of, says
from PIL import Image
from waiting import until

from taming_jax.page import uploads
from taming_jax.page.visitors import Visitors

browser, models, painters, server, visit = page_visits.FIXTURES
PHONE = {"viewport": {"width": 390, "height": 700}, "has_touch": True, "is_mobile": True}


class Fingers:
    """On an element, at places in shares of it; as the browser gets them from a screen."""

    def __init__(self, page, selector):
        page.locator(selector).scroll_into_view_if_needed()
        self.page, self.box = page, page.locator(selector).bounding_box()
        self.session = page.context.new_cdp_session(page)

    def send(self, kind, *places):
        box = self.box
        points = [
            {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"], "id": number}
            for number, (x, y) in enumerate(places)
        ]
        self.session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def move(self, start, end, steps=8):
        """start, end: a place for each finger."""
        self.send("touchStart", *start)
        for step in range(1, steps + 1):
            part = lambda a, b, step=step: a + (b - a) * step / steps
            self.send("touchMove", *((part(a, c), part(b, d)) for (a, b), (c, d) in zip(start, end)))
            self.page.wait_for_timeout(20)
        self.send("touchEnd")


def values(page):
    """The map's colours, (H, W, 4)."""
    pixels = page.locator("#map").evaluate(
        "c => [c.height, c.width, ...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    )
    return np.array(pixels[2:], np.uint8).reshape(pixels[0], pixels[1], 4)


def settled(page, what):
    """A number of the page when it no longer changes."""
    page.wait_for_timeout(300)
    return page.evaluate(what)


def test_one_finger_paints_and_two_scroll_and_zoom(visit):
    page = visit(**PHONE)
    page.get_by_text("water", exact=True).tap()
    fingers = Fingers(page, "#map")
    before = values(page)
    fingers.move([(0.3, 0.9), (0.6, 0.9)], [(0.3, 0.1), (0.6, 0.1)])
    assert settled(page, "scrollY") > 50 and (values(page) == before).all()
    page.evaluate("scrollTo(0, 0)")
    fingers = Fingers(page, "#map")
    fingers.send("touchStart", (0.2, 0.5))  # one after the other: what the first has begun is taken back
    fingers.send("touchMove", (0.5, 0.5))
    assert (settled(page, "0"), (values(page) != before).any()) == (0, True)
    fingers.send("touchStart", (0.5, 0.5), (0.8, 0.5))
    fingers.send("touchEnd", (0.5, 0.5))
    fingers.send("touchMove", (0.9, 0.9))  # it is still one of two
    fingers.send("touchEnd")
    assert (values(page) == before).all()
    fingers.move([(0.2, 0.5)], [(0.8, 0.5)])
    painted = (values(page) != before).any(-1)
    assert painted[:, 16:48].any(0).all() and not painted[:4].any() and settled(page, "scrollY") == 0
    page.get_by_role("button", name="Undo").first.click()  # one stroke is one step; a busy machine may lose a tap
    until(lambda: (values(page) == before).all())
    fingers.move([(0.45, 0.5), (0.55, 0.5)], [(0.3, 0.5), (0.7, 0.5)])
    assert settled(page, "visualViewport.scale") > 1.02 and (values(page) == before).all()


SEND = """([selector, events]) => {
  const canvas = document.querySelector(selector), box = canvas.getBoundingClientRect();
  canvas.setPointerCapture = () => {};
  for (const [kind, pointerId, pointerType, isPrimary, x, y, button] of events)
    canvas.dispatchEvent(new PointerEvent(kind, { pointerId, pointerType, isPrimary, button: button ?? 0, bubbles: true,
      cancelable: true, clientX: box.left + x * box.width, clientY: box.top + y * box.height }));
}"""


def stroke(number, kind, *places, end="pointerup", button=0):
    names = ["pointerdown", *["pointermove"] * (len(places) - 1), end]
    return [[name, number, kind, number == 1, *place, button] for name, place in zip(names, [*places, places[-1]])]


def test_a_pen_a_mouse_and_a_resting_hand(visit):
    page = visit()
    page.get_by_text("water", exact=True).click()
    before = values(page)
    send = lambda *events: page.evaluate(SEND, ["#map", [*itertools.chain(*events)]])
    hand = [["pointerdown", 1, "touch", True, 0.9, 0.9], ["pointermove", 1, "touch", True, 0.9, 0.8]]
    pen = [[name, 7, "pen", True, *place] for name, *place in [("pointerdown", 0.1, 0.1), ("pointermove", 0.5, 0.1)]]
    up = [["pointerup", 7, "pen", True, 0.5, 0.1], ["pointerup", 1, "touch", True, 0.9, 0.8]]
    for events in ([hand, pen, up], [pen, hand, up]):
        send(*events)
        painted = (values(page) != before).any(-1)
        assert painted[3, 7:32].all() and not painted[:, 50:].any()
        page.get_by_role("button", name="Undo").first.click()
        assert (values(page) == before).all()
    send(stroke(1, "mouse", (0.1, 0.5), (0.9, 0.5), button=2))
    send(stroke(1, "touch", (0.1, 0.5), (0.9, 0.5), end="pointercancel"))
    page.evaluate(SEND, ["#map", [["pointermove", 1, "touch", True, 0.5, 0.5]]])
    assert (values(page) == before).all()
    send(stroke(1, "mouse", (0.1, 0.5), (0.9, 0.5)))
    assert (values(page) != before).any()


def test_two_fingers_make_no_box(visit):
    page = visit("boxes", **PHONE)
    fingers = Fingers(page, "#boxes")
    fingers.move([(0.2, 0.2), (0.8, 0.8)], [(0.3, 0.3), (0.7, 0.7)])
    page.wait_for_timeout(200)
    expect(page.locator("#box-list li")).to_have_count(0)
    page.evaluate(SEND, ["#boxes", stroke(1, "touch", (0.1, 0.1), (0.5, 0.5))[:2] + stroke(2, "touch", (0.9, 0.9))])
    expect(page.locator("#box-list li")).to_have_count(0)
    page.reload()
    page.select_option("#model", label="tiny_boxes")
    Fingers(page, "#boxes").move([(0.2, 0.2)], [(0.7, 0.7)])
    expect(page.locator("#box-list li")).to_have_count(1)


def photograph(path, width, height, noise=True, **options):
    """Left half red, right half blue, with noise that makes it large."""
    pixels = np.random.default_rng(0).integers(0, 80 if noise else 1, (height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] += 150
    pixels[:, width // 2 :, 2] += 150
    Image.fromarray(pixels).save(path, **options)
    return path


def sent(server, ending=".png"):
    """The picture that was asked with, (H, W, 3)."""
    return file_of(asked(server), ending)


def draw(page):
    page.click("#draw")
    says(page, "Drawn in")


def red_and_blue(picture):
    middle = picture.shape[1] // 2
    left, right = (part.reshape(-1, 3).mean(0) for part in (picture[:, : middle - 2], picture[:, middle + 2 :]))
    return left[0] > left[2] + 90 and right[2] > right[0] + 90


def test_large_photographs_are_made_smaller_in_the_browser(visit, server, painters, tmp_path):
    page = visit("edges")
    painters[1].go.release(40)
    many = photograph(tmp_path / "many.jpg", 2400, 1800, quality=100, subsampling=0)
    assert many.stat().st_size > uploads.MOST_BYTES
    wide = photograph(tmp_path / "wide.webp", 6200, 4000, noise=False)
    assert uploads.MOST_PIXELS < 6200 * 4000 and wide.stat().st_size < uploads.MOST_BYTES
    exif = Image.Exif()
    exif[0x112] = 6  # as seen it is 4000 wide, 6200 high, red above
    turned = photograph(tmp_path / "turned.jpg", 6200, 4000, noise=False, exif=exif)
    for file, shape in ((many, (1254, 1672)), (wide, (1163, 1803)), (turned, (1803, 1163))):
        page.set_input_files("#upload", file)
        says(page, "Made smaller here")
        width, height = (int(page.locator(f"#size-{side}").input_value()) for side in "wh")
        assert abs(width / height - shape[1] / shape[0]) < 0.02
        draw(page)
        picture = sent(server)
        assert np.allclose(picture.shape, (*shape, 3), atol=1) and red_and_blue(
            picture if file != turned else picture.swapaxes(0, 1)
        )
    small = photograph(tmp_path / "small.jpg", 400, 300)
    page.set_input_files("#upload", small)
    draw(page)
    (content,) = asked(server).files.values()
    assert content == small.read_bytes()  # nothing is done to what is small enough


def test_what_the_server_does_not_read_the_browser_does(visit, server, painters, tmp_path):
    page = visit("edges")
    painters[1].go.release(40)
    photograph(tmp_path / "photo.jpg", 400, 300, noise=False, format="BMP")  # called by a wrong name
    page.set_input_files("#upload", tmp_path / "photo.jpg")
    draw(page)
    assert sent(server).shape == (300, 400, 3) and red_and_blue(sent(server))
    clear = np.zeros((300, 400, 4), np.uint8)  # transparent: white, as in training
    Image.fromarray(clear).save(tmp_path / "clear.gif")
    page.set_input_files("#upload", tmp_path / "clear.gif")
    draw(page)
    assert (sent(server) > 250).all()
    for brand, said in ((b"heic", "HEIC, as iPhones take them"), (b"mif1", "HEIC"), (b"jxl ", "JPEG XL")):
        (tmp_path / "IMG_0001.jpg").write_bytes(b"\0\0\0\x18ftyp" + brand + bytes(1000))
        for selector in ("#upload", "#picture-file"):
            page.set_input_files(selector, tmp_path / "IMG_0001.jpg")
            says(page, f"This file is {said}")
            says(page, "save it as JPEG")
    page.click("#draw")
    says(page, "Choose a file first")


def test_files_of_values_are_sent_as_they_are_or_told(visit, server, painters, tmp_path):
    page = visit("depth")
    painters[4].go.release(40)
    deep = np.arange(48 * 80, dtype=np.uint16).reshape(48, 80) * 16
    Image.fromarray(deep).save(tmp_path / "deep.png")
    page.set_input_files("#upload", tmp_path / "deep.png")
    draw(page)
    assert (file_of(asked(server), ".png") == deep).all() and asked(server).settings.size == (48, 80)
    np.save(tmp_path / "large.npy", np.zeros((2100, 1100), np.float32))
    Image.new("L", (6200, 4000)).save(tmp_path / "wide.png")
    for name, has in (("large.npy", "8.8 MiB"), ("wide.png", "6200 × 4000 pixels")):
        page.set_input_files("#upload", tmp_path / name)
        says(page, has)
        says(page, "A depth map is sent as it is, of at most 8 MiB and 24 megapixels")
    page.select_option("#model", label="tiny_segmentation")
    page.set_input_files("#map-file", tmp_path / "wide.png")
    says(page, "A map of labels is sent as it is")


def test_a_large_photograph_is_completed(visit, server, painters, tmp_path):
    page = visit("class_label")
    painters[3].go.release(40)
    page.select_option("#class", index=1)
    page.set_input_files("#picture-file", photograph(tmp_path / "wide.jpg", 8000, 4000, noise=False))
    expect(page.locator("#editing")).to_be_visible()
    draw(page)
    before, keep = file_of(asked(server), "_before.png"), file_of(asked(server), "_keep.png")
    assert before.shape == (16, 16, 3) and red_and_blue(before[4:12]) and keep[4:12].all() and not keep[:4].any()


@contextlib.contextmanager
def proxy(target, before):
    """Puts a path before everything, which it leaves out of what it passes on; Host is rewritten, as by nginx."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.split("?")[0]
            if path != before and not path.startswith(f"{before}/"):
                return self.send_error(404)
            headers = {**self.headers, "Host": f"localhost:{target}"}
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            way = http.client.HTTPConnection("127.0.0.1", target, timeout=60)
            rest = self.path.removeprefix(before)
            way.request(self.command, rest if rest.startswith("/") else f"/{rest}", body or None, headers)
            answer = way.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            for name in ("Content-Type", "Content-Security-Policy"):
                self.send_header(name, answer.getheader(name, ""))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, *arguments):
            pass

    outer = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    outer.daemon_threads = True
    thread = threading.Thread(target=outer.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield outer.server_address[1]
    finally:
        outer.shutdown()
        thread.join()
        outer.server_close()


@pytest.mark.parametrize("end", ["/", ""])
def test_it_is_drawn_behind_a_proxy_below_a_path(browser, painters, end):
    painters[0].go.release(40)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(painters[0]))
        port = stack.enter_context(proxy(server.server_address[1], "/user/me/proxy/8080"))
        context = stack.enter_context(browser.new_context())
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{port}/user/me/proxy/8080{end}")
        expect(page.locator("#brushes label")).to_have_count(10)
        page.click("#draw")
        says(page, f"start it with --origin=http://127.0.0.1:{port}")
        server.visitors = Visitors("127.0.0.1", [f"http://127.0.0.1:{port}"])
        page.click("#draw")
        says(page, "Drawn in")
        expect(page.locator("#sheet img")).to_have_js_property("naturalWidth", 64)


def test_the_map_to_begin_with_is_the_same_each_time(visit):
    first, second = visit(), visit()
    for page in (first, second):
        expect(page.locator("#undo")).to_be_visible()
        page.wait_for_timeout(500)
    assert (values(first) == values(second)).all() and len(np.unique(values(first).reshape(-1, 4), axis=0)) > 5
    with first.expect_response(lambda answer: "/example" in answer.url):
        first.get_by_role("button", name="Another map").click()
    first.wait_for_timeout(300)
    assert (values(first) != values(second)).any()
