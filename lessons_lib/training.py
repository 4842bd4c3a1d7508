"""One training loop for all lessons. Where an argument is of the wrong kind, each function raises a TypeError."""

import math
import os
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, distributed, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import TensorDataset
from tqdm.auto import tqdm

from lessons_lib.checkpoints import Checkpoint
from lessons_lib.checks import as_int, as_number, as_schedule, check_function, check_net, refuse_graph
from lessons_lib.processes import mean_over_processes, rank_and_size


@dataclass
class History:
    """What a training run measured. Histories that differ in seconds alone are equal."""

    loss: list[float] = field(default_factory=list)  # the training loss of each step, before that step
    lr: list[float] = field(default_factory=list)  # the learning rate of each step
    test_loss: list[float] = field(default_factory=list)  # on the test set, after each epoch
    test_acc: list[float] = field(default_factory=list)  # from 0 to 1, after each epoch
    seconds: list[float] = field(default_factory=list, compare=False)  # of each epoch's steps


@torch.inference_mode(False)  # gradients are recorded, wherever it is called
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

    In a process group each process takes its share of every batch, and all start from, and keep, rank 0's parameters;
    moving averages may differ from rank 0's.

    Args:
        net: maps images (m, …) to scores (m, num_classes). Trained on the GPU where PyTorch sees one, then put back. If
            it is in eval mode, all of it is put in train mode; otherwise each module keeps its mode.
        train_set, test_set: inputs in the net's dtype and integer labels (m,) from 0, as `fashion_mnist` returns them.
        lr: the learning rate, positive, or a schedule: a function of the step (0, 1, …) alone that returns it.
        momentum, weight_decay: v ← momentum v + gradient + weight_decay w, then w ← w − lr v, for each parameter w;
            momentum is in [0, 1), weight_decay not negative.
        batch_size: examples a step, of all processes together. The last, smaller batch of an epoch counts too.
        seed: fixes the order of the examples; the net's own start is the caller's to fix.
        checkpoint: a file, replaced after each epoch. If it exists, the run that wrote it goes on: called again with
            the same arguments, or more epochs, an interrupted run ends as it would have without interruption.
        history: a new `History()` to fill: the caller has what was measured, however the run ends.
        on_epoch: called with the history after each epoch, once its checkpoint is written, in every process.

    Returns the run's `History`. A run that diverges has losses of inf or nan in it; it does not raise. A
    ValueError is raised if a number is out of range, at the latest at the step for which a schedule returns it; if
    labels do not fit the net's scores; if a batch has fewer examples than there are processes, or these have other
    arguments; and if the checkpoint is damaged, of another run or of more epochs: it and the net are left unchanged.

    >>> X, y = torch.randn(64, 2), torch.randint(2, (64,))
    >>> history = train(nn.Linear(2, 2), TensorDataset(X, y), TensorDataset(X, y), lr=0.1, batch_size=16)
    >>> len(history.loss), len(history.test_acc)
    (4, 1)
    """
    schedule = as_schedule(lr)
    momentum = float(as_number("momentum", momentum, "[0, 1)"))
    weight_decay = float(as_number("weight_decay", weight_decay, "[0, inf)"))
    num_epochs, seed = as_int("num_epochs", num_epochs, 1), as_int("seed", seed, 0, 2**63 - 1)
    history = History() if history is None else history
    _check_run(net, history, on_epoch)
    sets = dict(train_set=train_set) if test_set is None else dict(train_set=train_set, test_set=test_set)
    classes = {name: _check_set(name, dataset, net) for name, dataset in sets.items()}
    batch_size = as_int("batch_size", batch_size, 1, len(train_set))
    rank, size = rank_and_size()
    if (smallest := len(train_set) % batch_size or batch_size) < size:
        raise ValueError(f"batch_size: expected {size} or more examples in every batch, got one of {smallest}")
    num_steps = num_epochs * math.ceil(len(train_set) / batch_size)
    optimizer = torch.optim.SGD(net.parameters(), momentum=momentum, weight_decay=weight_decay)
    order = torch.Generator().manual_seed(seed)
    settings = dict(momentum=momentum, weight_decay=weight_decay, batch_size=batch_size, seed=seed, processes=size)
    run = Checkpoint(checkpoint, settings | sets, net, optimizer, order, history)
    silent = dict(disable=True) if rank else {}  # otherwise as TQDM_DISABLE has it
    with _on_the_gpu(net) as device:
        X, y = train_set.tensors[0].to(device), train_set.tensors[1].to(device, torch.int64)
        run.restore(schedule, num_steps)
        model = DistributedDataParallel(net) if size > 1 else net
        with tqdm(total=num_steps, initial=len(history.loss), desc=str(device), leave=False, **silent) as progress:
            while len(history.loss) < num_steps:
                started = time.perf_counter()
                if not net.training:
                    net.train()
                for batch in torch.randperm(len(X), generator=order).to(device).split(batch_size):
                    share = batch[rank::size]
                    scores = model(X[share])
                    _check_scores(scores, **classes)
                    # Shares may be uneven: weighted so, the mean over the processes is the mean over the batch.
                    loss = cross_entropy(scores, y[share]) * (len(share) * size / len(batch))
                    optimizer.zero_grad()
                    loss.backward()
                    rate = optimizer.param_groups[0]["lr"] = float(schedule(len(history.loss)))
                    optimizer.step()
                    history.loss.append(mean_over_processes(loss))
                    history.lr.append(rate)
                    progress.update()
                history.seconds.append(time.perf_counter() - started)
                if test_set is not None:
                    test_loss, test_acc = evaluate(net, test_set)
                    history.test_loss.append(test_loss)
                    history.test_acc.append(test_acc)
                run.save()
                if on_epoch is not None:
                    on_epoch(history)
    return history


@torch.no_grad()
def evaluate(net: nn.Module, dataset: TensorDataset) -> tuple[float, float]:
    """Mean cross-entropy and accuracy (0 to 1) of `net` on `dataset`, in eval mode. Raises the errors of `train`.

    >>> evaluate(nn.Linear(2, 2), TensorDataset(torch.zeros(4, 2), torch.zeros(4, dtype=torch.long)))[1] in (0, 1)
    True
    """
    classes = _check_set("dataset", dataset, net)
    device = next(net.parameters(), dataset.tensors[0]).device
    loss = correct = 0.0
    with eval_mode(net):
        for X, y in zip(*(t.to(device).split(1000) for t in dataset.tensors), strict=True):
            scores = net(X)
            _check_scores(scores, dataset=classes)
            loss += cross_entropy(scores, y.long(), reduction="sum").item()
            correct += (scores.argmax(1) == y).sum().item()
    return loss / len(dataset), correct / len(dataset)


@contextmanager
def eval_mode(net: nn.Module) -> Iterator[None]:
    """Inside, `net` predicts. Then each of its modules has its own mode again, however the block ended.

    >>> with eval_mode(nn.Dropout()) as net:
    ...     print(net.training)
    False
    """
    check_net(net)
    modes = {module: module.training for module in net.modules()}
    try:
        yield net.eval()
    finally:
        for module, mode in modes.items():
            module.training = mode


def num_parameters(net: nn.Module) -> int:
    """How many numbers `net` learns: those of its parameters, without the frozen ones (`requires_grad` is False).

    >>> num_parameters(nn.Linear(3, 2))
    8
    """
    check_net(net)
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Inside, new tensors and parameters have this floating-point dtype.

    Weights drawn in 64 bits agree on all processors to some 1e-16; those drawn in 32 bits and then converted do not.

    >>> with default_dtype(torch.float64):
    ...     nn.Linear(2, 1).weight.dtype
    torch.float64
    """
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype: expected a floating-point dtype, got {dtype!r}")
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class Memory(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make inside: those alive `now`, and the `peak`.

    A storage counts once, until its last tensor is gone. What an operation uses by itself does not count.

    >>> with Memory() as memory:
    ...     X = torch.zeros(1000) + 1
    >>> memory.now, memory.peak
    (4000, 8000)
    """

    now = peak = 0

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


def _check_run(net: nn.Module, history: History, on_epoch: Callable | None) -> None:
    if not num_parameters(net):
        raise ValueError("net: expected parameters to train, got none")
    if any(parameter.is_inference() for parameter in net.parameters()):
        raise ValueError("net: expected parameters made outside of torch.inference_mode")
    if not isinstance(history, History):
        raise TypeError(f"history: expected a History, got {history!r}")
    if history != History():
        raise ValueError(f"history: expected an empty one, got one of {len(history.loss)} steps")
    if on_epoch is not None:
        check_function("on_epoch", on_epoch)


def _check_set(name: str, dataset: TensorDataset, net: nn.Module) -> int:
    """Returns how many classes the labels need."""
    check_net(net)
    if not isinstance(dataset, TensorDataset):
        raise TypeError(f"{name}: expected a TensorDataset, got {type(dataset).__name__}")
    if len(dataset.tensors) != 2 or len(dataset) == 0:
        raise ValueError(f"{name}: expected images and labels, got shapes {[tuple(t.shape) for t in dataset.tensors]}")
    X, y = dataset.tensors
    refuse_graph(f"{name}.tensors[0]", X)
    dtypes = {parameter.dtype for parameter in net.parameters()}
    if dtypes and X.dtype not in dtypes:
        expected = ", ".join(sorted(map(str, dtypes)))
        raise TypeError(f"{name}: expected images in the net's dtype, {expected}, got {X.dtype}")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise TypeError(f"{name}: expected integers as labels, got {y.dtype}")
    if y.dim() != 1:
        raise ValueError(f"{name}: expected a label an image, shape ({len(X)},), got {tuple(y.shape)}")
    if y.min() < 0:
        raise ValueError(f"{name}: expected labels from 0, got {y.min()}")
    return int(y.max()) + 1


def _check_scores(scores: Tensor, **classes: int) -> None:
    if scores.dim() != 2:
        raise ValueError(f"net: expected scores of shape (m, num_classes), got {tuple(scores.shape)}")
    for name, count in classes.items():
        if count > scores.shape[1]:
            raise ValueError(f"{name}: expected labels below {scores.shape[1]}, the net's scores, got {count - 1}")


@contextmanager
def _on_the_gpu(net: nn.Module) -> Iterator[torch.device]:
    """Inside, `net` is on this process's GPU where PyTorch sees one. Then it is where it was."""
    home = next(net.parameters()).device
    device = torch.device("cuda", distributed.get_node_local_rank(0)) if torch.cuda.is_available() else home
    try:
        net.to(device)
        yield device
    finally:
        net.to(home)
