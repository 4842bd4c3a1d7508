"""The test functions are their formulas, and what is said of their curvature and minima holds all over the domain."""

import copy
import math
import pickle
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize_scalar
from torch import Generator, Tensor
from torch.func import grad, hessian, vmap
from torch.nn.functional import cross_entropy, linear
from torch.utils.data import TensorDataset

from lessons_lib import objectives
from lessons_lib.data import fashion_mnist
from lessons_lib.objectives import (
    NAMED,
    Objective,
    cosh,
    cube,
    curvature,
    quadratic,
    rosenbrock,
    saddle,
    softmax_regression,
    square,
    tanh,
    x_cos_015_pi_x,
    x_cos_pi_x,
)
from tests.draws import F64, cases, generators, rand, randn, tensor

Formula = Callable[..., np.ndarray]


def x_cos(c: float) -> tuple[Formula, Formula, Formula]:
    return (
        lambda x: x * np.cos(c * x),
        lambda x: np.cos(c * x) - c * x * np.sin(c * x),
        lambda x: -2 * c * np.sin(c * x) - c**2 * x * np.cos(c * x),
    )


# Domain, value, gradient and Hessian, by hand.
FORMULAS: dict[Objective, tuple[tuple, Formula, Formula, Formula]] = {
    square: (((-10, 10),), lambda x: x * x, lambda x: 2 * x, lambda x: 2 + 0 * x),
    x_cos_pi_x: (((-1, 2),), *x_cos(np.pi)),
    x_cos_015_pi_x: (((-10, 10),), *x_cos(0.15 * np.pi)),
    cube: (((-2, 2),), lambda x: x * x * x, lambda x: 3 * x * x, lambda x: 6 * x),
    tanh: (((-4, 4),), np.tanh, lambda x: 1 / np.cosh(x) ** 2, lambda x: -2 * np.tanh(x) / np.cosh(x) ** 2),
    cosh: (((-4, 4),), lambda x: (np.exp(x) + np.exp(-x)) / 2, np.sinh, np.cosh),
    saddle: (
        ((-1, 1), (-1, 1)),
        lambda a, b: (a + b) * (a - b),
        lambda a, b: np.array([2 * a, -2 * b]),
        lambda a, b: np.array([[2 + 0 * a, 0 * a], [0 * a, -2 + 0 * a]]),
    ),
    rosenbrock: (
        ((-2, 2), (-1, 3)),
        lambda a, b: 100 * (b - a * a) ** 2 + (1 - a) ** 2,
        lambda a, b: np.array([-400 * a * (b - a * a) - 2 * (1 - a), 200 * (b - a * a)]),
        lambda a, b: np.array([[1200 * a * a - 400 * b + 2, -400 * a], [-400 * a, 200 + 0 * a]]),
    ),
}


def by_name(*objectives: Objective) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("f", objectives, ids=lambda f: f.name)


named = by_name(*NAMED)
lines = by_name(*(f for f in NAMED if f.dim == 1))
planes = by_name(*(f for f in NAMED if f.dim == 2))
SMALL = dict(num_images=60, size=2)  # 50 weights: the Hessian in no time
# To be made in the test: what is made while tests are collected is made before `make mutants` changes its maker.
MADE = {
    "quadratic": lambda: quadratic((3, -1), 0.4),
    "quadratic in 3": lambda: quadratic((1, 2, 0), 2.0),
    "softmax_regression": lambda: softmax_regression(**SMALL),
}


each = pytest.mark.parametrize(
    "make", [*MADE.values(), *(lambda f=f: f for f in NAMED)], ids=[*MADE, *(f.name for f in NAMED)]
)


def points(f: Objective, g: Generator, *shape: int) -> Tensor:
    """Random points of the domain (of [-1, 1] where that has no end), in the shape that f takes."""
    low, high = torch.tensor(f.domain, dtype=F64).nan_to_num(neginf=-1, posinf=1).T
    x = low + (high - low) * rand(g, *shape, f.dim)
    return x.movedim(-1, 0) if f.dim > 1 else x.squeeze(-1)


def assert_close(got: Tensor, wanted: Tensor | np.ndarray, tolerance: float = 1e-13) -> None:
    """To within the rounding of a few operations, on the scale of the largest number."""
    wanted = torch.as_tensor(wanted, dtype=F64)
    scale = max(1.0, wanted.abs().max().item()) if wanted.numel() else 1.0
    torch.testing.assert_close(got, wanted, rtol=0, atol=tolerance * scale)


# The functions with a name


def test_named_has_all_of_them() -> None:
    assert set(FORMULAS) == set(NAMED)
    assert {f for f in vars(objectives).values() if isinstance(f, Objective)} == set(NAMED)
    assert len({f.name for f in NAMED}) == len(NAMED)
    assert "0x" not in repr(square)  # no address in memory


@named
@cases(generators)
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # forward mode loads it
def test_value_gradient_and_hessian_are_the_formulas(f: Objective, g: Generator) -> None:
    domain, *formulas = FORMULAS[f]
    assert f.domain == domain
    x = points(f, g)
    value, gradient, H = (formula(*x.reshape(f.dim).numpy()) for formula in formulas)
    assert_close(f(x), value)
    assert_close(grad(f)(x), gradient)
    assert_close(hessian(f)(x), H)
    leaf = x.clone().requires_grad_()
    assert_close(torch.autograd.grad(f(leaf), leaf)[0], gradient)


@lines
def test_no_second_derivative_is_out_of_the_bounds_and_both_are_attained(f: Objective) -> None:
    (low, high), (mu, L), f2 = *f.domain, f.curvature, FORMULAS[f][3]
    x = np.linspace(low, high, 100_001)
    slack = 1e-14 * max(-mu, L)  # f'' itself is rounded
    assert mu - slack <= f2(x).min() and f2(x).max() <= L + slack

    def extreme(sign: float) -> float:
        near = x[np.argmin(sign * f2(x))]
        bounds = max(low, near - 1e-3), min(high, near + 1e-3)
        inside = minimize_scalar(lambda z: sign * f2(z), bounds=bounds, method="bounded", options=dict(xatol=1e-9)).x
        at = min(inside, near, key=lambda z: sign * f2(z))
        least, largest = curvature(f, torch.tensor(at))
        assert least == largest
        return least

    # Rounding only: at an extreme inside, an error of 1e-9 in x is one of about 1e-17 in f''.
    assert (extreme(1), extreme(-1)) == pytest.approx((mu, L), rel=1e-13)


@planes
def test_no_eigenvalue_is_out_of_the_bounds_and_both_are_attained(f: Objective) -> None:
    a, b = np.meshgrid(*(np.linspace(*interval, 5) for interval in f.domain), indexing="ij")
    found = [curvature(f, point) for point in np.stack([a.ravel(), b.ravel()], 1)]  # the corners, and what lies between
    assert (min(found)[0], max(L for _, L in found)) == pytest.approx(f.curvature, rel=1e-13)


@by_name(*(f for f in NAMED if f.minima))
def test_the_minima_are_minima_and_the_lowest_comes_first(f: Objective) -> None:
    values = []
    for minimum in f.minima:
        assert len(minimum) == f.dim
        assert all(low < x < high for x, (low, high) in zip(minimum, f.domain, strict=True))
        x = torch.tensor(minimum, dtype=F64).reshape(() if f.dim == 1 else (f.dim,))
        mu, L = curvature(f, x)
        assert mu > 0
        assert grad(f)(x).abs().max() <= 2e-15 * L  # the minimum is rounded, and so are sine and cosine
        values.append(f(x).item())
    assert values == sorted(values)


@lines
def test_the_slope_turns_upward_at_the_minima_and_nowhere_else(f: Objective) -> None:
    x = torch.linspace(*f.domain[0], 100_000, dtype=F64)  # an even number, for 0 not to be among them
    slope = vmap(grad(f))(x)
    turns = ((slope[:-1] < 0) & (slope[1:] > 0)).nonzero().flatten().tolist()
    roots = [brentq(FORMULAS[f][2], x[i], x[i + 1], xtol=1e-15, rtol=1e-15) for i in turns]
    assert sorted(roots) == pytest.approx(sorted(minimum for (minimum,) in f.minima), rel=1e-15, abs=1e-14)


# All of them


@each
@cases(generators, st.lists(st.integers(0, 3), max_size=3), examples=8)
def test_a_grid_of_points_is_each_point_by_itself_in_either_precision(
    make: Callable[[], Objective], g: Generator, shape: list[int]
) -> None:
    f = make()
    x = points(f, g, *shape)
    each = [f(point) for point in x.reshape(*[f.dim] * (f.dim > 1), -1).unbind(-1)]
    assert f(x).shape == torch.Size(shape) and all(value.shape == () for value in each)
    assert_close(f(x).flatten(), torch.tensor(each, dtype=F64))
    assert f(x.float()).dtype == torch.float32
    assert_close(f(x.float()).double(), f(x), 1e-5)  # float32 has 1e-7, and a term of up to 100 · 30² is the scale
    if len(shape) == 1 and x.numel() > 0:
        assert_close(vmap(f, in_dims=-1)(x), f(x))
        leaf = x.clone().requires_grad_()
        f(leaf).sum().backward()
        assert_close(vmap(grad(f), in_dims=-1, out_dims=-1)(x), leaf.grad)


@each
def test_each_can_be_copied_and_pickled(make: Callable[[], Objective]) -> None:
    f = make()
    x = points(f, Generator())
    for other in (copy.copy(f), copy.deepcopy(f), pickle.loads(pickle.dumps(f))):
        assert other(x) == f(x) and other.curvature == f.curvature


# quadratic

numbers = st.floats(-1e3, 1e3) | st.integers(-1000, 1000)


@given(eigenvalues=st.lists(numbers, min_size=2, max_size=5), angle=st.floats(-7, 7), g=generators)
@example(eigenvalues=[0.0, 5e-324], angle=0.0, g=Generator())
def test_a_quadratic_is_a_sum_of_squares_along_turned_axes(
    eigenvalues: list[float], angle: float, g: Generator
) -> None:
    f = quadratic(eigenvalues, angle)
    x = points(f, g)
    turned = (complex(*x[:2]) * np.exp(-1j * angle)).item()
    along = [turned.real, turned.imag, *x[2:].tolist()]
    scale = max(map(abs, eigenvalues)) * x.square().sum().item()
    expected = sum(lam * y**2 for lam, y in zip(eigenvalues, along, strict=True)) / 2
    assert f(x).item() == pytest.approx(expected, rel=0, abs=1e-14 * max(scale, 1e-300))
    assert f.dim == len(eigenvalues)
    assert f.domain == ((-10, 10),) * f.dim
    assert f.curvature == (min(eigenvalues), max(eigenvalues))
    # The last bits of subnormal numbers are lost when they are halved or turned.
    assert curvature(f, x) == pytest.approx(f.curvature, rel=0, abs=max(1e-13 * max(map(abs, eigenvalues)), 1e-320))


def test_the_axes_of_a_quadratic_stay_unless_turned() -> None:
    x = torch.tensor([3.0, -2.0, 1.0])
    assert quadratic((2, 4, 6))(x) == 9 + 2 * 4 + 3
    assert quadratic((2, 4, 6), angle=math.pi / 2)(x) == pytest.approx(4 + 2 * 9 + 3)  # the first axis is the second
    assert quadratic((2, 0.5)).name == "½ xᵀ Q diag(2, 0.5) Qᵀ x"


def test_the_origin_is_a_quadratic_s_minimum_if_all_eigenvalues_are_positive() -> None:
    assert quadratic((1e-9, 2, 3), angle=1.0).minima == ((0.0, 0.0, 0.0),)
    for eigenvalues in [(0, 2), (2, 0.0), (-1, 2)]:
        assert quadratic(eigenvalues).minima == ()


# softmax_regression


@cache
def train_set() -> TensorDataset:
    return fashion_mnist("train")


def examples(num_images: int, size: int) -> tuple[Tensor, Tensor]:
    """Inputs with a 1 at the end, and labels."""
    images, labels = train_set()[:num_images]
    side = 28 // size
    blocks = images.double().reshape(num_images, size, side, size, side).permute(0, 1, 3, 2, 4)
    averages = blocks.reshape(num_images, size * size, side * side).mean(2)
    return torch.cat([averages, torch.ones(num_images, 1)], 1), labels


@pytest.mark.parametrize(
    ("num_images", "size", "weight_decay"),
    [(1, 1, 0), (70, 2, 0.01), (2, 4, 1.5), (70, 7, 0), (2, 14, 0.5), (2, 28, 0.5)],
)
def test_softmax_regression_is_pytorch_s_cross_entropy(num_images: int, size: int, weight_decay: float) -> None:
    f = softmax_regression(num_images, size, weight_decay)
    X, y = examples(num_images, size)
    x = points(f, Generator()).requires_grad_()
    assert f.dim == (size**2 + 1) * 10
    assert f.domain == ((-math.inf, math.inf),) * f.dim
    assert f.minima == ()
    loss = cross_entropy(linear(X, x.view(-1, 10).T), y) + weight_decay * x.norm() ** 2 / 2
    assert_close(f(x).detach(), loss.detach())
    assert_close(torch.autograd.grad(f(x), x)[0], torch.autograd.grad(loss, x)[0])


def test_the_default_softmax_regression() -> None:
    f, same = softmax_regression(), softmax_regression(1000, 7, 0.01)
    x = points(f, Generator())
    assert f.dim == 500
    assert f(x) == same(x)
    assert f.curvature == same.curvature
    assert f.name == same.name == "cross-entropy of softmax regression + ½ · 0.01 |x|²"
    assert softmax_regression(10_000, 1, 0).dim == 20


@cases(st.sampled_from([0.0, 0.01, 2.0]), st.sampled_from([1, 2]), generators, examples=10)
def test_the_curvature_of_softmax_regression_is_within_its_bounds(weight_decay: float, size: int, g: Generator) -> None:
    f = softmax_regression(60, size, weight_decay)
    x = 3 * points(f, g)
    least, largest = curvature(f, x)
    assert least == pytest.approx(f.curvature[0], rel=0, abs=1e-14)  # attained everywhere
    assert largest <= f.curvature[1]
    at_zero = curvature(f, torch.zeros_like(x))[1] - weight_decay
    assert at_zero == pytest.approx((f.curvature[1] - weight_decay) / 5, rel=1e-12)
    far = torch.zeros(f.dim // 10, 10, dtype=F64)
    far[-1, [3, 7]] = 1000.0  # the biases of two classes: each image is one of these, as likely as the other
    assert curvature(f, far.flatten())[1] == pytest.approx(f.curvature[1], rel=1e-13)


# curvature


@cases(st.integers(1, 6), generators)
def test_curvature_is_the_range_of_the_hessian_s_eigenvalues(d: int, g: Generator) -> None:
    B, x = randn(g, d, d), randn(g, d)
    # Σ exp((Bx)ᵢ) has the Hessian Bᵀ diag(exp(Bx)) B; the cubic term adds a diagonal of either sign.
    H = (B.T * (B @ x).exp()) @ B + 6 * x.diag()
    lam = np.linalg.eigvalsh(H.numpy())
    got = curvature(lambda x: (B @ x).exp().sum() + (x**3).sum(), x)
    assert got == pytest.approx((lam[0], lam[-1]), rel=0, abs=1e-13 * np.abs(lam).max())
    assert all(type(value) is float for value in got)


def test_curvature_of_a_function_of_one_number() -> None:
    assert curvature(lambda x: 7 * x, torch.tensor(0.5)) == (0.0, 0.0)
    for x in (2, np.array(2), torch.tensor(2.0).half(), tensor(2)[0]):
        assert curvature(cube, x) == (12, 12)


def test_curvature_is_not_for_the_inside_of_a_transform() -> None:
    with pytest.raises(TypeError, match="^f: expected a call outside of torch.func's transforms"):
        torch.func.grad(lambda a: torch.tensor(curvature(lambda x: a * x**2, 1.0)[0]))(torch.tensor(1.0))
