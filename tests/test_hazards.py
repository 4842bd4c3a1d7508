"""What comes in is not always kind: every public function that takes tensors meets NaN, very large and very small
numbers, constants, halves and every layout in memory. What else it must do is in the test of its own module."""

import importlib
import inspect
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import lessons_lib
from lessons_lib import batch_norm, convexity, densenet, gradient_descent, minibatch, objectives, resnet, sgd, training
from tests.nets import randn, randomised

HALF = torch.float16, torch.bfloat16
# How far a result may be from the one in float64, as a part of the largest number: twice what was measured or more.
# In deep nets the layers multiply each other's rounding. They get images enough, and large enough, that none of their
# normalisations sees only a few values: of three that happen to be nearly alike it keeps little but their rounding.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 0.005, torch.bfloat16: 0.04}
DEEP = {"batch_norm.lenet": 10, "densenet.DenseNet": 2, "resnet.ResNet": 2}


class Case(NamedTuple):
    """A function of one tensor X of this shape, and by which powers of ten X may be multiplied."""

    f: Callable[[Tensor], Tensor]
    shape: tuple[int, ...]
    powers: tuple[int, int] = (-30, 30)
    half: tuple[int, int] | None = None  # the same in float16 and bfloat16; None: not for them
    layer: nn.Module | None = None  # behind f
    double: bool = False  # the result is in float64 whatever X is


def layer(net: nn.Module, shape: tuple[int, ...] = (4, 3, 8, 8), least: int = -2, half: int = -2) -> Case:
    """A layer or net. Beyond 1e15 the variance overflows in float32, as in PyTorch's own layer. Where it is far below
    eps, each normalisation divides by √eps: a net of many then shows little but how its first one rounded."""
    net = randomised(net)
    state = {name: value.clone() for name, value in net.state_dict().items()}

    def f(X: Tensor) -> Tensor:
        net.double().load_state_dict(state)
        return net.to(X.dtype)(X)

    return Case(f, shape, (least, 15), (half, 2), net)


def at_one(f: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
    """The readable function with the state of a new layer."""

    def train(X: Tensor) -> Tensor:
        one, zero = X.new_ones(X.shape[1]), X.new_zeros(X.shape[1])
        return f(True, X, one, zero, zero, one)[0]

    return train


def square(x: Tensor) -> Tensor:
    return x.square().sum()


def spread(x: Tensor, batch: Tensor) -> Tensor:
    """A loss over examples 0, 1, …"""
    return (batch.double()[:, None] * x + x.square()).sum(1).mean()


def optimiser(f: Callable[[Tensor], Tensor]) -> Case:
    """Those compute in float64, and refuse a start that is not finite."""
    return Case(f, (4,), double=True)


def evaluated(X: Tensor) -> Tensor:
    """The mean loss of logits X."""
    labels = torch.zeros(len(X), dtype=torch.int64)
    return X.new_tensor(training.evaluate(nn.Identity(), TensorDataset(X, labels))[0])


THIRDS = torch.full((3,), 1 / 3, dtype=torch.float64)
LINE = torch.tensor([[1.0], [2.0], [3.0], [4.0]], dtype=torch.float64)
CASES = {
    "batch_norm.batch_norm": Case(at_one(batch_norm.batch_norm), (6, 3, 2, 4), (-30, 15), (-2, 1)),
    "batch_norm.BatchNorm": layer(batch_norm.BatchNorm(3, num_dims=4), least=-30, half=-8),
    "batch_norm.lenet": layer(batch_norm.lenet(batch_norm.BatchNorm), (16, 1, 28, 28)),
    "minibatch.SyncBatchNorm": layer(minibatch.SyncBatchNorm(3, num_dims=2), (6, 3), least=-30, half=-8),
    "densenet.DenseBlock": layer(densenet.DenseBlock(2, 3, 2), least=-30),
    "densenet.Transition": layer(densenet.Transition(3, 2), least=-30),
    "densenet.DenseNet": layer(densenet.DenseNet((1, 2), 4, 5, 3, stem_channels=4), (4, 3, 16, 16)),
    "resnet.Residual": layer(resnet.Residual(3, 3), least=-30),
    "resnet.Plain": layer(resnet.Plain(3, 3), least=-30),
    "resnet.Bottleneck": layer(resnet.Bottleneck(3, 8), least=-30),
    "resnet.PreActivation": layer(resnet.PreActivation(3, 4, 2), least=-30),
    "resnet.ResNet": layer(resnet.ResNet([(1, 4), (1, 8)], 5, 3), (4, 3, 16, 16)),
    "convexity.jensen_gap": Case(
        lambda X: convexity.jensen_gap(lambda x: x.abs().sum(), X, THIRDS.to(X.dtype)), (3, 4)
    ),
    "convexity.project_ball": Case(convexity.project_ball, (3, 4)),
    "convexity.project_box": Case(lambda X: convexity.project_box(X, -1.0, 2.0), (3, 4)),
    "convexity.project_simplex": Case(convexity.project_simplex, (3, 4)),
    "convexity.project_subspace": Case(lambda X: convexity.project_subspace(X, LINE.to(X.dtype)), (3, 4)),
    "convexity.lagrangian": Case(
        lambda X: convexity.lagrangian(square, [torch.Tensor.sum])(X, X.new_tensor([2.0])), (4,), (-15, 15)
    ),
    "convexity.penalised": Case(lambda X: convexity.penalised(square, [torch.Tensor.sum], 2.0)(X), (4,), (-15, 15)),
    "gradient_descent.gradient_descent": optimiser(lambda X: gradient_descent.gradient_descent(square, X, 0.1, 3)),
    "gradient_descent.newton": optimiser(lambda X: gradient_descent.newton(square, X, 0.5, 3)),
    "gradient_descent.backtracking": optimiser(
        lambda X: torch.tensor(gradient_descent.backtracking(square, X, -2 * X), dtype=torch.float64)
    ),
    "sgd.sgd": optimiser(lambda X: sgd.sgd(spread, X, 0.1, 3, 5)),
    "sgd.noise_covariance": optimiser(lambda X: sgd.noise_covariance(spread, X, 5)),
    "objectives.curvature": Case(
        lambda X: torch.tensor(objectives.curvature(lambda x: x.pow(4).sum(), X), dtype=torch.float64),
        (4,),
        (-15, 15),
        double=True,
    ),
    "gradient_descent.gradient": Case(lambda X: gradient_descent.gradient(square, X), (4,), (-15, 15)),
    "objectives.quadratic": Case(objectives.quadratic([1.0, 4.0], 0.3), (2, 3), (-15, 15)),
    "training.evaluate": Case(evaluated, (4, 3)),
}
NETS = [name for name, case in CASES.items() if case.layer]
ELSEWHERE = {  # public, and why not above
    "batch_norm": "at_least_float32 check_batch mean_of normalised: parts of BatchNorm",
    "checks": "as_int as_number as_bool as_tensor as_constant as_schedule as_rate as_path as_tuple check_dtype "
    "check_function holds refuse_graph refuse_transform: parts of all; test_checks.py",
    "data": "fashion_mnist read_whole read_idx: files come in, test_data.py damages them",
    "densenet": "densenet121 small_densenet: DenseNet, by size; bn_relu_conv: a part of it",
    "checkpoints": "Checkpoint to_bytes: test_checkpoints.py",
    "files": "write_whole: no tensors come in",
    "processes": "rank_and_size join_process_group gather mean_over_processes check_same: test_processes.py",
    "figures": "Bundle show label box arrow to_svg to_png to_tree define serialise: drawings",
    "gradient_descent": "walk: a part of gradient_descent",
    "learning_rate": "constant piecewise exponential polynomial cosine warmup: numbers come in",
    "minibatch": "torchrun: functions come in; average_gradients: gradients of a net",
    "objectives": "Objective: quadratic is one; softmax_regression: sizes come in; "
    "hessian_at value_at: parts of curvature",
    "resnet": "ResNeXt: a Bottleneck; Convolutional: ResNet is one; resnet resnet18 small_resnet: ResNet, by depth; "
    "conv_bn check_images: parts of it",
    "sgd": "batches: numbers come in",
    "sliders": "slider frames parameters: drawings",
    "training": "History Memory: records; train: test_training.py; num_parameters check_net: a net; "
    "default_dtype eval_mode: no tensors come in",
}


def laid_out(X: Tensor, layout: str) -> Tensor:
    """X, with other strides."""
    if layout == "last dimension first":
        return X.movedim(-1, 0).contiguous().movedim(0, -1)
    if layout == "every second number":
        return torch.stack([X, X + 1], -1)[..., 0]
    if layout == "channels last" and X.dim() == 4:
        return X.contiguous(memory_format=torch.channels_last)
    return X


LAYOUTS = ["as it comes", "last dimension first", "every second number", "channels last"]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *itertools.product(CASES, (torch.float32, torch.float64)),
        *itertools.product([name for name, case in CASES.items() if case.half], HALF),
    ],
    ids=str,
)
@settings(max_examples=12, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**31), layout=st.sampled_from(LAYOUTS))
def test_any_size_dtype_and_layout(name: str, dtype: torch.dtype, data: st.DataObject, seed: int, layout: str) -> None:
    case = CASES[name]
    power = data.draw(st.integers(*(case.half if dtype in HALF else case.powers)), "power")
    X = (10.0**power * randn(*case.shape, seed=seed)).to(dtype)
    Y, exact = case.f(laid_out(X, layout)), case.f(X.double())
    assert Y.dtype == (torch.float64 if case.double else dtype)
    tolerance = TOLERANCE[dtype] * DEEP.get(name, 1)
    torch.testing.assert_close(Y.double(), exact, rtol=0, atol=tolerance * exact.abs().max().item())
    if case.layer:
        x = laid_out(X, layout).detach().requires_grad_()
        case.f(x).sum().backward()
        assert x.grad.dtype == dtype and x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
@pytest.mark.parametrize("name", NETS)
@settings(max_examples=5, deadline=None)
@given(value=st.floats(-100, 100), seed=st.integers(0, 2**31))
@example(value=0.0, seed=0)
def test_where_one_channel_is_constant(name: str, dtype: torch.dtype, value: float, seed: int) -> None:
    X = randn(*CASES[name].shape, seed=seed)
    X[:, 0] = value
    X = X.to(dtype).requires_grad_()
    Y = CASES[name].f(X)
    Y.sum().backward()
    assert Y.isfinite().all() and X.grad.isfinite().all()


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=12, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**31))
def test_what_is_not_a_number_is_never_answered_with_one(name: str, data: st.DataObject, seed: int) -> None:
    case = CASES[name]
    X = randn(*case.shape, seed=seed)
    X.view(-1)[data.draw(st.integers(0, X.numel() - 1), "where")] = float("nan")
    try:
        Y = case.f(X)
    except ValueError as error:
        assert case.double and "finite" in str(error)  # refused, and said so
    else:
        assert not case.double and Y.isnan().any()


@pytest.mark.parametrize("name", NETS)
@settings(max_examples=5, deadline=None)
@given(power=st.integers(-30, -3), seed=st.integers(0, 2**31))
def test_images_next_to_nothing_train_all_the_same(name: str, power: int, seed: int) -> None:
    X = (10.0**power * randn(*CASES[name].shape, seed=seed)).float().requires_grad_()
    Y = CASES[name].f(X)
    Y.sum().backward()
    assert Y.isfinite().all() and X.grad.isfinite().all()


@pytest.mark.parametrize("name", NETS)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_at_prediction_one_bad_image_spoils_no_other(name: str, seed: int) -> None:
    case = CASES[name]
    X = randn(*case.shape, seed=seed)
    case.layer.eval()
    try:
        good = case.f(X)
        X[1] = float("nan")
        bad = case.f(X)
    finally:
        case.layer.train()
    others = torch.arange(len(X)) != 1
    assert torch.equal(bad[others], good[others]) and bad[1].isnan().any()


def test_no_public_name_is_forgotten() -> None:
    found = set()
    for path in Path(lessons_lib.__file__).parent.glob("[!_]*.py"):
        module = importlib.import_module(f"lessons_lib.{path.stem}")
        for name, thing in vars(module).items():
            own = getattr(thing, "__module__", None) == module.__name__
            if own and not name.startswith("_") and (inspect.isfunction(thing) or inspect.isclass(thing)):
                found.add(f"{path.stem}.{name}")
    excused = {f"{stem}.{word.strip(':;')}" for stem, text in ELSEWHERE.items() for word in text.split()}
    assert found <= set(CASES) | excused
    assert set(CASES) <= found
