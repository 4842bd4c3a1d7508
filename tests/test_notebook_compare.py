"""The checker is checked: what still says the same passes, and whatever does not fails, with the place named."""

import base64
import io
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cache
from inspect import Parameter, Signature
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
from tests.notebook_compare import Mismatch, Tolerance, compare_cell, compare_html, compare_svg, tolerance
from tests.processes import in_process, run_pytest
from tools import notebooks

DECLARED = "# tolerance: ±0.03, ±8 px, the seed is not fixed"


def printed(text: str, name: str = "stdout") -> NotebookNode:
    return v4.new_output("stream", name=name, text=text)


def shown(**forms: str) -> NotebookNode:
    return v4.new_output("display_data", {name.replace("_", "/", 1): text for name, text in forms.items()})


@cache
def figure(change: Callable[[Axes], object] = Axes.get_lines, height: float = 3) -> dict[str, str]:
    """Draw one line with a legend over a picture, as SVG and as PNG."""
    drawing = Figure(figsize=(4, height))
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


@pytest.mark.parametrize(
    ("stored", "fresh", "source"),
    [
        ("loss 0.2500000", "loss 0.2500001", ""),
        ("nan -inf", "nan -inf", ""),
        ("loss 0.87", "loss 0.90", DECLARED),
        ("loss  9.99", "loss 10.01", DECLARED),
        ("epoch 3", "epoch 4", "# tolerance: ±1"),
        ("tensor([1.0000, -0.0100])", "tensor([0.9800,  0.0100])", DECLARED),
        ("1e-3 nan", "2e-3 nan", DECLARED),
        ("gain −0.01", "gain 0.01", DECLARED),
    ],
)
def test_text_that_agrees_passes(stored: str, fresh: str, source: str) -> None:
    compare_cell([printed(stored)], [printed(fresh)], source)
    compare_cell([shown(text_plain=stored)], [shown(text_plain=fresh)], source)
    compare_cell([shown(text_html=f"<td>{stored}")], [shown(text_html=f"<td>{fresh}")], source)


@pytest.mark.parametrize(
    ("stored", "fresh", "source"),
    [
        ("loss 0.25", "gain 0.25", ""),
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
    ],
)
def test_text_that_differs_fails(stored: str, fresh: str, source: str) -> None:
    fails([printed(stored)], [printed(fresh)], source)
    fails([shown(text_plain=stored)], [shown(text_plain=fresh)], source)
    fails([shown(text_html=f"<td>{stored}")], [shown(text_html=f"<td>{fresh}")], source)


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
}
UNSEEN = {
    "the same": shift(0),
    "moved": shift(0.001),
    "hardly another shade": lambda axes: axes.lines[0].set_color("#2f77b4"),
}


def drawn(form: str, change: Callable[[Axes], object] = Axes.get_lines, **size: float) -> list[NotebookNode]:
    """The output that shows a figure in one of its forms."""
    return [shown(**{{"svg": "image_svg+xml", "png": "image_png"}[form]: figure(change, **size)[form]})]


@pytest.mark.parametrize("form", ["svg", "png"])
@pytest.mark.parametrize("change", SEEN)
def test_a_figure_that_looks_different_fails(change: str, form: str) -> None:
    fails(drawn(form), drawn(form, SEEN[change]))
    fails(drawn(form, SEEN[change]), drawn(form))


@pytest.mark.parametrize("form", ["svg", "png"])
@pytest.mark.parametrize("change", UNSEEN)
def test_a_figure_that_looks_the_same_passes(change: str, form: str) -> None:
    compare_cell(drawn(form), drawn(form, UNSEEN[change]), "")
    compare_cell(drawn(form, UNSEEN[change]), drawn(form), "")


def test_a_figure_may_stray_as_far_as_its_cell_declares() -> None:
    for form in ("svg", "png"):
        fails(drawn(form, shift(0)), drawn(form, shift(0.03)))
        compare_cell(drawn(form, shift(0)), drawn(form, shift(0.03)), DECLARED)
        fails(drawn(form, shift(0)), drawn(form, shift(0.06)), DECLARED)


@pytest.mark.parametrize("form", ["svg", "png"])
def test_how_far_a_figure_strayed_is_noted(form: str) -> None:
    strayed = {}
    for by in (0.01, 0.03):
        notebook_compare.strayed.clear()
        compare_cell(drawn(form), drawn(form, shift(by)), DECLARED)
        strayed[by] = notebook_compare.strayed[notebook_compare.COORDINATE]
    assert 0.5 < strayed[0.01] < 2.5 < strayed[0.03] < 6  # the axes are some 170 px high


def test_numbers_written_in_a_figure_keep_to_the_rule_for_numbers() -> None:
    stored = figure()["svg"]
    fresh = stored.replace("loss 0.25", "loss 0.27")
    with pytest.raises(Mismatch, match="text"):
        compare_svg(stored, fresh, Tolerance(px=8))
    compare_svg(stored, fresh, Tolerance(number=0.03))


def test_names_that_matplotlib_hashes_from_coordinates_do_not_matter() -> None:
    stored = figure()["svg"]
    names = set(re.findall(r'id="(\w{11})"', stored))
    assert names
    compare_svg(stored, re.sub("|".join(names), lambda m: m[0][::-1], stored), Tolerance())
    one, *_ = re.findall(r'href="#(\w{11})"', stored)
    other = next(name for name in names if name != one)
    with pytest.raises(Mismatch, match="use"):
        compare_svg(stored, stored.replace(f'href="#{one}"', f'href="#{other}"'), Tolerance())


def test_no_tolerance_lets_a_picture_turn_over_or_a_line_hide() -> None:
    stored = figure()["svg"]
    for old, new in (("scale(1 -1)", "scale(1 1)"), ("<path ", '<path visibility="hidden" ')):
        fresh = stored.replace(old, new)
        assert fresh != stored
        fails([shown(**{"image_svg+xml": stored})], [shown(**{"image_svg+xml": fresh})], DECLARED)


@pytest.mark.parametrize("change", ["missing", "added", "recoloured", "resized"])
def test_no_tolerance_lets_a_line_come_or_go(change: str) -> None:
    other = drawn("png", SEEN[change]) if change in SEEN else drawn("png", height=3.2)
    fails(drawn("png"), other, DECLARED)
    fails(other, drawn("png"), DECLARED)


def test_the_description_of_a_picture_is_compared_word_for_word() -> None:
    png = figure()["png"]
    stored, fresh = (shown(image_png=png, text_plain=f"The loss falls to {loss}.") for loss in (0.25, 0.26))
    assert "text/plain" in fails([stored], [fresh], DECLARED)


OUTPUTS = [printed("a"), shown(text_plain="b"), printed("c")]


@pytest.mark.parametrize(
    "other",
    [
        [],
        OUTPUTS[:2],
        [*OUTPUTS, shown(text_plain="d")],
        [OUTPUTS[1], OUTPUTS[0], OUTPUTS[2]],
        [printed("a", "stderr"), *OUTPUTS[1:]],
        [OUTPUTS[0], v4.new_output("execute_result", {"text/plain": "b"}), OUTPUTS[2]],
        [OUTPUTS[0], shown(text_plain="b", text_html="b"), OUTPUTS[2]],
        [OUTPUTS[0], v4.new_output("display_data", {"text/plain": "b"}, metadata={"width": 3}), OUTPUTS[2]],
    ],
)
def test_other_outputs_fail(other: list[NotebookNode]) -> None:
    compare_cell(deepcopy(OUTPUTS), deepcopy(OUTPUTS), "")
    fails(deepcopy(OUTPUTS), deepcopy(other))
    fails(deepcopy(other), deepcopy(OUTPUTS))


def test_an_error_fails_even_if_it_is_the_stored_one() -> None:
    error = v4.new_output("error", ename="ValueError", evalue="no", traceback=["no"])
    assert "ValueError" in fails([error], [error])


def test_forms_without_a_rule_are_compared_as_they_are() -> None:
    stored, fresh = (shown(**{"application_json": {"loss": loss}}) for loss in (0.25, 0.2500000001))
    compare_cell([stored], [deepcopy(stored)], "")
    assert "application/json" in fails([stored], [fresh], DECLARED)


def test_a_live_widget_is_not_compared() -> None:
    stored, fresh, bar = shown(text_html="b"), shown(text_html="b"), shown(text_plain="0%|   |")
    fresh.data[notebooks.WIDGET_VIEW] = bar.data[notebooks.WIDGET_VIEW] = {"model_id": "1f"}
    compare_cell([stored], [bar, fresh], "")


ENDS = (0.8, 0.6, 0.2)


def falling(*ends: float, name: str = "lr", values: Sequence[float] = (0.1, 0.2, 0.4), start: int = 0) -> str:
    """Return the HTML of a slider whose frames are lines that fall to these ends."""

    def draw(**position: float) -> Figure:
        """A line that falls, further with each position."""
        drawing = Figure(figsize=(4, 3))
        drawing.subplots().axis((0, 1, 0, 1))
        drawing.axes[0].plot([0, 1], [1, ends[values.index(position[name])]])
        return drawing

    draw.__signature__ = Signature([Parameter(name, Parameter.KEYWORD_ONLY, default=values[start])])
    with patch("lessons_lib.sliders.display") as display:
        slider(draw, **{name: values})
    return display.call_args.args[0]["text/html"]


def test_a_slider_whose_frames_look_the_same_passes() -> None:
    stored = falling(*ENDS)
    compare_html(stored, falling(*ENDS), Tolerance())
    compare_html(stored, falling(0.8, 0.6, 0.2001), Tolerance())
    compare_html(stored, falling(0.8, 0.6, 0.22), Tolerance(px=8))


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda: falling(0.8, 0.2, 0.6), "frame 2: path"),
        (lambda: falling(0.8, 0.6, 0.22), "frame 3: path"),
        (lambda: falling(*ENDS, 0.1, values=(0.1, 0.2, 0.4, 0.8)), "0.8"),
        (lambda: falling(*ENDS, values=(0.1, 0.2, 0.5)), "0.5"),
        (lambda: falling(*ENDS, start=1), "start"),
        (lambda: falling(*ENDS, name="momentum"), "momentum"),
        (lambda: falling(*ENDS).replace("further with", "rises at"), "rises"),
        (lambda: falling(*ENDS).replace("<div", "<p>New</p><div"), "New"),
        (lambda: falling(*ENDS).replace("application/json", "application/other"), "other"),
        (lambda: falling(*ENDS).replace('json">{', 'json">'), "text/html"),
        (lambda: re.sub('base64,[^"]*', f"base64,{figure()['png']}", falling(*ENDS)), "pixels only in"),
        (lambda: "<p>no slider</p>", "no slider"),
    ],
)
def test_a_slider_that_differs_fails(change: Callable[[], str], place: str) -> None:
    assert place in fails([shown(text_html=falling(*ENDS))], [shown(text_html=change())])


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
    "numbers": "print('loss', 0.25)",
    "order": "print('before')\nshow(draw(), 'A line that falls, for once.')\nprint('after')",
    "training": f"{DECLARED}\nprint('loss', 0.25)",
    "strayed": f"{DECLARED}\nprint('loss', 0.25)",
    "figure": "show(draw(), 'A line that falls, for once.')",
    "slider": "slider(draw, lr=[0.1, 0.2, 0.4], sign=[1, -1])",
    "mirrored": "slider(mirrored, lr=[0.1, 0.2, 0.4], sign=[1, -1])",
    "result": "1 / 3",
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
    cells["words"].outputs[0].text = "the loss rises\n"
    cells["numbers"].outputs[0].text = "loss 0.26\n"
    cells["order"].outputs = [printed("before\nafter\n"), cells["order"].outputs[1]]
    cells["training"].outputs[0].text = "loss 0.29\n"
    cells["strayed"].outputs[0].text = "loss 0.28\n"  # as far as the cell allows
    cells["figure"].outputs[0].data["image/png"] = figure()["png"]
    cells["slider"].outputs = cells["mirrored"].outputs
    cells["mirrored"].source += "  # tolerance: some"
    cells["result"].outputs[0].data["text/plain"] = "0.3334"
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
    expected |= {("tampered", name) for name in set(NAMES) - {"strayed", "silent", "progress", "widget"}}
    assert failed == expected, report
    assert f"{len(expected)} failed, {2 * len(NAMES) - len(expected)} passed" in report
    assert "output 1, stdout: line 1: '0.26' (stored) vs '0.25' (fresh)" in report
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


CHANGES = ["lessons_lib/data.py", "lessons_lib/slider.js", "tools/notebooks.py", "lessons_lib/new.py"]


@pytest.mark.parametrize("change", [*CHANGES, "distributions", "python_version"])
def test_a_change_of_the_library_or_of_the_environment_is_noticed(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("lessons_lib", "tools"):
        shutil.copytree(notebooks.ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(notebook_compare, "ROOT", tmp_path)
    before = notebook_compare.surroundings()
    assert before == notebook_compare.surroundings()
    if change == "distributions":
        monkeypatch.setattr(notebook_compare, "distributions", lambda: [])
    elif change == "python_version":
        monkeypatch.setattr("platform.python_version", lambda: "3.9.9")
    else:
        with (tmp_path / change).open("a") as file:
            file.write("\n")
    assert notebook_compare.surroundings() != before


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
    noisy = v4.new_notebook(cells=[v4.new_code_cell(source) for source in ("print('é')\nprint(2)", "1 + 1")])
    noisy.cells.append(v4.new_markdown_cell("words"))
    noisy.metadata = {"widgets": {}, "language_info": {"name": "python", "version": "3.99"}}
    noisy.cells[0] |= {"outputs": [printed("old")], "execution_count": 7, "id": "c01"}
    noisy.cells[1].metadata = {"execution": {"iopub.status.busy": "2026-01-01"}, "tags": ["kept"]}
    del noisy.cells[1]["id"], noisy.cells[2]["id"]
    path = tmp_path / "lesson.ipynb"
    path.write_text(v4.writes(noisy), "utf-8")

    assert notebooks.main([], tmp_path) == 0
    assert re.fullmatch(r"lesson: \d+\.\d s, 1 kB\n", capsys.readouterr().out)
    text = path.read_text("utf-8")
    clean = notebooks.read(path)
    assert [cell.id for cell in clean.cells] == ["c01", "c02", "c03"]
    assert [cell.metadata for cell in clean.cells] == [{}, {"tags": ["kept"]}, {}]
    assert clean.cells[0].outputs == [printed("é\n2\n")]
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
