"""A pytest plugin: nbval re-executes the notebooks, and this decides whether each cell shows what it showed before.

    python -m pytest -p tests.notebook_compare --nbval book/

Words must match, numbers agree to 1e-6 of their size, figures look the same to half a pixel. A cell that trains or
measures says in its own source how far it may stray: `# tolerance: ±0.03, ±8 px, losses differ between processors`.
A px is one unit of a figure's SVG.

With `--changed` a notebook is not run again that has passed since it, the library, this plugin and the environment last
changed.
"""

import base64
import hashlib
import inspect
import io
import math
import os
import platform
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distributions
from itertools import zip_longest
from os.path import commonprefix
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import pytest
from nbformat import NotebookNode
from nbval import plugin
from PIL import Image, ImageFilter

from tools.notebooks import ROOT, prepare_environment, read, tidy

UNSIGNED = r"(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
# Digits that are part of a name or of another number, as in Conv2d, fc1.0 and 1.2.3, are text.
NUMBER = re.compile(rf"((?<![\w.])[-+−]?(?:{UNSIGNED}(?!\.?\d)|\b(?:nan|inf)\b))")
COORDINATE = re.compile(rf"([-+]?{UNSIGNED})")
GEOMETRY = re.compile(r"d|points|[cr]?[xy][12]?|r|width|height|viewBox|transform")
COLOUR = re.compile(r"#([0-9a-fA-F]{6})\b")
COLOUR_SLACK = 24  # of 255: more than antialiasing changes, less than two colours of one figure differ by
PIXELS = 96 / 72  # of our PNGs, to one unit of our SVGs
PNG = "data:image/png;base64,"
EMBEDDED = re.compile(rf'(?s)<script type="application/json".*?</script>|{PNG}[\w+/=]*')
NOTE = re.compile(r"(?i)#\s*tolerances?\s*[:=±].*")
TOLERANCE = re.compile(rf"# tolerance:(?= ±)(?: ±({UNSIGNED})(?=,|$))?(?:,? ±({UNSIGNED}) px(?=,|$))?(?:, [^±]+)?")


class Tolerance(NamedTuple):
    """How far a cell's numbers (None: 1e-6 of their size) and its figures' coordinates may stray."""

    number: float | None = None
    px: float = 0.5


# How far the numbers (under NUMBER) and the coordinates (under COORDINATE) of the cell at hand strayed where they may.
strayed: Counter[re.Pattern[str]] = Counter()


class Mismatch(Exception):
    """What came is not what is stored; the message says where."""


@contextmanager
def at(place: str) -> Iterator[None]:
    """Say that every mismatch found inside is at `place`."""
    try:
        yield
    except (Mismatch, ValueError, KeyError, SyntaxError, OSError) as error:  # unreadable is different, too
        raise Mismatch(f"{place}: {error}") from None


def expect_equal(stored: object, fresh: object) -> None:
    """Raise unless both are the same."""
    if stored != fresh:
        raise Mismatch(f"{stored!s:.300} (stored) vs {fresh!s:.300} (fresh)")


def tolerance(source: str) -> Tolerance:
    """Return what the cell declares, in a comment line of its own, or the default."""
    notes = [note.strip() for note in NOTE.findall(source)]
    if not notes:
        return Tolerance()
    found = TOLERANCE.fullmatch(notes[0])
    if len(notes) > 1 or not found or notes[0] not in map(str.strip, source.splitlines()):
        raise Mismatch(f"malformed tolerance {notes}: write one line such as '# tolerance: ±0.03, ±8 px, why'")
    return Tolerance(float(found[1]) if found[1] else None, float(found[2] or Tolerance().px))


def agree(stored: str, fresh: str, allowed: float | None, number: re.Pattern[str] = NUMBER) -> bool:
    """Whether two printed numbers are the same: whole ones exactly, unless a tolerance is declared."""
    if stored == fresh:
        return True
    x, y = (float(text.replace("−", "-")) for text in (stored, fresh))
    if allowed is not None:
        strayed[number] = max(strayed[number], abs(x - y))
        return abs(x - y) <= allowed * (1 + 1e-9)  # 0.90 - 0.87 is a little more than 0.03
    whole = any(number.lstrip("-+−").rstrip(".").isdecimal() for number in (stored, fresh))
    return not whole and math.isclose(x, y, rel_tol=1e-6)


def compare_text(stored: str, fresh: str, allowed: float | None = None, number: re.Pattern[str] = NUMBER) -> None:
    """Compare the words exactly, the numbers within `allowed`; then the spaces beside a number are only padding."""
    old, new = number.split(stored), number.split(fresh)
    for i, (a, b) in enumerate(zip_longest(old, new, fillvalue="")):
        if i % 2 and a and b:
            same = agree(a, b, allowed, number)
        else:
            same = a == b or (allowed is not None and a.strip(" ") == b.strip(" "))
        if not same:
            start = len(commonprefix([a, b]))
            shown = [repr(text[max(start - 40, 0) : start + 60]) for text in (a, b)]
            limit = f", allowed ±{allowed:g}" if i % 2 and allowed is not None else ""
            line = "".join([*old[:i], a[:start]]).count("\n") + 1
            raise Mismatch(f"line {line}: {shown[0]} (stored) vs {shown[1]} (fresh){limit}")


def compare_attribute(name: str, stored: str, fresh: str, px: float) -> None:
    """Compare positions within `px`, colours within a shade, pictures as pictures, anything else as text."""
    if stored.startswith(PNG):
        compare_png(stored.removeprefix(PNG), fresh.removeprefix(PNG), px)
    elif not GEOMETRY.fullmatch(name) or "scale" in stored:
        shades = [[bytes.fromhex(colour) for colour in COLOUR.findall(text)] for text in (stored, fresh)]
        pairs = zip(b"".join(shades[0]), b"".join(shades[1]), strict=False)
        near = all(abs(a - b) <= COLOUR_SLACK for a, b in pairs)
        compare_text(*(COLOUR.sub("#", text) if near else text for text in (stored, fresh)))
    else:
        compare_text(stored, fresh, px, COORDINATE)


def canonical(svg: str) -> ElementTree.Element:
    """Parse, and number the ids, which matplotlib hashes from coordinates."""
    root = ElementTree.fromstring(svg)
    names = {element.get("id"): f"id-{n}" for n, element in enumerate(root.iter()) if element.get("id")}
    for element in root.iter():
        for name, value in element.items():
            element.set(name, names.get(value) or re.sub(r"(?<=#)[\w.-]+", lambda m: names.get(m[0], m[0]), value))
    return root


def compare_svg(stored: str, fresh: str, allowed: Tolerance) -> None:
    """Walk both drawings in step."""
    if stored == fresh:
        return
    seen: Counter[str] = Counter()
    for a, b in zip(canonical(stored).iter(), canonical(fresh).iter(), strict=True):
        tag = a.tag.split("}")[-1]
        seen[tag] += 1
        with at(f"{tag} {seen[tag]}"):
            expect_equal([child.tag.split("}")[-1] for child in a], [child.tag.split("}")[-1] for child in b])
            expect_equal(sorted(a.keys()), sorted(b.keys()))
            compare_text(f"{a.text or ''}\n{a.tail or ''}", f"{b.text or ''}\n{b.tail or ''}", allowed.number)
            for name, value in a.items():
                with at(name):
                    compare_attribute(name, value, b.attrib[name], allowed.px)


def strange(a: Image.Image, low: Image.Image, high: Image.Image) -> np.ndarray:
    """Where (y, x) picture `a` has a pixel that lies, by more than a shade, outside of low to high."""
    value, least, greatest = (np.asarray(image, np.int16) for image in (a, low, high))
    return np.argwhere(((value < least - COLOUR_SLACK) | (value > greatest + COLOUR_SLACK)).any(axis=2))


def compare_png(stored: str, fresh: str, px: float) -> None:
    """Ask that every pixel of one picture be, give or take a shade, among the other's within `px`; so things may move
    as far, but not change their colour, go missing or come."""
    if stored == fresh:
        return
    old, new = (Image.open(io.BytesIO(base64.b64decode(text))).convert("RGBA") for text in (stored, fresh))
    expect_equal(old.size, new.size)
    lows, highs = [old, new], [old, new]  # the least and the greatest value within reach of each pixel
    for reach in range(1, max(1, math.ceil(px * PIXELS)) + 1):
        lows = [image.filter(ImageFilter.MinFilter(3)) for image in lows]
        highs = [image.filter(ImageFilter.MaxFilter(3)) for image in highs]
        only = {"stored": strange(old, lows[1], highs[1]), "fresh": strange(new, lows[0], highs[0])}
        if not any(map(len, only.values())):
            strayed[COORDINATE] = max(strayed[COORDINATE], (reach - 1) / PIXELS)
            return
    which, image = ("stored", old) if len(only["stored"]) else ("fresh", new)
    y, x = map(int, only[which][0])
    raise Mismatch(f"{len(only[which])} pixels only in the {which} picture: x {x}, y {y} is {image.getpixel((x, y))}")


def compare_html(stored: str, fresh: str, allowed: Tolerance) -> None:
    """Compare a slider position by position, its still picture as a picture and the rest as text."""
    from lessons_lib.sliders import frames, parameters

    compare_text(*(EMBEDDED.sub(lambda m: m[0][:4], html) for html in (stored, fresh)), allowed.number)
    pairs = list(zip(EMBEDDED.findall(stored), EMBEDDED.findall(fresh), strict=True))
    if any(a != b for a, b in pairs if not a.startswith(PNG)):  # first, as the frames say more than the still picture
        expect_equal(parameters(stored), parameters(fresh))
        for n, (a, b) in enumerate(zip(frames(stored), frames(fresh), strict=True), 1):
            with at(f"frame {n}"):
                compare_svg(a, b, allowed)
    for a, b in pairs:
        if a.startswith(PNG):
            compare_png(a.removeprefix(PNG), b.removeprefix(PNG), allowed.px)


def kind(output: NotebookNode) -> str:
    """Name the sort of output: `stdout`, `error`, or the forms in which a display comes."""
    return output.get("name") or " ".join([output.output_type, *sorted(output.get("data", {}))])


def compare_cell(stored: list[NotebookNode], fresh: list[NotebookNode], source: str) -> None:
    """Compare all outputs of one cell."""
    allowed = tolerance(source)
    old, new = tidy(stored), tidy(fresh)
    expect_equal([kind(output) for output in old], [kind(output) for output in new])
    for n, (a, b) in enumerate(zip(old, new, strict=True), 1):
        with at(f"output {n}, {kind(a)}"):
            expect_equal(a.get("metadata"), b.get("metadata"))
            compare_text(a.get("text", ""), b.get("text", ""), allowed.number)
            for mime in sorted(a.get("data", {}), reverse=True):  # text first, as it says most about what is wrong
                with at(mime):
                    compare_mime(mime, a.data, b.data, allowed)
            if a.output_type == "error":
                raise Mismatch(f"{a.ename}: {a.evalue}")


def compare_mime(mime: str, stored: NotebookNode, fresh: NotebookNode, allowed: Tolerance) -> None:
    """Compare one form of a display by the rule for its kind."""
    if stored[mime] == fresh[mime]:
        return
    described = "image/png" in stored  # its text/plain is the description of a picture, written by hand
    if mime == "image/svg+xml":
        compare_svg(stored[mime], fresh[mime], allowed)
    elif mime == "image/png":
        compare_png(stored[mime], fresh[mime], allowed.px)
    elif mime == "text/html":
        compare_html(stored[mime], fresh[mime], allowed)
    elif mime == "text/plain" and not described:
        compare_text(stored[mime], fresh[mime], allowed.number)
    else:
        expect_equal(stored[mime], fresh[mime])


def compare_outputs(self: Any, test: list[NotebookNode], ref: list[NotebookNode], skip_compare: Any = None) -> bool:
    """Stand in for nbval's method of this name: say whether fresh (`test`) and stored (`ref`) outputs agree, and
    report how far they strayed (`--junitxml` keeps that)."""
    strayed.clear()
    try:
        compare_cell(ref, test, self.cell.source)
    except Mismatch as error:
        self.comparison_traceback = [str(error)]
        return False
    finally:
        self.user_properties += [
            ("cell", self.cell.id),
            ("number", strayed[NUMBER]),
            ("px", strayed[COORDINATE]),
        ]
    return True


def get_kernel_message(self: Any, timeout: float | None = None, stream: str = "iopub") -> dict[str, Any]:
    """Stand in for nbval's method of this name, and let a display be updated in place, which nbval forgets."""
    message = self.kernel.get_message(stream, timeout=timeout)
    content, shown = message["content"], self.__dict__.setdefault("shown", {})
    name = content.get("transient", {}).get("display_id")
    if name and message["msg_type"] == "display_data":
        content["data"] = shown[name] = NotebookNode(content["data"])  # nbval keeps a node as it is
    elif name in shown and message["msg_type"] == "update_display_data":
        shown[name].clear()
        shown[name].update(content["data"])
    return message


def execute_cell_input(self: Any, cell_input: str, allow_stdin: bool | None = None) -> str:
    """Stand in for nbval's method of this name, and keep a history: without one no semicolon silences a last line."""
    return self.kc.execute(cell_input, allow_stdin=allow_stdin, stop_on_error=False)


STAND_INS = [
    (plugin.IPyNbCell, compare_outputs),
    (plugin.IPyNbFile, get_kernel_message),
    (plugin.RunningKernel, execute_cell_input),
]
for owner, method in STAND_INS:  # an nbval that calls other methods would compare nothing
    theirs, ours = (list(inspect.signature(f).parameters) for f in (getattr(owner, method.__name__), method))
    assert theirs == ours, f"nbval has changed: {owner.__name__}.{method.__name__}{theirs}"
assert list(inspect.signature(plugin.coalesce_streams).parameters) == ["outputs"], "nbval has changed"


LONGEST = ("densenet", "resnet", "learning_rate", "minibatch_sgd", "batch_norm")  # start first, or cores end up idle


def surroundings() -> str:
    """What decides besides itself whether a notebook passes: the machine, what is installed, the library, our tools."""
    installed = sorted(f"{found.name} {found.version}" for found in distributions())
    files = [*(ROOT / "lessons_lib").rglob("*"), *(ROOT / "tools").glob("*.py"), Path(__file__)]
    code = sorted((str(path), digest(path.read_bytes())) for path in files if path.is_file() and path.suffix != ".pyc")
    return repr((platform.uname(), platform.python_version(), installed, code))


def digest(content: bytes | str) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


class Memory:
    """Which notebooks have passed as they now are, in pytest's cache. With `--changed` these are not run again, unless
    they are named one by one."""

    def __init__(self, config: pytest.Config) -> None:
        self.config, self.passed, around = config, Counter[str](), surroundings()
        places = [Path(arg) for arg in config.args]
        found = [path for place in places for path in (place.rglob("*.ipynb") if place.is_dir() else [place])]
        self.paths = {os.path.relpath(path, config.rootpath): path for path in found if path.suffix == ".ipynb"}
        self.states = {name: digest(digest(path.read_bytes()) + around) for name, path in self.paths.items()}
        config.option.unchanged = []
        if config.option.changed:
            known = [name for name, state in self.states.items() if config.cache.get(f"passed/{name}", None) == state]
            config.option.unchanged = [name for name in known if self.paths[name] not in places]

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput["unchanged"] = self.config.option.unchanged

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.partition("::")[0]
        if not report.passed:
            self.passed[name] -= 1_000_000
        elif report.when == "call":
            self.passed[name] += 1

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        for name, passed in self.passed.items():
            cells = [cell.cell_type for cell in read(self.paths[name]).cells]
            if passed < 0 or passed == cells.count("code"):  # else not all of it was run
                self.config.cache.set(f"passed/{name}", self.states[name] if passed > 0 else None)
        if self.config.option.unchanged and session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            session.exitstatus = pytest.ExitCode.OK

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if names := ", ".join(Path(name).stem for name in self.config.option.unchanged):
            terminalreporter.write_line(f"unchanged since they passed, so not run again: {names}; CI=true runs all")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--changed", action="store_true", help="leave out notebooks that have passed and are unchanged")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return os.path.relpath(collection_path, config.rootpath) in config.option.unchanged or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest lessons first; the order of the others, and of the cells, stays."""
    rank = {stem: n for n, stem in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


def pytest_configure(config: pytest.Config) -> None:
    """Put our methods in the place of nbval's, and let it use this environment's kernel."""
    config.option.loadscopereorder = False  # pytest-xdist's order goes by the number of cells
    if hasattr(config, "workerinput"):  # a process of pytest-xdist's: the first one knows
        config.option.unchanged = config.workerinput["unchanged"]
    else:
        config.pluginmanager.register(Memory(config))
    for owner, method in STAND_INS:
        setattr(owner, method.__name__, method)
    plugin.coalesce_streams = list  # nbval would join what is printed before a figure with what is printed after it
    config.option.nbval_current_env = True
    # Seconds, fewer than pytest's own limit: the kernel can say where in a cell it stood.
    config.option.nbval_cell_timeout = min(config.option.nbval_cell_timeout, 500)
    prepare_environment()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let nbval compare cells without an execution count too (it would take them as not meant to have outputs), and be
    patient."""
    if isinstance(item, plugin.IPyNbCell):
        item.cell.execution_count = item.cell.execution_count or 0
        item.output_timeout = 600  # seconds without a word: training can need minutes where cores are shared
