"""Bad input gets an error that names the argument, what came and what was expected.

A row is a call of tests/calls.py, the arguments to change in it, and what the error says. What is wrong everywhere (a
string for a number, NaN, a number where a bool is meant) test_doors tries on all of them; here is what each function
asks besides.
"""

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
    ("sgd.batches", dict(batch_size=6), ValueError, "batch_size: expected at most num_examples, 5, got 6"),
    ("sgd.batches", dict(seed=2**64), ValueError, f"seed: expected at most {2**64 - 1}, got {2**64}"),
]

# --- learning_rate ---

# --- minibatch ---

# --- training ---

# --- data ---


@pytest.mark.parametrize(
    ("name", "changed", "error", "message"), [row for rows in REFUSALS.values() for row in rows], ids=str
)
def test_what_came_and_what_was_expected(
    name: str, changed: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        call(name, **changed)
