"""Several processes take the steps of one, batch normalisation included; none is left behind; a killed run goes on."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn

from lessons_lib import minibatch
from lessons_lib.batch_norm import BatchNorm
from lessons_lib.minibatch import SyncBatchNorm, average_gradients, torchrun

ROOT = Path(__file__).parents[1]


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


# Each function that torchrun gets stands for itself, as in a notebook; called here, it is a single process.


def train_lenet(norm: str, dtype: str, checkpoint: str = "", killed_at: str = "", epochs: str = "1") -> dict[str, Any]:
    """Train LeNet on 301 images in batches of 64, the last of 45: two processes have uneven shares of it."""
    import os
    import signal

    import torch
    from torch.utils.data import TensorDataset

    from lessons_lib import batch_norm, minibatch
    from lessons_lib.data import fashion_mnist
    from lessons_lib.learning_rate import exponential
    from lessons_lib.training import place, train

    rank, _ = place()

    def lr(step: int) -> float:
        if rank == 1 and str(step) == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return exponential(0.3, 0.1)(step)

    torch.manual_seed(rank)  # all start where rank 0 does
    layer = getattr(minibatch, norm, None) or getattr(batch_norm, norm, None)
    net = batch_norm.lenet(layer).to(getattr(torch, dtype))
    images, labels = fashion_mnist("train")[:341]
    images = images.to(net[0].weight.dtype)
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
    one, other = torchrun(train_lenet, norm, dtype)
    alone = train_lenet(norm, dtype)
    assert distance(one["parameters"], other["parameters"]) == 0
    assert distance(one, alone) < allowed * max(alone["history"]["loss"])
    assert len(alone["history"]["loss"]) == 5


def test_batch_norm_of_each_share_alone_trains_another_net() -> None:
    one, other = torchrun(train_lenet, "BatchNorm", "float64")
    assert distance(one["parameters"], other["parameters"]) == 0
    assert distance(one["averages"], other["averages"]) > 1e-3
    assert distance(one, train_lenet("BatchNorm", "float64")) > 1e-3


def test_a_killed_run_ends_clearly_leaves_nothing_behind_and_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    expected, _ = torchrun(train_lenet, "None", "float32", str(tmp_path / "unbroken.pt"), "", "2")
    path = tmp_path / "run.pt"
    started = time.time()
    with pytest.raises(
        RuntimeError, match=r"(?s)train_lenet failed in one of 2 processes:.*Signal 9 \(SIGKILL\)"
    ) as error:
        torchrun(train_lenet, "None", "float32", str(path), "7", "2")
    assert not any(map(alive, re.findall(r"pid: (\d+)", str(error.value))))
    assert time.time() - started < 600  # the other did not wait for it until a time-out
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["run.pt", "unbroken.pt"]
    assert len(torch.load(path, weights_only=True)["history"]["loss"]) == 5  # the first epoch, and not the second
    resumed, _ = torchrun(train_lenet, "None", "float32", str(path), "", "2")
    assert distance(resumed, expected) == 0
    with pytest.raises(ValueError, match="is of a run with processes 2, not 1"):
        train_lenet("None", "float32", str(path), "", "2")


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
    assert torchrun(has_a_checkpoint, str(tmp_path / "run.pt")) == [[True], [True]]


def alive(pid: str | int) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    return True


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
    first, second = torchrun(by_hand, str(tmp_path))
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
    first, second = torchrun(in_halves, str(tmp_path))
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
        "TypeError: X: expected floating point, got torch.int64",
        "ValueError: X: expected at least one value, got shape (0, 6)",
        "TypeError: gamma: expected X's dtype torch.float64, got torch.float32",
        "ValueError: batch_size: expected 2 or more examples in every batch, got one of 1",
        "ValueError: batch_size: expected 2 or more examples in every batch, got one of 1",
    ]
    assert torchrun(refusals) == [expected, expected]


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


def test_returns_by_rank_and_prints_by_rank(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    expected = [dict(rank=rank, threads=2, backend="gloo") for rank in range(3)]
    assert torchrun(speak, "grüß dich", num_processes=3) == expected
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


def test_an_error_in_a_process_reaches_the_caller_with_what_was_printed(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        RuntimeError, match=r"(?s)speak failed in one of 2 processes.*worker\.py.*KeyError: 'no such word'"
    ):
        torchrun(speak, "hm", "1")
    assert capfd.readouterr().out == "0 says\nhm\n1 says\nhm\n"


def test_a_function_defined_inside_another_will_do_and_one_process_too() -> None:
    def nested() -> Tensor:  # a hint at what the new process does not know
        from torch import ones

        return ones(2)

    assert distance(torchrun(nested, num_processes=1), [torch.ones(2)]) == 0


SLEEPERS = """
import signal
from lessons_lib.minibatch import torchrun
signal.signal(signal.SIGINT, signal.default_int_handler)  # which tests that a shell runs in the background ignore
def sleep(folder):
    import os, pathlib, time
    pathlib.Path(folder, str(os.getpid())).touch()
    time.sleep(600)
torchrun(sleep, {folder!r})
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_or_killed_caller_leaves_no_process_behind(how: signal.Signals, tmp_path: Path) -> None:
    script, folder = tmp_path / "script.py", tmp_path / "pids"
    folder.mkdir()
    script.write_text(SLEEPERS.format(folder=str(folder)))
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, script], env=env, stderr=subprocess.DEVNULL) as process:
        until(lambda: len(list(folder.iterdir())) == 2)
        process.send_signal(how)
        # Before anybody asks how the caller ended: until then it is a zombie, whose number is still taken.
        until(lambda: not any(alive(file.name) for file in folder.iterdir()))
        assert process.wait(60) != 0


def test_a_process_ends_when_the_callers_end_of_stdin_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    did: list[object] = []
    monkeypatch.setattr(os, "read", lambda *call: did.append(call))
    monkeypatch.setattr(os, "_exit", did.append)
    minibatch._end_with_the_caller()
    assert did == [(0, 1), 1]


def lose_torchrun() -> None:
    """Kill the parent process, which is torchrun's own."""
    import os
    import signal
    import time

    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)


def test_a_killed_torchrun_is_an_error_too() -> None:
    with pytest.raises(
        RuntimeError, match=r"lose_torchrun failed in one of 1 processes:\ntorchrun itself ended with -9"
    ):
        torchrun(lose_torchrun, num_processes=1)


def test_a_torchrun_that_cannot_start_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho out of memory >&2\nexit 3\n")
    python.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(RuntimeError, match=r"^speak failed in one of 2 processes:\nout of memory$"):
        torchrun(speak, "a")


def returns_a_path() -> Path:
    from pathlib import Path

    return Path("a")


def test_a_result_of_another_kind_is_refused() -> None:
    with pytest.raises(
        TypeError, match="worker: expected returns_a_path to return tensors, numbers, strings, or lists"
    ):
        torchrun(returns_a_path, num_processes=1)


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "it did not come to pass"
        time.sleep(0.05)


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
        (lambda: torchrun(speak, "a", num_processes=2.0), TypeError, "num_processes: expected an int, got 2.0"),
        (lambda: torchrun(speak, "a", num_processes=True), TypeError, "num_processes: expected an int, got True"),
        (lambda: torchrun(speak, "a", num_processes=0), ValueError, "num_processes: expected at least 1, got 0"),
    ],
)
def test_refuses_what_it_cannot_start(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()
