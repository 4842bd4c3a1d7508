"""A pytest plugin that turns the tests round: every function of the library raises, and a test fails if it passes all
the same, since it proves nothing about the library.

    python -m pytest -p tests.hollow tests --ignore tests/browser

Tests about something else may pass: those of modules that import nothing of the library, or that import our tools (but
tools.benchmarks, which has layers); and those that start a process, or read a file of ours other than Python's.
"""

import importlib
import inspect
import os
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

import lessons_lib

IMPORTS = re.compile(r"^\s*(from|import) (lessons_lib|tests\.(calls|nets))", re.MULTILINE)
TOOLS = re.compile(r"^(from|import) tools(?!\.benchmarks)", re.MULTILINE)
ROOT = str(Path(__file__).resolve().parents[1])
elsewhere = False  # whether the test at hand has started a process or read a file


class Hollow(BaseException):
    """Not an Exception, which a test could take for the one that it expects."""


# A function's code may be replaced by one that closes over the same names: "__class__", where it calls super().
TEMPLATE = """
def around({names}):
    def hollow(*args, **kwargs):
        from tests.hollow import Hollow
        raise Hollow({names})
    return hollow
"""


def hollow(function: FunctionType) -> None:
    """Let it raise."""
    made: dict[str, FunctionType] = {}
    names = function.__code__.co_freevars
    exec(TEMPLATE.format(names=", ".join(names)), made)
    function.__code__ = made["around"](*names).__code__


def functions(module: ModuleType) -> Iterator[FunctionType]:
    """All functions and methods that a module defines."""
    for value in vars(module).values():
        ours = inspect.isclass(value) and value.__module__ == module.__name__
        for member in vars(value).values() if ours else [value]:
            member = getattr(member, "__func__", None) or getattr(member, "fget", None) or member
            found = inspect.unwrap(member) if callable(member) else None
            if isinstance(found, FunctionType) and found.__module__ == module.__name__:
                yield found


def pytest_collection_finish() -> None:
    """What test modules compute as they are imported is there by now."""
    names = [f"lessons_lib.{info.name}" for info in pkgutil.iter_modules(lessons_lib.__path__)]
    for name in names:
        if name in sys.modules or not name.endswith("__main__"):
            for function in set(functions(importlib.import_module(name))):
                hollow(function)


def watch(event: str, args: tuple) -> None:
    global elsewhere
    if event in ("subprocess.Popen", "os.fork", "os.posix_spawn", "socket.connect"):
        elsewhere = True
    elif event == "open" and isinstance(args[0], str | os.PathLike):
        path = os.path.abspath(args[0])
        elsewhere |= path.startswith(ROOT) and not path.endswith((".py", ".pyc")) and "/.venv/" not in path


sys.addaudithook(watch)


def pytest_runtest_setup() -> None:
    global elsewhere
    elsewhere = False


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    report = yield
    source = inspect.getsource(item.module)
    about_the_library = IMPORTS.search(source) and not TOOLS.search(source)
    if report.failed:
        report.outcome, report.longrepr = "passed", None
    elif report.when == "call" and report.passed and about_the_library and not elsewhere:
        report.outcome, report.longrepr = "failed", "passes although every function of the library raises"
    return report
