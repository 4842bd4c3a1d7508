"""Every page of the built book can be read: offline, in both themes, on a phone, by those who cannot see it."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from posixpath import dirname, join, normpath
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup
from playwright.sync_api import Browser, Page

from tests.browser.conftest import HTML, LESSONS, ROOT, open_page, pages, soup, watched
from tools.fork import address

# Words need a contrast of 4.5, lines of 3 (WCAG 1.4.3, 1.4.11).
CONTRAST = """
    const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const luminance = (colour) => colour.slice(0, 3).map((c) => c / 255)
        .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const contrast = (a, b) => {
        const [dark, light] = [a, b].map((colour) => luminance(numbers(colour))).sort((x, y) => x - y);
        return (light + 0.05) / (dark + 0.05);
    };
"""
# What each check finds wrong with the page that stands open, each thing as a string.
CHECKS = {
    "a formula that is not typeset": r"""() => {
        const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        const found = [...document.querySelectorAll("merror")].map((e) => e.outerHTML);
        while (walk.nextNode()) {
            const text = walk.currentNode;
            if (text.parentElement.closest("pre, code, script, style, svg, math")) continue;
            if (/\$|\\[a-zA-Z([]/.test(text.data)) found.push(text.data.trim());
        }
        return found;
    }""",
    "an icon that is not drawn": """() => [...document.querySelectorAll("[class*='fa-']")]
        .filter((e) => !getComputedStyle(e, "::before").maskImage.startsWith("url("))
        .map((e) => e.outerHTML.slice(0, 200))""",
    # White paper, say, around a table or under a picture.
    "an output on another background": """() => [...document.querySelectorAll(".cell_output *")]
        .filter((e) => e instanceof HTMLElement && document.documentElement.dataset.theme === "dark")
        .filter((e) => {
            const [r, g, b, alpha = 1] = getComputedStyle(e).backgroundColor.match(/[\\d.]+/g).map(Number);
            return alpha > 0.1 && r + g + b > 300;
        })
        .map((e) => e.outerHTML.slice(0, 200))""",
    # What only fills the background of a figure, such as a grid, is drawn with an alpha.
    "a figure's faint ink": f"""() => {{
        {CONTRAST}
        const paper = getComputedStyle(document.body).backgroundColor;
        return [...document.querySelectorAll("svg.lesson-figure :is(text, tspan, path, use)")].filter((e) => {{
            const {{ opacity, fill, stroke, strokeOpacity }} = getComputedStyle(e);
            const word = e.matches("text, tspan");
            const ink = word ? fill : stroke;
            if (e.closest("defs") || !ink.startsWith("rgb(") || ink === paper) return false;
            return opacity * (word ? 1 : strokeOpacity) === 1 && contrast(ink, paper) < (word ? 4.5 : 3);
        }}).map((e) => e.outerHTML.slice(0, 200));
    }}""",
    "a figure's label that is cut off": """() => [...document.querySelectorAll("svg.lesson-figure text")]
        .filter((e) => {
            const [label, figure] = [e, e.ownerSVGElement].map((x) => x.getBoundingClientRect());
            return label.width && (label.left < figure.left - 1 || label.right > figure.right + 1
                || label.top < figure.top - 1 || label.bottom > figure.bottom + 1);
        })
        .map((e) => `${e.textContent} (${e.ownerSVGElement.getAttribute("aria-label")})`)""",
    # A formula may be wider than its box if it scrolls there. Those in a folded solution count as well.
    "a formula that is cut off": """() => {
        const folded = [...document.querySelectorAll("details:not([open])")];
        folded.forEach((e) => { e.open = true; });
        const hides = (e) => getComputedStyle(e).overflowX === "hidden";
        const scrolls = (e) => ["auto", "scroll"].includes(getComputedStyle(e).overflowX);
        const inside = (part, box) => part.left > box.left - 1 && part.right < box.right + 1;
        const found = [...document.querySelectorAll("math")].filter((e) => {
            let box = e.parentElement; // the nearest that scrolls, or else hides, what is too wide
            while (box && !hides(box) && !scrolls(box)) box = box.parentElement;
            const edges = (box ?? document.documentElement).getBoundingClientRect();
            return !(box && scrolls(box)) && !inside(e.getBoundingClientRect(), edges);
        }).map((e) => e.textContent);
        folded.forEach((e) => { e.open = false; });
        return found;
    }""",
    "a scroll bar below": """() => {
        const wide = document.documentElement.scrollWidth - innerWidth;
        return wide > 1 ? [`${wide} px too wide for ${innerWidth} px`] : [];
    }""",
}


# On paper, whatever the theme: words that are pale on white, and backgrounds that are not.
ON_PAPER = f"""() => {{
    {CONTRAST}
    return [...document.querySelectorAll("body, body *")].filter((e) => {{
        if (!e.checkVisibility({{ checkVisibilityCSS: true }}) || e.closest("defs")) return false;
        const {{ backgroundColor, color, fill, filter, textShadow }} = getComputedStyle(e);
        const [r, g, b, alpha = 1] = numbers(backgroundColor);
        const words = [...e.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
        const ink = e.closest("svg") ? fill : color;
        const pale = ink.startsWith("rgb(") && contrast(ink, "rgb(255, 255, 255)") < 4.5;
        return words && (pale || textShadow !== "none") || alpha > 0.1 && r + g + b < 600 || filter !== "none";
    }}).map((e) => e.outerHTML.slice(0, 150));
}}"""


def faults(page: Page) -> dict[str, list[str]]:
    """What all checks find."""
    return {name: found for name, check in CHECKS.items() if (found := page.evaluate(check))}


@pytest.mark.parametrize("path", pages())
def test_a_page_can_be_read(path: str, new_page: Callable[..., Page]) -> None:
    page = new_page(color_scheme="dark")
    open_page(page, path)
    found = {}
    for theme in ("dark", "light"):
        page.emulate_media(color_scheme=theme)
        wait_for_theme(page, theme)
        for width in (1280, 360):
            page.set_viewport_size(dict(width=width, height=900))
            found |= {f"{name} ({theme}, {width} px wide)": fault for name, fault in faults(page).items()}
    assert found == {}
    page.emulate_media(color_scheme="dark")
    wait_for_theme(page, "dark")
    page.emulate_media(media="print", color_scheme="dark")
    wait_for_theme(page, "light")
    assert page.evaluate(ON_PAPER) == []


def wait_for_theme(page: Page, theme: str) -> None:
    page.wait_for_function("theme => document.documentElement.dataset.theme === theme", arg=theme)


@pytest.mark.parametrize(
    "style", ["color: #ccc", "text-shadow: 0 0 2px #000", "background: #123; color: #fff", "filter: invert(1)"]
)
def test_what_is_no_sight_on_paper_is_found(style: str, page: Page) -> None:
    page.set_content(f"<p>text</p><p style='{style}'>text</p>")
    assert len(page.evaluate(ON_PAPER)) == 1


# As a long formula in a sentence on a phone.
CUT_OFF = '<div style="display: flex; overflow: hidden; width: 20px"><math><mspace width="40px"></mspace></math></div>'


def figure(inside: str) -> str:
    return f'<svg class="lesson-figure" aria-label="A figure" width="9" height="9">{inside}</svg>'


@pytest.mark.parametrize(
    ("name", "html"),
    [
        ("a formula that is not typeset", r"<details><p>see \(x\)</p></details>"),
        ("a formula that is not typeset", "<math><merror><mtext>x</mtext></merror></math>"),
        ("an icon that is not drawn", '<i class="fa-solid fa-new"></i>'),
        ("an output on another background", '<div class="cell_output"><p style="background: white">a</p></div>'),
        ("a figure's faint ink", figure('<text y="8" style="fill: #333; font-size: 5px">a</text>')),
        ("a figure's faint ink", figure('<path d="M 0 0 L 3 3" style="fill: none; stroke: #000">a</path>')),
        ("a figure's label that is cut off", figure('<text x="-5" y="8" fill="white" font-size="8">a</text>')),
        ("a formula that is cut off", CUT_OFF),
        ("a formula that is cut off", f"<details>{CUT_OFF}</details>"),
        ("a formula that is cut off", CUT_OFF.replace("hidden", "hidden; flex-direction: row-reverse")),
        ("a scroll bar below", '<p style="width: 9999px">a</p>'),
    ],
)
def test_each_check_finds_its_fault(name: str, html: str, page: Page) -> None:
    page.set_content(f'<html data-theme="dark"><body style="background: #121212; color: white">{html}')
    assert list(faults(page)) == [name]


@pytest.mark.parametrize(
    ("code", "noticed"),
    [
        ("console.error('no')", "console error: no"),
        ("console.warn('no')", "console warning: no"),
        ("setTimeout(() => { throw new Error('no'); })", "error: no"),
        ("fetch('https://example.org/no').catch(() => 0)", "a request to https://example.org/no"),
        ("new Promise((done) => Object.assign(new Image(), { onerror: done, src: 'no.png' }))", "no answer from file:"),
    ],
)
def test_whatever_a_page_says_or_asks_fails_its_test(code: str, noticed: str, browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<title>Empty</title>")
    with pytest.raises(AssertionError, match=noticed), watched(browser) as new_page:
        page = new_page()
        page.goto((tmp_path / "page.html").as_uri())
        page.evaluate(code)
        page.evaluate("new Promise((done) => setTimeout(done))")


# Links


@cache
def places(path: str) -> set[str]:
    return {element["id"] for element in soup(path).select("[id]")}


def leads_on(link: str, path: str) -> bool:
    """Whether an address on a page of the book leads to a place in the book, or has the form of one elsewhere."""
    address = urlsplit(link)
    if address.scheme or address.netloc:
        host = re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", address.netloc)
        ends_well = address.query or not link.endswith((".", ",", ";", ":", ")", "]"))
        well_formed = address.scheme == "https" and host and ends_well and not re.search(r'[\s<>"`{}|\\^]', link)
        return bool(well_formed) or address.scheme == "data"
    target = normpath(join(dirname(path), unquote(address.path))) if address.path else path
    place = unquote(address.fragment) if target.endswith(".html") else ""
    return (HTML / target).is_file() and (not place or place in places(target))


def broken_links(page: BeautifulSoup, path: str) -> list[str]:
    links = [element.get("href") or element.get("src") for element in page.select("[href], [src]")]
    return [link for link in links if not leads_on(link, path)]


@pytest.mark.parametrize("path", ["index.html", "404.html", *pages()])
def test_each_link_leads_somewhere(path: str) -> None:
    assert broken_links(soup(path), path) == []


def test_a_link_that_leads_nowhere_is_found() -> None:
    bad = ["no.html", "../no.css", "index.html#no", "#no", "http://example.org", "//example.org/a", "https://example"]
    bad += ["https://example.org/a b", "https://e.org/a."]
    good = ["index.html", "../index.html", "#", "https://example.org", "https://example.org/a?b=c.", "data:,"]
    page = BeautifulSoup("".join(f'<a href="{link}"></a>' for link in bad + good), "html.parser")
    assert broken_links(page, "book/index.html") == bad


def test_the_front_door_leads_to_a_page(page: Page) -> None:
    page.goto((HTML / "index.html").as_uri())
    page.wait_for_url("**/book/*.html")
    assert page.locator("article h1").inner_text()


@pytest.mark.parametrize("stem", [*LESSONS, "benchmarks"])
def test_a_notebook_opens_in_colab_and_can_be_downloaded_as_it_is(stem: str) -> None:
    page = soup(f"book/{stem}.html")
    repository = address().removeprefix("https://github.com/")
    colab = {f"https://colab.research.google.com/github/{repository}/blob/main/book/{stem}.ipynb"}
    assert {link["href"] for link in page.select("a[href*='colab']")} == colab
    downloads = {link["href"] for link in page.select("a.btn-download-source-button[href]")}
    assert downloads == {f"../_sources/book/{stem}.ipynb"}
    assert (HTML / f"_sources/book/{stem}.ipynb").read_bytes() == (ROOT / f"book/{stem}.ipynb").read_bytes()
