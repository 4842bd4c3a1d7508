"""The dense nets are the paper's, compute what a formula with PyTorch does, lean or not, and refuse the rest."""

import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d, linear, max_pool2d

from lessons_lib.data import fashion_mnist
from lessons_lib.densenet import DenseBlock, DenseNet, Transition, bn_relu_conv, densenet121, small_densenet
from lessons_lib.training import Memory, num_parameters, train
from tests.nets import BAD_IMAGES, assert_is_recorded, assert_travels, convolutions, on_meta, randn, randomised

PAPER = {121: (6, 12, 24, 16), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32)}

modes = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
bottlenecks = pytest.mark.parametrize("bottleneck", [False, True], ids=["3×3", "bottleneck"])
leans = pytest.mark.parametrize("lean", [False, True], ids=["plain", "lean"])


@cache
def for_1000_classes(depth: int) -> DenseNet:
    if depth == 121:
        return on_meta(densenet121, 1000, 3)
    return on_meta(DenseNet, PAPER[depth], 32, 1000, 3, stem_channels=64, bottleneck=True)


def of_two_blocks(**settings: object) -> DenseNet:
    return DenseNet((2, 3), 3, 5, 2, **dict(stem_channels=5, stem_stride=1) | settings)


def layout(conv: nn.Conv2d) -> tuple[int, ...]:
    kernel_size, stride = conv.kernel_size[0], conv.stride[0]
    assert conv.kernel_size == (kernel_size, kernel_size) and conv.stride == (stride, stride)
    assert conv.padding == ((kernel_size - 1) // 2,) * 2 and conv.dilation == (1, 1) and conv.groups == 1
    assert conv.bias is None
    return conv.in_channels, conv.out_channels, kernel_size, stride


# The nets of the paper


@pytest.mark.parametrize(("depth", "count"), [(121, 7_978_856), (169, 14_149_480), (201, 20_013_928)])
def test_has_as_many_parameters_as_torchvision_documents(depth: int, count: int) -> None:
    assert num_parameters(for_1000_classes(depth)) == count


@pytest.mark.parametrize("depth", PAPER)
def test_is_as_deep_as_it_is_called(depth: int) -> None:
    layers = [layer for layer in for_1000_classes(depth).modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth


def test_the_small_net_has_fewer_than_100_000_parameters() -> None:
    net = small_densenet()
    assert num_parameters(net) == 95_114 < 100_000
    assert net.stem[0].weight.shape == (32, 1, 3, 3) and net.stem[0].stride == (2, 2)


@leans
def test_all_blocks_of_the_small_net_are_lean_or_none(lean: bool) -> None:
    net = small_densenet(lean=lean)
    assert [net.get_submodule(f"block{i}").lean for i in (1, 2, 3)] == [lean] * 3


def test_ten_classes_of_grey_images_unless_told_otherwise() -> None:
    for make in (densenet121, small_densenet, lambda *a: DenseNet((1,), 2, *a, stem_channels=4)):
        for sizes in ((10, 1), (7, 3)):
            net = on_meta(make) if sizes == (10, 1) else on_meta(make, *sizes)
            assert (net.fc.out_features, net.stem[0].in_channels) == sizes


def shapes_of_parts(net: DenseNet, X: Tensor) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for name, part in net.named_children():
        X = part(X)
        shapes[name] = tuple(X.shape[1:])
    return shapes


def test_the_blocks_have_the_shapes_of_the_paper_s_table_1() -> None:
    shapes = shapes_of_parts(for_1000_classes(121), torch.zeros(1, 3, 224, 224, device="meta"))
    expected = dict(
        stem=(64, 112, 112),
        pool=(64, 56, 56),
        block1=(256, 56, 56),
        transition1=(128, 28, 28),
        block2=(512, 28, 28),
        transition2=(256, 14, 14),
        block3=(1024, 14, 14),
        transition3=(512, 7, 7),
        block4=(1024, 7, 7),
        norm=(1024, 7, 7),
        mean=(1024,),
        fc=(1000,),
    )
    assert shapes == expected
    assert list(shapes) == list(expected)


def test_the_shapes_of_four_blocks_of_four_layers_at_96_by_96() -> None:
    net = on_meta(DenseNet, (4, 4, 4, 4), 32, stem_channels=64)
    shapes = shapes_of_parts(net, torch.zeros(1, 1, 96, 96, device="meta"))
    assert list(shapes.values()) == [
        *[(64, 48, 48), (64, 24, 24), (192, 24, 24), (96, 12, 12), (224, 12, 12), (112, 6, 6), (240, 6, 6)],
        *[(120, 3, 3), (248, 3, 3), (248, 3, 3), (248,), (10,)],
    ]


def test_a_transition_rounds_half_of_an_odd_number_of_channels_down() -> None:
    net = on_meta(DenseNet, (1, 1, 1), 2, stem_channels=5, stem_stride=1)
    assert [block.in_channels for name, block in net.named_children() if name.startswith("block")] == [5, 3, 2]
    assert net.fc.in_features == 4


@bottlenecks
@leans
def test_each_layer_sees_the_channels_of_all_before_it(bottleneck: bool, lean: bool) -> None:
    block = on_meta(DenseBlock, 4, 7, 3, bottleneck=bottleneck, lean=lean)
    assert block.out_channels == 7 + 4 * 3
    for i, f in enumerate(block.f):
        seen = 7 + i * 3
        expected = [(seen, 12, 1, 1), (12, 3, 3, 1)] if bottleneck else [(seen, 3, 3, 1)]
        assert [layout(conv) for conv in convolutions(f)] == expected
        assert [type(layer) for layer in f] == [nn.BatchNorm2d, nn.ReLU, nn.Conv2d] * len(expected)
    assert len(block.f) == 4


def test_bottleneck_and_lean_reach_every_block() -> None:
    for bottleneck in (False, True):
        for lean in (False, True):
            net = on_meta(of_two_blocks, bottleneck=bottleneck, lean=lean)
            for block in (net.block1, net.block2):
                assert block.lean == lean
                assert {len(convolutions(f)) for f in block.f} == {1 + bottleneck}
    for block in (net.block1 for net in (for_1000_classes(121), small_densenet(), of_two_blocks())):
        assert not block.lean


@pytest.mark.parametrize(("stem_stride", "size"), [(1, 10), (2, 5), (4, 3)])
def test_the_stem_shrinks_the_image_by_its_stride(stem_stride: int, size: int) -> None:
    net = on_meta(of_two_blocks, stem_stride=stem_stride)
    shapes = shapes_of_parts(net, torch.zeros(2, 2, 10, 10, device="meta"))
    assert shapes["block1"] == (11, size, size)
    assert ("pool" in shapes) == (stem_stride == 4)
    assert layout(net.stem[0]) == (2, 5, *{1: (3, 1), 2: (3, 2), 4: (7, 2)}[stem_stride])


# As the formulas, with PyTorch's functions


class Formula:
    """The paper's formulas on the numbers of a state, whose running averages they move."""

    def __init__(self, net: nn.Module) -> None:
        self.state = {name: value.detach().clone() for name, value in net.state_dict().items()}
        self.parameters = {name: self.state[name].requires_grad_() for name, _ in net.named_parameters()}
        self.training = net.training

    def conv(self, name: str, X: Tensor, stride: int = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        return conv2d(X, weight, None, stride, weight.shape[2] // 2)

    def norm_relu(self, name: str, X: Tensor) -> Tensor:
        mean, var, gamma, beta = (
            self.state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return batch_norm(X, mean, var, gamma, beta, self.training, 0.1, 1e-5).clamp(min=0)

    def block(self, name: str, X: Tensor, num_layers: int, bottleneck: bool) -> Tensor:
        outputs = [X]
        for i in range(num_layers):
            Y = self.conv(f"{name}f.{i}.2", self.norm_relu(f"{name}f.{i}.0", torch.cat(outputs, 1)))
            if bottleneck:
                Y = self.conv(f"{name}f.{i}.5", self.norm_relu(f"{name}f.{i}.3", Y))
            outputs.append(Y)
        return torch.cat(outputs, 1)

    def transition(self, name: str, X: Tensor) -> Tensor:
        X = self.conv(f"{name}f.2", self.norm_relu(f"{name}f.0", X))
        h, w = (size // 2 * 2 for size in X.shape[2:])
        return sum(X[:, :, i:h:2, j:w:2] for i in (0, 1) for j in (0, 1)) / 4

    def net(self, num_layers: tuple[int, ...], stem_stride: int, bottleneck: bool, X: Tensor) -> Tensor:
        X = self.norm_relu("stem.1", self.conv("stem.0", X, min(stem_stride, 2)))
        if stem_stride == 4:
            X = max_pool2d(X, 3, 2, 1)
        for i, number in enumerate(num_layers, start=1):
            X = self.block(f"block{i}.", X, number, bottleneck)
            if i < len(num_layers):
                X = self.transition(f"transition{i}.", X)
        X = self.norm_relu("norm.0", X)
        return linear(X.mean((2, 3)), self.state["fc.weight"], self.state["fc.bias"])


def assert_close(got: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float) -> None:
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        atol = tolerance * max(1.0, value.abs().max().item())
        torch.testing.assert_close(got[name], value, rtol=tolerance, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


def assert_same_there_and_back(net: nn.Module, formula: Callable[[Formula, Tensor], Tensor], X: Tensor) -> None:
    expected = Formula(net)
    ours, theirs = X.clone().requires_grad_(), X.clone().requires_grad_()
    Y, Y_expected = net(ours), formula(expected, theirs)
    dY = randn(*Y_expected.shape, seed=99)
    Y.backward(dY), Y_expected.backward(dY)
    got = {"Y": Y, "dX": ours.grad} | {f"d{name}": p.grad for name, p in net.named_parameters()}
    wanted = {"Y": Y_expected, "dX": theirs.grad} | {f"d{name}": p.grad for name, p in expected.parameters.items()}
    for name, average in net.named_buffers():
        if "running" in name:
            got[name], wanted[name] = average, expected.state[name]
    assert_close(got, wanted, 1e-12)


@bottlenecks
@leans
@modes
@settings(max_examples=15, deadline=None)
@given(
    shape=st.tuples(st.integers(2, 3), st.integers(1, 4), st.integers(1, 7), st.integers(1, 7)),
    num_layers=st.integers(1, 4),
    growth_rate=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_a_block_agrees_with_its_formula(
    bottleneck: bool,
    lean: bool,
    training: bool,
    shape: tuple[int, ...],
    num_layers: int,
    growth_rate: int,
    seed: int,
) -> None:
    net = randomised(DenseBlock(num_layers, shape[1], growth_rate, bottleneck=bottleneck, lean=lean)).train(training)
    X = randn(*shape, seed=seed)
    assert_same_there_and_back(net, lambda formula, X: formula.block("", X, num_layers, bottleneck), X)


@modes
@settings(max_examples=15, deadline=None)
@given(
    shape=st.tuples(st.integers(2, 3), st.integers(1, 4), st.integers(2, 7), st.integers(2, 7)),
    out_channels=st.integers(1, 4),
    seed=st.integers(0, 2**32),
)
def test_a_transition_agrees_with_its_formula(
    training: bool, shape: tuple[int, ...], out_channels: int, seed: int
) -> None:
    net = randomised(Transition(shape[1], out_channels)).train(training)
    X = randn(*shape, seed=seed)
    m, _, h, w = shape
    assert deepcopy(net)(X).shape == (m, out_channels, h // 2, w // 2)
    assert_same_there_and_back(net, lambda formula, X: formula.transition("", X), X)


@bottlenecks
@leans
@modes
@pytest.mark.parametrize(("stem_stride", "size"), [(1, (5, 8)), (2, (9, 7)), (4, (17, 13))])
def test_a_net_agrees_with_its_formula(
    bottleneck: bool, lean: bool, training: bool, stem_stride: int, size: tuple[int, int]
) -> None:
    num_layers = (2, 1, 3)
    net = DenseNet(num_layers, 3, 5, 2, stem_channels=5, stem_stride=stem_stride, bottleneck=bottleneck, lean=lean)
    net = randomised(net).train(training)
    assert_same_there_and_back(net, lambda f, X: f.net(num_layers, stem_stride, bottleneck, X), randn(3, 2, *size))


# What dense means


@leans
def test_with_nothing_from_the_layers_a_block_appends_zeros_to_its_input(lean: bool) -> None:
    block = DenseBlock(3, 2, 4, lean=lean)
    for conv in convolutions(block):
        nn.init.zeros_(conv.weight)
    X = randn(2, 2, 5, 5).float()
    assert torch.equal(block(X), torch.cat((X, torch.zeros(2, 12, 5, 5)), 1))


@leans
@bottlenecks
def test_each_layer_hears_of_the_outputs_of_all_before_it_and_of_none_after(lean: bool, bottleneck: bool) -> None:
    torch.manual_seed(0)
    block = DenseBlock(4, 2, 3, bottleneck=bottleneck, lean=lean).double()
    Y = block(randn(3, 2, 5, 5))
    for i, own in enumerate(Y[:, 2:].split(3, 1)):
        weights = [conv.weight for f in block.f for conv in convolutions(f)[-1:]]
        grads = torch.autograd.grad((own**3).sum(), weights, retain_graph=True, allow_unused=True)
        # A later layer's gradient is None or zero, as the outputs are taken out of one tensor.
        assert [bool(grad is not None and grad.any()) for grad in grads] == [j <= i for j in range(4)]


def assert_all_learn(net: nn.Module, X: Tensor, idle: Callable[[str], bool] = lambda name: False) -> None:
    """Each pixel has a gradient, and each parameter but the idle ones, and none comes from rounding alone."""
    net.double()
    X = X.requires_grad_()
    Y = net(X)
    Y.backward(randn(*Y.shape, seed=9))
    assert (X.grad != 0).any(dim=1).all()
    for name, parameter in net.named_parameters():
        assert (parameter.grad.abs().max() < 1e-9) == idle(name), name


@bottlenecks
@leans
def test_a_block_has_a_gradient_at_every_parameter_and_at_the_input(bottleneck: bool, lean: bool) -> None:
    torch.manual_seed(0)
    assert_all_learn(DenseBlock(4, 3, 5, bottleneck=bottleneck, lean=lean), randn(3, 3, 5, 5))


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (densenet121, (2, 1, 33, 65)),
        (small_densenet, (4, 1, 28, 28)),
        (of_two_blocks, (4, 2, 8, 8)),
        (lambda: of_two_blocks(lean=True), (4, 2, 8, 8)),
    ],
    ids=["densenet121", "small_densenet", "of_two_blocks", "lean"],
)
def test_a_net_has_a_gradient_at_every_parameter_and_at_the_input(
    make: Callable[[], DenseNet], shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    assert_all_learn(make(), randn(*shape))


def test_a_transition_has_a_gradient_at_every_parameter_and_at_the_input() -> None:
    torch.manual_seed(0)
    assert_all_learn(Transition(4, 2), randn(3, 4, 6, 6))


def test_the_small_net_learns_16_images_in_20_steps() -> None:
    torch.manual_seed(0)
    examples = torch.utils.data.TensorDataset(*fashion_mnist("train")[:16])
    history = train(small_densenet(), examples, lr=0.1, momentum=0.9, batch_size=16, num_epochs=20)
    assert history.loss[0] > 2
    assert history.loss[-1] < 0.5


# Lean: the same, in less memory

DTYPES = [(torch.float32, 1e-6), (torch.float64, 1e-12)]


def twins(
    num_layers: int = 5, in_channels: int = 3, growth_rate: int = 4, **settings: bool
) -> tuple[DenseBlock, DenseBlock]:
    """A plain and a lean block with the same numbers."""
    torch.manual_seed(0)
    plain, lean = (DenseBlock(num_layers, in_channels, growth_rate, lean=lean, **settings) for lean in (False, True))
    lean.load_state_dict(plain.state_dict())
    return plain, lean


def state_of(net: nn.Module) -> dict[str, Tensor]:
    """Parameters, gradients and buffers."""
    grads = {f"d{name}": p.grad for name, p in net.named_parameters() if p.grad is not None}
    return {name: value.clone() for name, value in (net.state_dict() | grads).items()}


@bottlenecks
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES, ids=str)
def test_lean_learns_the_same(bottleneck: bool, dtype: torch.dtype, tolerance: float) -> None:
    blocks = [block.to(dtype) for block in twins(bottleneck=bottleneck)]
    optimizers = [torch.optim.SGD(block.parameters(), lr=0.01) for block in blocks]
    for step in range(4):
        results = []
        for block, optimizer in zip(blocks, optimizers, strict=True):
            X = randn(4, 3, 6, 5, seed=step).to(dtype).requires_grad_()
            Y = block(X)
            optimizer.zero_grad()
            Y.backward(randn(*Y.shape, seed=-step).to(dtype))
            optimizer.step()
            results.append({"Y": Y, "dX": X.grad} | state_of(block))
        assert_close(results[1], results[0], tolerance)
    counts = [value for name, value in results[1].items() if name.endswith("num_batches_tracked")]
    assert len(counts) == 5 * (1 + bottleneck) and all(count == 4 for count in counts)


@bottlenecks
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES, ids=str)
def test_lean_predicts_the_same(bottleneck: bool, dtype: torch.dtype, tolerance: float) -> None:
    plain, lean = (block.to(dtype).eval() for block in twins(bottleneck=bottleneck))
    randomised(plain).to(dtype)
    lean.load_state_dict(plain.state_dict())
    before = deepcopy(lean.state_dict())
    results = []
    for block in (plain, lean):
        X = randn(2, 3, 6, 5).to(dtype).requires_grad_()
        Y = block(X)
        Y.square().sum().backward()
        results.append({"Y": Y, "dX": X.grad} | state_of(block))
    assert_close(results[1], results[0], tolerance)
    assert all(torch.equal(value, before[name]) for name, value in lean.state_dict().items())


@modes
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_lean_computes_the_same_without_gradients(training: bool, mode: Callable[[], object]) -> None:
    plain, lean = (block.train(training) for block in twins())
    X = randn(2, 3, 6, 5).float()
    with mode():
        Y = lean(X)
        assert not Y.requires_grad
        torch.testing.assert_close(Y, plain(X), rtol=1e-6, atol=1e-6)
    assert_close(state_of(lean), state_of(plain), 1e-6)
    assert lean.f[0][0].num_batches_tracked == int(training)


@pytest.mark.parametrize("make", [lambda lean: twins()[lean], lambda lean: of_two_blocks(lean=bool(lean))])
def test_the_state_of_a_plain_net_is_a_lean_one_s_and_back(make: Callable[[int], nn.Module]) -> None:
    plain, lean = make(0), make(1)
    assert list(plain.state_dict()) == list(lean.state_dict())
    for source, target in ((plain, lean), (lean, plain)):
        randomised(source)
        assert str(target.double().load_state_dict(source.state_dict())) == "<All keys matched successfully>"
        shape = (2, source.in_channels, 8, 8)
        torch.testing.assert_close(target.eval()(randn(*shape)), source.eval()(randn(*shape)), rtol=1e-12, atol=1e-12)


@leans
def test_a_first_block_whose_input_needs_no_gradient_learns(lean: bool) -> None:
    with_grad, without = deepcopy(twins()[lean]), twins()[lean]
    X = randn(2, 3, 6, 5).float()
    with_grad(X.clone().requires_grad_()).square().sum().backward()
    without(X).square().sum().backward()
    assert X.grad is None
    for ours, theirs in zip(without.parameters(), with_grad.parameters(), strict=True):
        assert ours.grad.any() and torch.equal(ours.grad, theirs.grad)


def test_frozen_parameters_get_no_gradient_and_pass_the_same_on() -> None:
    results = []
    for block in twins():
        block.requires_grad_(False)
        X = randn(2, 3, 6, 5).float().requires_grad_()
        block(X).square().sum().backward()
        assert all(p.grad is None for p in block.parameters())
        results.append({"dX": X.grad})
    assert_close(results[1], results[0], 1e-6)


def test_autograd_grad_gives_the_same_and_leaves_no_grad_behind() -> None:
    results = []
    for block in twins():
        X = randn(2, 3, 6, 5).float().requires_grad_()
        grads = torch.autograd.grad(block(X).pow(3).sum(), [X, *block.parameters()])
        assert X.grad is None and all(p.grad is None for p in block.parameters())
        results.append({str(i): grad for i, grad in enumerate(grads)})
    assert_close(results[1], results[0], 1e-6)


@modes
def test_second_derivatives_are_the_same(training: bool) -> None:
    results = []
    for block in twins(2, 2, 2):
        block.double().train(training)
        X = randn(2, 2, 2, 2)
        hessian = torch.autograd.functional.hessian(lambda X, block=block: block(X).pow(3).sum(), X)
        product = torch.autograd.functional.hvp(lambda X, block=block: block(X).pow(3).sum(), X, X)[1]
        results.append({"hessian": hessian, "product": product})
    assert_close(results[1], results[0], 1e-12)


def test_a_retained_graph_goes_back_twice_and_moves_the_averages_once() -> None:
    results = []
    for block in twins():
        loss = block(randn(2, 3, 6, 5).float()).square().sum()
        loss.backward(retain_graph=True)
        loss.backward()
        results.append(state_of(block))
        assert block.f[-1][0].num_batches_tracked == 1
    assert_close(results[1], results[0], 1e-6)


@modes
def test_two_uses_of_a_block_in_one_graph_add_up(training: bool) -> None:
    results = []
    for block in twins(3, 4, 2):
        block.train(training)
        X = randn(2, 4, 5, 5).float().requires_grad_()
        (block(X).square().sum() + block(block(X)[:, 2:6]).square().sum()).backward()
        results.append({"dX": X.grad} | state_of(block))
        assert block.f[0][0].num_batches_tracked == 3 * training
    assert_close(results[1], results[0], 1e-6)


def test_a_change_of_mode_between_there_and_back_does_not_pass_in_silence() -> None:
    for training in (True, False):
        block = twins()[1].train(training)
        Y = block(randn(2, 3, 6, 5).float())
        block.train(not training)
        with pytest.raises(RuntimeError, match="different metadata"):
            Y.sum().backward()


@bottlenecks
def test_lean_computes_all_but_the_last_convolution_of_each_layer_again(bottleneck: bool) -> None:
    block, done = twins(bottleneck=bottleneck)[1], []
    for f in block.f:
        for layer in f:
            layer.register_forward_hook(lambda layer, *_: done.append(layer))
    Y = block(randn(2, 3, 6, 5).float())
    assert done == [layer for f in block.f for layer in f]
    done.clear()
    Y.sum().backward()
    assert done == [layer for f in reversed(block.f) for layer in f[:-1]]


def saved_for_backward(block: nn.Module, X: Tensor) -> int:
    """Bytes of all that autograd keeps between there and back, parameters aside."""
    kept = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        Y = block(X)
    own = {value.untyped_storage().data_ptr() for value in block.state_dict().values()}
    assert Y.requires_grad
    return sum(tensor.untyped_storage().nbytes() for address, tensor in kept.items() if address not in own)


def kept_and_peak(block: nn.Module, X: Tensor) -> tuple[int, int]:
    """Bytes alive between there and back, the output included, and the most at any time; gradients count."""
    with Memory() as memory:
        Y = block(X)
        kept = memory.now
        Y.backward(torch.ones_like(Y))
    return kept, memory.peak


SIDE = 16  # maps so large that they outweigh the parameters


def memory_of(num_layers: int, bottleneck: bool, lean: bool) -> tuple[int, int, int]:
    block = DenseBlock(num_layers, 16, 8, bottleneck=bottleneck, lean=lean)
    X = torch.randn(4, 16, SIDE, SIDE)
    return saved_for_backward(block, X), *kept_and_peak(block, X)


@bottlenecks
@pytest.mark.parametrize("num_layers", [12, 24])
def test_lean_keeps_at_most_half_the_memory(bottleneck: bool, num_layers: int) -> None:
    plain, lean = (memory_of(num_layers, bottleneck, lean) for lean in (False, True))
    for name, ours, theirs in zip(("saved", "kept", "peak"), lean, plain, strict=True):
        assert ours < theirs / 2, name


@bottlenecks
def test_plain_keeps_quadratic_and_lean_linear_memory(bottleneck: bool) -> None:
    kept = {
        lean: [memory_of(num_layers, bottleneck, lean)[1] for num_layers in (6, 12, 18, 24)] for lean in (False, True)
    }

    def differences(numbers: list[int]) -> list[int]:
        return [after - before for before, after in zip(numbers, numbers[1:], strict=False)]

    one_map = 4 * 4 * SIDE * SIDE
    # Six more layers: each of the 2 · 6 tensors of theirs has 6 · 8 channels more than those of the six before.
    assert min(differences(differences(kept[False]))) >= 2 * 6 * 6 * 8 * one_map
    # And lean: each layer's output, once by itself and once in the joined output of the block.
    growth = differences(kept[True])
    assert all(2 * 6 * 8 * one_map <= step <= 1.05 * 2 * 6 * 8 * one_map for step in growth)
    assert max(map(abs, differences(growth))) <= 0.01 * growth[0]


# Start


@pytest.mark.parametrize("bottleneck", [False, True])
def test_the_weights_start_as_he_and_others_have_it(bottleneck: bool) -> None:
    torch.manual_seed(0)
    net = DenseNet((2, 2), 32, 10, 3, stem_channels=64, bottleneck=bottleneck)
    for conv in convolutions(net):
        std = math.sqrt(2 / (conv.in_channels * conv.kernel_size[0] ** 2))
        z = conv.weight.detach().flatten() / std
        n = len(z)
        assert abs(z.mean()) < 5 / math.sqrt(n)
        assert abs(z.std() - 1) < 5 / math.sqrt(2 * n)
        assert z.abs().max() > 2.5  # normal, not uniform
    for norm in [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]:
        assert (norm.weight == 1).all() and (norm.bias == 0).all()
        assert (norm.eps, norm.momentum) == (1e-5, 0.1)


def test_the_seed_decides_the_start() -> None:
    def start(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(small_densenet().parameters())

    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))


# Nets travel


@leans
def test_a_copy_computes_the_same(lean: bool) -> None:
    net, X = randomised(of_two_blocks(lean=lean)).eval(), randn(2, 2, 9, 9)
    net(X).sum().backward()  # a block that has been used travels as well
    for copy in assert_travels(net, lambda: of_two_blocks(lean=lean).double(), X):
        with pytest.raises(ValueError, match=r"2×2 or more, got \(1, 2, 1, 1\)"):
            copy(randn(1, 2, 1, 1))


@leans
def test_pytorchs_tools_record_what_it_computes(lean: bool) -> None:
    assert_is_recorded(of_two_blocks(lean=lean), randn(3, 2, 8, 8).float())


def test_parts_can_be_replaced_and_deleted() -> None:
    net, X = small_densenet(), randn(2, 3, 28, 28).float()
    net.stem[0] = nn.Conv2d(3, 32, 3, 2, 1, bias=False)
    net.fc = nn.Identity()
    features = net(X)
    assert features.equal(net[:-1](X)) and net.in_channels == 3
    del net.fc
    net.block3 = nn.Identity()
    net.norm = nn.BatchNorm2d(48)
    assert net(X).shape == (2, 48)


@leans
@modes
def test_channels_last_computes_the_same(lean: bool, training: bool) -> None:
    torch.manual_seed(0)
    net = of_two_blocks(lean=lean).train(training)
    X = randn(4, 2, 9, 9).float()
    expected = net(X)
    net.to(memory_format=torch.channels_last)
    assert net.stem[0].weight.is_contiguous(memory_format=torch.channels_last)
    Y = net(X.to(memory_format=torch.channels_last))
    torch.testing.assert_close(Y, expected, rtol=1e-4, atol=1e-4)
    Y.sum().backward()


@leans
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.02), (torch.bfloat16, 0.1)], ids=str)
def test_half_precision_computes_nearly_the_same(lean: bool, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    net = of_two_blocks(lean=lean).eval()
    X = randn(4, 2, 9, 9).float()
    expected = net(X)
    got = net.to(dtype)(X.to(dtype))
    assert got.dtype == dtype
    assert (got.float() - expected).abs().max() < tolerance * expected.abs().max()


# Refusals

WRONG_TYPES = [True, 2.0, "3"]


def size_errors(*names: str) -> list[tuple[str, object, type[Exception], str]]:
    types = [(n, v, TypeError, f"{n}: expected an int, got {v!r}") for n in names for v in WRONG_TYPES]
    return types + [(n, v, ValueError, f"{n}: expected at least 1, got {v}") for n in names for v in (0, -1)]


def refusals() -> Iterator[object]:
    block = dict(num_layers=2, in_channels=2, growth_rate=2)
    transition = dict(in_channels=2, out_channels=2)
    net = dict(num_layers=(2,), growth_rate=2, num_classes=2, in_channels=2, stem_channels=2, stem_stride=2)
    sizes = {DenseBlock: block, Transition: transition}
    sizes |= {DenseNet: {name: size for name, size in net.items() if name != "num_layers"}}
    sizes |= {make: dict(num_classes=2, in_channels=2) for make in (densenet121, small_densenet)}
    for make, names in sizes.items():
        settings = net if make is DenseNet else names
        for name, value, error, message in size_errors(*names):
            yield pytest.param(make, settings | {name: value}, error, message, id=f"{make.__name__}-{name}={value!r}")
    for name, value, error, message in size_errors("num_layers"):
        for numbers in ([value], [2, value]):
            where = f"num_layers[{len(numbers) - 1}]"
            named = message.replace("num_layers", where)
            yield pytest.param(DenseNet, net | {name: numbers}, error, named, id=f"DenseNet-{name}={numbers}")
    for value in (3, None, 2.0):
        message = f"num_layers: expected a sequence of ints, got {value!r}"
        yield pytest.param(
            DenseNet, net | dict(num_layers=value), TypeError, message, id=f"DenseNet-num_layers={value}"
        )
    for value in ([], ()):
        message = "num_layers: expected at least one block's number, got []"
        yield pytest.param(
            DenseNet, net | dict(num_layers=value), ValueError, message, id=f"DenseNet-num_layers={value}"
        )
    for make, settings in ((DenseBlock, block), (DenseNet, net)):
        for name, value in (("bottleneck", 1), ("lean", None), ("lean", "yes")):
            message = f"{name}: expected a bool, got {value!r}"
            yield pytest.param(make, settings | {name: value}, TypeError, message, id=f"{make.__name__}-{name}={value}")
    for value in (3, 8):
        message = f"stem_stride: expected 1, 2 or 4, got {value}"
        yield pytest.param(DenseNet, net | dict(stem_stride=value), ValueError, message, id=f"stem_stride={value}")


@pytest.mark.parametrize(("make", "settings", "error", "message"), list(refusals()))
def test_a_bad_argument_is_refused(
    make: Callable[..., nn.Module], settings: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as raised:
        make(**settings)
    assert str(raised.value) == message


@pytest.mark.parametrize("kind", [np.int64, np.uint8, torch.tensor])
def test_sizes_of_any_kind_serve(kind: Callable[[int], object]) -> None:
    sizes = dict(stem_channels=kind(4), stem_stride=kind(1), bottleneck=np.True_)
    for num_layers in (np.array([1, 2]), [kind(1), kind(2)]):
        assert DenseNet(num_layers, kind(2), kind(3), kind(2), **sizes)(torch.zeros(2, 2, 4, 4)).shape == (2, 3)
    assert Transition(kind(4), kind(2))(torch.zeros(1, 4, 2, 2)).shape == (1, 2, 1, 1)


@modes
@pytest.mark.parametrize(
    "make",
    [
        lambda: DenseBlock(2, 2, 2),
        lambda: DenseBlock(2, 2, 2, lean=True),
        lambda: Transition(2, 4),
        of_two_blocks,
    ],
    ids=["block", "lean block", "transition", "net"],
)
@pytest.mark.parametrize(("X", "error", "message"), BAD_IMAGES)
def test_other_images_are_refused(
    make: Callable[[], nn.Module], training: bool, X: object, error: type[Exception], message: str
) -> None:
    net = make().train(training)
    before = deepcopy(net.state_dict())
    with pytest.raises(error) as raised:
        net(X)
    assert str(raised.value) == message
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def halves_one_pixel(size: int, stem_stride: int, num_blocks: int) -> bool:
    """Whether the stem, which rounds up, or a transition, which rounds down, would halve a map of one pixel."""
    stem = {1: 0, 2: 1, 4: 2}[stem_stride]
    for i in range(stem + num_blocks - 1):
        if size == 1:
            return True
        size = math.ceil(size / 2) if i < stem else size // 2
    return False


@pytest.mark.parametrize("stem_stride", [1, 2, 4])
@pytest.mark.parametrize("num_blocks", [1, 2, 3, 4, 5])
def test_refuses_exactly_the_images_of_which_a_map_of_one_pixel_would_be_halved(
    stem_stride: int, num_blocks: int
) -> None:
    net = on_meta(DenseNet, [1] * num_blocks, 1, stem_channels=2, stem_stride=stem_stride)
    too_small = [size for size in range(1, 99) if halves_one_pixel(size, stem_stride, num_blocks)]
    smallest = len(too_small) + 1
    for size in [0, *too_small]:
        for shape in ((2, 1, size, size), (2, 1, size, 99), (2, 1, 99, size)):
            with pytest.raises(ValueError) as raised:
                net(torch.zeros(shape, device="meta"))
            assert str(raised.value) == f"X: expected images of {smallest}×{smallest} or more, got {shape}"
    assert net(torch.zeros(2, 1, smallest, smallest, device="meta")).shape == (2, 10)


def test_densenet121_takes_images_from_29_by_29() -> None:
    assert for_1000_classes(121).smallest == 29


def test_a_slice_of_a_net_computes_what_its_parts_do() -> None:
    net, X = small_densenet().eval(), randn(2, 1, 28, 28).float()
    assert torch.equal(net.fc(net[:-1](X)), net(X))
    assert net[0] is net.stem and net[-1] is net.fc


# The parts


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_a_convolution_keeps_the_size_of_a_map(kernel_size: int) -> None:
    norm, relu, conv = bn_relu_conv(4, 6, kernel_size)
    assert layout(conv) == (4, 6, kernel_size, 1)
    assert norm.num_features == 4 and type(relu) is nn.ReLU
    assert nn.Sequential(norm, relu, conv)(torch.zeros(1, 4, 7, 8)).shape == (1, 6, 7, 8)
