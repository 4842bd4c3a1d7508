"""One look for all plots: colours, sizes, and SVG that follows the theme of the page it stands in.

Importing this module sets matplotlib's defaults, whatever a matplotlibrc or a style has set before. A figure that a
reader is to see ends in `show(fig, alt)`, where alt has at least 20 characters.
"""

import base64
import hashlib
import io
import re
from collections.abc import Iterator
from xml.etree import ElementTree

import matplotlib
from IPython.display import display
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image

# Okabe and Ito's hues, which stay apart for every common kind of colour-blindness (jfly.uni-koeln.de/color), darkened
# until each has a contrast of 4.5 or more on white. The book's dark theme replaces them one by one; see `to_tree`.
COLOURS = dict(blue="#0068a8", orange="#b84a00", green="#00785a", purple="#9c4378")
INK, GREY, PAPER = "#1f2328", "#646a73", "#ffffff"
_NAMES = {colour: name for name, colour in COLOURS.items()} | {INK: "ink", GREY: "grey", PAPER: "paper"}

matplotlib.rcdefaults()
matplotlib.rc("axes", edgecolor=GREY, labelcolor=INK, titlelocation="left", titlesize="medium")
matplotlib.rc("axes", prop_cycle=matplotlib.cycler(color=list(COLOURS.values())))
matplotlib.rc("axes.spines", right=False, top=False)
matplotlib.rc("figure", figsize=(5.4, 3.2))  # inches: 518 px wide, so that text is still 9 px on a phone
# Fixed margins, not a layout engine's: from one position of a slider to the next the axes must not move.
matplotlib.rc("figure.subplot", bottom=0.16, left=0.14, right=0.97, top=0.91)
matplotlib.rc("font", size=10.5)
matplotlib.rc("grid", alpha=0.25, color=GREY)
matplotlib.rc("legend", frameon=False)
matplotlib.rc("lines", linewidth=2)
matplotlib.rc("patch", edgecolor=INK)  # arrows, too
matplotlib.rc("path", simplify=False)  # else the number of points would hang on their last digits
matplotlib.rc("savefig", dpi=96)
matplotlib.rc("svg", fonttype="none")  # text stays text
matplotlib.rc("text", color=INK)
matplotlib.rc(("xtick", "ytick"), color=GREY, labelcolor=INK)
for _style in plt.style.library.values():  # a dark style lightens the ticks, and their labels no longer follow
    for _tick in ("xtick", "ytick"):
        if f"{_tick}.color" in _style:
            _style.setdefault(f"{_tick}.labelcolor", _style[f"{_tick}.color"])

_SVG = "{http://www.w3.org/2000/svg}"
ElementTree.register_namespace("", _SVG[1:-1])
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
# A page may give the figure its own font by --lesson-font, as it may its colours.
_ROOT_STYLE = (
    "display: block; max-width: 100%; height: auto; stroke-linejoin: round; stroke-linecap: butt; "
    "font-family: var(--lesson-font, 'DejaVu Sans', sans-serif)"
)
_DRAWN_FONT = re.compile(r"font-family: 'DejaVu Sans'[^;]*(; )?")
_COLOUR = re.compile("|".join(_NAMES))
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_ROUNDED = {"d", "x", "y", "width", "height"}  # a hundredth of a point is finer than any screen


class Bundle(dict[str, object]):
    """One output in several forms, by MIME type. Where no notebook shows it, it prints as its text."""

    def __repr__(self) -> str:
        return str(self["text/plain"])


def show(fig: Figure, alt: str) -> None:
    """Display `fig` once, as SVG and PNG, and close it; `alt` says what is to be seen, for those who cannot see it.

    >>> show(Figure(), "An empty figure, which shows nothing at all.")
    An empty figure, which shows nothing at all.
    """
    bundle = Bundle({"image/svg+xml": serialise(to_tree(fig, alt)), "image/png": to_png(fig), "text/plain": alt})
    plt.close(fig)
    display(bundle, raw=True)


def label(ax: Axes, x: float, y: float, text: str, colour: str, **kwargs) -> None:
    """Write `text` beside a line, in the line's own colour; (x, y) in data coordinates, kwargs as for `Axes.text`.

    >>> label(Figure().subplots(), 0, 0, "loss", COLOURS["blue"])
    """
    ax.text(x, y, text, color=colour, fontweight="bold", **kwargs)


def box(ax: Axes, x: float, y: float, text: str, colour: str = INK, width: float = 2.4, height: float = 0.6) -> None:
    """Draw a box of a diagram: `text` in a frame of `colour`, centred on (x, y), all in data coordinates.

    >>> box(Figure().subplots(), 0, 0, "3×3 convolution")
    """
    corner, style = (x - width / 2, y - height / 2), f"round,pad=0,rounding_size={height / 4}"
    ax.add_patch(FancyBboxPatch(corner, width, height, style, facecolor=PAPER, edgecolor=colour, linewidth=1.5))
    ax.text(x, y, text, color=INK, ha="center", va="center_baseline", fontsize="small")


def arrow(ax: Axes, *points: tuple[float, float], colour: str = INK) -> None:
    """Draw a line through `points`, in data coordinates, with a head at the last one.

    >>> arrow(Figure().subplots(), (0, 0), (0, 1), (1, 1))
    """
    if len(points) > 2:
        ax.plot(*zip(*points[:-1], strict=True), color=colour, linewidth=1.5)
    style = dict(arrowstyle="-|>", color=colour, linewidth=1.5, shrinkA=0, shrinkB=0)
    ax.annotate("", points[-1], points[-2], arrowprops=style)


def to_png(fig: Figure) -> str:
    """The figure as a PNG at 96 dots an inch, in base64.

    >>> to_png(Figure())[:8]
    'iVBORw0K'
    """
    drawn, packed = io.BytesIO(), io.BytesIO()
    fig.savefig(drawn, format="png")
    # 256 colours show a plot as well as 16 million do, in a third of the bytes.
    Image.open(drawn).convert("RGB").quantize(method=Image.Quantize.FASTOCTREE).save(packed, "png", optimize=True)
    return base64.b64encode(packed.getvalue()).decode()


def to_tree(fig: Figure, alt: str) -> ElementTree.Element:
    """The figure's SVG, which `serialise` writes out: what it defines comes first, under ids made from its content.

    Each colour of ours becomes `var(--lesson-NAME, #rrggbb)`: a page that defines the variable recolours the figure,
    everywhere else it looks as drawn. The book's stylesheet defines them for its dark theme.
    """
    if not isinstance(fig, Figure):
        raise TypeError(f"fig: expected a matplotlib figure, got {fig!r}")
    if not isinstance(alt, str) or len(alt.strip()) < 20:
        raise ValueError(f"alt: expected a sentence that says what is to be seen, got {alt!r}")
    file = io.StringIO()
    fig.savefig(file, format="svg", metadata=dict(Date=None, Creator=None, Format=None, Type=None))
    root = ElementTree.fromstring(file.getvalue())
    for element in list(root.iter()):
        for path in element.findall(f"{_SVG}path"):
            if not path.get("d"):  # a line without a point in sight, such as a level that is nowhere reached
                element.remove(path)
        _tidy(element)
    root.attrib.pop("version")
    root.attrib |= {"class": "lesson-figure", "role": "img", "aria-label": alt, "style": _ROOT_STYLE}

    definitions, names = {}, {}
    for parent in list(root.iter()):
        for defs in parent.findall(f"{_SVG}defs"):
            parent.remove(defs)
            for element in defs:
                if old := element.attrib.pop("id", None):  # matplotlib's <style> has none, and would reach all the page
                    name = names[old] = "d" + hashlib.sha1(ElementTree.tostring(element)).hexdigest()[:10]
                    definitions.setdefault(name, element).set("id", name)
    for element in root.iter():
        for name, value in element.items():
            element.set(name, re.sub(r"(?<=#)[\w-]+", lambda m: names.get(m[0], m[0]), value))
    used = set(_references(root))
    for element in root.iter():
        if element.get("id") not in used:
            element.attrib.pop("id", None)
    return define(root, definitions)


def define(root: ElementTree.Element, definitions: dict[str, ElementTree.Element]) -> ElementTree.Element:
    """Put those of `definitions` that `root` uses before all else, in the order of their first use; return `root`."""
    defs = ElementTree.Element(f"{_SVG}defs")
    defs.extend(definitions[name] for name in dict.fromkeys(_references(root)) if name in definitions)
    root.insert(0, defs)
    return root


def serialise(root: ElementTree.Element) -> str:
    """Write an SVG tree out, its ids numbered after a prefix of its own, so that two figures on a page never clash.

    >>> serialise(ElementTree.fromstring('<svg><path id="m7"/><use href="#m7"/></svg>'))
    '<svg><path id="f2d904230-0" /><use href="#f2d904230-0" /></svg>'
    """
    text = ElementTree.tostring(root, encoding="unicode")
    numbers = {name: i for i, name in enumerate(e.get("id") for e in root.iter() if e.get("id"))}
    if numbers:
        text = re.sub(rf'(?<=[#"])({"|".join(numbers)})(?=[")])', lambda m: f"\0{numbers[m[0]]}", text)
    return text.replace("\0", f"f{hashlib.sha1(text.encode()).hexdigest()[:8]}-")


def _tidy(element: ElementTree.Element) -> None:
    """Take out, in place, what matplotlib writes and nobody sees: blanks, digits, rotations by 0, its list of fonts."""
    element.tail = None
    element.text = element.text if (element.text or "").strip() else None
    for name, value in element.items():
        if name in _ROUNDED or (name == "transform" and "rotate" in value):
            value = _LONG_NUMBER.sub(lambda m: f"{round(float(m[0]), 2) + 0:.10g}", " ".join(value.split()))
        value = _COLOUR.sub(lambda m: f"var(--lesson-{_NAMES[m[0]]}, {m[0]})", value)
        element.set(name, _DRAWN_FONT.sub("", value))
    if element.get("transform", "").startswith("rotate(-0 "):
        element.attrib.pop("transform")


def _references(root: ElementTree.Element) -> Iterator[str]:
    """The ids to which elements refer, in order."""
    for element in root.iter():
        for value in element.attrib.values():
            yield from re.findall(r"(?:^|url\()#([\w-]+)", value)
