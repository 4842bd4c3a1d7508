"""The built book, and a browser without network: whatever a page logs, or asks of another host, fails the test."""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from bs4 import BeautifulSoup
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, sync_playwright

from tools.contents import ROOT, chapters, lessons

HTML = ROOT / "_build" / "html"
CHAPTERS = [chapter.removeprefix("book/") for chapter in chapters()]
LESSONS = lessons()
SYSTEM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
STORED = dict(origin="file://", storageTypes="local_storage")


@cache
def pages() -> list[str]:
    """The pages of the built book, as paths inside it. A book that is not built is an error, never a skip."""
    found = sorted(path.relative_to(HTML).as_posix() for path in HTML.rglob("*.html") if "_static" not in path.parts)
    if "index.html" not in found:
        raise FileNotFoundError(f"{HTML} holds no book: build it first, with `make book`")
    return [path for path in found if path not in ("index.html", "404.html")]  # which only lead to the first


@cache
def soup(path: str) -> BeautifulSoup:
    return BeautifulSoup((HTML / path).read_text("utf-8"), "html.parser")


@cache
def context(browser: Browser, **options: object) -> BrowserContext:
    """The one context with these options: each is a window of its own, and opening that costs more than most tests."""
    context = browser.new_context(**options)
    context.set_default_timeout(120_000)  # far more than any page needs, even on a busy machine
    return context


@contextmanager
def watched(browser: Browser) -> Iterator[Callable[..., Page]]:
    """A function that opens offline pages, with the given viewport and the given options of their context.

    AssertionError in the end if one logged an error or a warning, or asked for what it did not get.
    """
    opened, noticed = [], []

    def on_request(request: Request) -> None:
        if urlsplit(request.url).scheme not in ("file", "data", "blob"):
            noticed.append(f"a request to {request.url}")

    def on_console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            noticed.append(f"console {message.type}: {message.text} ({message.location['url']})")

    def new_page(viewport: dict[str, int] | None = None, **options: object) -> Page:
        page = context(browser, offline=True, **options).new_page()
        opened.append(page)
        page.on("request", on_request)
        page.on("requestfailed", lambda request: noticed.append(f"no answer from {request.url}"))
        page.on("console", on_console)
        page.on("pageerror", lambda error: noticed.append(f"error: {error}"))
        if viewport:
            page.set_viewport_size(viewport)
        return page

    try:
        yield new_page
    finally:
        for page in opened:  # the next one must not find what it has stored, such as a theme
            page.context.new_cdp_session(page).send("Storage.clearDataForOrigin", STORED)
            page.close()
    assert not noticed, "\n".join(dict.fromkeys(noticed))


def open_page(page: Page, path: str) -> None:
    """Go to a page of the book and wait until all of it is there, the font of its formulas too."""
    page.goto((HTML / path).as_uri())
    page.evaluate("document.fonts.ready.then(() => null)")


@contextmanager
def launched() -> Iterator[Browser]:
    """A browser of one's own: the system's Chromium or Chrome, else Playwright's."""
    found = next(filter(None, map(shutil.which, SYSTEM)), None)
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=found) as browser:
        yield browser


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture
def new_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    with watched(browser) as new_page:
        yield new_page


@pytest.fixture
def page(new_page: Callable[..., Page]) -> Page:
    return new_page()


@pytest.fixture(scope="session")
def served() -> Iterator[str]:
    """The address of the book, served as a site."""
    handler = partial(SimpleHTTPRequestHandler, directory=HTML)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


if __name__ == "__main__":  # is there a browser that starts?
    with launched():
        pass
