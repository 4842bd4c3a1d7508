"""The command line trains what it says, keeps what it measured, and loses nothing, however a run ends."""

import io
import json
import math
import os
import platform
import random
import re
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from datetime import date
from functools import lru_cache
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from lessons_lib import __main__ as command_line
from lessons_lib import data
from lessons_lib.__main__ import (
    NETS,
    SCHEDULES,
    Prepared,
    data_sets,
    main,
    mirrored,
    multiply_adds,
    parser,
    settle,
    shifted,
    triangle,
)
from lessons_lib.data import SHA256
from lessons_lib.training import History, evaluate, num_parameters
from tests.processes import SECONDS, context, in_processes

ROOT = Path(__file__).parents[1]
fashion_mnist = lru_cache(data.fashion_mnist)  # nobody writes into it


@pytest.fixture(autouse=True)
def on_the_cpu_and_quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(command_line, "fashion_mnist", fashion_mnist)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def trained(out: Path, *options: str, net: str = "lenet", examples: int = 300, epochs: int = 2) -> dict[str, Tensor]:
    """The parameters that a run leaves in `out`."""
    call = ["train", net, "--examples", str(examples), "--epochs", str(epochs), "--out", str(out), *options]
    assert main(call) is None
    return torch.load(out / "net.pt", weights_only=True)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def log(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def settings(out: Path) -> dict[str, object]:
    return json.loads((out / "settings.json").read_text())["settings"]


# What a run leaves


def test_a_run_leaves_a_net_that_does_what_its_log_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "run"
    parameters = trained(out)
    assert {path.name for path in out.iterdir()} == {"settings.json", "log.jsonl", "net.pt", "checkpoint.pt"}
    net = NETS["lenet"].make()
    net.load_state_dict(parameters)
    loss, accuracy = evaluate(net, fashion_mnist("test"))
    first, last = log(out)
    assert last["test_acc"] == accuracy and last["test_loss"] == pytest.approx(loss, abs=1e-6)
    assert (first["epoch"], last["epoch"]) == (1, 2) and last["loss"] < first["loss"]
    assert first["lr"] > last["lr"] > 0 and last["seconds"] > 0
    history = torch.load(out / "checkpoint.pt", weights_only=True)["history"]
    assert last["loss"] == pytest.approx(sum(history["loss"][3:]) / 3, abs=1e-6)  # three steps an epoch
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "lenet: 44,878 parameters, 0.3 million multiply-adds an image"
    assert [line.partition(":")[0] for line in printed[1:]] == ["epoch 1/2", "epoch 2/2"]
    assert f"test accuracy {accuracy:.4f}" in printed[-1]


def test_a_run_says_how_it_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    out.mkdir()  # an empty folder will do
    monkeypatch.setattr(sys, "argv", ["/somewhere/__main__.py", "train", "lenet", "--fast"])
    for gpu in (False, True):
        monkeypatch.setattr(command_line.torch.cuda, "get_device_name", lambda: "a GPU")
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        machine = f"{platform.machine()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
        assert command_line.circumstances()["machine"] == machine + ", a GPU" * gpu
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    earliest = date.today()
    trained(out, "--seed", "3", "--fast", epochs=1)
    text = (out / "settings.json").read_text()
    record = json.loads(text)
    assert text == json.dumps(record, indent=1) + "\n"  # one a line
    assert earliest <= date.fromisoformat(record.pop("date")) <= date.today()
    settings = dict(net="lenet", seed=3, bf16=True, channels_last=True, compile=False, threads=None, full=False)
    settings |= dict(examples=300, hold_out=None, size=28, mirror=True, shift=1, epochs=1, batch_size=128, lr=0.2)
    settings |= dict(schedule="triangle", momentum=0.9, weight_decay=5e-4, processes=1, parameters=44878)
    assert record == dict(
        settings=settings | dict(multiply_adds=multiply_adds(NETS["lenet"].make(), 28)),
        machine=machine,
        versions=f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}",
        command="python -m lessons_lib train lenet --fast",
    )


def test_the_log_has_a_line_an_epoch(tmp_path: Path) -> None:
    history = History(
        loss=[2.0, 1.0, 0.5, 0.12345678],
        lr=[0.4, 0.3, 0.2, 0.1],
        test_loss=[1.23456789, 1.0],
        test_acc=[0.5, 0.75],
        seconds=[1.2345, 2.0],
    )
    last = dict(epoch=2, lr=0.1, loss=0.311728, test_loss=1.0, test_acc=0.75, seconds=2.0)
    assert command_line.keep_log(tmp_path, history) == last
    first = dict(epoch=1, lr=0.3, loss=1.5, test_loss=1.234568, test_acc=0.5, seconds=1.23)
    assert (tmp_path / "log.jsonl").read_text() == f"{json.dumps(first)}\n{json.dumps(last)}\n"


def test_the_schedule_has_as_many_steps_as_the_run(tmp_path: Path) -> None:
    trained(tmp_path / "run", "--batch-size", "1", net="small_resnet", examples=3, epochs=1)
    rates = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)["history"]["lr"]
    assert rates == [triangle(0.2, 3)(step) for step in range(3)]
    trained(tmp_path / "uneven", "--batch-size", "200", epochs=3)
    rates = torch.load(tmp_path / "uneven/checkpoint.pt", weights_only=True)["history"]["lr"]
    assert rates == [triangle(0.2, 6)(step) for step in range(6)]


def test_the_seed_decides_the_run_and_each_setting_changes_it(tmp_path: Path) -> None:
    usual = trained(tmp_path / "usual", epochs=1)
    assert same(trained(tmp_path / "again", epochs=1), usual)
    others = ["--seed 1", "--lr 0.1", "--momentum 0.8", "--weight-decay 0", "--batch-size 64", "--schedule cosine"]
    others += ["--shift 0", "--no-mirror", "--bf16"]
    for i, options in enumerate(others):
        assert not same(trained(tmp_path / str(i), *options.split(), epochs=1), usual), options


def test_held_out_images_are_tested_on_and_not_trained_on() -> None:
    options = settle(parser().parse_args(["train", "lenet", "--hold-out", "9000"]))
    train_set, test_set = data_sets(options)
    X, y = fashion_mnist("train").tensors
    assert torch.equal(train_set.tensors[0], X[:1000]) and torch.equal(train_set.tensors[1], y[:1000])
    assert torch.equal(test_set.tensors[0], X[1000:]) and torch.equal(test_set.tensors[1], y[1000:])
    options = settle(parser().parse_args(["train", "lenet", "--hold-out", "10", "--examples", "20"]))
    assert [len(dataset) for dataset in data_sets(options)] == [20, 10]
    options = settle(parser().parse_args(["train", "lenet"]))
    assert [len(dataset) for dataset in data_sets(options)] == [10000, 2000]
    options = settle(parser().parse_args(["train", "lenet", "--hold-out", "9999"]))
    assert [len(dataset) for dataset in data_sets(options)] == [1, 9999]


def test_the_least_that_can_be_and_the_folder_that_a_net_has() -> None:
    least = dict(size=1, shift=0, examples=1, hold_out=1, threads=1)
    options = settle(Namespace(**vars(parser().parse_args(["train", "lenet"])) | least))
    assert least.items() <= vars(options).items()
    assert options.out == Path("runs/lenet")


# Interrupted, killed, resumed


def store(folder: Path) -> None:
    """Put what a run of 300 images needs where a new process has it at once."""
    for split, count in (("train", 300), ("test", None)):
        torch.save([tensor[:count].clone() for tensor in fashion_mnist(split).tensors], folder / f"{split}.pt")


def stored(folder: Path) -> Callable[..., TensorDataset]:
    return lambda split, **_: TensorDataset(*torch.load(folder / f"{split}.pt"))


def run_until(step: int, arguments: list[str], folder: Path) -> None:
    """The command line in a process that is killed at a step. What it prints lands in a file."""

    def fatal(lr: float, steps: int) -> Callable[[int], float]:
        def schedule(now: int) -> float:
            if now == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return triangle(lr, steps)(now)

        return schedule

    command_line.fashion_mnist = stored(folder)
    SCHEDULES["triangle"] = (fatal, "")
    with (folder / f"{step}.txt").open("w") as printed, redirect_stdout(printed):
        main(arguments)


def test_a_run_that_is_killed_again_and_again_ends_in_the_same_parameters(tmp_path: Path) -> None:
    expected = trained(tmp_path / "unbroken", "--threads", "1", epochs=4)
    store(tmp_path)
    out = tmp_path / "killed"
    arguments = f"train lenet --examples 300 --epochs 4 --threads 1 --out {out}".split()
    steps = sorted(random.Random(0).sample(range(1, 12), 3))  # of twelve, three an epoch
    printed = []
    for i, step in enumerate(steps):
        process = context.Process(target=run_until, args=(step, arguments + ["--resume"] * (i > 0), tmp_path))
        process.start()
        process.join(SECONDS)
        process.kill()
        assert process.exitcode == -signal.SIGKILL and not (out / "net.pt").exists()
        printed += re.findall(r"epoch (\d)/4", (tmp_path / f"{step}.txt").read_text())
    assert printed == [str(epoch) for epoch in range(1, 1 + steps[-1] // 3)]  # each is said at once
    assert same(trained(out, "--threads", "1", "--resume", epochs=4), expected)
    assert len(log(out)) == 4 and not list(out.glob("*.part"))
    unbroken = [line | dict(seconds=0) for line in log(tmp_path / "unbroken")]
    assert [line | dict(seconds=0) for line in log(out)] == unbroken


def test_a_run_that_has_ended_can_be_resumed_and_stays_as_it_is(tmp_path: Path) -> None:
    parameters = trained(tmp_path / "run", epochs=1)
    (tmp_path / "run/net.pt").unlink()
    assert same(trained(tmp_path / "run", "--resume", epochs=1), parameters)


def test_a_run_that_ended_before_its_log_stood_has_it_when_resumed(tmp_path: Path) -> None:
    trained(tmp_path / "run", epochs=1)
    before = log(tmp_path / "run")
    (tmp_path / "run/log.jsonl").unlink()
    trained(tmp_path / "run", "--resume", epochs=1)
    assert log(tmp_path / "run") == before


def test_out_may_be_in_the_user_s_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    call = ["train", "lenet", "--examples", "300", "--epochs", "1", "--out=~/run"]
    assert main(call) is None
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"settings.json", "log.jsonl", "net.pt", "checkpoint.pt"}
    assert "contains a run or other files" in main(call)


def test_an_interrupt_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(lr: float, steps: int) -> Callable[[int], float]:
        def schedule(step: int) -> float:
            if step == 4:
                raise KeyboardInterrupt
            return triangle(lr, steps)(step)

        return schedule

    expected = trained(tmp_path / "unbroken")
    call = ["train", "lenet", "--examples", "300", "--epochs", "2", "--out", str(tmp_path / "run")]
    with monkeypatch.context() as patch:
        patch.setitem(SCHEDULES, "triangle", (stopped, ""))
        assert main(call) == (
            f"Stopped. To go on from the last whole epoch, call it again with --resume (--out {tmp_path / 'run'})."
        )
    assert len(log(tmp_path / "run")) == 1
    assert same(trained(tmp_path / "run", "--resume"), expected)


def test_an_interrupt_before_there_is_a_run_only_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "fashion_mnist", interrupted)
    monkeypatch.setattr(command_line, "read_whole", interrupted)
    assert main(["train", "lenet", "--out", str(tmp_path / "run")]) == "Stopped."
    assert main(["data", "--root", str(tmp_path)]) == "Stopped."


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "run"
    trained(out, epochs=1)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    call = ["train", "lenet", "--examples", "300", "--epochs", "1", "--out", str(out)]
    assert "contains a run or other files; --resume goes on with a run" in main(call)
    assert f"the run in {out} has lr 0.2, not 0.3" in main([*call, "--resume", "--lr", "0.3"])
    assert "has epochs 1, not 2" in main([*call[:5], "2", *call[6:], "--resume"])
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert "expected a run in" in main([*call[:-1], str(tmp_path / "none"), "--resume"])
    assert not (tmp_path / "none").exists()
    trained(tmp_path / "other", "--seed", "1", epochs=1)
    (out / "checkpoint.pt").write_bytes((tmp_path / "other/checkpoint.pt").read_bytes())
    assert "seed 1, not 0" in main([*call, "--resume"])
    assert (out / "settings.json").read_bytes() == before["settings.json"]
    for text in ("", "{}", '{"settings": 3}', "[1]"):
        (out / "settings.json").write_text(text)
        assert (
            main([*call, "--resume"])
            == f"--resume: {out}/settings.json is not a complete record of a run; left unchanged"
        )
        assert (out / "settings.json").read_text() == text


@pytest.mark.parametrize("name", ["settings.json", "checkpoint.pt", "log.jsonl", "net.pt"])
def test_a_full_disk_is_said_in_a_sentence_and_the_run_can_go_on(name: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / f"{name}.part").symlink_to("/dev/full")
    call = ["train", "lenet", "--examples", "300", "--epochs", "1", "--out", str(out)]
    assert main(call) == "[Errno 28] No space left on device"
    assert not (out / "net.pt").exists() and not [*out.glob("*.part")]
    trained(out, *["--resume"] * (name != "settings.json"), epochs=1)


# Several processes


def said(arguments: list[str], folder: Path) -> str:
    """What the command line prints."""
    command_line.fashion_mnist = stored(folder)
    with redirect_stdout(io.StringIO()) as printed:
        assert main(arguments) is None
    return printed.getvalue()


def test_two_processes_train_one_net(tmp_path: Path) -> None:
    out = tmp_path / "run"
    store(tmp_path)
    arguments = f"train lenet --examples 300 --epochs 1 --out {out}".split()
    one, other = in_processes(said, arguments, tmp_path, joined=False)
    assert settings(out)["processes"] == 2 and len(log(out)) == 1
    assert (len(one.splitlines()), other) == (2, "")
    net = NETS["lenet"].make()
    net.load_state_dict(torch.load(out / "net.pt", weights_only=True))
    assert evaluate(net, fashion_mnist("test"))[1] == log(out)[0]["test_acc"]


def test_a_process_of_torchrun_joins_the_group_and_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    said = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: said == ["joined"])
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: said.append("left"))
    monkeypatch.setattr(command_line, "join", lambda: said.append("joined"))
    monkeypatch.setattr(command_line, "read_whole", lambda *_: torch.zeros(1))
    assert main(["data"]) is None and said == []
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert main(["data"]) is None and said == ["joined", "left"]

    def refused() -> None:
        raise ValueError("torchrun: expected fewer processes")

    monkeypatch.setattr(command_line, "join", refused)
    assert main(["data"]) == "torchrun: expected fewer processes"
    assert said == ["joined", "left"]


# Nets, schedules, augmentation


@pytest.mark.parametrize(
    ("net", "parameters", "millions"),
    [
        ("lenet", 44_878, 0.282),
        ("small_resnet", 308_074, 10.0),
        ("fine_resnet", 308_074, 37.0),
        ("small_densenet", 95_114, 4.9),
        ("densenet_4x4", 757_322, 129),
        ("resnet18", 11_175_370, 319),
    ],
)
def test_a_net_is_the_one_that_the_book_describes(net: str, parameters: int, millions: float) -> None:
    made = NETS[net].make()
    assert num_parameters(made) == parameters
    count = multiply_adds(made, NETS[net].size)
    assert isinstance(count, int) and count / 1e6 == pytest.approx(millions, rel=0.02)
    assert made.training  # as it was


@pytest.mark.parametrize("name", NETS)
def test_a_net_takes_images_of_its_size(name: str) -> None:
    with torch.device("meta"):
        net, size = NETS[name].make(), NETS[name].size
        assert net(torch.zeros(2, 1, size, size)).shape == (2, 10)


@given(st.integers(1, 400), st.floats(1e-3, 10), st.sampled_from(sorted(SCHEDULES)))
@hypothesis.settings(deadline=None)
def test_a_schedule_has_a_positive_rate_at_each_step_and_none_above_lr(steps: int, lr: float, name: str) -> None:
    if name == "step" and steps < 4:
        return  # has no room for three rates: refused, below
    rates = [SCHEDULES[name][0](lr, steps)(step) for step in range(steps)]
    assert all(0 < rate <= lr for rate in rates)
    assert max(rates) > 0.7 * lr or steps < 4


def test_the_triangle_has_its_peak_at_a_fifth() -> None:
    rates = [triangle(0.5, 100)(step) for step in range(100)]
    assert rates.index(max(rates)) in (19, 20) and max(rates) == 0.5
    assert rates[0] == pytest.approx(0.5 / 20) and rates[-1] == pytest.approx(0.5 / 80)
    ups = [b - a for a, b in zip(rates[:19], rates[1:20], strict=True)]
    downs = [b - a for a, b in zip(rates[20:-1], rates[21:], strict=True)]
    assert ups == pytest.approx([0.5 / 20] * 19) and downs == pytest.approx([-0.5 / 80] * 79)


def test_mirrored_images_are_the_image_or_its_mirror_half_and_half() -> None:
    X = torch.randn(2000, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    Y = mirrored(X)
    as_it_was = (Y == X).flatten(1).all(1)
    assert torch.equal(Y[~as_it_was], X[~as_it_was].flip(3))
    assert abs(as_it_was.double().mean() - 0.5) < 4 * math.sqrt(0.25 / 2000)


def test_shifted_images_are_moved_by_whole_pixels_each_way_as_often() -> None:
    X = torch.rand(3000, 2, 4, 5, generator=torch.Generator().manual_seed(0)) + 1  # no zero in it
    torch.manual_seed(0)
    Y = shifted(X, 1)
    assert Y.shape == X.shape
    moves = {}
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            expected = torch.zeros_like(X)
            rows, columns = slice(max(down, 0), 4 + min(down, 0)), slice(max(right, 0), 5 + min(right, 0))
            sources = slice(max(-down, 0), 4 + min(-down, 0)), slice(max(-right, 0), 5 + min(-right, 0))
            expected[:, :, rows, columns] = X[:, :, sources[0], sources[1]]
            moves[down, right] = (expected == Y).flatten(1).all(1).sum().item()
    assert sum(moves.values()) == 3000
    assert all(abs(count - 3000 / 9) < 4 * math.sqrt(3000 * (1 / 9) * (8 / 9)) for count in moves.values())
    assert torch.equal(shifted(X, 0), X)


def test_images_stay_on_their_device() -> None:
    X = torch.zeros(3, 1, 4, 5, device="meta")
    assert mirrored(X).device == shifted(X, 1).device == X.device and shifted(X, 1).shape == X.shape


class Seen(nn.Module):
    """Remembers what it was given, and returns a score that depends on it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(1, 10)

    def forward(self, X: Tensor) -> Tensor:
        self.X = X
        scores = self.fc(X.mean((1, 2, 3))[:, None])
        self.dtype = scores.dtype
        return scores


@pytest.mark.parametrize("bf16", [False, True])
def test_what_is_put_before_a_net(bf16: bool) -> None:
    X = torch.rand(8, 1, 28, 28)
    net = Seen()
    prepared = Prepared(net, size=32, mirror=True, shift=2, bf16=bf16)
    assert prepared(X).dtype == torch.float32 and net.dtype == (torch.bfloat16 if bf16 else torch.float32)
    assert net.X.shape == (8, 1, 32, 32)
    prepared.eval()(X)
    assert torch.equal(net.X, nn.functional.interpolate(X, (32, 32), mode="bilinear"))  # augmented in training alone
    prepared = Prepared(net, size=28, mirror=False, shift=0, bf16=False)
    prepared(X)
    assert net.X is X


def test_switches_reach_the_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.extend(self.parameters()))
    trained(tmp_path / "run", "--compile", "--channels-last", "--threads", "1", examples=128, epochs=1)
    images = [weight for weight in compiled if weight.dim() == 4]
    assert images and all(weight.is_contiguous(memory_format=torch.channels_last) for weight in images)
    assert torch.get_num_threads() == 1
    record = settings(tmp_path / "run")
    assert (record["compile"], record["channels_last"], record["bf16"], record["threads"]) == (True, True, False, 1)


# Help and errors


def test_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It is for reading, so tests/help.txt holds it whole."""
    monkeypatch.setenv("COLUMNS", "100")
    for arguments in ([], ["train"], ["data"]):
        with pytest.raises(SystemExit) as error:
            main([*arguments, "--help"])
        assert error.value.code == 0
    assert capsys.readouterr().out == (ROOT / "tests/help.txt").read_text("utf-8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--batch-size 0", "--batch-size: expected at least 1, got 0"),
        ("--batch-size 301", "--batch-size: expected at most 300, got 301"),
        ("--epochs 0", "--epochs: expected at least 1, got 0"),
        ("--epochs 9999999999", "--epochs: expected at most 1000000, got 9999999999"),
        ("--lr 0", "--lr: expected a number in (0, inf), got 0.0"),
        ("--lr -1", "--lr: expected a number in (0, inf), got -1.0"),
        ("--lr nan", "--lr: expected a number in (0, inf), got nan"),
        ("--lr 1e999", "--lr: expected a number in (0, inf), got inf"),
        ("--momentum 1", "--momentum: expected a number in [0, 1), got 1.0"),
        ("--momentum nan", "--momentum: expected a number in [0, 1), got nan"),
        ("--weight-decay -1", "--weight-decay: expected a number in [0, inf), got -1.0"),
        ("--weight-decay inf", "--weight-decay: expected a number in [0, inf), got inf"),
        ("--seed -1", "--seed: expected at least 0, got -1"),
        ("--seed 9223372036854775808", "--seed: expected at most 9223372036854775807, got 9223372036854775808"),
        ("--size 0", "--size: expected at least 1, got 0"),
        ("--size 32", "--size: expected a size that lenet can take, such as 28, got 32"),
        ("--size 4", "--size: expected a size that lenet can take, such as 28, got 4"),
        ("--size 99999", "--size: expected at most 1024, got 99999"),
        ("--shift -1", "--shift: expected at least 0, got -1"),
        ("--shift 99", "--shift: expected at most 28, got 99"),
        ("--threads 0", "--threads: expected at least 1, got 0"),
        ("--threads 99999", "--threads: expected at most 1024, got 99999"),
        ("--hold-out 0", "--hold-out: expected at least 1, got 0"),
        ("--examples 0", "--examples: expected at least 1, got 0"),
        ("--examples 10001", "--examples, --hold-out: expected at most 10000 together, got 10001 and 0"),
        ("--examples 10000 --hold-out 1", "--examples, --hold-out: expected at most 10000 together, got 10000 and 1"),
        ("--hold-out 9701", "--examples, --hold-out: expected at most 10000 together, got 300 and 9701"),
        (
            "--schedule step --batch-size 300 --epochs 3",
            "--schedule: expected at least 4 steps, of --epochs and --batch-size, for step, got 3",
        ),
        ("--root elsewhere", "--root: expected only with --full, got elsewhere"),
        ("--out ~nobody-at-all/run", "--out: expected a path, got '~nobody-at-all/run', and there is no such home"),
    ],
)
def test_what_cannot_be_is_said_and_leaves_nothing_behind(options: str, message: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    said = main(["train", "lenet", "--examples", "300", "--out", str(out), *options.split()])
    assert said == message
    assert not out.exists() or not list(out.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "train",
        "train alexnet",
        "train lenet --schedule linear",
        *[f"train lenet --{name} x" for name in ("epochs", "batch-size", "lr", "momentum", "weight-decay", "seed")],
        *[f"train lenet --{name} 1.5" for name in ("size", "shift", "threads", "examples", "hold-out", "seed")],
    ],
)
def test_what_cannot_be_read_ends_with_the_usage(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(arguments.split())
    assert error.value.code == 2
    assert "usage: python -m lessons_lib" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    said = main(["train", "lenet", "--examples", "300", "--out", str(tmp_path / "file" / "run")])
    assert said.startswith("[Errno 20] Not a directory: ") and (tmp_path / "file").read_text() == "mine"


def test_data_reads_every_file_of_the_whole_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []
    monkeypatch.setattr(command_line, "read_whole", lambda *call: (asked.append(call), torch.zeros(6, 2))[1])
    assert main(["data", "--root", str(tmp_path)]) is None
    assert asked == [(name, tmp_path) for name in SHA256]
    assert capsys.readouterr().out.splitlines() == [f"{name}: 6 × 2, as published" for name in SHA256]
    monkeypatch.setattr(command_line, "read_whole", lambda *call: (_ for _ in ()).throw(ConnectionError("no mirror")))
    assert main(["data"]) == "no mirror"
    assert main(["data", "--root", "~nobody at all"]).startswith("--root: expected a path, got '~nobody at all'")


def test_it_is_a_command_that_fails_with_a_sentence() -> None:
    command = [sys.executable, "-m", "lessons_lib", "train", "lenet", "--lr", "0"]
    done = subprocess.run(command, capture_output=True, text=True)
    said = "--lr: expected a number in (0, inf), got 0.0\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)


def test_the_whole_set_is_read_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def whole(split: str, *, full: bool, root: Path) -> TensorDataset:
        asked.append((split, full, root))
        return TensorDataset(torch.rand(40, 1, 28, 28), torch.arange(40) % 10)

    monkeypatch.setattr(command_line, "fashion_mnist", whole)
    call = ["train", "lenet", "--full", "--root", str(tmp_path), "--batch-size", "20", "--epochs", "1"]
    assert main([*call, "--out", str(tmp_path / "run")]) is None
    assert asked == [("train", True, tmp_path), ("test", True, tmp_path)]
    assert settings(tmp_path / "run")["full"] is True
