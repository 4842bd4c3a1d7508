"""Execute the book's notebooks afresh and write them back with clean outputs, and with the cells that metadata give.

`python -m tools.notebooks` refreshes the whole book, `python -m tools.notebooks batch_norm resnet` two notebooks of it.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode

from lessons_lib.files import write_whole
from tools.contents import ROOT, title

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
CONFIGURATION = ("IPYTHON", "JUPYTER", "MATPLOTLIB", "MPL", "PYTHON")
FOLDERS = ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR")
SETUP = "The next cell fetches the book's library if it is missing, imports what the lesson uses, and fixes the seed."
KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}


def prepare_environment() -> None:
    """Give kernels started from here this checkout's library and kernel, no progress bars, no GPU, no configuration.

    A matplotlibrc or IPython's startup files would change what the lessons show; and matplotlib, IPython and Jupyter
    need folders that they can write to, which a home may not be. Stored numbers are a CPU's: on a GPU they would be
    rounded otherwise.
    """
    for name in [name for name in os.environ if name.startswith(CONFIGURATION)]:
        del os.environ[name]
    folder = Path(sys.prefix if os.access(sys.prefix, os.W_OK) else tempfile.mkdtemp(), "etc", "lessons")
    for name in FOLDERS:
        (folder / name.lower()).mkdir(parents=True, exist_ok=True)
        os.environ[name] = str(folder / name.lower())
    os.environ |= {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "PYTHONNOUSERSITE": "1"}
    os.environ |= {"TQDM_DISABLE": "1", "CUDA_VISIBLE_DEVICES": ""}


def tidy(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Drop what only a kernel can draw, and join streams, which it cuts by chance.

    A widget shown without a picture goes whole: tqdm's bars are such, and in a kernel ignore TQDM_DISABLE.
    """
    kept: list[NotebookNode] = []
    for output in outputs:
        data = output.get("data", {})
        if WIDGET_VIEW in data and set(data) <= {WIDGET_VIEW, "text/plain"}:
            continue
        data.pop(WIDGET_VIEW, None)
        if kept and output.output_type == kept[-1].output_type == "stream" and output.name == kept[-1].name:
            kept[-1] = NotebookNode(kept[-1], text=kept[-1].text + output.text)
        else:
            kept.append(output)
    return kept


def derived(facts: dict) -> dict[str, str]:
    """The text of the cells, by id, that tell the reader of a lesson's goals, needs and sources from its metadata."""
    needs = [f"[{title(stem)[0].lower()}{title(stem)[1:]}]({stem}.ipynb)" for stem in facts["needs"]]
    lessons = f"the lesson{'s' * (len(needs) > 1)} on {' and '.join(needs)}" if needs else ""
    goals = "After this lesson you can\n\n" + ";\n".join(f"- {goal}" for goal in facts["goals"])
    needed = " and ".join(filter(None, [lessons, facts.get("background")]))
    sources = ["- {authors}, [{title}]({url}), {year}. {note}".format(**source) for source in facts["sources"]]
    return {
        "goals": f"{goals}.\n\nYou need {needed}. {SETUP}",
        "sources": "## Sources\n\n" + "\n".join(sources),
    }


def clean(notebook: NotebookNode) -> NotebookNode:
    """Take out, in place, whatever changes from run to run or from host to host; write the cells that metadata give."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata |= {"kernelspec": KERNELSPEC, "language_info": {"name": "python"}}
    notebook.nbformat_minor = 5  # the first version with cell ids
    taken = {cell.get("id") for cell in notebook.cells}
    free = (name for name in (f"c{n:02}" for n in range(1, 1000)) if name not in taken)
    for cell in notebook.cells:
        cell.id = cell.get("id") or next(free)
        cell.metadata = NotebookNode({"tags": cell.metadata.tags} if cell.metadata.get("tags") else {})
        if cell.cell_type == "code":
            cell.outputs = tidy(cell.outputs)
    if facts := notebook.metadata.get("lesson"):
        cells = {cell.id: cell for cell in notebook.cells}
        for name, text in derived(facts).items():
            cells[name].source = text
    return notebook


def read(path: Path) -> NotebookNode:
    """Read without nbformat's repairs, which invent random ids for cells that have none."""
    return nbformat.v4.reads(path.read_text("utf-8"))


def dumps(notebook: NotebookNode) -> str:
    """Return the text of the file: one-space indents, sorted keys, characters as they are, a newline at the end."""
    nbformat.validate(notebook)
    return nbformat.v4.writes(notebook).rstrip("\n") + "\n"


def execute(path: Path) -> NotebookNode:
    """Return the notebook at `path`, run from top to bottom in a fresh kernel and cleaned. Writes nothing."""
    prepare_environment()
    notebook = read(path)
    options = {"kernel_name": "python3", "timeout": None, "record_timing": False}
    options |= {"resources": {"metadata": {"path": str(path.resolve().parent)}}, "extra_arguments": ["--log-level=40"]}
    NotebookClient(notebook, **options).execute()
    return clean(notebook)


def main(stems: list[str], folder: Path = ROOT / "book") -> int:
    """Refresh these notebooks, or all; stop at the first that fails and leave its file as it was."""
    for path in [folder / f"{stem}.ipynb" for stem in stems] or sorted(folder.glob("*.ipynb")):
        started = time.perf_counter()
        try:
            text = dumps(execute(path))
        except (CellExecutionError, DeadKernelError) as error:
            print(f"{path.stem}: {error}", file=sys.stderr)
            return 1
        write_whole(path, text)
        print(f"{path.stem}: {time.perf_counter() - started:.1f} s, {len(text.encode()) / 1e3:.0f} kB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
