"""Run the whole book again and again, each time as another machine would, and see what strays: `make reruns`.

The runs differ in their threads and in the vector instructions that torch and its libraries may use. Each prints a line
of a table. tests/strays.txt keeps how far the cells that declare a tolerance strayed.
"""

import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from itertools import cycle, islice, product
from pathlib import Path
from xml.etree import ElementTree

import torch

from lessons_lib.files import write_whole

ROOT = Path(__file__).resolve().parents[1]
STRAYS = ROOT / "tests/strays.txt"
HEAD = """\
How far cells strayed from what is stored: the largest difference in numbers, where they declare a tolerance, and in px.
`make reruns` measured it in {} runs of the whole book and wrote this file.

"""
THREADS = ("1", "2", "4")
# Vector instructions, from the fewest to the most: torch's name for them, then oneDNN's and MKL's. Those two never get
# fewer than AVX2, which any PC has since 2015: with SSE alone a run takes far longer.
SETS = {"default": ("AVX2", "AVX2"), "avx2": ("AVX2", "AVX2"), "avx512": ("AVX512_CORE", "AVX512")}
# A process a core where each has one thread. More threads wait for each other without spinning.
COMMAND = [sys.executable, "-m", "pytest", "-q", "-p", "tests.notebook_compare", "--nbval", "book"]
COMMAND += ["-n", "auto", "--dist", "loadscope"]


def environment(threads: str, vectors: str) -> dict[str, str]:
    """What makes torch and the libraries under it compute with that many threads and those instructions."""
    onednn, mkl = SETS[vectors]
    chosen = dict(ATEN_CPU_CAPABILITY=vectors, ONEDNN_MAX_CPU_ISA=onednn, MKL_ENABLE_INSTRUCTIONS=mkl)
    return os.environ | chosen | dict(OMP_NUM_THREADS=threads, OMP_WAIT_POLICY="passive", PYTHONHASHSEED="0")


def run(threads: str, vectors: str) -> tuple[ElementTree.Element, str]:
    """Re-execute the book once; return the report on its cells, and what pytest printed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [*COMMAND, "--junitxml", str(report)]
        done = subprocess.run(command, cwd=ROOT, env=environment(threads, vectors), capture_output=True, text=True)
        if not report.exists():
            sys.exit(f"pytest could not run: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return ElementTree.parse(report).getroot(), done.stdout


def write(furthest: Counter[tuple[str, str, str]], runs: int) -> None:
    """Store how far each cell strayed in that many runs."""
    cells = sorted({key[:2] for key in furthest if furthest[key]})
    rows = [
        f"{' '.join(cell):18} {furthest[(*cell, 'number')]:<9.2g} {furthest[(*cell, 'px')]:.2g}\n" for cell in cells
    ]
    write_whole(STRAYS, HEAD.format(runs) + "".join(rows))


def main(runs: int) -> None:
    best, names = torch.backends.cpu.get_cpu_capability().lower(), list(SETS)
    supported = names[: names.index(best) + 1] if best in SETS else ["default"]
    settings = list(product(THREADS, supported))
    random.Random(0).shuffle(settings)  # so that a few runs vary both
    furthest: Counter[tuple[str, str, str]] = Counter()
    failed = 0
    print("| run | threads | instructions | seconds | cells | failed |\n|" + "--:|" * 6, flush=True)
    for n, (threads, vectors) in enumerate(islice(cycle(settings), runs), 1):
        started = time.perf_counter()
        report, printed = run(threads, vectors)
        cases = list(report.iter("testcase"))
        wrong = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
        failed += len(wrong)
        for case in cases:
            found = {item.get("name", ""): item.get("value", "") for item in case.iter("property")}
            lesson = ".".join(case.get("classname", "").split(".")[-2:-1])
            for kind in ("number", "px"):
                key = (lesson, found.get("cell", ""), kind)
                furthest[key] = max(furthest[key], float(found.get(kind, 0)))
        seconds = time.perf_counter() - started
        print(f"| {n} | {threads} | {vectors} | {seconds:.0f} | {len(cases)} | {len(wrong)} |", flush=True)
        if wrong:
            print(printed)
        write(furthest, n)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main(int(sys.argv[1]))
