"""The report in a real browser: it works, at every width, in the dark, and asks for nothing."""

import pytest

from interp import report
from tests.browsing import browser, complaints, open_page, requests, resize
from tests.reporting import HOSTILE, dataset

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data():
    return dataset(HOSTILE)


@pytest.fixture(scope="module")
def path(data, tmp_path_factory):
    return report.render(data, tmp_path_factory.mktemp("page"), figures=False)


@pytest.fixture(scope="module")
def chrome():
    with browser() as found:
        yield found


@pytest.fixture
def opened(chrome, path):
    resize(chrome, 1280)
    open_page(chrome, path)
    return chrome


def values(chrome, key):
    """A column of the table as it is shown, from top to bottom."""
    return chrome.execute_script(
        "return [...document.querySelectorAll('#prompts tbody tr:not([hidden]) td[data-key=\"' + "
        "arguments[0] + '\"]')].map(cell => cell.dataset.value)",
        key,
    )


def test_nothing_is_complained_of_and_nothing_is_asked_for(opened, path):
    opened.execute_script("window.scrollTo(0, document.body.scrollHeight)")
    assert complaints(opened) == []
    assert set(requests(opened)) <= {path.resolve().as_uri()}
    assert opened.execute_script(
        "return [...document.images].every(i => i.naturalWidth > 0 || i.loading === 'lazy')"
    )


def test_the_policy_stops_other_scripts_and_requests(opened):
    opened.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.owned = true';"
        "document.body.append(s);"
        "const i = new Image(); i.src = 'http://127.0.0.1:9/x.png'; document.body.append(i);"
    )
    assert opened.execute_script("return window.owned") is None
    assert any("Content Security Policy" in message for message in complaints(opened))


def test_the_table_sorts_both_ways(opened, data):
    opened.find_element("css selector", "th button[data-key='similarity']").click()
    rising = [float(value) for value in values(opened, "similarity")]
    assert rising == sorted(rising)
    opened.find_element("css selector", "th button[data-key='similarity']").click()
    falling = [float(value) for value in values(opened, "similarity")]
    assert falling == sorted(rising, reverse=True)
    opened.find_element("css selector", "#sort option[value='verdict']").click()
    assert values(opened, "verdict") == sorted(data.verdict.values.tolist(), reverse=True)


def test_the_table_filters(opened, data):
    opened.find_element("css selector", "#show option:nth-child(2)").click()
    assert values(opened, "verdict") == ["memorized"] * 8
    opened.find_element("id", "find").send_keys("PIANO")
    assert values(opened, "number") == ["7"]
    assert opened.find_element("id", "count").text == "1 of 16"
    opened.find_element("id", "find").send_keys(" of gold")
    assert values(opened, "number") == []
    assert opened.find_element("id", "none").is_displayed()


def test_the_slider_moves_map_and_numbers(opened, data):
    look = "document.querySelectorAll('.look')[2]"
    move = (
        f"const look = {look}, range = look.querySelector('input'); range.value = arguments[0];"
        "range.dispatchEvent(new Event('input'));"
        "const canvas = look.querySelector('canvas');"
        "return [canvas.toDataURL(), look.querySelector('[data-category=pad] .sum').textContent,"
        " look.querySelector('output').textContent]"
    )
    first, last = (opened.execute_script(move, step) for step in (0, 24))
    assert first[0] != last[0]
    for step, shown in ((0, first), (24, last)):
        mass = float(data.mass.isel(prompt=2, step=step).mean("layer").sel(category="pad"))
        assert abs(float(shown[1]) - mass) <= 0.0051
        assert shown[2] == f"{step + 1} of 25"


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_no_sideways_scroll(opened, width):
    resize(opened, width)
    found = opened.execute_script(
        "const wide = document.documentElement.clientWidth;"
        "return [document.documentElement.scrollWidth, wide, [...document.querySelectorAll('*')]"
        ".filter(e => !e.closest('svg') && e.getBoundingClientRect().right > wide + 1)"
        ".map(e => e.tagName + '.' + e.className)]"
    )
    assert found[0] <= found[1] == width
    assert found[2] == []


def test_dark_is_dark_and_legible(opened):
    seen = (
        "const style = getComputedStyle(document.body);"
        "const light = c => c.match(/[\\d.]+/g).slice(0, 3).reduce((a, b) => a + +b, 0) / 765;"
        "return [light(style.backgroundColor), light(style.color)]"
    )
    paper, ink = opened.execute_script(seen)
    assert paper > 0.9 > 0.2 > ink
    resize(opened, 1280, dark=True)
    paper, ink = opened.execute_script(seen)
    assert paper < 0.2 < 0.8 < ink


def test_hostile_prompts_are_text(opened, data):
    shown = opened.execute_script(
        "return [...document.querySelectorAll('.said')].map(p => p.textContent)"
    )
    assert shown == data.text.values.tolist()
    assert opened.execute_script("return document.querySelector('img[src=x]')") is None
