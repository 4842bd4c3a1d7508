"""Dense networks: the block whose layers see all earlier outputs, its lean twin, and the nets that the lesson trains.

All raise the errors that residual blocks and nets raise, which `lessons_lib.resnet` lists.

Sources: G. Huang, Z. Liu, L. van der Maaten and K. Weinberger, "Densely Connected Convolutional Networks", 2016,
arXiv:1608.06993; G. Pleiss and others, "Memory-Efficient Implementation of DenseNets", 2017, arXiv:1707.06990.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import wrap
from torch.utils.checkpoint import checkpoint

from lessons_lib.checks import as_bool, as_int, as_tuple
from lessons_lib.resnet import Convolutional, check_images

wrap("check_images")  # torch.fx records a call of it, and does not look into it


class DenseBlock(nn.Module):
    """Layers that each see the block's input and all earlier layers' outputs: X ← [X, f(X)], for each layer f.

    f is batch normalisation, ReLU and a 3×3 convolution to growth_rate channels. X grows by these with each layer, to
    `out_channels` = in_channels + num_layers · growth_rate; its maps keep their size.

    Args:
        num_layers: how many f.
        in_channels, growth_rate: c of the input (m, c, h, w), and channels that each layer adds.
        bottleneck: let batch normalisation, ReLU and a 1×1 convolution to 4 · growth_rate channels go first in f.
        lean: keep no [X, f(X)] for the backward pass, but compute each again there: memory grows linearly instead of
            quadratically with num_layers, for a second run of all but the last convolution of each layer. Results
            and state stay the same. Under `torch.compile` this is the plain block: the compiler chooses what to keep.

    Source: Huang and others 2016, equation (2) and section 3; lean: Pleiss and others 2017, section 3.

    >>> DenseBlock(2, in_channels=3, growth_rate=10)(torch.zeros(4, 3, 8, 8)).shape
    torch.Size([4, 23, 8, 8])
    """

    def __init__(
        self, num_layers: int, in_channels: int, growth_rate: int, *, bottleneck: bool = False, lean: bool = False
    ) -> None:
        super().__init__()
        num_layers, in_channels = as_int("num_layers", num_layers, 1), as_int("in_channels", in_channels, 1)
        growth_rate, bottleneck = as_int("growth_rate", growth_rate, 1), as_bool("bottleneck", bottleneck)
        self.in_channels, self.lean = in_channels, as_bool("lean", lean)
        self.out_channels = in_channels + num_layers * growth_rate
        self.f = nn.ModuleList()
        for width in range(in_channels, self.out_channels, growth_rate):
            inner = 4 * growth_rate if bottleneck else width
            first = bn_relu_conv(width, inner, 1) if bottleneck else []
            self.f.append(nn.Sequential(*first, *bn_relu_conv(inner, growth_rate, 3)))

    def forward(self, X: Tensor) -> Tensor:
        check_images(X, self.in_channels, next(self.parameters()))
        if not self.lean or not torch.is_grad_enabled() or torch.compiler.is_compiling():
            for f in self.f:
                X = torch.cat((X, f(X)), 1)
            return X
        parts = [X]  # joined as one X, each part would be kept once for every later layer
        for f in self.f:
            parts.append(_recomputed(f, parts))
        return torch.cat(parts, 1)


def _recomputed(f: nn.Module, parts: Sequence[Tensor]) -> Tensor:
    """f of the joined parts. For the backward pass only the parts are kept: there the rest is computed again."""
    again = False

    def join_and_apply(*parts: Tensor) -> Tensor:
        nonlocal again
        # Computed again, f moves copies of its averages: otherwise each batch would count twice.
        averages = {name: value.clone() for name, value in f.named_buffers() if again}
        again = True
        return functional_call(f, averages, torch.cat(parts, 1))

    # Stops before the last convolution: the backward pass needs its input, not its output. Nothing in f is random.
    return checkpoint(join_and_apply, *parts, use_reentrant=False, preserve_rng_state=False)


class Transition(nn.Module):
    """Between two blocks: a 1×1 convolution changes the channels, an average over 2×2 pixels halves the map.

    Batch normalisation and ReLU go first. From (m, in_channels, h, w) to (m, out_channels, ⌊h / 2⌋, ⌊w / 2⌋): the last
    row or column of an odd size is left out.

    Source: Huang and others 2016, section 3, "Pooling layers".

    >>> Transition(23, 10)(torch.zeros(4, 23, 8, 8)).shape
    torch.Size([4, 10, 4, 4])
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        in_channels, out_channels = as_int("in_channels", in_channels, 1), as_int("out_channels", out_channels, 1)
        self.in_channels = in_channels
        self.f = nn.Sequential(*bn_relu_conv(in_channels, out_channels, 1), nn.AvgPool2d(2))

    def forward(self, X: Tensor) -> Tensor:
        check_images(X, self.in_channels, next(self.parameters()))
        return self.f(X)


class DenseNet(Convolutional):
    """A dense net: stem, dense blocks with transitions between them, the mean over each map, one linear layer.

    Each transition halves the map and the channels (rounded down). The parts are called stem, pool (if stem_stride is
    4), block1, transition1, block2, …, norm, mean, fc. Images must be so large that no map of one pixel is halved.

    Args:
        num_layers, growth_rate, bottleneck, lean: as for `DenseBlock`, num_layers for each block.
        num_classes, in_channels, stem_stride: as for `ResNet`.
        stem_channels: channels that the first block sees.

    Source: Huang and others 2016, table 1; weights start as K. He and others 2015, arXiv:1502.01852.

    >>> DenseNet((2, 2), growth_rate=4, stem_channels=8, stem_stride=1)(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5, 10])
    """

    def __init__(
        self,
        num_layers: Sequence[int],
        growth_rate: int,
        num_classes: int = 10,
        in_channels: int = 1,
        *,
        stem_channels: int,
        stem_stride: int = 4,
        bottleneck: bool = False,
        lean: bool = False,
    ) -> None:
        num_layers = as_tuple("num_layers", num_layers, "ints")
        if not num_layers:
            raise ValueError(f"num_layers: expected at least one block's number, got {num_layers}")
        stem_channels, stem_stride = as_int("stem_channels", stem_channels, 1), as_int("stem_stride", stem_stride)
        super().__init__()
        self.add_stem(in_channels, stem_channels, stem_stride)
        # The stem rounds sizes up, a transition down: the first of t transitions must get 2^t pixels or more.
        self.smallest = max(stem_stride // 2, stem_stride * (2 ** (len(num_layers) - 1) - 1)) + 1
        width = stem_channels
        for i, number in enumerate(num_layers, start=1):
            if i > 1:
                self.add_module(f"transition{i - 1}", Transition(width, width // 2))
                width //= 2
            block = DenseBlock(number, width, growth_rate, bottleneck=bottleneck, lean=lean)
            self.add_module(f"block{i}", block)
            width = block.out_channels
        self.norm = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU())  # nothing has activated the last block's output
        self.add_head(width, num_classes, "fan_in")


def densenet121(num_classes: int = 10, in_channels: int = 1) -> DenseNet:
    """The paper's net for large images with 121 layers. Arguments and source as for `DenseNet`.

    >>> sum(p.numel() for p in densenet121(1000, 3).parameters())
    7978856
    """
    return DenseNet((6, 12, 24, 16), 32, num_classes, in_channels, stem_channels=64, bottleneck=True)


def small_densenet(num_classes: int = 10, in_channels: int = 1, *, lean: bool = False) -> DenseNet:
    """The net that the lesson trains on 28×28 images: 14 layers, 95,000 parameters. Arguments: `DenseNet`'s."""
    return DenseNet((2, 4, 4), 16, num_classes, in_channels, stem_channels=32, stem_stride=2, lean=lean)


def bn_relu_conv(in_channels: int, out_channels: int, kernel_size: int) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
    return [nn.BatchNorm2d(in_channels), nn.ReLU(), conv]
