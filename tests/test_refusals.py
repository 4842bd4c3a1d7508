"""Bad input gets an error that names the argument, what came and what was expected.

A row is a call of tests/calls.py, the arguments to change in it, and what the error says. What is wrong everywhere (a
string for a number, NaN, a number where a bool is meant) test_doors tries on all of them; here is what each function
asks besides.
"""

import re

import pytest
import torch

from tests.calls import call

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

# --- objectives ---

# --- gradient_descent ---

# --- sgd ---
REFUSALS["sgd"] = [
    ("sgd.batches", dict(batch_size=6), ValueError, "batch_size: expected at most num_examples, 5, got 6"),
    ("sgd.batches", dict(seed=2**64), ValueError, f"seed: expected at most {2**64 - 1}, got {2**64}"),
]

# --- learning_rate ---

# --- minibatch ---

# --- training ---

# --- data ---


@pytest.mark.parametrize(
    ("name", "changed", "error", "message"), [row for rows in REFUSALS.values() for row in rows], ids=str
)
def test_what_came_and_what_was_expected(
    name: str, changed: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        call(name, **changed)
