"""Bad input gets an error that names the argument, what was expected and what came.

A row is a call of tests/calls.py, the arguments to change in it, and what the error says. Here is what each function
asks for itself; what is wrong everywhere (a string for a number, NaN, a number for a bool) test_doors tries on all.
"""

import math
import re

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from tests.calls import SET, call


def ones(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.float64)


BATCH, NORM, LENET = "batch_norm.batch_norm", "batch_norm.BatchNorm", "batch_norm.lenet"
RESIDUAL, RESNET, NUM_LAYERS = "resnet.Residual", "resnet.ResNet", "resnet.resnet"
BLOCK, TRANSITION, DENSENET = "densenet.DenseBlock", "densenet.Transition", "densenet.DenseNet"
GAP, BALL, BOX = "convexity.jensen_gap", "convexity.project_ball", "convexity.project_box"
SIMPLEX, SPAN = "convexity.project_simplex", "convexity.project_subspace"
LAGRANGIAN, PENALISED = "convexity.lagrangian", "convexity.penalised"
OBJECTIVE, QUADRATIC = "objectives.Objective", "objectives.quadratic"
CURVATURE, SOFTMAX = "objectives.curvature", "objectives.softmax_regression"
DESCENT, NEWTON = "gradient_descent.gradient_descent", "gradient_descent.newton"
BACKTRACK, SEARCH = "gradient_descent.gradient_descent, backtracking", "gradient_descent.backtracking"
SGD, NOISE, BATCHES = "sgd.sgd", "sgd.noise_covariance", "sgd.batches"
CONSTANT, PIECEWISE, COSINE = "learning_rate.constant", "learning_rate.piecewise", "learning_rate.cosine"
EXPONENTIAL, POLYNOMIAL = "learning_rate.exponential", "learning_rate.polynomial"
WARMUP, RUN, AVERAGE = "learning_rate.warmup", "minibatch.torchrun", "minibatch.average_gradients"
TRAIN, EVALUATE, DTYPE = "training.train", "training.evaluate", "training.default_dtype"
MNIST = "data.fashion_mnist"

SHAPE_OF_X = "X: expected shape (m, d) or (m, c, h, w), got"
NO_SCALAR = "f: expected a function that returns a scalar tensor, got shape"
NO_TENSOR = "f: expected a function that returns a real tensor, got"
NO_GRADIENT = "f: expected a function that torch can differentiate, got"
NO_CONSTRAINTS = "constraints: expected a sequence of functions, got "
WEIGHTS = "weights: expected none below 0 and a sum of 1, got "
NO_SEQUENCE = "eigenvalues: expected a sequence of numbers, got "
RATE = "lr: expected a number in (0, inf), got"
STEPS = "boundaries: expected increasing steps, got"
MODULE = "net: expected an nn.Module, got int"
inputs, labels = SET.tensors
DIFFERENTIATED = TensorDataset(inputs.clone().requires_grad_(), labels)
NET_OF_MATRICES = nn.Sequential(nn.Linear(3, 2), nn.Unflatten(1, (2, 1)))

REFUSALS: list[tuple[str, dict[str, object], type[Exception], str]] = [
    # batch_norm
    (NORM, dict(num_features=0), ValueError, "num_features: expected at least 1, got 0"),
    (NORM, dict(num_dims=3), ValueError, "num_dims: expected 2 for (m, d) or 4 for (m, c, h, w), got 3"),
    (NORM, dict(eps=0.0), ValueError, "eps: expected a number in (0, inf), got 0.0"),
    (NORM, dict(momentum=-0.1), ValueError, "momentum: expected a number in [0, 1], got -0.1"),
    (NORM, dict(momentum=1.1), ValueError, "momentum: expected a number in [0, 1], got 1.1"),
    (BATCH, dict(eps=0.0), ValueError, "eps: expected a number in (0, inf), got 0.0"),
    (BATCH, dict(momentum=-0.1), ValueError, "momentum: expected a number in [0, 1], got -0.1"),
    (BATCH, dict(momentum=1.1), ValueError, "momentum: expected a number in [0, 1], got 1.1"),
    (BATCH, dict(X=ones(3)), ValueError, f"{SHAPE_OF_X} (3,)"),
    (BATCH, dict(X=ones(4, 3, 2)), ValueError, f"{SHAPE_OF_X} (4, 3, 2)"),
    (BATCH, dict(X=ones(4, 3, 0, 2)), ValueError, "X: expected at least one value, got shape (4, 3, 0, 2)"),
    (BATCH, dict(X=ones(4, 3).to("meta")), ValueError, "gamma: expected X's device meta, got cpu"),
    (BATCH, dict(gamma=ones(2)), ValueError, "gamma: expected shape (3,) to fit X (4, 3), got (2,)"),
    (BATCH, dict(beta=ones(1)), ValueError, "beta: expected shape (3,) to fit X (4, 3), got (1,)"),
    (BATCH, dict(moving_mean=ones()), ValueError, "moving_mean: expected shape (3,) to fit X (4, 3), got ()"),
    (BATCH, dict(moving_var=ones(1, 3)), ValueError, "moving_var: expected shape (3,) to fit X (4, 3), got (1, 3)"),
    (BATCH, dict(gamma=torch.ones(3)), TypeError, "gamma: expected torch.float64, got torch.float32"),
    (LENET, dict(norm="ours"), TypeError, "norm: expected a function, got 'ours'"),
    (LENET, dict(activation=None), TypeError, "activation: expected a function, got None"),
    # resnet
    (RESIDUAL, dict(in_channels=0), ValueError, "in_channels: expected at least 1, got 0"),
    (RESIDUAL, dict(out_channels=0), ValueError, "out_channels: expected at least 1, got 0"),
    (RESIDUAL, dict(stride=0), ValueError, "stride: expected at least 1, got 0"),
    ("resnet.Bottleneck", dict(out_channels=6), ValueError, "out_channels: expected a multiple of 4, got 6"),
    ("resnet.ResNeXt", dict(out_channels=96), ValueError, "out_channels: expected a multiple of 64, got 96"),
    (RESNET, dict(num_classes=0), ValueError, "num_classes: expected at least 1, got 0"),
    (RESNET, dict(in_channels=0), ValueError, "in_channels: expected at least 1, got 0"),
    (RESNET, dict(stages=()), ValueError, "stages: expected at least one (num_blocks, out_channels), got ()"),
    (RESNET, dict(stages=4), TypeError, "stages: expected a sequence of (num_blocks, out_channels), got 4"),
    (RESNET, dict(stages=[(1, 4), 2]), TypeError, "stages[1]: expected a sequence of two ints, got 2"),
    (RESNET, dict(stages=[(1, 4, 2)]), ValueError, "stages[0]: expected (num_blocks, out_channels), got (1, 4, 2)"),
    (RESNET, dict(stages=[(1, 4), (0, 4)]), ValueError, "stages[1]: expected at least 1, got 0"),
    (RESNET, dict(stages=[(1, 2.0)]), TypeError, "stages[0]: expected an int, got 2.0"),
    (RESNET, dict(block="Residual"), TypeError, "block: expected a function, got 'Residual'"),
    (RESNET, dict(stem_stride=3), ValueError, "stem_stride: expected 1, 2 or 4, got 3"),
    (RESNET, dict(stem_stride=0), ValueError, "stem_stride: expected 1, 2 or 4, got 0"),
    (NUM_LAYERS, dict(depth=20), ValueError, "depth: expected one of 18, 34, 50, 101, 152, got 20"),
    # densenet
    (BLOCK, dict(num_layers=0), ValueError, "num_layers: expected at least 1, got 0"),
    (BLOCK, dict(in_channels=0), ValueError, "in_channels: expected at least 1, got 0"),
    (BLOCK, dict(growth_rate=0), ValueError, "growth_rate: expected at least 1, got 0"),
    (TRANSITION, dict(in_channels=0), ValueError, "in_channels: expected at least 1, got 0"),
    (TRANSITION, dict(out_channels=0), ValueError, "out_channels: expected at least 1, got 0"),
    (DENSENET, dict(growth_rate=0), ValueError, "growth_rate: expected at least 1, got 0"),
    (DENSENET, dict(num_classes=0), ValueError, "num_classes: expected at least 1, got 0"),
    (DENSENET, dict(in_channels=0), ValueError, "in_channels: expected at least 1, got 0"),
    (DENSENET, dict(stem_channels=0), ValueError, "stem_channels: expected at least 1, got 0"),
    (DENSENET, dict(num_layers=[]), ValueError, "num_layers: expected at least one block's number, got ()"),
    (DENSENET, dict(num_layers=3), TypeError, "num_layers: expected a sequence of ints, got 3"),
    (DENSENET, dict(num_layers=[2, 0]), ValueError, "num_layers: expected at least 1, got 0"),
    (DENSENET, dict(num_layers=[2.0]), TypeError, "num_layers: expected an int, got 2.0"),
    (DENSENET, dict(stem_stride=8), ValueError, "stem_stride: expected 1, 2 or 4, got 8"),
    # convexity
    (GAP, dict(f=3), TypeError, "f: expected a function, got 3"),
    (GAP, dict(f=torch.square), ValueError, f"{NO_SCALAR} (3,)"),
    (GAP, dict(f=lambda x: (x > 0).sum()), TypeError, "f: expected torch.float64, got torch.int64"),
    (GAP, dict(f=lambda x: x[0] if x[0] > 0 else x[0].float()), TypeError, "f: expected torch.float64, got torch.flo"),
    (GAP, dict(points=ones()), ValueError, "points: expected shape (k,) or (k, d), got ()"),
    (GAP, dict(points=ones(0)), ValueError, "points: expected shape (k,) or (k, d), got (0,)"),
    (GAP, dict(points=ones(2, 1, 1)), ValueError, "points: expected shape (k,) or (k, d), got (2, 1, 1)"),
    (GAP, dict(weights=ones(3)), ValueError, "weights: expected shape (4,), got (3,)"),
    (GAP, dict(weights=torch.ones(4)), TypeError, "weights: expected torch.float64, got torch.float32"),
    (GAP, dict(weights=[-0.5, 0.5, 0.5, 0.5]), ValueError, f"{WEIGHTS}[-0.5, 0.5, 0.5, 0.5]"),
    (GAP, dict(weights=[math.inf, 0.0, 0.0, 0.0]), ValueError, f"{WEIGHTS}[inf, 0.0, 0.0, 0.0]"),
    (BALL, dict(x=1.0), ValueError, "x: expected shape (…, d) with d of at least 1, got ()"),
    (BALL, dict(x=ones(2, 0)), ValueError, "x: expected shape (…, d) with d of at least 1, got (2, 0)"),
    (BALL, dict(radius=0), ValueError, "radius: expected a number in (0, inf), got 0"),
    (SIMPLEX, dict(x=1.0), ValueError, "x: expected shape (…, d) with d of at least 1, got ()"),
    (SIMPLEX, dict(total=0), ValueError, "total: expected a number in (0, inf), got 0"),
    (BOX, dict(low=1, high=0.5), ValueError, "low: expected at most high everywhere, got low = 1.0, high = 0.5"),
    (BOX, dict(low=[0.0, 0.0, 2.0], high=1), ValueError, "low: expected at most high everywhere, got low = [0.0, 0.0"),
    (BOX, dict(low=[0.0, math.nan, 0.0]), ValueError, "low: expected numbers, got NaN"),
    (BOX, dict(low=torch.zeros(3)), TypeError, "low: expected torch.float64, got torch.float32"),
    (BOX, dict(low=ones(4)), ValueError, "low: expected a shape that broadcasts to (4, 3), got (4,)"),
    (BOX, dict(high=ones(1, 4, 3)), ValueError, "high: expected a shape that broadcasts to (4, 3), got (1, 4, 3)"),
    (BOX, dict(high=ones(0)), ValueError, "high: expected a shape that broadcasts to (4, 3), got (0,)"),
    (SPAN, dict(x=1.0), ValueError, "x: expected shape (…, d) with d of at least 1, got ()"),
    (SPAN, dict(A=ones(2, 2)), ValueError, "A: expected shape (3, r) with r of at least 1, got (2, 2)"),
    (SPAN, dict(A=ones(3, 0)), ValueError, "A: expected shape (3, r) with r of at least 1, got (3, 0)"),
    (SPAN, dict(A=ones(3)), ValueError, "A: expected shape (3, r) with r of at least 1, got (3,)"),
    (SPAN, dict(A=[[1.0], [math.inf], [0.0]]), ValueError, "A: expected finite entries, got NaN or infinity"),
    (SPAN, dict(A=torch.ones(3, 1)), TypeError, "A: expected torch.float64, got torch.float32"),
    (LAGRANGIAN, dict(f=3), TypeError, "f: expected a function, got 3"),
    (LAGRANGIAN, dict(constraints=iter([torch.sum])), TypeError, NO_CONSTRAINTS),
    (LAGRANGIAN, dict(constraints=[3]), TypeError, "constraints: expected a function, got 3"),
    # Values of another shape would broadcast, and what is minimised would no longer be a number.
    (LAGRANGIAN, dict(constraints=[torch.square]), ValueError, NO_SCALAR.replace("f", "constraints", 1)),
    (LAGRANGIAN, dict(f=torch.square), ValueError, "constraints: expected a function that returns a tensor of shape"),
    (LAGRANGIAN, dict(alpha=ones()), ValueError, "alpha: expected shape (1,), got ()"),
    (LAGRANGIAN, dict(alpha=torch.ones(1)), TypeError, "alpha: expected torch.float64, got torch.float32"),
    (PENALISED, dict(f=3), TypeError, "f: expected a function, got 3"),
    (PENALISED, dict(constraints=torch.sum), TypeError, NO_CONSTRAINTS),
    (PENALISED, dict(weight=-1e-300), ValueError, "weight: expected a number in [0, inf), got -1e-300"),
    # objectives
    (OBJECTIVE, dict(x=1.0), ValueError, "x: expected shape (2, …), got ()"),
    (OBJECTIVE, dict(x=ones(1, 2)), ValueError, "x: expected shape (2, …), got (1, 2)"),
    (OBJECTIVE, dict(x=ones(3)), ValueError, "x: expected shape (2, …), got (3,)"),
    (QUADRATIC, dict(eigenvalues=ones(1, 2)), TypeError, f"{NO_SEQUENCE}tensor([[1., 1.]]"),
    (QUADRATIC, dict(eigenvalues=[1, "2"]), TypeError, "eigenvalues: expected a number, got '2'"),
    (QUADRATIC, dict(eigenvalues=[1, math.inf]), ValueError, "eigenvalues: expected a finite number, got inf"),
    (QUADRATIC, dict(eigenvalues=[3]), ValueError, "eigenvalues: expected at least two, got (3,)"),
    (SOFTMAX, dict(num_images=0), ValueError, "num_images: expected at least 1, got 0"),
    (SOFTMAX, dict(num_images=10_001), ValueError, "num_images: expected at most 10000, got 10001"),
    (SOFTMAX, dict(size=0), ValueError, "size: expected a divisor of 28, got 0"),
    (SOFTMAX, dict(size=-7), ValueError, "size: expected a divisor of 28, got -7"),
    (SOFTMAX, dict(size=3), ValueError, "size: expected a divisor of 28, got 3"),
    (SOFTMAX, dict(weight_decay=-0.1), ValueError, "weight_decay: expected a number in [0, inf), got -0.1"),
    (CURVATURE, dict(f=3), TypeError, "f: expected a function, got 3"),
    (CURVATURE, dict(f=lambda x: x.reshape(1), x=1.0), ValueError, f"{NO_SCALAR} (1,)"),
    (CURVATURE, dict(x=ones(0)), ValueError, "x: expected shape () or (d,), got (0,)"),
    (CURVATURE, dict(x=ones(2, 1)), ValueError, "x: expected shape () or (d,), got (2, 1)"),
    (CURVATURE, dict(x=math.nan), ValueError, "x: expected a point where f has a finite second derivative, got nan"),
    # gradient_descent
    (DESCENT, dict(f=None, steps=0), TypeError, "f: expected a function, got None"),
    (DESCENT, dict(f=lambda x: 3.0), TypeError, f"{NO_TENSOR} 3.0"),
    (DESCENT, dict(f=lambda x: x.sum() * 1j), TypeError, f"{NO_TENSOR} tensor("),
    (DESCENT, dict(f=lambda x: x**2), ValueError, f"{NO_SCALAR} (3,)"),
    (DESCENT, dict(f=lambda x: x.sum().detach()), ValueError, f"{NO_GRADIENT} 4.0 without a gradient"),
    (DESCENT, dict(f=lambda x: torch.ones((), requires_grad=True) ** 2), ValueError, f"{NO_GRADIENT} 1.0 without"),
    # What f returns is asked at each point.
    (DESCENT, dict(f=lambda x: x.sum() if x.sum() > 3.9 else x), ValueError, f"{NO_SCALAR} (3,)"),
    (DESCENT, dict(x0=ones(1, 2)), ValueError, "x0: expected shape () or (d,), got (1, 2)"),
    (DESCENT, dict(lr=0, steps=0), ValueError, f"{RATE} 0"),
    (DESCENT, dict(lr=lambda step: [0.1, 0.1, 0][step]), ValueError, f"{RATE} 0"),
    (DESCENT, dict(steps=-1), ValueError, "steps: expected at least 0, got -1"),
    (DESCENT, dict(momentum=1), ValueError, "momentum: expected a number in [0, 1), got 1"),
    (DESCENT, dict(momentum=-0.1), ValueError, "momentum: expected a number in [0, 1), got -0.1"),
    (DESCENT, dict(preconditioner=2.0), ValueError, "preconditioner: expected shape (3,) or (3, 3), got ()"),
    (DESCENT, dict(preconditioner=ones(3, 1)), ValueError, "preconditioner: expected shape (3,) or (3, 3), got (3, 1)"),
    (DESCENT, dict(preconditioner=ones(1, 2, 2)), ValueError, "preconditioner: expected shape () or (d,) or (d, d)"),
    (BACKTRACK, dict(momentum=0.1), ValueError, "momentum: expected 0 with backtrack, got 0.1"),
    (NEWTON, dict(backtrack=0), TypeError, "backtrack: expected a bool, got 0"),
    (NEWTON, dict(hessian="Full"), ValueError, "hessian: expected one of full, absolute, diagonal, got 'Full'"),
    # Also where the run has diverged before.
    (NEWTON, dict(f=lambda x: x.log(), x0=-1.0, lr=lambda k: [1, 1, 0][k]), ValueError, f"{RATE} 0"),
    (SEARCH, dict(f=3.0), TypeError, "f: expected a function, got 3.0"),
    (SEARCH, dict(f=lambda x: x**2), ValueError, f"{NO_SCALAR} (3,)"),
    (SEARCH, dict(lr=0), ValueError, f"{RATE} 0"),
    (SEARCH, dict(direction=1.0), ValueError, "direction: expected x's shape (3,), got ()"),
    # sgd
    (SGD, dict(f=3.0, steps=0), TypeError, "f: expected a function, got 3.0"),
    (SGD, dict(f=lambda x, i: x**2), ValueError, f"{NO_SCALAR} (3,)"),
    (SGD, dict(x0=[[1, 2]]), ValueError, "x0: expected shape () or (d,), got (1, 2)"),
    (SGD, dict(lr=lambda step: 0.5 - step / 4), ValueError, f"{RATE} 0.0"),
    (SGD, dict(momentum=1), ValueError, "momentum: expected a number in [0, 1), got 1"),
    (SGD, dict(momentum=-0.1), ValueError, "momentum: expected a number in [0, 1), got -0.1"),
    (SGD, dict(weight_decay=-0.1), ValueError, "weight_decay: expected a number in [0, inf), got -0.1"),
    (NOISE, dict(f=None), TypeError, "f: expected a function, got None"),
    (NOISE, dict(f=lambda x, i: x.sum() if 2 not in i else i.sum()), ValueError, f"{NO_GRADIENT} 2 without a gradient"),
    (NOISE, dict(x=[[1, 2]]), ValueError, "x: expected shape () or (d,), got (1, 2)"),
    (NOISE, dict(num_examples=0), ValueError, "num_examples: expected at least 1, got 0"),
    (BATCHES, dict(num_examples=0), ValueError, "num_examples: expected at least 1, got 0"),
    (BATCHES, dict(batch_size=0), ValueError, "batch_size: expected at least 1, got 0"),
    (BATCHES, dict(batch_size=6), ValueError, "batch_size: expected at most 5, got 6"),
    (BATCHES, dict(replacement=1), TypeError, "replacement: expected a bool, got 1"),
    (BATCHES, dict(seed=2**64), ValueError, f"seed: expected at most {2**64 - 1}, got {2**64}"),
    (BATCHES, dict(seed=-(2**63) - 1), ValueError, f"seed: expected at least {-(2**63)}, got {-(2**63) - 1}"),
    # learning_rate
    (CONSTANT, dict(lr=0), ValueError, f"{RATE} 0"),
    (PIECEWISE, dict(lr=0), ValueError, f"{RATE} 0"),
    (EXPONENTIAL, dict(lr=0), ValueError, f"{RATE} 0"),
    (POLYNOMIAL, dict(lr=0), ValueError, f"{RATE} 0"),
    (COSINE, dict(lr=0), ValueError, f"{RATE} 0"),
    (EXPONENTIAL, dict(decay=-1e-9), ValueError, "decay: expected a number in [0, inf), got -1e-09"),
    (POLYNOMIAL, dict(alpha=-1e-9), ValueError, "alpha: expected a number in [0, inf), got -1e-09"),
    (POLYNOMIAL, dict(beta=-1e-9), ValueError, "beta: expected a number in [0, inf), got -1e-09"),
    (PIECEWISE, dict(factor=0), ValueError, "factor: expected a number in (0, 1], got 0"),
    (PIECEWISE, dict(factor=1.5), ValueError, "factor: expected a number in (0, 1], got 1.5"),
    (PIECEWISE, dict(boundaries=[]), ValueError, "boundaries: expected at least one step, got none"),
    (PIECEWISE, dict(boundaries=[0, 1]), ValueError, "boundaries: expected at least 1, got 0"),
    (PIECEWISE, dict(boundaries=[2, 2]), ValueError, f"{STEPS} [2, 2]"),
    (PIECEWISE, dict(boundaries=(1, 5, 3)), ValueError, f"{STEPS} [1, 5, 3]"),
    (PIECEWISE, dict(boundaries=[1, 2.0]), TypeError, "boundaries: expected an int, got 2.0"),
    (PIECEWISE, dict(boundaries=5), TypeError, "boundaries: expected a sequence of ints, got 5"),
    (COSINE, dict(steps=0), ValueError, "steps: expected at least 1, got 0"),
    (WARMUP, dict(steps=-1), ValueError, "steps: expected at least 0, got -1"),
    (WARMUP, dict(schedule=0.1), TypeError, "schedule: expected a function, got 0.1"),
    (WARMUP, dict(schedule=lambda step: 0), ValueError, f"{RATE} 0"),
    # minibatch
    (RUN, dict(worker="f"), TypeError, "worker: expected a function with a name, got 'f'"),
    (RUN, dict(worker=lambda: 1), TypeError, "worker: expected a function with a name, got <function"),
    (RUN, dict(worker=torch.relu), TypeError, "worker: expected a function whose source can be read"),
    (RUN, dict(args=(1,)), TypeError, "args: expected strings, got 1"),
    (RUN, dict(num_processes=2.0), TypeError, "num_processes: expected an int, got 2.0"),
    (RUN, dict(num_processes=0), ValueError, "num_processes: expected at least 1, got 0"),
    (AVERAGE, dict(net=3), TypeError, MODULE),
    # training
    (TRAIN, dict(lr=lambda step: -1.0), ValueError, f"{RATE} -1.0"),
    (TRAIN, dict(momentum=-0.1), ValueError, "momentum: expected a number in [0, 1), got -0.1"),
    (TRAIN, dict(momentum=1.0), ValueError, "momentum: expected a number in [0, 1), got 1.0"),
    (TRAIN, dict(weight_decay=-1), ValueError, "weight_decay: expected a number in [0, inf), got -1"),
    (TRAIN, dict(num_epochs=0), ValueError, "num_epochs: expected at least 1, got 0"),
    (TRAIN, dict(batch_size=0), ValueError, "batch_size: expected at least 1, got 0"),
    (TRAIN, dict(batch_size=5), ValueError, "batch_size: expected at most 4, got 5"),
    (TRAIN, dict(seed=-1), ValueError, "seed: expected at least 0, got -1"),
    (TRAIN, dict(seed=2**63), ValueError, f"seed: expected at most {2**63 - 1}, got {2**63}"),
    (TRAIN, dict(history=[]), TypeError, "history: expected a History, got []"),
    (TRAIN, dict(on_epoch=3), TypeError, "on_epoch: expected a function, got 3"),
    (TRAIN, dict(checkpoint=3), TypeError, "checkpoint: expected a path, got 3"),
    (TRAIN, dict(net=3), TypeError, MODULE),
    (TRAIN, dict(net=nn.Flatten()), ValueError, "net: expected parameters to train, got none"),
    (TRAIN, dict(net=NET_OF_MATRICES), ValueError, "net: expected scores of shape (m, num_classes), got"),
    (TRAIN, dict(train_set=DIFFERENTIATED), TypeError, "train_set.tensors[0]: expected plain numbers, which"),
    (TRAIN, dict(test_set=TensorDataset(inputs.half(), labels)), TypeError, "test_set: expected images in the net's"),
    (EVALUATE, dict(net=3), TypeError, MODULE),
    (EVALUATE, dict(net=NET_OF_MATRICES), ValueError, "net: expected scores of shape (m, num_classes), got"),
    (EVALUATE, dict(dataset=[1, 2]), TypeError, "dataset: expected a TensorDataset, got list"),
    ("training.num_parameters", dict(net=3), TypeError, MODULE),
    ("training.eval_mode", dict(net=3), TypeError, MODULE),
    (DTYPE, dict(dtype=torch.int32), TypeError, "dtype: expected a floating-point dtype, got torch.int32"),
    (DTYPE, dict(dtype="float32"), TypeError, "dtype: expected a floating-point dtype, got 'float32'"),
    # data
    (MNIST, dict(split="val"), ValueError, 'split: expected "train" or "test", got \'val\''),
    (MNIST, dict(split=["train"]), ValueError, 'split: expected "train" or "test", got [\'train\']'),
    (MNIST, dict(full=True, root=3), TypeError, "root: expected a path, got 3"),
    (MNIST, dict(root="elsewhere"), ValueError, "root: expected None unless full=True, "),
]


@pytest.mark.parametrize(
    ("name", "changed", "error", "message"),
    REFUSALS,
    ids=lambda part: part if isinstance(part, str) else "",  # what str says of a function is new in each process
)
def test_says_what_was_expected_and_what_came(
    name: str, changed: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        call(name, **changed)


@pytest.mark.parametrize(
    ("tensors", "error", "message"),
    [
        ((inputs,), ValueError, ": expected images and labels, got shapes [(4, 3)]"),
        ((inputs, labels, labels), ValueError, ": expected images and labels, got shapes [(4, 3), (4,),"),
        ((inputs[:0], labels[:0]), ValueError, ": expected images and labels, got shapes [(0, 3), (0,)]"),
        ((inputs.half(), labels), TypeError, ": expected images in the net's dtype, torch.float32, got"),
        ((inputs, labels.float()), TypeError, ": expected integers as labels, got torch.float32"),
        ((inputs, labels + 0j), TypeError, ": expected integers as labels, got torch.complex64"),
        ((inputs, labels > 0), TypeError, ": expected integers as labels, got torch.bool"),
        ((inputs, labels[:, None]), ValueError, ": expected a label an image, shape (4,), got (4, 1)"),
        ((inputs, labels * 0 - 100), ValueError, ": expected labels from 0, got -100"),  # ignored by PyTorch
        ((inputs, labels + 1), ValueError, ": expected labels below 2, the net's scores, got 2"),
    ],
)
def test_a_set_has_inputs_and_labels_that_fit(
    tensors: tuple[Tensor, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{re.escape(f'train_set{message}')}"):
        call(TRAIN, train_set=TensorDataset(*tensors))
    with pytest.raises(error, match=f"^{re.escape(f'dataset{message}')}"):
        call(EVALUATE, dataset=TensorDataset(*tensors))
