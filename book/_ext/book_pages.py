"""The book's own pages: cards and a map of the lessons, lists of sliders, exercises and sources, and what a site needs.

A page's Markdown holds a comment such as <!-- sliders -->, and the build puts there what it reads from the notebooks.
"""

import base64
import re
import subprocess
from collections.abc import Callable
from html import escape
from pathlib import Path
from shutil import which

from sphinx.application import Sphinx
from sphinx.config import Config
from tools.contents import ROOT

from lessons import Lesson, lessons

PAGES: dict[str, Callable[[], str]] = {}


def page(make: Callable[[], str]) -> Callable[[], str]:
    """Let `<!-- NAME -->` stand for what the function of this name returns."""
    PAGES[make.__name__] = make
    return make


def fill(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put into a page what its comments stand for."""
    if docname.startswith("book/") and Path(docname).name not in lessons():  # other comments stay
        source[0] = re.sub(f"<!-- ({'|'.join(PAGES)}) -->", lambda found: PAGES[found[1]](), source[0])


def first_lesson() -> Lesson:
    return next(iter(lessons().values()))


@page
def opening() -> str:
    """The slider with which the first lesson begins."""
    html = next(data["text/html"] for data in first_lesson().outputs if "lesson-slider" in data.get("text/html", ""))
    return html.replace("\n\n", "\n")  # to Markdown an empty line would end it


@page
def cards() -> str:
    """Of each lesson its title, one of its own figures, what it shows, how long it takes."""
    items = []
    for lesson in lessons().values():
        picture = lesson.pictures[lesson is first_lesson()]  # the first lesson's first one opens the page
        items.append(
            f'<li class="lesson-card"><h3><a href="{lesson.stem}.html">{escape(lesson.title)}</a></h3>{picture}'
            f'<p>{lesson.shows}</p><p class="lesson-facts">{lesson.summary()}</p></li>\n'
        )
    return f'<ol class="lesson-cards">\n{"".join(items)}</ol>\n'


@page
def dependencies() -> str:
    """The lessons in order, and an arc from each to those that it needs."""
    step, left, width = 44, 76, 420
    places = {stem: 30 + i * step for i, stem in enumerate(lessons())}
    arcs, names = [], []
    for lesson in lessons().values():
        y = places[lesson.stem]
        for need in lesson.needs:
            bend = left - 12 - 9 * (y - places[need]) // step
            arcs.append(f'<path d="M {left} {places[need]} C {bend} {places[need]}, {bend} {y}, {left - 3} {y}"/>')
        names.append(
            f'<a href="{lesson.stem}.html"><circle cx="{left + 4}" cy="{y}" r="5"/>'
            f'<text x="{left + 20}" y="{y + 5}">{escape(lesson.title)}</text></a>'
        )
    height = 30 + len(places) * step - 20
    needs = {one.title: " and ".join(lessons()[need].title for need in one.needs) for one in lessons().values()}
    said = "; ".join(f"{title} needs {needed}" for title, needed in needs.items() if needed)
    return (
        f'<nav class="lesson-map" aria-label="Lessons">'
        f'<svg aria-label="{escape(said)}." viewBox="0 0 {width} {height}">'
        f'<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M 0 0 L 8 4 L 0 8 z"/></marker></defs>'
        f'<g class="arcs">{"".join(arcs)}</g>{"".join(names)}</svg></nav>\n'
    )


@page
def sliders() -> str:
    """What each slider of the book moves, and between which values."""
    rows = ["| lesson | slider | moves | shows |", "|---|---|---|---|"]
    for lesson in lessons().values():
        for number, slider in enumerate(lesson.sliders, 1):
            moves = "; ".join(f"{p['label']}: {p['values'][0]} to {p['values'][-1]}" for p in slider.parameters)
            link = f'<a href="{lesson.stem}.html#slider-{number}">{number}</a>'
            rows.append(f"| [{lesson.title}]({lesson.stem}.ipynb) | {link} | {cell(moves)} | {cell(slider.alt)} |")
    return "\n".join(rows) + "\n"


def cell(text: str) -> str:
    """A text in a table of Markdown."""
    return re.sub(r"([|*_<])", r"\\\1", text)


@page
def exercises() -> str:
    """All exercises, their solutions folded; what a solution computes stands in the lesson."""
    parts = []
    for lesson in lessons().values():
        parts.append(f"## {lesson.title}")
        for found in lesson.exercises:
            link = f'<a href="{lesson.stem}.html#exercise-{found.number}">in its lesson</a>'
            parts.append(f"**{found.number}. {found.title}** {found.statement}")
            parts += ["<details>\n<summary>Solution</summary>", found.solution, f"The same {link}.", "</details>"]
    return "\n\n".join(parts) + "\n"


@page
def bibliography() -> str:
    """Each source once, with the lessons that cite it; by author."""
    works: dict[tuple, list] = {}
    for lesson in lessons().values():
        for one in lesson.sources:
            citing = works.setdefault((one["authors"], one["title"], one["year"]), [one["url"]])
            citing.append(f"[{lesson.title}]({lesson.stem}.ipynb)")
    rows = []
    for (authors, title, year), (url, *citing) in sorted(works.items(), key=lambda work: surname(work[0][0])):
        rows.append(f"- {authors}, [{title}]({url}), {year}. In: {', '.join(citing)}.\n")
    return "".join(rows)


def surname(authors: str) -> str:
    """What a list of authors such as "L. van der Maaten and …" is sorted by: the first one without initials."""
    return " ".join(name for name in authors.split(",")[0].split(" and ")[0].split() if name[-1] != ".").casefold()


# --- what a site needs: address, version, preview, a page for a wrong address, a map for search engines ---


def site(app: Sphinx, config: Config) -> None:
    """The address of the published book, from the repository's; what the templates need; no header of the theme's."""
    options = config.html_theme_options
    owner, name = options["repository_url"].rstrip("/").split("/")[-2:]
    config.html_baseurl = f"https://{owner.lower()}.github.io/{name}/"
    config.html_context |= dict(html_baseurl=config.html_baseurl, preview=first_lesson().sliders[0].alt)
    config.html_additional_pages = {"index": "door.html", "404": "door.html"}
    options["extra_footer"] += version(ROOT)
    # The theme's script listens to the first sidebar button of a page alone. The header's would be that one, and the
    # header is hidden: without anything in it, it has no buttons either.
    options["navbar_persistent"] = []


def version(root: Path) -> str:
    """Which commit this is, and of which day; nothing for a copy that is not a repository of its own."""
    if not ((root / ".git").exists() and which("git")):
        return ""
    command = ["git", "-C", str(root), "log", "-1", "--format= Version %h, %cs."]
    return subprocess.run(command, capture_output=True, text=True).stdout.rstrip()  # empty before the first commit


def finish(app: Sphinx, exception: Exception | None) -> None:
    if exception or app.builder.format != "html":
        return
    preview = next(data["image/png"] for data in first_lesson().outputs if "image/png" in data)
    Path(app.outdir, "_static/preview.png").write_bytes(base64.b64decode(preview))
    addresses = [f"{app.config.html_baseurl}{name}.html" for name in sorted(app.env.found_docs)]
    urls = "".join(f"<url><loc>{address}</loc></url>\n" for address in addresses)
    sitemap = f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{urls}</urlset>\n'
    Path(app.outdir, "sitemap.xml").write_text(sitemap, "utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", site, priority=900)
    app.connect("source-read", fill)
    app.connect("build-finished", finish)
    return dict(parallel_read_safe=True, parallel_write_safe=True)
