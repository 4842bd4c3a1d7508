"""Pin the newest environment that pyproject.toml allows, for Python 3.10 to 3.13 on every system: `make lock`.

requirements.txt is all of it, requirements-book.txt the part that building the book needs, in the same versions. What
PyTorch needs for CUDA is left to PyTorch's own requirements: its CPU build needs none of it. Needs uv
(https://docs.astral.sh/uv).
"""

import re
import subprocess
from pathlib import Path

from lessons_lib.files import write_whole

ROOT = Path(__file__).resolve().parents[1]
CUDA = r"(?:nvidia-|cuda-|triton)[\w-]*"


def compiled(*options: str) -> str:
    command = "uv pip compile --universal --python-version 3.10 --quiet --no-header --no-annotate --no-emit-index-url"
    return subprocess.run([*command.split(), *options], cwd=ROOT, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    everything = ["pyproject.toml", "--group", "dev", "--upgrade"]
    cuda = sorted(set(re.findall(rf"^{CUDA}", compiled(*everything), re.MULTILINE)))
    write_whole(ROOT / "requirements.txt", compiled(*everything, *(f"--no-emit-package={name}" for name in cuda)))
    write_whole(ROOT / "requirements-book.txt", compiled("--group", "book", "--constraints", "requirements.txt"))
