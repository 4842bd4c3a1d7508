"""Batch normalisation: the formula, the layer, and the LeNet that the lesson trains with and without it.

All raise a TypeError if an argument or an input is of the wrong kind or dtype, and a ValueError if it is out of range,
of another shape or on another device.

Source: Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
Shift", 2015, arXiv:1502.03167: algorithm 1 (training), algorithm 2 (prediction), section 3.2 (convolutions).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.batchnorm import _BatchNorm

from lessons_lib.checks import Array, as_bool, as_int, as_number, as_tensor, check_dtype, check_function


def batch_norm(
    is_training: bool,
    X: Array,
    gamma: Array,
    beta: Array,
    moving_mean: Array,
    moving_var: Array,
    eps: float = 1e-5,
    momentum: float = 0.9,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise each feature of X, then scale by gamma and shift by beta.

    The readable version, as the paper's algorithms 1 and 2; `BatchNorm` is the layer to train with.

    Args:
        is_training: True normalises with the mean and variance of this batch and returns updated moving averages;
            False normalises with the moving averages and returns them as they came.
        X: shape (m, d), one feature a column, or (m, c, h, w), one feature a channel. In training it needs at least two
            values a feature, otherwise one.
        gamma, beta: scale and shift, shape (d,) or (c,).
        moving_mean, moving_var: averages over the batches so far, shape (d,) or (c,).
        eps: keeps the root away from zero, in the units of the variance. Positive.
        momentum: the weight of the OLD average, in [0, 1]. PyTorch's `momentum` is the weight of the new value:
            0.9 here is 0.1 there.

    Returns Y, and the moving mean and variance. Y is normalised with the biased variance (divide by n), the moving
    average takes the unbiased one (divide by n - 1), as the paper and PyTorch do.

    >>> X = torch.tensor([[1.0, 10.0], [3.0, 30.0]])
    >>> one, zero = torch.ones(2), torch.zeros(2)
    >>> Y, mean, var = batch_norm(True, X, one, zero, zero, one)
    >>> Y
    tensor([[-1.0000, -1.0000],
            [ 1.0000,  1.0000]])
    >>> mean, var
    (tensor([0.2000, 2.0000]), tensor([ 1.1000, 20.9000]))
    """
    is_training, X = as_bool("is_training", is_training), as_tensor("X", X)
    state = dict(gamma=gamma, beta=beta, moving_mean=moving_mean, moving_var=moving_var)
    state = {name: as_tensor(name, value, X.dtype) for name, value in state.items()}
    eps, momentum = as_number("eps", eps, "(0, inf)"), as_number("momentum", momentum, "[0, 1]")
    check_batch(X, is_training, **state)
    gamma, beta, moving_mean, moving_var = state.values()
    if is_training:
        rows = X.transpose(0, 1).flatten(1)  # one row a feature: (d, m) or (c, m·h·w)
        n = rows.shape[1]
        mean = rows.mean(1)
        var = ((rows - mean[:, None]) ** 2).mean(1)
        with torch.no_grad():  # detach() is for forward mode, which goes on here
            moving_mean = momentum * moving_mean + (1 - momentum) * mean.detach()
            moving_var = momentum * moving_var + (1 - momentum) * var.detach() * (n / (n - 1))
    else:
        mean, var = moving_mean, moving_var
    return normalised(X, mean, var, gamma, beta, eps), moving_mean, moving_var


def normalised(X: Tensor, mean: Tensor, var: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    per_feature = (1, -1) + (1,) * (X.dim() - 2)  # so that one number a feature lines up with X
    X_hat = (X - mean.view(per_feature)) / torch.sqrt(var.view(per_feature) + eps)
    return gamma.view(per_feature) * X_hat + beta.view(per_feature)


class BatchNorm(_BatchNorm):
    """Batch normalisation as a layer, with gamma and beta to learn and moving averages to predict with.

    In train mode it normalises with the batch's statistics and moves its averages; in eval mode it uses the averages.
    X of float16 or bfloat16 is computed in float32, whether the state is in float32 or like X, as in PyTorch's own.
    PyTorch's tools treat it as one of PyTorch's layers: a `state_dict` goes to `nn.BatchNorm1d` or `nn.BatchNorm2d` and
    back (`weight` is gamma, `bias` is beta), `update_bn` averages anew.

    num_features and num_dims are d and 2 for an input (m, d), c and 4 for one of (m, c, h, w). eps and momentum are as
    for `batch_norm`; but `layer.momentum` is PyTorch's, the weight of the new value.

    >>> layer = BatchNorm(6, num_dims=4)
    >>> layer(torch.randn(8, 6, 5, 5)).shape
    torch.Size([8, 6, 5, 5])
    >>> nn.BatchNorm2d(6).load_state_dict(layer.state_dict())
    <All keys matched successfully>
    """

    def __init__(self, num_features: int, num_dims: int, eps: float = 1e-5, momentum: float = 0.9) -> None:
        num_features, num_dims = as_int("num_features", num_features, 1), as_int("num_dims", num_dims)
        if num_dims not in (2, 4):
            raise ValueError(f"num_dims: expected 2 for (m, d) or 4 for (m, c, h, w), got {num_dims!r}")
        eps, momentum = as_number("eps", eps, "(0, inf)"), as_number("momentum", momentum, "[0, 1]")
        super().__init__(num_features, eps, 1 - momentum)
        self.num_dims = num_dims

    def check(self, X: Tensor, is_training: bool) -> None:
        if X.dim() != self.num_dims or X.shape[1] != self.num_features:
            sizes = f"m, {self.num_features}" + ", h, w" * (self.num_dims == 4)
            raise ValueError(f"X: expected shape ({sizes}), got {tuple(X.shape)}")
        if X.device != self.weight.device:
            raise ValueError(f"X: expected the layer's device {self.weight.device}, got {X.device}")
        check_dtype("X", X, self.weight.dtype)
        check_batch(X, is_training)

    def forward(self, X: Tensor) -> Tensor:
        if not isinstance(X, Tensor):
            raise TypeError(f"X: expected a tensor, got {type(X).__name__}")
        if X.dtype in (torch.float16, torch.bfloat16) and self.weight.dtype == torch.float32:
            return self.forward(X.float()).to(X.dtype)
        # torch.func.replace_all_batch_norm_modules_ leaves it without averages.
        is_training = self.training or self.running_mean is None
        self.check(X, is_training)
        if not is_training:
            tensors = X, self.running_mean, self.running_var, self.weight, self.bias
            return normalised(*map(at_least_float32, tensors), self.eps).to(X.dtype)
        # Reshaped out here: autograd lets nothing work in place on a Function's output that is a view.
        x = X.reshape(*X.shape[:2], -1)  # (m, d, 1) or (m, c, h·w)
        # torch.compile, torch.jit.trace and torch.func need the formula itself. So does forward mode: nested, it takes
        # a Function's `jvp` for a constant (PyTorch's issue 197867).
        recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()
        by_formula = recorded or _is_transformed() or forward_ad._current_level >= 0
        normalise = _normalise if by_formula else _Normalise.apply
        y, mean, var, *_ = normalise(*map(at_least_float32, (x, self.weight, self.bias)), self.eps)
        self.move_averages(mean, var, x.shape[0] * x.shape[2])
        return y.view(X.shape).to(X.dtype)

    @torch.no_grad()
    def move_averages(self, mean: Tensor, var: Tensor, n: float | Tensor) -> None:
        """Move the averages, if there are any, to the mean and biased variance of n values a feature."""
        if self.running_mean is None:
            return
        # PyTorch's momentum is the weight of the new value; None, as `update_bn` sets it, weighs all batches alike.
        weight = 1 / (1 + int(self.num_batches_tracked)) if self.momentum is None else self.momentum
        write = _Write.apply if _is_transformed() else _Write.forward
        # The averages first: under vmap they are refused, and then nothing has moved. detach() is for forward mode.
        for average, new in ((self.running_mean, mean), (self.running_var, var * (n / (n - 1)))):
            write(average, average.lerp(new.detach().to(average.dtype), weight))  # (1 - weight) average + weight new
        write(self.num_batches_tracked, self.num_batches_tracked + 1)

    def extra_repr(self) -> str:
        momentum = "cumulative" if self.momentum is None else f"{1 - self.momentum:g}"
        return f"{self.num_features}, num_dims={self.num_dims}, eps={self.eps}, momentum={momentum}"


def _normalise(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> tuple[Tensor, ...]:
    """`batch_norm` in training, for x of shape (m, c, n): y, mean, variance, and what the backward pass needs."""
    mean = _mean(x)
    centred = x - mean[:, None]
    var = _mean(centred.square())
    rstd = torch.rsqrt(var + eps)
    y = torch.addcmul(beta[:, None], centred, (gamma * rstd)[:, None])
    return y, mean, var, centred, rstd


class _Normalise(torch.autograd.Function):
    """The same with the backward pass that the lesson derives: fewer passes over the data."""

    @staticmethod
    def forward(ctx, x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> tuple[Tensor, ...]:
        y, mean, var, centred, rstd = _normalise(x, gamma, beta, eps)
        ctx.save_for_backward(centred, rstd, gamma)  # outputs too: a second derivative finds its way through them
        ctx.mark_non_differentiable(mean, var)
        ctx.set_materialize_grads(False)
        return y, mean, var, centred, rstd

    @staticmethod
    def backward(ctx, *grads: Tensor | None) -> tuple[Tensor, Tensor, Tensor, None]:
        dy, _, _, dcentred, drstd = grads
        centred, rstd, gamma = ctx.saved_tensors
        n = centred.shape[0] * centred.shape[2]
        dy = torch.zeros_like(centred) if dy is None else dy
        mean_dy = _mean(dy)
        mean_dy_x_hat = _mean(dy * centred) * rstd
        scale = gamma * rstd
        # dx = scale (dy - mean(dy) - x_hat mean(dy x_hat)), with x_hat = rstd centred
        dx = torch.addcmul((-scale * mean_dy)[:, None], centred, (-scale * rstd * mean_dy_x_hat)[:, None])
        dx.addcmul_(dy, scale[:, None])
        if dcentred is not None:  # these two only for a second derivative
            dx = dx + dcentred - _mean(dcentred)[:, None]
        if drstd is not None:
            dx = dx - (rstd**3 * drstd / n)[:, None] * centred
        return dx, n * mean_dy_x_hat, n * mean_dy, None


class _Write(torch.autograd.Function):
    """Write into an average: torch.func lets nothing but a Function write to a layer's averages."""

    generate_vmap_rule = True

    @staticmethod
    def forward(average: Tensor, value: Tensor) -> Tensor:
        average.copy_(value)
        return torch.zeros(())

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        ctx.mark_non_differentiable(output)


def _is_transformed() -> bool:  # by torch.func
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def _mean(x: Tensor) -> Tensor:
    # The contiguous dimension first is several times faster than both at once.
    return x.mean((0, 2)) if x.shape[2] == 1 else x.mean(2).mean(0)


def at_least_float32(x: Tensor) -> Tensor:
    """In float32 if x has half of it: a sum over a batch needs more digits than its terms have, and more room."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def check_batch(X: Tensor, is_training: bool, **state: Tensor) -> None:
    shape = tuple(X.shape)
    if X.dim() not in (2, 4):
        raise ValueError(f"X: expected shape (m, d) or (m, c, h, w), got {shape}")
    if X.numel() == 0:
        raise ValueError(f"X: expected at least one value, got shape {shape}")
    if is_training and X.numel() == X.shape[1]:
        raise ValueError(f"X: expected more than one value a feature in training, got shape {shape}")
    for name, value in state.items():
        if value.shape != X.shape[1:2]:
            raise ValueError(f"{name}: expected shape ({shape[1]},) to fit X {shape}, got {tuple(value.shape)}")
        check_dtype(name, value, X.dtype)
        if value.device != X.device:
            raise ValueError(f"{name}: expected X's device {X.device}, got {value.device}")


def lenet(
    norm: Callable[[int, int], nn.Module] | None = None, activation: Callable[[], nn.Module] = nn.Sigmoid
) -> nn.Sequential:
    """LeNet for (m, 1, 28, 28) images and 10 classes, with a normalisation before each activation, or none.

    `norm` makes a layer from (num_features, num_dims), as `BatchNorm` does; `activation` from nothing.

    Source: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998,
    figure 2; with average pooling, and without padding, which keeps it quick.

    >>> sum(p.numel() for p in lenet().parameters())
    44426
    """
    if norm is not None:
        check_function("norm", norm)
    check_function("activation", activation)

    def activated(layer: nn.Module, num_features: int, num_dims: int) -> list[nn.Module]:
        return [layer, *([norm(num_features, num_dims)] if norm else []), activation()]

    return nn.Sequential(
        *activated(nn.Conv2d(1, 6, 5), 6, 4),
        nn.AvgPool2d(2),
        *activated(nn.Conv2d(6, 16, 5), 16, 4),
        nn.AvgPool2d(2),
        nn.Flatten(),
        *activated(nn.Linear(256, 120), 120, 2),
        *activated(nn.Linear(120, 84), 84, 2),
        nn.Linear(84, 10),
    )
