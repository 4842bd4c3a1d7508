"""One training loop for all lessons: seeded, measured step by step, on the GPU where there is one, on several together,
and from where an interrupted run stopped."""

import hashlib
import io
import math
import os
import re
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import TensorDataset
from tqdm.auto import tqdm

from lessons_lib.checks import as_int, as_number, as_path, as_schedule, check_function, refuse_graph


@dataclass
class History:
    """What a training run measured.

    loss: the training loss of each step, before that step.
    lr: the learning rate of each step.
    test_loss, test_acc: loss and accuracy (0 to 1) on the test set, after each epoch.
    seconds: how long each epoch's steps took. No part of what makes two runs equal.
    """

    loss: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    test_loss: list[float] = field(default_factory=list)
    test_acc: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list, compare=False)


@torch.inference_mode(False)  # gradients are recorded, wherever it is called
def train(
    net: nn.Module,
    train_set: TensorDataset,
    test_set: TensorDataset | None = None,
    *,
    lr: float | Callable[[int], float],
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    num_epochs: int = 1,
    batch_size: int = 256,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    history: History | None = None,
    on_epoch: Callable[[History], object] | None = None,
) -> History:
    """Train `net` in place by minibatch SGD on the cross-entropy, and test it after each epoch if there is a test set.

    In a process group (see `torch.distributed.init_process_group`) all processes train together: each takes its share
    of every batch, and all keep the same parameters. The net and history of rank 0 are the run's; elsewhere the moving
    averages of batch normalisation may differ.

    Args:
        net: maps images (m, …) to scores (m, num_classes). Trained on the GPU where PyTorch sees one, then put back. If
            it is in eval mode, all of it is put in train mode. Otherwise each module keeps its mode: batch
            normalisation that was put in eval mode does not move. Nor do parameters without `requires_grad`.
        train_set, test_set: inputs in the net's dtype and integer labels (m,) from 0, as `fashion_mnist` returns them.
        lr: the learning rate, or a schedule: a function of the step (0, 1, …) alone that returns it. Positive.
        momentum: the weight of the old velocity, in [0, 1); v ← momentum v + gradient, then w ← w − lr v.
        weight_decay: adds weight_decay · w to the gradient of each parameter w. Not negative.
        num_epochs: passes over the training set. At least 1.
        batch_size: examples a step, of all processes together, from 1 to all. The last, smaller batch of an epoch
            counts too.
        seed: fixes the order of the examples; the net's own start is the caller's to fix. Not negative.
        checkpoint: a file. If it exists, the run that wrote it goes on; it is replaced after each epoch. Interrupted at
            any point, called again with the same arguments (or more epochs), the run ends as it would have without
            interruption.
        history: a new `History()` to fill. Whoever holds it has what was measured, however the run ends.
        on_epoch: called with the history after each epoch, once its checkpoint stands, in every process.

    Returns:
        The run's `History`. A run that diverges has losses of inf or nan in it; it does not raise.

    Raises:
        ValueError: a number is out of range, at the latest at the step for which a schedule returns it; a set is empty
            or its labels do not fit the net's scores; a batch has fewer examples than there are processes, or the
            processes were called with different arguments; history is not empty; checkpoint is not a complete file
            written by this function, or belongs to a run with other settings, rates, data, another net or more epochs.
            The file and the net are then left unchanged.
        TypeError: an argument is of the wrong kind, or a set is not in the net's dtype.

    >>> X, y = torch.randn(64, 2), torch.randint(2, (64,))
    >>> history = train(nn.Linear(2, 2), TensorDataset(X, y), TensorDataset(X, y), lr=0.1, batch_size=16)
    >>> len(history.loss), len(history.test_acc)
    (4, 1)
    """
    schedule = as_schedule(lr)
    momentum = float(as_number("momentum", momentum, "[0, 1)"))
    weight_decay = float(as_number("weight_decay", weight_decay, "[0, inf)"))
    num_epochs, seed = as_int("num_epochs", num_epochs, 1), as_int("seed", seed, 0, 2**63 - 1)
    if not num_parameters(net):
        raise ValueError("net: expected parameters to train, got none")
    if any(parameter.is_inference() for parameter in net.parameters()):
        raise ValueError("net: expected parameters made outside of torch.inference_mode")
    classes = dict(train_set=_check_set("train_set", train_set, net))
    if test_set is not None:
        classes["test_set"] = _check_set("test_set", test_set, net)
    batch_size = as_int("batch_size", batch_size, 1, len(train_set))
    if not isinstance(history, History | None):
        raise TypeError(f"history: expected a History, got {history!r}")
    if history is not None and history != History():
        raise ValueError(f"history: expected an empty one, got one of {len(history.loss)} steps")
    if on_epoch is not None:
        check_function("on_epoch", on_epoch)
    rank, world = place()
    smallest = len(train_set) % batch_size or batch_size
    if smallest < world:
        raise ValueError(f"batch_size: expected {world} or more examples in every batch, got one of {smallest}")
    settings = dict(momentum=momentum, weight_decay=weight_decay, batch_size=batch_size, seed=seed, processes=world)
    run = _Checkpoint(checkpoint, settings, net, train_set, test_set)
    home = next(net.parameters()).device
    gpu = torch.cuda.is_available()
    device = torch.device("cuda", distributed.get_node_local_rank(0)) if gpu else home
    net.to(device)
    X, y = _on(device, train_set)
    optimizer = torch.optim.SGD(net.parameters(), momentum=momentum, weight_decay=weight_decay)
    order = torch.Generator().manual_seed(seed)
    history = History() if history is None else history
    num_steps = num_epochs * -(-len(X) // batch_size)
    try:
        run.restore(net, optimizer, order, history, schedule, num_steps)
        model = DistributedDataParallel(net) if world > 1 else net
        silent = dict(disable=True) if rank else {}
        with tqdm(total=num_steps, initial=len(history.loss), desc=str(device), leave=False, **silent) as progress:
            while len(history.loss) < num_steps:
                started = time.perf_counter()
                if not net.training:
                    net.train()
                for batch in torch.randperm(len(X), generator=order).to(device).split(batch_size):
                    mine = batch[rank::world]
                    scores = model(X[mine])
                    _check_scores(scores, **classes)
                    loss = nn.functional.cross_entropy(scores, y[mine])
                    if world > 1:  # what is averaged over the processes is then the mean over the batch
                        loss = loss * (len(mine) * world / len(batch))
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.param_groups[0]["lr"] = float(schedule(len(history.loss)))
                    optimizer.step()
                    history.loss.append(_mean_over_processes(loss))
                    history.lr.append(optimizer.param_groups[0]["lr"])  # what the step has used
                    progress.update()
                history.seconds.append(time.perf_counter() - started)
                if test_set is not None:
                    test_loss, test_acc = evaluate(net, test_set)
                    history.test_loss.append(test_loss)
                    history.test_acc.append(test_acc)
                run.save(net, optimizer, order, history)
                if on_epoch is not None:
                    on_epoch(history)
    finally:
        net.to(home)
    return history


@torch.no_grad()
def evaluate(net: nn.Module, dataset: TensorDataset, batch_size: int = 1000) -> tuple[float, float]:
    """Mean cross-entropy and accuracy (0 to 1) of `net` on `dataset`, in eval mode (see `eval_mode`).

    Takes `batch_size` examples at a time, which changes nothing but the memory that it needs. Raises `ValueError` and
    `TypeError` as `train` does.

    >>> evaluate(nn.Linear(2, 2), TensorDataset(torch.zeros(4, 2), torch.zeros(4, dtype=torch.long)))[1] in (0, 1)
    True
    """
    classes = _check_set("dataset", dataset, net)
    batch_size = as_int("batch_size", batch_size, 1)
    device = next(net.parameters(), dataset.tensors[0]).device
    loss = correct = 0.0
    with eval_mode(net):
        for X, y in zip(*(t.split(batch_size) for t in _on(device, dataset)), strict=True):
            scores = net(X)
            _check_scores(scores, dataset=classes)
            loss += nn.functional.cross_entropy(scores, y, reduction="sum").item()
            correct += (scores.argmax(1) == y).sum().item()
    return loss / len(dataset), correct / len(dataset)


@contextmanager
def eval_mode(net: nn.Module) -> Iterator[None]:
    """Inside, `net` predicts. Then each of its modules has its own mode again, however the block ended.

    >>> net = nn.Dropout()
    >>> with eval_mode(net):
    ...     print(net.training)
    False
    >>> net.training
    True
    """
    check_net(net)
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def num_parameters(net: nn.Module) -> int:
    """How many numbers `net` learns: those of its parameters, without the frozen ones (`requires_grad` is False).

    >>> num_parameters(nn.Linear(3, 2))
    8
    """
    check_net(net)
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Inside, give new tensors and parameters this dtype.

    A network converted by `.double()` keeps weights that were drawn in 32 bits, and those differ from processor to
    processor: PyTorch computes them with other instructions. Drawn in 64 bits they agree to some 1e-16.

    Raises:
        TypeError: dtype is not of floating-point numbers.

    >>> with default_dtype(torch.float64):
    ...     net = nn.Linear(2, 1)
    >>> net.weight.dtype, nn.Linear(2, 1).weight.dtype
    (torch.float64, torch.float32)
    """
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
    except TypeError as error:
        raise TypeError(f"dtype: expected a floating-point dtype, got {dtype!r}") from error
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def place() -> tuple[int, int]:
    """This process's rank, and how many train together: (0, 1) outside of a process group.

    >>> place()
    (0, 1)
    """
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def join() -> None:
    """Join the process group that torchrun has prepared, each process with its own GPU if there are any.

    Raises:
        ValueError: there are GPUs, but fewer than processes.
        RuntimeError: torchrun has not started this process.
    """
    if "LOCAL_WORLD_SIZE" not in os.environ:
        raise RuntimeError("join: expected a process that torchrun has started")
    gpus, processes = torch.cuda.device_count(), int(os.environ["LOCAL_WORLD_SIZE"])
    if 0 < gpus < processes:
        raise ValueError(f"torchrun: expected at most {gpus} processes, one a GPU, got {processes}")
    if gpus:  # or all of them would send their messages through the first
        torch.cuda.set_device(distributed.get_node_local_rank())
    distributed.init_process_group("nccl" if gpus else "gloo")
    if not gpus:
        distributed.barrier()  # gloo fails where it still connects when another process already leaves


class Memory(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make in this context: those alive `now`, and their `peak`.

    A storage counts from its making until its last tensor is gone, once. What an operation uses inside does not count,
    nor what was there before.

    >>> with Memory() as memory:
    ...     X = torch.zeros(1000) + 1
    >>> memory.now, memory.peak
    (4000, 8000)
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        old = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in old:
                storage = tensor.untyped_storage()
                self._count(storage.nbytes())
                weakref.finalize(storage, self._count, -storage.nbytes())
        return result

    def _count(self, num_bytes: int) -> None:
        self.now += num_bytes
        self.peak = max(self.peak, self.now)


def replace(path: Path, data: bytes) -> None:
    """Write a file under another name, and give it its own in one move: at any moment it is whole, old or new."""
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def saved(value: object) -> bytes:
    """What `torch.save` writes. By way of memory: it does not say by an OSError that a disk is full."""
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


class _Checkpoint:
    """The state of a run in a file: all that decides how it goes on. Without a path it does nothing."""

    FORMAT = "lessons_lib checkpoint 2"

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        settings: dict[str, object],
        net: nn.Module,
        train_set: TensorDataset,
        test_set: TensorDataset | None,
    ) -> None:
        self.path = None if path is None else as_path("checkpoint", path)
        if self.path and (self.path.is_dir() or not self.path.parent.is_dir()):
            raise ValueError(f"checkpoint: expected a file in a folder that exists, got {self.path}")
        if self.path is None and place()[1] == 1:
            return  # nobody asks
        self.settings = settings | dict(train_set=_digest(train_set), test_set=_digest(test_set)) | _structure(net)
        _check_all_agree(self.settings)

    def restore(
        self,
        net: nn.Module,
        optimizer: torch.optim.SGD,
        order: torch.Generator,
        history: History,
        schedule: Callable[[int], float],
        num_steps: int,
    ) -> None:
        """Put everything back as the file has it, if there is one. What is refused changes nothing."""
        if self.path is None or not self.path.exists():
            return
        data = io.BytesIO(self.path.read_bytes())
        try:
            state = torch.load(data, map_location="cpu", weights_only=True)
            if state["format"] != self.FORMAT:
                raise ValueError(state["format"])
            settings, done = dict(state["settings"]), History(**state["history"])
        except Exception as error:  # a damaged file fails in a dozen ways
            message = f"checkpoint: {self.path} is not a complete checkpoint of this version of lessons_lib"
            raise ValueError(f"{message}; left unchanged") from error
        of_another = f"checkpoint: {self.path} is of a run with"
        for name in [*self.settings, *settings]:
            there, here = settings.get(name), self.settings.get(name)
            if there != here:
                raise ValueError(f"{of_another} {name} {there}, not {here}")
        if len(done.loss) > num_steps:
            raise ValueError(f"num_epochs: the checkpoint has {len(done.loss)} steps, and {num_steps} are asked for")
        for step, rate in enumerate(done.lr):
            if not math.isclose(schedule(step), rate):  # another machine's cosine may differ in the last digit
                raise ValueError(f"{of_another} lr {rate} at step {step}, not {schedule(step)}")
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        order.set_state(state["order"])
        vars(history).update(vars(done))
        _set_generators(net, state["generators"][place()[0]])

    def save(self, net: nn.Module, optimizer: torch.optim.SGD, order: torch.Generator, history: History) -> None:
        """Replace the file in one move: at any moment it is whole, the old one or the new one."""
        if self.path is None:
            return
        generators = from_all(_generators(net))
        if place()[0] == 0:
            state = dict(net=net.state_dict(), optimizer=optimizer.state_dict(), order=order.get_state())
            state |= dict(history=asdict(history), generators=generators)
            replace(self.path, saved(state | dict(format=self.FORMAT, settings=self.settings)))
        if place()[1] > 1:
            distributed.barrier()  # now it stands, for every process


def _digest(dataset: TensorDataset | None) -> str:
    """What tells one set from another, in a few letters."""
    if dataset is None:
        return "none"
    sha = hashlib.sha256()
    for tensor in dataset.tensors:
        sha.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        sha.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return f"of {len(dataset)} examples, SHA-256 {sha.hexdigest()[:16]}"


def _structure(net: nn.Module) -> dict[str, str]:
    """What decides how a net trains, as far as it shows: its modules, in which mode, and the tensors of its state."""
    lines: dict[str, str] = {}
    for name, module in net.named_modules():
        text = f"{type(module).__name__}({re.sub(' at 0x[0-9a-f]+', '', module.extra_repr())})"
        lines[f"net.{name}".rstrip(".")] = text + " in eval mode" * (net.training and not module.training)
    frozen = {name for name, parameter in net.named_parameters() if not parameter.requires_grad}
    for name, value in net.state_dict().items():
        if isinstance(value, Tensor):
            lines[f"net.{name}"] = f"{tuple(value.shape)} {value.dtype}" + ", frozen" * (name in frozen)
    return lines


def _generators(net: nn.Module) -> list[Tensor]:
    """PyTorch's global generators, from which dropout and augmentation draw: the CPU's, and the net's GPU's if any."""
    device = next(net.parameters()).device
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _set_generators(net: nn.Module, states: list[Tensor]) -> None:
    device = next(net.parameters()).device
    torch.set_rng_state(states[0])
    if len(states) > 1 and device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)


def from_all(value: object) -> list:
    """What each process has, by rank."""
    world = place()[1]
    values = [value] * world
    if world > 1:
        distributed.all_gather_object(values, value)
    return values


def _check_all_agree(settings: dict[str, object]) -> None:
    """Raise a ValueError in every process, unless all of them train the same."""
    first, *others = from_all(settings)
    for rank, other in enumerate(others, 1):
        for name in [*first, *other]:
            if first.get(name) != other.get(name):
                what = f"{first.get(name)} in process 0 and {other.get(name)} in process {rank}"
                raise ValueError(f"{name}: expected the same in all processes, got {what}")


def _mean_over_processes(value: Tensor) -> float:
    world = place()[1]
    if world > 1:
        value = value.detach().clone()
        distributed.all_reduce(value)
    return value.item() / world


def _on(device: torch.device, dataset: TensorDataset) -> tuple[Tensor, Tensor]:
    X, y = dataset.tensors
    return X.to(device), y.to(device, torch.int64)


def check_net(net: nn.Module) -> None:
    if not isinstance(net, nn.Module):
        raise TypeError(f"net: expected an nn.Module, got {type(net).__name__}")
    if any(map(is_lazy, net.parameters())):
        raise ValueError("net: expected parameters that have their shapes; call it on an example first")


def _check_set(name: str, dataset: TensorDataset, net: nn.Module) -> int:
    """How many classes the labels need, if the set is one that a net can be trained or tested on."""
    check_net(net)
    if not isinstance(dataset, TensorDataset):
        raise TypeError(f"{name}: expected a TensorDataset, got {type(dataset).__name__}")
    if len(dataset.tensors) != 2:
        raise ValueError(f"{name}: expected two tensors, images and labels, got {len(dataset.tensors)}")
    if len(dataset) == 0:
        raise ValueError(f"{name}: expected at least one example, got none")
    X, y = dataset.tensors
    refuse_graph(f"{name}.tensors[0]", X)
    dtypes = {parameter.dtype for parameter in net.parameters()}
    if dtypes and X.dtype not in dtypes:
        expected = ", ".join(sorted(map(str, dtypes)))
        raise TypeError(f"{name}: expected images in the net's dtype, {expected}, got {X.dtype}")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise TypeError(f"{name}: expected integers as labels, got {y.dtype}")
    if y.shape != (len(X),):
        raise ValueError(f"{name}: expected a label an image, shape ({len(X)},), got {tuple(y.shape)}")
    if y.min() < 0:
        raise ValueError(f"{name}: expected labels from 0, got {y.min()}")
    return int(y.max()) + 1


def _check_scores(scores: Tensor, **classes: int) -> None:
    """Raise a ValueError unless there is a score for each class that the labels of these sets name."""
    if scores.dim() != 2:
        raise ValueError(f"net: expected scores of shape (m, num_classes), got {tuple(scores.shape)}")
    for name, count in classes.items():
        if count > scores.shape[1]:
            raise ValueError(f"{name}: expected labels below {scores.shape[1]}, the net's scores, got {count - 1}")
