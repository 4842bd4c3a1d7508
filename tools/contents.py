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
    """The stems of the lessons in the book's order, such as "sgd": the pages of the first part."""
    contents = yaml.safe_load((root / "_toc.yml").read_text("utf-8"))
    return [chapter["file"].removeprefix("book/") for chapter in contents["parts"][0]["chapters"]]


def facts(stem: str, root: Path = ROOT) -> dict:
    """The metadata of a lesson: its module, goals, needs and sources."""
    return json.loads((root / f"book/{stem}.ipynb").read_text("utf-8"))["metadata"]["lesson"]


def title(stem: str, root: Path = ROOT) -> str:
    """A lesson's title as in its heading, without the Chinese term."""
    first = json.loads((root / f"book/{stem}.ipynb").read_text("utf-8"))["cells"][0]
    return re.match(r"# (.+?)(?: \(.+\))?\n", "".join(first["source"]))[1]
