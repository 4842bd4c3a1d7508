"""One training loop for all lessons: seeded, measured step by step, on the GPU where there is one."""

import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
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
    """

    loss: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    test_loss: list[float] = field(default_factory=list)
    test_acc: list[float] = field(default_factory=list)


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
) -> History:
    """Train `net` in place by minibatch SGD on the cross-entropy, and test it after each epoch if there is a test set.

    Args:
        net: maps images (m, …) to scores (m, num_classes). Trained on the GPU where PyTorch sees one, then put back.
        train_set, test_set: inputs and integer labels, as `fashion_mnist` returns them.
        lr: the learning rate, or a schedule: a function of the step (0, 1, …) alone that returns it. Positive.
        momentum: the weight of the old velocity, in [0, 1); v ← momentum v + gradient, then w ← w − lr v.
        weight_decay: adds weight_decay · w to the gradient of each parameter w. Not negative.
        num_epochs: passes over the training set. At least 1.
        batch_size: examples a step. At least 1. The last, smaller batch of an epoch counts too.
        seed: fixes the order of the examples; the net's own start is the caller's to fix.

    Returns:
        The run's `History`. A run that diverges has losses of inf or nan in it; it does not raise.

    Raises:
        ValueError: a number is out of range, at the latest at the step for which a schedule returns it; a set is empty.
        TypeError: one is no number or no int; a set is no `TensorDataset`.

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
    _check_set("train_set", train_set)
    if test_set is not None:
        _check_set("test_set", test_set)
    home = next(net.parameters()).device
    device = torch.device("cuda") if torch.cuda.is_available() else home
    net.to(device)
    X, y = (t.to(device) for t in train_set.tensors)
    optimizer = torch.optim.SGD(net.parameters(), momentum=momentum, weight_decay=weight_decay)
    order = torch.Generator().manual_seed(seed)
    history = History()
    num_steps = num_epochs * -(-len(X) // batch_size)
    try:
        with tqdm(total=num_steps, leave=False) as progress:
            for _ in range(num_epochs):
                net.train()
                for batch in torch.randperm(len(X), generator=order).to(device).split(batch_size):
                    loss = nn.functional.cross_entropy(net(X[batch]), y[batch])
                    optimizer.zero_grad()
                    loss.backward()
                    rate = schedule(len(history.loss))
                    check_rate(rate)
                    optimizer.param_groups[0]["lr"] = rate
                    optimizer.step()
                    history.loss.append(loss.item())
                    history.lr.append(rate)
                    progress.update()
                if test_set is not None:
                    test_loss, test_acc = evaluate(net, test_set)
                    history.test_loss.append(test_loss)
                    history.test_acc.append(test_acc)
    finally:
        net.to(home)
    return history


@torch.no_grad()
def evaluate(net: nn.Module, dataset: TensorDataset, batch_size: int = 1000) -> tuple[float, float]:
    """Mean cross-entropy and accuracy (0 to 1) of `net` on `dataset`, in eval mode; the net's mode is put back.

    >>> evaluate(nn.Linear(2, 2), TensorDataset(torch.zeros(4, 2), torch.zeros(4, dtype=torch.long)))[1] in (0, 1)
    True
    """
    _check_set("dataset", dataset)
    was_training = net.training
    net.eval()
    device = next(net.parameters()).device
    loss = correct = 0.0
    for X, y in zip(*(t.to(device).split(batch_size) for t in dataset.tensors), strict=True):
        scores = net(X)
        loss += nn.functional.cross_entropy(scores, y, reduction="sum").item()
        correct += (scores.argmax(1) == y).sum().item()
    net.train(was_training)
    return loss / len(dataset), correct / len(dataset)


def num_parameters(net: nn.Module) -> int:
    """How many numbers `net` learns.

    >>> num_parameters(nn.Linear(3, 2))
    8
    """
    return sum(p.numel() for p in net.parameters())


def check_is_number(name: str, value: float) -> None:
    """Raise a TypeError that names the argument, unless its value is an int or a float and no bool."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: expected a number, got {value!r}")


def check_rate(lr: float) -> None:
    """Raise an error unless the learning rate is a positive, finite number."""
    check_is_number("lr", lr)
    if not 0 < lr < math.inf:
        raise ValueError(f"lr: expected a positive number, got {lr}")


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
                old.add(storage._cdata)
                self._count(storage.nbytes())
                weakref.finalize(storage, self._count, -storage.nbytes())
        return result

    def _count(self, num_bytes: int) -> None:
        self.now += num_bytes
        self.peak = max(self.peak, self.now)


def _check_set(name: str, dataset: TensorDataset) -> None:
    if not isinstance(dataset, TensorDataset):
        raise TypeError(f"{name}: expected a TensorDataset, got {type(dataset).__name__}")
    if len(dataset) == 0:
        raise ValueError(f"{name}: expected at least one example, got none")
