"""Every theorem of the lesson on random instances, every counter-example exhibited; projections as solvers find them.

The random convex functions and sets are this file's own, built from what is convex by definition.
"""

import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.linalg import lstsq, orth
from scipy.optimize import brentq, lsq_linear, minimize, root
from torch import Generator, Tensor, nn
from torch.autograd import gradcheck

from lessons_lib.convexity import (
    Function,
    jensen_gap,
    lagrangian,
    penalised,
    project_ball,
    project_box,
    project_simplex,
    project_subspace,
)

F64 = torch.float64
EPS = torch.finfo(F64).eps
INF, NAN = math.inf, math.nan

dims = st.integers(1, 8)
generators = st.integers(0, 2**32 - 1).map(lambda seed: Generator().manual_seed(seed))
scales = st.sampled_from([1e-6, 1e-3, 1.0, 1e3, 1e6])


def cases(*strategies: st.SearchStrategy) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A property test on random instances, however long PyTorch takes to load an operation for the first."""
    return lambda test: settings(max_examples=25, deadline=None)(given(*strategies)(test))


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64)


def randn(g: Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=g, dtype=F64)


def rand(g: Generator, *shape: int) -> Tensor:
    return torch.rand(shape, generator=g, dtype=F64)


def draw(g: Generator, low: int, high: int) -> int:
    """An int from low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=g))


def random_weights(g: Generator, k: int) -> Tensor:
    """Not negative, of sum 1; about a third of them 0, but not all."""
    w = rand(g, k) * (rand(g, k) > 1 / 3)
    w[draw(g, 0, k - 1)] += 0.1
    return w / w.sum()


def gradient(f: Function, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(f(x), x)[0]


def hessian(f: Function, x: Tensor) -> Tensor:
    # Backward twice: torch.func.hessian goes forward too, and loading that warns in PyTorch 2.13.
    return torch.func.jacrev(torch.func.jacrev(f))(x)


# Random convex functions


def quadratic(g: Generator, d: int) -> Function:
    """½ |Q x|² + bᵀx: positive semi-definite, often singular."""
    Q, b = randn(g, draw(g, 1, d), d), randn(g, d)
    return lambda x: (Q @ x).square().sum() / 2 + b @ x


def maximum(g: Generator, d: int) -> Function:
    A, b = affine(g, draw(g, 1, 6), d)
    return lambda x: (A @ x + b).amax()


def log_sum_exp(g: Generator, d: int) -> Function:
    A, b = affine(g, draw(g, 1, 6), d)
    return lambda x: (A @ x + b).logsumexp(0)


def norm(g: Generator, d: int) -> Function:
    A, b = affine(g, draw(g, 1, 6), d)
    order = (1, 2, INF)[draw(g, 0, 2)]
    return lambda x: torch.linalg.vector_norm(A @ x + b, ord=order)


def affine(g: Generator, k: int, d: int) -> tuple[Tensor, Tensor]:
    return randn(g, k, d), randn(g, k)


SMOOTH = (quadratic, log_sum_exp)
ALL = (*SMOOTH, maximum, norm)


def convex(
    g: Generator, d: int, kinds: tuple[Callable[[Generator, int], Function], ...] = ALL, depth: int = 2
) -> Function:
    """A random convex function of d numbers: one of the kinds, a weighted sum of two, or one of an affine map of x."""
    rule = draw(g, 0, 2) if depth else 0
    if rule == 0:
        return kinds[draw(g, 0, len(kinds) - 1)](g, d)
    if rule == 1:
        (v, w), f1, f2 = rand(g, 2), convex(g, d, kinds, depth - 1), convex(g, d, kinds, depth - 1)
        return lambda x: v * f1(x) + w * f2(x)
    k = draw(g, 1, 4)
    (A, b), f = affine(g, k, d), convex(g, k, kinds, depth - 1)
    return lambda x: f(A @ x + b)


def rounding(*values: Tensor) -> float:
    """What sums of some dozens of terms may lose when terms that are ten times the values, and more, cancel."""
    return 1e-12 * (1 + max(float(value.detach().abs().max()) for value in values))


def gap_on_segment(f: Function, x: Tensor, y: Tensor, lam: float) -> Tensor:
    """λ f(x) + (1 − λ) f(y) − f(λ x + (1 − λ) y)."""
    return jensen_gap(f, torch.stack([x, y]), tensor(lam, 1 - lam))


def assert_convex(f: Function, g: Generator, d: int) -> None:
    for _ in range(5):
        x, y, lam = randn(g, d), randn(g, d), float(rand(g))
        assert gap_on_segment(f, x, y, lam) >= -rounding(f(x), f(y))


# Random convex sets: each is where its excess, a convex function, is at most 0, and has `centre` inside


def half_space(g: Generator, centre: Tensor) -> Function:
    a, room = randn(g, len(centre)), rand(g) + 0.1
    return lambda x: a @ (x - centre) - room


def ball(g: Generator, centre: Tensor) -> Function:
    u, room = randn(g, len(centre)), rand(g) + 0.1
    return lambda x: (x - centre - u).norm() - u.norm() - room


def box(g: Generator, centre: Tensor) -> Function:
    low, high = centre - rand(g, len(centre)) - 0.1, centre + rand(g, len(centre)) + 0.1
    return lambda x: torch.maximum(low - x, x - high).amax()


def convex_sets(g: Generator, centre: Tensor) -> list[Function]:
    kinds = (half_space, ball, box)
    return [kinds[draw(g, 0, 2)](g, centre) for _ in range(draw(g, 1, 4))]


def member(g: Generator, excess: Function, centre: Tensor) -> Tensor:
    """A random point of the set, often near its border: a step from the centre, shortened until it stays inside."""
    step = 10 * randn(g, len(centre))
    points = (centre + 0.8**k * step for k in range(100))
    return next(x for x in points if excess(x) <= 0)


# Sets


@cases(generators, dims)
def test_theorem_intersection_is_convex(g: Generator, d: int) -> None:
    centre = randn(g, d)
    sets = convex_sets(g, centre)

    def excess(x: Tensor) -> Tensor:
        return torch.stack([one(x) for one in sets]).amax()

    x, y = member(g, excess, centre), member(g, excess, centre)
    for lam in rand(g, 10):
        assert excess(lam * x + (1 - lam) * y) <= rounding(x, y)


def test_counterexample_kidney_is_not_convex() -> None:
    def kidney(x: Tensor) -> bool:  # a ball with a bite
        return bool(x.norm() <= 1 and (x - tensor(0.8, 0)).norm() >= 0.7)

    ends = tensor(0.5, 0.75), tensor(0.5, -0.75)
    assert all(map(kidney, ends)) and not kidney((ends[0] + ends[1]) / 2)


@cases(dims)
def test_counterexample_union_of_disjoint_balls_is_not_convex(d: int) -> None:
    centre = 2 * torch.eye(d, dtype=F64)[0]

    def union_contains(x: Tensor) -> bool:
        return any(torch.equal(project_ball(x - c) + c, x) for c in (centre, -centre))

    assert union_contains(centre) and union_contains(-centre)
    assert not union_contains((centre + -centre) / 2)


# Functions


@cases(generators, dims, st.integers(1, 8))
def test_theorem_jensen_inequality(g: Generator, d: int, k: int) -> None:
    f, points, weights = convex(g, d), randn(g, k, d), random_weights(g, k)
    gap = jensen_gap(f, points, weights)
    assert gap >= -rounding(*map(f, points))
    by_hand = sum(w * f(x) for w, x in zip(weights, points, strict=True)) - f((weights[:, None] * points).sum(0))
    torch.testing.assert_close(gap, by_hand, rtol=0, atol=rounding(*map(f, points)))


@cases(generators, st.integers(1, 8))
def test_theorem_jensen_inequality_is_that_of_mean_and_variance_for_the_square(g: Generator, k: int) -> None:
    x, w = randn(g, k), random_weights(g, k)
    variance = (w * (x - (w * x).sum()) ** 2).sum()
    torch.testing.assert_close(jensen_gap(torch.square, x, w), variance, rtol=0, atol=rounding(x**2))


def test_counterexample_cosine_breaks_jensen_inequality() -> None:
    gap = jensen_gap(torch.cos, tensor(-1, 1), tensor(0.5, 0.5))
    torch.testing.assert_close(gap, torch.tensor(math.cos(1) - 1, dtype=F64))  # −0.46


def test_counterexample_loss_of_a_two_layer_net_breaks_jensen_inequality() -> None:
    X = torch.linspace(-2, 2, 20, dtype=F64)

    def loss(w: Tensor) -> Tensor:
        return (w[1] * torch.tanh(w[0] * X) - torch.tanh(X)).square().mean()

    # Flipping the signs of both layers changes nothing: two minima, of loss 0, and between them a net that is 0.
    minima = torch.stack([tensor(1, 1), tensor(-1, -1)])
    assert jensen_gap(loss, minima, tensor(0.5, 0.5)) == -torch.tanh(X).square().mean() < -0.1


@cases(generators, dims)
def test_theorem_local_minimum_of_convex_is_global(g: Generator, d: int) -> None:
    f, x, y = convex(g, d), randn(g, d), randn(g, d)
    if f(y) > f(x):
        x, y = y, x
    for lam in (1e-3, 0.01, *rand(g, 5).clamp(min=1e-3).tolist(), 1.0):
        assume(lam * (f(x) - f(y)) > rounding(f(x), f(y)))  # or the difference is not worth its digits
        bound = (1 - lam) * f(x) + lam * f(y)
        assert f(x + lam * (y - x)) <= bound + rounding(f(x), f(y))
        assert bound < f(x)  # a lower point as near to x as one likes: x is no local minimum


def test_counterexample_x_cos_pi_x_has_a_local_minimum_that_is_not_global() -> None:
    def f(x: Tensor) -> Tensor:
        return x * torch.cos(torch.pi * x)

    local = torch.tensor(-0.27385268680085, dtype=F64)
    assert abs(gradient(f, local)) < 1e-12 and hessian(f, local) > 0
    near = local + torch.linspace(-0.2, 0.2, 400, dtype=F64)
    assert (f(near) > f(local)).all()
    assert f(torch.tensor(1.0, dtype=F64)) == -1 < f(local)


@cases(generators, dims)
def test_theorem_sublevel_sets_of_convex_are_convex(g: Generator, d: int) -> None:
    f, x, y = convex(g, d), randn(g, d), randn(g, d)
    level = max(f(x), f(y))
    for lam in rand(g, 10):
        assert f(lam * x + (1 - lam) * y) <= level + rounding(f(x), f(y))


ordinary = st.floats(-100, 100, allow_subnormal=False)  # the others lose digits in a product


@cases(ordinary, ordinary, st.floats(0, 1))
def test_counterexample_root_of_abs_has_convex_sublevel_sets_and_is_not_convex(x: float, y: float, lam: float) -> None:
    def f(x: Tensor) -> Tensor:
        return x.abs().sqrt()

    z = lam * tensor(x) + (1 - lam) * tensor(y)
    assert f(z) <= max(f(tensor(x)), f(tensor(y))) * (1 + 4 * EPS)
    torch.testing.assert_close(jensen_gap(f, tensor(0, 1), tensor(0.5, 0.5)), torch.tensor(0.5 - 0.5**0.5, dtype=F64))


@cases(generators, dims)
def test_theorem_first_order_condition(g: Generator, d: int) -> None:
    f, x = convex(g, d), randn(g, d)  # with probability 1 there is a gradient at x, also where f has kinks
    for scale in (1e-2, 1, 10):
        y = x + scale * randn(g, d)
        slope = gradient(f, x) @ (y - x)
        assert f(y) >= f(x) + slope - rounding(f(x), f(y), slope)


def test_counterexample_cosine_breaks_the_first_order_condition() -> None:
    x, y = torch.zeros((), dtype=F64), torch.tensor(math.pi, dtype=F64)
    assert torch.cos(y) == -1 < torch.cos(x) + gradient(torch.cos, x) * (y - x)


@cases(generators, dims)
def test_theorem_first_order_condition_where_it_holds_so_does_convexity(g: Generator, d: int) -> None:
    difference = convex(g, d, SMOOTH), convex(g, d, SMOOTH)
    f, x, y, lam = (lambda x: difference[0](x) - difference[1](x)), randn(g, d), randn(g, d), float(rand(g))
    z = lam * x + (1 - lam) * y
    above = [f(end) - f(z) - gradient(f, z) @ (end - z) for end in (x, y)]
    gap, error = gap_on_segment(f, x, y, lam), rounding(*(part(end) for part in difference for end in (x, y, z)))
    # As in the proof: the tangent's terms cancel. So a chord below f takes one of its ends below a tangent.
    torch.testing.assert_close(lam * above[0] + (1 - lam) * above[1], gap, rtol=0, atol=error)
    if gap < -error:
        assert min(above) < 0


@cases(generators, dims)
def test_theorem_a_point_without_slope_is_a_global_minimum_of_a_convex_function(g: Generator, d: int) -> None:
    tilted, x = convex(g, d), randn(g, d)
    slope = gradient(tilted, x)

    def f(x: Tensor) -> Tensor:
        return tilted(x) - slope @ x

    assert gradient(f, x).norm() <= rounding(slope)
    for scale in (1e-2, 1, 10):
        y = x + scale * randn(g, d)
        assert f(y) >= f(x) - rounding(tilted(x), tilted(y), slope.norm() * y.norm(), slope.norm() * x.norm())


@cases(generators, dims)
def test_theorem_second_order_condition(g: Generator, d: int) -> None:
    f, x = convex(g, d, SMOOTH), randn(g, d)
    lam = torch.linalg.eigvalsh(hessian(f, x))
    assert lam[0] >= -rounding(lam)


@cases(generators, st.integers(2, 8))
def test_theorem_second_order_condition_where_it_fails_so_does_jensen(g: Generator, d: int) -> None:
    H = randn(g, d, d)
    H = H + H.T
    lam, V = torch.linalg.eigh(H)
    assume(lam[0] < -1e-3)

    def f(x: Tensor) -> Tensor:
        return x @ H @ x / 2

    x = randn(g, d)
    torch.testing.assert_close(gap_on_segment(f, x + V[:, 0], x - V[:, 0], 0.5), lam[0] / 2, rtol=0, atol=1e-12)


def tanh_network(g: Generator, d: int) -> tuple[Tensor, Tensor, Function]:
    """W, v and Σ vᵢ tanh((W x + b)ᵢ), whose Hessian has eigenvalues of both signs."""
    (W, b), v = affine(g, 6, d), randn(g, 6)
    return W, v, lambda x: v @ torch.tanh(W @ x + b)


@cases(generators, dims)
def test_theorem_second_order_condition_where_it_holds_everywhere_so_does_jensen(g: Generator, d: int) -> None:
    W, v, hills = tanh_network(g, d)
    # |tanh''| is at most 4/√27, so the Hessian of the hills is at least −bend, and that of f at least 0.
    bend = torch.linalg.eigvalsh(W.T * (v.abs() * 4 / 27**0.5) @ W)[-1]

    def f(x: Tensor) -> Tensor:
        return hills(x) + bend / 2 * x @ x

    assert torch.linalg.eigvalsh(hessian(f, randn(g, d)))[0] >= -rounding(bend)
    assert_convex(f, g, d)


@cases(generators, dims)
def test_theorem_second_order_condition_where_it_fails_so_does_jensen_nearby(g: Generator, d: int) -> None:
    W, v, f = tanh_network(g, d)
    x = randn(g, d)
    lam, V = torch.linalg.eigh(hessian(f, x))
    assume(lam[0] < -1e-2)
    step = 1e-3
    gap = gap_on_segment(f, x + step * V[:, 0], x - step * V[:, 0], 0.5)
    fourth = 4.1 * v.abs() @ (W @ V[:, 0]) ** 4  # no fourth derivative of tanh is above 4.1
    torch.testing.assert_close(gap, step**2 / 2 * lam[0], rtol=0, atol=float(step**4 / 24 * fourth + rounding(v)))
    assert gap < 0


def test_counterexample_strictly_convex_though_the_second_derivative_vanishes() -> None:
    def f(x: Tensor) -> Tensor:
        return x**4

    assert hessian(f, torch.zeros((), dtype=F64)) == 0
    grid = torch.linspace(-2, 2, 21, dtype=F64)
    gaps = [gap_on_segment(f, x, y, lam) for x in grid for y in grid if x < y for lam in (0.1, 0.5, 0.9)]
    assert min(gaps) > 1e-5  # for neighbours at 0, 0.2 apart: 9/128 · 0.2⁴ or so


def test_counterexample_cube_fails_the_second_order_condition_left_of_zero() -> None:
    def f(x: Tensor) -> Tensor:
        return x**3

    for x in torch.linspace(0.1, 2, 20, dtype=F64):
        assert hessian(f, -x) < 0 < hessian(f, x)
        assert gap_on_segment(f, -x, torch.zeros_like(x), 0.5) < 0 < gap_on_segment(f, x, torch.zeros_like(x), 0.5)


# Strong convexity and smoothness


def strong_quadratic(g: Generator, d: int) -> tuple[Tensor, Tensor, Function]:
    """Q, b and ½ xᵀQx + bᵀx, with eigenvalues of Q from 0.1 to 10."""
    V, lam = torch.linalg.qr(randn(g, d, d)).Q, 10 ** (2 * rand(g, d) - 1)
    Q, b = V * lam @ V.T, randn(g, d)
    return Q, b, lambda x: x @ Q @ x / 2 + b @ x


def minimum(f: Function, start: Tensor) -> Tensor:
    """The minimum of a strongly convex, smooth f, as SciPy finds it."""

    def slope(x: np.ndarray) -> np.ndarray:
        return gradient(f, torch.from_numpy(x)).numpy()

    def bend(x: np.ndarray) -> np.ndarray:
        return hessian(f, torch.from_numpy(x)).numpy()

    def value(x: np.ndarray) -> float:
        return f(torch.from_numpy(x)).item()

    near = minimize(value, start.numpy(), jac=slope, method="BFGS", options=dict(gtol=1e-6)).x
    # Differences of f say no more where the minimum is; its gradient, which is monotone, still does.
    found = torch.from_numpy(root(slope, near, jac=bend, tol=1e-14).x)
    assert gradient(f, found).norm() < 1e-9
    return found


def check_strong_and_smooth(f: Function, mu: float, L: float, lowest: Tensor, g: Generator) -> None:
    for scale in (0.1, 1, 10):
        x, y = lowest + scale * randn(g, len(lowest)), lowest + scale * randn(g, len(lowest))
        grad = gradient(f, x)
        error = rounding(f(x), f(y), grad @ (y - x))
        rest = f(y) - f(x) - grad @ (y - x)
        assert mu / 2 * (y - x).square().sum() - error <= rest <= L / 2 * (y - x).square().sum() + error
        excess = f(x) - f(lowest)
        assert grad.square().sum() / (2 * L) - error <= excess <= grad.square().sum() / (2 * mu) + error


@cases(generators, dims)
def test_theorem_strong_convexity_and_smoothness_of_quadratics(g: Generator, d: int) -> None:
    Q, b, f = strong_quadratic(g, d)
    lam, V = torch.linalg.eigh(Q)
    lowest = -torch.linalg.solve(Q, b)
    assert gradient(f, lowest).abs().max() <= rounding(b)
    check_strong_and_smooth(f, lam[0].item(), lam[-1].item(), lowest, g)
    # Along the eigenvectors of either end, the bounds are attained: no better mu or L exists.
    for i in (0, -1):
        y = lowest + V[:, i]
        torch.testing.assert_close(f(y) - f(lowest), lam[i] / 2, rtol=0, atol=rounding(f(lowest), f(y)))
        slope = gradient(f, y).square().sum() / (2 * lam[i])
        torch.testing.assert_close(f(y) - f(lowest), slope, rtol=0, atol=rounding(f(lowest), f(y)))


@cases(generators, dims, st.integers(1, 6), st.sampled_from([0.1, 1.0]))
def test_theorem_strong_convexity_and_smoothness_of_regularised_log_sum_exp(
    g: Generator, d: int, k: int, mu: float
) -> None:
    A, b = affine(g, k, d)

    def f(x: Tensor) -> Tensor:
        return mu / 2 * x.square().sum() + (A @ x + b).logsumexp(0)

    L = mu + float(torch.linalg.matrix_norm(A, 2)) ** 2 / 2  # the Hessian of log Σ exp zᵢ is at most ½
    # The gradient there is below 1e-9, so f is within 1e-18 / (2 mu) of the minimum: the theorem itself says so.
    check_strong_and_smooth(f, mu, L, minimum(f, torch.zeros(d, dtype=F64)), g)


def test_counterexample_fourth_power_is_neither_strongly_convex_nor_smooth() -> None:
    def f(x: Tensor) -> Tensor:
        return x**4

    for c in (1e-3, 1.0, 1e3):
        near, far = torch.tensor(0.1 * c**0.5, dtype=F64), torch.tensor(10 * c**0.5, dtype=F64)
        assert f(near) < c / 2 * near**2 and f(far) > c / 2 * far**2  # against the same bound from the minimum at 0


# What keeps convexity


@cases(generators, dims, st.integers(1, 4))
def test_theorem_weighted_sum_maximum_and_affine_composition_are_convex(g: Generator, d: int, k: int) -> None:
    parts, w = [convex(g, d) for _ in range(k)], 3 * rand(g, k)
    assert_convex(lambda x: sum(weight * f(x) for weight, f in zip(w, parts, strict=True)), g, d)
    assert_convex(lambda x: torch.stack([f(x) for f in parts]).amax(), g, d)
    A, b = affine(g, d, k)
    assert_convex(lambda x: parts[0](A @ x + b), g, k)


def test_counterexample_minimum_of_convex_functions_is_not_convex() -> None:
    def f(x: Tensor) -> Tensor:
        return torch.minimum((x - 1) ** 2, (x + 1) ** 2)

    assert jensen_gap(f, tensor(-1, 1), tensor(0.5, 0.5)) == -1


def test_counterexample_negative_weight_and_convex_of_convex() -> None:
    assert jensen_gap(lambda x: x**2 - 2 * x**2, tensor(-1, 1), tensor(0.5, 0.5)) == -1
    assert jensen_gap(lambda x: (x**2 - 1) ** 2, tensor(-1, 1), tensor(0.5, 0.5)) == -1  # not affine inside


# Constraints


class Constrained:
    """Minimise ½ xᵀQx + bᵀx such that c(x) = aᵀx − e ≤ 0: all in closed form."""

    def __init__(self, g: Generator, d: int) -> None:
        self.Q, self.b, self.f = strong_quadratic(g, d)
        self.a, self.e = randn(g, d), randn(g)
        self.stiffness = self.a @ torch.linalg.solve(self.Q, self.a)
        self.needed = self.c(self.x(0.0))  # how far the free minimum breaks the constraint
        self.alpha = (self.needed / self.stiffness).clamp(min=0)

    def c(self, x: Tensor) -> Tensor:
        return self.a @ x - self.e

    def x(self, alpha: float | Tensor) -> Tensor:
        """Where L(x, α) is least in x."""
        return -torch.linalg.solve(self.Q, self.b + alpha * self.a)

    def size(self) -> Tensor:
        """What the digits of f near the solution are relative to."""
        return 1 + self.b.square().sum() * 10 + self.alpha * self.needed.abs()


@cases(generators, dims)
def test_theorem_weak_duality(g: Generator, d: int) -> None:
    problem, centre = Constrained(g, d), randn(g, d)
    constraints = [half_space(g, centre) for _ in range(draw(g, 1, 4))]
    A = torch.stack([gradient(c, centre) for c in constraints])
    alpha = 3 * rand(g, len(constraints)) * (rand(g, len(constraints)) > 0.3)
    L = lagrangian(problem.f, constraints)
    lowest = -torch.linalg.solve(problem.Q, problem.b + alpha @ A)
    assert gradient(lambda x: L(x, alpha), lowest).abs().max() <= rounding(problem.b, alpha, A @ A.T)
    x = member(g, lambda x: torch.stack([c(x) for c in constraints]).amax(), centre)
    assert L(lowest, alpha) <= problem.f(x) + rounding(problem.f(x), L(lowest, alpha))


@cases(generators, dims)
def test_theorem_saddle_point(g: Generator, d: int) -> None:
    problem = Constrained(g, d)
    L, best, alpha = lagrangian(problem.f, [problem.c]), problem.x(problem.alpha), problem.alpha[None]
    error = rounding(problem.size(), problem.f(best))
    assert problem.c(best) <= error and abs(alpha * problem.c(best)) <= error  # best is allowed, and slack or free
    torch.testing.assert_close(L(best, alpha), problem.f(best), rtol=0, atol=error)  # no duality gap
    for _ in range(5):
        other, x = problem.alpha + randn(g, 1), best + randn(g, d)
        assert L(best, other.clamp(min=0)) <= L(best, alpha) + error
        assert L(best, alpha) <= L(x, alpha) + error
        if problem.c(x) <= 0:
            assert problem.f(best) <= problem.f(x) + error
        dual = L(problem.x(other.clamp(min=0)), other.clamp(min=0))
        assert dual <= problem.f(best) + error


@cases(generators, dims)
def test_theorem_saddle_point_is_where_an_independent_solver_stops(g: Generator, d: int) -> None:
    problem = Constrained(g, d)
    Q, b, a, e = (t.numpy() for t in (problem.Q, problem.b, problem.a, problem.e))
    found = minimize(
        lambda x: x @ Q @ x / 2 + b @ x,
        torch.zeros(d).double().numpy(),
        jac=lambda x: Q @ x + b,
        constraints=dict(type="ineq", fun=lambda x: e - a @ x, jac=lambda x: -a),
        method="SLSQP",
        options=dict(ftol=1e-14, maxiter=1000),
    )
    # The solver stops where f changes by 1e-14 or so; with curvature of 0.1, that is 1e-6 in x.
    torch.testing.assert_close(problem.x(problem.alpha), torch.from_numpy(found.x), rtol=1e-5, atol=1e-5)


class Optimal:
    """Minimise ½ xᵀQx + bᵀx such that all cᵢ(x) ≤ 0: convex, smooth, with a known best point and its multipliers.

    At `best` each constraint is met exactly, and pushes; only the last one is slack. `inwards` leaves all of them.
    """

    def __init__(self, g: Generator, d: int) -> None:
        self.best, self.inwards = randn(g, d), randn(g, d)
        tight = [self.constraint(g, convex(g, d, SMOOTH)) for _ in range(draw(g, 1, 3))]
        slack, room = self.constraint(g, convex(g, d, SMOOTH)), rand(g) + 0.1
        self.constraints = [*tight, lambda x: slack(x) - room]
        self.alpha = torch.cat([2 * rand(g, len(tight)), torch.zeros(1, dtype=F64)])
        self.Q = strong_quadratic(g, d)[0]
        push = sum(a * gradient(c, self.best) for a, c in zip(self.alpha, self.constraints, strict=True))
        self.b = -push - self.Q @ self.best  # the Karush–Kuhn–Tucker conditions
        free = -torch.linalg.solve(self.Q, self.b)
        self.m = self.f(free)
        self.start = free

    def constraint(self, g: Generator, q: Function) -> Function:
        """q(x) − q(best), or its mirror image, whichever falls inwards."""
        best, sign = self.best, -gradient(q, self.best).dot(self.inwards).sign()
        return lambda x: q(best + sign * (x - best)) - q(best)

    def f(self, x: Tensor) -> Tensor:
        return x @ self.Q @ x / 2 + self.b @ x

    def worst(self, x: Tensor) -> Tensor:
        return torch.stack([c(x) for c in self.constraints]).amax()

    def size(self, *points: Tensor) -> float:
        """What the digits of f and of L at these points are relative to."""
        terms = [[x @ self.Q @ x, self.b.norm() * x.norm()] for x in (self.best, *points)]
        return rounding(*sum(terms, []), *(10 * self.alpha.sum() * c(x) for c in self.constraints for x in points))


@cases(generators, dims)
def test_theorem_karush_kuhn_tucker_point_is_a_best_one(g: Generator, d: int) -> None:
    problem = Optimal(g, d)
    L, best, alpha = lagrangian(problem.f, problem.constraints), problem.best, problem.alpha
    error = problem.size()
    assert gradient(lambda x: L(x, alpha), best).abs().max() <= 10 * error
    assert abs(problem.worst(best)) <= error and problem.constraints[-1](best) < -0.09
    torch.testing.assert_close(L(best, alpha), problem.f(best), rtol=0, atol=error)
    for _ in range(5):
        x, step = best + randn(g, d), problem.inwards + 0.3 * randn(g, d)
        assert L(x, alpha) >= L(best, alpha) - problem.size(x)
        t = 1.0
        while problem.worst(best + t * step) > 0 and t > 1e-6:
            t = t / 2
        if t > 1e-6:  # else the step leads out of what is allowed
            assert problem.f(best + t * step) >= problem.f(best) - problem.size(best + t * step)


@cases(generators, dims)
def test_theorem_karush_kuhn_tucker_point_is_where_an_independent_solver_stops(g: Generator, d: int) -> None:
    problem = Optimal(g, d)

    def constraint(c: Function) -> dict:
        return dict(
            type="ineq",
            fun=lambda x: -c(torch.from_numpy(x)).item(),
            jac=lambda x: -gradient(c, torch.from_numpy(x)).numpy(),
        )

    found = minimize(
        lambda x: problem.f(torch.from_numpy(x)).item(),
        (problem.best + 0.1 * randn(g, d)).numpy(),
        jac=lambda x: gradient(problem.f, torch.from_numpy(x)).numpy(),
        constraints=[constraint(c) for c in problem.constraints],
        method="SLSQP",
        options=dict(ftol=1e-14, maxiter=1000),
    )
    # It compares values: near the best point they say little of where it is.
    x = torch.from_numpy(found.x)
    assert problem.worst(x) <= 1e5 * problem.size(x)
    assert abs(problem.f(x) - problem.f(problem.best)) <= 1e5 * problem.size(x)


@settings(max_examples=10, deadline=None)
@given(generators, dims)
def test_theorem_penalties_of_several_constraints(g: Generator, d: int) -> None:
    problem = Optimal(g, d)
    f_best, x = problem.f(problem.best), problem.start
    last_cost, last_f = INF, -INF
    for weight in (0.01, 0.1, 1.0, 10.0):
        x = minimum(penalised(problem.f, problem.constraints, weight), x)
        cost = penalised(lambda x: 0 * x.sum(), problem.constraints, 1.0)(x)
        # The gradient at x is below 1e-9 and the curvature at least 0.1: x is off by 1e-8 at most.
        error = 1e5 * problem.size(x)
        assert cost <= last_cost + error
        assert last_f - error <= problem.f(x) <= f_best + error
        assert cost <= (f_best - problem.m) / weight + error
        last_cost, last_f = cost, problem.f(x)


@pytest.mark.parametrize("weight", [1.0, 10.0, 100.0, 1e4])
def test_counterexample_without_a_multiplier_weight_times_violation_has_no_limit(weight: float) -> None:
    F = penalised(lambda x: x, [torch.square], weight)  # x with x² ≤ 0: only 0 is allowed
    x = -((2 * torch.tensor(weight, dtype=F64)) ** (-1 / 3))
    assert abs(gradient(F, x)) < 1e-14 and hessian(F, x) > 0
    assert weight * x**2 == pytest.approx((weight / 4) ** (1 / 3))  # 0.63, 1.36, 2.92, 13.6
    assert gradient(torch.square, tensor(0)[0]) == 0  # so no multiplier makes up for the slope of 1


@cases(generators, dims)
def test_theorem_penalties_approach_the_constraint_from_outside(g: Generator, d: int) -> None:
    problem = Constrained(g, d)
    assume(problem.needed > 1e-3)
    best = problem.f(problem.x(problem.alpha))
    error = rounding(problem.size(), best)
    violations, values, distances = [problem.needed], [problem.f(problem.x(0.0))], [problem.alpha]
    for weight in (0.1, 1.0, 10.0, 100.0, 1000.0):
        alpha = weight * problem.needed / (1 + weight * problem.stiffness)
        x = problem.x(alpha)
        # The gradient of what is strongly convex vanishes at its minimum alone.
        slope = gradient(penalised(problem.f, [problem.c], weight), x)
        assert slope.norm() <= rounding(problem.size(), weight * problem.a.square().sum() * problem.needed)
        torch.testing.assert_close(weight * problem.c(x), alpha, rtol=0, atol=weight * error)
        assert 0 < problem.c(x) < violations[-1]
        assert problem.c(x) ** 2 / 2 <= (best - problem.f(problem.x(0.0)) + error) / weight
        assert values[-1] <= problem.f(x) + error and problem.f(x) <= best + error
        assert abs(alpha - problem.alpha) < distances[-1]
        violations.append(problem.c(x))
        values.append(problem.f(x))
        distances.append(abs(alpha - problem.alpha))
    # The last multiplier is off by α* / (1 + weight aᵀQ⁻¹a), as the closed form says.
    torch.testing.assert_close(distances[-1], problem.alpha / (1 + 1000 * problem.stiffness), rtol=1e-6, atol=error)


@cases(generators, dims)
def test_theorem_penalties_change_nothing_where_the_free_minimum_is_allowed(g: Generator, d: int) -> None:
    problem = Constrained(g, d)
    assume(problem.needed <= 0)
    x = problem.x(0.0)
    assert penalised(problem.f, [problem.c], 1e3)(x) == problem.f(x)


@cases(generators, dims, st.integers(0, 3), st.sampled_from([0, 0.5, 3, 1e4]))
def test_penalised_and_lagrangian_are_their_formulas(g: Generator, d: int, k: int, weight: float) -> None:
    f, constraints, x, alpha = convex(g, d), [convex(g, d) for _ in range(k)], randn(g, d), randn(g, k)
    values = torch.stack([f(x), *(c(x) for c in constraints)])
    penalty = sum(0.5 * weight * max(0.0, c) ** 2 for c in values[1:].tolist())
    wanted = f(x).item() + penalty
    torch.testing.assert_close(penalised(f, constraints, weight)(x).item(), wanted, rtol=1e-14, atol=1e-14)
    L = f(x).item() + sum(a * c for a, c in zip(alpha.tolist(), values[1:].tolist(), strict=True))
    got = lagrangian(f, constraints)(x, alpha).item()
    assert abs(got - L) <= 1e-14 * (1 + values.abs().sum() * (1 + alpha.abs().sum()))


def test_penalised_is_once_differentiable_where_the_constraint_begins() -> None:
    f = penalised(lambda x: 0 * x, [lambda x: x], weight=6)
    for x, slope in ((-1e-9, 0.0), (0.0, 0.0), (2.0**-30, 6 * 2.0**-30), (2.0, 12.0)):
        assert gradient(f, torch.tensor(x, dtype=F64)) == slope
    assert hessian(f, torch.tensor(-1.0, dtype=F64)) == 0 and hessian(f, torch.tensor(1.0, dtype=F64)) == 6


def test_penalised_and_lagrangian_take_a_grid_of_points() -> None:
    x, alpha = randn(Generator().manual_seed(0), 2, 3, 4), tensor(0.7)

    def f(x: Tensor) -> Tensor:
        return (x**2).sum(0)

    def c(x: Tensor) -> Tensor:
        return x[0] + x[1]

    P, L = penalised(f, [c], 2), lagrangian(f, [c])
    assert P(x).shape == L(x, alpha).shape == (3, 4)
    torch.testing.assert_close(P(x)[1, 2], P(x[:, 1, 2]), rtol=1e-14, atol=0)
    torch.testing.assert_close(L(x, alpha)[1, 2], L(x[:, 1, 2], alpha), rtol=1e-14, atol=1e-14)


# Projections


class Projection:
    """One of the four onto a random set in d dimensions of about the size `scale`, and random points of that set.

    `corner()` is a point of its border, with a direction from there that leads away from the whole set.
    """

    def __init__(self, name: str, g: Generator, d: int, scale: float = 1.0, dtype: torch.dtype = F64) -> None:
        size = scale * float(0.1 + rand(g))
        if name == "ball":
            self.project = lambda x: project_ball(x, size)
            self.member = lambda: size * rand(g) * nn.functional.normalize(randn(g, d), dim=0)
            self.corner = lambda: (u := size * nn.functional.normalize(randn(g, d), dim=0), u)
        elif name == "box":
            low, high = (scale * randn(g, 2, d)).sort(0).values.to(dtype)
            self.project = lambda x: project_box(x, low, high)
            self.member = lambda: low + rand(g, d) * (high - low)
            side = torch.randint(-1, 2, (d,), generator=g).to(dtype)  # at the lower bound, at none, at the upper
            middle = (low + high) / 2
            bound = torch.where(side < 0, low, torch.where(side > 0, high, middle))
            self.corner = lambda: (bound, scale * rand(g, d) * side)
        elif name == "simplex":
            self.project = lambda x: project_simplex(x, size)
            self.member = lambda: size * random_weights(g, d)
            corner = self.member()
            self.corner = lambda: (corner, scale * (randn(g) - rand(g, d) * (corner == 0)))
        else:
            # Sizes from ½ to 2: the nearer a column is to the span of the others, the more does rounding turn the span.
            r = draw(g, 1, d)
            A = torch.linalg.qr(randn(g, d, r)).Q * (2 * rand(g, r) - 1).exp2() @ torch.linalg.qr(randn(g, r, r)).Q
            A = A.to(dtype)
            self.project = lambda x: project_subspace(x, A)
            self.member = lambda: scale * A @ randn(g, A.shape[1])
            normals = torch.linalg.qr(A, mode="complete").Q[:, A.shape[1] :]
            self.corner = lambda: (self.member(), scale * normals @ randn(g, normals.shape[1]).to(dtype))


projections = pytest.mark.parametrize("name", ["ball", "box", "simplex", "subspace"])


@projections
@cases(generators, dims, scales)
def test_theorem_projection_is_the_nearest_point(name: str, g: Generator, d: int, scale: float) -> None:
    P, x = Projection(name, g, d, scale), 2 * scale * randn(g, d)
    nearest = P.project(x)
    for _ in range(5):
        z = P.member()
        to_x, to_z = x - nearest, z - nearest
        # Both differences are off by the rounding of the points, not only of themselves.
        size = 20 * EPS * (x.norm() + nearest.norm() + z.norm())
        assert to_x @ to_z <= size * (to_x.norm() + to_z.norm())
        assert to_x.norm() <= (x - z).norm() + size


@projections
@cases(generators, dims, scales)
def test_theorem_projection_is_the_only_nearest_point(name: str, g: Generator, d: int, scale: float) -> None:
    P, x = Projection(name, g, d, scale), 2 * scale * randn(g, d)
    p = P.project(x)
    for z in (P.member(), p + 1e-3 * (P.member() - p)):
        size = 20 * EPS * (x.norm() + p.norm() + z.norm()) ** 2
        assert (x - z) @ (x - z) >= (x - p) @ (x - p) + (z - p) @ (z - p) - size  # as the theorem's angle says


@projections
@cases(generators, dims, scales)
def test_theorem_a_point_with_the_whole_set_behind_it_is_the_projection(
    name: str, g: Generator, d: int, scale: float
) -> None:
    P = Projection(name, g, d, scale)
    p, outwards = P.corner()
    for _ in range(5):
        z = P.member()
        size = 20 * EPS * (p.norm() + z.norm()) * (outwards.norm() + scale)
        assert outwards @ (z - p) <= size
    for t in (1e-3, 1.0, 10.0):
        x = p + t * outwards
        torch.testing.assert_close(P.project(x), p, rtol=0, atol=20 * EPS * float(x.norm() + p.norm() + scale))


def test_counterexample_a_circle_s_centre_has_no_single_nearest_point() -> None:
    points = torch.stack([torch.linspace(0, 6, 7, dtype=F64).cos(), torch.linspace(0, 6, 7, dtype=F64).sin()], 1)
    torch.testing.assert_close(points.norm(dim=1), torch.ones(7, dtype=F64))  # seven points, all equally near 0
    # Nor does any have the rest of the circle behind it, as seen from the centre: the opposite point lies on 0's side.
    assert all(-p @ (-p - p) > 0 for p in points)


@projections
@cases(generators, dims, scales)
def test_theorem_projection_is_idempotent_and_leaves_members(name: str, g: Generator, d: int, scale: float) -> None:
    P, x = Projection(name, g, d, scale), 2 * scale * randn(g, d)
    for z in (P.project(x), P.member()):
        torch.testing.assert_close(P.project(z), z, rtol=0, atol=20 * EPS * float(z.norm()))


@projections
@cases(generators, dims, scales)
def test_theorem_projection_is_non_expansive(name: str, g: Generator, d: int, scale: float) -> None:
    P, x = Projection(name, g, d, scale), 2 * scale * randn(g, d)
    for step in (1e-3, 1.0):
        y = x + step * scale * randn(g, d)
        rounded = 20 * EPS * (x.norm() + y.norm() + P.project(x).norm())
        assert (P.project(x) - P.project(y)).norm() <= (x - y).norm() + rounded


def test_counterexample_projection_onto_a_set_that_is_not_convex_expands() -> None:
    def circle(x: Tensor) -> Tensor:
        return x / x.norm()

    x, y = tensor(0, 0.1), tensor(0, -0.1)
    assert (circle(x) - circle(y)).norm() == 2 > (x - y).norm()


@cases(generators, dims, scales, st.floats(0.01, 100))
def test_project_ball_as_a_root_finder_finds_it(g: Generator, d: int, scale: float, ratio: float) -> None:
    x = scale * randn(g, d)
    radius = float(x.norm()) / ratio
    # The multiplier: x − z = alpha z on the sphere, so |x| / (1 + alpha) is the radius.
    alpha = max(0.0, brentq(lambda alpha: ratio / (1 + alpha) - 1, -0.999, 1000, xtol=1e-15, rtol=4 * EPS))
    torch.testing.assert_close(project_ball(x, radius), x / (1 + alpha), rtol=1e-13, atol=0)


@cases(generators, dims, scales, st.floats(0.01, 100))
def test_project_ball_as_sequential_programming_finds_it(g: Generator, d: int, scale: float, ratio: float) -> None:
    x = ratio * nn.functional.normalize(randn(g, d), dim=0).numpy()
    assume(not 1 - 1e-5 < ratio < 1)  # or it is not to be told whether the constraint pushes
    found = minimize(
        lambda z: ((z - x) ** 2).sum() / 2,
        torch.full((d,), 0.1).double().numpy(),
        jac=lambda z: z - x,
        constraints=dict(type="ineq", fun=lambda z: (1 - z @ z) / 2, jac=lambda z: -z),
        method="SLSQP",
        options=dict(ftol=1e-16, maxiter=1000),
    ).x
    # As near as differences of squared distances show, about 1e-7. To come nearer, solve for a vanishing gradient of
    # the Lagrangian, in z and the multiplier, where the solver stopped at the border.
    if found @ found > 1 - 1e-6:
        start = torch.tensor([*found, (x - found) @ found], dtype=F64).numpy()
        found = root(lambda z: [*(z[:-1] - x + z[-1] * z[:-1]), (z[:-1] @ z[:-1] - 1) / 2], start, tol=1e-14).x[:-1]
    got = project_ball(scale * torch.from_numpy(x), scale) / scale
    torch.testing.assert_close(got, torch.from_numpy(found), rtol=0, atol=1e-8)


@cases(generators, dims, scales)
def test_project_box_as_bounded_least_squares_finds_it(g: Generator, d: int, scale: float) -> None:
    x = randn(g, d)
    low, high = randn(g, 2, d).sort(0).values
    assume((high - low).min() > 1e-6)  # the solver wants room
    found = lsq_linear(torch.eye(d).double().numpy(), x.numpy(), (low.numpy(), high.numpy()), tol=1e-14)
    got = project_box(scale * x, scale * low, scale * high) / scale
    torch.testing.assert_close(got, torch.from_numpy(found.x), rtol=0, atol=1e-8)


@cases(generators, st.integers(1, 30), scales, st.sampled_from([0.01, 1.0, 100.0]))
def test_project_simplex_as_a_root_finder_finds_it(g: Generator, d: int, scale: float, total: float) -> None:
    x = scale * randn(g, d)
    x = x - x.max()  # or the solver would find θ to the digits of x only, not to those of the total

    def surplus(theta: float) -> float:
        return float((x - theta).clamp(min=0).sum()) - total

    theta = brentq(surplus, -total, 0, xtol=1e-300, rtol=4 * EPS)
    torch.testing.assert_close(project_simplex(x, total), (x - theta).clamp(min=0), rtol=0, atol=1e-14 * total)


@cases(generators, dims)
def test_project_simplex_as_sequential_programming_finds_it(g: Generator, d: int) -> None:
    x = randn(g, d).numpy()
    found = minimize(
        lambda z: ((z - x) ** 2).sum() / 2,
        torch.full((d,), 1 / d).double().numpy(),
        jac=lambda z: z - x,
        bounds=[(0, None)] * d,
        constraints=dict(type="eq", fun=lambda z: z.sum() - 1, jac=lambda z: z * 0 + 1),
        method="SLSQP",
        options=dict(ftol=1e-16, maxiter=1000),
    )
    torch.testing.assert_close(project_simplex(torch.from_numpy(x)), torch.from_numpy(found.x), rtol=0, atol=1e-8)


@cases(generators, dims, dims, dims, scales)
def test_project_subspace_as_least_squares_finds_it(g: Generator, d: int, r: int, rank: int, scale: float) -> None:
    A, x = randn(g, d, rank) @ randn(g, rank, r), scale * randn(g, d)
    basis = torch.from_numpy(orth(A.numpy()))
    assume(torch.linalg.svdvals(A)[: min(d, r, rank)].min() > 1e-3 * torch.linalg.svdvals(A).max())
    fitted = A @ torch.from_numpy(lstsq(A.numpy(), x.numpy(), cond=1e-10)[0])
    atol = 1e-11 * scale * max(1.0, float(x.norm()) / scale)  # a condition number of 1000 costs three digits
    torch.testing.assert_close(project_subspace(x, A), fitted, rtol=0, atol=atol)
    torch.testing.assert_close(project_subspace(x, A), basis @ (basis.T @ x), rtol=0, atol=atol)


@cases(generators, st.integers(20, 60), st.integers(20, 60), st.integers(1, 5))
def test_project_subspace_takes_no_rounding_of_many_columns_for_a_direction(
    g: Generator, d: int, r: int, rank: int
) -> None:
    basis = torch.linalg.qr(randn(g, d, rank)).Q
    x, A = randn(g, d), basis @ randn(g, rank, r)
    torch.testing.assert_close(project_subspace(x, A), basis @ (basis.T @ x), rtol=0, atol=1e-12)


def test_project_ball_of_all_gradients_joined_is_gradient_clipping() -> None:
    g = Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    for parameter in net.parameters():
        nn.init.normal_(parameter, generator=g)
    net(randn(g, 7, 3)).square().mean().backward()
    joined = torch.cat([p.grad.flatten() for p in net.parameters()])
    norm = joined.norm()
    for radius in (0.1, 1.0, 2 * norm.item()):
        for p, part in zip(net.parameters(), joined.split([p.numel() for p in net.parameters()]), strict=True):
            p.grad = part.view_as(p).clone()
        nn.utils.clip_grad_norm_(net.parameters(), radius)
        clipped = torch.cat([p.grad.flatten() for p in net.parameters()])
        # PyTorch divides by the norm plus 1e-6, and so stays that little inside the ball.
        wanted = project_ball(joined, radius) * (norm / (norm + 1e-6) if norm > radius else 1)
        torch.testing.assert_close(clipped, wanted, rtol=1e-14, atol=0)
    assert norm > 1


# Projections: to the last digit, and at the ends of what floats can hold


def test_project_ball_by_hand() -> None:
    x = tensor(3, 4)
    assert project_ball(x).tolist() == [0.6, 0.8]
    assert project_ball(x, 2).tolist() == [1.2, 1.6]
    assert project_ball(x, 5).tolist() == project_ball(x, 5.1).tolist() == [3, 4]
    assert project_ball(tensor(0.6, 0.8)).tolist() == [0.6, 0.8]
    assert project_ball(tensor(-7), 0.5).tolist() == [-0.5]


@pytest.mark.parametrize("size", [5e-324, 1e-310, 1e-200, 1.0, 1e200, 1e300, 1.7e308])
@pytest.mark.parametrize("radius", [1e-300, 1.0, 1e300])
def test_project_ball_neither_overflows_nor_vanishes(size: float, radius: float) -> None:
    x = torch.tensor([[size, -size], [size, 0], [0, 0]], dtype=F64, requires_grad=True)
    z = project_ball(x, radius)
    half = [radius * 0.5**0.5, -radius * 0.5**0.5]
    assert z[0].tolist() == ([size, -size] if size < radius else pytest.approx(half, rel=1e-14, abs=0))
    assert z[1].tolist() == [min(size, radius), 0]
    assert z[2].tolist() == [0, 0]
    (slope,) = torch.autograd.grad(z.sum(), x)
    assert slope.isfinite().all()
    assert slope[2].tolist() == [1, 1]
    assert slope[1].tolist() == ([1, 1] if size <= radius else [0, pytest.approx(radius / size, rel=1e-14, abs=0)])


def test_project_ball_of_small_numbers_onto_a_smaller_ball() -> None:
    x = torch.tensor([3e-310, 4e-310], dtype=F64, requires_grad=True)
    z = project_ball(x, 1e-310)
    assert z.tolist() == pytest.approx([6e-311, 8e-311], rel=1e-12, abs=0)
    (slope,) = torch.autograd.grad(z[0], x)
    assert slope.tolist() == pytest.approx([0.2 * 0.64, -0.2 * 0.48], rel=1e-12)


def test_project_box_by_hand() -> None:
    x = torch.tensor([[-2.0, 0.5], [3.0, -1.0]], dtype=F64)
    assert project_box(x, 0, 1).tolist() == [[0, 0.5], [1, 0]]
    assert project_box(x, tensor(-1, 0), 1.5).tolist() == [[-1, 0.5], [1.5, 0]]
    assert project_box(x, -INF, torch.tensor([[0.0], [2.0]], dtype=F64)).tolist() == [[-2, 0], [2, -1]]
    assert project_box(x, -1, INF).tolist() == [[-1, 0.5], [3, -1]]
    assert project_box(x, 1, 1).tolist() == [[1, 1], [1, 1]]
    assert project_box(torch.tensor(7.0, dtype=F64), 0, 1) == 1
    assert project_box(x, 0.1, 0.7).tolist() == [[0.1, 0.5], [0.7, 0.1]]  # numbers keep all their digits


@pytest.mark.parametrize(
    ("x", "wanted"),
    [
        ([1, 1], [0.5, 0.5]),
        ([5, 0, 0], [1, 0, 0]),
        ([0, 5, 0], [0, 1, 0]),
        ([2, 2, 0, 2, 2], [0.25, 0.25, 0, 0.25, 0.25]),
        ([0.25, 0.75], [0.25, 0.75]),
        ([0.5, 0.25, -0.25], [0.625, 0.375, 0]),
        ([1, 0, -1], [1, 0, 0]),
        ([-3], [1]),
        ([1e308, -1e308, 0], [1, 0, 0]),
        ([1e300, 1e300], [0.5, 0.5]),
        ([-INF, 0, 0.5], [0, 0.25, 0.75]),
        ([5e-324, 0], [0.5, 0.5]),
    ],
    ids=str,
)
def test_project_simplex_by_hand(x: list[float], wanted: list[float]) -> None:
    x = torch.tensor(x, dtype=F64, requires_grad=True)
    z = project_simplex(x)
    assert z.tolist() == wanted
    (slope,) = torch.autograd.grad((z * torch.arange(len(z))).sum(), x)
    assert slope.isfinite().all()


@cases(generators, st.integers(1, 300), scales, st.sampled_from([0.0, -1e8, 1e8]), st.floats(1e-3, 1e3))
def test_project_simplex_has_the_right_sum_at_any_offset(
    g: Generator, d: int, scale: float, offset: float, total: float
) -> None:
    x = scale * randn(g, 3, d) + offset
    z = project_simplex(x, total)
    assert (z >= 0).all()
    assert ((z.sum(-1) - total).abs() <= 1e-15 * d * total).all()
    # The offset itself rounds x, but adds nothing to what the projection of that x is.
    torch.testing.assert_close(project_simplex(x - x[:, :1], total), z, rtol=0, atol=1e-15 * d * (total + scale))


@cases(generators, st.integers(1, 20), st.floats(1e-3, 1e3))
def test_project_simplex_keeps_equal_entries_equal_and_their_order(g: Generator, d: int, total: float) -> None:
    x = torch.randint(4, (d,), generator=g) * 0.3 * total
    x = x.to(F64)
    z = project_simplex(x, total)
    for value in x.unique():
        assert len(z[x == value].unique()) == 1
    assert (z[x.argsort(stable=True)].diff() >= 0).all()


def test_project_subspace_counts_short_columns_and_dependent_ones() -> None:
    x = tensor(1, 2, 3)
    for small in (5e-324, 1e-300, 1e-20, 1.0, 1e300):
        A = torch.tensor([[1, 0], [0, small], [0, 0]], dtype=F64)
        torch.testing.assert_close(project_subspace(x, A), tensor(1, 2, 0), rtol=1e-14, atol=1e-14)
    A = tensor(1, 1, 1)[:, None] * tensor(1, 2, 0, -3)  # more columns than dimensions, one direction
    torch.testing.assert_close(project_subspace(x, A), tensor(2, 2, 2), rtol=1e-14, atol=0)
    assert project_subspace(x, torch.zeros(3, 2, dtype=F64)).tolist() == [0, 0, 0]
    # Two directions that differ by 1e-10 are two.
    A = torch.tensor([[1, 1], [0, 1e-10], [0, 0]], dtype=F64)
    torch.testing.assert_close(project_subspace(x, A), tensor(1, 2, 0), rtol=1e-5, atol=1e-5)


# Projections: as functions of tensors


@projections
@cases(generators, st.integers(2, 6))
def test_projections_are_differentiable(name: str, g: Generator, d: int) -> None:
    P, x = Projection(name, g, d), randn(g, 2, d).requires_grad_()
    assert gradcheck(P.project, x, eps=1e-7, atol=1e-5, rtol=1e-5)


@projections
@cases(generators, dims)
def test_projections_take_each_last_dimension_vector_on_its_own(name: str, g: Generator, d: int) -> None:
    P, x = Projection(name, g, d), randn(g, 2, 3, d)
    z = P.project(x)
    assert z.shape == x.shape
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(P.project(x[i, j]), z[i, j], rtol=1e-14, atol=1e-15)
    assert P.project(x[:0]).shape == (0, 3, d)


@projections
@cases(generators, dims)
def test_projections_work_in_single_precision(name: str, g: Generator, d: int) -> None:
    state = g.get_state()
    exact = Projection(name, g, d)
    single = Projection(name, g.set_state(state), d, dtype=torch.float32)
    x = randn(g, d).float()
    z = single.project(x)
    assert z.dtype == torch.float32
    # The subspace's basis is as inexact as A is.
    tolerance = 1e-5 if name == "subspace" else 1e-6
    torch.testing.assert_close(z.double(), exact.project(x.double()), rtol=0, atol=tolerance)


@projections
def test_projections_never_change_their_input(name: str) -> None:
    g = Generator().manual_seed(0)
    P, x = Projection(name, g, 4), 3 * randn(g, 5, 4)
    before = x.clone()
    P.project(x).zero_()
    assert torch.equal(x, before)


@pytest.mark.parametrize("project", [project_ball, project_simplex])
def test_projections_stay_on_their_device(project: Function) -> None:
    assert project(torch.zeros(2, 3, device="meta")).device.type == "meta"


@projections
def test_nan_spreads_through_its_vector_and_no_further(name: str) -> None:
    g = Generator().manual_seed(0)
    P, x = Projection(name, g, 3), randn(g, 2, 3)
    clean = P.project(x)
    x[0, 1] = NAN
    z = P.project(x)
    assert z[0].isnan().tolist() == ([False, True, False] if name == "box" else [True] * 3)
    torch.testing.assert_close(z[1], clean[1], rtol=1e-14, atol=1e-15)


def test_infinity_leaves_no_nearest_point_in_ball_and_simplex() -> None:
    x = tensor(INF, 0, 1)
    assert project_ball(x).isnan().all() and project_simplex(x).isnan().all()
    assert project_box(x, -1, 0.5).tolist() == [0.5, 0, 0.5]


def test_project_subspace_takes_its_matrix_as_a_constant() -> None:
    x, A = tensor(1, 2).requires_grad_(), torch.ones(2, 1, dtype=F64, requires_grad=True)
    with pytest.raises(TypeError, match=r"^A: expected plain numbers, .*; use A\.detach\(\)$"):
        project_subspace(x, A)
    project_subspace(x, A.detach()).sum().backward()
    torch.testing.assert_close(x.grad, tensor(1, 1))
    with torch.no_grad():
        assert torch.equal(project_subspace(x, A), project_subspace(x, A.detach()))


def test_project_box_has_gradients_for_its_bounds() -> None:
    low, high = tensor(0, 0, 0).requires_grad_(), tensor(1, 1, 1).requires_grad_()
    project_box(tensor(-1, 0.5, 2), low, high).sum().backward()
    assert (low.grad.tolist(), high.grad.tolist()) == ([1, 0, 0], [0, 0, 1])


def test_jensen_gap_has_a_gradient() -> None:
    points, weights = tensor(1, 3).requires_grad_(), tensor(0.5, 0.5)
    jensen_gap(torch.square, points, weights).backward()
    assert points.grad.tolist() == [-1, 1]  # of (x − y)² / 4


def test_radius_and_total_are_one_unless_told_otherwise() -> None:
    x = tensor(30, 40)
    assert torch.equal(project_ball(x), project_ball(x, 1.0))
    assert torch.equal(project_simplex(x), project_simplex(x, 1.0))


def test_project_ball_has_no_second_derivative_inside_and_one_at_its_centre_too() -> None:
    for x in (tensor(0, 0), tensor(0, 0.5)):
        assert torch.equal(
            torch.autograd.functional.hessian(lambda x: project_ball(x).sum(), x), torch.zeros(2, 2).to(x)
        )


# What is refused


@pytest.mark.parametrize(
    "project",
    [project_ball, project_simplex, lambda x: project_box(x, 0, 1), lambda x: project_subspace(x, [[1], [1]])],
    ids=["ball", "simplex", "box", "subspace"],
)
def test_projections_take_numbers_of_any_kind(project: Function) -> None:
    expected = project(torch.tensor([1.0, 2.0]))
    for x in ([1, 2], (1.0, 2.0), torch.tensor([1, 2]), np.array([1, 2]), np.array([1, 2], np.float32)):
        assert torch.equal(project(x), expected)
    assert project(np.array([1.0, 2.0])).dtype == F64
    for x, got in ((torch.ones(2).cfloat(), "torch.complex64"), (torch.ones(2) > 0, "torch.bool")):
        with pytest.raises(TypeError, match=f"^x: expected real numbers, got {got}$"):
            project(x)
    with pytest.raises(TypeError, match="^x: expected numbers, got '12'$"):
        project("12")


@pytest.mark.parametrize(
    "project",
    [project_ball, project_simplex, lambda x: project_subspace(x, torch.ones(2, 1))],
    ids=["ball", "simplex", "subspace"],
)
@pytest.mark.parametrize(("x", "shape"), [(torch.tensor(1.0), r"\(\)"), (torch.ones(2, 0), r"\(2, 0\)")], ids=str)
def test_projections_want_vectors(project: Function, x: Tensor, shape: str) -> None:
    with pytest.raises(ValueError, match=rf"x: expected shape \(…, d\) with d of at least 1, got {shape}"):
        project(x)


@pytest.mark.parametrize(("project", "name"), [(project_ball, "radius"), (project_simplex, "total")])
@pytest.mark.parametrize("value", [0, -1.0, INF, -INF, NAN], ids=str)
def test_radius_and_total_are_positive_and_finite(project: Callable[..., Tensor], name: str, value: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{name}: expected a number in (0, inf), got {value}")):
        project(torch.ones(2), value)


@pytest.mark.parametrize(("project", "name"), [(project_ball, "radius"), (project_simplex, "total")])
@pytest.mark.parametrize("value", [True, "1", None, torch.ones(2)], ids=str)
def test_radius_and_total_are_numbers(project: Callable[..., Tensor], name: str, value: object) -> None:
    with pytest.raises(TypeError, match=re.escape(f"{name}: expected a number, got {value!r}")):
        project(torch.ones(2), value)


@pytest.mark.parametrize(("low", "high"), [(1, 0.5), (torch.tensor([0.0, 2.0]), 1)], ids=str)
def test_the_bounds_of_a_box_are_in_order(low: float | Tensor, high: float | Tensor) -> None:
    with pytest.raises(ValueError, match="low: expected at most high everywhere, got low = .+, high = "):
        project_box(torch.ones(3, 2), low, high)
    for bound, value in (("low", NAN), ("high", torch.tensor([0.0, NAN]))):
        with pytest.raises(ValueError, match=f"^{bound}: expected numbers, got NaN"):
            project_box(torch.ones(3, 2), **dict(low=low, high=high) | {bound: value})


@pytest.mark.parametrize("bound", ["low", "high"])
def test_the_bounds_of_a_box_are_numbers_or_tensors_like_x(bound: str) -> None:
    bounds = dict(low=-1.0, high=1.0)
    for value in (True, "1", None):
        with pytest.raises(TypeError, match=f"{bound}: expected numbers, got "):
            project_box(torch.ones(3, 2), **bounds | {bound: value})
    for value in ([1, 1], torch.tensor([1, 1]), np.ones(2, np.float32)):
        assert project_box(torch.ones(3, 2), **bounds | {bound: value}).dtype == torch.float32
    with pytest.raises(TypeError, match=f"{bound}: expected torch.float32, got torch.float64"):
        project_box(torch.ones(3, 2), **bounds | {bound: tensor(1, 1)})
    for shape in ((3,), (3, 1, 2), (1, 3, 2), (2, 2), (0,)):
        message = re.escape(f"{bound}: expected a shape that broadcasts to (3, 2), got {shape}")
        with pytest.raises(ValueError, match=message):
            project_box(torch.ones(3, 2), **bounds | {bound: torch.ones(shape)})


def test_a_subspace_has_a_finite_matrix_of_matching_shape() -> None:
    x = torch.ones(5, 3)
    for A in (torch.ones(3), torch.ones(2, 2), torch.ones(3, 0), torch.ones(1, 3, 2), torch.ones(3, 2)[0]):
        with pytest.raises(ValueError, match=r"A: expected shape \(3, r\) with r of at least 1, got \("):
            project_subspace(x, A)
    for value in (INF, -INF, NAN):
        with pytest.raises(ValueError, match="A: expected finite entries, got NaN or infinity"):
            project_subspace(x, torch.tensor([[1.0], [value], [0.0]]))
    with pytest.raises(TypeError, match="A: expected torch.float32, got torch.float64"):
        project_subspace(x, torch.ones(3, 1, dtype=F64))
    with pytest.raises(ValueError, match="A: expected rows of one length, got "):
        project_subspace(x, [[1.0], [1.0], []])


def test_jensen_gap_wants_points_and_weights_that_match() -> None:
    half = tensor(0.5, 0.5)
    for points in (torch.tensor(1.0), torch.ones(0), torch.ones(2, 0), torch.ones(2, 1, 1)):
        with pytest.raises(ValueError, match=r"points: expected shape \(k,\) or \(k, d\), got \("):
            jensen_gap(torch.sum, points.to(F64), half)
    for weights in (torch.tensor(1.0), torch.ones(3), torch.ones(2, 1)):
        with pytest.raises(ValueError, match=r"weights: expected shape \(2,\), got \("):
            jensen_gap(torch.sum, tensor(1, 2), weights.to(F64))
    with pytest.raises(TypeError, match="points: expected real numbers, got torch.complex64"):
        jensen_gap(torch.sum, torch.tensor([1j, 2]), half)
    assert jensen_gap(torch.square, np.array([-1.0, 3.0]), [0.5, 0.5]) == 4
    with pytest.raises(TypeError, match="weights: expected torch.float64, got torch.float32"):
        jensen_gap(torch.sum, tensor(1, 2), half.float())


def test_jensen_gap_wants_weights_that_are_not_negative_and_of_sum_1() -> None:
    with pytest.raises(ValueError, match="weights: expected none below 0, got -0.5"):
        jensen_gap(torch.sum, tensor(1, 2), tensor(-0.5, 1.5))
    for total in (0.5, 1 + 1e-14, 1 - 1e-14, 2.0, INF):
        with pytest.raises(ValueError, match=f"weights: expected a sum of 1, got {total}"):
            jensen_gap(torch.sum, tensor(1, 2), tensor(total / 2, total / 2))


def test_jensen_gap_takes_a_sum_that_is_off_by_twice_the_precision_a_weight_and_no_more() -> None:
    jensen_gap(torch.sum, tensor(1, 2), tensor(0.5, 0.5 + 4 * EPS))
    with pytest.raises(ValueError, match="weights: expected a sum of 1"):
        jensen_gap(torch.sum, tensor(1, 2), tensor(0.5, 0.5 + 5 * EPS))


@cases(generators, st.integers(1, 300), st.sampled_from([torch.float32, F64]))
def test_jensen_gap_takes_weights_whose_sum_is_rounded(g: Generator, k: int, dtype: torch.dtype) -> None:
    logits = 3 * randn(g, k).to(dtype)
    for weights in (logits.softmax(0), logits.exp() / logits.exp().sum(), torch.full((k,), 1 / k, dtype=dtype)):
        jensen_gap(torch.square, logits, weights)


def test_jensen_gap_wants_a_function_with_a_scalar_as_value() -> None:
    with pytest.raises(TypeError, match="^f: expected torch.float32, got torch.int64$"):
        jensen_gap(lambda x: (x > 0).sum(), torch.ones(2, 3), [0.5, 0.5])
    with pytest.raises(ValueError, match=r"f: expected a scalar as value, got shape \(3,\)"):
        jensen_gap(torch.square, torch.ones(2, 3), torch.tensor([0.5, 0.5]))


def test_jensen_gap_wants_a_function_with_a_tensor_as_value() -> None:
    with pytest.raises(TypeError, match="^f: expected a function, got 3$"):
        jensen_gap(3, torch.ones(2), torch.tensor([0.5, 0.5]))
    for value, came in ((1.0, "float"), (None, "NoneType")):
        with pytest.raises(TypeError, match=f"^f: expected a tensor as value, got {came}$"):
            jensen_gap(lambda x, value=value: value, torch.ones(2), torch.tensor([0.5, 0.5]))


def test_penalised_and_lagrangian_want_tensors_as_values() -> None:
    x, alpha = torch.tensor(1.0), torch.ones(1)
    for make in (lambda f, c: penalised(f, [c], 1.0)(x), lambda f, c: lagrangian(f, [c])(x, alpha)):
        with pytest.raises(TypeError, match="^constraints: expected a tensor as value, got int$"):
            make(torch.square, lambda x: 2)
        with pytest.raises(TypeError, match="^f: expected a tensor as value, got float$"):
            make(lambda x: 2.0, torch.square)
    with pytest.raises(TypeError, match="^f: expected a tensor as value, got float$"):
        penalised(lambda x: 2.0, [], 1.0)(x)


@pytest.mark.parametrize("make", [lagrangian, lambda f, constraints: penalised(f, constraints, 1.0)])
def test_constraints_are_a_sequence_of_functions(make: Callable[..., object]) -> None:
    with pytest.raises(TypeError, match="f: expected a function, got 3"):
        make(3, [])
    for constraints in (torch.sum, (c for c in [torch.sum]), None, "c"):
        with pytest.raises(TypeError, match="constraints: expected a sequence of functions, got "):
            make(torch.sum, constraints)
    with pytest.raises(TypeError, match="constraints: expected a function, got 3"):
        make(torch.sum, [torch.sum, 3])


def test_a_constraint_has_values_of_f_s_shape() -> None:
    # Those of another shape would broadcast, and what is minimised would no longer be a number.
    for make in (lambda c: penalised(torch.sum, [c], 1.0)([1, 2]), lambda c: lagrangian(torch.sum, [c])([1, 2], [1])):
        with pytest.raises(ValueError, match=r"^constraints: expected values of f's shape \(\), got \(2,\)$"):
            make(torch.square)


def test_penalised_and_lagrangian_keep_the_constraints_that_they_were_given() -> None:
    x, alpha, constraints = tensor(1, 2), tensor(3), [torch.sum]
    F, L = penalised(torch.prod, constraints, 2), lagrangian(torch.prod, constraints)
    before = F(x), L(x, alpha)
    constraints.append(torch.amax)
    assert (F(x), L(x, alpha)) == before


def test_penalised_wants_a_weight_that_is_a_number_and_not_negative() -> None:
    for weight in (True, "1", None, torch.ones(1)):
        with pytest.raises(TypeError, match="weight: expected a number, got "):
            penalised(torch.sum, [], weight)
    for weight in (-1e-300, -1, INF, NAN):
        with pytest.raises(ValueError, match=re.escape(f"weight: expected a number in [0, inf), got {weight}")):
            penalised(torch.sum, [], weight)


def test_lagrangian_wants_one_multiplier_a_constraint() -> None:
    L = lagrangian(torch.sum, [torch.sum, torch.prod])
    for alpha in (torch.ones(1), torch.ones(3), torch.ones(2, 1), torch.tensor(1.0)):
        with pytest.raises(ValueError, match=r"alpha: expected shape \(2,\), got \("):
            L(torch.ones(2), alpha)
    with pytest.raises(TypeError, match="alpha: expected torch.float32, got torch.float64"):
        L(torch.ones(2), tensor(1, 1))
    assert L([1, 2], [3, 4]) == L(torch.tensor([1.0, 2.0]), torch.tensor([3, 4])) == 3 + 3 * 3 + 4 * 2
