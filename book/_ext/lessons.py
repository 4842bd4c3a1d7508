"""What the book's own pages know of the lessons: read from the notebooks, so that nothing is said twice."""

import re
from functools import cache, cached_property
from typing import NamedTuple

import nbformat
from lessons_lib.sliders import frames, parameters
from nbformat import NotebookNode
from tools import contents


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


class Lesson:
    """A notebook, and what can be read from it and from its metadata: module, what it shows, needs, sources."""

    def __init__(self, stem: str) -> None:
        self.stem, self.title = stem, contents.title(stem)
        notebook = nbformat.v4.reads((contents.ROOT / f"book/{stem}.ipynb").read_text("utf-8"))
        facts = notebook.metadata["lesson"]
        self.module, self.shows = facts["module"], facts["shows"]
        self.needs, self.sources = facts["needs"], facts["sources"]
        self.prose = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        self.code = "\n".join(cell.source for cell in code)
        self.outputs: list[NotebookNode] = [output.data for cell in code for output in cell.outputs if "data" in output]

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
        found = []
        for part in self.prose.split("</details>"):
            said, _, fold = part.partition("<details>")
            if opening := re.search(r"^\*\*(\d+)\. (.+?)\*\*(.*)", said, re.DOTALL | re.MULTILINE):
                number, title, statement = opening.groups()
                solution = fold.partition("</summary>")[2].strip()
                if not solution:
                    raise ValueError(f"{self.stem}: exercise {number} has no folded solution")
                found.append(Exercise(number, title, statement.strip(), solution))
        return found

    def summary(self) -> str:
        """How long it takes to read (200 words of prose a minute, 25 lines of code), and what it has to try."""
        words = len(re.sub(r"\$[^$]*\$", " x ", self.prose).split())
        minutes = 5 * max(1, round((words / 200 + (self.code.count("\n") + 1) / 25) / 5))
        sliders = len(self.sliders)
        return f"{minutes} minutes · {sliders} slider{'s' * (sliders > 1)} · {len(self.exercises)} exercises"


@cache
def lessons() -> dict[str, Lesson]:
    """The book's lessons in order, by their stems."""
    return {stem: Lesson(stem) for stem in contents.lessons()}
