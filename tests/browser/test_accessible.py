"""Every page can be used by everyone: by those who do not see it, have no mouse, no fast line, no patience."""

import gzip
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

import html5lib
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from tests.browser.conftest import HTML, LESSONS, context, open_page, pages, soup

WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
OPTIONS = {"runOnly": WCAG, "resultTypes": ["violations"], "preload": False}  # a page of files may not read its styles
# Everything open. What looks alike is looked at once, in code and in formulas: all would take axe a minute a page. What
# is drawn in a figure has its contrast measured in test_pages.py, more strictly.
PREPARE = """() => {
    for (const fold of document.querySelectorAll("details")) fold.open = true;
    for (const figure of document.querySelectorAll("svg.lesson-figure")) figure.replaceChildren();
    const seen = new Set();
    for (const part of document.querySelectorAll(".highlight span, math")) {
        const block = part.closest(".highlight, p, li, td, div, h1, h2, h3");
        const kind = [part.tagName, part.className, block.tagName, block.parentElement.className].join();
        if (seen.has(kind)) part.replaceWith(part.textContent);
        seen.add(kind);
    }
}"""
# Sums the layout shifts, from the first moment on.
WATCH_SHIFTS = """
window.shifts = [];
new PerformanceObserver((list) => {
  for (const { value, sources } of list.getEntries())
    window.shifts.push([value, ...sources.map(({ node }) => node?.textContent.trim().slice(0, 60))]);
}).observe({ type: "layout-shift", buffered: true });
"""
# Lets a page arrive on a slow line: what fills the first window in forty pieces, and each is painted before the next
# comes. They end with a line, as a formula's own would grow by pixels if its root came after the rest, and with a
# table's row, whose cells share its width.
ARRIVE = """async (html) => {
    const pieces = html.match(/[^]{1,1500}[^\\n]*\\n?(?:(?:(?!<tr)[^])*?<\\/tr>\\n?)?/g);
    document.open();
    for (const piece of [...pieces.splice(0, 40), pieces.join("")]) {
        document.write(piece);
        await new Promise(requestAnimationFrame);
    }
    document.close();
    await document.fonts.ready;
    for (let i = 0; i < 3; i += 1) await new Promise(requestAnimationFrame);
}"""


@pytest.mark.parametrize("path", pages())
def test_axe_finds_no_fault_in_either_theme(path: str, new_page: Callable[..., Page]) -> None:
    page = new_page(reduced_motion="reduce")  # what fades in has no contrast at first
    open_page(page, path)
    page.evaluate(PREPARE)
    found = {}
    # The theme changes colours alone: for the second one, only they are looked at.
    for theme, rules in (("light", OPTIONS), ("dark", OPTIONS | {"runOnly": ["color-contrast"]})):
        page.emulate_media(color_scheme=theme)
        page.wait_for_function("theme => document.documentElement.dataset.theme === theme", arg=theme)
        report = Axe().run(page, options=rules).response
        assert report["passes"], "axe has looked at nothing"
        for fault in report["violations"]:
            found[theme, fault["id"]] = [node["html"][:200] for node in fault["nodes"][:5]]
    assert found == {}


def test_axe_finds_faults(page: Page) -> None:
    faults = '<img src="data:,"><p style="color: #bbb; background: #fff">pale</p>'
    page.set_content(f'<html lang="en"><title>A page</title><main><h1>Title</h1>{faults}</main>')
    found = Axe().run(page, options=OPTIONS).response["violations"]
    assert {violation["id"] for violation in found} == {"image-alt", "color-contrast"}


@pytest.mark.parametrize("path", ["index.html", "404.html", *pages()])
def test_the_html_is_well_formed(path: str) -> None:
    parser = html5lib.HTMLParser()
    text = (HTML / path).read_text("utf-8")
    parser.parse(text)
    assert [(text.splitlines()[line - 1][:200], code) for (line, _), code, _ in parser.errors] == []
    assert not re.search(r"<summary[^>]*>\s*<p|<style(?![^>]*>).*</body>", text)  # which a parser lets pass
    page = soup(path)
    ids = [element["id"] for element in page.select("[id]")]
    assert len(ids) == len(set(ids)) and not page.select("body style")
    headings = [
        heading for heading in page.select("h1, h2, h3, h4") if not heading.find_parent(id="jb-print-docs-body")
    ]
    assert all(heading.text.strip("# \n") for heading in headings)  # but the theme's for paper


@pytest.mark.parametrize("path", pages())
def test_nothing_moves_while_a_page_arrives(path: str, new_page: Callable[..., Page]) -> None:
    url = (HTML / path).as_uri()
    for width in (1280, 360):
        page = new_page(viewport=dict(width=width, height=900))
        page.add_init_script(WATCH_SHIFTS)
        page.route(url, lambda route: route.fulfill(body="", content_type="text/html"))
        page.goto(url)
        page.evaluate(ARRIVE, (HTML / path).read_text("utf-8"))
        assert page.evaluate("window.shifts") == []


def test_what_moves_is_seen(page: Page, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<title>A page</title><p id=a></p><p>text</p>")
    page.add_init_script(WATCH_SHIFTS)
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_timeout(100)
    page.evaluate("document.querySelector('#a').style.height = '300px'")
    page.wait_for_function("window.shifts.length > 0")


@pytest.mark.parametrize("path", ["404.html", *pages()])
def test_a_page_is_light_and_asks_no_other_host_nor_may_it(path: str, browser: Browser) -> None:
    page = context(browser).new_page()
    seen: set[str] = set()
    asked: list[str] = []
    page.on("request", lambda request: seen.add(request.url))
    page.route(re.compile("^http"), lambda route: (asked.append(route.request.url), route.abort()))
    page.goto((HTML / path).as_uri())
    files = [Path(unquote(urlsplit(url).path)) for url in seen if url.startswith("file:")]
    sizes = {file.name: len(gzip.compress(file.read_bytes())) for file in files}
    assert 0 < sum(sizes.values()) < 500_000, sizes
    refused = page.evaluate("""async () => {
        const seen = [];
        addEventListener("securitypolicyviolation", (e) => seen.push(e.blockedURI));
        await fetch("https://example.org/a").catch(() => null);
        const picture = new Image();
        await new Promise((done) => Object.assign(picture, { onerror: done, src: "https://example.org/b.png" }));
        return seen;
    }""")
    assert len(refused) == 2
    assert asked == []
    page.close()


@pytest.mark.parametrize("stem", ["index", LESSONS[0]])
def test_the_keyboard_reaches_everything_in_order(stem: str, new_page: Callable[..., Page]) -> None:
    page = new_page(viewport=dict(width=1280, height=900))
    open_page(page, f"book/{stem}.html")
    # What can take the focus, in the order of the page; each must get it in turn, and show it.
    expected = page.evaluate("""() => [...document.querySelectorAll("a[href], button, input, summary, [tabindex='0']")]
        .filter((e) => e.tabIndex >= 0 && !e.disabled && e.checkVisibility({ checkVisibilityCSS: true }))
        .filter((e) => e.getBoundingClientRect().width > 0)
        .map((e, i) => (e.dataset.place = i))""")
    reached, dim = [], []
    for _ in range(len(expected) + 5):
        page.keyboard.press("Tab")
        place, seen = page.evaluate("""() => {
            const e = document.activeElement, style = getComputedStyle(e), after = getComputedStyle(e, "::after");
            const shown = [style, after].some((s) => s.outlineStyle !== "none" && parseFloat(s.outlineWidth) > 0);
            const other = style.boxShadow !== "none" || e.querySelector("circle") !== null;
            return [e.dataset.place ?? null, shown || other || e.outerHTML.slice(0, 150)];
        }""")
        if place is not None:
            reached.append(int(place))
            dim += [] if seen is True else [seen]
    assert set(expected) - set(reached) == set() and dim == []
    first = list(dict.fromkeys(reached))
    assert first[first.index(0) :] == sorted(first[first.index(0) :])


def test_who_wants_no_motion_gets_none(new_page: Callable[..., Page]) -> None:
    page = new_page(reduced_motion="reduce")
    open_page(page, f"book/{LESSONS[0]}.html")
    moving = page.evaluate("""() => [...document.querySelectorAll("*")].filter((e) => {
        const { animationName, transitionDuration, transitionProperty } = getComputedStyle(e);
        const moves = transitionProperty !== "none" && !/^(0s(, )?)+$/.test(transitionDuration);
        return animationName !== "none" || moves;
    }).map((e) => e.outerHTML.slice(0, 100))""")
    assert moving == []
