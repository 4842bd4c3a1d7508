"""The schedules give PyTorch's rates at every step, drive whatever takes a rate, and refuse what is no step or rate."""

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

from lessons_lib.gradient_descent import gradient_descent, newton
from lessons_lib.learning_rate import Schedule, constant, cosine, exponential, piecewise, polynomial, warmup
from lessons_lib.training import train

settings.register_profile("schedules", deadline=None, max_examples=15)
check = settings(settings.get_profile("schedules"))

EPS = torch.finfo(torch.float64).eps

rates = st.floats(1e-4, 10)
numbers = st.just(0.0) | st.floats(1e-3, 2)
lengths = st.integers(1, 300)
milestones = st.lists(st.integers(1, 300), min_size=1, max_size=8, unique=True).map(sorted)

falling = st.one_of(
    st.builds(constant, rates),
    st.builds(piecewise, rates, milestones, st.floats(0.1, 1)),
    st.builds(exponential, rates, numbers),
    st.builds(polynomial, rates, numbers, numbers),
    st.builds(cosine, rates, st.just(301)),
)
schedules = falling | st.builds(warmup, falling, st.integers(0, 20))

STEPS = 12
EACH = dict(
    constant=constant(0.3),
    piecewise=piecewise(0.3, [1, 5, 12], 0.3),
    exponential=exponential(0.3, 0.2),
    polynomial=polynomial(0.3, 0.5, 0.7),
    cosine=cosine(0.3, STEPS),
    warmup=warmup(cosine(0.3, STEPS - 5), 5),
)
each = pytest.mark.parametrize("schedule", EACH.values(), ids=EACH)


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


def close(schedule: Schedule, expected: list[float], lr: float = 0.0) -> None:
    """At every step. PyTorch multiplies its way there and rounds at each of 300 steps: 1e-13 or so may add up.

    With lr, also but for the rounding of a number of that size.
    """
    assert first(schedule, len(expected)) == pytest.approx(expected, rel=1e-12, abs=4 * EPS * lr)


# PyTorch's rates


@check
@given(lr=rates)
def test_constant_is_torch_s(lr: float) -> None:
    assert first(constant(lr), 20) == by_torch(lambda o: lr_scheduler.ConstantLR(o, factor=1.0), lr, 20) == [lr] * 20


@check
@given(lr=rates, boundaries=milestones, factor=st.floats(0.1, 1))
def test_piecewise_is_torch_s(lr: float, boundaries: list[int], factor: float) -> None:
    expected = by_torch(lambda o: lr_scheduler.MultiStepLR(o, boundaries, factor), lr, boundaries[-1] + 2)
    close(piecewise(lr, boundaries, factor), expected)


@check
@given(lr=rates, decay=numbers, count=lengths)
def test_exponential_is_torch_s(lr: float, decay: float, count: int) -> None:
    expected = by_torch(lambda o: lr_scheduler.ExponentialLR(o, math.exp(-decay)), lr, count)
    close(exponential(lr, decay), expected)


@check
@given(lr=rates, steps=lengths)
def test_cosine_is_torch_s_to_the_end(lr: float, steps: int) -> None:
    expected = by_torch(lambda o: lr_scheduler.CosineAnnealingLR(o, steps), lr, steps + 1)
    close(cosine(lr, steps), expected, lr)  # towards the end PyTorch's 1 + cos has lost digits
    assert cosine(lr, steps)(steps) == expected[-1] == 0


@check
@given(lr=rates, alpha=numbers, beta=numbers, count=lengths)
def test_polynomial_is_torch_s_with_a_lambda(lr: float, alpha: float, beta: float, count: int) -> None:
    expected = by_torch(
        lambda o: lr_scheduler.LambdaLR(o, lambda step: math.exp(-alpha * math.log1p(beta * step))), lr, count
    )
    close(polynomial(lr, alpha, beta), expected)


SECOND = dict(
    constant=(constant, lambda o: lr_scheduler.ConstantLR(o, factor=1.0)),
    piecewise=(lambda lr: piecewise(lr, [1, 4], 0.3), lambda o: lr_scheduler.MultiStepLR(o, [1, 4], 0.3)),
    exponential=(lambda lr: exponential(lr, 0.2), lambda o: lr_scheduler.ExponentialLR(o, math.exp(-0.2))),
    polynomial=(
        lambda lr: polynomial(lr, 0.5, 0.7),
        lambda o: lr_scheduler.LambdaLR(o, lambda step: (1 + 0.7 * step) ** -0.5),
    ),
    cosine=(lambda lr: cosine(lr, 9), lambda o: lr_scheduler.CosineAnnealingLR(o, 9)),
)


@pytest.mark.parametrize(("ours", "theirs"), SECOND.values(), ids=SECOND)
@check
@given(lr=rates, steps=st.integers(1, 100))
def test_warmup_is_torch_s(ours: Callable, theirs: Callable, lr: float, steps: int) -> None:
    def make(optimizer: torch.optim.Optimizer) -> LRScheduler:
        line = lr_scheduler.LinearLR(optimizer, start_factor=1 / (steps + 1), total_iters=steps)
        return lr_scheduler.SequentialLR(optimizer, [line, theirs(optimizer)], milestones=[steps])

    close(warmup(ours(lr), steps), by_torch(make, lr, steps + 10), lr)


@check
@given(schedule=schedules, count=lengths)
def test_lambda_lr_takes_each(schedule: Schedule, count: int) -> None:
    assert by_torch(lambda o: lr_scheduler.LambdaLR(o, schedule), 1.0, count) == first(schedule, count)


def test_lambda_lr_asks_for_one_rate_more_than_it_takes_steps() -> None:
    asked = []
    by_torch(lambda o: lr_scheduler.LambdaLR(o, lambda step: asked.append(step) or 1.0), 1.0, STEPS)
    assert asked == list(range(STEPS + 1))  # so cosine must have a rate at step STEPS


# Formulas


def test_known_rates() -> None:
    assert first(piecewise(1.0, (1, 3), 0.5), 5) == [1, 0.5, 0.5, 0.25, 0.25]
    assert first(piecewise(0.3, range(1, 4), 1), 5) == [0.3] * 5
    assert first(exponential(0.3, 0), 5) == [0.3] * 5
    assert first(exponential(1.0, math.log(2)), 5) == pytest.approx(
        [1, 1 / 2, 1 / 4, 1 / 8, 1 / 16], rel=4 * EPS, abs=0
    )
    assert first(polynomial(2.0, 1.0, 1.0), 5) == pytest.approx([2, 1, 2 / 3, 1 / 2, 2 / 5], rel=2 * EPS, abs=0)
    assert polynomial(1.0, 0.5, 3)(8) == 0.2
    assert first(polynomial(0.3, 0, 2), 5) == first(polynomial(0.3, 2, 0), 5) == [0.3] * 5
    assert first(cosine(4.0, 3), 6) == pytest.approx([4, 3, 1, 0, 0, 0], rel=2 * EPS, abs=0)
    assert first(cosine(0.3, 1), 3) == [0.3, 0, 0]
    assert first(warmup(piecewise(1.0, [1], 0.5), 3), 6) == [0.25, 0.5, 0.75, 1, 0.5, 0.5]


@check
@given(schedule=falling, order=st.permutations(range(301)))
def test_falls_from_lr_and_stays_positive(schedule: Schedule, order: list[int]) -> None:
    found = first(schedule, 301)
    assert all(0 < later <= earlier * (1 + EPS) < math.inf for earlier, later in pairwise(found))
    assert [schedule(step) for step in order] == [found[step] for step in order]  # none remembers what it was asked


@check
@given(lr=rates)
def test_starts_at_lr_exactly(lr: float) -> None:
    starts = (constant(lr), piecewise(lr, [1], 0.1), exponential(lr, 1), polynomial(lr, 1, 1), cosine(lr, 7))
    assert [schedule(0) for schedule in starts] == [lr] * 5


@check
@given(lr=rates, steps=st.integers(1, 10**6), data=st.data())
def test_cosine_is_symmetric_about_half_of_lr(lr: float, steps: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, steps))
    assert cosine(lr, steps)(step) + cosine(lr, steps)(steps - step) == pytest.approx(lr, rel=4 * EPS, abs=0)


def test_the_last_step_of_a_long_cosine_keeps_all_digits() -> None:
    # 1 + cos is exactly 0 there in floats; sin² rounds five times.
    assert cosine(0.3, 10**9)(10**9 - 1) == pytest.approx(0.3 * (math.pi / 2e9) ** 2, rel=5 * EPS, abs=0)
    assert cosine(0.3, 10**9)(10**12) == 0


@check
@given(schedule=falling, steps=st.integers(0, 100), after=st.integers(0, 200))
def test_warmup_rises_in_equal_steps_and_then_starts_the_schedule(schedule: Schedule, steps: int, after: int) -> None:
    warm = warmup(schedule, steps)
    ramp = first(warm, steps + 1)
    assert [later - earlier for earlier, later in pairwise([0, *ramp])] == pytest.approx(
        [schedule(0) / (steps + 1)] * (steps + 1),
        abs=2 * EPS * schedule(0),
    )
    assert ramp[-1] == schedule(0)
    assert warm(steps + after) == schedule(after)


def test_warmups_may_follow_each_other() -> None:
    assert first(warmup(warmup(constant(1.0), 1), 1), 4) == [0.25, 0.5, 1, 1]


@pytest.mark.parametrize("number", [np.float32(0.5), np.array(0.5), torch.tensor(0.5)], ids=repr)
def test_numbers_and_boundaries_may_be_arrays(number: np.float32 | np.ndarray | torch.Tensor) -> None:
    for made, same in (
        (constant(number), constant(0.5)),
        (piecewise(number, torch.tensor([1, 5]), number), piecewise(0.5, [1, 5], 0.5)),
        (exponential(number, number), exponential(0.5, 0.5)),
        (polynomial(number, number, number), polynomial(0.5, 0.5, 0.5)),
        (cosine(number, np.int8(7)), cosine(0.5, 7)),
        (warmup(lambda step: number, np.array(3)), warmup(constant(0.5), 3)),
    ):
        assert [made(step) for step in (np.int64(0), np.array(6), torch.tensor(2))] == [same(0), same(6), same(2)]


def test_boundaries_are_kept_as_they_were() -> None:
    boundaries = [2]
    schedule = piecewise(1.0, boundaries, 0.5)
    boundaries[0] = 1
    assert first(schedule, 3) == [1, 1, 0.5]


# What takes a rate


@each
def test_train_takes_each(schedule: Schedule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    examples = TensorDataset(torch.ones(6, 2), torch.ones(6, dtype=torch.long))
    history = train(nn.Linear(2, 2), examples, lr=schedule, num_epochs=STEPS // 3, batch_size=2)
    assert history.lr == first(schedule, STEPS)


@each
def test_gradient_descent_takes_each(schedule: Schedule) -> None:
    x = gradient_descent(lambda x: -x, 0.0, schedule, STEPS)  # each step is the rate itself
    assert x.tolist() == list(accumulate(first(schedule, STEPS), initial=0.0))
    x = newton(lambda x: (x - 1) ** 2, 0.0, schedule, STEPS)
    left = accumulate(first(schedule, STEPS), lambda left, lr: left * (1 - lr), initial=1.0)
    assert (1 - x).tolist() == pytest.approx(list(left), rel=0, abs=STEPS * EPS)


too_small = pytest.mark.parametrize(
    "schedule",
    [cosine(0.3, 2), warmup(cosine(0.3, 1), 1), exponential(0.3, 1000), polynomial(0.3, 1000, 9)],
    ids=["cosine", "warmup", "exponential", "polynomial"],
)


@too_small
def test_a_rate_of_zero_is_refused_where_it_is_used(schedule: Schedule) -> None:
    assert schedule(0) > 0 and schedule(2) == 0
    X, y = torch.ones(3, 2), torch.ones(3, dtype=torch.long)
    for run in (
        lambda: train(nn.Linear(2, 2), TensorDataset(X, y), lr=schedule, batch_size=1),
        lambda: gradient_descent(lambda x: x**2, 1.0, schedule, 3),
    ):
        with pytest.raises(ValueError, match="^lr: expected a .*, got 0.0$"):
            run()


# Errors


@each
@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        (-1, ValueError, "at least 0, got -1"),
        (1.0, TypeError, "an int, got 1.0"),
        (True, TypeError, "an int, got True"),
        (None, TypeError, "an int, got None"),
        (np.float64(1), TypeError, "an int, got 1.0"),
        (torch.tensor([1]), TypeError, r"an int, got tensor\(\[1\]\)"),
    ],
    ids=repr,
)
def test_refuses_what_is_no_step(schedule: Schedule, step: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^step: expected {message}$"):
        schedule(step)


bad_rates = pytest.mark.parametrize(
    ("lr", "error", "message"),
    [
        (0, ValueError, r"a number in \(0, inf\), got 0"),
        (-0.1, ValueError, r"a number in \(0, inf\), got -0.1"),
        (math.inf, ValueError, r"a number in \(0, inf\), got inf"),
        (math.nan, ValueError, r"a number in \(0, inf\), got nan"),
        ("0.1", TypeError, "a number, got '0.1'"),
        (True, TypeError, "a number, got True"),
        (None, TypeError, "a number, got None"),
        (torch.ones(1), TypeError, r"a number, got tensor\(\[1.\]\)"),
        (torch.tensor(0.1, requires_grad=True), TypeError, r"plain numbers, .*; use lr.detach\(\)"),
    ],
    ids=repr,
)


@bad_rates
def test_refuses_a_rate(lr: object, error: type[Exception], message: str) -> None:
    for make in (
        lambda: constant(lr),
        lambda: piecewise(lr, [1], 0.5),
        lambda: exponential(lr, 0.1),
        lambda: polynomial(lr, 0.5, 1.0),
        lambda: cosine(lr, 10),
        lambda: warmup(lambda step: lr, 5),
    ):
        with pytest.raises(error, match=f"^lr: expected {message}$"):
            make()


@pytest.mark.parametrize(
    ("boundaries", "error", "message"),
    [
        ([], ValueError, "at least one step, got none"),
        ([0, 1], ValueError, "at least 1, got 0"),
        ([3, -1], ValueError, "at least 1, got -1"),
        ([2, 2], ValueError, r"increasing steps, got \[2, 2\]"),
        ((1, 5, 3), ValueError, r"increasing steps, got \[1, 5, 3\]"),
        ([1, 2.0], TypeError, "an int, got 2.0"),
        ([True], TypeError, "an int, got True"),
        ("12", TypeError, "a sequence of ints, got '12'"),
        (5, TypeError, "a sequence of ints, got 5"),
        ({1, 2}, TypeError, r"a sequence of ints, got \{1, 2\}"),
        (None, TypeError, "a sequence of ints, got None"),
        (torch.ones(1), TypeError, "an int, got 1.0"),
    ],
    ids=repr,
)
def test_refuses_boundaries(boundaries: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^boundaries: expected {message}$"):
        piecewise(0.1, boundaries, 0.5)


@pytest.mark.parametrize("factor", [0, -0.5, 1.5, math.inf, math.nan])
def test_refuses_a_factor(factor: float) -> None:
    with pytest.raises(ValueError, match=rf"^factor: expected a number in \(0, 1\], got {factor}$"):
        piecewise(0.1, [1], factor)


MAKE = dict(
    factor=lambda value: piecewise(0.1, [1], value),
    decay=lambda value: exponential(0.1, value),
    alpha=lambda value: polynomial(0.1, value, 1.0),
    beta=lambda value: polynomial(0.1, 0.5, value),
)


@pytest.mark.parametrize("name", ["decay", "alpha", "beta"])
@pytest.mark.parametrize("value", [-1e-9, -1, math.inf, math.nan])
def test_refuses_a_number_out_of_range(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: expected a number in \[0, inf\), got {value}$"):
        MAKE[name](value)


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("value", ["0.5", True, None, 1j])
def test_refuses_what_is_no_number(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"^{name}: expected a number, got {value!r}$"):
        MAKE[name](value)


@pytest.mark.parametrize(("make", "least"), [(cosine, 1), (lambda _, steps: warmup(constant(0.1), steps), 0)])
def test_refuses_a_number_of_steps(make: Callable, least: int) -> None:
    with pytest.raises(ValueError, match=f"^steps: expected at least {least}, got {least - 1}$"):
        make(0.1, least - 1)
    for steps in (2.0, True, None, "3"):
        with pytest.raises(TypeError, match=f"^steps: expected an int, got {steps!r}$"):
            make(0.1, steps)


@pytest.mark.parametrize("schedule", [0.1, None, [0.1, 0.2]])
def test_warmup_refuses_what_is_no_function(schedule: object) -> None:
    with pytest.raises(TypeError, match=r"^schedule: expected a function of the step, got "):
        warmup(schedule, 5)


def test_a_schedule_that_is_made_here_names_its_step() -> None:
    """Those above are made before any test runs."""
    with pytest.raises(ValueError, match=r"^step: expected at least 0, got -1$"):
        constant(0.1)(-1)
