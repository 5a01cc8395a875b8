"""The processes of one run: a single one, or several that ``torchrun`` started."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ccnet3d.errors import UserError

__all__ = ["Processes", "local_device"]

# The other processes wait while rank 0 evaluates; a long validation split must not look like a dead process.
_TIMEOUT = timedelta(hours=6)


class Processes:
    """Communication between the processes of a run; with a single process, the default, there is none.

    Values on the CPU are exchanged with gloo, gradients on a GPU with NCCL.

    >>> Processes().sum(torch.tensor([1, 2]))
    tensor([1, 2])

    Args:
        rank: index of this process; only rank 0 writes, logs and evaluates.
        world_size: number of processes.
    """

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        self.rank = rank
        self.world_size = world_size

    @classmethod
    def join(cls, device: torch.device) -> Processes:
        """Join the process group if torchrun started this process; without torchrun there is a single process.

        Args:
            device: device of this process; a GPU becomes the current device.
        """
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if not distributed.is_torchelastic_launched():
            return cls()
        distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=_TIMEOUT)
        return cls(distributed.get_rank(), distributed.get_world_size())

    def leave(self) -> None:
        """Leave the process group, at the end of a run."""
        if distributed.is_initialized():
            distributed.destroy_process_group()

    @property
    def is_main_process(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a CPU tensor over processes, bit-identical in all of them."""
        if self.world_size > 1:
            values = values.clone()
            distributed.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process."""
        return bool(self.sum(torch.tensor(int(flag))))

    def once(self, work: Callable[[], Tensor], shape: tuple[int, ...]) -> Tensor:
        """Run ``work`` in rank 0 while the others wait, and return its result, int64 of ``shape``, in all of them.

        Raises:
            Exception: the error of ``work``, in rank 0; the others exit silently (``SystemExit``).
        """
        result, error = torch.zeros(shape, dtype=torch.long), None
        if self.is_main_process:
            try:
                result = work()
            except Exception as caught:  # raised below, after the others have been told to exit
                error = caught
        if self.any(error is not None):
            raise SystemExit(2) if error is None else error
        return self.sum(result)

    def wrap(self, module: nn.Module, *, some_unused: bool) -> nn.Module:
        """Return the module with gradients averaged over processes.

        Args:
            module: on its device, with the same weights in all processes.
            some_unused: whether a step may leave parameters without a gradient.
        """
        if self.world_size == 1:
            return module
        return DistributedDataParallel(module, find_unused_parameters=some_unused, gradient_as_bucket_view=True)

    def gradient_sync(self, module: nn.Module, *, enabled: bool) -> AbstractContextManager[None]:
        """Return the context of a forward and backward pass in which gradients are averaged, or only accumulated."""
        return nullcontext() if enabled or not isinstance(module, DistributedDataParallel) else module.no_sync()


def local_device(name: str) -> torch.device:
    """Return the device of this process; under torchrun, ``cuda`` is the GPU of its local rank.

    >>> local_device("cpu")
    device(type='cpu')

    Raises:
        UserError: torchrun started more processes than there are GPUs.
    """
    device = torch.device(name)
    if device.type != "cuda" or device.index is not None or not distributed.is_torchelastic_launched():
        return device
    local_rank, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local_rank >= count:
        raise UserError(
            f"torchrun started process {local_rank + 1} on a machine with {count} GPUs; start at most one per GPU"
        )
    return torch.device("cuda", local_rank)
