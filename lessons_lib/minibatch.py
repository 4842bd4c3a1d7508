"""Minibatches shared out to several processes: how to start them, how they agree on a gradient, and on statistics.

The loop over minibatches is `lessons_lib.sgd.sgd` for a function and `lessons_lib.training.train` for a net, which in a
process group shares each batch out.

Sources: S. Li and others, "PyTorch Distributed: Experiences on Accelerating Data Parallel Training", 2020,
arXiv:2006.15704; batch normalisation over processes: C. Peng and others, "MegDet: A Large Mini-Batch Object Detector",
2017, arXiv:1711.07240, "Cross-GPU Batch Normalization".
"""

import math
import os
import re
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from inspect import getsource
from itertools import zip_longest
from pathlib import Path
from pickle import UnpicklingError
from tempfile import TemporaryDirectory
from textwrap import dedent
from threading import Thread
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

from lessons_lib.batch_norm import BatchNorm, at_least_float32, normalised
from lessons_lib.checks import as_int
from lessons_lib.training import check_net, from_all, join, place, replace, saved

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
        TypeError: worker is not a function with a name and a source, or it returns something else; an argument is not a
            string, num_processes not an int.
        RuntimeError: a process failed or was killed; the message says which, and how. However the call ends, killed or
            interrupted, its processes end with it.

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
    num_processes = as_int("num_processes", num_processes, 1)
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
        said, code = _until_all_have_ended(command, _environment(num_processes))
        for rank in range(num_processes):
            if (printed := Path(folder, f"{rank}.txt")).exists():
                print(printed.read_text("utf-8"), end="")
        if code or not all(Path(folder, f"{rank}.pt").exists() for rank in range(num_processes)):
            account = _account(Path(folder), num_processes, said, code)
            raise RuntimeError(f"{name} failed in one of {num_processes} processes:\n{account}")
        try:
            paths = (Path(folder, f"{rank}.pt") for rank in range(num_processes))
            return [torch.load(path, map_location="cpu", weights_only=True) for path in paths]
        except UnpicklingError as error:
            message = f"worker: expected {name} to return tensors, numbers, strings, or lists and dicts of them"
            raise TypeError(f"{message}: {error}") from error


@torch.no_grad()
def average_gradients(net: nn.Module) -> None:
    """Replace each gradient of `net` by its mean over all processes, in place: the step between backward and update.

    DistributedDataParallel does the same while the backward pass still runs. Call it in all processes, on the same net:
    each parameter must have a gradient in all of them or in none. Outside of a process group nothing changes.

    Raises:
        ValueError: the gradients of the processes do not correspond. It is raised in every process, and none changes.

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
    check_net(net)
    if place()[1] == 1:
        return
    gradients = {name: parameter.grad for name, parameter in net.named_parameters()}
    first, *others = from_all([_described(name, gradient) for name, gradient in gradients.items()])
    for rank, other in enumerate(others, 1):
        for one, another in zip_longest(first, other):
            if one != another:
                what = f"{one} in process 0 and {another} in process {rank}"
                raise ValueError(f"net: expected the same gradients in all processes, got {what}")
    for gradient in gradients.values():
        if gradient is not None:
            # Strides may differ from process to process.
            mean = gradient if gradient.is_sparse else gradient.contiguous()
            distributed.all_reduce(mean)
            mean /= place()[1]
            gradient.copy_(mean)


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
        self.check(X, is_training=False)
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


def _described(name: str, gradient: Tensor | None) -> str:
    if gradient is None:
        return f"{name} without one"
    return f"{name} of shape {tuple(gradient.shape)}, {gradient.dtype}, {gradient.layout}"


def _environment(num_processes: int) -> dict[str, str]:
    """This process's, with our library on the path, the threads shared out, and a GPU for each process or none."""
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = -(-torch.get_num_threads() // num_processes)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": str(threads)}
    return environment | ({"CUDA_VISIBLE_DEVICES": ""} if torch.cuda.device_count() < num_processes else {})


def _until_all_have_ended(command: list[str], environment: dict[str, str]) -> tuple[str, int]:
    """Run torchrun. Returns what it wrote to stderr and its exit code, when it and the processes it started are gone.

    The new processes inherit stdin and stderr. Nothing is written to the one, which ends when this function or this
    process does, and they end with it. The other ends when all of them have ended.
    """
    said: list[str] = []

    def listen() -> None:
        with stderr:
            said.extend(stderr)

    pipes = dict(stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace")
    with subprocess.Popen(command, env=environment, **pipes) as process:
        stderr, process.stderr = process.stderr, None  # the reader's alone, who might still be reading in the end
        reader = Thread(target=listen, daemon=True)
        reader.start()
        try:
            process.wait()
        finally:
            process.kill()
            process.wait()
            process.stdin.close()
            reader.join(60)
    return "".join(said), process.returncode


def _account(folder: Path, num_processes: int, said: str, code: int) -> str:
    """Which processes failed, and how: what each has written itself, and the exit codes in torchrun's own account.

    First comes who was killed, then who failed, the earliest first, and then whom torchrun has ended for that.
    """
    found = re.findall(r"rank +: (\d+) .*\n +exitcode +: (-?\d+) \(pid: (\d+)\)", said)
    ends = {int(rank): (int(exit_code), pid) for rank, exit_code, pid in found}
    lines = []
    for rank in range(num_processes):
        error, (exit_code, pid) = Path(folder, f"{rank}.error"), ends.get(rank, (0, "unknown"))
        if error.exists():
            order, how = 1 + error.stat().st_mtime, error.read_text("utf-8").strip()
        elif exit_code < 0:
            order, how = math.inf if -exit_code == signal.SIGTERM else 0, f"Signal {-exit_code}"
            with suppress(ValueError):
                how += f" ({signal.Signals(-exit_code).name})"
        elif exit_code:
            order, how = 1, f"ended with exit code {exit_code}"
        elif not Path(folder, f"{rank}.pt").exists():
            order, how = 1, "ended without a result"
        else:
            continue
        lines.append((order, f"process {rank} (pid: {pid}): {how}"))
    if code and not ends:
        lines.append((math.inf, f"torchrun itself ended with {code}:\n{said[-2000:]}".strip()))
    return "\n".join(line for _, line in sorted(lines))


def _run(folder: str, name: str, *args: str) -> None:
    """What each new process does. How it ended stands in a file, which is there only when it is whole."""
    rank = os.environ["RANK"]
    # Torchrun has such a file, too, but reads it even while it is being written, and fails. Here it can find none.
    os.mkdir(os.environ.pop("TORCHELASTIC_ERROR_FILE"))

    def fail(how: str) -> None:
        try:
            replace(Path(folder, f"{rank}.error"), how.encode())
        finally:
            os._exit(1)  # whatever threads there still are

    def end_with_the_caller() -> None:
        """A caller that is killed has no chance to clean up, but its end of our stdin closes."""
        os.read(0, 1)
        fail("ended, because torchrun or the caller had")

    Thread(target=end_with_the_caller, daemon=True).start()
    try:
        worker = runpy.run_path(str(Path(folder, "worker.py")))[name]
        join()
        with open(Path(folder, f"{rank}.txt"), "w", 1, "utf-8") as printed, redirect_stdout(printed):
            result = worker(*args)
        replace(Path(folder, f"{rank}.pt"), saved(result))
        distributed.destroy_process_group()
    except BaseException:
        fail(traceback.format_exc())


if __name__ == "__main__":
    _run(*sys.argv[1:])
