"""What the build makes of formulas and of the theme's pages."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from docutils import nodes
from sphinx.errors import ExtensionError

sys.path.insert(0, str(Path(__file__).parents[1] / "book/_ext"))
import book_pages
import light_pages


def mathml(tex: str) -> str:
    light_pages.convert([(False, tex)])
    return light_pages.FORMULAS[False, tex]


@pytest.mark.parametrize(
    ("tex", "part"),
    [
        (r"\frac12", "<mfrac><mn>1</mn><mn>2</mn></mfrac>"),
        (r"f'(x)", '<mi>f</mi><mo lspace="0" rspace="0">′</mo>'),
        (r"\lVert x\rVert", '<mo stretchy="false" form="prefix">‖</mo>'),
        (r"2\ln 10", f'{light_pages.SPACE}<mrow><mi mathvariant="normal">ln'),
        (r"2\ln 10", f"</mo></mrow>{light_pages.SPACE}<mn>10</mn>"),
        (r"\cos(x)", '</mo></mrow><mo stretchy="false" form="prefix">('),
        (r"\begin{aligned}a &= b \cr &- c\end{aligned}", '<mo form="infix">−</mo><mi>c</mi>'),
    ],
)
def test_a_formula_is_set_as_tex_would(tex: str, part: str) -> None:
    found = mathml(tex)
    assert part in found and "annotation" not in found and "tag" not in found


class Page:
    """What a formula is written to."""

    def __init__(self, tex: str) -> None:
        self.body: list[str] = []
        with pytest.raises(nodes.SkipNode):
            light_pages.block(self, nodes.math_block(tex, tex))


@pytest.mark.parametrize(
    ("tex", "beside", "inside"),
    [
        (r"x = 1", [], []),
        (r"x = 1 \tag{3}", ["(3)"], []),
        (r"x = 1 \tag*{A < B}", ["A &lt; B"], []),
        (r"\begin{aligned}a &= b \\ c &= d\end{aligned} \tag {3a}", ["(3a)"], []),
        (r"\begin{aligned}a &= b \tag{1} \\ c &= d\end{aligned}", [], ["(1)"]),
        (r"\begin{aligned}a &= b \tag{1} \cr c &= d \tag*{2}\end{aligned}", [], ["(1)", "2"]),
        (r"\begin{align}a &= b \tag{1} \\ c &= d \tag{2}\end{align}", [], ["(1)", "(2)"]),
        (r"\begin{gather}a \tag{1} \\ b \tag{2} \\ c \tag{3}\end{gather}", [], ["(1)", "(2)", "(3)"]),
    ],
)
def test_every_tag_of_a_formula_is_shown(tex: str, beside: list[str], inside: list[str]) -> None:
    (html,) = Page(tex).body
    assert re.findall(r'<span class="eqno">(.*?)</span>', html) == beside
    rows = html.split("<mtr>")
    assert re.findall(r'<mtext mathvariant="normal">(.*?)</mtext>', html) == inside
    assert all(row.count("<mtext") <= 1 for row in rows), "each in its own line"
    numbers = re.search(r'aria-label="Equation(.*?)"', html)[1].split(maxsplit=len(inside or beside) - 1)
    assert numbers == [number.strip("()") for number in inside or beside]


@pytest.mark.parametrize(
    ("block", "tex"),
    [
        (True, r"x \tag{$a$}"),
        (True, r"x \tag{\text{a}}"),
        (True, r"x \tag 1"),
        (False, r"x \tag{1}"),
        (True, r"x \tag"),
    ],
)
def test_a_tag_that_cannot_be_shown_fails_the_build(block: bool, tex: str) -> None:
    with pytest.raises(ExtensionError, match=r"expected each \\tag in a display, and of plain text"):
        light_pages.convert([(block, tex)])


def test_the_dark_theme_is_not_on_paper() -> None:
    css = """a{b:c}@media x{html[data-theme=dark] p{color:white}}html[data-theme="light"] p{color:black}
        html[data-theme=dark],html[data-theme=light]{d:e}"""
    paper = light_pages.on_paper(css)
    assert "@media x{@media not print {html[data-theme=dark] p{color:white}}}" in paper
    assert '"light"] p{color:black}@media print {html[data-theme=dark] p{color:black}}' in paper
    assert paper.endswith("html[data-theme=dark],html[data-theme=light]{d:e}") and paper.startswith("a{b:c}")


def git(folder: Path, *command: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "-C", str(folder), *who, *command], check=True, capture_output=True)


def test_a_page_names_a_commit_of_this_repository_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_CEILING_DIRECTORIES", "SOURCE_DATE_EPOCH"):
        monkeypatch.delenv(name, raising=False)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs, theirs / "copy"):
        (folder / "book/_ext").mkdir(parents=True)
        (folder / "book/_ext/book_pages.py").touch()
    assert book_pages.version(ours) == ""  # a zip
    git(theirs, "init", "-q")
    (theirs / "book/_ext/book_pages.py").unlink()
    (theirs / "a.txt").touch()
    git(theirs, "add", "a.txt")
    git(theirs, "commit", "-qm", "a")
    assert book_pages.version(theirs / "copy") == ""  # inside another's repository
    (theirs / "book/_ext/book_pages.py").touch()
    assert book_pages.version(theirs) == ""  # at the root of one that does not know it
    git(ours, "init", "-q")
    assert book_pages.version(ours) == ""  # without a commit
    git(ours, "add", ".")
    git(ours, "commit", "-qm", "a", "--date", "2026-01-02T03:04:05Z")
    named = re.fullmatch(r" Version [0-9a-f]{7,}, \d{1,2} \w+ 20\d\d\.", book_pages.version(ours))
    assert named
    git(ours, "worktree", "add", str(tmp_path / "tree"))
    git(tmp_path, "clone", "-q", "--depth=1", ours.as_uri(), "shallow")
    (ours / "copy/book/_ext").mkdir(parents=True)
    monkeypatch.setenv("GIT_DIR", str(theirs / ".git"))  # as in a hook of theirs
    assert {book_pages.version(folder) for folder in (ours, tmp_path / "tree", tmp_path / "shallow")} == {named[0]}
    assert book_pages.version(ours / "copy") == ""


def test_a_comment_that_stands_for_nothing_stays_one() -> None:
    source = ["<!-- TODO --> <!-- exercises --> <!-- more words -->"]
    book_pages.fill(None, "book/glossary", source)
    assert source[0].startswith("<!-- TODO --> ## ") and source[0].endswith(" <!-- more words -->")


def test_what_pandoc_cannot_convert_fails_the_build() -> None:
    with pytest.raises(ExtensionError, match="beyond pandoc"):
        light_pages.convert([(False, r"\frac{")])


def test_the_font_has_the_letters_that_formulas_use() -> None:
    small, large = light_pages.font(["<mi>x</mi>"]), light_pages.font(["<mi>x</mi><mo>∑⊤‖∇</mo>"])
    assert small.startswith("data:font/woff;base64,") and 20_000 < len(small) < len(large) < 160_000


def test_a_page_loses_what_it_does_not_use_and_gets_its_icons() -> None:
    script = 'x={bars:[448,512,["navicon"],"f0c9","M0 96z"],"angle-left":[320,512,[8249],"f104","M1 2z"]}'
    html = (
        '<head><script defer src="../_static/scripts/fontawesome.js?digest=1"></script>'
        '<link href="../_static/book.css"/>'
        '<i class="fa-solid fa-bars fa-lg" title="Menu"></i><span class="fa-solid fa-angle-left"></span>'
    )
    light = light_pages.lighten(html, script)
    assert "fontawesome.js" not in light and '<link href="../_static/book.css"/>' in light
    assert light.count("<svg") == 2 and 'd="M0 96z"' in light and 'd="M1 2z"' in light and "Menu" not in light
    assert light.startswith('<head>\n    <meta http-equiv="Content-Security-Policy"')


def test_code_keeps_its_words_and_the_elements_that_colour_them() -> None:
    code = '<span class="k">def</span><span class="w"> </span><span class="nf">f</span><span class="p">(</span>'
    assert light_pages.lighten(code, "") == '<span class="k">def</span> <span class="nf">f</span>('


def test_only_the_page_of_the_search_loads_the_index() -> None:
    script = '<script src="../searchindex.js"></script>'
    assert light_pages.lighten(script, "") == ""
    assert script in light_pages.lighten(f'{script}<div id="search-results"></div>', "")


def test_an_icon_that_the_theme_has_not_fails_the_build() -> None:
    with pytest.raises(ExtensionError, match="moon: no such icon"):
        light_pages.lighten('<i class="fas fa-moon"></i>', "{}")
