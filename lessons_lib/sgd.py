"""Stochastic gradient descent: steps along the gradient of a few examples.

Errors are those of `gradient_descent`.

Sources: H. Robbins and S. Monro, "A Stochastic Approximation Method", 1951; L. Bottou, F. Curtis and J. Nocedal,
"Optimization Methods for Large-Scale Machine Learning", 2016, arXiv:1606.04838, section 3.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lessons_lib.checks import Array, as_bool, as_constant, as_int, as_number, check_function
from lessons_lib.gradient_descent import gradient, walk

Loss = Callable[[Tensor, Tensor], Tensor]


def batches(num_examples: int, batch_size: int = 1, *, replacement: bool = False, seed: int = 0) -> Iterator[Tensor]:
    """Draw examples, batch after batch, without end.

    Args:
        num_examples: n; the examples are 0, 1, …, n - 1. At least 1.
        batch_size: examples a batch, from 1 to n: each batch is an int64 tensor of shape (batch_size,).
        replacement: draw each example from all n, independently. Otherwise go through all n in one random order after
            another; the last batch of a pass is smaller where batch_size does not divide n.
        seed: fixes the sequence; from -2⁶³ to 2⁶⁴ - 1. PyTorch's global generator plays no part.

    >>> order = batches(5, batch_size=2)
    >>> one_pass = [next(order) for _ in range(3)]
    >>> [len(batch) for batch in one_pass], sorted(torch.cat(one_pass).tolist())
    ([2, 2, 1], [0, 1, 2, 3, 4])
    """
    num_examples = as_int("num_examples", num_examples, 1)
    batch_size, replacement = as_int("batch_size", batch_size, 1, num_examples), as_bool("replacement", replacement)
    generator = torch.Generator().manual_seed(as_int("seed", seed, -(2**63), 2**64 - 1))

    def drawn() -> Iterator[Tensor]:
        while True:
            if replacement:
                yield torch.randint(num_examples, (batch_size,), generator=generator)
            else:
                yield from torch.randperm(num_examples, generator=generator).split(batch_size)

    return drawn()


def sgd(
    f: Loss,
    x0: Array,
    lr: float | Callable[[int], float],
    steps: int,
    num_examples: int,
    *,
    batch_size: int = 1,
    replacement: bool = False,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    seed: int = 0,
) -> Tensor:
    """Walk downhill on a batch a step: v ← momentum v + ∇f(x, batch) + weight_decay x, then x ← x − lr v.

    Returns the trajectory as `gradient_descent` does, whether or not it diverges.

    Args:
        f: takes x, a float64 tensor of x0's shape, and a batch, the int64 indices of its examples; returns the mean
            loss of these examples, a scalar tensor.
        x0, lr, steps, momentum: as for `gradient_descent`.
        num_examples, batch_size, replacement, seed: which batches; see `batches`.
        weight_decay: adds weight_decay · x to the gradient. Not negative.

    >>> a = torch.tensor([1.0, 2.0, 6.0])
    >>> x = sgd(lambda x, i: ((x - a[i]) ** 2).mean() / 2, 0.0, lambda step: 1 / (1 + step), steps=3, num_examples=3)
    >>> x[0], x[-1]  # the start, and the mean of what it has seen
    (tensor(0., dtype=torch.float64), tensor(3., dtype=torch.float64))
    """
    x, momentum = as_constant("x0", x0), as_number("momentum", momentum, "[0, 1)")
    weight_decay = as_number("weight_decay", weight_decay, "[0, inf)")
    order = batches(num_examples, batch_size, replacement=replacement, seed=seed)
    v = torch.zeros_like(x)

    def direction(x: Tensor) -> Tensor:
        nonlocal v
        v = momentum * v + gradient(lambda x: f(x, next(order)), x) + weight_decay * x
        return -v

    return walk(f, x, lr, steps, False, direction)


def noise_covariance(f: Loss, x: Array, num_examples: int) -> Tensor:
    """How the gradients of single examples scatter at x: C = mean of (gᵢ − g)(gᵢ − g)ᵀ, where g is the mean of the gᵢ.

    The gradient of a batch of b examples has the covariance C / b if they are drawn with replacement, and
    (n − b) / (n − 1) times that without.

    f, x and num_examples are as f, x0 and num_examples of `sgd`; gᵢ is ∇f(x, batch) for the batch of example i alone.
    C is in float64 and of shape (d, d), or () for a number. It is not finite where a gradient is not.

    Source: without replacement: W. Cochran, "Sampling Techniques", 3rd edition, 1977, chapter 2.

    >>> a = torch.tensor([1.0, 2.0, 6.0])
    >>> noise_covariance(lambda x, i: ((x - a[i]) ** 2).mean() / 2, 0.0, num_examples=3)  # the variance of a
    tensor(4.6667, dtype=torch.float64)
    """
    check_function("f", f)
    x, num_examples = as_constant("x", x), as_int("num_examples", num_examples, at_least=1)
    examples = torch.arange(num_examples).split(1)
    scatter = torch.stack([gradient(lambda x, i=i: f(x, i), x) for i in examples])
    scatter = scatter - scatter.mean(0)
    return torch.tensordot(scatter, scatter, dims=([0], [0])) / num_examples
