"""The training loop does what five lines by hand do, measures what it says, and refuses what it cannot train with."""

import io
import math
from collections.abc import Callable
from contextlib import redirect_stderr
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from lessons_lib.batch_norm import BatchNorm
from lessons_lib.resnet import small_resnet
from lessons_lib.training import History, Memory, default_dtype, eval_mode, evaluate, join, num_parameters, train
from tests.processes import forget, in_process


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers are compared to the last digit below, which a GPU does not promise."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def examples(count: int, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(count, 4, generator=generator)
    return TensorDataset(X, (X[:, 0] > 0).long() + (X[:, 1] > 0).long())


TRAIN, TEST = examples(10), examples(7, seed=1)


def linear() -> nn.Module:
    return start(nn.Linear(4, 3))


def with_batch_norm() -> nn.Module:
    return start(nn.Sequential(nn.Linear(4, 5), BatchNorm(5, num_dims=2), nn.Sigmoid(), nn.Linear(5, 3)))


def start(net: nn.Module) -> nn.Module:
    """The same start each time, whatever ran before."""
    generator = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        nn.init.normal_(parameter, generator=generator)
    return net


def run(net: nn.Module, **settings: object) -> History:
    return train(net, TRAIN, TEST, **dict(lr=0.1, num_epochs=2, batch_size=4) | settings)


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


nets = pytest.mark.parametrize("make", [linear, with_batch_norm])


class Probe(nn.Module):
    """Passes its input on, and remembers in which mode and with how many examples it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[bool, bool, int]] = []

    def forward(self, X: Tensor) -> Tensor:
        self.calls.append((self.training, torch.is_grad_enabled(), len(X)))
        return X


# train


def cooling(step: int) -> float:
    return 0.5 / (1 + step)


@nets
@pytest.mark.parametrize("lr", [0.5, cooling], ids=["constant", "schedule"])
@pytest.mark.parametrize(
    ("momentum", "weight_decay"), [(0.0, 0.0), (0.9, 0.0), (0.0, 0.01), (0.9, 0.01), (0, 1)], ids=str
)
def test_is_sgd_as_written_by_hand(
    make: Callable[[], nn.Module], lr: float | Callable[[int], float], momentum: float, weight_decay: float
) -> None:
    net, losses, rates = make(), [], []
    X, y = TRAIN.tensors
    order = torch.Generator().manual_seed(5)
    velocities = [torch.zeros_like(parameter) for parameter in net.parameters()]
    for step, batch in enumerate(part for _ in range(3) for part in torch.randperm(10, generator=order).split(4)):
        rates.append(cooling(step) if lr is cooling else lr)
        loss = cross_entropy(net(X[batch]), y[batch])
        losses.append(loss.item())
        gradients = torch.autograd.grad(loss, net.parameters())
        with torch.no_grad():
            for w, v, gradient in zip(net.parameters(), velocities, gradients, strict=True):
                v.mul_(momentum).add_(gradient.add(w, alpha=weight_decay))
                w.sub_(v, alpha=rates[-1])
    trained = make()
    history = run(trained, lr=lr, momentum=momentum, weight_decay=weight_decay, num_epochs=3, seed=5)
    assert (history.loss, history.lr) == (losses, rates)
    assert same(trained, net)


@nets
def test_no_momentum_and_no_decay_unless_asked_for(make: Callable[[], nn.Module]) -> None:
    plain, explicit = make(), make()
    assert run(plain) == run(explicit, momentum=0.0, weight_decay=0.0)
    assert same(plain, explicit)


@nets
def test_a_constant_is_the_schedule_that_always_returns_it(make: Callable[[], nn.Module]) -> None:
    constant, schedule = make(), make()
    history = run(constant, lr=0.3, momentum=0.5)
    assert run(schedule, lr=lambda step: 0.3, momentum=0.5) == history
    assert history.lr == [0.3] * 6
    assert same(constant, schedule)


def test_a_schedule_is_asked_for_each_step_of_the_run_in_turn() -> None:
    asked = []

    def schedule(step: int) -> float:
        asked.append(step)
        return 0.1 * (1 + step)

    history = run(linear(), lr=schedule, num_epochs=3)
    assert [*dict.fromkeys(asked)] == [*range(9)] == sorted(set(asked))
    assert history.lr == [0.1 * (1 + step) for step in range(9)]


@pytest.mark.parametrize("idle", range(6))
def test_the_rate_of_a_step_moves_that_step(idle: int) -> None:
    class Remember(nn.Linear):
        def forward(self, X: Tensor) -> Tensor:
            if self.training:
                weights.append(self.weight.detach().clone())
            return super().forward(X)

    weights: list[Tensor] = []
    net = start(Remember(4, 3))
    run(net, lr=lambda step: 1e-30 if step == idle else 0.1)
    weights.append(net.weight.detach())
    moved = [not torch.equal(before, after) for before, after in zip(weights, weights[1:], strict=False)]
    assert moved == [step != idle for step in range(6)]


@nets
def test_the_seed_alone_decides_the_run(make: Callable[[], nn.Module]) -> None:
    first, second, other = make(), make(), make()
    torch.manual_seed(0)
    history = run(first, seed=1)
    torch.manual_seed(1)
    assert run(second, seed=1) == history
    assert same(first, second)
    assert run(other, seed=2).loss != history.loss
    assert not same(first, other)


def test_each_loss_is_measured_before_its_step() -> None:
    net = linear()
    X, y = TRAIN.tensors
    before = cross_entropy(net(X), y).item()
    history = run(net, num_epochs=1, batch_size=10)
    assert history.loss == pytest.approx([before], rel=1e-6)
    assert cross_entropy(net(X), y).item() < before


@pytest.mark.parametrize(("batch_size", "sizes"), [(1, [1] * 10), (4, [4, 4, 2]), (5, [5, 5]), (9, [9, 1]), (10, [10])])
def test_every_example_counts_in_every_epoch(batch_size: int, sizes: list[int]) -> None:
    probe = Probe()
    history = run(nn.Sequential(probe, linear()), batch_size=batch_size)
    epoch = [*[(True, True, size) for size in sizes], (False, False, len(TEST))]
    assert probe.calls == 2 * epoch
    assert (len(history.loss), len(history.test_loss), len(history.test_acc)) == (2 * len(sizes), 2, 2)


def test_trains_in_train_mode_whatever_the_mode_before() -> None:
    probe = Probe()
    net = nn.Sequential(probe, linear()).eval()
    run(net)
    assert probe.calls[0] == (True, True, 4)
    assert net.training


@nets
def test_measures_the_test_set_after_each_epoch(make: Callable[[], nn.Module]) -> None:
    X, y = TEST.tensors
    for num_epochs in (1, 2):
        net = make()
        history = run(net, num_epochs=num_epochs)
        scores = net.eval()(X)
        assert history.test_loss[-1] == pytest.approx(cross_entropy(scores, y).item(), rel=1e-6)
        assert history.test_acc[-1] == (scores.argmax(1) == y).sum().item() / 7
        assert len(history.test_loss) == len(history.test_acc) == num_epochs


def test_learns_what_can_be_learned() -> None:
    history = train(with_batch_norm(), examples(500), examples(200, seed=1), lr=1.0, num_epochs=20, batch_size=50)
    assert history.test_acc[-1] > 0.9 > history.test_acc[0]
    assert history.test_loss[-1] < 0.5 * history.loss[0]


def test_trains_the_net_itself_and_leaves_the_examples_alone() -> None:
    net, before = linear(), deepcopy([TRAIN.tensors, TEST.tensors])
    weight = net.weight
    run(net)
    assert net.weight is weight and not same(net, linear())
    assert all(map(torch.equal, [*TRAIN.tensors, *TEST.tensors], [*before[0], *before[1]]))


@nets
def test_divergence_ends_in_the_history_and_not_in_an_error(make: Callable[[], nn.Module]) -> None:
    history = run(make(), lr=1e38, num_epochs=3)
    assert len(history.loss) == 9 and len(history.test_loss) == 3
    assert math.isfinite(history.loss[0])
    assert not math.isfinite(history.loss[-1]) and not math.isfinite(history.test_loss[-1])
    assert 0 <= history.test_acc[-1] <= 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(lr=0.0), r"lr: expected a number in .0, inf., got 0\.0"),
        (dict(lr=-0.1), r"lr: expected a number in .0, inf., got -0\.1"),
        (dict(lr=math.nan), r"lr: expected a number in .0, inf., got nan"),
        (dict(lr=math.inf), r"lr: expected a number in .0, inf., got inf"),
        (dict(momentum=-0.1), r"momentum: expected a number in \[0, 1\), got -0\.1"),
        (dict(momentum=1.0), r"momentum: expected a number in \[0, 1\), got 1\.0"),
        (dict(momentum=math.nan), r"momentum: expected a number in \[0, 1\), got nan"),
        (dict(weight_decay=-1), r"weight_decay: expected a number in \[0, inf\), got -1"),
        (dict(weight_decay=math.nan), r"weight_decay: expected a number in \[0, inf\), got nan"),
        (dict(weight_decay=math.inf), r"weight_decay: expected a number in \[0, inf\), got inf"),
        (dict(lr=lambda step: 0), r"lr: expected a number in .0, inf., got 0"),
        (dict(lr=lambda step: -1.0), r"lr: expected a number in .0, inf., got -1\.0"),
        (dict(lr=lambda step: math.nan), r"lr: expected a number in .0, inf., got nan"),
        (dict(seed=-1), r"seed: expected at least 0, got -1"),
        (dict(seed=2**63), r"seed: expected at most 9223372036854775807, got 9223372036854775808"),
        (dict(num_epochs=0), r"num_epochs: expected at least 1, got 0"),
        (dict(num_epochs=-2), r"num_epochs: expected at least 1, got -2"),
        (dict(batch_size=0), r"batch_size: expected at least 1, got 0"),
        (dict(batch_size=-4), r"batch_size: expected at least 1, got -4"),
        (dict(batch_size=11), r"batch_size: expected at most 10, got 11"),
    ],
)
def test_refuses_settings_out_of_range(settings: dict[str, object], message: str) -> None:
    net = with_batch_norm()
    with pytest.raises(ValueError, match=message):
        run(net, **settings)
    assert same(net, with_batch_norm())


@pytest.mark.parametrize("name", ["train_set", "test_set"])
def test_refuses_an_empty_set(name: str) -> None:
    net, sets = linear(), dict(train_set=TRAIN, test_set=TEST)
    sets[name] = examples(0)
    with pytest.raises(ValueError, match=f"{name}: expected at least one example, got none"):
        train(net, **sets, lr=0.1)
    assert same(net, linear())


def shown_while_training() -> str:
    forget("tqdm", "lessons_lib")  # tqdm reads the variable when it is imported
    from lessons_lib.training import train

    with redirect_stderr(io.StringIO()) as shown:
        train(linear(), TRAIN, lr=0.1, num_epochs=2, batch_size=4)
    return shown.getvalue()


def test_the_progress_bar_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert in_process(shown_while_training) == ""
    monkeypatch.delenv("TQDM_DISABLE")
    assert "0/6" in in_process(shown_while_training)  # two epochs of three steps


# Checkpoints


class Interrupted(Exception):
    pass


def noisy(outputs: int = 3) -> nn.Module:
    """A net with momentum-worthy weights, moving averages, and draws from the global generator."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), BatchNorm(5, num_dims=2), nn.Dropout(0.5), nn.Linear(5, outputs))


SETTINGS = dict(momentum=0.9, weight_decay=0.01, num_epochs=4, batch_size=4, seed=3)  # three steps an epoch


def interrupted_at(step: int | None) -> Callable[[int], float]:
    def lr(now: int) -> float:
        if now == step:
            raise Interrupted
        return cooling(now)

    return lr


@pytest.mark.parametrize("steps", [[1], [2], [3], [5], [8], [9], [11], [2, 3, 10]], ids=str)
def test_an_interrupted_run_ends_as_it_would_have(steps: list[int], tmp_path: Path) -> None:
    unbroken = noisy()
    expected = run(unbroken, lr=cooling, **SETTINGS)
    path = tmp_path / "run.pt"
    for step in steps:
        with pytest.raises(Interrupted):
            run(noisy(), lr=interrupted_at(step), checkpoint=path, **SETTINGS)
        assert path.exists() == (step >= 3)  # after the first epoch
    net = noisy()
    if path.exists():
        torch.manual_seed(17)  # the file knows better
    assert run(net, lr=cooling, checkpoint=str(path), **SETTINGS) == expected
    assert same(net, unbroken)
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]


def test_whoever_holds_the_history_has_it_after_an_interrupt_and_a_net_to_go_on_with() -> None:
    def stopped(step: int) -> float:
        if step == 4:
            raise KeyboardInterrupt
        return cooling(step)

    net, history = linear(), History()
    with pytest.raises(KeyboardInterrupt):
        run(net, lr=stopped, history=history)
    until_then = linear()
    expected = run(until_then, lr=cooling, num_epochs=1)
    assert (len(history.loss), history.lr) == (4, [cooling(step) for step in range(4)])
    assert history.loss[:3] == expected.loss and history.test_acc == expected.test_acc
    evaluate(net, TEST)
    net(TEST.tensors[0]).sum().backward()
    with pytest.raises(ValueError, match="history: expected an empty one, got one of 4 steps"):
        run(net, history=history)


def test_a_run_that_has_ended_takes_no_step_and_may_go_on_for_more_epochs(tmp_path: Path) -> None:
    path, net = tmp_path / "run.pt", noisy()
    expected = run(net, lr=cooling, checkpoint=path, **SETTINGS)
    before = path.read_bytes()
    again = noisy()
    assert run(again, lr=interrupted_at(12), checkpoint=path, **SETTINGS) == expected
    assert same(again, net)
    assert path.read_bytes() == before
    more = SETTINGS | dict(num_epochs=6)
    continued = noisy()
    history = run(continued, lr=cooling, checkpoint=path, **more)
    longer = noisy()
    assert run(longer, lr=cooling, **more) == history
    assert same(continued, longer)


def test_numbers_of_numpy_are_stored_as_numbers(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    settings = SETTINGS | dict(momentum=np.float64(0.9), weight_decay=np.float64(0.01), lr=lambda k: np.cos(k / 20))
    expected = run(noisy(), checkpoint=path, **settings)
    assert run(noisy(), checkpoint=path, **settings) == expected
    assert {type(value) for value in expected.lr} == {float}


def test_a_checkpoint_that_is_ahead_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    run(noisy(), lr=0.1, checkpoint=path, **SETTINGS)
    net, history = noisy(), History()
    generator = torch.get_rng_state()
    with pytest.raises(ValueError, match="num_epochs: the checkpoint has 12 steps, and 3 are asked for"):
        run(net, lr=0.1, checkpoint=path, history=history, **SETTINGS | dict(num_epochs=1))
    assert same(net, noisy()) and history == History()
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stored") / "run.pt"
    train(noisy(), TRAIN, lr=0.1, checkpoint=path, **SETTINGS)
    return path


def changed(spot: Callable[[nn.Module], object]) -> nn.Module:
    """The net that the checkpoint is of, but for one thing."""
    net = noisy()
    spot(net)
    return net


OTHER_IMAGES = TensorDataset(TRAIN.tensors[0].clone(), TRAIN.tensors[1])
OTHER_IMAGES.tensors[0][9, 3] += 1e-6
OTHER_LABELS = TensorDataset(TRAIN.tensors[0], TRAIN.tensors[1].flip(0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(momentum=0.5), r"momentum 0\.9, not 0\.5"),
        (dict(weight_decay=0), r"weight_decay 0\.01, not 0"),
        (dict(batch_size=5), "batch_size 4, not 5"),
        (dict(seed=0), "seed 3, not 0"),
        (dict(lr=0.2), r"lr 0\.1 at step 0, not 0\.2"),
        (dict(lr=lambda step: 0.1 if step < 11 else 0.01), r"lr 0\.1 at step 11, not 0\.01"),
        (dict(train_set=examples(11)), "train_set of 10 examples, SHA-256 .*, not of 11 examples, SHA-256 "),
        (dict(train_set=OTHER_IMAGES), "train_set of 10 examples, SHA-256 .*, not of 10 examples, SHA-256 "),
        (dict(train_set=OTHER_LABELS), "train_set of 10 examples, SHA-256 .*, not of 10 examples, SHA-256 "),
        (dict(test_set=TEST), "test_set none, not of 7 examples, SHA-256 "),
        (dict(net=linear()), r"net Sequential\(\), not Linear\(in_features=4"),
        (dict(net=noisy(outputs=4)), "net.3 Linear.*out_features=3, .*, not Linear.*out_features=4"),
        (dict(net=changed(lambda net: net.append(nn.ReLU()))), r"net\.4 None, not ReLU\(\)"),
        (dict(net=changed(lambda net: net.append(nn.ReLU()).pop(2))), r"net\.2 Dropout\(p=0\.5.*\), not Linear"),
        (dict(net=changed(lambda net: setattr(net[2], "p", 0.4))), r"net\.2 Dropout\(p=0\.5.*, not Dropout\(p=0\.4"),
        (dict(net=changed(lambda net: setattr(net[1], "eps", 1e-3))), "net.1 BatchNorm.*, not BatchNorm.*eps=0.001"),
        (dict(net=changed(lambda net: net[1].eval())), "net.1 BatchNorm.*, not BatchNorm.* in eval mode"),
        (dict(net=changed(lambda net: net[0].requires_grad_(False))), r"net\.0\.weight .*float32, not .*, frozen"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_and_nothing_changes(settings: dict, message: str, stored: Path) -> None:
    before, generator, history = stored.read_bytes(), torch.get_rng_state(), History()
    arguments = dict(net=noisy(), train_set=TRAIN, lr=0.1, checkpoint=stored, history=history) | SETTINGS | settings
    torch.set_rng_state(generator)
    net = deepcopy(arguments["net"])
    with pytest.raises(ValueError, match=f"checkpoint: .*run\\.pt is of a run with {message}"):
        train(**arguments)
    assert stored.read_bytes() == before and history == History()
    assert same(arguments["net"], net) and torch.equal(torch.get_rng_state(), generator)
    assert [*map(vars, arguments["net"].parameters())] == [*map(vars, net.parameters())]


def test_a_checkpoint_knows_another_dtype_and_a_test_set_taken_away(stored: Path, tmp_path: Path) -> None:
    doubles = TensorDataset(TRAIN.tensors[0].double(), TRAIN.tensors[1])
    with pytest.raises(ValueError, match="is of a run with train_set"):
        train(noisy().double(), doubles, lr=0.1, checkpoint=stored, **SETTINGS)
    path = tmp_path / "run.pt"
    run(noisy(), checkpoint=path, **SETTINGS)
    with pytest.raises(ValueError, match="is of a run with test_set of 7 examples, SHA-256 .*, not none"):
        train(noisy(), TRAIN, lr=0.1, checkpoint=path, **SETTINGS)
    with pytest.raises(ValueError, match=f"expected a file in a folder that exists, got {tmp_path}"):
        run(noisy(), checkpoint=tmp_path, **SETTINGS)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: b"no checkpoint at all",
        lambda data: data[: len(data) // 2],
        lambda data: pickled(Path("a")),  # code that a pickle would run
        lambda data: pickled([1, 2]),
        lambda data: pickled(dict(net={})),
        lambda data: pickled(dict(settings=3, generators=[])),
        lambda data: pickled(torch.load(io.BytesIO(data)) | dict(format="lessons_lib checkpoint 1")),
        lambda data: pickled(torch.load(io.BytesIO(data)) | dict(history=dict(losses=[]))),
    ],
)
def test_a_spoilt_checkpoint_is_refused_and_kept(spoil: Callable[[bytes], bytes], stored: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    path.write_bytes(spoil(stored.read_bytes()))
    before = path.read_bytes()
    with pytest.raises(
        ValueError,
        match=r"checkpoint: .*run\.pt is not a complete checkpoint of this version of lessons_lib; left unchanged",
    ):
        train(noisy(), TRAIN, lr=0.1, checkpoint=path, **SETTINGS)
    assert path.read_bytes() == before


def pickled(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def test_a_checkpoint_must_be_a_path_into_a_folder_that_exists(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="checkpoint: expected a path, got 3"):
        run(linear(), checkpoint=3)
    with pytest.raises(ValueError, match="checkpoint: expected a file in a folder that exists, got .*no/run.pt"):
        run(linear(), checkpoint=tmp_path / "no" / "run.pt")


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    short = SETTINGS | dict(num_epochs=1)
    run(noisy(), lr=cooling, checkpoint=path, **short)
    before = path.read_bytes()

    (tmp_path / "run.pt.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        run(noisy(), lr=cooling, checkpoint=path, **SETTINGS)
    assert [*tmp_path.iterdir()] == [path]
    assert path.read_bytes() == before
    resumed = noisy()
    history = run(resumed, lr=cooling, checkpoint=path, **SETTINGS)
    unbroken = noisy()
    assert run(unbroken, lr=cooling, **SETTINGS) == history
    assert same(resumed, unbroken)


def test_each_process_of_torchrun_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[object] = []
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.distributed, "init_process_group", said.append)
    monkeypatch.setattr(torch.distributed, "barrier", lambda: said.append("all are here"))
    monkeypatch.setattr(torch.cuda, "set_device", said.append)
    for gpus in (0, 2, 3):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        join()
    assert said == ["gloo", "all are here", 1, "nccl", 1, "nccl"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="^torchrun: expected at most 1 processes, one a GPU, got 2$"):
        join()
    assert len(said) == 6
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    with pytest.raises(RuntimeError, match="^join: expected a process that torchrun has started$"):
        join()


# What can be trained and tested

X, Y = TRAIN.tensors


@pytest.mark.parametrize(
    ("dataset", "error", "message"),
    [
        (TensorDataset(X), ValueError, "expected two tensors, images and labels, got 1"),
        (TensorDataset(X, Y, Y), ValueError, "expected two tensors, images and labels, got 3"),
        (
            TensorDataset(X.to(torch.uint8), Y),
            TypeError,
            "expected images in the net's dtype, torch.float32, got torch.u",
        ),
        (
            TensorDataset(X.double(), Y),
            TypeError,
            "expected images in the net's dtype, torch.float32, got torch.float64",
        ),
        (TensorDataset(X.half(), Y), TypeError, "expected images in the net's dtype, torch.float32, got torch.float16"),
        (TensorDataset(X, Y.float()), TypeError, "expected integers as labels, got torch.float32"),
        (TensorDataset(X, Y > 0), TypeError, "expected integers as labels, got torch.bool"),
        (TensorDataset(X, Y[:, None]), ValueError, r"expected a label an image, shape \(10,\), got \(10, 1\)"),
        (TensorDataset(X, Y - 1), ValueError, "expected labels from 0, got -1"),
        (TensorDataset(X, Y * 0 - 100), ValueError, "expected labels from 0, got -100"),  # which PyTorch would ignore
        (TensorDataset(X, Y + 1), ValueError, "expected labels below 3, the net's scores, got 3"),
    ],
)
def test_a_set_that_does_not_fit_the_net_is_refused_by_name(
    dataset: TensorDataset, error: type[Exception], message: str
) -> None:
    net = linear()
    with pytest.raises(error, match=f"^train_set: {message}"):
        train(net, dataset, TEST, lr=0.1, batch_size=4)
    with pytest.raises(error, match=f"^test_set: {message}"):
        train(net, TRAIN, dataset, lr=0.1, batch_size=4)
    with pytest.raises(error, match=f"^dataset: {message}"):
        evaluate(net, dataset)
    assert same(net, linear())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32], ids=str)
def test_labels_may_be_any_integers(dtype: torch.dtype) -> None:
    net, expected = linear(), linear()
    sets = [TensorDataset(images, labels.to(dtype)) for images, labels in (TRAIN.tensors, TEST.tensors)]
    assert train(net, *sets, lr=0.1, batch_size=4) == train(expected, TRAIN, TEST, lr=0.1, batch_size=4)
    assert same(net, expected)


def test_numbers_of_numpy_and_pytorch_will_do() -> None:
    net, expected = linear(), linear()
    settings = dict(momentum=np.float32(0.5), weight_decay=torch.tensor(0.25), batch_size=np.int32(4), seed=np.uint8(3))
    history = run(net, lr=np.float32(0.5), num_epochs=torch.tensor(2), **settings)
    settings = dict(momentum=0.5, weight_decay=0.25, batch_size=4, seed=3)
    assert run(expected, lr=0.5, num_epochs=2, **settings) == history
    assert same(net, expected) and {type(rate) for rate in history.lr} == {float}
    assert evaluate(net, TEST, batch_size=np.int64(2)) == evaluate(net, TEST, batch_size=2)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_trains_where_no_gradients_are_recorded(mode: Callable) -> None:
    net, expected = linear(), linear()
    with mode():
        history = run(net)
        sets = [TensorDataset(*(t.clone() for t in dataset.tensors)) for dataset in (TRAIN, TEST)]
        assert not torch.is_grad_enabled()
    assert history == run(expected) and same(net, expected)
    assert train(linear(), *sets, lr=0.1, num_epochs=2, batch_size=4) == history


def test_a_net_made_in_inference_mode_is_refused() -> None:
    with torch.inference_mode():
        net = linear()
        with pytest.raises(ValueError, match="^net: expected parameters made outside of torch.inference_mode$"):
            run(net)


@pytest.mark.parametrize(
    "call", [num_parameters, lambda net: evaluate(net, TEST), lambda net: eval_mode(net).__enter__()]
)
def test_a_net_must_be_a_module(call: Callable) -> None:
    with pytest.raises(TypeError, match="^net: expected an nn.Module, got int$"):
        call(3)
    with pytest.raises(TypeError, match="^net: expected an nn.Module, got int$"):
        run(3)


def test_a_lazy_net_is_refused_until_it_has_its_shapes() -> None:
    net = nn.LazyLinear(3)
    for call in (num_parameters, run, lambda net: evaluate(net, TEST)):
        with pytest.raises(ValueError, match="^net: expected parameters that have their shapes; call it on an example"):
            call(net)
    net(X)
    assert num_parameters(net) == 15


def test_no_gradient_passes_through() -> None:
    with pytest.raises(TypeError, match=r"^train_set\.tensors\[0\]: expected plain numbers, which no gradient"):
        train(linear(), TensorDataset(X.clone().requires_grad_(), Y), lr=0.1, batch_size=4)


def test_scores_of_another_shape_are_refused() -> None:
    net = nn.Sequential(linear(), nn.Unflatten(1, (3, 1)))
    for call in (run, lambda net: evaluate(net, TEST)):
        with pytest.raises(ValueError, match=r"^net: expected scores of shape \(m, num_classes\), got \(\d, 3, 1\)"):
            call(net)


def test_what_is_frozen_stays() -> None:
    net = with_batch_norm()
    net[0].requires_grad_(False)
    net[1].eval()
    before = deepcopy(net)
    run(net)
    assert same(net[0], before[0]) and not same(net[3], before[3])
    assert torch.equal(net[1].running_mean, before[1].running_mean) and not torch.equal(net[1].weight, before[1].weight)
    assert [module.training for module in net] == [True, False, True, True]
    net.eval()
    run(net)
    assert not torch.equal(net[1].running_mean, before[1].running_mean)  # all of it was put in train mode
    assert net.training and net[1].training
    with pytest.raises(ValueError, match="^net: expected parameters to train, got none$"):
        run(net.requires_grad_(False))


# evaluate


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("batch_size", "sizes"), [(3, [3, 3, 1]), (7, [7]), (1000, [7])])
def test_evaluates_in_eval_mode_and_puts_the_mode_back(training: bool, batch_size: int, sizes: list[int]) -> None:
    probe = Probe()
    net = nn.Sequential(probe, with_batch_norm()).train(training)
    before = deepcopy(net)
    loss, acc = evaluate(net, TEST, batch_size=batch_size)
    assert probe.calls == [(False, False, size) for size in sizes]
    assert [module.training for module in net.modules()] == [training] * len([*net.modules()])
    assert same(net, before)
    X, y = TEST.tensors
    scores = before.eval()(X)
    assert loss == pytest.approx(cross_entropy(scores, y).item(), rel=1e-6)
    assert acc == (scores.argmax(1) == y).sum().item() / 7


def test_eval_mode_gives_each_module_its_own_mode_back_however_it_ends() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(), nn.Dropout()))
    net[1].eval()
    net[1][1].train()
    modes = [module.training for module in net.modules()]
    assert modes == [True, True, False, False, True]
    with pytest.raises(KeyboardInterrupt), eval_mode(net):
        assert not any(module.training for module in net.modules())
        raise KeyboardInterrupt
    assert [module.training for module in net.modules()] == modes


def test_evaluates_to_known_numbers() -> None:
    net = nn.Linear(2, 2)
    nn.init.eye_(net.weight), nn.init.zeros_(net.bias)
    X = torch.tensor([[math.log(3), 0.0], [0.0, math.log(3)], [math.log(3), 0.0], [0.0, 0.0]])
    loss, acc = evaluate(net, TensorDataset(X, torch.tensor([0, 1, 1, 0])), batch_size=3)
    # The right class gets probability 3/4, 3/4, 1/4 and 1/2.
    assert loss == pytest.approx(-(2 * math.log(3 / 4) + math.log(1 / 4) + math.log(1 / 2)) / 4, rel=1e-6)
    assert acc == 3 / 4


# num_parameters


@pytest.mark.parametrize(
    ("net", "count"),
    [(nn.Linear(3, 2), 8), (nn.Linear(3, 2, bias=False), 6), (BatchNorm(6, num_dims=4), 12), (nn.ReLU(), 0)],
    ids=str,
)
def test_counts_what_is_learned_and_not_the_averages(net: nn.Module, count: int) -> None:
    assert num_parameters(net) == count


def test_counts_no_frozen_parameter() -> None:
    net = with_batch_norm()
    net[0].requires_grad_(False)
    assert num_parameters(net) == 10 + 18


def test_counts_a_shared_parameter_once() -> None:
    layer = nn.Linear(3, 3)
    assert num_parameters(nn.Sequential(layer, nn.ReLU(), layer)) == 12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(num_epochs=1.5), "num_epochs: expected an int, got 1.5"),
        (dict(num_epochs=True), "num_epochs: expected an int, got True"),
        (dict(batch_size=True), "batch_size: expected an int, got True"),
        (dict(batch_size="4"), "batch_size: expected an int, got '4'"),
        (dict(lr="0.1"), "lr: expected a number, got '0.1'"),
        (dict(lr=True), "lr: expected a number, got True"),
        (dict(lr=None), "lr: expected a number, got None"),
        (dict(lr=lambda step: None), "lr: expected a number, got None"),
        (dict(lr=lambda step: torch.tensor([0.5])), r"lr: expected a number, got tensor\(\[0\.5000\]\)"),
        (dict(momentum="0.9"), "momentum: expected a number, got '0.9'"),
        (dict(momentum=True), "momentum: expected a number, got True"),
        (dict(weight_decay=None), "weight_decay: expected a number, got None"),
        (dict(seed=None), "seed: expected an int, got None"),
        (dict(batch_size=4, on_epoch=3), "on_epoch: expected a function, got 3"),
        (dict(train_set=[1, 2]), "train_set: expected a TensorDataset, got list"),
        (dict(test_set=[1, 2]), "test_set: expected a TensorDataset, got list"),
        (dict(batch_size=4, history=[]), r"history: expected a History, got \[\]"),
    ],
)
def test_a_value_of_another_type_is_refused(settings: dict, message: str) -> None:
    net = with_batch_norm()
    with pytest.raises(TypeError, match=message):
        train(net, **dict(train_set=TRAIN, test_set=TEST, lr=0.1) | settings)
    assert same(net, with_batch_norm())


@pytest.mark.parametrize(
    ("rate", "error", "message"),
    [
        (0, ValueError, "lr: expected a number in .0, inf., got 0"),
        (-1.0, ValueError, r"lr: expected a number in .0, inf., got -1\.0"),
        (math.nan, ValueError, "lr: expected a number in .0, inf., got nan"),
        (None, TypeError, "lr: expected a number, got None"),
        (torch.tensor([0.5]), TypeError, r"lr: expected a number, got tensor\(\[0\.5000\]\)"),
    ],
    ids=str,
)
def test_a_bad_rate_of_a_later_step_is_refused_at_that_step(rate: object, error: type[Exception], message: str) -> None:
    class Moved(nn.Linear):
        def to(self, device: torch.device) -> nn.Module:
            moves.append(device)
            return super().to(device)

    moves: list[torch.device] = []
    net, until_then = start(Moved(4, 3)), linear()
    with pytest.raises(error, match=message):
        run(net, lr=lambda step: 0.1 if step < 3 else rate)
    run(until_then, num_epochs=1)
    assert same(net, until_then)  # three steps, and no fourth
    assert len(moves) == 2 and moves[-1] == net.weight.device  # put back where it was


def test_a_schedule_s_own_error_comes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        run(linear(), lr=lambda step: 1 / (2 - step))


def test_without_a_test_set_nothing_is_tested() -> None:
    history = train(linear(), TRAIN, lr=0.1, batch_size=4)
    assert history.loss and not history.test_loss and not history.test_acc


def test_a_net_without_parameters_is_tested_but_not_trained() -> None:
    scores, labels = torch.tensor([[9.0, 0.0], [0.0, 9.0], [9.0, 0.0]]), torch.tensor([0, 1, 1])
    assert evaluate(nn.Identity(), TensorDataset(scores, labels))[1] == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="^net: expected parameters to train, got none$"):
        train(nn.Identity(), TensorDataset(scores, labels), lr=0.1, batch_size=1)


def test_testing_on_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="dataset: expected at least one example, got none"):
        evaluate(linear(), TensorDataset(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)))


def test_memory_counts_each_storage_while_it_lives() -> None:
    X = torch.zeros(10)
    with Memory() as memory:
        Y = X + 1
        Z = Y[2:]
        X.add_(1)
        del Y
        assert memory.now == memory.peak == 40
        Z = Z * 2  # two at a time, then one
        assert (memory.now, memory.peak) == (32, 72)
        del Z
    assert memory.now == 0


def test_memory_counts_what_keyword_arguments_make() -> None:
    with Memory() as memory:
        Y = torch.full((5,), 1.0, dtype=torch.float64)
    assert (memory.now, memory.peak) == (40, 40) and Y.dtype == torch.float64


def test_the_default_dtype_comes_back_after_an_error() -> None:
    with pytest.raises(KeyError), default_dtype(torch.float64):
        assert torch.zeros(1).dtype == torch.float64
        raise KeyError
    for dtype in (torch.int32, torch.complex64, "float32"):
        with pytest.raises(TypeError, match="^dtype: expected a floating-point dtype, got "), default_dtype(dtype):
            pass
    assert torch.zeros(1).dtype == torch.float32


def drawn() -> tuple[str, list[float]]:
    torch.manual_seed(0)
    with default_dtype(torch.float64):
        sums = [parameter.sum().item() for parameter in small_resnet().parameters()]
    return torch.backends.cpu.get_cpu_capability(), sums


def test_weights_drawn_in_64_bits_do_not_depend_on_the_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    _, best = in_process(drawn)
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    instructions, plain = in_process(drawn)
    assert instructions == "DEFAULT"
    np.testing.assert_allclose(plain, best, rtol=0, atol=1e-11)
