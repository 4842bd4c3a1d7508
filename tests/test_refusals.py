"""Bad input gets an error that names the argument, what came and what was expected.

A row is a call of tests/calls.py, the arguments to change in it, and what the error says. What is wrong everywhere (a
string for a number, NaN, a number where a bool is meant) test_doors tries on all of them; here is what each function
asks besides.
"""

import re

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from tests.calls import SET, call

REFUSALS: dict[str, list[tuple[str, dict[str, object], type[Exception], str]]] = {}

# --- batch_norm ---

# --- resnet ---

# --- densenet ---

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
REFUSALS["minibatch"] = [
    ("minibatch.torchrun", dict(worker="f"), TypeError, "worker: expected a function with a name, got 'f'"),
    ("minibatch.torchrun", dict(worker=lambda: 1), TypeError, "worker: expected a function with a name, got <function"),
    (
        "minibatch.torchrun",
        dict(worker=torch.relu),
        TypeError,
        "worker: expected a function whose source can be read, got",
    ),
    ("minibatch.torchrun", dict(args=(1,)), TypeError, "args: expected strings, got 1"),
    ("minibatch.torchrun", dict(num_processes=2.0), TypeError, "num_processes: expected an int, got 2.0"),
    ("minibatch.torchrun", dict(num_processes=0), ValueError, "num_processes: expected at least 1, got 0"),
    ("minibatch.average_gradients", dict(net=3), TypeError, "net: expected an nn.Module, got int"),
]

# --- training ---
X, Y = SET.tensors
SETS = [
    ([1, 2], TypeError, "expected a TensorDataset, got list"),
    (TensorDataset(X), ValueError, "expected images and labels, got shapes [(4, 3)]"),
    (TensorDataset(X, Y, Y), ValueError, "expected images and labels, got shapes [(4, 3), (4,), (4,)]"),
    (TensorDataset(X[:0], Y[:0]), ValueError, "expected images and labels, got shapes [(0, 3), (0,)]"),
    (TensorDataset(X.half(), Y), TypeError, "expected images in the net's dtype, torch.float32, got torch.float16"),
    (TensorDataset(X, Y.float()), TypeError, "expected integers as labels, got torch.float32"),
    (TensorDataset(X, Y + 0j), TypeError, "expected integers as labels, got torch.complex64"),
    (TensorDataset(X, Y > 0), TypeError, "expected integers as labels, got torch.bool"),
    (TensorDataset(X, Y[:, None]), ValueError, "expected a label an image, shape (4,), got (4, 1)"),
    (TensorDataset(X, Y * 0 - 100), ValueError, "expected labels from 0, got -100"),  # which PyTorch would ignore
    (TensorDataset(X, Y + 1), ValueError, "expected labels below 2, the net's scores, got 2"),
]
REFUSALS["training"] = [
    *(
        (call, {key: dataset}, error, f"{key}: {message}")
        for call, key in (
            ("training.train", "train_set"),
            ("training.train", "test_set"),
            ("training.evaluate", "dataset"),
        )
        for dataset, error, message in SETS
    ),
    *(
        ("training.train", {key: value}, ValueError, f"{key}: expected {message}")
        for key, value, message in (
            ("lr", 0.0, "a number in (0, inf), got 0.0"),
            ("lr", lambda step: -1.0, "a number in (0, inf), got -1.0"),
            ("momentum", -0.1, "a number in [0, 1), got -0.1"),
            ("momentum", 1.0, "a number in [0, 1), got 1.0"),
            ("weight_decay", -1, "a number in [0, inf), got -1"),
            ("num_epochs", 0, "at least 1, got 0"),
            ("batch_size", 0, "at least 1, got 0"),
            ("batch_size", 5, "at most 4, got 5"),
            ("seed", -1, "at least 0, got -1"),
            ("seed", 2**63, f"at most {2**63 - 1}, got {2**63}"),
            ("net", nn.Flatten(), "parameters to train, got none"),
            (
                "net",
                nn.Sequential(nn.Linear(3, 2), nn.Unflatten(1, (2, 1))),
                "scores of shape (m, num_classes), got (2, 2, 1)",
            ),
        )
    ),
    ("training.train", dict(lr=lambda step: None), TypeError, "lr: expected a number, got None"),
    (
        "training.train",
        dict(train_set=TRACKED),
        TypeError,
        "train_set.tensors[0]: expected plain numbers, which no grad",
    ),
    ("training.train", dict(history=[]), TypeError, "history: expected a History, got []"),
    ("training.train", dict(on_epoch=3), TypeError, "on_epoch: expected a function, got 3"),
    ("training.train", dict(checkpoint=3), TypeError, "checkpoint: expected a path, got 3"),
    (
        "training.train",
        dict(train_set=TensorDataset(X.clone().requires_grad_(), Y)),
        TypeError,
        "train_set.tensors[0]: exp",
    ),
    ("training.evaluate", dict(batch_size=0), ValueError, "batch_size: expected at least 1, got 0"),
    *(
        (f"training.{name}", dict(net=3), TypeError, "net: expected an nn.Module, got int")
        for name in ("train", "evaluate", "num_parameters", "eval_mode")
    ),
    *(
        (
            "training.default_dtype",
            dict(dtype=dtype),
            TypeError,
            f"dtype: expected a floating-point dtype, got {dtype!r}",
        )
        for dtype in (torch.int32, torch.complex64, "float32")
    ),
]

# --- data ---


@pytest.mark.parametrize(
    ("name", "changed", "error", "message"), [row for rows in REFUSALS.values() for row in rows], ids=str
)
def test_what_came_and_what_was_expected(
    name: str, changed: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        call(name, **changed)
