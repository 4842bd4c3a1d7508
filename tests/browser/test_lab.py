"""A lesson's slider in JupyterLab, with a kernel behind it: what the reader moves and edits is what the reader sees."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import ROOT, context
from tools.notebooks import prepare_environment

LESSON = "gradient_descent"  # its first slider draws ten steps on x², and says in its title where they end
INDICATOR = ".jp-Notebook-ExecutionIndicator"
NUMBERS = "String([...document.querySelectorAll('.jp-InputPrompt')].map((e) => e.textContent))"
START_UP = 120  # seconds that the server, a kernel or all cells may take on a busy machine
SETTINGS = ["--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", "--IdentityProvider.token="]
SETTINGS += ["--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]


@contextmanager
def jupyterlab(folder: Path) -> Iterator[str]:
    """JupyterLab on this machine, in a folder with one lesson, up to its first slider, alone; its address."""
    lesson = json.loads((ROOT / f"book/{LESSON}.ipynb").read_text("utf-8"))
    first = next(i for i, cell in enumerate(lesson["cells"]) if "lesson-slider" in str(cell.get("outputs")))
    del lesson["cells"][first + 1 :]
    (folder / f"{LESSON}.ipynb").write_text(json.dumps(lesson), "utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    prepare_environment()
    settings = {name: str(folder / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTERLAB_SETTINGS_DIR")}
    settings |= {name: str(folder / name.lower()) for name in ("JUPYTER_DATA_DIR", "JUPYTERLAB_WORKSPACES_DIR")}
    options = [*SETTINGS, f"--ServerApp.port={port}", f"--notebook-dir={folder}"]
    command = [sys.executable, "-m", "jupyter", "lab", *options]
    url = f"http://127.0.0.1:{port}"
    log = (folder / "log.txt").open("w+")
    with log, subprocess.Popen(command, env=os.environ | settings, stdout=log, stderr=log) as server:
        try:
            end = time.time() + START_UP
            while not listens(port):
                assert server.poll() is None and time.time() < end, Path(log.name).read_text()
                time.sleep(0.2)
            yield url
        finally:
            server.terminate()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator["Live"]:
    """The lesson, open in JupyterLab, all its cells run."""
    with jupyterlab(tmp_path_factory.mktemp("lab")) as address, context(browser).new_page() as page:
        page.set_viewport_size(dict(width=1400, height=1000))
        live = Live(page, address)
        live.run_all()
        yield live


class Live:
    """What a reader does in JupyterLab."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.address = page, address
        self.slider = page.locator(".widget-hslider").first
        self.picture = page.locator(".widget-html-content").first
        page.goto(f"{address}/lab/tree/{LESSON}.ipynb")
        # On a busy machine JupyterLab shows a kernel as idle before it is connected to it, and would ask for one.
        end = time.time() + START_UP
        while not self.connected():
            assert time.time() < end, "the kernel does not start"
            page.wait_for_timeout(100)
        page.locator(f"{INDICATOR}[data-status=idle]").wait_for(timeout=START_UP * 1000)

    def connected(self) -> bool:
        """Whether the server has a kernel that is idle, and the page is connected to it."""
        with urllib.request.urlopen(f"{self.address}/api/kernels") as reply:
            kernels = json.load(reply)
        return any(kernel["connections"] and kernel["execution_state"] == "idle" for kernel in kernels)

    def run_all(self) -> None:
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.locator("[data-command='runmenu:run-all']").click()
        self.slider.wait_for(state="attached", timeout=START_UP * 1000)
        self.wait_until_run("")
        self.slider.scroll_into_view_if_needed()

    def wait_until_run(self, before: str) -> None:
        """Wait until no cell has the star of those that run or wait, and the numbers differ from those before."""
        done = f"(before) => ({NUMBERS} !== before && !{NUMBERS}.includes('*'))"
        self.page.wait_for_function(done, arg=before, timeout=START_UP * 1000)

    def drag(self, position: int) -> None:
        """Pull the handle to one of the positions."""
        handle = self.slider.locator(".noUi-handle")
        track, grip = self.slider.locator(".noUi-base").bounding_box(), handle.bounding_box()
        last = int(float(handle.get_attribute("aria-valuemax")))
        y = grip["y"] + grip["height"] / 2
        self.page.mouse.move(grip["x"] + grip["width"] / 2, y)
        self.page.mouse.down()
        self.page.mouse.move(track["x"] + track["width"] * position / last, y, steps=5)
        self.page.mouse.up()

    def rate(self) -> float:
        """The value that stands beside the slider."""
        return float(self.slider.locator(".widget-readout").inner_text().removeprefix("η = "))

    def type_after(self, line: str, text: str) -> None:
        """Write a line of code below the first one that contains `line`."""
        self.page.locator(".cm-line", has_text=line).first.click()
        self.page.keyboard.press("End")
        self.page.keyboard.press("Enter")
        self.page.keyboard.insert_text(text)

    def run_cell(self) -> None:
        before = self.page.evaluate(NUMBERS)
        self.page.keyboard.press("Control+Enter")
        self.wait_until_run(before)


def ends_at(factor: float) -> re.Pattern[str]:
    """The title of a picture whose steps multiply x by this, from 10."""
    return re.compile(rf"x₁₀ = {10 * factor**10:.6f}:")


@pytest.mark.parametrize("position", [9, 0, 5])
def test_what_the_mouse_moves_is_what_python_draws(live: Live, position: int) -> None:
    live.drag(position)
    lr = live.rate()
    assert lr == [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1][position]
    expect(live.picture).to_contain_text(ends_at(1 - 2 * lr))
    expect(live.picture.locator("svg")).to_have_count(1)


def test_what_the_reader_edits_is_what_the_slider_shows(live: Live) -> None:
    live.type_after("path = gradient_descent(square, 10.0", "path = gradient_descent(lambda x: x**2 / 2, 10.0, lr, 10)")
    live.run_cell()
    for position in (3, 8):
        live.drag(position)
        expect(live.picture).to_contain_text(ends_at(1 - live.rate()))
