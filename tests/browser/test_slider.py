"""Every slider of the built book shows, wherever it is moved, the figure that its notebook drew for that position."""

import json
import re
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from unittest.mock import patch
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from playwright.sync_api import Locator, Page

from lessons_lib.figures import COLOURS, PAPER, define, label, serialise, to_svg
from lessons_lib.sliders import frames, parameters, slider
from tests.browser.conftest import ROOT, open_page

THUMB = 16  # pixels, in Chromium
STYLES = (ROOT / "book" / "_static" / "lessons.css").read_text("utf-8")
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
    """The HTML of a notebook's sliders, in order."""
    cells = json.loads((ROOT / "book" / f"{stem}.ipynb").read_text("utf-8"))["cells"]
    outputs = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    return [html for data in outputs if "lesson-slider" in (html := "".join(data.get("text/html", "")))]


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
        self.indices = [parameter["start"] for parameter in self.parameters]
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
        """Move each input by mouse, finger and keys."""
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


@pytest.mark.parametrize("stem", sorted(path.stem for path in (ROOT / "book").glob("*.ipynb")))
def test_every_slider_shows_what_its_notebook_drew(stem: str, new_page: Callable[..., Page]) -> None:
    page = new_page(has_touch=True)
    open_page(page, f"book/{stem}.html")
    boxes, htmls = page.locator(".lesson-slider").all(), stored(stem)
    assert len(boxes) == len(htmls)
    for box, html in zip(boxes, htmls, strict=True):
        Driver(box, html).everywhere()
    page.set_viewport_size(dict(width=360, height=800))
    for row in page.locator(".lesson-slider label").all():
        row.scroll_into_view_if_needed()
        box, track = row.bounding_box(), row.get_by_role("slider").bounding_box()
        assert track["height"] >= 44, "too low for a finger"
        assert box["height"] <= 44 + 2 * 16 and track["width"] > 250, "more than a line of words and a track"


# --- a slider of our own ---


def walk(n: int, lr: float = 0.2) -> Figure:
    """Points of a walk, seen through a hole that the learning rate opens, over a small picture."""
    fig, ax = plt.subplots()
    ax.imshow(np.eye(n + 2), extent=(0, 2, 0, 1), cmap="gray", aspect="auto")
    hole = Circle((2, 1), 1 + lr, transform=ax.transData)
    ax.plot(np.arange(n * 2), np.cos(lr * np.arange(n * 2)), marker="o", clip_path=hole)
    for i in range(n):
        ax.text(i, -0.5, f"step {i}")
    ax.bar([3], [lr], hatch="/" * n, color=PAPER, edgecolor=COLOURS["green"])
    label(ax, 3, 0.8, "here", COLOURS["orange"])
    ax.set(xlabel="$x_1$", xlim=(0, 5), ylim=(-1, 1.2), title=f"after {n} steps")
    return fig


RATES, STEPS = [0.1, 0.2, 0.4], [1, 2, 4]


@pytest.fixture(scope="module")
def html() -> str:
    with patch("lessons_lib.sliders.display") as display:
        slider(walk, dict(lr=("learning rate", "η")), lr=RATES, n=STEPS)
    return display.call_args.args[0]["text/html"]


@pytest.fixture
def show(tmp_path: Path, new_page: Callable[..., Page]) -> Iterator[Callable[..., Locator]]:
    def show(html: str, **options: object) -> Locator:
        """The sliders of a page that consists of this HTML, in the dark theme."""
        path = tmp_path / "page.html"
        head = f'<!doctype html><html data-theme="dark"><meta charset="utf-8"><style>{STYLES}</style>'
        path.write_text(f'{head}<body style="--pst-color-background: #121212">{html}', "utf-8")
        page = new_page(has_touch=True, **options)
        page.goto(path.as_uri())
        return page.locator(".lesson-slider")

    return show


def painted(box: Locator) -> bytes:
    """A picture of a slider's figure, painted afresh: where a part of it changes, edges come out slightly different."""
    box.evaluate("(box) => { box.style.display = 'none'; box.getBoundingClientRect(); box.style.display = ''; }")
    return box.locator("svg").screenshot()


def test_each_position_has_the_very_pixels_of_draw(html: str, show: Callable[..., Locator]) -> None:
    box, other = show(html), show(html)
    driver, pictures = Driver(box, html), set()
    for (i, lr), (j, n) in product(enumerate(RATES), enumerate(STEPS)):
        driver.click(0, i)
        driver.click(1, j)
        fig = walk(lr=lr, n=n)
        other.locator("svg").evaluate("(old, svg) => { old.outerHTML = svg; }", to_svg(fig, walk.__doc__))
        plt.close(fig)
        picture = painted(box)
        assert picture == painted(other), f"{lr=}, {n=}"
        pictures.add(picture)
    assert len(pictures) == len(driver.seen) == 9


def test_sliders_on_one_page_move_on_their_own(html: str, show: Callable[..., Locator]) -> None:
    boxes = show(html + html)
    first, second = (Driver(box, html) for box in boxes.all())
    first.click(0, 2)
    second.compare()
    second.click(1, 2)
    first.compare()


def test_a_slider_moves_by_mouse_finger_and_keys(html: str, show: Callable[..., Locator]) -> None:
    driver = Driver(show(html), html)
    driver.everywhere()
    assert {0, 6} < driver.seen


def swap_frames(html: str) -> str:
    """Let positions 0 and 6 show each other's parts."""
    other = {"0": "6", "6": "0"}
    return re.sub(
        r'(?<=data-frames=\\")[\d ]+',
        lambda m: " ".join(other.get(k, k) for k in m[0].split()),
        html,
    )


@pytest.mark.parametrize(
    "tamper",
    [
        swap_frames,
        lambda html: html.replace('data-frames=\\"', 'data-no=\\"', 1),
        lambda html: html.replace("step 1", "step 9"),
        lambda html: html.replace('"η = 0.4"', '"η = 0.5"'),
        lambda html: html.replace('"start": 1', '"start": 2'),
        lambda html: html.replace("shown = parts[k]", "shown = parts[0]"),
        lambda html: html.replace("(say(), update())", "update()"),
        lambda html: html.replace("(say(), update())", "say()"),
        lambda html: html.replace("k * parameters[i].values.length + input.valueAsNumber", "k + input.valueAsNumber"),
    ],
)
def test_a_slider_that_shows_anything_else_is_found(
    tamper: Callable[[str], str], html: str, show: Callable[..., Locator]
) -> None:
    assert tamper(html) != html
    with pytest.raises(AssertionError):
        Driver(show(tamper(html)), html).everywhere()


def test_keyboard_focus_is_seen(html: str, show: Callable[..., Locator]) -> None:
    box = show(html)
    for name in ("learning rate η", "n"):
        box.page.keyboard.press("Tab")
        track = box.get_by_role("slider", name=name, exact=True)
        assert track.evaluate("(e) => e === document.activeElement")
        assert track.evaluate("(e) => getComputedStyle(e).outline") == "rgb(98, 181, 238) solid 2px"


def test_without_scripts_the_starting_position_stands_there(html: str, show: Callable[..., Locator]) -> None:
    box = show(html, java_script_enabled=False)
    picture = box.get_by_role("img", name=walk.__doc__, exact=True)
    assert picture.is_visible() and picture.bounding_box()["width"] > 500
    assert box.inner_text().strip() == "" and box.locator("svg, input").count() == 0
