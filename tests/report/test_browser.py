"""What people see and do, in a real Chromium: skipped where there is none."""

import io

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from benchmarks.browser import MISSING, browser, requests, until
from maskmend.report.page import write_report
from tests.report.conftest import NASTY

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)


@pytest.fixture(scope="module")
def address(made, hearts):
    return write_report(made, references=hearts).as_uri()


@pytest.fixture(scope="module")
def chromium():
    with browser() as driver:
        yield driver


@pytest.fixture
def page(chromium, address):
    """The page, just opened."""
    chromium.get_log("browser")
    chromium.get_log("performance")
    chromium.get(address)
    return chromium


def shown(page):
    """Names of the rows that are shown, from top to bottom."""
    script = (
        "return [...document.querySelectorAll('#table > tbody > tr[data-name]')]"
        ".filter(row => row.offsetHeight).map(row => row.dataset.name)"
    )
    return page.execute_script(script)


def column(page, number):
    script = (
        "return [...document.querySelectorAll('#table > tbody > tr[data-name]')]"
        f".map(row => row.cells[{number}].dataset.value)"
    )
    return page.execute_script(script)


def opened(page, kind="check"):
    """Open the first image of a kind; its part, drawn."""
    row = f"tr[data-kinds*='{kind}'][data-name^=heart]"
    button = page.find_element(By.CSS_SELECTOR, f"{row} button.name")
    button.send_keys(Keys.ENTER)
    part = until(lambda: page.find_elements(By.CSS_SELECTOR, "tr.part"))[0]
    until(lambda: part.find_element(By.TAG_NAME, "output").text)
    return part


def pixels(page, selector):
    """Bytes of a canvas in the open part, as text."""
    return page.execute_script(f"return document.querySelector('tr.part {selector}').toDataURL()")


def errors(page):
    """Complaints of the console, but for remarks of the driver of a graphics card."""
    log = page.get_log("browser")
    return [entry for entry in log if "GL Driver Message" not in entry["message"]]


def test_the_page_opens_without_errors_and_asks_nobody(page):
    assert len(shown(page)) == 7
    assert NASTY in shown(page)
    part = opened(page)
    until(lambda: part.find_element(By.CSS_SELECTOR, "figure.difference .note").text)
    assert errors(page) == []
    assert requests(page) == set()


def test_headings_sort_and_say_so(page):
    heading = page.find_element(By.CSS_SELECTOR, "th[aria-sort]:nth-child(4)")
    assert heading.text.startswith("Predicted Dice")
    assert heading.get_attribute("aria-sort") == "none"
    for direction in ("ascending", "descending"):
        heading.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
        assert heading.get_attribute("aria-sort") == direction
        values = column(page, 3)
        assert values[-1] == ""  # the image that failed has none
        numbers = [float(value) for value in values[:-1]]
        assert numbers == sorted(numbers, reverse=direction == "descending")
        assert len(set(numbers)) > 3
    page.find_element(By.CSS_SELECTOR, "th[aria-sort]:nth-child(2) button").click()
    assert heading.get_attribute("aria-sort") == "none"
    names = shown(page)
    assert names[-4:] == sorted(names[-4:])


def test_sorting_keeps_an_open_part_with_its_image(page):
    opened(page, "mended")
    page.find_element(By.CSS_SELECTOR, "th[aria-sort]:nth-child(4) button").click()
    above = page.execute_script(
        "return document.querySelector('.part').previousSibling.dataset.name"
    )
    assert page.find_element(By.CSS_SELECTOR, ".part h3").text == above


def test_words_and_kinds_filter(page):
    words = page.find_element(By.ID, "words")
    words.send_keys("heart001")
    assert [name[:8] for name in shown(page)] == ["heart001"] * 2
    assert page.find_element(By.ID, "count").text == "2 of 7 images"
    words.clear()
    words.send_keys("truncated")
    assert shown(page) == ["bad"]
    words.send_keys(Keys.CONTROL + "a", Keys.DELETE)
    button = page.find_element(By.CSS_SELECTOR, "button[data-kind='check']")
    button.send_keys(Keys.SPACE)
    assert button.get_attribute("aria-pressed") == "true"
    assert len(shown(page)) == 1
    badges = page.find_elements(By.CSS_SELECTOR, "tr[data-name]:not([hidden]) .badge.check")
    assert len(badges) == 1
    page.find_element(By.CSS_SELECTOR, "button[data-kind='all']").click()
    assert len(shown(page)) == 7


def test_keys_scroll_through_the_slices(page):
    part = opened(page)
    slider = part.find_element(By.CSS_SELECTOR, "input.slice")
    slider.send_keys(Keys.HOME)
    first = pixels(page, ".before canvas")
    count = int(slider.get_attribute("max"))
    assert slider.get_attribute("aria-valuetext") == f"slice 1 of {count}"
    slider.send_keys(Keys.ARROW_RIGHT)
    assert slider.get_attribute("aria-valuetext") == f"slice 2 of {count}"
    assert pixels(page, ".before canvas") != first
    label = part.find_element(By.CSS_SELECTOR, ".before canvas").get_attribute("aria-label")
    assert label.startswith("Slice 2. ")
    slider.send_keys(Keys.END)
    assert part.find_element(By.TAG_NAME, "output").text == f"{count} of {count}"


def test_before_and_after_can_be_swiped_and_outlines_hidden(page):
    part = opened(page, "mended")
    before, after = (pixels(page, f".{when} canvas") for when in ("before", "after"))
    assert before != after
    part.find_element(By.CSS_SELECTOR, "input.outlined").click()
    assert pixels(page, ".before canvas") == pixels(page, ".after canvas")
    part.find_element(By.CSS_SELECTOR, "input.outlined").click()
    assert pixels(page, ".before canvas") == before
    part.find_element(By.CSS_SELECTOR, "input.reference").click()
    assert pixels(page, ".before canvas") != before
    part.find_element(By.CSS_SELECTOR, "input.swiping").click()
    assert not part.find_element(By.CSS_SELECTOR, ".before canvas").is_displayed()
    half = pixels(page, ".swipe canvas")
    part.find_element(By.CSS_SELECTOR, "input.boundary").send_keys(Keys.HOME)
    assert pixels(page, ".swipe canvas") != half
    assert errors(page) == []


def test_the_next_image_takes_the_place_of_the_one_before(page):
    opened(page)
    names = [button.text.strip() for button in page.find_elements(By.CSS_SELECTOR, "button.name")]
    page.find_element(By.CSS_SELECTOR, ".part .next").send_keys(Keys.ENTER)
    (heading,) = until(lambda: page.find_elements(By.CSS_SELECTOR, ".part h3"))
    assert heading.text == names[1]
    until(lambda: page.switch_to.active_element.text.strip() == names[1])
    assert page.switch_to.active_element.get_attribute("aria-expanded") == "true"
    page.find_element(By.CSS_SELECTOR, ".part .close").send_keys(Keys.ENTER)
    assert page.find_elements(By.CSS_SELECTOR, ".part") == []
    assert page.switch_to.active_element.get_attribute("aria-expanded") == "false"


def test_dark_and_light_can_be_switched(page):
    def brightness():
        colour = page.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")
        return sum(int(part.strip("rgba() ")) for part in colour.split(",")[:3])

    media = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    light = brightness()
    page.find_element(By.ID, "theme").click()
    assert brightness() < 200 < light
    page.find_element(By.ID, "theme").click()
    assert brightness() == light
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    try:
        page.refresh()
        assert brightness() < 200
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_everything_that_acts_has_a_name(page):
    opened(page)
    nodes = page.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node.get("ignored")
    ]
    acting = {"button", "slider", "checkbox", "radio", "searchbox", "image", "table", "textbox"}
    assert {role for role, _ in named} >= {
        "button",
        "slider",
        "checkbox",
        "radio",
        "image",
        "table",
    }
    assert [role for role, name in named if role in acting and not name.strip()] == []
    assert {"banner", "main", "contentinfo"} <= {role for role, _ in named}


def test_the_volume_is_drawn_by_the_viewer_and_follows_the_slider(page):
    part = opened(page)
    part.find_element(By.CSS_SELECTOR, ".viewer button").click()
    screen = part.find_element(By.CSS_SELECTOR, ".screen")
    until(screen.is_displayed)
    until(lambda: not part.find_element(By.CSS_SELECTOR, ".viewer button").is_displayed())
    first = until(lambda: spread(screen) > 10 and screen.screenshot_as_png)
    part.find_element(By.CSS_SELECTOR, "input.slice").send_keys(Keys.HOME)
    until(lambda: screen.screenshot_as_png != first)
    assert errors(page) == []
    assert requests(page) == set()


def test_without_webgl_the_pictures_stay(address):
    with browser("--disable-3d-apis") as page:
        page.get(address)
        part = opened(page)
        assert not part.find_element(By.CSS_SELECTOR, ".viewer button").is_displayed()
        assert "no WebGL 2" in part.find_element(By.CSS_SELECTOR, ".excuse").text
        assert len(set(pixels(page, ".before canvas"))) > 40
        assert errors(page) == []


def spread(element):
    """Standard deviation of what an element looks like."""
    element.parent.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    return np.asarray(Image.open(io.BytesIO(element.screenshot_as_png)).convert("L")).std()
