"""The Makefile, with a stand-in for Python: nothing interrupted counts as done, and no configuration counts at all."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tools.notebooks import ROOT

# Does what Python, pip and Jupyter Book do as far as make can tell, each of them half, then whole. It counts its calls,
# and in the middle of one of them sends a signal to make and to all that make has started.
PYTHON = """#!/bin/sh
case "$*" in
*version_info*print*|*print*version_info*) echo "${VERSION:-3.12}"; exit;;
esac
echo "$*" >> calls
die() { test $(wc -l < calls) -ne "${DIE_AT:-0}" || { kill -s "$SIGNAL" 0; sleep 10; }; }
make() { mkdir -p "$(dirname "$1")"; echo half > "$1"; die; echo whole > "$1"; }
case "$*" in
"-m venv "*) make "$3/bin/cfg"; cp "$0" "$3/bin/python"; chmod +x "$3/bin/python";;
*"-m pip install"*) case "$*" in
    *"-e ."*) make .venv/site/lessons_lib;;
    *requirements-book*) test -e .venv/bin/cfg && make .venv/site/book;;
    *"-r requirements.txt"*) test -e .venv/site/book && make .venv/site/test;;
    *torch*) make .venv/site/torch;;
    esac;;
*jupyter_book*) test "$(cat .venv/site/book)" = whole && make _build/part/_build/html/index.html;;
*) die;;
esac
"""
# Not of this run: it may itself be one of make's.
OUTSIDE = {
    name: value for name, value in os.environ.items() if name not in ("PYTHON", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")
}
PARTS = ("_config.yml", "_toc.yml", "requirements.txt", "requirements-book.txt", "pyproject.toml")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with an awkward name that holds what make looks at."""
    root = tmp_path / "a b é"
    (root / "lessons_lib").mkdir(parents=True)
    (root / "book").mkdir()
    shutil.copy(ROOT / "Makefile", root)
    for name in (*PARTS, "lessons_lib/slider.css", "lessons_lib/sliders.py", "book/index.md"):
        (root / name).write_text("torch==1\n")
        os.utime(root / name, (1e9, 1e9))
    (root / "python").write_text(PYTHON)
    (root / "python").chmod(0o755)
    return root


def make(root: Path, *goals: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run make in a session of its own, so that a signal to its whole group reaches nothing else."""
    command = ["make", "--no-print-directory", *goals]
    environment = {"PYTHON": "./python"} | environment
    return subprocess.run(
        command, cwd=root, env=OUTSIDE | environment, capture_output=True, text=True, start_new_session=True
    )


def state(root: Path) -> dict[str, str]:
    """What make has made."""
    folders = (root / ".venv", root / "_build")
    paths = [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.name != "python"]
    return {str(path.relative_to(root)): path.read_text() for path in paths}


@pytest.mark.parametrize(
    ("goals", "signal"),
    [(["book", "env"], "KILL"), (["book", "env"], "TERM"), (["book", "env"], "INT"), (["env", "book"], "KILL")],
)
def test_what_was_interrupted_anywhere_is_done_again(goals: list[str], signal: str, checkout: Path) -> None:
    make(checkout, *goals)
    whole, calls = state(checkout), (checkout / "calls").read_text().splitlines()
    assert set(whole.values()) <= {"whole\n", "", f"{checkout} and Python 3.12\n"} and len(calls) >= 3
    for step in range(1, len(calls) + 1):
        shutil.rmtree(checkout / ".venv")
        shutil.rmtree(checkout / "_build", ignore_errors=True)
        (checkout / "calls").unlink()
        assert make(checkout, *goals, DIE_AT=str(step), SIGNAL=signal).returncode != 0
        assert make(checkout, *goals).returncode == 0
        assert state(checkout) == whole, step


@pytest.mark.parametrize("name", ["requirements-book.txt", "requirements.txt", "book/index.md"])
def test_an_interrupted_update_is_done_again(name: str, checkout: Path) -> None:
    make(checkout, "env", "book")
    whole = state(checkout)
    for step in range(1, 6):
        (checkout / "calls").unlink(missing_ok=True)
        (checkout / name).touch()
        make(checkout, "env", "book", DIE_AT=str(step), SIGNAL="KILL")
        assert make(checkout, "env", "book").returncode == 0
        assert state(checkout) == whole
    (checkout / "calls").unlink(missing_ok=True)
    make(checkout, "env", "book")
    assert len((checkout / "calls").read_text().splitlines()) == 1  # which says where the book is: all is up to date


@pytest.mark.parametrize("goal", ["book", "test", "notebooks"])
@pytest.mark.parametrize("change", ["moved", "copied", "another Python in its place", "another Python", "no Python"])
def test_an_environment_of_elsewhere_is_named_before_anything_is_done(goal: str, change: str, checkout: Path) -> None:
    make(checkout, "env", "book")
    (checkout / "calls").unlink()
    root = checkout
    if change in ("moved", "copied"):
        root = checkout.with_name("elsewhere")
        (shutil.move if change == "moved" else shutil.copytree)(checkout, root)
    elif change == "no Python":
        (checkout / ".venv/bin/python").unlink()
    environment = {"VERSION": "3.13"} if "another" in change else {}
    asked = ["PYTHON=./python"] if change == "another Python" else []
    before = state(root)
    done = subprocess.run(["make", goal, *asked], cwd=root, env=OUTSIDE | environment, capture_output=True, text=True)
    assert done.returncode != 0 and len(done.stdout.splitlines()) == 1
    assert f".venv was made for {checkout} and Python 3.12, not for " in done.stdout and "`make clean`" in done.stdout
    assert state(root) == before and not (root / "calls").exists()
    assert make(root, "clean").returncode == 0
    assert make(root, "env").returncode == 0 and (root / ".venv/.ready").exists()


@pytest.mark.parametrize(("ci", "all_of_them"), [("true", True), ("1", True), ("", False), ("false", False)])
def test_ci_runs_the_unchanged_lessons_too(ci: str, all_of_them: bool, checkout: Path) -> None:
    commands = make(checkout, "-n", "test", CI=ci).stdout
    assert "--nbval book" in commands and ("--changed" not in commands) == all_of_them


STRAY = ["PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONOPTIMIZE", "PYTHONWARNINGS", "PYTHONSAFEPATH"]
STRAY += ["PYTEST_ADDOPTS", "HYPOTHESIS_PROFILE", "IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_PATH", "MATPLOTLIBRC"]
STRAY += ["MPLBACKEND", "PIP_TARGET", "PIP_PREFIX", "PIP_DRY_RUN", "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"]
FIXED = dict(PYTHONHASHSEED="0", PYTHONUTF8="1", PYTHONNOUSERSITE="1", PIP_USER="0", LC_ALL="C")


def test_no_variable_of_the_shell_reaches_what_make_runs(checkout: Path) -> None:
    (checkout / "probe.mk").write_text("probe:\n\t@env\n")
    kept = dict(HOME="/nowhere", PIP_INDEX_URL="https://example.org/simple")
    strange = dict.fromkeys([*STRAY, *FIXED, "MPLCONFIGDIR"], "/nowhere") | kept
    printed = make(checkout, "-f", "Makefile", "-f", "probe.mk", "probe", **strange).stdout
    seen = dict(line.split("=", 1) for line in printed.splitlines() if "=" in line)
    assert not set(STRAY) & set(seen)
    assert FIXED.items() | kept.items() <= seen.items()
    assert seen["MPLCONFIGDIR"].startswith(f"{checkout}/.venv/")
