"""A training run in a file: what decides how it goes on, and what it was made from, so that no other does."""

import hashlib
import io
import math
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from lessons_lib.checks import as_path
from lessons_lib.files import write_whole
from lessons_lib.processes import check_same, gather, rank_and_size

FORMAT = "settings, format 4"  # under which the settings stand: anew for each change of what is stored


@dataclass
class Checkpoint:
    """The file of a run, if it has one. Settings (numbers and data sets) and net must be the same in all processes."""

    path: str | os.PathLike[str] | None
    settings: dict[str, object]
    net: nn.Module
    optimizer: torch.optim.Optimizer
    order: torch.Generator
    history: Any  # a dataclass of lists

    def __post_init__(self) -> None:
        if self.path is not None:
            self.path = as_path("checkpoint", self.path)
            if self.path.is_dir() or not self.path.parent.is_dir():
                raise ValueError(f"checkpoint: expected a file in a folder that exists, got {self.path}")
        if self.path or rank_and_size()[1] > 1:
            self.settings = {name: _described(value) for name, value in self.settings.items()} | _structure(self.net)
            check_same("train", "arguments", [f"{name} {value}" for name, value in self.settings.items()])

    def restore(self, schedule: Callable[[int], float], num_steps: int) -> None:
        """Put all back as the file has it, if there is one. If it is not this run's, change nothing and raise."""
        if self.path is None or not self.path.exists():
            return
        data = io.BytesIO(self.path.read_bytes())
        try:
            state = torch.load(data, map_location="cpu", weights_only=True)
            settings, done = dict(state[FORMAT]), type(self.history)(**state["history"])
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
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.order.set_state(state["order"])
        vars(self.history).update(vars(done))
        cpu, gpu = state["generators"][rank_and_size()[0]]
        torch.set_rng_state(cpu)
        if gpu is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(gpu)

    def save(self) -> None:
        """Replace the file in one move. When this returns, in whatever process, the new one is there."""
        if self.path is None:
            return
        # Dropout and augmentation draw from PyTorch's global generators, of the CPU and of the GPU if there is one.
        gpu = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
        generators = gather((torch.get_rng_state(), gpu))
        if rank_and_size()[0] == 0:
            state = dict(net=self.net.state_dict(), optimizer=self.optimizer.state_dict(), order=self.order.get_state())
            state |= {"history": asdict(self.history), "generators": generators, FORMAT: self.settings}
            write_whole(self.path, to_bytes(state))
        gather("it is there")


def to_bytes(value: object) -> bytes:
    """What `torch.save` writes. To a full disk `torch.save` itself would not raise an OSError."""
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def _described(value: object) -> object:
    if not isinstance(value, TensorDataset):
        return value
    sha = hashlib.sha256()
    for tensor in value.tensors:
        sha.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        sha.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return f"of {len(value)} examples, SHA-256 {sha.hexdigest()[:16]}"


def _structure(net: nn.Module) -> dict[str, str]:
    """What shows of how a net trains: its modules, in which mode, and the tensors of its state."""
    lines: dict[str, str] = {}
    for name, module in net.named_modules():
        text = f"{type(module).__name__}({re.sub(' at 0x[0-9a-f]+', '', module.extra_repr())})"
        lines[f"net.{name}".rstrip(".")] = text + " in eval mode" * (net.training and not module.training)
    frozen = {name for name, parameter in net.named_parameters() if not parameter.requires_grad}
    for name, value in net.state_dict().items():
        if isinstance(value, Tensor):
            lines[f"net.{name}"] = f"{tuple(value.shape)} {value.dtype}" + ", frozen" * (name in frozen)
    return lines
