"""The record behind the page of benchmarks is whole, says where each number comes from, and is written in one piece."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

from lessons_lib import __main__ as command_line
from tools import benchmarks
from tools.benchmarks import PARTS, RECORD, ROOT, main
from tools.notebooks import read

record = json.loads(RECORD.read_text("utf-8"))


def test_every_part_is_recorded_with_its_circumstances_and_shown() -> None:
    assert set(record) == set(PARTS)
    page = "\n".join(cell.source for cell in read(ROOT / "book/benchmarks.ipynb").cells)
    for name, part in record.items():
        assert set(part) == {"date", "machine", "versions", "command", "rows"} and part["rows"], name
        assert part["command"] == f"make benchmarks only={name}"
        assert f'rows("{name}")' in page


@pytest.mark.parametrize("part", ["selection", "training"])
def test_every_run_has_its_own_circumstances_and_none_is_left_out(part: str) -> None:
    rows = record[part]["rows"]
    for row in rows:
        assert {"date", "machine", "versions", "command"} <= set(row)
        assert len(row["test_acc"]) == row["epochs"] and row["command"].startswith("python -m lessons_lib train ")
    if part == "selection":
        assert [row["choice"] for row in rows] == benchmarks.CHOICES
        assert all("--hold-out 10000" in row["command"] for row in rows)
    else:
        assert [(row["net"], row["seed"]) for row in rows] == [(n, s) for n in benchmarks.FINAL for s in range(3)]


def test_a_part_replaces_itself_and_keeps_the_others_unless_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = False

    def quick() -> Iterator[dict[str, object]]:
        """Something quick."""
        yield dict(seconds=1.5)
        if fails:
            raise RuntimeError

    monkeypatch.setattr(benchmarks, "RECORD", tmp_path / "benchmarks.json")
    monkeypatch.setitem(PARTS, "quick", quick)
    (tmp_path / "benchmarks.json").write_text('{"quick": {"rows": []}, "other": {"rows": [1]}}')
    assert main(["quick"]) is None
    written = json.loads((tmp_path / "benchmarks.json").read_text("utf-8"))
    assert written["other"] == {"rows": [1]} and written["quick"]["rows"] == [dict(seconds=1.5)]
    fails, before = True, (tmp_path / "benchmarks.json").read_bytes()
    with pytest.raises(RuntimeError):
        main(["quick"])
    assert (tmp_path / "benchmarks.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["benchmarks.json"]


def test_an_unknown_part_is_refused() -> None:
    assert main(["slids"]) == f"only: expected some of {', '.join(PARTS)}, got slids"


def test_a_run_that_is_there_is_read_and_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = TensorDataset(torch.rand(130, 1, 28, 28), torch.arange(130) % 10)
    monkeypatch.setattr(command_line, "fashion_mnist", lambda split, full: few)
    monkeypatch.setattr(benchmarks, "ROOT", tmp_path)
    monkeypatch.setattr(benchmarks, "launch", lambda options: command_line.main(options.split()))
    row = benchmarks.run("train lenet --epochs 1 --seed 2", "mine")
    assert set(row) == set(record["training"]["rows"][0])
    assert (row["net"], row["seed"], row["epochs"]) == ("lenet", 2, 1)
    monkeypatch.delattr(benchmarks, "launch")
    assert benchmarks.run("train lenet --epochs 1 --seed 2", "mine") == row
