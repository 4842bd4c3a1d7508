"""Minibatches shared out to several processes: how to start them, how they agree on a gradient, and on statistics.

Sources: S. Li and others, "PyTorch Distributed: Experiences on Accelerating Data Parallel Training", 2020,
arXiv:2006.15704; batch normalisation over processes: C. Peng and others, "MegDet: A Large Mini-Batch Object Detector",
2017, arXiv:1711.07240, "Cross-GPU Batch Normalization".
"""

import math
import os
import re
import runpy
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from inspect import getsource
from pathlib import Path
from pickle import UnpicklingError
from tempfile import TemporaryDirectory
from textwrap import dedent
from threading import Thread

import torch
from torch import Tensor, distributed, nn

from lessons_lib.batch_norm import BatchNorm, at_least_float32, normalised
from lessons_lib.checkpoints import to_bytes
from lessons_lib.checks import as_int, check_net
from lessons_lib.files import write_whole
from lessons_lib.processes import check_same, join_process_group, rank_and_size


def torchrun(worker: Callable, *args: str, num_processes: int = 2) -> list:
    """Run a function in several new processes that form a process group, by PyTorch's own `torchrun`.

    The group communicates by NCCL if there is a GPU for each process, otherwise by gloo on the CPU. The processes share
    this machine's threads and end with the call, however it ends. Then what they have printed is printed, by rank.

    Args:
        worker: a function with a name. The processes get its source alone: it imports what it needs, and sees no
            variable from outside. It returns tensors, numbers, strings, or lists and dicts of them.
        args: what it is called with, strings only, as on a command line.
        num_processes: how many, at least 1.

    Returns what the function returned in each process, by rank. Raises a RuntimeError that says which process failed,
    or was killed, and how.

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
    # With our library on the path, the threads shared out, and a GPU for each process or none.
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = math.ceil(torch.get_num_threads() / num_processes)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": str(threads)}
    if torch.cuda.device_count() < num_processes:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    with TemporaryDirectory() as folder:
        Path(folder, "worker.py").write_text(source, "utf-8")
        command += [f"--nproc-per-node={num_processes}", f"--log-dir={folder}", "-m", "lessons_lib.minibatch"]
        stderr, code = _until_all_have_ended([*command, folder, name, *args], environment)
        printed, results = ([Path(folder, f"{rank}.{kind}") for rank in range(num_processes)] for kind in ("txt", "pt"))
        print("".join(path.read_text("utf-8") for path in printed if path.exists()), end="")
        if code or not all(path.exists() for path in results):
            account = _account(Path(folder), stderr) or f"torchrun ended with {code}:\n{stderr[-2000:]}"
            raise RuntimeError(f"{name} failed in one of {num_processes} processes:\n{account}")
        try:
            return [torch.load(path, map_location="cpu", weights_only=True) for path in results]
        except UnpicklingError as error:
            message = f"worker: expected {name} to return tensors, numbers, strings, or lists and dicts of them"
            raise TypeError(f"{message}: {error}") from error


@torch.no_grad()
def average_gradients(net: nn.Module) -> None:
    """Replace each gradient of `net` by its mean over all processes, in place: the step between backward and update.

    Call it in all processes, on the same net; outside of a process group nothing changes. Where the gradients of the
    processes do not correspond it raises a `ValueError` in all of them, and changes none. Source: Li and others 2020,
    section 3.2; DistributedDataParallel does the same while the backward pass still runs.

    >>> average_gradients(nn.Linear(1, 1))
    """
    check_net(net)
    size = rank_and_size()[1]
    if size == 1:
        return
    gradients = [(name, parameter.grad) for name, parameter in net.named_parameters() if parameter.grad is not None]
    check_same("net", "gradients", [f"{name} {tuple(g.shape)}, {g.dtype}, {g.layout}" for name, g in gradients])
    for _, gradient in gradients:
        mean = gradient if gradient.is_sparse else gradient.contiguous()  # strides may differ from process to process
        distributed.all_reduce(mean)
        gradient.copy_(mean / size)


class SyncBatchNorm(BatchNorm):
    """Batch normalisation whose batch is that of all processes together. Arguments, state and errors as `BatchNorm`.

    In training every process must call it, each with its share of the batch. Y, the moving averages and, once averaged
    over the processes, the gradients are those of one process with the whole batch. Where shares differ in size, each
    mean loss must be weighted by (size of the share) · (processes) / (size of the batch), as `train` does. Without a
    process group, and in eval mode, this is `BatchNorm`. PyTorch's `nn.SyncBatchNorm` does the same, on GPUs only.

    Source: Peng and others 2017, "Cross-GPU Batch Normalization"; here with the two-pass variance of `batch_norm`.
    """

    def forward(self, X: Tensor) -> Tensor:
        if not self.training or rank_and_size()[1] == 1 or not isinstance(X, Tensor) or X.dtype != self.weight.dtype:
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


def _until_all_have_ended(command: list[str], environment: dict[str, str]) -> tuple[str, int]:
    """Run torchrun. Returns what it wrote to stderr and its exit code, when it and the processes it started are gone.

    They inherit stdin, which ends when this function or this process does, and they end with it. They inherit stderr,
    too: it ends when all of them have ended. Who else has inherited it is waited for a minute at most.
    """
    pipe, lines = subprocess.PIPE, []

    def read() -> None:
        with stderr:
            lines.extend(stderr)

    with subprocess.Popen(command, env=environment, stdin=pipe, stderr=pipe, text=True, errors="replace") as process:
        stderr, process.stderr = process.stderr, None  # the reader's alone: to close it, we would have to wait for him
        reader = Thread(target=read, daemon=True)
        reader.start()
        try:
            process.wait()
        finally:
            process.kill()
            process.stdin.close()
            reader.join(60)
    return "".join(lines), process.returncode


def _account(folder: Path, stderr: str) -> str:
    """Who failed: the killed, as torchrun says (but for those it ended itself), then the others, the earliest first."""
    row = r"rank +: (\d+) .*\n +exitcode +: (-?\d+) \(pid: (\d+)\).*\n.*\n +traceback : (Signal .*\))?"
    errors = sorted(folder.glob("*.error"), key=lambda path: path.stat().st_mtime)
    lines = [
        f"process {rank} (pid: {pid}): {killed or f'exit code {code}'}"
        for rank, code, pid, killed in re.findall(row, stderr)
        if code != "-15" and not Path(folder, f"{rank}.error").exists()
    ]
    return "\n".join(lines + [path.read_text("utf-8").strip() for path in errors])


def _run(folder: str, name: str, *args: str) -> None:
    """What each new process does. How it ended stands in a file, which is there only when it is whole."""
    rank = os.environ["RANK"]
    os.environ.pop("TORCHELASTIC_ERROR_FILE")  # which torchrun reads even while it is being written, and fails

    def fail(how: str) -> None:
        try:
            write_whole(Path(folder, f"{rank}.error"), f"process {rank} (pid: {os.getpid()}): {how}")
        finally:
            os._exit(1)  # whatever threads there still are

    def end_with_the_caller() -> None:
        """A caller that is killed has no chance to clean up, but its end of our stdin closes."""
        os.read(0, 1)
        fail("ended, because torchrun or the caller had")

    Thread(target=end_with_the_caller, daemon=True).start()
    try:
        worker = runpy.run_path(str(Path(folder, "worker.py")))[name]
        join_process_group()
        with open(Path(folder, f"{rank}.txt"), "w", 1, "utf-8") as printed, redirect_stdout(printed):
            result = worker(*args)
        write_whole(Path(folder, f"{rank}.pt"), to_bytes(result))
        distributed.destroy_process_group()
    except BaseException:
        fail(traceback.format_exc())


if __name__ == "__main__":
    _run(*sys.argv[1:])
