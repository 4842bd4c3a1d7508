"""Both versions of batch normalisation do what PyTorch's layers do, with the same state, through PyTorch's own tools.

What test_doors tries on all layers (modes, copies, numbers of any kind and size) is not tried again
here; bad arguments are in test_refusals.
"""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from math import pi, prod

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, func, nn
from torch.autograd import functional, grad
from torch.func import functional_call
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.optim.swa_utils import update_bn

from lessons_lib.batch_norm import BatchNorm, batch_norm, lenet
from lessons_lib.training import Memory
from tests import nets
from tests.nets import compiled
from tools.benchmarks import Readable

randn = partial(nets.randn, dtype=torch.float32)
randomised = partial(nets.randomised, dtype=torch.float32)
Results = dict[str, Tensor]
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}

both = pytest.mark.parametrize("kind", [BatchNorm, Readable])
modes = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
all_ranks = pytest.mark.parametrize("shape", [(6, 3), (4, 3, 2, 5)], ids=["2-D", "4-D"])
# Of torch.jit, which forward-mode differentiation uses too, of Python numbers in it, and of what vmap does slowly.
torch_itself_warns = pytest.mark.filterwarnings(
    "ignore:.*torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore:There is a performance"
)


def pytorch(num_features: int, num_dims: int, eps: float = 1e-5, momentum: float = 0.9) -> nn.Module:
    """PyTorch's own layer; `momentum` is ours, the weight of the old average."""
    return (nn.BatchNorm1d if num_dims == 2 else nn.BatchNorm2d)(num_features, eps=eps, momentum=1 - momentum)


def pair(kind: type[BatchNorm], shape: tuple[int, ...], dtype: torch.dtype, **settings: float) -> tuple[nn.Module, ...]:
    """Our layer and PyTorch's, with the same random state."""
    theirs = nets.randomised(pytorch(shape[1], len(shape), **settings), dtype)
    ours = kind(shape[1], len(shape), **settings).to(dtype)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def there_and_back(layer: nn.Module, X: Tensor, dY: Tensor) -> Results:
    X = X.detach().requires_grad_()
    layer.zero_grad()
    Y = layer(X)
    Y.backward(dY)
    averages = dict(running_mean=layer.running_mean, running_var=layer.running_var)
    return dict(Y=Y.detach(), dX=X.grad, dgamma=layer.weight.grad, dbeta=layer.bias.grad) | averages


def same_state(one: nn.Module, other: nn.Module) -> bool:
    """The same names in the same order, and the same numbers."""
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(name == name_2 and torch.equal(value, value_2) for (name, value), (name_2, value_2) in pairs)


# As PyTorch


def sizes_of_terms(layer: nn.Module, X: Tensor, dY: Tensor) -> Results:
    """For each result, the size of the terms that it adds up, a number a feature: the unit of its rounding error.

    A result cannot be measured against itself: where terms cancel it is as small as you like, and its error is not.
    Rounding X moves X_hat by the last digit of max|X| rstd (`reach`: how many standard deviations X lies from zero),
    because the mean that is subtracted is as large as X. Over 10,000 batches drawn as below no result is farther from
    PyTorch's, in these units, than 5.3e-7 in float32 and 3e-15 in float64.
    """
    X, dY, gamma, beta, old_mean, old_var = (
        t.detach().double() for t in (X, dY, layer.weight, layer.bias, layer.running_mean, layer.running_var)
    )
    x, dy = X.transpose(0, 1).flatten(1), dY.transpose(0, 1).flatten(1)  # one row a feature
    mean, var = (x.mean(1), x.var(1, correction=0)) if layer.training else (old_mean, old_var)
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
        running_mean=x.abs().amax(1) + old_mean.abs(),
        running_var=var * reach * (1 + 1 / max(x.shape[1] - 1, 1)) + old_var,
        reach=reach,
    )


def assert_close(got: Results, expected: Results, sizes: Results) -> None:
    for name, value in got.items():
        assert value.shape == expected[name].shape
        error = (value.double() - expected[name].double()).abs()
        allowed = TOLERANCE[value.dtype] * sizes[name]
        assert (error <= allowed).all(), f"{name}: off by {error.max():.1e}, allowed {allowed.max():.1e}"


@both
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(2, 9), st.integers(1, 5))
    | st.tuples(*[st.integers(1, 6)] * 4).filter(lambda shape: prod(shape) > shape[1]),
    flat=st.booleans(),
    momentum=st.sampled_from([0, 0.3, 0.9, 1]),
    seed=st.integers(0, 2**32),
    scale=st.sampled_from([0.1, 1, 100]),
    offset=st.sampled_from([0, 1, 30]),
    layout=st.sampled_from(["as it comes", "last dimension first", "one gradient throughout"]),
)
@example(shape=(2, 3), flat=True, momentum=0.9, seed=0, scale=1, offset=1, layout="as it comes")
@example(shape=(2, 3, 1, 1), flat=True, momentum=0.9, seed=0, scale=1, offset=1, layout="last dimension first")
@example(shape=(1, 3, 1, 2), flat=True, momentum=0.9, seed=0, scale=1, offset=1, layout="one gradient throughout")
def test_agrees_with_pytorch(
    kind: type[BatchNorm],
    dtype: torch.dtype,
    shape: tuple[int, ...],
    flat: bool,
    momentum: float,
    seed: int,
    scale: float,
    offset: float,
    layout: str,
) -> None:
    centres = nets.randn(1, shape[1], *(1,) * (len(shape) - 2), seed=seed)
    X = scale * (nets.randn(*shape, seed=seed + 1) + offset * centres)
    if flat:  # one feature has the same value throughout, and nothing but eps to divide by
        X[:, 0] = pi
    X, dY = X.to(dtype), nets.randn(*shape, seed=seed + 2, dtype=dtype)
    if layout == "last dimension first":
        X, dY = (t.movedim(-1, 0).contiguous().movedim(0, -1) for t in (X, dY))
    elif layout == "one gradient throughout":  # as that of a sum
        dY = torch.tensor(0.5, dtype=dtype).expand(shape)
    given = X.clone(), dY.clone()
    ours, theirs = pair(kind, shape, dtype, eps=(1e-5, 1e-3)[seed % 2], momentum=momentum)
    # Farther from zero, float32 has lost more than three digits of X - mean before anyone computes anything.
    assume(sizes_of_terms(theirs, X, dY)["reach"].max() <= 1000)
    for training in (True, False):
        ours.train(training), theirs.train(training)
        sizes = sizes_of_terms(theirs, X, dY)
        got = there_and_back(ours, X, dY)
        assert {value.dtype for value in got.values()} == {dtype}
        assert_close(got, there_and_back(theirs, X, dY), sizes)
        assert ours.num_batches_tracked == (kind is BatchNorm)  # the function has no counter
        ours.load_state_dict(theirs.state_dict())
        ours.num_batches_tracked.fill_(kind is BatchNorm)
    assert all(map(torch.equal, (X, dY), given))  # left as they were


@both
@pytest.mark.parametrize("shape", [(128, 6, 24, 24), (128, 16, 8, 8), (128, 120), (128, 84)])
def test_sums_of_lenets_size_are_accurate_in_float32(kind: type[BatchNorm], shape: tuple[int, ...]) -> None:
    # Against PyTorch in float64: its float32 sums over a batch of vectors are themselves off by up to 9e-7 here.
    X, dY = randn(*shape) + 10 * randn(1, *shape[1:2], *(1,) * (len(shape) - 2), seed=1), randn(*shape, seed=2)
    ours, theirs = pair(kind, shape, torch.float32)
    sizes = sizes_of_terms(theirs.double(), X, dY)
    assert_close(there_and_back(ours, X, dY), there_and_back(theirs, X.double(), dY.double()), sizes)


@modes
@pytest.mark.parametrize("mixed", [True, False], ids=["mixed", "half"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(64, 2), (64, 2, 24, 24)], ids=["2-D", "4-D"])
def test_in_half_precision_it_computes_in_float32(
    shape: tuple[int, ...], dtype: torch.dtype, mixed: bool, training: bool
) -> None:
    # In float16 the sum of these squares is beyond the largest number, their mean is not.
    X, dY = (2 * randn(*shape) + 3).to(dtype), randn(*shape, seed=1).to(dtype)
    state_dtype = torch.float32 if mixed else dtype
    ours, theirs = (layer.train(training) for layer in pair(BatchNorm, shape, state_dtype))
    expected = there_and_back(theirs.double(), X.double(), dY.double())
    for name, value in there_and_back(ours, X, dY).items():
        assert value.dtype == (dtype if name in ("Y", "dX") else state_dtype), name
        error = (value.double() - expected[name]).abs().max() / expected[name].abs().max()
        assert error < (1e-5 if value.dtype == torch.float32 else 4 * torch.finfo(dtype).eps), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@all_ranks
def test_in_half_precision_it_predicts_where_differences_overflow(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    ours, theirs = BatchNorm(3, len(shape)).to(dtype).eval(), pytorch(3, len(shape)).to(dtype).eval()
    for layer in (ours, theirs):  # in float16 the largest number is 65,504
        layer.running_mean.fill_(-4e4), layer.running_var.fill_(6e4)
    X = (4e4 + randn(*shape)).to(dtype)
    assert ours(X).isfinite().all()
    torch.testing.assert_close(ours(X), theirs(X), rtol=torch.finfo(dtype).eps, atol=0)


@both
@modes
@all_ranks
def test_keeps_the_device(kind: type[BatchNorm], training: bool, shape: tuple[int, ...]) -> None:
    layer, X = kind(3, len(shape)).to("meta").train(training), torch.ones(shape, device="meta")
    assert {value.device.type for value in there_and_back(layer, X, X).values()} == {"meta"}


def test_a_new_layer_and_the_function_have_pytorchs_defaults() -> None:
    ours, theirs = BatchNorm(3, num_dims=2).double(), nn.BatchNorm1d(3).double()
    assert same_state(ours, theirs)
    assert [name for name, _ in ours.named_parameters()] == ["weight", "bias"]
    X, zero, one = 1e-3 * nets.randn(8, 3), torch.zeros(3).double(), torch.ones(3).double()
    Y, mean, var = batch_norm(True, X, one, zero, zero, one)
    for layer in (ours, theirs):
        torch.testing.assert_close(layer(X), Y, rtol=0, atol=1e-12)
        torch.testing.assert_close(layer.running_mean, mean, rtol=0, atol=1e-15)
        torch.testing.assert_close(layer.running_var, var, rtol=0, atol=1e-12)


# All gradients


def unit_vectors(v: Tensor) -> Tensor:
    return torch.eye(len(v), dtype=v.dtype)


def by_autograd(f: Callable, v: Tensor) -> Tensor:
    first = gradient(f)(v.requires_grad_())
    return torch.stack([grad(row, v, retain_graph=True, allow_unused=True)[0] for row in first])


def gradient(f: Callable) -> Callable[[Tensor], Tensor]:
    return lambda v: grad(f(v), v, create_graph=True)[0]


# Each way to a matrix of second derivatives.
HESSIANS: dict[str, Callable[[Callable, Tensor], Tensor]] = {
    "grad": by_autograd,
    "hessian": functional.hessian,
    "hessian, vectorised": lambda f, v: functional.hessian(f, v, vectorize=True),
    "hessian, forward": lambda f, v: functional.hessian(f, v, vectorize=True, outer_jacobian_strategy="forward-mode"),
    "hvp": lambda f, v: torch.stack([functional.hvp(f, v, e)[1] for e in unit_vectors(v)]),
    "vhp": lambda f, v: torch.stack([functional.vhp(f, v, e)[1] for e in unit_vectors(v)]),
    "jvp": lambda f, v: torch.stack([functional.jvp(gradient(f), v, e)[1] for e in unit_vectors(v)]),
    "func.hessian": lambda f, v: func.hessian(f)(v),
    "func.jacrev twice": lambda f, v: func.jacrev(func.jacrev(f))(v),
    "func.jacfwd twice": lambda f, v: func.jacfwd(func.jacfwd(f))(v),
    "func.jacrev of jacfwd": lambda f, v: func.jacrev(func.jacfwd(f))(v),
    "func.jvp": lambda f, v: torch.stack([func.jvp(func.grad(f), (v,), (e,))[1] for e in unit_vectors(v)]),
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
@modes
@pytest.mark.parametrize("shape", [(4, 2), (2, 2, 1, 2)], ids=["2-D", "4-D"])
def test_second_derivatives_are_pytorchs_through_every_door(shape: tuple[int, ...], training: bool, door: str) -> None:
    ours, theirs = (layer.train(training) for layer in pair(BatchNorm, shape, torch.float64))
    v = torch.cat([nets.randn(*shape).flatten(), ours.weight.detach(), ours.bias.detach()])
    expected = functional.hessian(loss_of(theirs, shape), v)
    got = HESSIANS[door](loss_of(ours, shape), v.clone())
    torch.testing.assert_close(got.detach(), expected, rtol=1e-10, atol=1e-10 * expected.abs().max().item())
    if ours.num_batches_tracked == 1:  # the averages moved as well
        torch.testing.assert_close(ours.running_mean, theirs.running_mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=1e-12, atol=1e-12)


@all_ranks
def test_keeps_as_much_for_the_backward_pass_as_one_copy_of_the_input(shape: tuple[int, ...]) -> None:
    X, layer = randn(*shape), BatchNorm(3, len(shape))
    with Memory() as memory:
        Y = layer(X)
    assert memory.now == Y.nbytes + X.nbytes + 3 * 4  # and 1 / sqrt(var + eps), a number a feature


@both
@all_ranks
def test_the_next_layer_may_work_in_place(kind: type[BatchNorm], shape: tuple[int, ...]) -> None:
    layer, results = randomised(kind(3, len(shape))), []
    for inplace in (True, False):
        X = randn(*shape).requires_grad_()
        nn.ReLU(inplace)(layer(X)).backward(randn(*shape, seed=1))
        results.append(X.grad)
    assert torch.equal(*results)


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


# PyTorch's tools


RECORDERS = {
    "compile": lambda layer, X: compiled(layer, fullgraph=True),
    "export": lambda layer, X: torch.export.export(layer, (X,)).module(),
    "trace": lambda layer, X: torch.jit.trace(layer, X, check_trace=False),
}


@torch_itself_warns
@pytest.mark.parametrize("record", RECORDERS.values(), ids=RECORDERS)
@all_ranks
@modes
def test_what_records_it_computes_and_learns_the_same(record: Callable, shape: tuple[int, ...], training: bool) -> None:
    layer, X, results = randomised(BatchNorm(3, len(shape))).train(training), randn(*shape), []
    recorded = record(deepcopy(layer), X)
    recorded.load_state_dict(layer.state_dict(prefix="_orig_mod." if hasattr(recorded, "_orig_mod") else ""))
    for net in (recorded, layer):
        x = X.clone().requires_grad_()
        Y = net(x)
        Y.square().sum().backward()
        results.append([Y, x.grad, *net.state_dict().values(), *(p.grad for p in net.parameters())])
    torch.testing.assert_close(*results)
    assert layer.num_batches_tracked == training


def test_mapped_over_batches_in_training_it_is_refused_and_unmoved() -> None:
    layer = BatchNorm(3, num_dims=2)
    with pytest.raises(RuntimeError, match="vmap"):
        func.vmap(layer)(randn(2, 6, 3))
    assert same_state(layer, BatchNorm(3, num_dims=2))


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
        without_averages = func.replace_all_batch_norm_modules_(layer)
        without = [func.vmap(without_averages.train(training))(X) for training in (True, False)]
        results.append([of_layers, predicted, *without, *state[1].values()])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_update_bn_averages_anew_as_for_pytorchs() -> None:
    batches = nets.randn(5, 8, 1, 28, 28).unbind()
    norms = BatchNorm, pytorch
    ours, theirs = (nn.Sequential(lenet(norm), nn.BatchNorm1d(10), norm(10, 2)).double() for norm in norms)
    theirs.load_state_dict(ours.state_dict())
    for net in (ours, theirs):
        net.eval()[0](batches[0])
        update_bn(batches, net)
    assert not ours.training and ours[0][1].momentum == theirs[0][1].momentum
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, theirs.state_dict()[name], rtol=1e-12, atol=1e-12, msg=name)
    assert ours[0][1].num_batches_tracked == 5


def test_pytorchs_tools_read_what_they_expect() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 3), randomised(BatchNorm(3, num_dims=4, momentum=0.75)))
    sync = nn.SyncBatchNorm.convert_sync_batchnorm(deepcopy(net))[1]
    assert type(sync) is nn.SyncBatchNorm and sync.momentum == net[1].momentum == 0.25 and sync.eps == net[1].eps
    assert same_state(sync, net[1])
    X = randn(2, 1, 5, 5)
    torch.testing.assert_close(fuse_conv_bn_eval(*net.eval())(X), net(X), rtol=1e-4, atol=1e-4)


def test_channels_last_stays_so() -> None:
    X = randn(4, 3, 2, 5).to(memory_format=torch.channels_last)
    got = there_and_back(BatchNorm(3, 4), X, X)
    assert all(got[name].is_contiguous(memory_format=torch.channels_last) for name in ("Y", "dX"))


def test_repr_says_what_was_asked_for() -> None:
    assert str(BatchNorm(3, num_dims=4)) == "BatchNorm(3, num_dims=4, eps=1e-05, momentum=0.9)"
    layer = BatchNorm(3, num_dims=2, eps=0.1, momentum=0.3)
    assert str(layer) == "BatchNorm(3, num_dims=2, eps=0.1, momentum=0.3)"
    layer.momentum = None  # as PyTorch's update_bn does
    assert str(layer).endswith("momentum=cumulative)")


# Which inputs

BAD_INPUTS = [
    (torch.ones(4, 3, 1, 1), ValueError, "X: expected shape (m, 3), got (4, 3, 1, 1)"),
    (torch.ones(4, 5), ValueError, "X: expected shape (m, 3), got (4, 5)"),
    (torch.ones(0, 3), ValueError, "X: expected at least one value, got shape (0, 3)"),
    (torch.ones(4, 3).double(), TypeError, "X: expected torch.float32, got torch.float64"),
    (torch.ones(4, 3, device="meta"), ValueError, "X: expected the layer's device cpu, got meta"),
    (np.ones((4, 3), np.float32), TypeError, "X: expected a tensor, got ndarray"),
]


@modes
@pytest.mark.parametrize(("X", "error", "message"), BAD_INPUTS)
def test_the_layer_refuses_a_bad_input(training: bool, X: object, error: type[Exception], message: str) -> None:
    layer = BatchNorm(3, num_dims=2).train(training)
    with pytest.raises(error) as raised:
        layer(X)
    assert str(raised.value) == message
    assert same_state(layer, BatchNorm(3, num_dims=2))


@both
@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)])
def test_one_value_a_feature_will_do_to_predict_but_not_to_train(kind: type[BatchNorm], shape: tuple[int, ...]) -> None:
    layer = kind(3, len(shape))
    with pytest.raises(ValueError, match=r"X: expected more than one value a feature in training, got shape \(1, 3"):
        layer(torch.ones(shape))
    assert same_state(layer, kind(3, len(shape)))
    torch.testing.assert_close(layer.eval()(torch.ones(shape)), torch.full(shape, (1 + 1e-5) ** -0.5))


# LeNet


@pytest.mark.parametrize("activation", [nn.Sigmoid, nn.ReLU])
def test_lenet_normalises_between_each_layer_and_its_activation(activation: type[nn.Module]) -> None:
    asked = []

    def norm(*sizes: int) -> BatchNorm:
        asked.append(sizes)
        return BatchNorm(*sizes)

    normalised, plain = lenet(norm, activation), lenet(None, activation)
    assert asked == [(6, 4), (16, 4), (120, 2), (84, 2)]
    block = [BatchNorm, activation]
    convolution, dense = [nn.Conv2d, *block, nn.AvgPool2d], [nn.Linear, *block]
    kinds = [*convolution, *convolution, nn.Flatten, *dense, *dense, nn.Linear]
    assert [type(layer) for layer in normalised] == kinds
    assert [type(layer) for layer in plain] == [kind for kind in kinds if kind is not BatchNorm]
    for net, count in ((plain, 44426), (normalised, 44426 + 2 * (6 + 16 + 120 + 84))):
        assert net(randn(3, 1, 28, 28)).shape == (3, 10)
        assert sum(p.numel() for p in net.parameters()) == count


@both
@pytest.mark.parametrize("activation", [nn.Sigmoid, nn.ReLU])
def test_lenet_learns_the_same_with_ours_and_with_pytorchs(kind: type[BatchNorm], activation: type[nn.Module]) -> None:
    ours, theirs = lenet(kind, activation).double(), lenet(pytorch, activation).double()
    ours.load_state_dict(theirs.state_dict())
    X, y = nets.randn(16, 1, 28, 28).requires_grad_(), torch.arange(16) % 10
    results = []
    for net in (ours, theirs):
        loss = nn.functional.cross_entropy(net(X), y)
        results.append([loss, *grad(loss, [X, *net.parameters()]), net.eval()(X)])
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-12)
