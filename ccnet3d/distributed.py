"""The processes of one run: one alone, or several that ``torchrun`` started."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

# While rank 0 evaluates the others wait; a long validation split must not look like a process that died.
_PATIENCE = timedelta(hours=6)


class Processes:
    """What the processes of a run do together; alone, as by default, it is all done at once.

    Values on the CPU travel over gloo, gradients on a GPU over NCCL.

    Args:
        rank: number of this process, from 0; rank 0 alone writes, logs and evaluates.
        world_size: how many processes there are.
    """

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        self.rank = rank
        self.world_size = world_size

    @classmethod
    def join(cls, device: torch.device) -> Processes:
        """Meet the processes that torchrun started with this one; without torchrun it is alone.

        Args:
            device: where this process trains; a GPU becomes the current one.
        """
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if not distributed.is_torchelastic_launched():
            return cls()
        distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
        return cls(distributed.get_rank(), distributed.get_world_size())

    def leave(self) -> None:
        """Part from the others, at the end of a run."""
        if distributed.is_initialized():
            distributed.destroy_process_group()

    @property
    def is_main_process(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over processes of a tensor on the CPU, the same bits in each of them."""
        if self.world_size > 1:
            values = values.clone()
            distributed.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; all get the same answer."""
        return bool(self.sum(torch.tensor(int(flag))))

    def once(self, work: Callable[[], Tensor], shape: tuple[int, ...]) -> Tensor:
        """Do something in rank 0 while the others wait, and give all of them its result, int64 of ``shape``.

        Raises:
            Exception: what the work raised, in rank 0; the others leave without a word (``SystemExit``).
        """
        result, error = torch.zeros(shape, dtype=torch.long), None
        if self.is_main_process:
            try:
                result = work()
            except Exception as caught:  # raised again below, when the others know
                error = caught
        if self.any(error is not None):
            raise SystemExit(2) if error is None else error
        return self.sum(result)

    def wrap(self, module: nn.Module, *, some_unused: bool) -> nn.Module:
        """The module, with gradients averaged over processes.

        Args:
            module: on its device, with the same weights everywhere.
            some_unused: not every parameter takes part in every step.
        """
        if self.world_size == 1:
            return module
        return DistributedDataParallel(module, find_unused_parameters=some_unused, gradient_as_bucket_view=True)

    def gradient_sync(self, module: nn.Module, *, enabled: bool) -> AbstractContextManager[None]:
        """Around a forward and a backward pass of a wrapped module: gradients are averaged now, or only added up."""
        return nullcontext() if enabled or not isinstance(module, DistributedDataParallel) else module.no_sync()


def local_device(name: str) -> torch.device:
    """The device of this process: under torchrun, ``cuda`` is a GPU of its own.

    Raises:
        ValueError: torchrun started more processes than there are GPUs.
    """
    device = torch.device(name)
    if device.type != "cuda" or device.index is not None or not distributed.is_torchelastic_launched():
        return device
    place, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if place >= count:
        raise ValueError(f"torchrun started process {place + 1} on a machine with {count} GPUs; give one each")
    return torch.device("cuda", place)
