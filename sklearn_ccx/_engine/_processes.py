"""Several processes that train one model, and what they have to tell each other.

Every process holds the whole model and computes its part of each batch. A loss is a sum
of the processes' shares, so that the sum of their gradients is the gradient of the
whole batch.
"""

import atexit
import multiprocessing
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch import distributed as dist

_Value = TypeVar("_Value")

# What torchrun tells each process that it starts.
_TORCHRUN_VARIABLES = "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"


class Processes:
    """One process alone: whatever would be reduced is whole already.

    The methods are collective: every process calls them, in the same order.

    Attributes
    ----------
    rank : int
        Number of this process.
    size : int
        How many there are.
    """

    rank = 0
    size = 1

    def part_of(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The part of this process: none if there are fewer rows than processes."""
        return np.array_split(rows, self.size)[self.rank]

    def add_up(self, tensor: Tensor) -> None:
        """Make a tensor its sum over the processes, in place."""

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over the processes, differentiable.

        Every process must compute the same of the sum.
        """
        return tensor

    def largest(self, tensor: Tensor) -> Tensor:
        """Elementwise maximum over the processes."""
        return tensor

    def gather(self, tensor: Tensor) -> Tensor:
        """What each process has, (W, ...); of the same shape everywhere."""
        return tensor.unsqueeze(0)

    def from_first(self, value: _Value) -> _Value:
        """What the first process has, on all of them."""
        return value

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with those of the first process."""

    def any(self, is_so: bool) -> bool:
        """Whether it is so in any process."""
        return is_so

    def require_same(self, values: dict[str, object]) -> None:
        """Raise on all processes unless they have the same values under each name.

        Raises
        ------
        ValueError
            Which names the values that differ.
        """


ALONE = Processes()


class ProcessGroup(Processes):
    """The processes of torch's default process group.

    Parameters
    ----------
    device : torch.device
        Where the tensors are.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def add_up(self, tensor: Tensor) -> None:
        dist.all_reduce(tensor)

    def sum(self, tensor: Tensor) -> Tensor:
        total: Tensor = _Sum.apply(tensor, self)
        return total

    def largest(self, tensor: Tensor) -> Tensor:
        result = tensor.clone()
        dist.all_reduce(result, dist.ReduceOp.MAX)
        return result

    def gather(self, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.stack(parts)

    def from_first(self, value: _Value) -> _Value:
        values = [value]
        dist.broadcast_object_list(values, src=0, device=self._device)
        return values[0]

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            # What a group sends must be where its backend is.
            sent = tensor.to(self._device)
            dist.broadcast(sent, src=0)
            tensor.copy_(sent)

    def any(self, is_so: bool) -> bool:
        n_so = torch.tensor(is_so, dtype=torch.int64, device=self._device)
        self.add_up(n_so)
        return bool(n_so)

    def require_same(self, values: dict[str, object]) -> None:
        first = self.from_first(values)
        differs = [value != first[name] for name, value in values.items()]
        n_different = torch.tensor(differs, dtype=torch.int64, device=self._device)
        self.add_up(n_different)
        counts = zip(values, n_different.tolist(), strict=True)
        different = [name for name, count in counts if count]
        if different:
            raise ValueError(
                f"The {self.size} processes differ in {' and '.join(different)}. Give "
                "each of them the same X and an estimator with the same parameters and "
                "history, or set distributed=None to fit each of them alone."
            )


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, processes: ProcessGroup) -> Tensor:
        ctx.size = processes.size
        total = tensor.clone()
        processes.add_up(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        # The sum of what the processes' losses say, which is the same on all.
        return ctx.size * grads[0], None


@dataclass(frozen=True)
class BatchPart:
    """Which batch some rows are a part of.

    Parameters
    ----------
    n_samples : int
        Rows of the whole batch.
    processes : Processes
        Those that have the other rows.
    """

    n_samples: int
    processes: Processes

    @classmethod
    def whole(cls, rows_BX: Tensor) -> Self:
        """All rows, by a process alone."""
        return cls(len(rows_BX), ALONE)


def join_processes(device: torch.device) -> Processes | None:
    """The processes of the default process group; None if there is no group.

    Where torchrun has started this process, a group is made. It stays until the process
    ends, for the fits to come: what torchrun has told serves for one group.

    Raises
    ------
    ValueError
        If the group cannot reduce what is on the device.
    """
    if not dist.is_available():
        return None
    if not dist.is_initialized():
        if not _is_started_by_torchrun():
            return None
        dist.init_process_group()
        atexit.register(_leave)
    if dist.get_world_size() == 1:
        return ALONE
    backends = dist.get_backend_config()
    if f"{device.type}:" not in backends:
        raise ValueError(
            f"the process group reduces by {backends}, which does not serve "
            f'device="{device.type}"'
        )
    return ProcessGroup(device)


def own_cuda_device() -> torch.device:
    """The GPU of this process: torchrun numbers the processes of a machine."""
    local_rank = os.environ.get("LOCAL_RANK", "")
    if not local_rank.isdecimal():
        return torch.device("cuda")
    return torch.device("cuda", int(local_rank) % torch.cuda.device_count())


def _is_started_by_torchrun() -> bool:
    # A worker of such a process, of joblib for one, inherits the variables.
    is_worker = multiprocessing.parent_process() is not None
    return not is_worker and all(name in os.environ for name in _TORCHRUN_VARIABLES)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
