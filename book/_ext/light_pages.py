"""Pages that are there at once: formulas set at build time, and nothing loaded or written that is not used.

A page of the theme with MathJax weighs 1.3 MB and moves while its formulas are set. As MathML they are part of the
page: the browser sets them with everything else, in a font that the style sheet holds.
"""

import json
import re
from collections.abc import Iterable
from functools import cache
from html import escape
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pypandoc
from docutils import nodes
from myst_nb.sphinx_ import HideCodeCellNode, depart_HideCellInput
from pygments.formatters import HtmlFormatter
from pygments.token import Name, Punctuation, Text, Whitespace
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.highlighting import PygmentsBridge
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.writers.html5 import HTML5Translator
from tools.contents import ROOT

FORMULAS: dict[tuple[bool, str], str] = {}  # whether on a line of its own, and TeX: MathML
TAG = re.compile(r"\\tag(\*?)\s*\{([^{}$\\]*)\}")
SHEETS = ("theme", "bootstrap", "pydata-sphinx-theme")  # what the theme itself loads first; the second in old versions


def convert(formulas: Iterable[tuple[bool, str]]) -> None:
    """Put the MathML of each formula into `FORMULAS`. One call of pandoc for many: its start is what takes time."""
    missing = [formula for formula in dict.fromkeys(formulas) if formula not in FORMULAS]
    if not missing:
        return
    kinds = {True: {"t": "DisplayMath"}, False: {"t": "InlineMath"}}
    formulas = [{"t": "Math", "c": [kinds[block], numbered(block, tex)[0]]} for block, tex in missing]
    paragraphs = [{"t": "Para", "c": [formula]} for formula in formulas]
    document = json.dumps({"pandoc-api-version": [1, 23, 1], "meta": {}, "blocks": paragraphs})
    xml = pypandoc.convert_text(document, "html", format="json", extra_args=["--mathml", "--wrap=none"])
    for formula, paragraph in zip(missing, ElementTree.fromstring(f"<body>{xml}</body>"), strict=True):
        for part in paragraph.iter():
            part.tag = part.tag.rpartition("}")[2]  # HTML has no namespaces
        math = paragraph.find(".//math")
        if math is None:
            raise ExtensionError(f"{formula[1]}: a formula that pandoc cannot convert")
        mend(math)
        if unknown := set("".join(math.itertext())) - known_letters():
            signs = " ".join(sorted(unknown))
            raise ExtensionError(f"{formula[1]}: the formulas' font has no {signs}: add it in tools/math_font.py")
        FORMULAS[formula] = ElementTree.tostring(math, "unicode", method="html").strip()


@cache
def known_letters() -> set[str]:
    """The letters and signs in the formulas' font."""
    sheet = (ROOT / "book/_static/formulas.css").read_text("utf-8")
    return {chr(int(letter, 16)) for letter in re.findall(r"U\+([0-9A-F]+)", sheet)} | {"\u2061", "\n"}


def mend(math: Element) -> None:
    """Leave out the TeX, and set the spaces and sizes that TeX would, where pandoc sets others."""
    math[:] = [math.find("semantics")[0]]
    for part in list(math.iter()):
        if part.tag == "mo" and part.text == "‖" and part.get("form") in ("prefix", "postfix"):
            part.set("stretchy", "false")
        if part.tag == "msup" and part[1].tag == "mo" and part[1].text in "′″‴":  # which is raised already
            part.tag, part[1].attrib = "mrow", dict(lspace="0", rspace="0")
        if part.tag == "mtd" and "padding-left: 0" in part.get("style", ""):
            first = next((leaf for leaf in part.iter() if leaf.text), part)
            if first.text in ("−", "+"):  # at the start of a line's second part it is not a sign: it adds
                first.tag, first.attrib = "mo", dict(form="infix")
        if part.tag in ("math", "mrow", "mtd", "mstyle"):
            space_names(part)


def space_names(row: Element) -> None:
    """Set a function's name a little apart from its argument, unless that is in brackets, and from a factor before."""
    for left, right in list(pairwise(row)):
        applied = is_name(left) and right.tag not in ("mo", "mspace")
        factor = left.tag in ("mi", "mn", "msup", "msub", "mfrac") or left.get("form") == "postfix"
        if applied or is_name(right) and factor:
            row.insert(list(row).index(left) + 1, Element("mspace", width="0.167em"))


def is_name(part: Element) -> bool:
    """Whether an element is a function's name, perhaps with an exponent or an index."""
    if part.tag in ("msup", "msub", "munder"):
        return is_name(part[0]) and len(part[1]) == 0
    return part.tag == "mrow" and [child.text for child in part][1:] == ["\u2061"]


def numbered(block: bool, tex: str) -> tuple[str, str]:
    r"""What pandoc is given for a formula, and the number that stands beside it: MathML has no place for one.

    Within an environment, or one of several, a number stays in the line that it numbers. An ExtensionError if there is
    a \tag that can be shown in neither way.
    """
    tex, beside = re.sub(r"\\cr\b", r"\\\\", tex).strip(), ""
    found = list(TAG.finditer(tex)) if block else []
    if len(found) == 1 and r"\end" not in tex[found[0].end() :]:
        beside = shown(found[0])
        tex = TAG.sub("", tex).strip()
    elif found:
        tex = TAG.sub(lambda tag: rf"\qquad\text{{{shown(tag)}}}", tex)
    if re.search(r"\\tag(?![a-zA-Z])", tex):
        raise ExtensionError(rf"{tex}: expected each \tag in a display, and of plain text, such as \tag{{1}}")
    return tex, beside


def shown(tag: re.Match[str]) -> str:
    """In brackets, unless it has a star."""
    return tag[2] if tag[1] else f"({tag[2]})"


class Formulas(SphinxPostTransform):
    """Convert all formulas of a page together, before they are written one by one."""

    formats = ("html",)
    default_priority = 900

    def run(self, **kwargs: object) -> None:
        found = self.document.findall(lambda node: isinstance(node, nodes.math | nodes.math_block))
        convert((isinstance(node, nodes.math_block), node.astext()) for node in found)


def inline(self: HTML5Translator, node: nodes.math) -> None:
    convert([(False, node.astext())])
    self.body.append(f'<span class="math">{FORMULAS[False, node.astext()]}</span>')
    raise nodes.SkipNode


def block(self: HTML5Translator, node: nodes.math_block) -> None:
    tex = node.astext()
    convert([(True, tex)])
    beside = numbered(True, tex)[1]
    after = f'<span class="eqno">{escape(beside)}</span>' if beside else ""
    # A formula may be wider than a phone: then it scrolls, and one must reach it by keyboard to scroll it.
    name = escape(" ".join(["Equation", *(number for _, number in TAG.findall(tex))]))
    box = f'<div class="formula" tabindex="0" role="group" aria-label="{name}">{FORMULAS[True, tex]}</div>'
    self.body.append(f'<div class="math-block">{box}{after}</div>\n')
    raise nodes.SkipNode


class PlainCode(HtmlFormatter):
    """Names, brackets and spaces have the colour of code itself: elements for them are a third of a page's."""

    def format_unencoded(self, tokensource: Iterable, outfile: object) -> None:
        plain = {Name, Name.Namespace, Punctuation, Whitespace}
        super().format_unencoded(((Text if kind in plain else kind, text) for kind, text in tokensource), outfile)


def fold(self: HTML5Translator, node: HideCodeCellNode) -> None:
    """Begin a folded cell as MyST-NB does, but with two <span>: it writes <p>, which HTML forbids in a <summary>."""
    words = dict(collapsed=node["prompt_show"], expanded=node["prompt_hide"])
    spans = "".join(f'<span class="{name}">{escape(text)}</span>\n' for name, text in words.items())
    self.body.append(f'<details class="admonition hide {" ".join(node["classes"])}">\n')
    self.body.append(f'<summary aria-label="Toggle hidden content">\n{spans}</summary>\n')


def head(app: Sphinx, pagename: str, templatename: str, context: dict, doctree: object) -> None:
    """What a page loads, for book/_templates/layout.html; and an address that the theme forgets to escape."""
    theme = Path(app.outdir, "_static/styles")
    context["theme_sheets"] = [f"_static/styles/{name}.css" for name in SHEETS if (theme / f"{name}.css").exists()]
    if not context["theme_sheets"]:
        raise ExtensionError(f"the theme has none of the style sheets {', '.join(SHEETS)}")
    for script in context["script_files"]:
        at_once = pagename == "search" or script.filename in (None, "", "_static/documentation_options.js")
        script.attributes["defer"] = None if at_once else "defer"  # what other scripts of the page call at once
    for group in context.get("header_buttons", []):
        for button in group.get("buttons", []):
            if "&amp;" in button.get("url", ""):
                raise ExtensionError("the theme escapes its buttons' addresses by now: here they need not be")
            button |= {"url": escape(button["url"])} if "url" in button else {}


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    app.config.html_math_renderer = "mathml"
    app.add_post_transform(Formulas)
    app.add_node(HideCodeCellNode, override=True, html=(fold, depart_HideCellInput))
    PygmentsBridge.html_formatter = PlainCode
    for sheet in ("slider.css", "book.css", "icons.css", "formulas.css"):
        app.add_css_file(sheet)
    app.connect("html-page-context", head, priority=900)  # when the theme has made its buttons
    return dict(parallel_read_safe=True, parallel_write_safe=False)
