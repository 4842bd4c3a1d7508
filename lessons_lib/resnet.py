"""Residual networks: the block with a shortcut, its relatives, and the nets that the lesson trains.

All raise a TypeError if an argument is of the wrong kind, and a ValueError if a size is below 1, a net has no stage or
block, or stem_stride is not 1, 2 or 4. Blocks and nets take images of shape (m, in_channels, h, w): they raise a
TypeError for anything but a tensor of the weights' dtype, and a ValueError for another shape or device.

Sources: K. He, X. Zhang, S. Ren and J. Sun, "Deep Residual Learning for Image Recognition", 2015, arXiv:1512.03385; the
same, "Identity Mappings in Deep Residual Networks", 2016, arXiv:1603.05027; S. Xie, R. Girshick, P. Dollár, Z. Tu and
K. He, "Aggregated Residual Transformations for Deep Neural Networks", 2016, arXiv:1611.05431.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.fx import wrap

from lessons_lib.checks import as_int, as_tuple, check_function

wrap("check_images")  # torch.fx records a call of it, and does not look into it


class Residual(nn.Module):
    """Two 3×3 convolutions and a shortcut around them: Y = relu(f(X) + shortcut(X)).

    The shortcut is the identity where Y has X's shape, else a 1×1 convolution with the block's stride and batch
    normalisation (the paper's option B). From (m, in_channels, h, w) to (m, out_channels, ⌈h / stride⌉, ⌈w / stride⌉):
    the first 3×3 convolution has the stride.

    Source: He and others 2015, figure 2 and equations (1) and (2).

    >>> Residual(3, 6, stride=2)(torch.zeros(4, 3, 7, 7)).shape
    torch.Size([4, 6, 4, 4])
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        in_channels, out_channels = as_int("in_channels", in_channels, 1), as_int("out_channels", out_channels, 1)
        stride = as_int("stride", stride, 1)
        self.in_channels = in_channels
        self.f = nn.Sequential(*self.layers(in_channels, out_channels, stride))
        same_shape = in_channels == out_channels and stride == 1
        self.shortcut = nn.Sequential(*([] if same_shape else conv_bn(in_channels, out_channels, 1, stride)))

    @classmethod
    def layers(cls, in_channels: int, out_channels: int, stride: int) -> list[nn.Module]:
        return [*conv_bn(in_channels, out_channels, 3, stride), nn.ReLU(), *conv_bn(out_channels, out_channels, 3)]

    def forward(self, X: Tensor) -> Tensor:
        check_images(X, self.in_channels, next(self.parameters()))
        return torch.relu(self.f(X) + self.shortcut(X))


class Plain(Residual):
    """The same layers without the shortcut, Y = relu(f(X)): what a residual block is compared with. As `Residual`."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, stride)
        del self.shortcut

    def forward(self, X: Tensor) -> Tensor:
        check_images(X, self.in_channels, next(self.parameters()))
        return torch.relu(self.f(X))


class Bottleneck(Residual):
    """A 1×1 convolution to a `shrink`th of the channels, a 3×3 one there, a 1×1 one back. As `Residual`.

    out_channels must be a multiple of shrink · groups. Source: He and others 2015, figure 5; but the stride is the 3×3
    convolution's, as in Facebook's and in PyTorch's nets.
    """

    shrink, groups = 4, 1

    @classmethod
    def layers(cls, in_channels: int, out_channels: int, stride: int) -> list[nn.Module]:
        if out_channels % (cls.shrink * cls.groups):
            raise ValueError(f"out_channels: expected a multiple of {cls.shrink * cls.groups}, got {out_channels}")
        width = out_channels // cls.shrink
        return [
            *conv_bn(in_channels, width, 1),
            nn.ReLU(),
            *conv_bn(width, width, 3, stride, cls.groups),
            nn.ReLU(),
            *conv_bn(width, out_channels, 1),
        ]


class ResNeXt(Bottleneck):
    """A bottleneck twice as wide, whose 3×3 convolution sees its channels in 32 groups. As `Bottleneck`.

    Source: Xie and others 2016, table 1: with [3, 4, 6, 3] blocks this is "ResNeXt-50 (32×4d)".
    """

    shrink, groups = 2, 32


class PreActivation(Residual):
    """Normalise and activate before each convolution, and nothing after the sum: Y = f(X) + shortcut(X). As `Residual`.

    Source: He and others 2016, figure 4e; where the shape changes, the shortcut is `Residual`'s.
    """

    @classmethod
    def layers(cls, in_channels: int, out_channels: int, stride: int) -> list[nn.Module]:
        conv1, norm, relu, conv2, _ = Residual.layers(in_channels, out_channels, stride)
        return [nn.BatchNorm2d(in_channels), nn.ReLU(), conv1, norm, relu, conv2]

    def forward(self, X: Tensor) -> Tensor:
        check_images(X, self.in_channels, next(self.parameters()))
        return self.f(X) + self.shortcut(X)


class Convolutional(nn.Module):
    """What residual and dense nets share: named parts, each of which computes on what the one before it returns.

    A part can be replaced (net.stem[0] = nn.Conv2d(3, 64, 3), net.fc = nn.Identity()) or deleted (del net.pool). Set
    `smallest`, the least height and width of an image, anew if a new part halves the map more or less often.
    """

    smallest: int

    @property
    def in_channels(self) -> int | None:
        """Channels of the images that the first layer takes; None if it takes any."""
        first = next(layer for layer in self.modules() if next(layer.children(), None) is None)
        return getattr(first, "in_channels", None)

    def add_stem(self, in_channels: int, out_channels: int, stride: int) -> None:
        """Shrink the image by `stride`: 4 with a 7×7 convolution and max-pooling, 2 or 1 with a 3×3 convolution."""
        in_channels = as_int("in_channels", in_channels, 1)
        if stride not in (1, 2, 4):
            raise ValueError(f"stem_stride: expected 1, 2 or 4, got {stride!r}")
        kernel_size, conv_stride = (7, 2) if stride == 4 else (3, stride)
        self.stem = nn.Sequential(*conv_bn(in_channels, out_channels, kernel_size, conv_stride), nn.ReLU())
        if stride == 4:
            self.pool = nn.MaxPool2d(3, stride=2, padding=1)

    def add_head(self, width: int, num_classes: int, mode: str) -> None:
        """Take the mean over each of `width` maps, and classify; let all convolutions start as He and others do."""
        self.mean = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(width, as_int("num_classes", num_classes, 1))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode=mode)

    def forward(self, X: Tensor) -> Tensor:
        check_images(X, self.in_channels, next(self.parameters()), self.smallest)
        for part in self.children():
            X = part(X)
        return X


class ResNet(Convolutional):
    """A residual net: stem, stages of blocks, the mean over each map, one linear layer.

    All stages but the first halve the map. The parts are children of these names: stem, pool (if stem_stride is 4),
    stage1, stage2, …, mean, fc. Images must be so large that no map of one pixel would be halved.

    Args:
        stages: for each stage (num_blocks, out_channels).
        num_classes, in_channels: scores an image; 1 for grey images, 3 for colour.
        block: a function of (in_channels, out_channels, stride): `Residual`, `Plain`, `Bottleneck`, … .
        stem_stride: by how much the image shrinks before the first stage. 4, made for 224×224: a 7×7 convolution of
            stride 2 with 64 channels, and max-pooling. 1 or 2, for small images: one 3×3 convolution of this stride.

    Source: He and others 2015, table 1 and section 4.2; weights start as K. He and others 2015, arXiv:1502.01852.

    >>> ResNet([(1, 8), (2, 16)], stem_stride=1)(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5, 10])
    """

    def __init__(
        self,
        stages: Sequence[tuple[int, int]],
        num_classes: int = 10,
        in_channels: int = 1,
        block: Callable[[int, int, int], nn.Module] = Residual,
        *,
        stem_stride: int = 4,
    ) -> None:
        pairs = []
        for i, stage in enumerate(as_tuple("stages", stages, "(num_blocks, out_channels)")):
            pairs.append([as_int(f"stages[{i}]", size, 1) for size in as_tuple(f"stages[{i}]", stage, "two ints")])
            if len(pairs[i]) != 2:
                raise ValueError(f"stages[{i}]: expected (num_blocks, out_channels), got {stage!r}")
        if not pairs:
            raise ValueError(f"stages: expected at least one (num_blocks, out_channels), got {stages!r}")
        stem_stride = as_int("stem_stride", stem_stride)
        check_function("block", block)
        super().__init__()
        width = 64 if stem_stride == 4 else pairs[0][1]
        self.add_stem(in_channels, width, stem_stride)
        self.smallest = stem_stride * 2 ** (len(pairs) - 1) // 2 + 1
        for i, (num_blocks, out_channels) in enumerate(pairs, start=1):
            blocks = [block(width, out_channels, 1 if i == 1 else 2)]
            blocks += [block(out_channels, out_channels, 1) for _ in range(num_blocks - 1)]
            self.add_module(f"stage{i}", nn.Sequential(*blocks))
            width = out_channels
        self.add_head(width, num_classes, "fan_out")
        if isinstance(blocks[-1], PreActivation):  # nothing has activated the last sum
            self.mean = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), *self.mean)


NUM_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def resnet(depth: int, num_classes: int = 10, in_channels: int = 1) -> ResNet:
    """The paper's net for large images with `depth` layers: 18, 34, 50, 101 or 152, shortcuts not counted.

    Any other depth is a ValueError. Source: He and others 2015, table 1.

    >>> sum(p.numel() for p in resnet(50, 1000, 3).parameters())
    25557032
    """
    depth = as_int("depth", depth, 1)
    if depth not in NUM_BLOCKS:
        raise ValueError(f"depth: expected one of {', '.join(map(str, NUM_BLOCKS))}, got {depth!r}")
    block, width = (Residual, 64) if depth < 50 else (Bottleneck, 256)
    stages = [(num_blocks, width * 2**i) for i, num_blocks in enumerate(NUM_BLOCKS[depth])]
    return ResNet(stages, num_classes, in_channels, block)


def resnet18(num_classes: int = 10, in_channels: int = 1) -> ResNet:
    """ResNet-18. Arguments and source as for `resnet`.

    >>> sum(p.numel() for p in resnet18(1000, 3).parameters())
    11689512
    """
    return resnet(18, num_classes, in_channels)


def small_resnet(num_classes: int = 10, in_channels: int = 1) -> ResNet:
    """The net that the lesson trains on 28×28 images: eight layers, 0.3 million parameters. Arguments: `ResNet`'s."""
    return ResNet([(1, 32), (1, 64), (1, 128)], num_classes, in_channels, stem_stride=2)


def conv_bn(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution that keeps the size of a map, or divides it by the stride, and its batch normalisation."""
    # No bias: batch normalisation would take it out again.
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out_channels)]


def check_images(X: Tensor, in_channels: int | None, weight: Tensor, smallest: int = 0) -> None:
    """Raise an error unless X has the shape (m, in_channels, h, w), and the weight's dtype and device."""
    if not isinstance(X, Tensor):
        raise TypeError(f"X: expected a tensor, got {type(X).__name__}")
    if X.dim() != 4 or X.shape[1] != (in_channels or X.shape[1]):
        raise ValueError(f"X: expected shape (m, {in_channels or 'c'}, h, w), got {tuple(X.shape)}")
    if min(X.shape[2:]) < smallest:
        raise ValueError(f"X: expected images of {smallest}×{smallest} or more, got {tuple(X.shape)}")
    if X.device != weight.device:
        raise ValueError(f"X: expected the weights' device {weight.device}, got {X.device}")
    if X.dtype != weight.dtype and not torch.is_autocast_enabled(X.device.type):
        raise TypeError(f"X: expected the weights' dtype {weight.dtype}, got {X.dtype}")
