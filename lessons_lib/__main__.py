"""The command line: `python -m lessons_lib train NET` trains one of the book's nets, `… data` fetches the whole set.

Everything that it does the lessons do in the open: this is `train` with a recipe, a folder for what it measured, and
switches that make it faster. `--help` explains each.
"""

import argparse
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.utils.data import TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from lessons_lib.batch_norm import BatchNorm, lenet
from lessons_lib.checks import as_int, as_number, as_path
from lessons_lib.data import SHA256, fashion_mnist, read_whole
from lessons_lib.densenet import DenseNet, densenet121, small_densenet
from lessons_lib.learning_rate import Schedule, constant, cosine, exponential, piecewise
from lessons_lib.resnet import ResNet, resnet18, small_resnet
from lessons_lib.training import History, eval_mode, join, num_parameters, place, replace, saved, train


class Net(NamedTuple):
    """How a net is made, the side of the images that it is meant for, its recipe's epochs, and what it is."""

    make: Callable[[], nn.Module]
    size: int
    epochs: int
    about: str


NETS = {
    "lenet": Net(lambda: lenet(BatchNorm), 28, 10, "LeNet with sigmoids and batch normalisation"),
    "small_resnet": Net(small_resnet, 28, 10, "the residual net of the lesson"),
    "fine_resnet": Net(
        lambda: ResNet([(1, 32), (1, 64), (1, 128)], stem_stride=1), 28, 8, "the same at four times the pixels"
    ),
    "small_densenet": Net(small_densenet, 28, 15, "the dense net of the lesson"),
    "resnet18": Net(resnet18, 96, 10, "ResNet-18, as published"),
    "densenet_4x4": Net(
        lambda: DenseNet((4, 4, 4, 4), 32, stem_channels=64), 96, 10, "four dense blocks of four layers, growth rate 32"
    ),
    "densenet121": Net(densenet121, 96, 10, "DenseNet-121, as published"),
}


def triangle(lr: float, steps: int) -> Schedule:
    """Up to lr in a straight line for a fifth of the steps, and down again; no step at a rate of 0."""
    up = 0.2 * steps
    return lambda step: lr * min((step + 1) / up, (steps - step) / (steps - up), 1.0)


SCHEDULES: dict[str, tuple[Callable[[float, int], Schedule], str]] = {
    "triangle": (triangle, "up to the rate in a straight line for a fifth of the steps, and down again"),
    "cosine": (cosine, "down to 0 in half a wave"),
    "step": (
        lambda lr, steps: piecewise(lr, [steps // 2, steps * 3 // 4], 0.1),
        "a tenth at one half, at three quarters",
    ),
    "exponential": (lambda lr, steps: exponential(lr, math.log(100) / steps), "down to a hundredth, evenly in its log"),
    "constant": (lambda lr, steps: constant(lr), "the same rate at every step"),
}


class Prepared(nn.Module):
    """A net, and what the command line puts before it: augmentation in training, another size, half precision."""

    def __init__(self, net: nn.Module, *, size: int, mirror: bool, shift: int, bf16: bool) -> None:
        super().__init__()
        self.net, self.size, self.mirror, self.shift, self.bf16 = net, size, mirror, shift, bf16

    def forward(self, X: Tensor) -> Tensor:
        if self.training and self.mirror:
            X = mirrored(X)
        if self.training and self.shift:
            X = shifted(X, self.shift)
        if X.shape[-1] != self.size:
            X = nn.functional.interpolate(X, (self.size, self.size), mode="bilinear")
        with torch.autocast(X.device.type, torch.bfloat16, enabled=self.bf16):
            return self.net(X).float()


def mirrored(X: Tensor) -> Tensor:
    """Each image (m, c, h, w) with its left and right exchanged, with probability 1/2.

    >>> mirrored(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 1, 28, 28])
    """
    chosen = torch.rand(len(X), 1, 1, 1, device=X.device) < 0.5
    return torch.where(chosen, X.flip(3), X)


def shifted(X: Tensor, most: int) -> Tensor:
    """Each image (m, c, h, w) moved by up to `most` pixels down or up, right or left, each by its own; zeros move in.

    >>> shifted(torch.zeros(2, 1, 28, 28), most=1).shape
    torch.Size([2, 1, 28, 28])
    """
    m, _, h, w = X.shape
    down, right = torch.randint(2 * most + 1, (2, m, 1), device=X.device)
    rows = (down + torch.arange(h, device=X.device))[:, :, None]
    columns = (right + torch.arange(w, device=X.device))[:, None, :]
    padded = nn.functional.pad(X, (most, most, most, most))
    images = torch.arange(m, device=X.device)[:, None, None]
    return padded[images, :, rows, columns].permute(0, 3, 1, 2)


def multiply_adds(net: nn.Module, size: int) -> int:
    """Multiplications, each with its addition, that one image of this size costs in the forward pass.

    >>> multiply_adds(nn.Conv2d(1, 6, 5), size=28) == 24 * 24 * 6 * 5 * 5
    True
    """
    with torch.no_grad(), eval_mode(net), FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 1, size, size))
    return counter.get_total_flops() // 2


def parser() -> argparse.ArgumentParser:
    """The options and their help."""
    raw, default = argparse.RawDescriptionHelpFormatter, "(default: %(default)s)"
    main = argparse.ArgumentParser("python -m lessons_lib", description="The command line of Why Deep Networks Train.")
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")

    data = commands.add_parser("data", help="download the whole of Fashion-MNIST and check it")
    data.add_argument("--root", type=Path, help="the folder for its files (default: the user's cache)")

    nets = "".join(f"\n  {name:15} {net.about} ({net.size} px, {net.epochs} epochs)" for name, net in NETS.items())
    schedules = "".join(f"\n  {name:15} {about}" for name, (_, about) in SCHEDULES.items())
    run = commands.add_parser(
        "train",
        help="train a net, and keep what was measured",
        formatter_class=raw,
        description=f"Train a net by minibatch SGD with momentum.\n\nnets (size, epochs by default):{nets}\n\n"
        f"schedules:{schedules}",
        epilog="Afterwards --out contains settings.json (how the run was made), log.jsonl (a line for each epoch),\n"
        "net.pt (the parameters, for net.load_state_dict) and checkpoint.pt (for --resume).\n\n"
        "examples:\n"
        "  python -m lessons_lib train small_resnet                    a minute on the bundled 10,000 images\n"
        "  python -m lessons_lib train small_resnet --full --fast      the book's result on all 60,000\n"
        "  torchrun --standalone --local-addr=127.0.0.1 --nproc-per-node=2 -m lessons_lib train resnet18 --full\n"
        "                                                              two processes, one net",
    )
    run.add_argument("net", choices=NETS, metavar="NET", help="which net (see above)")
    what = run.add_argument_group("data")
    what.add_argument("--full", action="store_true", help="all 60,000 images, not the bundled 10,000")
    what.add_argument("--root", type=Path, help="with --full: the folder for its files (default: the user's cache)")
    what.add_argument("--examples", type=int, metavar="N", help="only the first N training images")
    what.add_argument(
        "--hold-out",
        type=int,
        metavar="N",
        help="test on the last N training images, which are not trained on, instead of the test set",
    )
    what.add_argument("--size", type=int, metavar="PX", help="scale the images to PX × PX (default: the net's)")
    what.add_argument("--no-mirror", dest="mirror", action="store_false", help="do not mirror half of the images")
    what.add_argument("--shift", type=int, default=1, metavar="PX", help=f"move each by up to PX pixels {default}")
    how = run.add_argument_group("descent")
    how.add_argument("--epochs", type=int, metavar="N", help="passes over the data (default: the net's)")
    how.add_argument("--batch-size", type=int, default=128, metavar="N", help=f"images a step {default}")
    how.add_argument("--lr", type=float, default=0.2, help=f"the largest learning rate {default}")
    how.add_argument(
        "--schedule", choices=SCHEDULES, default="triangle", help=f"how the learning rate changes {default}"
    )
    how.add_argument("--momentum", type=float, default=0.9, metavar="X", help=f"weight of the old velocity {default}")
    how.add_argument("--weight-decay", type=float, default=5e-4, metavar="X", help=f"the pull towards 0 {default}")
    how.add_argument("--seed", type=int, default=0, help=f"fixes start, order and augmentation {default}")
    fast = run.add_argument_group("speed")
    fast.add_argument("--fast", action="store_true", help="the same as --bf16 --channels-last")
    fast.add_argument("--bf16", action="store_true", help="multiply in bfloat16: 8 bits of precision, not 24")
    fast.add_argument("--channels-last", action="store_true", help="keep the channels of a pixel together in memory")
    fast.add_argument("--compile", action="store_true", help="torch.compile; needs a C++ compiler")
    fast.add_argument("--threads", type=int, metavar="N", help="threads of each process (default: PyTorch's)")
    keep = run.add_argument_group("results")
    keep.add_argument("--out", type=Path, metavar="DIR", help="the folder for the results (default: runs/NET)")
    keep.add_argument("--resume", action="store_true", help="go on with the run in --out, from its last whole epoch")
    return main


# What the options may be. More of some would only exhaust the machine.
INTS = dict(examples=(1,), hold_out=(1,), size=(1, 1024), shift=(0, 28), threads=(1, 1024))
INTS |= dict(epochs=(1, 10**6), batch_size=(1,), seed=(0, 2**63 - 1))
NUMBERS = dict(lr="(0, inf)", momentum="[0, 1)", weight_decay="[0, inf)")


def settle(options: argparse.Namespace) -> argparse.Namespace:
    """Put the net's own values where none were given, and check them all."""
    net = NETS[options.net]
    for name, value in (("size", net.size), ("epochs", net.epochs), ("out", Path("runs", options.net))):
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.out = as_path("--out", options.out)
    if options.root is not None and not options.full:
        raise ValueError(f"--root: expected only with --full, got {options.root}")
    options.bf16 |= options.fast
    options.channels_last |= options.fast
    for name, limits in INTS.items():
        if (value := getattr(options, name)) is not None:
            as_int(option(name), value, *limits)
    for name, interval in NUMBERS.items():
        as_number(option(name), getattr(options, name), interval)
    return options


def option(name: str) -> str:
    """How an option is written."""
    return f"--{name.replace('_', '-')}"


def data_sets(options: argparse.Namespace) -> tuple[TensorDataset, TensorDataset]:
    """What to train on and what to test on."""
    train_set = fashion_mnist("train", full=options.full, root=options.root)
    count, held = len(train_set), options.hold_out or 0
    kept = count - held if options.examples is None else options.examples
    if kept + held > count or kept < 1:
        raise ValueError(f"--examples, --hold-out: expected at most {count} together, got {kept} and {held}")
    test_set = fashion_mnist("test", full=options.full, root=options.root)
    if held:
        test_set = TensorDataset(*(t[count - held :] for t in train_set.tensors))
    return TensorDataset(*(t[:kept] for t in train_set.tensors)), test_set


def run(options: argparse.Namespace) -> None:
    """Train, and keep in the folder what was measured."""
    options = settle(options)
    rank, world = place()
    if options.threads:
        torch.set_num_threads(options.threads)
    train_set, test_set = data_sets(options)
    as_int("--batch-size", options.batch_size, 1, len(train_set))
    torch.manual_seed(options.seed)
    net = NETS[options.net].make()
    try:
        cost = multiply_adds(net, options.size)
    except RuntimeError:  # of the layer whose input is too small or too large
        expected = f"a size that {options.net} can take, such as {NETS[options.net].size}"
        raise ValueError(f"--size: expected {expected}, got {options.size}") from None
    torch.manual_seed(options.seed + rank)  # each process augments its own share
    if options.channels_last:
        net.to(memory_format=torch.channels_last)
    if options.compile:
        net.compile()
    prepared = Prepared(net, size=options.size, mirror=options.mirror, shift=options.shift, bf16=options.bf16)
    steps = options.epochs * math.ceil(len(train_set) / options.batch_size)
    if options.schedule == "step" and steps < 4:
        raise ValueError(f"--schedule: expected at least 4 steps, of --epochs and --batch-size, for step, got {steps}")
    schedule = SCHEDULES[options.schedule][0](options.lr, steps)
    if rank == 0:
        facts = dict(parameters=num_parameters(net), multiply_adds=cost, processes=world)
        open_folder(options, facts)
        print(f"{options.net}: {facts['parameters']:,} parameters, {cost / 1e6:.1f} million multiply-adds an image")
    if world > 1:
        distributed.barrier()  # the folder stands

    def report(history: History) -> None:
        if rank == 0:
            line = keep_log(options.out, history)
            print(
                f"epoch {line['epoch']}/{options.epochs}: loss {line['loss']:.3f}, test loss {line['test_loss']:.3f}, "
                f"test accuracy {line['test_acc']:.4f}, {line['seconds']:.0f} s",
                flush=True,
            )

    try:
        history = train(
            prepared,
            train_set,
            test_set,
            lr=schedule,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
            num_epochs=options.epochs,
            batch_size=options.batch_size,
            seed=options.seed,
            checkpoint=options.out / "checkpoint.pt",
            on_epoch=report,
        )
    except (ValueError, TypeError):
        if rank == 0 and not (options.out / "checkpoint.pt").exists():
            (options.out / "settings.json").unlink()  # nothing was trained: the folder stays free for a better call
        raise
    if rank == 0:
        keep_log(options.out, history)  # again, for a run that ended between its checkpoint and its log
        replace(options.out / "net.pt", saved(net.state_dict()))


PLACES = {"out", "root", "resume", "fast", "command"}  # where and how a run is called, not what it does


def open_folder(options: argparse.Namespace, facts: dict[str, object]) -> None:
    """Make the run's folder and say in it how the run is made. A run that is there is gone on with, or left alone."""
    settings = {name: value for name, value in vars(options).items() if name not in PLACES} | facts
    path = options.out / "settings.json"
    if options.resume:
        if not path.is_file():
            raise ValueError(f"--resume: expected a run in {options.out}, found none")
        try:
            there = dict(json.loads(path.read_text("utf-8"))["settings"])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"--resume: {path} is not a complete record of a run; left unchanged") from error
        for name, value in settings.items():
            if there.get(name) != value:
                raise ValueError(f"--resume: the run in {options.out} has {name} {there.get(name)}, not {value}")
        return
    if options.out.exists() and any(file.suffix != ".part" for file in options.out.iterdir()):
        raise ValueError(f"--out: {options.out} contains a run or other files; --resume goes on with a run")
    options.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dict(settings=settings, **circumstances()), indent=1)
    replace(path, f"{text}\n".encode())


def circumstances() -> dict[str, object]:
    """When, where and with what something was measured."""
    cores = os.cpu_count()
    capability = torch.backends.cpu.get_cpu_capability()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return dict(
        date=time.strftime("%Y-%m-%d"),
        machine=f"{platform.machine()}, {cores} cores, {capability}{gpu}",
        versions=f"Python {platform.python_version()}, torch {version('torch')}, numpy {version('numpy')}",
        command="python -m lessons_lib " + " ".join(sys.argv[1:]),
    )


def keep_log(out: Path, history: History) -> dict[str, float]:
    """Write the log anew, a line an epoch, and return the last one."""
    epochs = len(history.test_acc)
    by_epoch = torch.tensor(history.loss).view(epochs, -1)
    lines = [
        dict(
            epoch=i + 1,
            lr=history.lr[(i + 1) * by_epoch.shape[1] - 1],
            loss=round(by_epoch[i].mean().item(), 6),
            test_loss=round(history.test_loss[i], 6),
            test_acc=history.test_acc[i],
            seconds=round(history.seconds[i], 2),
        )
        for i in range(epochs)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    replace(out / "log.jsonl", text.encode())
    return lines[-1]


def main(arguments: Sequence[str] | None = None) -> str | int | None:
    """Do what the arguments say. Returns what `sys.exit` takes: nothing if all went well, or what was wrong."""
    options = parser().parse_args(arguments)
    together = "LOCAL_WORLD_SIZE" in os.environ  # started by torchrun
    try:
        if together:
            join()
        if options.root is not None:
            options.root = as_path("--root", options.root)
        if options.command == "data":
            for name in SHA256:
                print(f"{name}: {' × '.join(map(str, read_whole(name, options.root).shape))}, as published")
        else:
            run(options)
    except (ValueError, OSError) as error:
        return str(error)
    except KeyboardInterrupt:
        if options.command == "train" and options.out and Path(options.out, "settings.json").exists():
            return f"Stopped. To go on from the last whole epoch, call it again with --resume (--out {options.out})."
        return "Stopped."
    finally:
        if together and distributed.is_initialized():
            distributed.destroy_process_group()
    return None


if __name__ == "__main__":
    sys.exit(main())
