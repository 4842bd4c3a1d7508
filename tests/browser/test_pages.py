"""Every page of the built book can be read: offline, in both themes, on a phone, by those who cannot see it."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from posixpath import dirname, join, normpath
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from bs4 import BeautifulSoup
from playwright.sync_api import Browser, Page

from tests.browser.conftest import HTML, ROOT, open_page, pages, watched

LESSONS = sorted(path.stem for path in (ROOT / "book").glob("*.ipynb"))
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
    "a picture without a name": """() => [...document.querySelectorAll("img, svg")]
        .filter((e) => !e.closest("[aria-hidden=true]"))
        .filter((e) => !(e.ariaLabel ?? e.alt ?? e.querySelector("title")?.textContent ?? "").trim())
        .map((e) => e.outerHTML.slice(0, 200))""",
    "an empty heading": """() => [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")]
        .filter((e) => !e.closest("#jb-print-docs-body")) // the theme's title for paper
        .filter((e) => ![...e.childNodes].some((n) => !n.classList?.contains("headerlink") && n.textContent.trim()))
        .map((e) => e.outerHTML)""",
    "an id that is not the only one": """() => {
        const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
        return ids.filter((id, i) => ids.indexOf(id) !== i);
    }""",
    # White paper, say, around a table or under a picture.
    "an output on another background": """() => [...document.querySelectorAll(".cell_output *")]
        .filter((e) => e instanceof HTMLElement && document.documentElement.dataset.theme === "dark")
        .filter((e) => {
            const [r, g, b, alpha = 1] = getComputedStyle(e).backgroundColor.match(/[\\d.]+/g).map(Number);
            return alpha > 0.1 && r + g + b > 300;
        })
        .map((e) => e.outerHTML.slice(0, 200))""",
    # Words need a contrast of 4.5, lines of 3 (WCAG 1.4.3, 1.4.11). What only fills the background of a figure, such
    # as a grid, is drawn with an alpha, and paper is the page's own colour.
    "a figure's faint ink": """() => {
        const luminance = (colour) => colour.map((c) => c / 255)
            .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
            .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
        const numbers = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map(Number);
        const paper = getComputedStyle(document.body).backgroundColor;
        const contrast = (colour) => {
            const [dark, light] = [colour, paper].map((c) => luminance(numbers(c))).sort((a, b) => a - b);
            return (light + 0.05) / (dark + 0.05);
        };
        return [...document.querySelectorAll("svg.lesson-figure :is(text, tspan, path, use)")].filter((e) => {
            const { opacity, fill, stroke, strokeOpacity } = getComputedStyle(e);
            const word = e.matches("text, tspan");
            const ink = word ? fill : stroke;
            if (e.closest("defs") || !ink.startsWith("rgb(") || ink === paper) return false;
            return opacity * (word ? 1 : strokeOpacity) === 1 && contrast(ink) < (word ? 4.5 : 3);
        }).map((e) => e.outerHTML.slice(0, 200));
    }""",
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
ON_PAPER = """() => {
    const luminance = (colour) => colour.map((c) => c / 255)
        .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const found = [...document.querySelectorAll("body, body *")].filter((e) => {
        if (!e.checkVisibility({ checkVisibilityCSS: true }) || e.closest("defs")) return false;
        const { backgroundColor, color, fill, filter, textShadow } = getComputedStyle(e);
        const [r, g, b, alpha = 1] = numbers(backgroundColor);
        const words = [...e.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
        const ink = e.closest("svg") ? fill : color;
        const pale = ink.startsWith("rgb(") && 1.05 / (luminance(numbers(ink)) + 0.05) < 4.5;
        return words && (pale || textShadow !== "none") || alpha > 0.1 && r + g + b < 600 || filter !== "none";
    });
    return found.map((e) => e.outerHTML.slice(0, 150));
}"""


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
        page.wait_for_function("theme => document.documentElement.dataset.theme === theme", arg=theme)
        for width in (1280, 360):
            page.set_viewport_size(dict(width=width, height=900))
            found |= {f"{name} ({theme}, {width} px wide)": fault for name, fault in faults(page).items()}
    assert found == {}
    page.emulate_media(media="print", color_scheme="dark")
    page.wait_for_function("() => document.documentElement.dataset.theme === 'dark'")
    assert page.evaluate(ON_PAPER) == []


@pytest.mark.parametrize(
    "style",
    [
        "color: #ccc",
        "text-shadow: 0 0 2px #000",
        "background: #333",
        "filter: invert(1)",
        "background: #123; color: #fff",
    ],
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
        ("a formula that is not typeset", "<p>so $x^2$</p>"),
        ("a formula that is not typeset", r"<p>\begin{align}</p>"),
        ("a formula that is not typeset", r"<details><p>see \(x\)</p></details>"),
        ("a formula that is not typeset", "<math><merror><mtext>x</mtext></merror></math>"),
        ("a picture without a name", '<img src="data:,">'),
        ("a picture without a name", '<img src="data:," alt=" ">'),
        ("a picture without a name", "<svg></svg>"),
        ("an empty heading", '<h2> <a class="headerlink" href="#">#</a></h2>'),
        ("an id that is not the only one", '<p id="a"></p><p id="a"></p>'),
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
    "html",
    [
        r"<p><code>$x$</code> and 3 \ 4</p><pre>\tag{1}</pre><h1>a</h1>",
        figure('<text y="8" fill="white" font-size="5">a</text><path d="M 0 0" opacity="0.5" stroke="#333" />'),
        '<div class="cell_output"><p>a</p></div><svg aria-hidden="true"></svg>',
        CUT_OFF.replace("40px", "9px"),
        CUT_OFF.replace("overflow: hidden", "overflow: auto hidden"),
    ],
)
def test_no_check_finds_a_fault_where_there_is_none(html: str, page: Page) -> None:
    page.set_content(f'<html data-theme="dark"><body style="background: #121212; color: white">{html}')
    assert faults(page) == {}


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


@cache
def soup(path: str) -> BeautifulSoup:
    return BeautifulSoup((HTML / path).read_text("utf-8"), "html.parser")


@cache
def places(path: str) -> set[str]:
    return {element["id"] for element in soup(path).select("[id]")}


def broken_links(path: str, page: BeautifulSoup) -> list[str]:
    """The addresses on a page that lead nowhere in the book."""
    broken = []
    for element in page.select("[href], [src]"):
        address = urlsplit(element.get("href") or element.get("src"))
        if address.scheme or address.netloc:
            continue
        target = normpath(join(dirname(path), unquote(address.path))) if address.path else path
        place = unquote(address.fragment) if target.endswith(".html") else ""
        if not (HTML / target).is_file() or (place and place not in places(target)):
            broken.append(address.geturl())
    return broken


@pytest.mark.parametrize("path", ["index.html", *pages()])
def test_each_link_inside_the_book_leads_somewhere(path: str) -> None:
    assert broken_links(path, soup(path)) == []


def test_a_link_that_leads_nowhere_is_found() -> None:
    links = ["no.html", "../no.css", "index.html#no", "#no", "index.html", "../index.html", "https://example.org", "#"]
    page = BeautifulSoup("".join(f'<a href="{link}"></a>' for link in links), "html.parser")
    assert broken_links("book/index.html", page) == links[:4]


def ill_formed_links(page: BeautifulSoup) -> list[str]:
    """The addresses of other hosts that are not https, hold what no address may, or end in a sentence's full stop."""
    found = []
    for element in page.select("[href], [src]"):
        link = element.get("href") or element.get("src")
        address = urlsplit(link)
        if not (address.scheme or address.netloc) or address.scheme == "data":
            continue
        host = re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", address.netloc)
        ends_well = address.query or not address.geturl().endswith((".", ",", ";", ":", ")", "]"))
        if address.scheme != "https" or not host or not ends_well or re.search(r'[\s<>"`{}|\\^]', link):
            found.append(link)
    return found


@pytest.mark.parametrize("path", ["index.html", "404.html", *pages()])
def test_each_link_to_another_host_has_the_form_of_one(path: str) -> None:
    assert ill_formed_links(soup(path)) == []


def test_a_link_without_the_form_of_one_is_found() -> None:
    bad = ["http://example.org", "//example.org/a", "https://example", "https://example.org/a b", "https://e.org/a."]
    good = ["https://example.org", "https://example.org/a?b=c.", "a.html", "#a", "data:,"]
    page = BeautifulSoup("".join(f'<a href="{link}"></a>' for link in bad + good), "html.parser")
    assert ill_formed_links(page) == bad


def test_the_front_door_leads_to_a_page(page: Page) -> None:
    page.goto((HTML / "index.html").as_uri())
    page.wait_for_url("**/book/*.html")
    assert page.locator("article h1").inner_text()


@pytest.mark.parametrize("stem", LESSONS)
def test_a_lesson_opens_in_colab(stem: str) -> None:
    repository = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))["repository"]["url"]
    owner_and_name = repository.removeprefix("https://github.com/")
    links = {link["href"] for link in soup(f"book/{stem}.html").select("a[href*='colab']")}
    assert links == {f"https://colab.research.google.com/github/{owner_and_name}/blob/main/book/{stem}.ipynb"}


@pytest.mark.parametrize("stem", LESSONS)
def test_a_lesson_s_notebook_can_be_downloaded_as_it_is(stem: str) -> None:
    links = {link["href"] for link in soup(f"book/{stem}.html").select("a.btn-download-source-button[href]")}
    assert links == {f"../_sources/book/{stem}.ipynb"}
    assert (HTML / f"_sources/book/{stem}.ipynb").read_bytes() == (ROOT / f"book/{stem}.ipynb").read_bytes()
