"""Convexity: Jensen's gap, projections onto convex sets, and constraints by Lagrangian or penalty.

Sources: S. Boyd and L. Vandenberghe, "Convex Optimization", 2004 (sets and functions: chapters 2 and 3; Lagrangians:
section 5.1; projections: section 8.1), and the papers that each function names.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]


def jensen_gap(f: Function, points: Tensor, weights: Tensor) -> Tensor:
    """Jensen's gap Σ wᵢ f(xᵢ) − f(Σ wᵢ xᵢ): for a convex f never negative, but for rounding.

    Args:
        f: a function of a scalar tensor, or of one of shape (d,), with a scalar tensor as value.
        points: the xᵢ, shape (k,) for numbers or (k, d).
        weights: the wᵢ, shape (k,), of the points' dtype, not negative and of sum 1.

    Returns:
        The gap, a scalar tensor.

    Raises:
        TypeError: points or weights are no floating-point tensor, or not of one dtype; f is no function, or f(x) no
            tensor.
        ValueError: a shape is another one, there is no point, a weight is negative, their sum is not 1, or f(x) is no
            scalar.

    Source: J. L. W. V. Jensen, "Sur les fonctions convexes et les inégalités entre les valeurs moyennes", 1906.

    >>> jensen_gap(torch.square, torch.tensor([-1.0, 3.0]), torch.tensor([0.5, 0.5]))
    tensor(4.)
    """
    if not callable(f):
        raise TypeError(f"f: expected a function, got {f!r}")
    _check_float("points", points)
    _check_dtype("weights", weights, points.dtype)
    if points.dim() not in (1, 2) or points.numel() == 0:
        raise ValueError(f"points: expected shape (k,) or (k, d), got {tuple(points.shape)}")
    k = len(points)
    if weights.shape != (k,):
        raise ValueError(f"weights: expected shape ({k},), got {tuple(weights.shape)}")
    if (weights < 0).any():
        raise ValueError(f"weights: expected none below 0, got {weights.min().item()}")
    # k quotients and their sum may each be off by the dtype's precision.
    if not abs(weights.sum() - 1) <= 2 * k * torch.finfo(weights.dtype).eps:
        raise ValueError(f"weights: expected a sum of 1, got {weights.sum().item()}")
    values = [_value("f", f, x) for x in points]
    for value in values:
        if value.dim() != 0:
            raise ValueError(f"f: expected a scalar as value, got shape {tuple(value.shape)}")
    return weights @ torch.stack(values) - f(weights @ points)


def project_ball(x: Tensor, radius: float = 1.0) -> Tensor:
    """The nearest point of the ball |z|₂ ≤ radius: x itself inside, radius x / |x| outside.

    Args:
        x: one vector or many, shape (…, d): each is projected on its own.
        radius: positive and finite.

    Returns:
        The nearest points, like x. A vector with an entry that is infinite or NaN becomes NaN.

    Raises:
        TypeError: x is no floating-point tensor, radius no number.
        ValueError: x has no last dimension, or one of size 0; radius is out of range.

    Source: Boyd and Vandenberghe 2004, section 8.1; on gradients, R. Pascanu, T. Mikolov and Y. Bengio, "On the
    difficulty of training recurrent neural networks", 2013, algorithm 1.

    >>> project_ball(torch.tensor([[3.0, 4.0], [0.3, 0.4]]))
    tensor([[0.6000, 0.8000],
            [0.3000, 0.4000]])
    """
    _check_vectors(x)
    _check_positive("radius", radius)
    # The squares in |x| could overflow or vanish, those in |x / size| cannot. Any constant size gives the same point,
    # so it takes no part in the gradient.
    size = _max_abs(x.detach(), dim=-1)
    norm = torch.linalg.vector_norm(x / size, dim=-1, keepdim=True)
    inside = size * norm <= radius
    # Unselected values count in the backward pass too, where 0 · ∞ would be NaN.
    return torch.where(inside, x, x / size / torch.where(inside, 1, norm) * radius)


def project_box(x: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """The nearest point of the box low ≤ z ≤ high: each entry of x, moved to the bound that it exceeds.

    Args:
        x: any shape.
        low, high: numbers, or tensors of x's dtype that broadcast to x's shape. They may be infinite.

    Returns:
        The nearest point, like x. An entry that is NaN stays NaN.

    Raises:
        TypeError: x is no floating-point tensor; low or high is no number and no tensor of x's dtype.
        ValueError: low or high does not broadcast to x, or low ≤ high does not hold everywhere.

    Source: Boyd and Vandenberghe 2004, section 8.1.

    >>> project_box(torch.tensor([-3.0, 0.5, 7.0]), 0, torch.tensor([1.0, 2.0, 3.0]))
    tensor([0.0000, 0.5000, 3.0000])
    """
    _check_float("x", x)
    low, high = _bound("low", low, x), _bound("high", high, x)
    if not (low <= high).all():
        raise ValueError(f"low: expected at most high everywhere, got low = {low.tolist()}, high = {high.tolist()}")
    return x.clamp(low, high)


def project_simplex(x: Tensor, total: float = 1.0) -> Tensor:
    """The nearest point of the simplex z ≥ 0, Σ z = total: max(0, x − θ), with the θ that makes the sum right.

    Args:
        x: one vector or many, shape (…, d): each is projected on its own.
        total: positive and finite.

    Returns:
        The nearest points, like x. A vector with an entry that is ∞ or NaN becomes NaN, and so does one of nothing
            but −∞; any other −∞ becomes 0.

    Raises:
        TypeError: x is no floating-point tensor, total no number.
        ValueError: x has no last dimension, or one of size 0; total is out of range.

    Source: J. Duchi, S. Shalev-Shwartz, Y. Singer and T. Chandra, "Efficient projections onto the l1-ball for learning
    in high dimensions", 2008, figure 1.

    >>> project_simplex(torch.tensor([[1.0, 1.0, 0.0], [5.0, 0.0, 0.0]]))
    tensor([[0.5000, 0.5000, 0.0000],
            [1.0000, 0.0000, 0.0000]])
    """
    _check_vectors(x)
    _check_positive("total", total)
    # A constant added to x changes nothing, so take away what would cost digits, or overflow, in the sums.
    x = x - x.amax(-1, keepdim=True)
    j = torch.arange(1, x.shape[-1] + 1, device=x.device)
    # If the j largest entries were those that stay positive, θ would be this. It grows with j for as long as the next
    # entry is above it, and falls from there on: the right j, which the paper searches for, has the largest.
    theta = (x.sort(-1, descending=True).values.cumsum(-1) - total) / j
    return (x - theta.amax(-1, keepdim=True)).clamp(min=0)


def project_subspace(x: Tensor, A: Tensor) -> Tensor:
    """The nearest point of the span of A's columns: U Uᵀ x, with an orthonormal basis U of that span.

    Args:
        x: one vector or many, shape (…, d): each is projected on its own.
        A: of shape (d, r) and x's dtype, finite. Its columns may depend on each other. It counts as a constant: no
            gradient flows to it, for where its rank changes there is none.

    Returns:
        The nearest points, like x. A vector with an entry that is NaN becomes NaN.

    Raises:
        TypeError: x or A is no floating-point tensor, or they are not of one dtype.
        ValueError: x has no last dimension, or one of size 0; A has another shape, no column or an entry that is not
            finite.

    Source: G. Golub and C. Van Loan, "Matrix Computations", 2013, chapter 2 (orthogonal projections and the SVD).

    >>> project_subspace(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([[1.0, 2.0], [1.0, 2.0], [0.0, 0.0]]))
    tensor([1.5000, 1.5000, 0.0000])
    """
    _check_vectors(x)
    _check_dtype("A", A, x.dtype)
    d = x.shape[-1]
    if A.dim() != 2 or len(A) != d or A.shape[1] == 0:
        raise ValueError(f"A: expected shape ({d}, r) with r of at least 1, got {tuple(A.shape)}")
    if not A.isfinite().all():
        raise ValueError("A: expected finite entries, got NaN or infinity")
    A = A.detach()
    # Columns of one size: a short one is as much a direction as a long one.
    U, sigma, _ = torch.linalg.svd(A / _max_abs(A, dim=0), full_matrices=False)
    U = U * (sigma > sigma[0] * max(A.shape) * torch.finfo(A.dtype).eps)  # 0 for the columns outside the span
    return x @ U @ U.T


def lagrangian(f: Function, constraints: Sequence[Function]) -> Callable[[Tensor, Tensor], Tensor]:
    """The Lagrangian L(x, α) = f(x) + Σ αᵢ cᵢ(x) of: minimise f(x) such that all cᵢ(x) ≤ 0.

    Args:
        f: the function to minimise.
        constraints: the functions cᵢ of the same x.

    Returns:
        L, a function of x and alpha: the multipliers αᵢ, shape (number of constraints,). For α ≥ 0, min L(x, α) over x
        is at most the constrained minimum of f; for other α there is no such bound, and L does not ask.

    Raises:
        TypeError: f is no function, constraints no sequence of them; L: alpha is no floating-point tensor, or a value
            of f or of a constraint no tensor.
        ValueError: L: alpha has another shape.

    Source: Boyd and Vandenberghe 2004, section 5.1.

    >>> L = lagrangian(torch.square, [lambda x: 1 - x])  # x² for x ≥ 1
    >>> L(torch.tensor(0.5), torch.tensor([2.0]))
    tensor(1.2500)
    """
    _check_functions(f, constraints)
    constraints = tuple(constraints)  # the caller's list may change later

    def L(x: Tensor, alpha: Tensor) -> Tensor:
        _check_float("alpha", alpha)
        if alpha.shape != (len(constraints),):
            raise ValueError(f"alpha: expected shape ({len(constraints)},), got {tuple(alpha.shape)}")
        sums = (a * _value("constraints", c, x) for a, c in zip(alpha, constraints, strict=True))
        return _value("f", f, x) + sum(sums)

    return L


def penalised(f: Function, constraints: Sequence[Function], weight: float) -> Function:
    """f(x) + ½ weight Σ max(0, cᵢ(x))²: what breaking cᵢ(x) ≤ 0 costs, once differentiable where f and the cᵢ are.

    Args:
        f: the function to minimise.
        constraints: the functions cᵢ of the same x.
        weight: the price, not negative and finite.

    Raises:
        TypeError: f is no function, constraints no sequence of them, weight no number; when called: a value of f or of
            a constraint is no tensor.
        ValueError: weight is out of range.

    Source: R. Courant, "Variational methods for the solution of problems of equilibrium and vibrations", 1943.

    >>> penalised(torch.square, [lambda x: 1 - x], weight=8)(torch.tensor(0.5))  # x² for x ≥ 1
    tensor(1.2500)
    """
    _check_functions(f, constraints)
    constraints = tuple(constraints)  # the caller's list may change later
    _check_number("weight", weight)
    if not 0 <= weight < math.inf:
        raise ValueError(f"weight: expected a finite number of at least 0, got {weight}")

    def F(x: Tensor) -> Tensor:
        squares = (_value("constraints", c, x).clamp(min=0) ** 2 for c in constraints)
        return _value("f", f, x) + weight / 2 * sum(squares)

    return F


def _max_abs(x: Tensor, dim: int) -> Tensor:
    """The largest |entry| along a dimension, which stays with size 1; where that is 0, a harmless 1 to divide by."""
    size = x.abs().amax(dim, keepdim=True)
    return torch.where(size == 0, 1, size)


def _bound(name: str, value: float | Tensor, x: Tensor) -> Tensor:
    if not isinstance(value, Tensor):
        _check_number(name, value)
        return torch.as_tensor(value, dtype=x.dtype, device=x.device)
    _check_dtype(name, value, x.dtype)
    sizes = zip(reversed(value.shape), reversed(x.shape), strict=False)
    if value.dim() > x.dim() or any(size not in (1, wanted) for size, wanted in sizes):
        raise ValueError(f"{name}: expected a shape that broadcasts to {tuple(x.shape)}, got {tuple(value.shape)}")
    return value


def _check_float(name: str, x: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a floating-point tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"{name}: expected a floating-point tensor, got {x.dtype}")


def _check_dtype(name: str, x: Tensor, dtype: torch.dtype) -> None:
    _check_float(name, x)
    if x.dtype != dtype:
        raise TypeError(f"{name}: expected {dtype}, got {x.dtype}")


def _check_vectors(x: Tensor) -> None:
    _check_float("x", x)
    if x.dim() == 0 or x.shape[-1] == 0:
        raise ValueError(f"x: expected shape (…, d) with d of at least 1, got {tuple(x.shape)}")


def _check_number(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: expected a number, got {value!r}")


def _check_positive(name: str, value: float) -> None:
    _check_number(name, value)
    if not 0 < value < math.inf:
        raise ValueError(f"{name}: expected a positive, finite number, got {value}")


def _value(name: str, f: Function, x: Tensor) -> Tensor:
    value = f(x)
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a tensor as value, got {type(value).__name__}")
    return value


def _check_functions(f: Function, constraints: Sequence[Function]) -> None:
    if not callable(f):
        raise TypeError(f"f: expected a function, got {f!r}")
    if not isinstance(constraints, Sequence) or not all(map(callable, constraints)):
        raise TypeError(f"constraints: expected a sequence of functions, got {constraints!r}")
