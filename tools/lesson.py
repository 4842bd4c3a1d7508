"""Begin a lesson: `make lesson name=attention` writes its notebook, module and test, each a skeleton that runs.

Its module, test and notebook pass from the first; `make test` then names what a lesson of the book still lacks.
"""

import re
import subprocess
import sys
from pathlib import Path

from nbformat import NotebookNode, v4

from tools import notebooks
from tools.contents import ROOT, lessons
from tools.files import write_whole
from tools.notebooks import read

MODULE = '''"""{title}: what it holds, in one sentence.

Source: authors, "Title", year, arXiv number.
"""

from torch import Tensor


def {name}(x: Tensor, lr: float = 0.5) -> Tensor:
    """x · lr: what the formula of the lesson says.

    Args:
        x: any shape.
        lr: the learning rate. Positive.

    Raises:
        ValueError: lr is not positive.

    Source: where equation (1) stands.

    >>> {name}(Tensor([2.0]))
    tensor([1.])
    """
    if not lr > 0:
        raise ValueError(f"lr: expected a positive number, got {{lr}}")
    return lr * x
'''

TEST = '''"""{title} against PyTorch's own, or a closed form."""

import pytest
import torch

from lessons_lib.{name} import {name}


def test_is_what_the_formula_says() -> None:
    assert {name}(torch.tensor(3.0), lr=0.25) == 0.75


def test_a_rate_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="lr: expected a positive number, got 0"):
        {name}(torch.ones(1), lr=0)
'''

IMPORTS = """
import torch
from matplotlib import pyplot as plt

from lessons_lib.{name} import {name}
from lessons_lib.sliders import slider

torch.manual_seed(0)
torch.set_num_threads(1)  # tensors as small as these gain nothing from more
"""

SLIDER = '''def draw(lr=0.5):
    """A line through the origin that is steeper the higher the learning rate is."""
    fig, ax = plt.subplots()
    x = torch.linspace(0, 1, 11)
    ax.plot(x, {name}(x, lr))
    ax.set(xlabel="$x$", ylabel="$y$", ylim=(0, 1))
    return fig


slider(draw, lr=[0.25, 0.5, 1.0])
assert {name}(torch.tensor(2.0), lr=0.5) == 1'''

OPENING = """# {title}

A question that the reader has, and why it matters."""

# The cells "goals" and "sources" are written from these.
FACTS = dict(
    goals=["do one thing", "and another"],
    background="some PyTorch",
    needs=[],
    sources=[
        dict(authors="Authors", title="Title", url="https://arxiv.org/abs/1502.03167", year=2015, note="Why read it.")
    ],
)

CONCEPT = """## The idea

A formula, then its code, then the evidence:

$$y = \\eta x. \\tag{{1}}$$"""

EXERCISE = """**{number}. A question.** What is $y$ at $x = 2$ and $\\eta = \\frac12$?

<details>
<summary>Solution</summary>

One: the cell above asserts it.

</details>"""

CLOSING = """## Read on

What comes next."""


def notebook(name: str, title: str) -> NotebookNode:
    """The skeleton of a lesson, not yet run; the lines that fetch the library are those of the first lesson."""
    install = read(ROOT / "book/batch_norm.ipynb").cells[2].source.partition("\n\nimport")[0]
    fill = dict(name=name, title=title)
    cells = [
        v4.new_markdown_cell(OPENING.format(**fill)),
        v4.new_markdown_cell(id="goals"),
        v4.new_code_cell(f"{install}\n{IMPORTS.format(**fill).rstrip()}"),
        v4.new_markdown_cell(CONCEPT.format(**fill)),
        v4.new_code_cell(SLIDER.format(**fill)),
        v4.new_markdown_cell("\n\n".join(["## Exercises", *(EXERCISE.format(number=n) for n in range(1, 7))])),
        v4.new_markdown_cell(CLOSING),
        v4.new_markdown_cell(id="sources"),
    ]
    for number, cell in enumerate([cell for cell in cells if cell.id not in ("goals", "sources")], 1):
        cell.id = f"c{number:02}"
    return notebooks.clean(v4.new_notebook(cells=cells, metadata={"lesson": FACTS | {"module": name}}))


def main(name: str, root: Path = ROOT) -> str | None:
    """Write the skeleton, and a line for it wherever the lessons are listed."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        return f"name: expected lower-case words joined by _, such as weight_decay, got {name!r}"
    title = name.replace("_", " ").capitalize()
    files = {
        root / f"lessons_lib/{name}.py": MODULE.format(name=name, title=title),
        root / f"tests/test_{name}.py": TEST.format(name=name, title=title),
        root / f"book/{name}.ipynb": notebooks.dumps(notebook(name, title)),
    }
    if there := [path for path in files if path.exists()]:
        return f"name: {there[0].relative_to(root)} is there already"
    for path, text in files.items():
        write_whole(path, text)
    # Where an import belongs depends on the name.
    subprocess.run([sys.executable, "-m", "ruff", "check", "--quiet", "--fix", *files], check=True)
    last = lessons()[-1]
    for place, row in (("_toc.yml", None), ("README.md", f"| [{title}](book/{name}.ipynb) | what it shows |\n")):
        text = (root / place).read_text("utf-8")
        above = next(line for line in text.splitlines(keepends=True) if re.search(rf"book/{last}\b", line))
        text = text.replace(above, above + (row or above.replace(last, name)))
        write_whole(root / place, text)
    return None


if __name__ == "__main__":
    if problem := main(*sys.argv[1:]):
        sys.exit(problem)
    sys.exit(notebooks.main(sys.argv[1:]))
