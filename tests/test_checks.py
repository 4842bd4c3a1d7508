"""Where a number or an array is meant, Python's, NumPy's and PyTorch's serve; all else is refused by name. What
test_doors tries on every function is not repeated here."""

import math
import re
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lessons_lib import checks

F32, F64 = torch.float32, torch.float64
GRAD = torch.ones((), requires_grad=True)


SERVES: list[tuple[Callable, list, object]] = [
    (partial(checks.as_int, at_least=3, at_most=3), [3, np.uint64(3), np.array(3), torch.tensor(3)], 3),
    (checks.as_number, [0.5, Fraction(1, 2), np.float16(0.5), np.longdouble(0.5), np.array(0.5)], 0.5),
    (partial(checks.as_number, interval="[0.5, 1)"), [torch.tensor(0.5)], 0.5),
    (partial(checks.as_number, interval="(0, 0.5]"), [0.5], 0.5),
    (checks.as_number, [3, np.int64(3)], 3),  # an int stays one
    (checks.as_bool, [True, np.True_], True),
    (checks.as_bool, [False, np.False_], False),
    (checks.as_path, ["~/x", Path("~/x")], Path.home() / "x"),
    (checks.as_tuple, [[1, 2], range(1, 3), np.array([1, 2]), torch.tensor([1, 2])], (1, 2)),
]


@pytest.mark.parametrize(("check", "values", "expected"), SERVES)
def test_serves(check: Callable, values: list, expected: object) -> None:
    for value in values:
        found = check("n", value)
        assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ("value", "own"),  # its floating-point dtype, if it has one
    [
        (3, None),
        ([3, 4.0], None),
        (((3,), [4]), None),
        (range(3), None),
        ([], None),
        (Fraction(1, 2), None),
        (np.float32(3), F32),
        (np.array(3.0), F64),
        (np.arange(3), None),
        (np.arange(6.0).reshape(2, 3).T[::-1], F64),
        (np.array([1.0, 2.0], ">f8"), F64),
        (np.array([1, 2], np.uint16), None),
        ([np.float32(1), torch.ones(())], F32),
        (torch.tensor([1, 2]), None),
        (torch.ones(2, dtype=torch.bfloat16), torch.bfloat16),
    ],
    ids=repr,
)
def test_a_tensor_has_the_numbers_and_the_dtype_that_came(value: object, own: torch.dtype | None) -> None:
    found = checks.as_tensor("x", value)
    numbers = value if isinstance(value, np.ndarray | np.generic | Tensor) else np.array(value, float)
    assert found.dtype == (own or F32) and found.tolist() == numbers.tolist()
    assert checks.as_tensor("x", value, torch.float16).dtype == (own or torch.float16)


def test_a_number_of_numpy_s_float64_is_python_s_with_a_dtype_and_the_largest_is_infinite() -> None:
    assert checks.as_tensor("x", np.float64(3)).dtype == F64
    assert checks.as_tensor("x", np.float64(3), torch.float16).dtype == torch.float16
    assert checks.as_tensor("x", [10**400, -(10**400)]).tolist() == [math.inf, -math.inf]


def test_what_stays_itself_and_what_is_copied() -> None:
    x, a = torch.ones(2, dtype=F64, requires_grad=True), np.ones(2)
    a.setflags(write=False)
    assert checks.as_tensor("x", x) is x
    checks.as_tensor("x", a).zero_()
    checks.as_constant("x", x.detach()).zero_()
    assert x.tolist() == a.tolist() == [1, 1]
    assert checks.as_constant("x", np.eye(2), max_dim=2).shape == (2, 2)
    with torch.no_grad():
        assert not checks.as_constant("x", GRAD).requires_grad
    items = [1, 2]
    kept = checks.as_tuple("s", items)
    items.append(3)
    assert kept == (1, 2)


def test_a_schedule_is_asked_at_once_and_each_of_its_rates_is_checked() -> None:
    assert checks.as_schedule(np.float32(0.5))(9) == 0.5
    schedule = checks.as_schedule(lambda step: 0.5 - step)
    for make in (lambda: schedule(1), lambda: checks.as_schedule(lambda step: -0.5)):
        with pytest.raises(ValueError, match=r"^lr: expected a number in \(0, inf\), got -0.5$"):
            make()


REFUSED: list[tuple[Callable, list, type[Exception], str]] = [
    (checks.as_int, [2.0, True, "1", None, np.float64(1), np.ones(1, int), np.True_], TypeError, "an int, got "),
    (checks.as_int, [torch.tensor([1]), torch.tensor(True)], TypeError, "an int, got "),
    (partial(checks.as_int, at_least=1), [np.int64(0)], ValueError, "at least 1, got 0"),
    (partial(checks.as_int, at_least=1, at_most=5), [6], ValueError, "at most 5, got 6"),
    (checks.as_number, [True, "1", None, 1j, np.ones(1), np.bool_(0)], TypeError, "a number, got "),
    (checks.as_number, [math.inf, np.nan, 10**400, -(10**400)], ValueError, "a finite number, got "),
    (partial(checks.as_number, interval="(0, 1]"), [0], ValueError, "a number in (0, 1], got 0"),
    (partial(checks.as_number, interval="[0, 1)"), [1.0], ValueError, "a number in [0, 1), got 1.0"),
    (checks.as_number, [GRAD], TypeError, "plain numbers, "),
    (checks.as_bool, [0, 1, None, "no", torch.tensor(True)], TypeError, "a bool, got "),
    (checks.as_tensor, ["12", b"1", ["a"], None, {1.0}, [1, True], 1j], TypeError, "numbers, got "),
    (checks.as_tensor, [np.array(["a"])], TypeError, "real numbers, got an array of <U1"),
    (checks.as_tensor, [np.ones(1, np.longdouble)], TypeError, "real numbers, got an array of "),
    (checks.as_tensor, [np.ones(1, bool)], TypeError, "real numbers, got torch.bool"),
    (checks.as_tensor, [torch.ones(1) * 1j], TypeError, "real numbers, got torch.complex64"),
    (checks.as_tensor, [[[1], [2, 3]]], ValueError, "rows of one length, got [[1], [2, 3]]"),
    (checks.as_constant, [[[1]]], ValueError, "shape () or (d,), got (1, 1)"),
    (partial(checks.as_constant, max_dim=2), [[[[1]]]], ValueError, "shape () or (d,) or (d, d), got (1, 1, 1)"),
    (checks.as_constant, [[]], ValueError, "at least one number, got []"),
    (checks.as_constant, [[1, math.nan]], ValueError, "finite numbers, got [1.0, nan]"),
    (
        checks.as_constant,
        [GRAD],
        TypeError,
        "plain numbers, which no gradient and no vmap can pass through; use n.detach()",
    ),
    (partial(checks.check_dtype, dtype=F32), [torch.ones(1, dtype=F64)], TypeError, "torch.float32, got torch.float64"),
    (checks.check_function, [3], TypeError, "a function, got 3"),
    (checks.as_path, [3, None, b"x"], TypeError, "a path, got "),
    (checks.as_path, ["~no-such-user/x"], ValueError, "a path, got '~no-such-user/x', and there is no such home"),
    (checks.as_tuple, ["12", b"12", {1}, 5, np.ones((1, 1))], TypeError, "a sequence of numbers, got "),
    (partial(checks.as_tuple, of="ints"), [5], TypeError, "a sequence of ints, got 5"),
    (checks.as_tuple, [torch.ones(1, requires_grad=True)], TypeError, "plain numbers, "),
]


@pytest.mark.parametrize(("check", "values", "error", "message"), REFUSED)
def test_refuses_by_name(check: Callable, values: list, error: type[Exception], message: str) -> None:
    for value in values:
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
            checks.as_point(1.0)
        return x.sum()

    with pytest.raises(TypeError, match="^x: expected plain numbers, "):
        transform(through)(torch.ones(3))
    transform(beside)(torch.ones(3))
    assert checks.as_point(1.0) == 1
