"""Begin a lesson: `make lesson name=attention` copies the notebook, module and test of tools/new_lesson, which pass.

`make test` then names what a lesson of the book still lacks.
"""

import re
import subprocess
import sys
from pathlib import Path

from lessons_lib.files import write_whole
from tools import notebooks
from tools.contents import ROOT
from tools.notebooks import read

FILES = ("lessons_lib/new_lesson.py", "tests/test_new_lesson.py", "book/new_lesson.ipynb")


def main(name: str, root: Path = ROOT) -> str | None:
    """Write the lesson's files, and its line in the table of contents."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        return f"name: expected lower-case words joined by _, such as weight_decay, got {name!r}"
    files = {root / place.replace("new_lesson", name): ROOT / "tools/new_lesson" / Path(place).name for place in FILES}
    if there := [path for path in files if path.exists()]:
        return f"name: {there[0].relative_to(root)} is there already"
    title = name.replace("_", " ").capitalize()
    for path, skeleton in files.items():
        write_whole(path, skeleton.read_text("utf-8").replace("new_lesson", name).replace("New lesson", title))
    # The lines that fetch the library are those of the first lesson.
    notebook, first = read(path), read(ROOT / "book/batch_norm.ipynb")
    setup, install = (next(cell for cell in lesson.cells if cell.cell_type == "code") for lesson in (notebook, first))
    setup.source = install.source.partition("\n\nimport")[0] + "\n\n" + setup.source
    write_whole(path, notebooks.dumps(notebook))
    # Where an import belongs depends on the name.
    subprocess.run([sys.executable, "-m", "ruff", "check", "--quiet", "--fix", *files], check=True)
    lessons, caption, pages = (root / "_toc.yml").read_text("utf-8").partition("  - caption: To look things up\n")
    write_whole(root / "_toc.yml", f"{lessons}      - file: book/{name}\n{caption}{pages}")
    return None


if __name__ == "__main__":
    if problem := main(*sys.argv[1:]):
        sys.exit(problem)
    sys.exit(notebooks.main(sys.argv[1:]))
