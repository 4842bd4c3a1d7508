"""Every notebook of the book keeps the promises that running it does not check, and every check can fail."""

import ast
import html
import re
import symtable
from collections.abc import Callable, Iterator
from copy import deepcopy
from inspect import signature
from pathlib import Path

import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode, v4
from nbval.plugin import find_comment_markers, find_metadata_tags

from lessons_lib.sliders import frames
from tests.notebook_compare import Tolerance, tolerance
from tools.contents import ROOT, lessons
from tools.notebooks import WIDGET_VIEW, clean, dumps, read

NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))
MYST = re.compile(r"(?m)^\s*[`~:]{3,}\{|\{[\w:-]+\}\0|^\s*:label:|\$\$ *\([\w:-]+\)|^\([\w:-]+\)=\s*$")
NO_ALT = re.compile(r"""!\[\s*\]|<img\b(?![^>]*\balt=["'][^"']+)""")
NOISE = re.compile(r" at 0x[0-9a-fA-F]+|/(home|Users)/\w|/root/|[A-Z]:\\+Users|/ipykernel_\d|\r")
# Numbers of two or more digits: not those in code, formulas, links and names such as ResNet-18, and not years.
UNSAID = re.compile(
    r"(?s)```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|\]\(.*?\)(?=[\s.,;:)]|$)|[A-Z]\w+-\d+|[Tt]heorems? \d+"
)
SAID = re.compile(r"(?<![\w.,/^{-])(?!(?:1[89]|20)\d\d\b)(\d{1,3}(?:,\d{3})+(?!\d)|\d+\.\d+|\d{2,}(?![\w.]*\d))(\s?%)?")
QUOTED = dict(
    line.split(" :: ") for line in (ROOT / "tests/quoted.txt").read_text("utf-8").splitlines() if " :: " in line
)
# How far cells strayed in many runs of the book.
ROWS = map(str.split, (ROOT / "tests/strays.txt").read_text("utf-8").splitlines()[3:])
STRAYS = {(stem, cell): Tolerance(float(number), float(px)) for stem, cell, number, px in ROWS}
Complaints = Iterator[str]
Rule = Callable[..., Complaints]
Tamper = Callable[[NotebookNode], object]
RULES: dict[Rule, tuple[Tamper, ...]] = {}


def rule(*tampers: Tamper) -> Callable[[Rule], Rule]:
    """Add a function of a notebook, and of its file's text if it takes one, that yields what is wrong.

    After each of the tampers it must yield something.
    """

    def add(check: Rule) -> Rule:
        RULES[check] = tampers
        return check

    return add


def complaints(check: Callable[..., Complaints], path: Path) -> list[str]:
    given = {"notebook": read(path), "text": path.read_text("utf-8")}
    return list(check(**{name: given[name] for name in signature(check).parameters}))


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook: NotebookNode) -> list[NotebookNode]:
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def times_something(cell: NotebookNode) -> bool:
    return bool(re.search(r"\b(perf_counter|timeit)\b", ast.unparse(parsed(cell))))


def prose(notebook: NotebookNode) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def texts(output: NotebookNode) -> list[str]:
    """Return the forms of an output that are text."""
    forms = output.get("data", {"text/plain": output.get("text", "")})
    return [text for mime, text in forms.items() if isinstance(text, str) and mime.startswith(("text/", "image/svg"))]


def shown(cell: NotebookNode) -> list[float]:
    """Return the numbers of a cell's code and outputs, of pictures those that are written in them."""
    drawn = [text for output in cell.get("outputs", []) for text in texts(output)]
    words = [" ".join(re.findall(r">([^<]+)<", text)) if text.lstrip().startswith("<") else text for text in drawn]
    return [float(x.replace(",", "")) for x in re.findall(r"\d+(?:,\d{3})*(?:\.\d+)?", " ".join([cell.source, *words]))]


def unsupported(text: str, cells: list[NotebookNode]) -> Iterator[str]:
    """Yield the numbers of a text that none of these cells shows, rounded as they are."""
    evidence = [number for cell in cells for number in shown(cell)]
    for number, percent in SAID.findall(UNSAID.sub(" ", text)):
        value, digits = float(number.replace(",", "")), len(number.partition(".")[2])
        scales = (1, 100) if percent else (1,)
        if not any(abs(x * scale - value) <= 0.5001 * 10**-digits for x in evidence for scale in scales):
            yield number


def parsed(cell: NotebookNode) -> ast.Module:
    """Parse a cell whose magics have become calls."""
    return ast.parse(TransformerManager().transform_cell(cell.source))


def is_slider(output: NotebookNode) -> bool:
    """Whether an output holds a slider that moves."""
    try:
        return len(frames(output.get("data", {}).get("text/html", ""))) > 1
    except ValueError:
        return False


# A lesson that is spoilt, in one way at a time, and its cells by what they hold.

LESSON = ROOT / "book/minibatch_sgd.ipynb"
CELLS = dict(install="c02", slider="c04", print="c08", show="c16", time="c18", goals="goals")
INSTALL = code_cells(read(LESSON))[0].source


def cell_of(notebook: NotebookNode, name: str) -> NotebookNode:
    return next(cell for cell in notebook.cells if cell.get("id") == CELLS[name])


def put(name: str, **fields: object) -> Tamper:
    """Set fields of one cell."""
    return lambda notebook: cell_of(notebook, name).update(fields)


def say(markdown: str) -> Tamper:
    return lambda notebook: notebook.cells.append(v4.new_markdown_cell(markdown, id="said"))


def output(cell: str, kind: str = "stream", **fields: object) -> Tamper:
    """Add an output to one cell."""
    return lambda notebook: cell_of(notebook, cell).outputs.append(v4.new_output(kind, **fields))


def form(name: str, mime: str, text: object) -> Tamper:
    """Set one form of what a cell shows."""

    def tamper(notebook: NotebookNode) -> None:
        next(out.data for out in cell_of(notebook, name).outputs if "data" in out)[mime] = text

    return tamper


def drop(name: str) -> Tamper:
    return lambda notebook: notebook.cells.remove(cell_of(notebook, name))


@rule(put("show", outputs=[]), put("slider", outputs=[]))
def has_the_outputs_its_cells_promise(notebook: NotebookNode) -> Complaints:
    """Ask for outputs where there must be some; which they are, a fresh run compares."""
    for cell in code_cells(notebook):
        if re.search(r"(?m)^(print|show|slider)\(", cell.source) and not cell.outputs:
            yield f"cell {cell.id} stores no output"


@rule(
    put("show", execution_count=None), put("install", execution_count=2), put("time", execution_count=7), drop("print")
)
def was_run_once_from_top_to_bottom(notebook: NotebookNode) -> Complaints:
    counts = [cell.execution_count for cell in code_cells(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        yield f"execution counts are {counts}"


@rule(
    output("show", "error", ename="ValueError", evalue="no", traceback=[]),
    output("show", name="stderr", text="UserWarning"),
)
def holds_no_error_and_no_warning(notebook: NotebookNode) -> Complaints:
    yield from (f"an error: {output.evalue}" for output in outputs(notebook) if output.output_type == "error")
    yield from (f"on stderr: {output.text}" for output in outputs(notebook) if output.get("name") == "stderr")


@rule(
    output("print", text="<Net at 0x7f12ab>"),
    output("print", text="/home/ann/lessons"),
    output("print", text="10%\r20%"),
    form("slider", "text/html", "<p>C:\\Users\\ann"),
)
def holds_no_noise(notebook: NotebookNode) -> Complaints:
    for text in [text for output in outputs(notebook) for text in texts(output)]:
        yield from (f"{found[0]!r} in an output" for found in NOISE.finditer(text))


@rule(
    lambda notebook: notebook.metadata.language_info.update(version="3.11"),
    lambda notebook: notebook.metadata.kernelspec.update(name="lessons"),
    lambda notebook: notebook.metadata.pop("kernelspec"),
    lambda notebook: notebook.metadata.update(widgets={}),
    lambda notebook: notebook.metadata.lesson.goals.append("and say what is seen"),
    output("print", name="stdout", text="cut in two"),
    form("slider", WIDGET_VIEW, {"model_id": "1f"}),
    put("show", metadata={"execution": {"iopub.status.busy": "2026-01-01"}}),
    put("goals", metadata={"ExecuteTime": 3}),
    put("goals", source="After this lesson you can do all."),
)
def is_written_as_the_tool_writes_it(notebook: NotebookNode, text: str) -> Complaints:
    """Ask for no live widgets, no other kernel or metadata, and for the cells that the lesson's metadata give."""
    if text != dumps(clean(deepcopy(notebook))):
        yield "not as tools/notebooks.py writes it: refresh it with that"


@rule(say("x" * 1_500_000))
def is_small(notebook: NotebookNode, text: str) -> Complaints:
    if len(text.encode()) >= 1_500_000:
        yield f"{len(text.encode())} bytes"


@rule(
    lambda notebook: notebook.cells[0].pop("id"),
    put("show", id=CELLS["print"]),
    put("show", id="0b7ec5d6-5a3c-4a4e-9a53-3c1f8b0f7a52"),
)
def has_short_ids(notebook: NotebookNode) -> Complaints:
    ids = [cell.get("id", "") for cell in notebook.cells]
    if not all(re.fullmatch(r"[\w-]{1,32}", name) for name in ids) or len(set(ids)) < len(ids):
        yield f"cell ids that are missing, long or double: {ids}"  # nbformat would mend them


@rule(
    say("```{note}\nRead.\n```"),
    say(":::{note}\nRead.\n:::"),
    say("See {ref}`a lesson`."),
    say("a\n:label: loss"),
    say("$$ x $$ (loss)"),
    say("(loss)=\n# Loss"),
)
def is_written_in_plain_markdown(notebook: NotebookNode) -> Complaints:
    # With inline code reduced to one character, a role is braces before it, and code about braces is none.
    yield from (found[0] for found in MYST.finditer(re.sub(r"(?<!`)`[^`\n]+`(?!`)", "\0", prose(notebook))))


@rule(
    form("show", "text/plain", "<Figure size 640x480 with 1 Axes>"),
    form("show", "image/svg+xml", '<svg class="lesson-figure" aria-label=""></svg>'),
    form("slider", "text/plain", "A line."),
    form("slider", "text/html", "<img src='a.png'>"),
    say("![](a.png)"),
    say('<img alt="" src="a.png">'),
)
def describes_every_picture(notebook: NotebookNode) -> Complaints:
    for output in outputs(notebook):
        forms = output.get("data", {})
        words = forms.get("text/plain", "")
        if any(mime.startswith("image/") for mime in forms) and (len(words) < 20 or words[0] == "<"):
            yield f"a picture is described as {words!r}"
        for label in re.findall(r'<svg[^>]* aria-label="([^"]*)"', forms.get("image/svg+xml", "")):
            if html.unescape(label) != words:
                yield f"a picture is described as {words!r}, and drawn with {label!r}"
        yield from (found[0] for found in NO_ALT.finditer(forms.get("text/html", "")))
    yield from (found[0] for found in NO_ALT.finditer(prose(notebook)))


@rule(
    drop("install"),
    put("install", source="import lessons_lib"),
    put("install", source=INSTALL.replace("if not", "if")),
    put("install", source=INSTALL + "\n%pip install lessons_lib"),
)
def begins_with_the_install_cell(notebook: NotebookNode) -> Complaints:
    """Ask that the first cell gets the library only where it is missing."""
    cell = code_cells(notebook)[0]
    step = next((step for step in parsed(cell).body if isinstance(step, ast.If)), ast.Pass())
    install = (
        r"""if not find_spec\('lessons_lib'\):\s+get_ipython\(\).run_line_magic\('pip', 'install .*lessons_lib .*\)"""
    )
    if not re.fullmatch(install, ast.unparse(step)) or cell.source.count("%pip") != 1:
        yield "the first code cell does not install lessons_lib where, and only where, it is missing"


@rule(
    put("print", source="# NBVAL_IGNORE_OUTPUT\nprint(1)"),
    put("print", source="# PYTEST_VALIDATE_IGNORE_OUTPUT\nprint(1)"),
    put("print", source="# NBVAL_SKIP\nprint(1)  # not perf_counter"),
    put("print", metadata={"tags": ["nbval-ignore-output"]}),
    put("print", metadata={"tags": ["nbval-skip"]}),
    put("print", metadata={"tags": ["raises-exception"]}),
)
def excuses_only_what_times(notebook: NotebookNode) -> Complaints:
    for cell in code_cells(notebook):
        marks = dict([*find_metadata_tags(cell.metadata), *find_comment_markers(cell.source)])
        excused = marks.get("skip") or marks.get("check") is False or "check_exception" in marks
        if excused and not times_something(cell):
            yield f"cell {cell.id} is excused from the comparison"


@rule(say("It falls to 0.26."), say("That is 31 %."), say("It took 1,024 steps."))
def says_only_numbers_that_it_shows(notebook: NotebookNode) -> Complaints:
    """Ask that the cell before or after show a number of the prose, or tests/quoted.txt say where it comes from."""
    for k, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown" and not cell.source.startswith("## Sources"):
            text = cell.source
            for phrase in QUOTED:
                text = text.replace(phrase, "")
            beside = [cell for cell in notebook.cells[max(k - 1, 0) : k + 2] if cell.cell_type == "code"]
            for number in unsupported(text, beside):
                yield f"cell {cell.id} says {number}, and no cell beside it does"


def names(cell: NotebookNode) -> tuple[set[str], set[str]]:
    """Return the global names that a cell sets, and those that it reads, in its functions too."""
    cell_table = symtable.symtable(TransformerManager().transform_cell(cell.source), "cell", "exec")
    tables, used = [cell_table], set()
    for table in tables:
        tables += table.get_children()
        symbols = [symbol for symbol in table.get_symbols() if symbol.is_referenced()]
        used |= {symbol.get_name() for symbol in symbols if symbol.is_global() or table is cell_table}
    symbols = cell_table.get_symbols()
    return {symbol.get_name() for symbol in symbols if symbol.is_assigned() or symbol.is_imported()}, used


@rule(
    put("print", source="def show(lr):\n    return lr"),
    put("time", source="for torch in range(3):\n    pass"),
    put("time", source="from math import sin as slider"),
)
def means_the_same_in_any_order(notebook: NotebookNode) -> Complaints:
    """Ask that what a cell reads be set by itself or by one other cell alone, so that none can change its meaning."""
    cells = {cell.get("id"): names(cell) for cell in code_cells(notebook)}
    for cell, (own, used) in cells.items():
        for name in sorted(used - own):
            setters = [other for other, (found, _) in cells.items() if name in found]
            if len(setters) > 1:
                yield f"cell {cell} reads {name}, which several set: {setters}"


@rule(drop("slider"), form("slider", "text/html", "<p>A slider</p>"))
def has_a_slider(notebook: NotebookNode) -> Complaints:
    if not any(map(is_slider, outputs(notebook))):
        yield "no slider"


@rule(
    say("<details>"),
    lambda notebook: [cell.update(source=cell.source.replace("details", "p")) for cell in notebook.cells],
)
def has_folded_solutions(notebook: NotebookNode) -> Complaints:
    opened, closed = (prose(notebook).count(tag) for tag in ("<details>", "</details>"))
    if opened < 6 or opened != closed:
        yield f"{opened} <details> and {closed} </details>"


def test_what_is_quoted_is_said_once_and_shown_where_it_says() -> None:
    lessons = {path.stem: read(path) for path in NOTEBOOKS}
    book = "\n".join(map(prose, lessons.values()))
    for phrase, origin in QUOTED.items():
        assert book.count(phrase) == 1, phrase
        if found := re.fullmatch(r"(\w+) (c\d+)", origin):
            cells = [cell for cell in lessons[found[1]].cells if cell.id == found[2]]
            assert not list(unsupported(phrase, cells)), f"{phrase}: not in {origin}"


def last_digit(cell: NotebookNode) -> float:
    """What the last printed digit is worth, of the number with the fewest digits behind its point."""
    printed = " ".join(output.get("text", "") for output in cell.outputs)
    return 10.0 ** -min(map(len, re.findall(r"(?<=\d\.)\d+", printed)), default=0)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_tolerance_is_as_tight_as_what_was_measured_allows(path: Path) -> None:
    for cell in code_cells(read(path)):
        allowed, strayed = tolerance(cell.source), STRAYS.get((path.stem, cell.id), Tolerance(0, 0))
        if allowed != Tolerance() and not times_something(cell):
            number, said = allowed.number or 0, f"{cell.id} allows {allowed}, but strayed by {strayed}: allow "
            low, high = 1.5 * strayed.number, 4 * max(strayed.number, last_digit(cell) / 2)
            assert low <= number <= high, f"{said}±{low:g} to {high:g}"
            low, high = 1.5 * strayed.px, 4 * max(strayed.px, 0.5)
            assert low <= allowed.px <= high, f"{said}±{low:g} to {high:g} px"


@pytest.mark.parametrize(
    ("path", "check"),
    [(p, r) for p in NOTEBOOKS for r in RULES if p.stem in lessons() or r not in (has_a_slider, has_folded_solutions)],
    ids=lambda value: getattr(value, "stem", None) or value.__name__,
)
def test_a_lesson(path: Path, check: Callable[..., Complaints]) -> None:
    assert not complaints(check, path)


@pytest.mark.parametrize(
    ("check", "tamper"),
    [
        pytest.param(check, tamper, id=f"{check.__name__}-{n}")
        for check, tampers in RULES.items()
        for n, tamper in enumerate(tampers, 1)
    ],
)
def test_a_rule_fails_a_spoilt_lesson(check: Callable[..., Complaints], tamper: Tamper, tmp_path: Path) -> None:
    notebook = read(LESSON)
    tamper(notebook)
    spoilt = tmp_path / "lesson.ipynb"
    spoilt.write_text(v4.writes(notebook).rstrip("\n") + "\n", "utf-8")
    assert complaints(check, spoilt)
