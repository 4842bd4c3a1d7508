"""Several processes take the steps of one, batch normalisation included; none is left behind; a killed run goes on."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.utils.data import TensorDataset

from lessons_lib import minibatch
from lessons_lib.batch_norm import BatchNorm
from lessons_lib.minibatch import SyncBatchNorm, average_gradients, torchrun
from lessons_lib.training import train
from tests.processes import context, in_processes


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers are compared to the last digits below, which a GPU does not promise."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def distance(one: Any, other: Any) -> float:
    """The largest difference between two structures of tensors and numbers that have the same form."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        return max((distance(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, list):
        assert len(one) == len(other)
        return max(map(distance, one, other), default=0.0)
    one, other = (torch.as_tensor(value, dtype=torch.float64) for value in (one, other))
    return (one - other).abs().max().item()


# Each function that torchrun gets stands for itself, as in a notebook; called here, it is a single process. What
# does not need torchrun runs in processes that are forked.


def train_lenet(norm: str, dtype: str, checkpoint: str = "", killed_at: str = "", epochs: str = "1") -> dict[str, Any]:
    """Train LeNet on 301 images of noise in batches of 64, the last of 45: two processes have uneven shares of it."""
    import os
    import signal
    import sys
    from contextlib import suppress
    from pathlib import Path

    import torch
    from torch.utils.data import TensorDataset

    from lessons_lib import batch_norm, minibatch
    from lessons_lib.learning_rate import exponential
    from lessons_lib.training import place, train

    rank, _ = place()

    def lr(step: int) -> float:
        if rank == 1 and str(step) == killed_at:
            # What torchrun finds if it looks while we still write. That is too late: it shall not even find a file.
            for folder in Path(sys.argv[1]).glob(f"*/attempt_0/{rank}"):
                with suppress(IsADirectoryError):
                    (folder / "error.json").write_text('{"mess')
            os.kill(os.getpid(), signal.SIGKILL)
        return exponential(0.3, 0.1)(step)

    torch.manual_seed(rank)  # all start where rank 0 does
    layer = getattr(minibatch, norm, None) or getattr(batch_norm, norm, None)
    net = batch_norm.lenet(layer).to(getattr(torch, dtype))
    images = torch.rand(341, 1, 28, 28, generator=torch.Generator().manual_seed(0)).to(net[0].weight.dtype)
    labels = images[:, 0, 0, :10].argmax(1)
    sets = [TensorDataset(images[part], labels[part]) for part in (slice(301), slice(301, None))]
    settings = dict(lr=lr, momentum=0.9, weight_decay=1e-3, num_epochs=int(epochs), batch_size=64, seed=3)
    history = train(net, *sets, **settings, checkpoint=checkpoint or None)
    return dict(
        parameters=dict(net.named_parameters()),
        averages=dict(net.named_buffers()),
        history=dict(loss=history.loss, lr=history.lr, acc=history.test_acc),
    )


@pytest.mark.parametrize(
    ("norm", "dtype", "allowed"),
    [("None", "float64", 1e-14), ("None", "float32", 1e-6), ("SyncBatchNorm", "float64", 1e-14)],
)
def test_two_processes_train_as_one(norm: str, dtype: str, allowed: float) -> None:
    one, other = in_processes(train_lenet, norm, dtype)
    alone = train_lenet(norm, dtype)
    assert distance(one["parameters"], other["parameters"]) == 0
    assert distance(one, alone) < allowed * max(alone["history"]["loss"])
    assert len(alone["history"]["loss"]) == 5


def test_batch_norm_of_each_share_alone_trains_another_net() -> None:
    one, other = in_processes(train_lenet, "BatchNorm", "float64")
    assert distance(one["parameters"], other["parameters"]) == 0
    assert distance(one["averages"], other["averages"]) > 1e-3
    assert distance(one, train_lenet("BatchNorm", "float64")) > 1e-3


def test_a_killed_run_ends_clearly_leaves_nothing_behind_and_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    expected, _ = in_processes(train_lenet, "None", "float32", str(tmp_path / "unbroken.pt"), "", "2")
    path = tmp_path / "run.pt"
    with pytest.raises(RuntimeError) as error:
        torchrun(train_lenet, "None", "float32", str(path), "7", "2")
    ends = r"process 1 \(pid: \d+\): Signal 9 \(SIGKILL\)\nprocess 0 \(pid: \d+\)"
    assert re.match(f"train_lenet failed in one of 2 processes:\n{ends}", str(error.value))
    assert not any(map(alive, re.findall(r"pid: (\d+)", str(error.value))))
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["run.pt", "unbroken.pt"]
    assert len(torch.load(path, weights_only=True)["history"]["loss"]) == 5  # the first epoch, and not the second
    resumed, _ = in_processes(train_lenet, "None", "float32", str(path), "", "2")
    assert distance(resumed, expected) == 0
    with pytest.raises(ValueError, match="is of a run with processes 2, not 1"):
        train_lenet("None", "float32", str(path), "", "2")


def alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    return True


def has_a_checkpoint(path: str) -> list[bool]:
    """What each process finds after an epoch, although the one that writes the checkpoint takes its time."""
    import os
    import time

    import torch
    from torch import nn
    from torch.utils.data import TensorDataset

    from lessons_lib.training import train

    save = torch.save

    def slow(*arguments: object, **options: object) -> None:
        time.sleep(1)
        save(*arguments, **options)

    torch.save = slow
    found: list[bool] = []
    data = TensorDataset(torch.randn(4, 2), torch.randint(2, (4,)))
    train(
        nn.Linear(2, 2),
        data,
        lr=0.1,
        batch_size=4,
        checkpoint=path,
        on_epoch=lambda _: found.append(os.path.exists(path)),
    )
    torch.save = save
    return found


def test_the_checkpoint_stands_when_a_process_hears_of_the_epoch(tmp_path: Path) -> None:
    assert in_processes(has_a_checkpoint, str(tmp_path / "run.pt")) == [[True], [True]]


# Gradients and statistics


def by_hand(folder: str) -> list[Any]:
    """What a process makes of its uneven share of a batch, three steps of SGD long, in both kinds of layers."""
    import torch
    from torch import nn

    from lessons_lib.minibatch import SyncBatchNorm, average_gradients
    from lessons_lib.training import place

    rank, world = place()
    X, dY = torch.load(f"{folder}/batch.pt", weights_only=True)
    shares = [slice(0, 1), slice(1, None)] if world > 1 else [slice(None)]  # of one image, too
    results = []
    for dims in (2, 4):
        x = (X if dims == 4 else X[:, :, 0, 0])[shares[rank]].requires_grad_()
        dy = (dY if dims == 4 else dY[:, :, 0, 0])[shares[rank]]
        layer = SyncBatchNorm(3, num_dims=dims, momentum=0.6).double()
        frozen = nn.Parameter(torch.ones(3))  # takes no part, and gets no gradient
        net = nn.ParameterList([layer.weight, layer.bias, frozen])
        optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
        for _ in range(3):
            x.grad = None
            optimizer.zero_grad()
            y = layer(x)
            (y * dy * world).sum().backward()  # averaged over the processes, it is the gradient of the whole sum
            average_gradients(net)
            optimizer.step()
        assert frozen.grad is None
        evaluated = layer.eval()(x)
        state = {name: value.double() for name, value in layer.state_dict().items()}
        results.append([y.detach(), x.grad / world, evaluated.detach(), layer.weight.grad, state])
    return results


def test_statistics_and_gradients_over_all_processes_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    X, dY = (torch.randn(8, 3, 2, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    torch.save((5 + 2 * X, dY), tmp_path / "batch.pt")
    first, second = in_processes(by_hand, str(tmp_path))
    for one, other, whole in zip(first, second, by_hand(str(tmp_path)), strict=True):
        for k in range(3):  # Y, X's gradient, and Y in eval mode
            assert distance(torch.cat((one[k], other[k])), whole[k]) < 1e-13
        assert distance(one[3:], whole[3:]) < 1e-13
        assert distance(other[3:], whole[3:]) < 1e-13


def in_halves(folder: str) -> list[Any]:
    """A process's share of a batch whose squares add up to more than float16 holds, in layers of both precisions."""
    import torch

    from lessons_lib.minibatch import SyncBatchNorm
    from lessons_lib.training import place

    rank, world = place()
    X = torch.load(f"{folder}/batch.pt", weights_only=True)
    results = []
    for dtype in (torch.float16, torch.bfloat16):
        x = X[[slice(0, 20), slice(20, None)][rank] if world > 1 else slice(None)].to(dtype)
        for layer in (SyncBatchNorm(2, num_dims=4), SyncBatchNorm(2, num_dims=4).to(dtype)):
            y = layer(x)
            assert y.dtype == dtype and layer.running_var.dtype == layer.weight.dtype
            results.append([y.detach(), layer.running_mean, layer.running_var])
    return results


def test_halves_over_all_processes(tmp_path: Path) -> None:
    X = 2 * torch.randn(64, 2, 24, 24, generator=torch.Generator().manual_seed(0)) + 3
    torch.save(X, tmp_path / "batch.pt")
    first, second = in_processes(in_halves, str(tmp_path))
    for one, other, whole in zip(first, second, in_halves(str(tmp_path)), strict=True):
        last_digit = torch.finfo(whole[0].dtype).eps
        assert distance(torch.cat((one[0], other[0])).float(), whole[0].float()) < 4 * last_digit
        assert distance(one[1:], other[1:]) == 0
        assert distance(one[1:], whole[1:]) < 4 * last_digit


def test_a_sum_over_one_process_is_what_it_has_and_passes_gradients_on() -> None:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        x = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
        assert torch.equal(minibatch._Sum.apply(x), x)
        assert torch.autograd.gradcheck(minibatch._Sum.apply, x) and torch.autograd.gradgradcheck(
            minibatch._Sum.apply, x
        )
    finally:
        distributed.destroy_process_group()


def test_outside_of_a_group_it_is_batch_norm() -> None:
    X = torch.randn(8, 6, 5, 5, generator=torch.Generator().manual_seed(0))
    ours, theirs = SyncBatchNorm(6, num_dims=4), BatchNorm(6, num_dims=4)
    for _ in range(2):
        assert torch.equal(ours(X), theirs(X))
    assert torch.equal(ours.eval()(X), theirs.eval()(X))
    assert distance(ours.state_dict(), theirs.state_dict()) == 0
    nn.SyncBatchNorm(6).load_state_dict(ours.state_dict())


def test_outside_of_a_group_gradients_stay_as_they_are() -> None:
    net = nn.Linear(2, 1)
    net(torch.tensor([[3.0, 4.0]])).backward()
    average_gradients(net)
    assert net.weight.grad.tolist() == [[3, 4]]


def other_gradients(kind: str) -> str:
    """What a process hears when the two have other gradients."""
    rank = distributed.get_rank()
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net(torch.ones(1, 2)).sum().backward()
    match kind, rank:
        case "layers", _:
            net[rank].zero_grad()
        case "none on one", 0:
            net.zero_grad()
        case "number", 1:
            net = net[:1]
        case "shape", 1:
            net[0].weight = nn.Parameter(torch.ones(4, 1))
            net[0].weight.grad = torch.ones(4, 1)
        case "dtype", 1:
            net.double()
        case "sparse", 1:
            net[0].weight.grad = net[0].weight.grad.to_sparse()
        case "order", 1:
            net = nn.ModuleDict({"1": net[1], "0": net[0]})
    before = [parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None]
    try:
        average_gradients(net)
    except ValueError as error:
        after = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
        assert all(torch.equal(one.to_dense(), other.to_dense()) for one, other in zip(before, after, strict=True))
        return str(error)
    return "went well"


STRIDED = "of shape (2, 2), torch.float32, torch.strided"


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        ("layers", "0.weight without one", f"0.weight {STRIDED}"),
        ("none on one", "0.weight without one", f"0.weight {STRIDED}"),
        ("number", f"1.weight {STRIDED}", "None"),
        ("shape", f"0.weight {STRIDED}", "0.weight of shape (4, 1), torch.float32, torch.strided"),
        ("dtype", f"0.weight {STRIDED}", "0.weight of shape (2, 2), torch.float64, torch.strided"),
        ("sparse", f"0.weight {STRIDED}", "0.weight of shape (2, 2), torch.float32, torch.sparse_coo"),
        ("order", f"0.weight {STRIDED}", f"1.weight {STRIDED}"),
    ],
)
def test_gradients_that_do_not_correspond_are_refused_in_every_process(kind: str, first: str, second: str) -> None:
    said = f"net: expected the same gradients in all processes, got {first} in process 0 and {second} in process 1"
    assert in_processes(other_gradients, kind) == [said, said]


def averages() -> list[Tensor | None]:
    """Averages of each kind of gradient that can be averaged."""
    rank = distributed.get_rank()
    net = nn.ModuleList([nn.Conv2d(2, 2, 3, bias=False), nn.Embedding(4, 2, sparse=True), nn.Linear(1, 1)])
    gradient = torch.arange(36.0).reshape(2, 2, 3, 3) + rank
    net[0].weight.grad = gradient.contiguous(memory_format=torch.channels_last) if rank else gradient
    net[1](torch.tensor([0, 1 + rank, 3][: 2 + rank])).sum().backward()
    average_gradients(net)
    return [None if weight.grad is None else weight.grad.to_dense() for weight in net.parameters()]


def test_strides_may_differ_rows_may_be_missing_and_what_nobody_has_stays_none() -> None:
    rows = torch.tensor([[1.0, 1], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]])
    for convolution, embedding, weight, bias in in_processes(averages):
        assert torch.equal(convolution, torch.arange(36.0).reshape(2, 2, 3, 3) + 0.5)
        assert torch.equal(embedding, rows) and weight is None and bias is None


def trains_otherwise(name: str) -> str:
    """What a process hears when the two call `train` with other arguments."""
    rank = distributed.get_rank()
    examples = [TensorDataset(torch.zeros(8, 6) + k, torch.zeros(8, dtype=torch.long)) for k in range(2)]
    arguments = dict(train_set=examples[0], test_set=None, net=nn.Linear(6, 2), batch_size=4, seed=0)
    other = dict(train_set=examples[1], test_set=examples[0], net=nn.Linear(6, 3), batch_size=5, seed=1)
    try:
        train(**arguments | ({name: other[name]} if rank else {}), lr=0.1)
    except ValueError as error:
        return str(error)
    return "went well"


@pytest.mark.parametrize("name", ["train_set", "test_set", "net", "batch_size", "seed"])
def test_processes_that_train_otherwise_are_refused(name: str) -> None:
    one, other = in_processes(trains_otherwise, name)
    assert one == other and re.match(
        rf"{name}: expected the same in all processes, got .* in process 0 and .* in p", one
    )


def refusals() -> list[str]:
    """What the layer and the loop say to inputs that they cannot take, in a group."""
    import torch
    from torch import nn
    from torch.utils.data import TensorDataset

    from lessons_lib.minibatch import SyncBatchNorm
    from lessons_lib.training import train

    examples = TensorDataset(torch.zeros(9, 6), torch.zeros(9, dtype=torch.long))
    attempts = [
        lambda: SyncBatchNorm(6, num_dims=4)(torch.zeros(4, 6)),
        lambda: SyncBatchNorm(6, num_dims=2)(torch.zeros(4, 5)),
        lambda: SyncBatchNorm(6, num_dims=2)(torch.zeros(4, 6, dtype=torch.long)),
        lambda: SyncBatchNorm(6, num_dims=2)(torch.zeros(0, 6)),
        lambda: SyncBatchNorm(6, num_dims=2)(torch.zeros(3, 6, dtype=torch.double)),
        lambda: train(nn.Linear(6, 2), examples, lr=0.1, batch_size=1),
        lambda: train(nn.Linear(6, 2), examples, lr=0.1, batch_size=4),
    ]
    said = []
    for attempt in attempts:
        try:
            attempt()
        except (ValueError, TypeError) as error:
            said.append(f"{type(error).__name__}: {error}")
    return said


def test_bad_input_is_refused_in_every_process() -> None:
    expected = [
        "ValueError: X: expected 4 dimensions, got shape (4, 6)",
        "ValueError: X: expected 6 features, got shape (4, 5)",
        "TypeError: X: expected torch.float32, got torch.int64",
        "ValueError: X: expected at least one value, got shape (0, 6)",
        "TypeError: X: expected torch.float32, got torch.float64",
        "ValueError: batch_size: expected 2 or more examples in every batch, got one of 1",
        "ValueError: batch_size: expected 2 or more examples in every batch, got one of 1",
    ]
    assert in_processes(refusals) == [expected, expected]


# torchrun


def speak(word: str, fails: str = "") -> dict[str, object]:
    import os

    from torch import distributed

    rank = distributed.get_rank()
    print(f"{rank} says")
    print(word)
    if str(rank) == fails:
        raise KeyError("no such word")
    return dict(rank=rank, threads=int(os.environ["OMP_NUM_THREADS"]), backend=distributed.get_backend())


def as_torchrun_does(environment: dict[str, str], folder: str, *call: str) -> None:
    """Be one of torchrun's processes."""
    os.environ |= environment | dict(TORCHELASTIC_ERROR_FILE=f"{folder}/{os.environ['RANK']}.json")
    stdin, _ = os.pipe()  # which ends when we do
    os.dup2(stdin, 0)
    minibatch._run(folder, *call)


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start processes as torchrun does, but quickly."""

    def start(command: list[str], environment: dict[str, str]) -> tuple[str, int]:
        count = next(int(option.partition("=")[2]) for option in command if option.startswith("--nproc-per-node="))
        call = command[command.index("lessons_lib.minibatch") + 1 :]
        environment = {name: environment[name] for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")}
        try:
            in_processes(as_torchrun_does, environment, *call, count=count, joined=False)
        except ChildProcessError as error:
            return str(error), 1
        return "", 0

    monkeypatch.setattr(minibatch, "_until_all_have_ended", start)


def test_returns_by_rank_and_prints_by_rank(
    forked: None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nested(word: str) -> Tensor:  # a hint at what the new process does not know
        from torch import ones

        from tests.test_minibatch import speak

        return [speak(word), ones(2)]

    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    for rank, (said, tensor) in enumerate(torchrun(nested, "grüß dich", num_processes=3)):
        assert said == dict(rank=rank, threads=2, backend="gloo") and torch.equal(tensor, torch.ones(2))
    printed = capfd.readouterr()
    assert printed.out == "".join(f"{rank} says\ngrüß dich\n" for rank in range(3))
    assert printed.err == ""


def test_a_process_gets_the_callers_paths_its_share_of_threads_and_a_gpu_of_its_own_or_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    for paths, gpus, visible in ((None, 1, ""), ("mine", 2, "3,4"), (f"mine{os.pathsep}yours", 3, "3,4")):
        monkeypatch.delenv("PYTHONPATH", raising=False)
        if paths:
            monkeypatch.setenv("PYTHONPATH", paths)
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        path = os.pathsep.join([str(Path(minibatch.__file__).parents[1]), *([paths] if paths else [])])
        expected = dict(PYTHONPATH=path, OMP_NUM_THREADS="4", CUDA_VISIBLE_DEVICES=visible)
        assert minibatch._environment(2) == os.environ | expected


def test_an_error_in_a_process_reaches_the_caller_with_what_was_printed(
    forked: None, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RuntimeError) as error:
        torchrun(speak, "hm", "1")
    expected = r"(?s)speak failed in one of 2 processes:\nprocess 1 \(pid: .*worker\.py.*KeyError: 'no such word'"
    assert re.match(expected, str(error.value))
    assert capfd.readouterr().out == "0 says\nhm\n1 says\nhm\n"


def sleep() -> None:
    import os
    import time

    os.write(1, b"up ")
    time.sleep(600)


def call_torchrun(stdout: Connection) -> None:
    os.dup2(stdout.fileno(), 1)
    stdout.close()
    torchrun(sleep)


def test_a_killed_caller_leaves_no_process_behind() -> None:
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=call_torchrun, args=(theirs,))
    process.start()
    theirs.close()
    with open(ours.fileno(), "rb", closefd=False) as printed:
        assert printed.read(6) == b"up up "
        process.kill()
        assert printed.read() == b""  # it ends when all have ended who could write to it


def starts(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a shell script stand in for torchrun."""
    (tmp_path / "python").write_text(f"#!/bin/sh\ncd '{tmp_path}'\n{program}")
    (tmp_path / "python").chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))


def test_an_interrupted_caller_leaves_no_process_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: subprocess.Popen) -> None:
        monkeypatch.undo()
        while not (tmp_path / "started").exists():
            time.sleep(0.01)
        signal.raise_signal(signal.SIGINT)

    worker = "(cat; echo last words >ended) <&3 &"  # it, too, ends when its stdin does
    starts(f"exec 3<&0\n{worker}\necho >started\nexec sleep 600", tmp_path, monkeypatch)
    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in a shell's background ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            torchrun(speak, "a")
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "ended").read_text() == "last words\n"


def lose_torchrun() -> None:
    """Kill the parent process, which is torchrun's own."""
    import os
    import signal
    import time

    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)


def test_a_killed_torchrun_is_an_error_too() -> None:
    ended = r"process 0 \(pid: unknown\): ended, because torchrun or the caller had\ntorchrun itself ended with -9:"
    with pytest.raises(RuntimeError, match=rf"^lose_torchrun failed in one of 1 processes:\n{ended}"):
        torchrun(lose_torchrun, num_processes=1)


def test_a_torchrun_that_cannot_start_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts("echo out of memory >&2\nexit 3", tmp_path, monkeypatch)
    with pytest.raises(
        RuntimeError, match=r"(?s)^speak failed in one of 1 .*torchrun itself ended with 3:\nout of memory$"
    ):
        torchrun(speak, "a", num_processes=1)


def account(folder: Path, **ends: int) -> str:
    """The account of a run in which torchrun says how processes have ended."""
    said = "".join(
        f"  rank      : {rank[1:]} (local_rank: 0)\n  exitcode  : {code} (pid: 7{rank[1:]}) \n"
        for rank, code in ends.items()
    )
    return minibatch._account(folder, 3, said, 1 if ends else 0)


def test_the_culprit_comes_first(tmp_path: Path) -> None:
    (tmp_path / "0.error").write_text("KeyError: later")
    (tmp_path / "1.error").write_text("KeyError: earlier")
    os.utime(tmp_path / "0.error", (3, 3))
    os.utime(tmp_path / "1.error", (2, 2))
    errors = "process 1 (pid: 71): KeyError: earlier\nprocess 0 (pid: 70): KeyError: later"
    assert account(tmp_path, r0=1, r1=1, r2=-9) == f"process 2 (pid: 72): Signal 9 (SIGKILL)\n{errors}"
    assert account(tmp_path, r0=1, r1=1, r2=-15) == f"{errors}\nprocess 2 (pid: 72): Signal 15 (SIGTERM)"
    assert account(tmp_path, r0=1, r1=1, r2=-99) == f"process 2 (pid: 72): Signal 99\n{errors}"
    exited = "process 2 (pid: 72): ended with exit code 3"
    assert account(tmp_path, r0=1, r1=1, r2=3) == f"{exited}\n{errors}"
    assert account(tmp_path).startswith("process 2 (pid: unknown): ended without a result\n")
    (tmp_path / "2.pt").touch()
    assert account(tmp_path, r0=1, r1=1, r2=3) == f"{exited}\n{errors}"
    assert account(tmp_path, r0=1, r1=1) == errors


def ended(monkeypatch: pytest.MonkeyPatch, *results: object) -> None:
    """Let torchrun's processes end well, with these results."""

    def launch(command: list[str], environment: dict[str, str]) -> tuple[str, int]:
        folder = command[command.index("lessons_lib.minibatch") + 1]
        for rank, result in enumerate(results):
            torch.save(result, Path(folder, f"{rank}.pt"))
        return "", 0

    monkeypatch.setattr(minibatch, "_until_all_have_ended", launch)


def test_a_result_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ended(monkeypatch, 1, Path("a"))
    with pytest.raises(TypeError, match="worker: expected speak to return tensors, numbers, strings, or lists"):
        torchrun(speak)


def test_a_process_that_ends_without_a_result_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    ended(monkeypatch, 1)
    with pytest.raises(RuntimeError, match=r"of 2 processes:\nprocess 1 \(pid: unknown\): ended without a result$"):
        torchrun(speak)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: torchrun("speak", "a"), TypeError, "worker: expected a function with a name, got 'speak'"),
        (lambda: torchrun(lambda: 1), TypeError, "worker: expected a function with a name, got <function"),
        (
            lambda: torchrun(torch.relu),
            TypeError,
            "worker: expected a function whose source can be read, got <built-in",
        ),
        (lambda: torchrun(speak, 1), TypeError, "args: expected strings, got 1"),
        (lambda: average_gradients(3), TypeError, "net: expected an nn.Module, got int"),
        (lambda: torchrun(speak, "a", num_processes=2.0), TypeError, "num_processes: expected an int, got 2.0"),
        (lambda: torchrun(speak, "a", num_processes=True), TypeError, "num_processes: expected an int, got True"),
        (lambda: torchrun(speak, "a", num_processes=0), ValueError, "num_processes: expected at least 1, got 0"),
    ],
)
def test_refuses_what_it_cannot_start(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()
