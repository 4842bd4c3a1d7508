"""Both versions of batch normalisation do what PyTorch's layers do, hold the same state, and refuse what they must."""

import pickle
import warnings
from collections.abc import Callable
from copy import deepcopy
from math import inf, nan, pi, prod

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, func, nn
from torch.autograd import functional, grad, gradcheck, gradgradcheck
from torch.func import functional_call
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.optim.swa_utils import update_bn

from lessons_lib.batch_norm import BatchNorm, batch_norm, lenet
from tests.nets import compiled
from tools.bench import Readable


def pytorch(num_features: int, num_dims: int, eps: float = 1e-5, momentum: float = 0.9) -> nn.Module:
    """PyTorch's own layer; `momentum` is ours, the weight of the old average."""
    return (nn.BatchNorm1d if num_dims == 2 else nn.BatchNorm2d)(num_features, eps=eps, momentum=1 - momentum)


both = pytest.mark.parametrize("kind", [BatchNorm, Readable])
# Of torch.jit, which forward-mode differentiation uses too, of Python numbers in it, and of what vmap does slowly.
torch_itself_warns = pytest.mark.filterwarnings(
    "ignore:.*torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore:There is a performance"
)
all_ranks = pytest.mark.parametrize("shape", [(6, 3), (4, 3, 2, 5)], ids=["2-D", "4-D"])
DEVICES = ["cpu", "meta", *(["cuda"] if torch.cuda.is_available() else [])]
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
Results = dict[str, Tensor]


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def randomised(layer: nn.Module) -> nn.Module:
    """The layer, with a state in which no two numbers are alike."""
    with torch.no_grad():
        for seed, (name, value) in enumerate(layer.state_dict().items(), start=1):
            if value.is_floating_point():
                numbers = randn(*value.shape, seed=seed, dtype=torch.float64)
                value.copy_(numbers.abs() + 0.5 if name == "running_var" else numbers)
    return layer


def there_and_back(layer: nn.Module, X: Tensor, dY: Tensor) -> Results:
    X = X.detach().requires_grad_()
    layer.zero_grad()
    Y = layer(X)
    Y.backward(dY)
    return dict(Y=Y.detach(), dX=X.grad, dgamma=layer.weight.grad, dbeta=layer.bias.grad)


def averages(layer: nn.Module) -> Results:
    return dict(running_mean=layer.running_mean, running_var=layer.running_var)


def sizes_of_terms(layer: nn.Module, X: Tensor, dY: Tensor) -> Results:
    """For each result, the size of the terms that it adds up, a number a feature: the unit of its rounding error.

    A result cannot be measured against itself: where terms cancel it is as small as you like, and its error is not.
    Rounding X moves X_hat by the last digit of max|X| rstd (`reach`: how many standard deviations X lies from zero),
    because the mean that is subtracted is as large as X. So the terms are:

        Y       gamma X rstd, gamma mean rstd and beta
        dX      gamma rstd times dY, mean(dY), and X_hat mean(dY X_hat), in which one of the two is off by `reach`
        dgamma  all of dY X rstd and dY mean rstd
        dbeta   all of dY
        mean    X
        var     (X - mean)², where rounding moves X - mean by the last digit of X: std max|X|, times n / (n - 1)

    The largest distances from PyTorch's layers that were measured in these units, over 10,000 batches drawn as below
    and 500 streams of 100, with AVX-512, AVX2 and no vector instructions: in float32 Y 3.4e-7, dX 2.8e-7, dgamma
    3.7e-7, dbeta 2.0e-7, mean 5.3e-7, var 2.9e-7 (Y from its exact value 2.8e-7, PyTorch's 2.1e-7); in float64 3e-15.
    """
    X, dY, gamma, beta, mean, var = (
        t.detach().double() for t in (X, dY, layer.weight, layer.bias, layer.running_mean, layer.running_var)
    )
    x, dy = X.transpose(0, 1).flatten(1), dY.transpose(0, 1).flatten(1)  # one row a feature
    if layer.training:
        mean, var = x.mean(1), x.var(1, correction=0)
    var = var + layer.eps
    rstd = var.rsqrt()
    reach = torch.maximum(x.abs().amax(1), mean.abs()) * rstd
    x_hat = (x - mean[:, None]).abs().amax(1) * rstd
    per_feature = (1, -1) + (1,) * (X.dim() - 2)
    return dict(
        Y=(gamma.abs() * reach + beta.abs()).view(per_feature),
        dX=(gamma.abs() * rstd * dy.abs().amax(1) * (1 + reach * x_hat)).view(per_feature),
        dgamma=dy.abs().sum(1) * reach,
        dbeta=dy.abs().sum(1),
        running_mean=x.abs().amax(1),
        running_var=var * reach * (1 + 1 / max(x.shape[1] - 1, 1)),
        reach=reach,
    )


def assert_close(got: Results, expected: Results, sizes: Results) -> None:
    for name, value in got.items():
        assert value.shape == expected[name].shape
        error = (value.double() - expected[name].double()).abs()
        allowed = TOLERANCE[value.dtype] * sizes[name]
        assert (error <= allowed).all(), f"{name}: off by {error.max():.1e}, allowed {allowed.max():.1e}"


# As PyTorch


def any_batch(function: Callable[..., None]) -> Callable[..., None]:
    """Draw the shape and the numbers of batches, n = 2 in all three ways among them."""
    shapes = st.one_of(
        st.tuples(st.integers(2, 9), st.integers(1, 5)),
        st.tuples(*[st.integers(1, 6)] * 4).filter(lambda shape: prod(shape) > shape[1]),
    )
    numbers = dict(seed=st.integers(0, 2**32), scale=st.sampled_from([0.1, 1, 100]), offset=st.sampled_from([0, 1, 30]))
    function = given(shape=shapes, flat=st.booleans(), **numbers)(function)
    for shape in [(2, 3), (2, 3, 1, 1), (1, 3, 1, 2)]:
        function = example(shape=shape, flat=True, seed=0, scale=1, offset=1)(function)
    return function


def make_batches(
    count: int, shape: tuple[int, ...], dtype: torch.dtype, *, flat: bool, seed: int, scale: float, offset: float
) -> Tensor:
    centres = randn(count, 1, shape[1], *(1,) * (len(shape) - 2), seed=seed, dtype=torch.float64)
    batches = scale * (randn(count, *shape, seed=seed + 1, dtype=torch.float64) + offset * centres)
    if flat:  # one feature has the same value throughout, and nothing but eps to divide by
        batches[:, :, 0] = pi
    return batches.to(dtype)


def pair(kind: type[BatchNorm], shape: tuple[int, ...], dtype: torch.dtype, **settings: float) -> tuple[nn.Module, ...]:
    """Our layer and PyTorch's, with the same random state."""
    theirs = randomised(pytorch(shape[1], len(shape), **settings).to(dtype))
    ours = kind(shape[1], len(shape), **settings).to(dtype)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@both
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@settings(max_examples=40, deadline=None)
@any_batch
def test_agrees_with_pytorch(
    kind: type[BatchNorm], dtype: torch.dtype, shape: tuple[int, ...], seed: int, **numbers: float
) -> None:
    X = make_batches(1, shape, dtype, seed=seed, **numbers)[0]
    dY = randn(*shape, seed=seed + 2, dtype=dtype)
    ours, theirs = pair(kind, shape, dtype, eps=(1e-5, 1e-3)[seed % 2])
    # Farther from zero, float32 has lost more than three digits of X - mean before anyone computes anything.
    assume(sizes_of_terms(theirs, X, dY)["reach"].max() <= 1000)
    for training in (True, False):
        ours.train(training), theirs.train(training)
        sizes = sizes_of_terms(theirs, X, dY)
        got = there_and_back(ours, X, dY)
        assert {value.dtype for value in got.values()} == {dtype}
        assert_close(got, there_and_back(theirs, X, dY), sizes)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@settings(max_examples=4, deadline=None)  # each is 300 forward passes
@any_batch
def test_has_pytorchs_averages_after_100_batches(dtype: torch.dtype, shape: tuple[int, ...], **numbers: float) -> None:
    (ours, theirs), (readable, _) = (pair(kind, shape, dtype) for kind in (BatchNorm, Readable))
    sizes = {name: value.double().abs() for name, value in averages(theirs).items()}
    for X in make_batches(100, shape, dtype, **numbers):
        ours(X), readable(X), theirs(X)
        new = sizes_of_terms(theirs, X, X)
        sizes = {name: 0.9 * size + 0.1 * new[name] for name, size in sizes.items()}
    for layer in (ours, readable):
        assert {value.dtype for value in averages(layer).values()} == {dtype}
        assert_close(averages(layer), averages(theirs), sizes)


@both
@pytest.mark.parametrize("shape", [(128, 6, 24, 24), (128, 16, 8, 8), (128, 120), (128, 84)])
def test_sums_of_lenets_size_are_accurate_in_float32(kind: type[BatchNorm], shape: tuple[int, ...]) -> None:
    # Against PyTorch in float64: its float32 sums over a batch of vectors are themselves off by up to 9e-7 here.
    X, dY = randn(*shape) + 10 * randn(1, *shape[1:2], *(1,) * (len(shape) - 2), seed=1), randn(*shape, seed=2)
    ours, theirs = pair(kind, shape, torch.float32)
    theirs.double()
    sizes = sizes_of_terms(theirs, X, dY)
    assert_close(there_and_back(ours, X, dY), there_and_back(theirs, X.double(), dY.double()), sizes)


@both
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_keeps_the_dtype_and_does_not_overflow(kind: type[BatchNorm], dtype: torch.dtype) -> None:
    # In float16 the sum of these squares is beyond the largest number, their mean is not.
    X, dY = (2 * randn(64, 2, 24, 24) + 3).to(dtype), randn(64, 2, 24, 24, seed=1).to(dtype)
    ours, theirs = kind(2, num_dims=4).to(dtype), pytorch(2, num_dims=4).double()
    got = there_and_back(ours, X, dY) | averages(ours)
    expected = there_and_back(theirs, X.double(), dY.double()) | averages(theirs)
    last_digit = torch.finfo(dtype).eps
    for name, value in got.items():
        assert value.dtype == dtype, name
        error = (value.double() - expected[name]).abs().max() / expected[name].abs().max()
        assert error < 8 * last_digit, name


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@all_ranks
def test_in_mixed_precision_it_is_pytorchs(dtype: torch.dtype, training: bool, shape: tuple[int, ...]) -> None:
    shape = (16, *shape[1:])
    X, dY = (2 * randn(*shape) + 3).to(dtype), randn(*shape, seed=1).to(dtype)
    ours, theirs = (layer.train(training) for layer in pair(BatchNorm, shape, torch.float32))
    got = there_and_back(ours, X, dY) | averages(ours)
    expected = there_and_back(theirs, X, dY) | averages(theirs)
    for name, value in got.items():
        assert value.dtype == expected[name].dtype, name
        error = (value.double() - expected[name].double()).abs().max() / expected[name].double().abs().max()
        assert error < (1e-5 if value.dtype == torch.float32 else 2 * torch.finfo(dtype).eps), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@all_ranks
def test_in_half_precision_it_predicts_as_pytorchs(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    ours, theirs = BatchNorm(3, len(shape)).to(dtype).eval(), pytorch(3, len(shape)).to(dtype).eval()
    for layer in (ours, theirs):  # in float16 the largest number is 65,504
        layer.running_mean.fill_(-4e4), layer.running_var.fill_(6e4)
    X = (4e4 + randn(*shape)).to(dtype)
    assert ours(X).isfinite().all()
    torch.testing.assert_close(ours(X), theirs(X), rtol=torch.finfo(dtype).eps, atol=0)


@both
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("training", [True, False])
@all_ranks
def test_keeps_the_device(kind: type[BatchNorm], device: str, training: bool, shape: tuple[int, ...]) -> None:
    layer = kind(3, len(shape)).to(device).train(training)
    X = torch.ones(shape, device=device)
    for value in (there_and_back(layer, X, X) | averages(layer)).values():
        assert value.device.type == device


# All gradients, all layouts


@torch_itself_warns
@all_ranks
@pytest.mark.parametrize("training", [True, False])
@both
def test_gradients_are_right(kind: type[BatchNorm], training: bool, shape: tuple[int, ...]) -> None:
    layer = randomised(kind(3, len(shape))).double().train(training)

    def function(X: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        return functional_call(layer, dict(weight=gamma, bias=beta), X)

    inputs = [t.detach().double().requires_grad_() for t in (randn(*shape), layer.weight, layer.bias)]
    assert gradcheck(function, inputs, check_forward_ad=kind is BatchNorm)
    assert gradgradcheck(function, inputs)


def unit_vectors(v: Tensor) -> Tensor:
    return torch.eye(len(v), dtype=v.dtype)


def by_autograd(f: Callable, v: Tensor, **settings: bool) -> Tensor:
    v = v.requires_grad_()
    (first,) = grad(f(v), v, create_graph=True, **settings)
    return torch.stack([grad(row, v, retain_graph=True, **settings)[0] for row in first])


def by_backward(f: Callable, v: Tensor) -> Tensor:
    v = v.requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a cycle of references, which ends with the test
        f(v).backward(create_graph=True)
    rows, first = [], v.grad
    for row in first:
        v.grad = None
        row.backward(retain_graph=True)
        rows.append(v.grad)
    return torch.stack(rows)


def gradient(f: Callable) -> Callable[[Tensor], Tensor]:
    return lambda v: grad(f(v), v, create_graph=True)[0]


# Each way to a matrix of second derivatives.
HESSIANS: dict[str, Callable[[Callable, Tensor], Tensor]] = {
    "backward": by_backward,
    "grad": by_autograd,
    "grad, allow_unused": lambda f, v: by_autograd(f, v, allow_unused=True),
    "hessian": functional.hessian,
    "hessian, vectorised": lambda f, v: functional.hessian(f, v, vectorize=True),
    "hessian, forward": lambda f, v: functional.hessian(f, v, vectorize=True, outer_jacobian_strategy="forward-mode"),
    "hvp": lambda f, v: torch.stack([functional.hvp(f, v, e)[1] for e in unit_vectors(v)]),
    "vhp": lambda f, v: torch.stack([functional.vhp(f, v, e)[1] for e in unit_vectors(v)]),
    "jacobian": lambda f, v: functional.jacobian(gradient(f), v),
    "jvp": lambda f, v: torch.stack([functional.jvp(gradient(f), v, e)[1] for e in unit_vectors(v)]),
    "func.hessian": lambda f, v: func.hessian(f)(v),
    "func.grad twice": lambda f, v: torch.stack(
        [func.grad(lambda v, e=e: func.grad(f)(v) @ e)(v) for e in unit_vectors(v)]
    ),
    "func.jacrev twice": lambda f, v: func.jacrev(func.jacrev(f))(v),
    "func.jacfwd twice": lambda f, v: func.jacfwd(func.jacfwd(f))(v),
    "func.jacrev of jacfwd": lambda f, v: func.jacrev(func.jacfwd(f))(v),
    "func.jvp": lambda f, v: torch.stack([func.jvp(func.grad(f), (v,), (e,))[1] for e in unit_vectors(v)]),
    "func.vjp": lambda f, v: torch.stack([func.vjp(func.grad(f), v)[1](e)[0] for e in unit_vectors(v)]),
    "func.vmap": lambda f, v: func.vmap(func.vjp(func.grad(f), v)[1])(unit_vectors(v))[0],
}


def loss_of(layer: nn.Module, shape: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """A function of X, gamma and beta in one vector."""

    def loss(v: Tensor) -> Tensor:
        X, gamma, beta = v.split([prod(shape), shape[1], shape[1]])
        Y = functional_call(layer, dict(weight=gamma, bias=beta), X.view(shape))
        return (Y.pow(3) + Y.exp()).sum()

    return loss


@torch_itself_warns
@pytest.mark.parametrize("door", HESSIANS)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("shape", [(4, 2), (2, 2, 1, 2)], ids=["2-D", "4-D"])
def test_second_derivatives_are_pytorchs_through_every_door(shape: tuple[int, ...], training: bool, door: str) -> None:
    ours, theirs = (layer.train(training) for layer in pair(BatchNorm, shape, torch.float64))
    v = torch.cat([randn(*shape, dtype=torch.float64).flatten(), ours.weight.detach(), ours.bias.detach()])
    expected = functional.hessian(loss_of(theirs, shape), v)
    got = HESSIANS[door](loss_of(ours, shape), v.clone())
    torch.testing.assert_close(got.detach(), expected, rtol=1e-10, atol=1e-10 * expected.abs().max().item())
    theirs(v[: prod(shape)].view(shape))
    if ours.num_batches_tracked == 2:  # the averages moved as well
        assert_close(averages(ours), averages(theirs), {name: 1 for name in averages(ours)})


def test_derivatives_of_higher_order_are_the_readable_versions() -> None:
    # From the fourth on, PyTorch's own layers have other ones than their formula.
    results = []
    for kind in (BatchNorm, Readable):
        x = randn(5, 3, dtype=torch.float64).requires_grad_()
        layer = randomised(kind(3, num_dims=2).double())
        value = layer(x).exp().sum()
        for _ in range(4):
            (derivative,) = grad(value, x, create_graph=True)
            value = derivative.square().sum()
        results.append(derivative.detach())
    torch.testing.assert_close(*results, rtol=1e-9, atol=0)


@all_ranks
def test_keeps_as_much_for_the_backward_pass_as_one_copy_of_the_input(shape: tuple[int, ...]) -> None:
    kept = {}

    def pack(value: Tensor) -> Tensor:
        kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    X, layer = randn(*shape), BatchNorm(3, len(shape))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        layer(X)
    assert sum(kept.values()) == X.nbytes + 2 * 3 * 4  # and gamma and 1 / sqrt(var + eps), a number a feature


# PyTorch's tools


@all_ranks
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_compiles_as_one_graph(shape: tuple[int, ...], training: bool) -> None:
    eager, other = (randomised(BatchNorm(3, len(shape))).train(training) for _ in range(2))
    compare(
        eager, other, compiled(other, fullgraph=True), lambda layer: there_and_back(layer, randn(*shape), randn(*shape))
    )


def test_a_compiled_lenet_learns_the_same() -> None:
    net = lenet(BatchNorm)
    other = deepcopy(net)
    X, y = randn(4, 1, 28, 28), torch.arange(4)
    compare(net, other, compiled(other), lambda net: loss_and_gradients(net, X, y))


def compare(eager: nn.Module, other: nn.Module, compiled: nn.Module, results: Callable[[nn.Module], Results]) -> None:
    expected = results(eager)
    for name, value in results(compiled).items():
        torch.testing.assert_close(value, expected[name.removeprefix("_orig_mod.")], rtol=1e-4, atol=1e-5, msg=name)
    for name, value in other.state_dict().items():
        torch.testing.assert_close(value, eager.state_dict()[name], rtol=1e-4, atol=1e-5, msg=name)


@torch_itself_warns
@pytest.mark.parametrize(
    "record",
    [lambda f, X: torch.export.export(f, (X,)).module(), lambda f, X: torch.jit.trace(f, X, check_trace=False)],
    ids=["export", "trace"],
)
def test_what_records_it_computes_the_same_and_moves_the_averages_once(record: Callable) -> None:
    eager, X = randomised(BatchNorm(3, num_dims=2)), randn(6, 3)
    recorded = record(deepcopy(eager), X)
    recorded.load_state_dict(eager.state_dict())
    torch.testing.assert_close(recorded(X), eager(X))
    for name, value in recorded.state_dict().items():
        torch.testing.assert_close(value, eager.state_dict()[name], msg=name)


def test_mapped_over_batches_in_training_it_is_refused_and_unmoved() -> None:
    layer = BatchNorm(3, num_dims=2)
    before = copy_of_state(layer)
    with pytest.raises(RuntimeError, match="vmap"):
        func.vmap(layer)(randn(2, 6, 3))
    assert same_state(layer.state_dict(), before)


@torch_itself_warns
@all_ranks
def test_mapped_over_batches_or_layers_it_is_pytorchs(shape: tuple[int, ...]) -> None:
    X = randn(2, *shape)
    results = []
    for layer in pair(BatchNorm, shape, torch.float32):
        many = [deepcopy(layer), randomised(deepcopy(layer))]
        state = func.stack_module_state(many)
        of_layers = func.vmap(lambda p, b, X, layer=layer: functional_call(layer, (p, b), X))(*state, X)
        predicted = func.vmap(deepcopy(layer).eval())(X)
        without = func.vmap(func.replace_all_batch_norm_modules_(layer))(X)
        results.append([of_layers, predicted, without, *state[1].values()])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def mixed(norm: Callable[[int, int], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(lenet(norm), nn.BatchNorm1d(10), norm(10, 2))


def test_update_bn_averages_anew_as_for_pytorchs() -> None:
    batches = randn(5, 8, 1, 28, 28).double().unbind()
    ours, theirs = (mixed(norm).double().eval() for norm in (BatchNorm, pytorch))
    ours[0](batches[0]), theirs[0](batches[0])
    for net in (ours, theirs):
        update_bn(batches, net)
    assert not ours.training and ours[0][1].momentum == theirs[0][1].momentum
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, theirs.state_dict()[name], rtol=1e-12, atol=1e-12, msg=name)
    assert ours[0][1].num_batches_tracked == 5


def test_pytorchs_tools_read_what_they_expect() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 3), randomised(BatchNorm(3, num_dims=4, momentum=0.75)))
    sync = nn.SyncBatchNorm.convert_sync_batchnorm(deepcopy(net))[1]
    assert type(sync) is nn.SyncBatchNorm and sync.momentum == net[1].momentum == 0.25 and sync.eps == net[1].eps
    assert same_state(sync.state_dict(), net[1].state_dict())
    X = randn(2, 1, 5, 5)
    torch.testing.assert_close(fuse_conv_bn_eval(*net.eval())(X), net(X), rtol=1e-4, atol=1e-4)


LAYOUTS = {
    "channels last": lambda: randn(4, 3, 2, 5).to(memory_format=torch.channels_last),
    "rows and columns swapped": lambda: randn(4, 3, 5, 2).transpose(2, 3),
    "batch last": lambda: randn(3, 2, 5, 4).permute(3, 0, 1, 2),
    "every second column": lambda: randn(4, 3, 2, 10)[..., ::2],
    "one image throughout": lambda: randn(1, 3, 2, 5).expand(4, 3, 2, 5),
    "one column throughout": lambda: randn(4, 3, 2, 1).expand(4, 3, 2, 5),
    "vectors as columns": lambda: randn(3, 6).T,
    "every second feature": lambda: randn(6, 6)[:, ::2],
    "one feature throughout": lambda: randn(6, 1).expand(6, 3),
}


@both
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dY_layout", ["as X", "contiguous", "one number"])
def test_any_layout_in_memory(kind: type[BatchNorm], layout: str, dY_layout: str) -> None:
    X = LAYOUTS[layout]()
    assert not X.is_contiguous()
    dY = X.square() if dY_layout == "as X" else randn(*X.shape, seed=1)
    if dY_layout == "one number":  # what the gradient of a sum looks like
        dY = dY.flatten()[0].expand(X.shape)
    ours, theirs = pair(kind, X.shape, X.dtype)
    sizes = sizes_of_terms(theirs, X, dY)
    expected = there_and_back(theirs, X.contiguous(), dY.contiguous())
    assert_close(there_and_back(ours, X, dY), expected, sizes)


def test_channels_last_stays_so() -> None:
    X = LAYOUTS["channels last"]()
    got = there_and_back(BatchNorm(3, num_dims=4), X, X)
    assert got["Y"].is_contiguous(memory_format=torch.channels_last)
    assert got["dX"].is_contiguous(memory_format=torch.channels_last)


@both
@all_ranks
def test_the_next_layer_may_work_in_place(kind: type[BatchNorm], shape: tuple[int, ...]) -> None:
    X, dY, layer = randn(*shape), randn(*shape, seed=1), randomised(kind(3, len(shape)))
    results = []
    for inplace in (True, False):
        X = X.detach().requires_grad_()
        nn.ReLU(inplace)(layer(X)).backward(dY)
        results.append(X.grad)
    assert torch.equal(*results)


@both
@all_ranks
def test_the_input_and_the_parameters_stay_as_they_are(kind: type[BatchNorm], shape: tuple[int, ...]) -> None:
    X, dY, layer = randn(*shape), randn(*shape, seed=1), randomised(kind(3, len(shape)))
    given = X, dY, layer.weight.detach(), layer.bias.detach()
    before = deepcopy(given)
    there_and_back(layer, X, dY)
    assert all(map(torch.equal, given, before))


@torch_itself_warns
def test_the_function_returns_new_averages_without_a_graph() -> None:
    X, gamma, beta = randn(6, 3).requires_grad_(), torch.ones(3, requires_grad=True), torch.zeros(3)
    mean, var = torch.zeros(3), torch.ones(3)
    _, new_mean, new_var = batch_norm(True, X, gamma, beta, mean, var)
    assert torch.equal(mean, torch.zeros(3)) and torch.equal(var, torch.ones(3))
    assert not new_mean.requires_grad and not new_var.requires_grad
    assert not func.jacfwd(lambda X: batch_norm(True, X, gamma, beta, mean, var)[1])(X.detach()).any()
    _, same_mean, same_var = batch_norm(False, X, gamma, beta, mean, var)
    assert same_mean is mean and same_var is var


# State and mode


def trained(layer: nn.Module, shape: tuple[int, ...], batches: int = 3) -> nn.Module:
    for seed in range(batches):
        layer(2 * randn(*shape, seed=seed) + 1)
    return layer


def copy_of_state(layer: nn.Module) -> Results:
    return {name: value.clone() for name, value in layer.state_dict().items()}


def same_state(one: Results, other: Results) -> bool:
    return list(one) == list(other) and all(torch.equal(value, other[name]) for name, value in one.items())


@all_ranks
@pytest.mark.parametrize(("source", "target"), [(BatchNorm, pytorch), (pytorch, BatchNorm), (BatchNorm, BatchNorm)])
def test_state_goes_to_pytorch_and_back(source: type, target: type, shape: tuple[int, ...]) -> None:
    old = trained(randomised(source(3, len(shape))), shape)
    new = target(3, len(shape))
    new.load_state_dict(old.state_dict(), strict=True)
    assert same_state(new.state_dict(), old.state_dict())
    assert new.num_batches_tracked == 3 and new.num_batches_tracked.dtype == torch.int64
    X = randn(*shape, seed=9)
    for mode in (False, True):  # the same predictions, and the same training from here on
        old.train(mode), new.train(mode)
        sizes = sizes_of_terms(old, X, X)
        assert_close(there_and_back(new, X, X), there_and_back(old, X, X), sizes)
    assert new.num_batches_tracked == old.num_batches_tracked == 4


@pytest.mark.parametrize("missing", ["weight", "running_var", "num_batches_tracked"])
def test_a_state_with_a_gap_is_refused(missing: str) -> None:
    state = pytorch(3, 4).state_dict()
    del state[missing]
    with pytest.raises(RuntimeError, match=missing):
        BatchNorm(3, num_dims=4).load_state_dict(state)


def test_statistics_are_in_the_state_dict() -> None:
    # d2l keeps them as plain attributes: a saved net predicts with a mean of 0 and a variance of 1.
    layer = BatchNorm(3, num_dims=2)
    names = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    assert list(layer.state_dict()) == names
    assert [name for name, _ in layer.named_parameters()] == names[:2]
    state = trained(layer, (6, 3)).state_dict()
    assert not torch.equal(state["running_mean"], torch.zeros(3))
    assert not torch.equal(state["running_var"], torch.ones(3))


def test_a_new_layer_starts_as_pytorchs() -> None:
    assert same_state(BatchNorm(3, num_dims=4).state_dict(), nn.BatchNorm2d(3).state_dict())


@both
def test_normalises_with_the_biased_variance_and_averages_the_unbiased(kind: type[BatchNorm]) -> None:
    # d2l averages the biased one, and so predicts with too small a variance: here by half.
    layer = kind(1, num_dims=2, eps=1e-12, momentum=0.0)
    Y = layer(torch.tensor([[1.0], [5.0]]))
    assert Y.flatten().tolist() == [-1.0, 1.0]  # (5 - 3) / sqrt(4)
    assert layer.running_var.item() == 8.0  # ((1 - 3)² + (5 - 3)²) / (2 - 1)


@both
@pytest.mark.parametrize(("momentum", "mean", "var"), [(0.0, 3.0, 8.0), (0.9, 6.6, 15.2), (1.0, 7.0, 16.0)])
def test_momentum_is_the_weight_of_the_old_average(
    kind: type[BatchNorm], momentum: float, mean: float, var: float
) -> None:
    layer = kind(1, num_dims=2, momentum=momentum)
    layer.running_mean.fill_(7.0)
    layer.running_var.fill_(16.0)
    layer(torch.tensor([[1.0], [5.0]]))  # mean 3, unbiased variance 8
    assert layer.running_mean.item() == pytest.approx(mean, rel=1e-6)
    assert layer.running_var.item() == pytest.approx(var, rel=1e-6)


@both
@all_ranks
@pytest.mark.parametrize("grad_enabled", [True, False])
def test_the_mode_decides_and_not_whether_gradients_are_on(
    kind: type[BatchNorm], grad_enabled: bool, shape: tuple[int, ...]
) -> None:
    # d2l asks is_grad_enabled, so that a forward pass under no_grad predicts in the middle of training.
    layer, twin = (trained(randomised(kind(3, len(shape))), shape) for _ in range(2))
    X = 5 * randn(*shape, seed=9) - 2
    from_the_batch = twin(X).detach()
    with torch.set_grad_enabled(grad_enabled):
        assert torch.equal(layer(X), from_the_batch)
        assert same_state(layer.state_dict(), twin.state_dict())
        assert layer.num_batches_tracked == (4 if kind is BatchNorm else 0)  # the function has no counter
        layer.eval()
        Y = layer(X)
    state = layer.weight, layer.bias, layer.running_mean, layer.running_var
    gamma, beta, mean, var = (t.detach().view(1, 3, *(1,) * (X.dim() - 2)) for t in state)
    torch.testing.assert_close(Y.detach(), gamma * (X - mean) / torch.sqrt(var + 1e-5) + beta)
    assert not torch.allclose(Y, from_the_batch)
    assert same_state(layer.state_dict(), twin.state_dict())


@all_ranks
@pytest.mark.parametrize("copied", [deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copy_has_a_state_of_its_own(copied: Callable, shape: tuple[int, ...]) -> None:
    layer = trained(randomised(BatchNorm(3, len(shape))), shape)
    before, twin = copy_of_state(layer), copied(layer)
    assert same_state(twin.state_dict(), before) and str(twin) == str(layer)
    trained(twin, shape)
    assert same_state(layer.state_dict(), before)
    assert twin.num_batches_tracked == 6


def test_to_float64_takes_parameters_and_averages_along() -> None:
    layer = trained(BatchNorm(3, num_dims=2), (6, 3))
    mean = layer.running_mean.clone()
    layer.to(torch.float64)
    assert [value.dtype for value in layer.state_dict().values()] == [torch.float64] * 4 + [torch.int64]
    assert torch.equal(layer.running_mean, mean.double())
    assert layer(randn(6, 3).double()).dtype == torch.float64


def test_repr_says_what_was_asked_for() -> None:
    assert str(BatchNorm(3, num_dims=4)) == "BatchNorm(3, num_dims=4, eps=1e-05, momentum=0.9)"
    layer = BatchNorm(3, num_dims=2, eps=0.1, momentum=0.3)
    assert str(layer) == "BatchNorm(3, num_dims=2, eps=0.1, momentum=0.3)"
    layer.momentum = None  # as PyTorch's update_bn does
    assert str(layer).endswith("momentum=cumulative)")


# Refusals


STATE = dict(gamma=torch.ones(3), beta=torch.zeros(3), moving_mean=torch.zeros(3), moving_var=torch.ones(3))
BAD_INPUTS = [
    (torch.ones(3), ValueError, r"X: expected .*\(m, d\) or \(m, c, h, w\), got \(3,\)"),
    (torch.ones(4, 3, 2), ValueError, r"X: expected .*\(m, d\) or \(m, c, h, w\), got \(4, 3, 2\)"),
    (torch.ones(0, 3), ValueError, r"X: expected at least one value, got shape \(0, 3\)"),
    (torch.ones(4, 3, 0, 2), ValueError, r"X: expected at least one value, got shape \(4, 3, 0, 2\)"),
]
BAD_KINDS = [
    (torch.ones(4, 3) > 0, TypeError, "X: expected real numbers, got torch.bool"),
    (torch.ones(4, 3).double(), TypeError, "gamma: expected X's dtype torch.float64, got torch.float32"),
    (torch.ones(4, 3, device="meta"), ValueError, "gamma: expected X's device meta, got cpu"),
    ([[1.0, 2.0, 3.0], [1.0]], ValueError, "X: expected rows of one length, got "),
    (None, TypeError, "X: expected numbers, got None"),
]
BAD_KINDS_OF_THE_LAYER = [
    (torch.ones(4, 3).int(), TypeError, "X: expected torch.float32, got torch.int32"),
    (torch.ones(4, 3) > 0, TypeError, "X: expected torch.float32, got torch.bool"),
    (torch.ones(4, 3).double(), TypeError, "X: expected torch.float32, got torch.float64"),
    (torch.ones(4, 3, device="meta"), ValueError, "X: expected the layer's device cpu, got meta"),
    (np.ones((4, 3), np.float32), TypeError, "X: expected a tensor, got ndarray"),
    ([[1.0, 2.0, 3.0]], TypeError, "X: expected a tensor, got list"),
]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("X", "error", "message"), BAD_INPUTS + BAD_KINDS)
def test_the_function_refuses_a_bad_input(training: bool, X: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        batch_norm(training, X, **STATE)


@pytest.mark.parametrize("value", [1, None, "train", torch.tensor(True)])
def test_the_function_refuses_another_mode(value: object) -> None:
    with pytest.raises(TypeError, match="is_training: expected a bool, got "):
        batch_norm(value, torch.ones(4, 3), **STATE)


@pytest.mark.parametrize("training", [True, np.False_])
@pytest.mark.parametrize(
    "kind",
    [np.asarray, lambda t: t.tolist(), lambda t: t.int(), lambda t: t.numpy().astype(">f4"), lambda t: t.numpy()[:]],
    ids=["array", "list", "integers", "backwards", "view"],
)
def test_the_function_takes_numbers_of_any_kind(kind: Callable[[Tensor], object], training: bool) -> None:
    X = torch.tensor([[1.0, -2.0, 3.0], [4.0, 0.0, -6.0]])
    expected = batch_norm(training, X, **STATE, eps=0.5, momentum=0.5)
    given = {name: kind(value) for name, value in STATE.items()}
    got = batch_norm(training, kind(X), **given, eps=np.float32(0.5), momentum=torch.tensor(0.5))
    assert all(map(torch.equal, got, expected))


@pytest.mark.parametrize("training", [True, False])
def test_another_number_of_features_is_refused(training: bool) -> None:
    with pytest.raises(ValueError, match=r"gamma: expected shape \(5,\) to fit X \(4, 5\), got \(3,\)"):
        batch_norm(training, torch.ones(4, 5), **STATE)
    with pytest.raises(ValueError, match=r"X: expected 3 features, got shape \(4, 5\)"):
        BatchNorm(3, 2).train(training)(torch.ones(4, 5))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("X", "error", "message"), BAD_INPUTS[2:] + BAD_KINDS_OF_THE_LAYER)
def test_the_layer_refuses_a_bad_input(training: bool, X: object, error: type[Exception], message: str) -> None:
    layer = BatchNorm(3, getattr(X, "ndim", 2)).train(training)
    before = copy_of_state(layer)
    with pytest.raises(error, match=message):
        layer(X)
    assert same_state(layer.state_dict(), before)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("num_dims", "shape"), [(2, (4, 3, 1, 1)), (4, (4, 3)), (2, (3,)), (4, (3, 2, 2))])
def test_the_layer_refuses_another_rank(training: bool, num_dims: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"X: expected {num_dims} dimensions, got shape \({shape[0]},"):
        BatchNorm(3, num_dims).train(training)(torch.ones(shape))


@both
@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)])
def test_one_value_a_feature_will_do_to_predict_but_not_to_train(kind: type[BatchNorm], shape: tuple[int, ...]) -> None:
    layer = kind(3, len(shape))
    with pytest.raises(ValueError, match=r"X: expected more than one value a feature in training, got shape \(1, 3"):
        layer(torch.ones(shape))
    assert same_state(layer.state_dict(), kind(3, len(shape)).state_dict())
    torch.testing.assert_close(layer.eval()(torch.ones(shape)), torch.full(shape, (1 + 1e-5) ** -0.5))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", STATE)
@pytest.mark.parametrize("shape", [(2,), (1,), (), (1, 3), (4, 3)])
def test_state_of_the_wrong_shape(training: bool, name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"{name}: expected shape \(3,\) to fit X \(4, 3\), got \("):
        batch_norm(training, torch.ones(4, 3), **STATE | {name: torch.ones(shape)})


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", STATE)
def test_state_of_another_dtype(training: bool, name: str) -> None:
    with pytest.raises(TypeError, match=f"{name}: expected X's dtype torch.float32, got torch.float64"):
        batch_norm(training, torch.ones(4, 3), **STATE | {name: torch.ones(3).double()})


BAD_SETTINGS = [
    *((dict(eps=eps), rf"eps: expected a number in \(0, inf\), got {eps}") for eps in (0.0, -1e-5, nan, inf)),
    *((dict(momentum=m), rf"momentum: expected a number in \[0, 1\], got {m}") for m in (-0.1, 1.1, nan)),
    *(
        ({name: value}, f"{name}: expected a number, got {value!r}")
        for name in ("eps", "momentum")
        for value in (None, "1e-5", True)
    ),
]


@pytest.mark.parametrize(("settings", "message"), BAD_SETTINGS)
def test_bad_settings(settings: dict[str, float], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        BatchNorm(3, num_dims=2, **settings)
    for training in (True, False):
        with pytest.raises((ValueError, TypeError), match=message):
            batch_norm(training, torch.ones(4, 3), **STATE, **settings)


@pytest.mark.parametrize("num_dims", [0, 1, 3, 5, -2])
def test_bad_num_dims(num_dims: int) -> None:
    with pytest.raises(ValueError, match=rf"num_dims: expected 2 for \(m, d\) or 4 for .*, got {num_dims}"):
        BatchNorm(3, num_dims)


@pytest.mark.parametrize("name", ["num_features", "num_dims"])
@pytest.mark.parametrize("value", [4.0, "4", None, True, (4,)])
def test_sizes_of_another_type(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"{name}: expected an int, got") as error:
        BatchNorm(**dict(num_features=3, num_dims=2) | {name: value})
    assert str(error.value).endswith(repr(value))


@pytest.mark.parametrize("kind", [np.int64, np.uint8, torch.tensor])
def test_sizes_and_settings_of_any_kind(kind: Callable) -> None:
    layer = BatchNorm(kind(3), kind(2), np.float32(0.5), torch.tensor(0.5))
    assert str(layer) == "BatchNorm(3, num_dims=2, eps=0.5, momentum=0.5)"
    assert layer(randn(6, 3)).shape == (6, 3)


@pytest.mark.parametrize("num_features", [0, -3])
def test_too_few_features(num_features: int) -> None:
    with pytest.raises(ValueError, match=f"num_features: expected at least 1, got {num_features}"):
        BatchNorm(num_features, num_dims=2)


# LeNet


def group_norm(num_features: int, num_dims: int) -> nn.Module:
    return nn.GroupNorm(2, num_features)


NORMS = {"none": None, "ours": BatchNorm, "readable": Readable, "PyTorch's": pytorch, "groups": group_norm}
PER_NORM = 2 * (6 + 16 + 120 + 84)


@pytest.mark.parametrize("norm", NORMS)
def test_lenet_has_ten_scores_an_image_and_a_known_size(norm: str) -> None:
    net = lenet(NORMS[norm])
    assert net(randn(3, 1, 28, 28)).shape == (3, 10)
    assert sum(p.numel() for p in net.parameters()) == 44426 + (0 if norm == "none" else PER_NORM)


@pytest.mark.parametrize("activation", [nn.Sigmoid, nn.ReLU])
def test_lenet_normalises_between_each_layer_and_its_activation(activation: type[nn.Module]) -> None:
    asked = []

    def norm(*sizes: int) -> BatchNorm:
        asked.append(sizes)
        return BatchNorm(*sizes)

    kinds = [type(layer) for layer in lenet(norm, activation)]
    assert asked == [(6, 4), (16, 4), (120, 2), (84, 2)]
    block = [BatchNorm, activation]
    convolution, dense = [nn.Conv2d, *block, nn.AvgPool2d], [nn.Linear, *block]
    assert kinds == [*convolution, *convolution, nn.Flatten, *dense, *dense, nn.Linear]
    without = [type(layer) for layer in lenet(None, activation)]
    assert without == [kind for kind in kinds if kind is not BatchNorm]


def loss_and_gradients(net: nn.Module, X: Tensor, y: Tensor) -> Results:
    X = X.detach().requires_grad_()
    loss = nn.functional.cross_entropy(net(X), y)
    loss.backward()
    return dict(loss=loss.detach(), X=X.grad) | {name: p.grad for name, p in net.named_parameters()}


@pytest.mark.parametrize("kind", [BatchNorm, Readable])
@pytest.mark.parametrize("activation", [nn.Sigmoid, nn.ReLU])
def test_lenet_learns_the_same_with_ours_and_with_pytorchs(kind: type[BatchNorm], activation: type[nn.Module]) -> None:
    theirs = lenet(pytorch, activation).double()
    ours = lenet(kind, activation).double()
    ours.load_state_dict(theirs.state_dict())
    X, y = randn(16, 1, 28, 28).double(), torch.arange(16) % 10
    got, expected = loss_and_gradients(ours, X, y), loss_and_gradients(theirs, X, y)
    assert list(got) == list(expected)
    for name, value in got.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(X), theirs(X), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["norm", "activation"])
def test_lenet_refuses_what_makes_no_layer(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name}: expected a function, got 'ours'"):
        lenet(**{name: "ours"})


@pytest.mark.parametrize("norm", [None, BatchNorm], ids=["none", "ours"])
def test_lenet_has_a_right_gradient_at_every_parameter_and_at_the_input(norm: type[BatchNorm] | None) -> None:
    net = lenet(norm).double()
    names = [name for name, _ in net.named_parameters()]

    def scores(X: Tensor, *parameters: Tensor) -> Tensor:
        return functional_call(net, dict(zip(names, parameters, strict=True)), X)

    X = randn(3, 1, 28, 28).double().requires_grad_()
    assert gradcheck(scores, (X, *net.parameters()), fast_mode=True)
    loss_and_gradients(net, X, torch.arange(3))
    for layer, following in zip(net, [*net][1:] + [None], strict=True):
        for name, parameter in layer.named_parameters():
            idle = name == "bias" and isinstance(following, BatchNorm)  # the norm takes any shift out again
            assert (parameter.grad.abs().max() < 1e-12) == idle, (layer, name)


def test_default_eps_is_that_of_pytorch() -> None:
    X, zero, one = 1e-3 * randn(8, 3, dtype=torch.float64), torch.zeros(3).double(), torch.ones(3).double()
    Y, _, _ = batch_norm(True, X, one, zero, zero, one)
    torch.testing.assert_close(Y, nn.functional.batch_norm(X, None, None, training=True), rtol=0, atol=1e-12)
