"""What the tests of layers and nets share."""

import math

import torch
from torch import Tensor, nn


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def randomised(net: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """The net in this dtype, with a state in which no two numbers are alike."""
    net.to(dtype)
    with torch.no_grad():
        for seed, (name, value) in enumerate(net.state_dict().items(), start=1):
            if value.is_floating_point():
                numbers = randn(*value.shape, seed=seed)
                if value.dim() == 4:
                    numbers /= math.sqrt(value[0].numel())
                value.copy_(numbers.abs() + 0.5 if name.endswith("running_var") else numbers)
    return net


def compiled(net: nn.Module, **settings: bool) -> nn.Module:
    """The net by torch.compile, which here records all and translates nothing: that would take seconds."""
    torch.compiler.reset()
    return torch.compile(net, backend="eager", **settings)
