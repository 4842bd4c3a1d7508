"""What the book's own pages know of the lessons: read from the notebooks, so that nothing is said twice."""

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import nbformat
from lessons_lib.sliders import frames, parameters
from nbformat import NotebookNode

BOOK = Path(__file__).resolve().parents[1]
TOC = BOOK.parent / "_toc.yml"
LESSONS = [
    stem
    for stem in re.findall(r"file: book/(\w+)$", TOC.read_text("utf-8"), re.M)
    if (BOOK / f"{stem}.ipynb").exists() and stem != "benchmarks"
]  # in the book's order


URL = r"https://(?:[^()\s]|\([^()\s]*\))+"  # may hold brackets in pairs


class Slider(NamedTuple):
    """Its parameters (name, label, values, start), the figure that it starts with, and what is to be seen in it."""

    parameters: list[dict]
    svg: str
    alt: str


class Exercise(NamedTuple):
    """Its number, title, statement and solution, as Markdown."""

    number: str
    title: str
    statement: str
    solution: str


class Work(NamedTuple):
    """A source that a lesson cites."""

    authors: str
    title: str
    url: str
    year: str


class Lesson:
    """A notebook, and what can be read from it."""

    def __init__(self, folder: Path, stem: str) -> None:
        self.stem, self.path = stem, folder / f"{stem}.ipynb"

    @cached_property
    def cells(self) -> list[NotebookNode]:
        return nbformat.v4.reads(self.path.read_text("utf-8")).cells

    @cached_property
    def prose(self) -> str:
        return "\n\n".join(cell.source for cell in self.cells if cell.cell_type == "markdown")

    @cached_property
    def title(self) -> str:
        """As in its heading, without the Chinese term."""
        return re.match(r"# (.+?)(?: \(.+\))?\n", self.prose)[1]

    @cached_property
    def needs(self) -> list[str]:
        """The lessons that its opening says one needs."""
        sentence = re.search(r"^You need .*?\.(?= |$)(?<!\bipynb\.)", self.cells[0].source, re.M)
        return re.findall(r"\]\((\w+)\.ipynb\)", sentence[0]) if sentence else []

    @cached_property
    def outputs(self) -> list[NotebookNode]:
        return [out.data for c in self.cells if c.cell_type == "code" for out in c.outputs if "data" in out]

    @cached_property
    def sliders(self) -> list[Slider]:
        found = []
        for data in self.outputs:
            if "lesson-slider" in (html := data.get("text/html", "")):
                made = parameters(html)
                start = 0
                for parameter in made:  # the first turns slowest
                    start = start * len(parameter["values"]) + parameter["start"]
                found.append(Slider(made, frames(html)[start], data["text/plain"]))
        return found

    @cached_property
    def pictures(self) -> list[str]:
        """SVG of every figure and of every slider's start, in order."""
        sliders = iter(self.sliders)
        return [
            data["image/svg+xml"] if "image/svg+xml" in data else next(sliders).svg
            for data in self.outputs
            if "image/svg+xml" in data or "lesson-slider" in data.get("text/html", "")
        ]

    @cached_property
    def exercises(self) -> list[Exercise]:
        pattern = r"^\*\*(\d+)\. (.+?)\*\*\s*(.*?)\s*<details>\s*<summary>.*?</summary>\s*(.*?)\s*</details>"
        return [Exercise(*found) for found in re.findall(pattern, self.prose, re.DOTALL | re.MULTILINE)]

    @cached_property
    def works(self) -> list[Work]:
        return [*self._works()]

    def _works(self) -> Iterator[Work]:
        authors = ""
        for item in re.findall(r"^- (.*\]\(https://.*)$", self.prose.rpartition("Sources:")[2], re.M):
            for before, title, url, year in re.findall(rf"(.*?),? \[([^]]+)\]\(({URL})\)(?:,? \(?(\d{{4}}))?", item):
                named = before.removeprefix(", and ")
                authors = authors if named == "The same" else named
                yield Work(authors, title, url, year)

    def minutes(self) -> int:
        """To read it: 200 words of prose a minute, 25 lines of code, to the next five minutes."""
        words = len(re.sub(r"\$[^$]*\$", " x ", self.prose).split())
        lines = sum(c.source.count("\n") + 1 for c in self.cells if c.cell_type == "code")
        return 5 * max(1, round((words / 200 + lines / 25) / 5))

    def facts(self) -> str:
        sliders, exercises = len(self.sliders), len(self.exercises)
        return f"{self.minutes()} minutes · {sliders} slider{'s' * (sliders > 1)} · {exercises} exercises"
