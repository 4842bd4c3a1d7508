"""Batch normalisation: the formula, the layer, and the LeNet that the lesson trains with and without it.

Source: Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
Shift", 2015, arXiv:1502.03167: algorithm 1 (training), algorithm 2 (prediction), section 3.2 (convolutions).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def batch_norm(
    is_training: bool,
    X: Tensor,
    gamma: Tensor,
    beta: Tensor,
    moving_mean: Tensor,
    moving_var: Tensor,
    eps: float = 1e-5,
    momentum: float = 0.9,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise each feature of X, then scale by gamma and shift by beta.

    The readable version, written as the paper's algorithms 1 and 2; `BatchNorm` is the layer to train with.

    Args:
        is_training: True normalises with the mean and variance of this batch and returns updated moving averages;
            False normalises with the moving averages and returns them as they came.
        X: shape (m, d), one feature a column, or (m, c, h, w), one feature a channel.
        gamma, beta: scale and shift, shape (d,) or (c,).
        moving_mean, moving_var: averages over the batches so far, shape (d,) or (c,).
        eps: keeps the root away from zero, in the units of the variance. Positive.
        momentum: the weight of the OLD average, in [0, 1]. PyTorch's `momentum` is the weight of the new value:
            0.9 here is 0.1 there.

    Returns:
        Y of X's shape, and the moving mean and variance. Y is normalised with the biased variance (divide by n), the
        moving average takes the unbiased one (divide by n - 1), as the paper and PyTorch do.

    Raises:
        ValueError: X has neither 2 nor 4 dimensions, is empty, or has one value a feature in training; a parameter's
            shape does not fit X; eps or momentum is out of range.
        TypeError: X is not floating point, or a parameter's dtype is not X's.

    >>> X = torch.tensor([[1.0, 10.0], [3.0, 30.0]])
    >>> one, zero = torch.ones(2), torch.zeros(2)
    >>> Y, mean, var = batch_norm(True, X, one, zero, zero, one)
    >>> Y
    tensor([[-1.0000, -1.0000],
            [ 1.0000,  1.0000]])
    >>> mean, var
    (tensor([0.2000, 2.0000]), tensor([ 1.1000, 20.9000]))
    """
    check_input(is_training, X, dict(gamma=gamma, beta=beta, moving_mean=moving_mean, moving_var=moving_var))
    _check_settings(eps, momentum)
    per_feature = (1, -1) + (1,) * (X.dim() - 2)  # so that one number a feature lines up with X
    if is_training:
        rows = X.transpose(0, 1).flatten(1)  # one row a feature: (d, m) or (c, m·h·w)
        n = rows.shape[1]
        mean = rows.mean(1)
        var = ((rows - mean[:, None]) ** 2).mean(1)
        with torch.no_grad():
            moving_mean = momentum * moving_mean + (1 - momentum) * mean
            moving_var = momentum * moving_var + (1 - momentum) * var * (n / (n - 1))
    else:
        mean, var = moving_mean, moving_var
    X_hat = (X - mean.view(per_feature)) / torch.sqrt(var.view(per_feature) + eps)
    Y = gamma.view(per_feature) * X_hat + beta.view(per_feature)
    return Y, moving_mean, moving_var


class BatchNorm(nn.Module):
    """Batch normalisation as a layer, with gamma and beta to learn and moving averages to predict with.

    In train mode it normalises with the batch's statistics and moves its averages; in eval mode it uses the averages.
    X of float16 or bfloat16 is computed in float32, whether the state is in float32 or like X, as in PyTorch's own.
    Parameters and buffers carry PyTorch's names (`weight` is gamma, `bias` is beta), so that a `state_dict` goes to
    `nn.BatchNorm1d` or `nn.BatchNorm2d` and back.

    Args:
        num_features: d of an input (m, d), or c of an input (m, c, h, w).
        num_dims: 2 for an input (m, d), 4 for an input (m, c, h, w).
        eps: keeps the root away from zero. Positive.
        momentum: the weight of the OLD average, in [0, 1]; PyTorch's is the weight of the new value, 1 - momentum.

    Raises:
        ValueError: an argument or an input is out of range or of the wrong shape; see `batch_norm`.
        TypeError: num_features is not an int; an input is not floating point.

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167.

    >>> layer = BatchNorm(6, num_dims=4)
    >>> Y = layer(torch.randn(8, 6, 5, 5))
    >>> Y.shape, bool(Y.mean().abs() < 1e-6)
    (torch.Size([8, 6, 5, 5]), True)
    >>> nn.BatchNorm2d(6).load_state_dict(layer.state_dict())
    <All keys matched successfully>
    """

    def __init__(self, num_features: int, num_dims: int, eps: float = 1e-5, momentum: float = 0.9) -> None:
        super().__init__()
        if isinstance(num_features, bool) or not isinstance(num_features, int):
            raise TypeError(f"num_features: expected an int, got {num_features!r}")
        if num_features < 1:
            raise ValueError(f"num_features: expected at least 1, got {num_features}")
        if num_dims not in (2, 4):
            raise ValueError(f"num_dims: expected 2 for (m, d) or 4 for (m, c, h, w), got {num_dims!r}")
        _check_settings(eps, momentum)
        self.num_features, self.num_dims, self.eps, self.momentum = num_features, num_dims, eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def state(self, X: Tensor) -> dict[str, Tensor]:
        """What `batch_norm` takes besides X; a ValueError if X has not the layer's dimensions and features."""
        if X.dim() != self.num_dims:
            raise ValueError(f"X: expected {self.num_dims} dimensions, got shape {tuple(X.shape)}")
        if X.shape[1] != self.num_features:
            raise ValueError(f"X: expected {self.num_features} features, got shape {tuple(X.shape)}")
        return dict(gamma=self.weight, beta=self.bias, moving_mean=self.running_mean, moving_var=self.running_var)

    def forward(self, X: Tensor) -> Tensor:
        if X.dtype in (torch.float16, torch.bfloat16) and self.weight.dtype == torch.float32:
            return self.forward(X.float()).to(X.dtype)
        state = self.state(X)
        check_input(self.training, X, state)
        if not self.training:
            state = {name: widened(value) for name, value in state.items()}
            return batch_norm(False, widened(X), **state, eps=self.eps)[0].to(X.dtype)
        # One form for both kinds of layer: (m, d, 1) or (m, c, h·w). Reshaped out here, because autograd lets nothing
        # work in place on a Function's output that is a view.
        x = X.reshape(*X.shape[:2], -1)
        y, mean, var = _BatchNorm.apply(*map(widened, (x, self.weight, self.bias)), self.eps)
        n = X.numel() // self.num_features
        with torch.no_grad():  # lerp_(b, w) is (1 - w) a + w b, in place
            self.running_mean.lerp_(mean.to(X.dtype), 1 - self.momentum)
            self.running_var.lerp_((var * (n / (n - 1))).to(X.dtype), 1 - self.momentum)
            self.num_batches_tracked += 1
        return y.view(X.shape).to(X.dtype)

    def extra_repr(self) -> str:
        return f"{self.num_features}, num_dims={self.num_dims}, eps={self.eps}, momentum={self.momentum}"


class _BatchNorm(torch.autograd.Function):
    """`batch_norm` in training, with the backward pass that the lesson derives: fewer passes over the data."""

    @staticmethod
    def forward(ctx, x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        mean = _mean(x)
        centred = x - mean[:, None]
        var = _mean(centred.square())
        rstd = torch.rsqrt(var + eps)
        y = torch.addcmul(beta[:, None], centred, (gamma * rstd)[:, None])
        ctx.save_for_backward(centred, gamma, rstd)
        ctx.mark_non_differentiable(mean, var)
        return y, mean, var

    @staticmethod
    @once_differentiable  # the saved `centred` is not a graph: a second derivative must fail, not lie
    def backward(ctx, dy: Tensor, *_: None) -> tuple[Tensor, Tensor, Tensor, None]:
        centred, gamma, rstd = ctx.saved_tensors
        n = centred.shape[0] * centred.shape[2]
        mean_dy = _mean(dy)
        mean_dy_x_hat = _mean(dy * centred) * rstd
        scale = gamma * rstd
        # dx = scale (dy - mean(dy) - x_hat mean(dy x_hat)), with x_hat = rstd centred
        dx = torch.addcmul((-scale * mean_dy)[:, None], centred, (-scale * rstd * mean_dy_x_hat)[:, None])
        dx.addcmul_(dy, scale[:, None])
        return dx, n * mean_dy_x_hat, n * mean_dy, None


def _mean(x: Tensor) -> Tensor:
    """Average (m, c, n) to (c,): the contiguous dimension first, which is several times faster than both at once."""
    return x.mean(2).mean(0)


def widened(x: Tensor) -> Tensor:
    """In float32 if x has half of it: a sum over a batch needs more digits than its terms have, and more room."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def check_input(is_training: bool, X: Tensor, state: dict[str, Tensor]) -> None:
    """Raise an error that names the argument, unless X is a batch and each tensor of `state` has a number a feature."""
    shape = tuple(X.shape)
    if X.dim() not in (2, 4):
        raise ValueError(f"X: expected shape (m, d) or (m, c, h, w), got {shape}")
    if not X.is_floating_point():
        raise TypeError(f"X: expected floating point, got {X.dtype}")
    if X.numel() == 0:
        raise ValueError(f"X: expected at least one value, got shape {shape}")
    if is_training and X.numel() == X.shape[1]:
        raise ValueError(f"X: expected more than one value a feature in training, got shape {shape}")
    for name, value in state.items():
        if value.shape != X.shape[1:2]:
            raise ValueError(f"{name}: expected shape ({shape[1]},) to fit X {shape}, got {tuple(value.shape)}")
        if value.dtype != X.dtype:
            raise TypeError(f"{name}: expected X's dtype {X.dtype}, got {value.dtype}")


def _check_settings(eps: float, momentum: float) -> None:
    if not eps > 0:
        raise ValueError(f"eps: expected a positive number, got {eps}")
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum: expected a number in [0, 1], got {momentum}")


def lenet(
    norm: Callable[[int, int], nn.Module] | None = None, activation: Callable[[], nn.Module] = nn.Sigmoid
) -> nn.Sequential:
    """LeNet for (m, 1, 28, 28) images and 10 classes, with a normalisation before each activation, or none.

    Args:
        norm: makes a layer from (num_features, num_dims), as `BatchNorm` does; None leaves it out.
        activation: makes an activation.

    Source: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998,
    figure 2; with average pooling, and without padding, which keeps it quick.

    >>> lenet(BatchNorm)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    >>> sum(p.numel() for p in lenet().parameters())
    44426
    """

    def normalised(layer: nn.Module, num_features: int, num_dims: int) -> list[nn.Module]:
        return [layer, *([norm(num_features, num_dims)] if norm else []), activation()]

    return nn.Sequential(
        *normalised(nn.Conv2d(1, 6, 5), 6, 4),
        nn.AvgPool2d(2),
        *normalised(nn.Conv2d(6, 16, 5), 16, 4),
        nn.AvgPool2d(2),
        nn.Flatten(),
        *normalised(nn.Linear(256, 120), 120, 2),
        *normalised(nn.Linear(120, 84), 84, 2),
        nn.Linear(84, 10),
    )
