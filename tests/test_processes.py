"""Processes know their rank and size, join the group that torchrun has prepared, and hear what the others have."""

import pytest
import torch

from lessons_lib.processes import check_same, gather, join_process_group, mean_over_processes, rank_and_size
from tests.processes import in_processes


def together() -> list[object]:
    rank, size = rank_and_size()
    mine = torch.tensor(float(rank), requires_grad=True)
    check_same("net", "parts", ["a", "b"])
    said = []
    for parts in (["a", f"b{rank}"], ["a", "b"][: 2 - rank]):
        try:
            check_same("net", "parts", iter(parts))
        except ValueError as error:
            said.append(str(error))
    return [rank, size, gather(f"of {rank}"), mean_over_processes(mine), mine.item(), said]


def test_processes_hear_of_each_other() -> None:
    for rank, heard in enumerate(in_processes(together, count=3)):
        said = [
            "net: expected the same parts in all processes, got b0 in process 0 and b1 in process 1",
            "net: expected the same parts in all processes, got b in process 0 and no more in process 1",
        ]
        assert heard == [rank, 3, ["of 0", "of 1", "of 2"], 1.0, float(rank), said]


def test_outside_of_a_group_a_process_is_alone() -> None:
    assert rank_and_size() == (0, 1) and gather("mine") == ["mine"]
    assert mean_over_processes(torch.tensor(0.25)) == 0.25
    check_same("net", "parts", ["a"])


def test_each_process_of_torchrun_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[object] = []
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.distributed, "init_process_group", said.append)
    monkeypatch.setattr(torch.distributed, "barrier", lambda: said.append("all are here"))
    monkeypatch.setattr(torch.cuda, "set_device", said.append)
    for gpus in (0, 2, 3):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        join_process_group()
    assert said == ["gloo", "all are here", 1, "nccl", "all are here", 1, "nccl", "all are here"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="^torchrun: expected at most 1 processes, one a GPU, got 2$"):
        join_process_group()
    assert len(said) == 8
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    with pytest.raises(RuntimeError, match="^join_process_group: expected a process that torchrun has started$"):
        join_process_group()
