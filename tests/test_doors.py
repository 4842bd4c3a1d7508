"""Every public function through every door: with Python's, NumPy's and PyTorch's numbers, small, large and not finite;
inside PyTorch's modes and transforms; copied and pickled. Each answer is right or an error that names the argument."""

import copy
import importlib
import inspect
import itertools
import math
import pickle
import re
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import functional
from torch.utils.data import TensorDataset

import lessons_lib
from lessons_lib import checks, gradient_descent, training
from tests.calls import CALLS, LAYERS, call
from tests.nets import randn, randomised

# What PyTorch says of itself, as it first differentiates forward, and as it compiles.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in (".torch.jit.script. is deprecated", ".*should not be instantiated", "The .grad attribute of a Tensor")
]


@pytest.fixture(autouse=True)
def in_64_bits() -> Iterator[None]:
    """So that Python's numbers, which PyTorch would round, give what tensors give."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def arguments_of(*kinds: type) -> list[tuple[str, str]]:
    """The arguments in the table that have one of these types, each with its call."""
    return [(name, key) for name, (_, given) in CALLS.items() for key, value in given.items() if type(value) in kinds]


NUMBERS, FLAGS, ARRAYS = arguments_of(int, float), arguments_of(bool), arguments_of(Tensor)


def assert_same(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-12) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        scale = other.double().abs().max().item() if other.numel() else 0.0
        torch.testing.assert_close(one.double(), other.double(), rtol=0, atol=tolerance * scale)


# Numbers

SCALARS = [np.float64, np.float32, np.float16, np.array, torch.tensor, partial(torch.tensor, dtype=torch.bfloat16)]
INTEGERS = [np.int64, np.uint8, np.array, torch.tensor, partial(torch.tensor, dtype=torch.uint8)]


@pytest.mark.parametrize(("name", "key"), NUMBERS, ids=str)
def test_numbers_of_python_numpy_and_pytorch_serve_alike(name: str, key: str) -> None:
    value, expected = CALLS[name][1][key], call(name)
    for make in INTEGERS if isinstance(value, int) else SCALARS:
        assert make(value) == value
        assert_same(call(name, **{key: make(value)}), expected)
    if isinstance(value, float) and value == int(value):
        for make in (int, *INTEGERS):
            assert_same(call(name, **{key: make(int(value))}), expected)


NO_NUMBERS = [None, "1", b"1", True, np.True_, torch.tensor(True), 1j, np.complex64(1), [1], torch.tensor([1.0]), {}]
OUT_OF_RANGE = [float("nan"), float("inf"), -float("inf"), np.float32("nan"), torch.tensor(float("inf"))]


@pytest.mark.parametrize(("name", "key"), NUMBERS, ids=str)
def test_what_is_not_a_number_is_refused_by_name(name: str, key: str) -> None:
    value = CALLS[name][1][key]
    wrong = [*NO_NUMBERS, *OUT_OF_RANGE]
    if isinstance(value, int):
        wrong += [2.5, np.float64(2), torch.tensor(2.0), -(10**30)]
    elif name == "convexity.project_box":  # bounds may be arrays and infinite
        wrong = [one for one in NO_NUMBERS if not isinstance(one, list | Tensor)] + [float("nan"), np.float32("nan")]
    else:
        wrong.append(torch.tensor(value, requires_grad=True))
    for one in wrong:
        with pytest.raises((TypeError, ValueError), match=rf"^{key}: expected (plain numbers, |.*, got)"):
            call(name, **{key: one})


@pytest.mark.parametrize(("name", "key"), FLAGS, ids=str)
def test_a_flag_is_a_bool_or_refused_by_name(name: str, key: str) -> None:
    value = CALLS[name][1][key]
    assert_same(call(name, **{key: np.bool_(value)}), call(name))
    for wrong in (None, 0, 1, "yes", [], torch.tensor([True])):
        with pytest.raises(TypeError, match=rf"^{key}: expected a bool, got"):
            call(name, **{key: wrong})


# Arrays


def read_only(x: Tensor) -> np.ndarray:
    array = x.numpy().copy()
    array.flags.writeable = False
    return array


FORMS = {
    "list": Tensor.tolist,
    "tuple": lambda x: tuple(x.tolist()),
    "list of tensors": list,
    "NumPy": lambda x: x.numpy().copy(),
    "read-only": read_only,
    "backwards": lambda x: x.flip(0).numpy()[::-1],
    "column by column": lambda x: np.asfortranarray(x.numpy()),
    "every second": lambda x: np.stack([x.numpy(), x.numpy() + 1], -1)[..., 0],
    "another order of bytes": lambda x: x.numpy().astype(">f8"),
    "every second of a tensor": lambda x: torch.stack([x, x + 1], -1)[..., 0],
    "a tensor expanded": lambda x: x.clone().expand(1, *x.shape)[0],
    "a parameter that is frozen": lambda x: nn.Parameter(x.clone(), requires_grad=False),
}


@pytest.mark.parametrize(("name", "key"), ARRAYS, ids=str)
def test_arrays_of_python_numpy_and_pytorch_serve_alike(name: str, key: str) -> None:
    value = CALLS[name][1][key]
    expected = call(name)
    for make in FORMS.values():
        given = make(value)
        before = copy.deepcopy(given)
        assert_same(call(name, **{key: given}), expected)
        assert torch.equal(checks.as_tensor(key, given), checks.as_tensor(key, before))  # left as it was
    if torch.equal(value, value.round()):
        for make in (lambda x: x.int().tolist(), lambda x: x.long().numpy(), lambda x: x.to(torch.int8), Tensor.long):
            assert_same(call(name, **{key: make(value)}), expected)


@pytest.mark.parametrize(("name", "key"), ARRAYS, ids=str)
def test_two_precisions_are_never_mixed_in_silence(name: str, key: str) -> None:
    value = CALLS[name][1][key]
    for other in (value.float(), value.numpy().astype(np.float32), value.half()):
        try:
            found = call(name, **{key: other})
        except (TypeError, ValueError) as error:
            assert refused(error, name)
        else:
            assert_same(found, call(name, **{key: torch.as_tensor(other).double()}), 0.02)


NO_ARRAYS = [None, "text", ["a", "b", "c"], {}, {1.0, 2.0}, torch.ones(3, dtype=torch.complex64), [True, True, True]]
NO_ARRAYS += [np.array(["a", "b", "c"]), np.array([None] * 3), torch.ones(3, dtype=torch.bool), [[1.0, 2.0], [3.0]]]


@pytest.mark.parametrize(("name", "key"), ARRAYS, ids=str)
def test_what_is_not_an_array_of_numbers_is_refused_by_name(name: str, key: str) -> None:
    for value in NO_ARRAYS:
        if value is None and key == "preconditioner":
            continue
        with pytest.raises((TypeError, ValueError), match=rf"^{key}: expected .*, got"):
            call(name, **{key: value})


def refused(error: Exception, name: str) -> bool:
    """Does it name an argument, or the transform that cannot be had, or say that there is no graph?"""
    words = ["vmap", "torch.func", "functorch", "jvp", "require grad", "not have been used", "saved tensor hooks"]
    arguments = CALLS[name][1] if name in CALLS else ["X"]
    return re.search(rf"\b({'|'.join([*arguments, *words])})\b", str(error)) is not None


# Sizes, dtypes and layouts

F64, F32, HALF = torch.float64, torch.float32, (torch.float16, torch.bfloat16)
# How far a result may be from the one in float64, as a part of the largest number: twice what was measured or more.
TOLERANCE = {F64: 1e-12, F32: 2e-5, torch.float16: 0.005, torch.bfloat16: 0.04}
# By which powers of ten the first array may be multiplied. Others from -9 to 8: a fourth power must stay in float32.
POWERS = {"convexity.project": (-30, 30), "sgd": (-30, 30), "batch_norm": (-30, 15)}
FIRST = dict(reversed(ARRAYS))  # of each call
LARGE = [name for name, layer in LAYERS.items() if layer.large]
NAMES = [*FIRST, *LARGE]


@cache
def net(name: str, dtype: torch.dtype, training: bool) -> nn.Module:
    return randomised(LAYERS[name].make()).to(dtype).train(training)


def applied(name: str, dtype: torch.dtype = F64, training: bool = True) -> Callable[[Tensor], list[Tensor]]:
    """A call as a function of its first array, the others in its dtype; a layer, each time with the same averages."""
    if name in LAYERS:
        layer = net(name, dtype, training)
        state = dict(layer.named_buffers())
        return lambda X: [torch.func.functional_call(layer, {k: v.clone() for k, v in state.items()}, (X,))]
    others = {key: v.to(dtype) for key, v in CALLS[name][1].items() if isinstance(v, Tensor)}
    return lambda X: call(name, **others | {FIRST[name]: X})


def shape(name: str) -> tuple[int, ...]:
    return LAYERS[name].large if name in LAYERS else CALLS[name][1][FIRST[name]].shape


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "as it comes": lambda X: X,
    "last dimension first": lambda X: X.movedim(-1, 0).contiguous().movedim(0, -1),
    "every second number": lambda X: torch.stack([X, X + 1], -1)[..., 0],
    "channels last": lambda X: X.contiguous(memory_format=torch.channels_last) if X.dim() == 4 else X,
}


@pytest.mark.parametrize(("name", "dtype"), list(itertools.product(NAMES, TOLERANCE)), ids=str)
@settings(max_examples=12, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**31), layout=st.sampled_from(list(LAYOUTS)))
def test_any_size_dtype_and_layout(name: str, dtype: torch.dtype, data: st.DataObject, seed: int, layout: str) -> None:
    if name in LAYERS:  # beyond 1e15 the variance overflows in float32, as in PyTorch's own layer
        powers = (LAYERS[name].half, 2) if dtype in HALF else (LAYERS[name].least, 15)
    else:
        wide = [powers for start, powers in POWERS.items() if name.startswith(start)]
        powers = (0, 0) if dtype in HALF else (*wide, (-9, 8))[0]
    power = data.draw(st.integers(*powers), "power")
    X = (10.0**power * randn(*shape(name), seed=seed)).to(dtype)
    try:
        found = applied(name, dtype)(LAYOUTS[layout](X))
    except (TypeError, ValueError) as error:
        assert dtype in HALF and name not in LAYERS and refused(error, name)
        return
    assert {Y.dtype for Y in found} <= {F64 if constant(name) else dtype}
    exact = applied(name)(X.double())
    assume(name != "convexity.lagrangian" or exact[0].abs() > X.abs().max())  # its terms do not cancel each other
    rounding = LAYERS[name].rounding if name in LAYERS else 4 if dtype in HALF else 1
    assert_same(found, exact, rounding * TOLERANCE[dtype])
    if name in LAYERS:
        x = LAYOUTS[layout](X).detach().requires_grad_()
        applied(name, dtype)(x)[0].sum().backward()
        assert x.grad.dtype == dtype and x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [F32, *HALF], ids=str)
@pytest.mark.parametrize("name", LARGE)
@settings(max_examples=8, deadline=None)
@given(power=st.integers(-30, 0), value=st.none() | st.floats(-100, 100), seed=st.integers(0, 2**31))
@example(power=0, value=0.0, seed=0)
@example(power=-30, value=None, seed=0)
def test_constant_channels_and_images_next_to_nothing_train_all_the_same(
    name: str, dtype: torch.dtype, power: int, value: float | None, seed: int
) -> None:
    # In half precision the gradients of a deep net would overflow: 1 / √eps for each normalisation.
    X = 10.0 ** (0 if dtype in HALF else power) * randn(*shape(name), seed=seed)
    if value is not None:
        X[:, 0] = value
    X = X.to(dtype).requires_grad_()
    Y = applied(name, dtype)(X)[0]
    Y.sum().backward()
    assert Y.isfinite().all() and X.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=12, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**31))
def test_what_is_not_a_number_is_never_answered_with_one(name: str, data: st.DataObject, seed: int) -> None:
    X = randn(*shape(name), seed=seed)
    X.view(-1)[data.draw(st.integers(0, X.numel() - 1), "where")] = float("nan")
    if constant(name):
        with pytest.raises(ValueError, match=rf"^{FIRST[name]}: expected .*\bfinite\b"):
            applied(name)(X)
    else:
        assert any(Y.isnan().any() for Y in applied(name)(X))


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@settings(max_examples=12, deadline=None)
@given(power=st.integers(-12, 12), seed=st.integers(0, 2**31))
def test_a_loss_and_a_gradient_are_as_exact_as_their_input(dtype: torch.dtype, power: int, seed: int) -> None:
    X = (10.0**power * randn(4, 3, seed=seed)).to(dtype)
    labels = torch.zeros(4, dtype=torch.int64)
    for found in (math.isfinite, math.isnan):
        loss, _ = training.evaluate(nn.Identity(), TensorDataset(X, labels))
        expected = nn.functional.cross_entropy(X.double(), labels).item()
        assert found(loss) and loss == pytest.approx(expected, rel=1e-5, nan_ok=True)
        slope = gradient_descent.gradient(lambda x: x.square().sum(), X[0])
        assert slope.dtype == dtype and (
            torch.equal(slope, 2 * X[0]) if X.isfinite().all() else not slope.isfinite().any()
        )
        X[0, 1] = float("nan")


@pytest.mark.parametrize("name", LARGE)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_at_prediction_one_bad_image_spoils_no_other(name: str, seed: int) -> None:
    X = randn(*shape(name), seed=seed)
    f = applied(name, training=False)
    [good] = f(X)
    X[1] = float("nan")
    [bad] = f(X)
    others = torch.arange(len(X)) != 1
    assert torch.equal(bad[others], good[others]) and bad[1].isnan().any()


# PyTorch's modes and transforms

# Whoever computes its own gradients has no graph for somebody else's, and does so in float64.
CONSTANT = {"gradient_descent", "sgd"}
CONSTANTS = {("objectives.curvature", "x"), ("convexity.project_subspace", "A")}


def constant(name: str, key: str = "x") -> bool:
    return name.partition(".")[0] in CONSTANT or (name, key) in CONSTANTS


MODES = ["training", "predicting"]
SMALL = list(itertools.product([name for name, layer in LAYERS.items() if layer.small], MODES))
FUNCTIONS = [*ARRAYS, *SMALL]


def of(name: str, key: str) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """A call as a function of one array, with numbers in a row as its value, and a point off the kinks. Of batch_norm Y
    alone: its averages never have a graph. Of a layer in a mode, three sums of its values."""
    if name in LAYERS:
        f = applied(name, training=key == "training")
        x = randn(*LAYERS[name].small, seed=1)
        weights = randn(3, f(x)[0].numel(), seed=2)
        return lambda x: weights @ f(x)[0].reshape(-1), x
    f, arguments = CALLS[name]

    def g(x: Tensor) -> Tensor:
        given = f(**arguments | {key: x / x.sum() if key == "weights" else x})
        given = given[:1] if name.startswith("batch_norm") else given if isinstance(given, tuple) else [given]
        return torch.cat([torch.as_tensor(t).reshape(-1) for t in given])

    return g, arguments[key] * 0.9 + 0.05


def numeric_jacobian(g: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """By central differences."""
    steps = 1e-6 * torch.eye(x.numel()).view(-1, *x.shape)
    return torch.stack([(g(x + step) - g(x - step)) / 2e-6 for step in steps], -1)


def jacobians(g: Callable[[Tensor], Tensor], x: Tensor) -> dict[str, Callable[[], Tensor]]:
    """The same first derivative, through each door."""
    n, directions = x.numel(), torch.eye(x.numel()).view(-1, *x.shape)
    return {
        "functional.jacobian": lambda: functional.jacobian(g, x).reshape(-1, n),
        "torch.func.grad": lambda: torch.stack(
            [torch.func.grad(lambda x, i=i: g(x)[i])(x).reshape(-1) for i in range(len(g(x)))]
        ),
        "torch.func.jacrev": lambda: torch.func.jacrev(g)(x).reshape(-1, n),
        "torch.func.jacfwd": lambda: torch.func.jacfwd(g)(x).reshape(-1, n),
        "torch.func.jvp": lambda: torch.stack([torch.func.jvp(g, (x,), (step,))[1] for step in directions], -1),
    }


def hessians(f: Callable[[Tensor], Tensor], x: Tensor) -> dict[str, Callable[[], Tensor]]:
    """The same second derivative, through each door."""
    n, directions = x.numel(), torch.eye(x.numel()).view(-1, *x.shape)
    return {
        "functional.hessian": lambda: functional.hessian(f, x).view(n, n),
        "functional.hvp": lambda: torch.stack([functional.hvp(f, x, step)[1].reshape(-1) for step in directions]),
        "functional.vhp": lambda: torch.stack([functional.vhp(f, x, step)[1].reshape(-1) for step in directions]),
        "torch.func.hessian": lambda: torch.func.hessian(f)(x).reshape(n, n),
        "jacrev of jacrev": lambda: torch.func.jacrev(torch.func.jacrev(f))(x).reshape(n, n),
    }


def assert_right_or_refused(doors: dict[str, Callable[[], Tensor]], expected: Tensor, name: str) -> None:
    for door, derivative in doors.items():
        try:
            found = derivative()
        except (RuntimeError, TypeError, ValueError) as error:
            assert refused(error, name), door
        else:
            scale = max(1.0, expected.abs().max().item())
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * scale, msg=door)


@pytest.mark.parametrize(("name", "key"), FUNCTIONS, ids=str)
def test_first_and_second_derivatives_are_right_or_refused(name: str, key: str) -> None:
    g, x = of(name, key)
    doors = jacobians(g, x)
    if constant(name, key):
        for door, derivative in doors.items():
            with pytest.raises(TypeError, match=f"^{key}: expected plain numbers"):
                derivative()
                pytest.fail(door)
        return
    assert_right_or_refused(doors, numeric_jacobian(g, x), name)
    weights = torch.linspace(1, 2, len(g(x)))

    def f(x: Tensor) -> Tensor:
        return (weights * g(x).pow(3)).sum()

    expected = numeric_jacobian(lambda x: functional.jacobian(f, x).reshape(-1), x)
    assert_right_or_refused(hessians(f, x), expected, name)


@pytest.mark.parametrize(("name", "key"), FUNCTIONS, ids=str)
def test_modes_compilation_and_vmap_change_nothing(name: str, key: str) -> None:
    g, x = of(name, key)
    expected = g(x)
    with torch.no_grad():
        assert_same([g(x)], [expected])
    with torch.inference_mode():
        assert_same([g(x), g(x.clone())], [expected, expected])
        born = x.clone()
    try:
        assert_same([g(born)], [expected])
    except RuntimeError as error:
        assert "Inference tensors" in str(error)  # PyTorch's own word for it
    if name in CALLS:  # a layer is compiled below
        torch.compiler.reset()
        assert_same([torch.compile(g, backend="eager")(x)], [expected])
    try:
        found = torch.vmap(g)(torch.stack([x, x]))
    except (RuntimeError, TypeError, ValueError) as error:
        assert refused(error, name)  # a layer in training as PyTorch's own: one running mean cannot follow two batches
    else:
        assert key != "training"
        assert_same(list(found), [expected, expected])


# Layers, and what is made by functions


@pytest.mark.parametrize(("name", "mode"), SMALL, ids=str)
def test_layers_give_the_same_in_every_mode_compiled_copied_and_pickled(name: str, mode: str) -> None:
    net, x = randomised(LAYERS[name].make()).train(mode == "training"), randn(*LAYERS[name].small, seed=1)
    others = {
        "deepcopy": copy.deepcopy(net),
        "pickle": pickle.loads(pickle.dumps(net)),
        "compiled": torch.compile(copy.deepcopy(net), backend="eager"),
        "inference_mode": torch.inference_mode()(copy.deepcopy(net)),
        "no_grad": torch.no_grad()(copy.deepcopy(net)),
    }
    torch.compiler.reset()
    expected = [net(x), *net.state_dict().values()]
    for other in others.values():
        original = getattr(other, "_orig_mod", getattr(other, "__wrapped__", other))
        assert_same([other(x), *original.state_dict().values()], expected)


@pytest.mark.parametrize("name", dict(SMALL))
def test_a_layer_takes_tensors_and_names_its_input_otherwise(name: str) -> None:
    net, x = randomised(LAYERS[name].make()), randn(*LAYERS[name].small)
    before = [value.clone() for value in net.state_dict().values()]
    for wrong in (x.numpy(), x.tolist(), None, 3.0, x.long(), x.bool(), x.to(torch.complex64), x[:, :0], x[0]):
        with pytest.raises((TypeError, ValueError), match=r"^X: expected .*, got"):
            net(wrong)
    assert_same(list(net.state_dict().values()), before, 0)


# Nothing is left out

PARTS = {  # of what is tried here
    "batch_norm": "at_least_float32 check_batch mean_of normalised",
    "data": "read_whole read_idx",
    "densenet": "densenet121 small_densenet bn_relu_conv",
    "gradient_descent": "walk gradient",
    "objectives": "hessian_at value_at",
    "resnet": "ResNeXt Convolutional resnet resnet18 small_resnet conv_bn check_images",
    "training": "History Memory",
}
WITH_TESTS_OF_THEIR_OWN = {"checkpoints", "checks", "figures", "files", "processes", "sliders"}


def test_no_public_function_is_left_out_and_each_call_works() -> None:
    for name, (_, arguments) in CALLS.items():
        assert not arguments or call(name)
    tried = {name.partition(",")[0] for name in [*CALLS, *LAYERS]}
    for stem in {path.stem for path in Path(lessons_lib.__file__).parent.glob("[!_]*.py")} - WITH_TESTS_OF_THEIR_OWN:
        module = importlib.import_module(f"lessons_lib.{stem}")
        for name, thing in vars(module).items():
            ours = (inspect.isfunction(thing) or inspect.isclass(thing)) and thing.__module__ == module.__name__
            if ours and not name.startswith("_") and name not in PARTS.get(stem, "").split():
                assert f"{stem}.{name}" in tried, f"{stem}.{name} has no row in tests/calls.py"
