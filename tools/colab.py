"""Run the lessons as Colab does: `make colab-check`, or `make colab-check only="batch_norm resnet"`.

Each runs in an empty folder, in an environment that has Colab's versions (tools/colab.txt) and not our library. The
lesson's first cell installs that from the address it names, where git is told to find the last commit of this checkout.
Nothing else may change by it.
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
    before, started = installed(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        place = dict(kernel_name="python3", resources={"metadata": {"path": folder}})
        NotebookClient(nbformat.read(path, as_version=4), timeout=None, **place).execute()
    if changed := set(before.items()) ^ set(installed().items()):
        sys.exit(f"{path.stem}: the install cell has changed {sorted(changed)}")
    pip("check")
    print(f"{path.stem}: {time.perf_counter() - started:.0f} s", flush=True)


def main(stems: list[str]) -> None:
    os.environ.pop("PYTHONPATH", None)
    os.environ |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.{ROOT.as_uri()}.insteadOf"}
    os.environ |= {"GIT_CONFIG_VALUE_0": address(), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # the kernels would warn of the frozen modules of new Pythons
    for path in [ROOT / f"book/{stem}.ipynb" for stem in stems] or sorted(ROOT.glob("book/*.ipynb")):
        check(path)


if __name__ == "__main__":
    main(sys.argv[1:])
