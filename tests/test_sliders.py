"""A slider stores every figure that it shows, complete, and is live wherever a kernel runs.

The pages that readers see are driven in tests/browser.
"""

import gzip
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from html import escape
from unittest.mock import patch
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import nbformat
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ipywidgets import HTML, SelectionSlider
from ipywidgets.widgets import widget as ipywidgets_widget
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from nbclient import NotebookClient

from lessons_lib import sliders
from lessons_lib.figures import COLOURS, define, label, serialise, to_png, to_tree
from lessons_lib.sliders import frames, parameters, slider

VIEW = "application/vnd.jupyter.widget-view+json"
RATES = [0.1, 0.2, 0.4]


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    plt.close("all")
    yield
    assert not plt.get_fignums()


def draw(lr: float = 0.2) -> Figure:
    """A straight line down"""  # the shortest that is taken
    fig, ax = plt.subplots(figsize=(3, 2))
    ax.plot([1, 1 - lr])
    return fig


def bundle(draw: Callable[..., Figure], labels: dict = {}, /, **values: Iterable) -> dict:  # noqa: B006
    """What a slider displays."""
    with patch("lessons_lib.sliders.display") as display:
        slider(draw, labels, **values)
    display.assert_called_once()
    assert display.call_args.kwargs == {"raw": True}
    return display.call_args.args[0]


def page(draw: Callable[..., Figure], /, *labels: dict, **values: Iterable) -> str:
    return bundle(draw, *labels, **values)["text/html"]


def live(bundle: dict) -> tuple[list[SelectionSlider], HTML]:
    """The controls of a live slider, and the widget that shows its figure."""
    widgets = getattr(ipywidgets_widget, "_instances", None)  # ipywidgets 8
    if widgets is None:
        widgets = ipywidgets_widget.Widget.widgets  # 7
    *controls, box = widgets[bundle[VIEW]["model_id"]].children
    return controls, box


def svg_of(draw: Callable[..., Figure], **position: object) -> str:
    fig = draw(**position)
    svg = serialise(to_tree(fig, " ".join(draw.__doc__.split())))
    plt.close(fig)
    return svg


# --- what is stored ---


def test_one_bundle_has_a_form_for_every_host() -> None:
    shown = bundle(draw, lr=RATES)
    fig = draw(0.2)
    assert set(shown) == {VIEW, "text/html", "image/png", "text/plain"}
    assert shown["text/plain"] == draw.__doc__ == repr(shown)
    assert shown["image/png"] == to_png(fig)
    plt.close(fig)
    assert shown[VIEW].items() >= {"version_major": 2, "version_minor": 0}.items()
    still = f'<div class="lesson-slider">\n<img alt="{draw.__doc__}" src="data:image/png;base64,{shown["image/png"]}">'
    assert shown["text/html"].startswith(still) and shown["text/html"].endswith("</script>\n</div>")


def test_frames_are_what_draw_draws_at_each_position_and_the_first_parameter_turns_slowest() -> None:
    def two(sign: int, lr: float) -> Figure:
        """A line that falls or rises as fast as the learning rate says."""
        return draw(sign * lr)

    html = page(two, lr=RATES, sign=[1, -1])
    assert [p["name"] for p in parameters(html)] == ["lr", "sign"]
    assert frames(html) == [svg_of(two, lr=lr, sign=sign) for lr, sign in itertools.product(RATES, [1, -1])]
    assert len(set(frames(html))) == 6


def test_parameters_say_what_a_reader_sees_and_where_each_slider_starts() -> None:
    def four(b: float, lr: float = 0.3, num_runs: int = 20, act: str = "ReLU") -> Figure:
        """A line that falls as fast as the learning rate says."""
        return draw(lr)

    labels = dict(lr=("learning rate", "η"), act="activation")
    values = dict(b=(0, 0.9), num_runs=range(10, 30, 10), act=map(str, ["tanh", "ReLU"]))
    html = page(four, labels, lr=np.linspace(0.1, 0.3, 3), **values)
    assert "η = 0.1" in html and "\\u03b7" not in html
    assert parameters(html) == [
        dict(name="lr", label="learning rate η", values=["η = 0.1", "η = 0.2", "η = 0.3"], start=2),
        dict(name="b", label="b", values=["0", "0.9"], start=0),  # a batch size, or a bias: the name does not tell
        dict(name="num_runs", label="num runs", values=["10", "20"], start=1),
        dict(name="act", label="activation", values=["tanh", "ReLU"], start=1),
    ]


def test_a_parameter_may_be_called_draw() -> None:
    def functions(draw: Callable[[float], float]) -> Figure:
        """A text that names one of two functions."""
        fig = Figure(figsize=(3, 2))
        fig.text(0.5, 0.5, draw.__name__)
        return fig

    html = page(functions, draw=[np.sin, np.cos])
    assert parameters(html)[0]["values"] == [str(np.sin), str(np.cos)]
    assert [name in frame for name, frame in zip([">sin<", ">cos<"], frames(html), strict=True)] == [True, True]


@pytest.mark.parametrize("read", [frames, parameters])
@pytest.mark.parametrize("html", ["", 200 * "a", '<script type="application/json">{}</script>', "lesson-slider"])
def test_other_html_is_not_a_slider(read: Callable, html: str) -> None:
    with pytest.raises(ValueError, match=f"^html: expected a slider's output, got {re.escape(repr(html[:80]))}$"):
        read(html)


# --- merging ---

DEFINITIONS = {
    "d1": '<path xmlns="http://www.w3.org/2000/svg" id="d1" d="M 0 0" />',
    "d2": '<path xmlns="http://www.w3.org/2000/svg" id="d2" d="M 1 1" />',
    "d3": '<clipPath xmlns="http://www.w3.org/2000/svg" id="d3"><path d="M 2 2" /></clipPath>',
}
ATTRIBUTES = st.one_of(
    st.just({}),
    st.sampled_from([{"d": "M 0 1"}, {"d": "M 0 2"}, {"href": "#d1"}, {"href": "#d2", "x": "3"}]),
    st.just({"clip-path": "url(#d3)"}),
)


def element(tag: str, attributes: dict[str, str], text: str | None, children: list[Element]) -> Element:
    made = Element(f"{{http://www.w3.org/2000/svg}}{tag}", attributes)
    made.text = text
    made.extend(children)
    return made


ELEMENTS = st.recursive(
    st.builds(
        element, st.sampled_from(["path", "use", "text"]), ATTRIBUTES, st.sampled_from([None, "a", "0"]), st.just([])
    ),
    lambda children: st.builds(element, st.just("g"), ATTRIBUTES, st.none(), st.lists(children, max_size=4)),
    max_leaves=12,
)


def drawing(children: list[Element]) -> Element:
    known = {name: ElementTree.fromstring(text) for name, text in DEFINITIONS.items()}
    return define(element("svg", {"width": "3", "aria-label": "Some drawing."}, None, children), known)


@given(st.lists(st.builds(drawing, st.lists(ELEMENTS, max_size=4)), min_size=2, max_size=5))
@settings(max_examples=200, deadline=None)
def test_merging_loses_nothing(trees: list[Element]) -> None:
    alone = [serialise(tree) for tree in trees]
    html = sliders._html(trees, [], "", "")
    assert frames(html) == alone
    merged = json.loads(re.search(r"(?s)json\">(.*?)</script>", html)[1])["svg"]
    assert len(merged) <= sum(map(len, alone)) + len(' data-frames="0"') * sum(svg.count("<") for svg in alone)
    if len(set(alone)) == 1:
        assert merged == alone[0]


def everything(k: int) -> Figure:
    """All kinds of things that matplotlib draws, others at each position."""
    fig = Figure(figsize=(3, 2))
    ax = fig.subplots()
    ax.imshow(np.eye(2 + k))
    ax.plot([k, *range(k + 2)], "o", ms=3 + k % 2)
    ax.plot([0, 2], clip_path=Circle((1, 1), 0.2 + k / 10, transform=ax.transData))
    ax.bar([0, 1], [1, k + 1], hatch="/" * (k % 2 + 1))
    ax.text(1, 1, f"position {k // 2}")
    ax.set_title(f"$x^{k // 2}$" if k else "nothing")
    return fig


def test_whatever_is_drawn_each_frame_is_whole() -> None:
    assert frames(page(everything, k=range(4))) == [svg_of(everything, k=k) for k in range(4)]


def test_what_stands_still_is_stored_once() -> None:
    def steps(lr: float, n: int) -> Figure:
        """Each further step adds a line, a label and a mark."""
        fig = Figure()
        ax = fig.subplots()
        ax.axis((0, 10, 0, 10))
        ax.set(xlabel="still here", title="and here")
        for i in range(n):
            ax.plot([i, i + 1], [1, 2], "o-")
            ax.text(i, 5, f"step {i}")
        ax.plot([0, 10 * lr])
        return fig

    html = page(steps, lr=[0.1, 0.2, 0.3], n=range(1, 6))
    assert html.count("still here") == html.count("and here") == html.count("step 0") == html.count("step 4") == 1
    assert html.count("data-frames") < 40


# --- the page ---


def falling(lr: float) -> Figure:
    """Two losses that fall faster when the learning rate is higher."""
    fig, ax = plt.subplots()
    steps = np.arange(30)
    ax.plot(steps, np.exp(-lr * steps), marker="o")
    ax.plot(steps, np.exp(-lr * steps / 2))
    label(ax, 10, 0.5, "loss", COLOURS["blue"])
    ax.set(xlabel="step $t$", ylabel="loss", title=f"η = {lr}")
    return fig


def test_many_equal_parts_are_stored_once_too() -> None:
    def dots(extra: int) -> Element:
        return drawing([element("text", {}, str(k), []) for k in range(extra)] + 300 * [element("use", {}, None, [])])

    assert sliders._html([dots(0), dots(2)], [], "", "").count("<use") == 300


def test_forty_frames_add_under_60_kb_to_a_page() -> None:
    html = page(falling, lr=np.linspace(0.01, 0.4, 40))
    assert len(gzip.compress(html.encode())) < 60_000


def test_nothing_a_lesson_says_ends_the_script_early() -> None:
    said = "</script><!--<script>&\"'"

    def hostile(act: str) -> Figure:
        fig = Figure(figsize=(3, 2))
        fig.subplots().set_title(said)
        return fig

    hostile.__doc__ = f"A title that says {said}, and nothing else."
    html = page(hostile, act=[said, "<!--", "</style>"])
    assert parameters(html)[0]["values"] == [said, "<!--", "</style>"]
    assert frames(html)[0] == svg_of(hostile, act=said) and escape(said, quote=False) in frames(html)[0]
    data = html.split('<script type="application/json">')[1].split("</script>")[0]
    assert json.loads(data) and "<!" not in data and "</" not in data
    assert f'<img alt="{escape(hostile.__doc__)}"' in html


def test_figures_and_sliders_on_one_page_have_ids_of_their_own() -> None:
    pieces = [page(falling, lr=RATES), page(everything, k=[1, 2]), svg_of(falling, lr=0.1)]
    found = [set(re.findall(r'\bid=\\?"([\w-]+)', piece)) for piece in pieces]
    assert all(found) and not any(a & b for a, b in itertools.combinations(found, 2))


def test_another_process_stores_the_same() -> None:
    code = "from tests.test_sliders import *; print(*frames(html := page(everything, k=range(4))), html)"
    environment = os.environ | dict(PYTHONHASHSEED="1")
    stored = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    html = page(everything, k=range(4))
    assert stored.stdout == " ".join([*frames(html), html]) + "\n"


# --- errors ---


def silent(lr: float = 0.2) -> Figure:
    return draw(lr)


def terse(lr: float = 0.2) -> Figure:
    """A straight line up."""
    return draw(lr)


def growing(lr: float = 0.2) -> Figure:
    """A figure that is larger at each position."""
    return plt.figure(figsize=(3 + lr, 2))


def nothing(lr: float = 0.2) -> Figure:
    """At one position it forgets to return its figure."""
    fig = draw(lr)
    return fig if lr < 0.4 else None


SEVERAL = "lr: expected a sequence of at least two values, got"
SAYS = "draw: expected a docstring that says what is to be seen, got"
WORDS = "labels: expected words, or words and a symbol, for lr, got"
WRONG = [
    ((draw,), dict(lr=[0.2]), ValueError, f"{SEVERAL} [0.2]"),
    ((draw,), dict(lr=0.2), ValueError, f"{SEVERAL} 0.2"),
    ((draw,), dict(lr="0.2"), ValueError, f"{SEVERAL} '0.2'"),
    ((draw,), dict(lr={0.2, 0.4}), ValueError, f"{SEVERAL} {{0."),
    ((draw,), dict(lr=[0.1, 0.4]), ValueError, "lr: expected the default to be one of [0.1, 0.4], got 0.2"),
    ((draw,), dict(lr=[0.2, 0.2 + 1e-9]), ValueError, "lr: expected values that read differently, got [0.2, 0.2"),
    ((silent,), dict(lr=RATES), ValueError, f"{SAYS} None"),
    ((terse,), dict(lr=RATES), ValueError, f"{SAYS} 'A straight line up.'"),
    ((growing,), dict(lr=RATES), ValueError, "draw: expected figures of one size at all positions, got several"),
    ((draw,), dict(), TypeError, "draw: expected a function of something, got lr"),
    ((draw,), dict(rate=RATES), TypeError, "draw: expected a function of rate, got lr"),
    ((draw,), dict(lr=RATES, n=RATES), TypeError, "draw: expected a function of lr, n, got lr"),
    ((nothing,), dict(lr=RATES), TypeError, "draw: expected a matplotlib figure at {'lr': 0.4}, got None"),
    ((3,), dict(lr=RATES), TypeError, "3 is not a callable object"),
    (
        (draw, dict(b="batch size")),
        dict(lr=RATES),
        ValueError,
        "labels: expected a dictionary with labels of lr, got {",
    ),
    ((draw, None), dict(lr=RATES), ValueError, "labels: expected a dictionary with labels of lr, got None"),
    ((draw, dict(lr=("rate",))), dict(lr=RATES), TypeError, f"{WORDS} ('rate',)"),
    ((draw, dict(lr=3)), dict(lr=RATES), TypeError, f"{WORDS} 3"),
]


@pytest.mark.parametrize(("given", "values", "error", "message"), WRONG)
def test_errors_name_the_argument(given: tuple, values: dict, error: type[Exception], message: str) -> None:
    with patch("lessons_lib.sliders.display") as display, pytest.raises(error, match="^" + re.escape(message)):
        slider(*given, **values)
    display.assert_not_called()


@pytest.mark.parametrize("bad", RATES)
def test_an_error_at_any_position_fails_the_cell(bad: float) -> None:
    def broken(lr: float = 0.2) -> Figure:
        """It fails at one of its positions, after it has opened two figures."""
        plt.figure()
        fig = draw(lr)
        if lr == bad:
            raise ZeroDivisionError(f"at {lr}")
        return fig

    with patch("lessons_lib.sliders.display") as display, pytest.raises(ZeroDivisionError, match=f"at {bad}"):
        slider(broken, lr=RATES)
    display.assert_not_called()


def test_figures_that_draw_did_not_open_stay_open_unless_it_shows_them() -> None:
    used, mine = plt.figure(), plt.figure()

    def reuse(lr: float = 0.2) -> Figure:
        """A text that moves with the learning rate, in the same figure each time."""
        used.clear()
        used.text(lr, 0.5, "here")
        return used

    assert len(set(frames(page(reuse, lr=RATES)))) == 3
    assert plt.get_fignums() == [mine.number]
    page(draw, lr=RATES)
    assert plt.get_fignums() == [mine.number]
    plt.close(mine)


# --- live ---


def test_moving_a_live_slider_draws_anew_in_the_same_place() -> None:
    calls = []

    def two(lr: float = 0.2, sign: int = -1) -> Figure:
        """A line that falls or rises as fast as the learning rate says."""
        calls.append((lr, sign))
        return draw(sign * lr)

    (rate, sign), box = live(bundle(two, dict(lr=("learning rate", "η")), lr=RATES, sign=[1, -1]))
    assert [(c.description, c.label, c.index) for c in (rate, sign)] == [
        ("learning rate η", "η = 0.2", 1),
        ("sign", "-1", 1),
    ]
    assert sorted(calls) == sorted(itertools.product(RATES, [1, -1]))  # each drawn once, even the first
    assert {(c.style.description_width, c.layout.width) for c in (rate, sign)} == {("initial", "90%")}
    assert box.value == svg_of(two, lr=0.2, sign=-1)
    for control, index, position in ((rate, 2, (0.4, -1)), (sign, 0, (0.4, 1))):
        calls.clear()
        control.index = index
        assert calls == [position] and box.value == svg_of(draw=two, lr=position[0], sign=position[1])


def test_an_exception_is_shown_in_the_pictures_place_until_the_next_move() -> None:
    broken = False

    def fragile(lr: float = 0.2) -> Figure:
        """A line that falls as fast as the learning rate says."""
        fig = draw(lr)
        if broken:
            raise ValueError("too <fast>")
        return fig

    (control,), box = live(bundle(fragile, lr=RATES))
    broken = True  # the reader has run the cell again: no figure is kept from before
    control.index = 0
    control.index = 1
    assert box.value.startswith("<pre>Traceback") and "ValueError: too &lt;fast&gt;" in box.value
    broken = False
    control.index = 0
    assert box.value == svg_of(fragile, lr=0.1)


SETUP = """
from tests.test_sliders import draw, slider
def limited(lr=0.2):
    '''A line that falls as fast as the learning rate says.'''
    return draw(lr / (lr < limit))
"""
CELLS = [SETUP, "limit = 1\nslider(limited, lr=[0.1, 0.2, 0.4])", "limit = 0.3\nslider(limited, lr=[0.1, 0.2, 0.4])"]


def test_in_a_kernel_the_slider_comes_first_and_one_output_remains() -> None:
    """The reader sees the live slider before the other figures are drawn."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    shown = []

    class Client(NotebookClient):
        def process_message(self, msg: dict, *args: object) -> object:
            if msg["msg_type"].endswith("display_data"):
                shown.append((msg["msg_type"], set(msg["content"]["data"])))
            return super().process_message(msg, *args)

    Client(notebook, kernel_name="python3", allow_errors=True).execute()
    first = {VIEW, "image/png", "text/plain"}
    whole = first | {"text/html"}
    assert shown == [("display_data", first), ("update_display_data", whole), ("display_data", first)]
    _, (output,), (kept, error) = (cell.outputs for cell in notebook.cells)
    assert set(output.data) == whole and len(frames(output.data["text/html"])) == 3
    assert VIEW in kept.data and error.ename == "ZeroDivisionError"
