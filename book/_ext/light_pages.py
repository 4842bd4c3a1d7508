"""Pages that are there at once: formulas set at build time, icons in the page, nothing loaded that is not used.

A page of the theme with MathJax weighs 1.3 MB and moves while its formulas are set. As MathML they are part of the
page: the browser sets them with everything else, in a font that holds the glyphs of this book alone.
"""

import base64
import io
import json
import logging
import re
from collections.abc import Iterable, Iterator
from html import escape, unescape
from importlib.util import find_spec
from pathlib import Path

import pypandoc
from docutils import nodes
from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.writers.html5 import HTML5Translator

logging.getLogger("fontTools").setLevel(logging.ERROR)  # it tells what it leaves out

FORMULAS: dict[tuple[bool, str], str] = {}  # whether on a line of its own, and TeX: MathML
TAG = re.compile(r"\\tag(\*?)\s*\{([^{}$\\]*)\}")
# A function's name, with its exponent or index. It stands a little apart from what it is applied to, unless that is in
# brackets, and from what it is multiplied with.
NAME = r'<mrow><mi mathvariant="normal">\w+</mi><mo>&#8289;</mo></mrow>'
SCRIPT = r"m(?:sup|sub|under)"
NAME = rf"(?:{NAME}|<{SCRIPT}>{NAME}<m[ino]>[^<]*</m[ino]></{SCRIPT}>)"
PRIME = r'<mrow>\1<mo lspace="0" rspace="0">\2</mo></mrow>'
SPACE = '<mspace width="0.167em"></mspace>'
APPLIED = re.compile(rf"({NAME})(?=<m(?!o|space))")
MULTIPLIED = re.compile(rf'(</m(?:i|n|sup|sub|frac)>|form="postfix">[^<]*</mo>)(?={NAME})')
CSP = (
    "default-src 'none'; script-src 'self' 'unsafe-inline' file:; style-src 'self' 'unsafe-inline' file:; "
    "img-src 'self' data: file:; font-src 'self' data: file:; connect-src 'self' file:; "
    "base-uri 'none'; form-action 'self' file:"
)
ICON = re.compile(r'<(i|span) class="([^"]*\bfa-[^"]*)"([^>]*)></\1>')
# The formulas' font is in the page, but takes a moment to unpack: shown before, the text would move.
WAIT = """
document.documentElement.classList.add("waits");
document.fonts.load("1em 'Book Math'").finally(() => document.documentElement.classList.remove("waits"));
"""
FONT_AWESOME = ("scripts/fontawesome.js", "vendor/fontawesome/*/js/all.min.js")  # where the theme has had it
# Loaded for what this book has not: tabs, Thebe, icons by script, settings and buttons of the same.
UNUSED_FILES = "sphinx-thebe|sphinx-design|design-tabs|togglebutton|scripts/fontawesome|vendor/fontawesome"
UNUSED = re.compile(
    rf"\s*<(?:link|script)[^>]*_static/(?:{UNUSED_FILES})[^>]*>(?:</script>)?"
    r"|\s*<script>(?:let toggle|var togglebutton)[^<]*</script>"
    r'|\s*<link rel="preload" as="(?:font|script)"[^>]*>'
)
# The theme loads all that searching needs on every page; what is asked there is answered by the page of the search.
SEARCH = re.compile(r'\s*<script src="[^"]*(?:searchtools|language_data|searchindex)\.js"></script>')
# A script that nothing in the page waits for can wait itself. (The page of the search calls its scripts at once.)
PATIENT = re.compile(r'<script (?=src="[^"]*_static/(?!documentation_options))')
# Names, brackets and spaces have the colour of code itself: elements for them are a third of a page's.
PLAIN = re.compile(r'<span class="(?:n|nn|p|w)">([^<]*)</span>')


def convert(formulas: Iterable[tuple[bool, str]]) -> None:
    """Put the MathML of each formula into `FORMULAS`. One call of pandoc for many: its start is what takes time."""
    missing = [formula for formula in dict.fromkeys(formulas) if formula not in FORMULAS]
    if not missing:
        return
    kinds = {True: {"t": "DisplayMath"}, False: {"t": "InlineMath"}}
    formulas = [{"t": "Math", "c": [kinds[block], numbered(block, tex)[0]]} for block, tex in missing]
    paragraphs = [{"t": "Para", "c": [formula]} for formula in formulas]
    document = json.dumps({"pandoc-api-version": [1, 23, 1], "meta": {}, "blocks": paragraphs})
    html = pypandoc.convert_text(document, "html", format="json", extra_args=["--mathml", "--wrap=none"])
    found = re.findall(r"<math.*?</math>", html, re.DOTALL)
    if len(found) != len(missing):
        raise ExtensionError(f"{len(missing) - len(found)} formulas are beyond pandoc: {html}")
    for formula, mathml in zip(missing, found, strict=True):
        FORMULAS[formula] = mended(mathml)


def mended(mathml: str) -> str:
    """Without the TeX beside it, and with the spaces and sizes that TeX would give, where pandoc's do not."""
    mathml = re.sub(r"<annotation.*?</annotation>|</?semantics>| xmlns=\"[^\"]*\"", "", mathml, flags=re.DOTALL)
    mathml = mathml.replace('stretchy="true" form="prefix">‖', 'stretchy="false" form="prefix">‖')
    mathml = mathml.replace('stretchy="true" form="postfix">‖', 'stretchy="false" form="postfix">‖')
    # A prime is raised already.
    mathml = re.sub(r"<msup>(<mi>.</mi>|<mrow>.{,60}?</mrow>)<mo>([′″‴])</mo></msup>", PRIME, mathml)
    # A sign that begins a line's second part is no sign: it adds.
    mathml = re.sub(r"(padding-left: 0\">)<m[io]>([−+])</m[io]>", r'\1<mo form="infix">\2</mo>', mathml)
    return MULTIPLIED.sub(rf"\1{SPACE}", APPLIED.sub(rf"\1{SPACE}", mathml))


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


def font(texts: Iterable[str]) -> str:
    """STIX Two Math with the glyphs that these texts need, as a data URI: one request less."""
    wanted = {ord(letter) for text in texts for letter in unescape(re.sub("<[^>]*>", "", text))}
    wanted |= (
        set(range(0x1D434, 0x1D468)) | set(range(0x1D6E2, 0x1D71C)) | {ord("√"), ord("ℎ")}
    )  # single letters, roots
    options = Options()
    options.layout_features = [
        "ssty",
        "dtls",
    ]  # smaller letters for exponents, an i without its dot
    options.flavor = "woff"
    # Found, not imported: only its font is wanted.
    folder = Path(find_spec("ziamath").origin).parent
    source = TTFont(folder / "fonts/STIXTwoMath-Regular.ttf", recalcTimestamp=False)
    subsetter = Subsetter(options)
    subsetter.populate(unicodes=wanted)
    subsetter.subset(source)
    source.flavor = "woff"
    file = io.BytesIO()
    source.save(file)
    return f"data:font/woff;base64,{base64.b64encode(file.getvalue()).decode()}"


def lighten(html: str, icons: str) -> str:
    """A page without what it does not need, and with its icons inside."""
    html = PLAIN.sub(r"\1", UNUSED.sub("", html))
    if 'id="search-results"' not in html:
        html = PATIENT.sub("<script defer ", SEARCH.sub("", html))
    html = ICON.sub(lambda found: icon(icons, *found.groups()[1:]), html)
    # What the standard allows in a summary, and what MyST-NB writes.
    html = re.sub(r'<p class="(collapsed|expanded) admonition-title">(.*?)</p>', r'<span class="\1">\2</span>', html)
    html = html.replace("&body=", "&amp;body=")  # in the address of the button for issues
    # An empty icon: without one a browser asks for /favicon.ico, and logs that there is none.
    policy = f'<meta http-equiv="Content-Security-Policy" content="{CSP}">\n    <link rel="icon" href="data:,">'
    return html.replace("<head>", f"<head>\n    {policy}", 1)


def icon(icons: str, classes: str, attributes: str) -> str:
    """The SVG of a Font Awesome icon, from the script that would draw it in the browser."""
    names = [name for name in re.findall(r"\bfa-([\w-]+)", classes) if name not in ("solid", "brands", "lg")]
    found = re.search(rf'[{{,"]{names[0]}"?:\[(\d+),(\d+),\[[^]]*\],"\w+","([^"]+)"', icons)
    if not found:
        raise ExtensionError(f"{names[0]}: no such icon in the theme's script")
    width, height, path = found.groups()
    attributes = re.sub(r'\s*title="[^"]*"', "", attributes)  # which no SVG may have
    kept = " ".join(name for name in classes.split() if not name.startswith("fa"))
    return (
        f'<svg class="icon {kept}"{attributes} viewBox="0 0 {width} {height}" aria-hidden="true">'
        f'<path d="{path}"/></svg>'
    )


RULE = re.compile(r"[^{}]*\[data-theme=[^{}]*\{[^{}]*\}")
DARK, LIGHT = (re.compile(rf'\[data-theme="?{theme}"?\]') for theme in ("dark", "light"))


def on_paper(css: str) -> str:
    """Styles in which the dark theme is for screens alone: on paper its rules are the light one's."""

    def rule(found: re.Match[str]) -> str:
        dark, light = DARK.search(found[0]), LIGHT.search(found[0])
        if dark and not light:
            return f"@media not print {{{found[0]}}}"
        if light and not dark:
            return f"{found[0]}@media print {{{LIGHT.sub('[data-theme=dark]', found[0])}}}"
        return found[0]

    return RULE.sub(rule, css)


def pages(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*.html") if "_static" not in path.relative_to(folder).parts)


def finish(app: Sphinx, exception: Exception | None) -> None:
    if exception or app.builder.format != "html":
        return
    outdir, static = Path(app.outdir), Path(app.outdir, "_static")
    face = f"@font-face {{ font-family: 'Book Math'; src: url({font(FORMULAS.values())}) format('woff'); }}\n"
    (static / "formulas.css").write_text(face, "utf-8")
    theme = Path(find_spec("pydata_sphinx_theme").origin).parent / "theme/pydata_sphinx_theme/static"
    script = next(path for name in FONT_AWESOME for path in theme.glob(name))
    icons = script.read_text("utf-8")
    for path in pages(outdir):
        html = path.read_text("utf-8")
        if CSP not in html:  # else an earlier build has written it
            path.write_text(lighten(html, icons), "utf-8")
    for path in static.rglob("*.css"):
        if "data-theme" in (css := path.read_text("utf-8")) and "@media not print" not in css:
            path.write_text(on_paper(css), "utf-8")
    for pattern in (*FONT_AWESOME, "scripts/fontawesome.js.*", "vendor/fontawesome/**/*", "sphinx-thebe*"):
        for path in static.glob(pattern):
            if path.is_file():
                path.unlink()


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    app.config.html_math_renderer = "mathml"
    app.add_post_transform(Formulas)
    app.add_css_file("formulas.css")
    app.add_js_file(None, body=WAIT)
    app.connect("build-finished", finish, priority=950)
    return dict(parallel_read_safe=True, parallel_write_safe=False)
