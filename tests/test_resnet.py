"""The residual nets are the papers' nets, compute what a formula with PyTorch's functions does, and refuse the rest."""

import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache, partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d, linear, max_pool2d

from lessons_lib.data import fashion_mnist
from lessons_lib.resnet import (
    LAYOUTS,
    Bottleneck,
    Plain,
    PreActivation,
    Residual,
    ResNet,
    ResNeXt,
    conv_bn,
    resnet,
    resnet18,
    small_resnet,
)
from lessons_lib.training import num_parameters, train
from tests.nets import BAD_IMAGES, assert_is_recorded, assert_travels, convolutions, on_meta, randn, randomised


class Grouped(Bottleneck):
    """As `ResNeXt`, small enough to test with."""

    shrink, groups = 2, 3


BLOCKS = [Residual, Plain, Bottleneck, Grouped, PreActivation]
CHANNELS = 12  # a multiple that each block takes
Results = dict[str, Tensor]

blocks = pytest.mark.parametrize("block", BLOCKS)
modes = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


@cache
def for_1000_classes(depth: int) -> ResNet:
    return on_meta(resnet, depth, 1000, 3)


@cache
def resnext50() -> ResNet:
    return on_meta(ResNet, [(3, 256), (4, 512), (6, 1024), (3, 2048)], 1000, 3, ResNeXt)


def of_two_stages(block: type[nn.Module], **settings: int) -> ResNet:
    return ResNet([(2, CHANNELS), (1, 2 * CHANNELS)], 5, 2, block, **dict(stem_stride=1) | settings)


def blocks_of(net: ResNet) -> Iterator[tuple[int, int, nn.Module]]:
    """Each block with the numbers of its stage and of itself there, from 1."""
    for name, stage in net.named_children():
        if name.startswith("stage"):
            for j, block in enumerate(stage, start=1):
                yield int(name.removeprefix("stage")), j, block


# The nets of the papers


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda: for_1000_classes(18), 11_689_512),
        (lambda: on_meta(resnet18, 1000, 3), 11_689_512),
        (lambda: for_1000_classes(34), 21_797_672),
        (lambda: for_1000_classes(50), 25_557_032),
        (lambda: for_1000_classes(101), 44_549_160),
        (lambda: for_1000_classes(152), 60_192_808),
        (resnext50, 25_028_904),
    ],
    ids=["18", "resnet18", "34", "50", "101", "152", "ResNeXt-50"],
)
def test_has_as_many_parameters_as_torchvision_documents(make: Callable[[], ResNet], count: int) -> None:
    assert num_parameters(make()) == count


@pytest.mark.parametrize("depth", [*LAYOUTS, 8])
def test_is_as_deep_as_it_is_called(depth: int) -> None:
    net = small_resnet() if depth == 8 else for_1000_classes(depth)
    names = [name for name, layer in net.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len([name for name in names if "shortcut" not in name]) == depth


def test_the_small_net_has_less_than_a_third_of_a_million_parameters() -> None:
    block1, block2 = 2 * 9 * 32 * 32 + 4 * 32, 9 * 32 * 64 + 9 * 64 * 64 + 32 * 64 + 6 * 64
    block3 = 9 * 64 * 128 + 9 * 128 * 128 + 64 * 128 + 6 * 128
    assert num_parameters(small_resnet()) == 9 * 32 + 2 * 32 + block1 + block2 + block3 + 128 * 10 + 10 == 308_074


def test_ten_classes_of_grey_images_unless_told_otherwise() -> None:
    for make in (lambda *a: resnet(18, *a), resnet18, small_resnet, lambda *a: ResNet([(1, 4)], *a)):
        for sizes in ((10, 1), (7, 3)):
            net = on_meta(make) if sizes == (10, 1) else on_meta(make, *sizes)
            assert (net.fc.out_features, net.stem[0].in_channels) == sizes


def shapes_of_parts(net: ResNet, X: Tensor) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for name, part in net.named_children():
        X = part(X)
        shapes[name] = tuple(X.shape[1:])
    return shapes


@pytest.mark.parametrize("depth", LAYOUTS)
def test_the_stages_have_the_shapes_of_the_paper_s_table_1(depth: int) -> None:
    net = for_1000_classes(depth)
    factor = 4 if depth >= 50 else 1
    expected = dict(stem=(64, 112, 112), pool=(64, 56, 56))
    expected |= {f"stage{i}": (factor * 32 * 2**i, 112 // 2**i, 112 // 2**i) for i in (1, 2, 3, 4)}
    assert expected["stage4"] == ((2048 if depth >= 50 else 512), 7, 7)
    shapes = shapes_of_parts(net, torch.zeros(1, 3, 224, 224, device="meta"))
    assert shapes == expected | dict(mean=(factor * 512,), fc=(1000,))
    assert list(shapes) == ["stem", "pool", "stage1", "stage2", "stage3", "stage4", "mean", "fc"]


def test_the_shapes_at_96_by_96_and_in_the_small_net() -> None:
    maps = dict(stem=48, pool=24, stage1=24, stage2=12, stage3=6, stage4=3)
    shapes = shapes_of_parts(on_meta(resnet18), torch.zeros(1, 1, 96, 96, device="meta"))
    assert {name: shapes[name][1] for name in maps} == maps
    assert shapes_of_parts(on_meta(small_resnet), torch.zeros(1, 1, 28, 28, device="meta")) == dict(
        stem=(32, 14, 14), stage1=(32, 14, 14), stage2=(64, 7, 7), stage3=(128, 4, 4), mean=(128,), fc=(10,)
    )


# The layers of each block: out_channels, kernel, stride, groups. None is the block's stride, "w" its inner width.
TWO = [("out", 3, None, 1), ("out", 3, 1, 1)]
LAYERS = {Residual: TWO, Plain: TWO, PreActivation: TWO}
LAYERS |= {
    kind: [("w", 1, 1, 1), ("w", 3, None, kind.groups), ("out", 1, 1, 1)] for kind in (Bottleneck, Grouped, ResNeXt)
}


def layout(conv: nn.Conv2d) -> tuple[int, ...]:
    assert len({*conv.kernel_size}) == len({*conv.stride}) == 1
    assert conv.padding == ((conv.kernel_size[0] - 1) // 2,) * 2 and conv.dilation == (1, 1)
    return conv.in_channels, conv.out_channels, conv.kernel_size[0], conv.stride[0], conv.groups


@pytest.mark.parametrize(
    "make",
    [
        *(partial(for_1000_classes, d) for d in LAYOUTS),
        resnext50,
        *(partial(on_meta, of_two_stages, b) for b in BLOCKS),
    ],
    ids=[*map(str, LAYOUTS), "ResNeXt-50", *(block.__name__ for block in BLOCKS)],
)
def test_only_the_first_block_of_a_stage_halves_and_only_a_change_of_shape_is_projected(
    make: Callable[[], ResNet],
) -> None:
    net = make()
    width = net.stem[0].out_channels
    for i, j, block in blocks_of(net):
        stride = 2 if i > 1 and j == 1 else 1
        *_, last = convolutions(block.f)
        sizes = dict(out=last.out_channels, w=last.in_channels)
        expected, channels = [], width
        for name, kernel_size, own_stride, groups in LAYERS[type(block)]:
            expected.append((channels, sizes[name], kernel_size, own_stride or stride, groups))
            channels = sizes[name]
        assert [layout(conv) for conv in convolutions(block.f)] == expected, (i, j)
        if not isinstance(block, Plain):
            same_shape = width == channels and stride == 1
            projection = [] if same_shape else [(width, channels, 1, stride, 1)]
            assert [layout(conv) for conv in convolutions(block.shortcut)] == projection, (i, j)
            assert [type(layer) for layer in block.shortcut] == ([] if same_shape else [nn.Conv2d, nn.BatchNorm2d])
        width = channels


def test_the_inner_widths_are_the_papers() -> None:
    assert [conv.out_channels for conv in convolutions(on_meta(Bottleneck, 256, 256))] == [64, 64, 256]
    assert [conv.out_channels for conv in convolutions(on_meta(ResNeXt, 256, 256))] == [128, 128, 256]
    assert convolutions(on_meta(ResNeXt, 256, 256))[1].weight.shape == (128, 4, 3, 3)  # "32×4d": 32 groups of 4


def test_a_plain_block_has_no_trace_of_a_shortcut() -> None:
    plain, residual = Plain(2, 4, 2).state_dict(), Residual(2, 4, 2).state_dict()
    assert plain.keys() == {name for name in residual if not name.startswith("shortcut")} < residual.keys()


@pytest.mark.parametrize(("stem_stride", "size"), [(1, 10), (2, 5), (4, 3)])
def test_the_stem_shrinks_the_image_by_its_stride(stem_stride: int, size: int) -> None:
    net = on_meta(of_two_stages, Residual, stem_stride=stem_stride)
    shapes = shapes_of_parts(net, torch.zeros(1, 2, 10, 10, device="meta"))
    assert shapes["stage1"] == (CHANNELS, size, size)
    assert shapes["stem"][0] == (64 if stem_stride == 4 else CHANNELS)
    assert ("pool" in shapes) == (stem_stride == 4)
    assert layout(net.stem[0])[2:] == {1: (3, 1, 1), 2: (3, 2, 1), 4: (7, 2, 1)}[stem_stride]


@pytest.mark.parametrize("block", [*BLOCKS, ResNeXt])
def test_a_net_is_made_of_the_block_that_it_is_given(block: type[nn.Module]) -> None:
    asked = []

    def recorded(*sizes: int) -> nn.Module:
        asked.append(sizes)
        return block(*sizes)

    a, b = 192, 384
    net = on_meta(ResNet, [(2, a), (1, b), (3, a)], block=recorded, stem_stride=2)
    assert asked == [(a, a, 1), (a, a, 1), (a, b, 2), (b, a, 2), (a, a, 1), (a, a, 1)]
    assert {type(part) for _, _, part in blocks_of(net)} == {block}


# As the formulas, with PyTorch's functions


class Formula:
    """The papers' formulas on the numbers of a state: `averages` collects the running ones after a step."""

    def __init__(self, net: nn.Module) -> None:
        self.state = {name: value.detach().clone() for name, value in net.state_dict().items()}
        self.parameters = {name: self.state[name].requires_grad_() for name, _ in net.named_parameters()}
        self.training = net.training

    def conv(self, name: str, X: Tensor, stride: int = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        return conv2d(X, weight, None, stride, weight.shape[2] // 2, groups=X.shape[1] // weight.shape[1])

    def norm(self, name: str, X: Tensor) -> Tensor:
        mean, var, gamma, beta = (
            self.state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return batch_norm(X, mean, var, gamma, beta, self.training, 0.1, 1e-5)

    def block(self, kind: type[nn.Module], name: str, X: Tensor, out_channels: int, stride: int) -> Tensor:
        conv, norm, relu = self.conv, self.norm, torch.relu
        if kind is PreActivation:
            Y = conv(f"{name}f.2", relu(norm(f"{name}f.0", X)), stride)
            Y = conv(f"{name}f.5", relu(norm(f"{name}f.3", Y)))
        elif issubclass(kind, Bottleneck):
            Y = relu(norm(f"{name}f.1", conv(f"{name}f.0", X)))
            Y = relu(norm(f"{name}f.4", conv(f"{name}f.3", Y, stride)))
            Y = norm(f"{name}f.7", conv(f"{name}f.6", Y))
        else:
            Y = relu(norm(f"{name}f.1", conv(f"{name}f.0", X, stride)))
            Y = norm(f"{name}f.4", conv(f"{name}f.3", Y))
        if kind is Plain:
            return relu(Y)
        if X.shape[1] != out_channels or stride != 1:
            X = norm(f"{name}shortcut.1", conv(f"{name}shortcut.0", X, stride))
        return Y + X if kind is PreActivation else relu(Y + X)

    def net(self, kind: type[nn.Module], stages: list[tuple[int, int]], stem_stride: int, X: Tensor) -> Tensor:
        X = torch.relu(self.norm("stem.1", self.conv("stem.0", X, min(stem_stride, 2))))
        if stem_stride == 4:
            X = max_pool2d(X, 3, 2, 1)
        for i, (num_blocks, out_channels) in enumerate(stages):
            for j in range(num_blocks):
                X = self.block(kind, f"stage{i + 1}.{j}.", X, out_channels, 2 if i > 0 and j == 0 else 1)
        if kind is PreActivation:
            X = torch.relu(self.norm("mean.0", X))
        return linear(X.mean((2, 3)), self.state["fc.weight"], self.state["fc.bias"])


def assert_same_there_and_back(net: nn.Module, formula: Callable[[Formula, Tensor], Tensor], X: Tensor) -> None:
    expected = Formula(net)
    ours, theirs = X.clone().requires_grad_(), X.clone().requires_grad_()
    Y, Y_expected = net(ours), formula(expected, theirs)
    dY = randn(*Y_expected.shape, seed=99)
    Y.backward(dY), Y_expected.backward(dY)
    pairs = {"Y": (Y, Y_expected), "dX": (ours.grad, theirs.grad)}
    pairs |= {f"d{name}": (p.grad, expected.parameters[name].grad) for name, p in net.named_parameters()}
    pairs |= {name: (b, expected.state[name]) for name, b in net.named_buffers() if "running" in name}
    for name, (got, wanted) in pairs.items():
        atol = 1e-12 * max(1.0, wanted.abs().max().item())
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


@blocks
@modes
@settings(max_examples=15, deadline=None)
@given(
    shape=st.tuples(st.integers(2, 3), st.integers(1, 7), st.integers(1, 7)),
    in_channels=st.integers(1, 4) | st.just(CHANNELS),
    stride=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_a_block_agrees_with_its_formula(
    block: type[nn.Module], training: bool, shape: tuple[int, ...], in_channels: int, stride: int, seed: int
) -> None:
    m, h, w = shape
    net = randomised(block(in_channels, CHANNELS, stride)).train(training)
    X = randn(m, in_channels, h, w, seed=seed)
    assert net(X).shape == (m, CHANNELS, math.ceil(h / stride), math.ceil(w / stride))
    net = randomised(net)  # training moved the averages
    assert_same_there_and_back(net, lambda formula, X: formula.block(block, "", X, CHANNELS, stride), X)


@blocks
@modes
@pytest.mark.parametrize(("stem_stride", "size"), [(1, (5, 8)), (2, (9, 7)), (4, (17, 11))])
def test_a_net_agrees_with_its_formula(
    block: type[nn.Module], training: bool, stem_stride: int, size: tuple[int, int]
) -> None:
    stages = [(2, CHANNELS), (1, 2 * CHANNELS), (2, 2 * CHANNELS)]
    net = randomised(ResNet(stages, 5, 2, block, stem_stride=stem_stride)).train(training)
    X = randn(3, 2, *size)
    assert_same_there_and_back(net, lambda formula, X: formula.net(block, stages, stem_stride, X), X)


def test_a_stage_may_keep_or_narrow_the_channels() -> None:
    stages = [(1, 8), (1, 8), (1, 4)]
    net = randomised(ResNet(stages, 3, stem_stride=1))
    assert_same_there_and_back(net, lambda f, X: f.net(Residual, stages, 1, X), randn(2, 1, 9, 9))


# What the shortcut is for


@blocks
def test_with_nothing_from_the_layers_a_block_passes_its_input_on(block: type[nn.Module]) -> None:
    net = block(CHANNELS, CHANNELS)
    last = [layer for layer in net.f if hasattr(layer, "weight")][-1]
    assert isinstance(last, nn.Conv2d if block is PreActivation else nn.BatchNorm2d)
    nn.init.zeros_(last.weight)
    X = randn(2, CHANNELS, 5, 5).float()
    assert X.min() < -1
    expected = {PreActivation: X, Plain: torch.zeros_like(X)}.get(block, X.clamp(min=0))
    assert torch.equal(net(X), expected)


def test_the_gradient_goes_around_dead_layers_by_the_shortcut_alone() -> None:
    for block, passes in ((Residual, True), (PreActivation, True), (Plain, False)):
        net = nn.Sequential(*(block(4, 4) for _ in range(5)))
        for part in net:
            for conv in convolutions(part):
                nn.init.zeros_(conv.weight)
        X = randn(2, 4, 3, 3).float().abs().requires_grad_()
        net(X).sum().backward()
        assert torch.equal(X.grad, torch.full_like(X, float(passes)))


def assert_all_learn(net: nn.Module, X: Tensor, idle: Callable[[str], bool] = lambda name: False) -> None:
    """Each pixel has a gradient, and each parameter but the idle ones, and none comes from rounding alone."""
    net.double()
    X = X.requires_grad_()
    Y = net(X)
    Y.backward(randn(*Y.shape, seed=9))
    assert (X.grad != 0).any(dim=1).all()
    for name, parameter in net.named_parameters():
        assert (parameter.grad.abs().max() < 1e-9) == idle(name), name


@blocks
@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_has_a_gradient_at_every_parameter_and_at_the_input(block: type[nn.Module], stride: int) -> None:
    torch.manual_seed(0)
    assert_all_learn(block(CHANNELS, CHANNELS, stride), randn(3, CHANNELS, 5, 5))


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (resnet18, (4, 1, 33, 33)),
        (small_resnet, (4, 1, 28, 28)),
        *((lambda b=b: of_two_stages(b), (4, 2, 9, 9)) for b in BLOCKS),
    ],
    ids=["resnet18", "small_resnet", *(block.__name__ for block in BLOCKS)],
)
def test_a_net_has_a_gradient_at_every_parameter_and_at_the_input(
    make: Callable[[], ResNet], shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    net = make()
    pre_activated = any(isinstance(block, PreActivation) for _, _, block in blocks_of(net))
    # All that follows normalises first, which takes the shift of a pre-activated block's shortcut out again.
    assert_all_learn(net, randn(*shape), lambda name: pre_activated and name.endswith("shortcut.1.bias"))


def test_the_small_net_learns_16_images_in_20_steps() -> None:
    torch.manual_seed(0)
    examples = torch.utils.data.TensorDataset(*fashion_mnist("train")[:16])
    history = train(small_resnet(), examples, lr=0.1, momentum=0.9, batch_size=16, num_epochs=20)
    assert history.loss[0] > 2
    assert history.loss[-1] < 0.5


# Start


@pytest.mark.parametrize("block", [Residual, Bottleneck, ResNeXt, PreActivation])
def test_the_weights_start_as_he_and_others_have_it(block: type[nn.Module]) -> None:
    torch.manual_seed(0)
    net = ResNet([(1, 64), (2, 128)], 10, 3, block)
    for conv in convolutions(net):
        assert conv.bias is None
        std = math.sqrt(2 / (conv.out_channels * conv.kernel_size[0] ** 2))  # PyTorch counts no groups here
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
        return nn.utils.parameters_to_vector(small_resnet().parameters())

    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))


# Nets travel


def test_a_copy_computes_the_same() -> None:
    net = randomised(of_two_stages(Residual)).eval()
    for copy in assert_travels(net, lambda: of_two_stages(Residual).double(), randn(2, 2, 9, 9)):
        with pytest.raises(ValueError, match=r"2×2 or more, got \(1, 2, 1, 1\)"):
            copy(randn(1, 2, 1, 1))


@pytest.mark.parametrize("block", [Residual, Plain, PreActivation])
def test_pytorchs_tools_record_what_it_computes(block: type[nn.Module]) -> None:
    assert_is_recorded(of_two_stages(block), randn(3, 2, 9, 9).float())


def test_parts_can_be_replaced_and_deleted() -> None:
    net, X = small_resnet(), randn(2, 3, 28, 28).float()
    names = list(net.state_dict())
    net.stem[0] = nn.Conv2d(3, 32, 3, 1, 1, bias=False)  # colour images, and no shrinking
    net.fc = nn.Linear(128, 7)
    assert net(X).shape == (2, 7) and net.in_channels == 3
    assert list(net.state_dict()) == names
    with pytest.raises(ValueError, match=r"X: expected shape \(m, 3, h, w\), got \(2, 1, 28, 28\)"):
        net(X[:, :1])
    net.stage3 = nn.Conv2d(64, 128, 1)
    assert net.mean(net.stage3(net[:3](X))).equal(net[:-1](X))
    net.fc = nn.Identity()
    assert net(X).equal(net[:-1](X))
    del net.fc
    assert net(X).shape == (2, 128) and [name for name, _ in net.named_children()][-1] == "mean"
    net.stem = nn.Identity()  # which takes any number of channels
    assert net.in_channels is None and net.stage1(torch.zeros(2, 32, 8, 8)).equal(net[:2](torch.zeros(2, 32, 8, 8)))


def test_a_net_for_large_images_can_be_made_one_for_small_ones() -> None:
    net = resnet18(in_channels=3)
    net.stem[0] = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    net.pool = nn.Identity()
    net.smallest = 5
    assert net(torch.zeros(2, 3, 5, 5)).shape == (2, 10)


@blocks
@modes
def test_channels_last_computes_the_same(block: type[nn.Module], training: bool) -> None:
    net = of_two_stages(block).train(training)
    X = randn(4, 2, 9, 9).float()
    expected = net(X)
    net.to(memory_format=torch.channels_last)
    assert net.stem[0].weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(net(X.to(memory_format=torch.channels_last)), expected, rtol=1e-4, atol=1e-4)


@blocks
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.02), (torch.bfloat16, 0.1)], ids=str)
def test_half_precision_computes_nearly_the_same(block: type[nn.Module], dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    net = of_two_stages(block).eval()
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


@pytest.mark.parametrize("block", [*BLOCKS, ResNeXt])
@pytest.mark.parametrize(
    ("name", "value", "error", "message"), size_errors("in_channels", "out_channels", "stride"), ids=str
)
def test_a_block_refuses_a_bad_size(
    block: type[nn.Module], name: str, value: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as raised:
        block(**dict(in_channels=64, out_channels=64, stride=1) | {name: value})
    assert str(raised.value) == message


@pytest.mark.parametrize(
    "make", [lambda **kw: ResNet([(1, 4)], **kw), lambda **kw: resnet(18, **kw), resnet18, small_resnet]
)
@pytest.mark.parametrize(("name", "value", "error", "message"), size_errors("num_classes", "in_channels"), ids=str)
def test_a_net_refuses_a_bad_size(
    make: Callable[..., ResNet], name: str, value: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as raised:
        make(**{name: value})
    assert str(raised.value) == message


@pytest.mark.parametrize(("name", "value", "error", "message"), size_errors("num_blocks", "out_channels"), ids=str)
@pytest.mark.parametrize("before", [[], [(1, 4)]])
def test_a_net_refuses_a_bad_stage(
    before: list[tuple[int, int]], name: str, value: object, error: type[Exception], message: str
) -> None:
    stage = dict(num_blocks=1, out_channels=4) | {name: value}
    with pytest.raises(error) as raised:
        ResNet([*before, tuple(stage.values())], block=lambda *sizes: nn.Identity())  # which checks nothing itself
    assert str(raised.value) == f"stages[{len(before)}], {message}"


@pytest.mark.parametrize(
    ("stages", "error", "message"),
    [
        ((), ValueError, "stages: expected at least one (num_blocks, out_channels), got []"),
        (None, TypeError, "stages: expected a sequence of (num_blocks, out_channels), got None"),
        ([(1, 4), 2], TypeError, "stages[1]: expected a sequence of two ints, got 2"),
        ([(1, 4, 2)], ValueError, "stages[0]: expected (num_blocks, out_channels), got (1, 4, 2)"),
    ],
)
def test_a_net_refuses_what_are_no_stages(stages: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        ResNet(stages)
    assert str(raised.value) == message


def test_a_net_refuses_what_makes_no_block() -> None:
    with pytest.raises(TypeError) as raised:
        ResNet([(1, 4)], block="Residual")
    assert str(raised.value) == "block: expected a function, got 'Residual'"


@pytest.mark.parametrize("kind", [np.int64, np.uint8, torch.tensor])
def test_sizes_of_any_kind_serve(kind: Callable[[int], object]) -> None:
    net = ResNet([np.array([1, 4]), [kind(2), kind(8)]], kind(3), kind(2), stem_stride=kind(2))
    assert net(torch.zeros(2, 2, 9, 9)).shape == (2, 3)
    assert Bottleneck(kind(2), kind(8), kind(2))(torch.zeros(2, 2, 3, 3)).shape == (2, 8, 2, 2)
    assert len(list(blocks_of(on_meta(resnet, kind(18))))) == 8


NO_SIZES = [(value, TypeError, "an int") for value in ("4", None, (4,), [18], True, 2.0)]
NO_SIZES += [(value, ValueError, "at least 1") for value in (0, -1)]


@pytest.mark.parametrize(
    ("stem_stride", "error", "expected"), [*NO_SIZES, (3, ValueError, "1, 2 or 4"), (8, ValueError, "1, 2 or 4")]
)
def test_a_net_refuses_another_stem(stem_stride: object, error: type[Exception], expected: str) -> None:
    with pytest.raises(error) as raised:
        ResNet([(1, 4)], stem_stride=stem_stride)
    assert str(raised.value) == f"stem_stride: expected {expected}, got {stem_stride!r}"


@pytest.mark.parametrize(("depth", "error", "expected"), [*NO_SIZES, (20, ValueError, "one of 18, 34, 50, 101, 152")])
def test_there_is_no_net_of_another_depth(depth: object, error: type[Exception], expected: str) -> None:
    with pytest.raises(error) as raised:
        resnet(depth)
    assert str(raised.value) == f"depth: expected {expected}, got {depth!r}"


def test_a_slice_of_a_net_computes_what_its_parts_do() -> None:
    net, X = small_resnet().eval(), randn(2, 1, 28, 28).float()
    assert torch.equal(net.fc(net[:-1](X)), net(X))
    assert net[0] is net.stem and net[-1] is net.fc


@pytest.mark.parametrize(
    ("block", "out_channels", "multiple"), [(Bottleneck, 6, 4), (Bottleneck, 1, 4), (Grouped, 4, 6), (ResNeXt, 96, 64)]
)
def test_a_bottleneck_refuses_channels_that_it_cannot_share_out(
    block: type[nn.Module], out_channels: int, multiple: int
) -> None:
    message = f"out_channels: expected a multiple of {multiple}, got {out_channels}"
    with pytest.raises(ValueError, match=message):
        block(64, out_channels)
    with pytest.raises(ValueError, match=message):
        ResNet([(1, 192), (1, out_channels)], block=block)
    assert block(5, multiple, 2)(torch.zeros(2, 5, 3, 3)).shape == (2, multiple, 2, 2)


@modes
@pytest.mark.parametrize("make", [*(lambda b=b: b(2, CHANNELS) for b in BLOCKS), lambda: of_two_stages(Residual)])
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


@pytest.mark.parametrize("size", [(16, 16), (17, 16), (16, 17), (100, 16), (1, 1), (0, 0)])
def test_resnet18_refuses_images_below_17_by_17(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError) as raised:
        for_1000_classes(18)(torch.zeros(2, 3, *size, device="meta"))
    assert str(raised.value) == f"X: expected images of 17×17 or more, got {(2, 3, *size)}"


@pytest.mark.parametrize("size", [(17, 17), (17, 40), (40, 17)])
def test_resnet18_takes_images_from_17_by_17(size: tuple[int, int]) -> None:
    assert for_1000_classes(18)(torch.zeros(2, 3, *size, device="meta")).shape == (2, 1000)


def halves_one_pixel(size: int, stem_stride: int, num_stages: int) -> bool:
    """Whether the stem or a stage would halve a map of one pixel."""
    halvings = {1: 0, 2: 1, 4: 2}[stem_stride] + num_stages - 1
    for _ in range(halvings):
        if size == 1:
            return True
        size = math.ceil(size / 2)
    return False


@pytest.mark.parametrize("stem_stride", [1, 2, 4])
@pytest.mark.parametrize("num_stages", [1, 2, 3, 4, 5])
def test_refuses_exactly_the_images_of_which_a_map_of_one_pixel_would_be_halved(
    stem_stride: int, num_stages: int
) -> None:
    net = on_meta(ResNet, [(1, 2)] * num_stages, block=Plain, stem_stride=stem_stride)
    sizes = range(1, 2 ** (num_stages + 2))
    too_small = [size for size in sizes if halves_one_pixel(size, stem_stride, num_stages)]
    smallest = len(too_small) + 1
    for size in [0, *too_small]:
        for shape in ((2, 1, size, size), (2, 1, size, 99), (2, 1, 99, size)):
            with pytest.raises(ValueError) as raised:
                net(torch.zeros(shape, device="meta"))
            assert str(raised.value) == f"X: expected images of {smallest}×{smallest} or more, got {shape}"
    assert net(torch.zeros(2, 1, smallest, smallest, device="meta")).shape == (2, 10)


def test_one_pixel_an_image_will_do_to_predict_but_not_to_train_on_one_image() -> None:
    net = resnet18()
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        net(torch.zeros(1, 1, 17, 17))
    assert net.eval()(torch.zeros(1, 1, 17, 17)).shape == (1, 10)
    assert net.train()(torch.zeros(2, 1, 17, 17)).shape == (2, 10)


# The parts


@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_convolution_keeps_the_size_of_a_map_or_divides_it(kernel_size: int, stride: int) -> None:
    conv, norm = conv_bn(4, 6, kernel_size, stride, 2)
    assert layout(conv) == (4, 6, kernel_size, stride, 2)
    assert conv.bias is None and norm.num_features == 6
    assert conv(torch.zeros(1, 4, 7, 8)).shape == (1, 6, math.ceil(7 / stride), math.ceil(8 / stride))
