"""Small nets, data sets and runs, for the tests of training and of checkpoints."""

import torch
from torch import nn
from torch.utils.data import TensorDataset

from lessons_lib.batch_norm import BatchNorm
from lessons_lib.training import History, train


def examples(count: int, seed: int = 0) -> TensorDataset:
    X = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(X, (X[:, 0] > 0).long() + (X[:, 1] > 0).long())


TRAIN, TEST = examples(10), examples(7, seed=1)


def start(net: nn.Module) -> nn.Module:
    """The same start each time, whatever ran before."""
    generator = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        nn.init.normal_(parameter, generator=generator)
    return net


def linear() -> nn.Module:
    return start(nn.Linear(4, 3))


def with_batch_norm() -> nn.Module:
    return start(nn.Sequential(nn.Linear(4, 5), BatchNorm(5, num_dims=2), nn.Sigmoid(), nn.Linear(5, 3)))


def run(net: nn.Module, **settings: object) -> History:
    return train(net, TRAIN, TEST, **dict(lr=0.1, num_epochs=2, batch_size=4) | settings)


def cooling(step: int) -> float:
    return 0.5 / (1 + step)


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)
