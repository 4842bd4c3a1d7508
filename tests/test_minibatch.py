"""Several processes take the steps of one, batch normalisation included; torchrun leaves none and says who failed.

What torchrun gets stands for itself, as in a notebook. What does not need torchrun runs in forked processes.
"""

import os
import re
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.utils.data import TensorDataset

from lessons_lib import minibatch
from lessons_lib.batch_norm import BatchNorm, lenet
from lessons_lib.learning_rate import exponential
from lessons_lib.minibatch import SyncBatchNorm, average_gradients, torchrun
from lessons_lib.processes import rank_and_size
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
        one, other = list(one.values()), list(other.values())
    if isinstance(one, list):
        return max((distance(*pair) for pair in zip(one, other, strict=True)), default=0.0)
    one, other = (torch.as_tensor(value, dtype=torch.float64) for value in (one, other))
    return (one - other).abs().max().item()


# Training, gradients and statistics


def train_lenet(norm: type[nn.Module] | None, dtype: torch.dtype) -> dict[str, Any]:
    """Train LeNet on 301 images of noise in batches of 64, the last of 45: two processes have uneven shares of it."""
    torch.manual_seed(rank_and_size()[0])  # all start where rank 0 does
    net = lenet(norm).to(dtype)
    images = torch.rand(341, 1, 28, 28, generator=torch.Generator().manual_seed(0)).to(dtype)
    labels = images[:, 0, 0, :10].argmax(1)
    sets = [TensorDataset(images[part], labels[part]) for part in (slice(301), slice(301, None))]
    history = train(net, *sets, lr=exponential(0.3, 0.1), momentum=0.9, weight_decay=1e-3, batch_size=64, seed=3)
    return dict(net=net.state_dict(), loss=history.loss, lr=history.lr, acc=history.test_acc)


@pytest.mark.parametrize(
    ("norm", "dtype", "allowed"),
    [(None, torch.float64, 1e-14), (None, torch.float32, 1e-6), (SyncBatchNorm, torch.float64, 1e-14)],
)
def test_two_processes_train_as_one(norm: type[nn.Module] | None, dtype: torch.dtype, allowed: float) -> None:
    one, other = in_processes(train_lenet, norm, dtype)
    alone = train_lenet(norm, dtype)
    assert distance(one, alone) < allowed * max(alone["loss"]) and distance(one["net"], other["net"]) == 0
    assert len(alone["loss"]) == 5


def by_hand(X: Tensor, dY: Tensor) -> list[Any]:
    """What a process makes of its uneven share of a batch, three steps of SGD long, in both kinds of layers."""
    rank, size = rank_and_size()
    share = [slice(0, 1), slice(1, None)][rank] if size > 1 else slice(None)  # of one image, too
    results = []
    for dims in (2, 4):
        x, dy = ((t if dims == 4 else t[:, :, 0, 0])[share] for t in (X.clone(), dY))
        x.requires_grad_()
        layer = SyncBatchNorm(3, num_dims=dims, momentum=0.6).double()
        frozen = nn.Parameter(torch.ones(3))  # takes no part, and gets no gradient
        net = nn.ParameterList([layer.weight, layer.bias, frozen])
        optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
        for _ in range(3):
            x.grad = None
            optimizer.zero_grad()
            y = layer(x)
            (y * dy * size).sum().backward()  # averaged over the processes, it is the gradient of the whole sum
            average_gradients(net)
            optimizer.step()
        assert frozen.grad is None
        evaluated = layer.eval()(x)
        results.append([y.detach(), x.grad / size, evaluated.detach(), layer.weight.grad, layer.state_dict()])
    return results


def test_statistics_and_gradients_over_all_processes_are_those_of_the_whole_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    X, dY = (torch.randn(8, 3, 2, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    first, second = in_processes(by_hand, 5 + 2 * X, dY)
    for one, other, whole in zip(first, second, by_hand(5 + 2 * X, dY), strict=True):
        for k in range(3):  # Y, X's gradient, and Y in eval mode
            assert distance(torch.cat((one[k], other[k])), whole[k]) < 1e-13
        assert distance(one[3:], whole[3:]) < 1e-13 and distance(other[3:], whole[3:]) < 1e-13


def in_halves(X: Tensor) -> list[Any]:
    """A process's share of a batch whose squares add up to more than float16 holds, in layers of both precisions."""
    rank, size = rank_and_size()
    results = []
    for dtype in (torch.float16, torch.bfloat16):
        x = X[[slice(0, 20), slice(20, None)][rank] if size > 1 else slice(None)].to(dtype)
        for layer in (SyncBatchNorm(2, num_dims=4), SyncBatchNorm(2, num_dims=4).to(dtype)):
            y = layer(x)
            assert y.dtype == dtype and layer.running_var.dtype == layer.weight.dtype
            results.append([y.detach(), layer.running_mean, layer.running_var])
    return results


def test_halves_over_all_processes() -> None:
    X = 2 * torch.randn(64, 2, 24, 24, generator=torch.Generator().manual_seed(0)) + 3
    first, second = in_processes(in_halves, X)
    for one, other, whole in zip(first, second, in_halves(X), strict=True):
        last_digit = torch.finfo(whole[0].dtype).eps
        assert distance(torch.cat((one[0], other[0])).float(), whole[0].float()) < 4 * last_digit
        assert distance(one[1:], other[1:]) == 0 and distance(one[1:], whole[1:]) < 4 * last_digit


def test_a_sum_over_one_process_is_what_it_has_and_passes_gradients_on() -> None:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        x, total = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True), minibatch._Sum.apply
        assert torch.equal(total(x), x)
        assert torch.autograd.gradcheck(total, x) and torch.autograd.gradgradcheck(total, x)
    finally:
        distributed.destroy_process_group()


def test_outside_of_a_group_it_is_batch_norm_and_gradients_stay() -> None:
    X = torch.randn(8, 6, 5, 5, generator=torch.Generator().manual_seed(0))
    ours, theirs = SyncBatchNorm(6, num_dims=4), BatchNorm(6, num_dims=4)
    for _ in range(2):
        assert torch.equal(ours(X), theirs(X))
    assert torch.equal(ours.eval()(X), theirs.eval()(X)) and distance(ours.state_dict(), theirs.state_dict()) == 0
    nn.SyncBatchNorm(6).load_state_dict(ours.state_dict())
    net = nn.Linear(2, 1)
    net(torch.tensor([[3.0, 4.0]])).backward()
    average_gradients(net)
    assert net.weight.grad.tolist() == [[3, 4]]


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


def other_gradients() -> list[str]:
    """What a process hears when the two have other gradients."""
    rank, said = distributed.get_rank(), []
    for kind in ("layers", "shape", "dtype", "sparse", "order"):
        net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        net(torch.ones(1, 2)).sum().backward()
        match kind, rank:
            case "layers", _:
                net[rank].zero_grad()
            case "shape", 1:
                net[0].weight = nn.Parameter(torch.ones(4, 1))
                net[0].weight.grad = torch.ones(4, 1)
            case "dtype", 1:
                net.double()
            case "sparse", 1:
                net[0].weight.grad = net[0].weight.grad.to_sparse()
            case "order", 1:
                net = nn.ModuleDict({"1": net[1], "0": net[0]})
        gradients = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
        before = [gradient.clone() for gradient in gradients]
        with pytest.raises(ValueError, match="^net: expected the same gradients in all processes, got ") as error:
            average_gradients(net)
        assert all(torch.equal(one.to_dense(), other.to_dense()) for one, other in zip(before, gradients, strict=True))
        said.append(str(error.value).partition("got ")[2])
    return said


def test_gradients_that_do_not_correspond_are_refused_in_every_process() -> None:
    strided = "(2, 2), torch.float32, torch.strided"
    expected = [
        f"1.weight {strided} in process 0 and 0.weight {strided} in process 1",
        f"0.weight {strided} in process 0 and 0.weight (4, 1), torch.float32, torch.strided in process 1",
        f"0.weight {strided} in process 0 and 0.weight (2, 2), torch.float64, torch.strided in process 1",
        f"0.weight {strided} in process 0 and 0.weight (2, 2), torch.float32, torch.sparse_coo in process 1",
        f"0.weight {strided} in process 0 and 1.weight {strided} in process 1",
    ]
    assert in_processes(other_gradients) == [expected, expected]


def refusals() -> list[str]:
    """What the layer and the loop say to inputs that they cannot take, and to other inputs in one process."""
    examples = [TensorDataset(torch.zeros(9, 6) + k, torch.zeros(9, dtype=torch.long)) for k in range(2)]
    arguments = dict(train_set=examples[0], net=nn.Linear(6, 2), batch_size=7, seed=0)
    other = dict(train_set=examples[1], test_set=examples[0], net=nn.Linear(6, 3), batch_size=6, seed=1)
    attempts = [
        lambda: SyncBatchNorm(6, num_dims=4)(torch.zeros(4, 6)),
        lambda: SyncBatchNorm(6, num_dims=2)(torch.zeros(0, 6)),
        lambda: SyncBatchNorm(6, num_dims=2)(torch.zeros(3, 6, dtype=torch.double)),
        lambda: train(nn.Linear(6, 2), examples[0], lr=0.1, batch_size=1),
        lambda: train(nn.Linear(6, 2), examples[0], lr=0.1, batch_size=4),
    ]
    for name, value in other.items():
        changed = arguments | ({name: value} if distributed.get_rank() else {})
        attempts.append(lambda changed=changed: train(**changed, lr=0.1))
    said = []
    for attempt in attempts:
        with pytest.raises((ValueError, TypeError)) as error:
            attempt()
        said.append(f"{error.type.__name__}: {error.value}")
    return said


def test_bad_input_is_refused_in_every_process() -> None:
    one, other = in_processes(refusals)
    expected = [
        r"ValueError: X: expected shape \(m, 6, h, w\), got \(4, 6\)",
        r"ValueError: X: expected at least one value, got shape \(0, 6\)",
        "TypeError: X: expected torch.float32, got torch.float64",
        *["ValueError: batch_size: expected 2 or more examples in every batch, got one of 1"] * 2,
    ]
    for difference in ("train_set of 9 examples.*", "net.*", "net.*", "batch_size 7", "seed 0"):
        found = f"{difference} in process 0 and .* in process 1"
        expected.append(f"ValueError: train: expected the same arguments in all processes, got {found}")
    assert one == other
    for said, message in zip(one, expected, strict=True):
        assert re.fullmatch(message, said)


# torchrun


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable], None]:
    """Put a function of the folder, of the call in it and of the environment in the place of PyTorch's torchrun."""

    def instead(function: Callable[..., tuple[str, int]]) -> None:
        def launched(command: list[str], environment: dict[str, str]) -> tuple[str, int]:
            return function(*command[command.index("lessons_lib.minibatch") + 1 :], **environment)

        monkeypatch.setattr(minibatch, "_until_all_have_ended", launched)

    return instead


def speak(word: str, fails: str = "") -> list[object]:
    import os

    from torch import distributed, ones

    rank = distributed.get_rank()
    print(f"{rank} says")
    print(word)
    if str(rank) == fails:
        raise KeyError("no such word")
    return [rank, distributed.get_backend(), os.environ["OMP_NUM_THREADS"], ones(2).tolist()]


def as_torchrun_does(threads: str, folder: str, *call: str) -> None:
    """Be one of torchrun's processes."""
    os.environ |= dict(OMP_NUM_THREADS=threads, TORCHELASTIC_ERROR_FILE="/nowhere")
    stdin, _ = os.pipe()  # which ends when we do
    os.dup2(stdin, 0)
    minibatch._run(folder, *call)


def fork(*call: str, OMP_NUM_THREADS: str, **_: str) -> tuple[str, int]:
    try:
        in_processes(as_torchrun_does, OMP_NUM_THREADS, *call, count=3, joined=False)
    except ChildProcessError as error:
        return str(error), 1
    return "", 0


def test_returns_by_rank_and_prints_by_rank(
    launch: Callable, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nested(word: str) -> Connection:  # a hint at what the new process does not know
        import os

        from tests.test_minibatch import speak

        return dict(said=speak(word), error_file=os.environ.get("TORCHELASTIC_ERROR_FILE"))

    launch(fork)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    results = torchrun(nested, "grüß dich", num_processes=3)
    assert results == [dict(said=[rank, "gloo", "2", [1.0, 1.0]], error_file=None) for rank in range(3)]
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("".join(f"{rank} says\ngrüß dich\n" for rank in range(3)), "")


def test_an_error_in_a_process_reaches_the_caller_with_what_was_printed(
    launch: Callable, capfd: pytest.CaptureFixture[str]
) -> None:
    launch(fork)
    with pytest.raises(RuntimeError) as error:
        torchrun(speak, "hm", "1", num_processes=3)
    expected = (
        r"(?s)speak failed in one of 3 processes:\nprocess 1 \(pid: \d+\): .*worker\.py.*KeyError: 'no such word'"
    )
    assert re.match(expected, str(error.value))
    assert capfd.readouterr().out == "".join(f"{rank} says\nhm\n" for rank in range(3))


def test_a_process_gets_the_callers_paths_its_share_of_threads_and_a_gpu_of_its_own_or_none(
    launch: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    environments: list[dict[str, str]] = []

    def returns_nothing(folder: str, *_: str, **environment: str) -> tuple[str, int]:
        environments.append(environment)
        for rank in range(2):
            torch.save(None, Path(folder, f"{rank}.pt"))
        return "", 0

    launch(returns_nothing)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    for paths, gpus, visible in ((None, 1, ""), ("mine", 2, "3,4"), (f"mine{os.pathsep}yours", 3, "3,4")):
        monkeypatch.delenv("PYTHONPATH", raising=False)
        if paths:
            monkeypatch.setenv("PYTHONPATH", paths)
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        assert torchrun(speak) == [None, None]
        path = os.pathsep.join([str(Path(minibatch.__file__).parents[1]), *([paths] if paths else [])])
        expected = dict(PYTHONPATH=path, OMP_NUM_THREADS="4", CUDA_VISIBLE_DEVICES=visible)
        assert environments[-1] == os.environ | expected


def test_a_result_of_another_kind_is_refused(launch: Callable) -> None:
    def returns_a_path(folder: str, *_: str, **__: str) -> tuple[str, int]:
        torch.save(Path("a"), Path(folder, "0.pt"))
        return "", 0

    launch(returns_a_path)
    with pytest.raises(TypeError, match="^worker: expected speak to return tensors, numbers, strings, or lists"):
        torchrun(speak, num_processes=1)
    with pytest.raises(RuntimeError, match=r"^speak failed in one of 2 processes:\ntorchrun ended with 0:"):
        torchrun(speak)  # there is no 1.pt


def test_who_was_killed_comes_first_then_who_failed_first(launch: Callable) -> None:
    said = ""

    def fails(folder: str, *_: str, **__: str) -> tuple[str, int]:
        for rank, seconds in ((0, 3), (1, 2)):
            Path(folder, f"{rank}.error").write_text(f"process {rank}: KeyError\n")
            os.utime(Path(folder, f"{rank}.error"), (seconds, seconds))
        return said, 1

    launch(fails)
    errors = "process 1: KeyError\nprocess 0: KeyError"
    hint = "To enable traceback see: https://pytorch.org/docs (of old)"
    for code, traceback, first in (
        (-9, "Signal 9 (SIGKILL) received by PID 72", "process 2 (pid: 72): Signal 9 (SIGKILL)\n"),
        (3, hint, "process 2 (pid: 72): exit code 3\n"),
        (-15, "Signal 15 (SIGTERM) received by PID 72", ""),  # by torchrun, since another had failed
    ):
        said = "".join(
            f"[{rank}]:\n  time      : 2026-11-28\n  rank      : {rank} (local_rank: {rank})\n"
            f"  exitcode  : {end} (pid: 7{rank})  (word)\n  error_file: <N/A>\n  traceback : {how}\n"
            for rank, end, how in ((0, 1, hint), (1, 1, hint), (2, code, traceback))
        )
        with pytest.raises(RuntimeError) as error:
            torchrun(speak, num_processes=3)
        assert str(error.value) == f"speak failed in one of 3 processes:\n{first}{errors}"


def alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    return True


def die_alone() -> None:
    """The second process dies, and the first waits for it."""
    import os
    import signal

    from torch import distributed

    if distributed.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.barrier()


def test_a_killed_process_is_named_and_takes_the_others_with_it() -> None:
    with pytest.raises(RuntimeError) as error:
        torchrun(die_alone)
    ends = r"process 1 \(pid: \d+\): Signal 9 \(SIGKILL\)"
    assert re.match(f"die_alone failed in one of 2 processes:\n{ends}", str(error.value))
    assert not any(map(alive, re.findall(r"pid: (\d+)", str(error.value))))


def sleep() -> None:
    import os
    import time

    os.write(1, b"up ")
    time.sleep(600)


def call_torchrun(stdout: Connection) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background ignores
    os.dup2(stdout.fileno(), 1)
    stdout.close()
    torchrun(sleep)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_caller_that_is_interrupted_or_killed_leaves_no_process_behind(how: signal.Signals) -> None:
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=call_torchrun, args=(theirs,))
    process.start()
    theirs.close()
    with open(ours.fileno(), "rb", closefd=False) as printed:
        assert printed.read(6) == b"up up "
        os.kill(process.pid, how)
        assert printed.read() == b""  # it ends when all have ended who could write to it


def lose_torchrun() -> None:
    """Kill the parent process, which is torchrun's own."""
    import os
    import signal
    import time

    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)


def test_a_killed_torchrun_is_an_error_too() -> None:
    ended = r"process 0 \(pid: \d+\): ended, because torchrun or the caller had$"
    with pytest.raises(RuntimeError, match=rf"^lose_torchrun failed in one of 1 processes:\n{ended}"):
        torchrun(lose_torchrun, num_processes=1)
