"""Every public function through every door: with Python's, NumPy's and PyTorch's numbers, inside PyTorch's modes and
transforms, copied and pickled. Each answer is right or is an error that names the argument; none is silently wrong."""

import copy
import importlib
import inspect
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import functional

import lessons_lib
from lessons_lib import (
    batch_norm,
    checks,
    convexity,
    data,
    densenet,
    gradient_descent,
    learning_rate,
    minibatch,
    objectives,
    resnet,
    sgd,
    training,
)
from tests.calls import CALLS, IMAGES, X, call, flat

MODULES = {
    module.__name__.rpartition(".")[2]: module
    for module in (batch_norm, checks, convexity, data, densenet, gradient_descent, learning_rate, minibatch)
    + (objectives, resnet, sgd, training)
}

# What PyTorch says of itself, as it first differentiates forward, and as it compiles.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in (".torch.jit.script. is deprecated", ".*should not be instantiated", "The .grad attribute of a Tensor")
]


@pytest.fixture(autouse=True)
def in_64_bits() -> Iterator[None]:
    """So that Python's numbers, which PyTorch would round, give what tensors give."""
    with training.default_dtype(torch.float64):
        yield


NUMBERS = [
    (name, key) for name, (_, arguments) in CALLS.items() for key, v in arguments.items() if type(v) in (int, float)
]
FLAGS = [(name, key) for name, (_, arguments) in CALLS.items() for key, v in arguments.items() if type(v) is bool]
ARRAYS = [
    (name, key) for name, (_, arguments) in CALLS.items() for key, v in arguments.items() if isinstance(v, Tensor)
]


def assert_same(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-12) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        scale = other.double().abs().max().item() if other.numel() else 0.0
        torch.testing.assert_close(one.double(), other.double(), rtol=0, atol=tolerance * scale)


# Numbers

SCALARS = {
    "np.float64": np.float64,
    "np.float32": np.float32,
    "np.float16": np.float16,
    "an array without dimensions": np.array,
    "a tensor": torch.tensor,
    "a tensor in bfloat16": lambda value: torch.tensor(value, dtype=torch.bfloat16),
}
INTEGERS = {
    "np.int64": np.int64,
    "np.uint8": np.uint8,
    "an array without dimensions": np.array,
    "a tensor": torch.tensor,
    "a tensor in uint8": lambda value: torch.tensor(value, dtype=torch.uint8),
}


@pytest.mark.parametrize(("name", "key"), NUMBERS, ids=str)
def test_numbers_of_python_numpy_and_pytorch_serve_alike(name: str, key: str) -> None:
    value, expected = CALLS[name][1][key], call(name)
    for make in (INTEGERS if isinstance(value, int) else SCALARS).values():
        assert make(value) == value
        assert_same(call(name, **{key: make(value)}), expected)
    if isinstance(value, float) and value == int(value):
        for make in (int, *INTEGERS.values()):
            assert_same(call(name, **{key: make(int(value))}), expected)


NO_NUMBERS = [None, "1", b"1", True, np.True_, torch.tensor(True), 1j, np.complex64(1), [1], torch.tensor([1.0]), {}]
OUT_OF_RANGE = [float("nan"), float("inf"), -float("inf"), np.float32("nan"), torch.tensor(float("inf"))]


@pytest.mark.parametrize(("name", "key"), NUMBERS, ids=str)
def test_what_is_not_a_number_is_refused_by_name(name: str, key: str) -> None:
    for value in NO_NUMBERS:
        if name == "convexity.project_box" and isinstance(value, list | Tensor) or (key, value) == ("lr", {}):
            continue  # bounds may be arrays
        with pytest.raises((TypeError, ValueError), match=rf"^{key}: expected .*, got"):
            call(name, **{key: value})
    for value in OUT_OF_RANGE:
        if name == "convexity.project_box" and abs(float(value)) == float("inf"):
            continue  # bounds may be infinite
        with pytest.raises((TypeError, ValueError), match=rf"^{key}: expected .*, got"):
            call(name, **{key: value})
    if isinstance(CALLS[name][1][key], int):
        for value in (2.5, np.float64(2), torch.tensor(2.0), -(10**30)):
            with pytest.raises((TypeError, ValueError), match=rf"^{key}: expected .*, got"):
                call(name, **{key: value})


@pytest.mark.parametrize(("name", "key"), NUMBERS, ids=str)
def test_a_number_that_wants_a_gradient_is_refused_by_name(name: str, key: str) -> None:
    if isinstance(CALLS[name][1][key], float) and name != "convexity.project_box":
        value = torch.tensor(CALLS[name][1][key], requires_grad=True)
        with pytest.raises(TypeError, match=f"^{key}: expected plain numbers"):
            call(name, **{key: value})


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", sorted({name for name, _ in ARRAYS}))
def test_narrow_numbers_give_what_they_can_hold_or_are_refused(name: str, dtype: torch.dtype) -> None:
    narrow = {key: v.to(dtype) for key, v in CALLS[name][1].items() if isinstance(v, Tensor)}
    tolerance = {torch.float32: 1e-5, torch.float16: 0.02, torch.bfloat16: 0.1}[dtype]
    try:
        found = call(name, **narrow)
    except (TypeError, ValueError) as error:
        assert dtype != torch.float32 and refused(error, name)
    else:
        assert_same(found, call(name, **{key: v.double() for key, v in narrow.items()}), tolerance)


@pytest.mark.parametrize(("name", "key"), ARRAYS, ids=str)
def test_two_precisions_are_never_mixed_in_silence(name: str, key: str) -> None:
    value = CALLS[name][1][key]
    for given in (value.float(), value.numpy().astype(np.float32), value.half()):
        try:
            found = call(name, **{key: given})
        except (TypeError, ValueError) as error:
            assert refused(error, name)
        else:
            assert_same(found, call(name, **{key: torch.as_tensor(given).double()}), 0.02)


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


# PyTorch's modes and transforms


def of(name: str, key: str) -> Callable[[Tensor], Tensor]:
    """A call as a function of one array, in a row. Of batch_norm Y alone: its averages never have a graph."""
    f, arguments = CALLS[name]

    def g(x: Tensor) -> Tensor:
        given = f(**arguments | {key: x})
        given = given[:1] if name.startswith("batch_norm") else given if isinstance(given, tuple) else [given]
        return torch.cat([torch.as_tensor(t).reshape(-1) for t in given])

    return g


def numeric_jacobian(g: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """By central differences."""
    h, columns = 1e-6, []
    for i in range(x.numel()):
        step = torch.zeros(x.numel()).index_fill_(0, torch.tensor(i), h).view(x.shape)
        columns.append((g(x + step) - g(x - step)) / (2 * h))
    return torch.stack(columns, -1)


def jacobians(g: Callable[[Tensor], Tensor], x: Tensor) -> dict[str, Callable[[], Tensor]]:
    """The same first derivative, through each door."""
    n = x.numel()

    def by_hand(allow_unused: bool) -> Tensor:
        leaf = x.clone().requires_grad_()
        rows = [
            torch.autograd.grad(out, leaf, retain_graph=True, allow_unused=allow_unused)[0] for out in g(leaf).unbind()
        ]
        return torch.stack([torch.zeros_like(x) if row is None else row for row in rows]).view(-1, n)

    def forward_mode() -> Tensor:
        steps = torch.eye(n).view(n, *x.shape).unbind()
        return torch.stack([torch.func.jvp(g, (x,), (step,))[1] for step in steps], -1)

    return {
        "autograd.grad": lambda: by_hand(False),
        "autograd.grad, allow_unused": lambda: by_hand(True),
        "functional.jacobian": lambda: functional.jacobian(g, x).reshape(-1, n),
        "torch.func.grad": lambda: torch.stack(
            [torch.func.grad(lambda x, i=i: g(x)[i])(x).reshape(-1) for i in range(len(g(x)))]
        ),
        "torch.func.jacrev": lambda: torch.func.jacrev(g)(x).reshape(-1, n),
        "torch.func.jacfwd": lambda: torch.func.jacfwd(g)(x).reshape(-1, n),
        "torch.func.jvp": forward_mode,
    }


def hessians(g: Callable[[Tensor], Tensor], x: Tensor) -> dict[str, Callable[[], Tensor]]:
    """The same second derivative, of a sum, through each door."""
    n = x.numel()
    weights = torch.linspace(1, 2, len(g(x)))

    def f(x: Tensor) -> Tensor:
        return (weights * g(x).pow(3)).sum()

    def products(product: Callable) -> Tensor:
        steps = torch.eye(n).view(n, *x.shape).unbind()
        return torch.stack([product(f, x, step)[1].reshape(-1) for step in steps])

    return {
        "differences": lambda: numeric_jacobian(lambda x: functional.jacobian(f, x).reshape(-1), x),
        "functional.hessian": lambda: functional.hessian(f, x).view(n, n),
        "functional.hvp": lambda: products(functional.hvp),
        "functional.vhp": lambda: products(functional.vhp),
        "torch.func.hessian": lambda: torch.func.hessian(f)(x).reshape(n, n),
        "jacrev of jacrev": lambda: torch.func.jacrev(torch.func.jacrev(f))(x).reshape(n, n),
    }


def assert_right_or_refused(
    doors: dict[str, Callable[[], Tensor]], expected: Tensor, tolerance: float, name: str
) -> None:
    for door, derivative in doors.items():
        try:
            found = derivative()
        except (RuntimeError, TypeError, ValueError) as error:
            assert refused(error, name), door
        else:
            scale = max(1.0, expected.abs().max().item())
            torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * scale, msg=door)


# Whoever computes its own gradients has no graph for somebody else's.
CONSTANT = {"gradient_descent", "sgd"}
CONSTANTS = {("objectives.curvature", "x"), ("convexity.project_subspace", "A")}


def constant(name: str, key: str) -> bool:
    return name.partition(".")[0] in CONSTANT or (name, key) in CONSTANTS


@pytest.mark.parametrize(("name", "key"), ARRAYS, ids=str)
def test_first_derivatives_are_right_or_refused(name: str, key: str) -> None:
    g, x = of(name, key), CALLS[name][1][key] * 0.9 + 0.05  # off the kinks
    if key == "weights":
        x = CALLS[name][1][key]
    doors = jacobians(g, x)
    if constant(name, key):
        for door, derivative in doors.items():
            with pytest.raises(TypeError, match=f"^{key}: expected plain numbers"):
                derivative()
                pytest.fail(door)
        return
    expected = numeric_jacobian(g, x) if key != "weights" else doors["autograd.grad"]()
    assert_right_or_refused(doors, expected, 1e-6, name)


@pytest.mark.parametrize(("name", "key"), [one for one in ARRAYS if not constant(*one)], ids=str)
def test_second_derivatives_are_right_or_refused(name: str, key: str) -> None:
    if key == "weights":
        return  # moved one by one their sum is not 1
    x = CALLS[name][1][key] * 0.9 + 0.05
    doors = hessians(of(name, key), x)
    expected = doors.pop("differences")()
    assert_right_or_refused(doors, expected, 1e-5, name)


@pytest.mark.parametrize(("name", "key"), ARRAYS, ids=str)
def test_modes_compilation_and_vmap_change_nothing(name: str, key: str) -> None:
    g, x = of(name, key), CALLS[name][1][key]
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
    torch.compiler.reset()
    assert_same([torch.compile(g, backend="eager")(x)], [expected])
    try:
        found = torch.vmap(g)(torch.stack([x, x]))
    except (RuntimeError, TypeError, ValueError) as error:
        assert refused(error, name)
    else:
        assert_same(list(found), [expected, expected])


# Layers: their input is a tensor

LAYERS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "batch_norm.BatchNorm": (lambda: batch_norm.BatchNorm(3, num_dims=2), X),
    "batch_norm.BatchNorm of images": (lambda: batch_norm.BatchNorm(3, num_dims=4), IMAGES[:2, :, :2, :2]),
    "minibatch.SyncBatchNorm": (lambda: minibatch.SyncBatchNorm(3, num_dims=2), X),
    "resnet.Residual": (lambda: resnet.Residual(3, 3), IMAGES[:2, :, :2, :2]),
    "resnet.Plain": (lambda: resnet.Plain(3, 3), IMAGES[:2, :, :2, :2]),
    "resnet.Bottleneck": (lambda: resnet.Bottleneck(3, 4), IMAGES[:2, :, :2, :2]),
    "resnet.PreActivation": (lambda: resnet.PreActivation(3, 3), IMAGES[:2, :, :2, :2]),
    "resnet.ResNet": (lambda: resnet.ResNet([(1, 3)], 2, 3, stem_stride=1), IMAGES[:2, :, :2, :2]),
    "densenet.DenseBlock": (lambda: densenet.DenseBlock(2, 3, 2), IMAGES[:2, :, :2, :2]),
    "densenet.DenseBlock, lean": (lambda: densenet.DenseBlock(2, 3, 2, lean=True), IMAGES[:2, :, :2, :2]),
    "densenet.Transition": (lambda: densenet.Transition(3, 2), IMAGES[:2, :, :2, :2]),
    "densenet.DenseNet": (
        lambda: densenet.DenseNet((1,), 2, 2, 3, stem_channels=3, stem_stride=1),
        IMAGES[:2, :, :2, :2],
    ),
}
EDITED = pytest.mark.parametrize("training", [True, False], ids=["training", "predicting"])


def made(name: str, training: bool) -> tuple[nn.Module, Tensor]:
    make, x = LAYERS[name]
    torch.manual_seed(1)
    net = make().double().train(training)
    for buffer in net.buffers():
        if buffer.is_floating_point():
            buffer.add_(0.25)
    return net, x.double()


def applied(name: str, training: bool) -> Callable[[Tensor], Tensor]:
    """A layer as a function: each time the same averages."""
    net, _ = made(name, training)
    state = {key: value.clone() for key, value in net.named_buffers()}

    def g(x: Tensor) -> Tensor:
        return torch.func.functional_call(net, {key: value.clone() for key, value in state.items()}, (x,)).reshape(-1)

    return g


@pytest.mark.parametrize("name", LAYERS)
@EDITED
def test_derivatives_of_layers_are_right_or_refused(name: str, training: bool) -> None:
    g, x = applied(name, training), made(name, training)[1]
    weights = torch.linspace(1, 2, len(g(x)))

    def f(x: Tensor) -> Tensor:
        return (weights * g(x)).sum().view(1)

    assert_right_or_refused(jacobians(f, x), numeric_jacobian(f, x), 1e-5, name)
    doors = hessians(g, x)
    assert_right_or_refused(doors, doors.pop("differences")(), 1e-4, name)


@pytest.mark.parametrize("name", LAYERS)
@EDITED
def test_layers_give_the_same_in_every_mode_compiled_copied_and_pickled(name: str, training: bool) -> None:
    net, x = made(name, training)
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
    g = applied(name, training)
    try:
        found = torch.vmap(g)(torch.stack([x, 2 * x]))
    except (RuntimeError, TypeError, ValueError) as error:
        assert training and "vmap" in str(error)  # as PyTorch's own: one running mean cannot follow two batches
    else:
        assert_same(list(found), [g(x), g(2 * x)])


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_takes_tensors_and_names_its_input_otherwise(name: str) -> None:
    net, x = made(name, True)
    before = [value.clone() for value in net.state_dict().values()]
    for wrong in (x.numpy(), x.tolist(), None, 3.0, x.long(), x.bool(), x.to(torch.complex64), x[:, :0], x[0]):
        with pytest.raises((TypeError, ValueError), match=r"^X: expected .*, got"):
            net(wrong)
    assert_same(list(net.state_dict().values()), before, 0)


# Records and functions that are made


@pytest.mark.parametrize("f", [*objectives.NAMED, objectives.quadratic((2, 4), 0.5)], ids=str)
def test_an_objective_can_be_copied_and_pickled(f: objectives.Objective) -> None:
    point = torch.linspace(0.5, 1, f.dim) if f.dim > 1 else torch.tensor(0.5)
    for other in (copy.copy(f), copy.deepcopy(f), pickle.loads(pickle.dumps(f))):
        assert torch.equal(other(point), f(point)) and other.curvature == f.curvature


SCHEDULES = [name for name in CALLS if name.startswith("learning_rate") and "step" not in name]


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_can_be_copied_and_says_that_it_cannot_be_pickled(name: str) -> None:
    f, arguments = CALLS[name]
    schedule = f(**arguments)
    assert_same(flat(copy.deepcopy(schedule)), flat(schedule))
    with pytest.raises((AttributeError, pickle.PicklingError), match="schedule"):  # as any function made in another
        pickle.dumps(schedule)


# Nothing is left out

ELSEWHERE = {  # public, and where it meets its doors
    "batch_norm": "lenet: BatchNorm; at_least_float32 check_batch mean_of normalised: parts of it",
    "checks": "as_int as_number as_bool as_tensor as_constant as_schedule as_rate as_path as_tuple check_dtype "
    "check_function holds refuse_graph refuse_transform: through all that call them, and tests/test_checks.py",
    "data": "fashion_mnist read_whole read_idx: files come in, tests/test_data.py damages them",
    "densenet": "densenet121 small_densenet: DenseNet, by size; bn_relu_conv: a part of it",
    "gradient_descent": "walk gradient: parts of gradient_descent",
    "objectives": "hessian_at value_at: parts of curvature",
    "checkpoints": "Checkpoint to_bytes: parts of train, tests/test_checkpoints.py",
    "files": "write_whole: tests/test_files.py",
    "processes": "rank_and_size join_process_group gather mean_over_processes check_same: tests/test_processes.py",
    "resnet": "ResNeXt: a Bottleneck; Convolutional: ResNet is one; resnet resnet18 small_resnet: ResNet, by depth; "
    "conv_bn check_images: parts of it",
    "training": "History Memory: records; check_net: through all that call it",
}


def public(module: ModuleType) -> set[str]:
    """The functions and classes that a module defines for others."""
    return {
        name
        for name, thing in vars(module).items()
        if getattr(thing, "__module__", None) == module.__name__
        and not name.startswith("_")
        and (inspect.isfunction(thing) or inspect.isclass(thing))
    }


def test_no_public_function_is_left_out() -> None:
    tried = {name.partition(",")[0] for name in [*CALLS, *LAYERS]}
    for stem in {path.stem for path in Path(lessons_lib.__file__).parent.glob("[!_]*.py")} - {"figures", "sliders"}:
        elsewhere = set(re.findall(r"\w+", ELSEWHERE.get(stem, "")))
        for name in public(importlib.import_module(f"lessons_lib.{stem}")):
            assert f"{stem}.{name}" in tried or name in elsewhere, f"{stem}.{name} has no row in the table of doors"
