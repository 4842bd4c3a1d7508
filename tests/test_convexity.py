"""Jensen's gap, Lagrangian and penalty are their formulas; a projection is the nearest point, to the last digits."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import strategies as st
from torch import Generator, Tensor
from torch.autograd import gradcheck
from torch.nn.functional import normalize

from lessons_lib.convexity import (
    jensen_gap,
    lagrangian,
    penalised,
    project_ball,
    project_box,
    project_simplex,
    project_subspace,
)
from tests.draws import EPS, F64, Function, cases, dims, generators, gradient, rand, randint, randn, tensor

INF, NAN = math.inf, math.nan
scales = st.sampled_from([1e-6, 1e-3, 1.0, 1e3, 1e6])


def random_weights(g: Generator, k: int) -> Tensor:
    """Not negative, of sum 1; about a third of them 0, but not all."""
    w = rand(g, k) * (rand(g, k) > 1 / 3)
    w[randint(g, 0, k - 1)] += 0.1
    return w / w.sum()


def convex(g: Generator, d: int) -> Function:
    """A random convex function of d numbers, positive or negative: of an affine map of theirs."""
    k = randint(g, 1, 6)
    A, b, level = randn(g, k, d), randn(g, k), 2 * rand(g)
    kinds = (lambda z: z.square().sum() / 2, torch.amax, lambda z: z.logsumexp(0), torch.linalg.vector_norm)
    outer = kinds[randint(g, 0, 3)]
    return lambda x: outer(A @ x + b) - level


def rounding(*values: Tensor) -> float:
    """What sums of some dozens of terms may lose when terms that are ten times the values, and more, cancel."""
    return 1e-12 * (1 + max(float(value.detach().abs().max()) for value in values))


# Jensen's gap


@cases(generators, dims, st.integers(1, 8))
def test_jensen_gap_is_its_formula_and_never_negative_for_a_convex_function(g: Generator, d: int, k: int) -> None:
    f, points, weights = convex(g, d), randn(g, k, d), random_weights(g, k)
    gap, error = jensen_gap(f, points, weights), rounding(*map(f, points))
    by_hand = sum(w * f(x) for w, x in zip(weights, points, strict=True)) - f((weights[:, None] * points).sum(0))
    torch.testing.assert_close(gap, by_hand, rtol=0, atol=error)
    assert gap >= -error
    x = points[:, 0]
    variance = (weights * (x - (weights * x).sum()) ** 2).sum()  # the gap of the square
    torch.testing.assert_close(jensen_gap(torch.square, x, weights), variance, rtol=0, atol=rounding(x**2))


def test_jensen_gap_is_negative_where_a_function_curves_down() -> None:
    gap = jensen_gap(torch.cos, tensor(-1, 1), tensor(0.5, 0.5))
    assert gap.item() == pytest.approx(math.cos(1) - 1)  # −0.46


def test_jensen_gap_takes_a_sum_that_is_off_by_twice_the_precision_a_weight_and_no_more() -> None:
    jensen_gap(torch.sum, tensor(1, 2), tensor(0.5, 0.5 + 4 * EPS))
    for off in (5 * EPS, -5 * EPS):
        with pytest.raises(ValueError, match="weights: expected none below 0 and a sum of 1, got "):
            jensen_gap(torch.sum, tensor(1, 2), tensor(0.5, 0.5 + off))


@cases(generators, st.integers(1, 300), st.sampled_from([torch.float32, F64]))
def test_jensen_gap_takes_weights_whose_sum_is_rounded(g: Generator, k: int, dtype: torch.dtype) -> None:
    logits = 3 * randn(g, k).to(dtype)
    for weights in (logits.softmax(0), logits.exp() / logits.exp().sum(), torch.full((k,), 1 / k, dtype=dtype)):
        jensen_gap(torch.square, logits, weights)


# Constraints


@cases(generators, dims, st.integers(0, 3), st.sampled_from([0, 0.5, 3, 1e4]))
def test_penalised_and_lagrangian_are_their_formulas(g: Generator, d: int, k: int, weight: float) -> None:
    f, constraints, x, alpha = convex(g, d), [convex(g, d) for _ in range(k)], randn(g, d), randn(g, k)
    value, limits = f(x).item(), [c(x).item() for c in constraints]
    penalty = sum(0.5 * weight * max(0.0, c) ** 2 for c in limits)
    assert penalised(f, constraints, weight)(x).item() == pytest.approx(value + penalty, rel=1e-14, abs=1e-14)
    terms = [value, *(a * c for a, c in zip(alpha.tolist(), limits, strict=True))]
    error = 1e-14 * (1 + sum(map(abs, terms)))
    assert lagrangian(f, constraints)(x, alpha).item() == pytest.approx(sum(terms), rel=0, abs=error)


def test_penalised_is_once_differentiable_where_the_constraint_begins() -> None:
    f = penalised(lambda x: 0 * x, [lambda x: x], weight=6)
    for x, slope in ((-1e-9, 0.0), (0.0, 0.0), (2.0**-30, 6 * 2.0**-30), (2.0, 12.0)):
        assert gradient(f, torch.tensor(x, dtype=F64)) == slope
    second = torch.func.grad(torch.func.grad(f))
    assert second(torch.tensor(-1.0)) == 0 and second(torch.tensor(1.0)) == 6


def test_penalised_and_lagrangian_take_a_grid_of_points() -> None:
    x, alpha = randn(Generator().manual_seed(0), 2, 3, 4), tensor(0.7)
    c = [lambda x: x[0] + x[1]]
    P, L = penalised(lambda x: (x**2).sum(0), c, 2), lagrangian(lambda x: (x**2).sum(0), c)
    assert P(x).shape == L(x, alpha).shape == (3, 4)
    torch.testing.assert_close(P(x)[1, 2], P(x[:, 1, 2]), rtol=1e-14, atol=0)
    torch.testing.assert_close(L(x, alpha)[1, 2], L(x[:, 1, 2], alpha), rtol=1e-14, atol=1e-14)


# Projections: nearest points


class Projection:
    """One of the four onto a random set in d dimensions of about the size `scale`, and random points of that set.

    `corner()` is a point of its border, with a direction from there that leads away from the whole set.
    """

    def __init__(self, name: str, g: Generator, d: int, scale: float = 1.0, dtype: torch.dtype = F64) -> None:
        size = scale * float(0.1 + rand(g))
        if name == "ball":
            self.project = lambda x: project_ball(x, size)
            self.member = lambda: size * rand(g) * normalize(randn(g, d), dim=0)
            self.corner = lambda: (u := size * normalize(randn(g, d), dim=0), u)
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
            r = randint(g, 1, d)
            A = torch.linalg.qr(randn(g, d, r)).Q * (2 * rand(g, r) - 1).exp2() @ torch.linalg.qr(randn(g, r, r)).Q
            A = A.to(dtype)
            self.project = lambda x: project_subspace(x, A)
            self.member = lambda: scale * A @ randn(g, A.shape[1])
            normals = torch.linalg.qr(A, mode="complete").Q[:, A.shape[1] :]
            self.corner = lambda: (self.member(), scale * normals @ randn(g, normals.shape[1]).to(dtype))


projections = pytest.mark.parametrize("name", ["ball", "box", "simplex", "subspace"])


@projections
@cases(generators, dims, scales)
def test_a_projection_is_the_nearest_point(name: str, g: Generator, d: int, scale: float) -> None:
    """A member of the set itself, and for a point that has the whole set behind it, where the set begins."""
    P = Projection(name, g, d, scale)
    corner, outwards = P.corner()
    member = P.member()
    for x, nearest in ((member, member), *((corner + t * outwards, corner) for t in (0, 1e-3, 1.0, 10.0))):
        atol = 20 * EPS * float(x.norm() + nearest.norm() + scale)
        torch.testing.assert_close(P.project(x), nearest, rtol=0, atol=atol)


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


@cases(generators, st.integers(20, 60), st.integers(20, 60), st.integers(1, 5))
def test_project_subspace_takes_no_rounding_of_many_columns_for_a_direction(
    g: Generator, d: int, r: int, rank: int
) -> None:
    basis = torch.linalg.qr(randn(g, d, rank)).Q
    x, A = randn(g, d), basis @ randn(g, rank, r)
    torch.testing.assert_close(project_subspace(x, A), basis @ (basis.T @ x), rtol=0, atol=1e-12)


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


def test_project_ball_has_no_second_derivative_inside_and_one_at_its_centre_too() -> None:
    for x in (tensor(0, 0), tensor(0, 0.5)):
        H = torch.autograd.functional.hessian(lambda x: project_ball(x).sum(), x)
        assert H.tolist() == [[0, 0], [0, 0]]


def test_project_box_by_hand() -> None:
    x = torch.tensor([[-2.0, 0.5], [3.0, -1.0]], dtype=F64)
    assert project_box(x, 0, 1).tolist() == [[0, 0.5], [1, 0]]
    assert project_box(x, tensor(-1, 0), 1.5).tolist() == [[-1, 0.5], [1.5, 0]]
    assert project_box(x, -INF, torch.tensor([[0.0], [2.0]], dtype=F64)).tolist() == [[-2, 0], [2, -1]]
    assert project_box(x, -1, INF).tolist() == [[-1, 0.5], [3, -1]]
    assert project_box(x, 1, 1).tolist() == [[1, 1], [1, 1]]
    assert project_box(torch.tensor(7.0, dtype=F64), 0, 1) == 1
    assert project_box(x, 0.1, 0.7).tolist() == [[0.1, 0.5], [0.7, 0.1]]  # numbers keep all their digits
    single = torch.tensor(0.1, dtype=F64), torch.tensor([1, 1])  # a number has no precision to lose, nor has an int
    assert project_box(x.float(), *single).dtype == torch.float32


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
def test_projections_take_each_vector_on_its_own_in_either_precision_and_have_gradients(
    name: str, g: Generator, d: int
) -> None:
    state = g.get_state()
    P, single = Projection(name, g, d), Projection(name, Generator().set_state(state), d, dtype=torch.float32)
    x = randn(g, 2, 3, d)
    z = P.project(x)
    assert z.shape == x.shape and P.project(x[:0]).shape == (0, 3, d)
    torch.testing.assert_close(P.project(x[1, 2]), z[1, 2], rtol=1e-14, atol=1e-15)
    assert single.project(x.float()).dtype == torch.float32
    # The subspace's basis is as inexact as A is.
    torch.testing.assert_close(single.project(x.float()).double(), P.project(x.float().double()), rtol=0, atol=1e-5)
    assert gradcheck(P.project, x[0, :2].clone().requires_grad_(), eps=1e-7, atol=1e-5, rtol=1e-5)


@projections
def test_projections_never_change_their_input_and_spread_nan_through_its_vector_alone(name: str) -> None:
    g = Generator().manual_seed(0)
    P, x = Projection(name, g, 3), 3 * randn(g, 2, 3)
    before, clean = x.clone(), P.project(x)
    P.project(x).zero_()
    assert torch.equal(x, before)
    x[0, 1] = NAN
    z = P.project(x)
    assert z[0].isnan().tolist() == ([False, True, False] if name == "box" else [True] * 3)
    torch.testing.assert_close(z[1], clean[1], rtol=1e-14, atol=1e-15)


def test_infinity_leaves_no_nearest_point_in_ball_and_simplex() -> None:
    x = tensor(INF, 0, 1)
    assert project_ball(x).isnan().all() and project_simplex(x).isnan().all()
    assert project_box(x, -1, 0.5).tolist() == [0.5, 0, 0.5]


@pytest.mark.parametrize("project", [project_ball, project_simplex])
def test_projections_stay_on_their_device(project: Callable[[Tensor], Tensor]) -> None:
    assert project(torch.zeros(2, 3, device="meta")).device.type == "meta"
