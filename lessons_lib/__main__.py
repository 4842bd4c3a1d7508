"""The command line: `python -m lessons_lib train NET` trains one of the book's nets, `… data` fetches the whole set.

Everything that it does the lessons do in the open: this is `train` with a recipe, and a folder for what it measured.
"""

import argparse
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version

import torch
from torch import Tensor, distributed, nn
from torch.utils.data import TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from lessons_lib.batch_norm import BatchNorm, lenet
from lessons_lib.checkpoints import to_bytes
from lessons_lib.checks import as_int, as_path
from lessons_lib.data import SHA256, fashion_mnist, read_whole
from lessons_lib.densenet import densenet121, small_densenet
from lessons_lib.files import write_whole
from lessons_lib.learning_rate import Schedule, cosine
from lessons_lib.processes import join_process_group, rank_and_size
from lessons_lib.resnet import ResNet, resnet18, small_resnet
from lessons_lib.training import History, eval_mode, num_parameters, train

# How a net is made, the side of the images that it is meant for, and its recipe's epochs.
NETS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "lenet": (lambda: lenet(BatchNorm), 28, 10),
    "small_resnet": (small_resnet, 28, 10),
    "fine_resnet": (lambda: ResNet([(1, 32), (1, 64), (1, 128)], stem_stride=1), 28, 8),
    "small_densenet": (small_densenet, 28, 15),
    "resnet18": (resnet18, 96, 10),
    "densenet121": (densenet121, 96, 10),
}


def triangle(lr: float, steps: int) -> Schedule:
    """Up to lr in a straight line for a fifth of the steps, and down again; no step at a rate of 0."""
    up = 0.2 * steps
    return lambda step: lr * min((step + 1) / up, (steps - step) / (steps - up), 1.0)


BATCH_SIZE = 128
SCHEDULES: dict[str, Callable[[float, int], Schedule]] = {"triangle": triangle, "cosine": cosine}


class Prepared(nn.Module):
    """A net, and what the command line puts before it: augmentation in training, another size, half precision."""

    def __init__(self, net: nn.Module, *, size: int, shift: int, bf16: bool) -> None:
        super().__init__()
        self.net, self.size, self.shift, self.bf16 = net, size, shift, bf16

    def extra_repr(self) -> str:
        return f"size={self.size}, shift={self.shift}, bf16={self.bf16}"  # which a checkpoint compares

    def forward(self, X: Tensor) -> Tensor:
        if self.training:
            X = shifted(mirrored(X), self.shift)
        if X.shape[-1] != self.size:
            X = nn.functional.interpolate(X, (self.size, self.size), mode="bilinear")
        with torch.autocast(X.device.type, torch.bfloat16, enabled=self.bf16):
            return self.net(X).float()


def mirrored(X: Tensor) -> Tensor:
    """Each image (m, c, h, w) with its left and right exchanged, with probability 1/2."""
    chosen = torch.rand(len(X), 1, 1, 1, device=X.device) < 0.5
    return torch.where(chosen, X.flip(3), X)


def shifted(X: Tensor, most: int) -> Tensor:
    """Each image (m, c, h, w) moved by up to `most` pixels down or up and right or left; zeros move in."""
    m, _, h, w = X.shape
    down, right = torch.randint(2 * most + 1, (2, m, 1), device=X.device)
    rows = (down + torch.arange(h, device=X.device))[:, :, None]
    columns = (right + torch.arange(w, device=X.device))[:, None, :]
    padded = nn.functional.pad(X, (most, most, most, most))
    images = torch.arange(m, device=X.device)[:, None, None]
    return padded[images, :, rows, columns].permute(0, 3, 1, 2)


def multiply_adds(net: nn.Module, size: int) -> int:
    """Multiplications, each with its addition, that one image of this size costs in the forward pass."""
    with torch.no_grad(), eval_mode(net), FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 1, size, size))
    return counter.get_total_flops() // 2


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser("python -m lessons_lib", description="The command line of Why Deep Networks Train.")
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("data", help="download the whole of Fashion-MNIST and check it")
    run = commands.add_parser("train", help="train a net, and keep what was measured")
    run.description = "Train a net by SGD with momentum, 128 images a step, in all processes that torchrun starts."
    run.epilog = "Afterwards --out contains run.json (settings and measurements), net.pt (for net.load_state_dict) and "
    run.epilog += "checkpoint.pt (for --resume)."
    add, default = run.add_argument, "(default: %(default)s)"
    add("net", choices=NETS, help="which net")
    add("--full", action="store_true", help="all 60,000 images, not the bundled 10,000")
    add("--hold-out", type=int, metavar="N", help="test on the last N training images, and do not train on them")
    add("--shift", type=int, default=1, metavar="PX", help=f"move each image by up to PX pixels {default}")
    add("--epochs", type=int, metavar="N", help="passes over the data (default: the net's)")
    add("--lr", type=float, default=0.2, help=f"the largest learning rate {default}")
    add("--schedule", choices=SCHEDULES, default="triangle", help=f"how the learning rate changes {default}")
    add("--weight-decay", type=float, default=5e-4, metavar="X", help=f"the pull towards 0 {default}")
    add("--seed", type=int, default=0, help=f"fixes all that is random {default}")
    add("--fast", action="store_true", help="multiply in bfloat16, and keep the channels of a pixel together in memory")
    add("--out", metavar="DIR", help="the folder for the results (default: runs/NET)")
    add("--resume", action="store_true", help="go on from the last whole epoch of the run in --out, if there is one")
    return main


def data_sets(options: argparse.Namespace) -> tuple[TensorDataset, TensorDataset]:
    train_set, test_set = (fashion_mnist(split, full=options.full) for split in ("train", "test"))
    if options.hold_out is None:
        return train_set, test_set
    kept = len(train_set) - as_int("--hold-out", options.hold_out, 1, len(train_set) - 1)
    return TensorDataset(*(t[:kept] for t in train_set.tensors)), TensorDataset(*(t[kept:] for t in train_set.tensors))


def run(options: argparse.Namespace) -> None:
    rank, processes = rank_and_size()
    make, size, epochs = NETS[options.net]
    epochs = epochs if options.epochs is None else as_int("--epochs", options.epochs, 1)
    shift, seed = as_int("--shift", options.shift, 0, 28), as_int("--seed", options.seed, 0, 2**63 - 1)
    out = as_path("--out", options.out or f"runs/{options.net}")
    train_set, test_set = data_sets(options)
    if not options.resume and out.exists() and any(file.suffix != ".part" for file in out.iterdir()):
        raise ValueError(f"--out: {out} contains a run or other files; --resume goes on with a run")
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    net = make()
    facts = dict(parameters=num_parameters(net), multiply_adds=multiply_adds(net, size), processes=processes)
    if options.fast:
        net.to(memory_format=torch.channels_last)
    torch.manual_seed(seed + rank)  # each process augments its own share

    def report(history: History) -> None:
        if rank == 0:
            print(f"epoch {len(history.test_acc)}/{epochs}: test loss {history.test_loss[-1]:.3f}", end=", ")
            print(f"test accuracy {history.test_acc[-1]:.4f}, {history.seconds[-1]:.0f} s", flush=True)

    history = train(
        Prepared(net, size=size, shift=shift, bf16=options.fast),
        train_set,
        test_set,
        lr=SCHEDULES[options.schedule](options.lr, epochs * math.ceil(len(train_set) / BATCH_SIZE)),
        momentum=0.9,
        weight_decay=options.weight_decay,
        num_epochs=epochs,
        batch_size=BATCH_SIZE,
        seed=seed,
        checkpoint=out / "checkpoint.pt",
        on_epoch=report,
    )
    if rank == 0:
        settings = vars(options) | dict(epochs=epochs, size=size)
        record = dict(settings=settings, **facts, **circumstances(), **asdict(history))
        write_whole(out / "run.json", json.dumps(record))
        write_whole(out / "net.pt", to_bytes(net.state_dict()))


def circumstances() -> dict[str, str]:
    """When, where and with what something was measured."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return dict(
        date=time.strftime("%Y-%m-%d"),
        machine=f"{platform.machine()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}{gpu}",
        versions=f"Python {platform.python_version()}, torch {version('torch')}, numpy {version('numpy')}",
    )


def main(arguments: Sequence[str] | None = None) -> str | None:
    """Do what the arguments say. Returns None, or what was wrong."""
    options = parser().parse_args(arguments)
    together = "LOCAL_WORLD_SIZE" in os.environ  # started by torchrun
    try:
        if together:
            join_process_group()
        if options.command == "train":
            run(options)
        else:
            for name in SHA256:
                print(f"{name}: {' × '.join(map(str, read_whole(name).shape))}, as published")
    except (ValueError, OSError) as error:
        return str(error)
    except KeyboardInterrupt:
        return "Stopped. What was trained goes on from its last whole epoch if it is called again with --resume."
    finally:
        if together and distributed.is_initialized():
            distributed.destroy_process_group()
    return None


if __name__ == "__main__":
    sys.exit(main())
