"""Schedules: learning rates as plain functions of the step, for `train`, for `gradient_descent` and for PyTorch.

Each starts at lr, which is positive, and never rises, except during a `warmup`. The step is an int of at least 0. Where
the formula gives less than a float can hold, the rate is 0.0, which `train` and `gradient_descent` refuse. PyTorch's
`LambdaLR` multiplies by the optimiser's own rate: let that be 1. An argument or a step that is out of range raises a
ValueError, one that is of the wrong kind a TypeError.

Source: A. Zhang, Z. Lipton, M. Li and A. Smola, "Dive into Deep Learning", section "Dynamic Learning Rate".
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise

from lessons_lib.checks import as_int, as_number, as_rate, as_tuple, check_function

Schedule = Callable[[int], float]


def constant(lr: float) -> Schedule:
    """lr at every step.

    >>> constant(0.1)(1000)
    0.1
    """
    lr = as_rate(lr)
    return _schedule(lambda step: lr)


def piecewise(lr: float, boundaries: Sequence[int], factor: float) -> Schedule:
    """lr · factor^n, where n boundaries are ≤ step: as PyTorch's `MultiStepLR`.

    The boundaries are one or more increasing steps, the first at least 1. The factor is in (0, 1]. Example: K. He and
    others, "Deep Residual Learning for Image Recognition", 2015, arXiv:1512.03385, section 4.2.

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
    """lr · exp(-decay · step), with decay ≥ 0: as PyTorch's `ExponentialLR` with gamma = exp(-decay).

    >>> [round(exponential(1.0, decay=0.5)(step), 3) for step in range(5)]
    [1.0, 0.607, 0.368, 0.223, 0.135]
    """
    lr, decay = as_rate(lr), as_number("decay", decay, "[0, inf)")
    return _schedule(lambda step: lr * math.exp(-decay * step))


def polynomial(lr: float, alpha: float, beta: float) -> Schedule:
    """lr · (beta · step + 1)^(-alpha), with alpha, beta ≥ 0. PyTorch's `PolynomialLR` is another schedule.

    Source: H. Robbins and S. Monro, "A Stochastic Approximation Method", 1951.

    >>> [round(polynomial(1.0, alpha=0.5, beta=1.0)(step), 3) for step in range(5)]
    [1.0, 0.707, 0.577, 0.5, 0.447]
    """
    lr, alpha, beta = as_rate(lr), as_number("alpha", alpha, "[0, inf)"), as_number("beta", beta, "[0, inf)")
    return _schedule(lambda step: lr * (beta * step + 1) ** -alpha)


def cosine(lr: float, steps: int) -> Schedule:
    """lr · (1 + cos(π · step / steps)) / 2: half a wave from lr to 0. Up to there PyTorch's `CosineAnnealingLR`.

    A run of `steps` steps, at least 1, ends with step steps - 1, which still has a positive rate. From step `steps` on,
    which LambdaLR asks for as well, the rate is 0.0, where PyTorch's climbs again.

    Source: I. Loshchilov and F. Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2016, arXiv:1608.03983;
    without the restarts.

    >>> [round(cosine(1.0, steps=4)(step), 3) for step in range(6)]
    [1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """
    lr, steps = as_rate(lr), as_int("steps", steps, at_least=1)
    # sin² of half the angle that is left: the same, without a 1 + cos that cancels towards the end.
    return _schedule(lambda step: lr * math.sin(math.pi / 2 * (max(steps - step, 0) / steps)) ** 2)


def warmup(schedule: Schedule, steps: int) -> Schedule:
    """So many steps that rise evenly towards the schedule's first rate, and then the schedule from its own step 0 on.

    Step k < steps has schedule(0) · (k + 1) / (steps + 1). As PyTorch's `LinearLR` with start_factor = 1 / (steps + 1)
    and total_iters = steps, followed by the schedule in a `SequentialLR` with milestones = [steps].

    Source: P. Goyal and others, "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", 2017, arXiv:1706.02677,
    section 2.2.

    >>> [warmup(constant(1.0), steps=3)(step) for step in range(5)]
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    check_function("schedule", schedule)
    steps, lr = as_int("steps", steps, at_least=0), as_rate(schedule(0))
    return _schedule(lambda step: lr * (step + 1) / (steps + 1) if step < steps else schedule(step - steps))


def _schedule(rate: Schedule) -> Schedule:
    def schedule(step: int) -> float:
        return rate(as_int("step", step, at_least=0))

    return schedule
