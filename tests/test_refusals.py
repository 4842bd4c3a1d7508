"""Bad input gets an error that names the argument, what came and what was expected.

A row is a call of tests/calls.py, the arguments to change in it, and what the error says. What is wrong everywhere (a
string for a number, NaN, a number where a bool is meant) test_doors tries on all of them; here is what each function
asks besides.
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


REFUSALS: dict[str, list[tuple[str, dict[str, object], type[Exception], str]]] = {}

# --- batch_norm ---
REFUSALS["batch_norm"] = [
    ("batch_norm.BatchNorm", dict(num_features=0), ValueError, "num_features: expected at least 1, got 0"),
    (
        "batch_norm.BatchNorm",
        dict(num_dims=3),
        ValueError,
        "num_dims: expected 2 for (m, d) or 4 for (m, c, h, w), got 3",
    ),
    ("batch_norm.lenet", dict(norm="ours"), TypeError, "norm: expected a function, got 'ours'"),
    ("batch_norm.lenet", dict(activation=None), TypeError, "activation: expected a function, got None"),
]
for name in ("batch_norm.batch_norm", "batch_norm.batch_norm, predicting", "batch_norm.BatchNorm"):
    REFUSALS["batch_norm"] += [
        (name, dict(eps=0.0), ValueError, "eps: expected a number in (0, inf), got 0.0"),
        (name, dict(momentum=-0.1), ValueError, "momentum: expected a number in [0, 1], got -0.1"),
        (name, dict(momentum=1.1), ValueError, "momentum: expected a number in [0, 1], got 1.1"),
    ]
for name in ("batch_norm.batch_norm", "batch_norm.batch_norm, predicting"):
    elsewhere = torch.ones(4, 3, dtype=torch.float64, device="meta")
    REFUSALS["batch_norm"] += [
        (name, dict(X=torch.ones(3)), ValueError, "X: expected shape (m, d) or (m, c, h, w), got (3,)"),
        (name, dict(X=torch.ones(4, 3, 2)), ValueError, "X: expected shape (m, d) or (m, c, h, w), got (4, 3, 2)"),
        (name, dict(X=torch.ones(4, 3, 0, 2)), ValueError, "X: expected at least one value, got shape (4, 3, 0, 2)"),
        (name, dict(X=elsewhere), ValueError, "gamma: expected X's device meta, got cpu"),
    ]
    for key in ("gamma", "beta", "moving_mean", "moving_var"):
        message = f"{key}: expected shape (3,) to fit X (4, 3), got "
        REFUSALS["batch_norm"] += [
            (name, {key: torch.ones(shape)}, ValueError, f"{message}{shape}") for shape in [(2,), (1,), (), (1, 3)]
        ]
        message = f"{key}: expected X's dtype torch.float64, got torch.float32"
        REFUSALS["batch_norm"].append((name, {key: torch.ones(3)}, TypeError, message))

# --- resnet ---
REFUSALS["resnet"] = [
    ("resnet.Bottleneck", dict(out_channels=6), ValueError, "out_channels: expected a multiple of 4, got 6"),
    ("resnet.ResNeXt", dict(out_channels=96), ValueError, "out_channels: expected a multiple of 64, got 96"),
    ("resnet.ResNet", dict(stages=()), ValueError, "stages: expected at least one (num_blocks, out_channels), got ()"),
    ("resnet.ResNet", dict(stages=4), TypeError, "stages: expected a sequence of (num_blocks, out_channels), got 4"),
    ("resnet.ResNet", dict(stages=[(1, 4), 2]), TypeError, "stages[1]: expected a sequence of two ints, got 2"),
    (
        "resnet.ResNet",
        dict(stages=[(1, 4, 2)]),
        ValueError,
        "stages[0]: expected (num_blocks, out_channels), got (1, 4, 2)",
    ),
    ("resnet.ResNet", dict(stages=[(1, 4), (0, 4)]), ValueError, "stages[1]: expected at least 1, got 0"),
    ("resnet.ResNet", dict(stages=[(1, 0)]), ValueError, "stages[0]: expected at least 1, got 0"),
    ("resnet.ResNet", dict(stages=[(1, 2.0)]), TypeError, "stages[0]: expected an int, got 2.0"),
    ("resnet.ResNet", dict(block="Residual"), TypeError, "block: expected a function, got 'Residual'"),
    ("resnet.ResNet", dict(stem_stride=3), ValueError, "stem_stride: expected 1, 2 or 4, got 3"),
    ("resnet.ResNet", dict(stem_stride=0), ValueError, "stem_stride: expected 1, 2 or 4, got 0"),
    ("resnet.resnet", dict(depth=20), ValueError, "depth: expected one of 18, 34, 50, 101, 152, got 20"),
]
for name, sizes in [
    ("resnet.Residual", ("in_channels", "out_channels", "stride")),
    ("resnet.ResNet", ("num_classes", "in_channels")),
    ("densenet.DenseBlock", ("num_layers", "in_channels", "growth_rate")),
    ("densenet.Transition", ("in_channels", "out_channels")),
    ("densenet.DenseNet", ("growth_rate", "num_classes", "in_channels", "stem_channels")),
]:
    REFUSALS["resnet"] += [(name, {size: 0}, ValueError, f"{size}: expected at least 1, got 0") for size in sizes]

# --- densenet ---
REFUSALS["densenet"] = [
    ("densenet.DenseNet", dict(num_layers=[]), ValueError, "num_layers: expected at least one block's number, got ()"),
    ("densenet.DenseNet", dict(num_layers=3), TypeError, "num_layers: expected a sequence of ints, got 3"),
    ("densenet.DenseNet", dict(num_layers=[2, 0]), ValueError, "num_layers: expected at least 1, got 0"),
    ("densenet.DenseNet", dict(num_layers=[2.0]), TypeError, "num_layers: expected an int, got 2.0"),
    ("densenet.DenseNet", dict(stem_stride=8), ValueError, "stem_stride: expected 1, 2 or 4, got 8"),
]

# --- convexity ---
GAP, BALL, BOX = "convexity.jensen_gap", "convexity.project_ball", "convexity.project_box"
SIMPLEX, SPAN = "convexity.project_simplex", "convexity.project_subspace"
VECTORS = "expected shape (…, d) with d of at least 1, got"
WEIGHTS = "weights: expected none below 0 and a sum of 1, got "
CONSTRAINED = [
    (dict(f=3), TypeError, "f: expected a function, got 3"),
    (dict(f=lambda x: 2.0), TypeError, "f: expected a function that returns a tensor, got 2.0"),
    (dict(constraints=torch.sum), TypeError, "constraints: expected a sequence of functions, got "),
    (dict(constraints=iter([torch.sum])), TypeError, "constraints: expected a sequence of functions, got "),
    (dict(constraints=[torch.sum, 3]), TypeError, "constraints: expected a function, got 3"),
    (dict(constraints=[lambda x: 2]), TypeError, "constraints: expected a function that returns a tensor, got 2"),
    # Values of another shape would broadcast, and what is minimised would no longer be a number.
    (
        dict(constraints=[torch.square]),
        ValueError,
        "constraints: expected a function that returns a scalar tensor, got shape (3,)",
    ),
    (
        dict(f=torch.square),
        ValueError,
        "constraints: expected a function that returns a tensor of shape (3,), got shape ()",
    ),
]
BOUND = [
    (math.nan, ValueError, "numbers, got NaN"),
    ([0.0, math.nan, 0.0], ValueError, "numbers, got NaN"),
    (torch.ones(3), TypeError, "torch.float64, got torch.float32"),
    (ones(4), ValueError, "a shape that broadcasts to (4, 3), got (4,)"),
    (ones(3, 3), ValueError, "a shape that broadcasts to (4, 3), got (3, 3)"),
    (ones(1, 4, 3), ValueError, "a shape that broadcasts to (4, 3), got (1, 4, 3)"),
    (ones(0), ValueError, "a shape that broadcasts to (4, 3), got (0,)"),
]
REFUSALS["convexity"] = [
    (GAP, dict(f=3), TypeError, "f: expected a function, got 3"),
    (GAP, dict(f=lambda x: 1.0), TypeError, "f: expected a function that returns a tensor, got 1.0"),
    (GAP, dict(f=torch.square), ValueError, "f: expected a function that returns a scalar tensor, got shape (3,)"),
    (GAP, dict(f=lambda x: (x > 0).sum()), TypeError, "f: expected torch.float64, got torch.int64"),
    (GAP, dict(f=lambda x: x[0] if x[0] > 0 else x[0].float()), TypeError, "f: expected torch.float64, got torch.flo"),
    (GAP, dict(points=ones()), ValueError, "points: expected shape (k,) or (k, d), got ()"),
    (GAP, dict(points=ones(0)), ValueError, "points: expected shape (k,) or (k, d), got (0,)"),
    (GAP, dict(points=ones(2, 0)), ValueError, "points: expected shape (k,) or (k, d), got (2, 0)"),
    (GAP, dict(points=ones(2, 1, 1)), ValueError, "points: expected shape (k,) or (k, d), got (2, 1, 1)"),
    (GAP, dict(weights=ones(3)), ValueError, "weights: expected shape (4,), got (3,)"),
    (GAP, dict(weights=ones(4, 1)), ValueError, "weights: expected shape (4,), got (4, 1)"),
    (GAP, dict(weights=torch.ones(4)), TypeError, "weights: expected torch.float64, got torch.float32"),
    (GAP, dict(weights=[-0.5, 0.5, 0.5, 0.5]), ValueError, f"{WEIGHTS}[-0.5, 0.5, 0.5, 0.5]"),
    (GAP, dict(weights=[0.25, 0.25, 0.25, 0.5]), ValueError, f"{WEIGHTS}[0.25, 0.25, 0.25, 0.5]"),
    (GAP, dict(weights=[0.25, 0.25, 0.25, 0.0]), ValueError, f"{WEIGHTS}[0.25, 0.25, 0.25, 0.0]"),
    (GAP, dict(weights=[math.inf, 0.0, 0.0, 0.0]), ValueError, f"{WEIGHTS}[inf, 0.0, 0.0, 0.0]"),
    *((name, dict(x=ones()), ValueError, f"x: {VECTORS} ()") for name in (BALL, SIMPLEX, SPAN)),
    *((name, dict(x=ones(2, 0)), ValueError, f"x: {VECTORS} (2, 0)") for name in (BALL, SIMPLEX, SPAN)),
    (BALL, dict(radius=0), ValueError, "radius: expected a number in (0, inf), got 0"),
    (SIMPLEX, dict(total=0), ValueError, "total: expected a number in (0, inf), got 0"),
    (BOX, dict(low=1, high=0.5), ValueError, "low: expected at most high everywhere, got low = 1.0, high = 0.5"),
    (BOX, dict(low=[0.0, 0.0, 2.0], high=1), ValueError, "low: expected at most high everywhere, got low = [0.0, 0.0"),
    *((BOX, {bound: v}, error, f"{bound}: expected {text}") for bound in ("low", "high") for v, error, text in BOUND),
    (SPAN, dict(A=ones(3)), ValueError, "A: expected shape (3, r) with r of at least 1, got (3,)"),
    (SPAN, dict(A=ones(2, 2)), ValueError, "A: expected shape (3, r) with r of at least 1, got (2, 2)"),
    (SPAN, dict(A=ones(3, 0)), ValueError, "A: expected shape (3, r) with r of at least 1, got (3, 0)"),
    (SPAN, dict(A=ones(3, 2, 1)), ValueError, "A: expected shape (3, r) with r of at least 1, got (3, 2, 1)"),
    (SPAN, dict(A=[[1.0], [math.inf], [0.0]]), ValueError, "A: expected finite entries, got NaN or infinity"),
    (SPAN, dict(A=[[1.0], [math.nan], [0.0]]), ValueError, "A: expected finite entries, got NaN or infinity"),
    (SPAN, dict(A=torch.ones(3, 1)), TypeError, "A: expected torch.float64, got torch.float32"),
    *(("convexity.lagrangian", *row) for row in CONSTRAINED),
    *(("convexity.penalised", *row) for row in CONSTRAINED),
    ("convexity.lagrangian", dict(alpha=ones()), ValueError, "alpha: expected shape (1,), got ()"),
    ("convexity.lagrangian", dict(alpha=ones(2)), ValueError, "alpha: expected shape (1,), got (2,)"),
    ("convexity.lagrangian", dict(alpha=torch.ones(1)), TypeError, "alpha: expected torch.float64, got torch.float32"),
    ("convexity.penalised", dict(weight=-1e-300), ValueError, "weight: expected a number in [0, inf), got -1e-300"),
]

# --- objectives ---
CURVATURE, SOFTMAX = "objectives.curvature", "objectives.softmax_regression"
SEQUENCE = "eigenvalues: expected a sequence of numbers, got "
SCALAR = "f: expected a function that returns a scalar tensor, got shape"
POINT = "x: expected a point where f has a finite second derivative, got "
REFUSALS["objectives"] = [
    *(
        ("objectives.Objective", dict(x=torch.ones(shape)), ValueError, f"x: expected shape (2, …), got {shape}")
        for shape in [(), (0,), (1,), (3,), (1, 2), (5, 2)]
    ),
    ("objectives.quadratic", dict(eigenvalues=3.0), TypeError, f"{SEQUENCE}3.0"),
    ("objectives.quadratic", dict(eigenvalues={1.0}), TypeError, f"{SEQUENCE}{{1.0}}"),
    ("objectives.quadratic", dict(eigenvalues=ones(1, 2)), TypeError, f"{SEQUENCE}tensor([[1., 1.]]"),
    ("objectives.quadratic", dict(eigenvalues=[1, "2"]), TypeError, "eigenvalues: expected a number, got '2'"),
    ("objectives.quadratic", dict(eigenvalues=[1, math.inf]), ValueError, "eigenvalues: expected a finite number"),
    ("objectives.quadratic", dict(eigenvalues=[]), ValueError, "eigenvalues: expected at least two, got ()"),
    ("objectives.quadratic", dict(eigenvalues=[3]), ValueError, "eigenvalues: expected at least two, got (3,)"),
    (SOFTMAX, dict(num_images=0), ValueError, "num_images: expected at least 1, got 0"),
    (SOFTMAX, dict(num_images=10_001), ValueError, "num_images: expected at most 10000, got 10001"),
    *((SOFTMAX, dict(size=n), ValueError, f"size: expected a divisor of 28, got {n}") for n in (0, -7, 3, 56)),
    (SOFTMAX, dict(weight_decay=-0.1), ValueError, "weight_decay: expected a number in [0, inf), got -0.1"),
    (CURVATURE, dict(f=3), TypeError, "f: expected a function, got 3"),
    (CURVATURE, dict(f=lambda x: 1.0), TypeError, "f: expected a function that returns a tensor, got 1.0"),
    (CURVATURE, dict(f=torch.square), ValueError, f"{SCALAR} (3,)"),
    (CURVATURE, dict(f=lambda x: x.reshape(1), x=1.0), ValueError, f"{SCALAR} (1,)"),
    (CURVATURE, dict(x=ones(0)), ValueError, "x: expected shape () or (d,), got (0,)"),
    (CURVATURE, dict(x=ones(2, 1)), ValueError, "x: expected shape () or (d,), got (2, 1)"),
    (CURVATURE, dict(x=math.nan), ValueError, f"{POINT}nan"),
    (CURVATURE, dict(x=[1.0, math.inf]), ValueError, f"{POINT}[1.0, inf]"),
    (CURVATURE, dict(f=lambda x: x.sqrt().sum(), x=[0.0, 1.0]), ValueError, f"{POINT}[0.0, 1.0]"),
]

# --- gradient_descent ---
DESCENT, SEARCH = "gradient_descent.gradient_descent", "gradient_descent.backtracking"
WALKS = [DESCENT, f"{DESCENT}, backtracking", "gradient_descent.newton"]
NO_GRADIENT = "f: expected a function that torch can differentiate, got"
RATE, P = "lr: expected a number in (0, inf), got", "preconditioner: expected"
RETURNS = [
    (lambda x: 3.0, TypeError, "f: expected a function that returns a tensor, got 3.0"),
    (lambda x: None, TypeError, "f: expected a function that returns a tensor, got None"),
    (lambda x: x.sum() * 1j, TypeError, "f: expected a function that returns a real tensor, got torch.complex128"),
    (lambda x: x**2, ValueError, f"{SCALAR} (3,)"),
    (lambda x: torch.outer(x, x), ValueError, f"{SCALAR} (3, 3)"),
    (lambda x: x.sum().detach(), ValueError, f"{NO_GRADIENT} 4.0, which has no gradient"),
    (lambda x: torch.tensor(2), ValueError, f"{NO_GRADIENT} 2, which has no gradient"),
    (lambda x: torch.ones((), requires_grad=True) ** 2, ValueError, f"{NO_GRADIENT} 1.0, which has no gradient"),
]
REFUSALS["gradient_descent"] = [
    *((name, dict(f=f), error, message) for name in [*WALKS, SEARCH] for f, error, message in RETURNS),
    *((name, dict(f=None, steps=0), TypeError, "f: expected a function, got None") for name in WALKS),
    *((name, dict(x0=ones(1, 2)), ValueError, "x0: expected shape () or (d,), got (1, 2)") for name in WALKS),
    *((name, dict(x0=[1, math.nan]), ValueError, "x0: expected finite numbers, got [1.0, nan]") for name in WALKS),
    *((name, dict(lr=0, steps=0), ValueError, f"{RATE} 0") for name in WALKS),
    *((name, dict(lr=lambda step: -0.1, steps=0), ValueError, f"{RATE} -0.1") for name in WALKS),
    *((name, dict(lr=lambda step: [0.1, 0.1, 0][step]), ValueError, f"{RATE} 0") for name in WALKS),
    # Also where the run has diverged before.
    (WALKS[2], dict(f=lambda x: x.sum().log(), x0=[-1.0], lr=lambda k: [1, 1, 0][k]), ValueError, f"{RATE} 0"),
    # What f returns is asked at each point.
    *((name, dict(f=lambda x: x.sum() if x.sum() > 3.9 else x), ValueError, f"{SCALAR} (3,)") for name in WALKS[:2]),
    *((name, dict(steps=-1), ValueError, "steps: expected at least 0, got -1") for name in WALKS),
    (DESCENT, dict(momentum=1), ValueError, "momentum: expected a number in [0, 1), got 1"),
    (DESCENT, dict(momentum=-0.1), ValueError, "momentum: expected a number in [0, 1), got -0.1"),
    (WALKS[1], dict(momentum=0.1), ValueError, "momentum: expected 0 with backtrack, got 0.1"),
    (WALKS[1], dict(backtrack=None), TypeError, "backtrack: expected a bool, got None"),
    (WALKS[2], dict(backtrack=0), TypeError, "backtrack: expected a bool, got 0"),
    (DESCENT, dict(preconditioner=2.0), ValueError, f"{P} x0's shape (3,), or a matrix to match, got ()"),
    (DESCENT, dict(preconditioner=ones(2)), ValueError, f"{P} x0's shape (3,), or a matrix to match, got (2,)"),
    (DESCENT, dict(preconditioner=ones(3, 1)), ValueError, f"{P} x0's shape (3,), or a matrix to match, got (3, 1)"),
    (DESCENT, dict(x0=1, preconditioner=ones(1)), ValueError, f"{P} x0's shape (), or a matrix to match, got (1,)"),
    (DESCENT, dict(preconditioner=ones(1, 2, 2)), ValueError, f"{P} shape () or (d,) or (d, d), got (1, 2, 2)"),
    (DESCENT, dict(preconditioner=[1, math.nan, 1]), ValueError, f"{P} finite numbers, got [1.0, nan, 1.0]"),
    *(
        (WALKS[2], dict(hessian=word), ValueError, f"hessian: expected one of full, absolute, diagonal, got {word!r}")
        for word in ("Full", "", None, 1)
    ),
    (SEARCH, dict(f=3.0), TypeError, "f: expected a function, got 3.0"),
    (SEARCH, dict(x=ones(1, 2)), ValueError, "x: expected shape () or (d,), got (1, 2)"),
    (SEARCH, dict(x=math.inf), ValueError, "x: expected finite numbers, got inf"),
    (SEARCH, dict(lr=0), ValueError, f"{RATE} 0"),
    (SEARCH, dict(direction=[1.0, 2.0]), ValueError, "direction: expected x's shape (3,), got (2,)"),
    (SEARCH, dict(direction=1.0), ValueError, "direction: expected x's shape (3,), got ()"),
    (SEARCH, dict(direction=[math.inf, 0, 0]), ValueError, "direction: expected finite numbers, got [inf, 0.0, 0.0]"),
]

# --- sgd ---
REFUSALS["sgd"] = [
    *(("sgd.sgd", dict(f=f, steps=0), TypeError, "f: expected a function, got ") for f in (None, 3.0)),
    ("sgd.noise_covariance", dict(f=None), TypeError, "f: expected a function, got None"),
    *(
        (name, dict(f=f), error, f"f: expected a function that {message}")
        for name in ("sgd.sgd", "sgd.noise_covariance")
        for f, error, message in (
            (lambda x, i: 3.0, TypeError, "returns a tensor, got 3.0"),
            (lambda x, i: 1j * x.sum(), TypeError, "returns a real tensor, got torch.complex128"),
            (lambda x, i: x**2, ValueError, "returns a scalar tensor, got shape (3,)"),
            (lambda x, i: x.sum().detach(), ValueError, "torch can differentiate, got 4.0, which has no gradient"),
            # For one example only:
            (lambda x, i: x.sum() * 0 if 2 not in i else i.sum(), ValueError, "torch can differentiate, got "),
        )
    ),
    ("sgd.sgd", dict(x0=[[1, 2]]), ValueError, "x0: expected shape () or (d,), got (1, 2)"),
    ("sgd.sgd", dict(x0=[]), ValueError, "x0: expected at least one number, got []"),
    ("sgd.sgd", dict(x0=[math.nan]), ValueError, "x0: expected finite numbers, got [nan]"),
    ("sgd.noise_covariance", dict(x=[[1, 2]]), ValueError, "x: expected shape () or (d,), got (1, 2)"),
    ("sgd.sgd", dict(lr=0, steps=0), ValueError, "lr: expected a number in (0, inf), got 0"),
    ("sgd.sgd", dict(lr=lambda step: 0.5 - step / 4), ValueError, "lr: expected a number in (0, inf), got 0.0"),
    ("sgd.sgd", dict(steps=-1), ValueError, "steps: expected at least 0, got -1"),
    ("sgd.sgd", dict(momentum=1), ValueError, "momentum: expected a number in [0, 1), got 1"),
    ("sgd.sgd", dict(momentum=-0.1), ValueError, "momentum: expected a number in [0, 1), got -0.1"),
    ("sgd.sgd", dict(weight_decay=-0.1), ValueError, "weight_decay: expected a number in [0, inf), got -0.1"),
    ("sgd.noise_covariance", dict(num_examples=0), ValueError, "num_examples: expected at least 1, got 0"),
    *(
        row
        for name in ("sgd.sgd", "sgd.batches")
        for row in (
            (name, dict(num_examples=0), ValueError, "num_examples: expected at least 1, got 0"),
            (name, dict(batch_size=0), ValueError, "batch_size: expected at least 1, got 0"),
            (name, dict(batch_size=6), ValueError, "batch_size: expected at most num_examples, 5, got 6"),
            (name, dict(seed=2**64), ValueError, f"seed: expected at most {2**64 - 1}, got {2**64}"),
            (name, dict(seed=-(2**63) - 1), ValueError, f"seed: expected at least {-(2**63)}, got {-(2**63) - 1}"),
        )
    ),
]

# --- learning_rate ---
REFUSALS["learning_rate"] = [
    *(
        (f"learning_rate.{name}", dict(lr=lr), ValueError, f"lr: expected a number in (0, inf), got {lr}")
        for name in ("constant", "piecewise", "exponential", "polynomial", "cosine")
        for lr in (0, -0.1)
    ),
    *(
        (f"learning_rate.{name}", {key: -1e-9}, ValueError, f"{key}: expected a number in [0, inf), got -1e-09")
        for name, key in (("exponential", "decay"), ("polynomial", "alpha"), ("polynomial", "beta"))
    ),
    *(
        ("learning_rate.piecewise", dict(factor=value), ValueError, f"factor: expected a number in (0, 1], got {value}")
        for value in (0, 1.5)
    ),
    *(
        ("learning_rate.piecewise", dict(boundaries=steps), error, f"boundaries: expected {message}")
        for steps, error, message in (
            ([], ValueError, "at least one step, got none"),
            ([0, 1], ValueError, "at least 1, got 0"),
            ([2, 2], ValueError, "increasing steps, got [2, 2]"),
            ((1, 5, 3), ValueError, "increasing steps, got [1, 5, 3]"),
            ([1, 2.0], TypeError, "an int, got 2.0"),
            ("12", TypeError, "a sequence of ints, got '12'"),
            (5, TypeError, "a sequence of ints, got 5"),
        )
    ),
    ("learning_rate.cosine", dict(steps=0), ValueError, "steps: expected at least 1, got 0"),
    ("learning_rate.warmup", dict(steps=-1), ValueError, "steps: expected at least 0, got -1"),
    ("learning_rate.warmup", dict(schedule=0.1), TypeError, "schedule: expected a function, got 0.1"),
    ("learning_rate.warmup", dict(schedule=lambda step: 0), ValueError, "lr: expected a number in (0, inf), got 0"),
]

# --- minibatch ---
REFUSALS["minibatch"] = [
    ("minibatch.torchrun", dict(worker="f"), TypeError, "worker: expected a function with a name, got 'f'"),
    ("minibatch.torchrun", dict(worker=lambda: 1), TypeError, "worker: expected a function with a name, got <function"),
    ("minibatch.torchrun", dict(worker=torch.relu), TypeError, "worker: expected a function whose source can be read"),
    ("minibatch.torchrun", dict(args=(1,)), TypeError, "args: expected strings, got 1"),
    ("minibatch.torchrun", dict(num_processes=2.0), TypeError, "num_processes: expected an int, got 2.0"),
    ("minibatch.torchrun", dict(num_processes=0), ValueError, "num_processes: expected at least 1, got 0"),
    ("minibatch.average_gradients", dict(net=3), TypeError, "net: expected an nn.Module, got int"),
]

# --- training ---
inputs, labels = SET.tensors
SETS = [
    ([1, 2], TypeError, ": expected a TensorDataset, got list"),
    (TensorDataset(inputs), ValueError, ": expected images and labels, got shapes [(4, 3)]"),
    (TensorDataset(inputs, labels, labels), ValueError, ": expected images and labels, got shapes [(4, 3), (4,),"),
    (TensorDataset(inputs[:0], labels[:0]), ValueError, ": expected images and labels, got shapes [(0, 3), (0,)]"),
    (TensorDataset(inputs.clone().requires_grad_(), labels), TypeError, ".tensors[0]: expected plain numbers, which"),
    (TensorDataset(inputs.half(), labels), TypeError, ": expected images in the net's dtype, torch.float32, got"),
    (TensorDataset(inputs, labels.float()), TypeError, ": expected integers as labels, got torch.float32"),
    (TensorDataset(inputs, labels + 0j), TypeError, ": expected integers as labels, got torch.complex64"),
    (TensorDataset(inputs, labels > 0), TypeError, ": expected integers as labels, got torch.bool"),
    (TensorDataset(inputs, labels[:, None]), ValueError, ": expected a label an image, shape (4,), got (4, 1)"),
    (TensorDataset(inputs, labels * 0 - 100), ValueError, ": expected labels from 0, got -100"),  # ignored by PyTorch
    (TensorDataset(inputs, labels + 1), ValueError, ": expected labels below 2, the net's scores, got 2"),
]
NET_OF_MATRICES = nn.Sequential(nn.Linear(3, 2), nn.Unflatten(1, (2, 1)))
REFUSALS["training"] = [
    *(("training.train", dict(train_set=dataset), error, f"train_set{message}") for dataset, error, message in SETS),
    *(("training.train", dict(test_set=dataset), error, f"test_set{message}") for dataset, error, message in SETS[5:]),
    *(("training.evaluate", dict(dataset=dataset), error, f"dataset{message}") for dataset, error, message in SETS[5:]),
    ("training.train", dict(lr=0.0), ValueError, "lr: expected a number in (0, inf), got 0.0"),
    ("training.train", dict(lr=lambda step: -1.0), ValueError, "lr: expected a number in (0, inf), got -1.0"),
    ("training.train", dict(lr=lambda step: None), TypeError, "lr: expected a number, got None"),
    ("training.train", dict(momentum=-0.1), ValueError, "momentum: expected a number in [0, 1), got -0.1"),
    ("training.train", dict(momentum=1.0), ValueError, "momentum: expected a number in [0, 1), got 1.0"),
    ("training.train", dict(weight_decay=-1), ValueError, "weight_decay: expected a number in [0, inf), got -1"),
    ("training.train", dict(num_epochs=0), ValueError, "num_epochs: expected at least 1, got 0"),
    ("training.train", dict(batch_size=0), ValueError, "batch_size: expected at least 1, got 0"),
    ("training.train", dict(batch_size=5), ValueError, "batch_size: expected at most 4, got 5"),
    ("training.train", dict(seed=-1), ValueError, "seed: expected at least 0, got -1"),
    ("training.train", dict(seed=2**63), ValueError, f"seed: expected at most {2**63 - 1}, got {2**63}"),
    ("training.train", dict(history=[]), TypeError, "history: expected a History, got []"),
    ("training.train", dict(on_epoch=3), TypeError, "on_epoch: expected a function, got 3"),
    ("training.train", dict(checkpoint=3), TypeError, "checkpoint: expected a path, got 3"),
    ("training.train", dict(net=nn.Flatten()), ValueError, "net: expected parameters to train, got none"),
    ("training.train", dict(net=NET_OF_MATRICES), ValueError, "net: expected scores of shape (m, num_classes), got"),
    ("training.evaluate", dict(net=NET_OF_MATRICES), ValueError, "net: expected scores of shape (m, num_classes),"),
    ("training.evaluate", dict(batch_size=0), ValueError, "batch_size: expected at least 1, got 0"),
    ("training.default_dtype", dict(dtype=torch.int32), TypeError, "dtype: expected a floating-point dtype, got"),
    ("training.default_dtype", dict(dtype="float32"), TypeError, "dtype: expected a floating-point dtype, got"),
    ("training.train", dict(net=3), TypeError, "net: expected an nn.Module, got int"),
    ("training.evaluate", dict(net=3), TypeError, "net: expected an nn.Module, got int"),
    ("training.num_parameters", dict(net=3), TypeError, "net: expected an nn.Module, got int"),
    ("training.eval_mode", dict(net=3), TypeError, "net: expected an nn.Module, got int"),
]

# --- data ---
REFUSALS["data"] = [
    *(
        ("data.fashion_mnist", dict(split=split), ValueError, f'split: expected "train" or "test", got {split!r}')
        for split in ("val", "Train", 0, ["train"])
    ),
    ("data.fashion_mnist", dict(full=True, root=3), TypeError, "root: expected a path, got 3"),
    ("data.fashion_mnist", dict(root="elsewhere"), ValueError, "root: expected None unless full=True, "),
]


@pytest.mark.parametrize(
    ("name", "changed", "error", "message"),
    [row for rows in REFUSALS.values() for row in rows],
    ids=lambda part: part if isinstance(part, str) else "",  # what str says of a function is new in each process
)
def test_what_came_and_what_was_expected(
    name: str, changed: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        call(name, **changed)
