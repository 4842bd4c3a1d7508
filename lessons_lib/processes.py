"""Several processes that train one net: which of them this is, and what the others have."""

import os
from collections.abc import Iterable
from itertools import zip_longest

import torch
from torch import Tensor, distributed


def rank_and_size() -> tuple[int, int]:
    """This process's rank, and how many train together: (0, 1) outside of a process group, where each is alone."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def join_process_group() -> None:
    """Join the process group that torchrun has prepared, each process with its own GPU if there are any.

    Raises a `ValueError` if there are GPUs, but fewer than processes, and a `RuntimeError` outside of torchrun.
    """
    if "LOCAL_WORLD_SIZE" not in os.environ:
        raise RuntimeError("join_process_group: expected a process that torchrun has started")
    gpus, processes = torch.cuda.device_count(), int(os.environ["LOCAL_WORLD_SIZE"])
    if 0 < gpus < processes:
        raise ValueError(f"torchrun: expected at most {gpus} processes, one a GPU, got {processes}")
    if gpus:  # or all of them would send their messages through the first
        torch.cuda.set_device(distributed.get_node_local_rank())
    distributed.init_process_group("nccl" if gpus else "gloo")
    distributed.barrier()  # gloo fails where it still connects when another process already leaves


def gather(value: object) -> list:
    """What each process has, by rank. It returns when all of them have called it."""
    size = rank_and_size()[1]
    values = [value] * size
    if size > 1:
        distributed.all_gather_object(values, value)
    return values


def mean_over_processes(value: Tensor) -> float:
    """The mean of the number that each process has."""
    size = rank_and_size()[1]
    if size > 1:
        value = value.detach().clone()
        distributed.all_reduce(value)
    return value.item() / size


def check_same(name: str, what: str, parts: Iterable[str]) -> None:
    """Raise a ValueError in every process unless all of them have the same parts, in the same order."""
    first, *others = gather(list(parts))
    for rank, other in enumerate(others, 1):
        for one, another in zip_longest(first, other, fillvalue="no more"):
            if one != another:
                found = f"{one} in process 0 and {another} in process {rank}"
                raise ValueError(f"{name}: expected the same {what} in all processes, got {found}")
