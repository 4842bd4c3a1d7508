"""New lesson: what it holds, in one sentence.

Source: authors, "Title", year, arXiv number.
"""

from torch import Tensor


def new_lesson(x: Tensor, lr: float = 0.5) -> Tensor:
    """x · lr: what the formula of the lesson says.

    Args:
        x: any shape.
        lr: the learning rate. Positive.

    Raises:
        ValueError: lr is not positive.

    Source: where equation (1) stands.

    >>> new_lesson(Tensor([2.0]))
    tensor([1.])
    """
    if not lr > 0:
        raise ValueError(f"lr: expected a positive number, got {lr}")
    return lr * x
