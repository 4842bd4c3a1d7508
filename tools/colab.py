"""Run the lessons as Colab does: `make colab-check`, or `make colab-check only="batch_norm resnet"`.

Each runs in an empty folder, in an environment that has Colab's versions (tools/colab.txt) and not our library. The
lesson's first cell installs that from the address it names, where git is told to find the last commit of this checkout.
Nothing else may change by it.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from tools.fork import ROOT, address


def pip(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"pip {' '.join(arguments)}: {done.stdout}{done.stderr}")
    return done.stdout


def check(path: Path) -> None:
    """Run one lesson. Raise what goes wrong in it, and SystemExit if it has changed what was installed."""
    pip("uninstall", "--quiet", "--yes", "lessons_lib")
    before = pip("freeze", "--all", "--exclude", "lessons_lib")
    with tempfile.TemporaryDirectory() as folder:
        place = dict(kernel_name="python3", resources={"metadata": {"path": folder}})
        NotebookClient(nbformat.read(path, as_version=4), timeout=None, **place).execute()
    if changed := set(before.splitlines()) ^ set(pip("freeze", "--all", "--exclude", "lessons_lib").splitlines()):
        sys.exit(f"{path.stem}: the install cell has changed {sorted(changed)}")
    pip("check")
    print(f"{path.stem}: passed", flush=True)


if __name__ == "__main__":
    os.environ.pop("PYTHONPATH", None)
    os.environ |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.{ROOT.as_uri()}.insteadOf"}
    os.environ |= {"GIT_CONFIG_VALUE_0": address(), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # the kernels would warn of the frozen modules of new Pythons
    for path in [ROOT / f"book/{stem}.ipynb" for stem in sys.argv[1:]] or sorted(ROOT.glob("book/*.ipynb")):
        check(path)
