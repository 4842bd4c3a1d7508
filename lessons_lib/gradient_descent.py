"""Gradient descent and Newton's method on any function that PyTorch differentiates.

Sources: S. Boyd and L. Vandenberghe, "Convex Optimization", 2004, sections 9.2 (line search), 9.3 (descent) and 9.5
(Newton's method), and the papers that each function names.

A ValueError says that an argument has a wrong shape or is out of range, or that f returns more than one number, or one
that does not depend on x. A TypeError says that an argument is of a wrong type, that f does not return a real tensor,
or that a point requires a gradient, which does not flow back to it: pass x0.detach().
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lessons_lib.checks import Array, as_bool, as_constant, as_int, as_number, as_point, as_schedule, check_function
from lessons_lib.objectives import Function, hessian_at, value_at

Rate = float | Callable[[int], float]  # a learning rate, or a schedule: a function of the step


def gradient_descent(
    f: Function,
    x0: Array,
    lr: Rate,
    steps: int,
    *,
    momentum: float = 0.0,
    preconditioner: Array | None = None,
    backtrack: bool = False,
) -> Tensor:
    """Walk downhill: v ← momentum v + ∇f(x), then x ← x − lr P v.

    A run that diverges does not raise. Once f, its gradient or the next x is not finite, this x and all later ones are
    ±inf in each coordinate: with its sign where it has one, +inf where it has become NaN.

    Args:
        f: takes x, a float64 tensor of x0's shape, and returns a scalar tensor; autograd finds ∇f.
        x0: the start, finite: a number, or d numbers, as a sequence, an array or a tensor.
        lr: the learning rate, or a schedule: a function of the step (0, 1, …) alone that returns it. Positive.
        steps: how often x moves. Not negative.
        momentum: the weight of the old velocity v, in [0, 1), as `torch.optim.SGD` has it: v starts as ∇f(x0).
        preconditioner: P, of shape (d,) for a diagonal matrix, or (d, d); None is the identity. For a number, ().
        backtrack: take the rate that `backtracking` finds from lr on; x stays where it finds none. Without momentum
            only: v need not lead downhill.

    Returns the trajectory, the start included, in float64 and without a graph: shape (steps + 1,) for a number, else
    (steps + 1, d).

    Source of momentum: B. Polyak, "Some methods of speeding up the convergence of iteration methods", 1964.

    >>> gradient_descent(lambda x: x**2, 10.0, lr=0.2, steps=10)[-1]
    tensor(0.0605, dtype=torch.float64)
    """
    x, momentum = as_constant("x0", x0), as_number("momentum", momentum, "[0, 1)")
    backtrack = as_bool("backtrack", backtrack)
    if backtrack and momentum > 0:
        raise ValueError(f"momentum: expected 0 with backtrack, got {momentum}")
    P = torch.ones_like(x) if preconditioner is None else as_constant("preconditioner", preconditioner, max_dim=2)
    if P.shape not in (x.shape, 2 * x.shape):
        shapes = f"{tuple(x.shape)} or {tuple(2 * x.shape)}, got {tuple(P.shape)}"
        raise ValueError(f"preconditioner: expected shape {shapes}")
    v = torch.zeros_like(x)

    def direction(x: Tensor) -> Tensor:
        nonlocal v
        v = momentum * v + gradient(f, x)
        return -(P * v if P.shape == x.shape else P @ v)

    return walk(f, x, lr, steps, backtrack, direction)


def newton(
    f: Function, x0: Array, lr: Rate = 1.0, steps: int = 10, *, hessian: str = "full", backtrack: bool = False
) -> Tensor:
    """Jump to where the parabola that fits f at x is flat: x ← x − lr H⁻¹ ∇f(x), with the Hessian H = ∇²f(x).

    Returns the trajectory as `gradient_descent` does. Where H is singular the step is infinite, and the run ends as one
    that diverges. Rounding may hide that a matrix is singular; the step is then finite and huge.

    Args:
        f, x0, steps, backtrack: as for `gradient_descent`. f is differentiated twice.
        lr: how much of the jump to take, or a schedule. Positive; below 1 the method is called damped.
        hessian: "full" takes H, and goes uphill where f curves down; "absolute" replaces its eigenvalues by their
            absolute values, and goes downhill there too; "diagonal" sets all but its diagonal to zero.

    Source of "absolute": Y. Dauphin and others, "Identifying and attacking the saddle point problem in high-dimensional
    non-convex optimization", 2014, arXiv:1406.2572.

    >>> newton(torch.cos, 1.0, steps=5)[-1], newton(torch.cos, 1.0, steps=5, hessian="absolute")[-1]
    (tensor(0., dtype=torch.float64), tensor(3.1416, dtype=torch.float64))
    """
    if hessian not in ("full", "absolute", "diagonal"):
        raise ValueError(f"hessian: expected one of full, absolute, diagonal, got {hessian!r}")

    def direction(x: Tensor) -> Tensor:
        g, H = gradient(f, x).reshape(-1), hessian_at(f, x)
        if not H.isfinite().all():  # LAPACK may take such a matrix, and return a finite step
            return torch.full_like(x, math.nan)
        if hessian == "diagonal":
            return -(g / H.diagonal()).reshape(x.shape)
        if hessian == "absolute":
            lam, U = torch.linalg.eigh(H)
            return -(U @ (U.T @ g / lam.abs())).reshape(x.shape)
        step, singular = torch.linalg.solve_ex(H, g)
        return torch.full_like(x, math.nan) if singular else -step.reshape(x.shape)

    return walk(f, as_constant("x0", x0), lr, steps, as_bool("backtrack", backtrack), direction)


def backtracking(f: Function, x: Array, direction: Array, lr: float = 1.0) -> float:
    """Armijo's rule: the first of lr, lr / 2, lr / 4, … that is small enough to make f fall.

    Small enough means f(x + lr · direction) ≤ f(x) + 0.3 lr · ∇f(x)ᵀdirection: at least 0.3 of the fall that the
    tangent promises. A Newton step on a parabola gives half of it, which a share of 0.5 would leave to rounding.

    f and x are as f and x0 of `gradient_descent`; the direction is finite and of x's shape; lr is positive. Returns the
    rate; 0.0 if the direction does not lead downhill, or if f does not fall enough with lr · 2⁻⁶⁰ either.

    Source: L. Armijo, "Minimization of functions having Lipschitz continuous first partial derivatives", 1966.

    >>> backtracking(lambda x: x**2, 10.0, direction=-20.0)
    0.5
    """
    x, direction, lr = as_constant("x", x), as_constant("direction", direction), as_number("lr", lr, "(0, inf)")
    if direction.shape != x.shape:
        raise ValueError(f"direction: expected x's shape {tuple(x.shape)}, got {tuple(direction.shape)}")
    g, now = gradient(f, x), value_at(f, x)  # a scalar, or there would be no gradient
    for k in range(61):
        rate = lr / 2**k
        step = rate * direction
        promise = (g * step).sum()  # of the step: the direction's alone may leave the range of floats
        if promise < 0 and value_at(f, x + step) <= now + 0.3 * promise:
            return rate
    return 0.0


def walk(f: Function, x: Tensor, lr: Rate, steps: int, backtrack: bool, direction: Function) -> Tensor:
    """x ← x + lr · direction(x), for so many steps: what all methods share."""
    check_function("f", f)
    steps, schedule = as_int("steps", steps, at_least=0), as_schedule(lr)
    trajectory = [x]
    for step in range(steps):
        rate = schedule(step)
        if x.isfinite().all():
            d = direction(x)
            if backtrack and d.isfinite().all():
                rate = backtracking(f, x, d, rate)
            x = x + rate * d
            if not x.isfinite().all():
                x = torch.full_like(x, math.inf).copysign(x.nan_to_num())
        trajectory.append(x)
    return torch.stack(trajectory)


def gradient(f: Function, x: Array) -> Tensor:
    """∇f(x), without a graph; infinite, or NaN, where f(x) is: autograd can give the logarithm of -1 the slope -1."""
    x = as_point(x)
    with torch.inference_mode(False), torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        value = value_at(f, x, shape=())
    g = torch.autograd.grad(value, x, allow_unused=True)[0] if value.requires_grad else None
    if g is None:
        raise ValueError(f"f: expected a function that torch can differentiate, got {value.item()} without a gradient")
    return g if value.isfinite() else g * math.inf
