import numpy as np
import pytest
from selenium.webdriver import ActionChains, Keys

from jaxreid.main import run
from jaxreid.report import write_page
from jaxreid.report.page import Looks
from jaxreid.types import AttentionMap, Batch
from tests.report.drawing import page_with_everything

SIZES = {"desktop": (1280, 900), "phone": (390, 844), "small": (320, 568)}


@pytest.fixture(scope="session")
def page(tmp_path_factory):
    """Four queries: a first match at rank 30, at rank 2, at rank 1, and none."""
    return page_with_everything(tmp_path_factory.mktemp("pages") / "run")


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """Two clips of three frames, with heat and with weights of frames."""
    images = np.full((2, 3, 32, 16, 3), 90, np.uint8)
    heat = np.zeros((2, 3, 4, 2), np.float32)
    heat[:, 1, 0, 0] = 0.5
    when = np.array([[0.2, 0.7, 0.1]] * 2, np.float32)[..., None, None]
    maps = {"when": AttentionMap(when, "frames"), "where": AttentionMap(heat, "frames")}
    looks = Looks(Batch(images, np.array([3, 3]), np.array([1, 2])), maps)
    return write_page(tmp_path_factory.mktemp("clips"), config={}, scores={}, looks=looks)


def keys(browser, *pressed):
    ActionChains(browser.driver).send_keys(*pressed).perform()


def shown_rows(browser):
    return [row.get_attribute("data-outcome") for row in browser.all(".row") if row.is_displayed()]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_it_fits_the_window_and_is_silent(browser, page, size, scheme):
    browser.open(page, *SIZES[size], scheme=scheme, touch=size != "desktop")
    browser.wait(lambda: browser.all(".attention[data-ready]"))
    for details in browser.all("details"):
        browser.run("arguments[0].open = true", details)
    assert browser.overflow() == 0
    paper = browser.run("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 26)"}[scheme]
    assert browser.said() == []
    assert browser.fetched() == []


def test_queries_are_leafed_through_by_pointer(browser, page):
    browser.open(page)
    assert shown_rows(browser) == ["miss"]
    count = browser.one(".leaf output")
    assert count.text == "1 of 4"
    back, forth = browser.all("[data-turn]")
    forth.click()
    forth.click()
    assert (shown_rows(browser), count.text) == (["hit"], "3 of 4")
    back.click()
    assert count.text == "2 of 4"
    browser.all(".strip button")[3].click()
    assert (shown_rows(browser), count.text) == (["none"], "4 of 4")
    forth.click()
    assert count.text == "4 of 4"
    for value, rows, words in (
        ("hit", ["hit"], "1 of 1"),
        ("miss", ["miss"], "1 of 2"),
        ("", ["miss"], "1 of 4"),
    ):
        browser.one(f"input[name=outcome][value='{value}']").click()
        assert (shown_rows(browser), count.text) == (rows, words)
    assert browser.said() == []


def test_queries_are_leafed_through_by_keyboard(browser, page):
    browser.open(page)
    browser.one("input[name=outcome]").send_keys(Keys.TAB, Keys.TAB)
    forth = browser.all("[data-turn]")[1]
    assert browser.driver.switch_to.active_element == forth
    width = browser.run("getComputedStyle(document.activeElement).outlineWidth")
    assert float(width.removesuffix("px")) >= 2  # the focus can be seen
    keys(browser, Keys.ARROW_RIGHT)
    assert browser.one(".leaf output").text == "2 of 4"
    keys(browser, Keys.TAB)  # the strip has one stop: the query that is shown
    assert browser.run("document.activeElement.getAttribute('aria-current')") == "true"
    keys(browser, Keys.END)
    assert (shown_rows(browser), browser.one(".leaf output").text) == (["none"], "4 of 4")
    assert browser.run("document.activeElement.getAttribute('aria-current')") == "true"
    keys(browser, Keys.HOME, Keys.ARROW_LEFT)
    assert browser.one(".leaf output").text == "1 of 4"
    # In the choice of queries the arrows choose.
    browser.one("input[name=outcome]:checked").send_keys(Keys.ARROW_RIGHT)
    assert browser.one(".leaf output").text == "1 of 1"
    assert shown_rows(browser) == ["hit"]


def test_attention_changes_under_the_pointer_and_by_keyboard(browser, page):
    browser.open(page)
    browser.wait(lambda: browser.all(".attention[data-ready]"))
    own, intra, inter = browser.all(".attention canvas")
    output = browser.one(".attention output")

    def hottest(canvas):
        """The cell of 4 x 2 with the most colour."""
        script = """(() => {
            const c = arguments[0], h = c.height / 4, w = c.width / 2, warm = [];
            for (let i = 0; i < 4; i++) for (let j = 0; j < 2; j++) {
                const p = c.getContext("2d").getImageData((j + 0.5) * w, (i + 0.5) * h, 1, 1).data;
                warm.push(p[0] - p[2]);
            }
            return warm.indexOf(Math.max(...warm));
        })()"""
        return browser.run(script, canvas)

    # Point at row 2, column 1 of the grid, which is position 2.
    box = own.size
    ActionChains(browser.driver).move_to_element(own).move_by_offset(
        -box["width"] // 4, -box["height"] // 8
    ).perform()
    assert output.text == (
        "row 2, column 1 of the query: intra peak 0.25 at row 2, column 1;"
        " inter peak 0.5 at row 3, column 2"
    )
    assert (hottest(intra), hottest(inter)) == (2, 5)
    browser.run("arguments[0].focus()", own)
    keys(browser, Keys.ARROW_DOWN, Keys.ARROW_RIGHT)
    assert output.text.startswith("row 3, column 2 of the query: intra peak 0.25 at row 3")
    assert (hottest(intra), hottest(inter)) == (5, 2)
    keys(browser, Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_DOWN)  # no farther than the edge
    assert (hottest(intra), hottest(inter)) == (7, 0)
    ActionChains(browser.driver).move_to_element(inter).move_by_offset(
        -box["width"] // 4, -3 * box["height"] // 8
    ).perform()
    assert output.text == "inter at row 1, column 1: 0.5"
    assert browser.said() == []


def test_frames_of_clips_are_chosen(browser, clips):
    browser.open(clips)
    browser.wait(lambda: browser.all(".attention[data-ready]"))
    article = browser.one(".attention article")
    buttons = browser.all(".attention article:first-child .frames button")
    output = browser.one(".attention output")
    assert [button.get_attribute("aria-label") for button in buttons] == [
        *("frame 1", "frame 2", "frame 3")
    ]
    heights = browser.run(
        "[...arguments[0].querySelectorAll('.weight i')].map((x) => x.offsetHeight)", article
    )
    assert heights[1] == max(heights)
    assert heights[0] / heights[1] == pytest.approx(2 / 7, abs=0.05)
    assert output.text == "frame 1: when: weight 0.2; where: up to 0"
    buttons[1].click()
    assert output.text == "frame 2: when: weight 0.7; where: up to 0.5"
    keys(browser, Keys.ARROW_RIGHT)
    assert output.text == "frame 3: when: weight 0.1; where: up to 0"
    assert browser.driver.switch_to.active_element == buttons[2]
    ActionChains(browser.driver).move_to_element(buttons[0]).perform()
    assert output.text.startswith("frame 1")
    browser.open(clips, *SIZES["phone"], touch=True)
    browser.wait(lambda: browser.all(".attention[data-ready]"))
    assert browser.overflow() == 0
    assert (browser.said(), browser.fetched()) == ([], [])


def test_maps_with_names_are_chosen(browser, tmp_path):
    weights = np.stack([np.eye(4)[:1], 1 - np.eye(4)[:1]])[None].repeat(2, 0).astype(np.float32)
    maps = {"block2": AttentionMap(weights, "self", ("whole body", "parts"))}
    images = np.full((2, 32, 16, 3), 90, np.uint8)
    looks = Looks(Batch(images, np.array([3, 3]), np.array([1, 2])), maps)
    browser.open(write_page(tmp_path, config={}, scores={}, looks=looks))
    browser.wait(lambda: browser.all(".attention[data-ready]"))
    assert len(browser.all(".attention article")) == 2
    choices = browser.all(".attention article:first-child label")
    assert [choice.text for choice in choices] == ["whole body", "parts"]
    output = browser.one(".attention output")
    assert output.text == "block2 peak 1 at row 1, column 1"
    choices[1].click()
    assert output.text == "block2 peak 1 at row 1, column 2"


def test_charts_are_read_by_pointer_keyboard_and_as_a_table(browser, page):
    browser.open(page)
    chart = browser.one("#scores .chart svg")
    output = browser.one("#cmc-value")
    ActionChains(browser.driver).move_to_element(chart).perform()
    assert output.text == "rank 2: queries matched 80.0 %"
    assert browser.one("#scores .cursor").get_attribute("visibility") == "visible"
    browser.run("arguments[0].focus()", chart)
    keys(browser, Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert output.text == "rank 1: queries matched 75.0 %"
    assert chart.get_attribute("aria-valuetext") == output.text
    keys(browser, Keys.END)
    assert output.text == "rank 3: queries matched 90.0 %"
    browser.one("#scores summary").click()
    cells = [cell.text for cell in browser.all("#scores .chart td")]
    assert cells == ["1", "75.0 %", "2", "80.0 %", "3", "90.0 %"]


def test_the_config_is_searched(browser, page):
    browser.open(page)
    browser.one("#config summary").click()
    browser.one("#find").send_keys("STEPS")
    rows = [row.text for row in browser.all("#config-rows tr") if row.is_displayed()]
    assert rows == ["train.steps 7"]
    assert browser.one("#config output").text == "1 of 2"


def test_it_prints_and_stands_still_where_asked(browser, page):
    browser.open(page)
    command = browser.driver.execute_cdp_cmd
    motion = {"name": "prefers-reduced-motion", "value": "reduce"}
    command("Emulation.setEmulatedMedia", {"media": "print", "features": [motion]})
    assert not browser.one(".controls").is_displayed()
    assert shown_rows(browser) == ["miss"]
    assert browser.run("getComputedStyle(document.querySelector('button')).transitionDuration") in (
        *("0s", "0s, 0s"),
    )
    assert len(command("Page.printToPDF", {})["data"]) > 10_000


def test_without_a_script_everything_can_be_read(browser, page):
    command = browser.driver.execute_cdp_cmd
    command("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.open(page)
        assert len(shown_rows(browser)) == 4
        assert not browser.one(".controls").is_displayed()
        assert "eval/attention.png" in browser.one("#attention").text
    finally:
        command("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.slow
def test_the_page_of_a_run(browser, tiny, tmp_path):
    config = tiny()
    config.paper = {"rank1": 0.9142, "mAP": 0.7662}
    run(config, tmp_path / "run")
    for size in SIZES.values():
        browser.open(tmp_path / "run" / "report.html", *size)
        browser.wait(lambda: browser.all(".attention[data-ready]"))
        assert browser.overflow() == 0
    assert len(browser.all(".strip button")) == len(browser.all(".row")) > 5
    assert len(browser.all(".attention article")) == 3
    assert [title.text for title in browser.all(".chart h3")] == [
        *("Queries with a true match among the first k (%)", "Loss", "Learning rate")
    ]
    for link in browser.all(".contents a"):
        link.click()
    assert (browser.said(), browser.fetched()) == ([], [])
