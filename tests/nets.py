"""What the tests of residual and of dense nets share."""

import io
import math
import pickle
from collections.abc import Callable
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn

BAD_SHAPES = [(2, 9, 9), (2,), (1, 2, 2, 9, 9), (4, 3, 9, 9), (4, 9, 9, 2)]
# What nets of float32 for two channels refuse, with the error.
BAD_IMAGES = [
    *((torch.zeros(shape), ValueError, f"X: expected shape (m, 2, h, w), got {shape}") for shape in BAD_SHAPES),
    (np.zeros((1, 2, 9, 9), np.float32), TypeError, "X: expected a tensor, got ndarray"),
    ([[[[0.0]]]], TypeError, "X: expected a tensor, got list"),
    *(
        (torch.zeros(1, 2, 9, 9, dtype=dtype), TypeError, f"X: expected the weights' dtype torch.float32, got {dtype}")
        for dtype in (torch.uint8, torch.float64, torch.float16)
    ),
    (torch.zeros(1, 2, 9, 9, device="meta"), ValueError, "X: expected the weights' device cpu, got meta"),
]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def randomised(net: nn.Module) -> nn.Module:
    """The net in float64, with a state in which no two numbers are alike."""
    net.double()
    with torch.no_grad():
        for seed, (name, value) in enumerate(net.state_dict().items(), start=1):
            if value.is_floating_point():
                numbers = randn(*value.shape, seed=seed)
                if value.dim() == 4:
                    numbers /= math.sqrt(value[0].numel())
                value.copy_(numbers.abs() + 0.5 if name.endswith("running_var") else numbers)
    return net


def on_meta(make: Callable[..., nn.Module], *args: object, **settings: object) -> nn.Module:
    """The net without its numbers: shapes are for free."""
    with torch.device("meta"):
        return make(*args, **settings)


def convolutions(net: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]


def assert_travels(net: nn.Module, make: Callable[[], nn.Module], X: Tensor) -> list[nn.Module]:
    """Copies, pickles and a saved state compute the same, and have numbers of their own."""
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    loaded = make().eval()
    loaded.load_state_dict(torch.load(file, weights_only=True))
    copies = [loaded, deepcopy(net), pickle.loads(pickle.dumps(net))]
    for copy in copies:
        assert torch.equal(copy(X), net(X))
        with torch.no_grad():
            copy.fc.bias.add_(1)
        assert not torch.equal(copy(X), net(X))
    return copies


def compiled(net: nn.Module, **settings: bool) -> nn.Module:
    torch.compiler.reset()
    return torch.compile(
        net, backend="eager", **settings
    )  # which records all, and translates nothing: that would take seconds


def assert_is_recorded(net: nn.Module, X: Tensor) -> None:
    """What torch.compile, torch.fx and torch.export make of a net computes, learns and averages the same."""
    expected = there_and_back(deepcopy(net), X)
    for record in (compiled, torch.fx.symbolic_trace, lambda net: torch.export.export(net, (X,)).module()):
        for name, value in there_and_back(record(deepcopy(net)), X).items():
            torch.testing.assert_close(value, expected[name.removeprefix("_orig_mod.")], rtol=1e-4, atol=1e-5, msg=name)


def there_and_back(net: nn.Module, X: Tensor) -> dict[str, Tensor]:
    X = X.clone().requires_grad_()
    Y = net(X)
    Y.square().sum().backward()
    return {"Y": Y, "dX": X.grad} | net.state_dict()
