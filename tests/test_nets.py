"""Residual and dense nets are the papers', compute what a formula with PyTorch's functions does, and can be edited.

What test_doors tries on all layers (PyTorch's modes and transforms, copies, dtypes, layouts) is not
tried again here; bad arguments are in test_refusals.
"""

import math
from collections.abc import Callable
from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd.functional import hessian
from torch.nn.functional import batch_norm, conv2d, linear, max_pool2d

from lessons_lib.densenet import DenseBlock, DenseNet, Transition, densenet121, small_densenet
from lessons_lib.resnet import (
    Bottleneck,
    Plain,
    PreActivation,
    Residual,
    ResNet,
    ResNeXt,
    resnet,
    resnet18,
    small_resnet,
)
from lessons_lib.training import Memory, num_parameters
from tests.nets import compiled, randn, randomised

modes = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
bottlenecks = pytest.mark.parametrize("bottleneck", [False, True], ids=["3×3", "bottleneck"])


def on_meta(make: Callable[..., nn.Module], *args: object, **settings: object) -> nn.Module:
    """The net without its numbers: shapes are for free."""
    with torch.device("meta"):
        return make(*args, **settings)


def convolutions(net: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]


# The nets of the papers, with as many parameters as torchvision documents for 1,000 classes of colour images.
PUBLISHED: dict[str, tuple[Callable[..., nn.Module], int, int]] = {
    "resnet18": (resnet18, 18, 11_689_512),
    "ResNet-34": (partial(resnet, 34), 34, 21_797_672),
    "ResNet-50": (partial(resnet, 50), 50, 25_557_032),
    "ResNet-101": (partial(resnet, 101), 101, 44_549_160),
    "ResNet-152": (partial(resnet, 152), 152, 60_192_808),
    "ResNeXt-50": (partial(ResNet, [(3, 256), (4, 512), (6, 1024), (3, 2048)], block=ResNeXt), 50, 25_028_904),
    "densenet121": (densenet121, 121, 7_978_856),
}
SMALL = {"small_resnet": (small_resnet, 8, 308_074), "small_densenet": (small_densenet, 14, 95_114)}


@pytest.mark.parametrize("name", [*PUBLISHED, *SMALL])
def test_as_deep_and_large_as_published_for_ten_classes_of_grey_images_unless_told_otherwise(name: str) -> None:
    make, depth, count = (PUBLISHED | SMALL)[name]
    for sizes in ((), (1000, 3)):
        net = on_meta(make, *sizes)
        assert (net.fc.out_features, net.stem[0].in_channels) == (sizes or (10, 1))
        if sizes == (() if name in SMALL else (1000, 3)):
            assert num_parameters(net) == count
        layers = [name for name, layer in net.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
        assert len([name for name in layers if "shortcut" not in name]) == depth


def test_dense_blocks_are_lean_and_bottlenecks_where_asked() -> None:
    for kind in ({}, *DENSE.values()):
        net = DenseNet((1, 1), 2, stem_channels=4, **kind)
        for block in (DenseBlock(1, 2, 3, **kind), net.block1, net.block2):
            assert block.lean == kind.get("lean", False)
            assert len(convolutions(block)) == 1 + kind.get("bottleneck", False)
    for lean in (False, True):
        assert small_densenet(lean=lean).block3.lean == lean
    assert not small_densenet().block1.lean and not on_meta(densenet121).block1.lean


# As the formulas, with PyTorch's functions


class Formula:
    """The papers' formulas on the numbers of a net's state, whose running averages they move."""

    def __init__(self, net: nn.Module) -> None:
        self.state = {name: value.detach().clone() for name, value in net.state_dict().items()}
        self.parameters = {name: self.state[name].requires_grad_() for name, _ in net.named_parameters()}
        self.training = net.training

    def conv(self, name: str, X: Tensor, stride: int = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        return conv2d(X, weight, None, stride, weight.shape[2] // 2, groups=X.shape[1] // weight.shape[1])

    def norm(self, name: str, X: Tensor) -> Tensor:
        names = ("running_mean", "running_var", "weight", "bias")
        return batch_norm(X, *(self.state[f"{name}.{key}"] for key in names), self.training, 0.1, 1e-5)

    def norm_relu(self, name: str, X: Tensor) -> Tensor:
        return self.norm(name, X).clamp(min=0)

    def residual(self, kind: type[nn.Module], name: str, X: Tensor, out_channels: int, stride: int) -> Tensor:
        conv, norm, norm_relu = self.conv, self.norm, self.norm_relu
        if kind is PreActivation:
            Y = conv(f"{name}f.2", norm_relu(f"{name}f.0", X), stride)
            Y = conv(f"{name}f.5", norm_relu(f"{name}f.3", Y))
        elif issubclass(kind, Bottleneck):
            Y = norm_relu(f"{name}f.1", conv(f"{name}f.0", X))
            Y = norm_relu(f"{name}f.4", conv(f"{name}f.3", Y, stride))
            Y = norm(f"{name}f.7", conv(f"{name}f.6", Y))
        else:
            Y = norm_relu(f"{name}f.1", conv(f"{name}f.0", X, stride))
            Y = norm(f"{name}f.4", conv(f"{name}f.3", Y))
        if kind is Plain:
            return Y.clamp(min=0)
        if X.shape[1] != out_channels or stride != 1:
            X = norm(f"{name}shortcut.1", conv(f"{name}shortcut.0", X, stride))
        return Y + X if kind is PreActivation else (Y + X).clamp(min=0)

    def dense(self, bottleneck: bool, name: str, X: Tensor, num_layers: int) -> Tensor:
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

    def stem(self, X: Tensor, stride: int) -> Tensor:
        X = self.norm_relu("stem.1", self.conv("stem.0", X, min(stride, 2)))
        return max_pool2d(X, 3, 2, 1) if stride == 4 else X

    def scores(self, X: Tensor) -> Tensor:
        return linear(X.mean((2, 3)), self.state["fc.weight"], self.state["fc.bias"])

    def resnet(self, kind: type[nn.Module], stages: list[tuple[int, int]], X: Tensor, stem_stride: int) -> Tensor:
        X = self.stem(X, stem_stride)
        for i, (num_blocks, out_channels) in enumerate(stages):
            for j in range(num_blocks):
                X = self.residual(kind, f"stage{i + 1}.{j}.", X, out_channels, 2 if i > 0 and j == 0 else 1)
        return self.scores(self.norm_relu("mean.0", X) if kind is PreActivation else X)

    def densenet(self, bottleneck: bool, X: Tensor, stem_stride: int) -> Tensor:
        X = self.dense(bottleneck, "block1.", self.stem(X, stem_stride), 2)
        X = self.dense(bottleneck, "block2.", self.transition("transition1.", X), 1)
        X = self.dense(bottleneck, "block3.", self.transition("transition2.", X), 3)
        return self.scores(self.norm_relu("norm.0", X))


class Grouped(Bottleneck):
    """As `ResNeXt`, small enough to test with."""

    shrink, groups = 2, 3


KINDS = [Residual, Plain, Bottleneck, Grouped, PreActivation]
CHANNELS = 12  # a multiple that each kind takes
STAGES = [(2, CHANNELS), (1, 2 * CHANNELS), (2, 2 * CHANNELS), (1, CHANNELS)]
DENSE = {
    "plain": dict(bottleneck=False, lean=False),
    "lean": dict(bottleneck=False, lean=True),
    "bottleneck": dict(bottleneck=True, lean=False),
    "lean bottleneck": dict(bottleneck=True, lean=True),
}
# Of each block: how to make one from in_channels and a size (a stride, a number of layers or of channels); its formula.
BLOCKS: dict[str, tuple[Callable[[int, int], nn.Module], Callable[[Formula, Tensor, int], Tensor]]] = {
    **{
        kind.__name__: (
            lambda channels, stride, kind=kind: kind(channels, CHANNELS, stride),
            lambda formula, X, stride, kind=kind: formula.residual(kind, "", X, CHANNELS, stride),
        )
        for kind in KINDS
    },
    **{
        f"DenseBlock, {name}": (
            lambda channels, number, kind=kind: DenseBlock(number, channels, 3, **kind),
            lambda formula, X, number, kind=kind: formula.dense(kind["bottleneck"], "", X, number),
        )
        for name, kind in DENSE.items()
    },
    "Transition": (Transition, lambda formula, X, _: formula.transition("", X)),
}
# Of each net: how to make one from the stem's stride; its formula.
NETS: dict[str, tuple[Callable[[int], nn.Module], Callable[[Formula, Tensor, int], Tensor]]] = {
    **{
        f"ResNet, {kind.__name__}": (
            lambda stride, kind=kind: ResNet(STAGES, 5, 2, kind, stem_stride=stride),
            lambda formula, X, stride, kind=kind: formula.resnet(kind, STAGES, X, stride),
        )
        for kind in KINDS
    },
    **{
        f"DenseNet, {name}": (
            lambda stride, kind=kind: DenseNet((2, 1, 3), 3, 5, 2, stem_channels=5, stem_stride=stride, **kind),
            lambda formula, X, stride, kind=kind: formula.densenet(kind["bottleneck"], X, stride),
        )
        for name, kind in DENSE.items()
    },
}


def assert_close(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        atol = tolerance * max(1.0, value.abs().max().item())
        torch.testing.assert_close(got[name], value, rtol=tolerance, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


def assert_agrees(net: nn.Module, formula: Callable[[Formula, Tensor], Tensor], X: Tensor) -> None:
    """There and back, and in its averages."""
    expected = Formula(net)
    ours, theirs = X.clone().requires_grad_(), X.clone().requires_grad_()
    Y, Y_expected = net(ours), formula(expected, theirs)
    dY = randn(*Y_expected.shape, seed=99)
    Y.backward(dY), Y_expected.backward(dY)
    got = {"Y": Y, "dX": ours.grad} | {f"d{name}": p.grad for name, p in net.named_parameters()}
    wanted = {"Y": Y_expected, "dX": theirs.grad} | {f"d{name}": p.grad for name, p in expected.parameters.items()}
    for name, value in net.named_buffers():
        got[name] = value
        wanted[name] = torch.tensor(int(net.training)) if name.endswith("tracked") else expected.state[name]
    assert_close(got, wanted, 1e-12)


@pytest.mark.parametrize("name", BLOCKS)
@modes
@settings(max_examples=15, deadline=None)
@given(
    shape=st.tuples(st.integers(2, 3), st.integers(1, 4) | st.just(CHANNELS), st.integers(2, 7), st.integers(1, 7)),
    size=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_a_block_agrees_with_its_formula(
    name: str, training: bool, shape: tuple[int, ...], size: int, seed: int
) -> None:
    make, formula = BLOCKS[name]
    m, channels, h, w = shape
    net = randomised(make(channels, size)).train(training)
    X = randn(m, channels, h, max(w, 2) if name == "Transition" else w, seed=seed)
    assert_agrees(net, lambda of, X: formula(of, X, size), X)


@pytest.mark.parametrize("name", NETS)
@modes
@pytest.mark.parametrize(("stem_stride", "size"), [(1, (9, 10)), (2, (17, 11)), (4, (17, 21))])
def test_a_net_agrees_with_its_formula(name: str, training: bool, stem_stride: int, size: tuple[int, int]) -> None:
    make, formula = NETS[name]
    net = randomised(make(stem_stride)).train(training)
    assert_agrees(net, lambda of, X: formula(of, X, stem_stride), randn(3, 2, *size))


@pytest.mark.parametrize(
    ("make", "fan"),
    [
        *((partial(ResNet, [(1, 64), (2, 128)], 10, 3, kind), "out") for kind in (Residual, Bottleneck, ResNeXt)),
        (partial(ResNet, [(1, 64), (2, 128)], 10, 3, PreActivation), "out"),
        *((partial(DenseNet, (2, 2), 32, 10, 3, stem_channels=64, bottleneck=b), "in") for b in (False, True)),
    ],
)
def test_the_weights_start_as_he_and_others_have_it(make: Callable[[], nn.Module], fan: str) -> None:
    net = make()
    for conv in convolutions(net):
        assert conv.bias is None
        channels = conv.out_channels if fan == "out" else conv.in_channels  # PyTorch counts no groups here
        z = conv.weight.detach().flatten() / math.sqrt(2 / (channels * conv.kernel_size[0] ** 2))
        n = len(z)
        assert abs(z.mean()) < 5 / math.sqrt(n)
        assert abs(z.std() - 1) < 5 / math.sqrt(2 * n)
        assert z.abs().max() > 2.5  # normal, not uniform
    for norm in [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]:
        assert (norm.weight == 1).all() and (norm.bias == 0).all()
        assert (norm.eps, norm.momentum) == (1e-5, 0.1)


# Editing, and PyTorch's tools


@pytest.mark.parametrize("make", [small_resnet, small_densenet])
def test_parts_can_be_replaced_and_deleted(make: Callable[[], nn.Module]) -> None:
    net, X = make(), randn(2, 3, 28, 28).float()
    names, width = list(net.state_dict()), net.fc.in_features
    net.stem[0] = nn.Conv2d(3, 32, 3, 1, 1, bias=False)  # colour images, and no shrinking
    net.fc = nn.Linear(width, 7)
    assert net(X).shape == (2, 7) and net.in_channels == 3
    assert list(net.state_dict()) == names
    with pytest.raises(ValueError, match=r"X: expected shape \(m, 3, h, w\), got \(2, 1, 28, 28\)"):
        net(X[:, :1])
    net.fc = nn.Identity()
    features = net(X)
    del net.fc
    assert features.shape == (2, width) and torch.equal(net(X), features)
    net.smallest = 5
    assert net(X[..., :5]).shape == (2, width)
    net.stem = nn.Identity()  # which takes any number of channels
    X = randn(2, 32, 28, 28).float()
    assert net.in_channels is None and net(X).shape == (2, width)
    with pytest.raises(ValueError, match=r"X: expected shape \(m, c, h, w\), got \(32, 28, 28\)"):
        net(X[0])


a_net_of_each_kind = pytest.mark.parametrize(
    "name", ["ResNet, Residual", "ResNet, Plain", "ResNet, PreActivation", "DenseNet, plain", "DenseNet, lean"]
)


@a_net_of_each_kind
def test_pytorchs_tools_record_what_it_computes_learns_and_averages(name: str) -> None:
    def results(net: nn.Module) -> dict[str, Tensor]:
        X = randn(3, 2, 9, 9, dtype=torch.float32).requires_grad_()
        Y = net(X)
        Y.square().sum().backward()
        state = {name.removeprefix("_orig_mod."): value for name, value in net.state_dict().items()}
        return {"Y": Y, "dX": X.grad} | state | {f"d{i}": p.grad for i, p in enumerate(net.parameters())}

    net, X = NETS[name][0](1), randn(3, 2, 9, 9, dtype=torch.float32)
    expected = results(deepcopy(net))
    for record in (compiled, torch.fx.symbolic_trace, lambda net: torch.export.export(net, (X,)).module()):
        assert_close(results(record(deepcopy(net))), expected, 1e-4)


@a_net_of_each_kind
def test_autocast_takes_images_of_another_dtype(name: str) -> None:
    net, X = NETS[name][0](1).eval(), randn(4, 2, 9, 9).float()
    with torch.autocast("cpu", torch.bfloat16):
        Y = net(X.bfloat16())
    torch.testing.assert_close(Y.float(), net(X), rtol=0.1, atol=0.1)


# Which images


BAD_IMAGES = [
    (torch.zeros(2, 9, 9), ValueError, "X: expected shape (m, 2, h, w), got (2, 9, 9)"),
    (torch.zeros(4, 3, 9, 9), ValueError, "X: expected shape (m, 2, h, w), got (4, 3, 9, 9)"),
    (np.zeros((1, 2, 9, 9), np.float32), TypeError, "X: expected a tensor, got ndarray"),
    (torch.zeros(1, 2, 9, 9).double(), TypeError, "X: expected the weights' dtype torch.float32, got torch.float64"),
    (torch.zeros(1, 2, 9, 9, device="meta"), ValueError, "X: expected the weights' device cpu, got meta"),
]


@pytest.mark.parametrize("name", [*BLOCKS, *NETS])
def test_other_images_are_refused(name: str) -> None:
    net = NETS[name][0](1) if name in NETS else BLOCKS[name][0](2, 2)
    for X, error, message in BAD_IMAGES:
        with pytest.raises(error) as raised:
            net(X)
        assert str(raised.value) == message


# For each stem_stride, by the number of blocks. The stem and a residual net's stages round up, transitions round down.
LEAST = {
    ResNet: {1: [1, 2, 3, 5, 9], 2: [2, 3, 5, 9, 17], 4: [3, 5, 9, 17, 33]},
    DenseNet: {1: [1, 2, 4, 8, 16], 2: [2, 3, 7, 15, 31], 4: [3, 5, 13, 29, 61]},
}


@pytest.mark.parametrize("num_parts", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("stem_stride", [1, 2, 4])
@pytest.mark.parametrize("make", LEAST)
def test_refuses_exactly_the_images_of_which_a_map_of_one_pixel_would_be_halved(
    make: type[nn.Module], stem_stride: int, num_parts: int
) -> None:
    least = LEAST[make][stem_stride][num_parts - 1]
    if make is ResNet:
        net = on_meta(ResNet, [(1, 2)] * num_parts, stem_stride=stem_stride)
    else:
        net = on_meta(DenseNet, [1] * num_parts, 1, stem_channels=2, stem_stride=stem_stride)
    for size in range(least):
        for shape in ((2, 1, size, 99), (2, 1, 99, size)):
            with pytest.raises(ValueError) as raised:
                net(torch.zeros(shape, device="meta"))
            assert str(raised.value) == f"X: expected images of {least}×{least} or more, got {shape}"
    assert net(torch.zeros(2, 1, least, least, device="meta")).shape == (2, 10)


# Lean: the same, in less memory


def twins(**settings: bool) -> list[DenseBlock]:
    """A plain and a lean block with the same numbers."""
    plain, lean = (randomised(DenseBlock(4, 3, 2, lean=lean, **settings)) for lean in (False, True))
    lean.load_state_dict(plain.state_dict())
    return [plain, lean]


def twice(block: nn.Module, X: Tensor) -> None:
    loss = block(X).square().sum()
    loss.backward(retain_graph=True)
    loss.backward()


WAYS: dict[str, Callable[[nn.Module, Tensor], Tensor | None]] = {
    "once": lambda block, X: block(X).square().sum().backward(),
    "twice": twice,
    "used twice": lambda block, X: (block(X).square().sum() + block(block(X)[:, 2:5]).square().sum()).backward(),
    "frozen": lambda block, X: block.requires_grad_(False)(X).square().sum().backward(),
    "a first block": lambda block, X: block(X.detach()).square().sum().backward(),
    "hessian": lambda block, X: hessian(lambda X: block(X).pow(3).sum(), X[:2, :, :2, :1]),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@modes
def test_lean_gives_the_same_in_every_way_back(way: Callable, training: bool) -> None:
    results = []
    for block in twins():
        X = randn(2, 3, 6, 5).requires_grad_()
        second = way(block.train(training), X)
        given = {} if second is None else dict(second=second)
        grads = {f"d{name}": p.grad for name, p in [("X", X), *block.named_parameters()] if p.grad is not None}
        results.append(given | grads | block.state_dict())
    assert_close(results[1], results[0], 1e-12)


@bottlenecks
def test_lean_computes_all_but_the_last_convolution_of_each_layer_again(bottleneck: bool) -> None:
    block, done = twins(bottleneck=bottleneck)[1], []
    for f in block.f:
        for layer in f:
            layer.register_forward_hook(lambda layer, *_: done.append(layer))
    Y = block(randn(2, 3, 6, 5))
    assert done == [layer for f in block.f for layer in f]
    done.clear()
    Y.sum().backward()
    assert done == [layer for f in reversed(block.f) for layer in f[:-1]]


SIDE = 16  # maps so large that they outweigh the parameters


def kept_and_peak(num_layers: int, bottleneck: bool, lean: bool) -> tuple[int, int]:
    """Bytes alive between there and back, the output included, and the most at any time; gradients count."""
    block = DenseBlock(num_layers, 16, 8, bottleneck=bottleneck, lean=lean)
    X = torch.randn(4, 16, SIDE, SIDE)
    with Memory() as memory:
        Y = block(X)
        kept = memory.now
        Y.backward(torch.ones_like(Y))
    return kept, memory.peak


def differences(numbers: list[int]) -> list[int]:
    return [after - before for before, after in zip(numbers, numbers[1:], strict=False)]


@bottlenecks
def test_plain_keeps_quadratic_and_lean_linear_memory(bottleneck: bool) -> None:
    plain, lean = (
        [kept_and_peak(num_layers, bottleneck, lean) for num_layers in (6, 12, 18, 24)] for lean in (False, True)
    )
    assert all(ours < theirs / 2 for i in (1, 3) for ours, theirs in zip(lean[i], plain[i], strict=True))
    one_map = 4 * 4 * SIDE * SIDE
    # Six more layers: each of the 2 · 6 tensors of theirs has 6 · 8 channels more than those of the six before.
    assert min(differences(differences([kept for kept, _ in plain]))) >= 2 * 6 * 6 * 8 * one_map
    # And lean: each layer's output, once by itself and once in the joined output of the block.
    growth = differences([kept for kept, _ in lean])
    assert all(2 * 6 * 8 * one_map <= step <= 1.05 * 2 * 6 * 8 * one_map for step in growth)
    assert max(map(abs, differences(growth))) <= 0.01 * growth[0]
