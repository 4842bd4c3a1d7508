"""Run the whole book again and again, each time as another machine would, and see what strays: `make reruns`.

The runs differ in their threads and in the vector instructions that torch and its libraries may use. tests/strays.txt
keeps how far the cells that declare a tolerance strayed.
"""

import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from itertools import cycle, islice, product
from pathlib import Path
from xml.etree import ElementTree

import torch

from lessons_lib.files import write_whole
from tools.contents import ROOT

HEAD = """\
How far cells strayed from what is stored: the largest difference in numbers, where they declare a tolerance, and in px.
`make reruns` measured it in {} runs of the whole book and wrote this file.

"""
# Vector instructions, from the fewest to the most: torch's name for them, then oneDNN's and MKL's. Those two never get
# fewer than AVX2, which any PC has since 2015: with SSE alone a run takes far longer.
SETS = {"default": ("AVX2", "AVX2"), "avx2": ("AVX2", "AVX2"), "avx512": ("AVX512_CORE", "AVX512")}
# A process a core where each has one thread. More threads wait for each other without spinning.
COMMAND = [sys.executable, "-m", "pytest", "-q", "-p", "tests.notebook_compare", "--nbval", "book"]
COMMAND += ["-n", "auto", "--dist", "loadscope"]


def main(runs: int) -> None:
    best = torch.backends.cpu.get_cpu_capability().lower()
    supported = list(SETS)[: list(SETS).index(best) + 1] if best in SETS else ["default"]
    settings = list(product(("1", "2", "4"), supported))
    random.Random(0).shuffle(settings)  # so that a few runs vary both
    furthest: Counter[tuple[str, str, str]] = Counter()  # lesson, cell, "number" or "px": how far it strayed
    status = 0
    for n, (threads, vectors) in enumerate(islice(cycle(settings), runs), 1):
        onednn, mkl = SETS[vectors]
        chosen = dict(ATEN_CPU_CAPABILITY=vectors, ONEDNN_MAX_CPU_ISA=onednn, MKL_ENABLE_INSTRUCTIONS=mkl)
        chosen |= dict(OMP_NUM_THREADS=threads, OMP_WAIT_POLICY="passive", PYTHONHASHSEED="0")
        print(f"run {n}: {threads} threads, {vectors} instructions", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder, "report.xml")
            done = subprocess.run([*COMMAND, f"--junitxml={report}"], cwd=ROOT, env=os.environ | chosen)
            cases = list(ElementTree.parse(report).iter("testcase"))  # no report: pytest has said why
        status = done.returncode or status
        for case in cases:
            found = {item.get("name", ""): item.get("value", "") for item in case.iter("property")}
            lesson = ".".join(case.get("classname", "").split(".")[-2:-1])
            for kind in ("number", "px"):
                key = (lesson, found.get("cell", ""), kind)
                furthest[key] = max(furthest[key], float(found.get(kind, 0)))
        rows = [
            f"{' '.join(cell):18} {furthest[(*cell, 'number')]:<9.2g} {furthest[(*cell, 'px')]:.2g}\n"
            for cell in sorted({key[:2] for key in furthest if furthest[key]})
        ]
        write_whole(ROOT / "tests/strays.txt", HEAD.format(n) + "".join(rows))
    sys.exit(status)


if __name__ == "__main__":
    main(int(sys.argv[1]))
