"""One slider for every host: a live one where a kernel runs, the same figures without one in the built book."""

import html as html_
import inspect
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import SequenceMatcher
from importlib.resources import files
from traceback import format_exc
from types import MappingProxyType
from xml.etree import ElementTree

import ipywidgets
from IPython import get_ipython
from IPython.display import display
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from lessons_lib.figures import Bundle, define, serialise, to_png, to_tree

Labels = Mapping[str, str | tuple[str, str]]


def slider(draw: Callable[..., Figure], labels: Labels = MappingProxyType({}), /, **values: Iterable) -> None:
    """Display the figures that `draw` returns, with one slider for each parameter.

    In a live notebook, moving a slider calls `draw` again, so what the reader edits is what the reader sees. In the
    built book there is no kernel: every figure is drawn here and now, and stored in the output.

    Args:
        draw: called as `draw(name=value, …)`, returns a matplotlib figure. Its docstring, of at least 20 characters,
            is the picture's alternative text. A default of a parameter is where its slider starts.
        labels: what a reader sees for a parameter: words, or words and the formula's symbol; by default its name.
        values: for each of draw's parameters, the values it may take, at least two. They must read differently.

    Where these do not fit together it raises a ValueError or a TypeError. It also raises whatever `draw` raises, at any
    position: a slider that would fail a reader fails its cell.

    >>> def draw(lr=0.2):
    ...     '''A line that falls as fast as the learning rate says.'''
    ...     fig, ax = plt.subplots()
    ...     ax.plot([1, 1 - lr])
    ...     return fig
    >>> slider(draw, dict(lr=("learning rate", "η")), lr=[0.1, 0.2, 0.4])
    A line that falls as fast as the learning rate says.
    """
    values = {name: _listed(name, given) for name, given in values.items()}
    parameters = _parameters(draw, labels, values)
    alt = " ".join(inspect.getdoc(draw).split())
    positions = [dict(zip(values, position, strict=True)) for position in itertools.product(*values.values())]
    start = positions.index({p["name"]: values[p["name"]][p["start"]] for p in parameters})
    with _drawn(draw, positions[start]) as fig:
        first = to_tree(fig, alt)
        bundle = Bundle({"text/plain": alt, "image/png": to_png(fig)})
    live = _live(draw, values, parameters, alt, picture=serialise(first))
    # By hand, since widgets of ipywidgets 7 (Colab) cannot make a bundle of themselves.
    bundle["application/vnd.jupyter.widget-view+json"] = dict(model_id=live.model_id, version_major=2, version_minor=0)
    shown = {}
    if get_ipython():  # a live reader need not wait for the other figures: they join this output later
        shown = dict(display_id=display(bundle, raw=True, display_id=True).display_id, update=True)
    trees = [first] * len(positions)
    for k, position in enumerate(positions):
        if k != start:
            with _drawn(draw, position) as fig:
                trees[k] = to_tree(fig, alt)
    bundle["text/html"] = _html(trees, parameters, bundle["image/png"], alt)
    display(bundle, raw=True, **shown)


def frames(html: str) -> list[str]:
    """The figures stored in a slider's HTML, one complete SVG for each position, in order; ValueError if none is.

    The first parameter turns slowest: with values (a, b) and (1, 2, 3) the order is a1, a2, a3, b1, b2, b3.
    """
    data = _data(html)
    merged = ElementTree.fromstring(data["svg"])
    definitions = {element.get("id"): element for element in merged[0]}
    del merged[0]
    return [serialise(define(_only(merged, str(k)), definitions)) for k in range(data["frames"])]


def parameters(html: str) -> list[dict]:
    """The parameters of a slider's HTML: name, label, values (as shown) and start (an index); ValueError if none."""
    return _data(html)["parameters"]


def _listed(name: str, given: Iterable) -> list:
    # A string is most likely one value, and a set has another order in each process.
    several = isinstance(given, Iterable) and not isinstance(given, str | set | frozenset)
    if not several or len(values := list(given)) < 2:
        raise ValueError(f"{name}: expected a sequence of at least two values, got {given!r}")
    return values


def _parameters(draw: Callable[..., Figure], labels: Labels, values: dict[str, list]) -> list[dict]:
    """What a reader sees of each parameter, name, label and values, and the index where its slider starts."""
    if len((inspect.getdoc(draw) or "").strip()) < 20:
        raise ValueError(f"draw: expected a docstring that says what is to be seen, got {inspect.getdoc(draw)!r}")
    takes = inspect.signature(draw).parameters
    if set(takes) != set(values) or not values:
        raise TypeError(f"draw: expected a function of {', '.join(values) or 'something'}, got {', '.join(takes)}")
    if not isinstance(labels, Mapping) or not set(labels) <= set(values):
        raise ValueError(f"labels: expected a dictionary with labels of {', '.join(values)}, got {labels!r}")
    parameters = []
    for name, choices in values.items():
        default = choices[0] if takes[name].default is inspect.Parameter.empty else takes[name].default
        if default not in choices:
            raise ValueError(f"{name}: expected the default to be one of {choices!r}, got {default!r}")
        match labels.get(name, name.replace("_", " ")):
            case str(words):
                label, before = words, ""
            case (str(words), str(symbol)):
                label, before = f"{words} {symbol}", f"{symbol} = "
            case other:
                raise TypeError(f"labels: expected words, or words and a symbol, for {name}, got {other!r}")
        texts = [before + (f"{value:g}" if isinstance(value, float) else str(value)) for value in choices]
        if len(set(texts)) < len(texts):
            raise ValueError(f"{name}: expected values that read differently, got {choices!r}")
        parameters.append(dict(name=name, label=label, values=texts, start=choices.index(default)))
    return parameters


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


def _live(draw: Callable, values: dict, parameters: list[dict], alt: str, picture: str) -> ipywidgets.Widget:
    """Controls that call `draw` in the kernel, for ipywidgets 7 and 8. One HTML widget changes in place: an Output
    widget would append a second picture in Colab, and hide exceptions."""
    box, controls = ipywidgets.HTML(picture), {}

    def redraw(_change: object) -> None:
        try:
            with _drawn(draw, {name: values[name][controls[name].index] for name in values}) as fig:
                box.value = serialise(to_tree(fig, alt))
        except Exception:  # a callback's exception goes to a log that nobody reads: show it where the picture was
            box.value = f"<pre>{html_.escape(format_exc())}</pre>"

    for p in parameters:
        words = dict(options=p["values"], index=p["start"], description=p["label"])
        look = dict(style=dict(description_width="initial"), layout=dict(width="90%"))
        controls[p["name"]] = ipywidgets.SelectionSlider(**words, **look)
        controls[p["name"]].observe(redraw, names="index")
    return ipywidgets.VBox([*controls.values(), box])


def _html(trees: list[ElementTree.Element], parameters: list[dict], png: str, alt: str) -> str:
    """A picture of the starting position, and the script elements that replace it: a preview strips these."""
    data = dict(svg=serialise(_merge(trees)), frames=len(trees), parameters=parameters)
    # Nothing in it may close the script element, or open a comment that would hide its end.
    text = json.dumps(data, ensure_ascii=False).replace("</", r"<\/").replace("<!", r"<\u0021")
    css, js = ((files("lessons_lib") / f"slider.{kind}").read_text("utf-8") for kind in ("css", "js"))
    return f"""<div class="lesson-slider">
<img alt="{html_.escape(alt)}" src="data:image/png;base64,{png}">
<script type="application/json">{text}</script>
<style>
{css}</style>
<script>
{js}</script>
</div>"""


def _merge(trees: list[ElementTree.Element]) -> ElementTree.Element:
    """One tree for all frames, which it takes apart. What all share stands once, the rest carries data-frames="0 3"."""
    if len({_outside(tree) for tree in trees}) > 1:
        raise ValueError("draw: expected figures of one size at all positions, got several")
    definitions = {element.get("id"): element for tree in trees for element in tree[0]}
    for tree in trees:
        del tree[0]
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


def _only(merged: ElementTree.Element, k: str) -> ElementTree.Element:
    """A copy of what frame k shows of a merged element."""
    element = ElementTree.Element(merged.tag, {name: v for name, v in merged.items() if name != "data-frames"})
    element.text = merged.text
    element.extend(_only(child, k) for child in merged if k in child.get("data-frames", k).split())
    return element


def _data(html: str) -> dict:
    found = re.search(r'<script type="application/json">(.*?)</script>', html)  # json.dumps writes one line
    if 'class="lesson-slider"' not in html or not found:
        raise ValueError(f"html: expected a slider's output, got {html[:80]!r}")
    return json.loads(found[1])
