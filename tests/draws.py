"""Random numbers and functions for the tests of convexity, objectives and gradient descent."""

from collections.abc import Callable

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

F64 = torch.float64
EPS = torch.finfo(F64).eps
Function = Callable[[Tensor], Tensor]

dims = st.integers(1, 8)
generators = st.integers(0, 2**32 - 1).map(lambda seed: Generator().manual_seed(seed))


def cases(*strategies: st.SearchStrategy, examples: int = 20) -> Callable[[Callable], Callable]:
    """A property test, which these strategies give its last arguments."""
    return lambda test: settings(max_examples=examples)(given(*strategies)(test))


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64)


def randn(g: Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=g, dtype=F64)


def rand(g: Generator, *shape: int) -> Tensor:
    return torch.rand(shape, generator=g, dtype=F64)


def randint(g: Generator, low: int, high: int) -> int:
    """From low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=g))


def gradient(f: Function, x: Tensor) -> Tensor:
    return torch.func.grad(f)(x)


def sgd_by_torch(
    losses: list[Function], x0: Tensor, lr: Callable[[int], float], momentum: float = 0.0, weight_decay: float = 0.0
) -> Tensor:
    """The trajectory of PyTorch's own SGD, which goes down one of these functions a step."""
    x = x0.clone().requires_grad_()
    optimizer = torch.optim.SGD([x], lr=1.0, momentum=momentum, weight_decay=weight_decay)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lr)
    trajectory = [x0]
    for f in losses:
        optimizer.zero_grad()
        f(x).backward()
        optimizer.step()
        scheduler.step()
        trajectory.append(x.detach().clone())
    return torch.stack(trajectory)


class Quadratic:
    """½ (x − c)ᵀ A (x − c), whose A has these eigenvalues and random axes, with c as its minimum if all are above 0."""

    def __init__(self, lam: list[float], g: Generator) -> None:
        self.lam, self.L = tensor(*lam), max(lam)
        self.U = torch.linalg.qr(randn(g, len(lam), len(lam))).Q  # one axis a column
        self.A, self.minimum = self.U * self.lam @ self.U.T, randn(g, len(lam))

    def __call__(self, x: Tensor) -> Tensor:
        e = x - self.minimum
        return e @ (self.A @ e) / 2

    def axis(self, lam: float) -> Tensor:
        """The direction along which the curvature is this eigenvalue."""
        return self.U[:, self.lam == lam][:, 0]


def quadratics(smallest: float = 0.1) -> st.SearchStrategy[Quadratic]:
    return st.builds(Quadratic, st.lists(st.floats(smallest, 10), min_size=1, max_size=6), generators)
