"""Every check of an argument, once. Where a number or an array is meant, Python's, NumPy's and PyTorch's all serve.

Each function takes the argument's name and value, and returns the value in the form that our own code computes with, or
raises an error that names the argument, what was expected and what came: a TypeError for what is of the wrong kind, a
ValueError for what is out of range.
"""

import math
import operator
import os
from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch._C._functorch import get_unwrapped, is_batchedtensor, maybe_current_level, maybe_get_level  # none is public
from torch.autograd import forward_ad

Array = float | Sequence | np.ndarray | Tensor  # what a reader may write for numbers


def as_int(name: str, value: int, at_least: float = -math.inf, at_most: float = math.inf) -> int:
    """An int from Python's, or from an integer scalar of NumPy or PyTorch; no bool, and no float that is whole."""
    value = _scalar(name, value)
    if isinstance(value, bool | np.ndarray | Tensor) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}: expected an int, got {value!r}")
    number = operator.index(value)
    if number < at_least:
        raise ValueError(f"{name}: expected at least {at_least}, got {number}")
    if number > at_most:
        raise ValueError(f"{name}: expected at most {at_most}, got {number}")
    return number


def as_number(name: str, value: float, interval: str = "(-inf, inf)") -> float:
    """A number in an interval such as "[0, 1)", as Python's int or float. An int beyond all floats is infinite."""
    value = _scalar(name, value)
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    number = _as_float(value)
    low, high = map(float, interval[1:-1].split(","))
    above = low <= number if interval[0] == "[" else low < number
    below = number <= high if interval[-1] == "]" else number < high
    if not (above and below):
        finite = "a finite number" if interval == "(-inf, inf)" else f"a number in {interval}"
        raise ValueError(f"{name}: expected {finite}, got {value}")
    return value if isinstance(value, int) else number


def as_bool(name: str, value: bool) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: expected a bool, got {value!r}")
    return bool(value)


def as_tensor(name: str, value: Array, dtype: torch.dtype | None = None) -> Tensor:
    """A floating-point tensor. One that is given stays itself, with its graph; anything else is copied.

    What has no floating-point dtype of its own, Python's numbers and all integers, gets `dtype`; None is PyTorch's.

    >>> as_tensor("x", np.array([1.0, 2.0]))
    tensor([1., 2.], dtype=torch.float64)
    """
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        items = [as_tensor(name, item, dtype) for item in value]
        if len({item.shape for item in items}) > 1:
            raise ValueError(f"{name}: expected rows of one length, got {value!r}")
        return torch.stack(items) if items else torch.empty(0, dtype=dtype)
    if isinstance(value, (np.ndarray, np.generic)) and not isinstance(value, float):
        try:
            # A copy in this machine's order of bytes: the caller's may be read-only, or run backwards.
            value = torch.from_numpy(np.array(value, value.dtype.newbyteorder("=")))
        except TypeError:  # text, objects, numbers of 80 bits
            raise TypeError(f"{name}: expected real numbers, got an array of {value.dtype}") from None
    if not isinstance(value, Tensor):
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{name}: expected numbers, got {value!r}")
        own = torch.float64 if isinstance(value, np.float64) else None
        value = torch.tensor(_as_float(value), dtype=dtype or own)
    if value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"{name}: expected real numbers, got {value.dtype}")
    return value if value.is_floating_point() else value.to(dtype or torch.get_default_dtype())


def as_constant(name: str, value: Array, max_dim: int = 1) -> Tensor:
    """A copy in float64 of finite numbers, shape () or (d,), or up to (d, d), for what computes its own gradients."""
    x = as_tensor(name, value, torch.float64)
    refuse_graph(name, x)
    if x.dim() > max_dim:
        shapes = " or ".join(("()", "(d,)", "(d, d)")[: max_dim + 1])
        raise ValueError(f"{name}: expected shape {shapes}, got {tuple(x.shape)}")
    if x.numel() == 0:
        raise ValueError(f"{name}: expected at least one number, got {value!r}")
    x = x.detach().to(torch.float64, copy=True)
    if not x.isfinite().all():
        raise ValueError(f"{name}: expected finite numbers, got {x.tolist()}")
    return x


def as_point(x: Array) -> Tensor:
    """x as a tensor, for those who take derivatives of f there themselves: to others they would be constants."""
    x = as_tensor("x", x)
    refuse_graph("x", x)
    if maybe_current_level() is not None:
        raise TypeError("f: expected a call outside of torch.func's transforms, to which it would be a constant")
    return x


def check_dtype(name: str, x: Tensor, dtype: torch.dtype) -> None:
    if x.dtype != dtype:
        raise TypeError(f"{name}: expected {dtype}, got {x.dtype}")


def check_net(net: nn.Module) -> None:
    if not isinstance(net, nn.Module):
        raise TypeError(f"net: expected an nn.Module, got {type(net).__name__}")


def check_function(name: str, f: Callable) -> None:
    if not callable(f):
        raise TypeError(f"{name}: expected a function, got {f!r}")


def as_schedule(lr: float | Callable[[int], float]) -> Callable[[int], float]:
    """The learning rate as a function of the step, whose every value is checked; its first one at once."""

    def schedule(step: int) -> float:
        return as_rate(lr(step) if callable(lr) else lr)

    schedule(0)
    return schedule


def as_rate(lr: float) -> float:
    return as_number("lr", lr, "(0, inf)")


def as_path(name: str, value: str | os.PathLike[str]) -> Path:
    """A path, with ~ for the user's home."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name}: expected a path, got {value!r}")
    try:
        return Path(value).expanduser()
    except RuntimeError:  # ~ without a home
        raise ValueError(f"{name}: expected a path, got {str(value)!r}, and there is no such home") from None


def as_tuple(name: str, value: Iterable, of: str = "numbers") -> tuple:
    """The items of a sequence or of an array of one dimension, which the caller may change later."""
    if isinstance(value, np.ndarray | Tensor) and value.ndim == 1:
        if isinstance(value, Tensor):
            refuse_graph(name, value)
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise TypeError(f"{name}: expected a sequence of {of}, got {value!r}")
    return tuple(value)


def refuse_graph(name: str, x: Tensor) -> None:
    """Raise a TypeError if somebody differentiates by x, and would get zeros, or maps over it: we read its numbers."""
    while True:
        tracked = x.requires_grad and torch.is_grad_enabled() or forward_ad.unpack_dual(x).tangent is not None
        if tracked or is_batchedtensor(x):
            why = f"which no gradient and no vmap can pass through; use {name}.detach()"
            raise TypeError(f"{name}: expected plain numbers, {why}")
        if maybe_current_level() is None or maybe_get_level(x) < 0:
            return
        x = get_unwrapped(x)  # what is made inside a transform of torch.func is wrapped once for each, watched or not


def _as_float(value: Real) -> float:
    """The nearest float; infinity where an int, or a fraction, is too large to have one."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _scalar(name: str, value: object) -> object:
    """A scalar of NumPy or PyTorch, an array without dimensions too, as Python's; all else as it comes."""
    if not isinstance(value, np.generic | np.ndarray | Tensor) or value.ndim > 0:
        return value
    if isinstance(value, Tensor):
        refuse_graph(name, value)
    return value.item()
