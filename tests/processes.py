"""Several processes that form a group, started in a tenth of a second: from one that has already imported PyTorch."""

import multiprocessing
import os
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection

# A server forks them, which has not used a thread: a process that has, as ours may, does not survive its fork surely.
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["torch.distributed", "torch._dynamo", "lessons_lib.minibatch", "pytest"])

SECONDS = 100  # how long they may take, however busy the machine


def in_processes(function: Callable[..., object], *args: object, count: int = 2) -> list:
    """What a function of a test module returns in each process, by rank. An error in one of them is an error here."""
    with tempfile.TemporaryDirectory() as folder:
        pipes = [context.Pipe(duplex=False) for _ in range(count)]
        processes = [
            context.Process(target=_run, args=(sender, f"file://{folder}/store", rank, count, function, args))
            for rank, (_, sender) in enumerate(pipes)
        ]
        try:
            for process in processes:
                process.start()
            for _, sender in pipes:
                sender.close()  # ours; where a process dies, we hear its end close
            end = time.monotonic() + SECONDS
            return [_result(rank, receiver, end - time.monotonic()) for rank, (receiver, _) in enumerate(pipes)]
        finally:
            for process in processes:
                if process.pid is not None:
                    process.kill()
                    process.join()


def _result(rank: int, receiver: Connection, seconds: float) -> object:
    if not receiver.poll(max(0.0, seconds)):
        raise TimeoutError(f"process {rank} has not answered")
    try:
        went_well, result = pickle.loads(receiver.recv_bytes())
    except EOFError:
        raise ChildProcessError(f"process {rank} died") from None
    if not went_well:
        raise ChildProcessError(f"process {rank} failed:\n{result}")
    return result


def _run(sender: Connection, init_method: str, rank: int, count: int, function: Callable, args: tuple) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch
    from torch import distributed

    torch.set_num_threads(1)
    timeout = timedelta(seconds=SECONDS)
    try:
        distributed.init_process_group("gloo", init_method=init_method, rank=rank, world_size=count, timeout=timeout)
        answer = True, function(*args)
    except BaseException:
        answer = False, traceback.format_exc()
    # As bytes: what PyTorch would send otherwise is a handle of memory that ends with this process.
    sender.send_bytes(pickle.dumps(answer))
    sender.close()
    os._exit(0)
