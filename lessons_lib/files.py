"""Files that are written whole, or stay as they were. Imports no PyTorch: the tools that do without it use it, too."""

import os
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace a file by `content`, text as UTF-8, in one step: interrupted at any moment it leaves the old one."""
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
