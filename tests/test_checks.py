"""Where a number or an array is meant, Python's, NumPy's and PyTorch's serve; all else is refused by name."""

import math
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lessons_lib import checks

F32, F64 = torch.float32, torch.float64
GRAD = torch.ones((), requires_grad=True)


@pytest.mark.parametrize("kind", [int, np.int8, np.uint64, np.array, torch.tensor], ids=lambda kind: kind.__name__)
def test_an_int_may_be_anyone_s(kind: Callable[[int], object]) -> None:
    found = checks.as_int("n", kind(3), at_least=3, at_most=3)
    assert found == 3 and type(found) is int


@pytest.mark.parametrize(
    "kind",
    [float, Fraction, np.float16, np.float64, np.longdouble, np.array, torch.tensor],
    ids=lambda kind: kind.__name__,
)
def test_a_number_may_be_anyone_s(kind: Callable[[float], object]) -> None:
    found = checks.as_number("x", kind(0.5), "[0.5, 1)")
    assert found == 0.5 and type(found) is float
    assert type(checks.as_number("x", np.int64(3))) is int  # which it stays


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (3, F32),
        ([3, 4.0], F32),
        (((3,), [4]), F32),
        (range(3), F32),
        ([], F32),
        (Fraction(1, 2), F32),
        (np.float64(3), F64),
        (np.float32(3), F32),
        (np.array(3.0), F64),
        (np.arange(3), F32),
        (np.arange(6.0).reshape(2, 3).T[::-1], F64),
        (np.array([1.0, 2.0], ">f8"), F64),
        (np.array([1, 2], np.uint16), F32),
        ([np.float32(1), torch.tensor(2)], F32),
        (torch.tensor([1, 2]), F32),
        (torch.ones(2, dtype=torch.bfloat16), torch.bfloat16),
    ],
    ids=repr,
)
def test_a_tensor_has_the_numbers_and_the_dtype_that_came(value: object, dtype: torch.dtype) -> None:
    found = checks.as_tensor("x", value)
    assert found.dtype == dtype
    expected = (
        value.tolist() if isinstance(value, np.ndarray | np.generic | Tensor) else np.array(value, float).tolist()
    )
    assert found.tolist() == expected


def test_only_what_has_no_floating_point_dtype_takes_the_one_that_is_given() -> None:
    for value in (3, [1.0, 2.0], np.float64(3), np.arange(3), torch.arange(3)):
        assert checks.as_tensor("x", value, torch.float16).dtype == torch.float16
    for value in (np.float32(3), np.ones(2, np.float32), [torch.ones(2)]):
        assert checks.as_tensor("x", value, torch.float16).dtype == F32


def test_a_tensor_stays_itself_and_an_array_is_copied() -> None:
    x, a = torch.ones(2, requires_grad=True), np.ones(2)
    a.setflags(write=False)
    assert checks.as_tensor("x", x) is x
    checks.as_tensor("x", a).zero_()
    assert a.tolist() == [1, 1]


def test_a_constant_is_a_plain_copy_in_float64() -> None:
    x = torch.ones(2, dtype=F64)
    checks.as_constant("x", x).zero_()
    assert x.tolist() == [1, 1]
    assert checks.as_constant("x", np.eye(2), max_dim=2).shape == (2, 2)
    with torch.no_grad():
        assert not checks.as_constant("x", GRAD).requires_grad


def test_what_is_whole_or_a_sequence_or_a_path() -> None:
    assert checks.as_bool("b", np.True_) is True and checks.as_bool("b", False) is False
    assert checks.as_path("p", "~/x") == checks.as_path("p", Path("~/x")) == Path.home() / "x"
    given = [1, 2]
    kept = checks.as_tuple("s", given)
    given.append(3)
    assert kept == checks.as_tuple("s", np.array([1, 2])) == checks.as_tuple("s", torch.tensor([1, 2])) == (1, 2)
    assert checks.holds("x", torch.ones(2) > 0) and not checks.holds("x", torch.ones(2) > torch.tensor([0, 1]))


def test_a_schedule_is_asked_at_once_and_each_of_its_rates_is_checked() -> None:
    assert checks.as_schedule(np.float32(0.5))(9) == 0.5
    schedule = checks.as_schedule(lambda step: 0.5 - step)
    for make in (lambda: schedule(1), lambda: checks.as_schedule(lambda step: -0.5)):
        with pytest.raises(ValueError, match=r"^lr: expected a number in \(0, inf\), got -0.5$"):
            make()


REFUSED = [
    *(
        (checks.as_int, value, TypeError, "an int, got ")
        for value in (2.0, True, "1", None, np.float64(1), np.ones(1, int))
    ),
    *((checks.as_int, value, TypeError, "an int, got ") for value in (np.True_, torch.tensor([1]), torch.tensor(True))),
    (lambda name, value: checks.as_int(name, value, 1), np.int64(0), ValueError, "at least 1, got 0"),
    (lambda name, value: checks.as_int(name, value, 1, 5), 6, ValueError, "at most 5, got 6"),
    *(
        (checks.as_number, value, TypeError, "a number, got ")
        for value in (True, "1", None, 1j, np.ones(1), np.bool_(0))
    ),
    *(
        (checks.as_number, value, ValueError, "a finite number, got ")
        for value in (math.inf, np.nan, 10**400, -(10**400))
    ),
    (lambda name, value: checks.as_number(name, value, "(0, 1]"), 0, ValueError, "a number in (0, 1], got 0"),
    (lambda name, value: checks.as_number(name, value, "[0, 1)"), 1.0, ValueError, "a number in [0, 1), got 1.0"),
    (checks.as_number, GRAD, TypeError, "plain numbers, "),
    *((checks.as_bool, value, TypeError, "a bool, got ") for value in (0, 1, None, "no", torch.tensor(True))),
    *((checks.as_tensor, value, TypeError, "numbers, got ") for value in ("12", ["a"], None, {1.0}, [1, True], 1j)),
    (checks.as_tensor, np.array(["a"]), TypeError, "real numbers, got an array of <U1"),
    (checks.as_tensor, np.ones(1, np.longdouble), TypeError, "real numbers, got an array of "),
    (checks.as_tensor, np.ones(1, bool), TypeError, "real numbers, got torch.bool"),
    (checks.as_tensor, [[1], [2, 3]], ValueError, "rows of one length, got [[1], [2, 3]]"),
    (checks.as_constant, [[1]], ValueError, "shape () or (d,), got (1, 1)"),
    (
        lambda name, value: checks.as_constant(name, value, 2),
        [[[1]]],
        ValueError,
        "shape () or (d,) or (d, d), got (1, 1, 1)",
    ),
    (checks.as_constant, [], ValueError, "at least one number, got []"),
    (checks.as_constant, [1, math.nan], ValueError, "finite numbers, got [1.0, nan]"),
    (
        checks.as_constant,
        GRAD,
        TypeError,
        "plain numbers, which no gradient and no vmap can pass through; use n.detach()",
    ),
    (
        lambda name, value: checks.check_dtype(name, value, F32),
        torch.ones(1, dtype=F64),
        TypeError,
        "torch.float32, got torch.float64",
    ),
    (checks.check_function, 3, TypeError, "a function, got 3"),
    *((checks.as_path, value, TypeError, "a path, got ") for value in (3, None, b"x")),
    *((checks.as_tuple, value, TypeError, "a sequence of numbers, got ") for value in ("12", {1}, 5, np.ones((1, 1)))),
    (checks.as_tuple, torch.ones(1, requires_grad=True), TypeError, "plain numbers, "),
]


@pytest.mark.parametrize(
    ("check", "value", "error", "message"), REFUSED, ids=lambda value: getattr(value, "__name__", repr(value))[:30]
)
def test_refuses_by_name(check: Callable, value: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(f'n: expected {message}')}"):
        check("n", value)


TRANSFORMS = {
    "grad": torch.func.grad,
    "grad of grad": lambda f: torch.func.grad(lambda x: torch.func.grad(lambda y: f(x) + y.sum())(x).sum()),
    "jacrev": torch.func.jacrev,
    "vmap": torch.func.vmap,
    "vmap of grad": lambda f: lambda x: torch.func.vmap(torch.func.grad(f))(x[None]),
    "jvp": lambda f: lambda x: torch.func.jvp(f, (x,), (x,)),
    "hessian": torch.func.hessian,
}


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # forward mode loads it
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_a_transform_may_not_pass_through_and_others_numbers_may(transform: Callable) -> None:
    def through(x: Tensor) -> Tensor:
        checks.refuse_graph("x", 2 * x)
        return x.sum()

    def beside(x: Tensor) -> Tensor:
        checks.refuse_graph("n", 2 * torch.ones(3))
        checks.as_constant("n", [1, 2])
        with pytest.raises(TypeError, match="^f: expected a call outside of torch.func's transforms, "):
            checks.refuse_transform("f")
        return x.sum()

    with pytest.raises(TypeError, match="^x: expected plain numbers, "):
        transform(through)(torch.ones(3))
    transform(beside)(torch.ones(3))
    checks.refuse_transform("f")


def test_no_vmap_answers_for_many() -> None:
    with pytest.raises(TypeError, match="^x: expected plain numbers, which no vmap can pass through$"):
        torch.func.vmap(lambda x: x if checks.holds("x", x > 0) else -x)(torch.ones(3))
