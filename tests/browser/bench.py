"""How long sliders take to change their figure, and pages to be of use: for `make benchmarks only=sliders`."""

import gzip
from collections.abc import Iterator
from statistics import median

from playwright.sync_api import Browser

from tests.browser.conftest import open_page, pages, watched

# Milliseconds from a move of the last slider until the page is laid out again, for 40 moves over all its positions.
SWITCHES = """(box) => {
  const input = [...box.querySelectorAll("input")].at(-1);
  return Array.from({ length: 40 }, (_, i) => {
    const before = performance.now();
    input.value = (Number(input.value) + 1) % (Number(input.max) + 1);
    input.dispatchEvent(new Event("input"));
    box.querySelector("svg").getBoundingClientRect();
    document.body.getBoundingClientRect();
    return performance.now() - before;
  });
}"""


def built(browser: Browser) -> Iterator[tuple[str, int, float, float]]:
    """Each slider of the built pages: page, number, milliseconds a switch, kB gzipped."""
    with watched(browser) as new_page:
        page = new_page()
        for path in pages():
            open_page(page, path)
            for i, box in enumerate(page.locator(".lesson-slider").all(), 1):
                kB = len(gzip.compress(box.evaluate("(box) => box.outerHTML").encode())) / 1e3
                yield path, i, median(box.evaluate(SWITCHES)), kB


def interactive(browser: Browser) -> Iterator[tuple[str, float]]:
    """Milliseconds until a page's own scripts have run, the processor four times slower."""
    for path in pages():
        with browser.new_page() as page:
            page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", dict(rate=4))
            open_page(page, path)
            yield path, page.evaluate("performance.getEntriesByType('navigation')[0].domInteractive")
