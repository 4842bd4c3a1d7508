"""Measure what the page of benchmarks shows, and keep it in lessons_lib/benchmarks.json.

`python tools/benchmarks.py layers memory` measures these parts anew, without a name all of them: some hours on two
cores, of which the training runs take most. A run that is whole in runs/ is not repeated, one that is not goes on.
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
from torch import nn
from torch.utils.data import TensorDataset

from lessons_lib.__main__ import NETS, Prepared, circumstances
from lessons_lib.files import write_whole
from lessons_lib.resnet import ResNet
from lessons_lib.training import train
from tests.browser import bench as browser_bench
from tests.browser.conftest import launched
from tools import bench

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "lessons_lib/benchmarks.json"
Rows = Iterator[dict[str, object]]

CHOICES = ["", "--lr 0.1", "--lr 0.4", "--shift 0", "--shift 2", "--weight-decay 0.001", "--schedule cosine"]
FINAL = ["small_resnet", "fine_resnet", "small_densenet"]


def layers() -> Rows:
    """Training steps and layers with our batch normalisation, beside PyTorch's."""
    for what, ms, ratios in bench.measured():
        yield dict(what=what, ms=ms, ratios=ratios)


def memory() -> Rows:
    """The lean dense block beside the plain one: peak memory and time of a training step, as ratios."""
    for num_layers, bottleneck, peak in bench.memory_rows():
        plain, lean = (bench.dense_step(num_layers, bottleneck, lean) for lean in (False, True))
        ratio = median(bench.seconds(lean) / bench.seconds(plain) for _ in range(20))
        yield dict(num_layers=num_layers, bottleneck=bottleneck, memory=peak, time=ratio)


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
            step = training_step(name, batch, **settings)
            step()
            step()
            images = batch / median(bench.seconds(step) for _ in range(rounds))
            yield dict(net=name, size=NETS[name][1], switch=switch, images_per_second=images)


def training_step(
    name: str, batch: int, *, bf16: bool = False, channels_last: bool = False, compiled: bool = False
) -> bench.Work:
    make, size, _ = NETS[name]
    net = make()
    if channels_last:
        net.to(memory_format=torch.channels_last)
    if compiled:
        net.compile()
    return bench.training_step(Prepared(net, size=size, shift=1, bf16=bf16), batch)


def overhead() -> Rows:
    """An epoch of `train` beside the same steps in a bare loop, in turn, as a ratio."""
    X, y = torch.randn(3840, 1, 28, 28), torch.randint(10, (3840,))
    for name in ("lenet", "small_resnet"):
        ratios = []
        for _ in range(7):
            times = []
            for loop in (bare_loop, our_loop):
                torch.manual_seed(0)
                net = NETS[name][0]()
                times.append(bench.seconds(lambda loop=loop, net=net: loop(net, X, y)))
            ratios.append(times[1] / times[0])
        yield dict(net=name, steps=30, ratio=median(ratios[1:]))


def bare_loop(net: nn.Module, X: torch.Tensor, y: torch.Tensor) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for batch in torch.randperm(len(X)).split(128):
        loss = nn.functional.cross_entropy(net(X[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def our_loop(net: nn.Module, X: torch.Tensor, y: torch.Tensor) -> None:
    train(net, TensorDataset(X, y), lr=0.1, momentum=0.9, batch_size=128)


def processes() -> Rows:
    """Images a second of one process and of two, each with one thread or with two."""
    for name in ("small_resnet", "fine_resnet"):
        for count, threads in ((1, 1), (1, 2), (2, 1)):
            with TemporaryDirectory() as folder:
                launch(f"train {name} --epochs 3 --out {folder}/run", count, OMP_NUM_THREADS=str(threads))
                seconds = min(json.loads(Path(folder, "run/run.json").read_text("utf-8"))["seconds"])
            yield dict(net=name, processes=count, threads=threads, images_per_second=10_000 / seconds)


def launch(options: str, count: int = 1, **environment: str) -> None:
    start = (
        ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={count}"]
        if count > 1
        else []
    )
    command = [sys.executable, *start, "-m", "lessons_lib", *shlex.split(options)]
    subprocess.run(command, check=True, cwd=ROOT, env=os.environ | environment)


def slopes() -> Rows:
    """Seconds of a training step as the batch, or the depth, grows, and of an epoch as the data grow."""
    for batch in (8, 16, 32, 64, 128, 256, 512):
        yield dict(grows="batch", size=batch, seconds=quickest(training_step("small_resnet", batch)))
    for num_blocks in (1, 2, 4, 8, 16):
        net = ResNet([(num_blocks, 16), (num_blocks, 32), (num_blocks, 64)], stem_stride=2)
        yield dict(grows="depth", size=6 * num_blocks + 2, seconds=quickest(bench.training_step(net, 128)))
    for examples in (1280, 2560, 5120, 10240):
        X, y = torch.randn(examples, 1, 28, 28), torch.randint(10, (examples,))
        net = NETS["lenet"][0]()
        yield dict(grows="data", size=examples, seconds=quickest(lambda X=X, y=y, net=net: our_loop(net, X, y)))


def quickest(work: bench.Work) -> float:
    work()
    return min(bench.seconds(work) for _ in range(5))


def builds() -> Rows:
    """Seconds to build the book: into an empty folder, and again with nothing changed."""
    with TemporaryDirectory() as folder:
        for state in ("cold", "warm"):
            command = [f"{sys.prefix}/bin/jupyter-book", "build", ".", "--path-output", folder, "--quiet"]
            started = time.perf_counter()
            subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
            yield dict(state=state, seconds=time.perf_counter() - started)


def sliders() -> Rows:
    """The sliders of the built pages, and a live one; and how soon each page can be used."""
    with launched() as browser:
        for page, ms in browser_bench.interactive(browser):
            yield dict(where="page", page=page, ms=ms)
        for page, number, ms, kB in browser_bench.built(browser):
            yield dict(where="built", page=page, number=number, ms=ms, kB=kB)
        yield dict(where="live", ms=browser_bench.live()[0])


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
    part.__name__: part
    for part in (layers, memory, switches, overhead, processes, slopes, sliders, builds, selection, training)
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
        text = json.dumps(dict(sorted(record.items())), indent=1, ensure_ascii=False) + "\n"
        write_whole(RECORD, text)
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
