"""The book's own pages say of the lessons what the lessons say, and can be found, shared, printed and searched."""

import re
from collections.abc import Callable
from importlib import import_module
from inspect import isfunction, signature
from pathlib import Path
from xml.etree import ElementTree

import pytest
from docutils.nodes import make_id
from playwright.sync_api import Browser, Page, expect
from pypdf import PdfReader

from tests.browser.conftest import HTML, LESSONS, ROOT, context, open_page, pages, soup
from tools import pdf
from tools.contents import facts, title
from tools.fork import address
from tools.notebooks import read

BOOK = ROOT / "book"
CELLS = {stem: read(BOOK / f"{stem}.ipynb").cells for stem in LESSONS}
PROSE, CODE = (
    {stem: "\n".join(cell.source for cell in cells if cell.cell_type == kind) for stem, cells in CELLS.items()}
    for kind in ("markdown", "code")
)
EXERCISES = [
    f"{stem}.html#exercise-{number}" for stem in LESSONS for number in re.findall(r"(?m)^\*\*(\d+)\. ", PROSE[stem])
]


# The first page


def test_each_lesson_has_a_card_with_a_picture_of_its_own() -> None:
    cards = soup("book/index.html").select(".lesson-card")
    assert [card.select_one("h3 a")["href"] for card in cards] == [f"{stem}.html" for stem in LESSONS]
    for stem, card in zip(LESSONS, cards, strict=True):
        assert (card.h3.text, card.p.text) == (title(stem), facts(stem)["shows"])
        label = card.select_one("svg.lesson-figure")["aria-label"]
        assert soup(f"book/{stem}.html").select(f'svg[aria-label="{label}"], img[alt="{label}"]'), stem
        assert card.select_one(".lesson-facts").text in soup(f"book/{stem}.html").select_one(".lesson-facts").text


def test_the_map_has_an_arrow_for_each_lesson_that_another_needs() -> None:
    drawn = soup("book/index.html").select_one(".lesson-map")
    assert [link["href"] for link in drawn.select("a")] == [f"{stem}.html" for stem in LESSONS]
    needs = {stem: facts(stem)["needs"] for stem in LESSONS}
    assert len(drawn.select(".arcs path")) == sum(map(len, needs.values())) > 5
    said = {f"{title(stem)} needs {' and '.join(map(title, needed))}" for stem, needed in needs.items() if needed}
    assert set(drawn.svg["aria-label"].rstrip(".").split("; ")) == said


# A lesson's page


@pytest.mark.parametrize("stem", LESSONS)
def test_a_lesson_says_what_it_takes_and_what_it_gives(stem: str) -> None:
    article = soup(f"book/{stem}.html").select_one("article")
    assert article.select_one(".lesson-goals p").text == "After this lesson you can"
    assert len(article.select(".lesson-goals li")) == len(facts(stem)["goals"]) >= 3
    minutes, sliders, exercises = map(int, re.findall(r"\d+", article.select_one(".lesson-facts").text))
    assert 15 <= minutes <= 90 and sliders == len(article.select(".lesson-slider"))
    assert [link for link in EXERCISES if link.startswith(f"{stem}.")] == [
        f"{stem}.html#exercise-{number}" for number in range(1, exercises + 1)
    ]


# Lists


def test_every_slider_is_listed_and_its_link_leads_to_it() -> None:
    rows = soup("book/sliders.html").select("tbody tr")
    sliders = {stem: len(soup(f"book/{stem}.html").select(".lesson-slider")) for stem in LESSONS}
    expected = [f"{stem}.html#slider-{i}" for stem, number in sliders.items() for i in range(1, number + 1)]
    assert [row.select("a")[1]["href"] for row in rows] == expected
    assert "learning rate η: η = 0.03 to η = 10" in rows[0].text


def test_every_exercise_is_listed_with_its_folded_solution() -> None:
    page = soup("book/exercises.html")
    assert [link["href"] for link in page.select("details a[href*='#exercise-']")] == EXERCISES
    assert not page.select("details[open]") and all(len(fold.text.strip()) > 40 for fold in page.select("details"))


def test_every_source_is_listed_once_by_author_with_the_lessons_that_cite_it() -> None:
    listed = {}
    for item in soup("book/bibliography.html").select("article li"):
        work, *citing = item.select("a")
        listed[work.text] = (item.text, [link["href"].removesuffix(".html") for link in citing])
    cited: dict[str, list[str]] = {}
    for stem in LESSONS:
        for source in facts(stem)["sources"]:
            name = source["title"].replace("'", "’").replace('"Batch"', "“Batch”")
            assert listed[name][0].startswith(f"{source['authors']}, {name}, {source['year']}. In: ")
            cited.setdefault(name, []).append(stem)
    assert cited == {name: citing for name, (_, citing) in listed.items()}
    assert len(listed) == len(soup("book/bibliography.html").select("article li")) > 40
    surnames = [re.split(r",| and ", text)[0].split(". ")[-1].casefold() for text, _ in listed.values()]
    assert surnames == sorted(surnames)


def test_the_library_s_page_has_every_public_name_with_what_it_takes_and_where_it_is_used() -> None:
    page = soup("book/api.html")
    imported = re.findall(r"from (lessons_lib\.\w+) import", "\n".join(CODE.values()))
    for module in map(import_module, sorted(set(imported))):
        described = {part.h3.code.text: part for part in page.select(f"#{make_id(module.__name__)} section")}
        own = {name: one for name, one in vars(module).items() if getattr(one, "__module__", "") == module.__name__}
        functions = {name for name, one in own.items() if isfunction(one) and one.__doc__ and name[0] != "_"}
        assert functions <= described.keys() <= own.keys()
        for name, part in described.items():
            arguments = signature(own[name]).parameters if isfunction(own[name]) else []
            assert all(word in part.pre.text for word in [name, *arguments])
            assert part.text.count(">>> ") >= own[name].__doc__.count(">>> ")
    for stem in LESSONS:
        (link,) = soup(f"book/{stem}.html").select(".lesson-facts a")
        section = page.select_one(link["href"].removeprefix("api.html"))
        assert section.h2.text.startswith(f"lessons_lib.{facts(stem)['module']}")
        assert section.select(f'a[href="{stem}.html"]')
    text = page.select_one("#batch-norm").text
    assert "gamma, beta: scale and shift, shape (d,) or (c,)." in text and "Used in Batch normalisation" in text


@pytest.mark.parametrize(
    "row",
    re.findall(r"^\| (\$.+?\$) \| `(.+?)` \|.*\((\w+)\.ipynb\) \|$", (BOOK / "notation.md").read_text("utf-8"), re.M),
    ids=" ".join,
)
def test_a_symbol_and_its_name_occur_where_the_notation_says(row: tuple[str, str, str]) -> None:
    symbol, name, stem = row
    formulas = " ".join(re.findall(r"(?s)\$\$.+?\$\$|\$[^$]+\$", PROSE[stem]))
    assert symbol.strip("$") in formulas
    assert re.search(rf"\b{re.escape(name.partition('[')[0])}", CODE[stem]) or name in PROSE[stem]


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
    assert re.search(r"licence\.\s+Version [0-9a-f]{7,}, 20\d\d-\d\d-\d\d\.", soup("book/index.html").text)


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
        result = page.locator(f"#search-results a[href*='{found}']").first
        expect(result).to_be_visible(timeout=120_000)
        result.click()
        page.wait_for_url(f"**/{found}*")


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
