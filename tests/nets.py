"""What the tests of residual and of dense nets share."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


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
