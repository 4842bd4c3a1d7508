"""Run the lessons as Colab does: `make colab-check`, or for some of them `make colab-check only="batch_norm resnet"`.

Each runs in an empty folder, with no repository beside it, in an environment that has Colab's versions, which
tools/colab.txt lists, and not our library. The lesson's own first cell installs that from the address it names. Git is
told to look for this address here, so that what is installed is the last commit. Nothing else may change by it.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from tools.fork import address

ROOT = Path(__file__).resolve().parents[1]


class Client(NotebookClient):
    """Notes when the first picture comes."""

    first_figure = None

    def process_message(self, msg, cell, cell_index):
        if "image/png" in msg["content"].get("data", {}) and self.first_figure is None:
            self.first_figure = time.perf_counter()
        return super().process_message(msg, cell, cell_index)


def pip(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"pip {' '.join(arguments)}: {done.stdout}{done.stderr}")
    return done.stdout


def installed() -> dict[str, str]:
    """The versions of all packages but ours."""
    pairs = (line.partition("==") for line in pip("list", "--format=freeze").splitlines())
    return {name: version for name, _, version in pairs if name != "lessons_lib"}


def check(path: Path) -> None:
    """Run one lesson. Raise what goes wrong in it, and SystemExit if it has changed what was installed."""
    pip("uninstall", "--quiet", "--yes", "lessons_lib")
    before, ends = installed(), []
    notebook = nbformat.read(path, as_version=4)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        client = Client(notebook, timeout=None, kernel_name="python3", resources=resources)
        client.on_cell_executed = lambda **_: ends.append(time.perf_counter())
        client.execute()
    if changed := set(before.items()) ^ set(installed().items()):
        sys.exit(f"{path.stem}: the install cell has changed {sorted(changed)}")
    pip("check")
    times = ends[0] - started, client.first_figure - ends[0], ends[-1] - ends[0]
    print(f"{path.stem:17}", *(f"{seconds:9.0f} s" for seconds in times), flush=True)


def main(stems: list[str]) -> None:
    os.environ.pop("PYTHONPATH", None)
    os.environ |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.{ROOT.as_uri()}.insteadOf"}
    os.environ |= {"GIT_CONFIG_VALUE_0": address(), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # the kernels would warn of the frozen modules of new Pythons
    print(f"{'':17} {'first cell':>11} {'to a figure':>11} {'to the end':>11}")
    for path in [ROOT / f"book/{stem}.ipynb" for stem in stems] or sorted(ROOT.glob("book/*.ipynb")):
        check(path)


if __name__ == "__main__":
    main(sys.argv[1:])
