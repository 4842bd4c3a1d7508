"""Measure what the page of benchmarks shows, and keep it in lessons_lib/benchmarks.json.

`make benchmarks only="layers memory"` measures these parts anew, without a name all of them: some hours on two cores,
of which the training runs take most. A run that is whole in runs/ is not repeated, one that is not goes on.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from lessons_lib.__main__ import NETS, Prepared, circumstances
from lessons_lib.batch_norm import BatchNorm, batch_norm, lenet
from lessons_lib.densenet import DenseBlock
from lessons_lib.files import write_whole
from lessons_lib.training import Memory

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "lessons_lib/benchmarks.json"
Rows = Iterator[dict[str, object]]
Work = Callable[[], object]


def training_step(net: nn.Module, batch: int = 128) -> Work:
    X, y = torch.randn(batch, 1, 28, 28), torch.randint(10, (batch,))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    def step() -> None:
        loss = nn.functional.cross_entropy(net(X), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def seconds(work: Work) -> float:
    start, _ = time.perf_counter(), work()
    return time.perf_counter() - start


class Readable(BatchNorm):
    """The function `batch_norm` as a layer, to be measured and tested as one."""

    def forward(self, X: Tensor) -> Tensor:
        state = self.weight, self.bias, self.running_mean, self.running_var
        Y, self.running_mean, self.running_var = batch_norm(self.training, X, *state, self.eps, 1 - self.momentum)
        return Y


NORMS = {
    "PyTorch": lambda num_features, num_dims: (nn.BatchNorm1d if num_dims == 2 else nn.BatchNorm2d)(num_features),
    "ours": BatchNorm,
    "readable": Readable,
}


def there_and_back(layer: nn.Module, shape: tuple[int, ...]) -> Work:
    X, dY = torch.randn(shape, requires_grad=True), torch.randn(shape)
    return lambda: torch.autograd.grad(layer(X), [X, *layer.parameters()], dY)


def layers() -> Rows:
    """Training steps and layers with our batch normalisation, as ratios to PyTorch's time.

    They take turns, and each ratio is the median over rounds, so that a busy moment strikes all of them.
    """
    steps = {name: training_step(lenet(NORMS.get(name))) for name in [*NORMS, "no norm"]}
    candidates = {"training step of LeNet, 128 images 28×28": steps}
    for shape in [(128, 6, 24, 24), (128, 16, 8, 8), (128, 120), (128, 64, 14, 14)]:
        works = {name: there_and_back(norm(shape[1], len(shape)), shape) for name, norm in NORMS.items()}
        candidates[f"layer there and back, {'×'.join(map(str, shape))}"] = works
    for what, works in candidates.items():
        rounds = [[seconds(work) for work in works.values()] for _ in range(63)][3:]  # the first warm up
        ratios = {name: median(times[i] / times[0] for times in rounds) for i, name in enumerate(works)}
        yield dict(what=what, ms=median(times[0] for times in rounds) * 1e3, ratios=ratios)


def dense_step(num_layers: int, bottleneck: bool, lean: bool) -> Work:
    block = DenseBlock(num_layers, 64, 32, bottleneck=bottleneck, lean=lean)
    X = torch.randn(8, 64, 14, 14, requires_grad=True)
    return lambda: block(X).square().mean().backward()


def memory() -> Rows:
    """The lean dense block beside the plain one: peak memory and time of a training step, as ratios."""
    for num_layers in (12, 24):
        for bottleneck in (False, True):
            peaks, steps = [], [dense_step(num_layers, bottleneck, lean) for lean in (False, True)]
            for step in steps:
                with Memory() as measured:
                    step()
                peaks.append(measured.peak)
            ratio = median(seconds(steps[1]) / seconds(steps[0]) for _ in range(20))
            yield dict(num_layers=num_layers, bottleneck=bottleneck, memory=peaks[1] / peaks[0], time=ratio)


SWITCHES = {
    "as it is": {},
    "channels-last": dict(channels_last=True),
    "bfloat16": dict(bf16=True),
    "both": dict(channels_last=True, bf16=True),
    "both, compiled": dict(channels_last=True, bf16=True, compiled=True),
}


def switches() -> Rows:
    """Images a second in training with each part of the command line's --fast, and compiled."""
    for name in ("small_resnet", "fine_resnet", "small_densenet", "resnet18"):
        batch, rounds = (16, 4) if name == "resnet18" else (128, 12)
        for switch, settings in SWITCHES.items():
            make, size, _ = NETS[name]
            net = make()
            if settings.get("channels_last"):
                net.to(memory_format=torch.channels_last)
            if settings.get("compiled"):
                net.compile()
            step = training_step(Prepared(net, size=size, shift=1, bf16=settings.get("bf16", False)), batch)
            step()
            step()
            images = batch / median(seconds(step) for _ in range(rounds))
            yield dict(net=name, size=size, switch=switch, images_per_second=images)


def processes() -> Rows:
    """Images a second of one process and of two, each with one thread or with two."""
    for name in ("small_resnet", "fine_resnet"):
        for count, threads in ((1, 1), (1, 2), (2, 1)):
            with TemporaryDirectory() as folder:
                launch(f"train {name} --epochs 3 --out {folder}/run", count, OMP_NUM_THREADS=str(threads))
                quickest = min(json.loads(Path(folder, "run/run.json").read_text("utf-8"))["seconds"])
            yield dict(net=name, processes=count, threads=threads, images_per_second=10_000 / quickest)


def launch(options: str, count: int = 1, **environment: str) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={count}"]
    command = [sys.executable, *(torchrun if count > 1 else []), "-m", "lessons_lib", *shlex.split(options)]
    subprocess.run(command, check=True, cwd=ROOT, env=os.environ | environment)


def sliders() -> Rows:
    """The sliders of the built pages, and how soon each page can be used."""
    from tests.browser import bench, conftest  # here, because only this part needs a browser

    with conftest.launched() as browser:
        for page, ms in bench.interactive(browser):
            yield dict(where="page", page=page, ms=ms)
        for page, number, ms, kB in bench.built(browser):
            yield dict(where="built", page=page, number=number, ms=ms, kB=kB)


CHOICES = ["", "--lr 0.1", "--lr 0.4", "--shift 0", "--shift 2", "--weight-decay 0.001", "--schedule cosine"]
FINAL = ["small_resnet", "fine_resnet", "small_densenet"]


def selection() -> Rows:
    """The recipe's settings, one changed at a time, judged on 10,000 held-out training images."""
    for choice in CHOICES:
        name = "select" + choice.replace("--", "-").replace(" ", "")
        yield run(f"train small_resnet --full --fast --hold-out 10000 {choice}".strip(), name) | dict(choice=choice)


def training() -> Rows:
    """The nets of the lessons on the whole data set, with the recipe chosen by `selection`: three seeds each."""
    for net in FINAL:
        for seed in range(3):
            yield run(f"train {net} --full --fast --seed {seed}", f"{net}-{seed}")


def run(options: str, name: str) -> dict[str, object]:
    """What a training run measured; the run itself, unless it is there."""
    out = ROOT / "runs" / name
    if not (out / "net.pt").exists():
        launch(f"{options} --out {out} --resume")
    made = json.loads((out / "run.json").read_text("utf-8"))
    return (
        {name: made["settings"][name] for name in ("net", "seed", "epochs")}
        | {name: made[name] for name in ("parameters", "multiply_adds", "test_acc", "date", "machine", "versions")}
        | dict(epoch_seconds=min(made["seconds"]), command=f"python -m lessons_lib {options}")
    )


PARTS: dict[str, Callable[[], Rows]] = {
    part.__name__: part for part in (layers, memory, switches, processes, sliders, selection, training)
}


def main(names: list[str]) -> str | None:
    if unknown := set(names) - set(PARTS):
        return f"only: expected some of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}"
    for name in names or PARTS:
        print(f"{name}: {PARTS[name].__doc__}", flush=True)
        rows = []
        for row in PARTS[name]():
            print("  ", row, flush=True)
            rows.append(row)
        record = json.loads(RECORD.read_text("utf-8")) if RECORD.exists() else {}
        record[name] = circumstances() | dict(command=f"make benchmarks only={name}", rows=rows)
        write_whole(RECORD, json.dumps(dict(sorted(record.items())), indent=1, ensure_ascii=False) + "\n")
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
