"""SGD takes the steps of PyTorch on the batches that it says, its noise obeys the laws, and it refuses the rest."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations, islice, permutations, product

import numpy as np
import pytest
import scipy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lessons_lib.sgd import batches, noise_covariance, sgd

settings.register_profile("sgd", deadline=None, max_examples=15)
check = settings(settings.get_profile("sgd"))

RARE = 1e-6  # how often a test of a random draw may fail that should not

seeds = st.integers(0, 2**32 - 1)
draws = pytest.mark.parametrize("replacement", [False, True], ids=["without", "with"])


@st.composite
def batch_sizes(draw: st.DrawFn, smallest: int = 1) -> tuple[int, int]:
    num_examples = draw(st.integers(smallest, 12))
    return num_examples, draw(st.integers(1, num_examples))


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Logistic:
    """log(1 + exp(-yᵢ xᵢᵀw)), averaged over a batch, on random examples; d = 0 stands for a number w."""

    def __init__(self, seed: int, num_examples: int, d: int) -> None:
        self.X = randn(seed, num_examples, d) if d else randn(seed, num_examples)
        self.y = torch.where(randn(seed + 1, num_examples) > 0, 1.0, -1.0).double()
        self.all = torch.arange(num_examples)

    def __call__(self, w: Tensor, i: Tensor) -> Tensor:
        return torch.nn.functional.softplus(-self.y[i] * (self.X[i] @ w if w.dim() else self.X[i] * w)).mean()

    def gradients(self, w: Tensor) -> np.ndarray:
        """One row an example, by hand."""
        X, y = self.X.reshape(len(self.X), -1).numpy(), self.y.numpy()
        return (-y * scipy.special.expit(-y * (X @ w.reshape(-1).numpy())))[:, None] * X


def start(seed: int, d: int) -> Tensor:
    return randn(seed + 2, d) if d else randn(seed + 2)


def gradient(f: Callable[[Tensor, Tensor], Tensor], x: Tensor, batch: Sequence[int] | Tensor) -> Tensor:
    return torch.func.grad(f)(x, torch.as_tensor(batch))


# Batches


@check
@given(sizes=batch_sizes(), seed=seeds)
def test_without_replacement_each_pass_has_each_example_once(sizes: tuple[int, int], seed: int) -> None:
    num_examples, batch_size = sizes
    order = batches(num_examples, batch_size, seed=seed)
    for _ in range(3):
        one_pass = list(islice(order, math.ceil(num_examples / batch_size)))
        assert all(len(batch) == batch_size for batch in one_pass[:-1])
        assert sorted(torch.cat(one_pass).tolist()) == list(range(num_examples))


@draws
@check
@given(sizes=batch_sizes(), seed=seeds)
def test_a_batch_is_an_index_of_examples(replacement: bool, sizes: tuple[int, int], seed: int) -> None:
    num_examples, batch_size = sizes
    for batch in islice(batches(num_examples, batch_size, replacement=replacement, seed=seed), 20):
        assert batch.dtype == torch.int64 and batch.dim() == 1
        assert set(batch.tolist()) <= set(range(num_examples))
        assert len(batch) == batch_size if replacement else 1 <= len(batch) <= batch_size


def first(count: int, *arguments: int, **options: object) -> list[list[int]]:
    return [batch.tolist() for batch in islice(batches(*arguments, **options), count)]


def test_single_examples_without_replacement_and_seed_0_unless_told_otherwise() -> None:
    assert first(50, 9) == first(50, 9, 1, replacement=False, seed=0)
    f = Logistic(0, 9, 2)
    explicit = dict(batch_size=1, replacement=False, momentum=0.0, weight_decay=0.0, seed=0)
    assert torch.equal(sgd(f, (1, 2), 0.5, 20, 9), sgd(f, (1, 2), 0.5, 20, 9, **explicit))


@draws
def test_the_seed_and_nothing_else_decides(replacement: bool) -> None:
    torch.manual_seed(1)
    expected = first(30, 100, 3, replacement=replacement, seed=7)
    torch.manual_seed(2)
    assert first(30, 100, 3, replacement=replacement, seed=7) == expected
    one, other = (batches(100, 3, replacement=replacement, seed=7) for _ in range(2))
    assert all(torch.equal(next(one), next(other)) for _ in range(30))
    assert first(30, 100, 3, replacement=replacement, seed=8) != expected
    assert first(30, 100, 3, replacement=not replacement, seed=7) != expected
    f = Logistic(0, 100, 2)
    ends = [sgd(f, (0, 0), 0.5, 5, 100, replacement=replacement, seed=seed)[-1] for seed in (7, 7, 8)]
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])


@draws
def test_leaves_the_global_generator_alone(replacement: bool) -> None:
    before = torch.get_rng_state()
    first(30, 10, 3, replacement=replacement)
    sgd(Logistic(0, 10, 2), (0, 0), 0.5, 5, 10, replacement=replacement)
    assert torch.equal(torch.get_rng_state(), before)


def evenly_spread(outcomes: list[tuple[int, ...]], possible: list[tuple[int, ...]]) -> bool:
    """Pearson's test, which rejects outcomes that are equally likely and independent in RARE cases only."""
    found = Counter(outcomes)
    counts = [found[one] for one in possible]
    assert sum(counts) == len(outcomes)
    return scipy.stats.chisquare(counts).pvalue > RARE


def test_with_replacement_all_pairs_are_equally_likely() -> None:
    pairs = list(product(range(4), repeat=2))
    batch = [tuple(batch) for batch in first(4000, 4, 2, replacement=True)]
    assert evenly_spread(batch, pairs)
    successive = [(a, b) for (a,), (b,) in zip(*[iter(first(8000, 4, replacement=True))] * 2, strict=True)]
    assert evenly_spread(successive, pairs)


def test_without_replacement_all_orders_are_equally_likely_and_each_pass_has_its_own() -> None:
    flat = [i for (i,) in first(12_000, 3)]
    passes = [tuple(flat[k : k + 3]) for k in range(0, 12_000, 3)]
    orders = list(permutations(range(3)))
    assert evenly_spread(passes, orders)
    successive = [a + b for a, b in zip(passes[::2], passes[1::2], strict=True)]
    assert evenly_spread(successive, [a + b for a, b in product(orders, repeat=2)])


def test_the_first_batches_of_seeds_are_equally_likely_too() -> None:
    for replacement, possible in ((False, permutations(range(4), 2)), (True, product(range(4), repeat=2))):
        drawn = [tuple(first(1, 4, 2, replacement=replacement, seed=seed)[0]) for seed in range(2000)]
        assert evenly_spread(drawn, list(possible))


@check
@given(n=st.integers(2000, 20_000), seed=seeds)
def test_n_draws_with_replacement_see_63_percent_of_the_examples(n: int, seed: int) -> None:
    """Their expected share is 1 - (1 - 1/n)^n, which tends to 1 - 1/e."""
    seen = len(next(batches(n, n, replacement=True, seed=seed)).unique()) / n
    # One draw changes the number seen by at most 1. So McDiarmid's inequality has
    # P(|seen - expected| ≥ t) ≤ 2 exp(-2 n t²).
    assert abs(seen - (1 - (1 - 1 / n) ** n)) < math.sqrt(math.log(2 / RARE) / (2 * n))
    assert len(next(batches(n, n, seed=seed)).unique()) == n


# Steps


def by_torch(
    f: Logistic, x0: Tensor, lr: Callable[[int], float], order: list[Tensor], momentum: float, weight_decay: float
) -> Tensor:
    x = x0.clone().requires_grad_()
    optimizer = torch.optim.SGD([x], lr=1.0, momentum=momentum, weight_decay=weight_decay)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lr)
    trajectory = [x0]
    for batch in order:
        optimizer.zero_grad()
        f(x, batch).backward()
        optimizer.step()
        scheduler.step()
        trajectory.append(x.detach().clone())
    return torch.stack(trajectory)


@draws
@check
@given(
    seed=seeds,
    sizes=batch_sizes(),
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
    f, x0 = Logistic(seed, num_examples, d), start(seed, d)
    drawing = dict(batch_size=batch_size, replacement=replacement, seed=seed)

    def schedule(step: int) -> float:
        return 0.2 / (1 + decay * step)

    lr = schedule if decay else 0.2
    x = sgd(f, x0, lr, steps, num_examples, momentum=momentum, weight_decay=weight_decay, **drawing)
    order = list(islice(batches(num_examples, **drawing), steps))
    # The rate is so small that a rounding error does not grow on its way.
    expected = by_torch(f, x0, schedule, order, momentum, weight_decay)
    torch.testing.assert_close(x, expected, rtol=1e-12, atol=1e-12)


@check
@given(seed=seeds, n=st.integers(1, 12), momentum=st.floats(0, 0.9))
def test_with_all_examples_in_each_batch_it_is_gradient_descent(seed: int, n: int, momentum: float) -> None:
    f, x0 = Logistic(seed, n, 2), start(seed, 2)
    x, v = [x0], 0
    for _ in range(10):
        v = momentum * v + f.gradients(x[-1]).mean(0)
        x.append(x[-1] - 0.5 * torch.from_numpy(v))
    found = sgd(f, x0, 0.5, 10, n, batch_size=n, momentum=momentum, seed=seed)
    torch.testing.assert_close(found, torch.stack(x), rtol=1e-12, atol=1e-12)


def test_f_gets_the_point_and_one_batch_a_step() -> None:
    seen = []

    def f(x: Tensor, i: Tensor) -> Tensor:
        assert x.dtype == torch.float64 and x.shape == (2,) and i.dtype == torch.int64
        seen.append((x.tolist(), i.tolist()))
        return x @ x * i.sum()

    x = sgd(f, [1, 2], 0.01, 10, 7, batch_size=3, seed=4)
    assert seen == list(zip(x[:-1].tolist(), first(10, 7, 3, seed=4), strict=True))


@pytest.mark.parametrize("enabled", [True, False])
def test_returns_plain_tensors_and_leaves_the_start_alone(enabled: bool) -> None:
    x0 = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=not enabled)
    weight = torch.tensor([2.0, 3.0], requires_grad=True)  # f may have parameters of its own
    with torch.set_grad_enabled(enabled):
        x = sgd(lambda x, i: (weight[i] * (x @ x)).mean(), x0, 0.01, 3, 2, momentum=0.5, weight_decay=0.1)
        C = noise_covariance(lambda x, i: (weight[i] * (x @ x)).mean(), x0, 2)
    assert x.shape == (4, 2) and C.shape == (2, 2)
    for result in (x, C):
        assert result.dtype == torch.float64 and not result.requires_grad
        result.zero_()
    assert x0.tolist() == [1, 2] and x0.grad is None and weight.grad is None


def test_no_steps_leave_the_start_alone() -> None:
    assert sgd(lambda x, i: x**2, 3, 0.1, 0, 5).tolist() == [3]
    assert sgd(lambda x, i: x @ x, (3, 4), 0.1, 0, 5).tolist() == [[3, 4]]


# Noise


@check
@given(seed=seeds, sizes=batch_sizes(), d=st.integers(0, 4))
def test_the_batches_of_a_pass_have_the_full_gradient_as_their_mean(seed: int, sizes: tuple[int, int], d: int) -> None:
    n, b = sizes
    f, x = Logistic(seed, n, d), start(seed, d)
    full = gradient(f, x, f.all)
    one_pass = list(islice(batches(n, b, seed=seed), math.ceil(n / b)))
    weighted = sum(len(batch) / n * gradient(f, x, batch) for batch in one_pass)
    torch.testing.assert_close(weighted, full, rtol=1e-12, atol=1e-14)
    if n % b == 0:
        mean = sum(gradient(f, x, batch) for batch in one_pass) / len(one_pass)
        torch.testing.assert_close(mean, full, rtol=1e-12, atol=1e-14)


def test_one_step_from_all_seeds_goes_on_average_where_the_full_gradient_points() -> None:
    """Within 5 standard deviations, which C / b gives; a mean of so many, as good as normal, is so but for RARE."""
    f, x0, b = Logistic(3, 8, 2), start(3, 2), 2
    C, g = noise_covariance(f, x0, 8), gradient(f, x0, f.all)
    for replacement, factor in ((True, 1), (False, (8 - b) / (8 - 1))):
        taken = [x0 - sgd(f, x0, 1.0, 1, 8, batch_size=b, replacement=replacement, seed=seed)[1] for seed in range(500)]
        deviation = torch.stack(taken).mean(0) - g
        assert (deviation.abs() < 5 * (factor * C.diagonal() / b / 500).sqrt()).all()


@check
@given(seed=seeds, n=st.integers(1, 8), d=st.integers(0, 4))
def test_noise_covariance_is_numpy_s(seed: int, n: int, d: int) -> None:
    f, x = Logistic(seed, n, d), start(seed, d)
    expected = np.cov(f.gradients(x), rowvar=False, bias=True).reshape((d, d) if d else ())
    C = noise_covariance(f, x, n)
    assert C.shape == expected.shape and C.dtype == torch.float64
    # Off the diagonal, what is summed may cancel.
    np.testing.assert_allclose(C, expected, rtol=1e-12, atol=1e-14 * (1 + np.abs(expected).max()))


def test_noise_covariance_asks_for_single_examples() -> None:
    seen = []
    noise_covariance(lambda x, i: seen.append(i) or x @ x, (1, 2), 3)
    assert [i.tolist() for i in seen] == [[0], [1], [2]]
    assert all(i.dtype == torch.int64 for i in seen)


@check
@given(seed=seeds, n=st.integers(2, 5), b=st.integers(1, 3), d=st.integers(0, 3))
def test_theorem_noise_falls_as_1_over_b(seed: int, n: int, b: int, d: int) -> None:
    """A batch's gradient has covariance C / b with replacement, and (n - b) / (n - 1) times that without: exactly."""
    b = min(b, n)
    f, x = Logistic(seed, n, d), start(seed, d)
    C, full = noise_covariance(f, x, n), gradient(f, x, f.all)
    for drawn, factor in ((product(range(n), repeat=b), 1), (combinations(range(n), b), (n - b) / (n - 1))):
        e = torch.stack([gradient(f, x, batch) - full for batch in drawn])
        covariance = torch.tensordot(e, e, dims=([0], [0])) / len(e)
        # Off the diagonal, what is summed may cancel.
        rounding = 1e-14 * (1 + C.abs().max().item())
        torch.testing.assert_close(covariance, factor * C / b, rtol=1e-11, atol=rounding)
        if d:
            torch.testing.assert_close(e.square().sum(1).mean(), factor * C.trace() / b, rtol=1e-11, atol=rounding)


@pytest.mark.parametrize("b", [1, 3])
def test_theorem_noise_floor(b: int) -> None:
    """A constant rate on ½ λ (x - aᵢ)² ends in a variance of η λ σ² / (b (2 - η λ)) around the minimum, the mean of a.

    The error obeys e ← φ e + η λ ξ with φ = 1 - η λ; ξ, the mean of b draws of a - ā, has the variance σ² / b. So
    E e_k² = V (1 - φ^(2k)) from e_0 = 0, with V as above. Once it is stationary, e² has the variance 2 V² + κ, κ the
    fourth cumulant of e, and the correlation φ^(2k) over k steps: T of its values say as much as
    T (1 - φ²) / (1 + φ²) independent ones.
    """
    T, n, eta = 1500, 10, 0.5
    lam = torch.tensor([0.4, 1.0, 2.0, 3.0], dtype=torch.float64)  # one coordinate each
    phi = 1 - eta * lam
    a = randn(b, n, len(lam))
    mean, sigma2 = a.mean(0), a.var(0, correction=0)
    fourth = (a - mean).pow(4).mean(0) - 3 * sigma2**2
    x = sgd(
        lambda x, i: (lam * (x - a[i]) ** 2).mean(0).sum() / 2, mean, eta, T, n, batch_size=b, replacement=True, seed=b
    )
    V = eta * lam * sigma2 / (b * (2 - eta * lam))
    kappa = (eta * lam) ** 4 * fourth / b**3 / (1 - phi**4)
    expected = V * (1 - phi[:, None] ** (2 * torch.arange(1, T + 1)).double()).mean(1)
    deviation = ((2 * V**2 + kappa) / (T * (1 - phi**2) / (1 + phi**2))).sqrt()
    assert (5 * deviation < V / 2).all()  # so that the next line says something
    # A mean of so many is as good as normal: beyond 5 deviations in 1 of 1,700,000 runs.
    assert (((x[1:] - mean) ** 2).mean(0) - expected).abs().less(5 * deviation).all()


@pytest.mark.parametrize("root_T", [2, 4, 8])
def test_theorem_average_iterate_of_a_convex_function(root_T: int) -> None:
    """E f(x̄) - f* ≤ R G / √T for x̄ the mean of x_0, …, x_{T-1}, the rate R / (G √T), and |∇fᵢ| ≤ G, |x0 - x*| ≤ R.

    Here f is the mean of |x - aᵢ|, so G = 1; one example in √T more calls for 0 than for R. So weak a sign, seldom
    heeded in T steps, makes the bound sharp but for a small factor.
    """
    T, n, R, runs = root_T**2, 2 * root_T, 3.0, 60
    a = torch.tensor([0.0] * (root_T + 1) + [R] * (root_T - 1), dtype=torch.float64)
    bound = R / root_T

    def f(x: Tensor, i: Tensor | slice) -> Tensor:
        return (x - a[i]).abs().mean()

    def gap(seed: int) -> float:
        x = sgd(f, R, R / root_T, T, n, replacement=True, seed=seed)
        return (f(x[:-1].mean(), slice(None)) - f(torch.zeros(()), slice(None))).item()

    gaps = [gap(seed) for seed in range(runs)]
    # The upper end of the interval that leaves out the mean of normal numbers but for RARE; these are nearly so.
    upper = np.mean(gaps) + scipy.stats.t.isf(RARE, runs - 1) * scipy.stats.sem(gaps)
    assert bound / 4 < np.mean(gaps) < upper < bound


def test_theorem_average_iterate_attains_its_bound_in_one_step() -> None:
    x = sgd(lambda x, i: x.abs(), 3.0, 3.0, 1, 1)
    assert x.tolist() == [3, 0]  # x̄ is x0, and f(x0) = R G


def test_interpolation_leaves_no_floor() -> None:
    """Where one x fits all examples the noise vanishes with the loss, and a constant rate converges."""
    X = torch.nn.functional.normalize(randn(0, 10, 3), dim=1)
    w = randn(1, 3)
    for replacement in (False, True):
        x = sgd(lambda x, i: ((X[i] @ (x - w)) ** 2).mean() / 2, (0, 0, 0), 1.0, 500, 10, replacement=replacement)
        # Each step projects on the points that fit one example.
        assert ((x - w).norm(dim=1).diff() < 1e-14).all()
        torch.testing.assert_close(x[-1], w, rtol=0, atol=1e-12)


# Divergence


def test_a_rate_too_large_ends_in_infinity() -> None:
    a = randn(0, 5)
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


# Errors


def descend(
    f: object = lambda x, i: (x**2).sum(),
    x0: object = 1.0,
    lr: object = 0.1,
    steps: object = 3,
    num_examples: object = 5,
    **options: object,
) -> Tensor:
    return sgd(f, x0, lr, steps, num_examples, **options)


def scatter(f: object = lambda x, i: (x**2).sum(), x0: object = 1.0, num_examples: object = 5) -> Tensor:
    return noise_covariance(f, x0, num_examples)


@pytest.mark.parametrize(
    ("x0", "error", "message"),
    [
        (math.nan, ValueError, r"expected finite numbers, got nan"),
        (torch.zeros(1, 2), ValueError, r"expected shape \(\) or \(d,\), got \(1, 2\)"),
        ([], ValueError, r"expected at least one number, got \[\]"),
        ("12", TypeError, r"expected numbers, got '12'"),
        (True, TypeError, r"expected numbers, got True"),
        (torch.ones(2, requires_grad=True), TypeError, r"expected plain numbers, .*; use x0?.detach\(\)"),
        (torch.tensor(1j), TypeError, r"expected real numbers, got torch.complex64"),
    ],
    ids=repr,
)
def test_refuses_a_point(x0: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^x0: {message}$"):
        descend(x0=x0)
    with pytest.raises(error, match=f"^x: {message}$"):
        scatter(x0=x0)


@pytest.mark.parametrize("f", [None, 3.0, torch.ones(2)], ids=repr)
def test_refuses_what_is_no_function(f: object) -> None:
    for call in (lambda: descend(f), lambda: descend(f, steps=0), lambda: scatter(f)):
        with pytest.raises(TypeError, match=r"^f: expected a function, got "):
            call()


@pytest.mark.parametrize("options", [{}, dict(momentum=0.9, weight_decay=0.1)], ids=str)
@pytest.mark.parametrize(
    ("f", "error", "message"),
    [
        (lambda x, i: 3.0, TypeError, r"a function that returns a tensor, got 3.0"),
        (lambda x, i: x**2, ValueError, r"a function that returns a scalar tensor, got shape \(2,\)"),
        (
            lambda x, i: (x**2).sum().detach(),
            ValueError,
            r"a function that torch can differentiate, got 5.0, which has no gradient",
        ),
        (
            lambda x, i: i.sum() if i.item() == 2 else x.sum(),  # for one example only
            ValueError,
            r"a function that torch can differentiate, got 2, which has no gradient",
        ),
    ],
    ids=["number", "vector", "detached", "one example"],
)
def test_refuses_what_f_returns(f: object, options: dict, error: type[Exception], message: str) -> None:
    for call in (lambda: descend(f, (1, 2), steps=5, **options), lambda: scatter(f, (1, 2))):
        with pytest.raises(error, match=f"^f: expected {message}$"):
            call()


@pytest.mark.parametrize(
    ("lr", "error", "message"),
    [
        (0, ValueError, r"a number in \(0, inf\), got 0"),
        (math.inf, ValueError, r"a number in \(0, inf\), got inf"),
        ("0.1", TypeError, "a number, got '0.1'"),
        (True, TypeError, "a number, got True"),
    ],
    ids=repr,
)
def test_refuses_a_rate(lr: object, error: type[Exception], message: str) -> None:
    for call in (
        lambda: descend(lr=lr),
        lambda: descend(lr=lr, steps=0),
        lambda: descend(lr=lambda step: [0.1, 0.1, lr][step]),
    ):
        with pytest.raises(error, match=f"^lr: expected {message}$"):
            call()


integers = pytest.mark.parametrize("value", [2.0, True, None, "1", torch.tensor([1])], ids=repr)


@integers
@pytest.mark.parametrize("name", ["steps", "num_examples", "batch_size", "seed"])
def test_refuses_what_is_no_int(name: str, value: object) -> None:
    calls = [lambda: descend(**{name: value})]
    if name != "steps":
        calls.append(lambda: batches(**dict(num_examples=5) | {name: value}))
    if name == "num_examples":
        calls.append(lambda: scatter(num_examples=value))
    for call in calls:
        with pytest.raises(TypeError) as caught:
            call()
        assert str(caught.value) == f"{name}: expected an int, got {value!r}"


def test_refuses_a_size_out_of_range() -> None:
    for seed, message in ((-(2**63) - 1, f"at least {-(2**63)}"), (2**64, f"at most {2**64 - 1}")):
        with pytest.raises(ValueError, match=f"^seed: expected {message}, got {seed}$"):
            batches(5, seed=seed)
    first(1, 5, seed=-(2**63)), first(1, 5, seed=2**64 - 1)
    with pytest.raises(ValueError, match=r"^steps: expected at least 0, got -1$"):
        descend(steps=-1)
    for value in (0, -1):
        for call in (descend, batches, scatter):
            with pytest.raises(ValueError, match=rf"^num_examples: expected at least 1, got {value}$"):
                call(num_examples=value)
        for call in (descend, batches):
            with pytest.raises(ValueError, match=rf"^batch_size: expected at least 1, got {value}$"):
                call(num_examples=5, batch_size=value)


@draws
def test_refuses_a_batch_larger_than_the_set(replacement: bool) -> None:
    for call in (descend, batches):
        with pytest.raises(ValueError, match=r"^batch_size: expected at most num_examples, 5, got 6$"):
            call(num_examples=5, batch_size=6, replacement=replacement)
        call(num_examples=5, batch_size=5, replacement=replacement)


@pytest.mark.parametrize("replacement", [0, 1, None, "yes"], ids=repr)
def test_refuses_a_replacement(replacement: object) -> None:
    for call in (descend, batches):
        with pytest.raises(TypeError, match=f"^replacement: expected a bool, got {replacement!r}$"):
            call(num_examples=5, replacement=replacement)


@pytest.mark.parametrize(("name", "limit"), [("momentum", "1"), ("weight_decay", "inf")])
def test_refuses_a_weight(name: str, limit: str) -> None:
    for value in (-0.1, math.nan, float(limit)):
        with pytest.raises(ValueError, match=rf"^{name}: expected a number in \[0, {limit}\), got {value}$"):
            descend(**{name: value})
    for value in ("0.9", False, None):
        with pytest.raises(TypeError, match=f"^{name}: expected a number, got {value!r}$"):
            descend(**{name: value})
