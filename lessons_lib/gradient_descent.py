"""Gradient descent and Newton's method on any function that PyTorch differentiates.

Source: S. Boyd and L. Vandenberghe, "Convex Optimization", 2004, chapter 9 (descent, line search, Newton's method).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lessons_lib.checks import (
    Array,
    as_bool,
    as_constant,
    as_int,
    as_number,
    as_rate,
    as_schedule,
    as_tensor,
    check_function,
    refuse_graph,
    refuse_transform,
)

Function = Callable[[Tensor], Tensor]


def gradient_descent(
    f: Function,
    x0: Array,
    lr: float | Callable[[int], float],
    steps: int,
    *,
    momentum: float = 0.0,
    preconditioner: Array | None = None,
    backtrack: bool = False,
) -> Tensor:
    """Walk downhill: v ← momentum v + ∇f(x), then x ← x − lr P v. All that it took stays to look at.

    A run that diverges does not raise. Once f, its gradient or the next x is not finite, this x and all later ones are
    ±inf in each coordinate: with its sign where it has one, +inf where it has become NaN.

    Args:
        f: takes x, a float64 tensor of x0's shape, and returns a scalar tensor; autograd finds ∇f.
        x0: the start, finite: a number, or d numbers, as a sequence, an array or a tensor. No gradient flows back to
            it: if it requires one, pass x0.detach().
        lr: the learning rate, or a schedule: a function of the step (0, 1, …) alone that returns it. Positive.
        steps: how often x moves. Not negative.
        momentum: the weight of the old velocity v, in [0, 1), as `torch.optim.SGD` has it: v starts as ∇f(x0).
        preconditioner: P, of shape (d,) for a diagonal matrix, or (d, d); None is the identity. For a number, ().
        backtrack: take lr times the first of 1, ½, ¼, … for which f falls enough; see `backtracking`. x stays
            where none does. Without momentum only: v need not lead downhill.

    Returns:
        The trajectory, the start included, in float64 and without a graph: shape (steps + 1,) for a number, else
        (steps + 1, d).

    Raises:
        ValueError: x0, a number or a shape is out of range, at the latest at the step for which a schedule returns it;
            f returns more than one number, or one whose graph does not lead to x.
        TypeError: f is not a function or does not return a real tensor; x0 or the preconditioner requires a gradient;
            another argument is of the wrong type.

    Sources: Boyd and Vandenberghe 2004, section 9.3; momentum: B. Polyak, "Some methods of speeding up the convergence
    of iteration methods", 1964.

    >>> gradient_descent(lambda x: x**2, 10.0, lr=0.2, steps=10)[-1]
    tensor(0.0605, dtype=torch.float64)
    >>> gradient_descent(lambda x: x[0] ** 2 + 2 * x[1] ** 2, (-5, -2), lr=0.1, steps=20).shape
    torch.Size([21, 2])
    """
    x, momentum = as_constant("x0", x0), as_number("momentum", momentum, "[0, 1)")
    backtrack = as_bool("backtrack", backtrack)
    if backtrack and momentum > 0:
        raise ValueError(f"momentum: expected 0 with backtrack, got {momentum}")
    precondition = _precondition(preconditioner, x)
    v = torch.zeros_like(x)

    def direction(x: Tensor) -> Tensor:
        nonlocal v
        v = momentum * v + gradient(f, x)
        return -precondition(v)

    return walk(f, x, lr, steps, backtrack, direction)


def newton(
    f: Function,
    x0: Array,
    lr: float | Callable[[int], float] = 1.0,
    steps: int = 10,
    *,
    hessian: str = "full",
    backtrack: bool = False,
) -> Tensor:
    """Jump to where the parabola that fits f at x is flat: x ← x − lr H⁻¹ ∇f(x), with the Hessian H = ∇²f(x).

    Where H is singular there is no such point: the step is infinite, and the run ends as one of `gradient_descent`
    that diverges. Rounding may hide that a matrix is singular; the step is then finite and huge.

    Args:
        f, x0, steps, backtrack: as for `gradient_descent`. f is differentiated twice.
        lr: how much of the jump to take, or a schedule. Positive; below 1 the method is called damped.
        hessian: "full" takes H, and goes uphill where f curves down; "absolute" replaces its eigenvalues by their
            absolute values, and goes downhill there too; "diagonal" sets all but its diagonal to zero.

    Returns:
        The trajectory, as `gradient_descent` returns it.

    Raises:
        ValueError, TypeError: as `gradient_descent`; hessian is another word.

    Sources: Boyd and Vandenberghe 2004, section 9.5; absolute: Y. Dauphin and others, "Identifying and attacking the
    saddle point problem in high-dimensional non-convex optimization", 2014, arXiv:1406.2572.

    >>> newton(lambda x: (x - 3) ** 2 + 1, 10.0, steps=2)
    tensor([10.,  3.,  3.], dtype=torch.float64)
    >>> newton(torch.cos, 1.0, steps=5)[-1], newton(torch.cos, 1.0, steps=5, hessian="absolute")[-1]
    (tensor(0., dtype=torch.float64), tensor(3.1416, dtype=torch.float64))
    """
    if not isinstance(hessian, str) or hessian not in _SOLVE:
        raise ValueError(f"hessian: expected one of {', '.join(_SOLVE)}, got {hessian!r}")

    def direction(x: Tensor) -> Tensor:
        g = gradient(f, x).reshape(-1)
        with torch.inference_mode(False):
            # Not torch.autograd.functional's, which torch.compile turns into zeros, nor torch.func.hessian, which goes
            # forward too: loading that warns in PyTorch 2.13.
            H = torch.func.jacrev(torch.func.jacrev(f))(x.clone()).detach().reshape(len(g), len(g))
        if not H.isfinite().all():  # LAPACK may take such a matrix, and return a finite step
            return torch.full_like(x, math.nan)
        return -_SOLVE[hessian](H, g).reshape(x.shape)

    return walk(f, as_constant("x0", x0), lr, steps, as_bool("backtrack", backtrack), direction)


def backtracking(
    f: Function,
    x: Array,
    direction: Array,
    lr: float = 1.0,
    *,
    slope: float = 0.3,
    shrink: float = 0.5,
) -> float:
    """Armijo's rule: the first of lr, lr · shrink, lr · shrink², … that is small enough to make f fall.

    Small enough means f(x + lr · direction) ≤ f(x) + slope · lr · ∇f(x)ᵀdirection: at least the share `slope` of the
    fall that the tangent promises.

    Args:
        f, x: as f and x0 of `gradient_descent`.
        direction: where to go, of x's shape.
        lr: the first rate to try. Positive.
        slope: in (0, 1). A Newton step on a parabola makes f fall by exactly half of what the tangent promises, and so
            does the gradient step 1 / L along its steepest axis. So 0.5 would leave it to rounding whether they pass.
        shrink: in (0, 0.99]: so that there are at most 4,140 rates to try.

    Returns:
        The rate; 0.0 if direction does not lead downhill, as where x is at a minimum, or if f does not fall enough with
        lr · 2⁻⁶⁰ either.

    Raises:
        ValueError, TypeError: as `gradient_descent`; direction is not finite or not of x's shape; slope or shrink is
            out of range.

    Sources: L. Armijo, "Minimization of functions having Lipschitz continuous first partial derivatives", 1966; Boyd
    and Vandenberghe 2004, section 9.2.

    >>> backtracking(lambda x: x**2, 10.0, direction=-20.0)
    0.5
    >>> backtracking(lambda x: x**2, 10.0, direction=20.0)
    0.0
    """
    check_function("f", f)
    x, direction = as_constant("x", x), as_constant("direction", direction)
    if direction.shape != x.shape:
        raise ValueError(f"direction: expected x's shape {tuple(x.shape)}, got {tuple(direction.shape)}")
    lr, slope, shrink = as_rate(lr), as_number("slope", slope, "(0, 1)"), as_number("shrink", shrink, "(0, 0.99]")
    g, now = gradient(f, x), _value(f, x)
    for k in range(math.ceil(-60 / math.log2(shrink)) + 1):
        rate = lr * shrink**k
        step = rate * direction
        promise = (g * step).sum()  # of the step: the direction's alone may leave the range of floats
        if promise < 0 and _value(f, x + step) <= now + slope * promise:
            return rate
    return 0.0


def walk(
    f: Function,
    x: Tensor,
    lr: float | Callable[[int], float],
    steps: int,
    backtrack: bool,
    direction: Callable[[Tensor], Tensor],
) -> Tensor:
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


def _value(f: Function, x: Tensor) -> Tensor:
    value = f(x)
    if not isinstance(value, Tensor):
        raise TypeError(f"f: expected a function that returns a tensor, got {value!r}")
    if value.is_complex():
        raise TypeError(f"f: expected a function that returns a real tensor, got {value.dtype}")
    if value.dim() > 0:
        raise ValueError(f"f: expected a function that returns a scalar tensor, got shape {tuple(value.shape)}")
    return value


def gradient(f: Function, x: Array) -> Tensor:
    """∇f(x); infinite, or NaN, where f(x) is, for autograd can give the logarithm of -1 the slope -1.

    It is a plain tensor like x, without a graph: no gradient flows back to x.
    """
    x = as_tensor("x", x)
    refuse_graph("x", x)
    refuse_transform("f")
    with torch.inference_mode(False), torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        value = _value(f, x)
    g = torch.autograd.grad(value, x, allow_unused=True)[0] if value.requires_grad else None
    if g is None:
        raise ValueError(
            f"f: expected a function that torch can differentiate, got {value.item()}, which has no gradient"
        )
    return g if value.isfinite() else g * math.inf


def _solve(H: Tensor, g: Tensor) -> Tensor:
    d, info = torch.linalg.solve_ex(H, g)
    return d if info == 0 else torch.full_like(g, math.nan)


def _solve_absolute(H: Tensor, g: Tensor) -> Tensor:
    lam, U = torch.linalg.eigh(H)
    return U @ (U.T @ g / lam.abs())


def _solve_diagonal(H: Tensor, g: Tensor) -> Tensor:
    return g / H.diagonal()


_SOLVE = dict(full=_solve, absolute=_solve_absolute, diagonal=_solve_diagonal)


def _precondition(P: Array | None, x: Tensor) -> Callable[[Tensor], Tensor]:
    """The function v ↦ P v."""
    if P is None:
        return lambda v: v
    P = as_constant("preconditioner", P, max_dim=2)
    if P.shape not in (x.shape, x.shape * 2):
        wanted = " or ".join(str(tuple(shape)) for shape in dict.fromkeys((x.shape, x.shape * 2)))
        raise ValueError(f"preconditioner: expected shape {wanted}, got {tuple(P.shape)}")
    return (lambda v: P * v) if P.shape == x.shape else (lambda v: P @ v)
