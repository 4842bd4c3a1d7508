"""The command line trains what it says, keeps what it measured, and loses nothing, however a run ends."""

import io
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from datetime import date
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from lessons_lib import __main__ as command_line
from lessons_lib import data
from lessons_lib.__main__ import NETS, SCHEDULES, Prepared, data_sets, main, mirrored, multiply_adds, parser, shifted
from lessons_lib.data import SHA256
from lessons_lib.densenet import DenseNet
from lessons_lib.training import evaluate, num_parameters
from tests.processes import SECONDS, context, in_processes

ROOT = Path(__file__).parents[1]
FILES = {"run.json", "net.pt", "checkpoint.pt"}
whole = lru_cache(data.fashion_mnist)  # nobody writes into it


@lru_cache
def first_images(split: str, full: bool = False) -> TensorDataset:
    """Few are enough here."""
    return TensorDataset(*(tensor[:300].clone() for tensor in whole(split).tensors))


@pytest.fixture(autouse=True)
def on_the_cpu_and_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(command_line, "fashion_mnist", first_images)
    monkeypatch.setenv("TQDM_DISABLE", "1")


def call(out: Path, *options: str, epochs: int = 2) -> list[str]:
    return ["train", "lenet", "--epochs", str(epochs), "--out", str(out), *options]


def trained(out: Path, *options: str, epochs: int = 2) -> dict[str, Tensor]:
    """The parameters that a run leaves in `out`."""
    assert main(call(out, *options, epochs=epochs)) is None
    return torch.load(out / "net.pt", weights_only=True)


def record(out: Path) -> dict:
    return json.loads((out / "run.json").read_text())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# What a run leaves


def test_a_run_leaves_a_net_that_does_what_its_record_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "run"
    parameters = trained(out, "--lr", "0.1")
    assert {path.name for path in out.iterdir()} == FILES
    net = NETS["lenet"][0]()
    net.load_state_dict(parameters)
    loss, accuracy = evaluate(net, first_images("test"))
    made = record(out)
    assert made["test_acc"][-1] == accuracy and made["test_loss"][-1] == pytest.approx(loss, abs=1e-6)
    assert len(made["loss"]) == 6 and len(made["test_acc"]) == len(made["seconds"]) == 2  # three steps an epoch
    assert made["lr"] == [SCHEDULES["triangle"](0.1, 6)(step) for step in range(6)]
    assert (made["parameters"], made["multiply_adds"], made["processes"]) == (44878, multiply_adds(net, 28), 1)
    settings = dict(net="lenet", seed=0, hold_out=None, full=False, shift=1, epochs=2, size=28, lr=0.1)
    settings |= dict(schedule="triangle", weight_decay=5e-4, fast=False)
    assert settings.items() <= made["settings"].items()
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert f"test loss {loss:.3f}, test accuracy {accuracy:.4f}, 0 s" in lines[-1]


def test_a_record_says_when_where_and_with_what_it_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    earliest = date.today()
    found = command_line.circumstances()
    assert earliest <= date.fromisoformat(found["date"]) <= date.today()
    assert re.fullmatch(r"\w+, \d+ cores, \w+", found["machine"])
    assert re.fullmatch(r"Python 3\.\d+\.\d+\S*, torch \d\S+, numpy \d\S+", found["versions"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    assert command_line.circumstances()["machine"] == found["machine"] + ", a GPU"


def test_the_seed_decides_the_run_and_each_setting_changes_it(tmp_path: Path) -> None:
    usual = trained(tmp_path / "usual", epochs=1)
    assert same(trained(tmp_path / "again", "--seed", "0", "--shift", "1", epochs=1), usual)
    for i, options in enumerate(
        ["--seed 1", "--lr 0.1", "--weight-decay 0", "--schedule cosine", "--shift 0", "--fast"]
    ):
        assert not same(trained(tmp_path / str(i), *options.split(), epochs=1), usual), options


def test_held_out_images_are_tested_on_and_not_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_line, "fashion_mnist", lambda split, full: whole(split))
    for held in (10, 9999):
        sets = data_sets(parser().parse_args(["train", "lenet", "--hold-out", str(held)]))
        assert [len(dataset) for dataset in sets] == [10000 - held, held]
        both = [torch.cat(pair) for pair in zip(*(dataset.tensors for dataset in sets), strict=True)]
        assert all(map(torch.equal, both, whole("train").tensors))
    sets = data_sets(parser().parse_args(["train", "lenet"]))
    assert sets == (whole("train"), whole("test"))


def test_the_whole_set_is_asked_for_and_the_folder_is_the_nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def few(split: str, full: bool) -> TensorDataset:
        asked.append((split, full))
        return TensorDataset(torch.rand(40, 1, 28, 28), torch.arange(40) % 10)

    asked: list[tuple[str, bool]] = []
    monkeypatch.setattr(command_line, "fashion_mnist", few)
    monkeypatch.chdir(tmp_path)
    assert main(["train", "lenet", "--full"]) == "batch_size: expected at most 40, got 128"
    assert asked == [("train", True), ("test", True)] and Path("runs/lenet").is_dir()


def test_fast_reaches_the_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(command_line, "train", lambda net, *_, **__: seen.append(net) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(call(tmp_path / "run", "--fast"))
    assert "size=28, shift=1, bf16=True" in str(seen[0])
    images = [weight for weight in seen[0].parameters() if weight.dim() == 4]
    assert images and all(weight.is_contiguous(memory_format=torch.channels_last) for weight in images)


# Interrupted, killed, resumed


def stops_at(step: int, how: Callable[[], object]) -> Callable[[float, int], Callable[[int], float]]:
    usual = SCHEDULES["triangle"]
    return lambda lr, steps: lambda now: usual(lr, steps)(now) if now != step else how()


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run_until(step: int, arguments: list[str], folder: Path) -> None:
    """The command line in a process that is killed at a step. What it prints lands in a file."""
    command_line.fashion_mnist = first_images
    SCHEDULES["triangle"] = stops_at(step, kill)
    with (folder / f"{step}.txt").open("w") as printed, redirect_stdout(printed):
        main(arguments)


def test_a_run_that_is_killed_again_and_again_ends_in_the_same_parameters(tmp_path: Path) -> None:
    unbroken, out, printed = tmp_path / "unbroken", tmp_path / "killed", []
    for folder, step in ((unbroken, 99), (out, 2), (out, 7), (out, 99)):  # of twelve, three an epoch
        assert not (folder / "net.pt").exists()
        process = context.Process(target=run_until, args=(step, call(folder, "--resume", epochs=4), tmp_path))
        process.start()
        process.join(SECONDS)
        process.kill()
        assert process.exitcode == (0 if step == 99 else -signal.SIGKILL)
        printed += re.findall(r"epoch (\d)/4", (tmp_path / f"{step}.txt").read_text())
    assert printed == list("12341234")  # each is said at once
    assert {path.name for path in out.iterdir()} == FILES
    assert same(torch.load(out / "net.pt"), torch.load(unbroken / "net.pt"))
    assert record(out)["loss"] == record(unbroken)["loss"] and record(out)["test_acc"] == record(unbroken)["test_acc"]


def test_an_interrupt_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCHEDULES, "triangle", stops_at(1, lambda: signal.raise_signal(signal.SIGINT)))
    said = main(call(tmp_path / "run"))
    assert said.startswith("Stopped. ") and "--resume" in said


def test_what_is_there_is_left_alone_and_a_run_that_has_ended_gives_its_files_again(tmp_path: Path) -> None:
    out = tmp_path / "run"
    parameters = trained(out, epochs=1)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert main(call(out, epochs=1)) == f"--out: {out} contains a run or other files; --resume goes on with a run"
    for options, message in (
        ("--lr 0.3", "is of a run with lr 0.2 at step 0, not 0.3"),
        ("--shift 2", "is of a run with net Prepared(size=28, shift=1, bf16=False), not Prepared(size=28, shift=2, "),
    ):
        assert message in main(call(out, "--resume", *options.split(), epochs=1))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    (out / "net.pt").unlink()
    (out / "run.json").unlink()
    assert same(trained(out, "--resume", epochs=1), parameters)
    assert record(out)["test_acc"] == json.loads(before["run.json"])["test_acc"]


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_full_disk_is_said_in_a_sentence_and_the_run_can_go_on(name: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / f"{name}.part").symlink_to("/dev/full")
    assert main(call(out, epochs=1)) == "[Errno 28] No space left on device"
    assert not (out / "net.pt").exists() and not [*out.glob("*.part")]
    trained(out, "--resume", epochs=1)


# Several processes


def said(arguments: list[str]) -> str:
    """What the command line prints."""
    command_line.fashion_mnist = first_images
    with redirect_stdout(io.StringIO()) as printed:
        assert main(arguments) is None
    assert not torch.distributed.is_initialized()
    return printed.getvalue()


def test_two_processes_train_one_net(tmp_path: Path) -> None:
    out = tmp_path / "run"
    one, other = in_processes(said, call(out, epochs=1), joined=False)
    assert record(out)["processes"] == 2 and (len(one.splitlines()), other) == (1, "")
    net = NETS["lenet"][0]()
    net.load_state_dict(torch.load(out / "net.pt", weights_only=True))
    assert [evaluate(net, first_images("test"))[1]] == record(out)["test_acc"]


# Nets, schedules, augmentation


@pytest.mark.parametrize(
    ("make", "size", "parameters", "millions"),
    [
        (*NETS["lenet"][:2], 44_878, 0.282),
        (*NETS["small_resnet"][:2], 308_074, 10.0),
        (*NETS["fine_resnet"][:2], 308_074, 37.0),
        (*NETS["small_densenet"][:2], 95_114, 4.9),
        (*NETS["resnet18"][:2], 11_175_370, 319),
        (*NETS["densenet121"][:2], 6_957_834, 506),
        (lambda: DenseNet((4, 4, 4, 4), 32, stem_channels=64), 96, 757_322, 129),  # with which the book compares
    ],
)
def test_a_net_is_the_one_that_the_book_describes(make: Callable, size: int, parameters: int, millions: float) -> None:
    net = make()
    count = multiply_adds(net, size)
    assert num_parameters(net) == parameters and net.training
    assert isinstance(count, int) and count / 1e6 == pytest.approx(millions, rel=0.02)


def test_a_triangle_has_its_peak_at_a_fifth_and_no_schedule_a_rate_of_0_or_above_lr() -> None:
    rates = [SCHEDULES["triangle"](0.5, 100)(step) for step in range(100)]
    ups, downs = [0.5 * k / 20 for k in range(1, 20)], [0.5 * k / 80 for k in range(80, 0, -1)]
    assert rates == pytest.approx([*ups, 0.5, *downs])
    for schedule in SCHEDULES.values():
        assert all(0 < schedule(0.3, steps)(step) <= 0.3 for steps in range(1, 30) for step in range(steps))


def test_mirrored_images_are_the_image_or_its_mirror_half_and_half() -> None:
    X = torch.randn(2000, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    Y = mirrored(X)
    as_it_was = (Y == X).flatten(1).all(1)
    assert torch.equal(Y[~as_it_was], X[~as_it_was].flip(3))
    assert abs(as_it_was.double().mean() - 0.5) < 4 * math.sqrt(0.25 / 2000)


def test_shifted_images_are_moved_by_whole_pixels_each_way_as_often() -> None:
    X = torch.rand(3000, 2, 4, 5, generator=torch.Generator().manual_seed(0)) + 1  # no zero in it
    Y, moves = shifted(X, 1), {}
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            moved = nn.functional.pad(X, (1 + right, 1 - right, 1 + down, 1 - down))[:, :, 1:-1, 1:-1]
            moves[down, right] = (moved == Y).flatten(1).all(1).sum().item()
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
    X, net = torch.rand(8, 1, 28, 28), Seen()
    prepared = Prepared(net, size=32, shift=2, bf16=bf16)
    assert prepared(X).dtype == torch.float32 and net.dtype == (torch.bfloat16 if bf16 else torch.float32)
    larger = nn.functional.interpolate(X, (32, 32), mode="bilinear")
    assert net.X.shape == (8, 1, 32, 32) and not torch.equal(net.X, larger)
    prepared.eval()(X)
    assert torch.equal(net.X, larger)  # augmented in training alone
    Prepared(net, size=28, shift=0, bf16=False).eval()(X)
    assert net.X is X
    Prepared(net, size=28, shift=0, bf16=False)(X)
    assert all(torch.equal(Y, X) or torch.equal(Y, X.flip(2)) for Y, X in zip(net.X, X, strict=True))


# Help and errors


def test_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It is for reading, so tests/help.txt holds it whole."""
    monkeypatch.setenv("COLUMNS", "100")
    for arguments in ([], ["train"], ["data"]):
        with pytest.raises(SystemExit) as error:
            main([*arguments, "--help"])
        assert error.value.code == 0
    assert capsys.readouterr().out == (ROOT / "tests/help.txt").read_text("utf-8")


def test_the_commands_of_the_record_are_still_commands() -> None:
    for part in json.loads((ROOT / "lessons_lib/benchmarks.json").read_text("utf-8")).values():
        for row in part["rows"]:
            if "command" in row:
                assert parser().parse_args(row["command"].split()[3:]).fast


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--epochs 0", "--epochs: expected at least 1, got 0"),
        ("--lr 0", "lr: expected a number in (0, inf), got 0.0"),
        ("--weight-decay -1", "weight_decay: expected a number in [0, inf), got -1.0"),
        ("--seed -1", "--seed: expected at least 0, got -1"),
        ("--seed 9223372036854775808", "--seed: expected at most 9223372036854775807, got 9223372036854775808"),
        ("--shift -1", "--shift: expected at least 0, got -1"),
        ("--shift 29", "--shift: expected at most 28, got 29"),
        ("--hold-out 0", "--hold-out: expected at least 1, got 0"),
        ("--hold-out 300", "--hold-out: expected at most 299, got 300"),
        ("--hold-out 173", "batch_size: expected at most 127, got 128"),
        ("--out ~nobody-at-all/run", "--out: expected a path, got '~nobody-at-all/run', and there is no such home"),
    ],
)
def test_what_cannot_be_is_said_and_leaves_nothing_behind(options: str, message: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main(call(out, *options.split())) == message
    assert not out.exists() or not list(out.iterdir())


@pytest.mark.parametrize(
    "arguments",
    ["", "train", "train alexnet", "train lenet --schedule linear", "train lenet --seed 1.5", "train lenet --lr x"],
)
def test_what_cannot_be_read_ends_with_the_usage(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(arguments.split())
    assert error.value.code == 2 and "usage: python -m lessons_lib" in capsys.readouterr().err


def test_data_reads_every_file_of_the_whole_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command_line, "read_whole", lambda name: torch.zeros(6, len(name)))
    assert main(["data"]) is None
    assert capsys.readouterr().out.splitlines() == [f"{name}: 6 × {len(name)}, as published" for name in SHA256]
    monkeypatch.setattr(command_line, "read_whole", lambda name: (_ for _ in ()).throw(ConnectionError("no mirror")))
    assert main(["data"]) == "no mirror"


def test_it_is_a_command_that_fails_with_a_sentence_where_no_folder_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    command = [sys.executable, "-m", "lessons_lib", *call(tmp_path / "file" / "run")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "") and (tmp_path / "file").read_text() == "mine"
    assert done.stderr.startswith("[Errno 20] Not a directory: ")
