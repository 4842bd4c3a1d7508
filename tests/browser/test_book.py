"""The book's own pages say of the lessons what the lessons say, and can be found, shared, printed and searched."""

import functools
import http.server
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from playwright.sync_api import Browser, Page, expect
from pypdf import PdfReader

from tests.browser.conftest import HTML, ROOT, context, open_page, pages
from tests.browser.test_pages import LESSONS, soup
from tools import pdf
from tools.fork import address
from tools.notebooks import read

sys.path.insert(0, str(ROOT / "book/_ext"))
from lessons import BOOK, URL, Lesson

TAUGHT = [stem for stem in LESSONS if stem != "benchmarks"]


def prose(stem: str) -> str:
    return "\n".join(cell.source for cell in read(BOOK / f"{stem}.ipynb").cells if cell.cell_type == "markdown")


def num_exercises(stem: str) -> int:
    return len(re.findall(r"^\*\*\d+\. ", prose(stem), re.M))


# The first page


def test_each_lesson_has_a_card_with_a_picture_of_its_own() -> None:
    cards = soup("book/index.html").select(".lesson-card")
    assert sorted(card.select_one("h3 a")["href"] for card in cards) == sorted(f"{stem}.html" for stem in TAUGHT)
    for card in cards:
        stem = card.select_one("h3 a")["href"].removesuffix(".html")
        label = card.select_one("svg.lesson-figure")["aria-label"]
        lesson = soup(f"book/{stem}.html")
        assert lesson.select(f'svg[aria-label="{label}"], img[alt="{label}"]'), stem
        assert re.fullmatch(r"\d+ minutes · \d sliders? · \d exercises", card.select_one(".lesson-facts").text)


def test_the_map_has_an_arrow_for_each_lesson_that_an_opening_asks_for() -> None:
    drawn = soup("book/index.html").select_one(".lesson-map")
    assert [link["href"] for link in drawn.select("a")] == [f"{stem}.html" for stem in in_order()]
    needs = {stem: Lesson(BOOK, stem).needs for stem in TAUGHT}
    assert needs["resnet"] == ["batch_norm"] and needs["minibatch_sgd"] == ["sgd", "batch_norm"]
    assert len(drawn.select(".arcs path")) == sum(map(len, needs.values()))


def in_order() -> list[str]:
    """In the book's order."""
    return re.findall(r"file: book/(\w+)$", (ROOT / "_toc.yml").read_text(), re.M)[: len(TAUGHT)]


# A lesson's page


@pytest.mark.parametrize("stem", TAUGHT)
def test_a_lesson_says_what_it_takes_and_what_it_gives(stem: str) -> None:
    article = soup(f"book/{stem}.html").select_one("article")
    opening = read(BOOK / f"{stem}.ipynb").cells[0].source
    goals = article.select(".lesson-goals li")
    assert len(goals) == opening.count("\n- ") >= 3
    assert article.select_one(".lesson-goals p").text == "After this lesson you can"
    minutes, sliders, exercises = map(int, re.findall(r"\d+", article.select_one(".lesson-facts").text))
    assert 15 <= minutes <= 90
    assert sliders == len(article.select(".lesson-slider")) and exercises == num_exercises(stem)


@pytest.mark.parametrize("stem", TAUGHT)
def test_each_lesson_leads_to_the_one_before_and_the_one_after(stem: str) -> None:
    order = ["index", *in_order(), "sliders"]
    place = order.index(stem)
    links = [
        soup(f"book/{stem}.html").select_one(f".prev-next-area a.{side}-{kind}")["href"]
        for side, kind in (("left", "prev"), ("right", "next"))
    ]
    assert links == [f"{order[place - 1]}.html", f"{order[place + 1]}.html"]


# Lists


def test_every_slider_is_listed_and_its_link_leads_to_it() -> None:
    rows = soup("book/sliders.html").select("tbody tr")
    links = [row.select("a")[1]["href"] for row in rows]
    expected = [
        f"{stem}.html#slider-{i}"
        for stem in in_order()
        for i in range(1, len(soup(f"book/{stem}.html").select(".lesson-slider")) + 1)
    ]
    assert links == expected
    assert "learning rate η: η = 0.03 to η = 10" in rows[0].text


def test_every_exercise_is_listed_with_its_folded_solution() -> None:
    page = soup("book/exercises.html")
    links = [link["href"] for link in page.select("details a[href*='#exercise-']")]
    assert links == [f"{stem}.html#exercise-{i + 1}" for stem in in_order() for i in range(num_exercises(stem))]
    assert not page.select("details[open]") and all(len(fold.text.strip()) > 40 for fold in page.select("details"))


@pytest.mark.parametrize("stem", TAUGHT)
def test_every_source_of_a_lesson_is_listed_with_it(stem: str) -> None:
    items = soup("book/bibliography.html").select("article li")
    for url in re.findall(rf"\]\(({URL})\)", prose(stem).rpartition("Sources:")[2]):
        title = next(m[0] for m in re.findall(rf"\[([^]]+)\]\(({URL})\)", prose(stem)) if m[1] == url)
        found = [item for item in items if item.select(f'a[href="{url}"]') or (title in item.text and "d2l.ai" in url)]
        assert len(found) == 1 and found[0].select(f'a[href="{stem}.html"]'), url


def test_sources_are_sorted_and_none_stands_twice() -> None:
    items = [item.text for item in soup("book/bibliography.html").select("article li")]
    names = [re.sub(r"^(?:\w\.-?)+ ", "", re.split(r",| and ", item)[0]).casefold() for item in items]
    assert names == sorted(names) and len(set(items)) == len(items) > 40
    assert not any("The same" in item for item in items)
    assert all(re.match(r"\w", item) for item in items)
    dated = [item for item in items if re.search(r", (19|20)\d\d\b", item)]
    assert len(dated) > 0.8 * len(items)  # the others are books that grow


@pytest.mark.parametrize(
    "row",
    re.findall(r"^\| (\$.+?\$) \| `(.+?)` \|.*\((\w+)\.ipynb\) \|$", (BOOK / "notation.md").read_text("utf-8"), re.M),
    ids=" ".join,
)
def test_a_symbol_and_its_name_occur_where_the_notation_says(row: tuple[str, str, str]) -> None:
    symbol, name, stem = row
    formulas = " ".join(re.findall(r"(?s)\$\$.+?\$\$|\$[^$]+\$", prose(stem)))
    code = "\n".join(cell.source for cell in read(BOOK / f"{stem}.ipynb").cells if cell.cell_type == "code")
    assert symbol.strip("$") in formulas
    assert re.search(rf"\b{re.escape(name.partition('[')[0])}", code) or name in prose(stem)


# What a site needs


def test_the_map_of_the_site_lists_every_page() -> None:
    owner, name = address().split("/")[-2:]
    base = f"https://{owner.lower()}.github.io/{name}/"
    urls = [element.text for element in ElementTree.parse(HTML / "sitemap.xml").iter() if element.tag.endswith("loc")]
    assert urls == sorted(base + path for path in pages() if path != "search.html")
    assert f'href="{base}book/index.html"' in (HTML / "404.html").read_text("utf-8")


@pytest.mark.parametrize("path", [path for path in pages() if path != "search.html"])
def test_a_page_that_is_shared_has_a_title_and_a_picture(path: str) -> None:
    tags = {tag["property"]: tag["content"] for tag in soup(path).select("meta[property^=og]")}
    assert tags["og:title"] and tags["og:url"].endswith(path) and len(tags["og:image:alt"]) > 20
    assert tags["og:image"].endswith("_static/preview.png")
    assert (HTML / "_static/preview.png").read_bytes()[:4] == b"\x89PNG"


def test_a_page_says_of_which_version_and_day_it_is() -> None:
    assert re.search(r"licence\.\s+(Version [0-9a-f]{7,}, )?\d{1,2} \w+ 20\d\d\.", soup("book/index.html").text)


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    """The book, served as a site."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=HTML)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("momentum", "gradient_descent.html"),
        ("动量", "resnet.html"),
        ("batch normalisation", "batch_norm.html"),
        ("gradient_descent", "gradient_descent.html"),
    ],
)
@pytest.mark.parametrize("from_file", [True, False])
def test_search_finds(words: str, found: str, from_file: bool, browser: Browser, served: str) -> None:
    with context(browser).new_page() as page:
        page.goto(f"{HTML.as_uri() if from_file else served}/search.html?q={words}")
        expect(page.locator(f"#search-results a[href*='{found}']").first).to_be_visible(timeout=120_000)


# Paper


def test_two_chapters_print_into_one_pdf_that_leads_nowhere_on_this_machine(
    tmp_path: Path, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pdf, "chapters", lambda: ["book/index", "book/glossary"])
    pdf.print_book(browser, tmp_path / "book.pdf")
    reader = PdfReader(tmp_path / "book.pdf")
    assert [item.title for item in reader.outline if not isinstance(item, list)] == [
        "Why Deep Networks Train",
        "Glossary",
    ]
    text = "\n".join(sheet.extract_text() for sheet in reader.pages)
    assert "training loss" in text and "all-reduce" in text  # a slider's picture, a row of the glossary
    assert b"file:/" not in (tmp_path / "book.pdf").read_bytes()
    links = [a.get_object() for sheet in reader.pages for a in sheet.get("/Annots", [])]
    assert any("/Dest" in link for link in links)


def test_the_pdf_has_every_page_of_the_book() -> None:
    assert sorted(f"{chapter}.html" for chapter in pdf.chapters()) == [
        path for path in pages() if path != "search.html"
    ]


def test_on_paper_everything_is_open_and_nothing_can_be_pressed(new_page: Callable[..., Page]) -> None:
    page = new_page()
    open_page(page, f"book/{LESSONS[0]}.html")
    page.emulate_media(media="print")
    folded = page.locator("details:not([open])").count()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0 < folded
    assert page.locator(".lesson-slider input:visible, .bd-sidebar:visible, .copybtn:visible").count() == 0
    assert page.locator(".lesson-slider svg:visible").count() > 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details:not([open])").count() == folded
