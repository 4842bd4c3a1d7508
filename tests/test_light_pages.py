"""What the build makes of formulas, code, docstrings and the theme's pages; what it cannot make fails it."""

import ast
import io
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from docutils import nodes
from docutils.utils import new_document
from pygments.lexers import PythonLexer
from sphinx.errors import ExtensionError

sys.path.insert(0, str(Path(__file__).parents[1] / "book/_ext"))
import book_pages
import lesson_pages
import library_page
import light_pages
from lessons import lessons

SPACE = '<mspace width="0.167em"></mspace>'


@pytest.mark.parametrize(
    ("tex", "part"),
    [
        (r"\frac12", "<mfrac><mn>1</mn><mn>2</mn></mfrac>"),
        (r"f'(x)", '<mi>f</mi><mo lspace="0" rspace="0">′</mo>'),
        (r"\lVert x\rVert", '<mo stretchy="false" form="prefix">‖</mo>'),
        (r"2\ln 10", f'<mn>2</mn>{SPACE}<mrow><mi mathvariant="normal">ln'),
        (r"2\ln 10", f"</mo></mrow>{SPACE}<mn>10</mn>"),
        (r"2\ln^2 x", f"</msup>{SPACE}<mi>x</mi>"),
        (r"\cos(x)", '</mo></mrow><mo stretchy="false" form="prefix">('),
        (r"\begin{aligned}a &= b \cr &- c\end{aligned}", '<mo form="infix">−</mo><mi>c</mi>'),
    ],
)
def test_a_formula_is_set_as_tex_would(tex: str, part: str) -> None:
    light_pages.convert([(False, tex)])
    found = light_pages.FORMULAS[False, tex]
    assert part in found and "annotation" not in found and "tag" not in found and "xmlns" not in found


@pytest.mark.parametrize(
    ("tex", "beside", "inside"),
    [
        (r"x = 1 \tag{3}", ["(3)"], []),
        (r"x = 1 \tag*{A < B}", ["A &lt; B"], []),
        (r"x = 1 \tag{1} \quad y = 2 \tag{2}", [], ["(1)", "(2)"]),
        (r"\begin{aligned}a &= b \\ c &= d\end{aligned} \tag {3a}", ["(3a)"], []),
        (r"\begin{aligned}a &= b \tag{1} \\ c &= d\end{aligned}", [], ["(1)"]),
        (r"\begin{aligned}a &= b \tag{1} \cr c &= d \tag*{2}\end{aligned}", [], ["(1)", "2"]),
        (r"\begin{align}a &= b \tag{1} \\ c &= d \tag{2}\end{align}", [], ["(1)", "(2)"]),
    ],
)
def test_every_tag_of_a_formula_is_shown(tex: str, beside: list[str], inside: list[str]) -> None:
    page = SimpleNamespace(body=[])
    with pytest.raises(nodes.SkipNode):
        light_pages.block(page, nodes.math_block(tex, tex))
    (html,) = page.body
    assert re.findall(r'<span class="eqno">(.*?)</span>', html) == beside
    assert re.findall(r'<mtext mathvariant="normal">(.*?)</mtext>', html) == inside
    assert all(row.count("<mtext") <= 1 for row in html.split("<mtr>")[1:]), "each in its own line"
    numbers = re.search(r'aria-label="Equation(.*?)"', html)[1].split(maxsplit=len(inside or beside) - 1)
    assert numbers == [number.strip("()") for number in inside or beside]


@pytest.mark.parametrize(
    ("block", "tex", "message"),
    [
        *((True, rf"x \tag{end}", r"expected each \\tag in a display, and of plain") for end in ("", " 1", "{$a$}")),
        (True, r"x \tag{\text{a}}", r"expected each \\tag in a display, and of plain text"),
        (False, r"x \tag{1}", r"expected each \\tag in a display, and of plain text"),
        (False, r"\frac{", "frac{: a formula that pandoc cannot convert"),
        (True, r"\aleph", "aleph: the formulas' font has no ℵ"),
    ],
)
def test_a_formula_that_cannot_be_shown_fails_the_build(block: bool, tex: str, message: str) -> None:
    with pytest.raises(ExtensionError, match=message):
        light_pages.convert([(block, tex)])


def test_code_keeps_its_words_and_the_elements_that_colour_them() -> None:
    html = io.StringIO()
    light_pages.PlainCode(nowrap=True).format(PythonLexer().get_tokens("def f(x): return x"), html)
    assert (
        html.getvalue() == '<span class="k">def</span> <span class="nf">f</span>(x): <span class="k">return</span> x\n'
    )


@pytest.mark.parametrize(
    ("context", "sheet", "message"),
    [
        ({}, "other.css", "the theme has none of the style sheets theme, bootstrap"),
        ({"header_buttons": [{"buttons": [{"url": "a?b&amp;c"}]}]}, "theme.css", "the theme escapes its buttons' addr"),
    ],
)
def test_a_theme_that_is_made_otherwise_fails_the_build(
    context: dict, sheet: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "_static/styles").mkdir(parents=True)
    (tmp_path / "_static/styles" / sheet).touch()
    with pytest.raises(ExtensionError, match=message):
        light_pages.head(SimpleNamespace(outdir=tmp_path), "a", "", {"script_files": []} | context, None)


def test_a_lesson_or_slider_that_is_made_otherwise_fails_the_build() -> None:
    document = new_document("book/sgd")
    document.settings.env = SimpleNamespace(docname="book/sgd", srcdir=".")
    document += [nodes.paragraph("", "You can"), nodes.raw("", '<div class="lesson-slider">', format="html")]
    page = lesson_pages.LessonPage(document)
    with pytest.raises(ExtensionError, match='sgd: expected a paragraph "After this lesson you can"'):
        page.box_goals(lessons()["sgd"])
    with pytest.raises(ExtensionError, match="book/sgd: slider 1 is not as lessons_lib.sliders writes it"):
        page.name_sliders()


DOCSTRING = '''
class A(B):
    """|x| < `z_1`: 2 * x * 3,
    in two lines.

    Args:
        y, z: the _first_,
            as $ is.
        w: another.

    Returns:
        One,
        or two.

    >>> A(1).go(2)
    4
    """

    def __init__(self, x: int) -> None:
        self.x = x

    def go(self, y: int) -> int:
        """Double it."""

    def _stop(self) -> None:
        """Not for readers."""
'''
MARKDOWN = r"""```python
class A(B):
    def __init__(self, x: int) -> None:
```
\|x\| \< `z_1`: 2 \* x \* 3, in two lines.
**Args:**
- `y, z`: the \_first\_, as \$ is.
- `w`: another.
**Returns:**
One, or two.
```pycon
>>> A(1).go(2)
4
```
```python
def go(self, y: int) -> int:
```
Double it."""


def test_a_docstring_becomes_markdown_that_says_the_same() -> None:
    (node,) = library_page.public(ast.parse(DOCSTRING))
    parts = [library_page.signature(node, DOCSTRING), *library_page.described(node)]
    assert "\n".join([*parts, *library_page.methods(node, DOCSTRING)]) == MARKDOWN


def test_the_pages_are_made_without_pytorch() -> None:
    """Every comment that a page may hold, and the figures and sliders of the lessons."""
    code = "import sys; sys.modules['torch'] = None; sys.path.insert(0, 'book/_ext')\n"
    code += "import book_pages, library_page; print(sum(len(make()) for make in book_pages.PAGES.values()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=light_pages.ROOT, capture_output=True, text=True)
    assert int(done.stdout or 0) > 100_000, done.stderr


def test_a_comment_that_stands_for_nothing_stays_one() -> None:
    source = ["<!-- TODO --> <!-- exercises --> <!-- more words -->"]
    book_pages.fill(None, "book/glossary", source)
    assert source[0].startswith("<!-- TODO --> ## ") and source[0].endswith(" <!-- more words -->")


def test_a_page_names_a_commit_of_this_repository_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    (tmp_path / "copy").mkdir()
    assert book_pages.version(tmp_path) == ""  # a zip
    subprocess.run([*git, "init", "-q"], check=True)
    assert book_pages.version(tmp_path) == ""  # without a commit
    subprocess.run([*git, "commit", "--allow-empty", "-qm", "a"], check=True)
    assert re.fullmatch(r" Version [0-9a-f]{7,}, 20\d\d-\d\d-\d\d\.", book_pages.version(tmp_path))
    assert book_pages.version(tmp_path / "copy") == ""  # inside another's repository
    monkeypatch.setenv("PATH", "")
    assert book_pages.version(tmp_path) == ""  # without git
