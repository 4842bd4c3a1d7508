"""The checker is checked: what still says the same passes, and whatever does not fails, with the place named."""

import base64
import io
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from unittest.mock import patch

import matplotlib
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from nbformat import NotebookNode, v4
from nbval import plugin

from lessons_lib.sliders import slider
from tests import notebook_compare
from tests.notebook_compare import Mismatch, Tolerance, compare_cell, tolerance
from tests.processes import in_process, run_pytest
from tools import notebooks

DECLARED = "# tolerance: ±0.03, ±8 px, the seed is not fixed"


def printed(text: str, name: str = "stdout") -> NotebookNode:
    return v4.new_output("stream", name=name, text=text)


def shown(**forms: str) -> NotebookNode:
    return v4.new_output("display_data", {name.replace("_", "/", 1): text for name, text in forms.items()})


@cache
def figure(change: Callable[[Axes], object] = Axes.get_lines) -> dict[str, str]:
    """Draw one line with a legend over a picture, as SVG and as PNG."""
    drawing = Figure(figsize=(4, 3))
    axes = drawing.subplots()
    axes.set(xlim=(0, 1), ylim=(0, 1), title="loss 0.25")
    axes.imshow([[0.0, 0.2], [0.4, 0.6]], extent=(0.6, 1, 0, 0.4), vmin=0, vmax=1)
    axes.plot([0, 0.5, 1], [0.1, 0.7, 0.6], "#1f77b4", label="train")
    axes.legend(loc="upper left")
    change(axes)
    svg, png = io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lesson"}):
        drawing.savefig(svg, format="svg", metadata={"Date": None})
        drawing.savefig(png, format="png")
    return {"svg": svg.getvalue().decode(), "png": base64.b64encode(png.getvalue()).decode()}


def fails(stored: list[NotebookNode], fresh: list[NotebookNode], source: str = "") -> str:
    """Return the complaint about these outputs."""
    with pytest.raises(Mismatch) as caught:
        compare_cell(stored, fresh, source)
    return str(caught.value)


AGREE = [
    ("loss 0.2500000", "loss 0.2500001", ""),
    ("nan -inf", "nan -inf", ""),
    ("loss 0.87", "loss 0.90", DECLARED),
    ("loss  9.99", "loss 10.01", DECLARED),
    ("epoch 3", "epoch 4", "# tolerance: ±1"),
    ("tensor([1.0000, -0.0100])", "tensor([0.9800,  0.0100])", DECLARED),
    ("1e-3 nan", "2e-3 nan", DECLARED),
    ("gain −0.01", "gain 0.01", DECLARED),
]
DIFFER = [
    ("loss 0.25", "loss  0.25", ""),
    ("loss 0.25", "loss 0.26", ""),
    ("loss 0.2500000", "loss 0.2500010", ""),
    ("loss 0.25", "loss -0.25", ""),
    ("loss 0.25", "loss inf", DECLARED),
    ("loss nan", "loss 0.25", DECLARED),
    ("inf", "-inf", DECLARED),
    ("10000000 steps", "10000001 steps", ""),
    ("0.25", "0.25 0.25", ""),
    ("0.25\n0.25", "0.25", DECLARED),
    ("loss 0.87", "loss 0.91", DECLARED),
    ("loss 0.87", "gain 0.87", DECLARED),
    ("epoch 3", "epoch 4", DECLARED),
    ("Conv2d", "Conv3d", "# tolerance: ±5"),
    ("version 1.2.3", "version 1.9.3", "# tolerance: ±5"),
    ("loss 0.25", "loss 0.26", "# tolerance: ±8 px"),
]
COMPARED = [(compare_cell, row) for row in AGREE] + [(fails, row) for row in DIFFER]


@pytest.mark.parametrize(("compare", "row"), COMPARED)
def test_words_must_match_and_numbers_agree(compare: Callable[..., object], row: tuple[str, str, str]) -> None:
    *texts, source = row
    compare(*([printed(text)] for text in texts), source)
    compare(*([shown(text_plain=text)] for text in texts), source)
    compare(*([shown(text_html=f"<td>{text}")] for text in texts), source)


def test_the_complaint_names_the_place() -> None:
    stored, fresh = [printed("a\n"), printed("b 1\nc 0.5")], [printed("a\nb 1\n"), printed("c 0.6")]
    assert fails(stored, fresh) == "output 1, stdout: line 3: '0.5' (stored) vs '0.6' (fresh)"
    assert "allowed ±0.03" in fails(stored, fresh, DECLARED)
    said = fails(drawn("svg"), drawn("svg", shift(0.05)))
    assert re.search(r"svg\+xml: path \d+: d: line 1: '\S+' \(stored\) vs '\S+' \(fresh\), allowed ±0.5", said)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = 1", Tolerance(None, 0.5)),
        ("# tolerance: ±0.03", Tolerance(0.03, 0.5)),
        ("x = 1\n# tolerance: ±8 px\ny = 2", Tolerance(None, 8)),
        ("    # tolerance: ±1e-4, ±2.5 px", Tolerance(1e-4, 2.5)),
        (DECLARED, Tolerance(0.03, 8)),
        ("# tolerance: ±2, counts vary", Tolerance(2, 0.5)),
        ("# the tolerance of the line search\ntolerance = 1e-3", Tolerance(None, 0.5)),
    ],
)
def test_a_declared_tolerance_is_read(source: str, expected: Tolerance) -> None:
    assert tolerance(source) == expected


MALFORMED = ["# tolerance:", "# tolerance: 0.03", "# tolerance: ±", "# tolerance: ±5%", "# tolerance: ±0.03 because"]
MALFORMED += ["# tolerance: ±0.03, ±0.04", "# tolerance: ±8px", "# tolerance: ±0.03,", "# tolerance ±0.03"]
MALFORMED += ["# Tolerance: ±0.03", "#tolerance: ±0.03", "loss  # tolerance: ±0.03", "# tolerance: ±1\n# tolerance: ±1"]


@pytest.mark.parametrize("source", MALFORMED)
def test_a_malformed_tolerance_fails_even_where_nothing_differs(source: str) -> None:
    assert "malformed tolerance" in fails([printed("0.5")], [printed("0.5")], source)


def shift(by: float) -> Callable[[Axes], object]:
    return lambda axes: axes.lines[0].set_ydata([0.1 + by, 0.7 + by, 0.6 + by])


SEEN = {
    "moved": shift(0.05),
    "recoloured": lambda axes: axes.lines[0].set_color("#1fb477"),
    "another shade": lambda axes: axes.lines[0].set_color("#3c77b4"),
    "missing": lambda axes: axes.lines[0].remove(),
    "added": lambda axes: axes.plot([0, 1], [0.9, 0.2], "#1f77b4"),
    "thicker": lambda axes: axes.lines[0].set_linewidth(5),
    "fainter": lambda axes: axes.lines[0].set_alpha(0.5),
    "dashed": lambda axes: axes.lines[0].set_linestyle("--"),
    "bent": lambda axes: axes.lines[0].set_data([0, 0.25, 0.5, 1], [0.1, 0.5, 0.7, 0.6]),
    "retitled": lambda axes: axes.set_title("gain 0.25"),
    "relabelled": lambda axes: axes.set_xlim(0, 1.1),
    "another picture": lambda axes: axes.images[0].set_data([[0.0, 0.2], [0.4, 1.0]]),
    "resized": lambda axes: axes.figure.set_figheight(3.2),
}
UNSEEN = {
    "the same": shift(0),
    "moved": shift(0.001),
    "hardly another shade": lambda axes: axes.lines[0].set_color("#2f77b4"),
}


def drawn(form: str, change: Callable[[Axes], object] = Axes.get_lines) -> list[NotebookNode]:
    """The output that shows a figure in one of its forms."""
    return [shown(**{{"svg": "image_svg+xml", "png": "image_png"}[form]: figure(change)[form]})]


@pytest.mark.parametrize("form", ["svg", "png"])
@pytest.mark.parametrize("change", SEEN)
def test_a_figure_that_looks_different_fails(change: str, form: str) -> None:
    # In a PNG no tolerance lets a thing come, go or change its colour.
    source = DECLARED if form == "png" and change in ("missing", "added", "recoloured", "resized") else ""
    fails(drawn(form), drawn(form, SEEN[change]), source)
    fails(drawn(form, SEEN[change]), drawn(form), source)


@pytest.mark.parametrize("form", ["svg", "png"])
@pytest.mark.parametrize("change", UNSEEN)
def test_a_figure_that_looks_the_same_passes(change: str, form: str) -> None:
    compare_cell(drawn(form), drawn(form, UNSEEN[change]), "")
    compare_cell(drawn(form, UNSEEN[change]), drawn(form), "")


@pytest.mark.parametrize("form", ["svg", "png"])
def test_a_figure_may_stray_as_far_as_its_cell_declares_and_how_far_is_noted(form: str) -> None:
    strayed = []
    for by in (0.01, 0.03):
        fails(drawn(form), drawn(form, shift(by)))
        notebook_compare.strayed.clear()
        compare_cell(drawn(form), drawn(form, shift(by)), DECLARED)
        strayed.append(notebook_compare.strayed[notebook_compare.COORDINATE])
    assert 0.5 < strayed[0] < 2.5 < strayed[1] < 6  # the axes are some 170 px high
    fails(drawn(form), drawn(form, shift(0.06)), DECLARED)


def renamed(svg: str) -> str:
    """The names that matplotlib hashes from coordinates, read backwards."""
    return re.sub(r'((?<=id=")|(?<=#))\w{11}(?=["\)])', lambda m: m[0][::-1], svg)


def crossed(svg: str) -> str:
    """One reference leads to another's definition."""
    one, *others = re.findall(r'href="#(\w{11})"', svg)
    return svg.replace(f'href="#{one}"', f'href="#{next(name for name in others if name != one)}"')


@pytest.mark.parametrize(
    ("edit", "source", "said"),
    [
        (renamed, "", None),
        (crossed, "", ": use "),
        (lambda svg: svg.replace("loss 0.25", "loss 0.27"), "# tolerance: ±8 px", ": text "),
        (lambda svg: svg.replace("loss 0.25", "loss 0.27"), "# tolerance: ±0.03", None),
        (lambda svg: svg.replace("scale(1 -1)", "scale(1 1)"), DECLARED, ": transform: "),
        (lambda svg: svg.replace("<path ", '<path visibility="hidden" '), DECLARED, "visibility"),
    ],
)
def test_an_edited_svg_passes_or_fails(edit: Callable[[str], str], source: str, said: str | None) -> None:
    stored = figure()["svg"]
    assert edit(stored) != stored
    outputs = [[shown(**{"image_svg+xml": svg})] for svg in (stored, edit(stored))]
    assert said in fails(*outputs, source) if said else compare_cell(*outputs, source) is None


OUTPUTS = [printed("a"), shown(text_plain="b"), printed("c")]
ERROR = v4.new_output("error", ename="ValueError", evalue="no", traceback=["no"])


@pytest.mark.parametrize(
    ("stored", "fresh", "said"),
    [
        (OUTPUTS, [], "[]"),
        (OUTPUTS, OUTPUTS[:2], "stdout"),
        (OUTPUTS, [OUTPUTS[1], OUTPUTS[0], OUTPUTS[2]], "stdout"),
        (OUTPUTS, [printed("a", "stderr"), *OUTPUTS[1:]], "stderr"),
        (OUTPUTS[1:2], [v4.new_output("execute_result", {"text/plain": "b"})], "execute_result"),
        (OUTPUTS[1:2], [shown(text_plain="b", text_html="b")], "text/html"),
        (OUTPUTS[1:2], [v4.new_output("display_data", {"text/plain": "b"}, metadata={"width": 3})], "width"),
        ([ERROR], [ERROR], "ValueError"),  # even if it is the stored one
        # Without a rule for this form, and a description of a picture: as they are, word for word.
        (*([shown(application_json={"loss": loss})] for loss in (0.25, 0.2500000001)), "application/json"),
        (*([shown(image_png="", text_plain=f"To {loss}.")] for loss in (0.25, 0.26)), "text/plain"),
    ],
)
def test_other_outputs_fail(stored: list[NotebookNode], fresh: list[NotebookNode], said: str) -> None:
    assert said in fails(deepcopy(stored), deepcopy(fresh), DECLARED)
    assert said in fails(deepcopy(fresh), deepcopy(stored), DECLARED)


def test_a_live_widget_is_not_compared() -> None:
    stored, fresh, bar = shown(text_html="b"), shown(text_html="b"), shown(text_plain="0%|   |")
    fresh.data[notebooks.WIDGET_VIEW] = bar.data[notebooks.WIDGET_VIEW] = {"model_id": "1f"}
    compare_cell([stored], [bar, fresh], "")


ENDS = (0.8, 0.6, 0.2)


@cache
def falling(*ends: float) -> str:
    """Return the HTML of a slider whose frames are lines that fall to these ends."""

    def draw(lr: int) -> Figure:
        """A line that falls, further with each position."""
        drawing = Figure(figsize=(4, 3))
        drawing.subplots().axis((0, 1, 0, 1))
        drawing.axes[0].plot([0, 1], [1, ends[lr]])
        return drawing

    with patch("lessons_lib.sliders.display") as display:
        slider(draw, lr=range(len(ends)))
    return display.call_args.args[0]["text/html"]


@pytest.mark.parametrize(
    ("change", "source", "place"),
    [
        (lambda: falling(*ENDS), "", None),
        (lambda: falling(0.8, 0.6, 0.2001), "", None),
        (lambda: falling(0.8, 0.6, 0.22), DECLARED, None),
        (lambda: falling(0.8, 0.6, 0.22), "", "frame 3: path"),
        (lambda: falling(0.8, 0.2, 0.6), "", "frame 2: path"),
        (lambda: falling(0.8, 0.6, 0.2, 0.1), "", "['0', '1', '2', '3']"),
        (lambda: falling(*ENDS).replace('"start": 0', '"start": 1'), "", "start"),
        (lambda: falling(*ENDS).replace('"lr"', '"momentum"'), "", "momentum"),
        (lambda: falling(*ENDS).replace("further with", "rises at"), "", "rises"),
        (lambda: falling(*ENDS).replace("<div", "<p>New</p><div"), "", "New"),
        (lambda: falling(*ENDS).replace("application/json", "application/other"), "", "other"),
        (lambda: falling(*ENDS).replace('json">{', 'json">'), "", "text/html"),
        (lambda: re.sub('base64,[^"]*', f"base64,{figure()['png']}", falling(*ENDS)), "", "pixels only in"),
        (lambda: "<p>no slider</p>", "", "no slider"),
    ],
)
def test_a_slider_passes_or_fails(change: Callable[[], str], source: str, place: str | None) -> None:
    stored, fresh = [shown(text_html=falling(*ENDS))], [shown(text_html=change())]
    assert place in fails(stored, fresh, source) if place else compare_cell(stored, fresh, source) is None


def test_another_nbval_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin.IPyNbCell, "compare_outputs", lambda self, outputs: True)
    with pytest.raises(AssertionError, match="nbval has changed"):
        runpy.run_path(notebook_compare.__file__)


CELLS = {
    "setup": "from matplotlib import pyplot as plt\n"
    "from IPython.display import display\n"
    "from ipywidgets import IntSlider\n"
    "from tqdm import auto, tqdm\n"
    "from lessons_lib.figures import show\n"
    "from lessons_lib.sliders import slider\n"
    "def draw(lr=0.2, sign=1):\n"
    "    'A line that falls as fast as the learning rate says.'\n"
    "    figure, axes = plt.subplots()\n"
    "    axes.plot([1, 1 - sign * lr])\n"
    "    return figure\n"
    "def mirrored(lr=0.2, sign=1):\n"
    "    'A line that falls as fast as the learning rate says.'\n"
    "    return draw(lr, -sign)",
    "words": "print('the loss falls')",
    "order": "print('before')\nshow(draw(), 'A line that falls, for once.')\nprint('after')",
    "strayed": f"{DECLARED}\nprint('loss', 0.25)",
    "figure": "show(draw(), 'A line that falls, for once.')",
    "slider": "slider(draw, lr=[0.1, 0.2, 0.4], sign=[1, -1])",
    "mirrored": "slider(mirrored, lr=[0.1, 0.2, 0.4], sign=[1, -1])",
    "updated": "shown = display('first', display_id=True)\nshown.update('second')",
    "silent": "plt.plot([1, 2]);\nplt.close()\n7;",
    "progress": "for _ in tqdm(auto.tqdm(range(3))):\n    pass",
    "excused": "# NBVAL_IGNORE_OUTPUT\nimport time\ntime.perf_counter()",
    "promise": "print('done')",
    "widget": "IntSlider()",
}
NAMES = list(CELLS)


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> NotebookNode:
    """A small lesson, executed and cleaned as the book's are."""
    path = tmp_path_factory.mktemp("book") / "lesson.ipynb"
    path.write_text(v4.writes(v4.new_notebook(cells=[v4.new_code_cell(source) for source in CELLS.values()])))
    return notebooks.execute(path)


def tampered(notebook: NotebookNode) -> NotebookNode:
    """Spoil some cells' outputs: nbval must complain about these."""
    cells = dict(zip(NAMES, deepcopy(notebook.cells), strict=True))
    cells["setup"].outputs = [printed("more")]
    cells["words"].outputs[0].text = "the gain falls\n"
    cells["order"].outputs = [printed("before\nafter\n"), cells["order"].outputs[1]]
    cells["strayed"].outputs[0].text = "loss 0.28\n"  # as far as the cell allows
    cells["figure"].outputs[0].data["image/png"] = figure()["png"]
    cells["slider"].outputs = cells["mirrored"].outputs
    cells["updated"].outputs[0].data["text/plain"] = "'first'"
    cells["excused"].source = cells["excused"].source.replace("IGNORE", "CHECK")
    cells["promise"].outputs = []
    return v4.new_notebook(cells=list(cells.values()), metadata=notebook.metadata)


def emptied(notebook: NotebookNode) -> NotebookNode:
    """Clear all outputs, as a careless commit does: without execution counts, nbval alone would compare nothing."""
    other = deepcopy(notebook)
    for cell in other.cells:
        cell.outputs, cell.execution_count = [], None
    return other


def nbval(folder: Path, *options: str, **environment: str) -> str:
    """What pytest prints when it runs the notebooks in a folder, and the status with which it ends."""
    return in_process(run_pytest, *nbvals(folder), *options, **environment)


def nbvals(folder: Path) -> list[object]:
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error")
    return ["-p", "tests.notebook_compare", "--nbval", "--rootdir", folder, "-c", folder / "pytest.ini", folder]


def test_nbval_fails_each_spoilt_cell_and_no_other(executed: NotebookNode, tmp_path: Path) -> None:
    for change in (tampered, emptied):
        (tmp_path / f"{change.__name__}.ipynb").write_text(notebooks.dumps(change(executed)))
    kernel = tmp_path / "kernels/python3/kernel.json"  # another environment's python3, which comes first
    kernel.parent.mkdir(parents=True)
    kernel.write_text('{"argv": ["false"], "display_name": "Python 3", "language": "python"}')
    report = nbval(tmp_path, JUPYTER_PATH=str(tmp_path), PYTHONPATH="", TQDM_DISABLE="")
    failed = {(name, NAMES[int(cell)]) for name, cell in re.findall(r"FAILED \S*?(\w+)\.ipynb::Cell (\d+)", report)}
    quiet = {"setup", "silent", "progress", "excused", "widget"}
    expected = {("emptied", name) for name in set(NAMES) - quiet}
    expected |= {("tampered", name) for name in set(NAMES) - {"strayed", "mirrored", "silent", "progress", "widget"}}
    assert failed == expected, report
    assert f"{len(expected)} failed, {2 * len(NAMES) - len(expected)} passed" in report
    assert "output 1, stdout: line 1: 'the gain falls\\n' (stored) vs 'the loss falls\\n' (fresh)" in report
    assert "text/html: frame 1: " in report


def put(path: Path, *cells: str) -> None:
    """A notebook whose cells have each printed a one."""
    made = [v4.new_code_cell(source, outputs=[printed("1\n")], execution_count=n) for n, source in enumerate(cells, 1)]
    path.write_text(v4.writes(v4.new_notebook(cells=made, metadata={"kernelspec": notebooks.KERNELSPEC})))


def test_a_notebook_is_run_again_until_it_has_passed_as_it_is(tmp_path: Path) -> None:
    def run(*options: str) -> tuple[set[str], str]:
        """Which notebooks were run, and how it ended."""
        report = nbval(tmp_path, "--changed", "-v", *options)
        return set(re.findall(r"(\w+)(?:::|\.)ipynb::", report)), report[report.index("\nstatus") + 8 :]

    one, two, three = (tmp_path / f"{name}.ipynb" for name in ("one", "two", "three"))
    put(one, "print(1)")
    put(three, "print(1)", "print(1)")
    put(two, "import os, signal; os.kill(os.getppid(), signal.SIGKILL)")
    with pytest.raises(ChildProcessError, match="died"):  # interrupted, when one and three have passed
        run()
    put(two, "print(2)")
    assert run("--deselect", "three.ipynb::Cell 1") == ({"one", "two", "three"}, "1")
    put(two, "print(1)")
    assert run("-n1") == ({"two", "three"}, "0")  # what has failed, and what was run only in part
    put(one, "print(1)  # changed")
    assert run() == ({"one"}, "0")
    assert run() == (set(), "0")


def test_a_cell_that_hangs_is_named_with_where_it_stood(tmp_path: Path) -> None:
    put(tmp_path / "hangs.ipynb", "def wait():\n    while True:\n        pass\nwait()")
    report = nbval(tmp_path, "--nbval-cell-timeout=2")
    assert "hangs.ipynb::Cell 0" in report and "Timeout of 2 seconds exceeded" in report
    assert "KeyboardInterrupt" in report and "1 failed" in report, report


def test_a_change_of_the_library_or_of_the_environment_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("lessons_lib", "tools"):
        shutil.copytree(notebooks.ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(notebook_compare, "ROOT", tmp_path)
    seen = [notebook_compare.surroundings()]
    assert notebook_compare.surroundings() == seen[0]
    for change in ("lessons_lib/data.py", "lessons_lib/slider.js", "tools/notebooks.py", "lessons_lib/new.py"):
        with (tmp_path / change).open("a") as file:
            file.write("\n")
        seen.append(notebook_compare.surroundings())
    for name in ("tests.notebook_compare.distributions", "platform.python_version"):
        monkeypatch.setattr(name, lambda: [])
        seen.append(notebook_compare.surroundings())
    assert len(set(seen)) == len(seen)


MATPLOTLIBRC = "axes.grid: True\naxes.facecolor: black\nsvg.fonttype: path\nfont.size: 20\n"
STARTUP = "from matplotlib import pyplot\npyplot.style.use('dark_background')\nprint('ready')\n"
SETTINGS = "c.InteractiveShellApp.exec_lines = ['print(1)']\nc.PlainTextFormatter.float_precision = '%.2f'\n"
# A home full of configuration, and the variables that lead to it.
CONFIGURATION = {
    ".config/matplotlib/matplotlibrc": MATPLOTLIBRC,
    "matplotlibrc": MATPLOTLIBRC,
    ".ipython/profile_default/startup/start.py": STARTUP,
    ".ipython/profile_default/ipython_config.py": SETTINGS,
    ".jupyter/jupyter_config.json": "{",
    "startup.py": STARTUP,
}
PLACES = dict(MATPLOTLIBRC="matplotlibrc", PYTHONSTARTUP="startup.py", IPYTHONDIR=".ipython")
PLACES |= dict(JUPYTER_CONFIG_DIR=".jupyter", MPLCONFIGDIR=".config/matplotlib")


def test_nobodys_configuration_reaches_a_lesson(executed: NotebookNode, tmp_path: Path) -> None:
    folder, home = tmp_path / "a b é", tmp_path / "home"
    folder.mkdir()
    for name, text in CONFIGURATION.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    (folder / "lesson.ipynb").write_text(notebooks.dumps(executed), "utf-8")
    # In a new interpreter, which reads some of this as it starts: no home to write to, no UTF-8.
    environment = os.environ | {name: str(home / place) for name, place in PLACES.items()}
    environment |= dict(HOME=os.devnull, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    command = [sys.executable, "-m", "pytest", *map(str, nbvals(folder))]
    report = subprocess.run(command, cwd=notebooks.ROOT, env=environment, capture_output=True, text=True).stdout
    assert f"{len(NAMES)} passed" in report and "failed" not in report, report


def test_a_refreshed_notebook_is_clean_and_refreshing_it_again_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noisy = v4.new_notebook(cells=[v4.new_code_cell("print('é')\nprint(2)"), v4.new_markdown_cell("words")])
    noisy.metadata = {"widgets": {}, "language_info": {"name": "python", "version": "3.99"}}
    noisy.cells[0] |= {"outputs": [printed("old")], "execution_count": 7, "id": "c01"}
    noisy.cells[0].metadata = {"execution": {"iopub.status.busy": "2026-01-01"}, "tags": ["kept"]}
    del noisy.cells[1]["id"]
    path = tmp_path / "lesson.ipynb"
    path.write_text(v4.writes(noisy), "utf-8")

    assert notebooks.main([], tmp_path) == 0
    assert re.fullmatch(r"lesson: \d+\.\d s, 1 kB\n", capsys.readouterr().out)
    text, clean = path.read_text("utf-8"), notebooks.read(path)
    assert [(cell.id, cell.metadata) for cell in clean.cells] == [("c01", {"tags": ["kept"]}), ("c02", {})]
    assert clean.cells[0].outputs == [printed("é\n2\n")] and clean.cells[0].execution_count == 1
    assert clean.metadata == {"kernelspec": notebooks.KERNELSPEC, "language_info": {"name": "python"}}
    assert text.startswith('{\n "cells"') and text.endswith("}\n") and "é" in text

    assert notebooks.main(["lesson"], tmp_path) == 0
    assert path.read_text("utf-8") == text


def test_a_notebook_that_fails_stays_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "lesson.ipynb"
    path.write_text(v4.writes(v4.new_notebook(cells=[v4.new_code_cell("print(1)"), v4.new_code_cell("1 / 0")])))
    before = path.read_bytes()
    assert notebooks.main(["lesson"], tmp_path) == 1
    assert path.read_bytes() == before
    assert "ZeroDivisionError" in capsys.readouterr().err
