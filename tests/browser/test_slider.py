"""Every slider of the built book shows, wherever it is moved, the figure that its notebook drew for that position."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from playwright.sync_api import Locator, Page

from lessons_lib.figures import define, serialise
from lessons_lib.sliders import frames, parameters
from tests.browser.conftest import CHAPTERS, LESSONS, ROOT, open_page, soup
from tools.notebooks import read

WITH_SLIDERS = [chapter for chapter in CHAPTERS if soup(f"book/{chapter}.html").select(".lesson-slider")]
THUMB = 16  # pixels, in Chromium
# The figure as it is seen: without the parts that are not displayed, and without what says when they are.
VISIBLE = """(box) => {
  const svg = box.querySelector("svg");
  const copy = svg.cloneNode(true);
  const copies = [...copy.querySelectorAll("*")];
  [...svg.querySelectorAll("*")].forEach((part, i) => {
    if (getComputedStyle(part).display === "none") copies[i].remove();
    for (const name of ["data-frames", "display"]) copies[i].removeAttribute(name);
  });
  return new XMLSerializer().serializeToString(copy);
}"""


def stored(stem: str) -> list[str]:
    """The HTML of the sliders of a page, in order, as notebooks store them."""
    if stem == "index":
        return stored(LESSONS[0])[:1]
    outputs = [output for cell in read(ROOT / f"book/{stem}.ipynb").cells for output in cell.get("outputs", [])]
    found = [output.get("data", {}).get("text/html", "") for output in outputs]
    return [html for html in found if "lesson-slider" in html]


def canonical(svg: str) -> str:
    """Leave out definitions that nothing uses, and number the others in the order of their use."""
    root = ElementTree.fromstring(svg)
    definitions = {element.get("id"): element for element in root[0]}
    root.remove(root[0])
    return serialise(define(root, definitions))


class Driver:
    """Moves a slider as a reader does, and after each move compares all that is seen with what is stored."""

    def __init__(self, box: Locator, html: str) -> None:
        self.box, self.page = box, box.page
        self.frames, self.parameters = frames(html), parameters(html)
        self.inputs = box.get_by_role("slider").all()
        self.indices = [int(input_.input_value()) for input_ in self.inputs]
        self.seen: set[int] = set()
        # A section far from the window is not laid out: come near, and wait until it is shown.
        come = "(box) => { box.scrollIntoView(); return box.innerText; }"  # again: what lies above grows as it is shown
        self.page.wait_for_function(come, arg=box.element_handle())
        self.compare()

    def compare(self) -> None:
        assert len(self.inputs) == len(self.parameters)
        k = 0
        for input_, index, parameter in zip(self.inputs, self.indices, self.parameters, strict=True):
            value = parameter["values"][index]
            assert input_.input_value() == str(index)
            assert input_.get_attribute("aria-valuetext") == value
            assert input_.get_attribute("aria-label") == parameter["label"]
            assert input_.locator("xpath=..").inner_text().split("\n") == [parameter["label"], value]
            k = k * len(parameter["values"]) + index
        assert canonical(self.box.evaluate(VISIBLE)) == canonical(self.frames[k]), f"position {self.indices}"
        self.seen.add(k)

    def point(self, i: int, index: int) -> tuple[float, float]:
        """Where on the page input i's thumb lies at an index."""
        self.inputs[i].evaluate("(input) => input.scrollIntoView({ block: 'center', behavior: 'instant' })")
        box, last = self.inputs[i].bounding_box(), len(self.parameters[i]["values"]) - 1
        return box["x"] + THUMB / 2 + (box["width"] - THUMB) * index / last, box["y"] + box["height"] / 2

    def arrive(self, i: int, index: int) -> None:
        self.indices[i] = index
        self.compare()

    def click(self, i: int, index: int) -> None:
        self.page.mouse.click(*self.point(i, index))
        self.arrive(i, index)

    def drag(self, i: int, index: int) -> None:
        self.page.mouse.move(*self.point(i, self.indices[i]))
        self.page.mouse.down()
        self.page.mouse.move(*self.point(i, index), steps=4)
        self.page.mouse.up()
        self.arrive(i, index)

    def tap(self, i: int, index: int) -> None:
        self.page.touchscreen.tap(*self.point(i, index))
        self.arrive(i, index)

    def press(self, i: int, key: str, index: int) -> None:
        self.inputs[i].press(key)
        self.arrive(i, index)

    def everywhere(self) -> None:
        """Move each input by mouse, finger and keys, from where it starts."""
        assert self.indices == [parameter["start"] for parameter in self.parameters]
        for i, parameter in enumerate(self.parameters):
            last = len(parameter["values"]) - 1
            self.click(i, last // 2)
            self.drag(i, last)
            self.tap(i, 0)
            self.press(i, "ArrowRight", 1)
            self.press(i, "End", last)
            self.press(i, "ArrowLeft", last - 1)
            self.press(i, "Home", 0)
            self.click(i, parameter["start"])
            self.press(i, "ArrowUp", min(parameter["start"] + 1, last))
        assert len(self.seen) >= min(3, len(self.frames))


def drivers(page: Page, stem: str) -> Iterator[Driver]:
    """A driver for each slider of the page that stands open."""
    for box, html in zip(page.locator(".lesson-slider").all(), stored(stem), strict=True):
        yield Driver(box, html)


@pytest.mark.parametrize("stem", WITH_SLIDERS)
def test_every_slider_shows_what_its_notebook_drew(stem: str, new_page: Callable[..., Page]) -> None:
    page = new_page(has_touch=True)
    open_page(page, f"book/{stem}.html")
    for driver in drivers(page, stem):
        driver.everywhere()
    page.set_viewport_size(dict(width=360, height=800))
    for row in page.locator(".lesson-slider label").all():
        row.scroll_into_view_if_needed()
        assert row.get_by_role("slider").bounding_box()["height"] >= 44, "too low for a finger"
        assert row.bounding_box()["height"] <= 44 + 2 * 16, "more than a line of words and a track"


# --- what would be noticed ---


@pytest.fixture
def html() -> str:
    """A slider of two parameters: of 2 values, starting at 0, and of 6, starting at 3."""
    return stored(LESSONS[0])[0]


def show(html: str, page: Page, folder: Path) -> Locator:
    """The slider of a page that consists of this HTML."""
    (folder / "page.html").write_text(f'<!doctype html><meta charset="utf-8"><body>{html}', "utf-8")
    page.goto((folder / "page.html").as_uri())
    return page.locator(".lesson-slider")


def swap_frames(html: str) -> str:
    """Let positions 0 and 3 show each other's parts."""
    other = {"0": "3", "3": "0"}
    return re.sub(r'(?<=data-frames=\\")[\d ]+', lambda m: " ".join(other.get(k, k) for k in m[0].split()), html)


@pytest.mark.parametrize(
    "tamper",
    [
        swap_frames,
        lambda html: html.replace('data-frames=\\"', 'data-no=\\"', 1),
        lambda html: html.replace(">training loss<", ">test loss<"),
        lambda html: html.replace('"η = 0.1"', '"η = 0.5"'),
        lambda html: html.replace('"start": 3', '"start": 2'),
        lambda html: html.replace("shown = parts[k]", "shown = parts[0]"),
        lambda html: html.replace("(say(), update())", "update()"),
        lambda html: html.replace("(say(), update())", "say()"),
        lambda html: html.replace("k * parameters[i].values.length + input.valueAsNumber", "k + input.valueAsNumber"),
    ],
)
def test_a_slider_that_shows_anything_else_is_found(
    tamper: Callable[[str], str], html: str, new_page: Callable[..., Page], tmp_path: Path
) -> None:
    assert tamper(html) != html
    with pytest.raises(AssertionError):
        Driver(show(tamper(html), new_page(has_touch=True), tmp_path), html).everywhere()


def test_without_scripts_the_starting_position_stands_there(
    html: str, new_page: Callable[..., Page], tmp_path: Path
) -> None:
    box = show(html, new_page(java_script_enabled=False), tmp_path)
    picture = box.get_by_role("img", name=re.search('aria-label="(.+?)"', frames(html)[0])[1], exact=True)
    assert picture.is_visible() and picture.bounding_box()["width"] > 500
    assert box.inner_text().strip() == "" and box.locator("svg, input").count() == 0
