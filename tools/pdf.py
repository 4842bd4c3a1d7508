"""Print the built book into one PDF, `make pdf`: with the browser that the tests use, each slider as it starts.

LaTeX would be gigabytes more to install, would set the text again, and knows none of the figures' colours; the browser
prints what readers see.
"""

import io
import re
from pathlib import Path

from playwright.sync_api import Browser, Page
from pypdf import PdfReader, PdfWriter
from pypdf.generic import ArrayObject, NameObject

from lessons_lib.files import write_whole
from tests.browser.conftest import launched, open_page
from tools.contents import ROOT, chapters

FOOTER = """<div style="width: 100%; font: 8px sans-serif; text-align: center">
<span class="title"></span> · <span class="pageNumber"></span></div>"""


def printed(page: Page, chapter: str) -> tuple[str, PdfReader]:
    """A chapter's title, and its sheets."""
    open_page(page, f"{chapter}.html")
    margin = dict(top="16mm", bottom="18mm", left="16mm", right="16mm")
    footer = dict(display_header_footer=True, header_template="<span></span>", footer_template=FOOTER)
    pdf = page.pdf(format="A4", margin=margin, outline=True, tagged=True, **footer)
    title = page.locator("h1").first.evaluate("(e) => e.firstChild.textContent")
    return title, PdfReader(io.BytesIO(pdf))


def link_inside(writer: PdfWriter, starts: dict[str, int]) -> None:
    """Let what leads to a page's file on this machine lead to its chapter instead; other files have no place here."""
    for sheet in writer.pages:
        kept = ArrayObject()
        for annotation in sheet.get("/Annots", []):
            link = annotation.get_object()
            uri = link.get("/A", {}).get("/URI", "")
            found = re.match(r"file:.*/(book/\w+)\.html", uri)
            if found and found[1] in starts:
                del link["/A"]
                target = writer.pages[starts[found[1]]].indirect_reference
                link[NameObject("/Dest")] = ArrayObject([target, NameObject("/Fit")])
            if "/Dest" in link or not uri.startswith("file:"):
                kept.append(annotation)
        if "/Annots" in sheet:
            sheet[NameObject("/Annots")] = kept


def print_book(browser: Browser, out: Path) -> None:
    """All chapters, one after the other, into the file `out`."""
    writer, starts = PdfWriter(), {}
    with browser.new_page(color_scheme="light") as page:
        for chapter in chapters():
            starts[chapter] = len(writer.pages)
            title, sheets = printed(page, chapter)
            writer.append(sheets, outline_item=title)
    link_inside(writer, starts)
    writer.add_metadata({"/Title": "Why Deep Networks Train"})
    whole = io.BytesIO()
    writer.write(whole)
    write_whole(out, whole.getvalue())
    print(f"{out}: {len(writer.pages)} pages")


if __name__ == "__main__":
    with launched() as browser:
        print_book(browser, ROOT / "_build/book.pdf")
