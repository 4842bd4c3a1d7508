"""Measure the lessons' layers against PyTorch's own: `make bench`.

Each row pits candidates for the same work against each other, in turn. The first is the yardstick: its median time is
printed, and the others' median ratios to its time in the same round, so that a busy moment strikes both. Ends with 1
if a ratio exceeds its limit. To add a row, yield it from `rows`.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from statistics import median

import torch
from torch import Tensor, nn

from lessons_lib.batch_norm import BatchNorm, batch_norm, lenet
from lessons_lib.densenet import DenseBlock
from lessons_lib.training import Memory

Work = Callable[[], object]
WARM_UP, ROUNDS = 3, 60


class Readable(BatchNorm):
    """The function `batch_norm` as a layer, to be measured and tested as one."""

    def forward(self, X: Tensor) -> Tensor:
        state = self.weight, self.bias, self.running_mean, self.running_var
        Y, self.running_mean, self.running_var = batch_norm(self.training, X, *state, self.eps, 1 - self.momentum)
        return Y


def pytorch(num_features: int, num_dims: int) -> nn.Module:
    return (nn.BatchNorm1d if num_dims == 2 else nn.BatchNorm2d)(num_features)


NORMS = {"PyTorch": pytorch, "ours": BatchNorm, "readable": Readable}
COLUMNS = [*NORMS, "no norm"]
STEP = "training step of LeNet, 128 images 28×28"
LIMITS = {STEP: {"ours": 1.25}}  # the largest ratio that a candidate may have


def rows() -> Iterator[tuple[str, dict[str, Work]]]:
    """What is done, and who does it."""
    yield STEP, {name: training_step(lenet(NORMS.get(name))) for name in COLUMNS}
    for shape in [(128, 6, 24, 24), (128, 16, 8, 8), (128, 120), (128, 64, 14, 14)]:
        layers = {name: there_and_back(norm(shape[1], len(shape)), shape) for name, norm in NORMS.items()}
        yield f"layer there and back, {'×'.join(map(str, shape))}", layers


def measured() -> Iterator[tuple[str, float, dict[str, float]]]:
    """Each row's name, the yardstick's median milliseconds, and the median ratios of all candidates to it."""
    for what, candidates in rows():
        rounds = [[seconds(work) for work in candidates.values()] for _ in range(WARM_UP + ROUNDS)][WARM_UP:]
        ratios = {name: median(times[i] / times[0] for times in rounds) for i, name in enumerate(candidates)}
        yield what, median(times[0] for times in rounds) * 1e3, ratios


def memory_rows() -> Iterator[tuple[int, bool, float]]:
    """Layers, bottleneck or not, and the lean dense block's peak memory over the plain one's in a training step."""
    for num_layers in (12, 24):
        for bottleneck in (False, True):
            peaks = []
            for lean in (False, True):
                step = dense_step(num_layers, bottleneck, lean)
                with Memory() as memory:
                    step()
                peaks.append(memory.peak)
            yield num_layers, bottleneck, peaks[1] / peaks[0]


def training_step(net: nn.Module, batch: int = 128) -> Work:
    X, y = torch.randn(batch, 1, 28, 28), torch.randint(10, (batch,))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    def step() -> None:
        loss = nn.functional.cross_entropy(net(X), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def dense_step(num_layers: int, bottleneck: bool, lean: bool) -> Work:
    block = DenseBlock(num_layers, 64, 32, bottleneck=bottleneck, lean=lean)
    X = torch.randn(8, 64, 14, 14, requires_grad=True)
    return lambda: block(X).square().mean().backward()


def there_and_back(layer: nn.Module, shape: tuple[int, ...]) -> Work:
    X, dY = torch.randn(shape, requires_grad=True), torch.randn(shape)
    return lambda: torch.autograd.grad(layer(X), [X, *layer.parameters()], dY)


def seconds(work: Work) -> float:
    start, _ = time.perf_counter(), work()
    return time.perf_counter() - start


def main() -> str | None:
    torch.manual_seed(0)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # threads wait for each other: on a busy machine that would be all one measures
    print(f"torch {torch.__version__}, threads: {torch.get_num_threads()}, medians of {ROUNDS} rounds")
    print(f"{'':42}", *(f"{name:>9}" for name in COLUMNS))
    too_slow: list[str] = []
    for what, ms, ratios in measured():
        cells = [f"{ratios[name]:.2f}" if name in ratios else "-" for name in COLUMNS[1:]]
        print(f"{what:42} {ms:6.2f} ms", *(f"{cell:>9}" for cell in cells))
        too_slow += [
            f"{what}: {name} exceeds {limit}" for name, limit in LIMITS.get(what, {}).items() if ratios[name] > limit
        ]
    print("\npeak memory of a training step, lean dense block / plain one")
    for num_layers, bottleneck, ratio in memory_rows():
        what = f"{num_layers} layers{', bottleneck' * bottleneck}"
        print(f"{what:42} {ratio:9.2f}")
        too_slow += [f"{what}: the lean block's memory exceeds half the plain one's"] if ratio > 0.5 else []
    return "\n".join(too_slow) or None


if __name__ == "__main__":
    sys.exit(main())  # a text ends with 1
