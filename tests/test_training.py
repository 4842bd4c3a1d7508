"""The training loop does what five lines by hand do, and measures what it says.

Checkpoints: test_checkpoints.py; several processes: test_minibatch.py; what is refused: test_refusals.py.
"""

import math
from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from lessons_lib.batch_norm import BatchNorm
from lessons_lib.training import History, Memory, default_dtype, eval_mode, evaluate, num_parameters, train
from tests.runs import TEST, TRAIN, cooling, examples, linear, run, same, start, with_batch_norm


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers are compared to the last digit below, which a GPU does not promise."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


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


@nets
@pytest.mark.parametrize("lr", [0.5, cooling], ids=["constant", "schedule"])
@pytest.mark.parametrize(
    "settings", [{}, dict(momentum=0.9), dict(weight_decay=0.01), dict(momentum=0.9, weight_decay=1)]
)
def test_is_sgd_as_written_by_hand(
    make: Callable[[], nn.Module], lr: float | Callable[[int], float], settings: dict[str, float]
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
                v.mul_(settings.get("momentum", 0)).add_(gradient.add(w, alpha=settings.get("weight_decay", 0)))
                w.sub_(v, alpha=rates[-1])
    trained, before = make(), deepcopy([*TRAIN.tensors, *TEST.tensors])
    parameters = [*trained.parameters()]
    history = run(trained, lr=lr, num_epochs=3, seed=5, **settings)
    assert (history.loss, history.lr) == (losses, rates)
    assert same(trained, net) and all(map(Tensor.is_set_to, trained.parameters(), parameters))
    assert all(map(torch.equal, [*TRAIN.tensors, *TEST.tensors], before))


def test_the_seed_alone_decides_the_run_and_a_batch_has_256_examples_by_default() -> None:
    data = examples(300)
    first, second, other = linear(), linear(), linear()
    history = train(first, data, lr=0.1)
    torch.manual_seed(1)
    assert train(second, data, lr=0.1, seed=0, num_epochs=1, batch_size=256) == history and same(first, second)
    assert len(history.loss) == 2 and not history.test_loss and not history.test_acc  # there is no test set
    assert train(other, data, lr=0.1, seed=1).loss != history.loss and not same(first, other)


@pytest.mark.parametrize(("batch_size", "sizes"), [(1, [1] * 10), (4, [4, 4, 2]), (10, [10])])
def test_trains_on_every_example_in_train_mode_and_tests_in_eval_mode(batch_size: int, sizes: list[int]) -> None:
    probe = Probe()
    net = nn.Sequential(probe, linear()).eval()
    history = run(net, batch_size=batch_size)
    epoch = [*[(True, True, size) for size in sizes], (False, False, len(TEST))]
    assert probe.calls == 2 * epoch and net.training
    assert (len(history.loss), len(history.test_loss), len(history.test_acc)) == (2 * len(sizes), 2, 2)
    assert len(history.seconds) == 2 and all(0 < seconds < 60 for seconds in history.seconds)


@nets
def test_measures_the_test_set_after_each_epoch(make: Callable[[], nn.Module]) -> None:
    X, y = TEST.tensors
    history = run(make())
    for num_epochs in (1, 2):
        net = make()
        run(net, num_epochs=num_epochs)
        scores = net.eval()(X)
        assert history.test_loss[num_epochs - 1] == pytest.approx(cross_entropy(scores, y).item(), rel=1e-6)
        assert history.test_acc[num_epochs - 1] == (scores.argmax(1) == y).sum().item() / 7


@nets
def test_divergence_ends_in_the_history_and_not_in_an_error(make: Callable[[], nn.Module]) -> None:
    history = run(make(), lr=1e38, num_epochs=3)
    assert len(history.loss) == 9 and math.isfinite(history.loss[0])
    assert not math.isfinite(history.loss[-1]) and not math.isfinite(history.test_loss[-1])
    assert 0 <= history.test_acc[-1] <= 1


def test_a_bad_rate_is_refused_at_its_step_and_the_net_put_back() -> None:
    class Moved(nn.Linear):
        def to(self, device: torch.device) -> nn.Module:
            moves.append(device)
            return super().to(device)

    moves: list[torch.device] = []
    net, until_then = start(Moved(4, 3)), linear()
    with pytest.raises(ValueError, match="^lr: expected a number in .0, inf., got 0$"):
        run(net, lr=lambda step: 0.1 if step < 3 else 0)
    run(until_then, num_epochs=1)
    assert same(net, until_then)  # three steps, and no fourth
    assert len(moves) == 2 and moves[-1] == net.weight.device


def test_whoever_holds_the_history_has_it_after_an_interrupt_and_a_net_to_go_on_with() -> None:
    def stopped(step: int) -> float:
        if step == 4:
            raise KeyboardInterrupt
        return cooling(step)

    net, history, heard = linear(), History(), []
    with pytest.raises(KeyboardInterrupt):
        run(net, lr=stopped, history=history, on_epoch=heard.append)
    expected = run(linear(), lr=cooling, num_epochs=1)
    assert (len(history.loss), history.lr) == (4, [cooling(step) for step in range(4)])
    assert history.loss[:3] == expected.loss and history.test_acc == expected.test_acc
    assert len(heard) == 1 and heard[0] is history
    evaluate(net, TEST)
    net(TEST.tensors[0]).sum().backward()
    with pytest.raises(ValueError, match="history: expected an empty one, got one of 4 steps"):
        run(net, history=history)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_trains_where_no_gradients_are_recorded(mode: Callable) -> None:
    net, expected = linear(), linear()
    with mode():
        history = run(net)
        sets = [TensorDataset(*(t.clone() for t in dataset.tensors)) for dataset in (TRAIN, TEST)]
        born_here = linear()
    assert history == run(expected) and same(net, expected)
    assert train(linear(), *sets, lr=0.1, num_epochs=2, batch_size=4) == history
    if mode is torch.inference_mode:
        with pytest.raises(ValueError, match="^net: expected parameters made outside of torch.inference_mode$"):
            run(born_here)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32], ids=str)
def test_labels_may_be_any_integers(dtype: torch.dtype) -> None:
    net, expected = linear(), linear()
    sets = [TensorDataset(images, labels.to(dtype)) for images, labels in (TRAIN.tensors, TEST.tensors)]
    assert train(net, *sets, lr=0.1, batch_size=4) == run(expected, num_epochs=1) and same(net, expected)


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


def test_a_bar_shows_where_it_trains_and_how_many_steps(capfd: pytest.CaptureFixture[str]) -> None:
    run(linear())
    shown = capfd.readouterr().err
    assert "cpu" in shown and "0/6" in shown  # two epochs of three steps


# evaluate, eval_mode, num_parameters


@pytest.mark.parametrize("training", [True, False])
def test_evaluates_in_eval_mode_and_puts_the_mode_back(training: bool) -> None:
    probe = Probe()
    net = nn.Sequential(probe, with_batch_norm()).train(training)
    before = deepcopy(net)
    loss, acc = evaluate(net, TEST)
    assert probe.calls == [(False, False, 7)]
    assert [module.training for module in net.modules()] == [training] * len([*net.modules()])
    assert same(net, before)
    X, y = TEST.tensors
    scores = before.eval()(X)
    assert loss == pytest.approx(cross_entropy(scores, y).item(), rel=1e-6)
    assert acc == (scores.argmax(1) == y).sum().item() / 7


def test_a_net_without_parameters_can_be_tested_a_thousand_examples_at_a_time() -> None:
    probe, X = Probe(), torch.tensor([[9.0, 0.0], [0.0, 9.0], [9.0, 0.0]]).repeat(667, 1)
    assert evaluate(probe, TensorDataset(X, torch.tensor([0, 1, 1]).repeat(667)))[1] == pytest.approx(2 / 3)
    assert probe.calls == [(False, False, 1000), (False, False, 1000), (False, False, 1)]


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


LAYER = nn.Linear(3, 3)


@pytest.mark.parametrize(
    ("net", "count"),
    [
        (BatchNorm(6, num_dims=4), 12),  # and not its averages
        (nn.Sequential(LAYER, nn.ReLU(), LAYER), 12),  # what is shared counts once
        (nn.Sequential(LAYER, nn.Linear(3, 2).requires_grad_(False)), 12),  # what is frozen does not count
        (nn.ReLU(), 0),
    ],
    ids=str,
)
def test_counts_what_is_learned(net: nn.Module, count: int) -> None:
    assert num_parameters(net) == count


# Memory, default_dtype


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
        X = torch.full((5,), 1.0, dtype=torch.float64)  # what keyword arguments make
    assert (memory.now, memory.peak) == (40, 72) and X.dtype == torch.float64


def test_the_default_dtype_comes_back_after_an_error() -> None:
    with pytest.raises(KeyError), default_dtype(torch.float64):
        assert torch.zeros(1).dtype == torch.float64
        raise KeyError
    assert torch.zeros(1).dtype == torch.float32
