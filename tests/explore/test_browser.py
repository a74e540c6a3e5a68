"""The explorer in a real browser: pick, patch, copy the line, which makes the image seen."""

import base64
import io
import threading
import time

import numpy as np
import pytest
from PIL import Image
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.keys import Keys

import interp as ip
from interp.explore.explorer import Explorer
from interp.explore.server import serve
from interp.metrics import SSIM
from interp.report.cases import Case
from interp.report.measures import Measures
from tests.browsing import browser, complaints, requests, resize
from tests.pipelines import pipeline

pytestmark = pytest.mark.slow

HOSTILE = "<img src=x onerror='document.title=\"owned\"'></script>${7*7}{{7*7}} \u202e\"'\\"
STEPS = 4


@pytest.fixture(scope="module")
def sd():
    return ip.Session(pipeline("sd1"), steps=STEPS)


@pytest.fixture(scope="module")
def server(sd):
    picture = Image.new("RGB", (sd.width, sd.height), "orange")
    cases = [Case("wow, an antique church poster!", "memorized", "a", picture, 1000)]
    cases += [Case(HOSTILE, "control", "b", picture, 1), Case("a goat", "held_out", "c", None, 0)]
    with serve(Explorer(sd, cases, Measures(SSIM(), None, 0.5))) as served:
        thread = threading.Thread(target=served.serve_forever, args=(0.05,))
        thread.start()
        yield served
        served.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def chrome():
    with browser() as found:
        yield found


@pytest.fixture
def page(chrome, server):
    resize(chrome, 1280)
    chrome.get(server.address)
    drawn(chrome)
    return chrome


def status(chrome):
    return chrome.execute_script("return document.querySelector('.status')?.textContent ?? ''")


def until(found, what, seconds=60):
    """Wait for something to be so."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if found():
                return
        except WebDriverException:
            pass  # not there yet, or made anew meanwhile
        time.sleep(0.02)
    raise AssertionError(what)


def drawn(chrome):
    until(lambda: status(chrome).startswith("Drawn"), f"not drawn: {status(chrome)}")


def act(chrome, script, *values):
    """Do something on the page, and wait until it is answered."""
    chrome.execute_script("document.querySelector('.status').textContent = ''")
    chrome.execute_script(script, *values)
    drawn(chrome)


def one(chrome, selector):
    return chrome.find_element("css selector", selector)


def click(chrome, selector):
    act(chrome, "document.querySelector(arguments[0]).click()", selector)


def choose(chrome, selector, value):
    script = (
        "const found = document.querySelector(arguments[0]); found.value = arguments[1];"
        "found.dispatchEvent(new Event(found.matches('select') ? 'change' : 'input'))"
    )
    act(chrome, script, selector, value)


def image(chrome, name):
    source = one(chrome, f"figure.{name} img").get_attribute("src")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))


def copied(chrome, sd):
    """The image that the line makes which the page's button copies."""
    chrome.execute_cdp_cmd(
        "Browser.grantPermissions",
        {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]},
    )
    one(chrome, ".python button").click()
    until(lambda: one(chrome, ".python button").text == "copied", "not copied")
    said = chrome.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
    return np.asarray(eval(said, {"ip": ip, "sd": ip.Session(sd.pipe, steps=sd.steps)}))


def test_pick_patch_see_another_image_and_copy_the_line(page, sd):
    assert page.find_elements("css selector", "figure.with") == []
    assert (image(page, "without") == copied(page, sd)).all()
    choose(page, ".ask select", "2")
    assert one(page, "textarea").get_property("value") == "a goat"
    assert page.find_elements("css selector", "figure.training") == []
    click(page, ".token.pad")
    assert (image(page, "with") != image(page, "without")).any()
    assert (image(page, "with") == copied(page, sd)).all()
    choose(page, ".patch select", "mask")
    click(page, "[data-name='prompt']")
    page.execute_script("document.querySelector('.patch details').open = true")
    click(page, "[aria-label='mid.0 head 1']")
    choose(page, ".ends input", "2")
    choose(page, ".ask input", "11")
    said = one(page, ".python code").text
    assert "mask(('prompt', 'pad')" in said
    assert "'mid.0': (0,)" in said
    assert f"range(2, {STEPS})" in said
    assert "seeds=[11]" in said
    assert (image(page, "with") == copied(page, sd)).all()


def test_an_error_is_said_and_the_next_choice_is_drawn(page):
    page.execute_script("document.querySelector('.category.eot').click()")
    drawn(page)
    page.execute_script("document.querySelector('[aria-label=\"no layers\"]').click()")
    until(lambda: "at least one" in status(page), "no error")
    assert one(page, ".status.wrong").is_displayed()
    click(page, "[aria-label='all layers']")
    assert page.find_elements("css selector", ".status.wrong") == []


def test_by_keyboard_alone(page, sd):
    """Tab reaches the categories and layers, and the focus stays where it was."""
    seen = []
    for _ in range(40):
        page.switch_to.active_element.send_keys(Keys.TAB)
        focused = page.switch_to.active_element
        seen.append(focused.accessible_name)
        if focused.get_attribute("data-name") == "pad":
            break
    assert "prompt" in seen
    page.execute_script("document.querySelector('.status').textContent = ''")
    page.switch_to.active_element.send_keys(Keys.SPACE)
    drawn(page)
    assert page.switch_to.active_element.get_attribute("data-name") == "pad"
    assert (image(page, "with") == copied(page, sd)).all()


def test_attention_and_verdict_are_asked_for_when_opened(page):
    page.execute_script("document.querySelectorAll('.explorer > details')[0].open = true")
    until(lambda: page.find_elements("css selector", ".stage canvas"), "no map")
    drawn(page)
    shares = [float(found.text) for found in page.find_elements("css selector", ".share output")]
    assert sum(shares) == pytest.approx(1, abs=0.02)
    before = page.execute_script("return document.querySelector('canvas').toDataURL()")
    page.execute_script(
        "const step = document.querySelector('.reading input'); step.value = 0;"
        "step.dispatchEvent(new Event('input'))"
    )
    assert page.execute_script("return document.querySelector('canvas').toDataURL()") != before
    page.execute_script("document.querySelectorAll('.explorer > details')[2].open = true")
    until(lambda: page.find_elements("css selector", ".panel .badge"), "no verdict")
    assert "no calibration" in one(page, ".explorer > details:last-child .panel").text


def test_a_cell_of_the_map_is_a_patch_there(page, sd):
    click(page, ".category.pad")
    page.execute_script("document.querySelectorAll('.explorer > details')[1].open = true")
    until(lambda: page.find_elements("css selector", ".cell"), "no map")
    drawn(page)
    cells = page.find_elements("css selector", ".cell")
    assert len(cells) == len(ip.sites(sd.pipe.unet)) * STEPS
    cells[0].send_keys(Keys.ARROW_RIGHT)
    page.execute_script("document.querySelector('.status').textContent = ''")
    page.switch_to.active_element.send_keys(Keys.ENTER)
    drawn(page)
    layer = ip.sites(sd.pipe.unet)[0].name
    assert f"layers='{layer}', steps=1" in one(page, ".python code").text
    assert (image(page, "with") == copied(page, sd)).all()
    # The map is of the patch everywhere, so that it stays.
    assert page.find_elements("css selector", ".cell")[1] == cells[1]


def test_hostile_prompts_are_text_and_draw_what_their_line_draws(page, sd):
    choose(page, "textarea", HOSTILE)
    assert page.title == "interp explore"
    assert page.execute_script("return document.querySelector('img[src=x]')") is None
    assert (image(page, "without") == copied(page, sd)).all()
    choose(page, ".ask select", "1")
    choose(page, ".patch select", "swap")
    assert (image(page, "with") == copied(page, sd)).all()


def test_nothing_is_complained_of_and_nothing_is_asked_for_elsewhere(page, server):
    click(page, ".category.pad")
    assert complaints(page) == []
    assert all(url.startswith(server.address) for url in requests(page))


def test_two_tabs_are_two_choices(page, sd, server):
    first = page.current_window_handle
    click(page, ".category.pad")
    page.switch_to.new_window("tab")
    try:
        page.get(server.address)
        drawn(page)
        click(page, ".category.eot")
        assert "zero('eot')" in one(page, ".python code").text
    finally:
        page.close()
        page.switch_to.window(first)
    assert "zero('pad')" in one(page, ".python code").text
    choose(page, ".ask input", "5")
    assert (image(page, "with") == copied(page, sd)).all()


def test_quick_clicks_end_in_the_last_choice(page, sd):
    for _ in range(3):
        for name in ("pad", "eot", "prompt"):
            page.execute_script(
                "document.querySelector(arguments[0]).click()", f"[data-name='{name}']"
            )
            time.sleep(0.05)
    page.execute_script("document.querySelector('.status').textContent = ''")
    drawn(page)
    assert "zero(('prompt', 'eot', 'pad'))" in one(page, ".python code").text
    assert (image(page, "with") == copied(page, sd)).all()


def test_no_sideways_scroll(page):
    click(page, ".category.pad")
    page.execute_script("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    until(lambda: page.find_elements("css selector", ".panel .badge"), "no verdict")
    for width in (390, 768, 1280):
        resize(page, width)
        assert page.execute_script(
            "const wide = document.documentElement.clientWidth;"
            "return [wide, ...[...document.querySelectorAll('*')].filter(one =>"
            " !one.closest('.map') && one.getBoundingClientRect().right > wide + 1)"
            ".map(one => one.className)]"
        ) == [width]


def test_dark_is_dark_and_legible(page):
    seen = (
        "const style = getComputedStyle(document.querySelector('.explorer'));"
        "const light = c => c.match(/[\\d.]+/g).slice(0, 3).reduce((a, b) => a + +b, 0) / 765;"
        "return [light(style.backgroundColor), light(style.color)]"
    )
    paper, ink = page.execute_script(seen)
    assert paper > 0.9 > 0.2 > ink
    resize(page, 1280, dark=True)
    paper, ink = page.execute_script(seen)
    assert paper < 0.2 < 0.8 < ink


def test_a_server_that_went_away_is_said(chrome, sd):
    with serve(Explorer(sd, [], Measures(SSIM(), None, 0.5))) as served:
        thread = threading.Thread(target=served.serve_forever, args=(0.05,))
        thread.start()
        chrome.get(served.address)
        drawn(chrome)
        served.shutdown()
        thread.join()
    chrome.execute_script("document.querySelector('.category.pad').click()")
    until(lambda: "interp explore" in status(chrome), "nothing said")
