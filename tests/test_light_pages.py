"""What the build makes of formulas and of the theme's pages."""

import sys
from pathlib import Path

import pytest
from sphinx.errors import ExtensionError

sys.path.insert(0, str(Path(__file__).parents[1] / "book/_ext"))
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
        (r"x = 1 \tag{3}", "<mn>1</mn>"),
    ],
)
def test_a_formula_is_set_as_tex_would(tex: str, part: str) -> None:
    found = mathml(tex)
    assert part in found and "annotation" not in found and "tag" not in found


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
