"""What is written is there whole, or the old file is."""

from pathlib import Path

import pytest

from lessons_lib.files import write_whole


def test_text_and_bytes_replace_a_file_and_a_full_disk_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_whole(path, "grüß dich")
    assert path.read_bytes() == "grüß dich".encode()
    write_whole(path, b"\xff")
    (tmp_path / "a.txt.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "more")
    assert path.read_bytes() == b"\xff" and [*tmp_path.iterdir()] == [path]
