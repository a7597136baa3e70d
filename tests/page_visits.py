"""The page in a real browser without a screen: Chromium, driven by Playwright. Tests that need it are skipped where
there is none."""

import io
import os
import shutil

import numpy as np
import page_models
import pytest
from page_client import serving
from PIL import Image

playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install 'taming-jax[browser]'")
expect = playwright.expect
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
if not CHROMIUM:
    pytest.skip("needs Chromium: apt install chromium-headless-shell, or CHROMIUM=PATH", allow_module_level=True)
KINDS = ("segmentation", "edges", "boxes", "class_label", "depth")
SKY, DUSK, FOREST, WATER = 0, 1, 6, 9
PATIENCE = 60_000  # milliseconds; CI may be busy


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        expect.set_options(timeout=PATIENCE)
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=PATIENCE)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def models():
    return [page_models.painter(kind) for kind in KINDS]


@pytest.fixture
def painters(models):
    return [page_models.Patient(model) for model in models]


@pytest.fixture
def server(painters):
    with serving(*painters) as server:
        yield server


@pytest.fixture
def visit(browser, server):
    """visit(model): the page as a new visitor sees it. No script may fail, and nothing may come from elsewhere."""
    contexts, wrong = [], []

    def visit(kind="segmentation", **options):
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options}))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if "Content Security" in message.text else None)
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        own = (address, f"blob:{address}")
        page.on("request", lambda request: None if request.url.startswith(own) else wrong.append(request.url))
        page.goto(address)
        expect(page.locator("#model option")).to_have_count(len(KINDS))
        if kind != "segmentation":
            page.select_option("#model", label=f"tiny_{kind}")
        else:
            expect(page.locator("#brushes label")).to_have_count(10)
            expect(page.locator("#map")).to_have_js_property("width", 64)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not wrong


def drag(page, selector, start, end):
    """From one place to another, in shares of the element."""
    page.locator(selector).scroll_into_view_if_needed()
    box = page.locator(selector).bounding_box()
    place = lambda share: (box["x"] + share[0] * box["width"], box["y"] + share[1] * box["height"])
    page.mouse.move(*place(start))
    page.mouse.down()
    page.mouse.move(*place(end), steps=5)
    page.mouse.up()


def asked(server):
    """What was asked for last."""
    return list(server.queue._drawings.values())[-1].asked


def file_of(asked, ending):
    (content,) = (content for name, content in asked.files.items() if name.endswith(ending))
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture)


def says(page, text):
    expect(page.locator("#say")).to_contain_text(text)


FIXTURES = browser, models, painters, server, visit  # for a file of tests to have them under the same names
