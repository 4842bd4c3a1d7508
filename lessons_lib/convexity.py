"""Convexity: Jensen's gap, projections onto convex sets, and constraints by Lagrangian or penalty.

Sources: S. Boyd and L. Vandenberghe, "Convex Optimization", 2004 (sets and functions: chapters 2 and 3; Lagrangians:
section 5.1; projections: section 8.1), and the papers that each function names.

Tensors, NumPy's arrays and Python's numbers serve. What stands beside x (or beside the points) has its dtype; integers
and Python's numbers take it. A wrong type or dtype raises a TypeError, a wrong shape or range a ValueError. Projections
take one vector or many, shape (…, d) with d of at least 1, and return the nearest point to each, like x.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lessons_lib.checks import Array, as_number, as_tensor, as_tuple, check_dtype, refuse_graph
from lessons_lib.objectives import Function, value_at


def jensen_gap(f: Function, points: Array, weights: Array) -> Tensor:
    """Jensen's gap Σ wᵢ f(xᵢ) − f(Σ wᵢ xᵢ), a scalar tensor: for a convex f never negative, but for rounding.

    f takes a scalar tensor, or one of shape (d,), and returns a scalar tensor. The points xᵢ have the shape (k,), for
    numbers, or (k, d). The weights wᵢ, shape (k,), are not negative, and their sum is 1. No vmap can map over them.

    Source: J. L. W. V. Jensen, "Sur les fonctions convexes et les inégalités entre les valeurs moyennes", 1906.

    >>> jensen_gap(torch.square, torch.tensor([-1.0, 3.0]), torch.tensor([0.5, 0.5]))
    tensor(4.)
    """
    points = as_tensor("points", points)
    weights = _beside("weights", weights, points)
    if points.dim() not in (1, 2) or points.numel() == 0:
        raise ValueError(f"points: expected shape (k,) or (k, d), got {tuple(points.shape)}")
    k = len(points)
    if weights.shape != (k,):
        raise ValueError(f"weights: expected shape ({k},), got {tuple(weights.shape)}")
    # k quotients and their sum may each be off by the dtype's precision.
    sums_to_1 = (weights.sum() - 1).abs() <= 2 * k * torch.finfo(weights.dtype).eps
    if not ((weights >= 0) & sums_to_1).all():
        raise ValueError(f"weights: expected none below 0 and a sum of 1, got {weights.tolist()}")
    values = [value_at(f, x, shape=()) for x in points]
    for value in values:
        check_dtype("f", value, points.dtype)
    return weights @ torch.stack(values) - f(weights @ points)


def project_ball(x: Array, radius: float = 1.0) -> Tensor:
    """The nearest point of the ball |z|₂ ≤ radius: x itself inside, radius x / |x| outside.

    The radius is positive and finite. A vector with an entry that is infinite or NaN becomes NaN.

    Source, for gradients: R. Pascanu, T. Mikolov and Y. Bengio, "On the difficulty of training recurrent neural
    networks", 2013, algorithm 1.

    >>> project_ball(torch.tensor([[3.0, 4.0], [0.3, 0.4]]))
    tensor([[0.6000, 0.8000],
            [0.3000, 0.4000]])
    """
    x, radius = _vectors(x), as_number("radius", radius, "(0, inf)")
    # The squares in |x| could overflow or vanish, those in |x / size| cannot. Any constant size gives the same point.
    size = _max_abs(x.detach(), dim=-1)
    zero = (x == 0).all(-1, keepdim=True)  # where the norm has no second derivative
    norm = torch.linalg.vector_norm(torch.where(zero, 1, x / size), dim=-1, keepdim=True)
    inside = zero | (size * norm <= radius)
    # Unselected values count in the backward pass too, where 0 · ∞ would be NaN.
    return torch.where(inside, x, x / size / torch.where(inside, 1, norm) * radius)


def project_box(x: Array, low: Array, high: Array) -> Tensor:
    """The nearest point of the box low ≤ z ≤ high: each entry of x, moved to the bound that it exceeds.

    x has any shape; low and high are numbers, or tensors that broadcast to it, with low ≤ high everywhere. They may be
    infinite, and no vmap can map over them. An entry of x that is NaN stays NaN.

    >>> project_box(torch.tensor([-3.0, 0.5, 7.0]), 0, torch.tensor([1.0, 2.0, 3.0]))
    tensor([0.0000, 0.5000, 3.0000])
    """
    x = as_tensor("x", x)
    low, high = _bound("low", low, x), _bound("high", high, x)
    if not (low <= high).all():
        raise ValueError(f"low: expected at most high everywhere, got low = {low.tolist()}, high = {high.tolist()}")
    return x.clamp(low, high)


def project_simplex(x: Array, total: float = 1.0) -> Tensor:
    """The nearest point of the simplex z ≥ 0, Σ z = total: max(0, x − θ), with the θ that makes the sum right.

    `total` is positive and finite. A vector with ∞ or NaN, or of nothing but −∞, becomes NaN; any other −∞ becomes 0.

    Source: J. Duchi, S. Shalev-Shwartz, Y. Singer and T. Chandra, "Efficient projections onto the l1-ball for learning
    in high dimensions", 2008, figure 1.

    >>> project_simplex(torch.tensor([[1.0, 1.0, 0.0], [5.0, 0.0, 0.0]]))
    tensor([[0.5000, 0.5000, 0.0000],
            [1.0000, 0.0000, 0.0000]])
    """
    x, total = _vectors(x), as_number("total", total, "(0, inf)")
    # A constant added to x changes nothing, so take away what would cost digits, or overflow, in the sums.
    x = x - x.amax(-1, keepdim=True)
    j = torch.arange(1, x.shape[-1] + 1, device=x.device)
    # If the j largest entries were those that stay positive, θ would be this. It grows with j for as long as the next
    # entry is above it, and falls from there on: the right j, which the paper searches for, has the largest.
    theta = (x.sort(-1, descending=True).values.cumsum(-1) - total) / j
    return (x - theta.amax(-1, keepdim=True)).clamp(min=0)


def project_subspace(x: Array, A: Array) -> Tensor:
    """The nearest point of the span of A's columns: U Uᵀ x, with an orthonormal basis U of that span.

    A is finite and has the shape (d, r), with r of at least 1; its columns may depend on each other. It may not require
    a gradient: where its rank changes there is none. A vector with an entry that is NaN becomes NaN.

    Source: G. Golub and C. Van Loan, "Matrix Computations", 2013, chapter 2 (orthogonal projections and the SVD).

    >>> project_subspace(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([[1.0, 2.0], [1.0, 2.0], [0.0, 0.0]]))
    tensor([1.5000, 1.5000, 0.0000])
    """
    x = _vectors(x)
    A = _beside("A", A, x)
    refuse_graph("A", A)
    d = x.shape[-1]
    if A.dim() != 2 or len(A) != d or A.shape[1] == 0:
        raise ValueError(f"A: expected shape ({d}, r) with r of at least 1, got {tuple(A.shape)}")
    if not A.isfinite().all():
        raise ValueError("A: expected finite entries, got NaN or infinity")
    # Of one size: a short column is as much a direction as a long one. In float64: LAPACK knows no half precision.
    columns = (A / _max_abs(A, dim=0)).double()
    U, sigma, _ = torch.linalg.svd(columns, full_matrices=False)
    U = U * (sigma > sigma[0] * max(A.shape) * torch.finfo(x.dtype).eps)  # 0 for the columns outside the span
    return x @ U.to(x) @ U.T.to(x)


def lagrangian(f: Function, constraints: Sequence[Function]) -> Callable[[Tensor, Tensor], Tensor]:
    """The Lagrangian L(x, α) = f(x) + Σ αᵢ cᵢ(x) of: minimise f(x) such that all cᵢ(x) ≤ 0.

    f and the constraints cᵢ take the same x and return values of one shape. L takes x and alpha: the multipliers αᵢ, of
    any sign, shape (number of constraints,). For α ≥ 0 the minimum of L over x is at most the constrained one of f.

    >>> L = lagrangian(torch.square, [lambda x: 1 - x])  # x² for x ≥ 1
    >>> L(torch.tensor(0.5), torch.tensor([2.0]))
    tensor(1.2500)
    """
    constraints = as_tuple("constraints", constraints, of="functions")

    def L(x: Array, alpha: Array) -> Tensor:
        x = as_tensor("x", x)
        alpha = _beside("alpha", alpha, x)
        if alpha.shape != (len(constraints),):
            raise ValueError(f"alpha: expected shape ({len(constraints)},), got {tuple(alpha.shape)}")
        value, limits = _values(f, constraints, x)
        return value + sum(a * limit for a, limit in zip(alpha, limits, strict=True))

    return L


def penalised(f: Function, constraints: Sequence[Function], weight: float) -> Function:
    """f(x) + ½ weight Σ max(0, cᵢ(x))²: what breaking cᵢ(x) ≤ 0 costs, once differentiable where f and the cᵢ are.

    f and the constraints are as for `lagrangian`; the weight, the price, is not negative and finite.

    Source: R. Courant, "Variational methods for the solution of problems of equilibrium and vibrations", 1943.

    >>> penalised(torch.square, [lambda x: 1 - x], weight=8)(torch.tensor(0.5))  # x² for x ≥ 1
    tensor(1.2500)
    """
    constraints = as_tuple("constraints", constraints, of="functions")
    weight = as_number("weight", weight, "[0, inf)")

    def F(x: Array) -> Tensor:
        value, limits = _values(f, constraints, as_tensor("x", x))
        return value + weight / 2 * sum(limit.clamp(min=0) ** 2 for limit in limits)

    return F


def _max_abs(x: Tensor, dim: int) -> Tensor:
    """The largest |entry| along a dimension, which stays with size 1; where that is 0, a harmless 1 to divide by."""
    size = x.abs().amax(dim, keepdim=True)
    return torch.where(size == 0, 1, size)


def _vectors(x: Array) -> Tensor:
    x = as_tensor("x", x)
    if x.dim() == 0 or x.shape[-1] == 0:
        raise ValueError(f"x: expected shape (…, d) with d of at least 1, got {tuple(x.shape)}")
    return x


def _beside(name: str, value: Array, x: Tensor) -> Tensor:
    """A second tensor of x's dtype, on x's device; a single number has no precision to lose."""
    value = as_tensor(name, value, x.dtype)
    if value.dim() > 0:
        check_dtype(name, value, x.dtype)
    return value.to(x)


def _bound(name: str, value: Array, x: Tensor) -> Tensor:
    value = _beside(name, value, x)
    if value.isnan().any():
        raise ValueError(f"{name}: expected numbers, got NaN")
    try:
        value.expand_as(x)
    except RuntimeError:
        shapes = f"a shape that broadcasts to {tuple(x.shape)}, got {tuple(value.shape)}"
        raise ValueError(f"{name}: expected {shapes}") from None
    return value


def _values(f: Function, constraints: Sequence[Function], x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """f(x) and all cᵢ(x), of one shape."""
    value = value_at(f, x)
    return value, [value_at(c, x, "constraints", value.shape) for c in constraints]
