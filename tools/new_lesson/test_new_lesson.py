"""New lesson against PyTorch's own, or a closed form."""

import pytest
import torch

from lessons_lib.new_lesson import new_lesson


def test_is_what_the_formula_says() -> None:
    assert new_lesson(torch.tensor(3.0), lr=0.25) == 0.75


def test_a_rate_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="lr: expected a positive number, got 0"):
        new_lesson(torch.ones(1), lr=0)
