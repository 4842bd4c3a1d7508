"""A call that works of each public function, and each layer with an input. What is tried on all of them, in test_doors
and test_refusals, changes one argument at a time."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from lessons_lib import (
    batch_norm,
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


def quartic(x: Tensor) -> Tensor:
    return x.pow(4).sum() / 4


def total(x: Tensor) -> Tensor:
    return x.sum()


def spread(x: Tensor, batch: Tensor) -> Tensor:
    """A loss over examples 0, 1, …"""
    return (batch.double()[:, None] * x + x.square()).sum(1).mean()


X = torch.tensor([[1.0, -2.0, 3.0], [2.0, 1.0, -1.0], [-3.0, 2.0, 2.0], [4.0, 0.0, 1.0]], dtype=torch.float64)
x = torch.tensor([3.0, -1.0, 2.0], dtype=torch.float64)
ONE, TWO = torch.ones(3, dtype=torch.float64), torch.full((3,), 2.0, dtype=torch.float64)
BATCH = dict(X=X, gamma=TWO, beta=ONE, moving_mean=ONE, moving_var=TWO, eps=0.5, momentum=0.75)
WALK = dict(x0=x, lr=0.125, steps=3)
SET = TensorDataset(X.float(), torch.tensor([0, 1, 0, 1]))


def trained(net: nn.Module | None = None, train_set: TensorDataset = SET, **arguments: object) -> list[float]:
    return training.train(linear() if net is None else net, train_set, **arguments).loss


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2).float()


def on_meta(**arguments: int) -> int:
    """How many parameters the paper's net has: on the meta device they cost nothing."""
    with torch.device("meta"):
        return training.num_parameters(resnet.resnet(**arguments))


def predicting(net: nn.Module) -> bool:
    with training.eval_mode(net):
        return net.training


def ones_of(dtype: torch.dtype) -> Tensor:
    with training.default_dtype(dtype):
        return torch.ones(1)


def averaged(net: nn.Module) -> nn.Module:
    minibatch.average_gradients(net)
    return net


# A call that works of each public function: its arguments are what the doors change.
CALLS: dict[str, tuple[Callable, dict[str, object]]] = {
    "batch_norm.batch_norm": (batch_norm.batch_norm, dict(is_training=True, **BATCH)),
    "batch_norm.batch_norm, predicting": (batch_norm.batch_norm, dict(is_training=False, **BATCH)),
    "batch_norm.BatchNorm": (batch_norm.BatchNorm, dict(num_features=3, num_dims=2, eps=0.5, momentum=0.75)),
    "batch_norm.lenet": (batch_norm.lenet, dict(norm=batch_norm.BatchNorm, activation=nn.ReLU)),
    "minibatch.SyncBatchNorm": (minibatch.SyncBatchNorm, dict(num_features=3, num_dims=2, eps=0.5, momentum=0.75)),
    "convexity.jensen_gap": (
        convexity.jensen_gap,
        dict(f=quartic, points=X, weights=torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64)),
    ),
    "convexity.project_ball": (convexity.project_ball, dict(x=X, radius=2.0)),
    "convexity.project_box": (convexity.project_box, dict(x=X, low=0.0, high=2.0)),
    "convexity.project_box, tensors": (convexity.project_box, dict(x=X, low=-ONE, high=TWO)),
    "convexity.project_simplex": (convexity.project_simplex, dict(x=X, total=2.0)),
    "convexity.project_subspace": (convexity.project_subspace, dict(x=X, A=X[:3, :2])),
    "convexity.lagrangian": (
        lambda f, constraints, x, alpha: convexity.lagrangian(f, constraints)(x, alpha),
        dict(f=quartic, constraints=[total], x=x, alpha=torch.tensor([2.0], dtype=torch.float64)),
    ),
    "convexity.penalised": (
        lambda f, constraints, x, weight: convexity.penalised(f, constraints, weight)(x),
        dict(f=quartic, constraints=[total], x=x, weight=2.0),
    ),
    "gradient_descent.gradient_descent": (
        gradient_descent.gradient_descent,
        dict(f=quartic, **WALK, momentum=0.5, preconditioner=ONE),
    ),
    "gradient_descent.gradient_descent, backtracking": (
        gradient_descent.gradient_descent,
        dict(f=quartic, **WALK, backtrack=True),
    ),
    "gradient_descent.newton": (gradient_descent.newton, dict(f=quartic, **WALK)),
    "gradient_descent.backtracking": (gradient_descent.backtracking, dict(f=quartic, x=x, direction=-x, lr=2.0)),
    "sgd.sgd": (
        sgd.sgd,
        dict(f=spread, **WALK, num_examples=5, batch_size=2, replacement=True, momentum=0.5, weight_decay=0.25, seed=3),
    ),
    "sgd.noise_covariance": (sgd.noise_covariance, dict(f=spread, x=x, num_examples=5)),
    "sgd.batches": (
        lambda **arguments: list(itertools.islice(sgd.batches(**arguments), 3)),
        dict(num_examples=5, batch_size=2, replacement=False, seed=3),
    ),
    "learning_rate.constant": (learning_rate.constant, dict(lr=0.5)),
    "learning_rate.piecewise": (learning_rate.piecewise, dict(lr=0.5, boundaries=[2, 3], factor=0.5)),
    "learning_rate.exponential": (learning_rate.exponential, dict(lr=0.5, decay=0.25)),
    "learning_rate.polynomial": (learning_rate.polynomial, dict(lr=0.5, alpha=0.5, beta=2.0)),
    "learning_rate.cosine": (learning_rate.cosine, dict(lr=0.5, steps=4)),
    "learning_rate.warmup": (learning_rate.warmup, dict(schedule=lambda step: 0.5, steps=3)),
    "learning_rate.cosine, its step": (lambda step: learning_rate.cosine(0.5, 4)(step), dict(step=3)),
    "data.fashion_mnist": (
        lambda **arguments: data.fashion_mnist(**arguments).tensors,
        dict(split="test", full=False, root=None),
    ),
    "objectives.quadratic": (
        lambda eigenvalues, angle, x: objectives.quadratic(eigenvalues, angle)(x),
        dict(eigenvalues=[1.0, 4.0], angle=0.5, x=x[:2]),
    ),
    "objectives.Objective": (objectives.rosenbrock, dict(x=x[:2])),
    "objectives.softmax_regression": (
        lambda **arguments: objectives.softmax_regression(**arguments).curvature,
        dict(num_images=10, size=2, weight_decay=0.5),
    ),
    "objectives.curvature": (objectives.curvature, dict(f=quartic, x=x)),
    "resnet.Residual": (resnet.Residual, dict(in_channels=3, out_channels=4, stride=2)),
    "resnet.Plain": (resnet.Plain, dict(in_channels=3, out_channels=4, stride=2)),
    "resnet.Bottleneck": (resnet.Bottleneck, dict(in_channels=3, out_channels=4, stride=2)),
    "resnet.PreActivation": (resnet.PreActivation, dict(in_channels=3, out_channels=4, stride=2)),
    "resnet.ResNeXt": (resnet.ResNeXt, dict(in_channels=3, out_channels=64, stride=2)),
    "resnet.ResNet": (
        resnet.ResNet,
        dict(stages=[(1, 4)], num_classes=3, in_channels=3, block=resnet.Residual, stem_stride=2),
    ),
    "resnet.resnet": (on_meta, dict(depth=18, num_classes=3, in_channels=3)),
    "densenet.DenseBlock": (
        densenet.DenseBlock,
        dict(num_layers=2, in_channels=3, growth_rate=2, bottleneck=True, lean=True),
    ),
    "densenet.Transition": (densenet.Transition, dict(in_channels=3, out_channels=2)),
    "densenet.DenseNet": (
        densenet.DenseNet,
        dict(num_layers=(1, 1), growth_rate=2, num_classes=3, in_channels=3, stem_channels=4, stem_stride=1, lean=True),
    ),
    "training.train": (
        trained,
        dict(lr=0.5, momentum=0.5, weight_decay=0.25, num_epochs=2, batch_size=2, seed=1),
    ),
    "training.evaluate": (
        lambda net=None, dataset=SET: training.evaluate(linear() if net is None else net, dataset),
        {},
    ),
    "training.num_parameters": (training.num_parameters, dict(net=linear())),
    "training.eval_mode": (predicting, dict(net=linear())),
    "training.default_dtype": (ones_of, dict(dtype=torch.float16)),
    "minibatch.average_gradients": (averaged, dict(net=linear())),
    # Without arguments, with which test_doors would start processes again and again.
    "minibatch.torchrun": (lambda worker=linear, args=(), **count: minibatch.torchrun(worker, *args, **count), {}),
}


class Layer(NamedTuple):
    """A layer or net, and shapes of its input: a small one for its derivatives, a large one for its accuracy."""

    make: Callable[[], nn.Module]
    small: tuple[int, ...] | None = (2, 3, 2, 2)
    large: tuple[int, ...] | None = (4, 3, 8, 8)
    # Where the variance is far below eps, each normalisation divides by √eps: a net of many then shows little but how
    # its first one rounded. So these are the smallest powers of ten by which its input may be multiplied, at all and in
    # half precision. Layers multiply each other's rounding: that of a deep net may be so many times as large.
    least: int = -30
    half: int = -2
    rounding: int = 1


# A deep net gets images enough, and large enough, that none of its normalisations sees only a few values: of three that
# happen to be nearly alike it keeps little but their rounding.
LAYERS = {
    "batch_norm.BatchNorm": Layer(lambda: batch_norm.BatchNorm(3, num_dims=2), (4, 3), (6, 3), half=-8),
    "batch_norm.BatchNorm, images": Layer(lambda: batch_norm.BatchNorm(3, num_dims=4), half=-8),
    "batch_norm.lenet": Layer(
        lambda: batch_norm.lenet(batch_norm.BatchNorm), None, (16, 1, 28, 28), least=-2, rounding=10
    ),
    "minibatch.SyncBatchNorm": Layer(lambda: minibatch.SyncBatchNorm(3, num_dims=2), (4, 3), (6, 3), half=-8),
    "resnet.Residual": Layer(lambda: resnet.Residual(3, 3)),
    "resnet.Plain": Layer(lambda: resnet.Plain(3, 3)),
    "resnet.Bottleneck": Layer(lambda: resnet.Bottleneck(3, 8)),
    "resnet.PreActivation": Layer(lambda: resnet.PreActivation(3, 4)),
    "resnet.ResNet": Layer(lambda: resnet.ResNet([(1, 3)], 2, 3, stem_stride=1), large=None),
    "resnet.ResNet, deep": Layer(
        lambda: resnet.ResNet([(1, 4), (1, 8)], 5, 3), None, (4, 3, 16, 16), least=-2, rounding=2
    ),
    "densenet.DenseBlock": Layer(lambda: densenet.DenseBlock(2, 3, 2)),
    "densenet.DenseBlock, lean": Layer(lambda: densenet.DenseBlock(2, 3, 2, lean=True)),
    "densenet.Transition": Layer(lambda: densenet.Transition(3, 2)),
    "densenet.DenseNet": Layer(lambda: densenet.DenseNet((1,), 2, 2, 3, stem_channels=3, stem_stride=1), large=None),
    "densenet.DenseNet, deep": Layer(
        lambda: densenet.DenseNet((1, 2), 4, 5, 3, stem_channels=4), None, (4, 3, 16, 16), least=-2, rounding=2
    ),
}


def call(name: str, **changed: object) -> list[Tensor]:
    """What a call gives, as tensors, with some of its arguments changed."""
    f, arguments = CALLS[name]
    torch.manual_seed(0)
    return flat(f(**arguments | changed))


def flat(value: object) -> list[Tensor]:
    """A result as tensors: of a layer its state and its attributes, of a schedule its first rates."""
    if isinstance(value, nn.Module):
        return [*value.state_dict().values(), *flat([ord(letter) for letter in str(value)])]
    if callable(value):
        return flat([value(step) for step in range(8)])
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in flat(item)]
    return [torch.as_tensor(value)]
