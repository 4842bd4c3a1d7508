"""One training loop for all lessons: seeded, measured step by step, on the GPU where there is one."""

from dataclasses import dataclass, field

import torch
from torch import nn
from torch.utils.data import TensorDataset
from tqdm.auto import tqdm


@dataclass
class History:
    """What a training run measured.

    loss: the training loss of each step, before that step.
    test_loss, test_acc: loss and accuracy (0 to 1) on the test set, after each epoch.
    """

    loss: list[float] = field(default_factory=list)
    test_loss: list[float] = field(default_factory=list)
    test_acc: list[float] = field(default_factory=list)


def train(
    net: nn.Module,
    train_set: TensorDataset,
    test_set: TensorDataset | None = None,
    *,
    lr: float,
    num_epochs: int = 1,
    batch_size: int = 256,
    seed: int = 0,
) -> History:
    """Train `net` in place by minibatch SGD on the cross-entropy, and test it after each epoch if there is a test set.

    Args:
        net: maps images (m, …) to scores (m, num_classes). Trained on the GPU where PyTorch sees one, then put back.
        train_set, test_set: inputs and integer labels, as `fashion_mnist` returns them.
        lr: the learning rate. Positive.
        num_epochs: passes over the training set. At least 1.
        batch_size: examples a step. At least 1. The last, smaller batch of an epoch counts too.
        seed: fixes the order of the examples; the net's own start is the caller's to fix.

    Returns:
        The run's `History`. A run that diverges has losses of inf or nan in it; it does not raise.

    Raises:
        ValueError: lr, num_epochs or batch_size is out of range; a set is empty.
        TypeError: one of them is no number or no int; a set is no `TensorDataset`.

    >>> X, y = torch.randn(64, 2), torch.randint(2, (64,))
    >>> history = train(nn.Linear(2, 2), TensorDataset(X, y), TensorDataset(X, y), lr=0.1, batch_size=16)
    >>> len(history.loss), len(history.test_acc)
    (4, 1)
    """
    for name, value in (("num_epochs", num_epochs), ("batch_size", batch_size)):
        if not isinstance(value, int):
            raise TypeError(f"{name}: expected an int, got {value!r}")
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    if not isinstance(lr, int | float):
        raise TypeError(f"lr: expected a number, got {lr!r}")
    if not lr > 0:
        raise ValueError(f"lr: expected a positive number, got {lr}")
    _check_set("train_set", train_set)
    if test_set is not None:
        _check_set("test_set", test_set)
    home = next(net.parameters()).device
    device = torch.device("cuda") if torch.cuda.is_available() else home
    net.to(device)
    X, y = (t.to(device) for t in train_set.tensors)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
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
                    optimizer.step()
                    history.loss.append(loss.item())
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


def _check_set(name: str, dataset: TensorDataset) -> None:
    if not isinstance(dataset, TensorDataset):
        raise TypeError(f"{name}: expected a TensorDataset, got {type(dataset).__name__}")
    if len(dataset) == 0:
        raise ValueError(f"{name}: expected at least one example, got none")
