"""Bad input gets an error that names the argument, what came and what was expected.

A row is a call of tests/calls.py, the arguments to change in it, and what the error says. What is wrong everywhere (a
string for a number, NaN, a number where a bool is meant) test_doors tries on all of them; here is what each function
asks besides.
"""

import math
import re

import pytest

from tests.calls import call

REFUSALS: dict[str, list[tuple[str, dict[str, object], type[Exception], str]]] = {}

# --- batch_norm ---

# --- resnet ---

# --- densenet ---

# --- convexity ---

# --- objectives ---

# --- gradient_descent ---

# --- sgd ---
REFUSALS["sgd"] = [
    *(("sgd.sgd", dict(f=f, steps=0), TypeError, "f: expected a function, got ") for f in (None, 3.0)),
    ("sgd.noise_covariance", dict(f=None), TypeError, "f: expected a function, got None"),
    *(
        (name, dict(f=f), error, f"f: expected a function that {message}")
        for name in ("sgd.sgd", "sgd.noise_covariance")
        for f, error, message in (
            (lambda x, i: 3.0, TypeError, "returns a tensor, got 3.0"),
            (lambda x, i: 1j * x.sum(), TypeError, "returns a real tensor, got torch.complex128"),
            (lambda x, i: x**2, ValueError, "returns a scalar tensor, got shape (3,)"),
            (lambda x, i: x.sum().detach(), ValueError, "torch can differentiate, got 4.0, which has no gradient"),
            # For one example only:
            (lambda x, i: x.sum() * 0 if 2 not in i else i.sum(), ValueError, "torch can differentiate, got "),
        )
    ),
    ("sgd.sgd", dict(x0=[[1, 2]]), ValueError, "x0: expected shape () or (d,), got (1, 2)"),
    ("sgd.sgd", dict(x0=[]), ValueError, "x0: expected at least one number, got []"),
    ("sgd.sgd", dict(x0=[math.nan]), ValueError, "x0: expected finite numbers, got [nan]"),
    ("sgd.noise_covariance", dict(x=[[1, 2]]), ValueError, "x: expected shape () or (d,), got (1, 2)"),
    ("sgd.sgd", dict(lr=0, steps=0), ValueError, "lr: expected a number in (0, inf), got 0"),
    ("sgd.sgd", dict(lr=lambda step: 0.5 - step / 4), ValueError, "lr: expected a number in (0, inf), got 0.0"),
    ("sgd.sgd", dict(steps=-1), ValueError, "steps: expected at least 0, got -1"),
    ("sgd.sgd", dict(momentum=1), ValueError, "momentum: expected a number in [0, 1), got 1"),
    ("sgd.sgd", dict(momentum=-0.1), ValueError, "momentum: expected a number in [0, 1), got -0.1"),
    ("sgd.sgd", dict(weight_decay=-0.1), ValueError, "weight_decay: expected a number in [0, inf), got -0.1"),
    ("sgd.noise_covariance", dict(num_examples=0), ValueError, "num_examples: expected at least 1, got 0"),
    *(
        row
        for name in ("sgd.sgd", "sgd.batches")
        for row in (
            (name, dict(num_examples=0), ValueError, "num_examples: expected at least 1, got 0"),
            (name, dict(batch_size=0), ValueError, "batch_size: expected at least 1, got 0"),
            (name, dict(batch_size=6), ValueError, "batch_size: expected at most num_examples, 5, got 6"),
            (name, dict(seed=2**64), ValueError, f"seed: expected at most {2**64 - 1}, got {2**64}"),
            (name, dict(seed=-(2**63) - 1), ValueError, f"seed: expected at least {-(2**63)}, got {-(2**63) - 1}"),
        )
    ),
]

# --- learning_rate ---
REFUSALS["learning_rate"] = [
    *(
        (f"learning_rate.{name}", dict(lr=lr), ValueError, f"lr: expected a number in (0, inf), got {lr}")
        for name in ("constant", "piecewise", "exponential", "polynomial", "cosine")
        for lr in (0, -0.1)
    ),
    *(
        (f"learning_rate.{name}", {key: -1e-9}, ValueError, f"{key}: expected a number in [0, inf), got -1e-09")
        for name, key in (("exponential", "decay"), ("polynomial", "alpha"), ("polynomial", "beta"))
    ),
    *(
        ("learning_rate.piecewise", dict(factor=value), ValueError, f"factor: expected a number in (0, 1], got {value}")
        for value in (0, 1.5)
    ),
    *(
        ("learning_rate.piecewise", dict(boundaries=steps), error, f"boundaries: expected {message}")
        for steps, error, message in (
            ([], ValueError, "at least one step, got none"),
            ([0, 1], ValueError, "at least 1, got 0"),
            ([2, 2], ValueError, "increasing steps, got [2, 2]"),
            ((1, 5, 3), ValueError, "increasing steps, got [1, 5, 3]"),
            ([1, 2.0], TypeError, "an int, got 2.0"),
            ("12", TypeError, "a sequence of ints, got '12'"),
            (5, TypeError, "a sequence of ints, got 5"),
        )
    ),
    ("learning_rate.cosine", dict(steps=0), ValueError, "steps: expected at least 1, got 0"),
    ("learning_rate.warmup", dict(steps=-1), ValueError, "steps: expected at least 0, got -1"),
    ("learning_rate.warmup", dict(schedule=0.1), TypeError, "schedule: expected a function, got 0.1"),
    ("learning_rate.warmup", dict(schedule=lambda step: 0), ValueError, "lr: expected a number in (0, inf), got 0"),
]

# --- minibatch ---

# --- training ---

# --- data ---
REFUSALS["data"] = [
    *(
        ("data.fashion_mnist", dict(split=split), error, f'split: expected "train" or "test", got {split!r}')
        for split, error in (("val", ValueError), ("Train", ValueError), (0, TypeError), (["train"], TypeError))
    ),
    ("data.fashion_mnist", dict(full=True, root=3), TypeError, "root: expected a path, got 3"),
    ("data.fashion_mnist", dict(root="elsewhere"), ValueError, "root: expected None unless full=True, "),
]


@pytest.mark.parametrize(
    ("name", "changed", "error", "message"),
    [row for rows in REFUSALS.values() for row in rows],
    ids=lambda part: part if isinstance(part, str) else "",  # what str says of a function is new in each process
)
def test_what_came_and_what_was_expected(
    name: str, changed: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        call(name, **changed)
