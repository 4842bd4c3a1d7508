"""Figures: one accessible SVG each, in the book's colours and the page's font, that says the same on every run."""

import base64
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from PIL import Image

from lessons_lib.figures import COLOURS, GREY, INK, PAPER, arrow, box, label, serialise, show, to_png, to_tree

ALT = "A line that goes up."  # the shortest that is taken
STYLES = Path(__file__).parents[1] / "book" / "_static" / "lessons.css"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    plt.close("all")
    yield
    assert not plt.get_fignums()


def line(**axes: object) -> Figure:
    fig = Figure()
    ax = fig.subplots()
    ax.plot([1, 2, 3], marker="o")
    ax.set(**axes)
    return fig


def to_svg(fig: Figure) -> str:
    return serialise(to_tree(fig, ALT))


def tree(fig: Figure) -> ElementTree.Element:
    return ElementTree.fromstring(to_svg(fig))


def plain(fig: Figure) -> ElementTree.Element:
    """As matplotlib alone writes it."""
    file = io.StringIO()
    fig.savefig(file, format="svg")
    return ElementTree.fromstring(file.getvalue())


def ids(svg: str) -> list[str]:
    return re.findall(r'\bid="([^"]+)"', svg)


def test_show_displays_one_bundle_and_closes_its_figure_alone() -> None:
    other, _ = plt.subplots()
    fig, ax = plt.subplots()
    ax.plot([1, 2, 3])
    svg, png = to_svg(fig), to_png(fig)
    with patch("lessons_lib.figures.display") as display:
        show(fig, ALT)
    display.assert_called_once_with({"image/svg+xml": svg, "image/png": png, "text/plain": ALT}, raw=True)
    assert plt.get_fignums() == [other.number]
    plt.close(other)


def test_where_no_notebook_is_a_figure_prints_as_its_description(capsys: pytest.CaptureFixture[str]) -> None:
    show(line(), ALT)
    assert capsys.readouterr().out == f"{ALT}\n"


@pytest.mark.parametrize(
    ("fig", "alt", "error", "message"),
    [
        (Figure(), f"{ALT[:-1]}   ", ValueError, "alt: expected a sentence that says what is to be seen, got 'A line"),
        (Figure(), None, ValueError, "alt: expected a sentence that says what is to be seen, got None"),
        (line().axes[0], ALT, TypeError, "fig: expected a matplotlib figure, got <Axes"),
    ],
)
def test_errors_name_the_argument(fig: Figure, alt: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        show(fig, alt)


def test_a_label_is_bold_and_has_its_lines_colour() -> None:
    fig = line()
    label(fig.axes[0], 1, 2, "loss", COLOURS["orange"], ha="right")
    text = next(e for e in tree(fig).iter(f"{SVG}text") if e.text == "loss")
    for style in ("font-weight: 700", "text-anchor: end", "fill: var(--lesson-orange, #b84a00)"):
        assert style in text.get("style")


def test_a_diagrams_boxes_hold_their_text_and_its_arrows_end_where_they_point() -> None:
    fig = Figure()
    ax = fig.subplots()
    ax.set(xlim=(0, 4), ylim=(0, 4))
    box(ax, 2, 1, "convolution", COLOURS["blue"], width=3, height=0.5)
    box(ax, 2, 3, "ReLU")
    arrow(ax, (2, 0), (2, 2), (3, 2), (3, 3), colour=COLOURS["orange"])
    arrow(ax, (0, 0), (1, 1))
    for i, (said, extents) in enumerate((("convolution", [0.5, 0.75, 3.5, 1.25]), ("ReLU", [0.8, 2.7, 3.2, 3.3]))):
        frame, text = (
            part.get_window_extent().transformed(ax.transData.inverted()) for part in (ax.patches[i], ax.texts[i])
        )
        assert frame.extents == pytest.approx(extents) and ax.texts[i].get_text() == said
        assert (text.x0 + text.x1) / 2 == pytest.approx(2, abs=0.02)
        assert (text.y0 + text.y1) / 2 == pytest.approx((extents[1] + extents[3]) / 2, abs=0.08)
    assert [(head.xyann, head.xy) for head in ax.texts[2:]] == [((3, 2), (3, 3)), ((0, 0), (1, 1))]
    assert [head.arrow_patch.get_arrowstyle().arrow for head in ax.texts[2:]] == ["-|>", "-|>"]
    assert [line.get_xydata().tolist() for line in ax.lines] == [[[2, 0], [2, 2], [3, 2]]]
    drawn = to_svg(fig)
    assert "stroke: var(--lesson-blue, #0068a8)" in drawn and "fill: var(--lesson-paper, #ffffff)" in drawn
    assert drawn.count("stroke: var(--lesson-orange, #b84a00)") >= 2


def test_on_a_phone_every_word_of_a_figure_can_be_read() -> None:
    fig = line(xlabel="step", ylabel="loss", title="it falls")
    box(fig.axes[0], 2, 1, "ReLU")
    label(fig.axes[0], 1, 2, "loss", COLOURS["blue"])
    root = tree(fig)
    assert root.get("width") == "388.8pt" and root.get("style").startswith("display: block; max-width: 100%; height: a")
    scale = (360 - 32) / float(root.get("viewBox").split()[2])  # a page of 360 px, less its margins
    texts = list(root.iter(f"{SVG}text"))
    sizes = [re.search(r"(?:font-size|font):.*?([\d.]+)px", e.get("style"))[1] for e in texts]
    assert len(sizes) > 10 and min(map(float, sizes)) * scale > 7


def test_what_was_configured_before_the_library_is_imported_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("axes.grid: True\nfont.size: 20\n")
    code = "from matplotlib import pyplot; pyplot.style.use('dark_background'); from tests.test_figures import *; "
    command = [sys.executable, "-c", f"{code}print(to_svg(line()), to_png(line()))"]
    environment = os.environ | dict(MATPLOTLIBRC=str(tmp_path))
    drawn = subprocess.run(command, cwd=STYLES.parents[2], env=environment, capture_output=True, text=True, check=True)
    assert drawn.stdout.split() == f"{to_svg(line())} {to_png(line())}".split()


def test_what_is_drawn_in_a_dark_style_can_be_read() -> None:
    with plt.style.context("dark_background"):
        ax = Figure().subplots()
        box(ax, 2, 1, "ReLU")
    assert (ax.texts[0].get_color(), to_hex(ax.patches[0].get_facecolor())) == (INK, PAPER)
    assert [axis.get_ticklabels()[0].get_color() for axis in (ax.xaxis, ax.yaxis)] == ["white", "white"]


def test_what_nobody_sees_is_taken_out() -> None:
    fig = line(xlabel="step")
    fig.axes[0].set_ylabel("loss", rotation=37.12345)
    fig.text(-1e-6, 0.5, "left")
    svg, root = to_svg(fig), tree(fig)
    texts = {e.text: e for e in root.iter(f"{SVG}text")}
    assert all(e.tail is None and (e.text is None or e.text.strip()) for e in root.iter())
    turned = texts["loss"].get("transform")
    assert turned.startswith("rotate(-37.12 ") and not re.search(r"\.\d{3}", turned)
    assert "transform" not in texts["step"].attrib and texts["left"].get("x") == "0"
    assert not re.search(r"(?i)metadata|<style|matplotlib|\b20\d\d-\d\d|<!--|<\?xml", svg)


def test_a_level_that_is_nowhere_reached_leaves_no_path() -> None:
    fig = Figure()
    fig.subplots().contour(np.arange(9).reshape(3, 3), levels=[2, 4, 100])
    drawn, kept = (list(root.iter(f"{SVG}path")) for root in (plain(fig), tree(fig)))
    assert len(kept) == len(drawn) - 1 and all(path.get("d") for path in kept)


def test_an_svg_is_one_element_with_an_accessible_name() -> None:
    svg = to_svg(line(ylabel="loss"))
    root = ElementTree.fromstring(svg)
    assert svg.startswith("<svg ") and svg.endswith("</svg>") and "rotate(-90 " in svg
    assert (root.get("role"), root.get("aria-label"), root.get("class")) == ("img", ALT, "lesson-figure")


def test_text_stays_text() -> None:
    said = ["η < 1 & ∇f", "#0068a8", "url(#a) id"]
    fig = line(title=said[0], xlabel=said[1], ylabel=said[2])
    texts = [e.text for e in tree(fig).iter(f"{SVG}text")]
    assert set(said) < set(texts)
    formula = tree(line(xlabel="$x_1^2$")).iter(f"{SVG}tspan")
    assert sorted(e.text for e in formula) == ["1", "2", "x"]


def test_the_font_is_named_once_for_the_page_to_replace() -> None:
    svg = to_svg(line(xlabel="$x^2$", ylabel="loss"))
    assert svg.count("font-family") == 1 and "font-family: var(--lesson-font, " in svg
    fig = line()
    fig.axes[0].set_title("code", family="monospace")
    assert "font-family: 'DejaVu Sans Mono'" in to_svg(fig)


@pytest.mark.parametrize("name", [*COLOURS, "ink", "grey", "paper"])
def test_a_colour_is_a_variable_of_the_page(name: str) -> None:
    colour = (COLOURS | dict(ink=INK, grey=GREY, paper=PAPER))[name]
    fig = line()
    fig.axes[0].axhline(2, color=colour)
    styles = " ".join(e.get("style", "") for e in tree(fig).iter())
    assert f"stroke: var(--lesson-{name}, {colour})" in styles
    assert not re.search(rf"(?<!, ){colour}", styles)
    assert f"--lesson-{name}: " in STYLES.read_text("utf-8")  # for the dark theme; tests/browser measures contrasts


def test_figures_on_one_page_have_ids_of_their_own() -> None:
    a, b = to_svg(line()), to_svg(line(title="another"))
    assert ids(a) and ids(b) and not set(ids(a)) & set(ids(b))
    assert a == to_svg(line())
    for svg in (a, b):
        assert len(ids(svg)) == len(set(ids(svg)))
        assert set(ids(svg)) == set(re.findall(r'(?:url\(|href=")#([^")]+)', svg))


def test_every_definition_is_found_whatever_matplotlib_calls_it() -> None:
    fig = line()
    ax = fig.axes[0]
    ax.bar([1, 2], [1, 2], hatch="/")
    ax.scatter([0, 1, 2], [1, 2, 3], s=[9, 25, 49])
    ax.pcolormesh(np.eye(3), shading="gouraud")
    for radius in (0.2, 0.3):
        image = ax.imshow(np.eye(3), zorder=3)
        image.set_clip_path(Circle((1, 1), radius, transform=ax.transData))
    svg = to_svg(fig)
    root = ElementTree.fromstring(svg)
    assert {e.tag.removeprefix(SVG) for e in root[0]} >= {"path", "clipPath", "pattern", "linearGradient"}
    assert [e.tag for e in root.iter() if e.tag == f"{SVG}defs"] == [f"{SVG}defs"]
    assert len(ids(svg)) == len(set(ids(svg)))
    used = list(dict.fromkeys(re.findall(r'(?:url\(|href=")#([^")]+)', svg)))
    assert set(used) == set(ids(svg))
    defined = [element.get("id") for element in root[0]]
    # In the order of their use, which a coordinate's last digit does not change.
    assert defined == [name for name in used if name in defined]


def test_coordinates_are_rounded_and_scales_are_not() -> None:
    fig = line(title="about 3.14159265")
    fig.axes[0].imshow(np.eye(3), extent=(0, 0.123, 0, 0.456), aspect="auto", interpolation="none")
    fig.axes[0].axis((-0.3, 2.7, 0, 4.1))
    root = tree(fig)
    for element in root.iter():
        for name in ("d", "x", "y"):
            assert not re.search(r"\.\d{3}", element.get(name, ""))
    (image,) = root.iter(f"{SVG}image")
    assert re.search(r"(matrix|scale)\(.*\.\d{3}", image.get("transform"))
    assert "about 3.14159265" in [e.text for e in root.iter()]
    drawn, kept = (
        np.array(re.findall(r"-?\d+\.?\d*", " ".join(e.get("d", "") for e in r.iter(f"{SVG}path"))), float)
        for r in (plain(fig), root)
    )
    assert len(drawn) == len(kept)
    assert np.abs(np.sort(drawn) - np.sort(kept)).max() <= 0.005 + 1e-9


def test_a_png_shows_what_matplotlib_draws() -> None:
    fig = line(title="loss")
    fig.axes[0].imshow(np.arange(100).reshape(10, 10), cmap="gray")
    plain = io.BytesIO()
    fig.savefig(plain, format="png")
    png = base64.b64decode(to_png(fig))
    a, b = (np.asarray(Image.open(file).convert("RGB"), int) for file in (plain, io.BytesIO(png)))
    assert a.shape == b.shape == (307, 518, 3)
    assert np.abs(a - b).max() <= 20 and np.abs(a - b).mean() < 3
    assert len(png) < len(plain.getvalue()) / 2
