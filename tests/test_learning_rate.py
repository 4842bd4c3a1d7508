"""The schedules give PyTorch's rates at every step and drive whatever takes a rate. What they refuse is in
test_refusals.py."""

import math
from collections.abc import Callable
from itertools import accumulate, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import TensorDataset

from lessons_lib.gradient_descent import gradient_descent
from lessons_lib.learning_rate import Schedule, constant, cosine, exponential, piecewise, polynomial, warmup
from lessons_lib.training import train

check = settings(deadline=None, max_examples=15)
EPS = torch.finfo(torch.float64).eps
STEPS = 12

rates = st.floats(1e-4, 10)
numbers = st.just(0.0) | st.floats(1e-3, 2)
milestones = st.lists(st.integers(1, 300), min_size=1, max_size=8, unique=True).map(sorted)

# Each schedule, its arguments after lr, and what gives the same rates in PyTorch.
SAME: dict[str, tuple[Callable[..., Schedule], st.SearchStrategy, Callable[..., LRScheduler]]] = {
    "constant": (constant, st.tuples(), lambda o: lr_scheduler.ConstantLR(o, factor=1.0)),
    "piecewise": (piecewise, st.tuples(milestones, st.floats(0.1, 1)), lr_scheduler.MultiStepLR),
    "exponential": (
        exponential,
        st.tuples(numbers),
        lambda o, decay: lr_scheduler.ExponentialLR(o, math.exp(-decay)),
    ),
    "polynomial": (
        polynomial,
        st.tuples(numbers, numbers),
        lambda o, alpha, beta: lr_scheduler.LambdaLR(o, lambda step: math.exp(-alpha * math.log1p(beta * step))),
    ),
    "cosine": (cosine, st.tuples(st.integers(1, 300)), lr_scheduler.CosineAnnealingLR),
}
EACH: dict[str, Callable[[], Schedule]] = {
    "constant": lambda: constant(0.3),
    "piecewise": lambda: piecewise(0.3, [1, 5, 12], 0.3),
    "exponential": lambda: exponential(0.3, 0.2),
    "polynomial": lambda: polynomial(0.3, 0.5, 0.7),
    "cosine": lambda: cosine(0.3, STEPS),
    "warmup": lambda: warmup(cosine(0.3, STEPS - 5), 5),
}
each = pytest.mark.parametrize("make", EACH.values(), ids=EACH)


def first(schedule: Schedule, count: int) -> list[float]:
    return [schedule(step) for step in range(count)]


def by_torch(make: Callable[[torch.optim.Optimizer], LRScheduler], lr: float, count: int) -> list[float]:
    """The rates of the first steps, as an optimiser that starts at lr has them."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr)
    scheduler = make(optimizer)
    found = []
    for _ in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


# PyTorch's rates


@pytest.mark.parametrize("name", SAME)
@check
@given(lr=rates, steps=st.integers(1, 100), data=st.data())
def test_rates_are_torch_s_with_and_without_a_warmup(name: str, lr: float, steps: int, data: st.DataObject) -> None:
    make, strategy, theirs = SAME[name]
    arguments = data.draw(strategy)
    schedule = make(lr, *arguments)
    count = arguments[0] + 1 if name == "cosine" else 302
    # PyTorch multiplies its way there and rounds at each step: 1e-13 or so may add up. Towards the end of the cosine,
    # and of the line, its 1 + cos and its sum have lost digits.
    close = dict(rel=1e-12, abs=4 * EPS * lr if name == "cosine" else 0.0)
    assert first(schedule, count) == pytest.approx(by_torch(lambda o: theirs(o, *arguments), lr, count), **close)
    assert schedule(0) == lr

    def warmed(optimizer: torch.optim.Optimizer) -> LRScheduler:
        line = lr_scheduler.LinearLR(optimizer, start_factor=1 / (steps + 1), total_iters=steps)
        return lr_scheduler.SequentialLR(optimizer, [line, theirs(optimizer, *arguments)], milestones=[steps])

    warm = warmup(schedule, steps)
    expected = by_torch(warmed, lr, steps + min(count, 10))
    assert first(warm, len(expected)) == pytest.approx(expected, rel=1e-12, abs=4 * EPS * lr)
    assert warm(steps) == lr and warm(steps + 200) == schedule(200)


@pytest.mark.parametrize("name", SAME)
@check
@given(lr=rates, data=st.data(), order=st.permutations(range(301)))
def test_falls_and_stays_positive(name: str, lr: float, data: st.DataObject, order: list[int]) -> None:
    make, strategy, _ = SAME[name]
    schedule = cosine(lr, 301) if name == "cosine" else make(lr, *data.draw(strategy))
    found = first(schedule, 301)
    assert all(0 < later <= earlier * (1 + EPS) < math.inf for earlier, later in pairwise(found))
    assert [schedule(step) for step in order] == [found[step] for step in order]  # it does not remember what was asked


def test_known_rates() -> None:
    assert first(piecewise(1.0, (1, 3), 0.5), 5) == [1, 0.5, 0.5, 0.25, 0.25]
    assert first(piecewise(0.3, range(1, 4), 1), 5) == [0.3] * 5
    assert first(exponential(0.3, 0), 5) == [0.3] * 5
    halves = [1, 1 / 2, 1 / 4, 1 / 8, 1 / 16]
    assert first(exponential(1.0, math.log(2)), 5) == pytest.approx(halves, rel=4 * EPS, abs=0)
    assert first(polynomial(2.0, 1.0, 1.0), 5) == pytest.approx([2, 1, 2 / 3, 1 / 2, 2 / 5], rel=2 * EPS, abs=0)
    assert polynomial(1.0, 0.5, 3)(8) == 0.2
    assert first(polynomial(0.3, 0, 2), 5) == first(polynomial(0.3, 2, 0), 5) == [0.3] * 5
    assert first(cosine(4.0, 3), 6) == pytest.approx([4, 3, 1, 0, 0, 0], rel=2 * EPS, abs=0)
    assert first(cosine(0.3, 1), 3) == [0.3, 0, 0]
    # 1 + cos would be exactly 0 here in floats; sin² rounds five times.
    assert cosine(0.3, 10**9)(10**9 - 1) == pytest.approx(0.3 * (math.pi / 2e9) ** 2, rel=5 * EPS, abs=0)
    assert cosine(0.3, 10**9)(10**9) == cosine(0.3, 10**9)(10**12) == 0
    assert exponential(0.3, 1000)(2) == polynomial(0.3, 1000, 9)(2) == 0  # less than a float can hold
    assert first(warmup(piecewise(1.0, [1], 0.5), 3), 6) == [0.25, 0.5, 0.75, 1, 0.5, 0.5]
    assert first(warmup(piecewise(1.0, [1], 0.5), 0), 3) == [1, 0.5, 0.5]
    assert first(warmup(warmup(constant(1.0), 1), 1), 4) == [0.25, 0.5, 1, 1]


# What takes a rate


@each
def test_lambda_lr_train_and_gradient_descent_take_each(
    make: Callable[[], Schedule], monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = make()
    expected = first(schedule, STEPS)
    assert by_torch(lambda o: lr_scheduler.LambdaLR(o, schedule), 1.0, STEPS) == expected
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    examples = TensorDataset(torch.ones(6, 2), torch.ones(6, dtype=torch.long))
    assert train(nn.Linear(2, 2), examples, lr=schedule, num_epochs=STEPS // 3, batch_size=2).lr == expected
    x = gradient_descent(lambda x: -x, 0.0, schedule, STEPS)  # each step is the rate itself
    assert x.tolist() == list(accumulate(expected, initial=0.0))


@each
def test_a_step_is_an_int_of_at_least_0(make: Callable[[], Schedule]) -> None:
    for step, error, message in ((-1, ValueError, "at least 0, got -1"), (1.0, TypeError, "an int, got 1.0")):
        with pytest.raises(error, match=f"^step: expected {message}$"):
            make()(step)
    assert make()(np.int64(3)) == make()(torch.tensor(3)) == make()(3)
