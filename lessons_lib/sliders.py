"""One slider for every host: a live one where a kernel runs, the same figures without one in the built book."""

import html as html_
import inspect
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import SequenceMatcher
from importlib.resources import files
from traceback import format_exc
from xml.etree import ElementTree

import ipywidgets
from IPython import get_ipython
from IPython.display import display
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from lessons_lib.figures import Bundle, define, serialise, to_png, to_svg, to_tree

# What a reader is shown for a parameter: its name in words, and the formula's symbol.
LABELS = dict(lr=("learning rate", "η"), momentum=("momentum", "ρ"), batch_size=("batch size", "m"))


def slider(draw: Callable[..., Figure], /, **values: Iterable) -> None:
    """Display the figures that `draw` returns, with one slider for each parameter.

    In a live notebook, moving a slider calls `draw` again, so what the reader edits is what the reader sees. In the
    built book there is no kernel: every figure is drawn here and now, and stored in the output.

    Args:
        draw: called as `draw(name=value, …)`, returns a matplotlib figure. Its docstring says what is to be seen: it
            is the picture's alternative text. A default of a parameter is where its slider starts.
        values: for each of draw's parameters, the values it may take, at least two.

    Raises:
        ValueError: a parameter has fewer than two values, or its default is not among them; draw's docstring is
            missing or too short to say anything.
        TypeError: draw does not take exactly these parameters, or does not return a figure; a value is no sequence.
        Whatever `draw` raises, at any position: a slider that would fail a reader fails its cell.

    >>> def draw(lr=0.2):
    ...     '''A line that falls as fast as the learning rate says.'''
    ...     fig, ax = plt.subplots()
    ...     ax.plot([1, 1 - lr])
    ...     return fig
    >>> slider(draw, lr=[0.1, 0.2, 0.4])
    A line that falls as fast as the learning rate says.
    """
    values, starts = _check(draw, values)
    alt = " ".join(inspect.getdoc(draw).split())
    positions = [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]
    start = positions.index({name: vs[starts[name]] for name, vs in values.items()})
    trees = {}
    for k in sorted(range(len(positions)), key=lambda k: k != start):
        with _drawn(draw, positions[k]) as fig:
            trees[k] = to_tree(fig, alt)
            if k == start:
                bundle = Bundle({"text/plain": alt, "image/png": to_png(fig)})
                live = _live(draw, values, starts, alt, picture=serialise(trees[k]))
                # By hand, since widgets of ipywidgets 7 (Colab) cannot make a bundle of themselves.
                bundle[_VIEW] = dict(model_id=live.model_id, version_major=2, version_minor=0)
                if get_ipython():  # a live reader need not wait for the other frames
                    shown = display(bundle, raw=True, display_id=True)
    parameters = [
        dict(name=name, label=_label(name), values=[_text(name, v) for v in vs], start=starts[name])
        for name, vs in values.items()
    ]
    bundle["text/html"] = _html([trees[k] for k in range(len(positions))], parameters, bundle["image/png"], alt)
    if get_ipython():
        display(bundle, raw=True, display_id=shown.display_id, update=True)
    else:
        display(bundle, raw=True)


def frames(html: str) -> list[str]:
    """The figures stored in a slider's HTML, one complete SVG for each position, in order; ValueError if none is.

    The first parameter turns slowest: with values (a, b) and (1, 2, 3) the order is a1, a2, a3, b1, b2, b3.
    """
    data = _data(html)
    return [serialise(_only(ElementTree.fromstring(data["svg"]), str(k))) for k in range(data["frames"])]


def parameters(html: str) -> list[dict]:
    """The parameters of a slider's HTML: name, label, values (as shown) and start (an index); ValueError if none."""
    return _data(html)["parameters"]


_VIEW = "application/vnd.jupyter.widget-view+json"


def _check(draw: Callable[..., Figure], values: dict[str, Iterable]) -> tuple[dict[str, list], dict[str, int]]:
    """The values as lists, and at which of them each slider starts."""
    if not callable(draw):
        raise TypeError(f"draw: expected a function that returns a figure, got {draw!r}")
    if len((inspect.getdoc(draw) or "").strip()) < 20:
        raise ValueError(f"draw: expected a docstring that says what is to be seen, got {inspect.getdoc(draw)!r}")
    takes = inspect.signature(draw).parameters
    if set(takes) != set(values) or not values:
        raise TypeError(f"draw: expected a function of {', '.join(values) or 'something'}, got {', '.join(takes)}")
    lists, starts = {}, {}
    for name, given in values.items():
        if not isinstance(given, Iterable):
            raise TypeError(f"{name}: expected a sequence of values, got {given!r}")
        lists[name], default = list(given), takes[name].default
        if len(lists[name]) < 2:
            raise ValueError(f"{name}: expected at least two values, got {given!r}")
        if default is not inspect.Parameter.empty and default not in lists[name]:
            raise ValueError(f"{name}: expected the default to be one of {given!r}, got {default!r}")
        starts[name] = 0 if default is inspect.Parameter.empty else lists[name].index(default)
    return lists, starts


@contextmanager
def _drawn(draw: Callable[..., Figure], position: dict) -> Iterator[Figure]:
    """What `draw` returns; closed afterwards with all else that it opened, or the notebook would show it once more."""
    before = plt.get_fignums()
    try:
        fig = draw(**position)
        if not isinstance(fig, Figure):
            raise TypeError(f"draw: expected a matplotlib figure at {position}, got {fig!r}")
        yield fig
        plt.close(fig)
    finally:
        for number in set(plt.get_fignums()).difference(before):
            plt.close(number)


def _label(name: str) -> str:
    return " ".join(LABELS.get(name, (name.replace("_", " "),)))


def _text(name: str, value: object) -> str:
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{LABELS[name][1]} = {shown}" if name in LABELS else shown


# --- live: ipywidgets ---


def _live(
    draw: Callable[..., Figure], values: dict[str, list], starts: dict[str, int], alt: str, picture: str
) -> ipywidgets.Widget:
    """Controls that call `draw` in the kernel, for ipywidgets 7 and 8. One HTML widget changes in place: an Output
    widget would append a second picture in Colab, and hide exceptions."""
    box = ipywidgets.HTML(picture)
    controls = [
        ipywidgets.SelectionSlider(
            options=[(_text(name, v), v) for v in vs],
            index=starts[name],
            description=_label(name),
            style=dict(description_width="initial"),
            layout=dict(width="90%"),
        )
        for name, vs in values.items()
    ]

    def redraw(_change: object) -> None:
        try:
            with _drawn(draw, {name: vs[c.index] for (name, vs), c in zip(values.items(), controls, strict=True)}) as fig:
                box.value = to_svg(fig, alt)
        except Exception:  # a callback's exception goes to a log that nobody reads: show it where the picture was
            box.value = f"<pre>{html_.escape(format_exc())}</pre>"

    for control in controls:
        control.observe(redraw, names="index")
    return ipywidgets.VBox([*controls, box])


# --- built page: one SVG in which each part that moves stands once for each of its forms ---


def _html(trees: list[ElementTree.Element], parameters: list[dict], png: str, alt: str) -> str:
    """A picture of the starting position, and the data and script that replace it where scripts run.

    The frames travel inside a script element: a host that strips scripts (a preview) keeps the picture alone.
    """
    data = dict(svg=serialise(_merge(trees)), frames=len(trees), parameters=parameters)
    # Nothing in it may close the script element, or open a comment that would hide its end.
    text = json.dumps(data, ensure_ascii=False).replace("</", r"<\/").replace("<!", r"<\u0021")
    css, js = ((files("lessons_lib") / f"slider.{kind}").read_text("utf-8") for kind in ("css", "js"))
    return (
        '<div class="lesson-slider">\n'
        f'<img alt="{html_.escape(alt)}" src="data:image/png;base64,{png}">\n'
        f'<script type="application/json">{text}</script>\n'
        f"<style>\n{css}</style>\n"
        f"<script>\n{js}</script>\n"
        "</div>"
    )


def _merge(trees: list[ElementTree.Element]) -> ElementTree.Element:
    """One tree for all frames, which it takes apart. What all share stands once, the rest carries data-frames="0 3"."""
    definitions = {}
    for tree in trees:
        for element in tree[0]:
            definitions.setdefault(element.get("id"), element)
        tree.remove(tree[0])
    seen, whole = {}, {}
    for element in itertools.chain(*(reversed(list(tree.iter())) for tree in trees)):  # children before their parents
        whole[element] = seen.setdefault((*_outside(element), *(whole[child] for child in element)), len(seen))
    return define(_merge_elements(dict(enumerate(trees)), [whole.get, _outside]), definitions)


def _outside(element: ElementTree.Element) -> tuple:
    """What two elements must share to become one."""
    return element.tag, tuple(element.attrib.items()), element.text


def _merge_elements(elements: dict[int, ElementTree.Element], keys: list[Callable]) -> ElementTree.Element:
    """One element for several that look the same from outside, given by frame."""
    first = next(iter(elements.values()))
    merged = ElementTree.Element(first.tag, first.attrib)
    merged.text = first.text
    rows = []
    for k, element in elements.items():
        rows = _align(rows, k, list(element), keys)
    for row in rows:
        child = _merge_elements(row, keys)
        if len(row) < len(elements):
            child.set("data-frames", " ".join(map(str, row)))
        merged.append(child)
    return merged


def _align(rows: list[dict], k: int, children: list[ElementTree.Element], keys: list[Callable]) -> list[dict]:
    """Put frame k's children into the rows, in order: first those that are wholly the same, then those between them
    that are so from outside. A child that matches none has a row of its own."""
    key, *other_keys = keys
    last = [next(reversed(row.values())) for row in rows]
    aligned = []
    for match, i, j, m, n in SequenceMatcher(None, [*map(key, last)], [*map(key, children)], False).get_opcodes():
        if match == "equal":
            aligned += [row | {k: child} for row, child in zip(rows[i:j], children[m:n], strict=True)]
        elif other_keys:
            aligned += _align(rows[i:j], k, children[m:n], other_keys)
        else:
            aligned += rows[i:j] + [{k: child} for child in children[m:n]]
    return aligned


def _only(root: ElementTree.Element, k: str) -> ElementTree.Element:
    """Take all other frames' parts out of a merged tree, in place."""
    for parent in list(root.iter()):
        for child in list(parent):
            if k not in child.attrib.pop("data-frames", k).split():
                parent.remove(child)
    definitions = {element.get("id"): element for element in root[0]}
    root.remove(root[0])
    return define(root, definitions)


def _data(html: str) -> dict:
    found = re.search(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)
    if 'class="lesson-slider"' not in html or not found:
        raise ValueError(f"html: expected a slider's output, got {html[:80]!r}")
    return json.loads(found[1])
