"""The book's own pages: cards and a map of the lessons, lists of sliders, exercises and sources, and what a site needs.

A page's Markdown holds a comment such as <!-- sliders -->, and the build puts there what it reads from the notebooks.
"""

import base64
import os
import re
import subprocess
import time
from collections.abc import Callable
from html import escape, unescape
from pathlib import Path

from markupsafe import Markup
from sphinx.application import Sphinx
from sphinx.config import Config
from tools.contents import ROOT

from lessons import Lesson, lessons
from light_pages import HEAD

PAGES: dict[str, Callable[[], str]] = {}
CARD = re.compile(r"^\d+\. \[(?P<title>[^]]+)\]\((?P<stem>\w+)\.ipynb\)\. (?P<text>.+)$\n?", re.M)


def page(make: Callable[[], str]) -> Callable[[], str]:
    """Let `<!-- NAME -->` stand for what the function of this name returns."""
    PAGES[make.__name__] = make
    return make


def fill(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put into a page what its comments stand for, and cards in place of the list of lessons."""
    if Path(docname).name in lessons() or not docname.startswith("book/"):
        return
    text = re.sub(f"<!-- ({'|'.join(PAGES)}) -->", lambda found: PAGES[found[1]](), source[0])  # others are comments
    if found := list(CARD.finditer(text)):
        cards = '<ol class="lesson-cards">\n' + "".join(map(card, found)) + "</ol>\n"
        text = text[: found[0].start()] + cards + text[found[-1].end() :]
    source[0] = text


def card(found: re.Match[str]) -> str:
    """A lesson's title, one of its own figures, what it is about, how long it takes."""
    lesson = lessons()[found["stem"]]
    picture = lesson.pictures[lesson is first_lesson()]  # the first lesson's first one opens the page
    return (
        f'<li class="lesson-card"><h3><a href="{lesson.stem}.html">{escape(found["title"])}</a></h3>{picture}'
        f'<p>{found["text"]}</p><p class="lesson-facts">{lesson.summary()}</p></li>\n'
    )


def first_lesson() -> Lesson:
    return next(iter(lessons().values()))


@page
def opening() -> str:
    """The slider with which the first lesson begins."""
    html = next(data["text/html"] for data in first_lesson().outputs if "lesson-slider" in data.get("text/html", ""))
    return html.replace("\n\n", "\n")  # to Markdown an empty line would end it


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
            parts.append(
                f"<details>\n<summary>Solution</summary>\n\n{found.solution}\n\nThe same {link}.\n\n</details>"
            )
    return "\n\n".join(parts) + "\n"


@page
def bibliography() -> str:
    """Each source once, with the lessons that cite it; by author."""
    works: dict[tuple, list] = {}
    for lesson in lessons().values():
        for source in lesson.sources:
            works.setdefault((source["authors"], source["title"], source["year"]), []).append((source["url"], lesson))
    rows = []
    for (authors, title, year), citing in sorted(works.items(), key=lambda work: surname(work[0][0])):
        where = ", ".join(f"[{lesson.title}]({lesson.stem}.ipynb)" for _, lesson in citing)
        rows.append(f"- {authors}, [{title}]({citing[0][0]}), {year}. In: {where}.")
    return "\n".join(rows) + "\n"


def surname(authors: str) -> str:
    """What a list of authors such as "L. van der Maaten and …" is sorted by: the first one without initials."""
    return " ".join(name for name in authors.split(",")[0].split(" and ")[0].split() if name[-1] != ".").casefold()


# --- what a site needs: address, version, preview, a page for a wrong address, a map for search engines ---


def site(app: Sphinx, config: Config) -> None:
    """The address of the published book, from the repository's; the version, from git; no header of the theme's."""
    options = config.html_theme_options
    owner, name = options["repository_url"].rstrip("/").split("/")[-2:]
    config.html_baseurl = f"https://{owner.lower()}.github.io/{name}/"
    options["extra_footer"] += version(ROOT)
    # The theme's script listens to the first sidebar button of a page alone. The header's would be that one, and the
    # header is hidden: without anything in it, it has no buttons either.
    options["navbar_persistent"] = []


def version(root: Path) -> str:
    """Which commit this is, and of which day; nothing for a copy that is not a repository of its own."""
    if not (root / ".git").exists():
        return ""
    # Within a hook, git's own variables would name the repository that the hook belongs to.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(root), "log", "-1", "--format=%h %ct"]
    try:
        commit = subprocess.check_output(command, text=True, env=environment, stderr=subprocess.DEVNULL)
    except (subprocess.CalledProcessError, FileNotFoundError):  # no commit yet, or no git
        return ""
    short, seconds = commit.split()
    day = time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", seconds)))
    return f" Version {short}, {day.tm_mday} {time.strftime('%B %Y', day)}."


def describe(app: Sphinx, pagename: str, templatename: str, context: dict, doctree: object) -> None:
    """What a link to a page shows where it is shared."""
    tags = {
        "og:title": unescape(Markup(context.get("title", "")).striptags()),
        "og:site_name": app.config.html_title or app.config.project,
        "og:type": "article",
        "og:description": "Executable lessons on why deep networks train, with sliders that move in the page.",
        "og:url": f"{app.config.html_baseurl}{pagename}.html",
        "og:image": f"{app.config.html_baseurl}_static/preview.png",
        "og:image:alt": first_lesson().sliders[0].alt,
    }
    context["metatags"] = context.get("metatags", "") + "".join(
        f'\n    <meta property="{name}" content="{escape(value)}">' for name, value in tags.items()
    )


DOOR = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{head}
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 1.1rem/1.6 sans-serif; max-width: 34rem; margin: 15vh auto; padding: 0 1rem; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{text}</p>
</body>
</html>
"""


def finish(app: Sphinx, exception: Exception | None) -> None:
    if exception or app.builder.format != "html":
        return
    outdir, base = Path(app.outdir), app.config.html_baseurl
    preview = next(data["image/png"] for data in first_lesson().outputs if "image/png" in data)
    (outdir / "_static/preview.png").write_bytes(base64.b64decode(preview))
    title, first = app.config.html_title or app.config.project, "book/index.html"
    refresh = f'<meta http-equiv="refresh" content="0; url={first}">\n'
    door = DOOR.format(title=escape(title), head=HEAD + refresh, text=f'<a href="{first}">To the book</a>')
    (outdir / "index.html").write_text(door, "utf-8")
    # Served for any address, at any depth: its link must be whole.
    lost = f'The book has no page at this address. <a href="{base}{first}">To its first page</a>.'
    (outdir / "404.html").write_text(DOOR.format(title="Not found", head=HEAD, text=lost), "utf-8")
    urls = "".join(f"<url><loc>{base}{name}.html</loc></url>\n" for name in sorted(app.env.found_docs))
    sitemap = f'<?xml version="1.0" encoding="utf-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{urls}</urlset>\n'
    (outdir / "sitemap.xml").write_text(sitemap, "utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", site, priority=900)
    app.connect("source-read", fill)
    app.connect("html-page-context", describe)
    app.connect("build-finished", finish, priority=900)  # after the table of contents has written its index.html
    return dict(parallel_read_safe=True, parallel_write_safe=True)
