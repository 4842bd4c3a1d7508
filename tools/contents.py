"""Which pages the book has, and in which order: _toc.yml says it, and only this module reads it."""

import json
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]


def chapters(root: Path = ROOT) -> list[str]:
    """All pages in the book's order, such as "book/sgd"."""
    contents = yaml.safe_load((root / "_toc.yml").read_text("utf-8"))
    return [contents["root"], *(chapter["file"] for part in contents["parts"] for chapter in part["chapters"])]


def lessons(root: Path = ROOT) -> list[str]:
    """The stems of the lessons in the book's order, such as "sgd": the notebooks with a record of a lesson's facts."""
    names = [chapter.removeprefix("book/") for chapter in chapters(root)]
    return [name for name in names if facts(name, root)]


def facts(stem: str, root: Path = ROOT) -> dict:
    """What a lesson is for: its module, goals, needs and sources. Empty for a page that is not a lesson."""
    path = root / f"book/{stem}.ipynb"
    return json.loads(path.read_text("utf-8"))["metadata"].get("lesson", {}) if path.exists() else {}


def title(stem: str, root: Path = ROOT) -> str:
    """A lesson's title as in its heading, without the Chinese term."""
    first = json.loads((root / f"book/{stem}.ipynb").read_text("utf-8"))["cells"][0]
    return re.match(r"# (.+?)(?: \(.+\))?\n", "".join(first["source"]))[1]
