"""Pin the newest environment that pyproject.toml allows, for Python 3.10 to 3.13 on every system: `make lock`.

Needs uv (https://docs.astral.sh/uv). What PyTorch needs for CUDA is left to PyTorch's own requirements: its CPU build
needs none of it.
"""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
CUDA = r"(?:nvidia-|cuda-|triton)[\w-]*"


def compiled(*options: str) -> str:
    command = "uv pip compile pyproject.toml --extra dev --universal --python-version 3.10 --upgrade --quiet"
    command += " --no-header --no-annotate --no-emit-index-url"
    return subprocess.run([*command.split(), *options], cwd=ROOT, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    cuda = sorted(set(re.findall(rf"^{CUDA}", compiled(), re.MULTILINE)))
    pinned = compiled(*(f"--no-emit-package={name}" for name in cuda))
    (ROOT / "requirements.txt").write_text(pinned)
    print(f"requirements.txt pins {len(pinned.splitlines())} packages")
