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


@pytest.mark.parametrize(
    ("name", "changed", "error", "message"), [row for rows in REFUSALS.values() for row in rows], ids=str
)
def test_what_came_and_what_was_expected(
    name: str, changed: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        call(name, **changed)
