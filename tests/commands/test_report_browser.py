"""The pages of `report` and `plan --graph` in headless Chromium."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.support.select import Select

from bnretrofit.capture import capture
from bnretrofit.pages.content import Page
from bnretrofit.pages.diagram import drawn
from bnretrofit.pages.layer_table import layer_table
from bnretrofit.pages.marks import Mark
from bnretrofit.pages.rendering import page_html
from tests.commands import factories
from tests.commands.browsing import Browser, browsing
from tests.commands.running import DIGITS, MODEL, VAL, draw_images, factory, run, save_state

LAYER, CHANNELS, STATE, MEAN = 1, 3, 4, 6


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as made:
        yield made


@pytest.fixture(scope="module")
def page(retrofitted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the bundled network with norms."""
    output = tmp_path_factory.mktemp("page") / "page.html"
    assert run("report", retrofitted, "-d", VAL, "-n", 16, "-o", output).code == 0
    return output


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a network whose layers' names are markup."""
    folder = tmp_path_factory.mktemp("hostile")
    plain, images = save_state(folder / "plain.pth", factories.hostile()), draw_images(folder / "images")
    given = ("--trust-code", "-d", images)
    assert run("retrofit", plain, "-m", factory("hostile"), *given, "-o", folder / "bn.safetensors").code == 0
    assert run("report", folder / "bn.safetensors", *given, "-o", folder / "page.html").code == 0
    return folder / "page.html"


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 400 layers; to plan for them takes half a minute, which is not what is tested here."""
    output = tmp_path_factory.mktemp("deep") / "plan.html"
    marks = {str(layer): Mark("planned", str(layer), "", "BatchNorm2d") for layer in range(400)}
    nodes = drawn(capture(factories.deep().eval(), torch.zeros(1, 3, 8, 8)), marks)
    output.write_text(page_html(Page("deep", "Deep.", (), nodes, layer_table(nodes, marks, {}))))
    return output


def test_a_page_opens_without_an_error_or_a_request(browser: Browser, page: Path, hostile: Path, deep: Path) -> None:
    for each in (page, hostile, deep):
        browser.open(each)
        assert browser.said() == []
        assert [url for url in browser.asked() if not url.startswith("data:")] == [each.resolve().as_uri()]


def test_a_request_and_an_error_would_be_seen(browser: Browser, tmp_path: Path) -> None:
    asking = tmp_path / "asking.html"
    asking.write_text('<img src="http://127.0.0.1:9/picture.png"><script>console.error("wrong")</script>')
    browser.open(asking)
    assert "http://127.0.0.1:9/picture.png" in browser.asked()
    assert any("wrong" in said for said in browser.said())


def test_the_table_sorts_by_number_by_word_and_with_empty_cells_last(browser: Browser, page: Path) -> None:
    browser.open(page)
    before = browser.column(LAYER)
    (channels,) = browser.all(f"#layer-table th:nth-child({CHANNELS + 1}) button")
    channels.click()
    found = [int(text) for text in browser.column(CHANNELS)]
    assert found == sorted(found)
    assert found[0] < found[-1]
    channels.click()
    assert [int(text) for text in browser.column(CHANNELS)] == found[::-1]
    assert browser.find(f"#layer-table th:nth-child({CHANNELS + 1})").get_attribute("aria-sort") == "descending"
    # A layer without a norm has no mean: it comes last either way.
    mean = browser.find(f"#layer-table th:nth-child({MEAN + 1}) button")
    for _ in range(2):
        mean.click()
        assert browser.column(LAYER)[-1] == "classifier.6"
    browser.find("#layer-table th:nth-child(1) button").click()
    assert browser.column(LAYER) == before


def test_the_table_filters_by_words_and_by_state(browser: Browser, page: Path) -> None:
    browser.open(page)
    words = browser.find("#filter")
    words.send_keys("CLASSIFIER")
    assert browser.column(LAYER) == ["classifier.0", "classifier.3", "classifier.6"]
    assert browser.find("#filter-count").text == "3 of 11 shown"
    Select(browser.find("#filter-state")).select_by_value("skipped")
    assert browser.column(LAYER) == ["classifier.6"]
    words.clear()
    shown = {}
    for option in Select(browser.find("#filter-state")).options:
        option.click()
        shown[option.text] = len(browser.column(LAYER))
    assert shown == {"all": 11, "norm inserted": 10, "left alone": 1}
    words.send_keys("no such layer")
    assert browser.column(LAYER) == []
    assert browser.find("#filter-count").text == "0 of 11 shown"


def test_reasons_are_shown_beside_the_pointer_and_by_keys(browser: Browser, page: Path) -> None:
    browser.open(page)
    tip = browser.find("#tip")
    assert not tip.is_displayed()
    skipped = browser.find(".picture .skipped[role=option]")
    browser.run("arguments[0].scrollIntoView({block: 'center'})", skipped)
    ActionChains(browser.driver).move_to_element(skipped).perform()
    reason = "classifier.6: Linear, 10 channels. Left alone: it makes the model's output (logits)"
    assert tip.is_displayed()
    assert tip.text.startswith(reason)
    ActionChains(browser.driver).move_to_element(browser.find("h1")).perform()
    assert not tip.is_displayed()
    picture = browser.find(".picture[role=listbox]")
    picture.send_keys(Keys.END, Keys.ARROW_UP)
    assert tip.text.startswith(reason)
    current = picture.get_attribute("aria-activedescendant")
    assert browser.find(f"#{current}").get_attribute("aria-selected") == "true"
    assert str(browser.find(f"#{current}").get_attribute("aria-label")).startswith(reason)
    picture.send_keys(Keys.ESCAPE)
    assert not tip.is_displayed()


def test_reasons_go_along_where_a_long_picture_scrolls(browser: Browser, deep: Path) -> None:
    browser.open(deep)
    picture, tip = browser.find(".picture[role=listbox]"), browser.find("#tip")
    for number in range(60):
        picture.send_keys(Keys.ARROW_DOWN)
        # A scroll is told a frame later.
        browser.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
        assert tip.is_displayed(), number
    assert tip.text.startswith("58: Conv2d")


def test_names_of_strangers_stay_text(browser: Browser, hostile: Path) -> None:
    browser.open(hostile)
    assert browser.driver.title != "taken"
    assert factories.SCRIPT in browser.column(LAYER)
    assert '"><img src=x onerror=alert(1)>' in browser.column(LAYER)
    assert any("{{ 7 * 7 }}" in name for name in browser.column(LAYER))
    assert len(browser.all("script")) == 1
    assert browser.all("img") == []
    picture = browser.find(".picture[role=listbox]")
    picture.send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert factories.SCRIPT in browser.find("#tip").text


def test_a_picture_alone_keeps_them_text_too(browser: Browser, tmp_path: Path) -> None:
    output = tmp_path / "plan.svg"
    assert run("plan", factory("hostile"), "--trust-code", "--img-size", 8, "--graph", output).code == 0
    browser.open(output)
    assert browser.said() == []
    assert browser.run("return document.title") != "taken"
    assert browser.run("return document.getElementsByTagName('script').length") == 0
    assert factories.SCRIPT in browser.run("return document.documentElement.textContent")


def test_the_page_itself_forbids_what_is_not_its_own(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run(
        """for (const [tag, key, value] of [["script", "textContent", "document.title = 'taken'"],
            ["img", "src", "http://127.0.0.1:9/picture.png"]]) {
            const made = document.createElement(tag); made[key] = value; document.body.append(made); }"""
    )
    assert browser.driver.title != "taken"
    assert len([said for said in browser.said() if "Content Security Policy" in said]) == 2
    assert "http://127.0.0.1:9/picture.png" not in browser.asked()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_a_phone_and_follows_the_theme(browser: Browser, page: Path, deep: Path, theme: str) -> None:
    for each in (page, deep):
        browser.open(each, width=380, theme=theme)
        assert browser.run("return document.documentElement.scrollWidth") <= 380
        script = "return getComputedStyle(arguments[0]).getPropertyValue(arguments[1])"
        paper = browser.run(script, browser.find("body"), "background-color")
        ink = browser.run(script, browser.find("h1"), "color")
        light, dark = (_brightness(colour) for colour in ((paper, ink) if theme == "light" else (ink, paper)))
        assert light > 200
        assert dark < 60


def _brightness(colour: str) -> float:
    red, green, blue = (float(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")[:3])
    return (red + green + blue) / 3


def test_four_hundred_layers_are_all_there(browser: Browser, deep: Path) -> None:
    browser.open(deep)
    assert len(browser.column(LAYER)) == 400
    # With the input and the output.
    assert len(browser.all(".picture [role=option]")) == 402
    browser.find("#filter").send_keys("399")
    assert browser.column(LAYER) == ["399"]


def test_every_control_has_a_name_and_every_name_stands_for_one_element(browser: Browser, page: Path) -> None:
    browser.open(page)
    script = "return [...document.querySelectorAll('[id]')].map((element) => element.id)"
    names = browser.run(script)
    # What is folded away has no name for a reader before it is opened.
    browser.find("summary").click()
    assert len(names) == len(set(names))
    for element in browser.all("button, input, select, [role=listbox], [role=region], figure svg"):
        assert element.accessible_name, element.get_attribute("outerHTML")
    # All that is referred to is there.
    for attribute in ("aria-labelledby", "aria-describedby", "href"):
        for element in browser.all(f"main [{attribute}^='#'], main [{attribute}]:not([href])"):
            assert str(element.get_attribute(attribute)).split("#")[-1] in names


def test_a_network_as_it_was_trained_has_a_page_too(browser: Browser, tmp_path: Path) -> None:
    output = tmp_path / "page.html"
    assert run("report", DIGITS, "-m", MODEL, "-d", VAL, "-n", 8, "-o", output).code == 0
    browser.open(output)
    assert browser.said() == []
    assert browser.column(STATE).count("gets a norm") == 10
    # Of the layer that would get no norm nothing was measured.
    assert [text == "–" for text in browser.column(MEAN)] == [False] * 10 + [True]
