"""An interrupted run ends as it would have, whenever it is interrupted; no other run goes on from its file."""

import io
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from lessons_lib import checkpoints
from lessons_lib.batch_norm import BatchNorm
from lessons_lib.checkpoints import to_bytes
from lessons_lib.training import History, train
from tests.processes import in_processes
from tests.runs import TEST, TRAIN, cooling, examples, linear, run, same

SETTINGS = dict(momentum=0.9, weight_decay=0.01, num_epochs=4, batch_size=4, seed=3)  # three steps an epoch


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are compared to the last digit below, which a GPU does not promise."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


class Interrupted(Exception):
    pass


def interrupted_at(step: int) -> Callable[[int], float]:
    def lr(now: int) -> float:
        if now == step:
            raise Interrupted
        return cooling(now)

    return lr


def noisy(outputs: int = 3) -> nn.Module:
    """A net with weights that gather momentum, moving averages, and draws from the global generator."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), BatchNorm(5, num_dims=2), nn.Dropout(0.5), nn.Linear(5, outputs))


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


def test_a_run_that_has_ended_takes_no_step_and_may_go_on_for_more_epochs(tmp_path: Path) -> None:
    path, net = tmp_path / "run.pt", noisy()
    expected = run(net, lr=cooling, checkpoint=path, **SETTINGS)
    before, again = path.read_bytes(), noisy().eval()  # all of it is put in train mode: the same run
    assert run(again, lr=interrupted_at(12), checkpoint=path, **SETTINGS) == expected
    assert same(again, net) and path.read_bytes() == before
    more, continued = SETTINGS | dict(num_epochs=6), noisy()
    history = run(continued, lr=cooling, checkpoint=path, **more)
    longer = noisy()
    assert run(longer, lr=cooling, **more) == history and same(continued, longer)


def test_numbers_of_numpy_are_stored_as_numbers(tmp_path: Path) -> None:
    settings = SETTINGS | dict(momentum=np.float64(0.9), weight_decay=np.float64(0.01), lr=lambda k: np.cos(k / 20))
    expected = run(noisy(), checkpoint=tmp_path / "run.pt", **settings)
    assert run(noisy(), checkpoint=tmp_path / "run.pt", **settings) == expected
    assert {type(value) for value in expected.lr} == {float}


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
DOUBLES = TensorDataset(TRAIN.tensors[0].double(), TRAIN.tensors[1])
OF_ANOTHER = r"checkpoint: .*run\.pt is of a run with "


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(momentum=0.5), OF_ANOTHER + r"momentum 0\.9, not 0\.5"),
        (dict(weight_decay=0), OF_ANOTHER + r"weight_decay 0\.01, not 0"),
        (dict(batch_size=5), OF_ANOTHER + "batch_size 4, not 5"),
        (dict(seed=0), OF_ANOTHER + "seed 3, not 0"),
        (dict(lr=0.2), OF_ANOTHER + r"lr 0\.1 at step 0, not 0\.2"),
        (dict(lr=lambda step: 0.1 if step < 11 else 0.01), OF_ANOTHER + r"lr 0\.1 at step 11, not 0\.01"),
        (dict(num_epochs=1), "num_epochs: the checkpoint has 12 steps, and 3 are asked for"),
        (dict(train_set=examples(11)), OF_ANOTHER + "train_set of 10 examples, SHA-256 .*, not of 11 examples, SHA-"),
        (dict(train_set=OTHER_IMAGES), OF_ANOTHER + "train_set of 10 examples, SHA-256 .*, not of 10 examples, SHA-"),
        (dict(train_set=OTHER_LABELS), OF_ANOTHER + "train_set of 10 examples, SHA-256 .*, not of 10 examples, SHA-"),
        (dict(train_set=DOUBLES, net=noisy().double()), OF_ANOTHER + "train_set of 10 examples, SHA-256"),
        (dict(test_set=TEST), OF_ANOTHER + "test_set None, not of 7 examples, SHA-256 "),
        (dict(net=linear()), OF_ANOTHER + r"net Sequential\(\), not Linear\(in_features=4"),
        (dict(net=noisy(outputs=4)), OF_ANOTHER + "net.3 Linear.*out_features=3, .*, not Linear.*out_features=4"),
        (dict(net=changed(lambda net: net.append(nn.ReLU()))), OF_ANOTHER + r"net\.4 None, not ReLU\(\)"),
        (dict(net=changed(lambda net: setattr(net[2], "p", 0.4))), OF_ANOTHER + r"net\.2 Dropout.*, not Drop.*p=0\.4"),
        (dict(net=changed(lambda net: net[1].eval())), OF_ANOTHER + "net.1 BatchNorm.*, not BatchNorm.* in eval mode"),
        (dict(net=changed(lambda net: net[0].requires_grad_(False))), OF_ANOTHER + r"net\.0\.weight .* not .*, frozen"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_and_nothing_changes(settings: dict, message: str, stored: Path) -> None:
    before, generator, history = stored.read_bytes(), torch.get_rng_state(), History()
    arguments = dict(net=noisy(), train_set=TRAIN, lr=0.1, checkpoint=stored, history=history) | SETTINGS | settings
    torch.set_rng_state(generator)
    net = deepcopy(arguments["net"])
    with pytest.raises(ValueError, match=f"^{message}"):
        train(**arguments)
    assert stored.read_bytes() == before and history == History()
    assert same(arguments["net"], net) and torch.equal(torch.get_rng_state(), generator)


def test_a_test_set_taken_away_and_a_net_whose_repr_has_an_address(tmp_path: Path) -> None:
    class Addressed(nn.Linear):
        def extra_repr(self) -> str:
            return f"{object()}"

    path = tmp_path / "run.pt"
    expected = run(Addressed(4, 3), checkpoint=path)
    assert run(Addressed(4, 3), checkpoint=path) == expected
    with pytest.raises(ValueError, match="is of a run with test_set of 7 examples, SHA-256 .*, not None"):
        train(Addressed(4, 3), TRAIN, lr=0.1, batch_size=4, num_epochs=2, checkpoint=path)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: to_bytes(Path("a")),  # code that a pickle would run
        lambda data: to_bytes([1, 2]),
        lambda data: to_bytes(torch.load(io.BytesIO(data)) | {checkpoints.FORMAT: 3}),
        lambda data: to_bytes(dict(list(torch.load(io.BytesIO(data)).items())[:-1])),  # not of this format
        lambda data: to_bytes(torch.load(io.BytesIO(data)) | dict(history=dict(losses=[]))),
    ],
)
def test_a_spoilt_checkpoint_is_refused_and_kept(spoil: Callable[[bytes], bytes], stored: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    path.write_bytes(spoil(stored.read_bytes()))
    before = path.read_bytes()
    expected = r"^checkpoint: .*run\.pt is not a complete checkpoint of this version of lessons_lib; left unchanged$"
    with pytest.raises(ValueError, match=expected):
        train(noisy(), TRAIN, lr=0.1, checkpoint=path, **SETTINGS)
    assert path.read_bytes() == before


@pytest.mark.parametrize("path", [".", "no/run.pt"])
def test_a_checkpoint_must_be_a_file_in_a_folder_that_exists(path: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^checkpoint: expected a file in a folder that exists, got {tmp_path}"):
        run(linear(), checkpoint=tmp_path / path)


def in_a_group(path: str, num_epochs: int) -> tuple[list[bool], list[float], float]:
    """Whether a process finds the checkpoint after each epoch, its losses, and what its own noise would be next."""

    def slow(value: object) -> bytes:
        time.sleep(0.5)
        return to_bytes(value)

    checkpoints.to_bytes = slow
    net, found = noisy(), []
    torch.manual_seed(torch.distributed.get_rank())
    settings = dict(batch_size=5, checkpoint=path, on_epoch=lambda _: found.append(Path(path).exists()))
    return found, run(net, lr=cooling, num_epochs=num_epochs, **settings).loss, torch.rand(1).item()


def test_processes_go_on_together_each_with_its_own_noise_and_none_before_the_file_is_there(tmp_path: Path) -> None:
    unbroken = in_processes(in_a_group, str(tmp_path / "unbroken.pt"), 2)
    in_processes(in_a_group, str(tmp_path / "run.pt"), 1)
    assert [found for found, *_ in unbroken] == [[True, True], [True, True]]
    assert [rest for _, *rest in in_processes(in_a_group, str(tmp_path / "run.pt"), 2)] == [
        rest for _, *rest in unbroken
    ]
    assert unbroken[0][1] == unbroken[1][1] and unbroken[0][2] != unbroken[1][2]
    with pytest.raises(ValueError, match="is of a run with processes 2, not 1"):
        run(noisy(), lr=cooling, batch_size=5, checkpoint=tmp_path / "run.pt")
