"""Processes that start in a tenth of a second: forked from one that has already imported PyTorch and pytest."""

import gc
import multiprocessing
import os
import pickle
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

# A server forks them, which has not used a thread: a process that has, as ours may, does not survive its fork surely.
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["torch.distributed", "torch._dynamo", "lessons_lib.minibatch", "nbval.plugin", "xdist"])

SECONDS = 300  # how long they may take, however busy the machine


def in_process(function: Callable[..., object], *args: object, **environment: str) -> Any:
    """What a function of a test module returns in a new process. An error there is an error here."""
    return _answers([os.environ | environment], function, args)[0]


def in_processes(function: Callable[..., object], *args: object, count: int = 2, joined: bool = True) -> list:
    """What it returns in several processes, by rank. They find what torchrun's would, and join the group."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    group = dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=store.port, WORLD_SIZE=count, LOCAL_WORLD_SIZE=count)
    group |= dict(TORCHELASTIC_USE_AGENT_STORE=True, TORCHELASTIC_RESTART_COUNT=0, CUDA_VISIBLE_DEVICES="")
    environments = [
        os.environ | {name: str(value) for name, value in (group | dict(RANK=rank, LOCAL_RANK=rank)).items()}
        for rank in range(count)
    ]
    return _answers(environments, *(_join_and, (function, *args)) if joined else (function, args))


def _join_and(function: Callable[..., object], *args: object) -> object:
    from lessons_lib.processes import join_process_group

    join_process_group()
    return function(*args)


def _answers(environments: list[dict[str, str]], function: Callable[..., object], args: tuple) -> list:
    call = pickle.dumps((function, args))
    pipes = [context.Pipe(duplex=False) for _ in environments]
    processes = [
        context.Process(target=_run, args=(sender, environment, call))
        for (_, sender), environment in zip(pipes, environments, strict=True)
    ]
    try:
        for process in processes:
            process.start()
        for _, sender in pipes:
            sender.close()  # ours; where a process dies, we hear its end close
        end = time.monotonic() + SECONDS
        answers = [_answer(rank, receiver, end - time.monotonic()) for rank, (receiver, _) in enumerate(pipes)]
        for process in processes:
            process.join(SECONDS)  # it may yet have to store what it covered
        return answers
    finally:
        for process in processes:
            if process.pid is not None:
                process.kill()
                process.join()


def _answer(rank: int, receiver: Connection, seconds: float) -> object:
    if not receiver.poll(max(0.0, seconds)):
        raise TimeoutError(f"process {rank} has not answered")
    try:
        went_well, result = pickle.loads(receiver.recv_bytes())
    except EOFError:
        raise ChildProcessError(f"process {rank} died") from None
    if not went_well:
        raise ChildProcessError(f"process {rank} failed:\n{result}")
    return result


def _run(sender: Connection, environment: dict[str, str], call: bytes) -> None:
    import torch

    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    try:
        function, args = pickle.loads(call)  # now, so that the test module is imported in this environment
        answer = True, function(*args)
    except BaseException:
        answer = False, traceback.format_exc()
    # As bytes: what PyTorch would send otherwise is a handle of memory that ends with this process.
    sender.send_bytes(pickle.dumps(answer))
    sender.close()
    os._exit(0)


def forget(*packages: str) -> None:
    """Let this process import them anew."""
    for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
        del sys.modules[name]


def run_pytest(*arguments: object) -> str:
    """What pytest prints in this process, a new one, and the status with which it ends."""
    import pytest

    gc.freeze()  # what was imported before the fork: pytest collects garbage again and again
    with tempfile.TemporaryFile("w+") as printed:
        for stream in (1, 2):
            os.dup2(printed.fileno(), stream)
        # Plain, as its plugins have been imported already.
        status = pytest.main(["--assert=plain", "--color=no", *map(str, arguments)])
        sys.stdout.flush()
        printed.seek(0)
        return f"{printed.read()}\nstatus {int(status)}"
