"""How long sliders take to change their figure, built and in JupyterLab: `python -m tests.browser.bench`."""

import gzip
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from playwright.sync_api import Locator, sync_playwright

from tests.browser.conftest import chromium, open_page, pages, watched
from tests.browser.test_lab import Live, jupyterlab

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


def switch_time(box: Locator) -> float:
    """The median time of 40 switches, in milliseconds."""
    return median(box.evaluate(SWITCHES))


def main() -> str | None:
    too_much = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium())
        with watched(browser) as new_page:
            page = new_page()
            for path in pages():
                open_page(page, path)
                for i, box in enumerate(page.locator(".lesson-slider").all(), 1):
                    ms = switch_time(box)
                    kB = len(gzip.compress(box.evaluate("(box) => box.outerHTML").encode())) / 1e3
                    print(line := f"{path}, slider {i}: {ms:.1f} ms a switch, {kB:.0f} kB gzipped")
                    if ms > 8 or kB > 60:
                        too_much.append(f"{line}, expected at most 8 ms and 60 kB")
        with TemporaryDirectory() as folder, jupyterlab(Path(folder)) as address, browser.new_page() as page:
            live = Live(page, address)
            live.run_all()
            ms = median(delays := live.delays())
            print(
                line := f"in JupyterLab: {ms:.0f} ms from a move of the mouse to the picture, at most {max(delays):.0f}"
            )
            if ms > 150:
                too_much.append(f"{line}, expected at most 150 ms in the median")
    return "\n".join(too_much) or None


if __name__ == "__main__":
    sys.exit(main())  # a text ends with 1
