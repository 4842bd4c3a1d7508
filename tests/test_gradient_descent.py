"""The optimisers take the steps of PyTorch and numpy, keep the bounds of theory, diverge quietly, refuse the rest."""

import math
import re
from collections.abc import Callable
from functools import cached_property
from itertools import pairwise

import numpy as np
import pytest
import scipy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lessons_lib import gradient_descent as library
from lessons_lib.gradient_descent import backtracking, gradient_descent, newton

settings.register_profile("descent", deadline=None, max_examples=12)
check = settings(settings.get_profile("descent"))

Function = Callable[[Tensor], Tensor]
EPS = torch.finfo(torch.float64).eps

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 6)
modes = pytest.mark.parametrize("hessian", ["full", "absolute", "diagonal"])


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Quadratic:
    """½ (x - c)ᵀ A (x - c), whose A has these eigenvalues and random axes."""

    def __init__(self, lam: list[float], seed: int) -> None:
        self.lam, self.mu, self.L = torch.tensor(lam, dtype=torch.float64), min(lam), max(lam)
        self.U = torch.linalg.qr(randn(seed, len(lam), len(lam)))[0]  # one axis a column
        self.A = self.U * self.lam @ self.U.T
        self.minimum = 1 + randn(seed + 1, len(lam))  # for no seed a start that a test draws

    def __call__(self, x: Tensor) -> Tensor:
        e = x - self.minimum
        return e @ (self.A @ e) / 2

    def axis(self, lam: float) -> Tensor:
        return self.U[:, self.lam == lam][:, 0]


# Log-sum-exp at z has along u the third derivative E(uᵢ - ū)³, with the softmax of z as weights. Among the weights with
# a given mean ū, in which both are linear, it is largest where all are 0 but two. With these it is p (1 - p) (1 - 2p)
# times the cube of their uᵢ's difference: at most SKEW times the cube of the largest difference. A symmetric trilinear
# form is largest where its three arguments are equal: so this bounds the change of the Hessian, too.
SKEW = 1 / (6 * math.sqrt(3))


class SoftmaxRegression:
    """Cross-entropy of scores X W on random data, plus ½ mu |W|²; W comes flat."""

    def __init__(self, seed: int, mu: float, features: int = 2, classes: int = 3) -> None:
        self.X, self.shape = randn(seed, 20, features), (features, classes)
        self.y = randn(seed + 1, 20, classes).argmax(1)
        self.mu = mu
        # The Hessian of log-sum-exp, diag(p) - p pᵀ, has eigenvalues between 0 and ½.
        self.L = mu + torch.linalg.matrix_norm(self.X, 2).item() ** 2 / 20 / 2
        # Two columns of a direction of length 1 differ by at most √2; see SKEW.
        self.M = SKEW * (math.sqrt(2) * self.X.norm(dim=1)).pow(3).mean().item()

    def __call__(self, w: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(self.X @ w.view(self.shape), self.y) + self.mu / 2 * (w @ w)

    @cached_property
    def minimum(self) -> Tensor:
        x = minimum_by_newton(self, torch.zeros(self.shape).flatten())
        assert gradient(self, x).norm() < 1e-13  # the rounding of x, of size 5 or so, moves it by some 1e-15
        return x


def minimum_by_newton(f: Function, x0: Tensor) -> Tensor:
    """Backtracking brings it near from anywhere, until f cannot tell points apart; the gradient still can."""
    return newton(f, newton(f, x0, steps=12, backtrack=True)[-1], steps=3)[-1]


def eigenvalues(smallest: float = 0.1) -> st.SearchStrategy[list[float]]:
    return st.lists(st.floats(smallest, 10), min_size=1, max_size=6)


quadratics = st.builds(Quadratic, eigenvalues(), seeds)
regressions = st.builds(SoftmaxRegression, seeds, st.floats(0.05, 1))
strongly_convex = quadratics | regressions


def gradient(f: Function, x: Tensor) -> Tensor:
    return torch.func.grad(f)(x)


def points(trajectory: Tensor) -> list[Tensor]:
    """Its rows as tensors of their own: elsewhere in memory, as parts of a larger one, f may round otherwise."""
    return [x.clone() for x in trajectory]


def values(f: Function, trajectory: Tensor) -> Tensor:
    return torch.stack([f(x) for x in points(trajectory)])


def never_rises(f: Function, trajectory: Tensor) -> bool:
    f_x = values(f, trajectory)
    return bool((f_x.diff() <= 4 * EPS * f_x[1:].abs()).all())


def distances(trajectory: Tensor, point: Tensor) -> Tensor:
    return (trajectory - point).norm(dim=1)


def bounded(curve: Tensor, bound: Tensor, scale: float | Tensor) -> None:
    """At every step, but for the rounding of numbers of this size."""
    assert curve.shape == bound.shape
    assert (curve <= bound * (1 + 1e-9) + 1e-13 * scale).all()


# Steps


@pytest.mark.parametrize(("lr", "end"), [(0.2, "0.060466"), (0.05, "3.486784"), (1.1, "61.917364")])
def test_ten_steps_on_a_parabola(lr: float, end: str) -> None:
    assert f"{gradient_descent(lambda x: x**2, 10.0, lr, 10)[-1]:.6f}" == end


def test_twenty_steps_into_a_bowl() -> None:
    x = gradient_descent(lambda x: x[0] ** 2 + 2 * x[1] ** 2, (-5, -2), lr=0.1, steps=20)
    assert [f"{value:.6f}" for value in x[-1]] == ["-0.057646", "-0.000073"]


def rosenbrock(x: Tensor) -> Tensor:
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def log_sum_exp(x: Tensor) -> Tensor:
    return torch.logsumexp(torch.cat((x, -2 * x)), 0)


def waves(x: Tensor) -> Tensor:
    return (x * torch.cos(math.pi * x)).sum()


def by_torch(f: Function, x0: Tensor, lr: Callable[[int], float], steps: int, momentum: float) -> Tensor:
    x = x0.clone().requires_grad_()
    optimizer = torch.optim.SGD([x], lr=1.0, momentum=momentum)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lr)
    trajectory = [x0]
    for _ in range(steps):
        optimizer.zero_grad()
        f(x).backward()
        optimizer.step()
        scheduler.step()
        trajectory.append(x.detach().clone())
    return torch.stack(trajectory)


# Rates so small that a rounding error does not grow on its way: the tolerance can be tight.
@pytest.mark.parametrize(
    ("f", "lr", "smallest"),
    [(lambda x: x @ x, 0.3, 1), (rosenbrock, 1e-5, 2), (log_sum_exp, 0.3, 1), (waves, 0.003, 1)],
    ids=["quadratic", "rosenbrock", "log-sum-exp", "x cos πx"],
)
@check
@given(
    seed=seeds,
    d=sizes,
    momentum=st.just(0.0) | st.floats(0, 0.9),
    decay=st.just(0.0) | st.floats(0.01, 1),
    steps=st.integers(0, 20),
)
def test_takes_the_steps_of_torch_s_sgd(
    f: Function, lr: float, smallest: int, seed: int, d: int, momentum: float, decay: float, steps: int
) -> None:
    x0 = randn(seed, max(d, smallest))

    def schedule(step: int) -> float:
        return lr / (1 + decay * step)

    x = gradient_descent(f, x0, schedule if decay else lr, steps, momentum=momentum)
    torch.testing.assert_close(x, by_torch(f, x0, schedule, steps, momentum), rtol=1e-12, atol=1e-12)


@check
@given(x0=st.floats(-3, 3), momentum=st.floats(0, 0.9))
def test_a_number_moves_as_a_vector_of_one(x0: float, momentum: float) -> None:
    number = gradient_descent(lambda x: x * torch.cos(math.pi * x), x0, 0.01, 10, momentum=momentum)
    assert torch.equal(number, gradient_descent(waves, [x0], 0.01, 10, momentum=momentum)[:, 0])


@check
@given(f=quadratics, seed=seeds, momentum=st.floats(0, 0.9))
def test_a_preconditioner_multiplies_the_velocity(f: Quadratic, seed: int, momentum: float) -> None:
    d = len(f.minimum)
    x0, diagonal, P = randn(seed, d), randn(seed + 1, d), randn(seed + 2, d, d)  # not symmetric: P is not Pᵀ
    single = P.float()
    for given_P, matrix in ((diagonal, np.diag(diagonal)), (P, P.numpy()), (single, single.double().numpy())):
        x = gradient_descent(f, x0, 0.05, 5, momentum=momentum, preconditioner=given_P)
        expected, v = [x0.numpy()], np.zeros(d)
        for _ in range(5):
            v = momentum * v + f.A.numpy() @ (expected[-1] - f.minimum.numpy())
            expected.append(expected[-1] - 0.05 * matrix @ v)
        np.testing.assert_allclose(x, np.array(expected), rtol=1e-11, atol=1e-11)


def test_a_preconditioner_of_a_number_is_a_number() -> None:
    x = gradient_descent(lambda x: x**2, 10.0, 0.2, 10, preconditioner=torch.tensor(0.25))
    torch.testing.assert_close(x, gradient_descent(lambda x: x**2, 10.0, 0.05, 10), rtol=1e-14, atol=0)


@check
@given(f=quadratics, seed=seeds)
def test_with_the_inverse_hessian_as_preconditioner_one_step_reaches_the_minimum(f: Quadratic, seed: int) -> None:
    x = gradient_descent(f, randn(seed, len(f.minimum)), 1.0, 1, preconditioner=torch.linalg.inv(f.A))
    torch.testing.assert_close(x[-1], f.minimum, rtol=0, atol=1e-12)


# Newton's steps


class LogSumExp:
    """log Σ exp(A x + b) + ½ mu |x|²: strongly convex; derivatives by hand, for numpy."""

    def __init__(self, seed: int, d: int, mu: float) -> None:
        self.A, self.b, self.mu = randn(seed, 8, d), randn(seed + 1, 8), mu
        self.L = mu + torch.linalg.matrix_norm(self.A, 2).item() ** 2 / 2
        self.M = SKEW * torch.pdist(self.A).max().item() ** 3

    def __call__(self, x: Tensor) -> Tensor:
        return torch.logsumexp(self.A @ x + self.b, 0) + self.mu / 2 * (x @ x)

    def value(self, x: np.ndarray) -> float:
        return scipy.special.logsumexp(self.A.numpy() @ x + self.b.numpy()) + self.mu / 2 * x @ x

    def gradient(self, x: np.ndarray) -> np.ndarray:
        return self.A.numpy().T @ self.p(x) + self.mu * x

    def hessian(self, x: np.ndarray) -> np.ndarray:
        A, p = self.A.numpy(), self.p(x)
        return A.T @ (np.diag(p) - np.outer(p, p)) @ A + self.mu * np.eye(len(x))

    def p(self, x: np.ndarray) -> np.ndarray:
        return scipy.special.softmax(self.A.numpy() @ x + self.b.numpy())

    @cached_property
    def minimum(self) -> Tensor:
        x = minimum_by_newton(self, torch.zeros(self.A.shape[1]))
        assert gradient(self, x).norm() < 1e-13
        return x


log_sum_exps = st.builds(LogSumExp, seeds, sizes, st.floats(0.1, 2))


@check
@given(f=log_sum_exps, seed=seeds)
def test_newton_ends_where_scipy_s_solver_does(f: LogSumExp, seed: int) -> None:
    x0 = randn(seed, f.A.shape[1])
    found = scipy.optimize.minimize(
        f.value, x0.numpy(), jac=f.gradient, hess=f.hessian, method="trust-exact", options=dict(gtol=1e-10)
    )
    x = minimum_by_newton(f, x0)
    # Where f is flat to rounding that solver stops; what is left is a root of the gradient, which is monotone.
    root = scipy.optimize.root(f.gradient, found.x, jac=f.hessian, tol=1e-13)
    np.testing.assert_allclose(found.x, root.x, rtol=0, atol=1e-6)
    np.testing.assert_allclose(x, root.x, rtol=0, atol=1e-11)


@check
@given(f=log_sum_exps, seed=seeds, lr=st.floats(0.1, 1.5))
def test_newton_s_steps_are_numpy_s(f: LogSumExp, seed: int, lr: float) -> None:
    x0 = randn(seed, f.A.shape[1])
    g, H = f.gradient(x0.numpy()), f.hessian(x0.numpy())
    for hessian, d in (("full", np.linalg.solve(H, g)), ("diagonal", g / H.diagonal())):
        x = newton(f, x0, lr, 1, hessian=hessian)
        np.testing.assert_allclose(x[1], x0.numpy() - lr * d, rtol=1e-12, atol=1e-12)


@check
@given(f=log_sum_exps, seed=seeds)
def test_the_absolute_hessian_is_the_hessian_where_f_is_convex(f: LogSumExp, seed: int) -> None:
    x0 = randn(seed, f.A.shape[1])
    full = newton(f, x0, 0.5, steps=6)
    torch.testing.assert_close(newton(f, x0, 0.5, 6, hessian="absolute"), full, rtol=1e-10, atol=1e-10)


@check
@given(f=quadratics, seed=seeds)
def test_newton_reaches_the_minimum_of_a_quadratic_in_one_step(f: Quadratic, seed: int) -> None:
    x0 = randn(seed, len(f.minimum))
    torch.testing.assert_close(newton(f, x0, steps=1)[1], f.minimum, rtol=0, atol=1e-12)


@check
@given(seed=seeds, scale=st.lists(st.floats(0.1, 10), min_size=1, max_size=6))
def test_the_diagonal_reaches_the_minimum_of_a_separable_quadratic_in_one_step(seed: int, scale: list[float]) -> None:
    c, a = randn(seed, len(scale)), torch.tensor(scale, dtype=torch.float64)
    x = newton(lambda x: (a * (x - c) ** 2).sum(), torch.zeros(len(scale)), steps=1, hessian="diagonal")
    torch.testing.assert_close(x[1], c, rtol=1e-14, atol=0)


def test_the_diagonal_leaves_the_rest_of_the_hessian_out() -> None:
    x = newton(lambda x: 2 * x[0] ** 2 + 3 * x[0] * x[1] + 4 * x[1] ** 2, (1, 1), steps=1, hessian="diagonal")
    assert x[1].tolist() == [1 - 7 / 4, 1 - 11 / 8]


@check
@given(lam=st.lists(st.floats(0.1, 10), min_size=2, max_size=6), seed=seeds)
def test_the_absolute_hessian_leads_away_from_a_saddle_and_the_full_one_into_it(lam: list[float], seed: int) -> None:
    saddle = Quadratic([-lam[0], *lam[1:]], seed)
    x0 = saddle.minimum + randn(seed + 2, len(lam))
    torch.testing.assert_close(newton(saddle, x0, steps=1)[1], saddle.minimum, rtol=0, atol=1e-12)
    x = newton(saddle, x0, steps=3, hessian="absolute")
    # The step -|H|⁻¹ g doubles the error along the axis that curves down, and takes the others to 0.
    up = saddle.axis(-lam[0])
    expected = torch.stack([saddle.minimum + 2**k * up * (up @ (x0 - saddle.minimum)) for k in (1, 2, 3)])
    torch.testing.assert_close(x[1:], expected, rtol=0, atol=1e-11)


@check
@given(x0=st.floats(-3, 3).filter(lambda x: abs(x) > 1e-3))  # at 0 there is no curvature
def test_the_absolute_hessian_descends_on_waves(x0: float) -> None:
    x = newton(waves, [x0], 0.05, 20, hessian="absolute", backtrack=True)
    assert never_rises(waves, x)
    if abs(gradient(waves, x[0])) > 1e-3:
        assert waves(x[-1]) < waves(x[0])


def test_newton_goes_uphill_where_f_curves_down() -> None:
    ends = [newton(torch.cos, 1.0, steps=8, hessian=hessian)[-1].item() for hessian in ("full", "diagonal", "absolute")]
    assert ends == pytest.approx([0, 0, math.pi], abs=1e-12)


def test_newton_is_damped_by_the_rate() -> None:
    x = newton(lambda x: (x - 3) ** 2, 4.0, lr=0.5, steps=3)
    assert x.tolist() == [4, 3.5, 3.25, 3.125]
    assert newton(lambda x: x**2, 1.0, lambda step: [1 / 2, 1 / 4][step], 2).tolist() == [1, 1 / 2, 3 / 8]


def test_newton_takes_ten_whole_steps_of_the_full_hessian_unless_told_otherwise() -> None:
    assert torch.equal(newton(rosenbrock, (0.5, 0.5)), newton(rosenbrock, (0.5, 0.5), 1.0, 10, hessian="full"))
    assert len(newton(rosenbrock, (0.5, 0.5))) == 11


# Theorems: the measured curve stays within the bound at every step


@check
@given(f=strongly_convex, seed=seeds, share=st.floats(0.01, 3))
def test_theorem_descent_lemma(f: Quadratic | SoftmaxRegression, seed: int, share: float) -> None:
    """f(x - η ∇f) ≤ f(x) - η (1 - L η / 2) |∇f|² for every η."""
    lr = share / f.L
    x = gradient_descent(f, f.minimum + randn(seed, len(f.minimum)), lr, 30)
    f_x, g = values(f, x), torch.stack([gradient(f, point) for point in x[:-1]])
    bound = f_x[:-1] - lr * (1 - f.L * lr / 2) * (g**2).sum(1)
    bounded(f_x[1:], bound, f.L + f_x[1:])


@check
@given(
    f=st.builds(Quadratic, st.lists(st.just(0.0) | st.floats(0.1, 10), min_size=1, max_size=6).filter(any), seeds)
    | regressions,
    seed=seeds,
)
def test_theorem_smooth_and_convex(f: Quadratic | SoftmaxRegression, seed: int) -> None:
    """f_k - f* ≤ L |x0 - x*|² / (2 k) with η = 1 / L, also where f is flat in some directions."""
    x0 = f.minimum + 3 * randn(seed, len(f.minimum))
    gap = values(f, gradient_descent(f, x0, 1 / f.L, 50)) - f(f.minimum)
    k = torch.arange(1, 51, dtype=torch.float64)
    bounded(gap[1:], f.L * (x0 - f.minimum).square().sum() / (2 * k), f.L + f(x0).item())


@check
@given(f=strongly_convex, seed=seeds)
def test_theorem_strongly_convex(f: Quadratic | SoftmaxRegression, seed: int) -> None:
    """f_k - f* ≤ (1 - μ / L)^k (f_0 - f*) with η = 1 / L."""
    x0 = f.minimum + 3 * randn(seed, len(f.minimum))
    gap = values(f, gradient_descent(f, x0, 1 / f.L, 50)) - f(f.minimum)
    bounded(gap, (1 - f.mu / f.L) ** torch.arange(51, dtype=torch.float64) * gap[0], f.L + f(x0).item())


@check
@given(f=strongly_convex, seed=seeds)
def test_theorem_best_constant_rate(f: Quadratic | SoftmaxRegression, seed: int) -> None:
    """|x_k - x*| ≤ ((κ - 1) / (κ + 1))^k |x_0 - x*| with η = 2 / (L + μ)."""
    x0 = f.minimum + 3 * randn(seed, len(f.minimum))
    e = distances(gradient_descent(f, x0, 2 / (f.L + f.mu), 50), f.minimum)
    factor = (f.L - f.mu) / (f.L + f.mu)
    bounded(e, factor ** torch.arange(51, dtype=torch.float64) * e[0], 1 + e[0].item())


@check
@given(lam=st.lists(st.floats(0.1, 10), min_size=2, max_size=6, unique=True), seed=seeds)
def test_theorem_best_constant_rate_is_attained(lam: list[float], seed: int) -> None:
    """From a start on the flattest and the steepest axis both parts shrink by exactly this factor."""
    f = Quadratic(lam, seed)
    x = gradient_descent(f, f.minimum + f.axis(f.mu) + f.axis(f.L), 2 / (f.L + f.mu), 30)
    factor = (f.L - f.mu) / (f.L + f.mu)
    expected = factor ** torch.arange(31, dtype=torch.float64) * math.sqrt(2)
    torch.testing.assert_close(distances(x, f.minimum), expected, rtol=1e-9, atol=1e-13)


@check
@given(f=strongly_convex | log_sum_exps, seed=seeds, share=st.floats(0.05, 0.95))
def test_theorem_descent_converges_below_2_over_l(
    f: Quadratic | SoftmaxRegression | LogSumExp, seed: int, share: float
) -> None:
    """|x_{k+1} - x*| ≤ max(|1 - η μ|, |1 - η L|) |x_k - x*| for every η below 2 / L."""
    x0, lr = f.minimum + randn(seed, len(f.minimum)), share * 2 / f.L
    factor = max(abs(1 - lr * f.mu), abs(1 - lr * f.L))
    assert factor < 1
    e = distances(gradient_descent(f, x0, lr, 100), f.minimum)
    bounded(e[1:], factor * e[:-1], 1 + e[0].item())
    bounded(e, factor ** torch.arange(101, dtype=torch.float64) * e[0], 1 + e[0].item())


@check
@given(f=quadratics, share=st.floats(1.5, 3))
def test_theorem_descent_on_a_quadratic_diverges_from_2_over_l(f: Quadratic, share: float) -> None:
    """At 2 / L the part on the steepest axis neither falls nor grows; above it grows by the same factor each step."""
    steepest, k = f.axis(f.L), torch.arange(31)
    for lr in (2 / f.L, share * 2 / f.L):
        x = gradient_descent(f, f.minimum + steepest, lr, 30)
        torch.testing.assert_close((x - f.minimum) @ steepest, (1 - lr * f.L) ** k.double(), rtol=1e-9, atol=0)
    end = gradient_descent(f, f.minimum + steepest, lr, 600)[-1]
    assert end.isinf().all()


@check
@given(
    mu=st.floats(0.5, 2),
    data=st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2)), min_size=1, max_size=5),
    x0=st.floats(-3, 3),
)
def test_theorem_newton_converges_quadratically(mu: float, data: list[tuple[float, float]], x0: float) -> None:
    """|e_{k+1}| ≤ M / (2 μ) |e_k|², M the Lipschitz constant of f'', on ½ μ x² + Σ log(1 + exp(a x + b))."""
    a, b = torch.tensor(data, dtype=torch.float64).T
    M = (a.abs() ** 3).sum() * SKEW

    def slope(x: float) -> float:
        return mu * x + (a * torch.sigmoid(a * x + b)).sum().item()

    reach = a.abs().sum().item() / mu + 1  # |f' - μ x| is at most Σ |a|
    minimum = scipy.optimize.brentq(slope, -reach, reach, xtol=1e-15, rtol=4 * EPS)
    x = newton(lambda x: mu / 2 * x**2 + torch.logaddexp(a * x + b, torch.zeros(())).sum(), x0, steps=6)
    e = (x - minimum).abs()
    bounded(e[1:], M / (2 * mu) * e[:-1] ** 2, max(reach, e[1:].max().item()))


@check
@given(f=log_sum_exps | regressions, seed=seeds, share=st.floats(0.01, 0.95))
def test_theorem_newton_converges_quadratically_in_many_dimensions(
    f: LogSumExp | SoftmaxRegression, seed: int, share: float
) -> None:
    """The same with norms, M the Lipschitz constant of the Hessian, from within 2 μ / M of the minimum."""
    away = randn(seed, len(f.minimum))
    x0 = f.minimum + share * 2 * f.mu / f.M * away / away.norm()
    e = distances(newton(f, x0, steps=8), f.minimum)
    bounded(e[1:], f.M / (2 * f.mu) * e[:-1] ** 2, f.L / f.mu)


# With momentum β and rate η an error e on an axis of curvature λ goes as e_{k+1} = (1 + β - η λ) e_k - β e_{k-1}. For
# the heavy ball's η and β the roots of z² - (1 + β - η λ) z + β are ρ exp(±iθ), with ρ = √β and
# 2 ρ cos θ = 1 + β - η λ, for all λ from μ to L. From e_0 and e_1 = (1 - η λ) e_0, the plain first step, follows
# e_k = ρ^k (S_{k+1} - ρ S_k) e_0 with S_k = sin(k θ) / sin θ, and |S_k| ≤ k. So |e_k| ≤ ρ^k (k + 1 + ρ k) |e_0|, which
# λ = L attains (θ = π).
def heavy_ball(f: Quadratic) -> tuple[float, float]:
    """The rate and the momentum that Polyak gives."""
    big, small = math.sqrt(f.L), math.sqrt(f.mu)
    return 4 / (big + small) ** 2, ((big - small) / (big + small)) ** 2


@check
@given(f=quadratics, seed=seeds)
def test_theorem_heavy_ball(f: Quadratic, seed: int) -> None:
    lr, momentum = heavy_ball(f)
    rho, d = math.sqrt(momentum), len(f.minimum)
    k = torch.arange(101, dtype=torch.float64)
    bound = rho**k * (k + 1 + rho * k)
    x0 = f.minimum + randn(seed, d)
    e = distances(gradient_descent(f, x0, lr, 100, momentum=momentum), f.minimum)
    bounded(e, bound * e[0], 100 * (1 + e[0].item()))
    x = gradient_descent(f, f.minimum + f.axis(f.L), lr, 100, momentum=momentum)
    # On this axis z is a double root: a rounding error, too, grows by a factor of k before it shrinks.
    torch.testing.assert_close(distances(x, f.minimum), bound, rtol=1e-9, atol=1e-12)


@check
@given(f=quadratics)
def test_theorem_spectral_radius_of_the_heavy_ball(f: Quadratic) -> None:
    """The map from (x_{k-1}, x_k) to (x_k, x_{k+1}), as measured, has the spectral radius √momentum."""
    lr, momentum = heavy_ball(f)
    d = len(f.minimum)

    def two_steps(start: Tensor) -> Tensor:
        return gradient_descent(f, f.minimum + start, lr, 2, momentum=momentum)[1:] - f.minimum

    one = torch.eye(d, dtype=torch.float64)
    G, both = torch.stack([two_steps(unit) for unit in one], 2)  # x_1 = G x_0, and x_2 = both x_0
    T_1 = G + momentum * one
    torch.testing.assert_close(both, T_1 @ G - momentum * one, rtol=1e-9, atol=1e-12)  # x_2 = T_1 x_1 - momentum x_0
    T = torch.cat([torch.cat([0 * one, one], 1), torch.cat([-momentum * one, T_1], 1)])
    # Double roots: they move by the square root of the rounding.
    assert torch.linalg.eigvals(T).abs().max() == pytest.approx(math.sqrt(momentum), abs=1e-6)


# Backtracking


def armijo(f: Function, x: Tensor, direction: Tensor, rate: float, slope: float) -> tuple[float, float]:
    """By how much the rule is missed, and the rounding of that number."""
    before, after = f(x).item(), f(x + rate * direction).item()
    promised = slope * rate * (gradient(f, x) @ direction).item()
    return after - before - promised, 1e-13 * (1 + abs(before) + abs(after) + abs(promised))


@check
@given(
    f=st.sampled_from([rosenbrock, log_sum_exp, waves]) | strongly_convex,
    seed=seeds,
    lr=st.floats(0.01, 100),
    slope=st.floats(0.01, 0.99),
    shrink=st.floats(0.1, 0.9),
)
def test_backtracking_finds_the_first_rate_that_armijo_s_rule_admits(
    f: Function, seed: int, lr: float, slope: float, shrink: float
) -> None:
    x, A = randn(seed, size_of(f)), randn(seed + 1, size_of(f), size_of(f))
    direction = -(A @ A.T + 0.1 * torch.eye(len(x))) @ gradient(f, x)
    rate = backtracking(f, x, direction, lr, slope=slope, shrink=shrink)
    assert type(rate) is float
    tries = [lr * shrink**k for k in range(1000)]
    for tried in tries[: tries.index(rate)]:
        missed, rounding = armijo(f, x, direction, tried, slope)
        assert missed > -rounding
    missed, rounding = armijo(f, x, direction, rate, slope)
    assert missed <= rounding
    assert backtracking(f, x, -direction, lr, slope=slope, shrink=shrink) == 0


def size_of(f: Function) -> int:
    return len(f.minimum) if hasattr(f, "minimum") else 4


@check
@given(f=st.sampled_from([rosenbrock, log_sum_exp, waves]) | strongly_convex, seed=seeds, lr=st.floats(0.01, 100))
def test_descent_with_backtracking_takes_these_rates_and_never_rises(f: Function, seed: int, lr: float) -> None:
    x = gradient_descent(f, randn(seed, size_of(f)), lambda step: lr / (1 + step), 10, backtrack=True)
    assert never_rises(f, x)
    for k, (before, after) in enumerate(pairwise(points(x))):
        g = gradient(f, before)
        rate = backtracking(f, before, -g, lr / (1 + k))
        # At the minimum rounding decides on a step, whose length is at most of the size of its root.
        torch.testing.assert_close(after, before - rate * g, rtol=1e-12, atol=1e-6)


@check
@given(f=log_sum_exps, seed=seeds, lr=st.floats(0.01, 100))
def test_newton_with_backtracking_takes_these_rates_and_never_rises(f: LogSumExp, seed: int, lr: float) -> None:
    x = newton(f, 5 * randn(seed, f.A.shape[1]), lr, 10, backtrack=True)
    assert never_rises(f, x)
    for before, after in pairwise(points(x)):
        d = torch.from_numpy(-np.linalg.solve(f.hessian(before.numpy()), f.gradient(before.numpy())))
        rate = backtracking(f, before, d, lr)
        # At the minimum rounding decides on a step, whose length is at most of the size of its root.
        torch.testing.assert_close(after, before + rate * d, rtol=1e-6, atol=1e-5)


@check
@given(f=quadratics, seed=seeds)
def test_backtracking_passes_the_rate_1_over_l_and_newton_s_whole_step(f: Quadratic, seed: int) -> None:
    x = f.minimum + randn(seed, len(f.minimum))
    g = gradient(f, x)
    assert backtracking(f, x, -g, 1 / f.L) == 1 / f.L
    assert backtracking(f, x, -torch.linalg.solve(f.A, g)) == 1
    # On the steepest axis f falls by the share 1 - L lr / 2 of what the tangent promises.
    axis = f.axis(f.L)
    assert backtracking(f, f.minimum + axis, -f.L * axis, 1.39 / f.L) == 1.39 / f.L
    assert backtracking(f, f.minimum + axis, -f.L * axis, 1.41 / f.L) == 1.41 / f.L / 2


class Cliff:
    """Falls along its slope, but not where a step leads beyond the edge: there stands a wall."""

    def __init__(self, edge: float) -> None:
        self.edge, self.tried = edge, []

    def __call__(self, x: Tensor) -> Tensor:
        self.tried.append(x.item())
        return -x if x <= self.edge else 1 - 0 * x


def test_backtracking_never_tries_more_than_4140_rates() -> None:
    f = Cliff(edge=0.0)
    assert backtracking(f, 0.0, 1.0, shrink=0.99) == 0
    assert len(f.tried) == 2 + 4140  # ∇f(x) and f(x), then f at each rate


@pytest.mark.parametrize("shrink", [0.5, 0.25, 0.125])
def test_backtracking_gives_up_at_the_rate_times_two_to_the_minus_60(shrink: float) -> None:
    f = Cliff(edge=0.0)
    assert backtracking(f, 0.0, 1.0, 4.0, shrink=shrink) == 0
    assert [x for x in f.tried if x > 0] == [4 * shrink**k for k in range(int(-60 / math.log2(shrink)) + 1)]
    assert min(x for x in f.tried if x > 0) == 4 * 2**-60
    assert backtracking(Cliff(edge=1e-12), 0.0, 1.0) == 2**-40
    assert backtracking(Cliff(edge=2**-60), 0.0, 1.0, shrink=shrink) == 2**-60
    assert gradient_descent(Cliff(edge=0.0), 0.0, 1.0, 2, backtrack=True).tolist() == [0, 0, 0]


def test_backtracking_goes_nowhere_unless_downhill() -> None:
    assert backtracking(lambda x: x**2, 0.0, 1.0) == 0
    assert backtracking(lambda x: x**2, 0.0, 0.0) == 0
    assert backtracking(lambda x: x**2, 1.0, 1e-30) == 0  # uphill, and so little that rounding hides it
    assert backtracking(lambda x: -(x**2), 0.0, 1.0) == 0  # would fall, but no tangent promises it
    assert backtracking(torch.log, -1.0, -1.0) == 0


@pytest.mark.parametrize("size", [1e-170, 1.0, 1e160])
def test_backtracking_takes_the_same_steps_at_any_size(size: float) -> None:
    path = gradient_descent(lambda x: size * x**2, 1.0, 2 / size, 3, backtrack=True)
    assert torch.allclose(path, gradient_descent(lambda x: x**2, 1.0, 2.0, 3, backtrack=True))
    assert path[-1].abs() < 1


def test_backtracking_starts_with_the_whole_step() -> None:
    assert backtracking(lambda x: x**2, 1.0, -1.0) == 1.0
    assert backtracking(lambda x: x**2, 1.0, -2.0) == 0.5


def test_backtracking_does_not_leave_the_domain() -> None:
    x = gradient_descent(lambda x: x - x.log(), 0.01, 1.0, 50, backtrack=True)
    assert (x > 0).all()
    assert x[-1] == pytest.approx(1, abs=1e-7)


# Divergence


def ends_in_infinity(x: Tensor) -> bool:
    """Finite first, then infinite in every coordinate, and both occur."""
    finite = x.isfinite().reshape(len(x), -1)
    first = int(finite.all(1).sum())
    return bool(0 < first < len(x) and finite[:first].all() and x[first:].isinf().all())


def test_a_rate_too_large_ends_in_infinity() -> None:
    x = gradient_descent(lambda x: x**2, 10.0, 1.1, 10_000)
    assert ends_in_infinity(x)
    torch.testing.assert_close(x[:1900], 10 * (-1.2) ** torch.arange(1900, dtype=torch.float64), rtol=1e-12, atol=0)
    assert ends_in_infinity(gradient_descent(lambda x: x @ x, (1, 2), 1.1, 3000))
    assert ends_in_infinity(gradient_descent(lambda x: x @ x, (1, 2), 2.1, 3000, momentum=0.5))
    assert gradient_descent(lambda x: x**2, 10.0, 1e308, 2).tolist() == [10, -math.inf, -math.inf]


def test_the_sign_of_infinity_is_that_of_the_point() -> None:
    far = torch.tensor([1e300, -1e300, 1.0, -1.0], dtype=torch.float64)
    x = gradient_descent(lambda x: far @ x, (0, 0, 0, 0), 1e10, 2)
    # A coordinate that could still be named is lost with the others, on its side.
    assert x[1:].tolist() == [[-math.inf, math.inf, -math.inf, math.inf]] * 2


def test_a_coordinate_of_which_nothing_is_known_is_plus_infinity() -> None:
    x = gradient_descent(lambda x: x[0].exp() + x[1] ** 2 - x[2], (1000, 0, 0), 0.1, 2)
    # exp's slope is infinite, and with it the whole step, of which infinity times 0 is no number.
    assert x[1:].tolist() == [[-math.inf, math.inf, math.inf]] * 2
    for f in (lambda x: x[0] ** 2 + x[1], lambda x: (x[0] + x[1]) ** 2):  # the Hessian is singular
        assert newton(f, (1, 1), steps=1)[1].tolist() == [math.inf, math.inf]


@pytest.mark.parametrize("settings", [{}, dict(momentum=0.9), dict(backtrack=True)], ids=str)
@pytest.mark.parametrize(
    ("f", "x0"),
    [
        (torch.log, -1.0),  # the value is NaN, the slope that autograd gives is -1
        (torch.sqrt, 0.0),  # the slope is infinite, the value 0
        (lambda x: (x - x).abs().sqrt(), 1.0),  # the slope is NaN, the value 0
        (torch.square, 1e160),  # the value is infinite, the slope finite
        (torch.exp, 1000.0),
    ],
    ids=["log", "root", "NaN", "square", "exp"],
)
def test_a_value_or_slope_that_is_not_finite_ends_the_run(f: Function, x0: float, settings: dict) -> None:
    assert gradient_descent(f, x0, 0.1, 5, **settings)[1:].isinf().all()
    x = gradient_descent(lambda x: f(x[0]) + x[1], (x0, 1), 0.1, 5, **settings)
    assert x[0].tolist() == [x0, 1] and x[1:].isinf().all()


@modes
@pytest.mark.parametrize("backtrack", [False, True])
@pytest.mark.parametrize(
    ("f", "x0"),
    [
        (torch.log, -1.0),
        (torch.sqrt, 0.0),
        (torch.exp, 1000.0),
        (lambda x: 3 * x, 1.0),
        (lambda x: x**3 + x, 0.0),
        (lambda x: 1e200 * x[0] ** 3 + x[1] ** 2, (1e160, 1.0)),
        (lambda x: x**1.5, 0.0),  # value and slope are finite, only the curvature is not
        (lambda x: x[0] ** 2 + x[1], (1, 1)),
        (lambda x: x.sum(), (1, 2, 3)),
    ],
)
def test_newton_ends_in_infinity_where_there_is_no_step(
    f: Function, x0: float | tuple[float, ...], hessian: str, backtrack: bool
) -> None:
    x = newton(f, x0, 1.0, 5, hessian=hessian, backtrack=backtrack)
    assert x[0].isfinite().all() and x[1:].isinf().all()


def test_descending_the_logarithm_ends_in_infinity() -> None:
    x = gradient_descent(torch.log, 1.0, 0.3, 20)
    assert ends_in_infinity(x)
    assert x[x.isfinite()][-1] < 0  # the first point at which the logarithm is not


def test_newton_diverges_from_too_far_away() -> None:
    x = newton(lambda x: (1 + x**2).sqrt(), 1.5)  # the formula is x ← -x³
    assert ends_in_infinity(x)
    assert x[:4].tolist() == pytest.approx([1.5, -(1.5**3), 1.5**9, -(1.5**27)], rel=1e-6)
    assert abs(newton(lambda x: (1 + x**2).sqrt(), 0.5)[-1]) < 1e-12


# What goes in and comes out


@pytest.mark.parametrize(
    ("x0", "start"),
    [
        (3, 3.0),
        (3.0, 3.0),
        (np.float64(3), 3.0),
        ([1, 2], [1.0, 2.0]),
        ((1.0, 2.0), [1.0, 2.0]),
        (range(1, 3), [1.0, 2.0]),
        ([0.1], [0.1]),
        (torch.tensor(3), 3.0),
        (torch.tensor([1, 2]), [1.0, 2.0]),
        (torch.tensor([0.5, 2.0], dtype=torch.float32), [0.5, 2.0]),
        (np.array([1, 2]), [1.0, 2.0]),
        (np.array([2.0, 1.0])[::-1], [1.0, 2.0]),
        ([torch.tensor(1), np.float32(2)], [1.0, 2.0]),
    ],
    ids=repr,
)
def test_every_form_of_a_start(x0: object, start: float | list[float]) -> None:
    for x, factor in (
        (gradient_descent(lambda x: (x**2).sum(), x0, 0.1, 2), 0.8),
        (newton(lambda x: (x**2).sum(), x0, 0.1, 2), 0.9),
    ):
        assert x.dtype == torch.float64 and not x.requires_grad
        assert x.shape == (3, *np.shape(start))
        assert x[0].tolist() == start
        torch.testing.assert_close(x[1:], torch.stack((factor * x[0], factor**2 * x[0])), rtol=1e-14, atol=0)


@pytest.mark.parametrize("enabled", [True, False])
def test_leaves_the_start_and_the_global_state_alone(enabled: bool) -> None:
    x0 = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=not enabled)
    weight = torch.tensor(2.0, requires_grad=True)  # f may have parameters of its own
    with torch.set_grad_enabled(enabled):
        for x in (
            gradient_descent(lambda x: weight * (x**4).sum(), x0, 0.01, 3, momentum=0.5),
            gradient_descent(lambda x: weight * (x**4).sum(), x0, 0.01, 3, backtrack=True),
            newton(lambda x: weight * (x**4).sum(), x0, 0.01, 3),
        ):
            assert not x.requires_grad
            x.zero_()  # shares no memory with the start
        assert torch.is_grad_enabled() == enabled
    assert x0.tolist() == [1, 2] and x0.grad is None and x0.requires_grad != enabled and weight.grad is None
    assert torch.get_default_dtype() == torch.float32


def test_works_under_inference_mode() -> None:
    x0 = torch.tensor([1.0, 2.0], dtype=torch.float64)
    with torch.inference_mode():
        inside = [walk(square, x, 0.1, 3) for walk in (gradient_descent, newton) for x in (x0, x0.clone())]
        assert backtracking(square, x0.clone(), -x0) == 1 and library.gradient(square, x0.clone()).tolist() == [2, 4]
    for x, walk in zip(inside, (gradient_descent, gradient_descent, newton, newton), strict=True):
        assert torch.equal(x, walk(square, x0, 0.1, 3))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # which the compiler looks at
def test_newton_is_right_when_compiled() -> None:
    # torch.autograd.functional.hessian returns zeros there, and the run would end in infinity.
    x0 = torch.tensor([1.0, 2.0], dtype=torch.float64)
    compiled = torch.compile(lambda x: newton(log_sum_exp, x, steps=2), backend="eager")
    torch.testing.assert_close(compiled(x0), newton(log_sum_exp, x0, steps=2), rtol=1e-14, atol=0)


@pytest.mark.parametrize("walk", [gradient_descent, newton])
def test_f_may_not_be_differentiated_by_something_else(walk: Callable) -> None:
    with pytest.raises(TypeError, match="^f: expected a call outside of torch.func's transforms"):
        torch.func.grad(lambda a: walk(lambda x: (x - a) ** 2, 0.0, 0.1, 3)[-1])(torch.tensor(1.0))


def test_f_may_ask_where_it_is() -> None:
    def valley(x: Tensor) -> Tensor:
        return (x - 1) ** 2 if x.item() > 0 else 3 - 2 * x

    assert newton(valley, 5.0, steps=1)[-1] == 1
    assert gradient_descent(valley, -0.5, lr=0.5, steps=2).tolist() == [-0.5, 0.5, 1]


def test_no_steps_leave_the_start_alone() -> None:
    for walk in (gradient_descent, newton):
        assert walk(lambda x: x**2, 3, 0.1, 0).tolist() == [3]
        assert walk(lambda x: x @ x, (3, 4), 0.1, 0).tolist() == [[3, 4]]


# Errors


def square(x: Tensor) -> Tensor:
    return (x**2).sum()


def descend(f: Function = square, x0: object = 1.0, lr: object = 0.1, steps: object = 3, **settings: object) -> Tensor:
    return gradient_descent(f, x0, lr, steps, **settings)


def jump(f: Function = square, x0: object = 1.0, lr: object = 0.1, steps: object = 3, **settings: object) -> Tensor:
    return newton(f, x0, lr, steps, **settings)


walks = pytest.mark.parametrize("walk", [descend, jump])


@walks
@pytest.mark.parametrize(
    ("x0", "error", "message"),
    [
        (math.nan, ValueError, r"x0: expected finite numbers, got nan"),
        ([1, -math.inf], ValueError, r"x0: expected finite numbers, got \[1.0, -inf\]"),
        (torch.tensor(math.inf), ValueError, r"x0: expected finite numbers, got inf"),
        ([[1, 2]], ValueError, r"x0: expected shape \(\) or \(d,\), got \(1, 2\)"),
        (([1], (2, 3)), ValueError, r"x0: expected rows of one length, got \(\[1\], \(2, 3\)\)"),
        ([], ValueError, r"x0: expected at least one number, got \[\]"),
        (torch.zeros(0), ValueError, r"x0: expected at least one number, got tensor\(\[\]\)"),
        (None, TypeError, r"x0: expected numbers, got None"),
        ("12", TypeError, r"x0: expected numbers, got '12'"),
        ([1, True], TypeError, r"x0: expected numbers, got True"),
        (1j, TypeError, r"x0: expected numbers, got 1j"),
        ({1.0}, TypeError, r"x0: expected numbers, got \{1.0\}"),
        (torch.ones(2, requires_grad=True), TypeError, r"x0: expected plain numbers, .*; use x0.detach\(\)"),
        (torch.tensor([True]), TypeError, r"x0: expected real numbers, got torch.bool"),
        (torch.tensor(1j), TypeError, r"x0: expected real numbers, got torch.complex64"),
    ],
    ids=repr,
)
def test_refuses_a_start(walk: Callable, x0: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}$"):
        walk(x0=x0)
    with pytest.raises(error, match=f"^{message.replace('x0', 'x')}$"):
        backtracking(square, x0, 1.0)


@walks
@pytest.mark.parametrize("f", [None, 3.0, torch.ones(2)], ids=repr)
def test_refuses_what_is_no_function(walk: Callable, f: object) -> None:
    for call in (lambda: walk(f), lambda: walk(f, steps=0), lambda: backtracking(f, 1.0, 1.0)):
        with pytest.raises(TypeError, match=r"^f: expected a function, got "):
            call()


@walks
@pytest.mark.parametrize("backtrack", [False, True])
@pytest.mark.parametrize(
    ("f", "x0", "error", "message"),
    [
        (lambda x: 3.0, 1.0, TypeError, r"a function that returns a tensor, got 3.0"),
        (lambda x: None, 1.0, TypeError, r"a function that returns a tensor, got None"),
        (lambda x: x * 1j, 1.0, TypeError, r"a function that returns a real tensor, got torch.complex128"),
        (lambda x: x**2, [1.0], ValueError, r"a function that returns a scalar tensor, got shape \(1,\)"),
        (
            lambda x: torch.outer(x, x),
            (1, 2),
            ValueError,
            r"a function that returns a scalar tensor, got shape \(2, 2\)",
        ),
        (
            lambda x: x.detach(),
            1.5,
            ValueError,
            r"a function that torch can differentiate, got 1.5, which has no gradient",
        ),
        (lambda x: torch.tensor(x.item()), 1.5, ValueError, r"a function that torch can differentiate, got 1.5, .*"),
        (lambda x: torch.tensor(2), 1.0, ValueError, r"a function that torch can differentiate, got 2, .*"),
        (
            lambda x: torch.tensor(2.0, requires_grad=True) ** 2,
            1.0,
            ValueError,
            r"a function that torch can differentiate, got 4.0, .*",
        ),
        (
            lambda x: x if x > 1 else torch.tensor(0.0),
            1.0,
            ValueError,
            r"a function that torch can differentiate, got 0.0, .*",
        ),
    ],
    ids=["number", "None", "complex", "vector", "matrix", "detached", "item", "constant", "parameter", "branch"],
)
def test_refuses_what_f_returns(
    walk: Callable, backtrack: bool, f: Function, x0: object, error: type[Exception], message: str
) -> None:
    for call in (lambda: walk(f, x0, backtrack=backtrack), lambda: backtracking(f, x0, x0)):
        with pytest.raises(error, match=f"^f: expected {message}$"):
            call()


@walks
def test_refuses_what_f_returns_later(walk: Callable) -> None:
    with pytest.raises(ValueError, match=r"^f: expected a function that torch can differentiate, got 0.0"):
        walk(lambda x: x**2 if x >= 1 else torch.tensor(0.0), 1.0)


rates = pytest.mark.parametrize(
    ("lr", "error", "message"),
    [
        (0, ValueError, r"a number in \(0, inf\), got 0"),
        (-0.1, ValueError, r"a number in \(0, inf\), got -0.1"),
        (math.inf, ValueError, r"a number in \(0, inf\), got inf"),
        (math.nan, ValueError, r"a number in \(0, inf\), got nan"),
        ("0.1", TypeError, "a number, got '0.1'"),
        (True, TypeError, "a number, got True"),
        (None, TypeError, "a number, got None"),
        (torch.ones(1), TypeError, r"a number, got tensor\(\[1.\]\)"),
    ],
    ids=repr,
)


@walks
@rates
def test_refuses_a_rate(walk: Callable, lr: object, error: type[Exception], message: str) -> None:
    for call in (
        lambda: walk(lr=lr),
        lambda: walk(lr=lr, steps=0),
        lambda: walk(lr=lambda step: lr),
        lambda: walk(lr=lambda step: [0.1, 0.1, lr][step]),
        lambda: walk(lambda x: x.log(), -1.0, lr=lambda step: [0.1, 0.1, lr][step]),  # diverged before
        lambda: backtracking(square, 1.0, -1.0, lr),
        lambda: backtracking(square, 1.0, 1.0, lr),
    ):
        with pytest.raises(error, match=f"^lr: expected {message}$"):
            call()


@walks
def test_a_schedule_is_asked_for_the_steps_that_are_taken(walk: Callable) -> None:
    asked = []
    walk(lr=lambda step: asked.append(step) or 0.1, steps=3)
    assert sorted(set(asked)) == [0, 1, 2]


@walks
@pytest.mark.parametrize(
    ("steps", "error", "message"),
    [
        (-1, ValueError, "at least 0, got -1"),
        (2.0, TypeError, "an int, got 2.0"),
        (True, TypeError, "an int, got True"),
        (None, TypeError, "an int, got None"),
    ],
    ids=repr,
)
def test_refuses_a_number_of_steps(walk: Callable, steps: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^steps: expected {message}$"):
        walk(steps=steps)


@pytest.mark.parametrize(
    ("momentum", "error", "message"),
    [
        (1, ValueError, r"a number in \[0, 1\), got 1"),
        (-0.1, ValueError, r"a number in \[0, 1\), got -0.1"),
        (math.nan, ValueError, r"a number in \[0, 1\), got nan"),
        ("0.9", TypeError, "a number, got '0.9'"),
        (False, TypeError, "a number, got False"),
    ],
    ids=repr,
)
def test_refuses_a_momentum(momentum: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^momentum: expected {message}$"):
        descend(momentum=momentum)


def test_refuses_momentum_with_backtracking() -> None:
    with pytest.raises(ValueError, match=r"^momentum: expected 0 with backtrack, got 0.9$"):
        descend(momentum=0.9, backtrack=True)
    assert torch.equal(descend(momentum=0, backtrack=True), descend(backtrack=True))


@pytest.mark.parametrize("backtrack", [0.5, 0, None, "no"])
def test_refuses_a_backtrack_that_is_no_bool(backtrack: object) -> None:
    for method in (descend, jump):
        with pytest.raises(TypeError, match=f"^backtrack: expected a bool, got {backtrack!r}$"):
            method(backtrack=backtrack)


@pytest.mark.parametrize(
    ("x0", "preconditioner", "error", "message"),
    [
        ((1, 2), 2.0, ValueError, r"shape \(2,\) or \(2, 2\), got \(\)"),
        ((1, 2), torch.ones(1, 2, 2), ValueError, r"shape \(\) or \(d,\) or \(d, d\), got \(1, 2, 2\)"),
        ((1, 2), torch.ones(3), ValueError, r"shape \(2,\) or \(2, 2\), got \(3,\)"),
        ((1, 2), torch.ones(2, 1), ValueError, r"shape \(2,\) or \(2, 2\), got \(2, 1\)"),
        (1, torch.ones(1), ValueError, r"shape \(\), got \(1,\)"),
        ((1, 2), torch.tensor([1.0, math.nan]), ValueError, r"finite numbers, got \[1.0, nan\]"),
        ((1, 2), torch.tensor([True, True]), TypeError, "real numbers, got torch.bool"),
        ((1, 2), torch.tensor([1j, 1]), TypeError, "real numbers, got torch.complex64"),
    ],
)
def test_refuses_a_preconditioner(x0: object, preconditioner: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^preconditioner: expected {message}$"):
        descend(x0=x0, preconditioner=preconditioner)


@pytest.mark.parametrize("hessian", ["Full", "", None, 1])
def test_refuses_a_hessian(hessian: object) -> None:
    with pytest.raises(ValueError, match=f"^hessian: expected one of full, absolute, diagonal, got {hessian!r}$"):
        jump(hessian=hessian)


@pytest.mark.parametrize(
    ("direction", "error", "message"),
    [
        ([1.0, 2.0, 3.0], ValueError, r"x's shape \(2,\), got \(3,\)"),
        (1.0, ValueError, r"x's shape \(2,\), got \(\)"),
        (torch.ones(1, 2), ValueError, r"shape \(\) or \(d,\), got \(1, 2\)"),
        ([math.inf, 0], ValueError, r"finite numbers, got \[inf, 0.0\]"),
        ([None, 0], TypeError, "numbers, got None"),
    ],
)
def test_backtracking_refuses_a_direction(direction: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^direction: expected {message}$"):
        backtracking(square, (1, 2), direction)


@pytest.mark.parametrize(("name", "interval"), [("slope", "(0, 1)"), ("shrink", "(0, 0.99]")])
def test_backtracking_refuses_a_share(name: str, interval: str) -> None:
    for value in (0, 1, -0.5, math.nan):
        with pytest.raises(ValueError, match=re.escape(f"{name}: expected a number in {interval}, got {value}")):
            backtracking(square, 1.0, 1.0, **{name: value})
    for value in (True, "0.5"):
        with pytest.raises(TypeError, match=f"^{name}: expected a number, got {value!r}$"):
            backtracking(square, 1.0, 1.0, **{name: value})
