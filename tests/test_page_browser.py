"""The page in a real browser: painting, asking, watching, drawing a part again, and that all of it can be reached."""

import re

import numpy as np
import page_visits
import pytest
from page_client import serving
from page_visits import DUSK, FOREST, PATIENCE, SKY, WATER, asked, drag, expect, file_of, says
from PIL import Image

import taming_jax
from taming_jax.data.demo.landscape_reader import read_labels
from taming_jax.page.painter import Painter

browser, models, painters, server, visit = page_visits.FIXTURES


def test_paint_with_the_mouse_and_see_the_picture_come(visit, server, painters):
    page = visit()
    page.get_by_text("water", exact=True).click()
    drag(page, "#map", (0.1, 0.9), (0.9, 0.9))
    page.get_by_text("Fill areas").click()
    page.get_by_text("clear sky").click()
    page.mouse.click(*(lambda box: (box["x"] + 5, box["y"] + 5))(page.locator("#map").bounding_box()))
    page.fill("#seed", "3")
    page.click("#draw")
    picture = page.locator("#sheet img")
    for part in range(1, 4):  # each is seen before the next is drawn
        painters[0].go.release()
        expect(picture).to_have_attribute("src", re.compile(f"shown={part}$"))
        says(page, "to go")
    assert picture.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [64, 32]
    expect(page.locator("#actions")).to_be_hidden()
    painters[0].go.release()
    says(page, "Drawn in")
    labels = file_of(asked(server), "_map.png")
    assert labels.shape == (32, 64) and (labels[29, 8:56] == WATER).all() and labels[0, 0] == SKY
    assert asked(server).settings.seed == 3 and asked(server).settings.top_p == 0.9
    expect(page.locator("#progress")).to_be_hidden()
    page.get_by_text("The same without the page").click()
    expect(page.locator("#command")).to_contain_text("--config.sample.seed=3")
    with page.expect_download() as saved:
        page.click("#save")
    assert re.fullmatch(r"picture_\w{6}_seed3.png", saved.value.suggested_filename)
    with Image.open(saved.value.path()) as file:
        assert file.format == "PNG" and file.size == (64, 32)
    expect(page.locator("#thumbs img")).to_have_count(1)


def test_a_map_that_comes_late_takes_no_place(visit, server, painters):
    """Neither that of another size, nor that of what has been painted since; each came between a click and the next."""
    page, held = visit(), []
    page.route(re.compile("/example"), lambda route: held.append(route))
    with page.expect_request(re.compile("width=64")):
        page.click("#example")
    with page.expect_request(re.compile("width=32")):
        page.select_option("#size", label="32 × 32")
    page.get_by_text("water", exact=True).click()
    drag(page, "#map", (0.1, 0.9), (0.9, 0.9))
    for late in held:
        with page.expect_response(late.request.url) as answer:
            late.continue_()
        answer.value.finished()
    painters[0].go.release(4)
    page.click("#draw")
    says(page, "Drawn in")
    labels = file_of(asked(server), "_map.png")
    assert labels.shape == (32, 32) and (labels[29, 4:28] == WATER).all()


def test_cancel_and_go_on(visit, server, painters):
    page = visit()
    page.click("#draw")
    says(page, "Getting ready")
    with page.expect_response(re.compile("/cancel")):  # a step that passes before it is heard is still drawn
        page.click("#cancel")
    painters[0].go.release()
    says(page, "Cancelled")
    expect(page.locator("#cancel")).to_be_hidden()
    painters[0].go.release(4)
    page.click("#draw")
    says(page, "Drawn in")


def test_a_bad_file_gets_a_message(visit, server, painters, tmp_path):
    page = visit("edges")
    page.click("#draw")
    says(page, "Choose a file first")
    (tmp_path / "photo.png").write_bytes(b"#!/bin/sh\n")
    page.set_input_files("#upload", tmp_path / "photo.png")
    page.click("#draw")
    says(page, "no picture that is known")
    (tmp_path / "huge.png").write_bytes(bytes(9 << 20))
    page.set_input_files("#upload", tmp_path / "huge.png")
    says(page, "larger than the 8 MiB")
    page.set_input_files("#picture-file", tmp_path / "photo.png")
    says(page, "no picture that the browser can open")
    Image.fromarray(np.zeros((48, 80, 3), np.uint8)).save(tmp_path / "good.png")
    page.set_input_files("#upload", tmp_path / "good.png")
    expect(page.locator("#size-w")).to_have_value("80")
    painters[1].go.release(4)
    page.click("#draw")
    says(page, "Drawn in")
    assert asked(server).settings.size == (48, 80)


def test_two_browsers_and_a_reload(visit, server, painters):
    first, second = visit(), visit()
    first.click("#draw")
    says(first, "Getting ready")
    second.click("#draw")
    says(second, "Waiting; 1 before it")
    first.reload()
    says(first, "Getting ready")
    painters[0].go.release(4)
    says(first, "Drawn in")
    expect(second.locator("#sheet img")).to_have_count(0)
    second.close()  # in the middle of its picture
    painters[0].go.release(4)
    first.fill("#seed", "2")
    first.click("#draw")
    painters[0].go.release(4)
    says(first, "Drawn in")
    expect(first.locator("#thumbs img")).to_have_count(2)  # and not that of the other
    first.reload()
    expect(first.locator("#thumbs img")).to_have_count(2)
    expect(first.locator("#command")).to_contain_text("--config.sample.seed=2")  # the last one is seen again
    first.locator("#thumbs button").last.click()
    expect(first.locator("#command")).to_contain_text("--config.sample.seed=0")


def test_with_the_keyboard_alone(visit, server, painters):
    page = visit()
    page.locator("#map").focus()
    for key in ["0", *["ArrowDown"] * 30, " "]:  # 0 is the tenth
        page.keyboard.press(key)
    expect(page.get_by_label("water")).to_be_checked()
    page.locator("#seed").focus()
    page.keyboard.press("Enter")
    painters[0].go.release(4)
    says(page, "Drawn in")
    assert file_of(asked(server), "_map.png")[31, 32] == WATER
    page.locator("#edit").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#mask")).to_be_focused()
    page.keyboard.press(" ")
    page.locator("#draw").focus()
    page.keyboard.press("Enter")
    painters[0].go.release(4)
    expect(page.locator("#thumbs img")).to_have_count(2)
    keep = file_of(asked(server), "_keep.png")
    assert keep[16, 32] == 0 and keep[0, 0] == 255 and asked(server).ids is not None


def test_redraw_and_extend(visit, server, painters):
    page = visit()
    painters[0].go.release(8)
    page.click("#draw")
    says(page, "Drawn in")
    page.click("#edit")
    drag(page, "#mask", (0.1, 0.1), (0.4, 0.1))
    page.get_by_label("to the left").click()
    expect(page.locator("#size-w")).to_have_value("72")
    page.get_by_role("button", name="Draw the erased part").click()
    expect(page.locator("#thumbs img")).to_have_count(2)
    keep = file_of(asked(server), "_keep.png")
    assert keep.shape == (32, 72) and not keep[:, :8].any() and not keep[3, 16:30].any() and keep[20:, 8:].all()
    expect(page.get_by_role("button", name="Draw", exact=True)).to_be_enabled()


def test_boxes_and_classes(visit, server, painters):
    page = visit("boxes")
    page.select_option("#category", "star")
    drag(page, "#boxes", (0.2, 0.2), (0.6, 0.7))
    page.get_by_role("button", name="Add a box").click()
    page.get_by_label("Width of box 2").fill("20")
    page.get_by_label("Kind of box 2").select_option("disk")
    page.get_by_role("button", name="Add a box").click()
    page.get_by_role("button", name="Remove box 3").click()
    page.fill("#n", "3")
    painters[2].go.release(4)
    page.click("#draw")
    says(page, "Drawn in")
    expect(page.locator("#sheet img")).to_have_count(3)
    text = next(iter(asked(server).files.values())).decode()
    assert re.findall(r'"category": "(\w+)"', text) == ["star", "disk"]
    assert np.allclose([float(x) for x in re.findall(r"[\d.]+", text.split("]")[0])], [0.2, 0.2, 0.4, 0.5], atol=0.01)
    page.select_option("#model", label="tiny_class_label")
    page.select_option("#class", label="lake at dusk")
    painters[3].go.release(4)
    page.click("#draw")
    expect(page.locator("#command")).to_contain_text("lake at dusk")
    page.select_option("#class", label="One of each (18)")
    page.click("#again")  # take its settings
    expect(page.locator("#class option:checked")).to_have_text("lake at dusk")


def test_the_painted_map_is_obeyed(browser):
    """By the model that the package carries, read back from the picture that the page saves."""
    model = taming_jax.load("landscapes")
    with serving(Painter(model, model.saved, "landscapes")) as server, browser.new_context() as context:
        page = context.new_page()
        page.set_default_timeout(3 * PATIENCE)
        page.add_init_script("Math.random = () => 0.5")  # the map to begin with is another each time
        page.goto(f"http://127.0.0.1:{server.server_address[1]}/")
        with page.expect_response(lambda answer: "height=48&width=48" in answer.url):  # a map to begin with
            page.select_option("#size", label="48 × 48")
        page.get_by_text("Fill areas").click()
        page.get_by_text("dusk sky").click()
        for place in range(4):  # whatever is there
            drag(page, "#map", (0.5, 0.1 + 0.25 * place), (0.5, 0.1 + 0.25 * place))
        page.get_by_text("Fill areas").click()
        page.get_by_text("forest", exact=True).click()
        page.locator("#width").fill("60")
        drag(page, "#map", (0.0, 0.9), (1.0, 0.9))
        page.click("#draw")
        expect(page.locator("#actions")).to_be_visible(timeout=3 * PATIENCE)
        with page.expect_download() as saved:
            page.click("#save")
        with Image.open(saved.value.path()) as file:
            read = read_labels(np.asarray(file)[None] / np.float32(127.5) - 1)[0]
        wanted = file_of(asked(server), "_map.png")
        assert {FOREST, DUSK} <= set(np.unique(wanted)) and (read == wanted).mean() > 0.7


UNNAMED = """() => [...document.querySelectorAll("button, a, input, select, canvas, img, pre, progress")].filter(e => {
  const around = e.closest("label")?.textContent, inside = e.querySelector("img")?.alt;
  const texts = [e.getAttribute("aria-label"), e.textContent, inside, around];
  return !e.ariaHidden && !e.hasAttribute("alt") && !texts.some(text => text?.trim());
}).map(e => e.outerHTML)"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_telephone_all_has_a_name_and_fits(visit, painters, scheme):
    page = visit(viewport={"width": 360, "height": 720}, color_scheme=scheme, has_touch=True, is_mobile=True)
    painters[0].go.release(4)
    page.tap("#draw")
    says(page, "Drawn in")
    assert page.evaluate(UNNAMED) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", light))) > 384) == (scheme == "light")
