"""The optimisers take the steps of PyTorch and NumPy, search along a line by Armijo's rule and diverge quietly."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch import Generator, Tensor

from lessons_lib import gradient_descent as library
from lessons_lib.gradient_descent import backtracking, gradient_descent, newton
from tests.draws import (
    EPS,
    F64,
    Function,
    Quadratic,
    cases,
    dims,
    generators,
    gradient,
    quadratics,
    randn,
    sgd_by_torch,
    tensor,
)

walks = pytest.mark.parametrize("walk", [gradient_descent, newton])


def square(x: Tensor) -> Tensor:
    return (x**2).sum()


def rosenbrock(x: Tensor) -> Tensor:
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def log_sum_exp(x: Tensor) -> Tensor:
    return torch.logsumexp(torch.cat((x, -2 * x)), 0)


def waves(x: Tensor) -> Tensor:
    return (x * torch.cos(math.pi * x)).sum()


class LogSumExp:
    """log Σ exp(A x + b) + ½ mu |x|²: strongly convex if mu is above 0."""

    def __init__(self, g: Generator, d: int, mu: float) -> None:
        self.A, self.b, self.mu = randn(g, 8, d), randn(g, 8), mu

    def __call__(self, x: Tensor) -> Tensor:
        return torch.logsumexp(self.A @ x + self.b, 0) + self.mu / 2 * (x @ x)

    def gradient(self, x: np.ndarray) -> np.ndarray:
        return self.A.numpy().T @ self.p(x) + self.mu * x

    def hessian(self, x: np.ndarray) -> np.ndarray:
        A, p = self.A.numpy(), self.p(x)
        return A.T @ (np.diag(p) - np.outer(p, p)) @ A + self.mu * np.eye(len(x))

    def p(self, x: np.ndarray) -> np.ndarray:
        scores = np.exp(self.A.numpy() @ x + self.b.numpy())
        return scores / scores.sum()


log_sum_exps = st.builds(LogSumExp, generators, st.integers(1, 6), st.floats(0.1, 2))


def points(trajectory: Tensor) -> list[Tensor]:
    """Its rows as tensors of their own: elsewhere in memory, as parts of a larger one, f may round otherwise."""
    return [x.clone() for x in trajectory]


def never_rises(f: Function, trajectory: Tensor) -> bool:
    f_x = torch.stack([f(x) for x in points(trajectory)])
    return bool((f_x.diff() <= 4 * EPS * f_x[1:].abs()).all())


# Steps


# Rates so small that a rounding error does not grow on its way: the tolerance can be tight.
@pytest.mark.parametrize(("f", "lr"), [(rosenbrock, 1e-5), (log_sum_exp, 0.3), (waves, 0.003)])
@cases(generators, dims, st.just(0.0) | st.floats(0, 0.9), st.just(0.0) | st.floats(0.01, 1), st.integers(0, 20))
def test_takes_the_steps_of_torch_s_sgd(
    f: Function, lr: float, g: Generator, d: int, momentum: float, decay: float, steps: int
) -> None:
    x0 = randn(g, d + 1)

    def schedule(step: int) -> float:
        return lr / (1 + decay * step)

    x = gradient_descent(f, x0, schedule if decay else lr, steps, momentum=momentum)
    torch.testing.assert_close(x, sgd_by_torch([f] * steps, x0, schedule, momentum), rtol=1e-12, atol=1e-12)
    if not momentum:
        assert torch.equal(x, gradient_descent(f, x0, schedule if decay else lr, steps))


@cases(st.floats(-3, 3), st.floats(0, 0.9))
def test_a_number_moves_as_a_vector_of_one(x0: float, momentum: float) -> None:
    number = gradient_descent(lambda x: x * torch.cos(math.pi * x), x0, 0.01, 10, momentum=momentum)
    assert torch.equal(number, gradient_descent(waves, [x0], 0.01, 10, momentum=momentum)[:, 0])


@cases(quadratics(), generators, st.floats(0, 0.9))
def test_a_preconditioner_multiplies_the_velocity(f: Quadratic, g: Generator, momentum: float) -> None:
    d = len(f.minimum)
    x0, diagonal, P = randn(g, d), randn(g, d), randn(g, d, d)  # not symmetric: P is not Pᵀ
    single = P.float()
    for given, matrix in ((diagonal, np.diag(diagonal)), (P, P.numpy()), (single, single.double().numpy())):
        x = gradient_descent(f, x0, 0.05, 5, momentum=momentum, preconditioner=given)
        expected, v = [x0.numpy()], np.zeros(d)
        for _ in range(5):
            v = momentum * v + f.A.numpy() @ (expected[-1] - f.minimum.numpy())
            expected.append(expected[-1] - 0.05 * matrix @ v)
        np.testing.assert_allclose(x, np.array(expected), rtol=1e-11, atol=1e-11)


def test_a_preconditioner_of_a_number_is_a_number() -> None:
    x = gradient_descent(lambda x: x**2, 10.0, 0.2, 10, preconditioner=torch.tensor(0.25))
    torch.testing.assert_close(x, gradient_descent(lambda x: x**2, 10.0, 0.05, 10), rtol=1e-14, atol=0)


@cases(generators, st.integers(1, 6), st.floats(-2, 2), st.floats(0.1, 1.5))
def test_newton_s_steps_are_numpy_s(g: Generator, d: int, mu: float, lr: float) -> None:
    f, x0 = LogSumExp(g, d, mu), randn(g, d)
    slope, H = f.gradient(x0.numpy()), f.hessian(x0.numpy())
    lam, U = np.linalg.eigh(H)
    assume(min(abs(lam)) > 0.01 and min(abs(H.diagonal())) > 0.01)
    steps = {
        "full": np.linalg.solve(H, slope),
        "absolute": U @ (U.T @ slope / abs(lam)),
        "diagonal": slope / H.diagonal(),
    }
    for hessian, step in steps.items():
        x = newton(f, x0, lr, 1, hessian=hessian)
        np.testing.assert_allclose(x[1], x0.numpy() - lr * step, rtol=1e-11, atol=1e-11)


def test_newton_takes_ten_whole_steps_of_the_full_hessian_unless_told_otherwise() -> None:
    assert torch.equal(newton(rosenbrock, (0.5, 0.5)), newton(rosenbrock, (0.5, 0.5), 1.0, 10, hessian="full"))
    assert newton(lambda x: x**2, 1.0, lambda step: [1 / 2, 1 / 4][step], 2).tolist() == [1, 1 / 2, 3 / 8]


# Backtracking


anything = st.sampled_from([rosenbrock, log_sum_exp, waves]) | quadratics() | log_sum_exps


def size_of(f: Function) -> int:
    return f.A.shape[1] if hasattr(f, "A") else 4


@cases(anything, generators, st.floats(0.01, 100))
def test_backtracking_finds_the_first_rate_that_armijo_s_rule_admits(f: Function, g: Generator, lr: float) -> None:
    x, A = randn(g, size_of(f)), randn(g, size_of(f), size_of(f))
    direction = -(A @ A.T + 0.1 * torch.eye(len(x))) @ gradient(f, x)

    def missed(rate: float) -> tuple[float, float]:
        """By how much the rule is missed, and the rounding of that number."""
        before, after = f(x).item(), f(x + rate * direction).item()
        promised = 0.3 * rate * (gradient(f, x) @ direction).item()
        return after - before - promised, 1e-13 * (1 + abs(before) + abs(after) + abs(promised))

    rate = backtracking(f, x, direction, lr)
    assert type(rate) is float
    tries = [lr / 2**k for k in range(61)]
    for tried in tries[: tries.index(rate)]:
        excess, rounding = missed(tried)
        assert excess > -rounding
    excess, rounding = missed(rate)
    assert excess <= rounding
    assert backtracking(f, x, -direction, lr) == 0
    assert backtracking(lambda x: x**2 / 10, 10.0, direction=-2.0) == 1  # with a longer step it would fall enough, too


@cases(anything, generators, st.floats(0.01, 100))
def test_descent_with_backtracking_takes_these_rates_and_never_rises(f: Function, g: Generator, lr: float) -> None:
    x = gradient_descent(f, randn(g, size_of(f)), lambda step: lr / (1 + step), 10, backtrack=True)
    assert never_rises(f, x)
    for k, (before, after) in enumerate(pairwise(points(x))):
        slope = gradient(f, before)
        rate = backtracking(f, before, -slope, lr / (1 + k))
        # At the minimum rounding decides on a step, whose length is at most of the size of its root.
        torch.testing.assert_close(after, before - rate * slope, rtol=1e-12, atol=1e-6)


@cases(log_sum_exps, generators, st.floats(0.01, 100))
def test_newton_with_backtracking_takes_these_rates_and_never_rises(f: LogSumExp, g: Generator, lr: float) -> None:
    x = newton(f, 5 * randn(g, f.A.shape[1]), lr, 10, backtrack=True)
    assert never_rises(f, x)
    for before, after in pairwise(points(x)):
        d = torch.from_numpy(-np.linalg.solve(f.hessian(before.numpy()), f.gradient(before.numpy())))
        torch.testing.assert_close(after, before + backtracking(f, before, d, lr) * d, rtol=1e-6, atol=1e-5)


@cases(quadratics(), generators)
def test_backtracking_passes_the_rate_1_over_l_and_newton_s_whole_step(f: Quadratic, g: Generator) -> None:
    x = f.minimum + randn(g, len(f.minimum))
    slope = gradient(f, x)
    assert backtracking(f, x, -slope, 1 / f.L) == 1 / f.L
    assert backtracking(f, x, -torch.linalg.solve(f.A, slope)) == 1
    # On the steepest axis f falls by the share 1 - L lr / 2 of what the tangent promises.
    axis = f.axis(f.L)
    assert backtracking(f, f.minimum + axis, -f.L * axis, 1.39 / f.L) == 1.39 / f.L
    assert backtracking(f, f.minimum + axis, -f.L * axis, 1.41 / f.L) == 1.41 / f.L / 2


def cliff(edge: float) -> Function:
    """Falls along its slope, but not where a step leads beyond the edge: there stands a wall."""
    return lambda x: -x if x <= edge else 1 - 0 * x


def test_backtracking_gives_up_at_the_rate_times_two_to_the_minus_60() -> None:
    assert backtracking(cliff(1e-12), 0.0, 1.0) == 2**-40
    assert backtracking(cliff(4 * 2**-60), 0.0, 1.0, 4.0) == 4 * 2**-60
    assert backtracking(cliff(4 * 2**-61), 0.0, 1.0, 4.0) == 0
    assert gradient_descent(cliff(0.0), 0.0, 1.0, 2, backtrack=True).tolist() == [0, 0, 0]


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


# Divergence


def ends_in_infinity(x: Tensor) -> bool:
    """Finite first, then infinite in every coordinate, and both occur."""
    finite = x.isfinite().reshape(len(x), -1)
    first = int(finite.all(1).sum())
    return bool(0 < first < len(x) and finite[:first].all() and x[first:].isinf().all())


def test_a_run_that_diverges_ends_in_infinity() -> None:
    x = gradient_descent(lambda x: x**2, 10.0, 1.5, 600)
    assert ends_in_infinity(x) and x[:500].tolist() == [10 * (-2.0) ** k for k in range(500)]
    assert ends_in_infinity(gradient_descent(square, (1, 2), 2.1, 1500, momentum=0.5))
    assert gradient_descent(square, 10.0, 1e308, 2).tolist() == [10, -math.inf, -math.inf]
    x = gradient_descent(torch.log, 1.0, 0.3, 20)
    assert ends_in_infinity(x) and x[x.isfinite()][-1] < 0  # the first point at which the logarithm is not
    x = newton(lambda x: (1 + x**2).sqrt(), 1.5)  # the formula is x ← -x³
    assert ends_in_infinity(x) and x[:4].tolist() == pytest.approx([1.5, -(1.5**3), 1.5**9, -(1.5**27)], rel=1e-6)


def test_infinity_has_the_sign_of_the_point_and_is_positive_where_nothing_is_known() -> None:
    far = tensor(1e300, -1e300, 1.0, -1.0)
    x = gradient_descent(lambda x: far @ x, (0, 0, 0, 0), 1e10, 2)
    # A coordinate that could still be named is lost with the others, on its side.
    assert x[1:].tolist() == [[-math.inf, math.inf, -math.inf, math.inf]] * 2
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


@pytest.mark.parametrize("hessian", ["full", "absolute", "diagonal"])
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


# What goes in and comes out


@pytest.mark.parametrize("x0", [3, np.float32(3), range(1, 3), torch.tensor([0.5, 2.0])], ids=repr)
def test_a_trajectory_has_the_start_and_each_step_in_float64(x0: object) -> None:
    start = torch.as_tensor(x0, dtype=F64)
    for walk, factor in ((gradient_descent, 0.8), (newton, 0.9)):
        x = walk(square, x0, 0.1, 2)
        assert not x.requires_grad
        torch.testing.assert_close(x, torch.stack([start, factor * start, factor**2 * start]), rtol=1e-14, atol=0)
        assert walk(square, x0, 0.1, 0).tolist() == [start.tolist()]


@pytest.mark.parametrize("enabled", [True, False])
def test_leaves_the_start_and_the_global_state_alone(enabled: bool) -> None:
    x0 = torch.tensor([1.0, 2.0], dtype=F64, requires_grad=not enabled)
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


@walks
def test_f_may_not_be_differentiated_by_something_else(walk: Callable) -> None:
    with pytest.raises(TypeError, match="^f: expected a call outside of torch.func's transforms"):
        torch.func.grad(lambda a: walk(lambda x: (x - a) ** 2, 0.0, 0.1, 3)[-1])(torch.tensor(1.0))


def test_a_gradient_is_a_plain_tensor_like_x() -> None:
    for x in ([1.0, 2.0], torch.tensor([1.0, 2.0])):
        g = library.gradient(square, x)
        assert g.dtype == torch.float32 and not g.requires_grad and g.tolist() == [2, 4]
    with pytest.raises(TypeError, match="^x: expected numbers, got 'a'$"):
        library.gradient(square, "a")
    with pytest.raises(TypeError, match=r"^x: expected plain numbers, .* use x\.detach\(\)$"):
        library.gradient(square, torch.ones(2, requires_grad=True))


def test_f_may_ask_where_it_is() -> None:
    def valley(x: Tensor) -> Tensor:
        return (x - 1) ** 2 if x.item() > 0 else 3 - 2 * x

    assert newton(valley, 5.0, steps=1)[-1] == 1
    assert gradient_descent(valley, -0.5, lr=0.5, steps=2).tolist() == [-0.5, 0.5, 1]


@walks
def test_a_schedule_is_asked_for_the_steps_that_are_taken(walk: Callable) -> None:
    asked = []
    walk(square, 1.0, lambda step: asked.append(step) or 0.1, 3)
    assert sorted(set(asked)) == [0, 1, 2]
