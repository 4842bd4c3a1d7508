"""Schedules: learning rates as plain functions of the step, for `train`, for `gradient_descent` and for PyTorch.

`torch.optim.lr_scheduler.LambdaLR` multiplies with the optimiser's own rate: let that be 1.

All but `warmup` start at lr and never rise. The same step always gets the same rate. A step below 0 raises a
ValueError, one that is not an int a TypeError. Where the formula gives less than a float can hold, the rate is 0.0.

Source: A. Zhang, Z. Lipton, M. Li and A. Smola, "Dive into Deep Learning", section "Dynamic Learning Rate" (piecewise,
exponential, polynomial). The other sources stand where they are used.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise

from lessons_lib.checks import as_int, as_number, as_rate, as_tuple

Schedule = Callable[[int], float]


def constant(lr: float) -> Schedule:
    """lr at every step.

    Args:
        lr: the rate. Positive.

    Raises:
        ValueError: lr is out of range.
        TypeError: it is not a number.

    >>> constant(0.1)(1000)
    0.1
    """
    lr = as_rate(lr)
    return _schedule(lambda step: lr)


def piecewise(lr: float, boundaries: Sequence[int], factor: float) -> Schedule:
    """lr · factor^n, where n boundaries are ≤ step: as PyTorch's `MultiStepLR`.

    Args:
        lr: the first rate. Positive.
        boundaries: the steps at which the next rate begins: one or more, increasing, the first at least 1.
        factor: what each boundary multiplies the rate by. In (0, 1].

    Raises:
        ValueError: an argument is out of range.
        TypeError: lr or factor is not a number; boundaries is not a sequence of ints.

    Example: K. He and others, "Deep Residual Learning for Image Recognition", 2015, arXiv:1512.03385, section 4.2.

    >>> [piecewise(1.0, [2, 3], factor=0.5)(step) for step in range(5)]
    [1.0, 1.0, 0.5, 0.25, 0.25]
    """
    lr, factor = as_rate(lr), as_number("factor", factor, "(0, 1]")
    boundaries = [as_int("boundaries", step, at_least=1) for step in as_tuple("boundaries", boundaries, of="ints")]
    if not boundaries:
        raise ValueError("boundaries: expected at least one step, got none")
    if any(later <= earlier for earlier, later in pairwise(boundaries)):
        raise ValueError(f"boundaries: expected increasing steps, got {boundaries}")
    return _schedule(lambda step: lr * factor ** bisect_right(boundaries, step))


def exponential(lr: float, decay: float) -> Schedule:
    """lr · exp(-decay · step): as PyTorch's `ExponentialLR` with gamma = exp(-decay).

    From decay · step ≈ 745 on, exp is 0.0 in floats: `train` and `gradient_descent` refuse such a rate.

    Args:
        lr: the first rate. Positive.
        decay: not negative; 1 / decay steps divide the rate by e.

    Raises:
        ValueError: an argument is out of range.
        TypeError: one is not a number.

    >>> [round(exponential(1.0, decay=0.5)(step), 3) for step in range(5)]
    [1.0, 0.607, 0.368, 0.223, 0.135]
    """
    lr, decay = as_rate(lr), as_number("decay", decay, "[0, inf)")
    return _schedule(lambda step: lr * math.exp(-decay * step))


def polynomial(lr: float, alpha: float, beta: float) -> Schedule:
    """lr · (beta · step + 1)^(-alpha), as in stochastic approximation. PyTorch's `PolynomialLR` is another schedule.

    Robbins and Monro ask for rates whose sum is infinite and whose squares have a finite sum: alpha in (½, 1], and beta
    above 0. For convex functions alpha = ½ is usual.

    Args:
        lr: the first rate. Positive.
        alpha: the power at which the rate falls. Not negative.
        beta: how early it begins to fall: about at step 1 / beta. Not negative.

    Raises:
        ValueError: an argument is out of range.
        TypeError: one is not a number.

    Source: H. Robbins and S. Monro, "A Stochastic Approximation Method", 1951.

    >>> [round(polynomial(1.0, alpha=0.5, beta=1.0)(step), 3) for step in range(5)]
    [1.0, 0.707, 0.577, 0.5, 0.447]
    """
    lr, alpha, beta = as_rate(lr), as_number("alpha", alpha, "[0, inf)"), as_number("beta", beta, "[0, inf)")
    return _schedule(lambda step: lr * (beta * step + 1) ** -alpha)


def cosine(lr: float, steps: int) -> Schedule:
    """lr · (1 + cos(π · step / steps)) / 2: half a wave from lr to 0. Up to there PyTorch's `CosineAnnealingLR`.

    The last of `steps` steps, numbered steps - 1, still has a positive rate. From step `steps` on it is 0.0, where
    PyTorch's climbs again. That is no error here, because LambdaLR asks for one rate more than it takes steps; but
    `train` and `gradient_descent` refuse to take a step with it.

    Args:
        lr: the first rate. Positive.
        steps: the length of the run. At least 1.

    Raises:
        ValueError: an argument is out of range.
        TypeError: lr is not a number, or steps not an int.

    Source: I. Loshchilov and F. Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2016, arXiv:1608.03983;
    without the restarts.

    >>> [round(cosine(1.0, steps=4)(step), 3) for step in range(6)]
    [1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """
    lr, steps = as_rate(lr), as_int("steps", steps, at_least=1)

    def rate(step: int) -> float:
        left = max(steps - step, 0) / steps
        # sin² of half the angle that is left: the same, without a 1 + cos that cancels towards the end.
        return lr * math.sin(math.pi / 2 * left) ** 2

    return _schedule(rate)


def warmup(schedule: Schedule, steps: int) -> Schedule:
    """So many steps that rise evenly towards the schedule's first rate, and then the schedule from its own step 0 on.

    Step k < steps has schedule(0) · (k + 1) / (steps + 1): no step is lost to a rate of 0, and the schedule's first
    step is one more equal step up. As PyTorch's `LinearLR` with start_factor = 1 / (steps + 1) and total_iters = steps,
    followed by the schedule in a `SequentialLR` with milestones = [steps].

    Args:
        schedule: a function of the step (0, 1, …) alone that returns the rate.
        steps: how many to put before it. Not negative; 0 is the schedule itself.

    Raises:
        ValueError: steps or schedule(0) is out of range.
        TypeError: schedule is not a function, schedule(0) not a number, or steps not an int.

    Source: P. Goyal and others, "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", 2017, arXiv:1706.02677,
    section 2.2.

    >>> [warmup(constant(1.0), steps=3)(step) for step in range(5)]
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    if not callable(schedule):
        raise TypeError(f"schedule: expected a function of the step, got {schedule!r}")
    steps, lr = as_int("steps", steps, at_least=0), as_rate(schedule(0))
    return _schedule(lambda step: lr * (step + 1) / (steps + 1) if step < steps else schedule(step - steps))


def _schedule(rate: Schedule) -> Schedule:
    """The same function, for steps that there are."""

    def schedule(step: int) -> float:
        return rate(as_int("step", step, at_least=0))

    return schedule
