"""SGD takes the steps of PyTorch on the batches that it says. What it refuses is in test_refusals.py."""

import math
from collections import Counter
from functools import partial
from itertools import islice, permutations, product

import numpy as np
import pytest
import scipy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lessons_lib.sgd import batches, noise_covariance, sgd
from tests.draws import sgd_by_torch
from tests.nets import randn

check = settings(deadline=None, max_examples=15)
seeds = st.integers(0, 2**32 - 1)
draws = pytest.mark.parametrize("replacement", [False, True], ids=["without", "with"])
sizes = st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


class Logistic:
    """log(1 + exp(-yᵢ xᵢᵀw)), averaged over a batch, on random examples, and a start; d = 0 stands for a number w."""

    def __init__(self, seed: int, num_examples: int, d: int) -> None:
        shape = (d,) if d else ()
        self.X, self.start = randn(num_examples, *shape, seed=seed), randn(*shape, seed=seed + 2)
        self.y = torch.where(randn(num_examples, seed=seed + 1) > 0, 1.0, -1.0).double()

    def __call__(self, w: Tensor, i: Tensor) -> Tensor:
        return torch.nn.functional.softplus(-self.y[i] * (self.X[i] @ w if w.dim() else self.X[i] * w)).mean()

    def gradients(self, w: Tensor) -> np.ndarray:
        """One row an example, by hand."""
        X, y = self.X.reshape(len(self.X), -1).numpy(), self.y.numpy()
        return (-y * scipy.special.expit(-y * (X @ w.reshape(-1).numpy())))[:, None] * X


def first(count: int, *arguments: int, **options: object) -> list[list[int]]:
    return [batch.tolist() for batch in islice(batches(*arguments, **options), count)]


# Batches


@draws
@check
@given(sizes=sizes, seed=seeds)
def test_a_batch_is_an_index_and_each_pass_without_replacement_has_each_example_once(
    replacement: bool, sizes: tuple[int, int], seed: int
) -> None:
    num_examples, batch_size = sizes
    order = batches(num_examples, batch_size, replacement=replacement, seed=seed)
    for _ in range(3):
        one_pass = list(islice(order, math.ceil(num_examples / batch_size)))
        assert all(batch.dtype == torch.int64 and batch.dim() == 1 for batch in one_pass)
        assert all(len(batch) == batch_size for batch in one_pass[: None if replacement else -1])
        seen = sorted(torch.cat(one_pass).tolist())
        assert set(seen) <= set(range(num_examples)) if replacement else seen == list(range(num_examples))


def test_single_examples_without_replacement_and_seed_0_unless_told_otherwise() -> None:
    assert first(50, 9) == first(50, 9, 1, replacement=False, seed=0)
    f = Logistic(0, 9, 2)
    explicit = dict(batch_size=1, replacement=False, momentum=0.0, weight_decay=0.0, seed=0)
    assert torch.equal(sgd(f, (1, 2), 0.5, 20, 9), sgd(f, (1, 2), 0.5, 20, 9, **explicit))


@draws
def test_the_seed_and_nothing_else_decides(replacement: bool) -> None:
    before = torch.get_rng_state()
    expected = first(30, 100, 3, replacement=replacement, seed=7)
    f = Logistic(0, 100, 2)
    ends = [sgd(f, (0, 0), 0.5, 5, 100, replacement=replacement, seed=seed)[-1] for seed in (7, 7, 8)]
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])
    assert torch.equal(torch.get_rng_state(), before)  # the global generator is left alone
    torch.manual_seed(2)
    one, other = (batches(100, 3, replacement=replacement, seed=7) for _ in range(2))
    for batch in expected:
        assert next(one).tolist() == next(other).tolist() == batch
    assert first(30, 100, 3, replacement=replacement, seed=8) != expected
    assert first(30, 100, 3, replacement=not replacement, seed=7) != expected
    for seed in (-(2**63), 2**64 - 1):
        assert len(first(2, 5, replacement=replacement, seed=seed)) == 2


@draws
@pytest.mark.parametrize("batch_size", [1, 3])
def test_all_orders_are_equally_likely_and_each_pass_has_its_own(replacement: bool, batch_size: int) -> None:
    """By Pearson's test, which rejects outcomes that are equally likely and independent once in a million cases."""
    drawn = [i for batch in first(12_000 // batch_size, 3, batch_size, replacement=replacement) for i in batch]
    orders = list(product(range(3), repeat=3) if replacement else permutations(range(3)))
    possible = [one + other for one, other in product(orders, repeat=2)]
    found = Counter(zip(*[iter(drawn)] * 6, strict=True))  # two passes each
    assert found.keys() <= set(possible)
    assert scipy.stats.chisquare([found[one] for one in possible]).pvalue > 1e-6


# Steps


@draws
@check
@given(
    seed=seeds,
    sizes=sizes,
    d=st.integers(0, 4),
    momentum=st.just(0.0) | st.floats(0, 0.9),
    weight_decay=st.just(0.0) | st.floats(0, 1),
    decay=st.just(0.0) | st.floats(0.01, 1),
    steps=st.integers(0, 15),
)
def test_takes_the_steps_of_torch_s_sgd(
    replacement: bool,
    seed: int,
    sizes: tuple[int, int],
    d: int,
    momentum: float,
    weight_decay: float,
    decay: float,
    steps: int,
) -> None:
    num_examples, batch_size = sizes
    f = Logistic(seed, num_examples, d)
    drawing = dict(batch_size=batch_size, replacement=replacement, seed=seed)

    def schedule(step: int) -> float:
        return 0.2 / (1 + decay * step)

    lr = schedule if decay else 0.2
    x = sgd(f, f.start, lr, steps, num_examples, momentum=momentum, weight_decay=weight_decay, **drawing)
    losses = [partial(f, i=batch) for batch in islice(batches(num_examples, **drawing), steps)]
    # The rate is so small that a rounding error does not grow on its way.
    expected = sgd_by_torch(losses, f.start, schedule, momentum, weight_decay)
    torch.testing.assert_close(x, expected, rtol=1e-12, atol=1e-12)


def test_f_gets_the_point_and_one_batch_a_step() -> None:
    seen = []

    def f(x: Tensor, i: Tensor) -> Tensor:
        assert x.dtype == torch.float64 and x.shape == (2,) and i.dtype == torch.int64
        seen.append((x.tolist(), i.tolist()))
        return x @ x * i.sum()

    x = sgd(f, [1, 2], 0.01, 10, 7, batch_size=3, seed=4)
    assert seen == list(zip(x[:-1].tolist(), first(10, 7, 3, seed=4), strict=True))
    seen.clear()
    noise_covariance(f, [1, 2], 3)
    assert seen == [([1, 2], [0]), ([1, 2], [1]), ([1, 2], [2])]


@check
@given(seed=seeds, n=st.integers(1, 8), d=st.integers(0, 4))
def test_noise_covariance_is_numpy_s(seed: int, n: int, d: int) -> None:
    f = Logistic(seed, n, d)
    expected = np.cov(f.gradients(f.start), rowvar=False, bias=True).reshape((d, d) if d else ())
    C = noise_covariance(f, f.start, n)
    assert C.shape == expected.shape and C.dtype == torch.float64
    # Off the diagonal, what is summed may cancel.
    np.testing.assert_allclose(C, expected, rtol=1e-12, atol=1e-14 * (1 + np.abs(expected).max()))


# Divergence


def test_a_rate_too_large_ends_in_infinity() -> None:
    a = randn(5)
    for options in ({}, dict(replacement=True, batch_size=2), dict(momentum=0.5), dict(weight_decay=1.0)):
        x = sgd(lambda x, i: ((x - a[i]) ** 2).mean() / 2, 1.0, 5.0, 800, 5, **options)
        finite = x.isfinite()
        first_infinite = int(finite.sum())
        assert 0 < first_infinite < 800 and finite[:first_infinite].all() and x[first_infinite:].isinf().all()


def test_an_example_without_a_finite_loss_ends_the_run() -> None:
    a = torch.tensor([1.0, 1.0, -1.0, 1.0])
    x = sgd(lambda x, i: (a[i] * x).log().mean(), 1.0, 0.01, 8, 4, momentum=0.9, seed=3)
    bad = first(8, 4, seed=3).index([2])
    assert x[: bad + 1].isfinite().all() and x[bad + 1 :].isinf().all()


def test_weight_decay_alone_shrinks_even_a_point_whose_square_is_infinite() -> None:
    x = sgd(lambda x, i: 0 * x, 2.0**600, 0.5, 2, 3, weight_decay=1.0)
    assert x.tolist() == [2.0**600, 2.0**599, 2.0**598]
    assert sgd(lambda x, i: 0 * x, 1.0, 1e300, 3, 3, weight_decay=1e300).tolist() == [1] + [-math.inf] * 3
