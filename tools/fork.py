"""Point the book at somebody's own copy: `make fork owner=NAME`, or owner=NAME/REPOSITORY if that is called otherwise.

The address stands in pyproject.toml; the lessons and the buttons of the book repeat it.
"""

import re
import sys
from pathlib import Path

from lessons_lib.files import write_whole

ROOT = Path(__file__).resolve().parents[1]
FILES = ("book/*.ipynb", "_config.yml", "pyproject.toml")  # this last: after an interruption the old address is known


def address(root: Path = ROOT) -> str:
    """The repository's address, as pyproject.toml has it."""
    return re.search(r'^Repository = "(.+)"$', (root / "pyproject.toml").read_text("utf-8"), re.MULTILINE)[1]


def main(owner: str, root: Path = ROOT) -> None:
    """Replace the address in all files that have it. SystemExit unless owner is a GitHub name."""
    if not re.fullmatch(r"[\w-]+(/[\w.-]+)?", owner):
        sys.exit(f"owner: expected a GitHub name, or NAME/REPOSITORY, got {owner!r}")
    old = address(root)
    new = f"https://github.com/{owner if '/' in owner else owner + '/' + old.rpartition('/')[2]}"
    for path in [path for pattern in FILES for path in sorted(root.glob(pattern))]:
        text = path.read_text("utf-8")
        if text != (changed := re.sub(rf"{re.escape(old)}(?![\w-])", new, text)):
            write_whole(path, changed)
            print(f"{path.relative_to(root)}: {new}")


if __name__ == "__main__":
    main(*sys.argv[1:])
