"""Minibatches shared out to several processes: how to start them, how they agree on a gradient, and on statistics.

The loop over minibatches is `lessons_lib.sgd.sgd` for a function and `lessons_lib.training.train` for a net, which in a
process group shares each batch out.

Sources: S. Li and others, "PyTorch Distributed: Experiences on Accelerating Data Parallel Training", 2020,
arXiv:2006.15704; batch normalisation over processes: C. Peng and others, "MegDet: A Large Mini-Batch Object Detector",
2017, arXiv:1711.07240, "Cross-GPU Batch Normalization".
"""

import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from inspect import getsource
from pathlib import Path
from pickle import UnpicklingError
from tempfile import TemporaryDirectory
from textwrap import dedent
from threading import Thread
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.elastic.multiprocessing.errors import record

from lessons_lib.batch_norm import BatchNorm, at_least_float32, check_batch, normalised
from lessons_lib.training import join, place

Result = TypeVar("Result")


def torchrun(worker: Callable[..., Result], *args: str, num_processes: int = 2) -> list[Result]:
    """Run a function in several new processes that form a process group, by PyTorch's own `torchrun`.

    The group communicates by NCCL if there is a GPU for each process, otherwise by gloo on the CPU. The processes get
    the function's source code alone: it imports what it needs, and sees no variable from outside. What they print is
    printed here at the end, rank after rank.

    Args:
        worker: a function, not a lambda, whose source can be read. It returns tensors, numbers, strings, or lists and
            dicts of them.
        args: what it is called with, strings only, as on a command line.
        num_processes: how many, at least 1. They share this machine's threads.

    Returns:
        What the function returned in each process, by rank.

    Raises:
        ValueError: num_processes is below 1.
        TypeError: worker is no function with a name and a source, or it returns something else; an argument is no
            string, num_processes no int.
        RuntimeError: a process failed or was killed; the message is torchrun's account of it. However the call ends,
            killed or interrupted, its processes end with it.

    >>> def worker(word):
    ...     from torch import distributed
    ...     return word * (1 + distributed.get_rank())
    >>> torchrun(worker, "step ", num_processes=2)
    ['step ', 'step step ']
    """
    name = getattr(worker, "__name__", "")
    if not name.isidentifier():
        raise TypeError(f"worker: expected a function with a name, got {worker!r}")
    for arg in args:
        if not isinstance(arg, str):
            raise TypeError(f"args: expected strings, got {arg!r}")
    if isinstance(num_processes, bool) or not isinstance(num_processes, int):
        raise TypeError(f"num_processes: expected an int, got {num_processes!r}")
    if num_processes < 1:
        raise ValueError(f"num_processes: expected at least 1, got {num_processes}")
    try:
        # Type hints may name what only the caller has imported: they are not looked up.
        source = "from __future__ import annotations\n\n" + dedent(getsource(worker))
    except (OSError, TypeError) as error:
        raise TypeError(f"worker: expected a function whose source can be read, got {worker!r}") from error
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    with TemporaryDirectory() as folder:
        Path(folder, "worker.py").write_text(source, "utf-8")
        command += [f"--nproc-per-node={num_processes}", f"--log-dir={folder}", "-m", "lessons_lib.minibatch"]
        command += [folder, name, *args]
        errors = Path(folder, "errors.txt")
        # The new processes inherit stdin. Nothing is written to it; it ends when this block or this process does.
        with (
            errors.open("w") as stderr,
            subprocess.Popen(command, env=_environment(num_processes), stdin=subprocess.PIPE, stderr=stderr) as process,
        ):
            try:
                process.wait()
            finally:
                process.terminate()  # if it still runs, it ends its own processes too
        for rank in range(num_processes):
            if (printed := Path(folder, f"{rank}.txt")).exists():
                print(printed.read_text("utf-8"), end="")
        if process.returncode:
            # The part that says which process failed and how, or all that was said, or nothing.
            account = errors.read_text("utf-8").rpartition("ChildFailedError:")[2].strip()
            account = account or f"torchrun itself ended with {process.returncode}"
            raise RuntimeError(f"{name} failed in one of {num_processes} processes:\n{account}")
        try:
            paths = (Path(folder, f"{rank}.pt") for rank in range(num_processes))
            return [torch.load(path, map_location="cpu", weights_only=True) for path in paths]
        except UnpicklingError as error:
            message = f"worker: expected {name} to return tensors, numbers, strings, or lists and dicts of them"
            raise TypeError(f"{message}: {error}") from error


def average_gradients(net: nn.Module) -> None:
    """Replace each gradient of `net` by its mean over all processes, in place: the step between backward and update.

    DistributedDataParallel does the same while the backward pass still runs. Call it in all processes, on the same net.
    Outside of a process group nothing changes.

    Source: Li and others 2020, section 3.2.

    >>> def worker():
    ...     import torch
    ...     from torch import distributed, nn
    ...     from lessons_lib.minibatch import average_gradients
    ...     net = nn.Linear(1, 1)
    ...     net(torch.tensor([[10.0 + distributed.get_rank()]])).backward()
    ...     average_gradients(net)
    ...     return net.weight.grad.item()
    >>> torchrun(worker)
    [10.5, 10.5]
    """
    world = place()[1]
    for parameter in net.parameters():
        if world > 1 and parameter.grad is not None:
            distributed.all_reduce(parameter.grad)
            parameter.grad /= world


class SyncBatchNorm(BatchNorm):
    """Batch normalisation whose batch is that of all processes together. Arguments and state as `BatchNorm`.

    In training every process must call it, each with its share of the batch. Y and the moving averages are those of one
    process with the whole batch, and so are the gradients, once averaged over the processes. Shares may differ in size;
    each mean loss must then be weighted by (size of the share) · (processes) / (size of the batch), as `train` does.
    PyTorch's `nn.SyncBatchNorm` does the same, on GPUs only. Without a process group, and in eval mode, this is
    `BatchNorm`.

    Raises:
        ValueError, TypeError: as `BatchNorm`.

    Source: Peng and others 2017, "Cross-GPU Batch Normalization"; here with the two-pass variance of `batch_norm`.

    >>> SyncBatchNorm(6, num_dims=4)(torch.randn(8, 6, 5, 5)).shape
    torch.Size([8, 6, 5, 5])
    """

    def forward(self, X: Tensor) -> Tensor:
        if not self.training or place()[1] == 1 or not isinstance(X, Tensor) or X.dtype != self.weight.dtype:
            return super().forward(X)
        check_batch(False, X, self.state(X))
        rows = at_least_float32(X).transpose(0, 1).flatten(1)  # one row a feature, as in batch_norm
        n = _Sum.apply(rows.new_tensor(float(rows.shape[1])))
        mean = _Sum.apply(rows.sum(1)) / n
        var = _Sum.apply(((rows - mean[:, None]) ** 2).sum(1)) / n
        self.move_averages(mean, var, n)
        return normalised(X, mean, var, self.weight, self.bias, self.eps).to(X.dtype)


class _Sum(torch.autograd.Function):
    """The sum over all processes. Each process's loss depends on it: so backward, the gradients are summed as well."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return _Sum.apply(grad.contiguous())


def _environment(num_processes: int) -> dict[str, str]:
    """This process's, with our library on the path, the threads shared out, and a GPU for each process or none."""
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = -(-torch.get_num_threads() // num_processes)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": str(threads)}
    return environment | ({"CUDA_VISIBLE_DEVICES": ""} if torch.cuda.device_count() < num_processes else {})


def _end_with_the_caller() -> None:
    """End this process when the caller's end of stdin closes. A caller that is killed has no chance to clean up."""
    os.read(0, 1)
    os._exit(1)


@record  # so that torchrun's account has the traceback
def _run(folder: str, name: str, *args: str) -> None:
    """What each new process does."""
    Thread(target=_end_with_the_caller, daemon=True).start()
    worker = runpy.run_path(str(Path(folder, "worker.py")))[name]
    join()
    rank = distributed.get_rank()
    with open(Path(folder, f"{rank}.txt"), "w", 1, "utf-8") as printed, redirect_stdout(printed):
        result = worker(*args)
    torch.save(result, Path(folder, f"{rank}.pt"))
    distributed.destroy_process_group()


if __name__ == "__main__":
    _run(*sys.argv[1:])
