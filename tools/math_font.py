# /// script
# requires-python = ">=3.10"
# dependencies = ["brotli==1.2.1", "fonttools==4.68.0", "ziamath==0.13"]
# ///
"""Make book/_static/formulas.css: STIX Two Math, with the letters and signs that formulas need, in a style sheet.

`uv run tools/math_font.py` makes it again, byte for byte. Within the sheet the font needs no request of its own.
The font is copyright of The STIX Fonts Project Authors, under the SIL Open Font License in book/_static/OFL.txt.
"""

import base64
import io
from importlib.util import find_spec
from pathlib import Path

from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont

LETTERS = [range(0x20, 0x7F), range(0x391, 0x3F7)]  # as they are, Greek
LETTERS += [range(0x1D400, 0x1D468), range(0x1D6E2, 0x1D71C)]  # bold, italic, both; Greek in italics
LETTERS += [range(0x1D49C, 0x1D4B6), range(0x1D538, 0x1D552)]  # capitals in script and with double strokes
SIGNS = """°±×·÷ȷ\u0302\u0307\u0304\u0303\u2061‖…′″‴‾ˆ˜¯ℂℒℓℕℚℝℤℬℰℱℋℎℏℐℳℛ
←↑→↓↔↦⇐⇒⇔⟵⟶⟹⟺∀∂∃∅∇∈∉∋∏∑−∓∖∗∘√∝∞∠∣∥∧∨∩∪∫∬∮∼≈≔≠≡≤≥≪≫⊂⊃⊆⊇⊕⊖⊗⊙⊤⊥⋅⋆⋮⋯⋱⌈⌉⌊⌋⟨⟩"""
SHEET = Path(__file__).resolve().parents[1] / "book/_static/formulas.css"


def main() -> None:
    font = TTFont(Path(find_spec("ziamath").origin).parent / "fonts/STIXTwoMath-Regular.ttf", recalcTimestamp=False)
    wanted = {letter for letters in LETTERS for letter in letters} | set(map(ord, SIGNS.replace("\n", "")))
    options = Options(hinting=False, layout_features=["ssty", "dtls"])  # smaller exponents, an i without its dot
    subsetter = Subsetter(options)
    subsetter.populate(unicodes=wanted)
    subsetter.subset(font)
    font.flavor, file = "woff2", io.BytesIO()
    font.save(file)
    letters = ", ".join(f"U+{letter:X}" for letter in sorted(wanted & set(font.getBestCmap())))
    data = base64.b64encode(file.getvalue()).decode()
    SHEET.write_text(f"""/* Made by tools/math_font.py. STIX Two Math, SIL Open Font License: see OFL.txt. */
@font-face {{
  font-family: "Book Math";
  src: url(data:font/woff2;base64,{data}) format("woff2");
  unicode-range: {letters};
}}
""")


if __name__ == "__main__":
    main()
