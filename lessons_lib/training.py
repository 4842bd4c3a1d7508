"""One training loop for all lessons: seeded, measured step by step, on the GPU where there is one, on several together,
and from where an interrupted run stopped."""

import io
import math
import os
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import TensorDataset
from tqdm.auto import tqdm


@dataclass
class History:
    """What a training run measured.

    loss: the training loss of each step, before that step.
    lr: the learning rate of each step.
    test_loss, test_acc: loss and accuracy (0 to 1) on the test set, after each epoch.
    seconds: how long each epoch's steps took. No part of what makes two runs equal.
    """

    loss: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    test_loss: list[float] = field(default_factory=list)
    test_acc: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list, compare=False)


def train(
    net: nn.Module,
    train_set: TensorDataset,
    test_set: TensorDataset | None = None,
    *,
    lr: float | Callable[[int], float],
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    num_epochs: int = 1,
    batch_size: int = 256,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    history: History | None = None,
    on_epoch: Callable[[History], object] | None = None,
) -> History:
    """Train `net` in place by minibatch SGD on the cross-entropy, and test it after each epoch if there is a test set.

    In a process group (see `torch.distributed.init_process_group`) all processes train together: each takes its share
    of every batch, and all keep the same parameters. The net and history of rank 0 are the run's; elsewhere the moving
    averages of batch normalisation may differ.

    Args:
        net: maps images (m, …) to scores (m, num_classes). Trained on the GPU where PyTorch sees one, then put back.
        train_set, test_set: inputs and integer labels, as `fashion_mnist` returns them.
        lr: the learning rate, or a schedule: a function of the step (0, 1, …) alone that returns it. Positive.
        momentum: the weight of the old velocity, in [0, 1); v ← momentum v + gradient, then w ← w − lr v.
        weight_decay: adds weight_decay · w to the gradient of each parameter w. Not negative.
        num_epochs: passes over the training set. At least 1.
        batch_size: examples a step, of all processes together, from 1 to all. The last, smaller batch of an epoch
            counts too.
        seed: fixes the order of the examples; the net's own start is the caller's to fix.
        checkpoint: a file. If it exists, the run that wrote it goes on; it is replaced after each epoch. Interrupted at
            any point, called again with the same arguments, the run ends as it would have without interruption.
        history: a new `History()` to fill. Whoever holds it has what was measured, however the run ends.
        on_epoch: called with the history after each epoch, once its checkpoint stands, in every process.

    Returns:
        The run's `History`. A run that diverges has losses of inf or nan in it; it does not raise.

    Raises:
        ValueError: a number is out of range, at the latest at the step for which a schedule returns it; a set is empty;
            a batch has fewer examples than there are processes; history is not empty; checkpoint is no whole file of
            ours, or of a run with other settings, another net or more epochs.
        TypeError: one is no number or no int; a set is no `TensorDataset`; checkpoint is no path, history no `History`.

    >>> X, y = torch.randn(64, 2), torch.randint(2, (64,))
    >>> history = train(nn.Linear(2, 2), TensorDataset(X, y), TensorDataset(X, y), lr=0.1, batch_size=16)
    >>> len(history.loss), len(history.test_acc)
    (4, 1)
    """
    for name, value in (("num_epochs", num_epochs), ("batch_size", batch_size)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name}: expected an int, got {value!r}")
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    schedule = lr if callable(lr) else lambda step: lr
    check_rate(schedule(0))
    for name, value, limit in (("momentum", momentum, 1), ("weight_decay", weight_decay, math.inf)):
        check_is_number(name, value)
        if not 0 <= value < limit:
            raise ValueError(f"{name}: expected a number in [0, {limit}), got {value}")
    if not num_parameters(net):
        raise ValueError("net: expected one with parameters to train, got none")
    _check_set("train_set", train_set)
    if test_set is not None:
        _check_set("test_set", test_set)
    if batch_size > len(train_set):
        raise ValueError(f"batch_size: expected at most the {len(train_set)} examples of train_set, got {batch_size}")
    if not isinstance(history, History | None):
        raise TypeError(f"history: expected a History, got {history!r}")
    if history is not None and history != History():
        raise ValueError(f"history: expected an empty one, got one of {len(history.loss)} steps")
    rank, world = place()
    smallest = len(train_set) % batch_size or batch_size
    if smallest < world:
        raise ValueError(f"batch_size: expected {world} or more examples in every batch, got one of {smallest}")
    momentum, weight_decay = float(momentum), float(weight_decay)  # NumPy's floats would spoil a checkpoint
    settings = dict(momentum=momentum, weight_decay=weight_decay, batch_size=batch_size, seed=seed)
    run = _Checkpoint(checkpoint, settings | dict(examples=len(train_set), processes=world))
    home = next(net.parameters()).device
    gpu = torch.cuda.is_available()
    device = torch.device("cuda", distributed.get_node_local_rank(0)) if gpu else home
    net.to(device)
    X, y = (t.to(device) for t in train_set.tensors)
    optimizer = torch.optim.SGD(net.parameters(), momentum=momentum, weight_decay=weight_decay)
    order = torch.Generator().manual_seed(seed)
    history = History() if history is None else history
    num_steps = num_epochs * -(-len(X) // batch_size)
    try:
        run.restore(net, optimizer, order, history, num_steps)
        model = DistributedDataParallel(net) if world > 1 else net
        silent = dict(disable=True) if rank else {}
        with tqdm(total=num_steps, initial=len(history.loss), desc=str(device), leave=False, **silent) as progress:
            while len(history.loss) < num_steps:
                started = time.perf_counter()
                net.train()
                for batch in torch.randperm(len(X), generator=order).to(device).split(batch_size):
                    mine = batch[rank::world]
                    loss = nn.functional.cross_entropy(model(X[mine]), y[mine])
                    if world > 1:  # what is averaged over the processes is then the mean over the batch
                        loss = loss * (len(mine) * world / len(batch))
                    optimizer.zero_grad()
                    loss.backward()
                    rate = schedule(len(history.loss))
                    check_rate(rate)
                    optimizer.param_groups[0]["lr"] = float(rate)
                    optimizer.step()
                    history.loss.append(_mean_over_processes(loss))
                    history.lr.append(optimizer.param_groups[0]["lr"])  # what the step has used
                    progress.update()
                history.seconds.append(time.perf_counter() - started)
                if test_set is not None:
                    test_loss, test_acc = evaluate(net, test_set)
                    history.test_loss.append(test_loss)
                    history.test_acc.append(test_acc)
                run.save(net, optimizer, order, history)
                if on_epoch is not None:
                    on_epoch(history)
    finally:
        net.to(home)
    return history


@torch.no_grad()
def evaluate(net: nn.Module, dataset: TensorDataset, batch_size: int = 1000) -> tuple[float, float]:
    """Mean cross-entropy and accuracy (0 to 1) of `net` on `dataset`, in eval mode (see `eval_mode`).

    >>> evaluate(nn.Linear(2, 2), TensorDataset(torch.zeros(4, 2), torch.zeros(4, dtype=torch.long)))[1] in (0, 1)
    True
    """
    _check_set("dataset", dataset)
    device = next(net.parameters(), dataset.tensors[0]).device
    loss = correct = 0.0
    with eval_mode(net):
        for X, y in zip(*(t.to(device).split(batch_size) for t in dataset.tensors), strict=True):
            scores = net(X)
            loss += nn.functional.cross_entropy(scores, y, reduction="sum").item()
            correct += (scores.argmax(1) == y).sum().item()
    return loss / len(dataset), correct / len(dataset)


@contextmanager
def eval_mode(net: nn.Module) -> Iterator[None]:
    """Inside, `net` predicts. Then each of its modules has its own mode again, however the block ended.

    >>> net = nn.Dropout()
    >>> with eval_mode(net):
    ...     print(net.training)
    False
    >>> net.training
    True
    """
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def num_parameters(net: nn.Module) -> int:
    """How many numbers `net` learns.

    >>> num_parameters(nn.Linear(3, 2))
    8
    """
    return sum(p.numel() for p in net.parameters())


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Inside, give new tensors and parameters this dtype.

    A network converted by `.double()` keeps weights that were drawn in 32 bits, and those differ from processor to
    processor: PyTorch computes them with other instructions. Drawn in 64 bits they agree to some 1e-16.

    Raises:
        TypeError: dtype is none of floating-point numbers.

    >>> with default_dtype(torch.float64):
    ...     net = nn.Linear(2, 1)
    >>> net.weight.dtype, nn.Linear(2, 1).weight.dtype
    (torch.float64, torch.float32)
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def check_is_number(name: str, value: float) -> None:
    """Raise a TypeError that names the argument, unless its value is an int or a float and no bool."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: expected a number, got {value!r}")


def check_rate(lr: float) -> None:
    """Raise an error unless the learning rate is a positive, finite number."""
    check_is_number("lr", lr)
    if not 0 < lr < math.inf:
        raise ValueError(f"lr: expected a positive number, got {lr}")


def place() -> tuple[int, int]:
    """This process's rank, and how many train together: (0, 1) outside of a process group.

    >>> place()
    (0, 1)
    """
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def join() -> None:
    """Join the process group that torchrun has prepared, each process with its own GPU if there are any.

    Raises:
        ValueError: there are GPUs, but fewer than processes.
    """
    gpus, processes = torch.cuda.device_count(), int(os.environ["LOCAL_WORLD_SIZE"])
    if 0 < gpus < processes:
        raise ValueError(f"torchrun: expected at most {gpus} processes, one a GPU, got {processes}")
    if gpus:  # or all of them would send their messages through the first
        torch.cuda.set_device(distributed.get_node_local_rank())
    distributed.init_process_group("nccl" if gpus else "gloo")


class Memory(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make in this context: those alive `now`, and their `peak`.

    A storage counts from its making until its last tensor is gone, once. What an operation uses inside does not count,
    nor what was there before.

    >>> with Memory() as memory:
    ...     X = torch.zeros(1000) + 1
    >>> memory.now, memory.peak
    (4000, 8000)
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        old = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in old:
                storage = tensor.untyped_storage()
                self._count(storage.nbytes())
                weakref.finalize(storage, self._count, -storage.nbytes())
        return result

    def _count(self, num_bytes: int) -> None:
        self.now += num_bytes
        self.peak = max(self.peak, self.now)


class _Checkpoint:
    """The state of a run in a file: all that decides how it goes on. Without a path it does nothing."""

    def __init__(self, path: str | os.PathLike[str] | None, settings: dict[str, float]) -> None:
        if not isinstance(path, str | os.PathLike | None):
            raise TypeError(f"checkpoint: expected a path, got {path!r}")
        self.path, self.settings = None if path is None else Path(path).expanduser(), settings
        if self.path and not self.path.parent.is_dir():
            raise ValueError(f"checkpoint: expected a file in a folder that exists, got {self.path}")

    def restore(
        self, net: nn.Module, optimizer: torch.optim.SGD, order: torch.Generator, history: History, num_steps: int
    ) -> None:
        """Put everything back as the file has it, if there is one. What is refused changes nothing."""
        if self.path is None or not self.path.exists():
            return
        data = io.BytesIO(self.path.read_bytes())
        try:
            state = torch.load(data, map_location="cpu", weights_only=True)
            settings, generators = dict(state["settings"]), state["generators"]
            done, stored = len(state["history"]["loss"]), _shapes(state["net"])
        except Exception as error:  # a damaged file fails in a dozen ways
            raise ValueError(f"checkpoint: {self.path} is no whole checkpoint of ours; it stays as it is") from error
        for name, value in self.settings.items():
            if settings.get(name) != value:
                raise ValueError(f"checkpoint: {self.path} is of a run with {name} {settings.get(name)}, not {value}")
        here = _shapes(net.state_dict())
        if differing := dict(stored.items() ^ here.items()):
            name = min(differing)
            other = f"{name} is {stored.get(name)}, not {here.get(name)}"
            raise ValueError(f"checkpoint: {self.path} is of another net: {other}")
        if done > num_steps:
            raise ValueError(f"num_epochs: the checkpoint has {done} steps, and {num_steps} are asked for")
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        order.set_state(state["order"])
        vars(history).update(state["history"])
        _set_generators(net, generators[place()[0]])

    def save(self, net: nn.Module, optimizer: torch.optim.SGD, order: torch.Generator, history: History) -> None:
        """Replace the file in one move: at any moment it is whole, the old one or the new one."""
        if self.path is None:
            return
        rank, world = place()
        generators = [_generators(net)] * world
        if world > 1:
            distributed.all_gather_object(generators, _generators(net))
        if rank == 0:
            state = dict(net=net.state_dict(), optimizer=optimizer.state_dict(), order=order.get_state())
            state |= dict(history=asdict(history), generators=generators, settings=self.settings)
            part = self.path.with_name(f"{self.path.name}.part")
            torch.save(state, part)
            os.replace(part, self.path)
        if world > 1:
            distributed.barrier()  # now it stands, for every process


def _shapes(state: dict[str, Tensor]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    return {name: (tuple(value.shape), value.dtype) for name, value in state.items() if isinstance(value, Tensor)}


def _generators(net: nn.Module) -> list[Tensor]:
    """PyTorch's global generators, from which dropout and augmentation draw: the CPU's, and the net's GPU's if any."""
    device = next(net.parameters()).device
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _set_generators(net: nn.Module, states: list[Tensor]) -> None:
    device = next(net.parameters()).device
    torch.set_rng_state(states[0])
    if len(states) > 1 and device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)


def _mean_over_processes(value: Tensor) -> float:
    world = place()[1]
    if world > 1:
        value = value.detach().clone()
        distributed.all_reduce(value)
    return value.item() / world


def _check_set(name: str, dataset: TensorDataset) -> None:
    if not isinstance(dataset, TensorDataset):
        raise TypeError(f"{name}: expected a TensorDataset, got {type(dataset).__name__}")
    if len(dataset) == 0:
        raise ValueError(f"{name}: expected at least one example, got none")
