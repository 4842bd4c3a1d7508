"""The test functions are their formulas, and what is said of their curvature and minima holds all over the domain."""

import copy
import math
import pickle
import re
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize, minimize_scalar, root
from scipy.special import logsumexp, softmax
from torch import Tensor
from torch.func import grad, hessian, vmap
from torch.nn.functional import cross_entropy, linear

from lessons_lib import objectives
from lessons_lib.data import fashion_mnist
from lessons_lib.objectives import (
    NAMED,
    Objective,
    cosh,
    cube,
    curvature,
    log_sum_exp,
    quadratic,
    rosenbrock,
    saddle,
    softmax_regression,
    square,
    tanh,
    x_cos_015_pi_x,
    x_cos_pi_x,
)

Formula = Callable[..., np.ndarray]


def x_cos(c: float) -> tuple[Formula, Formula, Formula]:
    return (
        lambda x: x * np.cos(c * x),
        lambda x: np.cos(c * x) - c * x * np.sin(c * x),
        lambda x: -2 * c * np.sin(c * x) - c**2 * x * np.cos(c * x),
    )


# Value, gradient and Hessian, by hand.
FORMULAS: dict[Objective, tuple[Formula, Formula, Formula]] = {
    square: (lambda x: x * x, lambda x: 2 * x, lambda x: 2 + 0 * x),
    x_cos_pi_x: x_cos(np.pi),
    x_cos_015_pi_x: x_cos(0.15 * np.pi),
    cube: (lambda x: x * x * x, lambda x: 3 * x * x, lambda x: 6 * x),
    tanh: (np.tanh, lambda x: 1 / np.cosh(x) ** 2, lambda x: -2 * np.tanh(x) / np.cosh(x) ** 2),
    cosh: (lambda x: (np.exp(x) + np.exp(-x)) / 2, np.sinh, np.cosh),
    saddle: (
        lambda a, b: (a + b) * (a - b),
        lambda a, b: np.array([2 * a, -2 * b]),
        lambda a, b: np.array([[2 + 0 * a, 0 * a], [0 * a, -2 + 0 * a]]),
    ),
    rosenbrock: (
        lambda a, b: 100 * (b - a * a) ** 2 + (1 - a) ** 2,
        lambda a, b: np.array([-400 * a * (b - a * a) - 2 * (1 - a), 200 * (b - a * a)]),
        lambda a, b: np.array([[1200 * a * a - 400 * b + 2, -400 * a], [-400 * a, 200 + 0 * a]]),
    ),
}
LINES = [f for f in NAMED if f.dim == 1]
PLANES = [f for f in NAMED if f.dim == 2]
SMALL = dict(num_images=60, size=2)  # 50 weights: the Hessian in no time

seeds = st.integers(0, 2**32)
named = pytest.mark.parametrize("f", NAMED, ids=lambda f: f.name)
lines = pytest.mark.parametrize("f", LINES, ids=lambda f: f.name)
planes = pytest.mark.parametrize("f", PLANES, ids=lambda f: f.name)
kinds = pytest.mark.parametrize(
    "f",
    [*NAMED, quadratic((3.0,)), quadratic((3, -1), 0.4), quadratic((1, 2, 0), 2.0), log_sum_exp(3)]
    + [softmax_regression(**SMALL)],
    ids=lambda f: f"{f.name} {f.dim}",
)


def points(f: Objective, seed: int, *shape: int) -> Tensor:
    """Random points of the domain (of [-1, 1] where that has no end), in the shape that f takes."""
    low, high = torch.tensor(f.domain, dtype=torch.float64).nan_to_num(neginf=-1, posinf=1).T
    generator = torch.Generator().manual_seed(seed)
    x = low + (high - low) * torch.rand(*shape, f.dim, dtype=torch.float64, generator=generator)
    return x.movedim(-1, 0) if f.dim > 1 else x.squeeze(-1)


def assert_close(got: Tensor, wanted: Tensor | np.ndarray, tolerance: float = 1e-13) -> None:
    """To within the rounding of a few operations, on the scale of the largest number."""
    wanted = torch.as_tensor(wanted, dtype=torch.float64)
    scale = max(1.0, wanted.abs().max().item()) if wanted.numel() else 1.0
    torch.testing.assert_close(got, wanted, rtol=0, atol=tolerance * scale)


# The functions with a name


def test_named_has_all_of_them() -> None:
    assert set(FORMULAS) == set(NAMED)
    assert {f for f in vars(objectives).values() if isinstance(f, Objective)} == set(NAMED)
    assert len({f.name for f in NAMED}) == len(NAMED)
    assert all(f.name and f.source for f in NAMED)


def test_who_each_is_from() -> None:
    for f in (*NAMED, log_sum_exp(), softmax_regression(**SMALL)):
        assert re.match(r"([A-Z]\. )+[A-Z][a-z]+", f.source) and re.search(r", (19|20)\d\d\b", f.source), f.source
    assert quadratic((1, 2)).source.startswith("any textbook: the second-order model")
    assert log_sum_exp().name == "log Σ exp xᵢ"


def test_the_domains() -> None:
    assert [f.domain for f in LINES] == [((a, b),) for a, b in [(-10, 10), (-1, 2), (-10, 10), (-2, 2)] + [(-4, 4)] * 2]
    assert [f.domain for f in PLANES] == [((-1, 1), (-1, 1)), ((-2, 2), (-1, 3))]


@named
@given(seed=seeds)
@settings(deadline=None, max_examples=20)
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # forward mode loads it
def test_value_gradient_and_hessian_are_the_formulas(f: Objective, seed: int) -> None:
    x = points(f, seed)
    coordinates = x.reshape(f.dim).numpy()
    value, gradient, H = (formula(*coordinates) for formula in FORMULAS[f])
    assert_close(f(x), value)
    assert_close(grad(f)(x), gradient)
    assert_close(hessian(f)(x), H)
    leaf = x.clone().requires_grad_()
    assert_close(torch.autograd.grad(f(leaf), leaf)[0], gradient)


@lines
def test_no_second_derivative_is_out_of_the_bounds_and_both_are_attained(f: Objective) -> None:
    (low, high), (mu, L), f2 = *f.domain, f.curvature, FORMULAS[f][2]
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
    a, b = np.meshgrid(*(np.linspace(*interval, 401) for interval in f.domain), indexing="ij")
    lam = np.linalg.eigvalsh(np.moveaxis(FORMULAS[f][2](a, b), (0, 1), (-2, -1)))
    assert (lam.min(), lam.max()) == pytest.approx(f.curvature, rel=1e-13)  # the corners and the centre are on the grid


def test_where_rosenbrock_s_curvature_is_extreme() -> None:
    least = curvature(rosenbrock, torch.tensor([0.0, 3.0], dtype=torch.float64))[0]
    assert least == pytest.approx(rosenbrock.curvature[0], rel=1e-14)
    for x1 in (-2.0, 2.0):
        largest = curvature(rosenbrock, torch.tensor([x1, -1.0], dtype=torch.float64))[1]
        assert largest == pytest.approx(rosenbrock.curvature[1], rel=1e-14)


@named
def test_the_minima_are_minima_and_the_lowest_comes_first(f: Objective) -> None:
    values = []
    for minimum in f.minima:
        assert len(minimum) == f.dim
        assert all(low < x < high for x, (low, high) in zip(minimum, f.domain, strict=True))
        x = torch.tensor(minimum, dtype=torch.float64).reshape(() if f.dim == 1 else (f.dim,))
        mu, L = curvature(f, x)
        assert mu > 0
        assert grad(f)(x).abs().max() <= 2e-15 * L  # the minimum is rounded, and so are sine and cosine
        values.append(f(x).item())
    assert values == sorted(values)


@lines
def test_the_slope_turns_upward_at_the_minima_and_nowhere_else(f: Objective) -> None:
    slope = FORMULAS[f][1]
    x = np.linspace(*f.domain[0], 100_000)  # an even number, for 0 not to be among them
    assert (slope(x) != 0).all()
    turns = np.flatnonzero((slope(x[:-1]) < 0) & (slope(x[1:]) > 0))
    roots = [brentq(slope, x[i], x[i + 1], xtol=1e-15, rtol=1e-15) for i in turns]
    assert sorted(roots) == pytest.approx(sorted(minimum for (minimum,) in f.minima), rel=1e-15, abs=1e-14)


def test_the_minima_to_four_digits() -> None:
    found = {f.name: [[round(x, 4) for x in minimum] for minimum in f.minima] for f in NAMED}
    assert found == {
        "x²": [[0]],
        "x cos πx": [[1.0904], [-0.2739]],
        "x cos 0.15πx": [[7.2694], [-1.8257]],
        "x³": [],
        "tanh x": [],
        "cosh x": [[0]],
        "x₁² − x₂²": [],
        "(1 − x₁)² + 100 (x₂ − x₁²)²": [[1, 1]],
    }


@given(seed=seeds)
@settings(deadline=None, max_examples=20)
def test_from_anywhere_rosenbrock_leads_to_its_one_minimum(seed: int) -> None:
    f, gradient, H = (lambda x, formula=formula: formula(*x) for formula in FORMULAS[rosenbrock])
    found = minimize(f, points(rosenbrock, seed), method="trust-exact", jac=gradient, hess=H, options=dict(gtol=1e-10))
    assert tuple(found.x) == pytest.approx(rosenbrock.minima[0], rel=1e-9)  # gtol over mu there, 0.4


# What x may be


@kinds
@given(seed=seeds, shape=st.lists(st.integers(0, 3), max_size=3))
@settings(deadline=None, max_examples=10)
def test_a_grid_of_points_is_each_point_by_itself(f: Objective, seed: int, shape: list[int]) -> None:
    x = points(f, seed, *shape)
    assert f(x).shape == torch.Size(shape)
    each = [f(point) for point in x.reshape(*[f.dim] * (f.dim > 1), -1).unbind(-1)]
    assert all(value.shape == () for value in each)
    assert_close(f(x).flatten(), torch.tensor(each, dtype=torch.float64))


def test_a_grid_for_what_is_made_to_order() -> None:
    # Made in here: what is made while tests are collected is made before `make mutants` changes its maker.
    for f in (quadratic((3, -1), 0.4), log_sum_exp(3), softmax_regression(**SMALL)):
        x = points(f, 0, 2, 3).float()
        each = [[f(x[:, i, j].double()) for j in range(3)] for i in range(2)]
        assert f(x).dtype == torch.float32
        torch.testing.assert_close(f(x), torch.tensor(each, dtype=torch.float32))


@kinds
@given(seed=seeds)
@settings(deadline=None, max_examples=3)
def test_vmap_works_over_points_and_so_do_gradients(f: Objective, seed: int) -> None:
    x = points(f, seed, 4)
    assert_close(vmap(f, in_dims=-1)(x), f(x))
    leaf = x.clone().requires_grad_()
    f(leaf).sum().backward()
    assert_close(vmap(grad(f), in_dims=-1, out_dims=-1)(x), leaf.grad)


@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_value_has_the_type_of_x(f: Objective, dtype: torch.dtype) -> None:
    x = points(f, 0, 5)
    assert f(x.to(dtype)).dtype == dtype
    # 1e-5: float32 has 1e-7, and a term of up to 100 · 30² is the scale
    assert_close(f(x.to(dtype)).double(), f(x), 1e-5 if dtype == torch.float32 else 1e-13)


@named
def test_takes_numbers_of_any_kind_and_nothing_else(f: Objective) -> None:
    point = [1.25, -2.0] if f.dim > 1 else 1.25
    x = torch.tensor(point)
    for same in (point, np.array(point, np.float32), x.half()):
        torch.testing.assert_close(f(same).float(), f(x), rtol=1e-2, atol=0)
    assert f(np.array(point)).dtype == torch.float64
    assert f(x.int()) == f(x.int().tolist()) == f(x.trunc())
    for bad, message in [("12", "numbers, got '12'"), (torch.ones(2) > 0, "real numbers, got torch.bool")]:
        with pytest.raises(TypeError, match=f"^x: expected {message}$"):
            f(bad)


@kinds
def test_pickles_and_copies(f: Objective) -> None:
    x = points(f, 0)
    for other in (pickle.loads(pickle.dumps(f)), copy.deepcopy(f)):
        assert other(x) == f(x) and other.curvature == f.curvature


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3,), (1, 2), (5, 2)])
@pytest.mark.parametrize("f", [*PLANES, quadratic((1, 2)), log_sum_exp(2)], ids=lambda f: f.name)
def test_refuses_a_wrong_number_of_coordinates(f: Objective, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"^x: expected shape \(2, …\), got \({', '.join(map(str, shape))},?\)$"):
        f(torch.zeros(shape))


def test_the_printed_form_has_no_memory_address() -> None:
    assert repr(square).startswith("Objective(name='x²', domain=((-10.0, 10.0),), curvature=(2.0, 2.0), source=")


# quadratic

angles = st.floats(-7, 7)
numbers = st.floats(-1e3, 1e3) | st.integers(-1000, 1000)


@given(eigenvalues=st.lists(numbers, min_size=2, max_size=5), angle=angles, seed=seeds)
@example(eigenvalues=[0.0, 5e-324], angle=0.0, seed=0)
@settings(deadline=None, max_examples=30)
def test_a_quadratic_is_a_sum_of_squares_along_turned_axes(eigenvalues: list[float], angle: float, seed: int) -> None:
    f = quadratic(eigenvalues, angle)
    x = points(f, seed)
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


@given(lam=numbers, x=st.floats(-10, 10))
@settings(deadline=None, max_examples=30)
def test_a_quadratic_of_one_number_is_a_parabola(lam: float, x: float) -> None:
    f = quadratic([lam])
    assert f.dim == 1
    assert f.curvature == (lam, lam)
    assert f(torch.tensor(x, dtype=torch.float64)).item() == pytest.approx(lam * x * x / 2, rel=1e-15)


@pytest.mark.parametrize("d", [1, 2])
def test_a_quadratic_keeps_the_eigenvalues_that_it_was_given(d: int) -> None:
    eigenvalues, x = [2.0] * d, torch.full((d,) if d > 1 else (), 3.0)
    f = quadratic(eigenvalues)
    before = f(x)
    eigenvalues[0] = -2.0
    assert f(x) == before == 9 * d


def test_the_axes_of_a_quadratic_stay_unless_turned() -> None:
    x = torch.tensor([3.0, -2.0, 1.0])
    assert quadratic((2, 4, 6))(x) == 9 + 2 * 4 + 3
    assert quadratic((2, 4, 6), angle=math.pi / 2)(x) == pytest.approx(4 + 2 * 9 + 3)  # the first axis is the second


@pytest.mark.parametrize("angle", [0.0, 1.0])
def test_the_origin_is_a_quadratic_s_minimum_if_all_eigenvalues_are_positive(angle: float) -> None:
    assert quadratic((1e-9, 2), angle).minima == ((0.0, 0.0),)
    assert quadratic((1, 2, 3), angle).minima == ((0.0, 0.0, 0.0),)
    assert quadratic((0.5,)).minima == ((0.0,),)
    for eigenvalues in [(0, 2), (2, 0.0), (-1, 2), (-1, -2)]:
        assert quadratic(eigenvalues, angle).minima == ()


def test_the_name_of_a_quadratic_has_its_eigenvalues() -> None:
    assert quadratic((2, 0.5)).name == "½ xᵀ Q diag(2, 0.5) Qᵀ x"


@pytest.mark.parametrize(
    ("eigenvalues", "message"),
    [
        (3.0, "eigenvalues: expected a sequence of numbers, got 3.0"),
        ("12", "eigenvalues: expected a sequence of numbers, got '12'"),
        ({1.0}, "eigenvalues: expected a sequence of numbers, got {1.0}"),
        ([1, "2"], "eigenvalues: expected a number, got '2'"),
        ([1, True], "eigenvalues: expected a number, got True"),
        (np.ones((1, 2)), r"eigenvalues: expected a sequence of numbers, got array\(\[\[1., 1.\]\]\)"),
    ],
)
def test_refuses_eigenvalues_of_a_wrong_type(eigenvalues: object, message: str) -> None:
    with pytest.raises(TypeError, match=f"^{message}$"):
        quadratic(eigenvalues)


def test_refuses_eigenvalues_and_angles_out_of_range() -> None:
    with pytest.raises(ValueError, match="^eigenvalues: expected at least one, got none$"):
        quadratic([])
    for value in (math.inf, -math.inf, math.nan):
        with pytest.raises(ValueError, match=f"^eigenvalues: expected a finite number, got {value}$"):
            quadratic((1, value))
        with pytest.raises(ValueError, match=f"^angle: expected a finite number, got {value}$"):
            quadratic((1, 2), value)
    with pytest.raises(ValueError, match="^angle: expected 0 in one dimension, got 0.1$"):
        quadratic((1,), 0.1)
    for value in (None, "1", False):
        with pytest.raises(TypeError, match=f"^angle: expected a number, got {value!r}$"):
            quadratic((1, 2), value)


# log_sum_exp


@given(dim=st.integers(2, 8), seed=seeds)
@settings(deadline=None, max_examples=30)
def test_log_sum_exp_is_scipy_s_and_within_its_bounds(dim: int, seed: int) -> None:
    f = log_sum_exp(dim)
    assert (f.dim, f.domain, f.curvature, f.minima) == (dim, ((-5, 5),) * dim, (0, 0.5), ())
    x = points(f, seed)
    p = softmax(x.numpy())
    assert_close(f(x), logsumexp(x.numpy()))
    assert_close(grad(f)(x), p)
    least, largest = curvature(f, x)
    rounding = 2e-15  # of eigenvalues up to ½, in up to eight dimensions
    assert least == pytest.approx(0, abs=rounding)
    assert largest == pytest.approx(np.linalg.eigvalsh(np.diag(p) - np.outer(p, p))[-1], rel=0, abs=rounding)
    assert largest <= 0.5 + rounding


@given(x=st.floats(-5, 5))
@settings(deadline=None, max_examples=20)
def test_log_sum_exp_has_its_largest_curvature_where_two_coordinates_agree(x: float) -> None:
    assert curvature(log_sum_exp(), torch.full((2,), x, dtype=torch.float64))[1] == pytest.approx(0.5, rel=1e-15)


@pytest.mark.parametrize("dim", [3, 8, 50])
def test_in_more_dimensions_log_sum_exp_comes_as_close_to_its_bound_as_it_says(dim: int) -> None:
    x = torch.tensor([5.0, 5.0, *[-5.0] * (dim - 2)], dtype=torch.float64)
    assert curvature(log_sum_exp(dim), x)[1] == pytest.approx(1 / (2 + (dim - 2) * math.exp(-10)), rel=1e-14)


def test_log_sum_exp_neither_overflows_nor_vanishes() -> None:
    f = log_sum_exp(3)
    for x in (-1e4, 1e4):
        assert f(torch.full((3,), x, dtype=torch.float64)).item() == pytest.approx(x + math.log(3), rel=1e-15)


def test_log_sum_exp_refuses_what_is_no_number_of_dimensions() -> None:
    assert log_sum_exp().dim == 2
    for dim in (1, 0, -2):
        with pytest.raises(ValueError, match=f"^dim: expected at least 2, got {dim}$"):
            log_sum_exp(dim)
    for dim in (2.0, True, "2", None):
        with pytest.raises(TypeError, match=f"^dim: expected an int, got {dim!r}$"):
            log_sum_exp(dim)


# softmax_regression


@cache
def train_set() -> tuple[Tensor, ...]:
    return fashion_mnist("train").tensors


def examples(num_images: int, size: int) -> tuple[Tensor, Tensor]:
    """Inputs with a 1 at the end, and labels."""
    images, labels = (part[:num_images] for part in train_set())
    side = 28 // size
    blocks = images.double().reshape(num_images, size, side, size, side).permute(0, 1, 3, 2, 4)
    averages = blocks.reshape(num_images, size * size, side * side).mean(2)
    return torch.cat([averages, torch.ones(num_images, 1)], 1), labels


@given(
    num_images=st.integers(1, 70),
    size=st.sampled_from([1, 2, 4, 7]),
    weight_decay=st.sampled_from([0, 0.01, 1.5]),
    seed=seeds,
)
@example(num_images=2, size=14, weight_decay=0.5, seed=0)
@example(num_images=2, size=28, weight_decay=0.5, seed=0)
@settings(deadline=None, max_examples=20)
def test_softmax_regression_is_pytorch_s_cross_entropy(
    num_images: int, size: int, weight_decay: float, seed: int
) -> None:
    f = softmax_regression(num_images, size, weight_decay)
    X, y = examples(num_images, size)
    x = points(f, seed).requires_grad_()
    assert f.dim == (size**2 + 1) * 10
    assert f.domain == ((-math.inf, math.inf),) * f.dim
    assert f.minima == ()
    loss = cross_entropy(linear(X, x.view(-1, 10).T), y) + weight_decay * x.norm() ** 2 / 2
    assert_close(f(x).detach(), loss.detach())
    assert_close(torch.autograd.grad(f(x), x)[0], torch.autograd.grad(loss, x)[0])
    assert_close(grad(f)(x.detach()), torch.autograd.grad(f(x), x)[0])


def test_the_default_softmax_regression() -> None:
    f, same = softmax_regression(), softmax_regression(1000, 7, 0.01)
    x = points(f, 0)
    assert f.dim == 500
    assert f(x) == same(x)
    assert f.curvature == same.curvature
    assert f.name == same.name == "cross-entropy of softmax regression + ½ · 0.01 |x|²"


@given(weight_decay=st.sampled_from([0.0, 0.01, 2.0]), size=st.sampled_from([1, 2]), seed=seeds)
@settings(deadline=None, max_examples=20)
def test_the_curvature_of_softmax_regression_is_within_its_bounds(weight_decay: float, size: int, seed: int) -> None:
    f = softmax_regression(60, size, weight_decay)
    x = 3 * points(f, seed)
    least, largest = curvature(f, x)
    assert least == pytest.approx(f.curvature[0], rel=0, abs=1e-14)  # attained everywhere
    assert largest <= f.curvature[1]
    at_zero = curvature(f, torch.zeros_like(x))[1] - weight_decay
    assert at_zero == pytest.approx((f.curvature[1] - weight_decay) / 5, rel=1e-12)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_upper_bound_of_softmax_regression_is_attained_far_out(size: int) -> None:
    f = softmax_regression(60, size)
    X, _ = examples(60, size)
    assert f.curvature[1] == pytest.approx(np.linalg.norm(X.numpy(), 2) ** 2 / 60 / 2 + 0.01, rel=1e-13)
    x = torch.zeros(f.dim // 10, 10, dtype=torch.float64)
    x[-1, [3, 7]] = 1000.0  # the biases of two classes: each image is one of these, as likely as the other
    assert curvature(f, x.flatten())[1] == pytest.approx(f.curvature[1], rel=1e-13)


@given(seed=seeds)
@settings(deadline=None, max_examples=5)
def test_softmax_regression_has_one_minimum_and_the_gradient_says_how_near(seed: int) -> None:
    f = softmax_regression(**SMALL)
    gradient, H = grad(f), torch.func.jacrev(grad(f))
    x = points(f, seed)

    def minimum(start: Tensor) -> Tensor:
        near = minimize(
            lambda x: f(torch.tensor(x)).item(),
            start,
            method="L-BFGS-B",
            jac=lambda x: gradient(torch.tensor(x)).numpy(),
            options=dict(maxiter=30),
        ).x
        # Differences of f are below its rounding once the gradient is 1e-8: to come nearer, solve ∇f(x) = 0.
        exact = root(
            lambda x: gradient(torch.tensor(x)).numpy(), near, jac=lambda x: H(torch.tensor(x)).numpy(), tol=1e-13
        )
        return torch.tensor(exact.x)

    least, same = minimum(x), minimum(torch.zeros_like(x))
    assert gradient(least).norm() < 1e-9
    assert gradient(same).norm() < 1e-9
    assert (least - same).norm() < 2 * 1e-9 / f.curvature[0]  # strong convexity: |x − x*| ≤ |∇f(x)| / mu
    for t in (1.0, 0.1, 0.01):
        near = least + t * (x - least)
        gap = (f(near) - f(least)).item()
        assert 0 < gap <= gradient(near).norm().item() ** 2 / (2 * f.curvature[0])


def test_softmax_regression_reads_the_images_once(monkeypatch: pytest.MonkeyPatch) -> None:
    softmax_regression(10)
    monkeypatch.delattr(objectives, "fashion_mnist")
    assert softmax_regression(20).dim == 500


@pytest.mark.parametrize("name", ["num_images", "size"])
@pytest.mark.parametrize("value", [7.0, True, "7", None], ids=str)
def test_softmax_regression_refuses_sizes_of_a_wrong_type(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"^{name}: expected an int, got {value!r}$"):
        softmax_regression(**{name: value})


def test_softmax_regression_refuses_numbers_out_of_range() -> None:
    assert softmax_regression(10_000, 1, 0).dim == 20
    for num_images, expected in ((0, "least 1"), (-1, "least 1"), (10_001, "most 10000")):
        with pytest.raises(ValueError, match=f"^num_images: expected at {expected}, got {num_images}$"):
            softmax_regression(num_images)
    for size in (0, -7, 3, 56):
        with pytest.raises(ValueError, match=f"^size: expected a divisor of 28, got {size}$"):
            softmax_regression(size=size)
    for weight_decay in (-0.1, math.inf, math.nan):
        with pytest.raises(ValueError, match=rf"^weight_decay: expected a number in \[0, inf\), got {weight_decay}$"):
            softmax_regression(weight_decay=weight_decay)
    for weight_decay in (True, "1", None):
        with pytest.raises(TypeError, match=f"^weight_decay: expected a number, got {weight_decay!r}$"):
            softmax_regression(weight_decay=weight_decay)


# curvature


@given(d=st.integers(1, 6), seed=seeds)
@settings(deadline=None, max_examples=30)
def test_curvature_is_the_range_of_the_hessian_s_eigenvalues(d: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    B, x = (torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in [(d, d), (d,)])
    # Σ exp((Bx)ᵢ) has the Hessian Bᵀ diag(exp(Bx)) B; the cubic term adds a diagonal of either sign.
    H = (B.T * (B @ x).exp()) @ B + 6 * x.diag()
    lam = np.linalg.eigvalsh(H.numpy())
    got = curvature(lambda x: (B @ x).exp().sum() + (x**3).sum(), x)
    assert got == pytest.approx((lam[0], lam[-1]), rel=0, abs=1e-13 * np.abs(lam).max())
    assert all(type(value) is float for value in got)


def test_curvature_of_a_function_of_one_number() -> None:
    assert curvature(cube, torch.tensor(0.5)) == (3.0, 3.0)
    assert curvature(lambda x: 7 * x, torch.tensor(0.5)) == (0.0, 0.0)


def test_curvature_refuses_what_is_no_function_with_a_tensor_as_value() -> None:
    with pytest.raises(TypeError, match="^f: expected a function, got 3$"):
        curvature(3, torch.ones(2))
    with pytest.raises(TypeError, match="^f: expected a tensor as value, got float$"):
        curvature(lambda x: 1.0, torch.ones(2))


def test_curvature_refuses_what_is_no_point() -> None:
    for x, message in [
        ("1", "numbers, got '1'"),
        (torch.tensor(1j), "real numbers, got torch.complex64"),
        (torch.tensor(1.0, requires_grad=True), "plain numbers, which .*; use x.detach.*"),
    ]:
        with pytest.raises(TypeError, match=f"^x: expected {message}$"):
            curvature(square, x)
    assert curvature(cube, 2) == curvature(cube, np.array(2)) == curvature(cube, torch.tensor(2.0).half()) == (12, 12)
    for shape, came in [((0,), r"\(0,\)"), ((2, 1), r"\(2, 1\)")]:
        with pytest.raises(ValueError, match=rf"^x: expected shape \(\) or \(d,\), got {came}$"):
            curvature(saddle, torch.zeros(shape))


@pytest.mark.parametrize(
    "x", [torch.tensor(math.nan), torch.tensor([1.0, math.inf]), torch.tensor([0.0, 1.0])], ids=str
)
def test_a_point_without_a_finite_second_derivative_is_refused(x: Tensor) -> None:
    with pytest.raises(ValueError, match="^x: expected a point where f has a finite second derivative, got "):
        curvature(lambda x: x.pow(4).sum() + x.sqrt().sum(), x)


def test_curvature_refuses_a_function_without_a_scalar_as_value() -> None:
    with pytest.raises(ValueError, match=r"^f: expected a scalar as value, got shape \(3,\)$"):
        curvature(square, torch.zeros(3))
    with pytest.raises(ValueError, match=r"^f: expected a scalar as value, got shape \(1,\)$"):
        curvature(lambda x: x.reshape(1), torch.tensor(1.0))


# The theorems of the lesson on optimisation, on random functions in several dimensions

dims = st.integers(1, 8)


def randn(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


@given(d=dims, seed=seeds)
@settings(deadline=None, max_examples=50)
def test_theorem_where_there_is_a_slope_a_small_enough_step_goes_down(d: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    W, b, v, x = randn(generator, 8, d), randn(generator, 8), randn(generator, 8), randn(generator, d)

    def f(x: Tensor) -> Tensor:
        return torch.tanh(W @ x + b) @ v

    # |tanh''| is at most 4/√27, so that of f along a line at most L; a step of size 1/L falls by |∇f|² / 2L or more.
    L = np.linalg.eigvalsh((W.T * (v.abs() * 4 / 27**0.5) @ W).numpy())[-1]
    slope = grad(f)(x)
    for rate in (1 / L, 0.1 / L, 1e-3 / L):
        assert f(x - rate * slope) <= f(x) - rate / 2 * slope @ slope + 1e-14 * v.abs().sum()


@given(d=dims, seed=seeds)
@settings(deadline=None, max_examples=20)
def test_theorem_at_a_local_minimum_found_without_slopes_there_is_none(d: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    W, b, v = randn(generator, 4, d), randn(generator, 4), randn(generator, 4)

    def f(x: Tensor) -> Tensor:
        return torch.tanh(W @ x + b) @ v + x @ x / 2

    found = minimize(
        lambda x: f(torch.from_numpy(x)).item(),
        randn(generator, d).numpy(),
        method="Powell",  # by comparing values alone
        options=dict(xtol=1e-10, ftol=1e-15, maxiter=100_000),
    )
    assert grad(f)(torch.from_numpy(found.x)).norm() < 1e-4


def test_counterexample_a_minimum_at_the_border_and_a_stationary_point_that_is_none() -> None:
    x = torch.linspace(-2, 2, 401, dtype=torch.float64)
    assert cube(x).argmin() == 0 and grad(cube)(x[0]) == 12
    zero = torch.zeros((), dtype=torch.float64)
    assert grad(cube)(zero) == 0 and cube(zero - 1e-3) < cube(zero) < cube(zero + 1e-3)


@given(d=dims, seed=seeds, kind=st.sampled_from(["minimum", "maximum", "saddle point"]))
@settings(deadline=None, max_examples=50)
def test_theorem_the_signs_of_the_eigenvalues_say_what_a_stationary_point_is(d: int, seed: int, kind: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(randn(generator, d, d)).Q
    lam = 0.5 + 2 * torch.rand(d, dtype=torch.float64, generator=generator)
    lam = -lam if kind == "maximum" else lam
    if kind == "saddle point":
        d = max(d, 2)
        Q, lam = torch.linalg.qr(randn(generator, d, d)).Q, torch.linspace(-1.5, 1.75, d, dtype=torch.float64)
    x, W, v = randn(generator, d), randn(generator, 5, d), randn(generator, 5)

    def f(z: Tensor) -> Tensor:
        along = Q.T @ (z - x)
        return 3 + (lam * along**2).sum() / 2 + v @ (W @ (z - x)) ** 3

    assert grad(f)(x).norm() == 0
    assert curvature(f, x) == pytest.approx((lam.min().item(), lam.max().item()), rel=1e-12)
    # Within this radius the cubes are less than a tenth of the least of the squares.
    radius = 0.05 * lam.abs().min() / (v.abs() @ W.norm(dim=1) ** 3)
    directions = torch.cat([Q.T, -Q.T, torch.nn.functional.normalize(randn(generator, 50, d))])
    for size in (radius, 0.1 * radius):
        change = torch.stack([f(x + size * u) - f(x) for u in directions])
        if kind == "minimum":
            assert (change > 0).all()
        elif kind == "maximum":
            assert (change < 0).all()
        else:
            assert change[lam.argmin()] < 0 < change[lam.argmax()]


def test_counterexample_with_eigenvalue_zero_a_stationary_point_may_be_anything() -> None:
    near = torch.tensor([-1e-3, 1e-3], dtype=torch.float64)
    for f, signs in [(lambda x: x**4, [1, 1]), (lambda x: -(x**4), [-1, -1]), (cube, [-1, 1])]:
        assert curvature(f, near[0] * 0) == (0, 0) and grad(f)(near[0] * 0) == 0
        assert f(near).sign().tolist() == signs
