"""Every control of every page does what it is there for, by mouse, finger and keys, at each width.

`controls.js` lists the kinds of controls, and what must be so once one is pressed. One of no kind is a fault.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import ElementHandle, Page, TimeoutError

from tests.browser.conftest import HTML, LESSONS, open_page, pages
from tests.browser.test_slider import WITH_SLIDERS, drivers

SCRIPT = Path(__file__).with_name("controls.js").read_text("utf-8")
# At each width how a reader there presses most likely; on one page, which has every kind, by every means.
WIDTHS = {390: ["touch"], 768: ["touch"], 991: ["keys"], 1280: ["mouse"]}
EVERY_MEANS = ["mouse", "touch", "keys"]
CLIPBOARD = ("clipboard-read", "clipboard-write")
THOROUGH = f"book/{LESSONS[0]}.html"
# A page has many of these. All are pressed from the page itself, and of each kind the first as a reader would.
MANY = {"fold", "copy", "place", "page", "other host"}
SINGLE = {"sidebar", "contents", "search", "theme", "fullscreen", "menu", "slider", "query"}
FOLDING = {"sidebar", "contents", "search"}  # of these it depends on the width what they do
# Never pressed as a reader would, or in tests of their own: not there until something else has happened.
OTHERS = {"scroller", "heading", "skip link", "back to top", "marks", "row of a slider", "print"}


def start(page: Page, path: str) -> None:
    open_page(page, path)
    page.evaluate(SCRIPT)


def find(page: Page, inside: ElementHandle | None = None) -> list[str]:
    """The kinds of all controls there; none may be unknown."""
    kinds = page.evaluate("(inside) => find(inside ?? document.body)", inside)
    assert [kind for kind in kinds if kind not in MANY | SINGLE | OTHERS] == []
    return kinds


def control(page: Page, i: int) -> ElementHandle:
    """The one of those that were found."""
    return page.evaluate_handle("(i) => found[i]", i).as_element()


def press_all(page: Page, kinds: set[str] = MANY | {"scroller", "heading"}) -> None:
    """Press all that were found of these kinds, from the page itself."""
    assert page.evaluate("(kinds) => pressAll(kinds)", [*kinds]) == []


def press(page: Page, kind: str, control: ElementHandle, means: str) -> None:
    """Press a control, and wait until it has worked."""
    point = control.evaluate("(e) => steady(e)")
    where = f"{kind} by {means} at {page.viewport_size['width']} px"
    assert point, f"{where}: something else lies over it"
    at_end = kind == "slider" and control.input_value() == control.get_attribute("max")
    if kind == "slider":  # to the end where its thumb is not
        box = control.bounding_box()
        point[0] = box["x"] + 8 if at_end else box["x"] + box["width"] - 8
    control.evaluate("(e) => before(e)")
    if means == "mouse":
        page.mouse.click(*point)
    elif means == "touch":
        page.touchscreen.tap(*point)
    else:
        control.focus()
        page.keyboard.press("Enter" if kind != "slider" else "ArrowLeft" if at_end else "ArrowRight")
    if kind == "query":
        page.keyboard.type("momentum")
        page.keyboard.press("Enter")
    wait(page, "(e) => after(e)", f"{where} does nothing: {control}", control)


def wait(page: Page, condition: str, otherwise: str, of: ElementHandle | None = None) -> None:
    """Wait until a condition holds on the page."""
    try:
        page.wait_for_function(condition, arg=of)
    except TimeoutError as error:
        focus = page.evaluate("() => document.activeElement.outerHTML.slice(0, 100)")
        raise AssertionError(f"{otherwise}, focus on {focus}") from error


def opened(page: Page) -> ElementHandle | None:
    """The dialog, drawer or menu that stands open."""
    return page.query_selector("dialog[open], .dropdown-menu.show")


def press_inside(page: Page, kind: str, opener: ElementHandle, means: str) -> None:
    """Press what a control has opened, which some things inside close; then close it as a reader does."""
    inside = opened(page)
    if not inside:  # a sidebar that has made room, the search's own page
        return press(page, kind, opener, means) if kind == "sidebar" else None
    kinds = find(page, inside)
    press_all(page, {"page"} if kind == "sidebar" else set())
    for i in range(len(kinds)) if kind == "menu" else {0, len(kinds) - 1}:
        press(page, kinds[i], control(page, i), means)
        if not opened(page):
            reset(page)
            press(page, kind, opener, means)
    x, y = 5 if kind == "contents" else page.viewport_size["width"] - 5, page.viewport_size["height"] - 5
    if means == "keys":
        page.keyboard.press("Escape")
    else:  # beside it
        page.mouse.click(x, y) if means == "mouse" else page.touchscreen.tap(x, y)
    closed = "() => !document.querySelector('dialog[open], .dropdown-menu.show')"
    wait(page, closed, f"{kind} stays open by {means} at {page.viewport_size['width']} px")


def reset(page: Page) -> None:
    page.evaluate("() => reset()")
    # The theme puts a drawer's contents back where they were.
    page.wait_for_function("() => !document.querySelector('dialog:not(#pst-search-dialog) > *')")


@pytest.mark.parametrize("path", pages())
def test_every_control_works(path: str, new_page: Callable[..., Page]) -> None:
    page = new_page(has_touch=True, reduced_motion="reduce", permissions=CLIPBOARD)
    start(page, path)
    for width, likely in WIDTHS.items():
        page.set_viewport_size(dict(width=width, height=900))
        page.evaluate("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
        page.wait_for_function("() => settled()")
        kinds = find(page)
        press_all(page)
        chosen = MANY | SINGLE if width == 390 or path == THOROUGH and width == 1280 else FOLDING
        first = [i for i, kind in enumerate(kinds) if kind in chosen and (kind in SINGLE or kind not in kinds[:i])]
        assert {"sidebar", "search"} <= {kinds[i] for i in first}, "controls that every page has"
        for kind, one in [(kinds[i], control(page, i)) for i in first]:
            for means in EVERY_MEANS if path == THOROUGH else likely:
                press(page, kind, one, means)
                press_inside(page, kind, one, means)
                reset(page)
            if kind == "fold":  # what it holds comes next
                one.evaluate("(e) => { e.parentElement.open = true; }")


@pytest.mark.parametrize(
    "html",
    [
        "<button>Of no kind</button>",
        '<div style="cursor: pointer">Of no kind</div>',
        '<p tabindex="0">Of no kind</p>',
        '<details><summary onclick="event.preventDefault()">Dead</summary></details>',
        '<a href="#a">Covered</a><p id="a" style="position: absolute; inset: 0"></p>',
        '<a href="#a">To nothing</a>',
        '<a href="b.html" onclick="event.preventDefault()">Dead</a>',
        '<a href="b.html" inert>Without focus</a>',
        '<pre tabindex="0" style="width: 9px; overflow: clip">Cut off</pre>',
    ],
)
def test_a_control_that_is_of_no_kind_or_does_nothing_is_found(html: str, page: Page) -> None:
    page.set_content(f"<body>{html}</body>")
    page.evaluate(SCRIPT)
    with pytest.raises(AssertionError):
        find(page)
        press_all(page)


def test_a_tooltip_lies_over_nothing_and_goes_with_its_button(page: Page) -> None:
    open_page(page, "book/index.html")
    page.locator(".btn-fullscreen-button").hover()
    tooltip = page.locator(".tooltip")
    tooltip.wait_for()  # half a second after
    box = tooltip.bounding_box()
    middle = [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2]
    assert not page.evaluate("(point) => document.elementFromPoint(...point).closest('.tooltip')", middle)
    page.evaluate("document.querySelector('.btn-fullscreen-button').style.display = 'none'")
    page.evaluate("dispatchEvent(new Event('resize'))")
    tooltip.wait_for(state="hidden")


def test_the_skip_link_and_the_way_back_to_the_top(new_page: Callable[..., Page]) -> None:
    page = new_page(viewport=dict(width=390, height=900), has_touch=True, reduced_motion="reduce")
    for means in EVERY_MEANS:
        start(page, f"book/{LESSONS[0]}.html")
        page.keyboard.press("Tab")
        press(page, "skip link", control(page, find(page).index("skip link")), means)
        page.keyboard.press("Tab")
        assert page.evaluate("() => document.activeElement.closest('main') !== null")
        for y in (5000, 3000):  # on the way up it is shown
            page.evaluate("(y) => new Promise((done) => { onscroll = done; scrollTo(0, y); })", y)
        page.locator("#pst-back-to-top").wait_for()
        press(page, "back to top", control(page, find(page).index("back to top")), means)


def test_what_was_searched_for_is_marked_until_the_reader_hides_it(new_page: Callable[..., Page]) -> None:
    page = new_page(has_touch=True, reduced_motion="reduce")
    for means in EVERY_MEANS:
        page.goto(f"{(HTML / 'book/gradient_descent.html').as_uri()}?highlight=momentum")
        page.evaluate(SCRIPT)
        page.locator("span.highlighted").first.wait_for(state="attached")
        press(page, "marks", control(page, find(page).index("marks")), means)


# What a page remembers, and what is kept of it


def move(page: Page, stem: str) -> list[list[int]]:
    """Move each slider to one of its ends, where its words and picture must say the same; where they then stand."""
    found = []
    for driver in drivers(page, stem):
        for i, place in enumerate(driver.indices):
            driver.press(i, *(("Home", 0) if place else ("End", len(driver.parameters[i]["values"]) - 1)))
        found.append(driver.indices)
    return found


@pytest.mark.parametrize("stem", WITH_SLIDERS)
def test_sliders_that_a_browser_brings_back_say_what_their_picture_shows(
    stem: str, new_page: Callable[..., Page], tmp_path: Path
) -> None:
    page = new_page()
    open_page(page, f"book/{stem}.html")
    move(page, stem)
    page.goto((HTML / "404.html").as_uri())
    for again in (page.go_back, page.reload):
        again()
        moved = move(page, stem)
    for copy in ("saved.html", "copy of saved.html") if stem in ("index", "optimization") else ():
        tags = page.evaluate("() => document.querySelectorAll('*').length")
        page.goto(save(page, tmp_path / copy))
        assert page.evaluate("() => document.querySelectorAll('*').length") == tags
        assert [driver.indices for driver in drivers(page, stem)] == moved
        moved = move(page, stem)


def save(page: Page, path: Path) -> str:
    """Save a page as a browser does: as it stands, the addresses of its files made whole. Its new address."""
    html = page.evaluate("() => document.documentElement.outerHTML")
    path.write_text("<!DOCTYPE html>" + html.replace('="../_static', f'="{HTML.as_uri()}/_static'), "utf-8")
    return path.as_uri()


def test_a_page_that_was_saved_with_everything_open_works(new_page: Callable[..., Page], tmp_path: Path) -> None:
    page = new_page(viewport=dict(width=390, height=900), reduced_motion="reduce", permissions=CLIPBOARD)
    start(page, f"book/{LESSONS[0]}.html")
    page.wait_for_function("() => document.querySelector('.copybtn')")

    def kinds() -> list[str]:
        return sorted(kind for kind in find(page) if kind != "back to top")  # it comes and goes

    before = kinds()
    page.locator(".btn-fullscreen-button").hover()
    page.locator(".tooltip").first.wait_for()
    for opener in (".primary-toggle", ".secondary-toggle"):
        page.evaluate("() => document.querySelector('.theme-switch-button').click()")
        page.locator(opener).click()
        page.locator("dialog[open] a").first.wait_for()
        page.goto(save(page, tmp_path / f"{opener[1:]}.html"))
        page.wait_for_function("() => !document.querySelector('dialog[open], dialog.bd-sidebar')")
        page.evaluate(SCRIPT)
        assert kinds() == before
        for kind in SINGLE - {"query", "slider"}:
            press(page, kind, control(page, find(page).index(kind)), "mouse")
            reset(page)
        find(page)
        press_all(page, {"copy", "fold"})


def test_a_page_that_back_brings_as_it_was_has_the_theme_chosen_since(page: Page) -> None:
    open_page(page, "book/index.html")
    assert page.evaluate("() => document.documentElement.dataset.theme") == "light"
    page.evaluate("""() => {
        localStorage.setItem("mode", "dark");
        dispatchEvent(new PageTransitionEvent("pageshow", { persisted: true }));
    }""")
    assert page.evaluate("() => ({...document.documentElement.dataset}).theme") == "dark"
